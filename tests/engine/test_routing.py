"""Jobs go to the workers that have the components of their next steps."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from openagents_json import ComponentRegistry, JobManager
from openagents_json.errors import InvalidInputs
from tests.engine.support import SAFETY_S, Bench, final, history, seen

# Managers that share one memory store do not hear of each other.
several = pytest.mark.parametrize("kind", ["sqlite"])


def worker_with(bench: Bench, *names: str, **options: Any) -> JobManager:
    """A manager with only these components; each answers with the worker's first component."""
    registry = ComponentRegistry()

    def register(name: str) -> None:
        async def call() -> str:
            return names[0]

        registry.register(call, name)

    for name in names:
        register(name)
    return bench.manager(components=registry, **options)


async def turn_until_final(bench: Bench, jobs: JobManager, *ids: str) -> None:
    async with asyncio.timeout(SAFETY_S):
        while not all([(await jobs.get_summary(job_id)).status.is_final for job_id in ids]):
            await bench.pass_time(0.05)


@several
async def test_steps_run_where_their_components_are(bench: Bench) -> None:
    for name in ("left", "right"):
        bench.components.registry.register(lambda: None, name)
    flow = bench.workflow(
        {"id": "a", "component": "left"}, {"id": "b", "component": "right"}, {"id": "c", "component": "left"}
    )
    async with worker_with(bench, "left") as left, worker_with(bench, "right") as right:
        job_id = await right.create_job(flow, start=True)
        await turn_until_final(bench, left, job_id)
        job = await left.get_job(job_id)
        assert {path: step["output"] for path, step in job.steps.items()} == {"a": "left", "b": "right", "c": "left"}
        events = await history(left, job_id)
        took = [event.data["worker"] for event in events if event.type in ("job.started", "job.continued")]
        assert took == [left.worker_id, right.worker_id, left.worker_id]
        moved = [event.data for event in events if event.type == "job.queued"][1:]
        assert moved == [
            {"reason": "elsewhere", "requires": ["right"]},
            {"reason": "elsewhere", "requires": ["left"]},
        ]


@several
async def test_branches_that_need_different_workers_are_both_run(bench: Bench) -> None:
    for name in ("left", "right"):
        bench.components.registry.register(lambda: None, name)
    flow = bench.workflow({"id": "a", "component": "left", "needs": []}, {"id": "b", "component": "right", "needs": []})
    async with worker_with(bench, "left") as left, worker_with(bench, "right") as right:
        ids = [await left.create_job(flow, start=True) for _ in range(5)]
        await turn_until_final(bench, right, *ids)
        for job_id in ids:
            job = await right.get_job(job_id)
            assert {path: step["output"] for path, step in job.steps.items()} == {"a": "left", "b": "right"}


async def test_job_that_nobody_can_serve_says_what_it_waits_for(bench: Bench) -> None:
    bench.components.registry.register(lambda: None, "rare")
    flow = bench.one("rare")
    async with worker_with(bench, "left") as jobs:
        job_id = await jobs.create_job(flow, start=True)
        assert (await jobs.get_summary(job_id)).requires == ("rare",)
        [wait] = (await jobs.get_job_status(job_id))["waiting_for"]
        assert wait == {"kind": "worker", "components": ["rare"], "workers": 0}
        await bench.pass_time(1, 10)
        assert (await jobs.get_summary(job_id)).status == "QUEUED"
        async with worker_with(bench, "rare", "left"):
            await turn_until_final(bench, jobs, job_id)


@several
async def test_compensation_and_finally_go_to_who_has_their_components(bench: Bench) -> None:
    for name in ("left", "right"):
        bench.components.registry.register(lambda: None, name)
    flow = bench.workflow(
        {"id": "a", "component": "left", "compensate": {"component": "right"}},
        {"id": "b", "raise": {"type": "no", "message": "it is not to be"}},
        **{"finally": [{"id": "f", "component": "right"}]},
    )
    async with worker_with(bench, "left") as left, worker_with(bench, "right") as right:
        job_id = await left.create_job(flow, start=True)
        await turn_until_final(bench, right, job_id)
        job = await right.get_job(job_id)
        assert (job.status, job.errors[0]["type"]) == ("FAILED", "no")
        assert job.steps["f"]["output"] == "right" and job.steps["a[undo]"]["status"] == "COMPLETED"


@several
@pytest.mark.parametrize("spread", [False, True])
async def test_items_of_a_foreach_find_their_workers(bench: Bench, spread: bool) -> None:
    bench.components.registry.register(lambda: None, "right")
    flow = bench.workflow(
        {"id": "each", "foreach": [1, 2, 3], "spread": spread, "steps": [{"id": "s", "component": "right"}]},
        outputs={"all": "{{ steps.each.output }}"},
    )
    async with worker_with(bench, "left") as left, worker_with(bench, "right"):
        job_id = await left.create_job(flow, start=True)
        await turn_until_final(bench, left, job_id)
        assert await left.get_job_results(job_id) == {"all": ["right"] * 3}


async def test_live_workers_are_listed_with_what_they_have(bench: Bench) -> None:
    async with worker_with(bench, "left", max_jobs=7) as left:
        bench.clock.advance(1)
        async with bench.manager() as right:
            job_id = await right.create_job(bench.one("gate"), start=True)
            await bench.gate().wait_entered()
            first, second = await left.list_workers()
            assert (first.id, first.components, first.max_jobs, first.running_jobs) == (left.worker_id, ("left",), 7, 0)
            assert (second.id, second.running_jobs) == (right.worker_id, 1) and "gate" in second.components
            assert first.pid == second.pid and first.host and first.version
            assert (second.started_at - first.started_at).total_seconds() == 1
            right.components.register(lambda: None, "learnt")
            await bench.pass_time(0.1)
            await bench.until_async(left.list_workers, lambda workers: "learnt" in workers[1].components)
            bench.gate().open()
            assert await final(right, job_id) == "COMPLETED"
        assert [one.id for one in await left.list_workers()] == [left.worker_id]


async def test_many_jobs_are_created_at_once(bench: Bench) -> None:
    flow = bench.workflow(
        {"id": "s", "component": "note", "inputs": {"value": "{{ inputs.n }}"}},
        inputs={"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}},
    )
    async with bench.manager() as jobs:
        keys = [f"key-{n}" for n in range(20)]
        given = [{"n": n} for n in range(20)]
        ids = await jobs.create_jobs(flow, given, idempotency_keys=keys, tags=["many"], start=True)
        assert await jobs.create_jobs(flow, given[:3], idempotency_keys=keys[:3], start=True) == ids[:3]
        assert [await final(jobs, job_id) for job_id in ids] == ["COMPLETED"] * 20
        assert sorted(bench.components.values) == list(range(20))
        assert (await seen(jobs, ids[3], "job.created")).data["tags"] == ["many"]
        wrongs: list[list[dict[str, Any]]] = [[{"n": 1}, {"n": "x"}], [{"n": 1}, {}]]
        for wrong in wrongs:
            with pytest.raises(InvalidInputs, match=r"\$\[1\]"):
                await jobs.create_jobs(flow, wrong)
        with pytest.raises(ValueError, match="one key for each"):
            await jobs.create_jobs(flow, given, idempotency_keys=["one"])
        with pytest.raises(ValueError, match="too many at once"):
            await jobs.create_jobs(flow, [{"n": 1}] * 10_001)
        assert len((await jobs.list_jobs()).jobs) == 20
