"""The store contract: what every store must do, as guarded verbs.

There is deliberately no "save this job over whatever is there". A job changes only by `commit`, which appends events
and rewrites the row in one transaction, and only while the caller's lease (owner and epoch) and the number of the
last event still match. Everyone else posts a request into the job's inbox with `hold`.

Every verb may be repeated after an unknown outcome. Any verb may raise `StoreUnavailable`: then nothing was
acknowledged, and it may or may not have happened. `openagents_json.job.store.contract` is the suite that every store
passes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from openagents_json.clock import SECOND_US, as_datetime
from openagents_json.errors import IdempotencyConflict
from openagents_json.job.events import Event
from openagents_json.job.machine import JobState, Leak
from openagents_json.job.model import ErrorInfo, JobPriority, JobStatus, JobSummary
from openagents_json.job.store.output import OutputChunk, StoredOutput
from openagents_json.job.store.query import Query

DEFAULT_AGING_S = 3_600.0
DEFAULT_LEASE_S = 30.0
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


def row_of(state: JobState) -> JobRow:
    """The row that belongs to a state."""
    error = state.errors[0] if state.errors else None
    status = state.status
    return JobRow(
        status,
        JobPriority(state.priority).rank,
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
    )


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
class JobCounts:
    """How many jobs there are by status, and since when the one that was queued first of those QUEUED now waits."""

    by_status: dict[JobStatus, int]
    oldest_queued_us: int | None


class JobStore(ABC):
    """Keeps job rows, histories, inboxes, definitions and snapshots. Times are microseconds of the store's clock."""

    aging_s: float = DEFAULT_AGING_S
    lease_s: float = DEFAULT_LEASE_S

    @abstractmethod
    async def open(self) -> None:
        """Make the store ready. `InvalidStore`, `SchemaTooNew` or `StoreUnavailable` say why it cannot be."""

    @abstractmethod
    async def close(self) -> None:
        """Finish what was accepted and let go of files and threads. May be called twice."""

    # ── accepting and reading ─────────────────────────────────────────────────────────────────────────────────────

    @abstractmethod
    async def create(self, job: NewJob) -> str:
        """Accept a job; its id. With an idempotency key that was used before: the earlier job's id if the body is the
        same, else `IdempotencyConflict`."""

    @abstractmethod
    async def read(self, job_id: str) -> StoredJob | None:
        """The whole job, or None."""

    @abstractmethod
    async def read_summary(self, job_id: str) -> JobSummary | None:
        """The row alone, or None."""

    @abstractmethod
    async def read_definition_hash(self, job_id: str) -> str | None:
        """The content hash of the definition that the job was made from, or None when there is no such job."""

    @abstractmethod
    async def read_events(self, job_id: str, after: int = 0, limit: int = 1_000) -> list[Event]:
        """Events with numbers above `after`, in order; empty when there are none (or no such job)."""

    @abstractmethod
    async def list_jobs(self, query: Query) -> list[Listed]:
        """The rows that fit, in the query's order, at most its limit."""

    @abstractmethod
    async def find_ids(self, ending: str, limit: int = 5) -> list[str]:
        """Ids that begin or end with the given characters."""

    @abstractmethod
    async def read_definition(self, content_hash: str) -> bytes | None:
        """The document of that content hash, or None."""

    # ── leases and commits ────────────────────────────────────────────────────────────────────────────────────────

    @abstractmethod
    async def claim(self, worker: str, limit: int, without: Collection[str] = ()) -> list[Claim]:
        """Take up to `limit` QUEUED jobs that nobody holds, those with the earliest virtual arrival time first.
        `without` names definitions (by content hash) whose jobs are left to others."""

    @abstractmethod
    async def hold(self, job_id: str, worker: str, request: Request) -> Held | None:
        """Put a request into the inbox; if nobody holds the job, take a lease of one commit in the same transaction.
        None when there is no such job. A final job takes no new requests: `Held(None, None)`.
        A key that was used for the job before, drained or not, puts nothing in."""

    @abstractmethod
    async def hold_due(self, worker: str, limit: int) -> list[Claim]:
        """Leases of one commit on jobs that nobody holds and whose timer is due."""

    @abstractmethod
    async def hold_orphans(self, worker: str, limit: int) -> list[Claim]:
        """Leases of one commit on jobs whose owner is dead."""

    @abstractmethod
    async def hold_requested(self, worker: str, limit: int) -> list[Claim]:
        """Leases of one commit on jobs that nobody holds and that have undrained requests: whoever put them there
        went away before they were carried out."""

    @abstractmethod
    async def commit(self, commit: Commit) -> None:
        """Append the events and rewrite the row. `LeaseLost` when owner, epoch or last event do not match any more,
        `RequestsPending` when the row is final and an undrained request stands in the inbox; then nothing is
        written. Repeating a commit that was written changes nothing."""

    @abstractmethod
    async def release(self, claim: Claim) -> None:
        """Give a lease back with nothing recorded. Harmless when it is lost already. A RUNNING job stays with its
        owner: how it goes on has to be recorded."""

    @abstractmethod
    async def read_requests(self, job_id: str) -> list[Request]:
        """The undrained requests of a job, oldest first."""

    @abstractmethod
    async def jobs_with_requests(self, worker: str) -> list[str]:
        """Ids of the jobs that this worker holds and that have undrained requests."""

    @abstractmethod
    async def thread_ended(self, job_id: str) -> None:
        """An abandoned thread of the job has ended: its row counts one less."""

    @abstractmethod
    async def next_due_us(self) -> int | None:
        """The earliest time at which `hold_due` will find something; None when nothing waits for a time."""

    # ── workers ───────────────────────────────────────────────────────────────────────────────────────────────────

    @abstractmethod
    async def register_worker(self, worker: str) -> None:
        """A worker begins to live: its leases are good for `lease_s` after each heartbeat."""

    @abstractmethod
    async def heartbeat(self, worker: str) -> bool:
        """Renew the worker's leases. False when it was taken for dead: its jobs may run elsewhere already."""

    @abstractmethod
    async def unregister_worker(self, worker: str) -> None:
        """The worker is gone; jobs that it still holds are orphans from now on."""

    # ── output ────────────────────────────────────────────────────────────────────────────────────────────────────

    @abstractmethod
    async def append_output(self, job_id: str, path: str, attempt: int, chunks: Sequence[OutputChunk]) -> None:
        """Keep output of an attempt, as much as `openagents_json.job.store.output` says; a chunk that is there already
        and one of a job that is gone are dropped. Given before a commit, it is readable when the commit is."""

    @abstractmethod
    async def read_output(
        self, job_id: str, path: str | None = None, attempt: int | None = None, after: int = 0, limit: int = 64
    ) -> list[StoredOutput]:
        """Chunks with sequences above `after`, in the order in which they were stored; of the step run at `path` and
        those inside it, and of one attempt, if these are given. Empty when there are none (or no such job)."""

    # ── upkeep ────────────────────────────────────────────────────────────────────────────────────────────────────

    @abstractmethod
    async def delete(self, job_id: str) -> bool:
        """Delete a CREATED or final job that nobody holds, with its attached children and all that belongs to them.
        False when there is none such (unknown, in another status, a child, or with a child that is not final)."""

    @abstractmethod
    async def delete_final(self, before_us: int, limit: int) -> int:
        """Delete up to `limit` jobs that became final before that time; how many were. Attached children go with their
        parent and are not counted."""

    @abstractmethod
    async def count_jobs(self, limit: int) -> JobCounts:
        """Jobs by status: of those QUEUED, and of the others that were created last, at most `limit` each."""

    # ── leaks ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @abstractmethod
    async def list_leaks(self, after: int = 0, limit: int = 1_000) -> list[StoredLeak]:
        """Leaks with keys above `after`, the oldest first."""

    @abstractmethod
    async def count_leaks(self) -> int:
        """How many there are."""

    @abstractmethod
    async def note_leak(self, key: int, error: ErrorInfo) -> bool:
        """A leak was tried again and did not go away. False when there is none of that key."""

    @abstractmethod
    async def drop_leak(self, key: int) -> bool:
        """A leak is gone. False when there is none of that key."""

    @abstractmethod
    def has_foreign_changes(self) -> bool:
        """Whether another process (or another store object) may have written since the last call. Cheap."""

    @abstractmethod
    def stats(self) -> dict[str, int]:
        """Counters since open: `commits` (transactions), `rows` written, `syncs`."""


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
    )


