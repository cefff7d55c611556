"""How fast jobs are claimed from a queue of a million, and after 200,000 claims that no VACUUM has cleaned up behind.

The rows are made by the server from one that the store accepted, for a million accepted ones would take minutes more.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

from benchmarks.table import Figure
from openagents_json.job.store.contract.jobs import new_job
from openagents_json.job.store.postgres import PostgresJobStore
from openagents_json.testing import FakeClock

SHORT, LONG = 1_000, 1_000_000
CLAIMED = 200_000
AT_ONCE = 16  # jobs of one claim
CLAIMS = 50  # of one sample, so that the short queue is not empty at its end
SAMPLES = 9
_COLUMNS = (
    "id, workflow_id, version, definition, status, rank, sort_at, last_event, created_us, queued_us, body_hash, "
    "requires"
)


async def backlog(connection: Any, url: str, small: int) -> list[Figure]:
    """The figures; with everything `small` times smaller."""
    schema = "openagents_bench_backlog"
    await connection.execute(f"SET client_min_messages = error; DROP SCHEMA IF EXISTS {schema} CASCADE")
    clock = FakeClock()
    store = PostgresJobStore(f"{url}{'&' if '?' in url else '?'}schema={schema}", clock)
    await store.open()
    try:
        await store.create(new_job(clock))
        await connection.execute(f"ALTER TABLE {schema}.jobs SET (autovacuum_enabled = off)")
        await _fill(connection, schema, SHORT)
        short = statistics.median([await _speed(connection, store, schema) for _ in range(SAMPLES)])
        await _fill(connection, schema, LONG // small)
        long = statistics.median([await _speed(connection, store, schema) for _ in range(SAMPLES)])
        for _ in range(CLAIMED // small // 1_000):
            await store.claim("w1", 1_000)
        worn = statistics.median([await _speed(connection, store, schema, refill=False) for _ in range(SAMPLES)])
    finally:
        await store.close()
        await connection.execute(f"DROP SCHEMA {schema} CASCADE")
    jobs = f"{LONG // small:,} queued jobs"
    return [
        Figure(f"claims from {SHORT:,} queued jobs", short, "jobs/s"),
        Figure(f"claims from {jobs}, 1 = from {SHORT:,}", long / short, at_least=0.8, peers=f"{long:,.0f} jobs/s"),
        Figure(
            f"… after {CLAIMED // small:,} claims without VACUUM", worn / short, at_least=0.8,
            peers=f"{worn:,.0f} jobs/s",
        ),
    ]  # fmt: skip


async def _fill(connection: Any, schema: str, jobs: int) -> None:
    """Copy the first job so often, with its history, later in the queue."""
    await connection.execute(
        f"WITH one AS (SELECT * FROM {schema}.jobs ORDER BY key LIMIT 1), copies AS ("
        f"INSERT INTO {schema}.jobs ({_COLUMNS}) "
        "SELECT gen_random_uuid()::text, workflow_id, version, definition, 'QUEUED', rank, sort_at + n, last_event,"
        f" created_us, queued_us, body_hash, requires FROM one, generate_series(1, {jobs}) AS n RETURNING key) "
        f"INSERT INTO {schema}.history SELECT copies.key, first, last, events FROM copies, {schema}.history AS h"
        " WHERE h.job = (SELECT key FROM one)"
    )
    await connection.execute(f"ANALYZE {schema}.jobs; ANALYZE {schema}.history; CHECKPOINT")


async def _speed(connection: Any, store: PostgresJobStore, schema: str, *, refill: bool = True) -> float:
    """Jobs claimed per second; afterwards the queue is as it was."""
    started = time.perf_counter()
    claims = [claim for _ in range(CLAIMS) for claim in await store.claim("w1", AT_ONCE)]
    seconds = time.perf_counter() - started
    assert len(claims) == CLAIMS * AT_ONCE
    if refill:
        keys = [claim.handle for claim in claims]
        await connection.execute(f"UPDATE {schema}.jobs SET owner = NULL WHERE key = ANY($1::bigint[])", keys)
        await connection.execute(f"VACUUM {schema}.jobs")
    return len(claims) / seconds
