"""The PostgreSQL store: jobs of several machines in one schema, every acknowledged word on the server's disk.

Writing goes through one connection with group commit (`postgres_writer`), reading through two, and a fourth hears when
others have written (`postgres_news`). This file holds the verbs; what they do to the tables is in `postgres_tables`
and its neighbours, the statements in `sql/postgres`. The server's clock judges leases and queue times.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from openagents_json.clock import Clock, SystemClock
from openagents_json.errors import StoreUnavailable
from openagents_json.job.events import Event, decode_events
from openagents_json.job.model import ErrorInfo, JobSummary
from openagents_json.job.store.arrival import DEFAULT_AGING_S
from openagents_json.job.store.base import DEFAULT_LEASE_S, JobStore, Pulse
from openagents_json.job.store.deleting import DELETE_S
from openagents_json.job.store.durations import Duration, Sample
from openagents_json.job.store.grants import Blocked, Want
from openagents_json.job.store.limits import StoredLimit
from openagents_json.job.store.moving import MovedJob
from openagents_json.job.store.output import OutputChunk, StoredOutput
from openagents_json.job.store.pauses import Pause, PauseKind
from openagents_json.job.store.postgres_driver import Connection, Row, load
from openagents_json.job.store.postgres_durations import learn, read_durations
from openagents_json.job.store.postgres_faults import is_of_the_database, translate
from openagents_json.job.store.postgres_grants import (
    PAUSING,
    concerns_of_grants,
    decide,
    lift_pause,
    list_pauses,
    read_blocked,
    set_pause,
    take_grants,
)
from openagents_json.job.store.postgres_leaks import count_leaks, drop_leak, list_leaks, note_leak
from openagents_json.job.store.postgres_limits import Concern, concerns_of_new, read_limit
from openagents_json.job.store.postgres_moving import concerns_of_moved, read_family, restore
from openagents_json.job.store.postgres_news import PostgresNews
from openagents_json.job.store.postgres_output import PostgresOutput, count_jobs, read_output
from openagents_json.job.store.postgres_place import IDLE_IN_TRANSACTION_S, place_of
from openagents_json.job.store.postgres_queue import first_waiting, queue_place
from openagents_json.job.store.postgres_rows import SQL, listing, read_whole, request_of, summary_in
from openagents_json.job.store.postgres_schema import is_made, migrate
from openagents_json.job.store.postgres_session import Ask, PostgresReaders, T, begin_session
from openagents_json.job.store.postgres_shares import list_shares, set_share, shares_of_new
from openagents_json.job.store.postgres_summaries import PostgresSummaries
from openagents_json.job.store.postgres_tables import PostgresTables
from openagents_json.job.store.postgres_upkeep import find_flaws, read_facts, vacuum
from openagents_json.job.store.postgres_workers import PostgresPulse, PostgresWorkers
from openagents_json.job.store.postgres_writer import PostgresWriter
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
)
from openagents_json.job.store.shares import StoredShare
from openagents_json.job.store.shortages import Short, Shortages, encode_shortages, shortages_of
from openagents_json.job.store.upkeep import Flaw, StoreFacts, Vacuumed
from openagents_json.resources import Offers

CONNECTIONS = 4  # of an open store: one writes, two read, one listens
CLOSE_S = 10.0  # what `close` gives to what was submitted; a server that is away answers nothing anyway


class PostgresJobStore(JobStore):
    """Jobs in a schema of a PostgreSQL database, `postgresql://user:password@host:port/database?schema=openagents`.

    The schema is made when it is missing. `pooler=true` in the URL is for poolers that give each transaction another
    connection of the server. `clock` is for tests: with one that is not the system's, it stands in for the server's.
    `InvalidSettings` when the URL cannot be read or asyncpg is not installed.
    """

    def __init__(
        self,
        url: str,
        clock: Clock | None = None,
        *,
        aging_s: float = DEFAULT_AGING_S,
        lease_s: float = DEFAULT_LEASE_S,
    ) -> None:
        load()
        # A worker that is cut off in a transaction may not keep jobs locked longer than its leases keep them.
        self.place = replace(place_of(url), idle_in_transaction_s=min(IDLE_IN_TRANSACTION_S, lease_s))
        self.lease_s = lease_s
        self._tables = PostgresTables(None if isinstance(clock, SystemClock) else clock, aging_s)
        self._workers = PostgresWorkers(self._tables, lease_s)
        self._summaries = PostgresSummaries(self._read)
        self._output = PostgresOutput()
        self._writer: PostgresWriter | None = None
        self._readers: PostgresReaders | None = None
        self._news: PostgresNews | None = None

    @property
    def aging_s(self) -> float:
        return self._tables.aging_s

    # ── open and close ────────────────────────────────────────────────────────────────────────────────────────────

    async def is_made(self) -> bool:
        """Whether the schema is there, so that opening would not make it. Errors are those of `open`."""
        connection, is_there = await self._begin(lambda new: is_made(new, self.place))
        await connection.close()
        return is_there

    async def open(self) -> None:
        if self._writer is not None:
            return
        connection, _ = await self._begin(self._prepare)
        self._news = PostgresNews(self.place)
        self._readers = PostgresReaders(self.place)
        self._writer = PostgresWriter(self.place, self._tables, connection, self._news.tell)

    async def _begin(self, first: Ask[T]) -> tuple[Connection, T]:
        """The connection that will write, and what was asked first on it."""
        connection: Connection | None = None
        try:
            connection = await begin_session(self.place, writes=True)
            return connection, await first(connection)
        except BaseException as error:
            if connection is not None:
                connection.terminate()
            if isinstance(error, Exception) and is_of_the_database(error):
                raise translate(error, self.place) from None
            raise

    async def _prepare(self, connection: Connection) -> None:
        """Bring the schema up to date, and take the settings that belong to it; the first store sets them."""
        await migrate(connection, self.place)
        with connection.watched():
            await connection.run(f"BEGIN;{self.place.preamble(writes=True)}")
            aging_s = await connection.value(SQL["meta_get"], "aging_s")
            if aging_s is None:
                await connection.rows(SQL["meta_put"], "aging_s", self.aging_s)
                aging_s = await connection.value(SQL["meta_get"], "aging_s")
            await connection.run("COMMIT")
        self._tables.aging_s = float(aging_s)

    async def close(self) -> None:
        if self._writer is None or self._readers is None or self._news is None:
            return
        writer, readers, news = self._writer, self._readers, self._news
        self._writer = self._readers = self._news = None  # from here on the verbs say that the store is not open

        async def stop_all() -> None:
            await asyncio.gather(writer.stop(CLOSE_S), readers.stop(CLOSE_S))
            await news.stop(1.0)  # after the writer, whose last words it tells

        await asyncio.shield(asyncio.create_task(stop_all()))  # who is cancelled meanwhile still closes everything

    # ── reading ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _read(self, ask: Ask[T]) -> T:
        if self._readers is None:
            raise StoreUnavailable("The store is not open.")
        return await self._readers.ask(ask)

    async def read(self, job_id: str) -> StoredJob | None:
        return await self._read(lambda connection: read_whole(connection, job_id))

    async def read_summary(self, job_id: str) -> JobSummary | None:
        return await self._summaries.get(job_id)

    async def read_limit(self, job_id: str) -> StoredLimit | None:
        return await self._read(lambda connection: read_limit(connection, job_id))

    async def read_definition_hash(self, job_id: str) -> str | None:
        found: str | None = await self._read(lambda connection: connection.value(SQL["definition_of"], job_id))
        return found

    async def read_events(self, job_id: str, after: int = 0, limit: int = 1_000) -> list[Event]:
        rows = await self._read(lambda connection: connection.rows(SQL["history_after"], job_id, after, limit))
        events: list[Event] = []
        for row in rows:
            events.extend(event for event in decode_events(row[0]) if event.number > after)
            if len(events) >= limit:
                break
        return events[:limit]

    async def list_jobs(self, query: Query) -> list[Listed]:
        sql, values = listing(query)
        rows = await self._read(lambda connection: connection.rows(sql, *values))
        return [Listed(summary_in(row), (row[query.order], row["key"])) for row in rows]

    async def find_ids(self, ending: str, limit: int = 5) -> list[str]:
        rows = await self._read(lambda connection: connection.rows(SQL["ids_like"], ending, limit))
        return [row[0] for row in rows]

    async def read_definition(self, content_hash: str) -> bytes | None:
        found = await self._read(lambda connection: connection.value(SQL["definition_get"], content_hash))
        return None if found is None else bytes(found)

    async def definition_hashes(self, after: str = "", limit: int = 1_000) -> list[str]:
        rows = await self._read(lambda connection: connection.rows(SQL["definition_hashes"], after, limit))
        return [row[0] for row in rows]

    async def read_requests(self, job_id: str) -> list[Request]:
        rows = await self._read(lambda connection: connection.rows(SQL["inbox_of_id"], job_id))
        return [request_of(row) for row in rows]

    async def jobs_with_requests(self, worker: str) -> list[str]:
        rows = await self._read(lambda connection: connection.rows(SQL["jobs_with_requests"], worker))
        return [row[0] for row in rows]

    async def read_leases(self, worker: str) -> dict[str, int]:
        rows = await self._read(lambda connection: connection.rows(SQL["leases_of"], worker))
        return {row[0]: row[1] for row in rows}

    async def next_due_us(self) -> int | None:
        found: int | None = await self._read(lambda connection: connection.value(SQL["next_due"]))
        return found

    async def read_output(
        self, job_id: str, path: str | None = None, attempt: int | None = None, after: int = 0, limit: int = 64
    ) -> list[StoredOutput]:
        return await self._read(lambda connection: read_output(connection, job_id, path, attempt, after, limit))

    async def count_jobs(self, limit: int) -> JobCounts:
        return await self._read(lambda connection: count_jobs(connection, limit))

    async def list_leaks(self, after: int = 0, limit: int = 1_000) -> list[StoredLeak]:
        return await self._read(lambda connection: list_leaks(connection, after, limit))

    async def count_leaks(self) -> int:
        return await self._read(count_leaks)

    def has_foreign_changes(self) -> bool:
        return self._news is not None and self._news.has_news()

    def stats(self) -> dict[str, int]:
        commits = self._writer.transactions if self._writer else 0
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

    async def _write(
        self, kind: str, argument: Any, *jobs: str, limits: Sequence[Concern] = (), shares: Sequence[str] = ()
    ) -> Any:
        if self._writer is None:
            raise StoreUnavailable("The store is not open.")
        return await self._writer.submit(kind, argument, jobs, limits, shares)

    async def create(self, job: NewJob) -> str:
        return str(await self._write("create", job))

    async def create_held(self, job: NewJob) -> Claim | None:
        return await self._write("create", job)  # type: ignore[no-any-return]

    async def commit(self, commit: Commit) -> None:
        await self._write("commit", commit)

    async def create_all(self, jobs: Sequence[NewJob]) -> list[str]:
        if not jobs:
            return []
        call = lambda connection: self._tables.create_all(connection, jobs)  # noqa: E731
        limits, shares = concerns_of_new(jobs), shares_of_new(jobs)
        return await self._write("call", call, limits=limits, shares=shares)  # type: ignore[no-any-return]

    async def set_aging(self, aging_s: float) -> None:
        await self._write("call", lambda connection: self._tables.set_aging(connection, aging_s))

    async def set_share(self, key: str, weight: float) -> None:
        await self._write("call", lambda connection: set_share(connection, key, weight), shares=(key,))

    async def list_shares(self, after: str = "", limit: int = 1_000) -> list[StoredShare]:
        return await self._read(lambda connection: list_shares(connection, after, limit, self._tables.now_us))

    async def learn(self, samples: Sequence[Sample]) -> None:
        if samples:
            await self._write("call", lambda connection: learn(connection, samples, self._tables.now_us))

    async def read_durations(self, workflow_id: str) -> list[Duration]:
        return await self._read(lambda connection: read_durations(connection, workflow_id))

    async def read_family(self, job_id: str) -> list[MovedJob]:
        return await self._read(lambda connection: read_family(connection, job_id))

    async def restore(self, jobs: Sequence[MovedJob]) -> list[str]:
        call = lambda connection: restore(connection, jobs, self._tables)  # noqa: E731
        limits, shares = concerns_of_moved(jobs), shares_of_new([job.new for job in jobs])
        return await self._write("call", call, limits=limits, shares=shares)  # type: ignore[no-any-return]

    async def claim(
        self, worker: str, limit: int, offers: Offers | None = None, *, suspects: bool = False
    ) -> list[Claim]:
        claims: list[Claim] = []
        is_done = False
        while not is_done:  # again if very many jobs of paused workflows stand in front: others write between
            left = limit - len(claims)
            found, is_done = await self._write("call", partial(self._claim_once, worker, left, offers, suspects))
            claims += found
        return claims

    async def _claim_once(
        self, worker: str, limit: int, offers: Offers | None, suspects: bool, connection: Connection
    ) -> tuple[list[Claim], bool]:
        return await self._tables.claim(connection, worker, limit, offers, suspects)

    async def first_waiting(self, offers: Offers | None = None) -> Waiting | None:
        return await self._read(lambda connection: first_waiting(connection, offers))

    async def queue_place(self, job_id: str, shown: int = 10) -> QueuePlace | None:
        return await self._read(lambda connection: queue_place(connection, job_id, shown))

    async def make_room(self, job_id: str, worker: str) -> bool:
        return await self._change("room_make", worker, job_id, self._tables.now_us, jobs=(job_id,)) > 0

    async def hold(self, job_id: str, worker: str, request: Request) -> Held | None:
        call = lambda connection: self._tables.hold(connection, job_id, worker, request)  # noqa: E731
        return await self._write("call", call, job_id)  # type: ignore[no-any-return]

    async def hold_due(self, worker: str, limit: int) -> list[Claim]:
        def call(connection: Connection) -> Any:
            values = (worker, limit, self._tables.now_us)
            return self._tables.lease_all(connection, "lease_due", _woken, *values)

        return await self._write("call", call)  # type: ignore[no-any-return]

    async def hold_requested(self, worker: str, limit: int) -> list[Claim]:
        if not await self._read(lambda connection: connection.value(SQL["has_requested"])):
            return []

        def call(connection: Connection) -> Any:
            return self._tables.lease_all(connection, "lease_requested", lambda row: row["key"], worker, limit)

        return await self._write("call", call)  # type: ignore[no-any-return]

    async def hold_orphans(self, worker: str, limit: int) -> list[Claim]:
        now_us = self._tables.now_us
        if not await self._read(lambda connection: connection.value(SQL["has_orphans"], worker, now_us)):
            return []
        call = lambda connection: self._tables.hold_orphans(connection, worker, limit)  # noqa: E731
        return await self._write("call", call)  # type: ignore[no-any-return]

    async def hold_again(self, worker: str, leases: Mapping[str, int]) -> list[Claim]:
        def call(connection: Connection) -> Any:
            values = (worker, list(leases), list(leases.values()))
            return self._tables.lease_all(connection, "lease_again", lambda row: row["key"], *values)

        return await self._write("call", call, *leases)  # type: ignore[no-any-return]

    async def release(self, claim: Claim) -> None:
        values = (claim.handle, claim.owner, claim.epoch)
        await self._change("release", *values, jobs=(claim.job_id,))

    async def thread_ended(self, job_id: str, worker: str) -> None:
        await self._change("thread_ended", job_id, worker, jobs=(job_id,))

    async def _change(self, name: str, *values: Any, jobs: Sequence[str] = ()) -> int:
        """One statement; how many rows it gives back."""

        async def call(connection: Connection) -> int:
            changed = len(await connection.rows(SQL[name], *values))
            self._tables.rows += changed
            return changed

        return int(await self._write("call", call, *jobs))

    async def note_leak(self, key: int, error: ErrorInfo) -> bool:
        return bool(await self._write("call", lambda connection: note_leak(connection, key, error)))

    async def drop_leak(self, key: int) -> bool:
        return bool(await self._write("call", lambda connection: drop_leak(connection, key)))

    async def append_output(self, job_id: str, path: str, attempt: int, chunks: Sequence[OutputChunk]) -> None:
        if chunks:
            await self._write("call", self._output.appending(job_id, path, attempt, chunks))

    async def set_pause(self, kind: PauseKind, name: str, by: str | None, reason: str | None) -> bool:
        call = lambda connection: set_pause(connection, kind, name, by, reason, self._tables.now_us)  # noqa: E731
        return bool(await self._write("call", call, limits=[PAUSING]))

    async def lift_pause(self, kind: PauseKind, name: str) -> bool:
        return bool(await self._write("call", lambda connection: lift_pause(connection, kind, name)))

    async def list_pauses(self) -> list[Pause]:
        return await self._read(list_pauses)

    async def take_grants(self, worker: str, holds: Mapping[str, int], wants: Sequence[Want]) -> list[Blocked | None]:
        now_us = self._tables.now_us
        # Who waits asks often, and mostly in vain: then nothing is written, of which others would take notice.
        seen, _ = await self._read(lambda connection: decide(connection, worker, holds, wants, now_us))
        if not seen.changes:
            return seen.answers
        call = lambda connection: take_grants(connection, worker, holds, wants, self._tables.now_us)  # noqa: E731
        return await self._write(  # type: ignore[no-any-return]
            "call", call, limits=concerns_of_grants(holds, wants)
        )

    async def read_blocked(self, job_id: str) -> list[Blocked]:
        return await self._read(lambda connection: read_blocked(connection, job_id, self._tables.now_us))

    async def tell_shortages(self, worker: str, shortages: Shortages) -> None:
        values = (worker, encode_shortages(shortages))
        await self._write("call", lambda connection: connection.rows(SQL["shortages_put"], *values))

    async def read_shortages(self, job_id: str) -> list[Short]:
        said = await self._read(lambda connection: connection.value(SQL["shortages_of"], job_id))
        return shortages_of(said and bytes(said), job_id)

    async def register_worker(self, worker: str, info: WorkerInfo = NOBODY) -> None:
        await self._write("call", lambda connection: self._workers.register(connection, worker, info))

    async def heartbeat(self, worker: str) -> bool:
        return bool(await self._write("call", lambda connection: self._workers.renew(connection, worker)))

    def pulse(self, worker: str) -> Pulse:
        return PostgresPulse(self.place, worker, self._workers)

    async def unregister_worker(self, worker: str, *, threads_run: bool = False) -> None:
        await self._write("call", lambda connection: self._workers.unregister(connection, worker, threads_run))

    async def bury_workers(self) -> int:
        return int(await self._write("call", self._workers.bury))

    async def list_workers(self) -> list[StoredWorker]:
        return await self._read(self._workers.list)

    async def delete(self, job_id: str) -> bool:
        async def call(connection: Connection) -> int:
            return await self._tables.delete_trees(connection, await connection.rows(SQL["deletable"], job_id))

        return bool(await self._write("call", call))

    async def delete_final(self, before_us: int, limit: int, within_s: float = DELETE_S) -> int:
        call = lambda connection: self._tables.delete_final(connection, before_us, limit, within_s)  # noqa: E731
        return int(await self._write("call", call))

    # ── the schema as a whole ─────────────────────────────────────────────────────────────────────────────────────

    async def facts(self) -> StoreFacts:
        return await read_facts(self.place, self._tables.now_us)

    async def verify(self) -> list[Flaw]:
        return await find_flaws(self.place)

    async def vacuum(self) -> Vacuumed:
        return await vacuum(self.place)


def _woken(row: Row) -> tuple[int, int]:
    """The order of jobs whose time has come."""
    return min(at_us for at_us in (row["due_us"], row["risk_us"]) if at_us is not None), row["key"]
