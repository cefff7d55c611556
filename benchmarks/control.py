"""How fast control is: from pause to rest, from a forced cancel to CANCELLED with everything dead, and no orphans.

Run it with `python -m benchmarks.control`. All goes through a `JobManager` on SQLite with default settings; processes
are counted by a mark that they inherit. The components of the stubborn steps are those of `benchmarks.processes`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.processes import GRANDCHILDREN, STUBBORN, registry
from benchmarks.table import Figure, as_markdown, as_text
from openagents_json import JobManager, StepContext
from openagents_json.components import reference_to

RUNS = 30  # of each measured case
MANY = 1_000
STEP_S = 0.1  # how long an inline step takes
MARK = "OPENAGENTS_BENCH_MARK"
NAMES = {
    "compute": "CPU loop",
    "hold_the_interpreter": "stuck in C with the GIL",
    "ignore_sigterm": "ignores SIGTERM",
    "fork_bomb": f"{GRANDCHILDREN} grandchildren that fork",
}

_called_at: list[float] = []  # when an inline step began and ended, by perf_counter


@registry.tool
async def work_on(ctx: StepContext) -> None:
    """An inline step: as long as an answer of a quick service takes."""
    _called_at.append(time.perf_counter())
    await asyncio.sleep(STEP_S)
    _called_at.append(time.perf_counter())


@registry.tool
async def wait_for_ever() -> None:
    """An inline step that only a cancel ends."""
    await asyncio.Event().wait()


class Marked:
    """What this program has started and still runs, wherever it has gone: it inherits a mark in its environment."""

    def __init__(self) -> None:
        self._entry = f"{MARK}={uuid.uuid4()}".encode()
        os.environ[MARK] = self._entry.decode().partition("=")[2]

    def count(self) -> int:
        """Linux; 0 elsewhere."""
        return sum(self._carries(place) for place in Path("/proc").glob("[0-9]*") if int(place.name) != os.getpid())

    def _carries(self, place: Path) -> bool:
        try:
            return self._entry in (place / "environ").read_bytes().split(b"\0")  # empty for zombies
        except OSError:
            return False


class Control:
    """An open manager, and a place for the files by which processes say that they run."""

    def __init__(self, jobs: JobManager, folder: Path, marked: Marked) -> None:
        self.jobs = jobs
        self.folder = folder
        self.marked = marked

    async def pause(self, runs: int) -> list[Figure]:
        """From the return of the running attempt to PAUSED, of jobs of many short steps paused at odd moments."""
        self._workflow("steps", *({"id": f"s{n}", "component": "work_on"} for n in range(50)))
        beyond = []
        for run in range(runs):
            _called_at.clear()
            job_id = await self.jobs.create_job("steps", start=True)
            await _until(lambda: len(_called_at) >= 3)
            await asyncio.sleep(STEP_S * run / runs)
            asked = time.perf_counter()
            await self.jobs.pause_job(job_id)
            async for event in self.jobs.watch(job_id):
                if event.type == "job.paused":
                    break
            at_rest = time.perf_counter()
            last = max(_called_at)  # of the attempt that ran when the pause was asked for
            beyond.append(at_rest - max(last, asked))
            await self.jobs.cancel_job(job_id)
        return _figures("pause, beyond the running attempt", beyond, at_most=20)

    async def force(self, name: str, runs: int) -> list[Figure]:
        """From the call to CANCELLED for the caller. Then nothing of it may run."""
        step = {"id": "s", "component": name, "isolation": "process", "inputs": {"started": "{{ inputs.started }}"}}
        self._workflow(name.replace("_", "-"), step, inputs={"type": "object", "properties": {"started": {}}})
        took, left = [], 0
        for run in range(runs):
            started = self.folder / f"{name}{run}"
            idle = await self._idle()
            job_id = await self.jobs.create_job(name.replace("_", "-"), {"started": str(started)}, start=True)
            await _until(started.exists)
            begin = time.perf_counter()
            await self.jobs.cancel_job(job_id, force=True)
            job = await self.jobs.wait(job_id)
            took.append(time.perf_counter() - begin)
            assert (job.status, job.abandoned) == ("CANCELLED", 0), job
            left += max(self.marked.count() - idle, 0)
        what = f"forced cancel, {NAMES[name]}"
        return [
            *_figures(what, took, at_most=250),
            Figure("… processes left at CANCELLED", left, at_most=0, is_counted=True),
        ]

    async def cancel_many(self, count: int) -> list[Figure]:
        """Cancel so many running jobs at once, and wait for all."""
        self._workflow("wait", {"id": "s", "component": "wait_for_ever"})
        ids = await asyncio.gather(*(self.jobs.create_job("wait", start=True) for _ in range(count)))
        while (await self.jobs.health())["steps"] < count:  # noqa: ASYNC110 (nobody tells that all run)
            await asyncio.sleep(0.02)
        begin = time.perf_counter()
        await asyncio.gather(*(self.jobs.cancel_job(job_id) for job_id in ids))
        asked = time.perf_counter() - begin
        done = await asyncio.gather(*(self.jobs.wait(job_id) for job_id in ids))
        seconds = time.perf_counter() - begin
        assert {str(job.status) for job in done} == {"CANCELLED"}
        return [
            Figure(f"cancelling {count:,} running jobs at once", seconds, "s", at_most=2),
            Figure("… until all requests are durable", asked, "s"),
        ]

    async def _idle(self) -> int:
        """The processes of the pool while nothing runs: the spare is ready, what was killed is gone."""
        pool = self.jobs._worker.processes
        pool.warm(reference_to(registry.get("compute")))
        await _until(lambda: pool.ready == len(pool.pids) > 0)
        return self.marked.count()

    def _workflow(self, id: str, *steps: Any, **fields: Any) -> None:
        self.jobs.workflows.register({"id": id, "steps": list(steps)} | fields)


async def measure(is_quick: bool, folder: Path) -> list[Figure]:
    """All figures; `is_quick` with small sizes."""
    marked, runs = Marked(), 3 if is_quick else RUNS
    many = 50 if is_quick else MANY
    figures: list[Figure] = []
    store = f"sqlite:///{folder}/control.db"
    async with JobManager(store, components=registry, max_jobs=many) as jobs:
        control = Control(jobs, folder, marked)
        figures += await control.pause(runs)
        for name in STUBBORN:
            figures += await control.force(name, runs)
        figures += await control.cancel_many(many)
    left = marked.count()
    figures.append(Figure("processes left of all this", left, at_most=0, is_counted=True))
    return figures


def main(arguments: Sequence[str]) -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.control", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes: to see that all runs, not for figures")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir="/var/tmp" if Path("/var/tmp").is_dir() else None) as folder:
        figures = asyncio.run(measure(options.quick, Path(folder)))
    print((as_markdown if options.markdown else as_text)(figures))
    return 0


def _figures(what: str, seconds: Sequence[float], *, at_most: float) -> list[Figure]:
    in_order = sorted(seconds)
    p99 = in_order[min(len(in_order) - 1, len(in_order) * 99 // 100)]
    return [
        Figure(f"{what}, p99", 1e3 * p99, "ms", at_most=at_most),
        Figure("… median", 1e3 * statistics.median(in_order), "ms"),
    ]


async def _until(is_true: Callable[[], bool]) -> None:
    while not is_true():  # noqa: ASYNC110 (other processes tell nobody)
        await asyncio.sleep(0.002)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
