"""Jobs of a share get of all work what its weight says, and jobs with a deadline come forward in time."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from openagents_json.clock import SECOND_US
from openagents_json.job.machine import Released, Requested, Tick
from openagents_json.job.model import JobPriority, JobStatus
from openagents_json.job.store.base import JobStore
from openagents_json.job.store.contract.jobs import Holder, new_job, request
from openagents_json.job.store.contract.jobs import settle as settle_request
from openagents_json.job.store.contract.moving import bare, elsewhere, family, moved
from openagents_json.job.store.durations import MAX_DURATIONS, WHOLE_JOB, Sample, by_step
from openagents_json.job.store.limits import Limit
from openagents_json.job.store.moving import MovedJob
from openagents_json.job.store.query import build_query
from openagents_json.job.store.records import NewJob
from openagents_json.testing import FakeClock
from openagents_json.workflow import Retry

TEN_S = 10 * SECOND_US


def shared(clock: FakeClock, key: str, expected_us: int = TEN_S, **options: Any) -> NewJob:
    """A QUEUED job that counts to a share."""
    return new_job(clock, share=key, expected_us=expected_us, **options)


async def queue(store: JobStore, clock: FakeClock, key: str, count: int = 1, **options: Any) -> list[str]:
    """Queue jobs of a share; their ids."""
    return [await store.create(shared(clock, key, **options)) for _ in range(count)]


async def claimed_keys(store: JobStore, clock: FakeClock, count: int) -> list[str | None]:
    """Claim jobs one by one and begin them; whose they are."""
    keys = []
    for _ in range(count):
        [claim] = await store.claim("w1", 1)
        holder = Holder(clock, claim)
        await holder.commit(store, holder.started())
        keys.append(holder.state.share)
    return keys


async def take(store: JobStore, clock: FakeClock) -> Holder:
    """Claim the job that is next and begin it."""
    [claim] = await store.claim("w1", 1)
    holder = Holder(clock, claim)
    await holder.commit(store, holder.started())
    return holder


async def ahead_s(store: JobStore) -> dict[str, float]:
    """How many seconds of work each share is ahead."""
    return {one.key: one.ahead_us / SECOND_US for one in await store.list_shares()}


class ShareContract:
    """Part of the suite: `openagents_json.job.store.contract`."""

    @pytest.mark.guarantee("G8")
    async def test_shares_take_turns_however_many_jobs_each_has(self, store: JobStore, clock: FakeClock) -> None:
        await queue(store, clock, "a", 6)
        clock.advance(1.0)
        await queue(store, clock, "b", 3)
        keys = await claimed_keys(store, clock, 6)
        assert Counter(keys) == {"a": 3, "b": 3}
        assert keys[0] == "a" and all(Counter(keys[:n])["b"] in (n // 2, n // 2 + 1) for n in (2, 4))

    async def test_weight_says_how_many_come_in_a_turn(self, store: JobStore, clock: FakeClock) -> None:
        await store.set_share("b", 2.0)
        await queue(store, clock, "a", 8)
        await queue(store, clock, "b", 8)
        assert Counter(await claimed_keys(store, clock, 9)) == {"a": 3, "b": 6}

    async def test_long_jobs_come_in_less_often(self, store: JobStore, clock: FakeClock) -> None:
        await queue(store, clock, "a", 8, expected_us=3 * TEN_S)
        await queue(store, clock, "b", 8)
        assert Counter(await claimed_keys(store, clock, 8)) == {"a": 2, "b": 6}

    @pytest.mark.guarantee("G8")
    async def test_who_comes_late_has_no_credit_and_does_not_wait(self, store: JobStore, clock: FakeClock) -> None:
        await queue(store, clock, "a", 20)
        await claimed_keys(store, clock, 10)
        clock.advance(1_000.0)
        await queue(store, clock, "b", 10)
        assert Counter(await claimed_keys(store, clock, 8)) == {"a": 4, "b": 4}

    async def test_all_begin_anew_when_none_waits(self, store: JobStore, clock: FakeClock) -> None:
        await queue(store, clock, "a", 10)
        await claimed_keys(store, clock, 10)
        assert await ahead_s(store) == {"a": 0.0}
        await queue(store, clock, "b", 2)
        await queue(store, clock, "a", 2)
        assert Counter(await claimed_keys(store, clock, 2)) == {"a": 1, "b": 1}

    async def test_what_was_used_counts_in_the_end(self, store: JobStore, clock: FakeClock) -> None:
        await queue(store, clock, "a", 3)
        await queue(store, clock, "b", 3)
        holder = await take(store, clock)
        assert holder.state.share == "a"
        clock.advance(40.0)
        await holder.commit(store, holder.failed("first"))
        assert holder.status == JobStatus.FAILED
        assert await ahead_s(store) == {"a": 60.0, "b": 30.0}
        await queue(store, clock, "b", 3)
        await queue(store, clock, "a", 1)
        keys = await claimed_keys(store, clock, 9)
        assert keys[-1] == "a" and Counter(keys) == {"a": 3, "b": 6}

    async def test_cancelled_job_that_never_ran_gives_all_back(self, store: JobStore, clock: FakeClock) -> None:
        _, second = await queue(store, clock, "a", 2)
        assert await ahead_s(store) == {"a": 20.0}
        await settle_request(store, clock, second, request("cancel", force=False))
        assert await ahead_s(store) == {"a": 10.0}

    async def test_paused_jobs_take_a_new_tag(self, store: JobStore, clock: FakeClock) -> None:
        """Else a key could lay up turns for later."""
        paused = await queue(store, clock, "a", 4)
        for job_id in paused:
            await settle_request(store, clock, job_id, request("pause"))
        await queue(store, clock, "b", 8)
        await claimed_keys(store, clock, 4)
        for job_id in paused:
            await settle_request(store, clock, job_id, request("resume"))
        assert Counter(await claimed_keys(store, clock, 4)) == {"a": 2, "b": 2}

    async def test_what_has_begun_goes_on_before_new_jobs_of_its_key(self, store: JobStore, clock: FakeClock) -> None:
        await queue(store, clock, "a", 1)
        holder = await take(store, clock)
        await queue(store, clock, "a", 5)
        await queue(store, clock, "b", 5)
        await claimed_keys(store, clock, 4)
        clock.advance(4.0)
        await holder.commit(store, Released("worker_stopped"), holder.succeeded("first"))
        assert holder.status == JobStatus.QUEUED
        again = {claim.job_id for claim in await store.claim("w2", 3)}
        assert holder.claim.job_id in again

    async def test_priority_comes_before_shares(self, store: JobStore, clock: FakeClock) -> None:
        await queue(store, clock, "a", 2)
        await queue(store, clock, "a", 1, priority=JobPriority.HIGH)
        await queue(store, clock, "b", 1)
        holder = await take(store, clock)
        assert holder.state.priority == "HIGH"

    async def test_changed_priority_keeps_the_tag(self, store: JobStore, clock: FakeClock) -> None:
        first, second = await queue(store, clock, "a", 2)
        [other] = await queue(store, clock, "b", 1)
        asked = request("set_priority", priority="HIGH")
        await settle_request(store, clock, second, asked)
        assert [claim.job_id for claim in await store.claim("w1", 3)] == [second, first, other]
        assert await ahead_s(store) == {"a": 20.0, "b": 10.0}

    async def test_changed_aging_keeps_the_tags(self, store: JobStore, clock: FakeClock) -> None:
        first, second = await queue(store, clock, "a", 2)
        clock.advance(1.0)
        high = await store.create(shared(clock, "b", priority=JobPriority.HIGH))
        await store.set_aging(0.0)
        assert [claim.job_id for claim in await store.claim("w1", 3)] == [first, high, second]

    async def test_children_of_one_commit_and_jobs_of_one_call_take_their_turns(
        self, store: JobStore, clock: FakeClock
    ) -> None:
        await store.create_all([shared(clock, "a") for _ in range(3)] + [shared(clock, "b") for _ in range(3)])
        assert Counter(await claimed_keys(store, clock, 4)) == {"a": 2, "b": 2}

    async def test_slots_of_a_limit_go_in_the_order_of_the_shares(self, store: JobStore, clock: FakeClock) -> None:
        limit = Limit("flow", 1)
        a = [await store.create(replace(shared(clock, "a"), limit=limit)) for _ in range(2)]
        b = await store.create(replace(shared(clock, "b"), limit=limit))
        holder = await take(store, clock)
        assert holder.claim.job_id == a[0]
        await holder.commit(store, holder.failed("first"))
        assert [claim.job_id for claim in await store.claim("w1", 3)] == [b]

    async def test_weights_are_kept_and_listed_in_pages(self, store: JobStore, clock: FakeClock) -> None:
        for key in ("c", "a", "b"):
            await store.set_share(key, 0.5)
        await store.set_share("b", 3.0)
        assert [(one.key, one.weight) for one in await store.list_shares("a", 1)] == [("b", 3.0)]
        assert [one.key for one in await store.list_shares()] == ["a", "b", "c"]

    async def test_row_says_whose_share_it_is(self, store: JobStore, clock: FakeClock) -> None:
        [job_id] = await queue(store, clock, "tenant 7")
        summary = await store.read_summary(job_id)
        assert summary is not None and summary.share == "tenant 7"
        [listed] = await store.list_jobs(build_query({"share": "tenant 7"}))
        assert listed.summary.id == job_id
        assert await store.list_jobs(build_query({"share": "another"})) == []

    # ── deadlines ──

    async def test_job_comes_forward_in_time_for_its_deadline(self, store: JobStore, clock: FakeClock) -> None:
        others = [await store.create(new_job(clock)) for _ in range(2)]
        clock.advance(60.0)
        now_us = clock.now_us()
        late = await store.create(new_job(clock, deadline_us=now_us + 7_200 * SECOND_US, expected_us=TEN_S))
        later = await store.create(new_job(clock, deadline_us=now_us + 1_000 * SECOND_US, expected_us=TEN_S))
        soon = await store.create(new_job(clock, deadline_us=now_us + 1_000 * SECOND_US, expected_us=10 * TEN_S))
        assert [claim.job_id for claim in await store.claim("w1", 9)] == [soon, later, *others, late]

    async def test_deadline_holds_after_a_change_of_aging(self, store: JobStore, clock: FakeClock) -> None:
        first = await store.create(new_job(clock))
        soon = await store.create(new_job(clock, deadline_us=clock.now_us(), expected_us=TEN_S))
        high = await store.create(new_job(clock, priority=JobPriority.HIGH))
        await store.set_aging(60.0)
        assert [claim.job_id for claim in await store.claim("w1", 1)] == [soon]
        await store.set_aging(1e9)
        assert [claim.job_id for claim in await store.claim("w1", 2)] == [high, first]

    async def test_row_says_when_it_is_due_and_whether_that_is_at_risk(self, store: JobStore, clock: FakeClock) -> None:
        at_us = clock.now_us() + SECOND_US
        job_id = await store.create(new_job(clock, deadline_us=at_us, expected_us=TEN_S))
        summary = await store.read_summary(job_id)
        assert summary is not None and summary.deadline is not None and not summary.at_risk
        await take(store, clock)
        summary = await store.read_summary(job_id)
        assert summary is not None and summary.at_risk
        assert summary.deadline is not None and round(summary.deadline.timestamp() * SECOND_US) == at_us

    @pytest.mark.parametrize("status", [JobStatus.CREATED, JobStatus.QUEUED, JobStatus.WAITING, JobStatus.PAUSED])
    async def test_job_at_rest_is_looked_at_when_its_deadline_is_at_risk(
        self, store: JobStore, clock: FakeClock, status: JobStatus
    ) -> None:
        at_us = clock.now_us() + 60 * SECOND_US
        job_id = await store.create(
            new_job(clock, start=status != JobStatus.CREATED, deadline_us=at_us, expected_us=TEN_S)
        )
        due_us = None
        if status in (JobStatus.WAITING, JobStatus.PAUSED):
            holder = await take(store, clock)
            assert await store.next_due_us() is None, "whoever holds it looks at it"
            if status == JobStatus.WAITING:
                await holder.commit(store, holder.failed("first", retry=Retry(max_attempts=2, delay_seconds=3_600.0)))
                due_us = holder.state.wake_us
                assert due_us is not None
            else:
                await holder.commit(store, Requested("pause"), holder.succeeded("first"))
        other = await store.create(new_job(clock))
        assert await store.next_due_us() == at_us - TEN_S + 1
        clock.advance(50.0)
        assert await store.hold_due("w1", 9) == []
        clock.advance(1.0)
        [claim] = await store.hold_due("w1", 9)
        assert claim.job_id == job_id and await store.hold_due("w2", 9) == []
        holder = Holder(clock, claim)
        commit = await holder.commit(store, Tick())
        assert [event.type for event in commit.events] == ["job.deadline_at_risk"]
        summary = await store.read_summary(job_id)
        assert summary is not None and (summary.status, summary.at_risk) == (status, True)
        assert await store.next_due_us() == due_us
        queue = [job_id, other] if status == JobStatus.QUEUED else [other]
        assert [claim.job_id for claim in await store.claim("w1", 9)] == queue

    async def test_timers_and_deadlines_are_due_in_their_order(self, store: JobStore, clock: FakeClock) -> None:
        now_us = clock.now_us()
        late = [await store.create(new_job(clock, deadline_us=now_us + n * SECOND_US)) for n in (3, 1)]
        timer = await store.create(new_job(clock, start_in_s=2.0))
        both = await store.create(new_job(clock, start_in_s=4.0, deadline_us=now_us + 5 * SECOND_US))
        clock.advance(10.0)
        assert [claim.job_id for claim in await store.hold_due("w1", 9)] == [late[1], timer, late[0], both]

    # ── durations ──

    async def test_durations_are_learned_the_latest_count_most(self, store: JobStore, clock: FakeClock) -> None:
        await store.learn([Sample("flow", "fetch", 1_000, 4), Sample("flow", WHOLE_JOB, 5_000, 1)])
        await store.learn([Sample("flow", "fetch", 3_000, 4), Sample("other", "fetch", 7, 1)])
        assert by_step(await store.read_durations("flow")) == {"fetch": 2_000, WHOLE_JOB: 5_000}
        for _ in range(40):
            await store.learn([Sample("flow", "fetch", 9_000, 1)])
        [mean_us] = [one.mean_us for one in await store.read_durations("flow") if one.step_id == "fetch"]
        assert 8_900 < mean_us <= 9_000
        assert await store.read_durations("unknown") == []

    async def test_only_the_latest_durations_are_kept(self, store: JobStore, clock: FakeClock) -> None:
        await store.learn([Sample("old", "fetch", 1, 1)])
        clock.advance(1.0)
        await store.learn([Sample("new", f"step{n}", 1, 1) for n in range(MAX_DURATIONS)])
        assert await store.read_durations("old") == []
        assert len(await store.read_durations("new")) == MAX_DURATIONS

    # ── moving ──

    @pytest.mark.parametrize("status", [JobStatus.QUEUED, JobStatus.RUNNING])
    async def test_moved_job_has_its_share_and_deadline(
        self, store: JobStore, clock: FakeClock, status: JobStatus
    ) -> None:
        deadline_us = clock.now_us() + 300 * SECOND_US
        new = shared(clock, "a", deadline_us=deadline_us)
        await store.create(new)
        if status == JobStatus.RUNNING:
            await take(store, clock)
        [moved] = await store.read_family(new.job_id)
        row = moved.new.row
        assert row.share is not None and (row.share.key, row.share.expected_us) == ("a", TEN_S)
        assert row.deadline is not None and row.deadline.at_us == deadline_us

    @pytest.mark.parametrize("status", [JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.PAUSED, JobStatus.FAILED])
    async def test_job_of_another_store_keeps_its_share_and_deadline(
        self, store: JobStore, clock: FakeClock, status: JobStatus
    ) -> None:
        source = await elsewhere(clock)
        new = shared(clock, "a", deadline_us=clock.now_us() + 5 * SECOND_US)
        await source.create(new)
        if status == JobStatus.PAUSED:
            await settle_request(source, clock, new.job_id, request("pause"))
        elif status != JobStatus.QUEUED:
            holder = await take(source, clock)
            clock.advance(3.0)
            if status == JobStatus.FAILED:
                await holder.commit(source, holder.failed("first"))
        jobs = await moved(source, store, new.job_id)
        assert bare(await family(store, new.job_id)) == bare(jobs)
        assert await store.read_summary(new.job_id) == await source.read_summary(new.job_id)
        [listed] = await store.list_jobs(build_query({"share": "a", "status": str(status)}))
        assert listed.summary.id == new.job_id

    async def test_restored_job_takes_its_turn_here(self, store: JobStore, clock: FakeClock) -> None:
        await queue(store, clock, "a", 2)
        await queue(store, clock, "b", 1)
        new = shared(clock, "b")
        now_us = clock.now_us()
        assert await store.restore([MovedJob(new, None, 0, now_us, 0)]) == []
        assert await ahead_s(store) == {"a": 20.0, "b": 20.0}
        assert Counter(await claimed_keys(store, clock, 2)) == {"a": 1, "b": 1}
