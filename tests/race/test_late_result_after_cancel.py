"""A result comes after its attempt was given up: it is refused, and the count of running threads comes out right."""

from __future__ import annotations

import pytest

from openagents_json import JobManager
from tests.engine.support import Bench, final, history, seen
from tests.race.stage import Held, commits


@pytest.mark.guarantee("G9")
@pytest.mark.parametrize("component", ["stubborn", "thread_gate"])
async def test_late_worker_does_not_overwrite_a_cancelled_job(bench: Bench, jobs: JobManager, component: str) -> None:
    gate = bench.gate()
    job_id = await jobs.create_job(bench.one(component, inputs={"value": "late"}), start=True)
    await gate.wait_entered()
    await jobs.cancel_job(job_id, force=True)
    await seen(jobs, job_id, "job.cancel_requested")
    await bench.pass_time(0.2)
    assert await final(jobs, job_id) == "CANCELLED"
    before = await history(jobs, job_id)
    gate.open()
    await gate.wait_left()
    await bench.until_async(lambda: jobs.get_summary(job_id), lambda one: one.abandoned == 0)
    assert await history(jobs, job_id) == before
    assert (await jobs.get_job(job_id)).steps["s"]["output"] is None


@pytest.mark.guarantee("G2")
async def test_late_result_of_an_abandoned_attempt_does_not_count_for_the_next_one(
    bench: Bench, jobs: JobManager
) -> None:
    gate = bench.gate()
    retry = {"max_attempts": 2, "delay_seconds": 100}
    flow = bench.one("thread_gate", timeout=1, retry=retry, inputs={"value": "x"})
    job_id = await jobs.create_job(flow, start=True)
    await gate.wait_entered()
    await bench.pass_time(1, 10)
    await seen(jobs, job_id, "job.waiting")
    gate.open()
    await gate.wait_left()
    await bench.until_async(lambda: jobs.get_summary(job_id), lambda one: one.abandoned == 0)
    assert (await jobs.get_summary(job_id)).status == "WAITING"
    await bench.pass_time(100)
    assert await final(jobs, job_id) == "COMPLETED"
    [completed] = [event for event in await history(jobs, job_id) if event.type == "step.completed"]
    assert completed.data["attempt"] == 2


async def test_thread_that_ends_while_its_abandonment_is_committed_is_not_counted_for_ever(
    bench: Bench, jobs: JobManager
) -> None:
    gate = bench.gate()
    job_id = await jobs.create_job(bench.one("thread_gate", timeout=1), start=True)
    await gate.wait_entered()
    held = Held(jobs.store, "commit", commits("attempt.failed"))
    await bench.pass_time(1, 10)
    await held.reached()
    gate.open()
    await gate.wait_left()
    await bench.until_async(jobs.health, lambda health: health["steps"] == 0)
    held.go_on()
    assert await final(jobs, job_id) == "FAILED"
    await bench.until_async(lambda: jobs.get_summary(job_id), lambda one: one.abandoned == 0)
    assert (await jobs.get_summary(job_id)).display_status == "FAILED"


async def test_result_and_timeout_at_the_same_moment_record_one_of_them(bench: Bench, jobs: JobManager) -> None:
    job_id = await jobs.create_job(bench.one("gate", timeout=1), start=True)
    await bench.gate().wait_entered()
    bench.gate().open()
    bench.clock.advance(1)
    status = await final(jobs, job_id)
    ends = [event.type for event in await history(jobs, job_id) if event.type in ("step.completed", "attempt.failed")]
    assert (status, ends) in (("COMPLETED", ["step.completed"]), ("FAILED", ["attempt.failed"]))
