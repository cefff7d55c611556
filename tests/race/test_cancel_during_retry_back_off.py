"""A cancel arrives while a step waits for its next attempt: there is nothing to stop, and nothing may start."""

from __future__ import annotations

import pytest

from openagents_json import JobManager
from tests.engine.support import Bench, final, seen
from tests.race.stage import Held, commits

RETRY = {"max_attempts": 5, "delay_seconds": 3}


async def test_cancel_in_a_back_off_ends_the_job_at_once(bench: Bench, jobs: JobManager) -> None:
    job_id = await jobs.create_job(bench.one("flaky", inputs={"until": 5}, retry=RETRY), start=True)
    await seen(jobs, job_id, "attempt.failed")
    await jobs.cancel_job(job_id)
    job = await jobs.wait(job_id)
    assert (job.status, job.steps["s"]["status"]) == ("CANCELLED", "CANCELLED")
    await bench.pass_time(10)
    assert bench.components.calls == [("s", 1)]


@pytest.mark.parametrize("verb", ["cancel", "pause"])
async def test_request_at_the_moment_the_back_off_ends_is_decided_once(
    bench: Bench, jobs: JobManager, verb: str
) -> None:
    """The due time and the request arrive in one turn: no attempt starts behind the request's back."""
    job_id = await jobs.create_job(bench.one("flaky", inputs={"until": 5}, retry=RETRY), start=True)
    await seen(jobs, job_id, "attempt.failed")
    held = Held(jobs.store, "hold", after=True)
    import asyncio

    asking = asyncio.create_task(getattr(jobs, f"{verb}_job")(job_id))
    await held.reached()
    bench.clock.advance(3)
    held.go_on()
    await asking
    if verb == "cancel":
        assert await final(jobs, job_id) == "CANCELLED"
    else:
        await seen(jobs, job_id, "job.pause_requested")
        await seen(jobs, job_id, "job.paused")
        await jobs.resume_job(job_id)
        await seen(jobs, job_id, "attempt.failed", count=len(bench.components.calls))


async def test_due_time_that_passes_during_the_pause_commit_starts_nothing(bench: Bench, jobs: JobManager) -> None:
    job_id = await jobs.create_job(bench.one("flaky", inputs={"until": 2}, retry=RETRY), start=True)
    await seen(jobs, job_id, "attempt.failed")
    held = Held(jobs.store, "commit", commits("job.paused"))
    await jobs.pause_job(job_id)
    await held.reached()
    await bench.pass_time(5)
    held.go_on()
    await seen(jobs, job_id, "job.paused")
    assert bench.components.calls == [("s", 1)]
    await jobs.resume_job(job_id)
    assert await final(jobs, job_id) == "COMPLETED"
