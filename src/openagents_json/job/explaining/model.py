"""What `explain` answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from openagents_json.job.model import JobPriority, JobStatus


@dataclass(frozen=True, slots=True)
class Blocker:
    """One thing that has to go before the job can go on. `details` is the entry of the job's status, or of the queue,
    that it tells of; `command` is what would unblock it, if a command can."""

    kind: str  # as in `waiting_for` of the status, or queue, pause, cancel
    message: str  # a sentence, or several
    since: datetime | None = None
    until: datetime | None = None  # when it goes by itself
    command: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Score:
    """The place of a job in the queue: virtual_arrival = queued_at - waited_s - level × aging_s (of a job that has
    begun before a microsecond less), or as `by` says.

    `ahead` jobs stand before it; of the first of them `before` has {"job_id", "priority", "virtual_arrival"}."""

    virtual_arrival: datetime
    queued_at: datetime
    waited_s: float  # in the queue, before that
    priority: JobPriority
    level: int
    aging_s: float
    by: str  # "time": as above; "share" or "deadline": that puts it somewhere else
    ahead: int
    before: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Estimate:
    """When the job will begin, if things go on as they do; None if nobody can say. `basis` says what it rests on."""

    begins_at: datetime | None
    basis: str


@dataclass(frozen=True, slots=True)
class Overtaker:
    """A job that began while this one waited."""

    job_id: str
    workflow_id: str
    began_at: datetime
    virtual_arrival: datetime | None  # where it stood then, as recorded
    why: str


@dataclass(frozen=True, slots=True)
class Stay:
    """One stay in the queue, as the history has it. `began_at` is None for the present one."""

    queued_at: datetime
    reason: str  # why it was queued: started, worker_lost, preempted …
    began_at: datetime | None
    worker: str | None
    virtual_arrival: datetime | None
    made_room_for: str | None = None  # the job that it yielded to, if it was queued for that
    preempted: str | None = None  # the job that made room for it


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a job stands where it does."""

    job_id: str
    workflow_id: str
    status: JobStatus
    summary: str
    blockers: tuple[Blocker, ...]  # the one that has to go first comes first; empty: nothing blocks it
    score: Score | None = None  # of a job that claims find in the queue
    estimate: Estimate | None = None  # the same
    stays: tuple[Stay, ...] = ()  # in the queue, the latest last
    overtaken_by: tuple[Overtaker, ...] = ()  # in the latest stay, once that has ended

    def as_dict(self) -> dict[str, Any]:
        """Plain data, with aware times."""
        return asdict(self)
