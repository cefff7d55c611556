"""Two verbs meet on a job that nobody runs: the second finds the first one's lease, and must still be carried out."""

from __future__ import annotations

import asyncio

import pytest

from openagents_json import JobManager
from openagents_json.errors import StoreUnavailable
from tests.engine.support import Bench, final, seen, types
from tests.race.stage import Held


async def paused_job(bench: Bench, jobs: JobManager) -> str:
    job_id = await jobs.create_job(bench.workflow({"id": "a", "component": "gate"}, {"id": "b", "component": "note"}))
    await jobs.start_job(job_id)
    await bench.gate().wait_entered()
    await jobs.pause_job(job_id)
    bench.gate().open()
    await seen(jobs, job_id, "job.paused")
    return job_id


async def test_resume_that_finds_the_lease_of_set_priority_is_carried_out(bench: Bench, jobs: JobManager) -> None:
    job_id = await paused_job(bench, jobs)
    held = Held(jobs.store, "commit")
    first = asyncio.create_task(jobs.set_priority(job_id, "HIGH"))
    await held.reached()
    await jobs.resume_job(job_id)
    held.go_on()
    await first
    assert await final(jobs, job_id) == "COMPLETED"
    assert {"job.priority_changed", "job.resumed"} <= set(await types(jobs, job_id))


@pytest.mark.parametrize("kind", ["sqlite"])
async def test_request_of_another_process_that_finds_a_lease_of_one_commit_is_carried_out(
    bench: Bench, jobs: JobManager
) -> None:
    job_id = await paused_job(bench, jobs)
    async with bench.manager(worker=False) as other:
        held = Held(other.store, "commit")
        first = asyncio.create_task(other.set_priority(job_id, "HIGH"))
        await held.reached()
        await jobs.resume_job(job_id)
        held.go_on()
        await first
        watching = asyncio.create_task(seen(jobs, job_id, "job.completed"))
        while not watching.done():
            await bench.pass_time(0.05)
        await watching


async def test_request_that_slips_in_before_a_cancel_at_rest_is_decided_with_it(bench: Bench, jobs: JobManager) -> None:
    job_id = await jobs.create_job(bench.one("note"))
    held = Held(jobs.store, "commit")
    cancelling = asyncio.create_task(jobs.cancel_job(job_id))
    await held.reached()
    await jobs.set_priority(job_id, "LOW")
    held.go_on()
    await cancelling
    assert (await jobs.get_summary(job_id)).status == "CANCELLED"


@pytest.mark.parametrize("verb", ["hold", "commit"])
@pytest.mark.parametrize("after", [False, True])
async def test_caller_that_is_cancelled_in_the_middle_does_not_strand_the_job(
    bench: Bench, jobs: JobManager, verb: str, after: bool
) -> None:
    """A program gives up on `start_job` (a timeout around it) while the lease is held for its one commit."""
    job_id = await jobs.create_job(bench.one("note"))
    held = Held(jobs.store, verb, after=after)
    starting = asyncio.create_task(jobs.start_job(job_id))
    await held.reached()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    held.go_on()
    assert await final(jobs, job_id) == "COMPLETED"


async def test_caller_is_told_when_the_manager_is_closed_in_the_middle(bench: Bench, jobs: JobManager) -> None:
    job_id = await jobs.create_job(bench.one("note"))
    held = Held(jobs.store, "hold")
    asking = asyncio.create_task(jobs.set_priority(job_id, "LOW"))
    await held.reached()
    await jobs.close()
    with pytest.raises(StoreUnavailable, match="closed while"):
        await asking
