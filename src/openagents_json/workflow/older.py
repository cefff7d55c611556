"""Definitions of OpenAgents JSON 0.1, as its README, docs and tests have them, in the form of today.

They are rewritten when they are loaded, and only the result is stored. Whatever has a meaning today keeps it: each
rewriting starts from something that the language of today does not have. `connections` belong to both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from openagents_json.workflow.listed import is_listed, unlist
from openagents_json.workflow.older_names import Names, map_steps, own_fields
from openagents_json.workflow.problems import Problems, member_path, shown
from openagents_json.workflow.rewriting import Rewriting
from openagents_json.workflow.wiring import Ports, wire

PARAMETER_TYPES = ("string", "number", "integer", "boolean", "object", "array", "any")
_PARAMETER_FIELDS = (
    "type", "description", "default", "required", "enum", "pattern", "minimum", "maximum", "format", "title",
    "examples", "items", "items_type", "properties", "additionalProperties", "minLength", "maxLength", "minItems",
    "maxItems", "uniqueItems", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "const", "writeOnly",
)  # fmt: skip
_SCHEMA_WORDS = frozenset({"properties", "required", "additionalProperties", "$schema", "$ref", "$defs"})
_OPTIONAL = frozenset(
    {"description", "inputs", "outputs", "condition", "retry", "timeout", "metadata", "name", "state"}
)
_RETRY_DEFAULTS = {"delay_seconds": 5, "backoff_multiplier": 1.0}  # what 0.1 documented; today's are others
_STATE = "is not supported: steps share nothing but their outputs."
_PASS_IT_ON = "Pass what a step needs in its `inputs`."
_BARE = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")


def canonical(document: dict[str, Any], problems: Problems) -> tuple[dict[str, Any], Rewriting]:
    """A plain document in today's form, and the way back to what was written; what cannot be said there is a problem.

    A document in today's form without `connections` comes back equal. The argument stays as it is.
    """
    rewriting = Rewriting(problems)
    ports = Ports()
    listed = is_listed(document)
    if listed:
        document = unlist(document, rewriting, ports)
    rewriting.next_stage()
    document = _Older(document, rewriting, ports, listed).rewritten()
    rewriting.next_stage()
    if "connections" in document:
        document = wire(document, rewriting, ports)
    return document, rewriting


class _Older:
    """The stage that renames and moves what 0.1 called or put otherwise."""

    def __init__(self, document: dict[str, Any], rewriting: Rewriting, ports: Ports, listed: bool) -> None:
        self.document = dict(document)
        self.rewriting = rewriting
        self.ports = ports
        steps = list(_steps_in([document.get("steps"), document.get("finally")]))
        self.names = Names(frozenset(step["id"] for step in steps if isinstance(step.get("id"), str)))
        # output, or "workflow.OUTPUT" → the steps, and outputs of theirs, that say so
        self.givers: dict[str, list[tuple[str, str]]] = {}
        self.parameters = _are_parameters(document.get("inputs"))
        # Some things mean something today as well, and something else here: then it takes more than themselves.
        self.is_older = listed or self.parameters or "output" in document or "state_dependencies" in document
        self.is_older |= any("outputs" in step or "state" in step for step in steps)

    def rewritten(self) -> dict[str, Any]:
        self.state_dependencies()
        self.expressions()
        self.is_older |= self.names.has_older
        for step in _steps_in([self.document.get("steps"), self.document.get("finally")]):
            if isinstance(outputs := step.get("outputs"), dict) and isinstance(step_id := step.get("id"), str):
                self.declare(step_id, outputs)
        self.outputs()
        for name in ("steps", "finally"):
            if isinstance(steps := self.document.get(name), list):
                self.document[name] = [
                    self.step(step, f"$.{name}[{index}]") if isinstance(step, dict) else step
                    for index, step in enumerate(steps)
                ]
        self.connections()
        self.inputs()
        _describe(self.document, "$", ("name",), self.rewriting)
        return self.document

    def declare(self, step_id: str, outputs: dict[str, Any]) -> None:
        self.ports.outputs[step_id] = {
            name: value if isinstance(value, str) and "{{" in value else None for name, value in outputs.items()
        }
        for name, value in outputs.items():
            self.givers.setdefault(name, []).append((step_id, name))
            if isinstance(value, str) and value.startswith("workflow."):
                self.givers.setdefault(value, []).append((step_id, name))

    # ── expressions ───────────────────────────────────────────────────────────────────────────────────────────────

    def expressions(self) -> None:
        names = self.names
        for field, status in (("steps", "'RUNNING'"), ("finally", "job.outcome")):
            if field in self.document:

                def rename(step: dict[str, Any], status: str = status) -> dict[str, Any]:
                    return own_fields(step, lambda value: names.value(value, status))

                self.document[field] = map_steps(self.document[field], rename)
        for field in ("outputs", "output"):  # they are evaluated once all steps are done, or never
            if field in self.document:
                self.document[field] = names.value(self.document[field], "'COMPLETED'")
        if isinstance(connections := self.document.get("connections"), list):
            self.document["connections"] = [
                {**one, "condition": names.value(one["condition"], "'RUNNING'")}
                if isinstance(one, dict) and "condition" in one
                else one
                for one in connections
            ]

    def condition(self, holder: dict[str, Any]) -> dict[str, Any]:
        """0.1 has conditions without braces, too."""
        condition = holder.get("condition")
        if not self.is_older or not isinstance(condition, str) or "{{" in condition:
            return holder
        return {**holder, "condition": self.names.text(f"{{{{ {condition.strip()} }}}}", "'RUNNING'")}

    # ── steps ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def step(self, step: dict[str, Any], path: str) -> dict[str, Any]:
        step = dict(step)
        if self.is_older:
            step = {name: value for name, value in step.items() if value is not None or name not in _OPTIONAL}
        if step.pop("state", None):
            self.rewriting.add(f"{path}.state", f"`state` of a step {_STATE}", _PASS_IT_ON)
        outputs = step.pop("outputs", None)
        if outputs is not None and not isinstance(outputs, dict):
            self.rewriting.add(f"{path}.outputs", "The `outputs` of a step are an object: names and what they are.")
        _describe(step, path, ("name", "description"), self.rewriting)
        if self.is_older and isinstance(retry := step.get("retry"), dict):
            step["retry"] = {**_RETRY_DEFAULTS, **retry}
            if retry.get("max_attempts") == 0 and retry["max_attempts"] is not False:
                step["retry"]["max_attempts"] = 1  # one attempt and no other
        if isinstance(inputs := step.get("inputs"), dict):
            step["inputs"] = {name: self.bare(value) for name, value in inputs.items()}
        return self.condition(step)

    def bare(self, value: Any) -> Any:
        """An input that is a reference without braces: `workflow.text`, `extract.pages`."""
        match = _BARE.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            return value
        holder, name = match.groups()
        if holder == "workflow" and self.parameters and name in self.document["inputs"]:
            return self.names.text(f"{{{{ input['{name}'] }}}}", "")
        if name in self.ports.outputs.get(holder, {}):
            return self.ports.value(holder, [name])
        return value

    def connections(self) -> None:
        if isinstance(connections := self.document.get("connections"), list):
            self.document["connections"] = [
                self.condition(one) if isinstance(one, dict) else one for one in connections
            ]

    def state_dependencies(self) -> None:
        if self.document.pop("state_dependencies", None):
            self.rewriting.add("$.state_dependencies", f"`state_dependencies` {_STATE}", _PASS_IT_ON)

    # ── outputs ───────────────────────────────────────────────────────────────────────────────────────────────────

    def outputs(self) -> None:
        if "output" in self.document:
            if "outputs" in self.document:
                message = "`output` is the older name of `outputs`, and this definition has both."
                self.rewriting.add("$.output", message, "Leave one of them out.")
                del self.document["output"]
            else:
                self.document["outputs"] = self.document.pop("output")
                self.rewriting.move("$.outputs", "$.output")
        declared = self.document.get("outputs")
        if not self.is_older or not isinstance(declared, dict) or not declared:
            return
        if all(_is_parameter(one) for one in declared.values()):
            self.document["outputs"] = {name: self.declared_output(name) for name in declared}

    def declared_output(self, name: str) -> Any:
        """What gives an output that is only declared: the step that says so, or the one with an output so named."""
        found = self.givers.get(f"workflow.{name}") or self.givers.get(name, [])
        if len(found) == 1:
            step_id, key = found[0]
            return self.ports.value(step_id, [key])
        which = "several steps say that they give it" if found else "no step says that it gives it"
        advice = f'Write it as an expression: "{name}": "{{{{STEP.output}}}}".'
        self.rewriting.add(member_path("$.outputs", name), f"It is not clear what gives this output: {which}.", advice)
        return None

    # ── inputs ────────────────────────────────────────────────────────────────────────────────────────────────────

    def inputs(self) -> None:
        """JSON Schema for the inputs: from parameters, or from what the expressions use where nothing is declared."""
        if self.parameters:
            self.document["inputs"] = self.schema(self.document["inputs"])
        elif (
            "inputs" not in self.document and self.names.has_older and (self.names.inputs or self.names.uses_all_inputs)
        ):
            names = self.names.inputs
            schema: dict[str, Any] = {"type": "object", "properties": {name: {} for name in names}}
            if self.names.uses_all_inputs:
                schema["additionalProperties"] = True
            if required := [name for name, needed in names.items() if needed]:
                schema["required"] = required
            self.document["inputs"] = schema
            self.rewriting.move("$.inputs", "$")

    def schema(self, parameters: dict[str, Any]) -> dict[str, Any]:
        properties: dict[str, Any] = {}
        required: list[str] = []
        for name, given in parameters.items():
            path = member_path("$.inputs", name)
            self.rewriting.move(member_path("$.inputs.properties", name), path)
            part, is_required = self.parameter(name, given, path)
            properties[name] = part
            if is_required:
                required.append(name)
        self.rewriting.move("$.inputs.properties", "$.inputs")
        self.rewriting.move("$.inputs.required", "$.inputs")
        schema: dict[str, Any] = {"type": "object", "properties": properties}
        if required:
            schema["required"] = required
        return schema

    def parameter(self, name: str, given: Any, path: str) -> tuple[dict[str, Any], bool]:
        """The schema of one parameter, and whether it must be given."""
        hint = 'For a JSON Schema write "type": "object" beside `properties`.' if name in _SCHEMA_WORDS else None
        if isinstance(given, str):  # a type, or the description of an input of any type
            if given == "any":
                return {}, False
            return ({"type": given} if given in PARAMETER_TYPES else {"description": given}), False
        if not isinstance(given, dict):
            self.rewriting.add(path, "An input is an object such as {'type': 'string'}, or the name of a type.", hint)
            return {}, False
        part: dict[str, Any] = {}
        for key, value in given.items():
            if key not in _PARAMETER_FIELDS and not key.startswith("x-"):
                message = f"A parameter has no field {shown(key)}."
                if hint:
                    self.rewriting.add(member_path(path, key), message, hint)
                else:
                    self.rewriting.add_unknown(member_path(path, key), message, key, list(_PARAMETER_FIELDS))
            elif key == "type" and isinstance(value, str) and value not in PARAMETER_TYPES:
                message = f"There is no type {shown(value)} of parameters."
                self.rewriting.add_unknown(f"{path}.type", message, value, list(PARAMETER_TYPES))
            elif key == "items_type":
                part["items"] = {} if value == "any" else {"type": value}
                self.rewriting.move(member_path("$.inputs.properties", name) + ".items.type", f"{path}.items_type")
            elif (
                value is not None
                and (key, value) != ("type", "any")
                and not (key == "required" and isinstance(value, bool))
            ):
                part[key] = value
        is_required = given.get("required")
        if is_required is not None and not isinstance(is_required, bool | list):
            part.pop("required", None)
            self.rewriting.add(f"{path}.required", "`required` of a parameter is true or false.")
        return part, is_required is True


def _are_parameters(inputs: Any) -> bool:
    """Whether the inputs are parameters by name: everything whose `type` is not the string "object"."""
    return isinstance(inputs, dict) and inputs.get("type") != "object"


def _is_parameter(value: Any) -> bool:
    """Whether an output is declared only."""
    return isinstance(value, dict) and value.get("type") in PARAMETER_TYPES and value.keys() <= set(_PARAMETER_FIELDS)


def _describe(holder: dict[str, Any], path: str, fields: tuple[str, ...], rewriting: Rewriting) -> None:
    """Put what 0.1 said beside the fields of today into `metadata`, which is free."""
    given = {name: holder.pop(name) for name in fields if name in holder}
    metadata = holder.get("metadata", {})
    if given and isinstance(metadata, dict):
        holder["metadata"] = {**given, **metadata}
        for name in given:
            rewriting.move(f"{path}.metadata.{name}", f"{path}.{name}")


def _steps_in(value: Any) -> Iterator[dict[str, Any]]:
    """Every step in lists of steps, nested ones included."""
    found: list[dict[str, Any]] = []

    def note(step: dict[str, Any]) -> dict[str, Any]:
        found.append(step)
        return step

    for steps in value:
        map_steps(steps, note)
    return iter(found)
