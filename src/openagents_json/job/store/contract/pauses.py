"""The contract of pauses: they last, and no claim takes up a job of a workflow that is paused."""

from __future__ import annotations

import asyncio

import pytest

from openagents_json.errors import StoreError
from openagents_json.job.machine import Released
from openagents_json.job.model import JobPriority, JobStatus
from openagents_json.job.store import pauses
from openagents_json.job.store.base import JobStore
from openagents_json.job.store.contract.jobs import (
    CALLS,
    OTHER_CALLS,
    WithClock,
    accept,
    begin,
    claim_one,
    new_job,
    request,
    settle,
    summary,
)
from openagents_json.job.store.contract.limits import accept_limited, take_all
from openagents_json.job.store.pauses import SET_ASIDE_AT_ONCE, Pause
from openagents_json.testing import FakeClock

CLEANED = CALLS | {"id": "cleaned", "finally": [{"id": "clean", "component": "tool.clean"}]}


@pytest.mark.asyncio
class PauseContract(WithClock):
    """Pauses of components and workflows."""

    async def test_pauses_are_listed_with_who_why_and_when(self, store: JobStore, clock: FakeClock) -> None:
        assert await store.list_pauses() == []
        assert await store.set_pause("workflow", "calls", "ann", "it\x00costs")
        first_us = clock.now_us()
        clock.advance(5)
        assert await store.set_pause("component", "calls", None, None), "a component of that name is another thing"
        assert not await store.set_pause("workflow", "calls", "bob", "later"), "the first one stays"
        assert await store.list_pauses() == [
            Pause("workflow", "calls", "ann", "it\x00costs", first_us),
            Pause("component", "calls", None, None, clock.now_us()),
        ]
        assert await store.lift_pause("workflow", "calls")
        assert not await store.lift_pause("workflow", "calls")
        assert [one.kind for one in await store.list_pauses()] == ["component"]

    async def test_there_is_a_limit_to_pauses(self, store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pauses, "MAX_PAUSES", 3)
        names = [f"c{n}" for n in range(5)]
        answers = await asyncio.gather(
            *(store.set_pause("component", name, None, None) for name in names), return_exceptions=True
        )
        assert answers.count(True) == 3
        paused = [one.name for one in await store.list_pauses()]
        assert not await store.set_pause("component", paused[0], None, None)
        with pytest.raises(StoreError, match="Resume some first"):
            await store.set_pause("workflow", "one-more", None, None)
        assert await store.lift_pause("component", paused[0])
        assert await store.set_pause("workflow", "one-more", None, None)
        assert len(await store.list_pauses()) == 3

    async def test_jobs_of_a_paused_workflow_are_not_claimed_until_it_goes_on(
        self, store: JobStore, clock: FakeClock
    ) -> None:
        first = await accept(store, clock)
        await store.set_pause("workflow", "calls", None, None)
        second = await accept(store, clock)
        other = await accept(store, clock, OTHER_CALLS)
        assert await take_all(store) == [other]
        assert await take_all(store) == []
        assert (await summary(store, first)).status == JobStatus.QUEUED
        third = await accept(store, clock)
        assert await take_all(store) == []
        await store.lift_pause("workflow", "calls")
        assert await take_all(store) == [first, second, third]

    async def test_urgent_job_of_a_paused_workflow_holds_nobody_up(self, store: JobStore, clock: FakeClock) -> None:
        await store.set_pause("workflow", "calls", None, None)
        for _ in range(5):
            await accept(store, clock, priority=JobPriority.CRITICAL)
        others = [await accept(store, clock, OTHER_CALLS) for _ in range(3)]
        assert [claim.job_id for claim in await store.claim("w1", 2)] == others[:2]
        assert [claim.job_id for claim in await store.claim("w1", 2)] == others[2:]

    async def test_jobs_that_are_not_claimed_are_counted(self, store: JobStore, clock: FakeClock) -> None:
        since_us = clock.now_us()
        await accept(store, clock)
        clock.advance(1)
        await accept(store, clock)
        await store.set_pause("workflow", "calls", None, None)
        assert await take_all(store) == []
        counts = await store.count_jobs(100)
        assert (counts.by_status, counts.oldest_queued_us) == ({JobStatus.QUEUED: 2}, since_us)

    async def test_job_that_is_to_be_cancelled_is_claimed_all_the_same(self, store: JobStore, clock: FakeClock) -> None:
        holder = await begin(store, clock, document=CLEANED)
        await holder.commit(store, holder.succeeded("first"), Released("workflow_paused"))
        await store.set_pause("workflow", "cleaned", None, None)
        assert await take_all(store) == []
        await settle(store, clock, holder.job_id, request("cancel", force=False))
        assert (await summary(store, holder.job_id)).status == JobStatus.QUEUED
        await store.register_worker("w2")
        assert (await claim_one(store, clock, "w2")).job_id == holder.job_id

    async def test_priority_of_a_job_that_waits_for_its_workflow_can_be_changed(
        self, store: JobStore, clock: FakeClock
    ) -> None:
        first, second = [await accept(store, clock) for _ in range(2)]
        await store.set_pause("workflow", "calls", None, None)
        assert await take_all(store) == []
        await settle(store, clock, second, request("set_priority", priority="HIGH"))
        assert await take_all(store) == []
        await store.lift_pause("workflow", "calls")
        assert await take_all(store) == [second, first]

    async def test_slots_of_limits_are_given_out_while_a_workflow_is_paused(
        self, store: JobStore, clock: FakeClock
    ) -> None:
        first, second = [await accept_limited(store, clock) for _ in range(2)]
        await store.set_pause("workflow", "calls", None, None)
        assert await take_all(store) == []
        await settle(store, clock, first, request("cancel", force=False))
        assert (await summary(store, first)).status == JobStatus.CANCELLED
        assert await take_all(store) == []
        await store.lift_pause("workflow", "calls")
        assert await take_all(store) == [second]

    async def test_deleted_jobs_of_a_paused_workflow_do_not_come_back(self, store: JobStore, clock: FakeClock) -> None:
        job_id = await accept(store, clock)
        await store.set_pause("workflow", "calls", None, None)
        assert await take_all(store) == []
        await settle(store, clock, job_id, request("cancel", force=False))
        assert await store.delete(job_id)
        await store.lift_pause("workflow", "calls")
        assert await take_all(store) == []

    async def test_very_many_jobs_of_a_paused_workflow_are_passed_by(self, store: JobStore, clock: FakeClock) -> None:
        jobs = [new_job(clock) for _ in range(SET_ASIDE_AT_ONCE + 100)]
        await store.create_all(jobs)
        other = await accept(store, clock, OTHER_CALLS)
        await store.set_pause("workflow", "calls", None, None)
        assert await take_all(store) == [other]
        await store.lift_pause("workflow", "calls")
        assert len(await store.claim("w1", 5)) == 5
