"""The queue of the SQLite store, in its order: who is first."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection

from openagents_json.job.store.records import MAX_AHEAD, QueuePlace, Waiting
from openagents_json.job.store.rows import required_by
from openagents_json.job.store.rules import serves
from openagents_json.job.store.sqlite_rows import SQL

MAX_REQUIREMENTS = 1_000  # different sets of required components that a claim looks at


def first_waiting(connection: sqlite3.Connection, offers: Collection[str] | None) -> Waiting | None:
    """As the verb of the store says."""
    for _, key in first_in_queue(connection, 1, offers, False):
        return Waiting(*connection.execute(SQL["waiting"], (key,)).fetchone())
    return None


def first_in_queue(
    connection: sqlite3.Connection, limit: int, offers: Collection[str] | None, suspects: bool
) -> list[tuple[int, int]]:
    """The first jobs in the queue for a worker with these components, as (virtual arrival time, key)."""
    values = {"suspects": suspects, "limit": MAX_REQUIREMENTS}
    found: list[tuple[int, int]] = []
    for (requires,) in connection.execute(SQL["requirements"], values).fetchall():
        if serves(offers, required_by(requires)):
            values = {"suspects": suspects, "requires": requires, "limit": limit}
            found += connection.execute(SQL["claimable"], values).fetchall()
    return sorted(found)[:limit]


def queue_place(connection: sqlite3.Connection, job_id: str, shown: int) -> QueuePlace | None:
    """As the verb of the store says. The caller reads in one transaction, so nothing moves meanwhile."""
    row = connection.execute(SQL["queue_place"], (job_id,)).fetchone()
    if row is None:
        return None
    key, rank, sort_at, queued_us, waited_us, room_by = row
    ahead = 0
    sets = connection.execute(SQL["requirements"], {"suspects": False, "limit": MAX_REQUIREMENTS}).fetchall()
    for (requires,) in sets:
        values = {"requires": requires, "sort_at": sort_at, "key": key, "limit": MAX_AHEAD - ahead}
        ahead += int(connection.execute(SQL["queue_ahead"], values).fetchone()[0])
    first = first_in_queue(connection, min(shown, ahead), None, False)
    waiting = [Waiting(*connection.execute(SQL["waiting"], (key,)).fetchone()) for _, key in first]
    return QueuePlace(rank, sort_at, queued_us, waited_us, ahead, waiting, room_by)
