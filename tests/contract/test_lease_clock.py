"""Setting the time of day ends no lease where workers and store share a machine, and makes none last longer (G4)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from openagents_json.job.store import FileJobStore, JobStore, MemoryJobStore, SqliteJobStore
from openagents_json.job.store.contract.jobs import begin
from openagents_json.testing import FakeClock

DAY_S = 86_400


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=["memory", "file", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock) -> AsyncIterator[JobStore]:
    made: dict[str, JobStore] = {
        "memory": MemoryJobStore(clock),
        "file": FileJobStore(tmp_path / "jobs", clock),
        "sqlite": SqliteJobStore(tmp_path / "jobs.db", clock),
    }
    store = made[request.param]
    await store.open()
    yield store
    await store.close()


@pytest.mark.guarantee("G4")
@pytest.mark.parametrize("jump_s", [-DAY_S, -3_600, 3_600, DAY_S])
async def test_worker_keeps_its_jobs_when_the_clock_is_set(store: JobStore, clock: FakeClock, jump_s: int) -> None:
    await store.register_worker("w1")
    await begin(store, clock)
    clock.advance(store.lease_s - 1)
    clock.jump(jump_s)
    await store.register_worker("w2")
    assert await store.hold_orphans("w2", 10) == []
    assert await store.bury_workers() == 0
    assert await store.heartbeat("w1")
    pulse = store.pulse("w1")
    try:
        assert await asyncio.to_thread(pulse.beat)
    finally:
        await asyncio.to_thread(pulse.close)
    workers = {one.id: one for one in await store.list_workers()}
    assert workers["w1"].heartbeat_us == clock.now_us()
    assert workers["w1"].lease_until_us == clock.now_us() + store.lease_s * 1_000_000, "told in the time of day"


@pytest.mark.guarantee("G5")
async def test_lease_of_a_silent_worker_ends_in_time_when_the_clock_is_set_back(
    store: JobStore, clock: FakeClock
) -> None:
    await store.register_worker("w1")
    holder = await begin(store, clock)
    clock.jump(-DAY_S)
    clock.advance(store.lease_s)
    await store.register_worker("w2")
    assert not await store.heartbeat("w1")
    assert [claim.job_id for claim in await store.hold_orphans("w2", 10)] == [holder.job_id]
    assert [one.id for one in await store.list_workers()] == ["w2"]
