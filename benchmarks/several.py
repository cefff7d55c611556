"""`python -m benchmarks.several [--backlog]`: several programs on one store, what a restart costs, and large jobs.

On SQLite; `reach_and_takeover` serves `benchmarks.postgres`, too. Prints a table; nothing fails when a target is
missed. With `--backlog` also the queue of a million jobs, which takes some minutes.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from benchmarks.table import Figure, as_markdown, as_text
from openagents_json import JobManager, OpenAgentsApp
from openagents_json.job.store import SqliteJobStore
from openagents_json.job.store.base import DEFAULT_LEASE_S
from openagents_json.resources import Offers

ROOT = Path(__file__).resolve().parents[1]
VERBS = 20  # of each kind
TAKEOVER_S = 5  # after the end of a lease
INTERRUPTED = 10_000
CREATED = 10_000  # at once, PASSES times
PASSES = 3
WIDE_ITEMS = 9_700  # of five steps each: nearly 100,000 events, the limit
WOKEN_ITEMS = 970
ASKED = 10
BACKLOG, SMALL = 1_000_000, 1_000
CLAIMS, CLAIM_SIZE = 200, 20
NUMBER = {"type": "object", "properties": {"n": {"type": "integer"}}}
NOTES = [{"id": f"s{n}", "component": "note"} for n in range(5)]
WORKFLOWS: list[dict[str, Any]] = [
    {"id": "busy", "steps": [
        {"id": "both", "parallel": {
            "works": [{"id": "s", "component": "stay"}],
            "listens": [{"id": "rounds", "repeat": {"max_iterations": 1_000, "until": "{{ 1 == 2 }}"},
                         "steps": [{"id": "hears", "signal": "news"}]}],
        }},
    ]},
    {"id": "stays", "steps": [{"id": "s", "component": "stay"}]},
    {"id": "note", "inputs": NUMBER, "steps": [{"id": "s", "component": "note", "inputs": {"n": "{{ inputs.n }}"}}]},
    {"id": "wide", "inputs": NUMBER, "steps": [
        {"id": "each", "foreach": "{{ range(inputs.n) }}", "steps": NOTES},
        {"id": "then", "signal": "go"},
    ]},
]  # fmt: skip


def app_on(url: str) -> OpenAgentsApp:
    """The components and workflows of this benchmark, on that store."""
    app = OpenAgentsApp(store=url)

    @app.tool("stay")
    async def stay() -> None:
        await asyncio.Event().wait()

    @app.tool("note")
    async def note(n: int = 0) -> int:
        return n

    for workflow in WORKFLOWS:
        app.register_workflow(workflow)
    return app


def store_in(folder: Path) -> str:
    """The URL of the SQLite store in a folder."""
    return f"sqlite:///{folder}/several.db"


async def work(url: str, max_jobs: int, lease_s: float) -> None:
    """What the other programs do: run jobs until they are killed."""
    async with app_on(url).manager(max_jobs=max_jobs, max_steps=20_000, lease_s=lease_s):
        print("ready", flush=True)
        await asyncio.Event().wait()


@asynccontextmanager
async def worker(
    url: str, max_jobs: int = 256, lease_s: float = DEFAULT_LEASE_S
) -> AsyncIterator[subprocess.Popen[str]]:
    """A program that runs jobs; killed at the end."""
    arguments = [sys.executable, "-m", "benchmarks.several", "work", url, str(max_jobs), str(lease_s)]
    process = await asyncio.to_thread(subprocess.Popen, arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        said = await asyncio.to_thread(process.stdout.readline)
        assert said == "ready\n", "the worker did not start"
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


async def event_of(jobs: JobManager, job_id: str, type: str, after: int = 0) -> Any:
    """The next event of a type."""
    async for event in jobs.watch(job_id, after):
        if event.type == type:
            return event
    raise AssertionError(f"the job ended without {type}")


async def reach_and_takeover(
    url: str, reach_ms_at_most: float, lease_s: float = DEFAULT_LEASE_S, *, ends_with_process: bool = True
) -> list[Figure]:
    """How long a verb takes from one program to the job's owner in another, and a job from a dead owner to the next.
    `ends_with_process`: on this store a lease ends when its worker does; else when its time is up."""
    app = app_on(url)
    async with worker(url, lease_s=lease_s) as first, app.manager(worker=False, lease_s=lease_s) as jobs:
        job_id = await jobs.create_job("busy", start=True)
        await event_of(jobs, job_id, "attempt.started")
        reach_ms: list[float] = []
        after = (await jobs.get_summary(job_id)).events
        verbs: Sequence[tuple[str, Callable[[int], Awaitable[Any]]]] = (
            ("signal.received", lambda n: jobs.signal(job_id, "news", n)),
            ("job.priority_changed", lambda n: jobs.set_priority(job_id, ("HIGH", "LOW")[n % 2])),
            ("job.pause_requested", lambda n: jobs.pause_job(job_id)),
            ("job.pause_withdrawn", lambda n: jobs.resume_job(job_id)),
        )
        for n in range(VERBS):
            for type, ask in verbs:
                asked_us = time.time_ns() // 1_000
                await ask(n)
                event = await event_of(jobs, job_id, type, after)
                after = event.number
                reach_ms.append((event.at_us - asked_us) / 1e3)
        async with worker(url, lease_s=lease_s):
            killed_us = time.time_ns() // 1_000
            first.send_signal(signal.SIGKILL)
            lost = await event_of(jobs, job_id, "job.worker_lost", after)
        await jobs.cancel_job(job_id, force=True)
    return [
        Figure("a verb reaches the owner in another program, median", statistics.median(reach_ms), "ms"),
        Figure("… slowest", max(reach_ms), "ms", at_most=reach_ms_at_most),
        Figure(
            f"a killed worker's job is taken over{'' if ends_with_process else f', leases of {lease_s:g} s,'} after",
            (lost.at_us - killed_us) / 1e6, "s", at_most=TAKEOVER_S + (0 if ends_with_process else lease_s),
        ),
    ]  # fmt: skip


async def reach_on_sqlite(folder: Path) -> list[Figure]:
    """`reach_and_takeover` there."""
    return await reach_and_takeover(store_in(folder), 200)


async def recovery(folder: Path) -> list[Figure]:
    """A program is killed with many running jobs; the next one starts."""
    async with app_on(store_in(folder)).manager(worker=False) as jobs:
        await jobs.create_jobs("stays", [{}] * INTERRUPTED, start=True)
        async with worker(store_in(folder), INTERRUPTED) as process:
            while True:
                page = await jobs.list_jobs({"status": "QUEUED", "workflow_id": "stays"}, limit=1)
                if not page.jobs:
                    break
                await asyncio.sleep(0.2)
            process.send_signal(signal.SIGKILL)
            process.wait()
    started = time.perf_counter()
    next_one = app_on(store_in(folder)).manager(max_jobs=1)
    await next_one.open()
    seconds = time.perf_counter() - started
    running = len(await next_one.list_jobs({"status": "RUNNING"}, limit=10))
    [row, *_] = await next_one.list_jobs({"workflow_id": "stays"}, limit=1)
    folds = []
    for _ in range(200):
        stored = await next_one.store.read(row.id)
        assert stored is not None
        began = time.perf_counter()
        plan = await next_one._plans.get(stored.definition_hash)
        next_one._plans.fold(plan, None, stored.events)
        folds.append(time.perf_counter() - began)
    await next_one.close()
    assert running <= 1, "not all interrupted jobs are claimable"
    return [
        Figure(f"{INTERRUPTED:,} interrupted jobs are claimable after a restart", seconds, "s", at_most=5),
        Figure("… each is folded in, median", 1e3 * statistics.median(folds), "ms", at_most=1),
    ]


async def creation(folder: Path) -> list[Figure]:
    """Many jobs at once."""
    async with app_on(store_in(folder)).manager(worker=False) as jobs:
        rates = []
        for _ in range(PASSES):
            started = time.perf_counter()
            await jobs.create_jobs("note", [{"n": n} for n in range(CREATED)])
            rates.append(CREATED / (time.perf_counter() - started))
    return [Figure("create_jobs, 10,000 at once, median", statistics.median(rates), "jobs/s", at_least=10_000)]


async def large_jobs(folder: Path) -> list[Figure]:
    """The status of a job with 100,000 events, and the wake of one with 10,000."""
    async with app_on(store_in(folder)).manager() as jobs:
        wide = await jobs.create_job("wide", {"n": WIDE_ITEMS}, start=True)
        await event_of(jobs, wide, "job.waiting")
        statuses = []
        for _ in range(ASKED):
            began = time.perf_counter()
            await jobs.get_job_status(wide)
            statuses.append(time.perf_counter() - began)
        events = (await jobs.get_summary(wide)).events
        wakes = []
        for _ in range(ASKED):
            job_id = await jobs.create_job("wide", {"n": WOKEN_ITEMS}, start=True)
            waiting = await event_of(jobs, job_id, "job.waiting")
            began = time.perf_counter()
            await jobs.signal(job_id, "go", 1)
            await event_of(jobs, job_id, "job.completed", waiting.number)
            wakes.append(time.perf_counter() - began)
        await jobs.cancel_job(wide)
    return [
        Figure(f"status of a job with {events:,} events, median", 1e3 * statistics.median(statuses), "ms", at_most=50),
        Figure("wake of a job with 10,000 events, median", 1e3 * statistics.median(wakes), "ms", at_most=20),
    ]


async def backlog(folder: Path) -> list[Figure]:
    """Claims from a long queue, compared with a short one, and again after many claims."""
    rates: dict[str, float] = {}
    for name, count in (("of 1,000", SMALL), ("of 1,000,000", BACKLOG)):
        place = folder / str(count)
        place.mkdir()
        async with app_on(store_in(place)).manager(worker=False) as jobs:
            for first in range(0, count, CREATED):
                await jobs.create_jobs("note", [{"n": n} for n in range(min(CREATED, count - first))], start=True)
        rates[name] = await _claim_rate(place, SMALL // CLAIM_SIZE)
        if count == BACKLOG:
            await _claim_rate(place, 200_000 // 1_000, 1_000)
            rates["after 200,000 claims"] = await _claim_rate(place, CLAIMS)
    small = rates.pop("of 1,000")
    return [
        Figure("claims from a queue of 1,000", small, "jobs/s"),
        *(Figure(f"… {name}, as a multiple", rate / small, "", at_least=0.8) for name, rate in rates.items()),
    ]


async def _claim_rate(place: Path, claims: int, size: int = CLAIM_SIZE) -> float:
    """Jobs per second at the median of so many claims: what was written before may be on its way to the disk."""
    store = SqliteJobStore(place / "several.db")
    await store.open()
    try:
        await store.register_worker("bench")
        seconds = []
        for _ in range(claims):
            started = time.perf_counter()
            taken = await store.claim("bench", size, Offers(frozenset({"note"})))
            seconds.append(time.perf_counter() - started)
            assert len(taken) == size
        return size / statistics.median(seconds)
    finally:
        await store.close()


async def main(arguments: Sequence[str]) -> None:
    """Measure and print."""
    parts = [reach_on_sqlite, recovery, creation, large_jobs]
    if only := [part for part in parts if part.__name__ in arguments]:
        parts = only
    if "--backlog" in arguments:
        parts.append(backlog)
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(dir="/var/tmp" if Path("/var/tmp").is_dir() else None) as folder:
        for number, part in zip(itertools.count(), parts, strict=False):
            place = Path(folder, str(number))
            place.mkdir()
            figures += await part(place)
    print((as_markdown if "--markdown" in arguments else as_text)(figures))


if __name__ == "__main__":
    if sys.argv[1:2] == ["work"]:
        asyncio.run(work(sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
    else:
        asyncio.run(main(sys.argv[1:]))
