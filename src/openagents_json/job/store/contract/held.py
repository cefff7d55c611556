"""The contract of jobs that are created with a lease on them."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from openagents_json.job.machine import Claimed, Interrupted
from openagents_json.job.model import JobStatus
from openagents_json.job.store.arrival import DEFAULT_AGING_S
from openagents_json.job.store.base import JobStore
from openagents_json.job.store.contract.jobs import (
    Holder,
    WithClock,
    accept,
    claim_one,
    new_job,
    read,
    request,
    summary,
)
from openagents_json.job.store.query import build_query
from openagents_json.job.store.records import NewJob, first_claim
from openagents_json.testing import FakeClock


def held_job(clock: FakeClock, worker: str = "w1", **options: str) -> NewJob:
    """A QUEUED job with a lease on it."""
    return replace(new_job(clock, **options), owner=worker)  # type: ignore[arg-type]


def running_job(clock: FakeClock, worker: str = "w1") -> NewJob:
    """One with the events of its first turn, RUNNING."""
    job = held_job(clock, worker)
    commit = Holder(clock, first_claim(job, 0, DEFAULT_AGING_S)).commit_of(Claimed(worker, 1))
    return replace(job, row=commit.row, events=[*job.events, *commit.events])


@pytest.mark.asyncio
class HeldContract(WithClock):
    """Creating a job that its owner runs at once."""

    async def test_job_can_begin_in_the_transaction_that_accepts_it(self, store: JobStore, clock: FakeClock) -> None:
        await store.register_worker("w1")
        job = running_job(clock)
        claim = await store.create_held(job)
        assert claim == first_claim(job, claim.handle if claim else 0, store.aging_s)
        stored = await read(store, job.job_id)
        assert (stored.owner, stored.events) == ("w1", list(job.events))
        row = stored.summary
        assert (row.status, row.current_step, row.events) == (JobStatus.RUNNING, "first", len(job.events))
        assert row.created_at == row.queued_at == row.started_at == clock.now()
        holder = Holder(clock, claim)
        await holder.commit(store, holder.succeeded("first"))
        await holder.commit(store, holder.succeeded("second"))
        assert (await summary(store, job.job_id)).status == JobStatus.COMPLETED

    async def test_held_job_stands_in_no_queue_until_it_is_given_back(self, store: JobStore, clock: FakeClock) -> None:
        await store.register_worker("w1")
        later = held_job(clock)
        claim = await store.create_held(later)
        assert claim is not None
        clock.advance(1)
        others = [await accept(store, clock), await accept(store, clock)]
        assert [one.job_id for one in await store.claim("w2", 1)] == others[:1]
        held = await store.hold(later.job_id, "w2", request("pause"))
        assert held is not None
        assert (held.claim, held.owner) == (None, "w1")
        await store.release(claim)
        assert [one.job_id for one in await store.claim("w2", 5)] == [later.job_id, others[1]], "it came first"

    async def test_held_job_that_was_not_begun_begins_with_the_next_commit(
        self, store: JobStore, clock: FakeClock
    ) -> None:
        await store.register_worker("w1")
        claim = await store.create_held(held_job(clock))
        assert claim is not None
        holder = Holder(clock, claim)
        await holder.commit(store, holder.started())
        assert (await read(store, claim.job_id)).owner == "w1"

    @pytest.mark.guarantee("G7")
    async def test_job_that_is_there_already_is_not_created_again(self, store: JobStore, clock: FakeClock) -> None:
        await store.register_worker("w1")
        job = held_job(clock, key="k")
        assert await store.create_held(job) is not None
        before = await read(store, job.job_id)
        for again in (job, held_job(clock, key="k"), held_job(clock, key="k", body="another")):
            assert await store.create_held(again) is None
        assert await read(store, job.job_id) == before
        assert len(await store.list_jobs(build_query())) == 1
        assert await store.create(new_job(clock, key="k")) == job.job_id

    async def test_many_at_the_same_moment_are_each_created_once(self, store: JobStore, clock: FakeClock) -> None:
        await store.register_worker("w1")
        jobs = [running_job(clock) for _ in range(20)]
        twins = [held_job(clock, key="k") for _ in range(2)]
        given = [*jobs, *jobs[:5], *twins]
        claims = await asyncio.gather(*(store.create_held(job) for job in given))
        assert [claim.job_id for claim in claims[:20] if claim is not None] == [job.job_id for job in jobs]
        assert len({claim.handle for claim in claims[:20] if claim is not None}) == 20
        assert claims[20:25] == [None] * 5
        assert sum(claim is None for claim in claims[25:]) == 1
        assert len(await store.list_jobs(build_query())) == 21

    @pytest.mark.guarantee("G5")
    async def test_held_jobs_of_a_dead_worker_go_on_elsewhere(self, store: JobStore, clock: FakeClock) -> None:
        await store.register_worker("w1")
        job = running_job(clock)
        assert await store.create_held(job) is not None
        clock.advance(store.lease_s + 1)
        await store.register_worker("w2")
        assert await store.heartbeat("w1") is False
        [orphan] = await store.hold_orphans("w2", 5)
        assert (orphan.previous_owner, orphan.epoch) == ("w1", 2)
        holder = Holder(clock, orphan)
        await holder.commit(store, Interrupted("w1"))
        assert (await claim_one(store, clock, "w2")).job_id == job.job_id
