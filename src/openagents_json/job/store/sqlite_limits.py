"""The limits of the SQLite store: what its rows say of slots. All of it runs inside a transaction that somebody else
began."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from typing import Any

from openagents_json.job.model import JobStatus
from openagents_json.job.store.limits import (
    HOLDERS_SHOWN,
    REPLACED,
    REPLACED_BY,
    Entry,
    Limit,
    Place,
    StoredLimit,
    balance,
    enter,
    refuse,
)
from openagents_json.job.store.records import Commit
from openagents_json.job.store.sqlite_rows import SQL, limit_in
from openagents_json.jsondata import encode

NO_LIMIT = (None, None, None, None, None)


def limit_values(limit: Limit | None) -> tuple[Any, ...]:
    """The columns limit_key, limit_max, limit_hold, limit_overflow and slot of a new job."""
    return NO_LIMIT if limit is None else (limit.key, limit.limit, limit.hold, limit.overflow, 0)


class SqliteBook:
    """`limits.Book` of a connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._execute = connection.execute

    def held(self, key: str) -> int:
        return int(self._execute(SQL["slots_held"], (key,)).fetchone()[0])

    def holders(self, key: str) -> list[str]:
        return [job_id for (job_id,) in self._execute(SQL["slot_holders"], (key, HOLDERS_SHOWN))]

    def first_blocked(self, key: str) -> tuple[Place, int] | None:
        found = self._execute(SQL["first_blocked"], (key,)).fetchone()
        return None if found is None else (Place(found[0], found[1]), found[2])

    def last_unbegun(self, key: str) -> Place | None:
        found = self._execute(SQL["last_unbegun"], (key,)).fetchone()
        return None if found is None else Place(*found)

    def live(self, key: str) -> list[int]:
        values = {"limit": key, "request": REPLACED}
        return [handle for (handle,) in self._execute(SQL["live_of_key"], values)]

    def give(self, handle: int) -> None:
        self._execute(SQL["slot_give"], (handle,))

    def take(self, handle: int) -> None:
        self._execute(SQL["slot_take"], (handle,))


def limited_in(commit: Commit) -> tuple[list[Entry], list[str]]:
    """What a commit means for the limit of its job, if it has one: who enters the queue, and of which key a slot may
    come free."""
    claim, status = commit.claim, commit.row.status
    if claim.limit is None or status == JobStatus.RUNNING:
        return [], []
    is_new = commit.previous_status == JobStatus.CREATED and status == JobStatus.QUEUED
    return [Entry(claim.handle, claim.job_id, claim.limit)] if is_new else [], [claim.limit.key]


def let_in(connection: sqlite3.Connection, entries: Sequence[Entry], now_us: int) -> None:
    """Jobs that were just written enter the queue for the first time. `LimitReached`: the caller undoes it all."""
    book = SqliteBook(connection)
    refuse(book, entries)
    for handle, reason in enter(book, entries):
        values = (handle, REPLACED, "cancel", encode({"force": False}), REPLACED_BY, reason, now_us)
        connection.execute(SQL["inbox_put"], values)


def balance_all(connection: sqlite3.Connection, keys: Collection[str]) -> None:
    """Give the slots of these keys to those that come first."""
    book = SqliteBook(connection)
    for key in keys:
        balance(book, key)


def read_limit(connection: sqlite3.Connection, job_id: str) -> StoredLimit | None:
    """As the verb of the store says."""
    found = connection.execute(SQL["limit_of"], (job_id,)).fetchone()
    limit = None if found is None else limit_in(*found[:4])
    return None if limit is None else StoredLimit(limit, bool(found[4]), SqliteBook(connection).holders(limit.key))
