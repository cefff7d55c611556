"""The contract of leases: the queue, requests and holds, timers."""

from __future__ import annotations

import asyncio

import pytest

from openagents_json.clock import SECOND_US
from openagents_json.job.machine import Claimed, Requested, Tick
from openagents_json.job.model import JobPriority, JobStatus
from openagents_json.job.store.base import JobStore
from openagents_json.job.store.contract.jobs import (
    CALLS,
    ELSEWHERE,
    QUIET,
    Holder,
    WithClock,
    accept,
    assert_folds_to,
    begin,
    bring_to,
    claim_one,
    new_job,
    read,
    request,
    settle,
    summary,
)
from openagents_json.job.store.records import Held
from openagents_json.resources import Offers
from openagents_json.testing import FakeClock


def having(*components: str, **resources: float) -> Offers:
    """What a worker with these offers."""
    return Offers(frozenset(components), resources)


async def queue_of(store: JobStore) -> list[str]:
    """The whole queue in its order; it is empty afterwards."""
    return [claim.job_id for claim in await store.claim("w1", 100)]


async def wait_in_queue(store: JobStore, clock: FakeClock, seconds: float) -> Holder:
    """A job that was QUEUED for so long, then RUNNING and PAUSED."""
    await accept(store, clock)
    clock.advance(seconds)
    holder = await claim_one(store, clock)
    await holder.commit(store, holder.started())
    await holder.commit(store, Requested("pause"), holder.succeeded("first"))
    return holder


