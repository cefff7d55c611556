"""What goes into a store and comes out of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from openagents_json.amounts import in_order, outside
from openagents_json.clock import as_datetime
from openagents_json.job.events import Event
from openagents_json.job.machine import JobState, Leak, spent_by
from openagents_json.job.model import ErrorInfo, JobPriority, JobStatus, JobSummary, rank_of
from openagents_json.job.store.arrival import virtual_arrival_us
from openagents_json.job.store.deadlines import Deadline, deadline_of
from openagents_json.job.store.limits import Limit
from openagents_json.job.store.shares import Share, share_of
from openagents_json.jsondata import decode, encode
from openagents_json.resources import Offers

MAX_AHEAD = 1_000_000  # jobs before another in the queue, as far as they are counted
FIRST_EPOCH = 1  # of the first lease on a job
HISTORY_ROW_EVENTS = 256  # events of one commit are stored in rows of at most this many


@dataclass(frozen=True, slots=True)
class JobRow:
    """The index entry of a job: what listing and claiming need. A projection of the state; see `row_of`."""

    status: JobStatus
    rank: int
    last_event: int
    started_us: int | None
    completed_us: int | None
    due_us: int | None  # when a timer wakes it: start_at of a CREATED job, wake time of a WAITING one
    progress: float
    current_step: str | None
    error_type: str | None
    error_message: str | None
    pause_requested: bool
    cancel_requested: bool
    requires: tuple[
        str, ...
    ] = ()  # while QUEUED: it needs a worker that meets one of these (`resources`); (): any worker
    deaths: int = 0  # workers that died under it since the last recorded progress
    spending: str | None = None  # its budget and what it has spent, as JSON; None: it has neither (`spending_of`)
    share: Share | None = None  # to which its work counts; an attached child's counts to that of its parent
    deadline: Deadline | None = None

    @property
    def wakes_us(self) -> int | None:
        """When somebody has to look at it, if nobody has it: for its timer, or its deadline."""
        risk_us = None if self.deadline is None else self.deadline.risk_us
        return min((at_us for at_us in (self.due_us, risk_us) if at_us is not None), default=None)

    @property
    def is_placed(self) -> bool:
        """Whether its place in the queue depends on more than time and priority."""
        return self.share is not None or self.deadline is not None

    @property
    def is_placed_anew(self) -> bool:
        """Whether a commit with this row has to see to that place, or to what is shown of the deadline. A job that goes
        on has no place."""
        is_at_risk = self.deadline is not None and self.deadline.is_at_risk
        return self.is_placed and (self.status != JobStatus.RUNNING or is_at_risk)


class PlacedRow(NamedTuple):
    """A row that was just written, of a job with a share or a deadline; `before` is CREATED for a new one."""

    handle: int
    row: JobRow
    before: JobStatus

    @property
    def comes_back(self) -> bool:
        """Whether it was RUNNING and is QUEUED: its tag, by which others begin, is that of before."""
        return self.before == JobStatus.RUNNING and self.row.status == JobStatus.QUEUED


@dataclass(frozen=True, slots=True)
class Definition:
    """A workflow document as it is stored, once per content hash."""

    hash: str
    workflow_id: str
    version: str
    document: bytes


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to accept: its first events and row, in one transaction with its definition."""

    job_id: str
    definition: Definition
    row: JobRow
    events: Sequence[Event]
    created_us: int
    tags: Sequence[str] = ()
    idempotency_key: str | None = None  # unique per workflow while the job is kept
    body_hash: str = ""  # workflow + inputs after defaults; compared when the key is used again
    parent_id: str | None = None  # of an attached child: kept and deleted with that job, and inherits its queue time
    origin_id: str | None = None  # the job that it retries; that one may be deleted before it
    limit: Limit | None = None  # how many like it are on at a time; an attached child is on in its parent's slot
    owner: str | None = None  # the worker that has its lease from the first event on, in epoch 1 (`create_held`)


@dataclass(frozen=True, slots=True)
class Request:
    """An inbox entry. `key` makes a repeated request harmless: one entry per job and key."""

    key: str
    kind: str
    by: str | None
    reason: str | None
    at_us: int
    payload: dict[str, Any] = field(default_factory=dict)
    sequence: int = 0  # given by the store


