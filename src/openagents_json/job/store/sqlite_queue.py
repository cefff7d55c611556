"""The queue of the SQLite store, in its order: who is first, and where a job stands. All of it runs inside a
transaction that somebody else began, so nothing moves meanwhile."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from typing import Any

from openagents_json.job.store.pauses import SET_ASIDE_AT_ONCE
from openagents_json.job.store.records import MAX_AHEAD, QueuePlace, Waiting
from openagents_json.job.store.rows import required_by
from openagents_json.job.store.rules import MAX_REQUIREMENTS, serves
from openagents_json.job.store.sqlite_batches import write_rows
from openagents_json.job.store.sqlite_rows import SQL
from openagents_json.resources import Offers

ASIDE_LOOK = 256  # first jobs of a queue among which those of paused workflows are looked for


def queued(
    connection: sqlite3.Connection, limit: int, offers: Offers | None, suspects: bool
) -> list[tuple[int]] | None:
    """The keys of the jobs that a worker with these components is to run next. None: as many jobs were set aside as
    one transaction may, and it is to be asked again."""
    found: list[tuple[int, int]] = []
    is_paused = connection.execute(SQL["has_paused_workflow"]).fetchone() is not None
    room = SET_ASIDE_AT_ONCE
    for requires in _requirements(connection, offers, suspects):
        values = {"suspects": suspects, "requires": requires, "limit": limit}
        if is_paused:
            room -= _set_aside(connection, values | {"limit": max(limit, ASIDE_LOOK)}, room)
            if room <= 0:
                return None
        found += connection.execute(SQL["claimable"], values).fetchall()
    return [(key,) for _, key in sorted(found)[:limit]]


def first_waiting(connection: sqlite3.Connection, offers: Offers | None) -> Waiting | None:
    """As the verb of the store says."""
    for _, key in _first_in_queue(connection, 1, offers):
        *waiting, is_paused = connection.execute(SQL["waiting"], (key,)).fetchone()
        return None if is_paused else Waiting(*waiting)
    return None


def queue_place(connection: sqlite3.Connection, job_id: str, shown: int) -> QueuePlace | None:
    """As the verb of the store says."""
    row = connection.execute(SQL["queue_place"], (job_id,)).fetchone()
    if row is None:
        return None
    key, rank, sort_at, queued_us, waited_us, room_by = row
    ahead = 0
    for requires in _requirements(connection, None, False):
        values = {"requires": requires, "sort_at": sort_at, "key": key, "limit": MAX_AHEAD - ahead}
        ahead += int(connection.execute(SQL["queue_ahead"], values).fetchone()[0])
    first = _first_in_queue(connection, min(shown, ahead), None)
    waiting = [Waiting(*connection.execute(SQL["waiting"], (key,)).fetchone()[:-1]) for _, key in first]
    return QueuePlace(rank, sort_at, queued_us, waited_us, ahead, waiting, room_by)


def _first_in_queue(connection: sqlite3.Connection, limit: int, offers: Offers | None) -> list[tuple[int, int]]:
    """The first jobs in the queue for a worker with these components, as (virtual arrival time, key)."""
    found: list[tuple[int, int]] = []
    for requires in _requirements(connection, offers, False):
        values = {"suspects": False, "requires": requires, "limit": limit}
        found += connection.execute(SQL["claimable"], values).fetchall()
    return sorted(found)[:limit]


def _requirements(connection: sqlite3.Connection, offers: Offers | None, suspects: bool) -> Iterator[str]:
    """The sets of requirements of jobs in the queue that a worker with these components serves."""
    values = {"suspects": suspects, "limit": MAX_REQUIREMENTS}
    for (requires,) in connection.execute(SQL["requirements"], values).fetchall():
        if serves(offers, required_by(requires)):
            yield requires


def _set_aside(connection: sqlite3.Connection, values: Mapping[str, Any], room: int) -> int:
    """Set jobs of paused workflows aside that stand among the first of a queue; how many, about `room` at most."""
    total = 0
    while total < room and (keys := connection.execute(SQL["claimable_of_paused"], values).fetchall()):
        total += write_rows(connection, "set_aside", keys)
    return total
