"""Statements that take or give many rows at once.

Each step of a statement gives the interpreter's lock away and has to get it back, for which the writer's thread waits
while the event loop is busy. So 64 rows go in with one step, and come out as one JSON array.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import msgspec

from openagents_json.job.events import Event
from openagents_json.job.store.limits import Limit
from openagents_json.job.store.records import Request
from openagents_json.job.store.sqlite_rows import SQL, limit_in
from openagents_json.jsondata import decode

# Rows of one step. Few sizes, so that the connection keeps each prepared; 64 rows are past most of what there is to
# gain, and far below the number of parameters that a statement may have (32,766).
SIZES = (64, 16, 4, 1)
_ROW = re.compile(r"VALUES (\([?, ]+\))")


def write_rows(connection: sqlite3.Connection, name: str, rows: Sequence[Sequence[Any]]) -> int:
    """Run a statement whose text has `VALUES (?, …)` once, with all the rows in its place. How many rows it wrote."""
    written = 0
    for part in _parts(rows):
        values = [value for row in part for value in row]
        written += connection.execute(_sized(name, len(part)), values).rowcount
    return written


def jobs_to_hold(connection: sqlite3.Connection, job_ids: Collection[str]) -> dict[str, tuple[int, str | None, str]]:
    """(key, owner, status) of those jobs that there are, by id."""
    found: dict[str, tuple[int, str | None, str]] = {}
    for part in _parts(list(job_ids)):
        (data,) = connection.execute(_sized("jobs_to_hold", len(part)), part).fetchone()
        found |= {job_id: (key, owner, status) for job_id, key, owner, status in decode(data)}
    return found


class LeasedJob(NamedTuple):
    """A job as a claim needs it. `events` are None for one that has a snapshot."""

    key: int
    id: str
    epoch: int
    definition: str
    last_event: int
    snapshot_event: int
    limit: Limit | None
    has_slot: bool
    sort_at: int | None  # where it stands in the queue, if it is there
    rank: int
    queued_total_us: int
    tag_us: int | None  # of its share
    has_begun: bool
    requests: list[Request]
    events: list[Event] | None


_Row = tuple[
    tuple[
        int,
        str,
        int,
        str,
        int,
        int,
        str | None,
        int | None,
        str | None,
        str | None,
        int | None,
        int | None,
        int,
        int,
        int | None,
        int,
    ],
    list[tuple[tuple[str, str, str | None, str | None, int, int], dict[str, Any]]],  # requests, the payload last
    list[list[Event]] | None,  # rows of the history
]
_leased = msgspec.json.Decoder(list[_Row])


def leased_jobs(connection: sqlite3.Connection, keys: Sequence[int]) -> Iterator[LeasedJob]:
    """The jobs with these keys, which are there, in no order."""
    for part in _parts(keys):
        try:
            (data,) = connection.execute(_sized("leased", len(part)), part).fetchone()
        except sqlite3.DataError:  # together their histories are longer than a value of SQLite may be
            if len(part) == 1:
                raise
            for key in part:
                yield from leased_jobs(connection, [key])
            continue
        for job, asked, rows in _leased.decode(data):
            requests = [
                Request(key, kind, by, reason, at_us, payload, sequence)
                for (key, kind, by, reason, at_us, sequence), payload in asked
            ]
            requests.sort(key=lambda request: request.sequence)
            events = None if rows is None else [event for row in rows for event in row]
            if events is not None:
                events.sort(key=lambda event: event.number)
            key, limit, hold, overflow, slot = job[6:11]
            yield LeasedJob(
                *job[:6], limit_in(key, limit, hold, overflow), slot == 1, *job[11:15], bool(job[15]), requests, events
            )


def _parts(rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """The rows in parts of the sizes that statements come in."""
    done = 0
    for size in SIZES:
        while len(rows) - done >= size:
            yield rows[done : done + size]
            done += size


@cache
def _sized(name: str, size: int) -> str:
    """The text of a statement for so many rows."""
    return _ROW.sub(lambda found: "VALUES " + ", ".join([found[1]] * size), SQL[name])
