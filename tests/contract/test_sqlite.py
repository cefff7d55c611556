"""The SQLite store keeps the contract: alone, as two store objects on one file, and reopened between verbs."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from openagents_json.errors import StoreUnavailable
from openagents_json.job.model import JobPriority, JobStatus
from openagents_json.job.store.base import JobStore
from openagents_json.job.store.contract import (
    AcceptingContract,
    CommitContract,
    GrantContract,
    LeaksContract,
    LeaseContract,
    LimitContract,
    OverflowContract,
    PauseContract,
    StoreContract,
    UpkeepContract,
    WorkerContract,
)
from openagents_json.job.store.contract.jobs import (
    Holder,
    accept,
    assert_folds_to,
    bring_to,
    claim_one,
    history,
    new_job,
    read,
    request,
    wake,
)
from openagents_json.job.store.query import build_query
from openagents_json.job.store.sqlite import SqliteJobStore
from openagents_json.job.store.sqlite_files import FileLock
from openagents_json.testing import FakeClock
from tests.contract.grouping import GroupContract
from tests.contract.reopening import Reopened, keep_sqlite_workers


class TestSqlite(StoreContract):
    @pytest.fixture
    async def store(self, database: Path, clock: FakeClock) -> AsyncIterator[JobStore]:
        store = SqliteJobStore(database, clock)
        await store.open()
        yield store
        await store.close()


class Alternating:
    """Two store objects on one file, as two processes would have: each verb goes to the other one."""

    def __init__(self, *stores: SqliteJobStore) -> None:
        self._stores = list(stores)

    def __getattr__(self, name: str) -> Any:
        if name in ("open", "close"):
            return lambda: self._each(name)
        if name == "stats":
            return self._stats
        self._stores.reverse()
        return getattr(self._stores[0], name)

    async def _each(self, name: str) -> None:
        for store in self._stores:
            await getattr(store, name)()

    def _stats(self) -> dict[str, int]:
        one, other = (store.stats() for store in self._stores)
        return {name: one[name] + other[name] for name in one}


class TestTwoStoresOnOneFile(
    AcceptingContract,
    LeaseContract,
    WorkerContract,
    CommitContract,
    LeaksContract,
    LimitContract,
    OverflowContract,
    PauseContract,
    GrantContract,
    UpkeepContract,
):
    @pytest.fixture
    async def store(self, database: Path, clock: FakeClock) -> AsyncIterator[JobStore]:
        store = cast(JobStore, Alternating(*(SqliteJobStore(database, clock) for _ in range(2))))
        await store.open()
        yield store
        await store.close()


class TestSqliteReopened(StoreContract):
    @pytest.fixture
    async def store(self, database: Path, clock: FakeClock) -> AsyncIterator[JobStore]:
        store = cast(JobStore, Reopened(SqliteJobStore(database, clock), keep_sqlite_workers))
        await store.open()
        yield store
        await store.close()

    async def test_counters_rise_with_what_is_written(self, store: JobStore, clock: FakeClock) -> None:
        """Counters begin anew with each opening: not asked here."""


# ── what only this store promises ─────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def store(database: Path, clock: FakeClock) -> AsyncIterator[SqliteJobStore]:
    store = SqliteJobStore(database, clock)
    await store.open()
    yield store
    await store.close()


async def ask_writer(store: SqliteJobStore, sql: str) -> Any:
    """The one value of a statement on the writer's own connection."""
    (value,) = await store._write("call", lambda connection: connection.execute(sql).fetchone())
    return value


class TestGroups(GroupContract):
    """Operations of one transaction."""


@pytest.mark.guarantee("G1")
async def test_writer_syncs_each_commit(store: SqliteJobStore) -> None:
    assert await ask_writer(store, "PRAGMA journal_mode") == "wal"
    assert await ask_writer(store, "PRAGMA synchronous") == 2  # FULL


async def test_readers_cannot_write(store: SqliteJobStore) -> None:
    with pytest.raises(StoreUnavailable, match="readonly"):
        await store._read(lambda connection: connection.execute("DELETE FROM jobs"))


