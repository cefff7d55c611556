"""The workflow model: what a JSON definition may say. Closed: an unknown field is a problem, never ignored.

This file gives the shape only. How text becomes a model is in `load`, what its steps wait for in `graph`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from openagents_json import amounts
from openagents_json.resources import MAX_AMOUNT, NAME, NAME_CHARACTERS, NEEDED_RESOURCES
from openagents_json.workflow import limits

Seconds = Annotated[float, Field(gt=0, le=limits.MAX_SECONDS, allow_inf_nan=False)]
Delay = Annotated[float, Field(ge=0, le=limits.MAX_SECONDS, allow_inf_nan=False)]
JobCount = Annotated[int, Field(ge=1, le=limits.CONCURRENT_JOBS)]
Amount = Annotated[float, Field(ge=0, le=MAX_AMOUNT, allow_inf_nan=False)]
ResourceName = Annotated[str, Field(pattern=f"^{NAME}$", max_length=NAME_CHARACTERS)]
StepId = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$", max_length=limits.ID_CHARACTERS)]
StepKind = Literal["component", "set", "foreach", "repeat", "switch", "parallel", "wait", "signal", "workflow", "raise"]

KINDS: tuple[StepKind, ...] = get_args(StepKind)
RESERVED_BRANCHES = re.compile(r"catch\d+|undo|default|\d+")  # these label other things inside a step's path
CONTAINERS = frozenset({"foreach", "repeat", "switch", "parallel"})
RESERVED_IDS = frozenset(
    {"inputs", "input", "steps", "item", "index", "iteration", "last", "job", "workflow", "error", "secrets"}
)


def _empty(kind: type[dict[str, Any]] | type[list[Any]]) -> Any:
    """A field that is empty unless it is given. Pydantic would copy a default, at ten times the price."""
    return Field(default_factory=kind, json_schema_extra={"default": kind()})


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Retry(_Model):
    """When a failed attempt is worth another. Delays in seconds; attempt n waits delay × multiplier^(n-1), capped."""

    max_attempts: int = Field(default=3, ge=1, le=limits.MAX_ATTEMPTS)
    delay_seconds: Delay = 1.0
    backoff_multiplier: float = Field(default=2.0, ge=1, le=100, allow_inf_nan=False)
    max_delay_seconds: Delay = 300.0
    jitter: float = Field(default=0.0, ge=0, le=1, allow_inf_nan=False)
    max_elapsed_seconds: Seconds | None = None
    on: list[str] | None = None
    not_on: list[str] = _empty(list)


class Repeat(_Model):
    """How often a `repeat` goes round: until the condition holds after an iteration, at most so many times."""

    until: str | bool
    max_iterations: int = Field(ge=1, le=limits.ITERATIONS)
    delay_seconds: Delay = 0.0
    initial: Any = None
    on_max: Literal["fail", "continue"] = "fail"


class Case(_Model):
    """One way of a `switch`: taken if `when` is true and no case before it was."""

    note: Any = None
    when: str | bool
    steps: list[Step] = Field(min_length=1)
    output: Any = None

    def has(self, field: str) -> bool:
        return field in self.model_fields_set


class Wait(_Model):
    """How long a `wait` waits: `seconds`, or `until` a time (ISO 8601 with an offset); each may be an expression."""

    seconds: float | str | None = None
    until: str | None = None


class Catch(_Model):
    """What to do when the step fails with an error of a type or of one of several (by prefix); of any, if none is
    given."""

    note: Any = None
    type: str | list[str] | None = None
    steps: list[Step] = Field(min_length=1)
    output: Any = None

    def has(self, field: str) -> bool:
        return field in self.model_fields_set

    @property
    def types(self) -> Sequence[str] | None:
        """The types that it takes; None takes every error."""
        return [self.type] if isinstance(self.type, str) else self.type


class Compensate(_Model):
    """The call that undoes a completed step when the job fails or is cancelled."""

    component: str
    inputs: dict[str, Any] = _empty(dict)
    isolation: Literal["inline", "thread", "process"] | None = None
    timeout: Seconds | None = None
    retry: Retry | None = None


class Raise(_Model):
    """The error that a `raise` step fails with."""

    type: str = Field(max_length=limits.ID_CHARACTERS)
    message: str = ""


class Step(_Model):
    """A node of a workflow: exactly one of the keys in `KINDS`, and the fields that go with it."""

    id: StepId
    note: Any = None
    metadata: dict[str, Any] = _empty(dict)

    component: str | None = None
    allow: list[str] | None = None
    inputs: dict[str, Any] = _empty(dict)
    isolation: Literal["inline", "thread", "process"] | None = None
    effect: Literal["once"] | None = None
    preemptible: bool = False
    resources: Annotated[dict[ResourceName, Amount], Field(max_length=NEEDED_RESOURCES)] = _empty(dict)

    set: Any = None

    foreach: str | list[Any] | None = None
    steps: list[Step] = _empty(list)
    concurrency: int | None = Field(default=None, ge=1, le=limits.FOREACH_ITEMS)
    on_item_error: Literal["fail", "skip", "collect"] = "fail"
    spread: bool = False
    output: Any = None

    repeat: Repeat | None = None

    switch: list[Case] | None = Field(default=None, min_length=1)
    default: list[Step] = _empty(list)

    parallel: dict[StepId, Annotated[list[Step], Field(min_length=1)]] | None = Field(default=None, min_length=1)
    wait_for: Literal["all", "first"] | Annotated[int, Field(ge=1)] = "all"

    wait: Wait | None = None

    signal: str | None = Field(default=None, max_length=limits.TEMPLATE_BYTES)
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    on_timeout: Literal["fail", "continue"] = "fail"

    workflow: str | None = None
    version: str | None = None
    detached: bool = False

    raise_: Raise | None = Field(default=None, alias="raise")

    condition: str | bool | None = None
    needs: list[str] | None = None
    timeout: Seconds | None = None
    retry: Retry | None = None
    catch: list[Catch] = _empty(list)
    compensate: Compensate | None = None
    continue_on_error: bool = False
    fail_fast: bool = True

    @cached_property
    def kind(self) -> StepKind:
        return next(kind for kind in KINDS if self.has(kind))

    @property
    def is_container(self) -> bool:
        """Whether it has nested steps of its own (handlers in `catch` do not count)."""
        return self.kind in CONTAINERS

    def has(self, field: str) -> bool:
        """Whether the definition says it, even with null (`"set": null` is a value)."""
        return _ATTRIBUTES.get(field, field) in self.model_fields_set


_ATTRIBUTES = {"raise": "raise_", "schema": "schema_"}


class Concurrency(_Model):
    """How many jobs of the workflow are on at a time: of all, or of those for which `key` has the same value. A job is
    on from its first start to its end, or with `hold` running only while it runs; `overflow` says what becomes of one
    more."""

    key: str | None = Field(default=None, max_length=limits.TEMPLATE_BYTES)
    limit: JobCount
    hold: Literal["job", "running"] = "job"
    overflow: Literal["queue", "reject", "replace"] = "queue"


class Budget(_Model):
    """What a job of the workflow may spend: seconds that attempts were on, tokens, and a cost in whatever unit its
    components report. A job that has spent one of them is paused."""

    seconds: float | None = Field(
        default=None, ge=amounts.SMALLEST["seconds"], le=amounts.LARGEST["seconds"], allow_inf_nan=False
    )
    tokens: int | None = Field(default=None, ge=1, le=int(amounts.LARGEST["tokens"]))
    cost: float | None = Field(
        default=None, ge=amounts.SMALLEST["cost"], le=amounts.LARGEST["cost"], allow_inf_nan=False
    )


class Workflow(_Model):
    """A whole definition. Immutable; `content_hash` identifies it whatever its id and version say."""

    id: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]*$", max_length=limits.ID_CHARACTERS)]
    version: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$", max_length=100)] = (
        "1.0.0"
    )
    description: str = ""
    note: Any = None
    metadata: dict[str, Any] = _empty(dict)
    priority: Literal["LOW", "MEDIUM", "HIGH", "CRITICAL"] | None = None
    timeout: Seconds | None = None  # of the whole job, from its first start
    concurrency: JobCount | Concurrency | None = None
    budget: Budget | None = None  # of each job, unless it says otherwise
    share_key: str | None = Field(default=None, min_length=1, max_length=limits.TEMPLATE_BYTES)
    # Of a definition that the engine makes for an item of a spreading foreach: the step ids and the names (item,
    # index …) of its parent that it refers to.
    given: list[str] = _empty(list)
    inputs: dict[str, Any] = {"type": "object", "properties": {}}
    steps: list[Step] = Field(min_length=1)
    outputs: Any = None
    finally_: list[Step] = Field(default_factory=list, json_schema_extra={"default": []}, alias="finally")

    document: dict[str, Any] = Field(exclude=True, default_factory=dict)  # the canonical JSON this was made from

    @cached_property
    def limit(self) -> Concurrency | None:
        """`concurrency` in its long form; None: any number of jobs are on."""
        given = self.concurrency
        return Concurrency(limit=given) if isinstance(given, int) else given

    @cached_property
    def spendable(self) -> amounts.Amounts:
        """`budget` in whole numbers; empty if the workflow has none."""
        return {} if self.budget is None else amounts.inside(dict(self.budget))

    @cached_property
    def encoded(self) -> bytes:
        """The document as canonical JSON: sorted keys, no spaces, UTF-8."""
        return json.dumps(self.document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 of the canonical document, in hex."""
        return hashlib.sha256(self.encoded).hexdigest()
