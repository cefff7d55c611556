"""A pause arrives while a step in a process returns: its result is recorded, and nothing starts until resume."""

from __future__ import annotations

import pytest

from openagents_json import JobManager
from tests.engine.support import Bench, final, history, seen
from tests.race.stage import Held, commits


async def begin(bench: Bench, jobs: JobManager) -> str:
    bench.isolate("hold", "echo")
    files = {"started": str(bench.place("started")), "go": str(bench.place("go"))}
    flow = bench.workflow(
        {"id": "a", "component": "process.hold", "inputs": {**files, "value": 1}},
        {"id": "b", "component": "process.echo", "inputs": {"value": "{{ steps.a.output }}"}},
    )
    job_id = await jobs.create_job(flow, start=True)
    await bench.appears("started")
    return job_id


@pytest.mark.guarantee("G9")
async def test_result_that_comes_after_the_pause_is_recorded_and_the_next_step_waits(
    bench: Bench, jobs: JobManager
) -> None:
    job_id = await begin(bench, jobs)
    await jobs.pause_job(job_id)
    bench.place("go").touch()
    await seen(jobs, job_id, "job.paused")
    steps = (await jobs.get_job(job_id)).steps
    assert (steps["a"]["output"], "b" in steps and steps["b"]["status"] == "COMPLETED") == (1, False)
    assert [one.data["path"] for one in await history(jobs, job_id) if one.type == "attempt.started"] == ["a"]
    await jobs.resume_job(job_id)
    assert await final(jobs, job_id) == "COMPLETED"


@pytest.mark.guarantee("G9")
async def test_pause_during_the_commit_of_the_result_lets_only_the_step_run_that_this_commit_starts(
    bench: Bench, jobs: JobManager
) -> None:
    job_id = await begin(bench, jobs)
    held = Held(jobs.store, "commit", commits("step.completed"))
    bench.place("go").touch()
    await held.reached()
    await jobs.pause_job(job_id)
    held.go_on()
    await seen(jobs, job_id, "job.paused")
    assert (await history(jobs, job_id))[-1].type == "job.paused"
    await jobs.resume_job(job_id)
    assert await final(jobs, job_id) == "COMPLETED"
