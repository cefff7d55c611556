"""The limits of the PostgreSQL store: who has a slot of a key, decided by one transaction at a time.

Many stores write at once, so whoever changes who has a slot of a key, or who waits for one, first locks the key
(`lock_keys`), before any row: nobody who has a row waits for a key. What the rows say of these keys then holds until
the COMMIT, and one reading of it is enough to decide (`settle`). Jobs without a limit, and those that begin or go on,
have no part in it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from openagents_json.errors import LimitReached
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
from openagents_json.job.store.moving import MovedJob, refuse_without_slot
from openagents_json.job.store.postgres_driver import Connection, Row, readable
from openagents_json.job.store.postgres_rows import SQL, limit_in
from openagents_json.job.store.records import Commit, NewJob, PlacedRow
from openagents_json.jsondata import encode

MAX_KEYS = 100  # that are locked one by one: locks of keys stand in the server's memory, which is bounded
DEPTH = (16, 1_000)  # of the blocked and the unbegun jobs of a key that are read: at first, and at most


class Concern(NamedTuple):
    """What an operation concerns: a key, and whether it may replace jobs of it."""

    key: str
    replaces: bool


@dataclass(slots=True)
class Changes:
    """What a transaction has written that concerns limits: jobs that enter the queue for the first time, and the keys
    of which a slot has perhaps come free, or a job's place has changed."""

    entries: list[Entry] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    placed: list[PlacedRow] = field(default_factory=list)  # besides: jobs with a share or a deadline

    def add_created(self, handle: int, job: NewJob) -> None:
        """A new job was written."""
        if job.row.is_placed:
            self.placed.append(PlacedRow(handle, job.row, JobStatus.CREATED))
        if job.limit is not None and job.row.status == JobStatus.QUEUED:
            self.entries.append(Entry(handle, job.job_id, job.limit))
            self.keys.add(job.limit.key)

    def add_commits(self, commits: Iterable[Commit]) -> None:
        """Commits were written, but for what comes with them."""
        for commit in commits:
            claim = commit.claim
            if commit.row.is_placed_anew:
                self.placed.append(PlacedRow(claim.handle, commit.row, commit.previous_status))
            if claim.limit is not None and commit.row.status != JobStatus.RUNNING:
                self.keys.add(claim.limit.key)
                if _enters(commit):
                    self.entries.append(Entry(claim.handle, claim.job_id, claim.limit))


def concerns_of_new(jobs: Sequence[NewJob]) -> list[Concern]:
    """What new jobs concern: those that are in the queue at once."""
    limits = [job.limit for job in jobs if job.limit is not None and job.row.status == JobStatus.QUEUED]
    return [Concern(limit.key, limit.overflow == "replace") for limit in limits]


def concerns_of(commit: Commit) -> list[Concern]:
    """What a commit concerns, with its children."""
    children = concerns_of_new(commit.children) if commit.children else []
    limit = commit.claim.limit
    if limit is None or commit.row.status == JobStatus.RUNNING:
        return children
    return [Concern(limit.key, limit.overflow == "replace" and _enters(commit)), *children]


def _enters(commit: Commit) -> bool:
    return commit.previous_status == JobStatus.CREATED and commit.row.status == JobStatus.QUEUED


def limit_columns(limits: Sequence[Limit | None]) -> list[list[Any]]:
    """The columns of the limits of new jobs."""
    return [
        [None if one is None else one.key for one in limits],
        [None if one is None else one.limit for one in limits],
        [None if one is None else one.hold for one in limits],
        [None if one is None else one.overflow for one in limits],
    ]


# ── locks ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def lock_keys(connection: Connection, keys: Collection[str], *, is_patient: bool) -> set[str]:
    """Lock keys, before any row. Without patience those that somebody else has are given back instead of waited for."""
    is_whole = len(keys) > MAX_KEYS
    if is_patient:
        await connection.rows(SQL["limits_lock"], sorted(keys), is_whole)
        return set()
    rows = await connection.rows(SQL["limits_lock_free"], sorted(keys), is_whole)
    lost = [row["key"] for row in rows if not row["is_ours"]]
    return set(keys) if None in lost else set(lost)


async def rows_of_keys(connection: Connection, concerns: Collection[Concern]) -> dict[str, list[int]]:
    """The handles of jobs whose rows will perhaps change with these keys, which are locked, by key. Whoever locks them
    with its own rows, in the order of all, waits for nobody who waits for it."""
    keys = sorted({one.key for one in concerns})
    replaced = sorted({one.key for one in concerns if one.replaces})
    depth = min(len(concerns) + 1, DEPTH[0])
    found: dict[str, list[int]] = {}
    for row in await connection.rows(SQL["limits_next"], keys, depth, replaced):
        found.setdefault(row["limit_key"], []).append(row["key"])
    return found


# ── slots ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class _Read:
    """The jobs that come first in some order, each (place, limit), by handle; beyond `last` there may be others."""

    jobs: dict[int, tuple[Place, int]]
    last: int | None  # handle of the last that was read, None if that were all


@dataclass(slots=True)
class _Key:
    """How a key stands."""

    held: int
    blocked: _Read  # the first in the queue first
    unbegun: _Read  # the last first
    holders: list[str]
    live: list[int]


