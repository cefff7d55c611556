"""The SQLite store: one file, several processes, every acknowledged word on disk (DESIGN §7).

Writing goes through one thread with group commit (`sqlite_writer`), reading through two reader connections. This file
holds connections and verbs; what they do to the tables is in `sqlite_tables`, the statements in `sql/sqlite`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from openagents_json.clock import Clock, SystemClock
from openagents_json.errors import StoreUnavailable
from openagents_json.job.events import Event, decode_events
from openagents_json.job.model import ErrorInfo, JobSummary
from openagents_json.job.store.arrival import DEFAULT_AGING_S
from openagents_json.job.store.base import DEFAULT_LEASE_S, JobStore, Pulse
from openagents_json.job.store.deleting import DELETE_S
from openagents_json.job.store.durations import Duration, Sample
from openagents_json.job.store.grants import Blocked, Decided, Want
from openagents_json.job.store.limits import StoredLimit
from openagents_json.job.store.moving import MovedJob
from openagents_json.job.store.output import OutputChunk, StoredOutput
from openagents_json.job.store.pauses import Pause, PauseKind
from openagents_json.job.store.query import Query
from openagents_json.job.store.records import (
    NOBODY,
    Claim,
    Commit,
    Held,
    JobCounts,
    Listed,
    NewJob,
    QueuePlace,
    Request,
    StoredJob,
    StoredLeak,
    StoredWorker,
    Waiting,
    WorkerInfo,
    first_claim,
)
from openagents_json.job.store.rows import history_rows, request_of, summary_in
from openagents_json.job.store.shares import StoredShare
from openagents_json.job.store.shortages import Short, Shortages, encode_shortages, shortages_of
from openagents_json.job.store.sqlite_durations import learn, read_durations
from openagents_json.job.store.sqlite_files import FileLock
from openagents_json.job.store.sqlite_grants import (
    decide,
    lift_pause,
    list_pauses,
    read_blocked,
    set_pause,
    take_grants,
)
from openagents_json.job.store.sqlite_leaks import count_leaks, drop_leak, list_leaks, note_leak
from openagents_json.job.store.sqlite_limits import read_limit
from openagents_json.job.store.sqlite_moving import read_family, restore
from openagents_json.job.store.sqlite_output import SqliteOutput, count_jobs, read_output
from openagents_json.job.store.sqlite_queue import first_waiting, queue_place, queued
from openagents_json.job.store.sqlite_rows import SQL, casefold, history_of, listing, named, requests_of
from openagents_json.job.store.sqlite_schema import OWN_FAULTS, check_place, connect, migrate, translate
from openagents_json.job.store.sqlite_shares import list_shares, set_share
from openagents_json.job.store.sqlite_tables import SqliteTables
from openagents_json.job.store.sqlite_upkeep import find_flaws, read_facts, vacuum
from openagents_json.job.store.sqlite_workers import SqlitePulse, SqliteWorkers, thread_ended
from openagents_json.job.store.sqlite_writer import Operation, SqliteWriter
from openagents_json.job.store.upkeep import Flaw, StoreFacts, Vacuumed
from openagents_json.job.store.waiters import Outcome
from openagents_json.resources import Offers

READERS = 2
CHECKPOINT_PAGES = 1_000  # the WAL is copied into the file when it has grown to this many

T = TypeVar("T")


class SqliteJobStore(JobStore):
    """Jobs in a SQLite file. `path` is created when it is missing; its folder must exist."""

    vacuum_holds_up = True

    def __init__(
        self,
        path: str | Path,
        clock: Clock | None = None,
        *,
        aging_s: float = DEFAULT_AGING_S,
        lease_s: float = DEFAULT_LEASE_S,
    ) -> None:
        self.path = Path(os.path.realpath(path))  # the files beside it must be the same ones for every name it has
        self.clock = clock or SystemClock()
        self.lease_s = lease_s
        self._writer: SqliteWriter | None = None
        self._lock: FileLock | None = None
        self._owner: FileLock | None = None
        self._checkpoints = False  # writer's thread: whether we hold _owner
        self._workers = SqliteWorkers(self._beside(".workers"), self.clock, lease_s)
        self._tables = SqliteTables(self.clock, aging_s, self._translate)
        self._output = SqliteOutput()
        self._readers: concurrent.futures.ThreadPoolExecutor | None = None
        self._reader = threading.local()  # one connection per reader thread
        self._opened_readers: list[sqlite3.Connection] = []  # to close them; appended by the reader threads
        self._here: sqlite3.Connection | None = None  # loop's thread: quick reads and data_version
        # What has_foreign_changes saw last: the reader's count, and the writer's count and number of transactions.
        self._version = 0
        self._seen = (0, 0)
        self._is_in_doubt = False

    @property
    def aging_s(self) -> float:
        return self._tables.aging_s

    # ── open and close ────────────────────────────────────────────────────────────────────────────────────────────

    async def open(self) -> None:
        if self._writer is not None:
            return
        await asyncio.to_thread(self._prepare)
        self._readers = concurrent.futures.ThreadPoolExecutor(READERS, "openagents-sqlite-reader")
        assert self._lock is not None
        self._writer = SqliteWriter(self._connect_writer, self._perform, self._translate, self._lock)

    def _prepare(self) -> None:
        try:
            check_place(self.path)
            self._lock = FileLock(self._beside(".lock"))
            self._owner = FileLock(self._beside(".owner"))
            with self._lock.held(), contextlib.closing(connect(self.path, checkpoints=False)) as connection:
                migrate(connection, self.path, self.clock.now_us())
                found = connection.execute(SQL["meta_get"], ("aging_s",)).fetchone()
                if found is None:
                    connection.execute(SQL["meta_put"], ("aging_s", self.aging_s))
                else:
                    self._tables.aging_s = found[0]
            self._here = connect(self.path, checkpoints=False, reads_only=True)
            self._here.execute("PRAGMA busy_timeout = 0")
        except BaseException as error:
            self._close_files()
            if isinstance(error, (sqlite3.Error, OSError)):
                raise translate(error, self.path) from None
            raise

    def _connect_writer(self) -> sqlite3.Connection:
        self._checkpoints = False
        return connect(self.path, checkpoints=False)

    def _take_over_checkpoints(self, connection: sqlite3.Connection) -> None:
        """Checkpoint from now on if nobody else does; whoever did may have gone since we last looked."""
        assert self._owner is not None
        if not self._checkpoints and self._owner.try_acquire():
            self._checkpoints = True
            connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")

    def _beside(self, ending: str) -> Path:
        return self.path.with_name(self.path.name + ending)

    def _translate(self, error: Exception) -> Exception:
        return translate(error, self.path)

    async def close(self) -> None:
        if self._writer is None or self._readers is None or self._here is None:
            return
        writer, readers, here = self._writer, self._readers, self._here
        self._writer = self._readers = self._here = None  # from here on the verbs say that the store is not open
        writer.stop()
        # One call on one thread: if we are cancelled while it runs, it still closes everything.
        await asyncio.to_thread(self._close_all, writer, readers, here)

    def _close_all(
        self, writer: SqliteWriter, readers: concurrent.futures.ThreadPoolExecutor, here: sqlite3.Connection
    ) -> None:
        readers.shutdown()
        self._workers.look_back(here)
        for connection in (*self._opened_readers, here):
            connection.close()
        self._opened_readers = []
        writer.join()  # the writer's connection is the last, and checkpoints under the lock
        assert self._lock is not None
        with self._lock.held():
            self._workers.end_all()
        self._close_files()

    def _close_files(self) -> None:
        for lock in (self._owner, self._lock):
            if lock is not None:
                lock.close()
        self._owner = self._lock = None

    # ── reading ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _read(self, question: Callable[[sqlite3.Connection], T]) -> T:
        """Ask on a reader's thread, within one consistent reading."""
        if self._readers is None or self._writer is None:
            raise StoreUnavailable("The store is not open.")
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._answer, question)

    def _answer(self, question: Callable[[sqlite3.Connection], T]) -> T:
        connection: sqlite3.Connection | None = getattr(self._reader, "connection", None)
        try:
            if connection is None:
                connection = self._reader.connection = connect(self.path, checkpoints=False, reads_only=True)
                connection.execute("PRAGMA cache_size = -512")
                connection.create_function("casefold", 1, casefold, deterministic=True)
                self._opened_readers.append(connection)
            connection.execute("BEGIN")
            try:
                return question(connection)
            finally:
                if connection.in_transaction:  # SQLite has ended it itself after some errors
                    connection.execute("ROLLBACK")
        except (sqlite3.Error, *OWN_FAULTS) as error:
            raise translate(error, self.path) from None

    async def _read_here(self, question: Callable[[sqlite3.Connection], T]) -> T:
        """Ask on the loop's own thread: for a few rows that costs less than waking a reader, and WAL readers never wait
        for the writer. Where the file is locked after all, a reader's thread waits for it."""
        if self._here is None:
            raise StoreUnavailable("The store is not open.")
        try:
            return question(self._here)
        except sqlite3.Error:
            return await self._read(question)

    async def read(self, job_id: str) -> StoredJob | None:
        def question(connection: sqlite3.Connection) -> StoredJob | None:
            cursor = connection.execute(SQL["job_by_id"], (job_id,))
            if (values := cursor.fetchone()) is None:
                return None
            row = named(cursor, values)
            snapshot, events = history_of(connection, row["key"], row["snapshot_event"])
            requests = requests_of(connection, row["key"])
            return StoredJob(summary_in(row), row["owner"], row["definition"], snapshot, events, requests)

        return await self._read(question)

    async def read_summary(self, job_id: str) -> JobSummary | None:
        def question(connection: sqlite3.Connection) -> JobSummary | None:
            cursor = connection.execute(SQL["job_by_id"], (job_id,))
            values = cursor.fetchone()
            return None if values is None else summary_in(named(cursor, values))

        return await self._read_here(question)

    async def read_definition_hash(self, job_id: str) -> str | None:
        def question(connection: sqlite3.Connection) -> str | None:
            found = connection.execute(SQL["definition_of"], (job_id,)).fetchone()
            return None if found is None else str(found[0])

        return await self._read_here(question)

    async def read_limit(self, job_id: str) -> StoredLimit | None:
        return await self._read(lambda connection: read_limit(connection, job_id))

    async def read_events(self, job_id: str, after: int = 0, limit: int = 1_000) -> list[Event]:
        def question(connection: sqlite3.Connection) -> list[Event]:
            first = connection.execute(SQL["history_row_of"], (job_id, after + 1)).fetchone()[0] or 0
            rows = connection.execute(SQL["history_after_by_id"], (job_id, first, after, limit))
            events: list[Event] = []
            for (data,) in rows:
                events.extend(event for event in decode_events(data) if event.number > after)
                if len(events) >= limit:
                    break
            return events[:limit]

        return await self._read(question)

    async def list_jobs(self, query: Query) -> list[Listed]:
        sql, values = listing(query)

        def question(connection: sqlite3.Connection) -> list[Listed]:
            cursor = connection.execute(sql, values)
            rows = [named(cursor, row) for row in cursor]
            return [Listed(summary_in(row), (row[query.order], row["key"])) for row in rows]

        return await self._read(question)

    async def find_ids(self, ending: str, limit: int = 5) -> list[str]:
        values = {"text": ending, "limit": limit}
        return await self._read(
            lambda connection: [job_id for (job_id,) in connection.execute(SQL["ids_like"], values)]
        )

    async def read_definition(self, content_hash: str) -> bytes | None:
        def question(connection: sqlite3.Connection) -> bytes | None:
            found = connection.execute(SQL["definition_get"], (content_hash,)).fetchone()
            return None if found is None else bytes(found[0])

        return await self._read(question)

    async def definition_hashes(self, after: str = "", limit: int = 1_000) -> list[str]:
        values = (after, limit)
        return await self._read(
            lambda connection: [one for (one,) in connection.execute(SQL["definition_hashes"], values)]
        )

    async def read_requests(self, job_id: str) -> list[Request]:
        def question(connection: sqlite3.Connection) -> list[Request]:
            return [request_of(row) for row in connection.execute(SQL["inbox_of_id"], (job_id,))]

        return await self._read_here(question)

    async def jobs_with_requests(self, worker: str) -> list[str]:
        return await self._read_here(
            lambda connection: [job_id for (job_id,) in connection.execute(SQL["jobs_with_requests"], (worker,))]
        )

    async def read_leases(self, worker: str) -> dict[str, int]:
        return await self._read(lambda connection: dict(connection.execute(SQL["leases_of"], (worker,)).fetchall()))

    async def next_due_us(self) -> int | None:
        return await self._read_here(lambda connection: connection.execute(SQL["next_due"]).fetchone()[0])

    async def read_output(
        self, job_id: str, path: str | None = None, attempt: int | None = None, after: int = 0, limit: int = 64
    ) -> list[StoredOutput]:
        return await self._read(lambda connection: read_output(connection, job_id, path, attempt, after, limit))

    async def count_jobs(self, limit: int) -> JobCounts:
        return await self._read(lambda connection: count_jobs(connection, limit))

    def has_foreign_changes(self) -> bool:
        """SQLite counts changes by *other connections*, and our writer is another one to the reader that asks here. So
        a change counts as foreign if our writer saw it in its own count, or if our writer wrote nothing meanwhile. What
        is left in doubt when the writer falls silent is cleared up by an empty transaction of the writer."""
        if self._here is None or self._writer is None:
            return False
        try:
            (version,) = self._here.execute("PRAGMA data_version").fetchone()
        except sqlite3.Error:
            return True  # better look once too often
        writer = (self._writer.data_version, self._writer.transactions)
        is_foreign = writer[0] != self._seen[0]
        if version != self._version:
            is_silent = writer[1] == self._seen[1]
            is_foreign, self._is_in_doubt = is_foreign or is_silent, not is_silent
        elif self._is_in_doubt and writer[1] == self._seen[1]:
            self._is_in_doubt = False
            self._writer.look()
        self._version, self._seen = version, writer
        return is_foreign

    def stats(self) -> dict[str, int]:
        commits = self._writer.transactions if self._writer else 0
        # WAL with FULL syncs once per transaction.
        return {"commits": commits, "rows": self._tables.rows, "syncs": commits}

    @property
    def commit_delay_s(self) -> float:
        """Seconds slept before each COMMIT: a slow disk for tests and benchmarks."""
        return self._writer.commit_delay_s if self._writer else 0.0

    @commit_delay_s.setter
    def commit_delay_s(self, seconds: float) -> None:
        assert self._writer is not None, "open the store first"
        self._writer.commit_delay_s = seconds

    # ── writing: each verb is one operation of a group ────────────────────────────────────────────────────────────

    async def _write(self, kind: str, argument: Any) -> Any:
        if self._writer is None:
            raise StoreUnavailable("The store is not open.")
        return await self._writer.submit(kind, argument)

    async def create(self, job: NewJob) -> str:
        data = history_rows(job.events)
        if job.idempotency_key is None:
            return str(await self._write("create", (job, data)))
        return str(await self._write("call", lambda connection: self._tables.create_once(connection, job, data)))

    async def create_held(self, job: NewJob) -> Claim | None:
        handle = await self._write("create_held", (job, history_rows(job.events)))
        return None if handle is None else first_claim(job, handle, self.aging_s)

    async def commit(self, commit: Commit) -> None:
        await self._write("commit", (commit, history_rows(commit.events)))

    async def commit_all(self, commits: Sequence[Commit]) -> Sequence[BaseException | None]:
        many = [(commit, history_rows(commit.events)) for commit in commits]
        outcomes = await self._write("call", lambda connection: self._tables.commit_all(connection, many))
        return [error for _, error in outcomes]

    async def create_all(self, jobs: Sequence[NewJob]) -> list[str]:
        many = [(job, history_rows(job.events)) for job in jobs]
        return await self._write(  # type: ignore[no-any-return]
            "call", lambda connection: self._tables.create_many(connection, many)
        )

    async def set_aging(self, aging_s: float) -> None:
        await self._write("call", lambda connection: self._tables.set_aging(connection, aging_s))

    async def set_share(self, key: str, weight: float) -> None:
        await self._write("call", lambda connection: set_share(connection, key, weight, self.clock.now_us()))

    async def list_shares(self, after: str = "", limit: int = 1_000) -> list[StoredShare]:
        return await self._read(lambda connection: list_shares(connection, after, limit, self.clock.now_us()))

    async def learn(self, samples: Sequence[Sample]) -> None:
        if samples:
            await self._write("call", lambda connection: learn(connection, samples, self.clock.now_us()))

    async def read_durations(self, workflow_id: str) -> list[Duration]:
        return await self._read(lambda connection: read_durations(connection, workflow_id))

    async def read_family(self, job_id: str) -> list[MovedJob]:
        return await self._read(lambda connection: read_family(connection, job_id))

    async def restore(self, jobs: Sequence[MovedJob]) -> list[str]:
        return await self._write(  # type: ignore[no-any-return]
            "call", lambda connection: restore(connection, jobs, self._tables, self.clock.now_us())
        )

    async def claim(
        self, worker: str, limit: int, offers: Offers | None = None, *, suspects: bool = False
    ) -> list[Claim]:
        def call(connection: sqlite3.Connection) -> list[Claim] | None:
            keys = queued(connection, limit, offers, suspects)
            return None if keys is None else self._tables.lease_all(connection, keys, None, worker)

        while (claims := await self._write("call", call)) is None:
            pass  # very many jobs of paused workflows stand in front: others write between
        return claims  # type: ignore[no-any-return]

    async def first_waiting(self, offers: Offers | None = None) -> Waiting | None:
        return await self._read(lambda connection: first_waiting(connection, offers))

    async def queue_place(self, job_id: str, shown: int = 10) -> QueuePlace | None:
        return await self._read(lambda connection: queue_place(connection, job_id, shown))

    async def make_room(self, job_id: str, worker: str) -> bool:
        def call(connection: sqlite3.Connection) -> bool:
            found = connection.execute(SQL["room_of"], (job_id,)).fetchone()
            if found is None or (found[0] not in (None, worker) and self._workers.is_alive(connection, found[0])):
                return False
            return self._tables.execute(connection, "room_make", (worker, job_id)) > 0

        return bool(await self._write("call", call))

    async def hold(self, job_id: str, worker: str, request: Request) -> Held | None:
        return await self._write("hold", (job_id, worker, request))  # type: ignore[no-any-return]

    async def hold_all(
        self, worker: str, requests: Sequence[tuple[str, Request]]
    ) -> Sequence[Held | BaseException | None]:
        many = [(job_id, worker, request) for job_id, request in requests]
        outcomes = await self._write("call", lambda connection: self._tables.hold_all(connection, many))
        return [held if error is None else error for held, error in outcomes]

    async def hold_due(self, worker: str, limit: int) -> list[Claim]:
        def call(connection: sqlite3.Connection) -> list[Claim]:
            values = {"now": self.clock.now_us(), "limit": limit}
            found = [one for name in ("due", "at_risk") for one in connection.execute(SQL[name], values)]
            return self._tables.lease_all(connection, [(key,) for _, key in sorted(found)[:limit]], None, worker)

        return await self._write("call", call)  # type: ignore[no-any-return]

    async def hold_requested(self, worker: str, limit: int) -> list[Claim]:
        def question(connection: sqlite3.Connection) -> bool:
            return connection.execute(SQL["requested"], (1,)).fetchone() is not None

        if not await self._read_here(question):
            return []

        def call(connection: sqlite3.Connection) -> list[Claim]:
            keys = connection.execute(SQL["requested"], (limit,)).fetchall()
            return self._tables.lease_all(connection, keys, None, worker)

        return await self._write("call", call)  # type: ignore[no-any-return]

    async def hold_orphans(self, worker: str, limit: int) -> list[Claim]:
        owners = await self._read(lambda connection: connection.execute(SQL["owners"]).fetchall())
        if all(owner == worker for (owner,) in owners):
            return []

        def call(connection: sqlite3.Connection) -> list[Claim]:
            claims: list[Claim] = []
            for (owner,) in owners:
                if owner != worker and not self._workers.is_alive(connection, owner):
                    keys = connection.execute(SQL["owned_by"], (owner, limit - len(claims))).fetchall()
                    claims += self._tables.lease_all(connection, keys, owner, worker)
            return claims

        return await self._write("call", call)  # type: ignore[no-any-return]

    async def hold_again(self, worker: str, leases: Mapping[str, int]) -> list[Claim]:
        def call(connection: sqlite3.Connection) -> list[Claim]:
            found = (connection.execute(SQL["held"], (job_id, worker, leases[job_id])).fetchone() for job_id in leases)
            return self._tables.lease_all(connection, [key for key in found if key is not None], worker, worker)

        return await self._write("call", call)  # type: ignore[no-any-return]

    async def release(self, claim: Claim) -> None:
        values = (claim.handle, claim.owner, claim.epoch)
        await self._write("call", lambda connection: self._tables.execute(connection, "release", values))

    async def thread_ended(self, job_id: str, worker: str) -> None:
        await self._write("call", lambda connection: thread_ended(connection, job_id, worker))

    async def list_leaks(self, after: int = 0, limit: int = 1_000) -> list[StoredLeak]:
        return await self._read(lambda connection: list_leaks(connection, after, limit))

    async def count_leaks(self) -> int:
        return await self._read_here(count_leaks)

    async def note_leak(self, key: int, error: ErrorInfo) -> bool:
        return bool(await self._write("call", lambda connection: note_leak(connection, key, error)))

    async def drop_leak(self, key: int) -> bool:
        return bool(await self._write("call", lambda connection: drop_leak(connection, key)))

    async def append_output(self, job_id: str, path: str, attempt: int, chunks: Sequence[OutputChunk]) -> None:
        if chunks:
            await self._write("call", self._output.appending(job_id, path, attempt, chunks))

    async def set_pause(self, kind: PauseKind, name: str, by: str | None, reason: str | None) -> bool:
        def call(connection: sqlite3.Connection) -> bool:
            return set_pause(connection, Pause(kind, name, by, reason, self.clock.now_us()))

        return bool(await self._write("call", call))

    async def lift_pause(self, kind: PauseKind, name: str) -> bool:
        return bool(await self._write("call", lambda connection: lift_pause(connection, kind, name)))

    async def list_pauses(self) -> list[Pause]:
        return await self._read_here(list_pauses)

    async def take_grants(self, worker: str, holds: Mapping[str, int], wants: Sequence[Want]) -> list[Blocked | None]:
        def look(connection: sqlite3.Connection) -> Decided:
            is_alive = partial(self._workers.has_lease, connection)
            return decide(connection, worker, holds, wants, is_alive, self.clock.now_us())

        def call(connection: sqlite3.Connection) -> list[Blocked | None]:
            is_alive = partial(self._workers.is_alive, connection)
            return take_grants(connection, worker, holds, wants, is_alive, self.clock.now_us())

        # Who waits asks often, and mostly in vain: then nothing is written, of which others would take notice.
        seen = await self._read(look)
        return seen.answers if not seen.changes else await self._write("call", call)

    async def read_blocked(self, job_id: str) -> list[Blocked]:
        def question(connection: sqlite3.Connection) -> list[Blocked]:
            is_alive = partial(self._workers.has_lease, connection)
            return read_blocked(connection, job_id, is_alive, self.clock.now_us())

        return await self._read(question)

    async def tell_shortages(self, worker: str, shortages: Shortages) -> None:
        values = (worker, encode_shortages(shortages))
        await self._write("call", lambda connection: self._tables.execute(connection, "shortages_put", values))

    async def read_shortages(self, job_id: str) -> list[Short]:
        def question(connection: sqlite3.Connection) -> list[Short]:
            found = connection.execute(SQL["shortages_of"], (job_id,)).fetchone()
            return shortages_of(found and found[0], job_id)

        return await self._read(question)

    async def register_worker(self, worker: str, info: WorkerInfo = NOBODY) -> None:
        await self._write("call", lambda connection: self._workers.register(connection, worker, info))

    async def heartbeat(self, worker: str) -> bool:
        return bool(await self._write("call", lambda connection: self._workers.renew(connection, worker)))

    def pulse(self, worker: str) -> Pulse:
        return SqlitePulse(self.path, self._beside(".lock"), worker, self._workers, self.lease_s)

    async def unregister_worker(self, worker: str, *, threads_run: bool = False) -> None:
        await self._write("call", lambda connection: self._workers.unregister(connection, worker, threads_run))

    async def bury_workers(self) -> int:
        return int(await self._write("call", self._workers.bury))

    async def list_workers(self) -> list[StoredWorker]:
        return await self._write("call", self._workers.list)  # type: ignore[no-any-return]

    async def delete(self, job_id: str) -> bool:
        def call(connection: sqlite3.Connection) -> bool:
            return self._tables.delete_trees(connection, connection.execute(SQL["deletable"], (job_id,)).fetchall()) > 0

        return await self._write("call", call)  # type: ignore[no-any-return]

    async def delete_final(self, before_us: int, limit: int, within_s: float = DELETE_S) -> int:
        return await self._write(  # type: ignore[no-any-return]
            "call", lambda connection: self._tables.delete_final(connection, before_us, limit, within_s)
        )

    # ── the file as a whole ───────────────────────────────────────────────────────────────────────────────────────

    async def facts(self) -> StoreFacts:
        return await asyncio.to_thread(read_facts, self.path, self.clock)

    async def verify(self) -> list[Flaw]:
        return await asyncio.to_thread(find_flaws, self.path)

    async def vacuum(self) -> Vacuumed:
        return await asyncio.to_thread(vacuum, self.path)

    # ── the writer's thread: inside a transaction ─────────────────────────────────────────────────────────────────

    def _perform(self, connection: sqlite3.Connection, group: Sequence[Operation]) -> list[Outcome]:
        self._take_over_checkpoints(connection)
        return self._tables.perform(connection, group)
