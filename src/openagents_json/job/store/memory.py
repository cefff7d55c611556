"""The memory store: everything in dictionaries of one process. Jobs are gone with it; the rules are the same."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from openagents_json.clock import SECOND_US, Clock, SystemClock
from openagents_json.errors import LeaseLost, RequestsPending
from openagents_json.job.events import Event
from openagents_json.job.model import ErrorInfo, JobStatus, JobSummary
from openagents_json.job.store.base import (
    DEFAULT_AGING_S,
    DEFAULT_LEASE_S,
    Claim,
    Commit,
    Held,
    JobCounts,
    JobRow,
    JobStore,
    Listed,
    NewJob,
    Request,
    StoredJob,
    StoredLeak,
    is_written,
    same_body,
    summary_of,
    virtual_arrival_us,
)
from openagents_json.job.store.memory_leaks import MemoryLeaks
from openagents_json.job.store.memory_output import MemoryOutput
from openagents_json.job.store.output import OutputChunk, StoredOutput
from openagents_json.job.store.query import Query


@dataclass(slots=True)
class _Job:
    """One job. Everything here is written by the verbs of the store only, each of which runs without an await."""

    new: NewJob
    handle: int
    row: JobRow
    queued_us: int | None = None
    queued_total_us: int = 0
    sort_at: int = 0
    owner: str | None = None
    epoch: int = 0
    abandoned: int = 0
    events: list[Event] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    request_keys: set[str] = field(default_factory=set)
    snapshot: tuple[int, bytes] | None = None  # number of its last event, state

    @property
    def id(self) -> str:
        return self.new.job_id

    def column(self, name: str) -> Any:
        """The value that the SQL stores have in that column."""
        match name:
            case "key":
                return self.handle
            case "id":
                return self.id
            case "workflow_id" | "version":
                return getattr(self.new.definition, name)
            case "definition":
                return self.new.definition.hash
            case "idempotency_key" | "created_us" | "parent_id" | "origin_id":
                return getattr(self.new, name)
            case "queued_us" | "abandoned":
                return getattr(self, name)
            case "status":
                return str(self.row.status)
        return getattr(self.row, name)

    @property
    def summary(self) -> JobSummary:
        definition = self.new.definition
        return summary_of(
            job_id=self.id,
            workflow_id=definition.workflow_id,
            version=definition.version,
            definition=definition.hash,
            row=self.row,
            created_us=self.new.created_us,
            queued_us=self.queued_us,
            abandoned=self.abandoned,
            idempotency_key=self.new.idempotency_key,
            tags=self.new.tags,
            parent_id=self.new.parent_id,
            origin_id=self.new.origin_id,
        )


class MemoryJobStore(JobStore):
    """A store for tests and short-lived programs; the default of `JobManager`."""

    def __init__(
        self, clock: Clock | None = None, *, aging_s: float = DEFAULT_AGING_S, lease_s: float = DEFAULT_LEASE_S
    ) -> None:
        self.clock = clock or SystemClock()
        self.aging_s = aging_s
        self.lease_s = lease_s
        self._jobs: dict[str, _Job] = {}
        self._definitions: dict[str, bytes] = {}
        self._children: dict[str, list[str]] = {}  # job id → ids of its attached children
        self._keys: dict[tuple[str, str], str] = {}  # (workflow id, idempotency key) → job id
        self._queue: list[tuple[int, int, str]] = []  # heap of (sort_at, handle, id); stale entries are passed over
        self._due: list[tuple[int, str]] = []  # heap of (due_us, id); the same
        self._workers: dict[str, int] = {}  # worker → its leases are good until
        self._output = MemoryOutput()
        self._leaks = MemoryLeaks()
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
            key = (job.definition.workflow_id, job.idempotency_key)
            if (earlier := self._keys.get(key)) is not None:
                return same_body(self._jobs[earlier].new.body_hash, job, earlier)
            self._keys[key] = job.job_id
        self._accept(job)
        self._count(3)
        return job.job_id

    def _accept(self, job: NewJob) -> None:
        if job.job_id in self._jobs:
            return
        self._definitions.setdefault(job.definition.hash, job.definition.document)
        self._handle += 1
        stored = _Job(job, self._handle, job.row, events=list(job.events))
        if job.parent_id is not None and (parent := self._jobs.get(job.parent_id)) is not None:
            stored.queued_total_us = parent.queued_total_us
            self._children.setdefault(parent.id, []).append(job.job_id)
        self._jobs[job.job_id] = stored
        self._place(stored, JobStatus.CREATED)

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

    async def read_events(self, job_id: str, after: int = 0, limit: int = 1_000) -> list[Event]:
        job = self._jobs.get(job_id)
        return job.events[after : after + limit] if job else []

    async def list_jobs(self, query: Query) -> list[Listed]:
        found = [(job, (job.column(query.order), job.handle)) for job in self._jobs.values() if _fits(job, query)]
        found.sort(key=lambda pair: _sortable(pair[1]), reverse=query.descending)
        if query.cursor is not None:
            edge = _sortable(query.cursor)
            found = [
                pair for pair in found if (_sortable(pair[1]) < edge if query.descending else _sortable(pair[1]) > edge)
            ]
        return [Listed(job.summary, position) for job, position in found[: query.limit]]

    async def find_ids(self, ending: str, limit: int = 5) -> list[str]:
        return sorted(job_id for job_id in self._jobs if job_id.startswith(ending) or job_id.endswith(ending))[:limit]

    async def read_definition(self, content_hash: str) -> bytes | None:
        return self._definitions.get(content_hash)

    # ── leases and commits ────────────────────────────────────────────────────────────────────────────────────────

    async def claim(self, worker: str, limit: int, without: Collection[str] = ()) -> list[Claim]:
        claims: list[Claim] = []
        left: list[tuple[int, int, str]] = []
        while self._queue and len(claims) < limit:
            sort_at, _, job_id = entry = heapq.heappop(self._queue)
            job = self._jobs.get(job_id)
            if job and job.row.status == JobStatus.QUEUED and job.owner is None and job.sort_at == sort_at:
                if job.new.definition.hash in without:
                    left.append(entry)
                else:
                    claims.append(self._lease(job, worker))
        for entry in left:
            heapq.heappush(self._queue, entry)
        self._count(len(claims))
        return claims

    async def hold(self, job_id: str, worker: str, request: Request) -> Held | None:
        if (job := self._jobs.get(job_id)) is None:
            return None
        if job.row.status.is_final:
            return Held(None, None, request.key in job.request_keys)
        self._put(job, request)
        return Held(self._lease(job, worker), worker) if job.owner is None else Held(None, job.owner)

    def _put(self, job: _Job, request: Request) -> None:
        if request.key not in job.request_keys:
            self._sequence += 1
            job.request_keys.add(request.key)
            job.requests.append(replace(request, sequence=self._sequence))
            self._count(1)

    async def hold_requested(self, worker: str, limit: int) -> list[Claim]:
        waiting = (job for job in self._jobs.values() if job.requests and job.owner is None)
        claims = [self._lease(job, worker) for job, _ in zip(waiting, range(limit), strict=False)]
        self._count(len(claims))
        return claims

    async def hold_due(self, worker: str, limit: int) -> list[Claim]:
        now = self.clock.now_us()
        claims: list[Claim] = []
        held: list[tuple[int, str]] = []
        while self._due and self._due[0][0] <= now and len(claims) < limit:
            due_us, job_id = heapq.heappop(self._due)
            job = self._jobs.get(job_id)
            if job is None or job.row.due_us != due_us:
                continue
            if job.owner is None:
                claims.append(self._lease(job, worker))
            held.append((due_us, job_id))  # still due until a commit says otherwise
        for entry in held:
            heapq.heappush(self._due, entry)
        self._count(len(claims))
        return claims

    async def hold_orphans(self, worker: str, limit: int) -> list[Claim]:
        now = self.clock.now_us()
        orphans = (
            job
            for job in self._jobs.values()
            if job.owner not in (None, worker) and self._workers.get(job.owner or "", 0) <= now
        )
        claims = [self._lease(job, worker) for job, _ in zip(orphans, range(limit), strict=False)]
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
        job.requests = pending
        job.events.extend(commit.events)
        job.abandoned += commit.abandoned
        if commit.snapshot is not None:
            job.snapshot = (commit.row.last_event, commit.snapshot)
        if commit.row.status != JobStatus.RUNNING:
            job.owner = None
        before, job.row = job.row.status, commit.row
        self._place(job, before)
        for child in commit.children:
            self._accept(child)
        self._leaks.add(job.id, job.new.definition.workflow_id, commit.leaks, self.clock.now_us())
        for job_id, request in commit.posts:
            if (other := self._jobs.get(job_id)) is not None and not other.row.status.is_final:
                self._put(other, request)
        self._count(2)

    async def list_leaks(self, after: int = 0, limit: int = 1_000) -> list[StoredLeak]:
        return self._leaks.list(after, limit)

    async def count_leaks(self) -> int:
        return len(self._leaks)

    async def note_leak(self, key: int, error: ErrorInfo) -> bool:
        return self._leaks.note(key, error)

    async def drop_leak(self, key: int) -> bool:
        return self._leaks.drop(key)

    async def release(self, claim: Claim) -> None:
        job = self._jobs.get(claim.job_id)
        if job is None or job.row.status == JobStatus.RUNNING:
            return
        if job.owner == claim.owner and job.epoch == claim.epoch:
            job.owner = None
            if job.row.status == JobStatus.QUEUED:
                heapq.heappush(self._queue, (job.sort_at, job.handle, job.id))
            self._count(1)

    async def read_requests(self, job_id: str) -> list[Request]:
        job = self._jobs.get(job_id)
        return list(job.requests) if job else []

    async def jobs_with_requests(self, worker: str) -> list[str]:
        return [job.id for job in self._jobs.values() if job.owner == worker and job.requests]

    async def thread_ended(self, job_id: str) -> None:
        if (job := self._jobs.get(job_id)) and job.abandoned:
            job.abandoned -= 1
            self._count(1)

    async def next_due_us(self) -> int | None:
        earliest, held = None, []
        while self._due:
            due_us, job_id = self._due[0]
            job = self._jobs.get(job_id)
            if job is not None and job.row.due_us == due_us:
                if job.owner is None:
                    earliest = due_us
                    break
                held.append((due_us, job_id))  # its holder's commit says how it goes on; a release leaves it due
            heapq.heappop(self._due)
        for entry in held:
            heapq.heappush(self._due, entry)
        return earliest

    # ── workers ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def register_worker(self, worker: str) -> None:
        self._workers[worker] = self._lease_end()

    async def heartbeat(self, worker: str) -> bool:
        if self._workers.get(worker, 0) <= self.clock.now_us():
            return False
        self._workers[worker] = self._lease_end()
        return True

    async def unregister_worker(self, worker: str) -> None:
        self._workers.pop(worker, None)

    # ── output ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def append_output(self, job_id: str, path: str, attempt: int, chunks: Sequence[OutputChunk]) -> None:
        if job_id in self._jobs:
            self._output.append(job_id, path, attempt, chunks)
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
        if not all(one.owner is None and (one.row.status.is_final or one.row.status == "CREATED") for one in tree):
            return False
        for one in tree:
            self._forget(one)
        return True

    async def delete_final(self, before_us: int, limit: int) -> int:
        old = [
            job
            for job in self._jobs.values()
            if job.row.status.is_final
            and job.row.completed_us is not None
            and job.row.completed_us < before_us
            and job.new.parent_id not in self._jobs
        ]
        old = [job for job in old if all(one.row.status.is_final for one in self._tree(job))][:limit]
        for job in old:
            for one in self._tree(job):
                self._forget(one)
        return len(old)

    def _tree(self, job: _Job) -> list[_Job]:
        """The job and all its attached children, and theirs."""
        tree = [job]
        for one in tree:
            tree += [self._jobs[child] for child in self._children.get(one.id, ())]
        return tree

    async def count_jobs(self, limit: int) -> JobCounts:
        queued = [job.queued_us or 0 for job in self._jobs.values() if job.row.status == JobStatus.QUEUED][:limit]
        others = (job.row for job in reversed(self._jobs.values()) if job.row.status != JobStatus.QUEUED)
        counts = Counter(row.status for row, _ in zip(others, range(limit), strict=False))
        if queued:
            counts[JobStatus.QUEUED] = len(queued)
        return JobCounts(dict(counts), min(queued, default=None))

    def has_foreign_changes(self) -> bool:
        return False  # whoever shares this object shares the process; the manager tells its engine directly

    def stats(self) -> dict[str, int]:
        return dict(self._counters)

    # ── inside ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _lease_end(self) -> int:
        return self.clock.now_us() + round(self.lease_s * SECOND_US)

    def _count(self, rows: int) -> None:
        self._counters["commits"] += 1
        self._counters["rows"] += rows

    def _matches(self, job: _Job, commit: Commit) -> bool:
        claim = commit.claim
        return job.owner == claim.owner and job.epoch == claim.epoch and job.row.last_event == commit.expected

    def _lease(self, job: _Job, worker: str) -> Claim:
        previous, job.owner = job.owner, worker
        job.epoch += 1
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
        )

    def _history(self, job: _Job) -> tuple[bytes | None, list[Event]]:
        if job.snapshot is None:
            return None, list(job.events)
        number, state = job.snapshot
        return state, job.events[number:]

    def _place(self, job: _Job, before: JobStatus) -> None:
        """Keep queue and timers in step with a row that was just written."""
        now, row = self.clock.now_us(), job.row
        if row.status == JobStatus.QUEUED:
            if before != JobStatus.QUEUED:
                job.queued_us = now
            arrived = job.queued_us if job.queued_us is not None else now
            job.sort_at = virtual_arrival_us(arrived, job.queued_total_us, row.rank, self.aging_s)
            heapq.heappush(self._queue, (job.sort_at, job.handle, job.id))
        elif before == JobStatus.QUEUED and job.queued_us is not None:
            job.queued_total_us += now - job.queued_us
        elif row.status == JobStatus.RUNNING and before != JobStatus.RUNNING:
            job.queued_us = now  # taken over at once, with no wait in the queue
        if row.due_us is not None:
            heapq.heappush(self._due, (row.due_us, job.id))

    def _forget(self, job: _Job) -> None:
        del self._jobs[job.id]
        self._children.pop(job.id, None)
        self._output.forget(job.id)
        if job.new.idempotency_key is not None:
            self._keys.pop((job.new.definition.workflow_id, job.new.idempotency_key), None)
        self._count(1)


def _sortable(position: tuple[Any, int]) -> tuple[bool, Any, int]:
    """NULL before everything, as SQLite sorts it."""
    value, handle = position
    return (value is not None, 0 if value is None else value, handle)


def _fits(job: _Job, query: Query) -> bool:
    for column, values in query.equal.items():
        if job.column(column) not in values:
            return False
    for column, span in query.times.items():
        if not span.holds(job.column(column)):
            return False
    if query.statuses_of_due and job.row.status not in query.statuses_of_due:
        return False
    if not set(query.tags) <= set(job.new.tags):
        return False
    if query.error_text is not None:
        texts: Iterator[str] = (text for text in (job.row.error_type, job.row.error_message) if text)
        return any(query.error_text.casefold() in text.casefold() for text in texts)
    return True
