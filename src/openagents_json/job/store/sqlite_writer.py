"""The one writer of a SQLite store: a thread that turns whatever waits into one transaction (group commit).

`submit` puts an operation on a list; once per turn of the event loop the list goes to the thread, which takes all that
has arrived, runs it between BEGIN IMMEDIATE and COMMIT, and answers every future after the COMMIT. So 500 waiting
tasks cost one sync, and one waiting task costs one.

Danger: an operation's outcome may be set only after COMMIT returned; on any error of the transaction every future of
the group gets the error, because nothing of it is known to be on disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from openagents_json.errors import StoreUnavailable
from openagents_json.job.store.sqlite_files import FileLock
from openagents_json.job.store.waiters import MAX_GROUP, Outcome, Waiters


@dataclass(eq=False, slots=True)
class Operation:
    """One thing to do in a transaction. The loop's thread makes it, the writer's thread reads it."""

    kind: str
    argument: Any
    future: asyncio.Future[Any] = field(repr=False)


# Does a group of operations inside an open transaction: one outcome each, in order. An error that it raises undoes
# the whole group; an outcome that holds an error has undone its own operation.
Perform = Callable[[sqlite3.Connection, Sequence[Operation]], list[Outcome]]


class SqliteWriter:
    """Owns the only writing connection of this store object."""

    def __init__(
        self,
        connect: Callable[[], sqlite3.Connection],
        perform: Perform,
        translate: Callable[[Exception], Exception],
        lock: FileLock,
    ) -> None:
        self._connect = connect
        self._perform = perform
        self._translate = translate
        self._lock = lock
        self._loop = asyncio.get_running_loop()
        self._fresh: list[Operation] = []  # loop's thread only: submitted in this turn of the loop
        self._queue: queue.SimpleQueue[list[Operation] | None] = queue.SimpleQueue()
        self._waiters = Waiters()  # loop's thread only
        self._closed = False
        self.commit_delay_s = 0.0  # a slow disk for tests and benchmarks: slept in each transaction before COMMIT
        self.transactions = 0  # written by the writer's thread, read anywhere
        self.data_version = 0  # the same: changes when another connection has written
        self._thread = threading.Thread(target=self._run, name="openagents-sqlite-writer", daemon=True)
        self._thread.start()

    async def submit(self, kind: str, argument: Any) -> Any:
        """Do an operation durably: returns after the COMMIT that holds it, or raises its error."""
        await self._waiters.wait_room()
        if self._closed:
            raise StoreUnavailable("The store is closed.")
        return await self._enlist(kind, argument)

    def _enlist(self, kind: str, argument: Any) -> asyncio.Future[Any]:
        operation = Operation(kind, argument, self._waiters.new())
        if not self._fresh:
            self._loop.call_soon(self._hand_over)
        self._fresh.append(operation)
        return operation.future

    def look(self) -> None:
        """Have an empty transaction, for the sake of `data_version`."""
        looked = self._enlist("call", lambda connection: None)
        looked.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody waits for it

    def stop(self) -> None:
        """Take nothing more. What was submitted will be finished, and then the thread and its connection end."""
        if not self._closed:
            self._hand_over()
            self._closed = True
            self._queue.put(None)

    def join(self) -> None:
        """Wait in another thread than the loop's until the end that `stop` began."""
        self._thread.join()

    def _hand_over(self) -> None:
        if self._fresh:
            self._queue.put(self._fresh)
            self._fresh = []

    # ── the writer's thread ───────────────────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        connection: sqlite3.Connection | None = None
        while (group := self._next_group()) is not None:
            try:
                connection = connection or self._connect()
                outcomes = self._transact(connection, group)
            except BaseException as error:
                outcomes = [(None, self._failure(error)) for _ in group]  # each its own: they are raised in many tasks
                if connection is not None and connection.in_transaction:
                    self._drop(connection)  # it could not even roll back: the next group gets a new one
                    connection = None
            with contextlib.suppress(RuntimeError):  # the loop was closed before the store: nobody waits any more
                self._loop.call_soon_threadsafe(self._waiters.answer, list(zip(group, outcomes, strict=True)))
        if connection is not None:
            self._drop(connection)

    def _failure(self, error: BaseException) -> BaseException:
        return self._translate(error) if isinstance(error, (sqlite3.Error, OSError)) else error

    def _drop(self, connection: sqlite3.Connection) -> None:
        with self._lock.held():  # the last connection of a file checkpoints when it closes
            connection.close()

    def _next_group(self) -> list[Operation] | None:
        """All that waits, at most `MAX_GROUP` and a bit; None at the end."""
        group = self._queue.get()
        if group is None:
            return None
        while len(group) < MAX_GROUP:
            try:
                more = self._queue.get_nowait()
            except queue.Empty:
                break
            if more is None:
                self._queue.put(None)
                break
            group = group + more
        return group

    def _transact(self, connection: sqlite3.Connection, group: list[Operation]) -> list[Outcome]:
        with self._lock.held():
            connection.execute("BEGIN IMMEDIATE")
            try:
                (self.data_version,) = connection.execute("PRAGMA data_version").fetchone()
                outcomes = self._perform(connection, group)
                if self.commit_delay_s:
                    time.sleep(self.commit_delay_s)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    with contextlib.suppress(sqlite3.Error):  # `_run` sees that it failed
                        connection.execute("ROLLBACK")
                raise
        self.transactions += 1
        return outcomes
