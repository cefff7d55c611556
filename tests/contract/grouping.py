"""What stores promise that write many operations in one transaction. The test module has the fixtures."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from openagents_json.errors import StoreError
from openagents_json.job.store import PostgresJobStore, SqliteJobStore
from openagents_json.job.store.contract.jobs import (
    QUIET,
    Holder,
    accept,
    begin,
    history,
    new_job,
)
from openagents_json.job.store.query import build_query
from openagents_json.testing import FakeClock

GroupingStore = SqliteJobStore | PostgresJobStore


class GroupContract:
    """One that is refused does not harm the others of its group."""

    async def test_many_commits_at_once_take_few_transactions(self, store: GroupingStore, clock: FakeClock) -> None:
        await asyncio.gather(*(accept(store, clock, QUIET) for _ in range(500)))
        holders = [Holder(clock, claim) for claim in await store.claim("w1", 500)]
        before = store.stats()["commits"]
        await asyncio.gather(*(holder.commit(store, holder.started()) for holder in holders))
        assert store.stats()["commits"] - before <= 5
        listed = await store.list_jobs(build_query({"status": "COMPLETED"}, limit=1_000))
        assert len(listed) == 500

    async def test_impossible_job_is_refused_and_its_neighbours_are_accepted(
        self, store: GroupingStore, clock: FakeClock
    ) -> None:
        jobs = [new_job(clock) for _ in range(6)]
        jobs[2] = replace(jobs[2], row=replace(jobs[2].row, rank=9))
        jobs[4] = replace(jobs[4], created_us=2**70)
        results = await asyncio.gather(*(store.create(job) for job in jobs), return_exceptions=True)
        refused = [index for index, result in enumerate(results) if type(result) is StoreError]
        assert refused == [2, 4]
        listed = await store.list_jobs(build_query())
        assert {one.summary.id for one in listed} == {job.job_id for job in jobs} - {jobs[2].job_id, jobs[4].job_id}

    async def test_impossible_commit_is_refused_and_its_neighbours_are_written(
        self, store: GroupingStore, clock: FakeClock
    ) -> None:
        holders = [await begin(store, clock) for _ in range(4)]
        commits = [holder.commit_of(holder.succeeded("first")) for holder in holders]
        commits[1] = replace(commits[1], row=replace(commits[1].row, progress=7.0))
        results = await asyncio.gather(*(store.commit(commit) for commit in commits), return_exceptions=True)
        assert [type(result) for result in results] == [type(None), StoreError, type(None), type(None)]
        for holder, commit in zip(holders, commits, strict=True):
            written = len(commit.events) if commit.row.progress < 1 else 0
            assert len(await history(store, holder.job_id)) == commit.expected + written

    async def test_close_finishes_what_was_submitted(self, store: GroupingStore, clock: FakeClock) -> None:
        store.commit_delay_s = 0.05
        creating = [asyncio.create_task(accept(store, clock)) for _ in range(50)]
        await asyncio.sleep(0)
        await store.close()
        ids = await asyncio.gather(*creating)
        await store.open()
        assert {one.summary.id for one in await store.list_jobs(build_query())} == set(ids)

    async def test_cancelled_caller_does_not_disturb_its_group(self, store: GroupingStore, clock: FakeClock) -> None:
        store.commit_delay_s = 0.05
        creating = [asyncio.create_task(accept(store, clock)) for _ in range(3)]
        await asyncio.sleep(0.01)
        creating[1].cancel()
        results = await asyncio.gather(*creating, return_exceptions=True)
        assert [type(result) for result in results] == [str, asyncio.CancelledError, str]
        assert len(await store.list_jobs(build_query())) == 3  # it was too late: what is committed stays