@dataclass(frozen=True, slots=True)
class Claim:
    """A lease on a job, with all that is needed to go on with it. `handle` is the store's own key of the job."""

    job_id: str
    handle: int
    owner: str
    epoch: int
    definition_hash: str
    last_event: int
    previous_owner: str | None  # of an orphan: the dead worker
    snapshot: bytes | None  # encoded state at an earlier event
    events: list[Event]  # those after the snapshot
    requests: list[Request]
    limit: Limit | None = None
    has_slot: bool = False  # of its limit
    sort_at: int = 0  # virtual arrival time in the queue, or what it would be if the job entered the queue now

    @property
    def needs_queue(self) -> bool:
        """Whether it gets a slot of its limit only in the queue: whoever holds it may not run it."""
        return self.limit is not None and not self.has_slot


@dataclass(frozen=True, slots=True)
class Waiting:
    """A job in the queue that nobody holds. `room_by` is the worker that makes room for it, if one does."""

    job_id: str
    rank: int
    sort_at: int
    room_by: str | None


@dataclass(frozen=True, slots=True)
class QueuePlace:
    """Where a job stands that waits in the queue. `ahead` jobs stand before it, `MAX_AHEAD` at most are counted, and
    `first` are the first of these."""

    rank: int
    sort_at: int
    queued_us: int
    waited_us: int  # in the queue, before this time
    ahead: int
    first: Sequence[Waiting]
    room_by: str | None  # the worker that makes room for it, if one does


@dataclass(frozen=True, slots=True)
class Commit:
    """The next events of a job whose lease the caller has.

    The lease ends with it unless the row says RUNNING. `drained` names the inbox entries that these events answer.
    `children` are accepted and `posts` put into the inboxes of other jobs in the same transaction; a post to a job that
    is final or gone is dropped.
    """

    claim: Claim
    expected: int  # number of the last event in the store
    events: Sequence[Event]
    row: JobRow
    previous_status: JobStatus
    drained: Sequence[int] = ()
    snapshot: bytes | None = None
    abandoned: int = 0  # threads that these events give up
    children: Sequence[NewJob] = ()
    posts: Sequence[tuple[str, Request]] = ()  # (job id, request)
    leaks: Sequence[Leak] = ()  # resources that these events give up


@dataclass(frozen=True, slots=True)
class StoredLeak:
    """A resource that a job could not release. It stays when the job is deleted, until a retry releases it or somebody
    drops it. `key` is the store's own, rising; `inputs` are those of the component `release`."""

    key: int
    job_id: str
    resource_id: str
    workflow_id: str
    path: str
    name: str
    release: str
    inputs: dict[str, Any]
    error: ErrorInfo
    leaked_us: int
    tries: int  # since it leaked


@dataclass(frozen=True, slots=True)
class StoredJob:
    """Everything the store knows of a job, as one consistent reading."""

    summary: JobSummary
    owner: str | None
    definition_hash: str
    snapshot: bytes | None
    events: list[Event]
    requests: list[Request]


@dataclass(frozen=True, slots=True)
class Held:
    """What became of a request: nobody held the job and the caller does now (`claim`), or `owner` will see to it.
    Neither: the job is final; `is_repeated` says whether the request's key was accepted before it was."""

    claim: Claim | None
    owner: str | None
    is_repeated: bool = False


@dataclass(frozen=True, slots=True)
class Listed:
    """One row of a listing and its place in the order: (value of the order's column, handle)."""

    summary: JobSummary
    position: tuple[Any, int]


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """What a worker says of itself."""

    host: str = ""
    pid: int = 0
    version: str = ""  # of openagents_json
    components: Sequence[str] = ()  # sorted names of those that it has
    max_jobs: int = 0  # how many it runs at a time; 0: none, it only creates and controls
    resources: Mapping[str, float] = field(default_factory=dict)  # what it has of each resource

    @property
    def offers(self) -> Offers:
        """What it can serve."""
        return Offers(frozenset(self.components), self.resources)


NOBODY = WorkerInfo()


