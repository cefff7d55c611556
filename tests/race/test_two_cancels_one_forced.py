"""A gentle cancel waits for a component that does not listen; a forced one follows and does not wait its grace out."""

from __future__ import annotations

import asyncio

import pytest

from openagents_json import JobManager
from tests.engine.support import Bench, final, history, seen

FINALLY = {"finally": [{"id": "after", "component": "note"}]}


@pytest.mark.parametrize("component", ["stubborn", "thread_gate"])
async def test_forced_cancel_shortens_the_grace_of_the_gentle_one(
    bench: Bench, jobs: JobManager, component: str
) -> None:
    gate = bench.gate()
    job_id = await jobs.create_job(bench.workflow({"id": "s", "component": component}, **FINALLY), start=True)
    await gate.wait_entered()
    await jobs.cancel_job(job_id, by="ada")
    await seen(jobs, job_id, "job.cancel_requested", force=False)
    await bench.pass_time(1)
    assert (await jobs.get_summary(job_id)).status == "RUNNING"
    await jobs.cancel_job(job_id, force=True, by="bob")
    await seen(jobs, job_id, "job.cancel_requested", force=True)
    await bench.pass_time(0.2)
    job = await jobs.wait(job_id)
    assert (job.status, job.abandoned) == ("CANCELLED", 1)
    assert "after" not in job.steps
    gate.open()
    await gate.wait_left()
    await bench.until_async(lambda: jobs.get_summary(job_id), lambda one: one.abandoned == 0)


async def test_both_at_once_count_as_forced(bench: Bench, jobs: JobManager) -> None:
    job_id = await jobs.create_job(bench.workflow({"id": "s", "component": "gate"}, **FINALLY), start=True)
    await bench.gate().wait_entered()
    await asyncio.gather(jobs.cancel_job(job_id), jobs.cancel_job(job_id, force=True), jobs.cancel_job(job_id))
    assert await final(jobs, job_id) == "CANCELLED"
    last = (await history(jobs, job_id))[-1]
    assert last.data["force"] is True
    assert bench.components.calls == []


async def test_cancels_of_a_job_at_rest_from_many_sides_record_one(bench: Bench, jobs: JobManager) -> None:
    job_id = await jobs.create_job(bench.one("note"))
    await asyncio.gather(*(jobs.cancel_job(job_id) for _ in range(20)))
    assert [event.type for event in await history(jobs, job_id)] == [
        "job.created",
        "job.cancel_requested",
        "job.cancelled",
    ]
