"""Who has a slot of a limit, as a plain model: written from the rules that `openagents_json.job.store.limits` states,
and sharing no code with it. Each question is answered by looking at all jobs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Protocol, TypeVar

from openagents_json.errors import LimitReached
from openagents_json.job.model import JobStatus
from openagents_json.job.store.limits import Limit
from openagents_json.job.store.records import JobRow, NewJob, Request

SHOWN = 10  # of those that have a slot
QUEUED, RUNNING = JobStatus.QUEUED, JobStatus.RUNNING


class Limited(Protocol):
    """What is asked of a job here; the model's own."""

    handle: int
    row: JobRow
    owner: str | None
    keys: set[str]
    has_slot: bool

    @property
    def id(self) -> str: ...

    @property
    def limit(self) -> Limit | None: ...

    @property
    def turn(self) -> tuple[int, int]: ...


Job = TypeVar("Job", bound=Limited)


def is_blocked(job: Limited) -> bool:
    """Whether it waits in the queue for a slot: no claim finds it."""
    return job.limit is not None and job.row.status == QUEUED and not job.has_slot


def holders(jobs: Iterable[Limited], key: str) -> list[Limited]:
    """Those that have a slot of the key, the oldest first."""
    return sorted((job for job in jobs if job.has_slot and _key(job) == key), key=lambda job: job.handle)


def keeps(job: Limited, row: JobRow) -> bool:
    """Whether a job has its slot still, when its row becomes this one."""
    if job.limit is None or not job.has_slot or row.status.is_final:
        return False
    stays_in_queue = job.row.status == row.status == QUEUED
    return row.status == RUNNING or stays_in_queue or (job.limit.hold == "job" and row.started_us is not None)


def refuse(jobs: Iterable[Limited], entering: Sequence[NewJob], freed: str | None = None) -> None:
    """`LimitReached` if not all of these may enter the queue; `freed` is the key of a slot that comes free."""
    jobs = list(jobs)
    let_in: list[str] = []
    for new in entering:
        if new.limit is not None and new.limit.overflow == "reject":
            key = new.limit.key
            if len(holders(jobs, key)) - (key == freed) + let_in.count(key) >= new.limit.limit:
                raise LimitReached("full", job_id=new.job_id, key=key, limit=new.limit.limit, held_by=[])
            let_in.append(key)


def enter(jobs: Iterable[Job], entering: Sequence[Job], now_us: int) -> list[tuple[Job, Request]]:
    """These are in the queue for the first time. Those whose limit rejects have a slot at once; of the others of a key
    only the newest stay where a limit replaces: what to ask the older ones."""
    newest: dict[str, Job] = {}
    for job in entering:
        assert job.limit is not None
        if job.limit.overflow == "reject":
            job.has_slot = True
        elif job.limit.overflow == "replace":
            newest[job.limit.key] = job
    asked: list[tuple[Job, Request]] = []
    for key, last in newest.items():
        assert last.limit is not None
        live = [job for job in jobs if _key(job) == key and (job.has_slot or is_blocked(job))]
        live = [job for job in live if not job.row.cancel_requested and "replaced" not in job.keys]
        replacing = [job for job in entering if _key(job) == key and job.limit and job.limit.overflow == "replace"]
        older = sorted((job for job in live if job not in replacing), key=lambda job: job.handle)
        for job in [*older, *replacing][: -last.limit.limit]:
            reason = f"job {last.id} replaces it"
            asked.append((job, Request("replaced", "cancel", "concurrency", reason, now_us, {"force": False})))
    return asked


def balance(jobs: Iterable[Limited], keys: Collection[str]) -> None:
    """The slots of these keys go to those that come first in the queue."""
    jobs = list(jobs)
    for key in keys:
        while blocked := [job for job in jobs if is_blocked(job) and _key(job) == key]:
            first = min(blocked, key=lambda job: job.turn)
            held = holders(jobs, key)
            assert first.limit is not None
            if len(held) >= first.limit.limit:
                last = max((job for job in held if _may_wait(job)), key=lambda job: job.turn, default=None)
                if last is None or last.turn < first.turn:
                    break
                last.has_slot = False
            first.has_slot = True


def _may_wait(job: Limited) -> bool:
    """Whether a job that has a slot makes way for one that comes before it."""
    assert job.limit is not None
    if job.row.status != QUEUED or job.owner is not None or job.limit.overflow == "reject":
        return False
    return job.limit.hold == "running" or job.row.started_us is None


def _key(job: Limited) -> str | None:
    return None if job.limit is None else job.limit.key