@dataclass(frozen=True, slots=True)
class StoredWorker:
    """A worker whose lease has not ended, as far as the store knows."""

    id: str
    info: WorkerInfo
    registered_us: int
    heartbeat_us: int  # when it renewed its leases last
    lease_until_us: int
    jobs: int  # whose leases it has


@dataclass(frozen=True, slots=True)
class JobCounts:
    """How many jobs there are by status, and since when the one that was queued first waits, of those QUEUED now that
    nobody holds."""

    by_status: dict[JobStatus, int]
    oldest_queued_us: int | None


def first_claim(job: NewJob, handle: int, aging_s: float, owner: str | None = None) -> Claim:
    """The lease with which a job is created: by its `owner`, or by this one, who will be that."""
    owner = owner or job.owner
    assert owner is not None, "nobody else has a lease on a new job"
    return Claim(
        job.job_id, handle, owner, FIRST_EPOCH, job.definition.hash, job.row.last_event, None, None,
        list(job.events), [],
        sort_at=virtual_arrival_us(
            job.created_us, 0, job.row.rank, aging_s, has_begun=job.row.started_us is not None
        ),
    )  # fmt: skip


def row_of(state: JobState) -> JobRow:
    """The row that belongs to a state."""
    error = state.errors[0] if state.errors else None
    status = state.status
    return JobRow(
        status,
        rank_of(state.priority),
        state.number,
        state.started_us,
        state.completed_us,
        state.wake_us if status == JobStatus.WAITING else state.start_at_us,
        state.progress,
        state.current_step,
        error["type"] if error else None,
        error["message"] if error else None,
        state.pause_requested,
        state.cancel is not None,
        state.required if status == JobStatus.QUEUED else (),
        state.deaths,
        spending_of(state) if state.budget or state.spent else None,
        None if state.share is None else share_of(state.share, state.expected_us, state.used_us, status),
        deadline_of(state),
    )


def spending_of(state: JobState) -> str:
    """The budget of a job and what it has spent by its last event, as JSON: {"budget", "spent"}, in whole numbers. A
    row of a job that has no budget, and of which nobody has reported anything, has none: seconds alone say little."""
    return encode({"budget": in_order(state.budget), "spent": in_order(spent_by(state))}).decode()


def summary_of(
    *, job_id: str, workflow_id: str, version: str, definition: str, row: JobRow, created_us: int,
    queued_us: int | None, abandoned: int, idempotency_key: str | None, tags: Sequence[str], parent_id: str | None,
    origin_id: str | None,
) -> JobSummary:  # fmt: skip
    """The public copy of a row."""
    due = _moment(row.due_us)
    return JobSummary(
        id=job_id,
        workflow_id=workflow_id,
        version=version,
        definition=definition,
        status=row.status,
        priority=JobPriority.of_rank(row.rank),
        created_at=as_datetime(created_us),
        queued_at=_moment(queued_us),
        started_at=_moment(row.started_us),
        completed_at=_moment(row.completed_us),
        start_at=due if row.status == JobStatus.CREATED else None,
        wake_at=due if row.status == JobStatus.WAITING else None,
        progress=row.progress,
        current_step=row.current_step,
        error_type=row.error_type,
        error_message=row.error_message,
        abandoned=abandoned,
        pause_requested=row.pause_requested,
        cancel_requested=row.cancel_requested,
        events=row.last_event,
        idempotency_key=idempotency_key,
        tags=tuple(tags),
        parent_id=parent_id,
        origin_id=origin_id,
        requires=row.requires if row.status == JobStatus.QUEUED else (),
        **_spending_in(row.spending),
        share=None if row.share is None else row.share.key,
        deadline=None if row.deadline is None else as_datetime(row.deadline.at_us),
        at_risk=row.deadline is not None and row.deadline.is_at_risk,
    )


def _spending_in(text: str | None) -> dict[str, dict[str, Any]]:
    """The reverse of `spending_of`, as users see it."""
    return {} if text is None else {name: outside(amounts) for name, amounts in decode(text.encode()).items()}


def _moment(at_us: int | None) -> Any:
    return None if at_us is None else as_datetime(at_us)
