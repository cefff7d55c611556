"""What a job is, as users see it: statuses, priorities and the frozen copies that the manager hands out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

# One error in a record: {"type": "http.429", "message", "step", "attempt", "retryable", "details"}.
ErrorInfo = dict[str, Any]


class JobStatus(StrEnum):
    """Where a job stands. Requests (pause, cancel) are marks beside it: the status changes when it is true."""

    CREATED = "CREATED"  # accepted, not started; nobody holds it. Left by start (or start_at), cancel, delete.
    QUEUED = "QUEUED"  # wants a worker, may have run before. A worker's claim takes it out; so do pause and cancel.
    RUNNING = "RUNNING"  # exactly one live worker holds it. Left by finish, wait, pause, cancel, or a lost worker.
    WAITING = "WAITING"  # all that is left waits: time, signal, child, decision. Nobody holds it; these QUEUE it.
    PAUSED = "PAUSED"  # nothing of it runs and nothing will until resume puts it back to QUEUED.
    COMPLETED = "COMPLETED"  # final: the steps ended well and the outputs are recorded.
    FAILED = "FAILED"  # final: a step failed for good.
    CANCELLED = "CANCELLED"  # final: cancelled on request.

    @property
    def is_final(self) -> bool:
        return self in FINAL


FINAL = frozenset({JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED})


class JobPriority(StrEnum):
    """How urgent a job is. Stored as `rank`; a waiting job gains one rank per `aging_s` of its store."""

    LOW = "LOW"
    MEDIUM = "MEDIUM"
    HIGH = "HIGH"
    CRITICAL = "CRITICAL"

    @property
    def rank(self) -> int:
        return _RANKS[self]

    @classmethod
    def of_rank(cls, rank: int) -> JobPriority:
        return _BY_RANK[rank]


_RANKS: dict[str, int] = {JobPriority.LOW: 0, JobPriority.MEDIUM: 1, JobPriority.HIGH: 2, JobPriority.CRITICAL: 3}
_BY_RANK = {rank: JobPriority(priority) for priority, rank in _RANKS.items()}


def rank_of(priority: str) -> int:
    """The rank of a priority by its name."""
    return _RANKS[priority]


class StepStatus(StrEnum):
    """Where one step run stands."""

    PENDING = "PENDING"  # what it waits for has ended; it waits for a slot
    RUNNING = "RUNNING"  # an attempt is on, or nested steps are
    WAITING = "WAITING"  # for a time, a signal, or somebody who says whether its effect happened
    RETRYING = "RETRYING"  # the last attempt did not succeed; the next one has a due time
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    SKIPPED = "SKIPPED"  # its condition was false; its output is null
    CANCELLED = "CANCELLED"  # stopped with its scope or its job


@dataclass(frozen=True, slots=True)
class OutputText:
    """Something that an attempt printed, logged or emitted. A text may end in the middle of a line."""

    at: datetime
    step: str  # the path of its step run
    attempt: int
    stream: str  # stdout, stderr, log, or emitted: JSON, one value per line
    text: str
    cut: int  # bytes of the attempt that are not kept, right before this text
    cursor: int  # ask for output after this one to go on


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSummary:
    """What a listing shows of a job: its row, without inputs, outputs and steps. Times are aware UTC."""

    id: str
    workflow_id: str
    version: str
    definition: str  # content hash of the workflow's document
    status: JobStatus
    priority: JobPriority
    created_at: datetime
    queued_at: datetime | None
    started_at: datetime | None
    completed_at: datetime | None
    start_at: datetime | None
    wake_at: datetime | None
    progress: float
    current_step: str | None
    error_type: str | None
    error_message: str | None
    abandoned: int  # attempts of the job whose code could not be stopped and still runs
    pause_requested: bool
    cancel_requested: bool
    events: int  # number of the last event
    idempotency_key: str | None
    tags: tuple[str, ...]
    parent_id: str | None  # the job whose attached child it is
    origin_id: str | None  # the job that it retries; that one may have been deleted
    requires: tuple[str, ...] = ()  # while QUEUED: it waits for a worker that meets one of these; (): for any
    # What it may spend and has spent by its last event: of "seconds", "tokens" and "cost" those that are limited, or
    # were reported. Both are empty for a job without a budget of which no component has reported anything.
    budget: Mapping[str, Any] = field(default_factory=dict, hash=False)
    spent: Mapping[str, Any] = field(default_factory=dict, hash=False)
    share: str | None = None  # key of the share that it counts to
    deadline: datetime | None = None
    at_risk: bool = False  # it was found that it will perhaps miss its deadline

    @property
    def display_status(self) -> str:
        """The status as people should read it: `CANCELLED (1 abandoned attempt still runs)` while that is so."""
        if not self.abandoned:
            return str(self.status)
        still = (
            "1 abandoned attempt still runs"
            if self.abandoned == 1
            else f"{self.abandoned} abandoned attempts still run"
        )
        return f"{self.status} ({still})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A frozen copy of a whole job.

    `steps` maps step paths (`clauses[3].score`) to {"status", "attempt", "started_at", "completed_at", "error",
    "output"}; `errors` holds every error that ended the job or a `finally` step, in the order they happened.
    """

    id: str
    workflow_id: str
    version: str
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    status: JobStatus
    priority: JobPriority
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    current_step: str | None
    progress: float
    metadata: Mapping[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    steps: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    errors: tuple[ErrorInfo, ...] = ()
    abandoned: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSummary:
    """A live worker, as it described itself. Times are aware UTC."""

    id: str
    host: str
    pid: int
    version: str  # of openagents_json
    components: tuple[str, ...]  # sorted names of those that it has
    max_jobs: int  # how many it runs at a time; 0: it only creates and controls jobs
    resources: Mapping[str, float]  # what it has of each resource
    running_jobs: int  # whose leases it has
    started_at: datetime
    heartbeat_at: datetime  # when it renewed its leases last


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a listing. `cursor` asks for the next one; None at the end."""

    jobs: tuple[JobSummary, ...]
    cursor: str | None

    def __len__(self) -> int:
        return len(self.jobs)

    def __iter__(self) -> Any:
        return iter(self.jobs)
