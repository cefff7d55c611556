"""The figures of the table: each benchmark runs its workload, then plain SQLite with the same rows, and compares."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks import workloads
from benchmarks.bare import JobRows, Replayed, replay
from benchmarks.table import Figure
from benchmarks.workloads import CHAIN, CLIENTS, WIDE, Run

PAIRS = 5  # of the chain: ours and bare, one after the other
STARTS = 5  # of a program, for the claims
CLAIMS = 40  # timed in each of them
BLOCKING_DELAY_S = 0.020


@dataclass(slots=True)
class Bench:
    """What all benchmarks share: where files go, how much is run, how slow the disk pretends to be."""

    folder: Path
    is_quick: bool = False
    commit_delay_s: float = 0.0
    costs: list[tuple[str, Run]] = field(default_factory=list)  # of the workloads run so far, for `cost_lines`
    _numbers: count[int] = field(default_factory=count)

    def new_path(self) -> Path:
        return self.folder / f"{next(self._numbers)}.db"

    def size(self, full: int, quick: int) -> int:
        return quick if self.is_quick else full

    async def bare(self, rows: Sequence[JobRows], waiters: int) -> Replayed:
        return await replay(self.new_path(), rows, waiters=waiters, commit_delay_s=self.commit_delay_s)

    def note(self, name: str, run: Run) -> Run:
        self.costs.append((name, run))
        return run


async def one_step_jobs(bench: Bench) -> list[Figure]:
    """Many jobs of one step."""
    jobs = bench.size(5_000, 500)
    run = bench.note("one-step jobs", await workloads.chains(bench.new_path(), jobs, 1, bench.commit_delay_s))
    bare = await bench.bare(run.rows, CLIENTS)
    peers = "DBOS 89, LangGraph 149, Celery+Redis 481, pgqueuer 1,438"
    return [_rate("one-step jobs", "jobs/s", jobs, run, bare, 5_000, peers)]


async def steps_200x10(bench: Bench) -> list[Figure]:
    """200 jobs of ten steps."""
    jobs = bench.size(200, 50)
    run = bench.note("200 × 10 steps", await workloads.chains(bench.new_path(), jobs, 10, bench.commit_delay_s))
    bare = await bench.bare(run.rows, CLIENTS)
    cpu_us = 1e6 * run.cpu_s / run.steps
    peers = "DBOS 186, LangGraph 270, Restate 765, Absurd 1,249"
    return [
        _rate(f"{jobs} jobs × 10 steps", "steps/s", run.steps, run, bare, 12_000, peers),
        Figure("CPU of a step", cpu_us, "µs", at_most=70),
    ]


async def chain_500(bench: Bench) -> list[Figure]:
    """One job of many steps, against one waiter of a bare writer: medians of alternating pairs."""
    pairs: list[tuple[float, float]] = []
    for _ in range(bench.size(PAIRS, 1)):
        run = bench.note(f"chain of {CHAIN}", await workloads.chains(bench.new_path(), 1, CHAIN, bench.commit_delay_s))
        bare = await bench.bare(run.rows, 1)
        pairs.append((CHAIN / run.seconds, CHAIN / bare.seconds))
    single = await workloads.chains(bench.new_path(), 1, 1)
    return [
        Figure(
            f"chain of {CHAIN} steps",
            statistics.median(ours for ours, _ in pairs),
            "steps/s",
            bare=statistics.median(bare for _, bare in pairs),
            ratio=statistics.median(ours / bare for ours, bare in pairs),
            ratio_at_least=0.6,
            peers="DBOS 210, Absurd 540, Restate 672",
        ),
        Figure("commits of a one-step job", single.stats["commits"], at_most=4, is_counted=True),
        Figure("commits of a chain step", _commits_per_step(run, single), at_most=1, is_counted=True),
    ]


async def wide_500(bench: Bench) -> list[Figure]:
    """One job of many parallel steps and a join."""
    run = bench.note(f"{WIDE} parallel steps", await workloads.wide(bench.new_path(), bench.commit_delay_s))
    bare = await bench.bare(run.rows, 1)
    return [
        Figure(
            f"{WIDE} parallel steps + join",
            run.seconds,
            "s",
            at_most=0.1,
            bare=bare.seconds,
            ratio=bare.seconds / run.seconds,
            peers="DBOS 2.2, LangGraph 0.67, Restate 0.35",
        ),
        Figure("… its commits", run.stats["commits"], at_most=20, is_counted=True),
    ]


async def latency(bench: Bench) -> list[Figure]:
    """One-step jobs one after another on an idle manager."""
    jobs = bench.size(300, 50)
    run = await workloads.chains(bench.new_path(), jobs, 1, bench.commit_delay_s, clients=1)
    bare = await bench.bare(run.rows, 1)
    figures = []
    for percent, limit_ms, peers in (
        (50, 2, "DBOS 60, Restate 11, huey 1.7"),
        (99, 10, "DBOS 71, Restate 18, huey 35"),
    ):
        ours_ms, bare_ms = (1000 * _percentile(seconds, percent) for seconds in (run.job_seconds, bare.job_seconds))
        figures.append(
            Figure(
                f"latency of a one-step job, p{percent}",
                ours_ms,
                "ms",
                at_most=limit_ms,
                bare=bare_ms,
                ratio=bare_ms / ours_ms,
                peers=peers,
            )
        )
    return figures


async def blocking(bench: Bench) -> list[Figure]:
    """How long the event loop stands still while every commit takes 20 ms longer."""
    run = await workloads.chains(bench.new_path(), bench.size(200, 50), 10, BLOCKING_DELAY_S)
    return [Figure("loop blocked, commits + 20 ms", 1000 * run.loop_gap_s, "ms", at_most=5)]


async def idle_cpu(bench: Bench) -> list[Figure]:
    """A manager with nothing to do."""
    run = await workloads.idle(bench.new_path(), bench.size(6, 2))
    return [Figure("idle CPU", 100 * run.cpu_s / run.seconds, "%", at_most=0.5)]


async def memory(bench: Bench) -> list[Figure]:
    """The process after many jobs, all still in its store."""
    jobs = bench.size(10_000, 1_000)
    found = await _probe("memory", bench.new_path(), jobs)
    return [Figure(f"memory at {jobs:,} stored jobs", found["rss_mib"] * 1.048576, "MB", at_most=90)]


async def claims(bench: Bench) -> list[Figure]:
    """What a claim costs with few and with very many jobs in the queue."""
    few, many = 1_000, bench.size(100_000, 10_000)
    small, large = [await _claim_times(bench, jobs) for jobs in (few, many)]
    figures = []
    for name, at_few, at_many in (("first claim", small[0], large[0]), ("each later claim", small[1], large[1])):
        figures.append(Figure(f"{name}, {few:,} queued", 1000 * at_few, "ms"))
        figures.append(Figure(f"{name}, {many:,} queued", 1000 * at_many, "ms"))
        figures.append(Figure("… as a multiple", at_many / at_few, at_most=1.2))
    return figures


async def limits(bench: Bench) -> list[Figure]:
    """What claims cost when very many jobs of a key that is full stand before the others in the queue."""
    few, many = 1_000, bench.size(100_000, 10_000)
    free, full = await _claim_times(bench, few), await _claim_times(bench, few, many)
    figures = []
    for name, at_free, at_full in (("first claim", free[0], full[0]), ("each later claim", free[1], full[1])):
        figures.append(Figure(f"{name}, {few:,} queued", 1000 * at_free, "ms"))
        figures.append(Figure(f"{name}, {many:,} of one full key before them", 1000 * at_full, "ms"))
        figures.append(Figure("… as a multiple", at_full / at_free, at_most=1.2))
    return figures


BENCHMARKS: dict[str, Callable[[Bench], Awaitable[list[Figure]]]] = {
    function.__name__: function
    for function in (
        one_step_jobs,
        steps_200x10,
        chain_500,
        wide_500,
        latency,
        blocking,
        idle_cpu,
        memory,
        claims,
        limits,
    )
}
# Those on which a slow disk shows.
DELAYED = ("one_step_jobs", "steps_200x10", "chain_500", "wide_500", "latency")


def cost_lines(costs: Sequence[tuple[str, Run]]) -> list[str]:
    """For each workload what a step cost: rows, commits, syncs and CPU. Of several runs the last."""
    lines = [f"{'per step':<22}{'rows':>8}{'commits':>9}{'syncs':>8}{'CPU µs':>8}"]
    for name, run in dict(costs).items():
        counts = [run.stats.get(counter, 0) / run.steps for counter in ("rows", "commits", "syncs")]
        lines.append(
            f"{name:<22}{counts[0]:>8.3f}{counts[1]:>9.3f}{counts[2]:>8.3f}{1e6 * run.cpu_s / run.steps:>8.0f}"
        )
    return lines


def _rate(name: str, unit: str, done: int, run: Run, bare: Replayed, at_least: float, peers: str) -> Figure:
    return Figure(name, done / run.seconds, unit, at_least=at_least, bare=done / bare.seconds, peers=peers)


def _commits_per_step(chain: Run, single: Run) -> float:
    """What each further step of a chain adds to the commits of a job of one step."""
    return (chain.stats["commits"] - single.stats["commits"]) / (chain.steps - single.steps)


def _percentile(values: Sequence[float], percent: int) -> float:
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)]


async def _claim_times(bench: Bench, queued: int, blocked: int = 0) -> tuple[float, float]:
    """Median seconds of the first claim after a program start, and of each later one."""
    path = bench.new_path()
    if blocked:
        await workloads.fill_key(path, blocked)
    await workloads.fill(path, queued)
    first: list[float] = []
    later: list[float] = []
    for _ in range(bench.size(STARTS, 2)):
        found = await _probe("claims", path, CLAIMS)
        first.append(found["seconds"][0])
        later += found["seconds"][1:]
    return statistics.median(first), statistics.median(later)


async def _probe(name: str, path: Path, count: int) -> dict[str, Any]:
    """Run `benchmarks.probes` in a process of its own; what it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.probes", name, str(path), str(count), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"the probe {name} ended with exit code {process.returncode}")
    return dict(json.loads(output))
