"""The SQLite store: one file, several processes, every acknowledged word on disk (DESIGN §7).

Writing goes through one thread with group commit (`sqlite_writer`), reading through two reader connections. This file
says what each verb does to the tables; the statements stand in `sql/sqlite/statements.sql`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from openagents_json.clock import SECOND_US, Clock, SystemClock
from openagents_json.errors import LeaseLost, RequestsPending, StoreUnavailable
from openagents_json.job.events import Event, decode_events, encode_events
from openagents_json.job.machine import FOLD_VERSION
from openagents_json.job.model import FINAL, JobStatus, JobSummary
from openagents_json.job.store.base import (
    DEFAULT_AGING_S,
    DEFAULT_LEASE_S,
    HISTORY_ROW_EVENTS,
    Claim,
    Commit,
    Held,
    JobRow,
    JobStore,
    Listed,
    NewJob,
    Request,
    StoredJob,
    is_written,
    same_body,
    summary_of,
    virtual_arrival_us,
)
from openagents_json.job.store.query import Query
from openagents_json.job.store.sql import statements
from openagents_json.job.store.sqlite_files import FileLock, WorkerFiles
from openagents_json.job.store.sqlite_schema import OWN_FAULTS, check_place, connect, migrate, translate
from openagents_json.job.store.sqlite_writer import Operation, Outcome, SqliteWriter
from openagents_json.jsondata import decode, encode

SQL = statements("sqlite")
READERS = 2
CHECKPOINT_PAGES = 1_000  # the WAL is copied into the file when it has grown to this many

T = TypeVar("T")


class SqliteJobStore(JobStore):
    """Jobs in a SQLite file. `path` is created when it is missing; its folder must exist."""

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
        self.aging_s = aging_s
        self.lease_s = lease_s
        self._writer: SqliteWriter | None = None
        self._lock: FileLock | None = None
        self._owner: FileLock | None = None
        self._checkpoints = False  # writer's thread: whether we hold _owner
        self._workers = WorkerFiles(self._beside(".workers"))
        self._readers: concurrent.futures.ThreadPoolExecutor | None = None
        self._reader = threading.local()  # one connection per reader thread
        self._opened_readers: list[sqlite3.Connection] = []  # to close them; appended by the reader threads
        self._here: sqlite3.Connection | None = None  # loop's thread: quick reads and data_version
        # What has_foreign_changes saw last: the reader's count, and the writer's count and number of transactions.
        self._version = 0
        self._seen = (0, 0)
        self._is_in_doubt = False
        self._rows = 0  # written by the writer's thread

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
                    self.aging_s = found[0]
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
                connection.create_function("casefold", 1, _casefold, deterministic=True)
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
            row = _named(cursor, values)
            snapshot, events = _history(connection, row["key"], row["snapshot_event"])
            requests = _requests(connection, row["key"])
            return StoredJob(_summary(row), row["owner"], row["definition"], snapshot, events, requests)

        return await self._read(question)

    async def read_summary(self, job_id: str) -> JobSummary | None:
        def question(connection: sqlite3.Connection) -> JobSummary | None:
            cursor = connection.execute(SQL["job_by_id"], (job_id,))
            values = cursor.fetchone()
            return None if values is None else _summary(_named(cursor, values))

        return await self._read_here(question)

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
        sql, values = _listing(query)

        def question(connection: sqlite3.Connection) -> list[Listed]:
            cursor = connection.execute(sql, values)
            rows = [_named(cursor, row) for row in cursor]
            return [Listed(_summary(row), (row[query.order], row["key"])) for row in rows]

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

    async def read_requests(self, job_id: str) -> list[Request]:
        def question(connection: sqlite3.Connection) -> list[Request]:
            return [_request(row) for row in connection.execute(SQL["inbox_of_id"], (job_id,))]

        return await self._read_here(question)

    async def jobs_with_requests(self, worker: str) -> list[str]:
        return await self._read_here(
            lambda connection: [job_id for (job_id,) in connection.execute(SQL["jobs_with_requests"], (worker,))]
        )

    async def next_due_us(self) -> int | None:
        return await self._read_here(lambda connection: connection.execute(SQL["next_due"]).fetchone()[0])

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
        return {"commits": commits, "rows": self._rows, "syncs": commits}  # WAL with FULL syncs once per transaction

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
        data = _history_rows(job.events)
        if job.idempotency_key is None:
            return str(await self._write("create", (job, data)))
        return str(await self._write("call", lambda connection: self._create_once(connection, job, data)))

    async def commit(self, commit: Commit) -> None:
        await self._write("commit", (commit, _history_rows(commit.events)))

    async def claim(self, worker: str, limit: int) -> list[Claim]:
        def call(connection: sqlite3.Connection) -> list[Claim]:
            keys = connection.execute(SQL["claimable"], (limit,)).fetchall()
            return self._lease_all(connection, keys, None, worker)

        return await self._write("call", call)  # type: ignore[no-any-return]

    async def hold(self, job_id: str, worker: str, request: Request) -> Held | None:
        def call(connection: sqlite3.Connection) -> Held | None:
            found = connection.execute(SQL["job_to_hold"], (job_id,)).fetchone()
            if found is None:
                return None
            key, owner, status = found
            if status in FINAL:
                return Held(None, None)
            payload = encode(request.payload)
            values = (key, request.key, request.kind, payload, request.by, request.reason, request.at_us)
            self._rows += max(connection.execute(SQL["inbox_put"], values).rowcount, 0)
            if owner is not None:
                return Held(None, owner)
            return Held(self._lease(connection, key, None, worker), worker)

        return await self._write("call", call)  # type: ignore[no-any-return]

    async def hold_due(self, worker: str, limit: int) -> list[Claim]:
        def call(connection: sqlite3.Connection) -> list[Claim]:
            keys = connection.execute(SQL["due"], (self.clock.now_us(), limit)).fetchall()
            return self._lease_all(connection, keys, None, worker)

        return await self._write("call", call)  # type: ignore[no-any-return]

    async def hold_orphans(self, worker: str, limit: int) -> list[Claim]:
        owners = await self._read(lambda connection: connection.execute(SQL["owners"]).fetchall())
        if all(owner == worker for (owner,) in owners):
            return []

        def call(connection: sqlite3.Connection) -> list[Claim]:
            claims: list[Claim] = []
            for (owner,) in owners:
                if not self._is_alive(connection, owner):
                    keys = connection.execute(SQL["owned_by"], (owner, limit - len(claims))).fetchall()
                    claims += self._lease_all(connection, keys, owner, worker)
            return claims

        return await self._write("call", call)  # type: ignore[no-any-return]

    async def release(self, claim: Claim) -> None:
        values = (claim.handle, claim.owner, claim.epoch)
        await self._write("call", lambda connection: self._execute(connection, "release", values))

    async def thread_ended(self, job_id: str) -> None:
        await self._write("call", lambda connection: self._execute(connection, "thread_ended", (job_id,)))

    async def register_worker(self, worker: str) -> None:
        def call(connection: sqlite3.Connection) -> None:
            now = self.clock.now_us()
            self._execute(connection, "workers_dead", (now,))
            self._workers.sweep()
            self._workers.begin(worker)
            self._execute(connection, "worker_put", (worker, now, self._lease_end()))

        await self._write("call", call)

    async def heartbeat(self, worker: str) -> bool:
        def call(connection: sqlite3.Connection) -> bool:  # the time is that of the write, not of the question
            return self._execute(connection, "worker_renew", (self._lease_end(), worker, self.clock.now_us())) > 0

        return await self._write("call", call)  # type: ignore[no-any-return]

    async def unregister_worker(self, worker: str) -> None:
        def call(connection: sqlite3.Connection) -> None:
            self._execute(connection, "worker_delete", (worker,))
            self._workers.end(worker)

        await self._write("call", call)

    async def delete(self, job_id: str) -> bool:
        def call(connection: sqlite3.Connection) -> bool:
            return self._delete(connection, connection.execute(SQL["deletable"], (job_id,)).fetchall()) > 0

        return await self._write("call", call)  # type: ignore[no-any-return]

    async def delete_final(self, before_us: int, limit: int) -> int:
        def call(connection: sqlite3.Connection) -> int:
            return self._delete(connection, connection.execute(SQL["final_before"], (before_us, limit)).fetchall())

        return await self._write("call", call)  # type: ignore[no-any-return]

    # ── the writer's thread: inside a transaction ─────────────────────────────────────────────────────────────────

    def _perform(self, connection: sqlite3.Connection, group: Sequence[Operation]) -> list[Outcome]:
        """Creates and commits of a group go together, the other verbs one by one. Their order does not matter: whoever
        needs one before the other waits for the first one's answer."""
        outcomes: dict[Operation, Outcome] = {}
        creates = [operation for operation in group if operation.kind == "create"]
        commits = [operation for operation in group if operation.kind == "commit"]
        self._take_over_checkpoints(connection)
        if creates:
            answers = self._create_all(connection, [operation.argument for operation in creates])
            outcomes.update(zip(creates, answers, strict=True))
        if commits:
            answers = self._commit_all(connection, [operation.argument for operation in commits])
            outcomes.update(zip(commits, answers, strict=True))
        for operation in group:
            if operation.kind == "call":
                outcomes[operation] = self._call(connection, operation.argument)
        return [outcomes[operation] for operation in group]

    def _call(self, connection: sqlite3.Connection, call: Callable[[sqlite3.Connection], Any]) -> Outcome:
        """A verb of its own. Its own errors undo what it wrote; those of the database end the group."""
        try:
            with _undone_on_error(connection):
                return call(connection), None
        except (OSError, *OWN_FAULTS) as error:
            return None, self._translate(error)
        except sqlite3.Error:
            raise
        except Exception as error:
            return None, error

    def _execute(self, connection: sqlite3.Connection, name: str, values: tuple[Any, ...]) -> int:
        written = max(connection.execute(SQL[name], values).rowcount, 0)
        self._rows += written
        return written

    def _create_all(
        self, connection: sqlite3.Connection, jobs: list[tuple[NewJob, list[tuple[int, int, bytes]]]]
    ) -> list[Outcome]:
        """All new jobs of the group at once; only if the database refuses a row, one by one to find out which."""
        try:
            with _undone_on_error(connection):
                self._write_jobs(connection, jobs)
        except OWN_FAULTS as error:
            if len(jobs) == 1:
                return [(None, self._translate(error))]
            return [outcome for one in jobs for outcome in self._create_all(connection, [one])]
        return [(job.job_id, None) for job, _ in jobs]

    def _write_jobs(
        self, connection: sqlite3.Connection, jobs: list[tuple[NewJob, list[tuple[int, int, bytes]]]]
    ) -> None:
        now = self.clock.now_us()
        (first_key,) = connection.execute(SQL["next_key"]).fetchone()
        rows, history = [], []
        for key, (job, data) in enumerate(jobs, first_key):
            row, is_queued = job.row, job.row.status == JobStatus.QUEUED
            rows.append(
                (
                    key,
                    job.job_id,
                    job.definition.workflow_id,
                    job.definition.version,
                    job.definition.hash,
                    row.status.value,
                    row.rank,
                    virtual_arrival_us(now, 0, row.rank, self.aging_s) if is_queued else 0,
                    row.last_event,
                    job.created_us,
                    now if is_queued else None,
                    row.due_us,
                    job.idempotency_key,
                    job.body_hash,
                    encode(list(job.tags)).decode() if job.tags else None,  # as text: json_each refuses blobs
                )
            )
            history += [(key, *part) for part in data]
        definitions = {job.definition.hash: job.definition for job, _ in jobs}
        connection.executemany(
            SQL["definition_put"],
            [(one.hash, one.workflow_id, one.version, one.document) for one in definitions.values()],
        )
        if connection.executemany(SQL["job_put"], rows).rowcount != len(rows):
            written = {
                key
                for (key, job_id, *_) in rows
                if connection.execute(SQL["job_to_hold"], (job_id,)).fetchone()[0] == key
            }
            history = [part for part in history if part[0] in written]
        connection.executemany(SQL["history_put"], history)
        self._rows += len(rows) + len(history)

    def _create_once(self, connection: sqlite3.Connection, job: NewJob, data: list[tuple[int, int, bytes]]) -> str:
        key = (job.definition.workflow_id, job.idempotency_key)
        found = connection.execute(SQL["job_with_idempotency_key"], key).fetchone()
        if found is not None:
            return same_body(found[1], job, found[0])
        self._write_jobs(connection, [(job, data)])
        return job.job_id

    def _commit_all(
        self, connection: sqlite3.Connection, commits: list[tuple[Commit, list[tuple[int, int, bytes]]]]
    ) -> list[Outcome]:
        """All commits of the group at once; only if a row does not match any more, one by one to find out which."""
        try:
            with _undone_on_error(connection):
                self._write_commits(connection, commits)
        except (_NotAsExpected, *OWN_FAULTS) as error:
            if len(commits) > 1:
                return [outcome for one in commits for outcome in self._commit_all(connection, [one])]
            if isinstance(error, _NotAsExpected):
                return [(None, self._why_refused(connection, commits[0][0]))]
            return [(None, self._translate(error))]
        return [(None, None)] * len(commits)

    def _write_commits(
        self, connection: sqlite3.Connection, commits: list[tuple[Commit, list[tuple[int, int, bytes]]]]
    ) -> None:
        """`_NotAsExpected` when some row is not as its commit expects."""
        now, aging_us = self.clock.now_us(), round(self.aging_s * SECOND_US)
        drained = [(sequence,) for commit, _ in commits for sequence in commit.drained]
        if drained:
            connection.executemany(SQL["inbox_drained"], drained)
        running, starting, settled, history = [], [], [], []
        for commit, data in commits:
            claim, row = commit.claim, commit.row
            if row.status != JobStatus.RUNNING:
                settled.append(_settled_values(commit, now, aging_us))
            else:
                head = (row.last_event, row.rank, row.progress, row.current_step, row.error_type, row.error_message,
                        row.pause_requested, row.cancel_requested, commit.abandoned)  # fmt: skip
                lease = (claim.handle, claim.owner, claim.epoch, commit.expected)
                if commit.previous_status == JobStatus.RUNNING:
                    running.append(head + lease)
                else:
                    starting.append((*head, row.started_us, now, *lease))
            for part in data:
                history.append((claim.handle, *part))
        for name, rows in (("commit_running", running), ("commit_starting", starting), ("commit_settled", settled)):
            if rows and connection.executemany(SQL[name], rows).rowcount != len(rows):
                raise _NotAsExpected
        connection.executemany(SQL["history_put"], history)
        for commit, _ in commits:
            if commit.snapshot is not None:
                number, key = commit.row.last_event, commit.claim.handle
                connection.execute(SQL["snapshot_put"], (key, FOLD_VERSION, number, commit.snapshot))
                connection.execute(SQL["snapshot_mark"], (number, key))
        self._rows += len(commits) + len(history) + len(drained)

    def _why_refused(self, connection: sqlite3.Connection, commit: Commit) -> BaseException | None:
        """The error for a commit that did not match; None when exactly this commit was written before."""
        claim = commit.claim
        found = connection.execute(SQL["lease_of"], (claim.handle,)).fetchone()
        if found is not None:
            owner, epoch, last_event, _ = found
            if (owner, epoch, last_event) == (claim.owner, claim.epoch, commit.expected):
                return RequestsPending(f"Job {claim.job_id} has requests that its last commit has not seen.")
            events = _events(connection, claim.handle, commit.expected)
            if is_written(commit, epoch, last_event, events):
                return None
        return LeaseLost(f"Job {claim.job_id} is not held by {claim.owner} in epoch {claim.epoch} any more.")

    def _lease_all(
        self, connection: sqlite3.Connection, keys: Iterable[tuple[int]], expected: str | None, worker: str
    ) -> list[Claim]:
        (inbox_is_used,) = connection.execute(SQL["inbox_is_used"]).fetchone()
        return [self._lease(connection, key, expected, worker, bool(inbox_is_used)) for (key,) in keys]

    def _lease(
        self, connection: sqlite3.Connection, key: int, expected: str | None, worker: str, read_inbox: bool = True
    ) -> Claim:
        values = {"worker": worker, "key": key, "expected": expected}
        # Seen a moment ago in this transaction, so the row is there and as expected. fetchall ends the statement.
        [(job_id, epoch, definition, last_event, snapshot_event)] = connection.execute(SQL["lease"], values).fetchall()
        snapshot, events = _history(connection, key, snapshot_event)
        requests = _requests(connection, key) if read_inbox else []
        self._rows += 1
        return Claim(job_id, key, worker, epoch, definition, last_event, expected, snapshot, events, requests)

    def _is_alive(self, connection: sqlite3.Connection, owner: str) -> bool:
        lease = connection.execute(SQL["worker_lease"], (owner,)).fetchone()
        return lease is not None and lease[0] > self.clock.now_us() and self._workers.is_alive(owner)

    def _delete(self, connection: sqlite3.Connection, keys: list[tuple[int]]) -> int:
        for name in ("delete_history", "delete_inbox", "delete_snapshot", "delete_job"):
            connection.executemany(SQL[name], keys)
        if keys:
            connection.execute(SQL["key_used"], max(keys))
        self._rows += len(keys)
        return len(keys)

    def _lease_end(self) -> int:
        return self.clock.now_us() + round(self.lease_s * SECOND_US)


