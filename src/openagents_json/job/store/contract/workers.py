"""The contract of workers: their leases, heartbeats and orphans."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from openagents_json.clock import SECOND_US
from openagents_json.errors import LeaseLost
from openagents_json.job.machine import Claimed, Interrupted
from openagents_json.job.model import JobStatus
from openagents_json.job.store.base import JobStore
from openagents_json.job.store.contract.jobs import (
    Holder,
    WithClock,
    accept,
    assert_folds_to,
    begin,
    claim_one,
    history,
    summary,
)
from openagents_json.job.store.records import WorkerInfo
from openagents_json.job.store.rules import SUSPECT_DEATHS
from openagents_json.testing import FakeClock


@pytest.mark.asyncio
class WorkerContract(WithClock):
    """Workers: who lives, who holds what, and what becomes of the jobs of the dead."""

    @pytest.mark.guarantee("G5")
    async def test_jobs_are_orphans_when_the_lease_of_their_worker_ends(
        self, store: JobStore, clock: FakeClock
    ) -> None:
        await store.register_worker("w1")
        await store.register_worker("w2")
        holder = await begin(store, clock)
        clock.advance(store.lease_s - 1)
        assert await store.heartbeat("w2")
        assert await store.hold_orphans("w2", 10) == []
        clock.advance(1)
        [claim] = await store.hold_orphans("w2", 10)
        assert (claim.job_id, claim.owner, claim.previous_owner) == (holder.job_id, "w2", "w1")
        assert claim.epoch > holder.claim.epoch
        assert_folds_to(claim, holder)
        rescuer = Holder(clock, claim)
        await rescuer.commit(store, Interrupted("w1"))
        assert (await summary(store, holder.job_id)).status == JobStatus.QUEUED
        assert await store.hold_orphans("w2", 10) == []

    async def test_heartbeat_keeps_the_jobs(self, store: JobStore, clock: FakeClock) -> None:
        await store.register_worker("w1")
        await begin(store, clock)
        for _ in range(3):
            clock.advance(store.lease_s - 1)
            assert await store.heartbeat("w1")
        await store.register_worker("w2")
        assert await store.hold_orphans("w2", 10) == []

    async def test_pulse_keeps_the_jobs(self, store: JobStore, clock: FakeClock) -> None:
        await store.register_worker("w1")
        await begin(store, clock)
        pulse = store.pulse("w1")
        try:
            for _ in range(3):
                clock.advance(store.lease_s - 1)
                assert await asyncio.to_thread(pulse.beat)
            await store.register_worker("w2")
            assert await store.hold_orphans("w2", 10) == []
            clock.advance(store.lease_s)
            assert not await asyncio.to_thread(pulse.beat)
        finally:
            await asyncio.to_thread(pulse.close)

    async def test_live_workers_are_listed(self, store: JobStore, clock: FakeClock) -> None:
        info = WorkerInfo("host", 7, "1.0", ("tool.first", "tool.other"), 256)
        await store.register_worker("w1", info)
        clock.advance(1)
        await store.register_worker("w2")
        await begin(store, clock, "w1")
        began_us = clock.now_us()
        clock.advance(5)
        await store.heartbeat("w1")
        await store.register_worker("w2", replace(info, pid=8))  # it has learnt something
        first, second = await store.list_workers()
        assert (first.id, first.info, first.jobs) == ("w1", info, 1)
        assert (first.registered_us, first.heartbeat_us) == (began_us - SECOND_US, clock.now_us())
        assert first.lease_until_us == clock.now_us() + round(store.lease_s * SECOND_US)
        assert (second.id, second.info.pid, second.jobs, second.registered_us) == ("w2", 8, 0, began_us)
        await store.unregister_worker("w2")
        assert [one.id for one in await store.list_workers()] == ["w1"]
        clock.advance(store.lease_s)
        assert await store.list_workers() == []

    async def test_dead_workers_are_buried(self, store: JobStore, clock: FakeClock) -> None:
        await store.register_worker("w1")
        holder = await begin(store, clock, "w1")
        clock.advance(store.lease_s)
        await store.register_worker("w2")
        assert await store.bury_workers() == 1
        assert await store.bury_workers() == 0
        assert not await store.heartbeat("w1")
        assert await store.heartbeat("w2")
        assert [claim.job_id for claim in await store.hold_orphans("w2", 10)] == [holder.job_id]

    async def test_heartbeat_after_the_lease_is_refused(self, store: JobStore, clock: FakeClock) -> None:
        await store.register_worker("w1")
        clock.advance(store.lease_s)
        assert not await store.heartbeat("w1")
        assert not await store.heartbeat("nobody")

    async def test_registering_again_is_harmless_and_revives(self, store: JobStore, clock: FakeClock) -> None:
        await store.register_worker("w1")
        clock.advance(store.lease_s)
        for _ in range(2):
            await store.register_worker("w1")
        assert await store.heartbeat("w1")

    async def test_jobs_are_orphans_as_soon_as_their_worker_signs_off(self, store: JobStore, clock: FakeClock) -> None:
        await store.register_worker("w1")
        await store.register_worker("w2")
        holder = await begin(store, clock)
        for _ in range(2):
            await store.unregister_worker("w1")
        assert not await store.heartbeat("w1")
        assert [claim.job_id for claim in await store.hold_orphans("w2", 10)] == [holder.job_id]

    @pytest.mark.guarantee("G4")
    async def test_late_worker_does_not_write_over_its_successor(self, store: JobStore, clock: FakeClock) -> None:
        await store.register_worker("w1")
        holder = await begin(store, clock)
        late = holder.commit_of(holder.succeeded("first"))
        clock.advance(store.lease_s)
        await store.register_worker("w2")
        [claim] = await store.hold_orphans("w2", 10)
        before = await history(store, holder.job_id)
        with pytest.raises(LeaseLost, match=holder.job_id):
            await store.commit(late)
        await Holder(clock, claim).commit(store, Interrupted("w1"))
        with pytest.raises(LeaseLost):
            await store.commit(late)
        assert (await history(store, holder.job_id))[: len(before)] == before

    async def test_orphans_are_taken_a_few_at_a_time_and_once(self, store: JobStore, clock: FakeClock) -> None:
        await store.register_worker("w2")
        ids = {(await begin(store, clock, f"dead{n}")).job_id for n in range(5)}
        taken = [await store.hold_orphans("w2", 2) for _ in range(4)]
        assert [len(claims) for claims in taken] == [2, 2, 1, 0]
        assert {claim.job_id for claims in taken for claim in claims} == ids

    async def test_jobs_of_the_worker_that_asks_are_no_orphans(self, store: JobStore, clock: FakeClock) -> None:
        await store.register_worker("w1")
        mine = await begin(store, clock, "w1")
        other = await begin(store, clock, "dead")
        clock.advance(store.lease_s)  # and it has not noticed
        assert [claim.job_id for claim in await store.hold_orphans("w1", 10)] == [other.job_id]
        assert (await store.read_leases("w1"))[mine.job_id] == mine.claim.epoch

    async def test_job_that_was_claimed_and_not_begun_goes_back_to_its_place(
        self, store: JobStore, clock: FakeClock
    ) -> None:
        first, second = await accept(store, clock), await accept(store, clock)
        await claim_one(store, clock, "dead")
        await store.register_worker("w2")
        [claim] = await store.hold_orphans("w2", 10)
        assert claim.job_id == first
        assert Holder(clock, claim).commit_of(Interrupted("dead")).events == []
        await store.release(claim)
        assert [one.job_id for one in await store.claim("w1", 100)] == [first, second]

    @pytest.mark.guarantee("G6")
    async def test_job_under_which_workers_died_is_only_taken_as_a_suspect(
        self, store: JobStore, clock: FakeClock
    ) -> None:
        await store.register_worker("w2")
        holder = await begin(store, clock, "dead")
        other = await accept(store, clock)
        for death in range(SUSPECT_DEATHS):
            [claim] = await store.hold_orphans("w2", 10)
            rescuer = Holder(clock, claim)
            await rescuer.commit(store, Interrupted("dead"))
            assert (await summary(store, holder.job_id)).status == JobStatus.QUEUED
            if death + 1 < SUSPECT_DEATHS:
                assert await store.claim("w2", 10, suspects=True) == []
                again = await claim_one(store, clock, "dead")
                assert again.job_id == holder.job_id
                await again.commit(store, again.started())
        await store.register_worker("w1")
        assert [claim.job_id for claim in await store.claim("w1", 10)] == [other]
        [claim] = await store.claim("w2", 10, suspects=True)
        assert claim.job_id == holder.job_id
        await Holder(clock, claim).commit(store, Claimed("w2", claim.epoch))
        await store.unregister_worker("w2")
        [claim] = await store.hold_orphans("w1", 10)
        assert claim.job_id == holder.job_id
        await Holder(clock, claim).commit(store, Interrupted("w2"))
        assert (await summary(store, holder.job_id)).error_type == "worker_lost"

    # ── the queue ─────────────────────────────────────────────────────────────────────────────────────────────────
