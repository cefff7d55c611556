"""The workloads, run through the public API with default settings. Each returns a `Run`: what it took and wrote.

Every run uses a new database, measures, and then checks each job's history (outside of the measured time).
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.bare import JobRows
from benchmarks.verify import check_history
from openagents_json import JobManager, OpenAgentsApp

CLIENTS = 200  # jobs that wait to be finished at a time: fewer than a worker runs, so that each begins at once
CHAIN = 500
WIDE = 500
CREATED_AT_ONCE = 10_000
LIMITED: dict[str, Any] = {"id": "limited", "concurrency": 1, "steps": [{"id": "never", "signal": "never"}]}
TICK_S = 0.001
HISTORY_ROW_EVENTS = 256  # a commit of more events takes several rows, all but the last with this many


@dataclass(slots=True)
class Run:
    """One run of a workload. `steps` counts component steps; `stats` is what the store counted meanwhile."""

    jobs: int
    steps: int
    seconds: float = 0.0
    cpu_s: float = 0.0  # of the whole process, all threads
    loop_gap_s: float = 0.0  # how much too late the latest tick of TICK_S came
    stats: dict[str, int] = field(default_factory=dict)  # commits, rows, syncs
    job_seconds: list[float] = field(default_factory=list)  # of each job, where they run one after another
    rows: list[JobRows] = field(default_factory=list)  # of each job


# ── the application under test ────────────────────────────────────────────────────────────────────────────────────


def bench_app(place: Path | str, **options: Any) -> OpenAgentsApp:
    """An application on an SQLite file, or on the store of a URL, with the components and workflows of the
    benchmarks."""
    app = OpenAgentsApp(store=f"sqlite:///{place}" if isinstance(place, Path) else place, **options)

    @app.tool("bench.add", isolation="inline")
    async def add(n: int) -> int:
        return n + 1

    @app.tool("bench.total", isolation="inline")
    async def total(numbers: list[int]) -> int:
        return sum(numbers)

    for workflow in (chain_workflow(1), chain_workflow(10), chain_workflow(CHAIN), wide_workflow(), LIMITED):
        app.register_workflow(workflow)
    return app


def chain_workflow(steps: int) -> dict[str, Any]:
    """`chain-N`: N steps, each adding one to what the step before made."""
    sources = ["{{ inputs.n }}", *(f"{{{{ steps.s{number}.output }}}}" for number in range(1, steps))]
    return {
        "id": f"chain-{steps}",
        "version": "1.0.0",
        "inputs": {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}},
        "steps": [
            {"id": f"s{number}", "component": "bench.add", "inputs": {"n": source}}
            for number, source in enumerate(sources, 1)
        ],
        "outputs": {"n": f"{{{{ steps.s{steps}.output }}}}"},
    }


def wide_workflow() -> dict[str, Any]:
    """`wide`: a step for each of the given numbers, all at once, and one that joins them."""
    return {
        "id": "wide",
        "version": "1.0.0",
        "inputs": {
            "type": "object",
            "required": ["numbers"],
            "properties": {"numbers": {"type": "array", "items": {"type": "integer"}}},
        },
        "steps": [
            {
                "id": "each",
                "foreach": "{{ inputs.numbers }}",
                "concurrency": WIDE,
                "steps": [{"id": "one", "component": "bench.add", "inputs": {"n": "{{ item }}"}}],
            },
            {"id": "join", "component": "bench.total", "inputs": {"numbers": "{{ steps.each.output }}"}},
        ],
        "outputs": {"total": "{{ steps.join.output }}"},
    }


@asynccontextmanager
async def open_jobs(place: Path | str, commit_delay_s: float = 0.0, **options: Any) -> AsyncIterator[JobManager]:
    """A running job manager on that store. `commit_delay_s` is slept before each COMMIT, as a slow disk would."""
    async with bench_app(place, **options).jobs as jobs:
        jobs.store.commit_delay_s = commit_delay_s  # type: ignore[attr-defined]  # a hook of the stores with a database
        yield jobs


# ── workloads ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def chains(place: Path | str, jobs: int, steps: int, commit_delay_s: float = 0.0, clients: int = CLIENTS) -> Run:
    """`jobs` jobs of `steps` steps one after the other, `clients` of them at a time, each created and waited for. The
    rows of a store that is no file are not read back."""
    async with open_jobs(place, commit_delay_s) as manager:
        await _warm_up(manager, steps)
        run = Run(jobs, jobs * steps)
        with_ids: list[str] = []
        todo = iter(range(jobs))
        async with _measured(run, manager), asyncio.TaskGroup() as tasks:
            for _ in range(min(clients, jobs)):
                tasks.create_task(_run_chains(manager, todo, steps, with_ids, run.job_seconds))
                await asyncio.sleep(0)  # clients come one after another, not all in one turn of the loop
        await _check(manager, with_ids, steps)
    if isinstance(place, Path):
        run.rows = rows_written(place, with_ids)
    return run


async def wide(path: Path, commit_delay_s: float = 0.0) -> Run:
    """One job of WIDE parallel steps and a join."""
    numbers = list(range(WIDE))
    async with open_jobs(path, commit_delay_s) as manager:
        await _warm_up(manager, 1)
        run = Run(1, WIDE + 1)
        async with _measured(run, manager):
            job_id = await manager.create_job("wide", {"numbers": numbers}, start=True)
            job = await manager.wait(job_id)
        _expect(job.outputs, {"total": sum(numbers) + WIDE}, job_id)
        await _check(manager, [job_id], WIDE + 1)
    run.rows = rows_written(path, [job_id])
    return run


async def idle(path: Path, seconds: float) -> Run:
    """A manager with nothing to do."""
    async with open_jobs(path) as manager:
        await _warm_up(manager, 1)
        await asyncio.sleep(0.5)  # what follows a job (release, snapshot) is not idleness
        run = Run(0, 0)
        async with _measured(run, manager, tick=False):
            await asyncio.sleep(seconds)
    return run


async def fill(path: Path, jobs: int) -> None:
    """Put that many one-step jobs into the queue of a store on which no worker runs."""
    todo = iter(range(jobs))

    async def create() -> None:
        for n in todo:
            await manager.create_job("chain-1", {"n": n}, start=True)

    async with open_jobs(path, worker=False) as manager, asyncio.TaskGroup() as tasks:
        for _ in range(CLIENTS):
            tasks.create_task(create())


async def fill_key(path: Path, jobs: int) -> None:
    """Put that many jobs into the queue of a store that have to wait: another job has the only slot of their key, and
    waits itself."""
    async with open_jobs(path) as manager:
        holder = await manager.create_job(LIMITED["id"], start=True)
        async for event in manager.watch(holder):
            if event.type == "job.waiting":
                break
        inputs: list[dict[str, Any]] = [{}] * min(jobs, CREATED_AT_ONCE)
        for _ in range(0, jobs, CREATED_AT_ONCE):
            await manager.create_jobs(LIMITED["id"], inputs, start=True)


async def _run_chains(
    manager: JobManager, todo: Iterator[int], steps: int, job_ids: list[str], durations: list[float]
) -> None:
    for n in todo:
        started = time.perf_counter()
        job_id = await manager.create_job(f"chain-{steps}", {"n": n}, start=True)
        job = await manager.wait(job_id)
        durations.append(time.perf_counter() - started)
        _expect(job.outputs, {"n": n + steps}, job_id)
        job_ids.append(job_id)


async def _warm_up(manager: JobManager, steps: int) -> None:
    """One job before the clock starts: imports, first pages and compiled expressions are not what is measured."""
    await manager.wait(await manager.create_job(f"chain-{steps}", {"n": 0}, start=True))


# ── measuring and checking ────────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def _measured(run: Run, manager: JobManager, tick: bool = True) -> AsyncIterator[None]:
    """Fill in what the body takes: time, CPU, the store's counters, the widest gap between two ticks of the loop."""
    ticker = asyncio.create_task(_tick(run)) if tick else None
    before = manager.store.stats()
    started, cpu_started = time.perf_counter(), time.process_time()
    try:
        yield
    finally:
        run.seconds, run.cpu_s = time.perf_counter() - started, time.process_time() - cpu_started
        run.stats = {name: count - before.get(name, 0) for name, count in manager.store.stats().items()}
        if ticker is not None:
            ticker.cancel()


