"""What callers give to verbs, checked and brought into the form that is kept."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from openagents_json.amounts import KEYS, Amounts, Budget, budget_problems, whole
from openagents_json.components.component import check_name
from openagents_json.errors import InvalidInputs, Problem
from openagents_json.job.model import JobPriority
from openagents_json.job.store.arrival import STRICT_AGING_S
from openagents_json.job.store.pauses import PauseKind
from openagents_json.job.store.shares import MAX_WEIGHT, MIN_WEIGHT
from openagents_json.jsondata import NotJson, plain
from openagents_json.workflow import Workflow, limits
from openagents_json.workflow.problems import member_path

METADATA_BYTES = 64 * 1024
MAX_TAGS = 32
TAG_CHARACTERS = 200
REASON_CHARACTERS = 2_000
KEY_CHARACTERS = 200
_WORKFLOW_ID = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
MAX_CREATED_AT_ONCE = 10_000  # jobs of one `create_jobs`


def priority_of(priority: str | JobPriority) -> JobPriority:
    """A priority by its name, in any case. `InvalidInputs` for any other text."""
    try:
        return JobPriority(str(priority).upper())
    except ValueError:
        raise InvalidInputs(
            [Problem("$.priority", f"{priority!r} is no priority.", f"Use {', '.join(JobPriority)}.")], "the job"
        ) from None


def aging_of(aging_s: float | str) -> float:
    """Seconds as they are, or those of the word `strict`. `ValueError` for anything else."""
    if aging_s == "strict":
        return STRICT_AGING_S
    is_number = isinstance(aging_s, (int, float)) and not isinstance(aging_s, bool)
    if not is_number or not 0 <= float(aging_s) <= STRICT_AGING_S:
        raise ValueError(f"{aging_s!r} is no aging time: give seconds, 0 to {STRICT_AGING_S:,.0f}, or 'strict'.")
    return float(aging_s)


def share_of(key: str | None) -> str | None:
    """The key of a share as it is. `InvalidInputs` beyond the limit."""
    if key is not None and (not isinstance(key, str) or not 0 < len(key) <= limits.SHARE_KEY_CHARACTERS):
        message = f"The key of a share is a text of 1 to {limits.SHARE_KEY_CHARACTERS} characters."
        raise InvalidInputs([Problem("$.share_key", message)], "the job")
    return key


def weight_of(weight: float) -> float:
    """The weight of a share. `ValueError` for what is none."""
    is_number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
    if not is_number or not MIN_WEIGHT <= float(weight) <= MAX_WEIGHT:
        raise ValueError(f"{weight!r} is no weight of a share: give a number, {MIN_WEIGHT:g} to {MAX_WEIGHT:,g}.")
    return float(weight)


def metadata_of(workflow: Workflow, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """The workflow's metadata, and over it the job's own."""
    if not workflow.metadata and not given:
        return {}
    try:
        metadata, _ = plain({**workflow.metadata, **(given or {})}, limit_bytes=METADATA_BYTES)
    except NotJson as error:
        raise InvalidInputs([Problem(error.path.replace("$", "$.metadata", 1), str(error))], "the metadata") from None
    return metadata  # type: ignore[no-any-return]


def budget_of(given: Any) -> Budget:
    """A budget in whole numbers: {"seconds", "tokens", "cost"}, each a number or None. `InvalidInputs` with every
    problem."""
    return {} if given is None else _amounts_of(given, "$.budget", may_be_none=True)


def more_budget(given: Mapping[str, Any]) -> Amounts:
    """What is to be added to a budget, in whole numbers. `InvalidInputs` with every problem."""
    asked = {kind: amount for kind, amount in given.items() if amount is not None}
    if not asked:
        problem = Problem("$", "Nothing is to be added to the budget.", f"Give one of {', '.join(KEYS)}.")
        raise InvalidInputs([problem], "what is added to the budget")
    return {key: amount for key, amount in _amounts_of(asked, "$").items() if amount is not None}


def _amounts_of(given: Any, path: str, *, may_be_none: bool = False) -> Budget:
    if not isinstance(given, Mapping):
        message = f"A budget is an object with seconds, tokens or cost, not {type(given).__name__}."
        raise InvalidInputs([Problem(path, message)], "the budget")
    problems = [
        Problem(member_path(path, kind), message, advice)
        for kind, message, advice in budget_problems(given, may_be_none=may_be_none)
    ]
    if problems:
        raise InvalidInputs(problems, "the budget")
    return {KEYS[kind]: None if amount is None else whole(kind, amount) for kind, amount in given.items()}


def payload_of(value: Any, path: str) -> tuple[Any, bytes]:
    """A plain copy of a document that came with a verb, and its JSON. `InvalidInputs` with paths below `path`."""
    try:
        return plain(value, limit_bytes=limits.OUTPUT_BYTES)
    except NotJson as error:
        raise InvalidInputs([Problem(error.path.replace("$", path, 1), str(error))], "the payload") from None


def tags_of(tags: Iterable[str]) -> tuple[str, ...]:
    """Each tag once, in order. `InvalidInputs` beyond the limits."""
    given = (tags,) if isinstance(tags, str) else tuple(dict.fromkeys(tags))
    if len(given) > MAX_TAGS or any(not isinstance(tag, str) or not 0 < len(tag) <= TAG_CHARACTERS for tag in given):
        message = f"At most {MAX_TAGS} tags of 1 to {TAG_CHARACTERS} characters are allowed."
        raise InvalidInputs([Problem("$.tags", message)], "the job")
    return given


def check_count(inputs: Sequence[Any], keys: Sequence[str] | None) -> None:
    """`ValueError` for more jobs than are accepted at once, or not as many keys as jobs."""
    if len(inputs) > MAX_CREATED_AT_ONCE:
        raise ValueError(f"{len(inputs):,} jobs are too many at once; give at most {MAX_CREATED_AT_ONCE:,} per call.")
    if keys is not None and len(keys) != len(inputs):
        raise ValueError(f"There are {len(inputs):,} jobs and {len(keys):,} idempotency keys; give one key for each.")


@contextlib.contextmanager
def placed(place: int) -> Iterator[None]:
    """Problems of one of many inputs say which one it is."""
    try:
        yield
    except InvalidInputs as error:
        problems = [replace(one, path=one.path.replace("$", f"$[{place}]", 1)) for one in error.problems]
        raise InvalidInputs(problems, f"the inputs of job {place}") from None


def check_pausable(kind: PauseKind, name: str) -> None:
    """`InvalidComponent` or `InvalidInputs` for what can be no name of a component or id of a workflow. Whether there
    is one is not asked: others may have it."""
    if kind == "component":
        check_name(name)
    elif len(name) > limits.ID_CHARACTERS or not _WORKFLOW_ID.fullmatch(name):
        shown = name if len(name) <= limits.ID_CHARACTERS else f"{name[:40]}…"
        advice = f"Letters, digits, _, - and dots, beginning with a letter or _, {limits.ID_CHARACTERS} at most."
        raise InvalidInputs([Problem("$.workflow_id", f"{shown!r} can be no id of a workflow.", advice)], "the pause")


def check_reason(reason: str | None) -> None:
    """`ValueError` for a reason that is too long."""
    if reason is not None and len(reason) > REASON_CHARACTERS:
        raise ValueError(f"The reason has {len(reason)} characters; {REASON_CHARACTERS} are allowed.")


def key_of(key: str | None) -> str | None:
    """The key as it is. `InvalidInputs` beyond the limit."""
    if key is not None and not 0 < len(key) <= KEY_CHARACTERS:
        message = f"An idempotency key has 1 to {KEY_CHARACTERS} characters."
        raise InvalidInputs([Problem("$.idempotency_key", message)], "the job")
    return key
