"""The contract of limits: at most so many jobs of a key are on, the best of the others follow, and no slot is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from openagents_json.clock import SECOND_US
from openagents_json.errors import LeaseLost, StoreError
from openagents_json.job.machine import Claimed, Interrupted, Offered, Requested, Tick
from openagents_json.job.model import JobPriority, JobStatus
from openagents_json.job.store.base import JobStore
from openagents_json.job.store.contract.jobs import (
    QUIET,
    RETRY_LATER,
    Holder,
    WithClock,
    accept,
    claim_one,
    new_job,
    read,
    request,
    settle,
    summary,
)
from openagents_json.job.store.limits import HOLDERS_SHOWN, Hold, Limit, Overflow, limit_key
from openagents_json.job.store.records import NewJob
from openagents_json.job.store.rules import SUSPECT_DEATHS
from openagents_json.testing import FakeClock

KEY = limit_key("calls", "acme")


def limited(
    clock: FakeClock,
    limit: int = 1,
    *,
    hold: Hold = "job",
    overflow: Overflow = "queue",
    key: str = KEY,
    **options: Any,
) -> NewJob:
    """A job of two calls with a limit; options as in `new_job`."""
    return replace(new_job(clock, **options), limit=Limit(key, limit, hold, overflow))


async def accept_limited(store: JobStore, clock: FakeClock, limit: int = 1, **options: Any) -> str:
    """A job with a limit, a second after the one before; its id."""
    clock.advance(1)
    return await store.create(limited(clock, limit, **options))


async def take_all(store: JobStore, worker: str = "w1") -> list[str]:
    """Claim all that can be claimed; the ids in order."""
    return [claim.job_id for claim in await store.claim(worker, 100)]


async def finish(store: JobStore, holder: Holder) -> None:
    """Carry a job of two calls that is RUNNING to its end."""
    await holder.commit(store, holder.succeeded("first"))
    await holder.commit(store, holder.succeeded("second"))


async def begin_limited(store: JobStore, clock: FakeClock, worker: str = "w1") -> Holder:
    """Claim the one job that can be claimed, and begin it."""
    holder = await claim_one(store, clock, worker)
    await holder.commit(store, holder.started())
    return holder


async def have_slots(store: JobStore, job_ids: Sequence[str]) -> list[bool]:
    """Which of these jobs have a slot."""
    found = [await store.read_limit(job_id) for job_id in job_ids]
    return [one is not None and one.has_slot for one in found]


@pytest.mark.asyncio
class LimitContract(WithClock):
    """Jobs with limits: who is claimed, who waits, and who gives a slot back."""

    # ── who is let in ─────────────────────────────────────────────────────────────────────────────────────────────

    async def test_jobs_over_the_limit_are_not_claimed(self, store: JobStore, clock: FakeClock) -> None:
        ids = [await accept_limited(store, clock, 2) for _ in range(4)]
        assert await have_slots(store, ids) == [True, True, False, False]
        assert await take_all(store) == ids[:2]
        assert await take_all(store, "w2") == []
        assert (await summary(store, ids[2])).status == JobStatus.QUEUED

    async def test_lease_that_is_taken_anew_has_the_slot_of_the_old_one(
        self, store: JobStore, clock: FakeClock
    ) -> None:
        first, second = [await accept_limited(store, clock) for _ in range(2)]
        await store.claim("w1", 10)
        [again] = await store.hold_again("w1", await store.read_leases("w1"))
        assert (again.job_id, again.has_slot, again.needs_queue) == (first, True, False)
        assert await have_slots(store, [first, second]) == [True, False]
        await store.release(again)
        assert await have_slots(store, [first, second]) == [True, False]
        await finish(store, await begin_limited(store, clock))
        assert await have_slots(store, [first, second]) == [False, True]
        assert await take_all(store) == [second]

    async def test_lease_that_is_taken_anew_of_a_blocked_job_gives_it_no_slot(
        self, store: JobStore, clock: FakeClock
    ) -> None:
        first, second = [await accept_limited(store, clock) for _ in range(2)]
        await store.hold(second, "w1", request("set_priority", priority="LOW"))
        [again] = await store.hold_again("w1", await store.read_leases("w1"))
        assert (again.job_id, again.has_slot, again.needs_queue) == (second, False, True)
        await store.release(again)
        assert await have_slots(store, [first, second]) == [True, False]
        assert await take_all(store) == [first]

    async def test_a_limit_concerns_its_key_only(self, store: JobStore, clock: FakeClock) -> None:
        first = await accept_limited(store, clock)
        await accept_limited(store, clock)
        other = await accept_limited(store, clock, key=limit_key("calls", "other"))
        whole = await accept_limited(store, clock, key=limit_key("calls"))
        free = await accept(store, clock)
        assert await take_all(store) == [first, other, whole, free]

    async def test_who_holds_the_slots_can_be_read(self, store: JobStore, clock: FakeClock) -> None:
        ids = [await accept_limited(store, clock, 12) for _ in range(13)]
        free = await accept(store, clock)
        found = await store.read_limit(ids[-1])
        assert found is not None
        assert (found.limit, found.has_slot) == (Limit(KEY, 12), False)
        assert list(found.held_by) == ids[:HOLDERS_SHOWN]
        assert (found.limit.workflow_id, found.limit.value) == ("calls", "acme")
        assert await store.read_limit(free) is None
        assert await store.read_limit("nobody") is None

    async def test_a_slot_is_held_to_the_end_and_then_goes_to_the_next(self, store: JobStore, clock: FakeClock) -> None:
        ids = [await accept_limited(store, clock) for _ in range(3)]
        for number, job_id in enumerate(ids):
            holder = await begin_limited(store, clock)
            assert holder.job_id == job_id
            assert await take_all(store) == []
            await finish(store, holder)
            assert await have_slots(store, ids) == [n == number + 1 for n in range(3)]

    async def test_the_jobs_own_limit_counts_when_it_is_let_in(self, store: JobStore, clock: FakeClock) -> None:
        narrow, second = await accept_limited(store, clock, 1), await accept_limited(store, clock, 1)
        wide = await accept_limited(store, clock, 3)
        assert await have_slots(store, [narrow, second, wide]) == [True, False, False]  # in their order
        await settle(store, clock, second, request("cancel", force=False))
        assert await have_slots(store, [narrow, wide]) == [True, True]
        later = await accept_limited(store, clock, 1)
        assert await have_slots(store, [later]) == [False]

    async def test_created_jobs_hold_nothing(self, store: JobStore, clock: FakeClock) -> None:
        first = await accept_limited(store, clock, start=False)
        second = await accept_limited(store, clock)
        assert await have_slots(store, [first, second]) == [False, True]
        clock.advance(1)
        await settle(store, clock, first, request("start"))
        assert (await summary(store, first)).status == JobStatus.QUEUED
        assert await take_all(store) == [second]

    async def test_many_at_once_are_let_in_up_to_the_limit(self, store: JobStore, clock: FakeClock) -> None:
        jobs = [limited(clock, 3) for _ in range(10)]
        ids = await store.create_all(jobs)
        again = await asyncio.gather(*(store.create(job) for job in [limited(clock, 3) for _ in range(5)]))
        assert sum(await have_slots(store, [*ids, *again])) == 3
        assert len(await take_all(store)) == 3

    async def test_two_who_claim_at_the_same_moment_get_no_more_than_the_limit(
        self, store: JobStore, clock: FakeClock
    ) -> None:
        ids = [await accept_limited(store, clock, 3) for _ in range(9)]
        taken = await asyncio.gather(*(store.claim(f"w{n}", 2) for n in range(6)))
        claimed = [claim.job_id for claims in taken for claim in claims]
        assert sorted(claimed) == sorted(ids[:3])

    # ── the order among those that wait ───────────────────────────────────────────────────────────────────────────

    async def test_of_the_blocked_the_first_in_the_queue_follows(self, store: JobStore, clock: FakeClock) -> None:
        await accept_limited(store, clock)
        holder = await begin_limited(store, clock)
        low = await accept_limited(store, clock, priority=JobPriority.LOW)
        medium = await accept_limited(store, clock)
        high = await accept_limited(store, clock, priority=JobPriority.HIGH)
        for expected in (high, medium, low):
            await finish(store, holder)
            holder = await begin_limited(store, clock)
            assert holder.job_id == expected

    async def test_blocked_job_with_a_new_priority_has_a_new_place(self, store: JobStore, clock: FakeClock) -> None:
        await accept_limited(store, clock)
        holder = await begin_limited(store, clock)
        first, second = [await accept_limited(store, clock) for _ in range(2)]
        await settle(store, clock, second, request("set_priority", priority="CRITICAL"))
        assert await take_all(store) == []
        await finish(store, holder)
        assert await have_slots(store, [first, second]) == [False, True]

    async def test_job_that_has_not_begun_makes_way_for_one_before_it(self, store: JobStore, clock: FakeClock) -> None:
        low = await accept_limited(store, clock, priority=JobPriority.LOW)
        urgent = await accept_limited(store, clock, priority=JobPriority.CRITICAL)
        assert await have_slots(store, [low, urgent]) == [False, True]
        await settle(store, clock, urgent, request("set_priority", priority="LOW"))
        assert await have_slots(store, [low, urgent]) == [True, False]
        assert await take_all(store) == [low]

    async def test_job_that_is_held_or_has_begun_makes_no_way(self, store: JobStore, clock: FakeClock) -> None:
        low = await accept_limited(store, clock, priority=JobPriority.LOW)
        holder = await claim_one(store, clock)
        urgent = await accept_limited(store, clock, priority=JobPriority.CRITICAL)
        assert await have_slots(store, [low, urgent]) == [True, False]
        await holder.commit(store, holder.started())
        await holder.commit(store, Requested("pause", None, None), holder.succeeded("first"))
        await settle(store, clock, low, request("resume"))
        assert await have_slots(store, [low, urgent]) == [True, False]
        assert await take_all(store) == [low]

    # ── what becomes of slots ─────────────────────────────────────────────────────────────────────────────────────

    async def test_job_at_rest_keeps_its_slot(self, store: JobStore, clock: FakeClock) -> None:
        await accept_limited(store, clock)
        other = await accept_limited(store, clock)
        holder = await begin_limited(store, clock)
        await holder.commit(store, holder.failed("first", retry=RETRY_LATER))
        assert holder.state.status == JobStatus.WAITING
        assert await take_all(store) == []
        clock.advance(61)
        [claim] = await store.hold_due("w1", 10)
        assert (claim.has_slot, claim.needs_queue) == (True, False)
        await Holder(clock, claim).commit(store, Tick())
        assert (await claim_one(store, clock)).job_id == holder.job_id
        assert await have_slots(store, [other]) == [False]

    @pytest.mark.parametrize("status", ["WAITING", "PAUSED"])
    async def test_limit_on_running_jobs_lets_others_in_while_a_job_rests(
        self, store: JobStore, clock: FakeClock, status: str
    ) -> None:
        first = await accept_limited(store, clock, hold="running")
        second = await accept_limited(store, clock, hold="running")
        holder = await begin_limited(store, clock)
        if status == "PAUSED":
            await holder.commit(store, Requested("pause", None, None), holder.succeeded("first"))
        else:
            await holder.commit(store, holder.failed("first", retry=RETRY_LATER))
        assert (await summary(store, first)).status == status
        other = await begin_limited(store, clock)
        assert other.job_id == second
        asked = request("resume") if status == "PAUSED" else request("set_priority", priority="HIGH")
        held = await store.hold(first, "w1", asked)
        assert held is not None and held.claim is not None
        assert held.claim.needs_queue  # whoever holds it may not run it
        clock.advance(61)
        await Holder(clock, held.claim).commit(store, Tick(), drains=held.claim.requests)
        assert (await summary(store, first)).status == JobStatus.QUEUED
        assert await take_all(store) == []
        await finish(store, other)
        assert await take_all(store) == [first]

    async def test_running_without_a_slot_is_refused(self, store: JobStore, clock: FakeClock) -> None:
        await accept_limited(store, clock)
        blocked = await accept_limited(store, clock)
        held = await store.hold(blocked, "w1", request("set_priority", priority="HIGH"))
        assert held is not None and held.claim is not None
        holder = Holder(clock, held.claim)
        offered = Offered("w1", held.claim.epoch)
        with pytest.raises(StoreError):
            await holder.commit(store, offered, drains=held.claim.requests)
        assert (await summary(store, blocked)).status == JobStatus.QUEUED

    async def test_job_that_is_paused_before_it_began_gives_its_slot_back(
        self, store: JobStore, clock: FakeClock
    ) -> None:
        first, second = [await accept_limited(store, clock) for _ in range(2)]
        await settle(store, clock, first, request("pause"))
        assert (await summary(store, first)).status == JobStatus.PAUSED
        assert await have_slots(store, [first, second]) == [False, True]
        clock.advance(5)
        await settle(store, clock, first, request("resume"))
        assert await take_all(store) == [second]

    @pytest.mark.parametrize("status", ["COMPLETED", "FAILED", "CANCELLED"])
    @pytest.mark.parametrize("hold", ["job", "running"])
    async def test_final_job_gives_its_slot_back(
        self, store: JobStore, clock: FakeClock, status: str, hold: Hold
    ) -> None:
        first, second = [await accept_limited(store, clock, hold=hold) for _ in range(2)]
        holder = await begin_limited(store, clock)
        match status:
            case "COMPLETED":
                await finish(store, holder)
            case "FAILED":
                await holder.commit(store, holder.failed("first"))
            case _:
                await holder.commit(store, Requested("cancel", None, None), holder.succeeded("first"))
        assert (await summary(store, first)).status == status
        assert await have_slots(store, [first, second]) == [False, True]
        assert await store.delete(first)
        found = await store.read_limit(second)
        assert found is not None and list(found.held_by) == [second]

    async def test_blocked_job_that_is_cancelled_leaves_no_trace(self, store: JobStore, clock: FakeClock) -> None:
        first, second, third = [await accept_limited(store, clock) for _ in range(3)]
        await settle(store, clock, second, request("cancel", force=False))
        assert (await summary(store, second)).status == JobStatus.CANCELLED
        assert await store.delete(second)
        await finish(store, await begin_limited(store, clock))
        assert await take_all(store) == [third]
        assert (await summary(store, first)).status == JobStatus.COMPLETED

    async def test_deleted_jobs_are_no_longer_counted(self, store: JobStore, clock: FakeClock) -> None:
        created = await accept_limited(store, clock, start=False)
        assert await store.delete(created)
        holder_id = await accept_limited(store, clock)
        await finish(store, await begin_limited(store, clock))
        clock.advance(1)
        assert await store.delete_final(clock.now_us(), 10) == 1
        assert await store.read_limit(holder_id) is None
        later = await accept_limited(store, clock)
        assert await take_all(store) == [later]

    async def test_claim_that_is_given_back_keeps_the_slot(self, store: JobStore, clock: FakeClock) -> None:
        first, second = [await accept_limited(store, clock) for _ in range(2)]
        holder = await claim_one(store, clock)
        await store.release(holder.claim)
        assert await have_slots(store, [first, second]) == [True, False]
        assert await take_all(store) == [first]

    # ── crashes ───────────────────────────────────────────────────────────────────────────────────────────────────

    @pytest.mark.guarantee("G5")
    async def test_crash_gives_the_slots_of_running_jobs_back(self, store: JobStore, clock: FakeClock) -> None:
        await store.register_worker("dead")
        first = await accept_limited(store, clock, hold="running", priority=JobPriority.LOW)
        await begin_limited(store, clock, "dead")
        second = await accept_limited(store, clock, hold="running")
        clock.advance(store.lease_s)
        await store.register_worker("w2")
        assert await take_all(store, "w2") == []
        [claim] = await store.hold_orphans("w2", 10)
        await Holder(clock, claim).commit(store, Interrupted("dead"))
        assert await have_slots(store, [first, second]) == [False, True]
        assert await take_all(store, "w2") == [second]

    async def test_crash_takes_no_slot_from_a_job_that_is_held_as_a_whole(
        self, store: JobStore, clock: FakeClock
    ) -> None:
        first = await accept_limited(store, clock, priority=JobPriority.LOW)
        await begin_limited(store, clock, "dead")
        second = await accept_limited(store, clock)
        await store.register_worker("w2")
        [claim] = await store.hold_orphans("w2", 10)
        await Holder(clock, claim).commit(store, Interrupted("dead"))
        assert await have_slots(store, [first, second]) == [True, False]
        assert await take_all(store, "w2") == [first]

    async def test_worker_that_dies_with_a_claim_in_its_hands_loses_no_slot(
        self, store: JobStore, clock: FakeClock
    ) -> None:
        first, second = [await accept_limited(store, clock, hold="running") for _ in range(2)]
        await claim_one(store, clock, "dead")
        await store.register_worker("w2")
        [claim] = await store.hold_orphans("w2", 10)
        await store.release(claim)
        assert await take_all(store) == [first]
        assert await have_slots(store, [second]) == [False]

    async def test_suspect_has_a_slot_before_it_is_taken(self, store: JobStore, clock: FakeClock) -> None:
        await store.register_worker("w2")
        first = await accept_limited(store, clock)
        for _ in range(SUSPECT_DEATHS):
            holder = await begin_limited(store, clock, "dead")
            [claim] = await store.hold_orphans("w2", 10)
            await Holder(clock, claim).commit(store, Interrupted("dead"))
        second = await accept_limited(store, clock)
        assert await take_all(store, "w2") == []
        [claim] = await store.claim("w2", 10, suspects=True)
        assert claim.job_id == holder.job_id == first
        await Holder(clock, claim).commit(store, Claimed("w2", claim.epoch))
        assert await have_slots(store, [first, second]) == [True, False]

    @pytest.mark.guarantee("G4")
    async def test_late_worker_gives_no_slot_back(self, store: JobStore, clock: FakeClock) -> None:
        first, second = [await accept_limited(store, clock) for _ in range(2)]
        holder = await begin_limited(store, clock, "dead")
        await holder.commit(store, holder.succeeded("first"))
        late = holder.commit_of(holder.succeeded("second"))
        await store.register_worker("w2")
        [claim] = await store.hold_orphans("w2", 10)
        with pytest.raises(LeaseLost):
            await store.commit(late)
        assert claim.has_slot
        assert await have_slots(store, [first, second]) == [True, False]

    # ── what is not limited ───────────────────────────────────────────────────────────────────────────────────────

    async def test_jobs_without_a_limit_have_no_part_in_it(self, store: JobStore, clock: FakeClock) -> None:
        job_id = await accept(store, clock, QUIET)
        holder = await claim_one(store, clock)
        assert (holder.claim.limit, holder.claim.has_slot, holder.claim.needs_queue) == (None, False, False)
        await holder.commit(store, holder.started())
        assert (await summary(store, job_id)).status == JobStatus.COMPLETED

    async def test_blocked_jobs_count_as_queued(self, store: JobStore, clock: FakeClock) -> None:
        ids = [await accept_limited(store, clock) for _ in range(3)]
        counts = await store.count_jobs(100)
        assert counts.by_status == {JobStatus.QUEUED: 3}
        assert counts.oldest_queued_us == clock.now_us() - 2 * SECOND_US
        assert (await store.count_jobs(2)).by_status == {JobStatus.QUEUED: 2}
        assert (await read(store, ids[1])).owner is None
