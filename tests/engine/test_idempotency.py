"""Creating a job with an idempotency key is exactly-once (guarantee G7)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from openagents_json import JobManager
from openagents_json.errors import IdempotencyConflict, InvalidInputs
from tests.engine.support import Bench, final

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer", "default": 1}, "m": {"type": "integer"}}}


@pytest.fixture
def flow(bench: Bench) -> str:
    return bench.workflow({"id": "s", "component": "note", "inputs": {"value": "{{ inputs.n }}"}}, inputs=SCHEMA)


@pytest.mark.guarantee("G7")
async def test_same_key_and_body_is_the_same_job_and_it_runs_once(bench: Bench, jobs: JobManager, flow: str) -> None:
    first = await jobs.create_job(flow, {"n": 1, "m": 2}, idempotency_key="k", start=True)
    await final(jobs, first)
    for inputs in ({"n": 1, "m": 2}, {"m": 2, "n": 1}, {"m": 2}):
        assert await jobs.create_job(flow, inputs, idempotency_key="k", start=True) == first
    assert len(await jobs.list_jobs()) == 1
    assert bench.components.values == [1]


@pytest.mark.guarantee("G7")
@pytest.mark.parametrize("inputs", [{"n": 2}, {"m": 1}])
async def test_same_key_with_other_inputs_is_refused_and_names_the_job(
    jobs: JobManager, flow: str, inputs: dict[str, Any]
) -> None:
    first = await jobs.create_job(flow, idempotency_key="k")
    with pytest.raises(IdempotencyConflict) as caught:
        await jobs.create_job(flow, inputs, idempotency_key="k")
    assert caught.value.job_id == first
    assert len(await jobs.list_jobs()) == 1


@pytest.mark.guarantee("G7")
async def test_same_key_with_another_version_of_the_workflow_is_refused(
    bench: Bench, jobs: JobManager, flow: str
) -> None:
    await jobs.create_job(flow, idempotency_key="k")
    bench.workflow({"id": "s", "component": "step"}, inputs=SCHEMA, version="2.0.0")
    with pytest.raises(IdempotencyConflict):
        await jobs.create_job(flow, idempotency_key="k")


@pytest.mark.guarantee("G7")
async def test_key_is_unique_per_workflow(bench: Bench, jobs: JobManager, flow: str) -> None:
    other = bench.one("note", id="other")
    assert await jobs.create_job(flow, idempotency_key="k") != await jobs.create_job(other, idempotency_key="k")


@pytest.mark.guarantee("G7")
async def test_many_creates_at_once_with_one_key_make_one_job(bench: Bench, jobs: JobManager, flow: str) -> None:
    created = await asyncio.gather(*(jobs.create_job(flow, idempotency_key="k", start=True) for _ in range(50)))
    assert len(set(created)) == 1
    assert await final(jobs, created[0]) == "COMPLETED"
    assert bench.components.values == [1]


@pytest.mark.guarantee("G7")
async def test_key_holds_across_restarts_and_between_two_managers(bench: Bench, flow: str) -> None:
    async with bench.manager(worker=False) as one, bench.manager(worker=False) as two:
        created = await asyncio.gather(*(jobs.create_job(flow, idempotency_key="k") for jobs in (one, two) * 10))
        assert len(set(created)) == 1
    async with bench.manager(worker=False) as jobs:
        assert await jobs.create_job(flow, idempotency_key="k") == created[0]


@pytest.mark.parametrize("key", ["", "x" * 201])
async def test_impossible_keys_are_refused(jobs: JobManager, flow: str, key: str) -> None:
    with pytest.raises(InvalidInputs, match="idempotency"):
        await jobs.create_job(flow, idempotency_key=key)


@pytest.mark.guarantee("G7")
async def test_job_that_would_begin_at_once_under_a_known_key_leaves_nothing_behind(
    bench: Bench, jobs: JobManager, flow: str
) -> None:
    await final(jobs, await jobs.create_job(flow, start=True))
    first = await jobs.create_job(flow, idempotency_key="k")
    assert await jobs.create_job(flow, idempotency_key="k", start=True) == first
    with pytest.raises(IdempotencyConflict):
        await jobs.create_job(flow, {"n": 5}, idempotency_key="k", start=True)
    assert len(await jobs.list_jobs()) == 2
    assert (await jobs.health())["steps"] == 0, "the slot of the call that was not made is free"
