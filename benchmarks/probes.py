"""What has to be measured in a process of its own: memory, and claims after a program start.

`python -m benchmarks.probes memory|claims DATABASE COUNT` prints one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks import workloads
from openagents_json.job.store.records import Claim
from openagents_json.job.store.sqlite import SqliteJobStore

MIB = 1024 * 1024


async def probe_memory(path: Path, jobs: int) -> dict[str, float]:
    """Run `jobs` one-step jobs to their ends and say what the process holds then: {"rss_mib"}."""
    todo = iter(range(jobs))

    async def client() -> None:
        for n in todo:
            await manager.wait(await manager.create_job("chain-1", {"n": n}, start=True))

    async with workloads.open_jobs(path) as manager:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(workloads.CLIENTS):
                tasks.create_task(client())
        return {"rss_mib": psutil.Process().memory_info().rss / MIB}


async def probe_claims(path: Path, count: int) -> dict[str, list[float]]:
    """Run jobs of a filled store one at a time until `count` claims brought one: {"seconds": [first claim, …]}."""
    seconds: list[float] = []
    enough = asyncio.Event()
    claim = SqliteJobStore.claim

    async def timed(store: SqliteJobStore, *arguments: Any, **options: Any) -> list[Claim]:
        started = time.perf_counter()
        claims = await claim(store, *arguments, **options)
        if claims:
            seconds.append(time.perf_counter() - started)
        if len(seconds) >= count:
            enough.set()
        return claims

    SqliteJobStore.claim = timed  # type: ignore[method-assign, assignment]
    async with workloads.open_jobs(path, max_jobs=1):
        await enough.wait()
    return {"seconds": seconds[:count]}


def main(arguments: list[str]) -> None:
    """Run one probe and print its result."""
    name, path, count = arguments
    probe: Any = {"memory": probe_memory, "claims": probe_claims}[name]
    print(json.dumps(asyncio.run(probe(Path(path), int(count)))))


if __name__ == "__main__":
    main(sys.argv[1:])
