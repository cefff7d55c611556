"""The contract of resources: jobs go to workers that have enough of what their next steps occupy."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import pytest

from openagents_json.job.machine import Claimed, Released
from openagents_json.job.model import JobStatus
from openagents_json.job.store.base import JobStore
from openagents_json.job.store.contract.jobs import Holder, WithClock, accept, assert_folds_to, begin, read, summary
from openagents_json.job.store.contract.leases import having
from openagents_json.job.store.records import WorkerInfo
from openagents_json.job.store.shortages import Short
from openagents_json.resources import Offers
from openagents_json.testing import FakeClock


def needing(**resources: float) -> dict[str, Any]:
    """A definition whose one step occupies that."""
    return {"id": "needing", "steps": [{"id": "first", "component": "tool.first", "resources": resources}]}


async def claimed(store: JobStore, offers: Offers | None, *, suspects: bool = False) -> list[str]:
    """The ids of what a worker with these offers takes."""
    return [claim.job_id for claim in await store.claim("w1", 10, offers, suspects=suspects)]


@pytest.mark.asyncio
class ResourceContract(WithClock):
    """Claims by what workers have of each resource."""

    async def test_job_goes_to_a_worker_with_enough_of_every_resource(self, store: JobStore, clock: FakeClock) -> None:
        both = await accept(store, clock, needing(gpu=2, memory_mb=512))
        assert (await summary(store, both)).requires == ('tool.first {"gpu":2,"memory_mb":512}',)
        for offers in (
            having("tool.first"),
            having("tool.first", gpu=2),
            having("tool.first", gpu=1, memory_mb=1_024),
            having("tool.first", gpu=1.999, memory_mb=1_024),
            having("tool.other", gpu=2, memory_mb=512),
            having(),
        ):
            assert await claimed(store, offers) == []
        assert await claimed(store, having("tool.first", gpu=2, memory_mb=512)) == [both]

    async def test_worker_with_everything_takes_what_needs_resources(self, store: JobStore, clock: FakeClock) -> None:
        job_id = await accept(store, clock, needing(gpu=2))
        assert await claimed(store, None) == [job_id]

    @pytest.mark.parametrize("amount", [0.001, 0.1, 0.3, 1.5, 1_000_000_000])
    async def test_amounts_are_exact(self, store: JobStore, clock: FakeClock, amount: float) -> None:
        job_id = await accept(store, clock, needing(cpu=amount))
        assert await claimed(store, having("tool.first", cpu=amount - 0.001)) == []
        assert await claimed(store, having("tool.first", cpu=amount)) == [job_id]

    async def test_order_of_the_queue_does_not_depend_on_what_jobs_occupy(
        self, store: JobStore, clock: FakeClock
    ) -> None:
        ids = []
        for resources in ({"gpu": 2.0}, {}, {"gpu": 1.0}, {"browser": 1.0}, {"gpu": 3.0}):
            ids.append(await accept(store, clock, needing(**resources)))
            clock.advance(1)
        offers = having("tool.first", gpu=2, browser=4)
        assert [claim.job_id for claim in await store.claim("w1", 2, offers)] == ids[:2]
        assert await claimed(store, offers) == ids[2:4]
        assert (await summary(store, ids[4])).status == JobStatus.QUEUED
        assert await claimed(store, having("tool.first", gpu=3)) == [ids[4]]

    async def test_one_of_several_steps_is_enough(self, store: JobStore, clock: FakeClock) -> None:
        step = {"component": "tool.first", "needs": []}
        definition = {
            "id": "several",
            "steps": [
                {"id": "wide", "resources": {"gpu": 8}} | step,
                {"id": "other", "resources": {"browser": 1}} | step,
            ],
        }
        job_id = await accept(store, clock, definition)
        assert (await summary(store, job_id)).requires == ('tool.first {"browser":1}', 'tool.first {"gpu":8}')
        assert await claimed(store, having("tool.first", gpu=7)) == []
        assert await claimed(store, having("tool.first", browser=1)) == [job_id]

    async def test_job_that_goes_on_elsewhere_says_how_much_it_needs(self, store: JobStore, clock: FakeClock) -> None:
        holder = await begin(store, clock)

        def out_of_reach(component: str, node: Any) -> str | None:
            return 'tool.second {"gpu":4}' if component == "tool.second" else None

        await holder.commit(store, holder.succeeded("first"), out_of_reach=out_of_reach)
        row = await summary(store, holder.job_id)
        assert (row.status, row.requires) == (JobStatus.QUEUED, ('tool.second {"gpu":4}',))
        assert_folds_to(await read(store, holder.job_id), holder)
        assert await claimed(store, having("tool.second", gpu=3)) == []
        [claim] = await store.claim("w2", 10, having("tool.second", gpu=4))
        assert claim.job_id == holder.job_id
        await Holder(clock, claim).commit(store, Claimed("w2", claim.epoch))
        assert (await summary(store, holder.job_id)).requires == ()

    async def test_names_that_look_like_something_else_are_names(self, store: JobStore, clock: FakeClock) -> None:
        names: Collection[str] = ("null", "a.b-c_d", "G" * 100)
        ids = [await accept(store, clock, needing(**{name: 1})) for name in names]
        assert await claimed(store, having("tool.first", **dict.fromkeys(("nul", "a", "G" * 99), 9.0))) == []
        assert await claimed(store, having("tool.first", **dict.fromkeys(names, 1.0))) == ids

    async def test_worker_tells_what_steps_of_its_jobs_are_short_of(self, store: JobStore, clock: FakeClock) -> None:
        await store.register_worker("w1")
        first, second = await begin(store, clock), await begin(store, clock)
        short = Short("gpu", 1.5, 2, 0.5, (first.job_id, "ä"), (), clock.now_us())
        assert await store.read_shortages(second.job_id) == await store.read_shortages("nobody") == []
        await store.tell_shortages("w1", {second.job_id: [short, replace(short, resource="browser")]})
        assert await store.read_shortages(second.job_id) == [short, replace(short, resource="browser")]
        assert await store.read_shortages(first.job_id) == []
        await store.tell_shortages("w2", {second.job_id: []})
        assert len(await store.read_shortages(second.job_id)) == 2, "another worker does not hold it"
        await store.tell_shortages("w1", {first.job_id: [short]})
        assert await store.read_shortages(second.job_id) == []
        await second.commit(store, Released("worker_stopped"), second.succeeded("first"))
        assert await store.read_shortages(second.job_id) == []

    @pytest.mark.parametrize("is_dead", [False, True])
    async def test_what_a_worker_has_told_is_forgotten_with_it(
        self, store: JobStore, clock: FakeClock, is_dead: bool
    ) -> None:
        await store.register_worker("w1")
        holder = await begin(store, clock)
        await store.tell_shortages("w1", {holder.job_id: [Short("gpu", 1, 1, 0, (), (), 0)]})
        if is_dead:
            clock.advance(10 * store.lease_s)
            await store.bury_workers()
        else:
            await store.unregister_worker("w1")
        await store.register_worker("w1")
        assert await store.read_shortages(holder.job_id) == []

    async def test_worker_says_what_it_has(self, store: JobStore) -> None:
        info = WorkerInfo("host", 7, "1.0", ("tool.first",), 256, {"gpu": 1, "cpu": 0.5})
        await store.register_worker("w1", info)
        [worker] = await store.list_workers()
        assert (worker.info, worker.info.offers) == (info, having("tool.first", gpu=1, cpu=0.5))
