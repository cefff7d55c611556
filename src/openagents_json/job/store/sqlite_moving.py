"""Moving jobs in the SQLite store. Everything here runs inside a transaction that somebody else began."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from openagents_json.job.store.moving import MovedJob, key_taken, keys_of, queued_keys, refuse_without_slot
from openagents_json.job.store.records import StoredLeak
from openagents_json.job.store.rows import history_rows, moved_columns, moved_in
from openagents_json.job.store.sqlite_batches import write_rows
from openagents_json.job.store.sqlite_leaks import leak_of
from openagents_json.job.store.sqlite_limits import SqliteBook, balance_all
from openagents_json.job.store.sqlite_rows import SQL, limit_in, named, requests_of
from openagents_json.job.store.sqlite_shares import place_new
from openagents_json.job.store.sqlite_tables import SqliteTables
from openagents_json.jsondata import encode


def read_family(connection: sqlite3.Connection, job_id: str) -> list[MovedJob]:
    """As the verb of the store says."""
    cursor = connection.execute(SQL["family"], (job_id,))
    return [_moved(connection, named(cursor, values)) for values in cursor.fetchall()]


def _moved(connection: sqlite3.Connection, row: dict[str, Any]) -> MovedJob:
    limit = limit_in(row["limit_key"], row["limit_max"], row["limit_hold"], row["limit_overflow"])
    drained = [key for (key,) in connection.execute(SQL["inbox_keys_drained"], (row["key"],))]
    leaks = [leak_of(values) for values in connection.execute(SQL["leaks_of"], (row["id"],))]
    return moved_in(row, limit, requests_of(connection, row["key"]), drained, leaks)


def restore(connection: sqlite3.Connection, jobs: Sequence[MovedJob], tables: SqliteTables, now_us: int) -> list[str]:
    """As the verb of the store says."""
    if there := [job.id for job in jobs if connection.execute(SQL["job_to_hold"], (job.id,)).fetchone() is not None]:
        return there
    for new, used in keys_of(jobs):
        if (found := connection.execute(SQL["job_with_idempotency_key"], used).fetchone()) is not None:
            raise key_taken(new, found[0])
    refuse_without_slot(SqliteBook(connection), jobs)
    definitions = {job.new.definition.hash: job.new.definition for job in jobs}
    write_rows(
        connection,
        "definition_put",
        [(one.hash, one.workflow_id, one.version, one.document) for one in definitions.values()],
    )
    (first_key,) = connection.execute(SQL["next_key"]).fetchone()
    for key, job in enumerate(jobs, first_key):
        connection.execute(SQL["job_restore"], _columns(key, job, tables.aging_s))
        tables.rows += 1 + write_rows(
            connection, "history_put", [(key, *part) for part in history_rows(job.new.events)]
        )
        connection.executemany(
            SQL["inbox_put"],
            [(key, one.key, one.kind, encode(one.payload), one.by, one.reason, one.at_us) for one in job.requests],
        )
        connection.executemany(SQL["inbox_put_drained"], [(key, one) for one in job.drained])
        connection.executemany(SQL["leak_restore"], [_leak_values(leak) for leak in job.leaks])
    placed = [(key, job.new.row) for key, job in enumerate(jobs, first_key) if job.new.row.is_placed]
    place_new(connection, placed, now_us, tables.aging_s)
    balance_all(connection, queued_keys(jobs))
    return []


def _columns(key: int, job: MovedJob, aging_s: float) -> dict[str, Any]:
    """The columns of `jobs`, by name."""
    limit = job.new.limit
    return moved_columns(job, aging_s) | {
        "key": key,
        "limit_key": None if limit is None else limit.key,
        "limit_max": None if limit is None else limit.limit,
        "limit_hold": None if limit is None else limit.hold,
        "limit_overflow": None if limit is None else limit.overflow,
        "slot": None if limit is None else int(job.needs_slot),
    }


def _leak_values(leak: StoredLeak) -> tuple[Any, ...]:
    return (
        leak.job_id, leak.resource_id, leak.workflow_id, leak.path, leak.name, leak.release, encode(leak.inputs),
        encode(leak.error), leak.leaked_us, leak.tries,
    )  # fmt: skip
