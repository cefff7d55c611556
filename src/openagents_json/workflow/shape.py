"""The shape of a definition: which fields there are, which go together, and every deviation as a sentence.

What the closed pydantic model cannot say well (fields of another kind of step, misspelt ones) is
checked here first and left out of what the model gets; the model then judges types and bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from openagents_json.workflow import limits
from openagents_json.workflow.model import (
    KINDS,
    RESERVED_BRANCHES,
    RESERVED_IDS,
    Budget,
    Case,
    Catch,
    Compensate,
    Concurrency,
    Raise,
    Repeat,
    Retry,
    Step,
    Wait,
    Workflow,
)
from openagents_json.workflow.problems import Problems, json_path, member_path, shown

COMMON_FIELDS = (
    "id", "note", "metadata", "condition", "needs", "catch", "compensate", "continue_on_error", "fail_fast",
)  # fmt: skip
_WORK = ("timeout", "retry", "resources")  # of steps that take time and may end otherwise the next time
KIND_FIELDS: dict[str, tuple[str, ...]] = {
    "component": ("component", "allow", "inputs", "isolation", "effect", "preemptible", *_WORK),
    "set": ("set",),
    "foreach": ("foreach", "steps", "concurrency", "on_item_error", "spread", "output", *_WORK),
    "repeat": ("repeat", "steps", "output", *_WORK),
    "switch": ("switch", "default", *_WORK),
    "parallel": ("parallel", "wait_for", *_WORK),
    "wait": ("wait",),
    "signal": ("signal", "schema", "timeout", "on_timeout", "retry"),
    "workflow": ("workflow", "allow", "inputs", "version", "detached", *_WORK),
    "raise": ("raise",),
}


@cache
def _names(model: type[BaseModel], *left_out: str) -> dict[str, None]:
    """The names of the model's fields in their order, for quick questions."""
    return {field.alias or name: None for name, field in model.model_fields.items() if name not in left_out}


_STEP_FIELDS = _names(Step)
_WORKFLOW_FIELDS = _names(Workflow, "document", "given")  # `given` is the engine's alone


def shape_of(document: dict[str, Any], problems: Problems) -> Workflow | None:
    """The workflow that a plain document describes; its problems are noted.

    None where there is no model to build. A model comes back in spite of problems if leaving the faulty fields out
    makes one, so that its references can be checked in the same go.
    """
    before = len(problems.found)
    fields = _fields(document, "$", _WORKFLOW_FIELDS, problems, "A workflow")
    if isinstance(given := fields.get("concurrency"), dict):
        fields["concurrency"] = _fields(given, "$.concurrency", _names(Concurrency), problems, "`concurrency`")
    if isinstance(given := fields.get("budget"), dict):
        fields["budget"] = _fields(given, "$.budget", _names(Budget), problems, "`budget`")
        if not given:
            problems.add("$.budget", "`budget` must not be empty.", "Give it seconds, tokens or cost, or leave it out.")
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
        fields = _fields(step, path, _STEP_FIELDS, self.problems, "A step")
        self.identity(step, path)
        kind = self.kind(step, path)
        if kind is None:
            self.all_have_a_kind = False
        else:
            for name in [name for name in fields if name not in COMMON_FIELDS and name not in KIND_FIELDS[kind]]:
                self.problems.add(f"{path}.{name}", _misplaced(name, kind))
                del fields[name]
        for name, model in (("retry", Retry), ("repeat", Repeat), ("wait", Wait), ("raise", Raise)):
            self.part(fields, name, model, path)
        self.part(fields, "compensate", Compensate, path)
        if isinstance(compensate := fields.get("compensate"), dict):
            self.part(compensate, "retry", Retry, f"{path}.compensate")
        self.nested(step, fields, kind, path)
        return fields

    def part(self, fields: dict[str, Any], name: str, model: type[BaseModel], path: str) -> None:
        """An object inside a step: closed like the step itself."""
        if isinstance(given := fields.get(name), dict):
            fields[name] = _fields(given, f"{path}.{name}", _names(model), self.problems, f"`{name}`")

    def nested(self, step: dict[str, Any], fields: dict[str, Any], kind: str | None, path: str) -> None:
        """Everything that is a list of steps inside a step."""
        if kind in ("foreach", "repeat") and not step.get("steps"):
            what = "with each item" if kind == "foreach" else "in each iteration"
            self.problems.add(path, f"A `{kind}` needs `steps`: what to do {what}.")
        for name in ("steps", "default"):
            if isinstance(steps := fields.get(name), list):
                fields[name] = self.steps(steps, f"{path}.{name}")
        for name, model in (("switch", Case), ("catch", Catch)):
            if isinstance(parts := fields.get(name), list):
                fields[name] = [
                    self.case(part, model, f"{path}.{name}[{index}]", name) if isinstance(part, dict) else part
                    for index, part in enumerate(parts)
                ]
        if isinstance(branches := fields.get("parallel"), dict):
            fields["parallel"] = {
                name: self.steps(steps, member_path(f"{path}.parallel", name)) if isinstance(steps, list) else steps
                for name, steps in branches.items()
            }
        self.combinations(fields, kind, path)

    def case(self, part: dict[str, Any], model: type[BaseModel], path: str, name: str) -> dict[str, Any]:
        """One case of a `switch` or one handler of a `catch`."""
        fields = _fields(part, path, _names(model), self.problems, f"An entry of `{name}`")
        if isinstance(steps := fields.get("steps"), list):
            fields["steps"] = self.steps(steps, f"{path}.steps")
        return fields

    def combinations(self, fields: dict[str, Any], kind: str | None, path: str) -> None:
        """What types alone cannot say."""
        if kind == "wait" and isinstance(wait := fields.get("wait"), dict):
            given = [name for name in ("seconds", "until") if wait.get(name) is not None]
            if len(given) != 1:
                self.problems.add(f"{path}.wait", "A `wait` has exactly one of `seconds` and `until`.")
        if kind == "parallel" and isinstance(fields.get("parallel"), dict):
            wait_for, branches = fields.get("wait_for"), len(fields["parallel"])
            if isinstance(wait_for, int) and not isinstance(wait_for, bool) and wait_for > branches:
                message = f"`wait_for` is {wait_for}, but there are only {branches} branches."
                self.problems.add(f"{path}.wait_for", message)
            for name in fields["parallel"]:
                if RESERVED_BRANCHES.fullmatch(name):
                    message = f"The name {shown(name)} is reserved: paths of steps use it."
                    self.problems.add(member_path(f"{path}.parallel", name), message, "Choose another name.")
        if fields.get("preemptible") is True and fields.get("effect") is not None:
            message = "`preemptible` does not go with `effect`: an attempt that makes room for another job is repeated."
            self.problems.add(f"{path}.preemptible", message)
        if kind == "signal" and fields.get("on_timeout") is not None and fields.get("timeout") is None:
            self.problems.add(f"{path}.on_timeout", "`on_timeout` without a `timeout` never happens.")
        if kind == "workflow" and fields.get("detached") is True:
            for name in ("timeout", "retry", "compensate"):
                if fields.get(name) is not None:
                    message = f"`{name}` does not go with `detached`: nobody waits for the child."
                    self.problems.add(f"{path}.{name}", message)

    def identity(self, step: dict[str, Any], path: str) -> None:
        step_id = step.get("id")
        if isinstance(step_id, str) and step_id in RESERVED_IDS:
            message = f"The id {shown(step_id)} is reserved: expressions use it."
            self.problems.add(f"{path}.id", message, "Choose another id.")

    def kind(self, step: dict[str, Any], path: str) -> str | None:
        """The one kind of a step; a problem if it has none, several, or one without a value."""
        kinds = [kind for kind in KINDS if kind in step]
        if len(kinds) == 1:
            if step[kinds[0]] is not None or kinds[0] == "set":
                return kinds[0]
            self.problems.add(f"{path}.{kinds[0]}", f"`{kinds[0]}` must not be null.")
            return None
        if len(kinds) > 1:
            names = " and ".join(f"`{kind}`" for kind in kinds)
            self.problems.add(path, f"A step has exactly one kind, but this one has {names}.", "Make several steps.")
        else:
            names = ", ".join(f"`{kind}`" for kind in KINDS[:-1])
            self.problems.add(path, f"The step does nothing: give it one of {names} and `{KINDS[-1]}`.")
        return None