async def test_failing_verb_undoes_what_it_wrote_and_nothing_else(store: SqliteJobStore, clock: FakeClock) -> None:
    def fail(connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM jobs")
        raise LookupError("in the middle")

    job_id = await accept(store, clock)
    results = await asyncio.gather(store._write("call", fail), accept(store, clock), return_exceptions=True)
    assert type(results[0]) is LookupError
    assert [one.summary.id for one in await store.list_jobs(build_query())] == [results[1], job_id]


async def test_slow_commit_does_not_hold_up_the_loop(store: SqliteJobStore, clock: FakeClock) -> None:
    store.commit_delay_s = 0.2
    creating = asyncio.create_task(accept(store, clock))
    ticks = 0
    while not creating.done():
        await asyncio.sleep(0.005)
        await store.read_summary("nobody")
        ticks += 1
    assert ticks > 5
    assert len(await history(store, await creating)) == 2


async def test_verbs_wait_for_another_writer_and_the_loop_does_not(store: SqliteJobStore, clock: FakeClock) -> None:
    other = FileLock(store.path.with_name("jobs.db.lock"))  # as another process would have it
    with other.held():
        creating = asyncio.create_task(accept(store, clock))
        for _ in range(5):
            await store.list_jobs(build_query())
        assert not creating.done()
    assert await store.read(await creating) is not None
    other.close()


async def test_close_leaves_one_file_and_its_locks(store: SqliteJobStore, clock: FakeClock) -> None:
    await store.register_worker("w1")
    await accept(store, clock)
    await store.read_definition("nothing")
    await store.close()
    names = {path.name for path in store.path.parent.iterdir()}
    assert names == {"jobs.db", "jobs.db.lock", "jobs.db.owner"}


async def test_checkpoints_are_taken_over_from_a_store_that_closes(store: SqliteJobStore, clock: FakeClock) -> None:
    other = SqliteJobStore(store.path, clock)
    await other.open()
    await accept(store, clock)
    pragma = "PRAGMA wal_autocheckpoint"
    assert (await ask_writer(store, pragma), await ask_writer(other, pragma)) == (1_000, 0)
    await store.close()
    assert await ask_writer(other, pragma) == 1_000
    await other.close()


async def changes_seen(store: SqliteJobStore) -> list[bool]:
    """What a few looks say, each when the writer has fallen silent."""
    seen = []
    for _ in range(4):
        seen.append(store.has_foreign_changes())
        await store._write("call", lambda connection: None)
    return seen


async def test_only_the_changes_of_others_are_foreign(store: SqliteJobStore, clock: FakeClock) -> None:
    other = SqliteJobStore(store.path, clock)
    await other.open()
    for each in (store, other):
        await changes_seen(each)
    for _ in range(3):
        await accept(store, clock)
        assert not any(await changes_seen(store))
    assert any(await changes_seen(other))
    assert not any(await changes_seen(other))
    await other.close()


async def test_deleting_all_snapshots_changes_no_answer(store: SqliteJobStore, clock: FakeClock) -> None:
    holder = await bring_to(store, clock, JobStatus.WAITING)
    woken = await wake(store, clock)
    held = await store.hold(holder.job_id, "caller", request("set_priority", priority="LOW"))
    assert held is not None and held.claim is not None
    again = Holder(clock, held.claim)
    await again.commit(store, drains=held.claim.requests, snapshot=True)
    before = await read(store, holder.job_id)
    assert before.snapshot is not None
    await store._write("call", lambda connection: connection.execute("DELETE FROM snapshots").rowcount)
    after = await read(store, holder.job_id)
    assert (after.snapshot, after.summary) == (None, before.summary)
    assert_folds_to(after, again)
    assert_folds_to((await claim_one(store, clock)).claim, again)
    assert woken.state.number < again.state.number


async def test_aging_belongs_to_the_file(store: SqliteJobStore, clock: FakeClock) -> None:
    other = SqliteJobStore(store.path, clock, aging_s=5.0)
    await other.open()
    assert other.aging_s == store.aging_s == 3_600.0
    await other.close()


async def test_aging_that_another_process_sets_holds_here_too(store: SqliteJobStore, clock: FakeClock) -> None:
    other = SqliteJobStore(store.path, clock)
    await other.open()
    try:
        low = await store.create(new_job(clock, priority=JobPriority.LOW))
        clock.advance(120.0)
        await other.set_aging(1.0)
        high = await store.create(new_job(clock, priority=JobPriority.HIGH))
        assert [claim.job_id for claim in await store.claim("w1", 2)] == [low, high]
        assert store.aging_s == 1.0
    finally:
        await other.close()


async def test_files_of_dead_workers_do_not_pile_up(store: SqliteJobStore, clock: FakeClock) -> None:
    await store.register_worker("lives")
    FileLock(store.path.with_name("jobs.db.workers") / "dead.alive").close()
    insert = "INSERT INTO workers (id, registered_us, lease_until_us) VALUES ('dead', 1, 2)"
    await store._write("call", lambda connection: connection.execute(insert).rowcount)
    await store.register_worker("new")
    assert await store.bury_workers() == 1
    names = {path.name for path in store.path.with_name("jobs.db.workers").iterdir()}
    assert names == {"lives.alive", "new.alive"}
    assert await ask_writer(store, "SELECT count(*) FROM workers") == 2
