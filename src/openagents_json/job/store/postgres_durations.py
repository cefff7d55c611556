"""The learned durations of the PostgreSQL store."""

from __future__ import annotations

from collections.abc import Sequence

from openagents_json.job.store.durations import MAX_DURATIONS, Duration, Sample, learned
from openagents_json.job.store.postgres_driver import Connection, Row, readable
from openagents_json.job.store.postgres_rows import SQL


async def learn(connection: Connection, samples: Sequence[Sample], now_us: int | None) -> None:
    """As the verb of the store says; inside a transaction. What another store learns at this moment may be lost."""
    workflows = sorted({one.workflow_id for one in samples})
    known = {(one.workflow_id, one.step_id): one for one in await _durations(connection, workflows)}
    now = await connection.value(SQL["now"], now_us)
    for one in samples:
        key = one.workflow_id, one.step_id
        known[key] = learned(known.get(key), one, now)
    kept = [known[key] for key in sorted({(one.workflow_id, one.step_id) for one in samples})]
    await connection.rows(
        SQL["durations_put"],
        [one.workflow_id for one in kept],
        [one.step_id for one in kept],
        [one.mean_us for one in kept],
        [one.runs for one in kept],
        now,
    )
    await connection.rows(SQL["durations_forget"], MAX_DURATIONS)


async def read_durations(connection: Connection, workflow_id: str) -> list[Duration]:
    """As the verb of the store says."""
    return await _durations(connection, [workflow_id])


async def _durations(connection: Connection, workflows: Sequence[str]) -> list[Duration]:
    return [_duration_in(row) for row in await connection.rows(SQL["durations_of"], list(workflows))]


def _duration_in(row: Row) -> Duration:
    texts = str(readable(row["workflow_id"])), str(readable(row["step_id"]))
    return Duration(*texts, row["mean_us"], row["runs"], row["learned_us"])
