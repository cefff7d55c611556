"""`python -m benchmarks.waiting`: what jobs cost that wait for a signal or a timer, and how fast they wake.

Prints a table; nothing fails when a target is missed.
"""

from __future__ import annotations

import asyncio
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil

from benchmarks.bare import replay
from benchmarks.table import Figure, as_markdown, as_text
from openagents_json import Event, JobManager, OpenAgentsApp

JOBS = 10_000
CLIENTS = 256
SINGLE_WAKES = 40
MIB = 1024 * 1024
SIGNAL: dict[str, Any] = {"id": "signal-wait", "steps": [{"id": "s", "signal": "go"}]}
TIMER: dict[str, Any] = {
    "id": "timer-wait",
    "inputs": {"type": "object", "properties": {"until": {"type": "string"}}, "required": ["until"]},
    "steps": [{"id": "w", "wait": {"until": "{{ inputs.until }}"}}],
}

ALL_BY_SIGNAL, ALL_BY_TIMER = "… all at once, sending included", "… all at once"
_WORKFLOWS = {ALL_BY_SIGNAL: SIGNAL["id"], ALL_BY_TIMER: TIMER["id"]}
INBOX_BYTES = 120  # of a request as it stands in the inbox


async def main(jobs_count: int, as_md: bool) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(dir="/var/tmp" if Path("/var/tmp").is_dir() else None) as folder:
        app = OpenAgentsApp(store=f"sqlite:///{folder}/waiting.db")
        app.register_workflow(SIGNAL)
        app.register_workflow(TIMER)
        async with app.jobs as jobs:
            figures = await _signals(jobs, jobs_count) + await _timers(jobs, jobs_count)
        figures = [await _beside_bare(figure, Path(folder), jobs_count) for figure in figures]
    print((as_markdown if as_md else as_text)(figures))


async def _beside_bare(figure: Figure, folder: Path, count: int) -> Figure:
    """The rate of wakes with that of plain SQLite, which writes the same: of a signal the inbox row and then the events
    of the wake, of a timer the events alone. Their size is that of the last row of some job's history."""
    if figure.unit != "jobs/s":
        return figure
    with closing(sqlite3.connect(folder / "waiting.db")) as database:
        query = "SELECT events FROM history JOIN jobs ON key = job WHERE workflow_id = ? ORDER BY sequence DESC LIMIT 1"
        (events,) = database.execute(query, (_WORKFLOWS[figure.name],)).fetchone()
    commits = [[INBOX_BYTES], [len(events)]] if figure.name == ALL_BY_SIGNAL else [[len(events)]]
    written = await replay(folder / f"{_WORKFLOWS[figure.name]}.db", [commits] * count, waiters=CLIENTS)
    return replace(figure, bare=count / written.seconds)


async def _signals(jobs: JobManager, count: int) -> list[Figure]:
    await _wake_one_by_signal(jobs)  # imports and first pages are not what is measured
    before = _memory()
    async with _all_of(jobs, count, "job.waiting"):
        ids = await _start(jobs, count, "signal-wait", {})
    more = _memory() - before
    cpu = await _idle_cpu()
    single = [await _wake_one_by_signal(jobs) for _ in range(SINGLE_WAKES)]
    started = time.perf_counter()
    async with _all_of(jobs, count, "job.completed"):
        await _with_clients(ids, lambda job_id: jobs.signal(job_id, "go", 1))
    seconds = time.perf_counter() - started
    return [
        Figure(f"{count:,} jobs that wait for a signal, more memory", more, "MB", at_most=60),
        Figure("… CPU meanwhile", 100 * cpu, "%", at_most=1.0),
        Figure("… one of them wakes, p50", 1000 * statistics.median(single), "ms", at_most=50),
        Figure("… one of them wakes, slowest", 1000 * max(single), "ms"),
        Figure(ALL_BY_SIGNAL, count / seconds, "jobs/s", at_least=2_000),
    ]


async def _timers(jobs: JobManager, count: int) -> list[Figure]:
    late = [await _lateness(jobs) for _ in range(5)]
    due = datetime.now(UTC) + timedelta(seconds=max(20.0, count / 200))
    before = _memory()
    async with _all_of(jobs, count, "job.waiting"):
        await _start(jobs, count, "timer-wait", {"until": due.isoformat()})
    more = _memory() - before
    async with _all_of(jobs, count, "job.completed"):
        await asyncio.sleep(max((due - datetime.now(UTC)).total_seconds(), 0))
        started = time.perf_counter()
    seconds = time.perf_counter() - started
    return [
        Figure(f"{count:,} jobs that wait for a timer, more memory", more, "MB", at_most=60),
        Figure("… one of them wakes late by", 1000 * statistics.median(late), "ms", at_most=50),
        Figure(ALL_BY_TIMER, count / seconds, "jobs/s", at_least=2_000),
    ]


async def _wake_one_by_signal(jobs: JobManager) -> float:
    job_id = await jobs.create_job("signal-wait", start=True)
    while (await jobs.get_summary(job_id)).status != "WAITING":  # noqa: ASYNC110 - a row changes without a signal
        await asyncio.sleep(0.002)
    started = time.perf_counter()
    await jobs.signal(job_id, "go", 1)
    await jobs.wait(job_id)
    return time.perf_counter() - started


async def _lateness(jobs: JobManager) -> float:
    """Seconds between the time that a job waits for and its end; longer than `linger_s`, so that it is let go of."""
    due = datetime.now(UTC) + timedelta(seconds=jobs.settings.linger_s + 0.3)
    job_id = await jobs.create_job("timer-wait", {"until": due.isoformat()}, start=True)
    await jobs.wait(job_id)
    return (datetime.now(UTC) - due).total_seconds()


async def _start(jobs: JobManager, count: int, workflow: str, inputs: dict[str, Any]) -> list[str]:
    ids: list[str] = []

    async def create(_: int) -> None:
        ids.append(await jobs.create_job(workflow, inputs, start=True))

    await _with_clients(list(range(count)), create)
    return ids


async def _with_clients(items: list[Any], do: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
    todo: Iterator[Any] = iter(items)

    async def client() -> None:
        for item in todo:
            await do(item)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(CLIENTS):
            tasks.create_task(client())


@asynccontextmanager
async def _all_of(jobs: JobManager, count: int, type: str) -> AsyncIterator[None]:
    """Leave the block when so many jobs have told of an event of that type since it was entered."""
    done, seen = asyncio.Event(), 0

    def hear(job_id: str, event: Event) -> None:
        nonlocal seen
        seen += 1
        if seen == count:
            done.set()

    off = jobs.on(type, hear)
    yield
    await done.wait()
    off.cancel()


async def _idle_cpu() -> float:
    process, seconds = time.process_time(), 4.0
    await asyncio.sleep(seconds)
    return (time.process_time() - process) / seconds


def _memory() -> float:
    return float(psutil.Process().memory_info().rss) / MIB


if __name__ == "__main__":
    numbers = [int(one) for one in sys.argv[1:] if one.isdigit()]
    asyncio.run(main(numbers[0] if numbers else JOBS, "--markdown" in sys.argv))
