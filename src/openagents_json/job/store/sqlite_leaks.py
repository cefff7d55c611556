"""The leaks of the SQLite store. Everything here runs inside a transaction that somebody else began."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Any

from openagents_json.job.machine import Leak
from openagents_json.job.model import ErrorInfo
from openagents_json.job.store.records import StoredLeak
from openagents_json.job.store.sqlite_rows import SQL
from openagents_json.jsondata import decode, encode


def add_leaks(connection: sqlite3.Connection, key: int, leaks: Iterable[Leak], now_us: int) -> None:
    """Keep what a commit of the job with that key gives up."""
    rows = [
        (leak.id, leak.path, leak.name, leak.release, encode(leak.inputs), encode(leak.error), now_us, key)
        for leak in leaks
    ]
    connection.executemany(SQL["leak_put"], rows)


def list_leaks(connection: sqlite3.Connection, after: int, limit: int) -> list[StoredLeak]:
    """Those with greater keys, the oldest first."""
    return [leak_of(row) for row in connection.execute(SQL["leaks_after"], (after, limit))]


def leak_of(row: tuple[Any, ...]) -> StoredLeak:
    """A row of `leaks`."""
    key, job_id, resource_id, workflow_id, path, name, release, inputs, error, leaked_us, tries = row
    return StoredLeak(
        key, job_id, resource_id, workflow_id, path, name, release, decode(inputs), decode(error), leaked_us, tries
    )


def count_leaks(connection: sqlite3.Connection) -> int:
    """How many there are."""
    return int(connection.execute(SQL["leaks_count"]).fetchone()[0])


def note_leak(connection: sqlite3.Connection, key: int, error: ErrorInfo) -> bool:
    """One more try has failed."""
    return connection.execute(SQL["leak_note"], (encode(error), key)).rowcount > 0


def drop_leak(connection: sqlite3.Connection, key: int) -> bool:
    """It is gone."""
    return connection.execute(SQL["leak_drop"], (key,)).rowcount > 0
