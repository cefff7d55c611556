"""What a rank is worth can be changed, and the queue follows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from openagents_json.clock import SECOND_US
from openagents_json.job.machine import Released
from openagents_json.job.model import JobPriority
from openagents_json.job.store.arrival import STRICT_AGING_S
from openagents_json.job.store.base import JobStore
from openagents_json.job.store.contract.jobs import claim_one, new_job, request, settle
from openagents_json.job.store.limits import Limit
from openagents_json.testing import FakeClock

HOUR_S = 3_600.0


class AgingContract:
    """Part of the suite: `openagents_json.job.store.contract`."""

    async def two_in_the_queue(self, store: JobStore, clock: FakeClock) -> tuple[str, str]:
        """One of a low priority that has waited for three hours, and a high one that has just come."""
        low = await store.create(new_job(clock, priority=JobPriority.LOW))
        clock.advance(3 * HOUR_S)
        return low, await store.create(new_job(clock, priority=JobPriority.HIGH))

    @pytest.mark.guarantee("G8")
    async def test_larger_aging_lets_what_is_urgent_come_first(self, store: JobStore, clock: FakeClock) -> None:
        low, high = await self.two_in_the_queue(store, clock)
        await store.set_aging(2 * HOUR_S)
        assert [claim.job_id for claim in await store.claim("w1", 2)] == [high, low]

    @pytest.mark.guarantee("G8")
    async def test_strict_aging_lets_the_priority_alone_decide(self, store: JobStore, clock: FakeClock) -> None:
        low, high = await self.two_in_the_queue(store, clock)
        await store.set_aging(STRICT_AGING_S)
        assert store.aging_s == STRICT_AGING_S
        late = await store.create(new_job(clock, priority=JobPriority.CRITICAL))
        assert [claim.job_id for claim in await store.claim("w1", 3)] == [late, high, low]

    async def test_aging_holds_for_what_comes_back_into_the_queue(self, store: JobStore, clock: FakeClock) -> None:
        await store.set_aging(60.0)
        low = await store.create(new_job(clock, priority=JobPriority.LOW))
        clock.advance(61.0)
        medium = await store.create(new_job(clock, priority=JobPriority.MEDIUM))
        claims = await store.claim("w1", 2)
        assert [claim.job_id for claim in claims] == [low, medium]
        assert claims[1].sort_at - claims[0].sort_at == 1_000_000

    @pytest.mark.parametrize("due_in_s", [None, 60.0])
    async def test_of_two_that_stand_alike_the_one_that_has_begun_comes_first(
        self, store: JobStore, clock: FakeClock, due_in_s: float | None
    ) -> None:
        deadline_us = None if due_in_s is None else clock.now_us() + round(due_in_s * SECOND_US)
        new = await store.create(new_job(clock, start=False, deadline_us=deadline_us))  # the older one
        begun = await store.create(new_job(clock, deadline_us=deadline_us))
        holder = await claim_one(store, clock)
        await holder.commit(store, holder.started())
        clock.advance(10.0)
        await holder.commit(store, Released("worker_stopped"), holder.succeeded("first"))
        await settle(store, clock, new, request("start"))
        assert [claim.job_id for claim in await store.claim("w1", 2)] == [begun, new]

    async def test_jobs_that_come_forward_get_the_slots(self, store: JobStore, clock: FakeClock) -> None:
        limit = Limit("flow", 1)
        low = await store.create(replace(new_job(clock, priority=JobPriority.LOW), limit=limit))
        clock.advance(3 * HOUR_S)
        high = await store.create(replace(new_job(clock, priority=JobPriority.HIGH), limit=limit))
        await store.set_aging(STRICT_AGING_S)
        assert [claim.job_id for claim in await store.claim("w1", 2)] == [high]
        stands = await store.read_limit(low)
        assert stands is not None and not stands.has_slot
