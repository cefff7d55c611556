"""The contract of parents and children: accepted, told and deleted with the commits and jobs they belong to."""

from __future__ import annotations

from dataclasses import replace

import pytest

from openagents_json.errors import LeaseLost
from openagents_json.job.model import JobPriority, JobStatus
from openagents_json.job.store.base import JobStore
from openagents_json.job.store.contract.jobs import (
    QUIET,
    Holder,
    WithClock,
    accept,
    begin,
    bring_to,
    claim_one,
    history,
    read,
    request,
)
from openagents_json.job.store.contract.jobs import new_job as any_job
from openagents_json.job.store.query import build_query
from openagents_json.job.store.records import NewJob
from openagents_json.testing import FakeClock


def child_of(clock: FakeClock, parent_id: str, *, start: bool = True) -> NewJob:
    """An attached child to accept."""
    return replace(any_job(clock, QUIET, start=start), parent_id=parent_id)


async def with_child(store: JobStore, clock: FakeClock) -> tuple[str, str]:
    """A completed parent with a child that has completed as well: their ids."""
    parent = await begin(store, clock)
    child = child_of(clock, parent.job_id)
    await store.commit(replace(parent.commit_of(parent.succeeded("first")), children=[child]))
    held = await claim_one(store, clock)
    await held.commit(store, held.started())
    await parent.commit(store, parent.succeeded("second"))
    return parent.job_id, child.job_id


