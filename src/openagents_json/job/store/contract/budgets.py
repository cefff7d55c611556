"""The contract of budgets: a row says what its job may spend and has spent, as its history does."""

from __future__ import annotations

from dataclasses import replace

import pytest

from openagents_json.amounts import Amounts
from openagents_json.job.machine import Claimed, Requested, Spent
from openagents_json.job.model import JobStatus
from openagents_json.job.store.base import JobStore
from openagents_json.job.store.contract.jobs import (
    Holder,
    WithClock,
    accept,
    begin,
    claim_one,
    new_job,
    read,
    settle,
    summary,
)
from openagents_json.job.store.contract.jobs import request as asked
from openagents_json.job.store.contract.moving import elsewhere, moved
from openagents_json.job.store.query import build_query
from openagents_json.job.store.records import first_claim
from openagents_json.testing import FakeClock

BUDGET: Amounts = {"time_us": 90_500_000, "tokens": 1_000, "cost_nanos": 2_500_000_001}
SHOWN = {"seconds": 90.5, "tokens": 1_000, "cost": 2.500000001}


def spent(holder: Holder, path: str, **amounts: int) -> Spent:
    """What a running attempt reports."""
    return Spent(path, holder.state.runs[path].token, amounts)


async def begin_with_budget(store: JobStore, clock: FakeClock, worker: str = "w1") -> Holder:
    """A RUNNING job with a budget."""
    await accept(store, clock, budget=BUDGET)
    holder = await claim_one(store, clock, worker)
    await holder.commit(store, holder.started())
    return holder


@pytest.mark.asyncio
class BudgetContract(WithClock):
    """What of a budget is in a row."""

    @pytest.mark.parametrize("start", [True, False])
    async def test_budget_of_a_new_job_stands_in_its_row(self, store: JobStore, clock: FakeClock, start: bool) -> None:
        job_id = await accept(store, clock, budget=BUDGET, start=start)
        row = await summary(store, job_id)
        assert (row.budget, row.spent) == (SHOWN, {"seconds": 0})
        [listed] = await store.list_jobs(build_query())
        assert listed.summary == row == (await read(store, job_id)).summary

    async def test_job_that_is_held_from_the_first_event_on_has_it_too(self, store: JobStore, clock: FakeClock) -> None:
        await store.register_worker("w1")
        job = replace(new_job(clock, budget=BUDGET), owner="w1")
        commit = Holder(clock, first_claim(job, 0, store.aging_s)).commit_of(Claimed("w1", 1))
        await store.create_held(replace(job, row=commit.row, events=[*job.events, *commit.events]))
        row = await summary(store, job.job_id)
        assert (row.status, row.budget, row.spent) == (JobStatus.RUNNING, SHOWN, {"seconds": 0})

    async def test_row_of_a_job_that_goes_on_says_what_it_has_spent(self, store: JobStore, clock: FakeClock) -> None:
        holder = await begin_with_budget(store, clock)
        clock.advance(1.5)
        await holder.commit(store, spent(holder, "first", tokens=10, cost_nanos=1))
        row = await summary(store, holder.job_id)
        assert (row.status, row.budget) == (JobStatus.RUNNING, SHOWN)
        assert row.spent == {"seconds": 1.5, "tokens": 10, "cost": 1e-9}

    async def test_row_of_a_job_that_has_spent_all_says_so(self, store: JobStore, clock: FakeClock) -> None:
        holder = await begin_with_budget(store, clock)
        clock.advance(2)
        await holder.commit(store, spent(holder, "first", tokens=1_200), holder.succeeded("first"))
        row = await summary(store, holder.job_id)
        assert (row.status, row.spent) == (JobStatus.PAUSED, {"seconds": 2, "tokens": 1_200})
        await settle(store, clock, holder.job_id, asked("add_budget", amounts={"tokens": 500}))
        row = await summary(store, holder.job_id)
        assert (row.status, row.budget) == (JobStatus.PAUSED, SHOWN | {"tokens": 1_500})
        await settle(store, clock, holder.job_id, asked("resume"))
        assert (await summary(store, holder.job_id)).status == JobStatus.QUEUED
        holder = await claim_one(store, clock)
        await holder.commit(store, holder.started())
        assert (await summary(store, holder.job_id)).spent == {"seconds": 2, "tokens": 1_200}
        clock.advance(1)
        await holder.commit(store, holder.succeeded("second"))
        row = await summary(store, holder.job_id)
        assert (row.status, row.spent) == (JobStatus.COMPLETED, {"seconds": 3, "tokens": 1_200})

    async def test_job_without_a_budget_has_what_was_reported(self, store: JobStore, clock: FakeClock) -> None:
        quiet = await begin(store, clock)
        clock.advance(1)
        await quiet.commit(store, quiet.succeeded("first"))
        row = await summary(store, quiet.job_id)
        assert (row.budget, row.spent) == ({}, {})
        await quiet.commit(store, spent(quiet, "second", tokens=7), Requested("pause"))
        row = await summary(store, quiet.job_id)
        assert (row.budget, row.spent) == ({}, {"seconds": 1, "tokens": 7})

    async def test_children_of_a_commit_have_their_own(self, store: JobStore, clock: FakeClock) -> None:
        holder = await begin(store, clock)
        child = new_job(clock, budget={"tokens": 5})
        await store.commit(replace(holder.commit_of(holder.succeeded("first")), children=[child]))
        assert (await summary(store, child.job_id)).budget == {"tokens": 5}

    async def test_moved_job_keeps_it(self, store: JobStore, clock: FakeClock) -> None:
        source = await elsewhere(clock)
        holder = await begin_with_budget(source, clock, "gone")
        clock.advance(1)
        await holder.commit(source, spent(holder, "first", tokens=10))
        await moved(source, store, holder.job_id)
        row = await summary(store, holder.job_id)
        assert (row.budget, row.spent) == (SHOWN, {"seconds": 1, "tokens": 10})
        await moved(store, back := await elsewhere(clock), holder.job_id)
        assert await summary(back, holder.job_id) == row
