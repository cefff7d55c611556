"""An attempt's time is up in the moment in which its job is cancelled: one end is recorded, and it is CANCELLED."""

from __future__ import annotations

from typing import Any

import pytest

from openagents_json import JobManager
from tests.engine.support import Bench, final, history, seen
from tests.race.stage import Held, commits

ENDS = ("attempt.cancelled", "attempt.failed")
STEP: dict[str, Any] = {"timeout": 1, "retry": {"max_attempts": 3, "delay_seconds": 0}}


@pytest.mark.guarantee("G9")
@pytest.mark.parametrize("component", ["gate", "thread_gate", "process.ignore_sigterm"])
@pytest.mark.parametrize("first", ["cancel", "timeout"])
async def test_each_attempt_has_one_end_and_none_follows_the_cancel(
    bench: Bench, jobs: JobManager, component: str, first: str
) -> None:
    bench.isolate("ignore_sigterm")
    gate = bench.gate()
    inputs = {"started": str(bench.place("started"))} if "process" in component else {}
    job_id = await jobs.create_job(bench.one(component, inputs=inputs, **STEP), start=True)
    if "process" in component:
        await bench.appears("started")
    else:
        await gate.wait_entered()
    if first == "timeout":
        bench.clock.advance(1)  # the timer fires in a later turn of the loop
        await jobs.cancel_job(job_id, force=True)
    else:
        await jobs.cancel_job(job_id, force=True)
        bench.clock.advance(1)
    await seen(jobs, job_id, "job.cancel_requested")
    if component == "thread_gate":
        await bench.pass_time(0.2)
    assert await final(jobs, job_id) == "CANCELLED"
    events = await history(jobs, job_id)
    starts = sum(event.type == "attempt.started" for event in events)
    ends = [event for event in events if event.type in ENDS]
    assert len(ends) == starts, "each attempt has one end"
    # A timeout that was recorded before the cancel came has begun another attempt, which the cancel then ended.
    assert starts == 1 or (first == "timeout" and starts == 2 and ends[0].type == "attempt.failed")
    assert all(("rung" in end.data) != bool(end.data.get("abandoned")) for end in ends)


async def test_cancel_during_the_commit_of_a_timeout_starts_no_further_attempt(bench: Bench, jobs: JobManager) -> None:
    job_id = await jobs.create_job(bench.one("gate", **STEP), start=True)
    await bench.gate().wait_entered()
    held = Held(jobs.store, "commit", commits("attempt.failed"))
    bench.clock.advance(1)
    await held.reached()
    await jobs.cancel_job(job_id)
    held.go_on()
    assert await final(jobs, job_id) == "CANCELLED"
    assert len(bench.gate().contexts) <= 2, "at most the one that the same commit started, and that one was told"
    assert all(context.cancelled for context in bench.gate().contexts)
