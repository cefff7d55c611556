"""The workflow language as JSON Schema 2020-12, for editors and for whatever writes definitions.

Made of the model (types and bounds) and of the rules in `shape` (one kind per step, fields per kind). The file
`language.schema.json` beside this one holds it too; a test compares them. What a schema cannot say (references, order,
expressions) is left to `check`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from openagents_json.workflow.model import KINDS, RESERVED_BRANCHES, RESERVED_IDS, Workflow
from openagents_json.workflow.shape import COMMON_FIELDS, KIND_FIELDS

SCHEMA_ID = "urn:openagents-json:workflow"
DRAFT = "https://json-schema.org/draft/2020-12/schema"
INTERNAL = ("document", "given")  # of the model, but not of the language
FREE = {"^x-": True}  # fields that anybody may add

TEXTS = {
    "Workflow": {
        "$schema": "Where editors find this schema. It means nothing to the workflow.",
        "id": "Names the workflow: letters, digits, _, . and -.",
        "version": "A semantic version. The same id and version never changes, unless it ends in -dev.",
        "description": "What the workflow is for.",
        "note": "Free.",
        "metadata": "Free; copied into each job.",
        "priority": "Of its jobs, unless they say otherwise.",
        "timeout": "Seconds that a job may take, from its first start.",
        "concurrency": "How many jobs are on at a time; left out, any number.",
        "budget": "What a job may spend; it is paused when one of these is spent.",
        "share_key": "With expressions of `inputs`: jobs for which it has the same value get one fair share.",
        "inputs": "A JSON Schema of an object: what a job is given.",
        "steps": "A step without `needs` runs after all steps before it.",
        "outputs": "Any JSON with expressions. Left out: the last step's output under its id.",
        "finally": "Steps that run whatever the outcome is; they see job.outcome.",
    },
    "Concurrency": {
        "key": "With expressions of `inputs`: jobs for which it has the same value are counted together.",
        "limit": "How many are on at a time.",
        "hold": "A job counts from its first start to its end, or only while it is running.",
        "overflow": "One more waits in the queue, is refused, or replaces the oldest.",
    },
    "Budget": {
        "seconds": "During which attempts are on, all added up.",
        "tokens": "That components report with ctx.spend(tokens=…).",
        "cost": "That components report with ctx.spend(cost=…), in whatever unit they do.",
    },
    "Step": {
        "id": "Unique in the whole definition; expressions say steps.ID.output.",
        "note": "Free.",
        "metadata": "Free.",
        "component": "Calls a registered component: `tool` or `agent.capability`. May be an expression, with `allow`.",
        "allow": "The names that an expression may choose.",
        "inputs": "What the component or workflow is given, by name; values may hold expressions.",
        "isolation": "Where the component runs; left out, as the component says.",
        "effect": '"once": an attempt with an unknown outcome is not repeated, but asked about.',
        "preemptible": "An attempt may be ended to make room for a more urgent job, and is repeated later.",
        "resources": "What an attempt occupies, by the name of the resource.",
        "set": "Any JSON with expressions; nothing is called.",
        "foreach": "The nested steps run for each item of this list; inside: item, index.",
        "steps": "The nested steps.",
        "concurrency": "How many items are on at a time; left out, all.",
        "on_item_error": "A failed item fails the step, is left out, or is null and listed in steps.ID.errors.",
        "spread": "Each item becomes a job of its own, which any worker may take.",
        "output": "What the nested steps give; left out, the output of the last one.",
        "repeat": "The nested steps run until a condition holds; inside: iteration, last.",
        "switch": "The first case whose `when` is true.",
        "default": "The steps of a `switch` when no case applies.",
        "parallel": "Named branches at once; the output is an object by branch.",
        "wait_for": "How many branches have to end; the others are cancelled then.",
        "wait": "A durable timer.",
        "signal": "Waits for jobs.signal(job_id, NAME, payload); the payload is the output.",
        "schema": "A JSON Schema of the signal's payload.",
        "on_timeout": "Whether the step fails when the signal does not come in time, or goes on with null.",
        "workflow": "Runs another workflow as a child job and takes its outputs. May be an expression, with `allow`.",
        "version": "Of the workflow; left out, the highest one.",
        "detached": "Nobody waits for the child; the output is its job_id.",
        "raise": "Fails with a typed error.",
        "condition": "True or false, or one expression. False: the step is skipped and its output is null.",
        "needs": "Ids of the steps to wait for; [] waits for none.",
        "timeout": "Seconds: of an attempt, of a container as a whole, or of the wait for a signal.",
        "retry": "When a failed attempt is worth another.",
        "catch": "Handlers by error type; the first that fits runs, and its output becomes the step's.",
        "compensate": "The call that undoes the step when the job fails or is cancelled.",
        "continue_on_error": "The job goes on though the step failed; its output is null.",
        "fail_fast": "false: when this step fails, running siblings may end.",
    },
}


def language_schema() -> dict[str, Any]:
    """The schema of definitions. A new dict each time."""
    made = Workflow.model_json_schema(by_alias=True)
    parts: dict[str, Any] = made.pop("$defs")
    made["title"] = "Workflow of openagents_json"
    root = {"$schema": DRAFT, "$id": SCHEMA_ID, **made, "$defs": parts}
    for name in INTERNAL:
        root["properties"].pop(name, None)
    root["properties"] = {"$schema": {"type": "string"}, **root["properties"]}
    root["properties"]["inputs"] = {"type": "object", "required": ["type"], "properties": {"type": {"const": "object"}}}
    for part in (root, *parts.values()):
        _close(part)
    root["description"] = "A workflow: inputs, steps and outputs. See docs/language.md."
    parts["Step"]["description"] = f"A step: exactly one of {', '.join(KINDS)}."
    _describe(root, "Workflow")
    _describe(parts["Concurrency"], "Concurrency")
    _describe(parts["Budget"], "Budget")
    parts["Budget"]["minProperties"] = 1
    _describe(parts["Step"], "Step")
    _constrain_step(parts["Step"])
    _constrain_wait(parts["Wait"])
    for one in _parts(root):
        if one is not root:
            one.pop("title", None)  # pydantic's: the name of the field again
        if one.get("default", 0) is None:
            del one["default"]  # editors would offer null
    return root


def _close(part: dict[str, Any]) -> None:
    """Unknown fields are problems, those that begin with x- are free."""
    if part.get("additionalProperties") is False:
        part["patternProperties"] = copy.deepcopy(FREE)


def _describe(part: dict[str, Any], name: str) -> None:
    for field, text in TEXTS[name].items():
        if field in part["properties"]:
            part["properties"][field]["description"] = text


def _constrain_step(step: dict[str, Any]) -> None:
    """Exactly one kind, and only the fields that go with it."""
    fields = step["properties"]
    fields["id"]["not"] = {"enum": sorted(RESERVED_IDS)}
    for kind in KINDS:
        if kind != "set":  # the only one that may be null
            _refuse_null(fields, kind)
    fields["parallel"]["propertyNames"]["not"] = {"pattern": f"^({RESERVED_BRANCHES.pattern})$"}
    resources = fields["resources"]  # a pattern for the names alone would let others pass
    [(pattern, resources["additionalProperties"])] = resources.pop("patternProperties").items()
    resources["propertyNames"]["pattern"] = pattern
    step["oneOf"] = [{"required": [kind]} for kind in KINDS]
    step["allOf"] = [_rule(kind, list(fields)) for kind in KINDS]
    step["allOf"] += [
        {"if": _given("on_timeout"), "then": _given("timeout")},
        {
            "if": {"required": ["detached"], "properties": {"detached": {"const": True}}},
            "then": {"properties": {name: {"type": "null"} for name in ("timeout", "retry", "compensate")}},
        },
    ]


def _rule(kind: str, fields: list[str]) -> dict[str, Any]:
    """What holds for the steps of one kind."""
    allowed = {*COMMON_FIELDS, *KIND_FIELDS[kind], *KINDS}  # of two kinds, `oneOf` tells
    then: dict[str, Any] = {"properties": {name: False for name in fields if name not in allowed}}
    if kind in ("foreach", "repeat"):
        then["required"] = ["steps"]
        then["properties"]["steps"] = {"minItems": 1}
    return {"if": {"required": [kind]}, "then": then}


def _constrain_wait(wait: dict[str, Any]) -> None:
    """Exactly one of its two fields."""
    wait["oneOf"] = [_given("seconds"), _given("until")]


def _given(name: str) -> dict[str, Any]:
    """A field is there and not null."""
    return {"required": [name], "properties": {name: {"not": {"type": "null"}}}}


def _refuse_null(fields: dict[str, Any], name: str) -> None:
    field = fields[name]
    options = [one for one in field.pop("anyOf", []) if one != {"type": "null"}]
    field.pop("default", None)
    field.update(options[0] if len(options) == 1 else {"anyOf": options})


def _parts(schema: Any) -> Iterator[dict[str, Any]]:
    """Every object of the schema that may be a subschema."""
    if isinstance(schema, dict):
        yield schema
        for key, value in schema.items():
            if key != "properties":
                yield from _parts(value)
            elif isinstance(value, dict):
                for part in value.values():
                    yield from _parts(part)
    elif isinstance(schema, list):
        for value in schema:
            yield from _parts(value)
