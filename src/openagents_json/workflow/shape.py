"""The shape of a definition: which fields there are, which go together, and every deviation as a sentence.

What the closed pydantic model cannot say well (fields of another kind of step, of a later release, misspelt ones) is
checked here first and left out of what the model gets; the model then judges types and bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from openagents_json.workflow import limits
from openagents_json.workflow.model import (
    KINDS,
    LATER_FIELDS,
    LATER_KINDS,
    LATER_STEP_FIELDS,
    RESERVED_IDS,
    Retry,
    Step,
    Workflow,
)
from openagents_json.workflow.problems import Problems, json_path, member_path, shown

COMMON_FIELDS = ("id", "note", "metadata", "condition", "needs")
KIND_FIELDS = {
    "component": ("component", "allow", "inputs", "isolation", "timeout", "retry"),
    "set": ("set",),
    "foreach": ("foreach", "steps", "concurrency", "on_item_error", "output"),
}
_STEP_FIELDS = tuple(Step.model_fields)
_WORKFLOW_FIELDS = tuple(field.alias or name for name, field in Workflow.model_fields.items() if name != "document")
_RETRY_FIELDS = tuple(Retry.model_fields)
_LATER = "comes with a later release of openagents_json"
_RUNS = "this one runs component, set and foreach"


def shape_of(document: dict[str, Any], problems: Problems) -> Workflow | None:
    """The workflow that a plain document describes; its problems are noted.

    None where there is no model to build. A model comes back in spite of problems if leaving the faulty fields out
    makes one, so that its references can be checked in the same go.
    """
    before = len(problems.found)
    fields = _fields(document, "$", _WORKFLOW_FIELDS, LATER_FIELDS, problems, "A workflow")
    counter = _Counter(problems)
    for name in ("steps", "finally"):
        if isinstance(steps := document.get(name), list):
            fields[name] = counter.steps(steps, f"$.{name}")
    if counter.count > limits.STEPS:
        problems.add("$.steps", f"There are {counter.count:,} steps; {limits.STEPS:,} are allowed.")
        return None
    try:
        workflow = Workflow.model_validate({**fields, "document": document})
        return workflow if counter.all_have_a_kind else None
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
    _translate(details, document, problems)
    if len(problems.found) == before:  # every sentence stands for something; this must not pass in silence
        problems.add("$", f"The definition is not valid: {details[0]['msg']}.")
    return None


class _Counter:
    """Walks through steps, nested ones included; recursion is bounded by the nesting of the document."""

    def __init__(self, problems: Problems) -> None:
        self.problems = problems
        self.count = 0
        self.all_have_a_kind = True  # cleared by the first step of which nobody can say what it does

    def steps(self, steps: list[Any], path: str) -> list[Any]:
        """The steps as the model should see them; what cannot be a step stays, for the model to refuse."""
        kept = []
        for index, step in enumerate(steps):
            self.count += 1
            kept.append(self.step(step, member_path(path, index)) if isinstance(step, dict) else step)
        return kept

    def step(self, step: dict[str, Any], path: str) -> dict[str, Any]:
        fields = _fields(step, path, _STEP_FIELDS, (*LATER_KINDS, *LATER_STEP_FIELDS), self.problems, "A step")
        self.identity(step, path)
        kind = self.kind(step, path)
        if kind is None:
            self.all_have_a_kind = False
        else:
            for name in [name for name in fields if name not in COMMON_FIELDS and name not in KIND_FIELDS[kind]]:
                self.problems.add(f"{path}.{name}", _misplaced(name, kind))
                del fields[name]
        if isinstance(retry := step.get("retry"), dict) and "retry" in fields:
            fields["retry"] = _fields(retry, f"{path}.retry", _RETRY_FIELDS, (), self.problems, "`retry`")
        if kind == "foreach":
            if not step.get("steps"):
                self.problems.add(path, "A `foreach` needs `steps`: what to do with each item.")
            elif isinstance(step["steps"], list):
                fields["steps"] = self.steps(step["steps"], f"{path}.steps")
        return fields

    def identity(self, step: dict[str, Any], path: str) -> None:
        step_id = step.get("id")
        if isinstance(step_id, str) and step_id in RESERVED_IDS:
            message = f"The id {shown(step_id)} is reserved: expressions use it."
            self.problems.add(f"{path}.id", message, "Choose another id.")

    def kind(self, step: dict[str, Any], path: str) -> str | None:
        """The one kind of a step; a problem if it has none, several, or one without a value."""
        kinds = [kind for kind in KINDS if kind in step]
        later = [kind for kind in LATER_KINDS if kind in step]
        if len(kinds) == 1:
            if step[kinds[0]] is not None or kinds[0] == "set":
                return kinds[0] if not later else None
            self.problems.add(f"{path}.{kinds[0]}", f"`{kinds[0]}` must not be null.")
            return None
        if len(kinds) > 1:
            names = " and ".join(f"`{kind}`" for kind in kinds)
            self.problems.add(path, f"A step has exactly one kind, but this one has {names}.", "Make several steps.")
        elif not later:
            self.problems.add(path, "The step does nothing: give it `component`, `set` or `foreach`.")
        return None


def _fields(
    given: Mapping[str, Any],
    path: str,
    known: Sequence[str],
    later: Sequence[str],
    problems: Problems,
    what: str,
) -> dict[str, Any]:
    """The known fields; a problem for each other one, except those that are free (`x-…`, `$schema`)."""
    fields: dict[str, Any] = {}
    for name, value in given.items():
        if name in known:
            fields[name] = value
        elif name in later:
            problems.add(f"{path}.{name}", f"`{name}` {_LATER}; {_later_advice(name)}.")
        elif not name.startswith("x-") and not (name == "$schema" and path == "$"):
            message = f"{what} has no field {shown(name)}."
            problems.add_unknown(member_path(path, name), message, name, (*known, *later))
    return fields


def _later_advice(name: str) -> str:
    if name == "timeout":
        return "give each step a `timeout` instead"
    return _RUNS if name in LATER_KINDS else "leave it out"


def _misplaced(name: str, kind: str) -> str:
    if name in ("retry", "timeout"):
        if kind == "set":
            return f"`{name}` does not go with `set`, which only computes a value."
        return f"`{name}` of a `foreach` {_LATER}; give it to the steps inside."
    owner = next(owner for owner, fields in KIND_FIELDS.items() if name in fields)
    return f"`{name}` does not go with `{kind}`; it belongs to `{owner}`."


# ── what pydantic says, in sentences ──────────────────────────────────────────────────────────────────────────────

_TYPES = {
    "string_type": "a string",
    "int_type": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "none_required": "null",
}
_BOUNDS: dict[str, Callable[[dict[str, Any]], str]] = {
    "greater_than": lambda c: f"It must be above {c['gt']:g}.",
    "greater_than_equal": lambda c: f"It must be at least {c['ge']:g}.",
    "less_than": lambda c: f"It must be below {c['lt']:g}.",
    "less_than_equal": lambda c: f"It must be at most {c['le']:g}.",
    "finite_number": lambda c: "It must be a finite number.",
    "string_too_long": lambda c: f"It may have {c['max_length']} characters at most.",
    "too_short": lambda c: "It must not be empty.",
}
_PATTERNS = {
    "id": "An id starts with a letter or _ and goes on with letters, digits, _ or - (no spaces).",
    "version": "A version looks like 1.0.0, 1.2.0-rc.1 or 1.0.0-dev.",
}


def _translate(details: list[ErrorDetails], document: dict[str, Any], problems: Problems) -> None:
    """Note pydantic's errors: those of one place, such as the members of a union, as one sentence."""
    by_place: dict[tuple[str | int, ...], list[ErrorDetails]] = {}
    for detail in details:
        by_place.setdefault(_real_place(detail["loc"], document), []).append(detail)
    for place, errors in by_place.items():
        path = json_path(place)
        types = [_TYPES[error["type"]] for error in errors if error["type"] in _TYPES]
        others = [error for error in errors if error["type"] not in _TYPES]
        missing = [error for error in others if error["type"] == "missing"]
        for error in missing:
            name = str(error["loc"][-1])
            problems.add(path, f"`{name}` is missing.")
        rest = [error for error in others if error["type"] != "missing"]
        if rest:  # of a union, the member whose type fits tells most
            problems.add(path, _sentence(rest[0], str(place[-1]) if place else ""))
        elif types:
            got = _kind_of(_at(place, document))
            problems.add(path, f"It must be {' or '.join(dict.fromkeys(types))}, but it is {got}.")


def _sentence(error: ErrorDetails, field: str) -> str:
    context = error.get("ctx", {})
    if error["type"] in _BOUNDS:
        return _BOUNDS[error["type"]](context)
    if error["type"] == "string_pattern_mismatch":
        return _PATTERNS.get(field, "It does not have the right form.")
    if error["type"] == "literal_error":
        allowed = f"It must be {context['expected']}."
        return f'{allowed} "process" {_LATER}.' if field == "isolation" else allowed
    return f"{error['msg']}."


def _real_place(place: Sequence[str | int], value: Any) -> tuple[str | int, ...]:
    """The part of a pydantic location that exists in the document: it also names members of unions."""
    real: list[str | int] = []
    for part in place:
        is_index = isinstance(part, int) and isinstance(value, list) and part < len(value)
        if not is_index and not (isinstance(value, dict) and part in value):
            break
        value = value[part]
        real.append(part)
    return tuple(real)


def _at(place: Sequence[str | int], value: Any) -> Any:
    for part in place:
        value = value[part]
    return value


def _kind_of(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"the string {shown(value, 40)}"
    if isinstance(value, (int, float)):
        return f"the number {shown(value, 40)}"
    return "an object" if isinstance(value, dict) else "a list"
