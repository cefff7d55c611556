"""Shares where many write at once, and where there are very many of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import cast

import pytest
import pytest_asyncio

from openagents_json.clock import SECOND_US
from openagents_json.job.machine import Released, Requested
from openagents_json.job.model import JobPriority
from openagents_json.job.store import (
    FileJobStore,
    MemoryJobStore,
    PostgresJobStore,
    SqliteJobStore,
    memory_shares,
    postgres_shares,
    sqlite_shares,
)
from openagents_json.job.store.base import JobStore
from openagents_json.job.store.contract.jobs import Holder, new_job, request, settle
from openagents_json.job.store.contract.shares import TEN_S, queue, shared
from openagents_json.testing import FakeClock
from tests.contract.reopening import Reopened, keep_file_workers
from tests.postgres_server import Server

SAFETY_S = 60.0  # only a safety net
KEYS = ("a", "b", "c")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest_asyncio.fixture(params=["memory", "sqlite", "file", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock) -> AsyncIterator[JobStore]:
    made: JobStore
    if request.param == "postgres":
        server: Server = request.getfixturevalue("postgres")
        made = PostgresJobStore(server.store_url(await server.empty_schema()), clock)
    elif request.param == "file":  # which is closed and opened again after each change
        made = cast(JobStore, Reopened(FileJobStore(tmp_path / "jobs", clock), keep_file_workers))
    else:
        made = MemoryJobStore(clock) if request.param == "memory" else SqliteJobStore(tmp_path / "jobs.db", clock)
    await made.open()
    yield made
    await made.close()


async def test_accounts_that_say_nothing_are_forgotten_when_there_are_many(
    store: JobStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (memory_shares, sqlite_shares, postgres_shares):
        monkeypatch.setattr(module, "FORGET_ABOVE", 3)
    await store.set_share("weighty", 2.0)
    for key in ("one", "two"):
        [job_id] = await queue(store, clock, key)
        await settle(store, clock, job_id, request("cancel", force=False))  # gives all back: it is not ahead
        clock.advance(60.0)
    await queue(store, clock, "ahead")
    await queue(store, clock, "next")
    clock.advance(60.0)
    await queue(store, clock, "new")
    assert {"weighty", "ahead", "next", "new"} == {one.key for one in await store.list_shares()}


async def test_many_stores_charge_one_account_at_once(clock: FakeClock, postgres: Server) -> None:
    """Nothing is charged twice or lost, whoever commits first, and nobody waits for somebody who waits for it."""
    schema = await postgres.empty_schema()
    stores = [PostgresJobStore(postgres.store_url(schema), clock) for _ in range(3)]
    for one in stores:
        await one.open()
    await queue(stores[0], clock, "anchor")  # it waits all the time, so the line stays where it is
    began_us, chance = clock.now_us(), Random(7)

    async def desk(number: int) -> None:
        store, worker = stores[number], f"w{number}"
        for _ in range(8):
            jobs = [shared(clock, chance.choice(KEYS)) for _ in range(6)]
            ids = await store.create_all(jobs) if chance.random() < 0.5 else [await store.create(one) for one in jobs]
            await asyncio.gather(*(queue(store, clock, "busy", priority=JobPriority.CRITICAL) for _ in range(2)))
            for job_id, verb in zip(ids, ("cancel", "pause"), strict=False):
                await settle(store, clock, job_id, request(verb, force=False), worker)
            await settle(store, clock, ids[2], request("set_priority", priority="LOW"), worker)
            for claim in await store.claim(worker, 2):
                holder = Holder(clock, claim)
                assert holder.state.share == "busy"
                await holder.commit(store, holder.started())
                await holder.commit(store, holder.failed("first"))

    try:
        async with asyncio.timeout(SAFETY_S):
            await asyncio.gather(*(desk(number) for number in range(3)))
        async with postgres.connected() as connection:
            accounts = dict(await connection.fetch(f"SELECT key, finish_us FROM {schema}.shares"))
            query = f"SELECT share_key, sum(share_charged_us)::bigint, count(*) FROM {schema}.jobs GROUP BY 1"
            charged = {key: (us, jobs) for key, us, jobs in await connection.fetch(query)}
    finally:
        for one in stores:
            await one.close()
    assert sum(charged[key][1] for key in KEYS) == 3 * 8 * 6
    assert sum(charged[key][0] for key in KEYS) == 3 * 8 * 4 * TEN_S
    assert {key: accounts[key] - began_us for key in KEYS} == {key: charged[key][0] for key in KEYS}


class Twin:
    """A store and the holders of its running jobs, by job id."""

    def __init__(self, store: JobStore, clock: FakeClock) -> None:
        self.store = store
        self.clock = clock
        self.holders: dict[str, Holder] = {}

    async def claim(self, count: int) -> list[tuple[str, int]]:
        claims = await self.store.claim("w1", count)
        for claim in claims:
            holder = self.holders[claim.job_id] = Holder(self.clock, claim)
            await holder.commit(self.store, holder.started())
        return [(claim.job_id, claim.sort_at) for claim in claims]

    async def end(self, job_id: str, how: str) -> None:
        holder = self.holders.pop(job_id)
        if how == "fail":
            await holder.commit(self.store, holder.failed("first"))
        elif how == "pause":
            await holder.commit(self.store, Requested("pause", "somebody", "lunch"), holder.succeeded("first"))
        else:
            await holder.commit(self.store, Released("worker_stopped"), holder.succeeded("first"))

    async def ask(self, job_id: str, verb: str, key: str, **payload: object) -> None:
        await settle(self.store, self.clock, job_id, request(verb, key, **payload))


@pytest.mark.parametrize("seed", range(8))
async def test_all_stores_serve_shares_in_the_same_order(store: JobStore, clock: FakeClock, seed: int) -> None:
    """Whatever happens to the jobs, in whatever order: tags, places and accounts are those of the memory store."""
    chance = Random(seed)
    model, other = Twin(MemoryJobStore(clock), clock), Twin(store, clock)
    twins = (model, other)
    waiting: list[str] = []
    paused: list[str] = []

    for number in range(120):
        what = chance.choice(["create", "create", "many", "claim", "claim", "end", "end", "ask", "weight", "aging"])
        clock.advance(chance.choice([0.0, 0.5, 7.0, 100.0]))
        if what in ("create", "many"):
            jobs = [
                new_job(
                    clock,
                    share=chance.choice([*KEYS, None]),
                    expected_us=chance.choice([0, 1, 3, 20]) * SECOND_US,
                    priority=chance.choice([*JobPriority, JobPriority.MEDIUM, JobPriority.MEDIUM]),
                    deadline_us=chance.choice([None, None, clock.now_us() + 1_800 * SECOND_US]),
                )
                for _ in range(1 if what == "create" else 4)
            ]
            for twin in twins:
                waiting_now = await twin.store.create_all(jobs)
            waiting += waiting_now
        elif what == "claim":
            count = chance.choice([1, 1, 3])
            claimed, same = [await twin.claim(count) for twin in twins]
            assert claimed == same, number
            waiting = [job_id for job_id in waiting if job_id not in {one for one, _ in claimed}]
        elif what == "end" and model.holders:
            job_id, how = chance.choice(sorted(model.holders)), chance.choice(["fail", "fail", "pause", "release"])
            for twin in twins:
                await twin.end(job_id, how)
            if how != "fail":
                (paused if how == "pause" else waiting).append(job_id)
        elif what == "ask" and waiting + paused:
            job_id = chance.choice(waiting + paused)
            verb = "resume" if job_id in paused else chance.choice(["pause", "cancel", "set_priority"])
            payload = {"priority": chance.choice(list(JobPriority))} if verb == "set_priority" else {"force": False}
            for twin in twins:
                await twin.ask(job_id, verb, f"{verb} {number}", **payload)
            if verb == "resume":
                paused.remove(job_id)
                waiting.append(job_id)
            elif verb != "set_priority":
                waiting.remove(job_id)
                paused += [job_id] if verb == "pause" else []
        elif what == "weight":
            key, weight = chance.choice(KEYS), chance.choice([0.5, 1.0, 3.0])
            for twin in twins:
                await twin.store.set_share(key, weight)
        elif what == "aging" and chance.random() < 0.3:
            aging_s = chance.choice([0.0, 60.0, 3_600.0])
            for twin in twins:
                await twin.store.set_aging(aging_s)
        assert await other.store.list_shares() == await model.store.list_shares(), number
    assert await other.claim(1_000) == await model.claim(1_000)
