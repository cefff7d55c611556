"""Many rows in one statement of the SQLite store: what stands in one part of a batch does not touch the others."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from openagents_json.errors import LeaseLost
from openagents_json.job.store.contract.jobs import Holder, accept, history, read, request
from openagents_json.job.store.sqlite import SqliteJobStore
from openagents_json.job.store.sqlite_batches import SIZES
from openagents_json.testing import FakeClock

MANY = 2 * SIZES[0] + SIZES[1] + 2  # takes each size but one, and the largest twice


@pytest.fixture
async def store(tmp_path: Path, clock: FakeClock) -> AsyncIterator[SqliteJobStore]:
    store = SqliteJobStore(tmp_path / "jobs.db", clock)
    await store.open()
    yield store
    await store.close()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


async def many(store: SqliteJobStore, clock: FakeClock, count: int = MANY) -> list[str]:
    return await asyncio.gather(*(accept(store, clock) for _ in range(count)))


async def hold_all(store: SqliteJobStore, ids: list[str]) -> list[Holder]:
    """One request each, all in one transaction; the holders in the order of the ids."""
    before = store.stats()["commits"]
    answers = await asyncio.gather(
        *(store.hold(job_id, "w1", request("set_priority", f"k{job_id}", priority="LOW")) for job_id in ids)
    )
    assert store.stats()["commits"] == before + 1
    return [Holder(clock_of(store), held.claim) for held in answers if held is not None and held.claim is not None]


def clock_of(store: SqliteJobStore) -> FakeClock:
    assert isinstance(store.clock, FakeClock)
    return store.clock


async def test_each_of_many_holders_has_its_own_job_and_request(store: SqliteJobStore, clock: FakeClock) -> None:
    ids = await many(store, clock)
    holders = await hold_all(store, ids)
    assert [holder.job_id for holder in holders] == ids
    for holder in holders:
        [asked] = holder.claim.requests
        assert (asked.key, asked.payload) == (f"k{holder.job_id}", {"priority": "LOW"})
        assert holder.claim.events == await history(store, holder.job_id)
    assert len({holder.claim.requests[0].sequence for holder in holders}) == MANY


async def test_many_commits_each_change_their_own_row(store: SqliteJobStore, clock: FakeClock) -> None:
    ids = await many(store, clock)
    holders = await hold_all(store, ids)
    await asyncio.gather(*(holder.commit(store, drains=holder.claim.requests) for holder in holders))
    for holder in holders:
        stored = await read(store, holder.job_id)
        assert (stored.owner, stored.requests, stored.summary.priority) == (None, [], "LOW")
        assert stored.summary.events == holder.state.number


async def test_one_lost_lease_among_many_commits_refuses_that_one(store: SqliteJobStore, clock: FakeClock) -> None:
    holders = await hold_all(store, await many(store, clock))
    lost = holders[len(holders) // 2]
    await store.release(lost.claim)
    results = await asyncio.gather(
        *(holder.commit(store, drains=holder.claim.requests) for holder in holders), return_exceptions=True
    )
    assert [holder for holder, one in zip(holders, results, strict=True) if isinstance(one, LeaseLost)] == [lost]
    assert [request.kind for request in await store.read_requests(lost.job_id)] == ["set_priority"]
    assert all([not await store.read_requests(holder.job_id) for holder in holders if holder is not lost])


async def test_two_requests_to_one_job_at_once_are_held_by_the_first(store: SqliteJobStore, clock: FakeClock) -> None:
    job_id = await accept(store, clock)
    first, second = await asyncio.gather(
        store.hold(job_id, "w1", request("start")), store.hold(job_id, "w2", request("pause"))
    )
    assert first is not None and first.claim is not None and second is not None
    assert [asked.kind for asked in first.claim.requests] == ["start", "pause"]
    assert (first.owner, second.claim, second.owner) == ("w1", None, "w1")
    assert (await read(store, job_id)).owner == "w1"


async def test_unknown_and_repeated_among_many(store: SqliteJobStore, clock: FakeClock) -> None:
    job_id = await accept(store, clock)
    known, unknown, again = await asyncio.gather(
        store.hold(job_id, "w1", request("start")),
        store.hold("nothing", "w1", request("start")),
        store.hold(job_id, "w1", request("start")),
    )
    assert unknown is None and known is not None and known.claim is not None
    assert again is not None and (again.claim, again.owner) == (None, "w1")
    assert len(await store.read_requests(job_id)) == 1


async def test_damaged_history_among_many_holds_up_no_other(store: SqliteJobStore, clock: FakeClock) -> None:
    ids = await many(store, clock, 5)
    damage = "UPDATE history SET events = x'5b5b3122ff' WHERE job = (SELECT key FROM jobs WHERE id = ?)"
    await store._write("call", lambda connection: connection.execute(damage, (ids[2],)).rowcount)
    answers = await asyncio.gather(
        *(store.hold(job_id, "w1", request("start")) for job_id in ids), return_exceptions=True
    )
    assert isinstance(answers[2], msgspec.DecodeError)
    others = [ids[place] for place in (0, 1, 3, 4)]
    assert [(await read(store, job_id)).owner for job_id in others] == ["w1"] * 4
    row = await store.read_summary(ids[2])
    assert row is not None and not await store.read_requests(ids[2])


async def test_histories_that_are_too_long_together_are_read_one_by_one(
    store: SqliteJobStore, clock: FakeClock
) -> None:
    ids = await many(store, clock, SIZES[1])
    longest = max([len(str(await history(store, job_id))) for job_id in ids])
    await store._write("call", lambda connection: connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 4 * longest + 1_000))
    assert [holder.job_id for holder in await hold_all(store, ids)] == ids
