"""`python -m benchmarks.scheduling [--quick]`: what it costs to know who runs next, and to say why.

On SQLite, through the store where the store is measured and through a manager where it is the whole. Prints a table;
nothing fails when a target is missed.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.table import Figure, as_markdown, as_text
from openagents_json import JobManager, OpenAgentsApp
from openagents_json.job.engine.admission import Admission, Needs, Verdict
from openagents_json.job.store import SqliteJobStore
from openagents_json.job.store.contract.jobs import new_job
from openagents_json.resources import STEPS, UNIT
from openagents_json.testing import FakeClock

SHORT, LONG = 1_000, 1_000_000  # jobs in the queue
CREATED = 10_000  # at once
AT_ONCE = 20  # jobs of one claim, or created in one transaction, where these are measured
SAMPLES = 50
LOW_JOBS = 100_000
LOW_AGE_S = 600.0
URGENT = 20
PRIORITIES = 10_000
EXPLAINED = 40
READY_STEPS, RESOURCES, DECISIONS = 10_000, 8, 200


def app_on(folder: Path, **options: Any) -> OpenAgentsApp:
    """One component that ends at once, and one that ends when it is told to."""
    app = OpenAgentsApp(store=f"sqlite:///{folder}/jobs.db", **options)

    @app.tool("note")
    async def note(n: int = 0) -> int:
        return n

    @app.tool("short")
    async def short(n: int = 0) -> int:
        await asyncio.sleep(0.005)
        return n

    number = {"type": "object", "properties": {"n": {"type": "integer"}}}
    for name in ("note", "short"):
        step = {"id": "s", "component": name, "inputs": {"n": "{{ inputs.n }}"}}
        app.register_workflow({"id": name, "inputs": number, "steps": [step]})
    return app


async def fill(jobs: JobManager, count: int, workflow: str = "note", priority: str = "MEDIUM") -> list[str]:
    """So many queued jobs."""
    ids: list[str] = []
    for first in range(0, count, CREATED):
        inputs = [{"n": n} for n in range(min(CREATED, count - first))]
        ids += await jobs.create_jobs(workflow, inputs, priority, start=True)
    return ids


async def flat(folder: Path, small: int) -> list[Figure]:
    """Enqueue and claim beside a short queue and a long one."""
    costs: dict[int, tuple[float, float]] = {}
    for count in (SHORT, LONG // small):
        place = folder / str(count)
        place.mkdir()
        async with app_on(place).manager(worker=False) as jobs:
            await fill(jobs, count)
        costs[count] = await _enqueue_and_claim(place)
    (enqueue, claim), (long_enqueue, long_claim) = costs.values()
    long = f"{LONG // small:,}"
    return [
        Figure(f"enqueue {AT_ONCE} jobs, {SHORT:,} queued, ms", enqueue * 1_000),
        Figure(f"… {long} queued, as a multiple", long_enqueue / enqueue, at_most=1.2),
        Figure(f"claim {AT_ONCE} jobs, {SHORT:,} queued, ms", claim * 1_000),
        Figure(f"… {long} queued, as a multiple", long_claim / claim, at_most=1.2),
    ]


async def _enqueue_and_claim(place: Path) -> tuple[float, float]:
    """Medians in seconds; the queue is about as long afterwards as before."""
    store, clock = SqliteJobStore(place / "jobs.db"), FakeClock()
    await store.open()
    try:
        await store.register_worker("bench")
        enqueue, claim = [], []
        for _ in range(SAMPLES):
            jobs = [new_job(clock) for _ in range(AT_ONCE)]
            started = time.perf_counter()
            await store.create_all(jobs)
            enqueue.append(time.perf_counter() - started)
            started = time.perf_counter()
            await store.claim("bench", AT_ONCE)
            claim.append(time.perf_counter() - started)
        return statistics.median(enqueue), statistics.median(claim)
    finally:
        await store.close()


async def urgent(folder: Path, small: int) -> list[Figure]:
    """Many LOW jobs that have waited for ten minutes, on a worker that is busy with them, and then one CRITICAL."""
    count = LOW_JOBS // small
    async with app_on(folder).manager(worker=False) as jobs:
        await fill(jobs, count, "short", "LOW")
        older = round(LOW_AGE_S * 1_000_000)
        await jobs.store._write("call", lambda connection: _make_older(connection, older))  # type: ignore[attr-defined]
    late = []
    async with app_on(folder).manager(max_jobs=2, max_preemptions=0) as jobs:
        for _ in range(URGENT):
            job = await jobs.wait(await jobs.create_job("note", {"n": 1}, "CRITICAL", start=True))
            ended = await jobs.list_jobs({"completed_at": {"after": job.created_at}}, order="completed_at", limit=1)
            free_at = next((one.completed_at for one in ended if one.id != job.id), None) or job.created_at
            assert job.started_at is not None, "it has ended"
            late.append((job.started_at - min(free_at, job.started_at)).total_seconds())
    return [
        Figure(
            f"CRITICAL among {count:,} LOW ones begins after a slot is free, median, ms", 1e3 * statistics.median(late)
        ),
        Figure("… slowest, ms", 1e3 * max(late), at_most=20.0),
    ]


def _make_older(connection: Any, by_us: int) -> int:
    values = (by_us, by_us)
    return int(connection.execute("UPDATE jobs SET sort_at = sort_at - ?, queued_us = queued_us - ?", values).rowcount)


async def explaining(folder: Path, small: int) -> list[Figure]:
    """`explain` of jobs at the front, in the middle and at the end of a long queue; and new priorities for many."""
    async with app_on(folder).manager(worker=False) as jobs:
        ids = await fill(jobs, LOW_JOBS // small)
        seconds = []
        for number in range(EXPLAINED):
            job_id = ids[number * (len(ids) - 1) // (EXPLAINED - 1)]
            started = time.perf_counter()
            await jobs.explain(job_id)
            seconds.append(time.perf_counter() - started)
        changed = ids[: PRIORITIES // small]
        started = time.perf_counter()
        await jobs.set_priorities("HIGH", ids=changed)
        took = time.perf_counter() - started
        started = time.perf_counter()
        await asyncio.gather(*(jobs.set_priority(job_id, "LOW") for job_id in changed))
        each = time.perf_counter() - started
    return [
        Figure(f"explain among {len(ids):,} queued jobs, median, ms", statistics.median(seconds) * 1_000, at_most=20),
        Figure("… slowest, ms", max(seconds) * 1_000),
        Figure(f"a new priority for {len(changed):,} jobs, s", took, at_most=1.0),
        Figure("… asked for one by one, all at a time, s", each),
    ]


@dataclass(eq=False)
class Waiter:
    """A job whose step waits."""

    number: int

    @property
    def job_id(self) -> str:
        return f"job-{self.number}"

    @property
    def standing(self) -> tuple[int, int]:
        return self.number % 97, self.number


async def deciding(folder: Path, small: int) -> list[Figure]:
    """A turn of one job whose step asks, where very many others wait for eight resources, and who is woken then."""
    names = [f"resource{number}" for number in range(RESOURCES)]
    chance = random.Random(1)
    admission: Admission[Waiter] = Admission(dict.fromkeys([STEPS, *names], 10 * UNIT))
    count = READY_STEPS // small
    waiters = [Waiter(number) for number in range(count + DECISIONS)]

    def ask(waiter: Waiter) -> Verdict:
        wanted = chance.sample(names, chance.randint(1, RESOURCES))
        return admission.ask(waiter, 0).take(Needs.of({name: UNIT * chance.randint(1, 10) for name in wanted}))

    granted = [verdict.grant for waiter in waiters[:count] if (verdict := ask(waiter)).grant is not None]
    seconds = []
    for waiter in waiters[count:]:
        started = time.perf_counter()
        verdict = ask(waiter)
        admission.wake()
        seconds.append(time.perf_counter() - started)
        if verdict.grant is not None:
            granted.append(verdict.grant)
        if granted:
            admission.give_back(granted.pop(0))
    return [
        Figure(f"a decision, {count:,} steps wait, {RESOURCES} resources, median, ms", 1e3 * statistics.median(seconds),
               at_most=1.0),
        Figure("… slowest, ms", 1e3 * max(seconds)),
    ]  # fmt: skip


async def main(arguments: Sequence[str]) -> None:
    """Measure and print."""
    small = 100 if "--quick" in arguments else 1
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(dir="/var/tmp" if Path("/var/tmp").is_dir() else None) as folder:
        for part in (flat, urgent, explaining, deciding):
            place = Path(folder, part.__name__)
            place.mkdir()
            figures += await part(place, small)
    print((as_markdown if "--markdown" in arguments else as_text)(figures))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
