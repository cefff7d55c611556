"""The leaks of the PostgreSQL store. Everything here runs inside a transaction, or is one statement."""

from __future__ import annotations

from collections.abc import Sequence

from openagents_json.job.machine import Leak
from openagents_json.job.model import ErrorInfo
from openagents_json.job.store.postgres_driver import Connection
from openagents_json.job.store.postgres_rows import SQL, texts_of
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
    leaks = []
    for row in await connection.rows(SQL["leaks_after"], after, limit):
        values = texts_of(row)
        resource, inputs, error = values.pop("resource"), decode(values.pop("inputs")), decode(values.pop("error"))
        leaks.append(StoredLeak(resource_id=resource, inputs=inputs, error=error, **values))
    return leaks


async def count_leaks(connection: Connection) -> int:
    """How many there are."""
    return int(await connection.value(SQL["leaks_count"]))


async def note_leak(connection: Connection, key: int, error: ErrorInfo) -> bool:
    """One more try has failed."""
    return await connection.value(SQL["leak_note"], key, encode(error)) is not None


async def drop_leak(connection: Connection, key: int) -> bool:
    """It is gone."""
    return await connection.value(SQL["leak_drop"], key) is not None