class _NotAsExpected(Exception):
    """A row has another owner, epoch, status or last event than a commit says, or a request stands in its way."""


@contextlib.contextmanager
def _undone_on_error(connection: sqlite3.Connection) -> Iterator[None]:
    """What is written inside is undone when it raises, and the transaction goes on without it."""
    connection.execute("SAVEPOINT part")
    try:
        yield
    except BaseException:
        if connection.in_transaction:  # after some errors SQLite has ended all of it itself
            connection.execute("ROLLBACK TO part")
            connection.execute("RELEASE part")
        raise
    connection.execute("RELEASE part")


# ── rows ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _history_rows(events: Sequence[Event]) -> list[tuple[int, int, bytes]]:
    """(first, last, JSON) for each row that a commit's events take."""
    parts = [events[start : start + HISTORY_ROW_EVENTS] for start in range(0, len(events), HISTORY_ROW_EVENTS)]
    return [(part[0].number, part[-1].number, encode_events(part)) for part in parts]


def _events(connection: sqlite3.Connection, key: int, after: int) -> list[Event]:
    events: list[Event] = []
    for (data,) in connection.execute(SQL["history_after"], (key, after)).fetchall():
        events += decode_events(data)
    return [event for event in events if event.number > after] if after else events


def _history(connection: sqlite3.Connection, key: int, snapshot_event: int) -> tuple[bytes | None, list[Event]]:
    if snapshot_event:
        found = connection.execute(SQL["snapshot_get"], (key, FOLD_VERSION)).fetchone()
        if found is not None:
            return bytes(found[1]), _events(connection, key, found[0])
    return None, _events(connection, key, 0)


