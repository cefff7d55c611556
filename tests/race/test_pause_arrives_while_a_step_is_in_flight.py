"""A pause arrives while the result of a step is being committed: the next step must not start after PAUSED."""

from __future__ import annotations

import pytest

from openagents_json import JobManager
from tests.engine.support import Bench, final, history, seen
from tests.race.stage import Held, commits


@pytest.mark.guarantee("G9")
async def test_pause_during_the_commit_that_starts_the_next_step_waits_for_that_step(
    bench: Bench, jobs: JobManager
) -> None:
    flow = bench.workflow(
        {"id": "a", "component": "note"}, {"id": "b", "component": "note"}, {"id": "c", "component": "note"}
    )
    held = Held(jobs.store, "commit", commits("step.completed"))
    job_id = await jobs.create_job(flow, start=True)
    await held.reached()
    await jobs.pause_job(job_id)
    held.go_on()
    await seen(jobs, job_id, "job.paused")
    assert [path for path, _ in bench.components.calls] == ["a", "b"], "b's start was decided before the pause came"
    await jobs.resume_job(job_id)
    assert await final(jobs, job_id) == "COMPLETED"


@pytest.mark.guarantee("G9")
async def test_pause_while_the_last_step_runs_is_effective_before_completion(bench: Bench, jobs: JobManager) -> None:
    job_id = await jobs.create_job(bench.one("gate"), start=True)
    await bench.gate().wait_entered()
    await jobs.pause_job(job_id)
    bench.gate().open()
    await seen(jobs, job_id, "job.paused")
    assert (await history(jobs, job_id))[-1].type == "job.paused"
    await jobs.resume_job(job_id)
    assert await final(jobs, job_id) == "COMPLETED"
    assert len(bench.gate().contexts) == 1