def _fields(
    given: Mapping[str, Any],
    path: str,
    known: Collection[str],
    problems: Problems,
    what: str,
) -> dict[str, Any]:
    """The known fields; a problem for each other one, except those that are free (`x-…`, `$schema`)."""
    fields: dict[str, Any] = {}
    for name, value in given.items():
        if name in known:
            fields[name] = value
        elif not name.startswith("x-") and not (name == "$schema" and path == "$"):
            message = f"{what} has no field {shown(name)}."
            problems.add_unknown(member_path(path, name), message, name, known)
    return fields


def _misplaced(name: str, kind: str) -> str:
    if name in _WORK:
        why = {"set": "only computes a value", "raise": "only fails", "wait": "ends when its time has come"}
        return f"`{name}` does not go with `{kind}`, which {why.get(kind, 'takes no resources')}."
    owners = [f"`{owner}`" for owner, fields in KIND_FIELDS.items() if name in fields]
    return f"`{name}` does not go with `{kind}`; it belongs to {' and '.join(owners)}."


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
    "too_long": lambda c: f"It may have {c['max_length']} entries at most.",
}
_PATTERNS = {
    "id": "An id starts with a letter or _ and goes on with letters, digits, _ or - (no spaces).",
    "version": "A version looks like 1.0.0, 1.2.0-rc.1 or 1.0.0-dev.",
}


def _translate(details: list[ErrorDetails], document: dict[str, Any], problems: Problems) -> None:
    """Note pydantic's errors: those of one place, such as the members of a union, as one sentence; or where a member
    fits but for what is inside it, that alone."""
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
        elif types and not missing and not any(other[: len(place)] == place for other in by_place if other != place):
            got = _kind_of(_at(place, document))
            problems.add(path, f"It must be {' or '.join(dict.fromkeys(types))}, but it is {got}.")


def _sentence(error: ErrorDetails, field: str) -> str:
    context = error.get("ctx", {})
    if error["type"] == "string_pattern_mismatch" and error["loc"][-1] == "[key]":
        return "A name of a resource is letters, digits, _, - and . (no spaces), and does not begin with a digit."
    if error["type"] in _BOUNDS:
        return _BOUNDS[error["type"]](context)
    if error["type"] == "string_pattern_mismatch":
        return _PATTERNS.get(field, "It does not have the right form.")
    if error["type"] == "literal_error":
        return f"It must be {context['expected']}."
    return f"{error['msg']}."


def _real_place(place: Sequence[str | int], value: Any) -> tuple[str | int, ...]:
    """The part of a pydantic location that exists in the document: it also names members of unions, and goes on inside
    of them."""
    real: list[str | int] = []
    for part, following in zip(place, (*place[1:], None), strict=True):
        is_index = isinstance(part, int) and isinstance(value, list) and part < len(value)
        if not is_index and not (isinstance(value, dict) and part in value):
            if isinstance(value, dict) and following in value:
                continue
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
