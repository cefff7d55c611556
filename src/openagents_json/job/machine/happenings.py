"""What can happen to a job, as data for `decide`. Nothing else changes a job."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from openagents_json.amounts import Amounts
from openagents_json.job.model import ErrorInfo
from openagents_json.workflow.model import Retry

PREEMPTED = "preempted"  # the reason why a job, or an attempt of it, makes room for another job

Verb = Literal[
    "start", "pause", "resume", "cancel", "set_priority", "signal", "resolve_step", "add_budget",
    "child_ended", "child_paused", "child_resumed", "child_spent",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Claimed:
    """A worker has taken the job from the queue and runs it from now on. `sort_at` is where it stood there, and
    `preempted` the job that made room."""

    worker: str
    epoch: int
    sort_at: int | None = None
    preempted: str | None = None


@dataclass(frozen=True, slots=True)
class Offered:
    """The worker that holds the job for one commit has room: if the job wants a worker now, it runs it at once.
    `sort_at` is where it would stand in the queue."""

    worker: str
    epoch: int
    sort_at: int | None = None


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The worker that held the job is dead; whoever tells holds a lease of one commit."""

    worker: str | None = None  # None: the one that ran it last, as far as the history knows


@dataclass(frozen=True, slots=True)
class Released:
    """The worker wants to give the job back; effective when nothing of the job runs. `by` is the job that it is to make
    room for, if that is the reason (`PREEMPTED`)."""

    reason: str
    by: str | None = None


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed: something may be due."""


@dataclass(frozen=True, slots=True)
class Requested:
    """Somebody asked for something. `sequence` is its place in the inbox; 0 if it never stood there. `key` is the
    request's own."""

    verb: Verb
    by: str | None = None
    reason: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    sequence: int = 0
    key: str = ""


@dataclass(frozen=True, slots=True)
class AttemptSucceeded:
    """`token` is the attempt's fencing token: a result with an old one is refused. `output` is plain JSON."""

    path: str
    token: int
    output: Any


@dataclass(frozen=True, slots=True)
class Stop:
    """How an attempt that was told to stop came to its end, as data of its event: the rung of the ladder that worked
    (`flag`, `terminate`, `kill`), and the time from the word to the end. `abandoned`: no rung did, its code runs on."""

    rung: str | None = None
    took_us: int = 0
    abandoned: bool = False

    @property
    def as_data(self) -> dict[str, Any]:
        if self.abandoned:
            return {"abandoned": True, "took_us": self.took_us}
        return {} if self.rung is None else {"rung": self.rung, "took_us": self.took_us}


NOT_TOLD = Stop()


@dataclass(frozen=True, slots=True)
class AttemptFailed:
    """The component raised, or ran out of time and was stopped."""

    path: str
    token: int
    error: ErrorInfo
    asked_delay_s: float | None = None
    default_retry: Retry | None = None  # the component's own, for a step that says none
    stop: Stop = NOT_TOLD


@dataclass(frozen=True, slots=True)
class AttemptStopped:
    """The attempt was told to stop and its code is dead (or abandoned).

    `reason` is cancelled, force_cancelled, sibling_failed, shutdown, lost_lease or preempted; of the last, `by` is the
    job that it makes room for.
    """

    path: str
    token: int
    reason: str
    stop: Stop = NOT_TOLD
    by: str | None = None


@dataclass(frozen=True, slots=True)
class Spent:
    """A running attempt has spent so much since it said so last (tokens, cost_nanos). What it has spent before its end
    comes before that."""

    path: str
    token: int
    amounts: Amounts


@dataclass(frozen=True, slots=True)
class ResourceTracked:
    """A running attempt is about to acquire something. `key` names the answer, which is given after the commit."""

    path: str
    token: int
    key: int
    name: str
    release: str
    inputs: dict[str, Any]
    until: str
    keep: bool


@dataclass(frozen=True, slots=True)
class ReleaseEnded:
    """A release was tried: `error` is None if it worked. `was_told`: it was stopped with its worker."""

    id: str
    token: int
    error: ErrorInfo | None = None
    stop: Stop = NOT_TOLD
    was_told: bool = False


Happening = (
    Claimed
    | Offered
    | Interrupted
    | Released
    | Tick
    | Requested
    | AttemptSucceeded
    | AttemptFailed
    | AttemptStopped
    | Spent
    | ResourceTracked
    | ReleaseEnded
)
