"""Moving jobs in the PostgreSQL store. Everything here runs inside a transaction, or is one statement."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from openagents_json.errors import StoreError
from openagents_json.job.model import JobStatus
from openagents_json.job.store.moving import MovedJob, key_taken, keys_of, queued_keys
from openagents_json.job.store.postgres_driver import Connection, Row, readable, sendable
from openagents_json.job.store.postgres_leaks import leak_of
from openagents_json.job.store.postgres_limits import Changes, Concern, refuse_without_slots, settle
from openagents_json.job.store.postgres_rows import SQL, folded_error, limit_in, request_of, texts_of
from openagents_json.job.store.postgres_shares import place
from openagents_json.job.store.postgres_tables import PostgresTables
from openagents_json.job.store.records import PlacedRow, StoredLeak
from openagents_json.job.store.rows import history_rows, moved_columns, moved_in
from openagents_json.jsondata import decode, encode

JOBS_AT_ONCE = 500  # in one statement
_COLUMNS = (
    "id", "workflow_id", "version", "definition", "status", "rank", "sort_at", "owner", "epoch", "last_event",
    "created_us", "queued_us", "queued_total_us", "started_us", "completed_us", "due_us", "progress", "current_step",
    "error_type", "error_message", "pause_requested", "cancel_requested", "idempotency_key", "body_hash", "parent_id",
    "origin_id", "requires", "deaths", "spending",
)  # fmt: skip


async def read_family(connection: Connection, job_id: str) -> list[MovedJob]:
    """As the verb of the store says."""
    return [_moved(row) for row in await connection.rows(SQL["family"], job_id)]


def _moved(row: Row) -> MovedJob:
    values = texts_of(row)
    if values["tags"]:
        values["tags"] = encode([readable(tag) for tag in decode(row["tags"])])
    drained = [readable(key) or "" for key in row["drained"]]
    leaks = [leak_of(tuple(one[place] for place in range(11))) for one in row["leaks"]]
    return moved_in(values, limit_in(row), [request_of(one) for one in row["requests"]], drained, leaks)


async def restore(connection: Connection, jobs: Sequence[MovedJob], tables: PostgresTables) -> list[str]:
    """As the verb of the store says."""
    keyed = list(keys_of(jobs))
    known = await connection.rows(
        SQL["jobs_known"],
        [job.id for job in jobs],
        [workflow_id for _, (workflow_id, _) in keyed],
        [key for _, (_, key) in keyed],
    )
    ids = {row["id"] for row in known}
    if there := [job.id for job in jobs if job.id in ids]:
        return there
    holders = {(readable(row["workflow_id"]), readable(row["idempotency_key"])): row["id"] for row in known}
    for new, key in keyed:
        if key in holders:
            raise key_taken(new, holders[key])
    documents = {job.new.definition.hash: job.new.definition for job in jobs}
    definitions = [documents[content_hash] for content_hash in sorted(documents)]  # one order, for the sake of locks
    await connection.rows(
        SQL["definitions_put"],
        [one.hash for one in definitions],
        [one.workflow_id for one in definitions],
        [one.version for one in definitions],
        [one.document for one in definitions],
    )
    await refuse_without_slots(connection, jobs)
    tables.aging_s = await connection.value(SQL["meta_get"], "aging_s")  # another process may have set it
    for start in range(0, len(jobs), JOBS_AT_ONCE):
        tables.rows += await _put(connection, jobs[start : start + JOBS_AT_ONCE], tables.aging_s)
    if placed := [one for one in jobs if one.new.row.is_placed]:
        found = {row["id"]: row["key"] for row in await connection.rows(SQL["jobs_by_id"], [job.id for job in placed])}
        rows = [PlacedRow(found[job.id], job.new.row, JobStatus.CREATED) for job in placed]
        tables.rows += await place(connection, rows, tables.now_us)
    if keys := queued_keys(jobs):
        tables.rows += await settle(connection, Changes(keys=keys), tables.now_us)
    return []


def concerns_of_moved(jobs: Sequence[MovedJob]) -> list[Concern]:
    """What jobs that are restored concern: those that take a slot, or wait for one."""
    limits = [job.new.limit for job in jobs if job.needs_slot or job.status == JobStatus.QUEUED]
    return [Concern(limit.key, False) for limit in limits if limit is not None]


async def _put(connection: Connection, jobs: Sequence[MovedJob], aging_s: float) -> int:
    """Write jobs; how many rows."""
    written = await connection.rows(SQL["jobs_restore"], *_turned([_columns(job, aging_s) for job in jobs]))
    keys = {row["id"]: row["key"] for row in written}
    if late := [job.id for job in jobs if job.id not in keys]:  # since it was looked for
        raise StoreError(f"Job {late[0]}, or its idempotency key, came from elsewhere at this moment. Try again.")
    history = [(keys[job.id], *part) for job in jobs for part in history_rows(job.new.events)]
    requests = [(keys[job.id], *values) for job in jobs for values in _requests(job)]
    leaks = [_leak_values(leak) for job in jobs for leak in job.leaks]
    for name, rows in (("histories_restore", history), ("inboxes_restore", requests), ("leaks_restore", leaks)):
        if rows:
            await connection.rows(SQL[name], *_turned(rows))
    return len(jobs) + len(history) + len(requests) + len(leaks)


def _columns(job: MovedJob, aging_s: float) -> tuple[Any, ...]:
    columns, row = moved_columns(job, aging_s), job.new.row
    tags = encode([sendable(tag) for tag in job.new.tags]).decode() if job.new.tags else None
    limit = job.new.limit
    limited = [None] * 5 if limit is None else [limit.key, limit.limit, limit.hold, limit.overflow, job.needs_slot]
    return *(columns[name] for name in _COLUMNS), folded_error(row.error_message, row.error_type), tags, *limited


def _requests(job: MovedJob) -> Iterator[tuple[Any, ...]]:
    for key in job.drained:
        yield key, "", b"", None, None, 0, True
    for one in job.requests:
        yield one.key, one.kind, encode(one.payload), one.by, one.reason, one.at_us, False


def _leak_values(leak: StoredLeak) -> tuple[Any, ...]:
    return (
        leak.job_id, leak.resource_id, leak.workflow_id, leak.path, leak.name, leak.release, encode(leak.inputs),
        encode(leak.error), leak.leaked_us, leak.tries,
    )  # fmt: skip


def _turned(rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    """Rows as one list for each of their columns."""
    return list(map(list, zip(*rows, strict=True)))
