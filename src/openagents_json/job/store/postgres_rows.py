"""Rows of the PostgreSQL store and what they mean: summaries, histories, requests, and the SELECT of a listing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from openagents_json.job.events import Event, decode_events
from openagents_json.job.machine import FOLD_VERSION
from openagents_json.job.model import JobStatus, JobSummary
from openagents_json.job.store.arrival import place_us
from openagents_json.job.store.limits import Limit
from openagents_json.job.store.postgres_driver import Connection, Row, readable
from openagents_json.job.store.query import Query
from openagents_json.job.store.records import Claim, Request, StoredJob
from openagents_json.job.store.rows import request_of as request_of_values
from openagents_json.job.store.rows import summary_in as summary_of_values
from openagents_json.job.store.sql import statements
from openagents_json.jsondata import decode, encode

SQL = statements("postgres")

_INTEGERS = {
    "rank", "last_event", "abandoned", "created_us", "queued_us", "started_us", "completed_us", "due_us",
    "deadline_us",
}  # fmt: skip
_FLAGS = {"pause_requested", "cancel_requested", "at_risk"}
_ERROR_SEPARATOR = "\x02"  # between message and type, so that no search finds a bit of both


def texts_of(row: Row) -> dict[str, Any]:
    """A row by the names of its columns, its text as it was given."""
    return {name: readable(value) if isinstance(value, str) else value for name, value in row.items()}


def summary_in(row: Row) -> JobSummary:
    """The public copy of a row of `jobs`."""
    values = texts_of(row)
    if values["tags"]:
        values["tags"] = encode([readable(tag) for tag in decode(row["tags"])])
    return summary_of_values(values)


def request_of(row: Sequence[Any] | Row) -> Request:
    """A row of the inbox as a request."""
    key, kind, by, reason, at_us, payload, sequence = (row[place] for place in range(7))
    return request_of_values((readable(key), readable(kind), readable(by), readable(reason), at_us, payload, sequence))


def events_in(parts: Iterable[bytes], after: int) -> list[Event]:
    """The events above a number in rows of a history."""
    events: list[Event] = []
    for data in parts:
        events += decode_events(data)
    return [event for event in events if event.number > after] if after else events


def stored_in(row: Row) -> StoredJob:
    """A row of `whole_…` as the whole job."""
    snapshot, events, requests = _state_in(row)
    return StoredJob(summary_in(row), readable(row["owner"]), row["definition"], snapshot, events, requests)


def claim_in(row: Row, previous: str | None) -> Claim:
    """A row of `whole_by_key` as the lease that its owner has."""
    snapshot, events, requests = _state_in(row)
    owner = readable(row["owner"])
    assert owner is not None, "a lease that was taken in this transaction has an owner"
    sort_at = row["sort_at"]
    if row["status"] != JobStatus.QUEUED:
        came, has_begun = (row["now"], row["queued_total_us"]), row["started_us"] is not None
        sort_at = place_us(*came, row["rank"], row["aging_s"], row["share_tag_us"], None, has_begun=has_begun)
    return Claim(
        row["id"], row["key"], owner, row["epoch"], row["definition"], row["last_event"], readable(previous),
        snapshot, events, requests, limit_in(row), row["slot"] is True, sort_at,
    )  # fmt: skip


def limit_in(row: Row) -> Limit | None:
    """The limit in a job's columns."""
    key = readable(row["limit_key"])
    return None if key is None else Limit(key, row["limit_max"], row["limit_hold"], row["limit_overflow"])


def _state_in(row: Row) -> tuple[bytes | None, list[Event], list[Request]]:
    snapshot, at = row["snapshot"], row["snapshot_at"]
    requests = [request_of(one) for one in row["requests"]]
    return (None if snapshot is None else bytes(snapshot)), events_in(row["history"], at or 0), requests


async def read_whole(connection: Connection, job_id: str) -> StoredJob | None:
    """The whole job in one reading, or None."""
    row = await connection.row(SQL["whole_by_id"], job_id, FOLD_VERSION)
    return None if row is None else stored_in(row)


def folded_error(message: str | None, type: str | None) -> str | None:
    """What the filter `error` searches: None without an error."""
    return None if type is None else f"{message or ''}{_ERROR_SEPARATOR}{type}".casefold()


def listing(query: Query) -> tuple[str, list[Any]]:
    """The SELECT of a checked query. Column names come from the query's own table, values are always bound."""
    where: list[str] = []
    values: list[Any] = []

    def bind(value: Any) -> str:
        values.append(value)
        return f"${len(values)}"

    for column, wanted in query.equal.items():
        given = [fit for value in wanted if (fit := _as_column(column, value)) is not None]
        parts = [f"{column} IN ({', '.join(map(bind, given))})"] if given else []
        if None in wanted:
            parts.append(f"{column} IS NULL")
        where.append(f"({' OR '.join(parts)})" if parts else "FALSE")
    for column, span in query.times.items():
        where.append(f"{column} IS NOT NULL")
        for bound, sign in ((span.after, ">="), (span.before, "<")):
            if bound is not None:
                where.append(f"{column} {sign} {bind(bound)}")
    if query.statuses_of_due:
        where.append(f"status IN ({', '.join(bind(status.value) for status in query.statuses_of_due)})")
    where += [f"tags ? {bind(tag)}" for tag in query.tags]
    if query.error_text is not None:
        where.append(f"error_type IS NOT NULL AND strpos(error_folded, {bind(query.error_text.casefold())}) > 0")
    order, sign = query.order, "<" if query.descending else ">"
    if query.cursor is not None:
        value, key = query.cursor
        if order == "key":
            where.append(f"key {sign} {bind(key)}")
        elif value is None:  # NULL comes before everything
            beyond = f"({order} IS NULL AND key {sign} {bind(key)})"
            where.append(beyond if query.descending else f"({beyond} OR {order} IS NOT NULL)")
        else:
            at = bind(value)
            beyond = f"{order} {sign} {at} OR ({order} = {at} AND key {sign} {bind(key)})"
            where.append(f"({beyond} OR {order} IS NULL)" if query.descending else f"({beyond})")
    direction, nulls = ("DESC", "LAST") if query.descending else ("ASC", "FIRST")
    sql = "SELECT * FROM jobs"
    if where:
        sql += " WHERE " + " AND ".join(where)
    by = f"key {direction}" if order == "key" else f"{order} {direction} NULLS {nulls}, key {direction}"
    return f"{sql} ORDER BY {by} LIMIT {bind(query.limit)}", values


def _as_column(column: str, value: Any) -> Any:
    """A value as its column compares it, None if no row can have it: PostgreSQL does not compare text with numbers."""
    try:
        if value is None:
            return None
        if column in _FLAGS:
            return {0: False, 1: True}.get(float(value))  # type: ignore[call-overload]
        if column == "progress":
            return float(value)
        if column in _INTEGERS:
            return int(value) if int(value) == float(value) else None
    except (ValueError, OverflowError):
        return None
    return str(value)
