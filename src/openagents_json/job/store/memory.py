"""The memory store: everything in dictionaries of one process. Jobs are gone with it; the rules are the same.

A verb looks whether it may, and then changes jobs through a few mutators only (the last part of the class). Those are
given every time and number that they use, so a store that writes down their arguments can play them back: the file
store does (`file_changes`).
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice

from openagents_json.clock import Clock, SystemClock
from openagents_json.errors import LeaseLost, OpenAgentsError, RequestsPending, StoreError
from openagents_json.job.events import Event
from openagents_json.job.model import ErrorInfo, JobStatus, JobSummary
from openagents_json.job.store.arrival import DEFAULT_AGING_S, place_us
from openagents_json.job.store.base import DEFAULT_LEASE_S, JobStore, Pulse
from openagents_json.job.store.deleting import DELETE_S, Allowance
from openagents_json.job.store.durations import Duration, Sample
from openagents_json.job.store.grants import Blocked, Want, blocked_in, decide_grants, keys_of
from openagents_json.job.store.limits import (
    REPLACED,
    REPLACED_BY,
    Entry,
    StoredLimit,
    balance,
    enter,
    keeps_slot,
    refuse,
)
from openagents_json.job.store.memory_durations import MemoryDurations
from openagents_json.job.store.memory_grants import MemoryBuckets, MemoryPauses, known_to
from openagents_json.job.store.memory_job import MemoryJob, fits, sortable
from openagents_json.job.store.memory_leaks import MemoryLeaks
from openagents_json.job.store.memory_limits import MemoryLimits
from openagents_json.job.store.memory_moving import moved, refuse_to_restore
from openagents_json.job.store.memory_output import MemoryOutput
from openagents_json.job.store.memory_shares import MemoryShares
from openagents_json.job.store.memory_upkeep import facts_of
from openagents_json.job.store.memory_workers import MemoryWorkers
from openagents_json.job.store.moving import MovedJob, queued_keys
from openagents_json.job.store.output import OutputChunk, StoredOutput
from openagents_json.job.store.pauses import Pause, PauseKind, refuse_more
from openagents_json.job.store.query import Query
from openagents_json.job.store.records import (
    FIRST_EPOCH,
    MAX_AHEAD,
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
    first_claim,
)
from openagents_json.job.store.rules import SUSPECT_DEATHS, is_written, same_body, serves
from openagents_json.job.store.shares import StoredShare
from openagents_json.job.store.shortages import Short, Shortages
from openagents_json.job.store.upkeep import StoreFacts
from openagents_json.resources import Offers

STALE = 1_000  # entries of jobs that are gone, before their list is made anew


class MemoryJobStore(JobStore):
    """A store for tests and short-lived programs; the default of `JobManager`."""

    aging_s: float = DEFAULT_AGING_S

    def __init__(
        self, clock: Clock | None = None, *, aging_s: float = DEFAULT_AGING_S, lease_s: float = DEFAULT_LEASE_S
    ) -> None:
        self.clock = clock or SystemClock()
        self.aging_s = aging_s
        self.lease_s = lease_s
        self._jobs: dict[str, MemoryJob] = {}
        self._definitions: dict[str, bytes] = {}
        self._children: dict[str, list[str]] = {}  # job id → ids of its attached children
        self._keys: dict[tuple[str, str], str] = {}  # (workflow id, idempotency key) → job id
        # A queue for each set of required components, and one for suspects (None): heaps of (sort_at, handle, id),
        # whose stale entries are passed over.
        self._queues: dict[tuple[str, ...] | None, list[tuple[int, int, str]]] = {}
        self._due: list[tuple[int, int, str]] = []  # heap of (`wakes_us` of the row, handle, id); the same
        self._ended: list[tuple[int, int, str]] = []  # heap of (completed_us, handle, id) of final jobs; the same
        self._workers = MemoryWorkers(self.clock, lease_s)
        self._output = MemoryOutput()
        self._leaks = MemoryLeaks()
        self._pauses = MemoryPauses()
        self._buckets = MemoryBuckets()
        self._limits = MemoryLimits(lambda job_id, has_slot: self._set_slot(self._jobs[job_id], has_slot))
        self._shares = MemoryShares()
        self._durations = MemoryDurations()
        self._sequence = 0
        self._handle = 0
        self._counters = {"commits": 0, "rows": 0, "syncs": 0}

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    # ── accepting and reading ─────────────────────────────────────────────────────────────────────────────────────

    async def create(self, job: NewJob) -> str:
        if job.job_id in self._jobs:
            return job.job_id
        if job.idempotency_key is not None:
            earlier = self._keys.get((job.definition.workflow_id, job.idempotency_key))
            if earlier is not None:
                return same_body(self._jobs[earlier].new.body_hash, job, earlier)
        refuse(self._limits, _entries([job]))
        self._let_in(self._accept_all([job]))
        self._count(3)
        return job.job_id

    async def create_held(self, job: NewJob) -> Claim | None:
        if job.job_id in self._jobs or (job.definition.workflow_id, job.idempotency_key) in self._keys:
            return None
        self._accept_all([job])
        self._count(3)
        return first_claim(job, self._handle, self.aging_s)

    async def create_all(self, jobs: Sequence[NewJob]) -> list[str]:
        known = {(job.definition.workflow_id, job.idempotency_key): job for job in reversed(jobs)}
        for job in jobs:
            if job.idempotency_key is None:
                continue
            key = (job.definition.workflow_id, job.idempotency_key)
            earlier = self._jobs[self._keys[key]].new if key in self._keys else known[key]
            same_body(earlier.body_hash, job, earlier.job_id)
        ids = {job.job_id for job in known.values() if job.idempotency_key is not None}
        new: dict[str, NewJob] = {}
        for job in jobs:
            is_first = job.idempotency_key is None or job.job_id in ids
            if is_first and (job.definition.workflow_id, job.idempotency_key) not in self._keys:
                new.setdefault(job.job_id, job)
        are_new = [job for job_id, job in new.items() if job_id not in self._jobs]
        refuse(self._limits, _entries(are_new))
        self._let_in(self._accept_all(are_new))
        self._count(3 * len(are_new))
        # Whoever is not there by its own id is there as the one that had its idempotency key before.
        named = ((job.job_id, (job.definition.workflow_id, job.idempotency_key or "")) for job in jobs)
        return [job_id if job_id in self._jobs else self._keys[name] for job_id, name in named]

    def _accept_all(self, jobs: Sequence[NewJob]) -> list[MemoryJob]:
        """Write jobs that are not refused: those of them that were not there yet."""
        now = self.clock.now_us()
        new = [job for job in jobs if job.job_id not in self._jobs]
        for job in new:
            self._accept(job, self._handle + 1, now)
        return [self._jobs[job.job_id] for job in new]

    def _let_in(self, jobs: Sequence[MemoryJob], settled: Sequence[str] = ()) -> None:
        """Those that enter the queue for the first time may have a limit, and are not refused. All of a transaction go
        together, and then the slots to those that come first; `settled` are keys of which some may have come free."""
        limited = [(job, job.limit) for job in jobs if job.limit is not None and job.row.status == JobStatus.QUEUED]
        asked = enter(self._limits, [Entry(job.handle, job.id, limit) for job, limit in limited])
        for handle, reason in asked:
            request = Request(REPLACED, "cancel", REPLACED_BY, reason, self.clock.now_us(), {"force": False})
            self._put(self._jobs[self._limits.job(handle).id], request)
        for key in dict.fromkeys([*settled, *(limit.key for _, limit in limited)]):
            balance(self._limits, key)

    async def read(self, job_id: str) -> StoredJob | None:
        if (job := self._jobs.get(job_id)) is None:
            return None
        snapshot, events = self._history(job)
        return StoredJob(job.summary, job.owner, job.new.definition.hash, snapshot, events, list(job.requests))

    async def read_summary(self, job_id: str) -> JobSummary | None:
        job = self._jobs.get(job_id)
        return job.summary if job else None

    async def read_definition_hash(self, job_id: str) -> str | None:
        job = self._jobs.get(job_id)
        return job.new.definition.hash if job else None

    async def read_limit(self, job_id: str) -> StoredLimit | None:
        job = self._jobs.get(job_id)
        if job is None or job.limit is None:
            return None
        return StoredLimit(job.limit, job.has_slot, self._limits.holders(job.limit.key))

    async def read_events(self, job_id: str, after: int = 0, limit: int = 1_000) -> list[Event]:
        job = self._jobs.get(job_id)
        return job.events[after : after + limit] if job else []

    async def list_jobs(self, query: Query) -> list[Listed]:
        found = [(job, (job.column(query.order), job.handle)) for job in self._jobs.values() if fits(job, query)]
        found.sort(key=lambda pair: sortable(pair[1]), reverse=query.descending)
        if query.cursor is not None:
            edge = sortable(query.cursor)
            found = [
                pair for pair in found if (sortable(pair[1]) < edge if query.descending else sortable(pair[1]) > edge)
            ]
        return [Listed(job.summary, position) for job, position in found[: query.limit]]

    async def find_ids(self, ending: str, limit: int = 5) -> list[str]:
        return sorted(job_id for job_id in self._jobs if job_id.startswith(ending) or job_id.endswith(ending))[:limit]

    async def read_definition(self, content_hash: str) -> bytes | None:
        return self._definitions.get(content_hash)

    async def definition_hashes(self, after: str = "", limit: int = 1_000) -> list[str]:
        return sorted(one for one in self._definitions if one > after)[:limit]

    async def set_aging(self, aging_s: float) -> None:
        self._set_aging(aging_s)
        for key in {job.limit.key for job in self._jobs.values() if job.limit and job.row.status == JobStatus.QUEUED}:
            balance(self._limits, key)
        self._count(len(self._jobs))

    async def set_share(self, key: str, weight: float) -> None:
        self._set_share(key, weight)
        self._count(1)

    async def list_shares(self, after: str = "", limit: int = 1_000) -> list[StoredShare]:
        return self._shares.list(self.clock.now_us(), after, limit)

    async def learn(self, samples: Sequence[Sample]) -> None:
        if durations := self._durations.learn(samples, self.clock.now_us()):
            self._keep_durations(durations)
            self._count(len(durations))

    async def read_durations(self, workflow_id: str) -> list[Duration]:
        return self._durations.of_workflow(workflow_id)

    # ── leases and commits ────────────────────────────────────────────────────────────────────────────────────────

    async def claim(
        self, worker: str, limit: int, offers: Offers | None = None, *, suspects: bool = False
    ) -> list[Claim]:
        if suspects:
            queues = [self._queues.get(None, [])]
        else:
            queues = [
                queue for required, queue in self._queues.items() if required is not None and serves(offers, required)
            ]
        claims: list[Claim] = []
        left: list[tuple[list[tuple[int, int, str]], tuple[int, int, str]]] = []
        while len(claims) < limit and (queue := min(filter(None, queues), key=lambda one: one[0], default=None)):
            entry = heapq.heappop(queue)
            if not self._stands(entry, queue):
                continue
            job = self._jobs[entry[2]]
            if self._is_paused(job):
                self._pauses.set_aside(job.new.definition.workflow_id, job.id)
                continue
            if suspects and not serves(offers, job.row.requires):
                left.append((queue, entry))
            else:
                claims.append(self._lease(job, worker))
        for queue, entry in left:
            heapq.heappush(queue, entry)
        self._count(len(claims))
        return claims

    async def first_waiting(self, offers: Offers | None = None) -> Waiting | None:
        first: MemoryJob | None = None
        for required, queue in self._queues.items():
            if required is None or not serves(offers, required):
                continue
            while queue and not self._stands(queue[0], queue):
                heapq.heappop(queue)
            if queue:
                job = self._jobs[queue[0][2]]
                if first is None or (job.sort_at, job.handle) < (first.sort_at, first.handle):
                    first = job
        return None if first is None or self._is_paused(first) else self._waiting(first)

    async def queue_place(self, job_id: str, shown: int = 10) -> QueuePlace | None:
        job = self._jobs.get(job_id)
        if job is None or not self._is_claimable(job) or job.queued_us is None:
            return None
        place = (job.sort_at, job.handle)
        ahead = [one for one in self._jobs.values() if self._is_claimable(one) and (one.sort_at, one.handle) < place]
        first = heapq.nsmallest(shown, ahead, key=lambda one: (one.sort_at, one.handle))
        return QueuePlace(
            job.row.rank,
            job.sort_at,
            job.queued_us,
            job.queued_total_us,
            min(len(ahead), MAX_AHEAD),
            [self._waiting(one) for one in first],
            self._workers.rooms.get(job_id),
        )

    def _waiting(self, job: MemoryJob) -> Waiting:
        return Waiting(job.id, job.row.rank, job.sort_at, self._workers.rooms.get(job.id))

    async def make_room(self, job_id: str, worker: str) -> bool:
        job = self._jobs.get(job_id)
        return job is not None and job.waits and self._workers.make_room(job_id, worker)

    async def hold(self, job_id: str, worker: str, request: Request) -> Held | None:
        if (job := self._jobs.get(job_id)) is None:
            return None
        if job.row.status.is_final:
            return Held(None, None, request.key in job.request_keys)
        self._put(job, request)
        return Held(self._lease(job, worker), worker) if job.owner is None else Held(None, job.owner)

    async def hold_all(
        self, worker: str, requests: Sequence[tuple[str, Request]]
    ) -> Sequence[Held | BaseException | None]:
        return [await self.hold(job_id, worker, request) for job_id, request in requests]

    def _put(self, job: MemoryJob, request: Request) -> None:
        if request.key not in job.request_keys:
            self._post(job, replace(request, sequence=self._sequence + 1))
            self._count(1)

    async def hold_requested(self, worker: str, limit: int) -> list[Claim]:
        waiting = (job for job in self._jobs.values() if job.requests and job.owner is None)
        claims = [self._lease(job, worker) for job, _ in zip(waiting, range(limit), strict=False)]
        self._count(len(claims))
        return claims

    async def hold_due(self, worker: str, limit: int) -> list[Claim]:
        now = self.clock.now_us()
        claims: list[Claim] = []
        held: list[tuple[int, int, str]] = []
        while self._due and self._due[0][0] <= now and len(claims) < limit:
            due_us, _, job_id = entry = heapq.heappop(self._due)
            job = self._jobs.get(job_id)
            if job is None or job.row.wakes_us != due_us:
                continue
            if job.owner is None:
                claims.append(self._lease(job, worker))
            held.append(entry)  # still due until a commit says otherwise
        for entry in held:
            heapq.heappush(self._due, entry)
        self._count(len(claims))
        return claims

    async def hold_orphans(self, worker: str, limit: int) -> list[Claim]:
        orphans = (
            job
            for job in self._jobs.values()
            if job.owner not in (None, worker) and not self._workers.is_alive(job.owner or "")
        )
        claims = [self._lease(job, worker) for job, _ in zip(orphans, range(limit), strict=False)]
        self._count(len(claims))
        return claims

    async def read_leases(self, worker: str) -> dict[str, int]:
        return {job.id: job.epoch for job in self._jobs.values() if job.owner == worker}

    async def hold_again(self, worker: str, leases: Mapping[str, int]) -> list[Claim]:
        held = [self._jobs[job_id] for job_id in leases if job_id in self._jobs]
        claims = [self._lease(job, worker) for job in held if (job.owner, job.epoch) == (worker, leases[job.id])]
        self._count(len(claims))
        return claims

    async def commit(self, commit: Commit) -> None:
        claim, job = commit.claim, self._jobs.get(commit.claim.job_id)
        if job is None or not self._matches(job, commit):
            if job is not None and is_written(commit, job.epoch, job.row.last_event, job.events):
                return
            raise LeaseLost(f"Job {claim.job_id} is not held by {claim.owner} in epoch {claim.epoch} any more.")
        drained = set(commit.drained)
        pending = [request for request in job.requests if request.sequence not in drained]
        if commit.row.status.is_final and pending:
            raise RequestsPending(f"Job {claim.job_id} has {len(pending)} requests that its last commit has not seen.")
        limit, status = job.limit, commit.row.status
        if status == JobStatus.RUNNING and limit is not None and not job.has_slot:
            raise StoreError(f"Job {claim.job_id} has no slot of its limit and may not run.")
        is_new = job.row.status == JobStatus.CREATED and status == JobStatus.QUEUED
        has_slot, has_started = job.has_slot, commit.row.started_us is not None
        if limit is not None and has_slot:
            has_slot = keeps_slot(limit, status, job.row.status, has_started=has_started)
        freeing = limit.key if limit is not None and job.has_slot > has_slot else None
        entering = [job.new, *commit.children] if is_new else commit.children
        refuse(self._limits, _entries(entering, queued=job.id), freeing)
        now = self.clock.now_us()
        if has_slot != job.has_slot:
            self._set_slot(job, has_slot)
        self._record(job, commit, now)
        entered = [*([job] if is_new else []), *self._accept_all(commit.children)]
        for leak in self._leaks.made_of(job.id, job.new.definition.workflow_id, commit.leaks, now):
            self._keep_leak(leak)
        for job_id, request in commit.posts:
            if (other := self._jobs.get(job_id)) is not None and not other.row.status.is_final:
                self._put(other, request)
        self._let_in(entered, [limit.key] if limit is not None and status != JobStatus.RUNNING else [])
        self._count(2)

    async def list_leaks(self, after: int = 0, limit: int = 1_000) -> list[StoredLeak]:
        return self._leaks.list(after, limit)

    async def count_leaks(self) -> int:
        return len(self._leaks)

    async def note_leak(self, key: int, error: ErrorInfo) -> bool:
        return key in self._leaks and self._note_leak(key, error)

    async def drop_leak(self, key: int) -> bool:
        return key in self._leaks and self._drop_leak(key)

    async def commit_all(self, commits: Sequence[Commit]) -> Sequence[BaseException | None]:
        errors: list[BaseException | None] = []
        for one in commits:
            try:
                await self.commit(one)
                errors.append(None)
            except OpenAgentsError as error:
                errors.append(error)
        return errors

    async def release(self, claim: Claim) -> None:
        job = self._jobs.get(claim.job_id)
        if job is None or job.row.status == JobStatus.RUNNING:
            return
        if job.owner == claim.owner and job.epoch == claim.epoch:
            self._give_back(job)
            self._count(1)

    async def read_requests(self, job_id: str) -> list[Request]:
        job = self._jobs.get(job_id)
        return list(job.requests) if job else []

    async def jobs_with_requests(self, worker: str) -> list[str]:
        return [job.id for job in self._jobs.values() if job.owner == worker and job.requests]

    async def thread_ended(self, job_id: str, worker: str) -> None:
        if (job := self._jobs.get(job_id)) and job.abandoned[worker]:
            self._count_thread_out(job, worker)
            self._count(1)

    async def next_due_us(self) -> int | None:
        earliest, held = None, []
        while self._due:
            due_us, _, job_id = entry = self._due[0]
            job = self._jobs.get(job_id)
            if job is not None and job.row.wakes_us == due_us:
                if job.owner is None:
                    earliest = due_us
                    break
                held.append(entry)  # its holder's commit says how it goes on; a release leaves it due
            heapq.heappop(self._due)
        for entry in held:
            heapq.heappush(self._due, entry)
        return earliest

    # ── workers ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def register_worker(self, worker: str, info: WorkerInfo = NOBODY) -> None:
        self._workers.register(worker, info)

    async def heartbeat(self, worker: str) -> bool:
        return self._workers.beat(worker)

    def pulse(self, worker: str) -> Pulse:
        return _Pulse(self._workers, worker)

    async def unregister_worker(self, worker: str, *, threads_run: bool = False) -> None:
        self._workers.forget(worker)
        if not threads_run:
            for job in self._jobs.values():
                if worker in job.abandoned:
                    self._forget_threads(job, worker)

    async def bury_workers(self) -> int:
        """Their threads are threads of this process, which lives."""
        return self._workers.bury()

    async def list_workers(self) -> list[StoredWorker]:
        return self._workers.list(Counter(job.owner for job in self._jobs.values() if job.owner is not None))

    # ── pauses, and limits of components ──────────────────────────────────────────────────────────────────────────────

    async def set_pause(self, kind: PauseKind, name: str, by: str | None, reason: str | None) -> bool:
        if self._pauses.has(kind, name):
            return False
        refuse_more(len(self._pauses))
        self._pause(Pause(kind, name, by, reason, self.clock.now_us()))
        self._count(1)
        return True

    async def lift_pause(self, kind: PauseKind, name: str) -> bool:
        is_paused = self._pauses.has(kind, name)
        if is_paused:
            self._lift(kind, name)
            self._count(1)
        return is_paused

    async def list_pauses(self) -> list[Pause]:
        return self._pauses.all()

    async def take_grants(self, worker: str, holds: Mapping[str, int], wants: Sequence[Want]) -> list[Blocked | None]:
        now = self.clock.now_us()
        known = known_to(self._workers.grants, self._buckets, keys_of(holds, wants), self._workers.is_alive)
        decided = decide_grants(worker, holds, wants, known, now)
        self._workers.grants.write(worker, decided.grants)
        for key, full_us in decided.buckets.items():
            self._put_bucket(key, full_us, now)
        return decided.answers

    async def read_blocked(self, job_id: str) -> list[Blocked]:
        job = self._jobs.get(job_id)
        if job is None or job.owner is None:
            return []
        keys = self._workers.grants.keys(job.owner)
        known = known_to(self._workers.grants, self._buckets, keys, self._workers.is_alive)
        return blocked_in(job_id, job.owner, known, self.clock.now_us())

    async def tell_shortages(self, worker: str, shortages: Shortages) -> None:
        self._workers.shortages[worker] = shortages

    async def read_shortages(self, job_id: str) -> list[Short]:
        job = self._jobs.get(job_id)
        return [] if job is None else list(self._workers.shortages.get(job.owner or "", {}).get(job_id, ()))

    # ── moving ────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def read_family(self, job_id: str) -> list[MovedJob]:
        root = self._jobs.get(job_id)
        return [] if root is None else [moved(job, self._leaks.of(job.id)) for job in self._tree(root)]

    async def restore(self, jobs: Sequence[MovedJob]) -> list[str]:
        if there := [job.id for job in jobs if job.id in self._jobs]:
            return there
        refuse_to_restore(jobs, self._keys, self._limits)
        for one in jobs:
            row, arrived = one.new.row, one.waits_since_us
            job = MemoryJob(replace(one.new, events=()), self._handle + 1, row, arrived, one.queued_total_us)
            job.owner, job.epoch, job.has_slot = one.keeper, one.epoch, one.needs_slot
            job.events = list(one.new.events)
            sequences = range(self._sequence + 1, self._sequence + 1 + len(one.requests))
            job.requests = [replace(request, sequence=at) for request, at in zip(one.requests, sequences, strict=True)]
            job.request_keys = {*one.drained, *(request.key for request in one.requests)}
            self._restore(job)
            for leak in one.leaks:
                if not self._leaks.has(leak.job_id, leak.resource_id):
                    self._keep_leak(replace(leak, key=self._leaks.last_key + 1))
        for key in queued_keys(jobs):
            balance(self._limits, key)
        self._count(2 * len(jobs))
        return []

    # ── output ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def append_output(self, job_id: str, path: str, attempt: int, chunks: Sequence[OutputChunk]) -> None:
        if chunks and (job := self._jobs.get(job_id)) is not None:
            self._keep_output(job, path, attempt, chunks, self._output.sequence)
            self._count(len(chunks))

    async def read_output(
        self, job_id: str, path: str | None = None, attempt: int | None = None, after: int = 0, limit: int = 64
    ) -> list[StoredOutput]:
        return self._output.read(job_id, path, attempt, after, limit)

    # ── upkeep ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def delete(self, job_id: str) -> bool:
        job = self._jobs.get(job_id)
        if job is None or job.new.parent_id in self._jobs:
            return False
        tree = self._tree(job)
        may_go = job.row.status.is_final or job.row.status == JobStatus.CREATED
        if job.owner is not None or not may_go or not all(one.row.status.is_final for one in tree[1:]):
            return False
        self._delete(tree)
        return True

    async def delete_final(self, before_us: int, limit: int, within_s: float = DELETE_S) -> int:
        allowance, count = Allowance(within_s, self.clock), 0
        stay: list[tuple[int, int, str]] = []
        while self._ended and self._ended[0][0] < before_us and count < limit and not (count and allowance.is_spent):
            entry = heapq.heappop(self._ended)
            job = self._jobs.get(entry[2])
            if job is None or job.new.parent_id in self._jobs:
                continue  # it is gone, or goes with its parent
            tree = self._tree(job)
            if all(one.row.status.is_final for one in tree):
                self._delete(tree)
                count += 1
            else:
                stay.append(entry)
        for entry in stay:
            heapq.heappush(self._ended, entry)
        return count

    def _tree(self, job: MemoryJob) -> list[MemoryJob]:
        """The job and all its attached children, and theirs."""
        tree = [job]
        for one in tree:
            tree += [self._jobs[child] for child in self._children.get(one.id, ())]
        return tree

    async def count_jobs(self, limit: int) -> JobCounts:
        queued = [job.queued_us or 0 for job in self._jobs.values() if job.waits][:limit]
        latest = islice(reversed(self._jobs.values()), limit)
        counts = Counter(job.row.status for job in latest if not job.waits)
        if queued:
            counts[JobStatus.QUEUED] += len(queued)
        return JobCounts(dict(counts), min(queued, default=None))

    async def facts(self) -> StoreFacts:
        return facts_of(self, len(await self.list_workers()))

    def has_foreign_changes(self) -> bool:
        return False  # whoever shares this object shares the process; the manager tells its engine directly

    def stats(self) -> dict[str, int]:
        return dict(self._counters)

    # ── inside ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _is_claimable(self, job: MemoryJob) -> bool:
        """Whether some worker could claim it, beside others."""
        return job.waits and not job.is_blocked and job.row.deaths < SUSPECT_DEATHS and not self._is_paused(job)

    def _is_paused(self, job: MemoryJob) -> bool:
        """Whether claims pass it over because its workflow is paused."""
        return not job.row.cancel_requested and self._pauses.has("workflow", job.new.definition.workflow_id)

    def _count(self, rows: int) -> None:
        self._counters["commits"] += 1
        self._counters["rows"] += rows

    def _matches(self, job: MemoryJob, commit: Commit) -> bool:
        claim = commit.claim
        return job.owner == claim.owner and job.epoch == claim.epoch and job.row.last_event == commit.expected

    def _lease(self, job: MemoryJob, worker: str) -> Claim:
        previous = job.owner
        self._take(job, worker, job.epoch + 1)
        snapshot, events = self._history(job)
        return Claim(
            job_id=job.id,
            handle=job.handle,
            owner=worker,
            epoch=job.epoch,
            definition_hash=job.new.definition.hash,
            last_event=job.row.last_event,
            previous_owner=previous,
            snapshot=snapshot,
            events=events,
            requests=list(job.requests),
            limit=job.limit,
            has_slot=job.has_slot,
            sort_at=self._stands_at(job),
        )

    def _stands_at(self, job: MemoryJob) -> int:
        if job.row.status == JobStatus.QUEUED:
            return job.sort_at
        return self._sort_at(job, self.clock.now_us())

    def _sort_at(self, job: MemoryJob, arrived_us: int) -> int:
        """Where a job stands in the queue that came into it then."""
        row = job.row
        start_by_us = None if row.deadline is None else row.deadline.start_by_us
        has_begun = row.started_us is not None
        return place_us(
            arrived_us, job.queued_total_us, row.rank, self.aging_s, job.tag_us, start_by_us, has_begun=has_begun
        )

    def _stands(self, entry: tuple[int, int, str], queue: list[tuple[int, int, str]]) -> bool:
        """Whether the job of an entry still has its place in that queue."""
        job = self._jobs.get(entry[2])
        if job is None or not job.waits or job.is_blocked:
            return False
        return job.sort_at == entry[0] and self._queue_of(job) is queue

    def _history(self, job: MemoryJob) -> tuple[bytes | None, list[Event]]:
        if job.snapshot is None:
            return None, list(job.events)
        number, state = job.snapshot
        return state, job.events[number:]

    def _delete(self, tree: Sequence[MemoryJob]) -> None:
        for job in reversed(tree):  # no child is ever there without its parent's being so
            self._forget(job)
            self._count(1)

    # ── the mutators: nothing else changes a job ──────────────────────────────────────────────────────────────────

    def _accept(self, job: NewJob, handle: int, now: int) -> None:
        """A job that is not there yet."""
        self._definitions.setdefault(job.definition.hash, job.definition.document)
        self._handle = handle
        epoch = 0 if job.owner is None else FIRST_EPOCH
        stored = MemoryJob(job, handle, job.row, owner=job.owner, epoch=epoch, events=list(job.events))
        self._add(stored)
        if job.parent_id is not None and (parent := self._jobs.get(job.parent_id)) is not None:
            stored.queued_total_us = parent.queued_total_us
        self._place(stored, JobStatus.CREATED, now)

    def _restore(self, job: MemoryJob) -> None:
        """A job of another store that is not there yet, whole, with its slot if it has one."""
        self._definitions.setdefault(job.new.definition.hash, job.new.definition.document)
        self._handle = job.handle
        self._sequence = max([self._sequence, *(request.sequence for request in job.requests)])
        self._add(job)
        if job.row.share is not None:  # what it has used elsewhere counts there
            job.charged_us = job.row.share.used_us
            self._shares.place(job, JobStatus.CREATED, job.queued_us or job.new.created_us)
        if job.row.status == JobStatus.QUEUED and job.queued_us is not None:
            job.sort_at = self._sort_at(job, job.queued_us)
        if job.limit is not None:
            self._limits.note(job)
        if job.row.status == JobStatus.QUEUED and not job.is_blocked:
            self._enqueue(job)
        if (wakes_us := job.row.wakes_us) is not None:
            heapq.heappush(self._due, (wakes_us, job.handle, job.id))

    def _add(self, job: MemoryJob) -> None:
        """Enter a job wherever jobs are looked up."""
        new = job.new
        self._jobs[job.id] = job
        if new.parent_id in self._jobs:
            self._children.setdefault(new.parent_id, []).append(job.id)
        if new.idempotency_key is not None:
            self._keys[new.definition.workflow_id, new.idempotency_key] = job.id

    def _set_aging(self, aging_s: float) -> None:
        """Every job in the queue gets its new place."""
        self.aging_s = aging_s
        self._queues.clear()
        for job in self._jobs.values():
            if job.row.status == JobStatus.QUEUED and job.queued_us is not None:
                job.sort_at = self._sort_at(job, job.queued_us)
                if job.limit is not None:
                    self._limits.note(job)
                if job.owner is None and not job.is_blocked:
                    self._enqueue(job)

    def _set_share(self, key: str, weight: float) -> None:
        """A key has that weight from now on."""
        self._shares.set_weight(key, weight)

    def _keep_durations(self, durations: Sequence[Duration]) -> None:
        """What was learned of some steps and jobs."""
        self._durations.keep(durations)

    def _take(self, job: MemoryJob, worker: str, epoch: int) -> None:
        """A lease begins."""
        job.owner, job.epoch = worker, epoch

    def _give_back(self, job: MemoryJob) -> None:
        """A lease ends with nothing recorded."""
        job.owner = None
        if job.row.status == JobStatus.QUEUED and not job.is_blocked:
            self._enqueue(job)

    def _post(self, job: MemoryJob, request: Request) -> None:
        """A request comes into the inbox, with its sequence."""
        self._sequence = request.sequence
        job.request_keys.add(request.key)
        job.requests.append(request)

    def _record(self, job: MemoryJob, commit: Commit, now: int) -> None:
        """The job's own part of a commit that was found to be in order."""
        if commit.drained:
            drained = set(commit.drained)
            job.requests = [request for request in job.requests if request.sequence not in drained]
        job.events.extend(commit.events)
        if commit.abandoned:
            job.abandoned[commit.claim.owner] += commit.abandoned
        if commit.snapshot is not None:
            job.snapshot = (commit.row.last_event, commit.snapshot)
        if commit.row.status != JobStatus.RUNNING:
            job.owner = None
        before, job.row = job.row.status, commit.row
        self._place(job, before, now)

    def _set_slot(self, job: MemoryJob, has_slot: bool) -> None:
        """A job gets a slot of its limit, or loses it."""
        job.has_slot = has_slot
        self._limits.note(job)
        if has_slot and job.owner is None and job.row.status == JobStatus.QUEUED:
            self._enqueue(job)

    def _count_thread_out(self, job: MemoryJob, worker: str) -> None:
        """One thread less of those that could not be stopped."""
        job.abandoned -= Counter([worker])  # which keeps those above zero

    def _forget_threads(self, job: MemoryJob, worker: str) -> None:
        """None of the threads that could not be stopped runs any more."""
        del job.abandoned[worker]

    def _keep_output(self, job: MemoryJob, path: str, attempt: int, chunks: Sequence[OutputChunk], after: int) -> None:
        """Output of an attempt; its sequences begin after `after`."""
        self._output.append(job.id, path, attempt, chunks, after)

    def _keep_leak(self, leak: StoredLeak) -> None:
        """A leak, with its key."""
        self._leaks.add(leak)

    def _note_leak(self, key: int, error: ErrorInfo) -> bool:
        """One more try in vain."""
        return self._leaks.note(key, error)

    def _drop_leak(self, key: int) -> bool:
        """A leak is gone."""
        return self._leaks.drop(key)

    def _pause(self, pause: Pause) -> None:
        """A component or a workflow is paused."""
        self._pauses.add(pause)

    def _lift(self, kind: PauseKind, name: str) -> None:
        """One is paused no more."""
        for job_id in self._pauses.drop(kind, name):
            job = self._jobs.get(job_id)
            if job is not None and job.waits and not job.is_blocked:
                self._enqueue(job)

    def _put_bucket(self, key: str, full_us: int, now: int) -> None:
        """Tokens of a rate were taken."""
        self._buckets.put(key, full_us, now)

    def _forget(self, job: MemoryJob) -> None:
        """A job is deleted."""
        self._pauses.forget(job.new.definition.workflow_id, job.id)
        del self._jobs[job.id]
        self._workers.rooms.pop(job.id, None)
        self._children.pop(job.id, None)
        self._output.forget(job.id)
        if len(self._ended) > 2 * len(self._jobs) + STALE:
            self._ended = sorted(entry for entry in self._ended if entry[2] in self._jobs)
        if job.new.idempotency_key is not None:
            self._keys.pop((job.new.definition.workflow_id, job.new.idempotency_key), None)

    def _enqueue(self, job: MemoryJob) -> None:
        heapq.heappush(self._queue_of(job), (job.sort_at, job.handle, job.id))

    def _queue_of(self, job: MemoryJob) -> list[tuple[int, int, str]]:
        is_suspect = job.row.deaths >= SUSPECT_DEATHS
        return self._queues.setdefault(None if is_suspect else job.row.requires, [])

    def _place(self, job: MemoryJob, before: JobStatus, now: int) -> None:
        """Keep queue and timers in step with a row that was just written."""
        row = job.row
        if row.share is not None:
            self._shares.place(job, before, now)
        if row.status == JobStatus.QUEUED:
            if before != JobStatus.QUEUED:
                job.queued_us = now
            job.sort_at = self._sort_at(job, job.queued_us if job.queued_us is not None else now)
            if not job.is_blocked and job.owner is None:
                self._enqueue(job)
        elif before == JobStatus.QUEUED and job.queued_us is not None:
            job.queued_total_us += now - job.queued_us
            self._workers.rooms.pop(job.id, None)
        elif row.status == JobStatus.RUNNING and before != JobStatus.RUNNING:
            job.queued_us = now  # taken over at once, with no wait in the queue
        if (wakes_us := row.wakes_us) is not None:
            heapq.heappush(self._due, (wakes_us, job.handle, job.id))
        if row.completed_us is not None:
            heapq.heappush(self._ended, (row.completed_us, job.handle, job.id))
        if job.limit is not None:
            self._limits.note(job)


class _Pulse:
    """A heartbeat that needs no connection."""

    def __init__(self, workers: MemoryWorkers, worker: str) -> None:
        self._workers = workers
        self._worker = worker

    def beat(self) -> bool:
        return self._workers.beat(self._worker)

    def close(self) -> None:
        pass


def _entries(jobs: Sequence[NewJob], *, queued: str | None = None) -> list[Entry]:
    """Those of new jobs that enter the queue and have a limit, not written yet; `queued` is CREATED in its row."""
    return [
        Entry(0, job.job_id, job.limit)
        for job in jobs
        if job.limit is not None and (job.row.status == JobStatus.QUEUED or job.job_id == queued)
    ]