@pytest.mark.asyncio
class FamilyContract(WithClock):
    """Children and posts: in the commit that causes them, or not at all."""

    @pytest.mark.guarantee("G1")
    async def test_children_are_accepted_with_the_commit(self, store: JobStore, clock: FakeClock) -> None:
        parent = await begin(store, clock)
        children = [child_of(clock, parent.job_id), child_of(clock, parent.job_id, start=False)]
        commit = replace(parent.commit_of(parent.succeeded("first")), children=children)
        await store.commit(commit)
        await store.commit(commit)  # again, after a lost reply
        for child in children:
            stored = await read(store, child.job_id)
            assert stored.summary.parent_id == parent.job_id
            assert stored.events == list(child.events)
        found = await store.list_jobs(build_query({"parent_id": parent.job_id}))
        assert {one.summary.id for one in found} == {child.job_id for child in children}
        assert (await claim_one(store, clock)).job_id == children[0].job_id

    async def test_refused_commit_accepts_no_children_and_posts_nothing(
        self, store: JobStore, clock: FakeClock
    ) -> None:
        other = await accept(store, clock, start=False)
        parent = await begin(store, clock)
        child = child_of(clock, parent.job_id)
        commit = replace(
            parent.commit_of(parent.succeeded("first")), children=[child], posts=[(other, request("pause"))]
        )
        with pytest.raises(LeaseLost):
            await store.commit(replace(commit, claim=replace(commit.claim, epoch=99)))
        assert await store.read(child.job_id) is None
        assert await store.read_requests(other) == []

    @pytest.mark.guarantee("G8")
    async def test_child_inherits_the_queue_time_of_its_parent(self, store: JobStore, clock: FakeClock) -> None:
        await accept(store, clock)
        clock.advance(100)
        parent = await claim_one(store, clock)
        await parent.commit(store, parent.started())
        stranger = await accept(store, clock)
        clock.advance(50)
        child = child_of(clock, parent.job_id)
        await store.commit(replace(parent.commit_of(parent.succeeded("first")), children=[child]))
        claims = await store.claim("w", 2)
        assert [claim.job_id for claim in claims] == [child.job_id, stranger]  # 100 s of waiting count for the child

    async def test_posts_come_with_the_commit_once_and_not_to_final_jobs(
        self, store: JobStore, clock: FakeClock
    ) -> None:
        done = (await bring_to(store, clock, JobStatus.COMPLETED)).job_id
        other = await accept(store, clock, start=False)
        parent = await begin(store, clock)
        post = request("set_priority", priority="HIGH")
        commit = replace(
            parent.commit_of(parent.succeeded("first")),
            posts=[(other, post), (other, post), (done, post), ("no-job", post)],
        )
        await store.commit(commit)
        await store.commit(commit)
        assert [one.key for one in await store.read_requests(other)] == [post.key]
        assert await store.read_requests(done) == []

    async def test_jobs_whose_requests_nobody_carried_out_are_found(self, store: JobStore, clock: FakeClock) -> None:
        other = await accept(store, clock, start=False)
        parent = await begin(store, clock)
        posts = [(other, request("set_priority", priority="HIGH")), (parent.job_id, request("pause"))]
        await store.commit(replace(parent.commit_of(parent.succeeded("first")), posts=posts))
        [claim] = await store.hold_requested("w2", 10)  # the parent is held: its holder sees to it
        assert claim.job_id == other and [one.kind for one in claim.requests] == ["set_priority"]
        assert await store.hold_requested("w2", 10) == []
        holder = Holder(clock, claim)
        await holder.commit(store, drains=claim.requests)
        assert (await read(store, other)).summary.priority == JobPriority.HIGH
        assert await store.hold_requested("w2", 10) == []

    async def test_parent_is_deleted_with_its_children_and_a_child_not_alone(
        self, store: JobStore, clock: FakeClock
    ) -> None:
        parent, child = await with_child(store, clock)
        assert await store.delete(child) is False
        assert await store.delete(parent) is True
        assert await store.read(child) is None
        assert await history(store, child) == []

    async def test_parent_with_a_child_that_is_not_final_stays(self, store: JobStore, clock: FakeClock) -> None:
        parent = await begin(store, clock)
        child = child_of(clock, parent.job_id)
        await store.commit(replace(parent.commit_of(parent.succeeded("first")), children=[child]))
        await parent.commit(store, parent.succeeded("second"))
        assert (await read(store, parent.job_id)).summary.status == JobStatus.COMPLETED
        assert await store.delete(parent.job_id) is False
        clock.advance(100)
        assert await store.delete_final(clock.now_us(), 10) == 0
        held = await claim_one(store, clock)
        await held.commit(store, held.started())
        clock.advance(100)
        assert await store.delete_final(clock.now_us(), 10) == 1
        assert await store.read(child.job_id) is None

    async def test_parent_that_has_to_stay_does_not_keep_later_jobs(self, store: JobStore, clock: FakeClock) -> None:
        parent = await begin(store, clock)
        child = child_of(clock, parent.job_id, start=False)
        await store.commit(replace(parent.commit_of(parent.succeeded("first")), children=[child]))
        await parent.commit(store, parent.succeeded("second"))
        clock.advance(1)
        late = (await begin(store, clock, document=QUIET)).job_id
        clock.advance(100)
        assert [await store.delete_final(clock.now_us(), 1) for _ in range(2)] == [1, 0]
        assert await store.read(late) is None
        assert not await store.delete(parent.job_id)
        assert await store.read(child.job_id) is not None
        assert await store.read(parent.job_id) is not None

    async def test_retention_leaves_children_to_their_parents(self, store: JobStore, clock: FakeClock) -> None:
        parent = await begin(store, clock)
        child = child_of(clock, parent.job_id)
        await store.commit(replace(parent.commit_of(parent.succeeded("first")), children=[child]))
        held = await claim_one(store, clock)
        await held.commit(store, held.started())
        clock.advance(1_000)
        assert await store.delete_final(clock.now_us(), 10) == 0, "the parent still runs and may look at it"

    async def test_retries_know_their_origin_and_are_found_by_it(self, store: JobStore, clock: FakeClock) -> None:
        origin = (await bring_to(store, clock, JobStatus.FAILED)).job_id
        retries = [replace(any_job(clock, QUIET), origin_id=origin, idempotency_key=key) for key in (None, "k")]
        for one in retries:
            assert await store.create(one) == one.job_id
        other = await accept(store, clock, QUIET)
        found = await store.list_jobs(build_query({"origin_id": origin}, order="created_at"))
        assert [one.summary.id for one in found] == [one.job_id for one in retries]
        assert {one.summary.origin_id for one in found} == {origin}
        assert (await read(store, retries[0].job_id)).summary.origin_id == origin
        begun = replace(any_job(clock, QUIET), origin_id=origin)  # with half of its results taken over
        await store.create(replace(begun, row=replace(begun.row, progress=0.5)))
        assert (await read(store, begun.job_id)).summary.progress == 0.5
        unrelated = await store.list_jobs(build_query({"origin_id": None}))
        assert {one.summary.id for one in unrelated} == {origin, other}

    async def test_retry_stays_when_its_origin_is_deleted(self, store: JobStore, clock: FakeClock) -> None:
        origin = (await bring_to(store, clock, JobStatus.FAILED)).job_id
        retry = replace(any_job(clock, QUIET), origin_id=origin)
        await store.create(retry)
        assert await store.delete(origin) is True
        held = await claim_one(store, clock)
        await held.commit(store, held.started())
        found = (await read(store, retry.job_id)).summary
        assert (found.status, found.origin_id) == (JobStatus.COMPLETED, origin)
