"""Rows of the SQLite store and what they mean: histories, requests, summaries, and the SELECT of a listing."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from openagents_json.job.events import Event, decode_events
from openagents_json.job.machine import FOLD_VERSION
from openagents_json.job.store.limits import Limit
from openagents_json.job.store.query import Query
from openagents_json.job.store.records import Commit, Request
from openagents_json.job.store.rows import request_of
from openagents_json.job.store.sql import statements

SQL = statements("sqlite")


def events_after(connection: sqlite3.Connection, key: int, after: int) -> list[Event]:
    """The events of a job above a number, in order."""
    events: list[Event] = []
    for (data,) in connection.execute(SQL["history_after"], (key, after)).fetchall():
        events += decode_events(data)
    return [event for event in events if event.number > after] if after else events


def history_of(connection: sqlite3.Connection, key: int, snapshot_event: int) -> tuple[bytes | None, list[Event]]:
    """The snapshot of a job, if there is one that this fold can read, and the events after it."""
    if snapshot_event:
        found = connection.execute(SQL["snapshot_get"], (key, FOLD_VERSION)).fetchone()
        if found is not None:
            return bytes(found[1]), events_after(connection, key, found[0])
    return None, events_after(connection, key, 0)


def requests_of(connection: sqlite3.Connection, key: int) -> list[Request]:
    """The undrained requests of a job, oldest first."""
    return [request_of(row) for row in connection.execute(SQL["inbox_of"], (key,)).fetchall()]


def commit_values(commit: Commit) -> tuple[Any, ...]:
    """The first columns of `commit_running`, `commit_starting` and `commit_settled`."""
    claim, row = commit.claim, commit.row
    return (
        claim.handle,
        claim.owner,
        claim.epoch,
        commit.expected,
        row.last_event,
        row.rank,
        row.progress,
        row.current_step,
        row.error_type,
        row.error_message,
        row.pause_requested,
        row.cancel_requested,
        commit.abandoned,
        row.spending,
    )


def named(cursor: sqlite3.Cursor, values: Sequence[Any]) -> dict[str, Any]:
    """A row by the names of its columns."""
    return {column[0]: value for column, value in zip(cursor.description, values, strict=True)}


def limit_in(key: str | None, limit: Any, hold: Any, overflow: Any) -> Limit | None:
    """The limit in a job's columns."""
    return None if key is None else Limit(key, limit, hold, overflow)


def casefold(text: str | None) -> str | None:
    """The SQL function behind the filter `error`: text in one case, NULL as it is."""
    return None if text is None else text.casefold()


def listing(query: Query) -> tuple[str, list[Any]]:
    """The SELECT of a checked query. Column names come from the query's own table, values are always bound."""
    where: list[str] = []
    values: list[Any] = []
    for column, wanted in query.equal.items():
        given = [value for value in wanted if value is not None]
        parts = [f"{column} IN ({', '.join('?' * len(given))})"] if given else []
        if None in wanted:
            parts.append(f"{column} IS NULL")
        where.append(f"({' OR '.join(parts)})" if parts else "FALSE")
        values += given
    for column, span in query.times.items():
        where.append(f"{column} IS NOT NULL")
        for bound, sign in ((span.after, ">="), (span.before, "<")):
            if bound is not None:
                where.append(f"{column} {sign} ?")
                values.append(bound)
    if query.statuses_of_due:
        where.append(f"status IN ({', '.join('?' * len(query.statuses_of_due))})")
        values += [status.value for status in query.statuses_of_due]
    for tag in query.tags:
        where.append("tags IS NOT NULL AND EXISTS (SELECT 1 FROM json_each(tags) WHERE value = ?)")
        values.append(tag)
    if query.error_text is not None:
        where.append("error_type IS NOT NULL AND (instr(casefold(error_message), ?) OR instr(casefold(error_type), ?))")
        values += [query.error_text.casefold()] * 2
    order, sign = query.order, "<" if query.descending else ">"
    if query.cursor is not None:
        value, key = query.cursor
        if order == "key":
            where.append(f"key {sign} ?")
            values.append(key)
        elif value is None:  # NULL sorts before everything
            where.append(
                f"({order} IS NULL AND key {sign} ?)" + ("" if query.descending else f" OR {order} IS NOT NULL")
            )
            where[-1] = f"({where[-1]})"
            values.append(key)
        else:
            beyond = f"{order} {sign} ? OR ({order} = ? AND key {sign} ?)"
            where.append(f"({beyond} OR {order} IS NULL)" if query.descending else f"({beyond})")
            values += [value, value, key]
    direction = "DESC" if query.descending else "ASC"
    sql = "SELECT * FROM jobs"
    if where:
        sql += " WHERE " + " AND ".join(where)
    by = f"key {direction}" if order == "key" else f"{order} {direction}, key {direction}"
    return f"{sql} ORDER BY {by} LIMIT ?", [*values, query.limit]