class ReadBook:
    """`limits.Book` of what was read of locked keys. It notes what is to be written: `taken` first, then `given`.
    `unfinished` are keys of which more would have to be read to go on."""

    def __init__(self, rows: Iterable[Row], depth: int, entries: Sequence[Entry], *, makes_way: bool) -> None:
        self.given: list[int] = []
        self.taken: list[int] = []
        self.unfinished: set[str] = set()
        self._keys = {str(readable(row["limit_key"])): _key_in(row, depth, makes_way) for row in rows}
        self._key_of = {entry.handle: entry.limit.key for entry in entries}
        for key, known in self._keys.items():
            self._key_of |= dict.fromkeys([*known.blocked.jobs, *known.unbegun.jobs], key)

    def held(self, key: str) -> int:
        return self._keys[key].held

    def holders(self, key: str) -> list[str]:
        return self._keys[key].holders

    def first_blocked(self, key: str) -> tuple[Place, int] | None:
        return self._first(key, self._keys[key].blocked)

    def last_unbegun(self, key: str) -> Place | None:
        found = self._first(key, self._keys[key].unbegun)
        return None if found is None else found[0]

    def live(self, key: str) -> list[int]:
        return self._keys[key].live

    def give(self, handle: int) -> None:
        known = self._keys[self._key_of[handle]]
        known.blocked.jobs.pop(handle, None)
        known.held += 1
        self.given.append(handle)

    def take(self, handle: int) -> None:
        known = self._keys[self._key_of[handle]]
        known.blocked.jobs[handle] = known.unbegun.jobs.pop(handle)
        known.blocked.jobs = dict(sorted(known.blocked.jobs.items(), key=lambda one: one[1][0]))
        known.held -= 1
        self.taken.append(handle)

    def _first(self, key: str, read: _Read) -> tuple[Place, int] | None:
        if read.last is not None and read.last not in read.jobs:  # who comes next was not read
            self.unfinished.add(key)
            return None
        return next(iter(read.jobs.values()), None)


def _key_in(row: Row, depth: int, makes_way: bool) -> _Key:
    unbegun = _read_in(row["unbegun"], depth) if makes_way else _Read({}, None)
    return _Key(row["held"], _read_in(row["blocked"], depth), unbegun, row["holders"], row["live"])


def _read_in(rows: Sequence[Any], depth: int) -> _Read:
    jobs = {handle: (Place(sort_at, handle), limit) for sort_at, handle, limit in rows}
    return _Read(jobs, rows[-1][1] if len(rows) == depth else None)


async def over_limit(connection: Connection, jobs: Sequence[NewJob]) -> dict[str, LimitReached]:
    """Of jobs that were not written yet, in their order, those that would be refused, by id. Their keys are locked."""
    numbered = [(number, job.job_id, job.limit) for number, job in enumerate(jobs)]
    entries = [Entry(number, job_id, limit) for number, job_id, limit in numbered if limit is not None]
    book = await _read(connection, {entry.limit.key for entry in entries}, entries, 1, False)
    refused: dict[str, LimitReached] = {}
    for entry in entries:
        try:
            refuse(book, [entry])
        except LimitReached as error:
            refused[entry.job_id] = error
        else:
            book.give(entry.handle)
    return refused


async def refuse_without_slots(connection: Connection, jobs: Sequence[MovedJob]) -> None:
    """`LimitReached` for the first job of another store that is on and finds no slot. The keys are locked."""
    keys = {job.new.limit.key for job in jobs if job.new.limit is not None and job.needs_slot}
    if keys:
        rows = await connection.rows(SQL["limits_of_keys"], sorted(keys), 1, HOLDERS_SHOWN, False, REPLACED)
        refuse_without_slot(ReadBook(rows, 1, [], makes_way=False), jobs)


async def settle(connection: Connection, changes: Changes, now_us: int | None) -> int:
    """Let the jobs in that enter the queue, and give the slots of the keys, which are locked, to those that come first
    in it; how many rows were written. `LimitReached` where one may not enter: the caller undoes it all."""
    keys, entries = changes.keys, changes.entries
    least, most = DEPTH
    depth = min(max(least, len(entries)), most)
    makes_way, written = True, 0
    while keys:  # each time round gives `depth` slots of a key, or is the last but one
        book = await _read(connection, keys, entries, depth, makes_way)
        refuse(book, entries)
        asked = enter(book, entries)
        for key in keys:
            balance(book, key)
        if book.taken:
            taken = await connection.rows(SQL["slots_take"], book.taken)
            written += len(taken)
            if len(taken) < len(book.taken):  # a worker is claiming one of them at this moment: nobody makes way
                makes_way = False
                continue
        if book.given:
            written += len(await connection.rows(SQL["slots_give"], book.given))
        if asked:
            handles, reasons = [handle for handle, _ in asked], [reason for _, reason in asked]
            payload = encode({"force": False})
            await connection.rows(SQL["replaced_put"], handles, reasons, REPLACED, payload, REPLACED_BY, now_us)
            written += len(asked)
        keys, entries, depth = book.unfinished, [], min(2 * depth, most)
    return written


async def _read(
    connection: Connection, keys: Collection[str], entries: Sequence[Entry], depth: int, makes_way: bool
) -> ReadBook:
    """How these keys stand; what is only needed for an overflow is read only then."""
    overflows = {entry.limit.overflow for entry in entries}
    shown = HOLDERS_SHOWN if "reject" in overflows else 0
    rows = await connection.rows(
        SQL["limits_of_keys"], sorted(keys), depth, shown, "replace" in overflows, REPLACED
    )  # fmt: skip
    return ReadBook(rows, depth, entries, makes_way=makes_way)


async def read_limit(connection: Connection, job_id: str) -> StoredLimit | None:
    """As the verb of the store says."""
    row = await connection.row(SQL["limit_of"], job_id, HOLDERS_SHOWN)
    limit = None if row is None else limit_in(row)
    return None if row is None or limit is None else StoredLimit(limit, row["slot"], row["holders"])
