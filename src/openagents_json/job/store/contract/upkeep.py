"""The contract of upkeep: deleting, retention, counters, closing."""

from __future__ import annotations

import pytest

from openagents_json.job.model import FINAL, JobStatus
from openagents_json.job.store.base import JobStore
from openagents_json.job.store.contract.jobs import (
    QUIET,
    Holder,
    WithClock,
    accept,
    begin,
    bring_to,
    claim_one,
    history,
    read,
    request,
)
from openagents_json.job.store.query import build_query
from openagents_json.testing import FakeClock


@pytest.mark.asyncio
class UpkeepContract(WithClock):
    """Deleting and cleaning up: only what has ended or never began."""

    @pytest.mark.parametrize("status", list(JobStatus))
    async def test_only_created_and_final_jobs_are_deleted(
        self, store: JobStore, clock: FakeClock, status: JobStatus
    ) -> None:
        if status in (JobStatus.CREATED, JobStatus.QUEUED):
            job_id = await accept(store, clock, start=status == JobStatus.QUEUED)
        else:
            job_id = (await bring_to(store, clock, status)).job_id
        before = await read(store, job_id)
        if status == JobStatus.CREATED or status in FINAL:
            assert [await store.delete(job_id), await store.delete(job_id)] == [True, False]
            assert await store.read(job_id) is None
        else:
            assert await store.delete(job_id) is False
            assert await read(store, job_id) == before

    async def test_held_job_is_not_deleted(self, store: JobStore, clock: FakeClock) -> None:
        job_id = await accept(store, clock, start=False)
        held = await store.hold(job_id, "caller", request("start"))
        assert held is not None and held.claim is not None
        assert await store.delete(job_id) is False
        holder = Holder(clock, held.claim)
        await holder.commit(store, drains=held.claim.requests)
        assert len(await history(store, job_id)) == 2

    async def test_nothing_is_left_of_a_deleted_job_and_all_of_the_others(
        self, store: JobStore, clock: FakeClock
    ) -> None:
        kept = await begin(store, clock, document=QUIET)
        gone = await accept(store, clock, start_in_s=5, tags=("gone",), key="k")
        before = await read(store, kept.job_id)
        held = await store.hold(gone, "caller", request("set_priority", priority="LOW"))
        assert held is not None and held.claim is not None
        await store.release(held.claim)
        assert await store.delete(gone)
        clock.advance(10)
        assert await store.read_events(gone) == []
        assert await store.read_requests(gone) == []
        assert await store.find_ids(gone) == []
        assert (await store.hold_due("w1", 10), await store.next_due_us()) == ([], None)
        assert [listed.summary.id for listed in await store.list_jobs(build_query())] == [kept.job_id]
        assert await read(store, kept.job_id) == before

    async def test_old_final_jobs_are_deleted_in_batches(self, store: JobStore, clock: FakeClock) -> None:
        old = [(await begin(store, clock, document=QUIET)).job_id for _ in range(5)]
        unfinished = (await begin(store, clock)).job_id
        clock.advance(60)
        before_us = clock.now_us()
        young = (await begin(store, clock, document=QUIET)).job_id
        counts = [await store.delete_final(before_us, 2) for _ in range(4)]
        assert counts == [2, 2, 1, 0]
        left = {listed.summary.id for listed in await store.list_jobs(build_query())}
        assert left == {unfinished, young}
        for job_id in old:
            assert await store.read(job_id) is None

    async def test_counters_rise_with_what_is_written(self, store: JobStore, clock: FakeClock) -> None:
        before = store.stats()
        assert set(before) >= {"commits", "rows", "syncs"}
        await accept(store, clock)
        await claim_one(store, clock)
        after = store.stats()
        assert after["commits"] > before["commits"]
        assert after["rows"] > before["rows"]

    async def test_foreign_changes_are_asked_without_waiting(self, store: JobStore, clock: FakeClock) -> None:
        await accept(store, clock)
        assert isinstance(store.has_foreign_changes(), bool)

    async def test_store_closes_twice(self, store: JobStore, clock: FakeClock) -> None:
        await accept(store, clock)
        await store.close()
        await store.close()
