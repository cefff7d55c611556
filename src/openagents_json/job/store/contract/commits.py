"""The contract of commits: who may write, what a repetition does, what a row and a snapshot say afterwards."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from openagents_json.clock import SECOND_US, as_datetime
from openagents_json.errors import LeaseLost, RequestsPending
from openagents_json.job.machine import Happening, Interrupted, Released, Requested
from openagents_json.job.model import JobStatus
from openagents_json.job.store.base import JobStore
from openagents_json.job.store.contract.jobs import (
    QUIET,
    RETRY_LATER,
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
    wake,
    wide,
)
from openagents_json.job.store.records import Commit
from openagents_json.testing import FakeClock

SETTLED = [status for status in JobStatus if status not in (JobStatus.CREATED, JobStatus.QUEUED, JobStatus.RUNNING)]


async def assert_lost(store: JobStore, commit: Commit) -> None:
    """The commit is refused and nothing of it was written."""
    job_id = commit.claim.job_id
    before = await read(store, job_id)
    with pytest.raises(LeaseLost, match=job_id):
        await store.commit(commit)
    assert await read(store, job_id) == before


@pytest.mark.asyncio
class CommitContract(WithClock):
    """Commits: only by the holder, whole or not at all, and with what stands in the inbox."""

    # ── who may write ─────────────────────────────────────────────────────────────────────────────────────────────

    @pytest.mark.guarantee("G4")
    async def test_commit_of_another_owner_is_refused(self, store: JobStore, clock: FakeClock) -> None:
        holder = await begin(store, clock)
        commit = holder.commit_of(holder.succeeded("first"))
        await assert_lost(store, replace(commit, claim=replace(commit.claim, owner="thief")))
        await store.commit(commit)

    @pytest.mark.guarantee("G4")
    async def test_commit_of_an_earlier_lease_is_refused(self, store: JobStore, clock: FakeClock) -> None:
        await accept(store, clock)
        old = await claim_one(store, clock)
        await store.release(old.claim)
        new = await claim_one(store, clock)
        await assert_lost(store, old.commit_of(old.started()))
        await new.commit(store, new.started())
        await assert_lost(store, replace(old.commit_of(), expected=new.committed))

    @pytest.mark.guarantee("G4")
    async def test_commit_by_somebody_without_a_lease_is_refused(self, store: JobStore, clock: FakeClock) -> None:
        job_id = await accept(store, clock)
        holder = await claim_one(store, clock)
        await store.release(holder.claim)
        await assert_lost(store, holder.commit_of(holder.started()))
        assert (await read(store, job_id)).owner is None

    @pytest.mark.guarantee("G10")
    async def test_commit_that_expects_another_event_is_refused(self, store: JobStore, clock: FakeClock) -> None:
        holder = await begin(store, clock)
        commit = holder.commit_of(holder.succeeded("first"))
        for expected in (commit.expected - 1, commit.expected + 1):
            await assert_lost(store, replace(commit, expected=expected))
        await store.commit(commit)

    @pytest.mark.guarantee("G9")
    @pytest.mark.parametrize("status", [JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED])
    async def test_final_job_never_changes(self, store: JobStore, clock: FakeClock, status: JobStatus) -> None:
        holder = await bring_to(store, clock, status)
        empty = holder.commit_of()
        running = replace(empty.row, status=JobStatus.RUNNING, completed_us=None)
        await assert_lost(store, replace(empty, claim=replace(empty.claim, epoch=empty.claim.epoch + 1), row=running))

    async def test_commit_to_a_deleted_job_is_refused(self, store: JobStore, clock: FakeClock) -> None:
        holder = await begin(store, clock, document=QUIET)
        assert holder.state.status == JobStatus.COMPLETED
        assert await store.delete(holder.job_id)
        with pytest.raises(LeaseLost, match=holder.job_id):
            await store.commit(holder.commit_of())

    async def test_claim_of_a_deleted_job_does_not_fit_a_new_one(self, store: JobStore, clock: FakeClock) -> None:
        await accept(store, clock, QUIET)
        old = await claim_one(store, clock)
        last = old.commit_of(old.started())
        await store.commit(last)
        await store.delete(old.job_id)
        new = await accept(store, clock, QUIET)
        await claim_one(store, clock)  # the same worker, epoch and last event
        with pytest.raises(LeaseLost):
            await store.commit(last)
        await store.release(old.claim)
        assert (await read(store, new)).owner == "w1"
        assert len(await history(store, new)) == 2

    async def test_stale_commit_among_others_loses_only_its_own(self, store: JobStore, clock: FakeClock) -> None:
        holders = [await begin(store, clock) for _ in range(12)]
        commits = [holder.commit_of(holder.succeeded("first")) for holder in holders]
        stale = {3, 7}
        for index in stale:
            commits[index] = replace(commits[index], claim=replace(commits[index].claim, epoch=99))
        results = await asyncio.gather(*(store.commit(commit) for commit in commits), return_exceptions=True)
        assert {index for index, result in enumerate(results) if isinstance(result, LeaseLost)} == stale
        assert [result for index, result in enumerate(results) if index not in stale] == [None] * 10
        for index, holder in enumerate(holders):
            expected = commits[index].expected + (0 if index in stale else len(commits[index].events))
            assert len(await history(store, holder.job_id)) == expected

    async def test_many_at_once_are_each_for_themselves(self, store: JobStore, clock: FakeClock) -> None:
        holders = [await begin(store, clock) for _ in range(4)]
        commits = [holder.commit_of(holder.succeeded("first")) for holder in holders]
        commits[1] = replace(commits[1], claim=replace(commits[1].claim, epoch=99))
        errors = await store.commit_all(commits)
        assert [type(error) for error in errors] == [type(None), LeaseLost, type(None), type(None)]
        for holder, commit, error in zip(holders, commits, errors, strict=True):
            expected = commit.expected + (len(commit.events) if error is None else 0)
            assert len(await history(store, holder.job_id)) == expected
        assert await store.commit_all([]) == []

    # ── repetition ────────────────────────────────────────────────────────────────────────────────────────────────

    @pytest.mark.parametrize("status", [JobStatus.RUNNING, *SETTLED])
    async def test_repeated_commit_is_a_success_and_changes_nothing(
        self, store: JobStore, clock: FakeClock, status: JobStatus
    ) -> None:
        holder = await begin(store, clock)
        happenings: list[Happening]
        match status:
            case JobStatus.RUNNING:
                happenings = [holder.succeeded("first")]
            case JobStatus.WAITING:
                happenings = [holder.failed("first", retry=RETRY_LATER, abandoned=True)]
            case JobStatus.PAUSED:
                happenings = [Requested("pause"), holder.succeeded("first")]
            case JobStatus.COMPLETED:
                await holder.commit(store, holder.succeeded("first"))
                happenings = [holder.succeeded("second")]
            case JobStatus.FAILED:
                happenings = [holder.failed("first", abandoned=True)]
            case _:
                happenings = [Requested("cancel"), holder.succeeded("first")]
        commit = await holder.commit(store, *happenings, snapshot=True)
        assert commit.row.status == status
        before = await read(store, holder.job_id)
        for _ in range(2):
            await store.commit(commit)
        assert await read(store, holder.job_id) == before

    async def test_commit_and_its_repetition_at_the_same_moment_are_one(
        self, store: JobStore, clock: FakeClock
    ) -> None:
        holder = await begin(store, clock)
        commit = holder.commit_of(holder.succeeded("first"))
        await asyncio.gather(store.commit(commit), store.commit(commit))
        assert len(await history(store, holder.job_id)) == holder.committed

    async def test_repeated_commit_that_gave_its_lease_back_succeeds_under_the_next_one(
        self, store: JobStore, clock: FakeClock
    ) -> None:
        holder = await begin(store, clock)
        last = await holder.commit(store, Released("worker_stopped"), holder.succeeded("first"))
        assert last.row.status == JobStatus.QUEUED
        successor = await claim_one(store, clock, "w2")
        await successor.commit(store, successor.started())
        before = await read(store, holder.job_id)
        await store.commit(last)
        assert await read(store, holder.job_id) == before

    @pytest.mark.guarantee("G4")
    async def test_repeated_commit_that_kept_its_lease_is_lost_under_the_next_one(
        self, store: JobStore, clock: FakeClock
    ) -> None:
        holder = await begin(store, clock, "dead")
        last = await holder.commit(store, holder.succeeded("first"))
        [claim] = await store.hold_orphans("w2", 1)
        await assert_lost(store, last)
        await Holder(clock, claim).commit(store, Interrupted("dead"))
        await assert_lost(store, last)

    async def test_other_events_under_the_same_numbers_are_no_repetition(
        self, store: JobStore, clock: FakeClock
    ) -> None:
        await accept(store, clock)
        holder = await claim_one(store, clock)
        twin = Holder(clock, holder.claim)
        twin.commit_of(twin.started())
        await holder.commit(store, holder.started())
        await holder.commit(store, holder.succeeded("first", "one output"))
        await assert_lost(store, twin.commit_of(twin.succeeded("first", "another output")))

    async def test_empty_commit_without_a_lease_is_refused(self, store: JobStore, clock: FakeClock) -> None:
        holder = await begin(store, clock, "dead")
        [claim] = await store.hold_orphans("w2", 1)
        await assert_lost(store, holder.commit_of())
        await Holder(clock, claim).commit(store, Interrupted("dead"))

    # ── final rows and requests ───────────────────────────────────────────────────────────────────────────────────

    async def test_final_commit_is_refused_while_a_request_stands(self, store: JobStore, clock: FakeClock) -> None:
        holder = await begin(store, clock)
        await holder.commit(store, holder.succeeded("first"))
        await store.hold(holder.job_id, "caller", request("set_priority", "k1", priority="LOW"))
        await store.hold(holder.job_id, "caller", request("set_priority", "k2", priority="HIGH"))
        before = await read(store, holder.job_id)
        commit = holder.commit_of(holder.succeeded("second"))
        assert commit.row.status == JobStatus.COMPLETED
        for drained in ([], [before.requests[0].sequence]):
            with pytest.raises(RequestsPending, match=holder.job_id):
                await store.commit(replace(commit, drained=drained))
            assert await read(store, holder.job_id) == before
        await store.commit(replace(commit, drained=[asked.sequence for asked in before.requests]))
        assert (await summary(store, holder.job_id)).status == JobStatus.COMPLETED

    async def test_other_commits_may_leave_requests_standing(self, store: JobStore, clock: FakeClock) -> None:
        holder = await begin(store, clock)
        await store.hold(holder.job_id, "caller", request("set_priority", priority="LOW"))
        await holder.commit(store, holder.succeeded("first"))
        await holder.commit(store, Requested("pause"), holder.succeeded("second"))
        assert [asked.kind for asked in await store.read_requests(holder.job_id)] == ["set_priority"]

    async def test_refused_commit_among_others_does_not_hold_them_up(self, store: JobStore, clock: FakeClock) -> None:
        asked, free = [await begin(store, clock) for _ in range(2)]
        await store.hold(asked.job_id, "caller", request("pause"))
        results = await asyncio.gather(
            *(store.commit(holder.commit_of(holder.failed("first"))) for holder in (asked, free)),
            return_exceptions=True,
        )
        assert [type(result) for result in results] == [RequestsPending, type(None)]
        assert (await summary(store, asked.job_id)).status == JobStatus.RUNNING
        assert (await summary(store, free.job_id)).status == JobStatus.FAILED

    # ── leases and rows ───────────────────────────────────────────────────────────────────────────────────────────

    async def test_running_job_keeps_its_owner(self, store: JobStore, clock: FakeClock) -> None:
        holder = await begin(store, clock)
        await holder.commit(store, holder.succeeded("first"))
        assert (await read(store, holder.job_id)).owner == "w1"
        await holder.commit(store, holder.succeeded("second"))

    @pytest.mark.parametrize("status", SETTLED)
    async def test_settled_job_has_no_owner(self, store: JobStore, clock: FakeClock, status: JobStatus) -> None:
        holder = await bring_to(store, clock, status)
        stored = await read(store, holder.job_id)
        assert (stored.summary.status, stored.owner) == (status, None)
        assert_folds_to(stored, holder)

    async def test_job_that_is_given_back_has_no_owner_and_is_queued(self, store: JobStore, clock: FakeClock) -> None:
        holder = await begin(store, clock)
        clock.advance(30)
        await holder.commit(store, Released("worker_stopped"), holder.succeeded("first"))
        stored = await read(store, holder.job_id)
        assert (stored.summary.status, stored.owner) == (JobStatus.QUEUED, None)
        assert stored.summary.queued_at == clock.now()
        assert stored.summary.started_at is not None
        again = await claim_one(store, clock, "w2")
        assert_folds_to(again.claim, holder)

    async def test_row_says_how_far_the_job_is(self, store: JobStore, clock: FakeClock) -> None:
        holder = await begin(store, clock)
        clock.advance(1)
        started_at = (await summary(store, holder.job_id)).started_at
        await holder.commit(store, holder.succeeded("first"))
        row = await summary(store, holder.job_id)
        assert (row.progress, row.current_step, row.started_at) == (0.5, "second", started_at)
        assert row.events == holder.committed
        await holder.commit(store, holder.succeeded("second"))
        row = await summary(store, holder.job_id)
        assert (row.progress, row.current_step, row.completed_at) == (1.0, None, clock.now())

    async def test_row_says_what_went_wrong(self, store: JobStore, clock: FakeClock) -> None:
        holder = await begin(store, clock)
        await holder.commit(store, holder.failed("first", "größer\n'als\" gedacht"))
        row = await summary(store, holder.job_id)
        assert (row.error_type, row.error_message) == ("contract.broken", "größer\n'als\" gedacht")

    async def test_row_shows_marks_while_something_still_runs(self, store: JobStore, clock: FakeClock) -> None:
        holder = await begin(store, clock)
        await holder.commit(store, Requested("pause"))
        row = await summary(store, holder.job_id)
        assert (row.status, row.pause_requested, row.cancel_requested) == (JobStatus.RUNNING, True, False)
        await holder.commit(store, Requested("cancel"))
        row = await summary(store, holder.job_id)
        assert (row.status, row.pause_requested, row.cancel_requested) == (JobStatus.RUNNING, False, True)

    async def test_row_of_a_waiting_job_says_until_when(self, store: JobStore, clock: FakeClock) -> None:
        holder = await bring_to(store, clock, JobStatus.WAITING)
        row = await summary(store, holder.job_id)
        assert row.wake_at == as_datetime(clock.now_us() + 60 * SECOND_US)
        await settle(store, clock, holder.job_id, request("pause"))
        assert (await summary(store, holder.job_id)).wake_at is None
        assert await store.next_due_us() is None

    async def test_row_counts_threads_that_still_run(self, store: JobStore, clock: FakeClock) -> None:
        holder = await begin(store, clock)
        await holder.commit(store, holder.failed("first", abandoned=True))
        row = await summary(store, holder.job_id)
        assert (row.abandoned, row.display_status) == (1, "FAILED (1 abandoned attempt still runs)")
        await store.thread_ended(holder.job_id, "another")
        assert (await summary(store, holder.job_id)).abandoned == 1
        for _ in range(2):
            await store.thread_ended(holder.job_id, "w1")
            assert (await summary(store, holder.job_id)).abandoned == 0

    async def test_threads_are_counted_as_long_as_their_worker_may_run_them(
        self, store: JobStore, clock: FakeClock
    ) -> None:
        for worker in ("w1", "w2"):
            await store.register_worker(worker)
        holders = [await begin(store, clock, worker) for worker in ("w1", "w2")]
        for holder in holders:
            await holder.commit(store, holder.failed("first", abandoned=True))
        await store.unregister_worker("w1")  # nothing of it runs any more
        assert await store.bury_workers() == 0
        assert [(await summary(store, holder.job_id)).abandoned for holder in holders] == [0, 1]
        await store.unregister_worker("w2", threads_run=True)
        assert [(await summary(store, holder.job_id)).abandoned for holder in holders] == [0, 1]
        await store.thread_ended(holders[1].job_id, "w2")
        assert [(await summary(store, holder.job_id)).abandoned for holder in holders] == [0, 0]

    # ── snapshots ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def test_snapshot_stands_in_for_the_events_before_it(self, store: JobStore, clock: FakeClock) -> None:
        await accept(store, clock)
        holder = await claim_one(store, clock)
        await holder.commit(store, holder.started(), snapshot=True)
        stored = await read(store, holder.job_id)
        assert stored.snapshot is not None and stored.events == []
        assert_folds_to(stored, holder)
        later = await holder.commit(store, holder.succeeded("first"))
        stored = await read(store, holder.job_id)
        assert stored.snapshot is not None and stored.events == later.events
        assert_folds_to(stored, holder)
        assert len(await history(store, holder.job_id)) == holder.committed

    async def test_claim_brings_the_latest_snapshot(self, store: JobStore, clock: FakeClock) -> None:
        holder = await begin(store, clock, document=wide(600))
        await holder.commit(store, snapshot=True)
        await holder.commit(store, holder.failed("call", retry=RETRY_LATER), snapshot=True)
        woken = await wake(store, clock)
        again = await claim_one(store, clock, "w2")
        assert again.claim.snapshot is not None
        assert again.claim.events == (await history(store, holder.job_id))[holder.committed :]
        assert_folds_to(again.claim, woken)
        await again.commit(store, again.started())
