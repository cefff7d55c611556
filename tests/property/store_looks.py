"""What can be read of a store, asked of the model and of all stores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any, TypeVar

from openagents_json.job.model import JobStatus, JobSummary
from openagents_json.job.store.output import StoredOutput
from openagents_json.job.store.query import ORDERS, build_query
from openagents_json.job.store.records import JobCounts, Listed
from tests.faults.sizes import Hits
from tests.property.store_model import Model, ModelJob
from tests.property.store_sides import Side, Sides

T = TypeVar("T")

WORKERS = ("w1", "w2", "w3")
ALL = 1_000
FILTERS: tuple[dict[str, Any], ...] = (
    {},
    {"workflow_id": ["calls", "elsewhere"]},
    {"status": ["QUEUED", "RUNNING"]},
    {"status": ["COMPLETED", "FAILED", "CANCELLED"], "priority": ["HIGH", "LOW", "MEDIUM"]},
    {"tags": ["red"]},
    {"tags": ["red", "blue"]},
    {"error_type": ["contract.broken"]},
    {"idempotency_key": ["k1", None]},
    {"parent_id": [None]},
    {"current_step": ["second", None]},
    {"pause_requested": [True]},
    {"start_at": None},
    {"wake_at": None},
    {"completed_at": None},
)


class Choice:
    """What an operation chooses: everything follows from its number, and 0 is the plainest of each kind."""

    def __init__(self, number: int) -> None:
        self._random = Random(number) if number else None

    def of(self, options: Sequence[T]) -> T:
        return options[0] if self._random is None else self._random.choice(options)

    def once_in(self, times: int) -> bool:
        return self._random is not None and self._random.randrange(times) == 0


class Looks:
    """Questions that change nothing."""

    def __init__(self, sides: Sides, model: Model, hits: Hits) -> None:
        self._sides = sides
        self._model = model
        self._hits = hits

    async def look(self, choice: Choice) -> None:
        """Everything that can be read of one job, and of one worker."""
        await self.look_at_job(choice.of([*self._model.jobs, "no-such-job"]), choice)
        await self.look_at_worker(choice.of(WORKERS))
        model, ask = self._model, self._sides.ask
        limit = choice.of((ALL, 1, 3))
        await ask(
            "count_jobs",
            lambda: _counts(model.count_jobs(limit), limit),
            lambda side: _counts_of(side, limit),
        )
        await ask("list_workers", model.list_workers, lambda side: side.store.list_workers())
        await ask("list_leaks", lambda: model.leaks[:limit], lambda side: side.store.list_leaks(0, limit))
        await ask("count_leaks", lambda: len(model.leaks), lambda side: side.store.count_leaks())
        hashes = sorted(model.definitions)
        after = choice.of(["", *hashes])
        await ask(
            "definition_hashes",
            lambda: [one for one in hashes if one > after],
            lambda side: side.store.definition_hashes(after),
        )
        await ask(
            "read_definition", lambda: model.definitions.get(after), lambda side: side.store.read_definition(after)
        )

    async def look_at_job(self, job_id: str, choice: Choice) -> None:
        model, ask = self._model, self._sides.ask
        job = model.jobs.get(job_id)
        after, limit = choice.of((0, 1, 4, 99)), choice.of((ALL, 1, 3))
        await ask("read", lambda: model.read(job_id), lambda side: side.store.read(job_id))
        await ask("read_summary", lambda: job and model.summary(job), lambda side: side.store.read_summary(job_id))
        await ask(
            "read_definition_hash",
            lambda: job and job.new.definition.hash,
            lambda side: side.store.read_definition_hash(job_id),
        )
        await ask("read_limit", lambda: model.read_limit(job_id), lambda side: side.store.read_limit(job_id))
        await ask(
            "read_events",
            lambda: model.read_events(job_id, after, limit),
            lambda side: side.store.read_events(job_id, after, limit),
        )
        await self.read_requests(job_id)
        ending = job_id[-choice.of((2, 5)) :]
        await ask(
            "find_ids",
            lambda: sorted(one for one in model.jobs if one.startswith(ending) or one.endswith(ending))[:5],
            lambda side: side.store.find_ids(ending),
        )
        await self._look_at_output(job_id, choice)

    async def read_requests(self, job_id: str) -> None:
        job = self._model.jobs.get(job_id)
        await self._sides.ask(
            "read_requests", lambda: list(job.requests) if job else [], lambda side: side.read_requests(job_id)
        )

    async def _look_at_output(self, job_id: str, choice: Choice) -> None:
        path, attempt = choice.of((None, "first", "second")), choice.of((None, 1, 2))
        limit, skipped = choice.of((ALL, 2)), choice.of((0, 1, 2))
        job = self._model.jobs.get(job_id)

        async def asked(side: Side) -> Any:
            kept = await side.store.read_output(job_id, limit=ALL)
            after = kept[skipped - 1].sequence if 0 < skipped <= len(kept) else 0
            return await side.store.read_output(job_id, path, attempt, after, limit)

        kept = job.output if job else []
        after = kept[skipped - 1].sequence if 0 < skipped <= len(kept) else 0
        found = await self._sides.ask(
            "read_output", lambda: self._model.read_output(job_id, path, attempt, after, limit), asked
        )
        self._hits.count("cut output", any(one.cut for one in found if isinstance(one, StoredOutput)))

    async def look_at_worker(self, worker: str) -> None:
        model, ask = self._model, self._sides.ask
        await ask("read_leases", lambda: model.read_leases(worker), lambda side: side.store.read_leases(worker))
        await ask(
            "jobs_with_requests",
            lambda: model.jobs_with_requests(worker),
            lambda side: side.store.jobs_with_requests(worker),
            in_order=False,
        )

    async def page(self, choice: Choice) -> None:
        """A listing with a filter and an order, perhaps from the middle on."""
        order = choice.of(("-", "")) + choice.of(tuple(ORDERS))
        await self.list(choice.of(FILTERS), order, choice.of((ALL, 2, 1)), choice.of((0, 1, 2, 3)))

    async def list(self, filters: dict[str, Any], order: str, limit: int, skipped: int = 0) -> None:
        fit = [job for job in self._model.jobs.values() if fits(self._model.summary(job), filters)]
        placed = [(_place(job, order), job) for job in fit]
        placed.sort(key=lambda pair: (pair[0] is not None, pair[0] or 0, pair[1].handle), reverse=order[0] == "-")
        edge = placed[skipped - 1] if 0 < skipped <= len(placed) else None
        query = build_query(filters, order=order, limit=limit)
        by_key = query.order == "key"

        async def asked(side: Side) -> list[Listed]:
            handle = side.handles[edge[1].id] if edge else 0
            cursor = (handle if by_key else edge[0], handle) if edge else None
            found = await side.store.list_jobs(replace(query, cursor=cursor))
            return [replace(one, position=(None, one.position[1])) for one in found] if by_key else found

        rest = placed[skipped if edge else 0 :][:limit]
        await self._sides.ask(
            f"list_jobs {filters} by {order}, {limit} after {skipped}",
            lambda: [Listed(self._model.summary(job), (None if by_key else value, job.handle)) for value, job in rest],
            asked,
        )
        self._hits.count("second page", edge is not None and len(rest) > 0)


def fits(row: JobSummary, filters: dict[str, Any]) -> bool:
    """Whether a job is in a listing with these filters."""
    for name, values in filters.items():
        if name == "tags":
            if not set(values) <= set(row.tags):
                return False
        elif values is None:
            due = {"start_at": JobStatus.CREATED, "wake_at": JobStatus.WAITING}.get(name, row.status)
            if getattr(row, name) is not None or row.status != due:
                return False
        elif getattr(row, name) not in values:
            return False
    return True


def _place(job: ModelJob, order: str) -> int | None:
    match order.removeprefix("-"):
        case "completed_at":
            return job.row.completed_us
        case "started_at":
            return job.row.started_us
        case "priority":
            return job.row.rank
    return job.handle


def _counts(counts: JobCounts, limit: int) -> JobCounts:
    """Without a time that was looked for among some of the jobs only."""
    if counts.by_status.get(JobStatus.QUEUED, 0) < limit:
        return counts
    return replace(counts, oldest_queued_us=None)


async def _counts_of(side: Side, limit: int) -> JobCounts:
    return _counts(await side.store.count_jobs(limit), limit)
