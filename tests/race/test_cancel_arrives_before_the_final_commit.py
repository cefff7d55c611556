"""A cancel arrives between the last result and the final commit: whichever is recorded first is true for everybody."""

from __future__ import annotations

import asyncio

import pytest

from openagents_json import JobManager
from openagents_json.errors import InvalidTransition
from openagents_json.job.events import Event
from tests.engine.support import Bench, events_of, final, history
from tests.race.stage import Held, commits


async def what_everybody_sees(jobs: JobManager, job_id: str) -> set[str]:
    events: list[Event] = [event async for event in events_of(jobs, job_id)]
    [summary] = (await jobs.list_jobs({"id": job_id})).jobs
    return {
        str((await jobs.wait(job_id)).status),
        str((await jobs.get_job(job_id)).status),
        str((await jobs.get_job_status(job_id))["status"]),
        str(summary.status),
        events[-1].type.removeprefix("job.").upper(),
    }


@pytest.mark.guarantee("G9")
async def test_cancel_that_is_recorded_first_wins_over_the_completion(bench: Bench, jobs: JobManager) -> None:
    held = Held(jobs.store, "commit", commits("job.completed"))
    job_id = await jobs.create_job(bench.one("note", inputs={"value": 5}), start=True)
    await held.reached()
    await jobs.cancel_job(job_id, by="ada")
    held.go_on()
    assert await final(jobs, job_id) == "CANCELLED"
    assert await what_everybody_sees(jobs, job_id) == {"CANCELLED"}
    job = await jobs.get_job(job_id)
    assert (job.steps["s"]["status"], job.outputs) == ("COMPLETED", {})


@pytest.mark.guarantee("G9")
async def test_completion_that_is_recorded_first_wins_over_the_cancel(bench: Bench, jobs: JobManager) -> None:
    held = Held(jobs.store, "commit", commits("job.completed"), after=True)
    job_id = await jobs.create_job(bench.one("note"), start=True)
    await held.reached()
    waiting = asyncio.create_task(jobs.wait(job_id))
    await bench.until_async(lambda: jobs.get_summary(job_id), lambda one: one.status == "COMPLETED")
    with pytest.raises(InvalidTransition):
        await jobs.cancel_job(job_id)
    held.go_on()
    assert (await waiting).status == "COMPLETED"
    assert await what_everybody_sees(jobs, job_id) == {"COMPLETED"}
    assert "job.cancel_requested" not in {event.type for event in await history(jobs, job_id)}


async def test_cancel_that_meets_the_commit_of_the_end_is_told_what_became_of_it(
    bench: Bench, jobs: JobManager
) -> None:
    """The job ends between the look at its status and the request."""
    hold = Held(jobs.store, "hold")
    job_id = await jobs.create_job(bench.one("gate"), start=True)
    await bench.gate().wait_entered()
    cancelling = asyncio.create_task(jobs.cancel_job(job_id))
    await hold.reached()
    bench.gate().open()
    await final(jobs, job_id)
    hold.go_on()
    with pytest.raises(InvalidTransition) as caught:
        await cancelling
    assert caught.value.status == "COMPLETED"
