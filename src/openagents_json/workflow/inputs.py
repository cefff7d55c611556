"""The inputs of a job: defaults filled in and everything checked against the workflow's JSON Schema.

Messages never contain a value, since an input may be a secret.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jsonschema_rs import ValidationError

from openagents_json import jsondata
from openagents_json.errors import InvalidDefinition, InvalidInputs, Problem
from openagents_json.workflow import limits
from openagents_json.workflow.mismatch import UNFIT, Mismatches, member_pointer, note
from openagents_json.workflow.problems import Problems, member_path, printable, shown
from openagents_json.workflow.schema import SchemaCost, compile_schema, examine

MAX_COST = 20_000_000  # units of about 20 ns
SECRET_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"secret": {"type": "string", "minLength": 1, "maxLength": 200}},
    "required": ["secret"],
    "additionalProperties": False,
}
_SECRET = compile_schema(SECRET_SCHEMA)
_COMBINING = ("allOf", "anyOf", "oneOf", "if", "$ref", "dependentSchemas", "not")


class PayloadSchema:
    """The schema of what a signal brings: any JSON Schema, compiled. Immutable; many threads may use it."""

    __slots__ = ("_cost", "_schema", "_validator")

    def __init__(self, schema: Mapping[str, Any]) -> None:
        """`InvalidDefinition` if this is no JSON Schema, or checking against it could cost too much."""
        copy = jsondata.thaw(dict(schema))
        problems, self._cost = examine(copy)
        if problems:
            raise InvalidDefinition(problems, "the schema")
        self._schema: dict[str, Any] = copy
        self._validator = compile_schema(copy)

    def problems(self, value: Any, path: str = "$") -> list[Problem]:
        """Everything in the plain `value` that does not fit, without values in the messages; empty if it fits."""
        if (problem := cost_problem(self._cost, value, jsondata.encode(value), "The payload is")) is not None:
            return [problem]
        if self._validator.is_valid(value):
            return []
        found = Problems()
        Mismatches(self._schema, self._cost).note(value, path, found)
        return found.found or [Problem(path, UNFIT)]


class InputSchema:
    """The schema of a workflow's inputs, compiled. Immutable; many threads may use it."""

    __slots__ = ("_checked", "_cost", "_defaults", "_names", "_secrets", "_validator", "schema")

    def __init__(self, schema: Mapping[str, Any]) -> None:
        """`InvalidDefinition` if this is no JSON Schema with "type": "object", or checking could cost too much."""
        try:
            copy, _ = jsondata.plain(dict(schema), limit_bytes=limits.DEFINITION_BYTES)
        except jsondata.NotJson as error:
            raise InvalidDefinition([Problem(printable(error.path, 200), str(error))], "the input schema") from None
        if problems := schema_problems(copy):
            raise InvalidDefinition(problems, "the input schema")
        self.schema: dict[str, Any] = copy
        self._secrets = secret_names(copy)
        self._checked = _closed(_with_references_for_secrets(copy, self._secrets))
        self._cost = _cost_of(self._checked)
        self._validator = compile_schema(self._checked)
        self._names = tuple(copy.get("properties", {}))
        self._defaults = _Defaults.of(copy)

    def fill_defaults(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs with the schema's defaults for what is missing, in objects inside them too. A new dict."""
        filled: dict[str, Any] = jsondata.thaw(dict(inputs))
        if self._defaults is not None:
            self._defaults.fill(filled, limits.INPUTS_BYTES)
        return filled

    def validate(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs as plain JSON with defaults filled in: a new dict, the argument stays as it was.

        `InvalidInputs` with every problem: no JSON, more than 1 MiB, unknown names, what does not fit the schema.
        """
        if not isinstance(inputs, Mapping):
            raise InvalidInputs([Problem("$", "The inputs must be an object: names and their values.")])
        try:
            values, encoded = jsondata.plain(
                inputs if type(inputs) is dict else dict(inputs), limit_bytes=limits.INPUTS_BYTES
            )
            if self._defaults is not None:
                self._defaults.fill(values, limits.INPUTS_BYTES - len(encoded))
        except jsondata.NotJson as error:
            raise InvalidInputs([Problem(printable(error.path, 200), printable(str(error), 400))]) from None
        if (problem := cost_problem(self._cost, values, encoded, "The inputs are")) is not None:
            raise InvalidInputs([problem])
        if not self._validator.is_valid(values):
            raise InvalidInputs(self._problems(values))
        checked: dict[str, Any] = values
        return checked

    def _problems(self, values: dict[str, Any]) -> list[Problem]:
        problems = Problems()
        schema = self._checked
        if schema.get("additionalProperties") is False and "patternProperties" not in schema:
            for name in values:
                if name not in self._names:
                    self._note_unknown(name, problems)
        for name in schema.get("required", []):
            if name not in values:
                problems.add(member_path("$", name), "It is required.")
        for name in sorted(self._secrets & values.keys()):
            if not _SECRET.is_valid(values[name]):
                message = 'It is a secret: give {"secret": "NAME"}, never the value itself.'
                problems.add(member_path("$", name), message)
        noted = {problem.path for problem in problems.found}
        for path, error in Mismatches(schema, self._cost).find("#", values, "$"):
            if error is not None and error.kind.name == "unevaluatedProperties" and path == "$":
                for name in error.kind.unexpected:  # type: ignore[attr-defined]
                    self._note_unknown(name, problems)
            elif error is None:
                problems.add(path, UNFIT)
            elif not self._is_noted(path, error, noted):
                note(error, path, problems)
            if problems.is_full:
                break
        if len(problems.found) > 1:  # what is too dear to say at the top has been said below it
            problems.found = [one for one in problems.found if (one.path, one.message) != ("$", UNFIT)]
        return problems.found or [Problem("$", UNFIT)]

    def _note_unknown(self, name: str, problems: Problems) -> None:
        problems.add_unknown(member_path("$", name), f"There is no input {shown(name)}.", name, self._names)

    def _is_noted(self, path: str, error: ValidationError, noted: set[str]) -> bool:
        """Whether an error of the top level, or of a secret, has been said in words of its own."""
        if error.instance_path:
            name = error.instance_path[0]
            return name in self._secrets and member_path("$", name) in noted
        if error.kind.name == "required":
            return member_path("$", error.kind.property) in noted  # type: ignore[attr-defined]
        return error.kind.name == "additionalProperties" and all(
            member_path("$", name) in noted
            for name in error.kind.unexpected  # type: ignore[attr-defined]
        )


def cost_problem(cost: SchemaCost, values: Any, encoded: bytes, what: str) -> Problem | None:
    """Why checking this data against a schema would take too long, or None."""
    if len(encoded) < 10_000 and cost.levels is None and cost.below < 1_000:
        return None
    places = _places(encoded)
    if cost.of(places) > MAX_COST:
        message = f"About {places:,} values are too many for a schema of this complexity. Pass less, or a reference."
        return Problem("$", message)
    if cost.levels is not None and jsondata.depth(values) > cost.levels:
        return Problem("$", f"{what} nested too deeply for a recursive schema: at most {cost.levels} levels.")
    return None


def schema_problems(schema: Any, path: str = "$") -> list[Problem]:
    """What is wrong with the schema of a workflow's inputs, with paths that start at `path`; empty if nothing is."""
    if not isinstance(schema, dict) or schema.get("type") != "object":
        message = 'The schema of the inputs must be a JSON Schema with "type": "object".'
        return [Problem(path, message, 'Write {"type": "object", "properties": {…}}.')]
    found, cost = examine(schema, path)
    return found or _default_problems(schema, path, cost)


def _default_problems(schema: dict[str, Any], path: str, cost: SchemaCost) -> list[Problem]:
    """Defaults that would not be accepted as inputs: better said now than by each job that relies on one."""
    defaults = list(_defaults_of(schema, "#", path))
    if not defaults:
        return []
    problems = Problems()
    if cost.of(sum(_places(jsondata.encode(value)) for _, _, value in defaults)) > MAX_COST:
        problems.add(path, "The defaults are too large for a schema of this complexity.")
        return problems.found
    mismatches = Mismatches(_with_references_for_secrets(schema, secret_names(schema)), cost)
    for pointer, place, value in defaults:
        mismatches.note(value, f"{place}.default", problems, pointer)
    return problems.found


def _defaults_of(schema: Any, pointer: str, path: str) -> Iterator[tuple[str, str, Any]]:
    """JSON pointer, path and value of each default that `fill_defaults` would use."""
    properties = schema.get("properties") if isinstance(schema, dict) else None
    for name, part in properties.items() if isinstance(properties, dict) else ():
        if isinstance(part, dict):
            below = member_pointer(pointer, name)
            place = member_path(f"{path}.properties", name)
            if "default" in part:
                yield below, place, part["default"]
            yield from _defaults_of(part, below, place)


def _places(encoded: bytes) -> int:
    """About how many values a JSON text has, never fewer than there are."""
    return encoded.count(b",") + encoded.count(b"{") + encoded.count(b"[") + 1


def secret_names(schema: Mapping[str, Any]) -> frozenset[str]:
    """The inputs that a schema marks as `writeOnly`: they hold {"secret": NAME}."""
    declared = declared_inputs(schema)
    return frozenset(name for name, part in declared.items() if isinstance(part, dict) and part.get("writeOnly"))


def declared_inputs(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The inputs that a schema declares, by name; none if it is a broken schema, which is a problem of its own."""
    properties = schema.get("properties")
    return properties if isinstance(properties, Mapping) else {}


def _with_references_for_secrets(schema: dict[str, Any], secrets: frozenset[str]) -> dict[str, Any]:
    if not secrets:
        return schema
    properties = {name: SECRET_SCHEMA if name in secrets else part for name, part in schema["properties"].items()}
    return {**schema, "properties": properties}


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema without room for unknown inputs, unless it says something about them."""
    if "additionalProperties" in schema or "unevaluatedProperties" in schema:
        return schema
    # With schemas beside it that bring properties of their own, only `unevaluated…` sees them all.
    combining = any(key in schema for key in _COMBINING)
    return {**schema, "unevaluatedProperties" if combining else "additionalProperties": False}


def _cost_of(schema: dict[str, Any]) -> SchemaCost:
    problems, cost = examine(schema)
    if problems:
        raise InvalidDefinition(problems, "the input schema")
    return cost


# ── defaults ──────────────────────────────────────────────────────────────────────────────────────────────────────


class _Defaults:
    """The defaults of an object schema and of the object schemas under its properties; `$ref`s are not followed."""

    __slots__ = ("inner", "own")

    def __init__(self, own: list[tuple[str, Any, int]], inner: list[tuple[str, _Defaults]]) -> None:
        self.own = own  # name, value, bytes of it as JSON
        self.inner = inner

    @classmethod
    def of(cls, schema: Any) -> _Defaults | None:
        """None if there is no default in it. Recursion is bounded by the nesting of the schema."""
        properties = schema.get("properties") if isinstance(schema, dict) else None
        if not isinstance(properties, dict):
            return None
        own, inner = [], []
        for name, part in properties.items():
            if isinstance(part, dict) and "default" in part:
                own.append((name, part["default"], len(name) + len(jsondata.encode(part["default"]))))
            if (below := cls.of(part)) is not None:
                inner.append((name, below))
        return cls(own, inner) if own or inner else None

    def fill(self, values: dict[str, Any], room_bytes: int) -> int:
        """Fill in place. Returns the room left; `TooLarge` as soon as there is none."""
        for name, default, size_bytes in self.own:
            if name not in values:
                values[name] = jsondata.thaw(default)
                room_bytes -= size_bytes
                if room_bytes < 0:
                    raise jsondata.TooLarge(limits.INPUTS_BYTES - room_bytes, limits.INPUTS_BYTES)
        for name, below in self.inner:
            if isinstance(value := values.get(name), dict):
                room_bytes = below.fill(value, room_bytes)
        return room_bytes