async def _tick(run: Run) -> None:
    while True:
        started = time.perf_counter()
        await asyncio.sleep(TICK_S)
        run.loop_gap_s = max(run.loop_gap_s, time.perf_counter() - started - TICK_S)


async def _check(manager: JobManager, job_ids: Sequence[str], steps: int) -> None:
    for job_id in job_ids:
        events = [event async for event in manager.watch(job_id)]  # ends by itself after the final event
        check_history(job_id, events, component_steps=steps)


def _expect(outputs: Any, expected: dict[str, Any], job_id: str) -> None:
    if dict(outputs) != expected:
        raise AssertionError(f"job {job_id} ended with {dict(outputs)} instead of {expected}")


def rows_written(path: Path, job_ids: Sequence[str]) -> list[JobRows]:
    """What these jobs wrote into their histories, for `bare.replay`. Reads our schema, after the store is closed."""
    connection = sqlite3.connect(path)
    try:
        found = connection.execute(
            "SELECT jobs.id, first, last, length(events) FROM history JOIN jobs ON jobs.key = history.job"
            " ORDER BY jobs.key, sequence"
        ).fetchall()
    finally:
        connection.close()
    of_job = {job_id: list(rows) for job_id, rows in groupby(found, key=lambda row: row[0])}
    return [by_commit(of_job[job_id]) for job_id in job_ids]


def by_commit(rows: Sequence[tuple[str, int, int, int]]) -> JobRows:
    """The history of a job, rows of (id, first, last, bytes), as the sizes of the rows of each commit."""
    commits: list[list[int]] = []
    is_continued = False
    for _, first, last, size in rows:
        if is_continued:
            commits[-1].append(size)
        else:
            commits.append([size])
        is_continued = last - first + 1 == HISTORY_ROW_EVENTS
    return commits
