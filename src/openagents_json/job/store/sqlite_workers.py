"""The workers of the SQLite store, and the threads that they abandoned. Everything but the pulse runs inside a
transaction that somebody else began."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from openagents_json.clock import SECOND_US, Clock
from openagents_json.job.store.records import StoredWorker, WorkerInfo
from openagents_json.job.store.sqlite_files import FileLock, WorkerFiles
from openagents_json.job.store.sqlite_rows import SQL, named
from openagents_json.job.store.sqlite_schema import connect, translate
from openagents_json.jsondata import decode, encode


class SqliteWorkers:
    """Used by the writer's thread. A worker is alive while its lease lasts and its file is held.

    Leases are measured by the steady clock of the machine: setting the time of day ends none. It begins anew with the
    machine; a lease from before that may seem to last, and its worker's file is free.
    """

    def __init__(self, folder: Path, clock: Clock, lease_s: float) -> None:
        self._files = WorkerFiles(folder)
        self._clock = clock
        self._lease_us = round(lease_s * SECOND_US)
        self._abandoning: set[str] = set()  # workers with threads that could not be stopped, when the store is closed

    def register(self, connection: sqlite3.Connection, worker: str, info: WorkerInfo) -> None:
        self._files.sweep()
        self._files.begin(worker)
        now, steady = self._clock.now_us(), self._clock.steady_us()
        components, resources = encode(list(info.components)).decode(), encode(dict(info.resources)).decode()
        connection.execute(
            SQL["worker_put"],
            (
                worker,
                now,
                steady + self._lease_us,
                info.host,
                info.pid,
                info.version,
                components,
                info.max_jobs,
                steady,
                resources,
            ),
        )

    def renew(self, connection: sqlite3.Connection, worker: str) -> bool:
        """The time is that of the write, not of the question."""
        steady = self._clock.steady_us()
        values = {"worker": worker, "now": self._clock.now_us(), "steady": steady, "until": steady + self._lease_us}
        return connection.execute(SQL["worker_renew"], values).rowcount > 0

    def unregister(self, connection: sqlite3.Connection, worker: str, threads_run: bool) -> None:
        connection.execute(SQL["worker_delete"], (worker,))
        connection.execute(SQL["grants_forgotten"])
        connection.execute(SQL["shortages_forgotten"])
        if not threads_run:
            _forget_threads(connection, worker)
            self._files.end(worker)

    def bury(self, connection: sqlite3.Connection) -> int:
        """A process that is slow, and was taken for dead, still runs the threads that its worker has abandoned."""
        dead = [worker for (worker,) in connection.execute(SQL["worker_ids"]) if not self.is_alive(connection, worker)]
        connection.executemany(SQL["worker_delete"], [(worker,) for worker in dead])
        connection.execute(SQL["grants_forgotten"])
        connection.execute(SQL["shortages_forgotten"])
        for (worker,) in connection.execute(SQL["abandoning_workers"]).fetchall():
            if not self._files.is_alive(worker):
                _forget_threads(connection, worker)
        return len(dead)

    def list(self, connection: sqlite3.Connection) -> list[StoredWorker]:
        steady = self._clock.steady_us()
        ahead_us = self._clock.now_us() - steady
        cursor = connection.execute(SQL["workers"], (steady,))
        found = []
        for row in [named(cursor, values) for values in cursor.fetchall()]:
            components, resources = tuple(decode(row["components"].encode())), decode(row["resources"].encode())
            info = WorkerInfo(row["host"], row["pid"], row["version"], components, row["max_jobs"], resources)
            times = row["registered_us"], row["heartbeat_us"], row["lease_until_us"] + ahead_us
            if self._files.is_alive(row["id"]):
                found.append(StoredWorker(row["id"], info, *times, row["jobs"]))
        return found

    def is_alive(self, connection: sqlite3.Connection, worker: str) -> bool:
        return self.has_lease(connection, worker) and self._files.is_alive(worker)

    def has_lease(self, connection: sqlite3.Connection, worker: str) -> bool:
        """For who only reads, and may not look at the files: it may have died since it renewed its lease."""
        lease = connection.execute(SQL["worker_lease"], (worker,)).fetchone()
        return lease is not None and lease[0] > self._clock.steady_us()

    def look_back(self, connection: sqlite3.Connection) -> None:
        """Before `end_all`: see which workers have left threads behind."""
        with contextlib.suppress(sqlite3.Error):
            self._abandoning = {worker for (worker,) in connection.execute(SQL["abandoning_workers"])}

    def end_all(self) -> None:
        """Take the signs of life away, but for those of workers that have left threads behind: as long as this process
        lives, these may run. The caller holds the file's lock."""
        self._files.end_all(self._abandoning)


def thread_ended(connection: sqlite3.Connection, job_id: str, worker: str) -> int:
    """A thread of that job that the worker had abandoned has ended; whether there was one."""
    for name in ("last_thread_ended", "thread_ended"):
        if connection.execute(SQL[name], (job_id, worker)).rowcount > 0:
            return connection.execute(SQL["thread_counted_out"], (job_id,)).rowcount
    return 0


def _forget_threads(connection: sqlite3.Connection, worker: str) -> None:
    if connection.execute(SQL["threads_counted_out"], (worker,)).rowcount > 0:
        connection.execute(SQL["threads_forgotten"], (worker,))


class SqlitePulse:
    """Heartbeats of a worker over a connection of their own, for a thread of their own."""

    def __init__(self, path: Path, lock: Path, worker: str, workers: SqliteWorkers, lease_s: float) -> None:
        self._path = path
        self._lock_path = lock
        self._worker = worker
        self._workers = workers
        self._patience_s = lease_s / 3
        self._lock: FileLock | None = None
        self._connection: sqlite3.Connection | None = None

    def beat(self) -> bool:
        try:
            if self._connection is None or self._lock is None:
                self.close()
                self._lock = FileLock(self._lock_path)
                self._connection = connect(self._path, checkpoints=False)
            with self._lock.held(self._patience_s), _transaction(self._connection):
                return self._workers.renew(self._connection, self._worker)
        except (sqlite3.Error, OSError) as error:
            self.close()  # whatever is wrong with the connection, the next beat has a new one
            raise translate(error, self._path) from None

    def close(self) -> None:
        if self._lock is not None:
            if self._connection is not None:
                with contextlib.suppress(OSError), self._lock.held(self._patience_s):
                    self._connection.close()  # the last connection of a file checkpoints when it closes
            self._lock.close()
        self._lock = self._connection = None


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
