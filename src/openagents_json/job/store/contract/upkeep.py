"""The contract of upkeep: deleting, retention, counters, closing."""

from __future__ import annotations

import asyncio

import pytest

from openagents_json.job.machine import Requested
from openagents_json.job.model import FINAL, JobPriority, JobStatus
from openagents_json.job.store.base import JobStore
from openagents_json.job.store.contract.jobs import (
    CALLS,
    OTHER_CALLS,
    QUIET,
    Holder,
    WithClock,
    accept,
    begin,
    bring_to,
    claim_one,
    history,
    plan_of,
    read,
    request,
    summary,
)
from openagents_json.job.store.deleting import ROOTS_AT_ONCE
from openagents_json.job.store.query import build_query
from openagents_json.testing import FakeClock


@pytest.mark.asyncio
class UpkeepContract(WithClock):
    """Deleting and cleaning up: only what has ended or never began."""

    @pytest.mark.parametrize("status", list(JobStatus))
    async def test_only_created_and_final_jobs_are_deleted(
        self, store: JobStore, clock: FakeClock, status: JobStatus
    ) -> None:
        if status in (JobStatus.CREATED, JobStatus.QUEUED):
            job_id = await accept(store, clock, start=status == JobStatus.QUEUED)
        else:
            job_id = (await bring_to(store, clock, status)).job_id
        before = await read(store, job_id)
        if status == JobStatus.CREATED or status in FINAL:
            assert [await store.delete(job_id), await store.delete(job_id)] == [True, False]
            assert await store.read(job_id) is None
        else:
            assert await store.delete(job_id) is False
            assert await read(store, job_id) == before

    async def test_held_job_is_not_deleted(self, store: JobStore, clock: FakeClock) -> None:
        job_id = await accept(store, clock, start=False)
        held = await store.hold(job_id, "caller", request("start"))
        assert held is not None and held.claim is not None
        assert await store.delete(job_id) is False
        holder = Holder(clock, held.claim)
        await holder.commit(store, drains=held.claim.requests)
        assert len(await history(store, job_id)) == 2

    async def test_nothing_is_left_of_a_deleted_job_and_all_of_the_others(
        self, store: JobStore, clock: FakeClock
    ) -> None:
        kept = await begin(store, clock, document=QUIET)
        gone = await accept(store, clock, start_in_s=5, tags=("gone",), key="k")
        before = await read(store, kept.job_id)
        held = await store.hold(gone, "caller", request("set_priority", priority="LOW"))
        assert held is not None and held.claim is not None
        await store.release(held.claim)
        assert await store.delete(gone)
        clock.advance(10)
        assert await store.read_events(gone) == []
        assert await store.read_requests(gone) == []
        assert await store.find_ids(gone) == []
        assert (await store.hold_due("w1", 10), await store.next_due_us()) == ([], None)
        assert [listed.summary.id for listed in await store.list_jobs(build_query())] == [kept.job_id]
        assert await read(store, kept.job_id) == before

    async def test_old_final_jobs_are_deleted_in_batches(self, store: JobStore, clock: FakeClock) -> None:
        old = [(await begin(store, clock, document=QUIET)).job_id for _ in range(5)]
        unfinished = (await begin(store, clock)).job_id
        clock.advance(60)
        before_us = clock.now_us()
        young = (await begin(store, clock, document=QUIET)).job_id
        counts = [await store.delete_final(before_us, 2) for _ in range(4)]
        assert counts == [2, 2, 1, 0]
        left = {listed.summary.id for listed in await store.list_jobs(build_query())}
        assert left == {unfinished, young}
        for job_id in old:
            assert await store.read(job_id) is None

    async def test_of_jobs_that_ended_at_one_moment_those_accepted_first_are_deleted_first(
        self, store: JobStore, clock: FakeClock
    ) -> None:
        ids = ["c", "a", "b"]
        for job_id in ids:
            await accept(store, clock, QUIET, job_id=job_id)
        for claim in await store.claim("w1", 3):
            holder = Holder(clock, claim)
            await holder.commit(store, holder.started())
        clock.advance(1)
        for count in (1, 2, 3):
            assert await store.delete_final(clock.now_us(), 1) == 1
            assert [job_id for job_id in ids if await store.read_summary(job_id) is not None] == ids[count:]

    async def test_transaction_that_deletes_ends_when_its_time_is_up(self, store: JobStore, clock: FakeClock) -> None:
        old = [(await begin(store, clock, document=QUIET)).job_id for _ in range(2 * ROOTS_AT_ONCE + 3)]
        clock.advance(60)
        before_us, counts = clock.now_us(), []
        while deleted := await store.delete_final(before_us, len(old), within_s=0.0):
            counts.append(deleted)
        assert sum(counts) == len(old)
        assert max(counts) <= ROOTS_AT_ONCE, "the time was up after the first few"
        assert await store.list_jobs(build_query()) == []

    async def test_commit_waits_for_one_transaction_that_deletes(self, store: JobStore, clock: FakeClock) -> None:
        """And for one more that it shares: deletes may go with it."""
        for _ in range(4 * ROOTS_AT_ONCE):
            await begin(store, clock, document=QUIET)
        holder = await begin(store, clock)
        clock.advance(60)
        before_us, batches, waits = clock.now_us(), 0, []

        async def delete_all() -> None:
            nonlocal batches
            while await store.delete_final(before_us, 1_000, within_s=0.0):
                batches += 1
                await asyncio.sleep(0)

        deleting = asyncio.create_task(delete_all())
        for priority in ("HIGH", "LOW", "CRITICAL"):
            begun = batches
            await holder.commit(store, Requested("set_priority", "somebody", None, {"priority": priority}))
            waits.append(batches - begun)
        await deleting
        assert batches >= 4
        assert max(waits) <= 2
        assert (await summary(store, holder.job_id)).priority == JobPriority.CRITICAL

    async def test_facts_count_what_is_there(self, store: JobStore, clock: FakeClock) -> None:
        first_us = clock.now_us()
        ended = await begin(store, clock, document=QUIET)
        clock.advance(60)
        await accept(store, clock)
        await accept(store, clock, OTHER_CALLS, start=False)
        await store.register_worker("w1")
        facts = await store.facts()
        assert facts.jobs == {JobStatus.COMPLETED: 1, JobStatus.QUEUED: 1, JobStatus.CREATED: 1}
        assert facts.events == ended.state.number + 2 + 1
        assert (facts.definitions, facts.workers, facts.leaks) == (3, 1, 0)
        assert (facts.oldest_us, facts.newest_us) == (first_us, clock.now_us())
        assert (facts.schema, facts.pending) == (facts.known_schema, ())
        assert facts.disk_bytes == sum(facts.sizes.values())

    async def test_facts_of_an_empty_store(self, store: JobStore, clock: FakeClock) -> None:
        facts = await store.facts()
        assert (facts.jobs, facts.events, facts.definitions, facts.workers) == ({}, 0, 0, 0)
        assert (facts.oldest_us, facts.newest_us) == (None, None)

    async def test_hashes_of_definitions_come_in_order_and_in_pages(self, store: JobStore, clock: FakeClock) -> None:
        for document in (CALLS, OTHER_CALLS, QUIET, CALLS):
            await accept(store, clock, document)
        hashes = sorted(plan_of(document).workflow.content_hash for document in (CALLS, OTHER_CALLS, QUIET))
        assert await store.definition_hashes() == hashes
        assert await store.definition_hashes("", 2) == hashes[:2]
        assert await store.definition_hashes(hashes[1], 2) == hashes[2:]
        assert await store.definition_hashes(hashes[2]) == []

    async def test_store_of_jobs_of_every_status_has_no_flaws(self, store: JobStore, clock: FakeClock) -> None:
        for status in (JobStatus.WAITING, JobStatus.PAUSED, *FINAL, JobStatus.RUNNING):
            await bring_to(store, clock, status)
        held = await store.hold(await accept(store, clock, start=False), "caller", request("start"))
        assert held is not None
        assert await store.verify() == []

    async def test_vacuum_keeps_every_answer(self, store: JobStore, clock: FakeClock) -> None:
        for _ in range(3):
            await begin(store, clock, document=QUIET)
        kept = await bring_to(store, clock, JobStatus.PAUSED)
        clock.advance(1)
        assert await store.delete_final(clock.now_us(), 10) == 3
        before = await read(store, kept.job_id)
        done = await store.vacuum()
        assert done.after_bytes <= done.before_bytes + 1024 * 1024  # maps of free room may be made
        assert await read(store, kept.job_id) == before
        again = await accept(store, clock)
        assert (await claim_one(store, clock)).job_id == again

    async def test_counters_rise_with_what_is_written(self, store: JobStore, clock: FakeClock) -> None:
        before = store.stats()
        assert set(before) >= {"commits", "rows", "syncs"}
        await accept(store, clock)
        await claim_one(store, clock)
        after = store.stats()
        assert after["commits"] > before["commits"]
        assert after["rows"] > before["rows"]

    async def test_foreign_changes_are_asked_without_waiting(self, store: JobStore, clock: FakeClock) -> None:
        await accept(store, clock)
        assert isinstance(store.has_foreign_changes(), bool)

    async def test_store_closes_twice(self, store: JobStore, clock: FakeClock) -> None:
        await accept(store, clock)
        await store.close()
        await store.close()