@pytest.mark.asyncio
class LeaseContract(WithClock):
    """The queue and the leases: who may claim, hold and lose a job."""

    async def test_worker_takes_jobs_that_it_can_go_on_with(self, store: JobStore, clock: FakeClock) -> None:
        ids = [await accept(store, clock, document) for document in (CALLS, ELSEWHERE, CALLS, QUIET)]
        assert (await summary(store, ids[0])).requires == ("tool.first",)
        assert [claim.job_id for claim in await store.claim("w1", 10, having("tool.other"))] == [ids[1], ids[3]]
        assert [claim.job_id for claim in await store.claim("w1", 1, having("tool.first", "tool.other"))] == [ids[0]]
        assert await store.claim("w1", 10, having("tool.third")) == []
        assert [claim.job_id for claim in await store.claim("w1", 10)] == [ids[2]]

    async def test_order_of_the_queue_does_not_depend_on_what_jobs_require(
        self, store: JobStore, clock: FakeClock
    ) -> None:
        ids = []
        for document in (ELSEWHERE, CALLS, QUIET, CALLS, ELSEWHERE):
            ids.append(await accept(store, clock, document))
            clock.advance(1)
        urgent = await accept(store, clock, CALLS, priority=JobPriority.CRITICAL)
        offers = having("tool.first", "tool.other")
        assert [claim.job_id for claim in await store.claim("w1", 2, offers)] == [urgent, ids[0]]
        assert [claim.job_id for claim in await store.claim("w1", 10, offers)] == ids[1:]

    async def test_job_that_goes_on_elsewhere_is_left_to_who_has_its_component(
        self, store: JobStore, clock: FakeClock
    ) -> None:
        holder = await begin(store, clock)
        await holder.commit(store, holder.succeeded("first"), has=lambda component: component == "tool.first")
        row = await summary(store, holder.job_id)
        assert (row.status, row.requires) == (JobStatus.QUEUED, ("tool.second",))
        assert await store.claim("w1", 10, having("tool.first")) == []
        [claim] = await store.claim("w2", 10, having("tool.second"))
        assert claim.job_id == holder.job_id
        assert_folds_to(claim, holder)
        await Holder(clock, claim).commit(store, Claimed("w2", claim.epoch))
        assert (await summary(store, holder.job_id)).requires == ()

    @pytest.mark.guarantee("G8")
    async def test_jobs_of_one_priority_are_claimed_in_order_of_arrival(
        self, store: JobStore, clock: FakeClock
    ) -> None:
        ids = []
        for _ in range(5):
            ids.append(await accept(store, clock))
            clock.advance(1)
        assert await queue_of(store) == ids

    async def test_jobs_of_one_moment_are_claimed_in_order_of_creation(self, store: JobStore, clock: FakeClock) -> None:
        ids = [await accept(store, clock) for _ in range(5)]
        assert await queue_of(store) == ids

    @pytest.mark.guarantee("G8")
    async def test_higher_priority_goes_first(self, store: JobStore, clock: FakeClock) -> None:
        ids = {}
        for priority in JobPriority:
            ids[priority] = await accept(store, clock, priority=priority)
            clock.advance(1)
        high_to_low = (JobPriority.CRITICAL, JobPriority.HIGH, JobPriority.MEDIUM, JobPriority.LOW)
        assert await queue_of(store) == [ids[priority] for priority in high_to_low]

    @pytest.mark.guarantee("G8")
    async def test_waiting_job_gains_a_rank_per_aging_time(self, store: JobStore, clock: FakeClock) -> None:
        low = await accept(store, clock, priority=JobPriority.LOW)
        clock.advance(store.aging_s - 1)
        before = await accept(store, clock, priority=JobPriority.MEDIUM)
        clock.advance(2)
        after = await accept(store, clock, priority=JobPriority.MEDIUM)
        assert await queue_of(store) == [before, low, after]

    async def test_time_spent_queued_before_counts(self, store: JobStore, clock: FakeClock) -> None:
        waited = await wait_in_queue(store, clock, 100)
        recent = await accept(store, clock)
        clock.advance(99)
        await settle(store, clock, waited.job_id, request("resume"))
        assert await queue_of(store) == [waited.job_id, recent]

    async def test_time_spent_paused_does_not_count(self, store: JobStore, clock: FakeClock) -> None:
        paused = await wait_in_queue(store, clock, 100)
        clock.advance(1_000)
        recent = await accept(store, clock)
        clock.advance(101)
        await settle(store, clock, paused.job_id, request("resume"))
        assert await queue_of(store) == [recent, paused.job_id]

    async def test_waits_in_the_queue_add_up(self, store: JobStore, clock: FakeClock) -> None:
        paused = await wait_in_queue(store, clock, 60)
        await settle(store, clock, paused.job_id, request("resume", "first"))
        clock.advance(60)
        holder = await claim_one(store, clock)
        await holder.commit(store, holder.started())
        await holder.commit(store, Requested("pause"), holder.succeeded("second"))
        recent = await accept(store, clock)
        clock.advance(119)
        await settle(store, clock, holder.job_id, request("resume", "second"))
        assert await queue_of(store) == [holder.job_id, recent]

    async def test_changed_priority_moves_a_queued_job_and_keeps_its_wait(
        self, store: JobStore, clock: FakeClock
    ) -> None:
        job_id = await accept(store, clock, priority=JobPriority.LOW)
        queued_at = (await summary(store, job_id)).queued_at
        clock.advance(10)
        medium = await accept(store, clock)
        await settle(store, clock, job_id, request("set_priority", priority="MEDIUM"))
        row = await summary(store, job_id)
        assert (row.priority, row.status, row.queued_at) == (JobPriority.MEDIUM, JobStatus.QUEUED, queued_at)
        assert await queue_of(store) == [job_id, medium]

    async def test_claim_takes_at_most_as_many_as_asked(self, store: JobStore, clock: FakeClock) -> None:
        ids = [await accept(store, clock) for _ in range(5)]
        assert [claim.job_id for claim in await store.claim("w1", 2)] == ids[:2]
        assert [claim.job_id for claim in await store.claim("w1", 2)] == ids[2:4]
        assert await store.claim("w1", 0) == []
        assert await queue_of(store) == ids[4:]

    @pytest.mark.guarantee("G4")
    async def test_no_job_is_claimed_twice(self, store: JobStore, clock: FakeClock) -> None:
        ids = [await accept(store, clock) for _ in range(30)]
        rounds = await asyncio.gather(*(store.claim(f"w{n}", 4) for n in range(10)))
        claimed = [claim.job_id for claims in rounds for claim in claims]
        assert sorted(claimed) == sorted(ids)
        assert await store.claim("w1", 10) == []

    async def test_only_queued_jobs_are_claimed(self, store: JobStore, clock: FakeClock) -> None:
        await accept(store, clock, start=False)
        await accept(store, clock, start_in_s=1)
        for status in (JobStatus.WAITING, JobStatus.PAUSED, JobStatus.COMPLETED, JobStatus.RUNNING):
            await bring_to(store, clock, status)
        clock.advance(1_000)
        assert await store.claim("w1", 10) == []

    async def test_claim_carries_all_that_is_needed_to_go_on(self, store: JobStore, clock: FakeClock) -> None:
        job = new_job(clock)
        await store.create(job)
        held = await store.hold(job.job_id, "caller", request("set_priority", priority="LOW"))
        assert held is not None and held.claim is not None
        await store.release(held.claim)
        [claim] = await store.claim("w1", 1)
        assert (claim.job_id, claim.owner, claim.previous_owner) == (job.job_id, "w1", None)
        assert (claim.definition_hash, claim.last_event) == (job.definition.hash, 2)
        assert (claim.events, claim.snapshot) == (list(job.events), None)
        assert [asked.kind for asked in claim.requests] == ["set_priority"]
        assert claim.epoch > held.claim.epoch

    async def test_claimed_job_is_queued_until_its_start_is_committed(self, store: JobStore, clock: FakeClock) -> None:
        await accept(store, clock)
        holder = await claim_one(store, clock)
        stored = await read(store, holder.job_id)
        assert (stored.summary.status, stored.owner) == (JobStatus.QUEUED, "w1")
        clock.advance(3)
        await holder.commit(store, holder.started())
        row = await summary(store, holder.job_id)
        assert (row.status, row.started_at, row.current_step) == (JobStatus.RUNNING, clock.now(), "first")

    # ── requests and holds ────────────────────────────────────────────────────────────────────────────────────────

    async def test_hold_on_a_resting_job_posts_and_leases(self, store: JobStore, clock: FakeClock) -> None:
        job_id = await accept(store, clock, start=False)
        held = await store.hold(job_id, "caller", request("start", "key", why={"text": "ä"}))
        assert held is not None and held.claim is not None
        [asked] = held.claim.requests
        assert (asked.key, asked.kind, asked.by, asked.reason) == ("key", "start", "somebody", "because")
        assert (asked.at_us, asked.payload) == (1, {"why": {"text": "ä"}})
        assert (held.claim.owner, held.claim.previous_owner, held.claim.last_event) == ("caller", None, 1)
        assert (await read(store, job_id)).owner == "caller"
        assert await store.read_requests(job_id) == [asked] == (await read(store, job_id)).requests

    async def test_many_holds_at_once_answer_as_each_would(self, store: JobStore, clock: FakeClock) -> None:
        final = await bring_to(store, clock, JobStatus.COMPLETED)
        running = await begin(store, clock, "w1")
        resting = await accept(store, clock, start=False)
        asked = [final.job_id, running.job_id, resting, "nobody", resting]
        requests = [(job_id, request("set_priority", f"key {n}")) for n, job_id in enumerate(asked)]
        answers = await store.hold_all("caller", requests)
        of_final, of_running, of_resting, of_nobody, of_repeated = answers
        assert of_final == Held(None, None) and of_nobody is None
        assert of_running == Held(None, "w1") and of_repeated == Held(None, "caller")
        assert isinstance(of_resting, Held) and of_resting.claim is not None and of_resting.claim.owner == "caller"
        assert [len(await store.read_requests(job_id)) for job_id in asked[:3]] == [0, 1, 2]
        assert await store.hold_all("caller", []) == []

    async def test_hold_on_a_held_job_posts_and_names_its_owner(self, store: JobStore, clock: FakeClock) -> None:
        holder = await begin(store, clock)
        held = await store.hold(holder.job_id, "caller", request("pause"))
        assert held is not None
        assert (held.claim, held.owner) == (None, "w1")
        assert [asked.kind for asked in await store.read_requests(holder.job_id)] == ["pause"]
        await holder.commit(store, holder.succeeded("first"))  # the lease is as good as before

    @pytest.mark.parametrize("status", [JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED])
    @pytest.mark.guarantee("G9")
    async def test_final_job_takes_no_requests(self, store: JobStore, clock: FakeClock, status: JobStatus) -> None:
        holder = await bring_to(store, clock, status)
        before = await read(store, holder.job_id)
        held = await store.hold(holder.job_id, "caller", request("cancel"))
        assert held is not None
        assert (held.claim, held.owner) == (None, None)
        assert await read(store, holder.job_id) == before

    async def test_holder_answers_and_the_lease_ends(self, store: JobStore, clock: FakeClock) -> None:
        job_id = await accept(store, clock, start=False)
        await settle(store, clock, job_id, request("start"))
        stored = await read(store, job_id)
        assert (stored.summary.status, stored.owner, stored.requests) == (JobStatus.QUEUED, None, [])
        assert await queue_of(store) == [job_id]

    async def test_held_job_is_not_in_the_queue(self, store: JobStore, clock: FakeClock) -> None:
        job_id = await accept(store, clock)
        held = await store.hold(job_id, "caller", request("pause"))
        assert held is not None and held.claim is not None
        assert await store.claim("w1", 1) == []
        await store.release(held.claim)
        assert await queue_of(store) == [job_id]

    async def test_same_key_again_is_one_request(self, store: JobStore, clock: FakeClock) -> None:
        holder = await begin(store, clock)
        for _ in range(3):
            await store.hold(holder.job_id, "caller", request("pause", "key"))
        await store.hold(holder.job_id, "caller", request("cancel", "other key"))
        kinds = [asked.kind for asked in await store.read_requests(holder.job_id)]
        assert kinds == ["pause", "cancel"]

    async def test_request_that_was_answered_is_not_asked_again_by_its_key(
        self, store: JobStore, clock: FakeClock
    ) -> None:
        holder = await bring_to(store, clock, JobStatus.PAUSED)
        asked = request("resume", "key")
        await settle(store, clock, holder.job_id, asked)
        await settle(store, clock, holder.job_id, request("pause", "pause again"))
        held = await store.hold(holder.job_id, "caller", asked)  # the reply to the first resume was lost
        assert held is not None and held.claim is not None
        assert held.claim.requests == []
        await store.release(held.claim)
        assert (await summary(store, holder.job_id)).status == JobStatus.PAUSED

    async def test_requests_stand_oldest_first_and_leave_with_the_commit_that_answers_them(
        self, store: JobStore, clock: FakeClock
    ) -> None:
        holder = await begin(store, clock)
        for n in range(4):
            await store.hold(holder.job_id, "caller", request("set_priority", f"k{n}", priority="LOW"))
        asked = await store.read_requests(holder.job_id)
        assert [one.key for one in asked] == ["k0", "k1", "k2", "k3"]
        assert sorted({one.sequence for one in asked}) == [one.sequence for one in asked]
        await holder.commit(store, drains=asked[1:3])
        assert [one.key for one in await store.read_requests(holder.job_id)] == ["k0", "k3"]
        assert [one.key for one in (await read(store, holder.job_id)).requests] == ["k0", "k3"]

    async def test_commit_without_events_drains_requests(self, store: JobStore, clock: FakeClock) -> None:
        holder = await begin(store, clock)
        await store.hold(holder.job_id, "caller", request("resume"))  # will be refused
        commit = await holder.commit(store, drains=await store.read_requests(holder.job_id))
        assert commit.events == []
        assert await store.read_requests(holder.job_id) == []
        await holder.commit(store, holder.succeeded("first"))

    async def test_worker_finds_its_jobs_with_requests(self, store: JobStore, clock: FakeClock) -> None:
        asked, quiet, other = [await begin(store, clock, worker) for worker in ("w1", "w1", "w2")]
        for holder in (asked, other):
            await store.hold(holder.job_id, "caller", request("pause"))
            await store.hold(holder.job_id, "caller", request("cancel"))
        assert await store.jobs_with_requests("w1") == [asked.job_id]
        assert await store.jobs_with_requests("w3") == []
        await asked.commit(store, drains=await store.read_requests(asked.job_id))
        assert await store.jobs_with_requests("w1") == []
        assert await store.read_requests(quiet.job_id) == []

    # ── giving back ───────────────────────────────────────────────────────────────────────────────────────────────

    async def test_released_job_is_where_it_was(self, store: JobStore, clock: FakeClock) -> None:
        first, second = await accept(store, clock), await accept(store, clock)
        holder = await claim_one(store, clock)
        before = await summary(store, first)
        clock.advance(10)
        for _ in range(2):
            await store.release(holder.claim)
        assert await summary(store, first) == before
        assert await queue_of(store) == [first, second]

    async def test_release_of_a_lost_lease_is_harmless(self, store: JobStore, clock: FakeClock) -> None:
        job_id = await accept(store, clock)
        old = await claim_one(store, clock)
        await store.release(old.claim)
        await claim_one(store, clock)
        await store.release(old.claim)
        assert (await read(store, job_id)).owner == "w1"
        assert await store.claim("w2", 1) == []

    async def test_running_job_is_not_released(self, store: JobStore, clock: FakeClock) -> None:
        holder = await begin(store, clock)
        await store.release(holder.claim)
        stored = await read(store, holder.job_id)
        assert (stored.summary.status, stored.owner) == (JobStatus.RUNNING, "w1")
        await holder.commit(store, holder.succeeded("first"))

    # ── timers ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def test_timer_is_due_at_its_time_and_not_before(self, store: JobStore, clock: FakeClock) -> None:
        job_id = await accept(store, clock, start_in_s=60)
        assert await store.next_due_us() == clock.now_us() + 60 * SECOND_US
        clock.advance(59.999_999)
        assert await store.hold_due("w1", 10) == []
        clock.advance(0.000_001)
        [claim] = await store.hold_due("w1", 10)
        assert (claim.job_id, claim.owner, claim.previous_owner) == (job_id, "w1", None)
        holder = Holder(clock, claim)
        await holder.commit(store, Tick())
        row = await summary(store, job_id)
        assert (row.status, row.queued_at, row.start_at) == (JobStatus.QUEUED, clock.now(), None)
        assert await store.next_due_us() is None
        assert await store.hold_due("w1", 10) == []

    async def test_waiting_job_wakes(self, store: JobStore, clock: FakeClock) -> None:
        holder = await bring_to(store, clock, JobStatus.WAITING)
        row = await summary(store, holder.job_id)
        assert row.wake_at is not None and row.start_at is None
        due_us = await store.next_due_us()
        assert due_us == clock.now_us() + 60 * SECOND_US
        clock.advance(60)
        [claim] = await store.hold_due("w1", 10)
        assert_folds_to(claim, holder)
        await Holder(clock, claim).commit(store, Tick())
        assert (await summary(store, holder.job_id)).wake_at is None
        assert await queue_of(store) == [holder.job_id]

    async def test_earliest_timers_come_first(self, store: JobStore, clock: FakeClock) -> None:
        late, soon, later = [await accept(store, clock, start_in_s=seconds) for seconds in (20, 10, 30)]
        clock.advance(30)
        assert [claim.job_id for claim in await store.hold_due("w1", 2)] == [soon, late]
        assert [claim.job_id for claim in await store.hold_due("w2", 2)] == [later]

    async def test_timers_of_one_moment_come_in_the_order_in_which_their_jobs_were_accepted(
        self, store: JobStore, clock: FakeClock
    ) -> None:
        ids = [await accept(store, clock, job_id=name, start_in_s=10) for name in ("c", "a", "b")]
        clock.advance(10)
        assert [claim.job_id for claim in await store.hold_due("w1", 2)] == ids[:2]
        assert [claim.job_id for claim in await store.hold_due("w2", 2)] == ids[2:]

    async def test_held_job_is_not_due_until_it_is_released(self, store: JobStore, clock: FakeClock) -> None:
        job_id = await accept(store, clock, start_in_s=10)
        due_us = await store.next_due_us()
        clock.advance(10)
        [claim] = await store.hold_due("w1", 10)
        assert await store.hold_due("w2", 10) == []
        assert await store.next_due_us() is None
        await store.release(claim)
        assert await store.next_due_us() == due_us
        assert [again.job_id for again in await store.hold_due("w2", 10)] == [job_id]

    async def test_job_that_started_early_is_not_due(self, store: JobStore, clock: FakeClock) -> None:
        job_id = await accept(store, clock, start_in_s=10)
        await settle(store, clock, job_id, request("start"))
        clock.advance(10)
        assert await store.next_due_us() is None
        assert await store.hold_due("w1", 10) == []
