"""What can happen to a job, as data for `decide`. Nothing else changes a job."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from openagents_json.job.model import ErrorInfo
from openagents_json.workflow.model import Retry

Verb = Literal["start", "pause", "resume", "cancel", "set_priority", "signal", "resolve_step", "child_ended"]


@dataclass(frozen=True, slots=True)
class Claimed:
    """A worker has taken the job from the queue and runs it from now on."""

    worker: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The worker that held the job is dead; whoever tells holds a lease of one commit."""

    worker: str


@dataclass(frozen=True, slots=True)
class Released:
    """The worker wants to give the job back (it stops); effective when nothing of the job runs."""

    reason: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed: something may be due."""


@dataclass(frozen=True, slots=True)
class Requested:
    """Somebody asked for something. `sequence` is its place in the inbox; 0 if it never stood there."""

    verb: Verb
    by: str | None = None
    reason: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    sequence: int = 0


@dataclass(frozen=True, slots=True)
class AttemptSucceeded:
    """`token` is the attempt's fencing token: a result with an old one is refused. `output` is plain JSON."""

    path: str
    token: int
    output: Any


@dataclass(frozen=True, slots=True)
class AttemptFailed:
    """The component raised, or ran out of time and is known dead (or `abandoned`: its thread still runs)."""

    path: str
    token: int
    error: ErrorInfo
    asked_delay_s: float | None = None
    default_retry: Retry | None = None  # the component's own, for a step that says none
    abandoned: bool = False


@dataclass(frozen=True, slots=True)
class AttemptStopped:
    """The attempt was told to stop and its code is dead (or `abandoned`).

    `reason` is cancelled, force_cancelled, sibling_failed, shutdown or lost_lease.
    """

    path: str
    token: int
    reason: str
    abandoned: bool = False


Happening = Claimed | Interrupted | Released | Tick | Requested | AttemptSucceeded | AttemptFailed | AttemptStopped
