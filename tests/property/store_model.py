"""What a store must answer, as plain lists and dictionaries: the model that the stores are compared with.

It is written from the contract (`openagents_json.job.store.base`) and shares no code with a store: each question is
answered by looking at all jobs. Handles, sequences and keys are the model's own numbers. Who has a slot of a limit says
`limits_model`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from openagents_json.clock import SECOND_US
from openagents_json.errors import IdempotencyConflict, LeaseLost, RequestsPending, StoreError
from openagents_json.job.events import Event
from openagents_json.job.model import ErrorInfo, JobStatus, JobSummary
from openagents_json.job.store.arrival import DEFAULT_AGING_S
from openagents_json.job.store.base import DEFAULT_LEASE_S
from openagents_json.job.store.limits import Limit, StoredLimit
from openagents_json.job.store.output import OutputChunk, StoredOutput
from openagents_json.job.store.records import (
    Claim,
    Commit,
    Held,
    JobCounts,
    JobRow,
    NewJob,
    Request,
    StoredJob,
    StoredLeak,
    StoredWorker,
    WorkerInfo,
    summary_of,
)
from openagents_json.resources import Offers
from openagents_json.testing import FakeClock
from tests.property import limits_model as limits

AGING_US, LEASE_US = round(DEFAULT_AGING_S * SECOND_US), round(DEFAULT_LEASE_S * SECOND_US)
DEATHS_OF_SUSPECTS = 2
QUEUED, RUNNING, CREATED = JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.CREATED


@dataclass
class ModelJob:
    """One job, and when and how long it was in the queue."""

    new: NewJob
    handle: int
    row: JobRow
    owner: str | None
    epoch: int
    events: list[Event]
    queued_us: int | None = None
    queued_before_us: int = 0  # spent in the queue, up to when it left it last
    requests: list[Request] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)  # of all requests that it ever had
    snapshot: tuple[int, bytes] | None = None
    threads: Counter[str] = field(default_factory=Counter)  # abandoned and still running, by worker
    output: list[StoredOutput] = field(default_factory=list)
    has_slot: bool = False  # of its limit

    @property
    def id(self) -> str:
        return self.new.job_id

    @property
    def limit(self) -> Limit | None:
        return self.new.limit

    @property
    def turn(self) -> tuple[int, int]:
        """Its place in the queue."""
        assert self.queued_us is not None
        has_begun = self.row.started_us is not None
        return self.queued_us - self.queued_before_us - self.row.rank * AGING_US - has_begun, self.handle

    def move(self, row: JobRow, now_us: int) -> None:
        """Its row changes."""
        before, self.row = self.row, row
        if before.status == QUEUED != row.status:
            self.queued_before_us += now_us - (self.queued_us or 0)
        elif row.status != before.status and row.status in (QUEUED, RUNNING):
            self.queued_us = now_us


class Model:
    """All jobs in the order in which they were accepted, the workers, and the leaks."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.jobs: dict[str, ModelJob] = {}
        self.definitions: dict[str, bytes] = {}
        self.workers: dict[str, StoredWorker] = {}
        self.leaks: list[StoredLeak] = []
        self._number = 0

    @property
    def now_us(self) -> int:
        return self.clock.now_us()

    def _next(self) -> int:
        self._number += 1
        return self._number

    # ── accepting and reading ─────────────────────────────────────────────────────────────────────────────────────

    def create(self, new: NewJob) -> str:
        [job_id] = self.create_all([new])
        return job_id

    def create_held(self, new: NewJob) -> Claim | None:
        known = [job.new for job in self.jobs.values()]
        if new.job_id in self.jobs or _with_key(new, known) is not None:
            return None
        [job] = self._accept_all([new])
        return replace(self._claim(job, None), events=list(new.events))

    def create_all(self, jobs: Sequence[NewJob]) -> list[str]:
        ids: list[str] = []
        accepted: dict[str, NewJob] = {}
        for new in jobs:
            known = [*accepted.values(), *(job.new for job in self.jobs.values())]
            earlier = next((one for one in known if one.job_id == new.job_id), None)
            if earlier is None:
                earlier = _with_key(new, known)
                if earlier is not None and earlier.body_hash != new.body_hash:
                    raise IdempotencyConflict("another body", job_id=earlier.job_id)
            if earlier is None:
                accepted[new.job_id] = new
            ids.append(new.job_id if earlier is None else earlier.job_id)
        self._accept_all(list(accepted.values()))
        return ids

    def _accept_all(self, new: Sequence[NewJob]) -> list[ModelJob]:
        """Accept jobs that are not there yet, or none of them."""
        limits.refuse(self.jobs.values(), [one for one in new if one.row.status == QUEUED])
        jobs = [self._accept(one) for one in new]
        self._let_in(jobs)
        return jobs

    def _let_in(self, jobs: Sequence[ModelJob], settled: Sequence[ModelJob] = ()) -> None:
        """New jobs that are QUEUED, and those QUEUED for the first time, are let in as far as limits allow; `settled`
        are jobs that a commit has brought to rest, or back into the queue."""
        entering = [job for job in jobs if job.limit is not None and job.row.status == QUEUED]
        for job, request in limits.enter(self.jobs.values(), entering, self.now_us):
            self._put(job, request)
        limits.balance(self.jobs.values(), {job.limit.key for job in [*entering, *settled] if job.limit is not None})

    def _accept(self, new: NewJob) -> ModelJob:
        job = ModelJob(new, self._next(), new.row, new.owner, int(new.owner is not None), list(new.events))
        if new.row.status in (QUEUED, RUNNING):
            job.queued_us = self.now_us
        if new.parent_id in self.jobs:
            job.queued_before_us = self.jobs[new.parent_id].queued_before_us
        self.jobs[new.job_id] = job
        self.definitions[new.definition.hash] = new.definition.document
        return job

    def summary(self, job: ModelJob) -> JobSummary:
        new = job.new
        return summary_of(
            job_id=job.id, workflow_id=new.definition.workflow_id, version=new.definition.version,
            definition=new.definition.hash, row=job.row, created_us=new.created_us, queued_us=job.queued_us,
            abandoned=job.threads.total(), idempotency_key=new.idempotency_key, tags=new.tags,
            parent_id=new.parent_id, origin_id=new.origin_id,
        )  # fmt: skip

    def read(self, job_id: str) -> StoredJob | None:
        if (job := self.jobs.get(job_id)) is None:
            return None
        snapshot, events = self._history(job)
        return StoredJob(
            self.summary(job), job.owner, job.new.definition.hash, snapshot, events, list(job.requests)
        )  # fmt: skip

    def read_events(self, job_id: str, after: int, limit: int) -> list[Event]:
        events = self.jobs[job_id].events if job_id in self.jobs else []
        return [event for event in events if event.number > after][:limit]

    def read_limit(self, job_id: str) -> StoredLimit | None:
        job = self.jobs.get(job_id)
        if job is None or job.limit is None:
            return None
        held_by = limits.holders(self.jobs.values(), job.limit.key)
        return StoredLimit(job.limit, job.has_slot, [one.id for one in held_by][: limits.SHOWN])

    def count_jobs(self, limit: int) -> JobCounts:
        queued = [job for job in self.jobs.values() if job.row.status == QUEUED and job.owner is None]
        counts = dict(Counter(job.row.status for job in list(self.jobs.values())[-limit:] if job not in queued))
        if queued:
            counts[QUEUED] = counts.get(QUEUED, 0) + min(len(queued), limit)
        return JobCounts(counts, min((job.queued_us or 0 for job in queued), default=None))

    # ── leases ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _history(self, job: ModelJob) -> tuple[bytes | None, list[Event]]:
        number, state = job.snapshot or (0, None)
        return state, [event for event in job.events if event.number > number]

    def _claim(self, job: ModelJob, previous: str | None) -> Claim:
        assert job.owner is not None
        snapshot, events = self._history(job)
        return Claim(
            job.id, job.handle, job.owner, job.epoch, job.new.definition.hash, job.row.last_event, previous, snapshot,
            events, list(job.requests), job.limit, job.has_slot, self._stands_at(job),
        )  # fmt: skip

    def _stands_at(self, job: ModelJob) -> int:
        since_us = job.queued_us if job.row.status == QUEUED else self.now_us
        has_begun = job.row.started_us is not None
        return (since_us or 0) - job.queued_before_us - job.row.rank * AGING_US - has_begun

    def _lease(self, jobs: Iterable[ModelJob], worker: str) -> list[Claim]:
        claims = []
        for job in jobs:
            previous, job.owner, job.epoch = job.owner, worker, job.epoch + 1
            claims.append(self._claim(job, previous))
        return claims

    def renewed(self, claim: Claim) -> Claim:
        """A claim with what was committed under it meanwhile, if it is good still."""
        job = self.jobs.get(claim.job_id)
        if job is None or (job.owner, job.epoch) != (claim.owner, claim.epoch):
            return claim
        return self._claim(job, claim.previous_owner)

    def claim(self, worker: str, limit: int, offers: Offers | None, suspects: bool) -> list[Claim]:
        fit = [
            job
            for job in self.jobs.values()
            if job.row.status == QUEUED
            and job.owner is None
            and not limits.is_blocked(job)
            and (job.row.deaths >= DEATHS_OF_SUSPECTS) == suspects
            and (offers is None or not job.row.requires or any(map(offers.meets, job.row.requires)))
        ]
        return self._lease(sorted(fit, key=lambda job: job.turn)[:limit], worker)

    def hold(self, job_id: str, worker: str, request: Request) -> Held | None:
        if (job := self.jobs.get(job_id)) is None:
            return None
        if job.row.status.is_final:
            return Held(None, None, request.key in job.keys)
        self._put(job, request)
        if job.owner is not None:
            return Held(None, job.owner)
        [claim] = self._lease([job], worker)
        return Held(claim, worker)

    def _put(self, job: ModelJob, request: Request) -> None:
        if request.key not in job.keys:
            job.keys.add(request.key)
            job.requests.append(replace(request, sequence=self._next()))

    def hold_due(self, worker: str, limit: int) -> list[Claim]:
        due = [(job.row.due_us, job.handle, job) for job in self.jobs.values() if job.row.due_us and not job.owner]
        return self._lease([job for at_us, _, job in sorted(due) if at_us <= self.now_us][:limit], worker)

    def next_due_us(self) -> int | None:
        return min((job.row.due_us for job in self.jobs.values() if job.row.due_us and not job.owner), default=None)

    def hold_orphans(self, worker: str) -> list[Claim]:
        return self._lease(
            [job for job in self.jobs.values() if job.owner not in (None, worker) and not self._lives(job.owner)],
            worker,
        )

    def hold_requested(self, worker: str, limit: int) -> list[Claim]:
        return self._lease([job for job in self.jobs.values() if job.requests and not job.owner][:limit], worker)

    def hold_again(self, worker: str, leases: Mapping[str, int]) -> list[Claim]:
        fit = [job for job in self.jobs.values() if job.owner == worker and leases.get(job.id) == job.epoch]
        return self._lease(fit, worker)

    def read_leases(self, worker: str) -> dict[str, int]:
        return {job.id: job.epoch for job in self.jobs.values() if job.owner == worker}

    def release(self, claim: Claim) -> None:
        job = self.jobs.get(claim.job_id)
        if job is not None and (job.owner, job.epoch) == (claim.owner, claim.epoch) and job.row.status != RUNNING:
            job.owner = None

    def jobs_with_requests(self, worker: str) -> list[str]:
        return [job.id for job in self.jobs.values() if job.owner == worker and job.requests]

    # ── commits ───────────────────────────────────────────────────────────────────────────────────────────────────

    def commit(self, commit: Commit) -> None:
        claim, job = commit.claim, self.jobs.get(commit.claim.job_id)
        if job is None:
            raise LeaseLost("gone")
        if (job.owner, job.epoch, job.row.last_event) != (claim.owner, claim.epoch, commit.expected):
            if not self._stands_written(job, commit):
                raise LeaseLost("lost")
            return
        left = [request for request in job.requests if request.sequence not in commit.drained]
        if left and commit.row.status.is_final:
            raise RequestsPending("left")
        if commit.row.status == RUNNING and job.limit is not None and not job.has_slot:
            raise StoreError("it waits for a slot")
        enters = job.row.status == CREATED and commit.row.status == QUEUED
        keeps_slot = limits.keeps(job, commit.row)
        entering = [job.new] * enters + [child for child in commit.children if child.row.status == QUEUED]
        freed = job.limit.key if job.limit is not None and job.has_slot and not keeps_slot else None
        limits.refuse(self.jobs.values(), entering, freed)
        job.has_slot = keeps_slot
        job.requests = left
        job.events += commit.events
        job.threads[claim.owner] += commit.abandoned
        job.move(commit.row, self.now_us)
        if commit.row.status != RUNNING:
            job.owner = None
        if commit.snapshot is not None:
            job.snapshot = (commit.row.last_event, commit.snapshot)
        children = [self._accept(child) for child in commit.children]
        for leak in commit.leaks:
            self.leaks.append(
                StoredLeak(
                    self._next(), job.id, leak.id, job.new.definition.workflow_id, leak.path, leak.name, leak.release,
                    leak.inputs, leak.error, self.now_us, 0,
                )
            )  # fmt: skip
        for job_id, request in commit.posts:
            if job_id in self.jobs and not self.jobs[job_id].row.status.is_final:
                self._put(self.jobs[job_id], request)
        self._let_in([job] * enters + children, [job] * (commit.row.status != RUNNING))

    def _stands_written(self, job: ModelJob, commit: Commit) -> bool:
        is_later_lease = job.epoch != commit.claim.epoch
        if is_later_lease and (commit.row.status == RUNNING or not commit.events):
            return False
        if len(job.events) < commit.expected:
            return False
        return job.events[commit.expected :][: len(commit.events)] == list(commit.events)

    def thread_ended(self, job_id: str, worker: str) -> None:
        if job_id in self.jobs and self.jobs[job_id].threads[worker] > 0:
            self.jobs[job_id].threads[worker] -= 1

    # ── workers ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _lives(self, worker: str | None) -> bool:
        return worker in self.workers and self.workers[worker].lease_until_us > self.now_us

    def register_worker(self, worker: str, info: WorkerInfo) -> None:
        since_us = self.workers[worker].registered_us if self._lives(worker) else self.now_us
        self.workers[worker] = StoredWorker(worker, info, since_us, self.now_us, self.now_us + LEASE_US, 0)

    def heartbeat(self, worker: str) -> bool:
        if not self._lives(worker):
            return False
        until_us = self.now_us + LEASE_US
        self.workers[worker] = replace(self.workers[worker], heartbeat_us=self.now_us, lease_until_us=until_us)
        return True

    def unregister_worker(self, worker: str) -> None:
        self.workers.pop(worker, None)
        for job in self.jobs.values():
            del job.threads[worker]

    def bury_workers(self) -> int:
        dead = [worker for worker in self.workers if not self._lives(worker)]
        for worker in dead:
            del self.workers[worker]
        return len(dead)

    def list_workers(self) -> list[StoredWorker]:
        alive = [one for one in self.workers.values() if self._lives(one.id)]
        alive.sort(key=lambda one: (one.registered_us, one.id))
        return [replace(one, jobs=len(self.read_leases(one.id))) for one in alive]

    # ── output, deleting, leaks ───────────────────────────────────────────────────────────────────────────────────

    def append_output(self, job_id: str, path: str, attempt: int, chunks: Sequence[OutputChunk]) -> None:
        if (job := self.jobs.get(job_id)) is None:
            return
        for chunk in chunks:
            end = max((one.last for one in job.output if (one.path, one.attempt) == (path, attempt)), default=0)
            if chunk.first >= end:
                cut, pieces = chunk.first - end, list(chunk.pieces)
                job.output.append(StoredOutput(self._next(), path, attempt, chunk.first, chunk.last, cut, pieces))

    def read_output(
        self, job_id: str, path: str | None, attempt: int | None, after: int, limit: int
    ) -> list[StoredOutput]:
        kept = self.jobs[job_id].output if job_id in self.jobs else []
        inside = (f"{path}.", f"{path}[")
        fit = [one for one in kept if path in (None, one.path) or one.path.startswith(inside)]
        fit = [one for one in fit if attempt in (None, one.attempt)]
        return [one for one in fit if one.sequence > after][:limit]

    def _family(self, job: ModelJob) -> list[ModelJob]:
        children = [one for one in self.jobs.values() if one.new.parent_id == job.id]
        return [job, *(member for child in children for member in self._family(child))]

    def delete(self, job_id: str) -> bool:
        job = self.jobs.get(job_id)
        if job is None or job.new.parent_id is not None or job.owner is not None:
            return False
        if job.row.status != CREATED and not job.row.status.is_final:
            return False
        return self._delete(job)

    def _delete(self, job: ModelJob) -> bool:
        family = self._family(job)
        if not all(one.row.status.is_final for one in family[1:]):
            return False
        for one in family:
            del self.jobs[one.id]
        return True

    def delete_final(self, before_us: int, limit: int) -> int:
        ended = [(job.row.completed_us, job.handle, job) for job in self.jobs.values() if job.row.completed_us]
        count = 0
        for at_us, _, job in sorted(ended):
            if count < limit and job.new.parent_id is None and at_us < before_us:
                count += self._delete(job)
        return count

    def note_leak(self, index: int, error: ErrorInfo) -> bool:
        if index >= len(self.leaks):
            return False
        self.leaks[index] = replace(self.leaks[index], error=error, tries=self.leaks[index].tries + 1)
        return True

    def drop_leak(self, index: int) -> bool:
        if index >= len(self.leaks):
            return False
        del self.leaks[index]
        return True


def _with_key(new: NewJob, known: Iterable[NewJob]) -> NewJob | None:
    """The job among those known that was accepted with the same idempotency key."""
    names = new.definition.workflow_id, new.idempotency_key
    same = (one for one in known if (one.definition.workflow_id, one.idempotency_key) == names)
    return None if new.idempotency_key is None else next(same, None)
