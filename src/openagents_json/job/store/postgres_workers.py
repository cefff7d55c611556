"""The workers of the PostgreSQL store, and the threads that they abandoned.

A worker is alive while its lease lasts, by the server's clock: nothing else tells of a process on another machine.
Everything but the pulse runs inside a transaction that somebody else began.
"""

from __future__ import annotations

import asyncio
import contextlib

from openagents_json.clock import SECOND_US
from openagents_json.errors import StoreError
from openagents_json.job.store.postgres_driver import Connection, is_lost
from openagents_json.job.store.postgres_faults import is_of_the_database, translate
from openagents_json.job.store.postgres_place import Place
from openagents_json.job.store.postgres_rows import SQL, texts_of
from openagents_json.job.store.postgres_session import begin_session
from openagents_json.job.store.postgres_tables import PostgresTables
from openagents_json.job.store.records import StoredWorker, WorkerInfo
from openagents_json.jsondata import decode, encode

TRIES = 2  # of a heartbeat whose connection turns out to be gone


class PostgresWorkers:
    """What the verbs of workers do to their tables."""

    def __init__(self, tables: PostgresTables, lease_s: float) -> None:
        self._tables = tables
        self.lease_s = lease_s

    @property
    def _lease_us(self) -> int:
        return round(self.lease_s * SECOND_US)

    async def register(self, connection: Connection, worker: str, info: WorkerInfo) -> None:
        components, resources = encode(list(info.components)), encode(dict(info.resources))
        said = (info.host, info.pid, info.version, components, info.max_jobs, resources)
        await connection.rows(SQL["worker_put"], worker, self._lease_us, self._tables.now_us, *said)

    async def renew(self, connection: Connection, worker: str) -> bool:
        """The time is that of the write, not of the question."""
        values = (worker, self._lease_us, self._tables.now_us)
        return await connection.value(SQL["worker_renew"], *values) is not None

    async def unregister(self, connection: Connection, worker: str, threads_run: bool) -> None:
        """With `threads_run` the row stays as a mark that ends with the lease, and the threads with it."""
        if threads_run:
            await connection.rows(SQL["worker_left"], worker)
            return
        await connection.rows(SQL["worker_delete"], worker)
        await connection.rows(SQL["grants_forgotten"], worker)
        await connection.rows(SQL["shortages_forgotten"], worker)
        await connection.rows(SQL["threads_forgotten"], worker)

    async def bury(self, connection: Connection) -> int:
        return int(await connection.value(SQL["workers_dead"], self._tables.now_us))

    async def list(self, connection: Connection) -> list[StoredWorker]:
        found = []
        for row in map(texts_of, await connection.rows(SQL["workers"], self._tables.now_us)):
            components, resources = tuple(decode(row["components"])), decode(row["resources"])
            info = WorkerInfo(row["host"], row["pid"], row["version"], components, row["max_jobs"], resources)
            times = row["registered_us"], row["heartbeat_us"], row["lease_until_us"]
            found.append(StoredWorker(row["id"], info, *times, row["jobs"]))
        return found


class PostgresPulse:
    """Heartbeats of a worker over a connection of their own, in an event loop of their own, for a thread of their own.

    The loop turns only while a heartbeat is on its way."""

    def __init__(self, place: Place, worker: str, workers: PostgresWorkers) -> None:
        self._place = place
        self._worker = worker
        self._workers = workers
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connection: Connection | None = None

    def beat(self) -> bool:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        try:
            return self._loop.run_until_complete(self._beat(self._workers.lease_s / 3))
        except Exception as error:
            if isinstance(error, StoreError) or not is_of_the_database(error):
                raise
            raise translate(error, self._place) from None

    def close(self) -> None:
        loop, self._loop = self._loop, None
        if loop is None:
            return
        connection, self._connection = self._connection, None
        if connection is not None:
            loop.run_until_complete(connection.close())
        loop.close()

    async def _beat(self, within_s: float) -> bool:
        async with asyncio.timeout(within_s):
            for attempt in range(1, TRIES + 1):
                is_old = self._connection is not None
                try:
                    return await self._renew(within_s)
                except BaseException as error:
                    self._drop()
                    if attempt == TRIES or not (is_old and isinstance(error, Exception) and is_lost(error)):
                        raise
        raise AssertionError("every attempt returns or goes on")

    async def _renew(self, within_s: float) -> bool:
        if self._connection is None or self._connection.is_closed:
            self._connection = await begin_session(self._place, writes=True)
        connection = self._connection
        with connection.watched(within_s):
            if not self._place.is_pooled:
                return await self._workers.renew(connection, self._worker)
            await connection.run(f"BEGIN;{self._place.preamble(writes=True)}")
            is_alive = await self._workers.renew(connection, self._worker)
            await connection.run("COMMIT")
            return is_alive

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.terminate()
