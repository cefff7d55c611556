"""The leaks of the PostgreSQL store. Everything here runs inside a transaction, or is one statement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from openagents_json.job.machine import Leak
from openagents_json.job.model import ErrorInfo
from openagents_json.job.store.postgres_driver import Connection, readable
from openagents_json.job.store.postgres_rows import SQL
from openagents_json.job.store.records import StoredLeak
from openagents_json.jsondata import decode, encode


async def add_leaks(connection: Connection, leaks: Sequence[tuple[int, Leak]], now_us: int | None) -> None:
    """Keep what commits give up: (key of the job, leak)."""
    rows = [
        (key, leak.id, leak.path, leak.name, leak.release, encode(leak.inputs), encode(leak.error))
        for key, leak in leaks
    ]
    await connection.rows(SQL["leaks_put"], now_us, *map(list, zip(*rows, strict=True)))


async def list_leaks(connection: Connection, after: int, limit: int) -> list[StoredLeak]:
    """Those with greater keys, the oldest first."""
    rows = await connection.rows(SQL["leaks_after"], after, limit)
    return [leak_of(tuple(value for _, value in row.items())) for row in rows]


def leak_of(values: Sequence[Any]) -> StoredLeak:
    """A row of `leaks`."""
    key, *texts, inputs, error, leaked_us, tries = values
    job_id, resource, workflow_id, path, name, release = (readable(text) or "" for text in texts)
    return StoredLeak(
        key, job_id, resource, workflow_id, path, name, release, decode(inputs), decode(error), leaked_us, tries
    )


async def count_leaks(connection: Connection) -> int:
    """How many there are."""
    return int(await connection.value(SQL["leaks_count"]))


async def note_leak(connection: Connection, key: int, error: ErrorInfo) -> bool:
    """One more try has failed."""
    return await connection.value(SQL["leak_note"], key, encode(error)) is not None


async def drop_leak(connection: Connection, key: int) -> bool:
    """It is gone."""
    return await connection.value(SQL["leak_drop"], key) is not None
