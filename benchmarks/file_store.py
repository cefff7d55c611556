"""`python -m benchmarks.file_store`: the file store beside SQLite and a bare SQLite writer, and what compacting costs.

Jobs of one step as in the table of `python -m benchmarks`, the stores one after the other and each pair repeated. Then
commits one after the other on a store full of jobs, before and while it is compacted: the longest of each.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import workloads
from benchmarks.bare import replay
from benchmarks.workloads import CLIENTS
from openagents_json import FileJobStore, JobManager

MUCH = 1 << 40  # bytes of journal that no run here reaches


async def rates(folder: Path, jobs: int, pairs: int) -> None:
    """Print one-step jobs/s: medians, and the median of file / SQLite of each pair."""
    found: dict[str, list[float]] = {"file": [], "sqlite": [], "bare SQLite": []}
    cpu: dict[str, list[float]] = {"file": [], "sqlite": []}
    for number in range(pairs):
        file = await workloads.chains(f"file:///{folder}/{number}.jobs", jobs, 1)
        sqlite = await workloads.chains(folder / f"{number}.db", jobs, 1)
        bare = await replay(folder / f"{number}-bare.db", sqlite.rows, waiters=CLIENTS)
        for name, seconds in (("file", file.seconds), ("sqlite", sqlite.seconds), ("bare SQLite", bare.seconds)):
            found[name].append(jobs / seconds)
        for name, run in (("file", file), ("sqlite", sqlite)):
            cpu[name].append(1e6 * run.cpu_s / jobs)
    for name, each in found.items():
        print(f"one-step jobs, {name + ',':12} jobs/s {statistics.median(each):10,.0f}")
    for name, each in cpu.items():
        print(f"CPU of a job, {name + ',':13} µs     {statistics.median(each):10,.0f}")
    ratio = statistics.median(one / other for one, other in zip(found["file"], found["sqlite"], strict=True))
    print(f"file / sqlite, at least 0.80        {ratio:10.2f}")


async def stalls(folder: Path, jobs: int) -> None:
    """Print how long commits took, one after the other, while a store of so many jobs was compacted."""
    path = folder / "large.jobs"
    await _fill(path, jobs)
    size = sum(file.stat().st_size for file in path.iterdir())
    store = FileJobStore(path, compact_bytes=MUCH)
    started = time.perf_counter()
    await store.open()
    opening_s = time.perf_counter() - started
    async with _manager(store) as manager:
        at_rest = await _commits_until(manager, lambda: False, at_most_s=2.0)
        started = time.perf_counter()
        compacting = asyncio.create_task(store.compact())
        during = await _commits_until(manager, compacting.done, at_most_s=120.0)
        took = time.perf_counter() - started
    print(f"\nopening {jobs:,} jobs: {opening_s:.2f} s")
    print(f"compacting {jobs:,} jobs, {size / 1e6:,.0f} MB: {took:.2f} s, {len(during):,} commits meanwhile")
    for name, times in (("at rest", at_rest), ("meanwhile, at most 50", during)):
        milliseconds = sorted(1_000 * one for one in times)
        print(f"longest commit {name}, ms   {milliseconds[-1]:.1f} (median {statistics.median(milliseconds):.1f})")


def _manager(store: FileJobStore) -> JobManager:
    return workloads.bench_app(store.path).manager(store, worker=False)


async def _fill(path: Path, jobs: int) -> None:
    todo = iter(range(jobs))

    async def create() -> None:
        for n in todo:
            await manager.create_job("chain-1", {"n": n}, start=True)

    async with _manager(FileJobStore(path, compact_bytes=MUCH)) as manager, asyncio.TaskGroup() as tasks:
        for _ in range(CLIENTS):
            tasks.create_task(create())


async def _commits_until(manager: JobManager, is_over: Callable[[], bool], at_most_s: float) -> list[float]:
    """How long each commit took: one job accepted after the other."""
    times: list[float] = []
    end = time.perf_counter() + at_most_s
    while not is_over() and (started := time.perf_counter()) < end:
        await manager.create_job("chain-1", {"n": 1}, start=True)
        times.append(time.perf_counter() - started)
    return times


async def main(arguments: Sequence[str]) -> None:
    """Run both and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.file_store", description=__doc__)
    parser.add_argument("--jobs", type=int, default=5_000, help="of one step, in each run (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=3, help="of runs (default: %(default)s)")
    parser.add_argument("--stored", type=int, default=50_000, help="jobs that are compacted (default: %(default)s)")
    parser.add_argument("--folder", default="/var/tmp", help="where files are made (default: %(default)s)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="openagents-bench-", dir=options.folder) as folder:
        await rates(Path(folder), options.jobs, options.pairs)
        await stalls(Path(folder), options.stored)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
