"""The contract of moving: jobs are read whole, and restored whole or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from openagents_json.errors import IdempotencyConflict, LimitReached
from openagents_json.job.machine import Claimed, Requested, Tick
from openagents_json.job.model import JobStatus
from openagents_json.job.store.base import JobStore
from openagents_json.job.store.contract.family import child_of, with_child
from openagents_json.job.store.contract.jobs import (
    CALLS,
    Holder,
    WithClock,
    accept,
    assert_folds_to,
    begin,
    bring_to,
    claim_one,
    document_of,
    history,
    new_job,
    plan_of,
    read,
    request,
    summary,
)
from openagents_json.job.store.contract.leaks import leak
from openagents_json.job.store.limits import Hold, Limit, Overflow
from openagents_json.job.store.memory import MemoryJobStore
from openagents_json.job.store.moving import MovedJob
from openagents_json.job.store.query import build_query
from openagents_json.job.store.records import Definition
from openagents_json.job.store.rules import SUSPECT_DEATHS
from openagents_json.testing import FakeClock


async def family(store: JobStore, job_id: str) -> list[MovedJob]:
    """The job and its attached children with all that `restore` wants."""
    return [
        replace(one, new=replace(one.new, events=await history(store, one.id), definition=definition_of(one)))
        for one in await store.read_family(job_id)
    ]


def definition_of(job: MovedJob) -> Definition:
    """The definition with its document."""
    return replace(job.new.definition, document=document_of(job.new.definition.hash))


def bare(jobs: Sequence[MovedJob]) -> list[MovedJob]:
    """Without what a store numbers by itself, and what a restored job does not keep."""
    return [
        replace(
            one,
            new=replace(one.new, tags=tuple(one.new.tags), events=list(one.new.events)),
            owner=one.keeper,
            requests=[replace(request, sequence=0) for request in one.requests],
            drained=sorted(one.drained),
            leaks=[replace(leak, key=0) for leak in one.leaks],
        )
        for one in jobs
    ]


async def elsewhere(clock: FakeClock) -> MemoryJobStore:
    """Another store, which jobs come from."""
    store = MemoryJobStore(clock)
    await store.register_worker("gone")
    return store


async def moved(source: JobStore, target: JobStore, job_id: str) -> list[MovedJob]:
    """Take a family over; what was read of it."""
    jobs = await family(source, job_id)
    assert await target.restore(jobs) == []
    return jobs


@pytest.mark.asyncio
class MovingContract(WithClock):
    """`read_family` and `restore`."""

    @pytest.mark.parametrize("status", [status for status in JobStatus if status not in ("CREATED", "QUEUED")])
    @pytest.mark.guarantee("G1")
    async def test_restored_job_is_what_was_read(self, store: JobStore, clock: FakeClock, status: JobStatus) -> None:
        holder = await bring_to(store, clock, status)
        jobs = await family(store, holder.job_id)
        before = await summary(store, holder.job_id)
        other = await elsewhere(clock)
        assert await other.restore(jobs) == []
        assert bare(await family(other, holder.job_id)) == bare(jobs)
        assert await other.read_summary(holder.job_id) == before
        assert_folds_to(await read(other, holder.job_id), holder)

    @pytest.mark.parametrize("status", list(JobStatus))
    @pytest.mark.guarantee("G1")
    async def test_job_of_another_store_is_restored(self, store: JobStore, clock: FakeClock, status: JobStatus) -> None:
        source = await elsewhere(clock)
        if status in ("CREATED", "QUEUED"):
            tags, key = ("a", "b\x00ü"), "the key"
            job_id = await accept(source, clock, start=status == "QUEUED", tags=tags, key=key)
        else:
            job_id = (await bring_to(source, clock, status, "gone")).job_id
        jobs = await moved(source, store, job_id)
        assert await summary(store, job_id) == await summary(source, job_id)
        assert await history(store, job_id) == await history(source, job_id)
        assert bare(await family(store, job_id)) == bare(jobs)
        found = await store.list_jobs(build_query({"status": str(status)}))
        assert [one.summary.id for one in found] == [job_id]

    async def test_restoring_again_changes_nothing(self, store: JobStore, clock: FakeClock) -> None:
        source = await elsewhere(clock)
        ids = [await accept(source, clock) for _ in range(2)]
        first = await moved(source, store, ids[0])
        taken = await claim_one(store, clock)
        await taken.commit(store, taken.started())
        both = [*await family(source, ids[1]), *first]
        assert await store.restore(both) == [ids[0]]
        assert await store.read(ids[1]) is None
        assert_folds_to(await read(store, ids[0]), taken)
        assert await store.restore([]) == []

    @pytest.mark.guarantee("G2")
    async def test_running_job_is_an_orphan(self, store: JobStore, clock: FakeClock) -> None:
        source = await elsewhere(clock)
        there = await begin(source, clock, "gone")
        await store.register_worker("w1")
        await moved(source, store, there.job_id)
        assert await store.claim("w1", 10) == []
        [claim] = await store.hold_orphans("w1", 10)
        assert (claim.job_id, claim.previous_owner) == (there.job_id, "gone")
        assert claim.epoch > there.claim.epoch
        holder = Holder(clock, claim)
        await holder.commit(store, holder.succeeded("first"))
        await holder.commit(store, holder.succeeded("second"))
        assert (await summary(store, there.job_id)).status == JobStatus.COMPLETED

    async def test_queued_job_is_claimed_in_its_turn(self, store: JobStore, clock: FakeClock) -> None:
        source = await elsewhere(clock)
        first = await accept(source, clock)
        clock.advance(5)
        here = await accept(store, clock)
        clock.advance(5)
        last = await accept(source, clock)
        for job_id in (last, first):
            await moved(source, store, job_id)
        assert [one.job_id for one in await store.claim("w1", 10)] == [first, here, last]

    async def test_lease_of_a_job_that_is_not_running_does_not_move(self, store: JobStore, clock: FakeClock) -> None:
        source = await elsewhere(clock)
        job_id = await accept(source, clock)
        there = await claim_one(source, clock, "gone")
        await moved(source, store, job_id)
        here = await claim_one(store, clock)
        assert here.job_id == job_id and here.claim.epoch > there.claim.epoch

    async def test_timers_move(self, store: JobStore, clock: FakeClock) -> None:
        source = await elsewhere(clock)
        waiting = (await bring_to(source, clock, JobStatus.WAITING, "gone")).job_id
        created = await accept(source, clock, start_in_s=90)
        for job_id in (waiting, created):
            await moved(source, store, job_id)
        assert await store.next_due_us() == await source.next_due_us() is not None
        clock.advance(3_600)
        due = {claim.job_id: Holder(clock, claim) for claim in await store.hold_due("w1", 10)}
        assert due.keys() == {waiting, created}
        for holder in due.values():
            await holder.commit(store, Tick())
        assert len(await store.claim("w1", 10)) == 2

    async def test_paused_job_stays_paused_until_it_is_resumed(self, store: JobStore, clock: FakeClock) -> None:
        source = await elsewhere(clock)
        job_id = (await bring_to(source, clock, JobStatus.PAUSED, "gone")).job_id
        await moved(source, store, job_id)
        assert await store.claim("w1", 10) == [] and await store.hold_orphans("w1", 10) == []
        held = await store.hold(job_id, "w1", request("resume"))
        assert held is not None and held.claim is not None
        resumed = Holder(clock, held.claim)
        await resumed.commit(store, drains=held.claim.requests)
        assert (await claim_one(store, clock)).job_id == job_id

    @pytest.mark.guarantee("G7")
    async def test_requests_move_and_are_not_asked_twice(self, store: JobStore, clock: FakeClock) -> None:
        source = await elsewhere(clock)
        there = await begin(source, clock, "gone")
        await source.hold(there.job_id, "caller", request("set_priority", "done", priority="LOW"))
        [asked] = await source.read_requests(there.job_id)
        await there.commit(source, drains=[asked])
        for key in ("b", "a"):
            await source.hold(there.job_id, "caller", request("signal", key, name="go", payload={"of": key}))
        await accept(store, clock)  # sequences of this store are not those of the other one
        await moved(source, store, there.job_id)
        requests = await store.read_requests(there.job_id)
        assert [(one.key, one.kind, one.payload) for one in requests] == [
            ("b", "signal", {"name": "go", "payload": {"of": "b"}}),
            ("a", "signal", {"name": "go", "payload": {"of": "a"}}),
        ]
        [claim] = await store.hold_orphans("w1", 10)
        for key in ("done", "a"):
            await store.hold(there.job_id, "caller", request("pause", key))
        assert [one.key for one in await store.read_requests(there.job_id)] == ["b", "a"]
        holder = Holder(clock, claim)
        await holder.commit(store, drains=claim.requests)
        assert await store.read_requests(there.job_id) == []

    async def test_children_move_with_their_parents(self, store: JobStore, clock: FakeClock) -> None:
        source = await elsewhere(clock)
        parent, child = await with_child(source, clock)
        await accept(source, clock)
        assert [one.id for one in await source.read_family(parent)] == [parent, child]
        await moved(source, store, parent)
        assert [one.id for one in await store.read_family(parent)] == [parent, child]
        assert not await store.delete(child)
        assert await store.delete(parent)
        assert await store.read(child) is None
        assert await store.read_family(parent) == []

    @pytest.mark.guarantee("G1")
    async def test_family_is_read_at_one_moment(self, store: JobStore, clock: FakeClock) -> None:
        """A parent of one moment and a child of another would wait for each other where they go."""
        parent = await begin(store, clock)
        before, readings, was_read = parent.committed, 0, asyncio.Event()

        async def give_birth(times: int) -> None:
            for number in range(times):
                asked = Requested("set_priority", "x", None, {"priority": ("LOW", "HIGH")[number % 2]})
                child = child_of(clock, parent.job_id, start=False)
                await store.commit(replace(parent.commit_of(asked), children=[child]))
                await asyncio.sleep(0)
                if number == times // 2:
                    await was_read.wait()  # however slow the reader is, it reads in between

        writing = asyncio.create_task(give_birth(30))
        while not writing.done():
            root, *children = await store.read_family(parent.job_id)
            assert root.new.row.last_event - before == len(children)
            readings += 1
            was_read.set()
            await asyncio.sleep(0)
        await writing
        assert len(await store.read_family(parent.job_id)) == 31 and readings > 1

    async def test_leaks_move_with_their_job(self, store: JobStore, clock: FakeClock) -> None:
        source = await elsewhere(clock)
        there, other = await leak(source, clock), await leak(source, clock)
        await source.note_leak(there.key, there.error)
        [job] = await moved(source, store, there.job_id)
        assert [(one.resource_id, one.tries) for one in job.leaks] == [(there.resource_id, 1)]
        assert [replace(one, key=0) for one in await store.list_leaks()] == [replace(job.leaks[0], key=0)]
        await moved(source, store, other.job_id)
        first, last = await store.list_leaks()
        assert first.key < last.key and last.job_id == other.job_id

    async def test_leak_that_has_stayed_is_not_doubled(self, store: JobStore, clock: FakeClock) -> None:
        source = await elsewhere(clock)
        there = await leak(source, clock)
        for _ in range(2):
            await moved(source, store, there.job_id)
            assert await store.count_leaks() == 1
            assert await store.delete(there.job_id)
        assert await store.count_leaks() == 1

    async def test_poison_moves(self, store: JobStore, clock: FakeClock) -> None:
        source = await elsewhere(clock)
        job_id = await accept(source, clock)
        [job] = await family(source, job_id)
        job = replace(job, new=replace(job.new, row=replace(job.new.row, deaths=SUSPECT_DEATHS)))
        await store.restore([job])
        assert await store.claim("w1", 10) == []
        assert [one.job_id for one in await store.claim("w1", 10, suspects=True)] == [job_id]

    async def test_long_history_is_restored_whole(self, store: JobStore, clock: FakeClock) -> None:
        source = await elsewhere(clock)
        there = await begin(source, clock, "gone")
        for number in range(700):
            await there.commit(source, Requested("set_priority", "x", None, {"priority": ("LOW", "HIGH")[number % 2]}))
        await moved(source, store, there.job_id)
        assert await history(store, there.job_id) == await history(source, there.job_id)
        assert len(await history(store, there.job_id)) > 700

    @pytest.mark.guarantee("G7")
    async def test_key_of_another_job_is_refused_and_nothing_is_written(
        self, store: JobStore, clock: FakeClock
    ) -> None:
        here = await accept(store, clock, key="once")
        source = await elsewhere(clock)
        ids = [await accept(source, clock), await accept(source, clock, key="once")]
        jobs = [job for job_id in ids for job in await family(source, job_id)]
        with pytest.raises(IdempotencyConflict, match=here):
            await store.restore(jobs)
        assert await store.read(ids[0]) is None
        without = [replace(job, new=replace(job.new, idempotency_key=None)) for job in jobs]
        assert await store.restore(without) == []

    @pytest.mark.guarantee("G7")
    async def test_key_of_a_restored_job_is_known(self, store: JobStore, clock: FakeClock) -> None:
        source = await elsewhere(clock)
        job_id = await accept(source, clock, key="once", body="the body")
        await moved(source, store, job_id)
        assert await accept(store, clock, key="once", body="the body") == job_id
        with pytest.raises(IdempotencyConflict):
            await accept(store, clock, key="once", body="another")

    async def test_two_jobs_with_one_key_are_refused(self, store: JobStore, clock: FakeClock) -> None:
        source, other = await elsewhere(clock), await elsewhere(clock)
        jobs = [job for one in (source, other) for job in await family(one, await accept(one, clock, key="once"))]
        with pytest.raises(IdempotencyConflict, match=jobs[0].id):
            await store.restore(jobs)
        assert await store.read_summary(jobs[0].id) is None

    # ── limits ────────────────────────────────────────────────────────────────────────────────────────────────────

    @pytest.mark.parametrize("hold", ["job", "running"])
    async def test_job_that_is_on_keeps_its_slot(self, store: JobStore, clock: FakeClock, hold: Hold) -> None:
        source = await elsewhere(clock)
        on, waits = [await limited(source, clock, hold=hold) for _ in range(2)]
        there = await claim_one(source, clock, "gone")
        await there.commit(source, Claimed("gone", there.claim.epoch))
        for job_id in (on, waits):
            jobs = await moved(source, store, job_id)
            assert bare(await family(store, job_id)) == bare(jobs)
        assert await store.claim("w1", 10) == []
        [claim] = await store.hold_orphans("w1", 10)
        assert claim.has_slot and claim.job_id == on
        stored = await store.read_limit(waits)
        assert stored is not None and not stored.has_slot and list(stored.held_by) == [on]
        holder = Holder(clock, claim)
        await holder.commit(store, holder.succeeded("first"))
        await holder.commit(store, holder.succeeded("second"))
        assert (await claim_one(store, clock)).job_id == waits

    async def test_job_that_is_on_is_refused_where_no_slot_is_free(self, store: JobStore, clock: FakeClock) -> None:
        here = await limited(store, clock)
        source = await elsewhere(clock)
        on, other = await limited(source, clock), await accept(source, clock)
        there = await claim_one(source, clock, "gone")
        await there.commit(source, Claimed("gone", there.claim.epoch))
        jobs = [*await family(source, other), *await family(source, on)]
        with pytest.raises(LimitReached, match=here) as refused:
            await store.restore(jobs)
        assert refused.value.job_id == on
        assert await store.read(other) is None

    @pytest.mark.parametrize("overflow", ["queue", "replace"])
    async def test_job_that_was_not_on_waits_for_a_slot(
        self, store: JobStore, clock: FakeClock, overflow: Overflow
    ) -> None:
        source = await elsewhere(clock)
        job_id = await limited(source, clock, overflow=overflow)
        clock.advance(5)
        here = await limited(store, clock, overflow=overflow)
        await claim_one(store, clock)
        await moved(source, store, job_id)
        assert await store.claim("w1", 10) == []
        assert await store.read_requests(here) == []
        stored = await store.read_limit(job_id)
        assert stored is not None and not stored.has_slot

    async def test_queued_job_that_would_be_rejected_is_refused(self, store: JobStore, clock: FakeClock) -> None:
        source = await elsewhere(clock)
        job_id = await limited(source, clock, overflow="reject")
        await limited(store, clock, overflow="reject")
        with pytest.raises(LimitReached):
            await store.restore(await family(source, job_id))


async def limited(store: JobStore, clock: FakeClock, *, hold: Hold = "job", overflow: Overflow = "queue") -> str:
    """A job with a limit of one; its id."""
    limit = Limit(plan_of(CALLS).workflow.id, 1, hold, overflow)
    return await store.create(replace(new_job(clock), limit=limit))
