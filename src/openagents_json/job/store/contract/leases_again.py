"""The contract of leases whose answer was lost: a worker finds those that it has, and takes them anew."""

from __future__ import annotations

import pytest

from openagents_json.errors import LeaseLost
from openagents_json.job.machine import Claimed, Interrupted, Tick
from openagents_json.job.model import JobStatus
from openagents_json.job.store.base import JobStore
from openagents_json.job.store.contract.jobs import (
    Holder,
    WithClock,
    accept,
    assert_folds_to,
    begin,
    bring_to,
    claim_one,
    history,
    read,
    request,
    settle,
    summary,
)
from openagents_json.testing import FakeClock


async def take_anew(store: JobStore, clock: FakeClock, worker: str = "w1") -> Holder:
    """The one lease that a worker has, taken anew."""
    [claim] = await store.hold_again(worker, await store.read_leases(worker))
    return Holder(clock, claim)


@pytest.mark.asyncio
class LeasesAgainContract(WithClock):
    """What a worker does that was given leases and never heard of it."""

    async def test_worker_finds_the_leases_that_it_has(self, store: JobStore, clock: FakeClock) -> None:
        running, other = await begin(store, clock, "w1"), await begin(store, clock, "w2")
        await accept(store, clock)
        queued = await claim_one(store, clock)
        resting = await accept(store, clock, start=False)
        held = await store.hold(resting, "w1", request("start"))
        assert held is not None and held.claim is not None
        claims = running.claim, queued.claim, held.claim
        assert await store.read_leases("w1") == {claim.job_id: claim.epoch for claim in claims}
        assert await store.read_leases("w2") == {other.job_id: other.claim.epoch}
        assert await store.read_leases("w3") == {}

    async def test_lease_that_has_ended_is_not_found(self, store: JobStore, clock: FakeClock) -> None:
        await accept(store, clock)
        await store.release((await claim_one(store, clock)).claim)
        assert await store.read_leases("w1") == {}
        holder = await claim_one(store, clock)
        assert await store.read_leases("w1") == {holder.job_id: holder.claim.epoch}
        await holder.commit(store, holder.started())
        assert await store.read_leases("w1") == {holder.job_id: holder.claim.epoch}
        await holder.commit(store, holder.succeeded("first"))
        await holder.commit(store, holder.succeeded("second"))
        assert await store.read_leases("w1") == {}
        await bring_to(store, clock, JobStatus.WAITING)
        assert await store.read_leases("w1") == {}

    @pytest.mark.guarantee("G5")
    async def test_lease_taken_anew_is_one_to_go_on_with(self, store: JobStore, clock: FakeClock) -> None:
        await accept(store, clock)
        old = await claim_one(store, clock)
        again = await take_anew(store, clock)
        assert (again.claim.owner, again.claim.previous_owner) == ("w1", "w1")
        assert again.claim.epoch > old.claim.epoch
        assert_folds_to(again.claim, old)
        assert await store.read_leases("w1") == {again.job_id: again.claim.epoch}
        assert await store.claim("w2", 10) == []
        await again.commit(store, again.started())
        assert (await summary(store, again.job_id)).status == JobStatus.RUNNING

    @pytest.mark.guarantee("G4")
    async def test_whoever_was_told_of_the_old_lease_has_lost_it(self, store: JobStore, clock: FakeClock) -> None:
        await accept(store, clock)
        old = await claim_one(store, clock)
        again = await take_anew(store, clock)
        await store.release(old.claim)
        assert (await read(store, old.job_id)).owner == "w1"
        with pytest.raises(LeaseLost):
            await old.commit(store, old.started())
        await again.commit(store, again.started())

    @pytest.mark.guarantee("G4")
    async def test_only_what_the_worker_has_in_that_epoch_is_taken_anew(
        self, store: JobStore, clock: FakeClock
    ) -> None:
        """What was read may be old when it is used."""
        await accept(store, clock)
        first = await claim_one(store, clock)
        await store.release(first.claim)
        now = await claim_one(store, clock)  # the same job
        await accept(store, clock)
        other = await claim_one(store, clock, "w2")
        free, gone = await accept(store, clock), await accept(store, clock, start=False)
        await store.delete(gone)
        lost = {now.job_id: first.claim.epoch, other.job_id: other.claim.epoch, free: 0, gone: 0, "nobody": 1}
        assert await store.hold_again("w1", lost) == []
        [again] = await store.hold_again("w1", lost | {now.job_id: now.claim.epoch})
        assert again.job_id == now.job_id
        assert await store.hold_again("w1", {now.job_id: now.claim.epoch}) == []
        assert await store.hold_again("w1", {}) == []
        await other.commit(store, other.started())
        assert [claim.job_id for claim in await store.claim("w3", 10)] == [free]

    async def test_many_are_taken_anew_at_once(self, store: JobStore, clock: FakeClock) -> None:
        ids = [await accept(store, clock) for _ in range(100)]
        await store.claim("w1", 100)
        claims = await store.hold_again("w1", await store.read_leases("w1"))
        assert sorted(claim.job_id for claim in claims) == sorted(ids)
        assert await store.read_leases("w1") == {claim.job_id: claim.epoch for claim in claims}

    @pytest.mark.guarantee("G5")
    async def test_queued_job_goes_back_to_its_place(self, store: JobStore, clock: FakeClock) -> None:
        first, second = await accept(store, clock), await accept(store, clock)
        before = await summary(store, first)
        await store.claim("w1", 1)
        await store.release((await take_anew(store, clock)).claim)
        assert await summary(store, first) == before
        assert [claim.job_id for claim in await store.claim("w2", 10)] == [first, second]

    @pytest.mark.guarantee("G5")
    async def test_job_of_a_dead_worker_is_interrupted_by_whoever_takes_it_anew(
        self, store: JobStore, clock: FakeClock
    ) -> None:
        await store.register_worker("dead")
        holder = await begin(store, clock, "dead")
        clock.advance(store.lease_s)
        await store.register_worker("w1")
        await store.hold_orphans("w1", 10)
        rescuer = await take_anew(store, clock)
        assert_folds_to(rescuer.claim, holder)
        await store.release(rescuer.claim)  # a RUNNING job is not released
        await rescuer.commit(store, Interrupted())
        types = [event.type for event in await history(store, holder.job_id)]
        assert types[-3:] == ["attempt.lost", "job.worker_lost", "job.queued"]
        assert (await history(store, holder.job_id))[-2].data["worker"] == "dead"
        assert await store.hold_orphans("w1", 10) == []
        [claim] = await store.claim("w1", 10)
        await Holder(clock, claim).commit(store, Claimed("w1", claim.epoch))

    @pytest.mark.guarantee("G5")
    async def test_due_job_wakes_or_is_due_again(self, store: JobStore, clock: FakeClock) -> None:
        holder = await bring_to(store, clock, JobStatus.WAITING)
        clock.advance(60)
        await store.hold_due("w1", 10)
        again = await take_anew(store, clock)
        assert_folds_to(again.claim, holder)
        await store.release(again.claim)
        assert await store.next_due_us() is not None
        await store.hold_due("w2", 10)
        again = await take_anew(store, clock, "w2")
        await again.commit(store, Tick())
        assert (await summary(store, holder.job_id)).status == JobStatus.QUEUED
        assert await store.next_due_us() is None

    @pytest.mark.guarantee("G5")
    async def test_request_that_came_with_the_lease_is_carried_out(self, store: JobStore, clock: FakeClock) -> None:
        job_id = await accept(store, clock, start=False)
        await store.hold(job_id, "w1", request("start"))
        again = await take_anew(store, clock)
        assert [asked.kind for asked in again.claim.requests] == ["start"]
        await again.commit(store, drains=again.claim.requests)
        stored = await read(store, job_id)
        assert (stored.summary.status, stored.owner, stored.requests) == (JobStatus.QUEUED, None, [])
        await settle(store, clock, job_id, request("cancel"))
