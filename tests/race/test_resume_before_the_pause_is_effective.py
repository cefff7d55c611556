"""A resume arrives while the commit that makes the job PAUSED is on its way: it must not be left in the inbox."""

from __future__ import annotations

import pytest

from openagents_json import JobManager
from tests.engine.support import Bench, final, seen, types
from tests.race.stage import Held, commits


@pytest.mark.parametrize("after", [False, True], ids=["before the commit", "after the commit"])
async def test_resume_during_the_commit_of_the_pause_is_not_lost(bench: Bench, jobs: JobManager, after: bool) -> None:
    flow = bench.workflow({"id": "a", "component": "gate"}, {"id": "b", "component": "note"})
    job_id = await jobs.create_job(flow, start=True)
    await bench.gate().wait_entered()
    await jobs.pause_job(job_id)
    await seen(jobs, job_id, "job.pause_requested")
    held = Held(jobs.store, "commit", commits("job.paused"), after=after)
    bench.gate().open()
    await held.reached()
    if after:
        await bench.until_async(lambda: jobs.get_summary(job_id), lambda one: one.status == "PAUSED")
    await jobs.resume_job(job_id)
    held.go_on()
    assert await final(jobs, job_id) == "COMPLETED"
    assert "job.resumed" in await types(jobs, job_id)


async def test_request_during_the_commit_that_lets_go_of_a_waiting_job_is_not_lost(
    bench: Bench, jobs: JobManager
) -> None:
    retry = {"max_attempts": 2, "delay_seconds": 3600}
    held = Held(jobs.store, "commit", commits("job.waiting"))
    job_id = await jobs.create_job(bench.one("flaky", inputs={"until": 2}, retry=retry), start=True)
    await held.reached()
    await jobs.cancel_job(job_id)
    held.go_on()
    assert await final(jobs, job_id) == "CANCELLED"
