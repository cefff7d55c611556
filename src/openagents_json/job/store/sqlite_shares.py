"""The shares and deadlines of the SQLite store: what they change of a job that was just written. All of it runs inside
a transaction that somebody else began; jobs without them have no part in it."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from openagents_json.job.model import JobStatus
from openagents_json.job.store.arrival import place_us
from openagents_json.job.store.records import Commit, JobRow, PlacedRow
from openagents_json.job.store.shares import FORGET_ABOVE, Account, Lines, StoredShare, settle, shown
from openagents_json.job.store.sqlite_rows import SQL


class SqliteShares:
    """`shares.Book` of a connection, for the rows that one transaction writes."""

    def __init__(self, connection: sqlite3.Connection, now_us: int) -> None:
        self._execute = connection.execute
        self._now_us = now_us
        self.lines = Lines(now_us, *self._execute(SQL["share_lines"]).fetchone())
        self._running: dict[int, int | None] = {}  # by rank: the last tag that runs
        self._accounts: dict[str, Account] = {}

    def line_us(self, rank: int) -> int:
        if rank not in self._running:
            (self._running[rank],) = self._execute(SQL["share_running"], (rank,)).fetchone()
        return self.lines.line_us(self._running[rank])

    def account(self, key: str) -> Account:
        if key not in self._accounts:
            found = self._execute(SQL["share_get"], (key,)).fetchone()
            self._accounts[key] = Account(key) if found is None else Account(key, *found)
            if found is None and self._execute(SQL["shares_count"]).fetchone()[0] >= FORGET_ABOVE:
                self._execute(SQL["shares_forget"], {"now": self._now_us})
        return self._accounts[key]

    def write(self) -> None:
        """Write the accounts that were asked for."""
        for account in self._accounts.values():
            self._execute(SQL["share_put"], (account.key, account.weight, account.finish_us))


def place_new(connection: sqlite3.Connection, new: Sequence[tuple[int, JobRow]], now_us: int, aging_s: float) -> None:
    """New jobs with a share or a deadline were written, each (key, row)."""
    if new:
        _place(connection, [PlacedRow(key, row, JobStatus.CREATED) for key, row in new], now_us, aging_s)


def place_committed(connection: sqlite3.Connection, commits: Sequence[Commit], now_us: int, aging_s: float) -> None:
    """Commits of jobs with a share or a deadline were written."""
    if commits:
        placed = [PlacedRow(one.claim.handle, one.row, one.previous_status) for one in commits]
        _place(connection, placed, now_us, aging_s)


def _place(connection: sqlite3.Connection, placed: Sequence[PlacedRow], now_us: int, aging_s: float) -> None:
    """Jobs with a share or a deadline were written: settle with the shares, and put those in the queue in their
    places."""
    connection.executemany(SQL["tag_clear"], [(one.handle,) for one in placed if one.comes_back])
    book: SqliteShares | None = None
    for key, row, before in placed:
        share, deadline, status = row.share, row.deadline, row.status
        is_at_risk = deadline is not None and deadline.is_at_risk
        if status == JobStatus.RUNNING and before != JobStatus.CREATED:
            connection.execute(SQL["risk_set"], (is_at_risk, key))
            continue
        found = connection.execute(SQL["share_of_job"], (key,)).fetchone()
        tag_us, charged_us, queued_us, queued_total_us = found
        has_begun = row.started_us is not None
        if share is not None:
            book = book or SqliteShares(connection, now_us)
            if charged_us is None:  # it is new here: what it has used elsewhere counts there
                charged_us = share.used_us
            settled = settle(book, share, row.rank, before, status, charged_us, has_begun=has_begun)
            book.lines.entered(settled)
            if settled is not None:
                tag_us, charged_us = settled.tag_us, settled.charged_us
        at_us = start_by_us = risk_us = None
        if deadline is not None:
            at_us, start_by_us, risk_us = deadline.at_us, deadline.start_by_us, deadline.risk_us
        sort_at = None
        if status == JobStatus.QUEUED:
            came = queued_us, queued_total_us
            sort_at = place_us(*came, row.rank, aging_s, tag_us, start_by_us, has_begun=has_begun)
        shared = (None, None, None) if share is None else (share.key, share.expected_us, share.used_us)
        connection.execute(
            SQL["place_set"], (sort_at, *shared, charged_us, tag_us, at_us, start_by_us, is_at_risk, risk_us, key)
        )
    if book is not None:
        book.write()


def set_share(connection: sqlite3.Connection, key: str, weight: float, now_us: int) -> None:
    """As the verb of the store says."""
    book = SqliteShares(connection, now_us)
    book.account(key).weight = weight
    book.write()


def list_shares(connection: sqlite3.Connection, after: str, limit: int, now_us: int) -> list[StoredShare]:
    """As the verb of the store says."""
    line_us = Lines(now_us, *connection.execute(SQL["share_lines"]).fetchone()).line_us(None)
    return [shown(Account(*values), line_us) for values in connection.execute(SQL["shares_after"], (after, limit))]
