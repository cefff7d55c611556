"""A PostgreSQL schema of each earlier version, with jobs in it, is brought up to date; nothing in it is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from openagents_json.errors import StoreError
from openagents_json.job.machine import Interrupted, Tick
from openagents_json.job.model import JobStatus
from openagents_json.job.store import postgres_schema
from openagents_json.job.store.contract.jobs import (
    CALLS,
    Holder,
    accept,
    assert_folds_to,
    bring_to,
    history,
    read,
    request,
)
from openagents_json.job.store.contract.limits import accept_limited, begin_limited, finish, have_slots, take_all
from openagents_json.job.store.output import OutputChunk, Piece
from openagents_json.job.store.postgres import PostgresJobStore
from openagents_json.job.store.records import WorkerInfo
from openagents_json.job.store.sql import Migration, migrations
from openagents_json.testing import FakeClock
from tests.postgres_server import TABLES, Server

EARLIER = range(1, len(migrations("postgres")))  # versions of the schema
RUNS_THROUGH = (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.WAITING, JobStatus.PAUSED, JobStatus.RUNNING)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


async def make_schema(postgres: Server, schema: str, version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty schema as that version made it."""
    with monkeypatch.context() as patch:
        patch.setattr(postgres_schema, "migrations", lambda dialect: migrations(dialect)[:version])
        store = PostgresJobStore(postgres.store_url(schema))
        await store.open()
        await store.close()


async def columns_of(connection: Any, schema: str, table: str) -> list[str]:
    query = "SELECT column_name FROM information_schema.columns WHERE table_schema = $1 AND table_name = $2"
    return [row[0] for row in await connection.fetch(query, schema, table)]


async def copy_into(postgres: Server, source: str, target: str) -> None:
    """All rows of a schema into an older one, as far as that has columns for them."""
    async with postgres.connected() as connection:
        for table in TABLES:
            columns = ", ".join(await columns_of(connection, target, table))
            if not columns:
                continue  # that schema has no such table
            await connection.execute(
                f"DELETE FROM {target}.{table};"
                f"INSERT INTO {target}.{table} ({columns}) OVERRIDING SYSTEM VALUE "
                f"SELECT {columns} FROM {source}.{table}"
            )
            if "key" in columns.split(", ") and table in ("jobs", "leaks"):
                await connection.execute(
                    f"SELECT setval('{target}.{table}_key_seq', (SELECT max(key) + 1 FROM {target}.{table}))"
                )
        for table in ("inbox", "output"):
            await connection.execute(
                f"SELECT setval('{target}.{table}_sequence_seq', (SELECT max(sequence) + 1 FROM {target}.{table}))"
            )


class Past:
    """Jobs of an earlier version, as they are left by a program that was stopped."""

    def __init__(self, version: int, url: str, holders: list[Holder], queued: str) -> None:
        self.version = version
        self.url = url
        self.holders = holders
        self.queued = queued


@pytest.fixture(params=EARLIER)
def version(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
async def past(
    version: int, postgres: Server, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Past]:
    present = await postgres.empty_schema()
    store = PostgresJobStore(postgres.store_url(present), clock)
    await store.open()
    holders = [await bring_to(store, clock, status, "old") for status in RUNS_THROUGH]
    queued = await accept(store, clock)
    await store.hold(holders[3].job_id, "old", request("set_priority", priority="LOW"))
    await store.append_output(holders[0].job_id, "first", 1, [OutputChunk(0, 5, [Piece("stdout", 1, "hello")])])
    await store.close()
    schema = postgres.new_schema()
    await make_schema(postgres, schema, version, monkeypatch)
    await copy_into(postgres, present, schema)
    yield Past(version, postgres.store_url(schema), holders, queued)


async def test_jobs_of_an_earlier_schema_go_on_in_the_present_one(past: Past, clock: FakeClock) -> None:
    store = PostgresJobStore(past.url, clock)
    await store.open()
    for holder in past.holders:
        assert_folds_to(await read(store, holder.job_id), holder)
        assert await store.read_limit(holder.job_id) is None
    assert [one.pieces[0].text for one in await store.read_output(past.holders[0].job_id)] == ["hello"]
    assert (await store.count_jobs(100)).by_status == dict.fromkeys(RUNS_THROUGH, 1) | {JobStatus.QUEUED: 1}
    await store.register_worker("new")
    assert await take_all(store, "new") == [past.queued]
    orphans = {claim.job_id: claim for claim in await store.hold_orphans("new", 10)}
    paused, running = past.holders[3], past.holders[4]
    assert set(orphans) == {running.job_id, paused.job_id}  # the one that ran, and the one that was asked something
    holder = Holder(clock, orphans[running.job_id])
    assert (holder.claim.limit, holder.claim.has_slot, holder.claim.needs_queue) == (None, False, False)
    await holder.commit(store, Interrupted("old"))
    await Holder(clock, orphans[paused.job_id]).commit(store, Tick(), drains=orphans[paused.job_id].requests)
    again = await begin_limited(store, clock, "new")
    assert again.job_id == running.job_id
    await finish(store, again)
    assert len(await history(store, running.job_id)) == again.state.number
    await store.close()


async def test_workers_say_their_resources_in_a_schema_that_had_none(past: Past, clock: FakeClock) -> None:
    store = PostgresJobStore(past.url, clock)
    await store.open()
    await store.register_worker("new", WorkerInfo("host", 1, "2", ["tool.first"], 4, {"gpu": 0.5}))
    [worker] = [one for one in await store.list_workers() if one.id == "new"]
    assert worker.info.resources == {"gpu": 0.5}
    await store.close()


async def test_limits_are_kept_in_a_schema_that_had_none(past: Past, clock: FakeClock) -> None:
    store = PostgresJobStore(past.url, clock)
    await store.open()
    assert await take_all(store) == [past.queued]
    first, second = [await accept_limited(store, clock) for _ in range(2)]
    await finish(store, await begin_limited(store, clock))
    assert await have_slots(store, [first, second]) == [False, True]
    await store.close()


async def test_migration_that_fails_leaves_the_earlier_schema(
    past: Past, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    *known, last = migrations("postgres")[: past.version + 1]
    broken = Migration(last.number, last.name, last.script + "; SELECT nothing FROM nowhere;")
    with monkeypatch.context() as patch:
        patch.setattr(postgres_schema, "migrations", lambda dialect: (*known, broken))
        store = PostgresJobStore(past.url, clock)
        with pytest.raises(StoreError):
            await store.open()
    stores = [PostgresJobStore(past.url, clock) for _ in range(3)]
    await asyncio.gather(*(store.open() for store in stores))  # one of them migrates
    assert_folds_to(await read(stores[0], past.holders[0].job_id), past.holders[0])
    assert await accept(stores[1], clock, CALLS) != past.queued
    await asyncio.gather(*(store.close() for store in stores))
