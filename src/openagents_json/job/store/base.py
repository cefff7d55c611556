"""The store contract: what every store must do, as guarded verbs.

There is deliberately no "save this job over whatever is there". A job changes only by `commit`, which appends events
and rewrites the row in one transaction, and only while the caller's lease (owner and epoch) and the number of the
last event still match. Everyone else posts a request into the job's inbox with `hold`.

Every verb may be repeated after an unknown outcome. Any verb may raise `StoreUnavailable`: then nothing was
acknowledged, and it may or may not have happened; `read_leases` tells which leases were given.
`openagents_json.job.store.contract` is the suite that every store passes.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Protocol

from openagents_json.job.events import Event
from openagents_json.job.model import ErrorInfo, JobSummary
from openagents_json.job.store.deleting import DELETE_S
from openagents_json.job.store.durations import Duration, Sample
from openagents_json.job.store.grants import Blocked, Want
from openagents_json.job.store.limits import StoredLimit
from openagents_json.job.store.moving import MovedJob
from openagents_json.job.store.output import OutputChunk, StoredOutput
from openagents_json.job.store.pauses import Pause, PauseKind
from openagents_json.job.store.query import Query
from openagents_json.job.store.records import (
    NOBODY,
    Claim,
    Commit,
    Held,
    JobCounts,
    Listed,
    NewJob,
    QueuePlace,
    Request,
    StoredJob,
    StoredLeak,
    StoredWorker,
    Waiting,
    WorkerInfo,
)
from openagents_json.job.store.shares import StoredShare
from openagents_json.job.store.shortages import Short, Shortages
from openagents_json.job.store.upkeep import Flaw, StoreFacts, Vacuumed
from openagents_json.resources import Offers

DEFAULT_LEASE_S = 30.0
MAX_COUNTED = 1_000_000  # jobs, for facts of a store that does not count them itself


class Pulse(Protocol):
    """Renews a worker's leases from a thread of its own, whatever the event loop does. Used by one thread."""

    def beat(self) -> bool:
        """As `JobStore.heartbeat`, blocking. `StoreUnavailable` when it is not known whether the leases were renewed;
        it takes no longer than a third of a lease to find that out."""

    def close(self) -> None:
        """Let go of the connection."""


