"""A job as it goes from one store into another, and the rules of that which are the same for all stores. Pure.

Nobody holds a restored job: what was RUNNING belongs to the worker that ran it where it came from, which is dead here,
so `hold_orphans` finds it. A job that is on has a slot of its limit at once, the others wait for one in the queue.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from openagents_json.errors import IdempotencyConflict
from openagents_json.job.model import JobStatus
from openagents_json.job.store.limits import Book, limit_reached
from openagents_json.job.store.records import NewJob, Request, StoredLeak

ELSEWHERE = "elsewhere"  # who runs a RUNNING job of which nobody knows who did


@dataclass(frozen=True, slots=True)
class MovedJob:
    """What a store knows of a job, but for its lease, its output and what follows from the history.

    As it is read, `new` has no events, and its definition no document: these do not change, so they are read apart.
    As it is restored, it has all of them.
    """

    new: NewJob
    owner: str | None  # of a RUNNING job: the worker that runs it
    epoch: int
    queued_us: int | None
    queued_total_us: int
    requests: Sequence[Request] = ()  # undrained, oldest first
    drained: Sequence[str] = ()  # keys of the others, which were carried out
    leaks: Sequence[StoredLeak] = ()

    @property
    def id(self) -> str:
        return self.new.job_id

    @property
    def status(self) -> JobStatus:
        return self.new.row.status

    @property
    def keeper(self) -> str | None:
        """Who holds it when it has been restored: of a RUNNING job somebody who is dead, of others nobody."""
        return (self.owner or ELSEWHERE) if self.status == JobStatus.RUNNING else None

    @property
    def waits_since_us(self) -> int | None:
        """Since when it waits in the queue; of a job that does not, when it did so last."""
        return self.new.created_us if self.queued_us is None and self.status == JobStatus.QUEUED else self.queued_us

    @property
    def needs_slot(self) -> bool:
        """Whether it is on, so that it has a slot of its limit from the beginning or is refused."""
        limit, row = self.new.limit, self.new.row
        if limit is None or row.status.is_final or row.status == JobStatus.CREATED:
            return False
        if row.status == JobStatus.RUNNING or (limit.hold == "job" and row.started_us is not None):
            return True
        return row.status == JobStatus.QUEUED and limit.overflow == "reject"


def refuse_without_slot(book: Book, jobs: Iterable[MovedJob]) -> None:
    """`LimitReached` for the first that is on and finds no slot; then none is restored."""
    held: dict[str, int] = {}
    for job in jobs:
        limit = job.new.limit
        if limit is not None and job.needs_slot:
            held.setdefault(limit.key, book.held(limit.key))
            if held[limit.key] >= limit.limit:
                raise limit_reached(job.id, limit, book.holders(limit.key))
            held[limit.key] += 1


def queued_keys(jobs: Iterable[MovedJob]) -> set[str]:
    """Keys of limits for whose slots the jobs may wait."""
    return {job.new.limit.key for job in jobs if job.new.limit is not None and job.status == JobStatus.QUEUED}


def key_taken(job: NewJob, earlier_id: str) -> IdempotencyConflict:
    """The refusal of a job whose idempotency key another one has."""
    return IdempotencyConflict(
        f"The idempotency key {job.idempotency_key!r} of job {job.job_id} is that of job {earlier_id} here. Delete "
        "that job, or import without keys.",
        job_id=earlier_id,
    )


def keys_of(jobs: Iterable[MovedJob]) -> Iterable[tuple[NewJob, tuple[str, str]]]:
    """The jobs that have an idempotency key, each with (workflow id, key). `IdempotencyConflict` for two with the
    same."""
    known: dict[tuple[str, str], str] = {}
    for job in jobs:
        if job.new.idempotency_key is not None:
            key = (job.new.definition.workflow_id, job.new.idempotency_key)
            if key in known:
                raise key_taken(job.new, known[key])
            known[key] = job.id
            yield job.new, key
