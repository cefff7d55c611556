"""The shares and deadlines of the PostgreSQL store: what of jobs that were just written they change.

Many stores write at once, so whoever charges the account of a key first locks it (`lock_shares`), after the keys of
limits and before any row of a job: nobody who has a row waits for an account. Where a key begins that is not ahead is
read without a lock: what another store is writing at that moment is seen by those that come later. Jobs without a share
or a deadline have no part in it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from openagents_json.job.model import JobStatus
from openagents_json.job.store.arrival import place_us
from openagents_json.job.store.postgres_driver import Connection, readable
from openagents_json.job.store.postgres_rows import SQL
from openagents_json.job.store.records import Commit, JobRow, NewJob, PlacedRow
from openagents_json.job.store.shares import FORGET_ABOVE, Account, Lines, StoredShare, settle, shown


def shares_of_new(jobs: Sequence[NewJob]) -> list[str]:
    """The keys of shares that new jobs charge: those that are in the queue at once."""
    return [key for job in jobs if (key := _charged(job.row, JobStatus.CREATED)) is not None]


def shares_of(commit: Commit) -> list[str]:
    """The keys of shares that a commit charges, with its children."""
    children = shares_of_new(commit.children) if commit.children else []
    key = _charged(commit.row, commit.previous_status)
    return children if key is None else [key, *children]


def _charged(row: JobRow, before: JobStatus) -> str | None:
    is_still = row.status == JobStatus.RUNNING or row.status == before in (JobStatus.QUEUED, JobStatus.CREATED)
    return None if row.share is None or is_still else row.share.key


async def lock_shares(
    connection: Connection, keys: Collection[str], now_us: int | None, *, is_patient: bool
) -> set[str]:
    """Lock the accounts of keys, and make those that are not there. Without patience those that somebody else has are
    given back instead of waited for."""
    lost: set[str] = set()
    if not is_patient:
        there = {str(readable(row[0])) for row in await connection.rows(SQL["shares_there"], sorted(keys))}
        ours = {str(readable(row[0])) for row in await connection.rows(SQL["shares_lock_free"], sorted(keys))}
        lost = there - ours
    if left := sorted(set(keys) - lost):
        made = await connection.rows(SQL["shares_make"], left)
        await connection.rows(SQL["shares_lock"], left)
        if made and await connection.value(SQL["shares_count"]) > FORGET_ABOVE:
            await _forget(connection, now_us)
    return lost


class ReadShares:
    """`shares.Book` of what was read of accounts. Those that are asked for are locked, and written in the end."""

    def __init__(self, accounts: Sequence[Account], lines: Lines, running: Sequence[int | None]) -> None:
        self._known = {account.key: account for account in accounts}
        self.accounts: dict[str, Account] = {}  # those that were asked for
        self.lines = lines
        self._running = running  # by rank: the last tag that runs

    def line_us(self, rank: int) -> int:
        return self.lines.line_us(self._running[rank])

    def account(self, key: str) -> Account:
        return self.accounts.setdefault(key, self._known.get(key) or Account(key))


async def place(connection: Connection, placed: Sequence[PlacedRow], now_us: int | None) -> int:
    """Settle with the shares, which are locked, and put those jobs that are in the queue in their places; how many rows
    were written."""
    resting = [one for one in placed if one.row.status != JobStatus.RUNNING or one.before == JobStatus.CREATED]
    at_risk = [one.handle for one in placed if one.row.status == JobStatus.RUNNING and one.before != JobStatus.CREATED]
    written = 0
    if at_risk:
        written += len(await connection.rows(SQL["risks_set"], at_risk))
    if not resting:
        return written
    found = {row["key"]: row for row in await connection.rows(SQL["places_of"], [one.handle for one in resting])}
    if back := [one.handle for one in resting if one.comes_back and one.row.share is not None]:
        await connection.rows(SQL["tags_clear"], back)
    book = await _read(connection, resting, now_us)
    rows = []
    for handle, row, before in resting:
        share, deadline, known = row.share, row.deadline, found[handle]
        tag_us, charged_us = known["share_tag_us"], known["share_charged_us"]
        has_begun = row.started_us is not None
        if share is not None:
            if charged_us is None:  # it is new here: what it has used elsewhere counts there
                charged_us = share.used_us
            settled = settle(book, share, row.rank, before, row.status, charged_us, has_begun=has_begun)
            book.lines.entered(settled)
            if settled is not None:
                tag_us, charged_us = settled.tag_us, settled.charged_us
        due: tuple[int | None, int | None, bool, int | None] = (None, None, False, None)
        if deadline is not None:
            due = deadline.at_us, deadline.start_by_us, deadline.is_at_risk, deadline.risk_us
        sort_at = None
        if row.status == JobStatus.QUEUED:
            came = known["queued_us"], known["queued_total_us"]
            sort_at = place_us(*came, row.rank, known["aging_s"], tag_us, due[1], has_begun=has_begun)
        shared = (None, None, None) if share is None else (share.key, share.expected_us, share.used_us)
        rows.append((handle, sort_at, *shared, charged_us, tag_us, *due))
    written += len(await connection.rows(SQL["places_set"], *map(list, zip(*rows, strict=True))))
    if book.accounts:
        await _write(connection, list(book.accounts.values()))
    return written + len(book.accounts)


async def _read(connection: Connection, placed: Sequence[PlacedRow], now_us: int | None) -> ReadShares:
    keys = sorted({one.row.share.key for one in placed if one.row.share is not None})
    if not keys:
        return ReadShares([], Lines(0, None, None), ())
    rows = await connection.rows(SQL["shares_get"], keys)
    accounts = [Account(str(readable(row["key"])), row["weight"], row["finish_us"]) for row in rows]
    return ReadShares(accounts, *await _lines(connection, now_us))


async def _lines(connection: Connection, now_us: int | None) -> tuple[Lines, Sequence[int | None]]:
    """What lines follow from, and by rank the last tag that runs."""
    row = await connection.row(SQL["share_lines"], now_us)
    assert row is not None
    return Lines(row["now"], row["first_us"], row["farthest_us"]), row["running"]


async def _write(connection: Connection, accounts: Sequence[Account]) -> None:
    await connection.rows(
        SQL["shares_put"],
        [one.key for one in accounts],
        [one.weight for one in accounts],
        [one.finish_us for one in accounts],
    )


async def _forget(connection: Connection, now_us: int | None) -> None:
    """Accounts go that say nothing which a new one would not say, but for those that somebody has locked. Whoever waits
    for one at that moment begins it anew."""
    lines, _ = await _lines(connection, now_us)
    await connection.rows(SQL["shares_forget"], lines.line_us(None))


async def set_share(connection: Connection, key: str, weight: float) -> None:
    """As the verb of the store says. The account is locked."""
    await connection.rows(SQL["share_weight_set"], key, weight)


async def list_shares(connection: Connection, after: str, limit: int, now_us: int | None) -> list[StoredShare]:
    """As the verb of the store says."""
    lines, _ = await _lines(connection, now_us)
    line_us = lines.line_us(None)
    found = await connection.rows(SQL["shares_after"], after, limit)
    return [shown(Account(str(readable(one["key"])), one["weight"], one["finish_us"]), line_us) for one in found]
