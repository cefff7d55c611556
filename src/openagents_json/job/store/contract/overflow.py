"""The contract of limits, where one job too many is not to wait: it is refused, or replaces those before it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from openagents_json.clock import SECOND_US
from openagents_json.errors import LimitReached
from openagents_json.job.machine import Requested
from openagents_json.job.model import JobPriority, JobStatus
from openagents_json.job.store.base import JobStore
from openagents_json.job.store.contract.jobs import (
    Holder,
    WithClock,
    accept,
    claim_one,
    history,
    new_job,
    request,
    settle,
    summary,
)
from openagents_json.job.store.contract.limits import (
    KEY,
    accept_limited,
    begin_limited,
    finish,
    have_slots,
    limited,
    take_all,
)
from openagents_json.job.store.limits import REPLACED, REPLACED_BY
from openagents_json.testing import FakeClock


@pytest.mark.asyncio
class OverflowContract(WithClock):
    """Jobs over their limit that are refused, and jobs that make way for newer ones."""

    # ── reject ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def test_job_over_the_limit_is_refused(self, store: JobStore, clock: FakeClock) -> None:
        first = await accept_limited(store, clock, overflow="reject")
        refused = replace(limited(clock, overflow="reject"), idempotency_key="used")
        with pytest.raises(LimitReached, match=f'"acme".* {first}') as caught:
            await store.create(refused)
        assert (caught.value.key, caught.value.limit, caught.value.held_by) == (KEY, 1, (first,))
        assert await store.read_summary(refused.job_id) is None
        await finish(store, await begin_limited(store, clock))
        assert await store.create(refused) == refused.job_id
        assert await take_all(store) == [refused.job_id]

    async def test_repeated_create_is_not_refused(self, store: JobStore, clock: FakeClock) -> None:
        job = limited(clock, overflow="reject")
        keyed = replace(limited(clock, 2, overflow="reject"), idempotency_key="once")
        for _ in range(2):
            assert await store.create(job) == job.job_id
            assert await store.create(keyed) == keyed.job_id
        assert await store.create_all([job, keyed]) == [job.job_id, keyed.job_id]

    async def test_of_many_none_is_accepted_if_one_is_refused(self, store: JobStore, clock: FakeClock) -> None:
        jobs = [limited(clock, 3, overflow="reject") for _ in range(4)]
        with pytest.raises(LimitReached):
            await store.create_all(jobs)
        assert [await store.read_summary(job.job_id) for job in jobs] == [None] * 4
        assert await store.create_all(jobs[1:]) == [job.job_id for job in jobs[1:]]

    async def test_of_many_who_ask_at_once_so_many_get_in(self, store: JobStore, clock: FakeClock) -> None:
        jobs = [limited(clock, 3, overflow="reject") for _ in range(20)]
        answers = await asyncio.gather(*(store.create(job) for job in jobs), return_exceptions=True)
        assert sum(isinstance(answer, str) for answer in answers) == 3
        assert sum(isinstance(answer, LimitReached) for answer in answers) == 17
        assert len(await take_all(store)) == 3

    async def test_start_over_the_limit_is_refused_and_nothing_is_written(
        self, store: JobStore, clock: FakeClock
    ) -> None:
        waits = await accept_limited(store, clock, overflow="reject", start=False)
        first = await accept_limited(store, clock, overflow="reject")
        held = await store.hold(waits, "w1", request("start"))
        assert held is not None and held.claim is not None
        before = await history(store, waits)
        commit = Holder(clock, held.claim).commit_of(drains=held.claim.requests)
        with pytest.raises(LimitReached, match=waits):
            await store.commit(commit)
        assert await history(store, waits) == before
        assert [one.key for one in await store.read_requests(waits)] == ["start"]
        await finish(store, await begin_limited(store, clock))
        for _ in range(2):
            await store.commit(commit)
        assert await have_slots(store, [first, waits]) == [False, True]

    async def test_refused_job_stands_in_nobodys_way(self, store: JobStore, clock: FakeClock) -> None:
        """Commits and creates go together in a store that groups them; one refusal is one job's."""
        await accept_limited(store, clock, overflow="reject")
        free, refused, other = new_job(clock), limited(clock, overflow="reject"), new_job(clock)
        answers = await asyncio.gather(*(store.create(job) for job in (free, refused, other)), return_exceptions=True)
        assert (answers[0], answers[2]) == (free.job_id, other.job_id)
        assert isinstance(answers[1], LimitReached)

    async def test_job_that_was_let_in_at_once_makes_no_way(self, store: JobStore, clock: FakeClock) -> None:
        low = await accept_limited(store, clock, overflow="reject", priority=JobPriority.LOW)
        urgent = await accept_limited(store, clock, priority=JobPriority.CRITICAL)
        assert await have_slots(store, [low, urgent]) == [True, False]

    async def test_child_over_the_limit_is_refused_with_its_parents_commit(
        self, store: JobStore, clock: FakeClock
    ) -> None:
        parent_id = await accept(store, clock)
        parent = await claim_one(store, clock)
        await parent.commit(store, parent.started())
        first, second = [limited(clock, overflow="reject") for _ in range(2)]
        commit = parent.commit_of(parent.succeeded("first"))
        with pytest.raises(LimitReached) as caught:
            await store.commit(replace(commit, children=[first, second]))
        assert caught.value.job_id == second.job_id
        assert (await summary(store, parent_id)).events == commit.expected
        assert await store.read_summary(first.job_id) is None
        await store.commit(replace(commit, children=[first]))
        assert await have_slots(store, [first.job_id]) == [True]

    async def test_last_commit_of_a_job_makes_room_for_its_successor(self, store: JobStore, clock: FakeClock) -> None:
        await accept_limited(store, clock, overflow="reject")
        holder = await begin_limited(store, clock)
        await holder.commit(store, holder.succeeded("first"))
        successor = limited(clock, overflow="reject")
        await store.commit(replace(holder.commit_of(holder.succeeded("second")), children=[successor]))
        assert await take_all(store) == [successor.job_id]

    async def test_of_jobs_that_enter_together_those_that_would_be_refused_are_let_in_first(
        self, store: JobStore, clock: FakeClock
    ) -> None:
        """Versions of a workflow may differ in their limits."""
        patient, urgent = limited(clock), limited(clock, overflow="reject")
        ids = await store.create_all([patient, urgent])
        assert await have_slots(store, ids) == [False, True]
        with pytest.raises(LimitReached):
            await store.create_all([limited(clock), limited(clock, overflow="reject")])
        assert await take_all(store) == [urgent.job_id]
        assert len(await store.find_ids("", 10)) == 2

    async def test_job_and_its_child_enter_together(self, store: JobStore, clock: FakeClock) -> None:
        parent = await accept_limited(store, clock, start=False)
        held = await store.hold(parent, "w1", request("start"))
        assert held is not None and held.claim is not None
        commit = Holder(clock, held.claim).commit_of(drains=held.claim.requests)
        child = limited(clock, overflow="reject")
        await store.commit(replace(commit, children=[child]))
        assert await have_slots(store, [parent, child.job_id]) == [False, True]

    async def test_successor_has_the_slot_of_its_parent_before_those_that_wait(
        self, store: JobStore, clock: FakeClock
    ) -> None:
        waiting = await accept_limited(store, clock, hold="running", overflow="reject")
        holder = await begin_limited(store, clock)
        await holder.commit(store, Requested("pause", None, None), holder.succeeded("first"))
        parent = await accept_limited(store, clock, hold="running", overflow="reject")
        await settle(store, clock, waiting, request("resume"))
        holder = await begin_limited(store, clock)
        await holder.commit(store, holder.succeeded("first"))
        successor = limited(clock, hold="running", overflow="reject")
        await store.commit(replace(holder.commit_of(holder.succeeded("second")), children=[successor]))
        assert await have_slots(store, [waiting, parent, successor.job_id]) == [False, False, True]
        assert await take_all(store) == [successor.job_id]

    # ── replace ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def test_newest_job_asks_the_older_ones_to_cancel(self, store: JobStore, clock: FakeClock) -> None:
        first = await accept_limited(store, clock, overflow="replace")
        await begin_limited(store, clock)
        second = await accept_limited(store, clock, overflow="replace")
        third = await accept_limited(store, clock, overflow="replace")
        for job_id, newer in ((first, second), (second, third)):
            [asked] = await store.read_requests(job_id)
            assert (asked.key, asked.kind, asked.by) == (REPLACED, "cancel", REPLACED_BY)
            assert (asked.payload, asked.at_us) == ({"force": False}, asked.at_us // SECOND_US * SECOND_US)
            assert asked.reason is not None and newer in asked.reason
        assert await store.read_requests(third) == []
        assert await store.jobs_with_requests("w1") == [first]
        [claim] = await store.hold_requested("w1", 10)
        assert claim.job_id == second
        await Holder(clock, claim).commit(store, drains=claim.requests)
        assert (await summary(store, second)).status == JobStatus.CANCELLED
        assert await have_slots(store, [first, second, third]) == [True, False, False]

    async def test_as_many_of_the_newest_stay_as_the_limit_says(self, store: JobStore, clock: FakeClock) -> None:
        old = await accept_limited(store, clock, 3, overflow="replace", start=False)
        ids = [await accept_limited(store, clock, 3, overflow="replace") for _ in range(4)]
        assert [len(await store.read_requests(job_id)) for job_id in ids] == [1, 0, 0, 0]
        await settle(store, clock, old, request("start"))  # it is the newest to enter
        assert [len(await store.read_requests(job_id)) for job_id in [old, *ids]] == [0, 1, 1, 0, 0]
        many = await store.create_all([limited(clock, 3, overflow="replace") for _ in range(5)])
        assert [len(await store.read_requests(job_id)) for job_id in many] == [1, 1, 0, 0, 0]
        assert [len(await store.read_requests(job_id)) for job_id in [old, *ids]] == [1, 1, 1, 1, 1]

    async def test_of_jobs_that_enter_together_the_last_replaces_the_others(
        self, store: JobStore, clock: FakeClock
    ) -> None:
        jobs = [limited(clock, overflow="replace") for _ in range(3)]
        first, second, third = await store.create_all(jobs)
        for job_id in (first, second):
            [asked] = await store.read_requests(job_id)
            assert asked.reason == f"job {third} replaces it"
        assert await store.read_requests(third) == []

    async def test_request_by_a_commit_comes_before_that_of_the_job_which_replaces(
        self, store: JobStore, clock: FakeClock
    ) -> None:
        """The one is made while the events are written, the other when the children are let in."""
        await accept(store, clock)
        parent = await claim_one(store, clock)
        await parent.commit(store, parent.started())
        old = await accept_limited(store, clock, overflow="replace")
        commit = parent.commit_of(parent.succeeded("first"))
        child, post = limited(clock, overflow="replace"), request("pause", "from the parent")
        await store.commit(replace(commit, children=[child], posts=[(old, post)]))
        assert [asked.key for asked in await store.read_requests(old)] == ["from the parent", REPLACED]

    async def test_jobs_that_rest_without_a_slot_are_not_replaced(self, store: JobStore, clock: FakeClock) -> None:
        resting = await accept_limited(store, clock, hold="running", overflow="replace")
        holder = await begin_limited(store, clock)
        await holder.commit(store, Requested("pause", None, None), holder.succeeded("first"))
        newer = await accept_limited(store, clock, hold="running", overflow="replace")
        assert await store.read_requests(resting) == []
        assert await take_all(store) == [newer]
