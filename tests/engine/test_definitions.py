"""A running job keeps its definition whatever is registered later (guarantee G11)."""

from __future__ import annotations

from typing import Any

import pytest

from openagents_json import JobManager
from openagents_json.errors import WorkflowConflict
from openagents_json.workflow import WorkflowRegistry
from tests.engine.support import Bench, final, seen


def steps(value: str) -> list[dict[str, Any]]:
    return [
        {"id": "wait", "component": "gate"},
        {"id": "s", "component": "note", "inputs": {"value": value}},
    ]


@pytest.mark.guarantee("G11")
async def test_running_job_keeps_its_definition_when_other_content_is_registered(
    bench: Bench, jobs: JobManager
) -> None:
    flow = bench.workflow(*steps("old"), version="1.0.0-dev")
    old = await jobs.create_job(flow, start=True)
    await bench.gate().wait_entered()
    bench.workflow(*steps("new"), version="1.0.0-dev")
    new = await jobs.create_job(flow, start=True)
    bench.gate().open()
    outputs = [dict((await jobs.wait(job_id)).outputs) for job_id in (old, new)]
    assert outputs == [{"s": "old"}, {"s": "new"}]


@pytest.mark.guarantee("G11")
async def test_job_keeps_its_definition_in_a_program_that_knows_another_or_none(bench: Bench) -> None:
    flow = bench.workflow(*steps("old"), version="1.0.0-dev")
    async with bench.manager() as jobs:
        one, two = [await jobs.create_job(flow, start=True) for _ in range(2)]
        await bench.gate().wait_entered(2)
        for job_id in (one, two):
            await jobs.pause_job(job_id)
        bench.gate().open()
        for job_id in (one, two):
            await seen(jobs, job_id, "job.paused")
    bench.workflow(*steps("new"), version="1.0.0-dev")
    async with bench.manager() as jobs:
        await jobs.resume_job(one)
        assert (await jobs.wait(one)).outputs == {"s": "old"}
    async with bench.manager(workflows=WorkflowRegistry(bench.components.registry)) as jobs:
        await jobs.resume_job(two)
        assert (await jobs.wait(two)).outputs == {"s": "old"}


async def test_newest_version_is_taken_unless_one_is_named(bench: Bench, jobs: JobManager) -> None:
    for version in ("1.9.0", "1.10.0", "1.2.0"):
        bench.workflow({"id": "s", "set": version}, version=version)
    newest, named = (
        await jobs.create_job("flow", start=True),
        await jobs.create_job("flow", version="1.2.0", start=True),
    )
    assert [dict((await jobs.wait(job_id)).outputs) for job_id in (newest, named)] == [{"s": "1.10.0"}, {"s": "1.2.0"}]


async def test_same_version_with_other_content_is_refused(bench: Bench, jobs: JobManager) -> None:
    bench.workflow({"id": "s", "set": 1})
    with pytest.raises(WorkflowConflict):
        bench.workflow({"id": "s", "set": 2})
    job_id = await jobs.create_job("flow", start=True)
    assert await final(jobs, job_id) == "COMPLETED"
