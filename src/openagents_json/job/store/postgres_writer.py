"""The one writer of a PostgreSQL store: a task that turns whatever waits into one transaction (group commit).

`submit` puts an operation on a list; the task takes all that has gathered while the last transaction was on its way,
runs it, and answers every future after the COMMIT.

Danger: an outcome may be told only after the COMMIT was answered. When the connection is lost before that, nobody knows
whether it happened: every operation of the group is answered with `StoreUnavailable`, which says so.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from openagents_json.errors import StoreError, StoreUnavailable
from openagents_json.job.store.postgres_driver import Connection, is_lost, state_of
from openagents_json.job.store.postgres_faults import (
    LOCKED,
    REPEATED,
    is_of_the_database,
    is_own_fault,
    translate,
)
from openagents_json.job.store.postgres_limits import Concern
from openagents_json.job.store.postgres_place import Place
from openagents_json.job.store.postgres_session import begin_session
from openagents_json.job.store.postgres_tables import Operation, PostgresTables
from openagents_json.job.store.waiters import MAX_GROUP, Outcome, Waiters

TRIES = 5  # of a transaction that a deadlock undid


class PostgresWriter:
    """Owns the only connection of this store object that writes jobs. Everything runs in the event loop."""

    def __init__(self, place: Place, tables: PostgresTables, connection: Connection, told: Callable[[], None]) -> None:
        self._place = place
        self._tables = tables
        self._connection: Connection | None = connection
        self._told = told  # called after each transaction
        self._waiting: list[Operation] = []  # submitted, and in no transaction yet
        self._waiters = Waiters()
        self._stirred = asyncio.Event()
        self._is_closed = False
        self.commit_delay_s = 0.0  # a slow disk for tests and benchmarks: slept in each transaction before COMMIT
        self.transactions = 0
        self._task = asyncio.create_task(self._run(), name="openagents-postgres-writer")

    async def submit(
        self,
        kind: str,
        argument: Any,
        jobs: Sequence[str] = (),
        limits: Sequence[Concern] = (),
        shares: Sequence[str] = (),
    ) -> Any:
        """Do an operation durably: returns after the COMMIT that holds it, or raises its error."""
        await self._waiters.wait_room()
        if self._is_closed:
            raise StoreUnavailable("The store is closed.")
        operation = Operation(kind, argument, self._waiters.new(), jobs, limits, shares)
        self._waiting.append(operation)
        self._stirred.set()
        return await operation.future

    async def stop(self, within_s: float) -> None:
        """Take nothing more, finish what was submitted if that takes no longer, and close the connection."""
        self._is_closed = True
        self._stirred.set()
        await asyncio.wait([self._task], timeout=within_s)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._waiters.answer([(one, (None, self._gone())) for one in self._waiting])
        self._waiting = []

    def _gone(self) -> StoreUnavailable:
        return StoreUnavailable(f"The store was closed before {self._place.shown} answered. Perhaps it was written.")

    # ── the task ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _run(self) -> None:
        try:
            while True:
                while not self._waiting:
                    if self._is_closed:
                        return
                    self._stirred.clear()
                    await self._stirred.wait()
                group, self._waiting = self._waiting[:MAX_GROUP], self._waiting[MAX_GROUP:]
                try:
                    outcomes = await self._write(group)
                except asyncio.CancelledError:  # by `stop`, which has waited long enough
                    self._waiters.answer([(one, (None, self._gone())) for one in group])
                    raise
                self._waiters.answer(list(zip(group, outcomes, strict=True)))
        finally:
            connection, self._connection = self._connection, None
            if connection is not None:
                await connection.close()

    async def _write(self, group: Sequence[Operation]) -> list[Outcome]:
        """The group as one transaction. One that is refused because of some operation is split until it is found."""
        is_patient = True
        for _ in range(TRIES):
            try:
                connection = await self._connected()
                with connection.watched():
                    return await self._transact(connection, group, is_patient)
            except asyncio.CancelledError:
                self._lose()
                raise
            except Exception as error:
                if is_lost(error) or self._connection is None or self._connection.is_closed:
                    self._lose()
                    return [(None, self._unknown(error)) for _ in group]  # each its own: they are raised in many tasks
                await self._roll_back()
                if state_of(error) in REPEATED:
                    continue
                if state_of(error) == LOCKED and is_patient:
                    is_patient = False
                    continue
                if is_own_fault(error) or not is_of_the_database(error):
                    return await self._split(group, error)
                return [(None, translate(error, self._place)) for _ in group]
        busy = f"{self._place.shown} is too busy: transactions stood in each other's way {TRIES} times. Try again."
        return [(None, StoreUnavailable(busy)) for _ in group]

    async def _split(self, group: Sequence[Operation], error: Exception) -> list[Outcome]:
        if len(group) == 1:
            return [(None, translate(error, self._place) if is_of_the_database(error) else error)]
        middle = len(group) // 2
        return await self._write(group[:middle]) + await self._write(group[middle:])

    async def _transact(self, connection: Connection, group: Sequence[Operation], is_patient: bool) -> list[Outcome]:
        if is_patient and self._tables.is_one_statement(group) and not self._place.is_pooled:
            if self.commit_delay_s:
                await asyncio.sleep(self.commit_delay_s)
            outcomes = await self._tables.perform(connection, group, is_locking=False)
        else:
            await connection.run(self._beginning)
            outcomes = await self._tables.perform(connection, group, is_locking=True, is_patient=is_patient)
            if self.commit_delay_s:
                await asyncio.sleep(self.commit_delay_s)
            await self._commit(connection)
        self.transactions += 1
        self._told()
        return outcomes

    @property
    def _beginning(self) -> str:
        return f"BEGIN;{self._place.preamble(writes=True)}" if self._place.is_pooled else "BEGIN"

    async def _commit(self, connection: Connection) -> None:
        if await connection.run("COMMIT") != "COMMIT":
            raise StoreError("A statement of the transaction had failed, and the server undid all of it.")

    async def _connected(self) -> Connection:
        """The connection, made anew if it is gone."""
        if self._connection is not None and self._connection.is_closed:
            self._lose()
        if self._connection is None:
            self._connection = await begin_session(self._place, writes=True)
        return self._connection

    async def _roll_back(self) -> None:
        connection = self._connection
        if connection is not None:
            try:
                with connection.watched():
                    await connection.run("ROLLBACK")  # a warning, not an error, where no transaction is open
            except Exception:
                self._lose()

    def _lose(self) -> None:
        """The connection is gone or not to be trusted."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    def _unknown(self, error: Exception) -> StoreError:
        with contextlib.suppress(Exception):
            return translate(error, self._place)
        return StoreUnavailable(f"{self._place.shown} cannot be used now.")