class JobStore(ABC):
    """Keeps job rows, histories, inboxes, definitions and snapshots. Times are microseconds of the store's clock."""

    lease_s: float = DEFAULT_LEASE_S

    @property
    @abstractmethod
    def aging_s(self) -> float:
        """How long a job waits in the queue to gain one rank. It belongs to the store: the first one to open it sets
        it, and `set_aging` changes it."""

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
        same, else `IdempotencyConflict`. `LimitReached` for one that is QUEUED at once and may not be."""

    @abstractmethod
    async def create_held(self, job: NewJob) -> Claim | None:
        """Accept a job without a limit, share or deadline, QUEUED or RUNNING, on which its `owner` has the first lease.
        None when its id or its idempotency key is there already: nothing is written, and `create` has the answer."""

    @abstractmethod
    async def create_all(self, jobs: Sequence[NewJob]) -> list[str]:
        """Accept many jobs in one transaction, as `create` does each of them; their ids. If one is refused
        (`IdempotencyConflict`, `LimitReached`), none is accepted."""

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
    async def read_limit(self, job_id: str) -> StoredLimit | None:
        """How a job stands with its limit, or None when it has none (or there is no such job)."""

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
    async def definition_hashes(self, after: str = "", limit: int = 1_000) -> list[str]:
        """The content hashes of the definitions above `after`, in order."""

    @abstractmethod
    async def read_definition(self, content_hash: str) -> bytes | None:
        """The document of that content hash, or None."""

    # ── the queue ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @abstractmethod
    async def set_aging(self, aging_s: float) -> None:
        """Let a rank be worth so much waiting from now on, in every worker, and put the queue into its new order."""

    @abstractmethod
    async def set_share(self, key: str, weight: float) -> None:
        """Give the jobs of a share so much of the work, against others with a weight of 1; from their next job on."""

    @abstractmethod
    async def list_shares(self, after: str = "", limit: int = 1_000) -> list[StoredShare]:
        """The shares above `after`, by key: those whose weight was set or whose jobs have used something. One that has
        the usual weight and is not ahead of the others may be missing."""

    @abstractmethod
    async def learn(self, samples: Sequence[Sample]) -> None:
        """Take in how long steps and jobs took. Of all that was learned the latest `durations.MAX_DURATIONS` are kept,
        and where many learn at the same time some of it may be lost."""

    @abstractmethod
    async def read_durations(self, workflow_id: str) -> list[Duration]:
        """What was learned of the steps and jobs of a workflow, in no order."""

    # ── leases and commits ────────────────────────────────────────────────────────────────────────────────────────

    @abstractmethod
    async def claim(
        self, worker: str, limit: int, offers: Offers | None = None, *, suspects: bool = False
    ) -> list[Claim]:
        """Take up to `limit` QUEUED jobs that nobody holds, those with the earliest virtual arrival time first; none
        that has to wait for a slot of its limit (`openagents_json.job.store.limits` has the rules of these), and none
        of a workflow that is paused, unless it is to be cancelled.
        `offers` is what the worker has: jobs that require something else are left where they are; None: everything.

        Jobs under which `rules.SUSPECT_DEATHS` workers have died are taken with `suspects` only, and then no others:
        whoever runs one runs it alone (guarantee G6)."""

    @abstractmethod
    async def first_waiting(self, offers: Offers | None = None) -> Waiting | None:
        """The job that `claim` would take first; None when there is none, or one of a paused workflow stands in front
        that no claim has met yet."""

    @abstractmethod
    async def queue_place(self, job_id: str, shown: int = 10) -> QueuePlace | None:
        """Where a job stands among all that a worker with every component could claim; None when none could claim it:
        it is not in the queue, held, blocked by its limit, of a paused workflow, or to be run alone."""

    @abstractmethod
    async def make_room(self, job_id: str, worker: str) -> bool:
        """The worker lets one of its jobs make room for this one, which waits in the queue. False when it does not wait
        any more, or another living worker makes room for it already: one does, in each of its stays in the queue."""

    @abstractmethod
    async def hold(self, job_id: str, worker: str, request: Request) -> Held | None:
        """Put a request into the inbox; if nobody holds the job, take a lease of one commit in the same transaction.
        None when there is no such job. A final job takes no new requests: `Held(None, None)`.
        A key that was used for the job before, drained or not, puts nothing in."""

    async def hold_all(
        self, worker: str, requests: Sequence[tuple[str, Request]]
    ) -> Sequence[Held | BaseException | None]:
        """`hold` of many jobs, by their ids; what one raises stands in the place of its answer."""
        holds = (self.hold(job_id, worker, request) for job_id, request in requests)
        return await asyncio.gather(*holds, return_exceptions=True)

    @abstractmethod
    async def hold_due(self, worker: str, limit: int) -> list[Claim]:
        """Leases of one commit on jobs that nobody holds and whose timer is due, or whose deadline is at risk since."""

    @abstractmethod
    async def hold_orphans(self, worker: str, limit: int) -> list[Claim]:
        """Leases of one commit on jobs whose owner is dead; the worker's own are none of them."""

    @abstractmethod
    async def hold_requested(self, worker: str, limit: int) -> list[Claim]:
        """Leases of one commit on jobs that nobody holds and that have undrained requests: whoever put them there
        went away before they were carried out."""

    @abstractmethod
    async def read_leases(self, worker: str) -> dict[str, int]:
        """The epochs of the leases that the worker has, by job id."""

    @abstractmethod
    async def hold_again(self, worker: str, leases: Mapping[str, int]) -> list[Claim]:
        """Take leases of the worker anew, each under a new epoch, those that it still has under the epoch given with
        the job's id: whoever was told of the old one has lost it. For leases that nobody was told of. A RUNNING job
        among them is one whose owner was dead (`hold_orphans`); `previous_owner` is the worker itself."""

    @abstractmethod
    async def commit(self, commit: Commit) -> None:
        """Append the events and rewrite the row. `LeaseLost` when owner, epoch or last event do not match any more,
        `RequestsPending` when the row is final and an undrained request stands in the inbox, `LimitReached` when the
        job, or a child, may not enter the queue (`job_id` says which); then nothing is written. Repeating a commit that
        was written changes nothing."""

    async def commit_all(self, commits: Sequence[Commit]) -> Sequence[BaseException | None]:
        """`commit` of many jobs, each for itself: what it raises, or None."""
        return await asyncio.gather(*(self.commit(one) for one in commits), return_exceptions=True)

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
    async def thread_ended(self, job_id: str, worker: str) -> None:
        """A thread of the job that this worker had abandoned has ended: its row counts one less."""

    @abstractmethod
    async def next_due_us(self) -> int | None:
        """The earliest time at which `hold_due` will find something; None when nothing waits for a time."""

    # ── workers ───────────────────────────────────────────────────────────────────────────────────────────────────

    @abstractmethod
    async def register_worker(self, worker: str, info: WorkerInfo = NOBODY) -> None:
        """A worker begins to live: its leases are good for `lease_s` after each heartbeat. Repeated when what it says
        of itself changes."""

    @abstractmethod
    async def heartbeat(self, worker: str) -> bool:
        """Renew the worker's leases. False when it was taken for dead: its jobs may run elsewhere already."""

    @abstractmethod
    def pulse(self, worker: str) -> Pulse:
        """What a thread beside the event loop renews the worker's leases with."""

    @abstractmethod
    async def unregister_worker(self, worker: str, *, threads_run: bool = False) -> None:
        """The worker is gone; jobs that it still holds are orphans from now on. With `threads_run`, threads that it had
        abandoned may still run: jobs count them until `thread_ended` or, where a store can tell, their process ends."""

    @abstractmethod
    async def bury_workers(self) -> int:
        """Forget the workers that are dead, and the threads that they had abandoned, which ended with their processes;
        how many workers. The jobs that they held are for `hold_orphans`."""

    @abstractmethod
    async def list_workers(self) -> list[StoredWorker]:
        """The live workers, by the time at which they began."""

    # ── pauses, and limits of components ──────────────────────────────────────────────────────────────────────────────

    @abstractmethod
    async def set_pause(self, kind: PauseKind, name: str, by: str | None, reason: str | None) -> bool:
        """Pause a component or a workflow until `lift_pause`. False when it is paused already: that pause stays.
        `StoreError` when `pauses.MAX_PAUSES` are."""

    @abstractmethod
    async def lift_pause(self, kind: PauseKind, name: str) -> bool:
        """End a pause: from now on claims find the jobs of the workflow. False when there is none."""

    @abstractmethod
    async def list_pauses(self) -> list[Pause]:
        """The pauses that are on, the oldest first."""

    @abstractmethod
    async def take_grants(self, worker: str, holds: Mapping[str, int], wants: Sequence[Want]) -> list[Blocked | None]:
        """Leave to begin attempts, as far as the limits of their components have room: for each want None, or why not
        yet (`openagents_json.job.store.grants` has the rules).

        `holds` says how many slots the worker has, of each key of which that has changed, of which it wants one, or for
        which nobody of it waits any more. What is granted it has from then on until it says something else, or is dead.
        """

    @abstractmethod
    async def read_blocked(self, job_id: str) -> list[Blocked]:
        """What attempts of a job wait for, as far as its worker has said: of each key the first `grants.WAITS_KEPT`."""

    @abstractmethod
    async def tell_shortages(self, worker: str, shortages: Shortages) -> None:
        """What steps of jobs that the worker runs are short of, `shortages.MAX_JOBS` jobs at most, in place of all that
        it has told before. Forgotten when the worker is."""

    @abstractmethod
    async def read_shortages(self, job_id: str) -> list[Short]:
        """What steps of a job that runs are short of, as far as the worker that holds it has told."""

    # ── output ────────────────────────────────────────────────────────────────────────────────────────────────────

    @abstractmethod
    async def append_output(self, job_id: str, path: str, attempt: int, chunks: Sequence[OutputChunk]) -> None:
        """Keep output of an attempt, as much as `openagents_json.job.store.output` says; a chunk that is there already
        and one of a job that is gone are dropped. The chunks of an attempt come in order. Given before a commit, it is
        readable when the commit is."""

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
    async def delete_final(self, before_us: int, limit: int, within_s: float = DELETE_S) -> int:
        """Delete up to `limit` jobs that became final before that time, the first ones first; how many were. Attached
        children go with their parent and are not counted. Ends after `within_s` with what it has done by then, but not
        with nothing: 0 says that there is none left that may go."""

    @abstractmethod
    async def count_jobs(self, limit: int) -> JobCounts:
        """Jobs by status: at most `limit` of those QUEUED that nobody holds, and those of the `limit` jobs created last
        that are in another status, or held."""

    # ── moving ────────────────────────────────────────────────────────────────────────────────────────────────────────

    @abstractmethod
    async def read_family(self, job_id: str) -> list[MovedJob]:
        """A job and all its attached children, and theirs, as they are at one moment: parents before their children,
        without events and documents (`MovedJob`). Empty when there is no such job."""

    @abstractmethod
    async def restore(self, jobs: Sequence[MovedJob]) -> list[str]:
        """Accept jobs of another store with their histories and requests, in one transaction, all or none; parents
        come before their children. The ids of those that are there already: if there are any, nothing is written.
        `IdempotencyConflict` for a key that another job has, `LimitReached` for a job that is on and finds no slot of
        its limit."""

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

    # ── the store as a whole: also asked of one that is not open (but for the memory's), and none makes a store ───────

    vacuum_holds_up: bool = False  # whether others wait with what they want to write until `vacuum` is done

    async def facts(self) -> StoreFacts:
        """How the store is. Writes nothing: the schema stays the one that it is. `StoreUnavailable` when there is no
        store, `SchemaTooNew`."""
        counts = await self.count_jobs(MAX_COUNTED)
        return StoreFacts(
            kind=type(self).__name__,
            place=type(self).__name__,
            engine="unknown",
            schema=None,
            known_schema=None,
            jobs=counts.by_status,
            events=None,
            definitions=None,
            workers=len(await self.list_workers()),
            leaks=await self.count_leaks(),
            oldest_us=None,
            newest_us=None,
        )

    async def verify(self) -> list[Flaw]:
        """What is wrong with the bytes and rows underneath, `upkeep.MAX_FLAWS` at most; whether histories and rows of
        jobs fit together is for `openagents_json.job.upkeep`. Errors as with `facts`."""
        return []

    async def vacuum(self) -> Vacuumed:
        """Give back the room that deleted jobs have left, as far as the store can."""
        return Vacuumed(0, 0)
