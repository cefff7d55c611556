"""Who is the first in the queue, and which worker makes room for it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from openagents_json.job.machine import Released
from openagents_json.job.model import JobPriority
from openagents_json.job.store.base import JobStore
from openagents_json.job.store.contract.jobs import (
    CALLS,
    ELSEWHERE,
    Holder,
    accept,
    claim_one,
    new_job,
    request,
    settle,
)
from openagents_json.job.store.contract.leases import having
from openagents_json.job.store.limits import Limit
from openagents_json.job.store.query import build_query
from openagents_json.testing import FakeClock


class RoomContract:
    """Part of the suite: `openagents_json.job.store.contract`."""

    async def test_first_of_an_empty_queue_is_none(self, store: JobStore, clock: FakeClock) -> None:
        assert await store.first_waiting() is None
        await store.create(new_job(clock, start=False))
        assert await store.first_waiting() is None

    async def test_first_is_the_one_that_a_claim_takes(self, store: JobStore, clock: FakeClock) -> None:
        low = await store.create(new_job(clock, priority=JobPriority.LOW))
        clock.advance(60)
        high = await store.create(new_job(clock, priority=JobPriority.HIGH))
        first = await store.first_waiting()
        assert first is not None and (first.job_id, first.rank, first.room_by) == (high, 2, None)
        [claim] = await store.claim("w1", 1)
        assert (claim.job_id, claim.sort_at) == (high, first.sort_at)
        second = await store.first_waiting()
        assert second is not None and second.job_id == low

    async def test_first_is_one_that_the_worker_can_serve(self, store: JobStore, clock: FakeClock) -> None:
        urgent = await store.create(new_job(clock, ELSEWHERE, priority=JobPriority.CRITICAL))
        plain = await store.create(new_job(clock, CALLS))
        first = await store.first_waiting(having("tool.first", "tool.second"))
        assert first is not None and first.job_id == plain
        any_worker = await store.first_waiting(None)
        assert any_worker is not None and any_worker.job_id == urgent

    async def test_place_in_the_queue_and_who_stands_before(self, store: JobStore, clock: FakeClock) -> None:
        came = clock.now_us()
        early = await accept(store, clock)
        clock.advance(1)
        elsewhere = await store.create(new_job(clock, ELSEWHERE))
        clock.advance(1)
        late = await accept(store, clock)
        high = await store.create(new_job(clock, priority=JobPriority.HIGH))
        place = await store.queue_place(late)
        assert place is not None
        assert (place.rank, place.queued_us, place.waited_us, place.ahead) == (1, came + 2_000_000, 0, 3)
        assert place.sort_at == came + 2_000_000 - round(store.aging_s * 1_000_000)
        assert [one.job_id for one in place.first] == [high, early, elsewhere]
        short = await store.queue_place(late, 2)
        assert short is not None and (len(short.first), short.ahead) == (2, 3)
        first = await store.queue_place(high)
        assert first is not None and (first.ahead, list(first.first)) == (0, [])

    async def test_what_no_claim_finds_has_no_place(self, store: JobStore, clock: FakeClock) -> None:
        assert await store.queue_place("no-such-job") is None
        created = await accept(store, clock, start=False)
        assert await store.queue_place(created) is None
        queued = await accept(store, clock)
        await store.make_room(queued, "w1")
        place = await store.queue_place(queued)
        assert place is not None and place.room_by == "w1"
        await store.claim("w1", 1)
        assert await store.queue_place(queued) is None
        limit = Limit("flow", 1)
        for _ in range(2):
            await store.create(replace(new_job(clock), limit=limit))
        [on] = await store.claim("w1", 2)
        [blocked] = [one.summary.id for one in await store.list_jobs(build_query({"status": "QUEUED"}))
                     if one.summary.id not in (on.job_id, queued)]  # fmt: skip
        assert await store.queue_place(blocked) is None

    async def test_time_waited_before_counts_in_the_place(self, store: JobStore, clock: FakeClock) -> None:
        job_id = await accept(store, clock)
        clock.advance(5)
        holder = await claim_one(store, clock)
        await holder.commit(store, holder.started())
        clock.advance(7)
        await holder.commit(store, holder.succeeded("first"), Released("worker_stopped"))
        place = await store.queue_place(job_id)
        assert place is not None and (place.waited_us, place.queued_us) == (5_000_000, clock.now_us())

    @pytest.mark.guarantee("G8")
    async def test_one_worker_makes_room_for_a_job(self, store: JobStore, clock: FakeClock) -> None:
        await store.register_worker("w1")
        await store.register_worker("w2")
        job_id = await accept(store, clock)
        assert await store.make_room(job_id, "w1")
        assert await store.make_room(job_id, "w1")
        assert not await store.make_room(job_id, "w2")
        first = await store.first_waiting()
        assert first is not None and first.room_by == "w1"

    async def test_worker_that_is_dead_makes_no_room(self, store: JobStore, clock: FakeClock) -> None:
        await store.register_worker("w1")
        job_id = await accept(store, clock)
        assert await store.make_room(job_id, "w1")
        clock.advance(store.lease_s + 1)
        await store.register_worker("w2")
        await store.unregister_worker("w1")
        assert await store.make_room(job_id, "w2")

    async def test_no_room_is_made_for_a_job_that_does_not_wait(self, store: JobStore, clock: FakeClock) -> None:
        await store.register_worker("w1")
        created = await accept(store, clock, start=False)
        assert not await store.make_room(created, "w1")
        queued = await accept(store, clock)
        await store.claim("w2", 1)
        assert not await store.make_room(queued, "w1")
        assert not await store.make_room("no-such-job", "w1")

    async def test_room_is_made_anew_in_each_stay_in_the_queue(self, store: JobStore, clock: FakeClock) -> None:
        await store.register_worker("w1")
        await store.register_worker("w2")
        job_id = await accept(store, clock)
        await store.make_room(job_id, "w1")
        [claim] = await store.claim("w1", 1)
        holder = Holder(clock, claim)
        await holder.commit(store, holder.started())
        await holder.commit(store, holder.succeeded("first"), Released("preempted", "another-job"))
        first = await store.first_waiting()
        assert first is not None and (first.job_id, first.room_by) == (job_id, None)
        assert await store.make_room(job_id, "w2")

    async def test_room_stays_made_when_only_the_priority_changes(self, store: JobStore, clock: FakeClock) -> None:
        await store.register_worker("w1")
        await store.register_worker("w2")
        job_id = await accept(store, clock)
        await store.make_room(job_id, "w1")
        await settle(store, clock, job_id, request("set_priority", "more", priority="HIGH"), "w2")
        assert not await store.make_room(job_id, "w2")