def _requests(connection: sqlite3.Connection, key: int) -> list[Request]:
    return [_request(row) for row in connection.execute(SQL["inbox_of"], (key,)).fetchall()]


def _request(row: tuple[Any, ...]) -> Request:
    key, kind, by, reason, at_us, payload, sequence = row
    return Request(key, kind, by, reason, at_us, decode(payload), sequence)


def _settled_values(commit: Commit, now: int, aging_us: int) -> dict[str, Any]:
    claim, row = commit.claim, commit.row
    return {
        "last_event": row.last_event,
        "rank": row.rank,
        "progress": row.progress,
        "current_step": row.current_step,
        "error_type": row.error_type,
        "error_message": row.error_message,
        "pause_requested": row.pause_requested,
        "cancel_requested": row.cancel_requested,
        "abandoned": commit.abandoned,
        "status": row.status.value,
        "started_us": row.started_us,
        "completed_us": row.completed_us,
        "due_us": row.due_us,
        "now": now,
        "aging_us": aging_us,
        "key": claim.handle,
        "owner": claim.owner,
        "epoch": claim.epoch,
        "expected": commit.expected,
        "previous_status": commit.previous_status.value,
    }


def _named(cursor: sqlite3.Cursor, values: Sequence[Any]) -> dict[str, Any]:
    return {column[0]: value for column, value in zip(cursor.description, values, strict=True)}


def _summary(row: dict[str, Any]) -> JobSummary:
    return summary_of(
        job_id=row["id"],
        workflow_id=row["workflow_id"],
        version=row["version"],
        row=JobRow(
            status=JobStatus(row["status"]),
            rank=row["rank"],
            last_event=row["last_event"],
            started_us=row["started_us"],
            completed_us=row["completed_us"],
            due_us=row["due_us"],
            progress=row["progress"],
            current_step=row["current_step"],
            error_type=row["error_type"],
            error_message=row["error_message"],
            pause_requested=bool(row["pause_requested"]),
            cancel_requested=bool(row["cancel_requested"]),
        ),
        created_us=row["created_us"],
        queued_us=row["queued_us"],
        abandoned=row["abandoned"],
        idempotency_key=row["idempotency_key"],
        tags=decode(row["tags"]) if row["tags"] else (),
    )


def _casefold(text: str | None) -> str | None:
    return None if text is None else text.casefold()


def _listing(query: Query) -> tuple[str, list[Any]]:
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