def same_body(earlier_hash: str, job: NewJob, earlier_id: str) -> str:
    """The earlier job's id when the key was used for the same body, else `IdempotencyConflict`."""
    if earlier_hash == job.body_hash:
        return earlier_id
    raise IdempotencyConflict(
        f"The idempotency key {job.idempotency_key!r} was used for job {earlier_id} with another workflow version or "
        "other inputs. Use a new key, or send the same body.",
        job_id=earlier_id,
    )


def is_written(commit: Commit, epoch: int, last_event: int, events: Iterable[Event]) -> bool:
    """Whether exactly this commit stands in the history already: then its repetition is a success.

    `epoch`, `last_event` and `events` are what the store has now. Under a later lease only a commit that gave its own
    lease back may be called a success; one that keeps it would let its owner believe that it still has the job.
    """
    if epoch != commit.claim.epoch and (commit.row.status == JobStatus.RUNNING or not commit.events):
        return False
    if last_event < commit.expected + len(commit.events):
        return False
    written = [event for event in events if event.number > commit.expected][: len(commit.events)]
    return written == list(commit.events)


def virtual_arrival_us(now_us: int, queued_total_us: int, rank: int, aging_s: float) -> int:
    """The key of the queue (DESIGN §5): earlier is sooner. Each rank counts as `aging_s` of waiting, and time that the
    job has spent QUEUED before counts too."""
    return now_us - queued_total_us - rank * round(aging_s * SECOND_US)


def _moment(at_us: int | None) -> Any:
    return None if at_us is None else as_datetime(at_us)
