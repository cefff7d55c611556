"""wait and signal, and steps in doubt: jobs that wait hold no worker, and what they wait for is recorded."""

from __future__ import annotations

from typing import Any

import pytest

from openagents_json import InvalidInputs, InvalidTransition, JobManager
from tests.engine.support import Bench, final, history, seen, types, vanish

APPROVAL = {
    "id": "approval",
    "signal": "approval",
    "schema": {"type": "object", "required": ["approved"], "properties": {"approved": {"type": "boolean"}}},
}


async def waiting(jobs: JobManager, flow: str) -> str:
    """A job that has come to wait."""
    job_id = await jobs.create_job(flow, start=True)
    await seen(jobs, job_id, "job.waiting")
    assert (await jobs.get_summary(job_id)).status == "WAITING"
    return job_id


# ── wait ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_wait_holds_no_worker_and_goes_on_at_its_time(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow({"id": "w", "wait": {"seconds": "{{ 3000 + 600 }}"}}, {"id": "s", "component": "note"})
    job_id = await waiting(jobs, flow)
    assert (await jobs.health())["running_jobs"] == 0
    [timer] = (await jobs.get_job_status(job_id))["waiting_for"]
    assert (timer["kind"], timer["step"]) == ("timer", "w")
    await bench.pass_time(3599)
    assert (await jobs.get_summary(job_id)).status == "WAITING"
    await bench.pass_time(2)
    assert await final(jobs, job_id) == "COMPLETED"


async def test_short_wait_keeps_its_worker(bench: Bench, jobs: JobManager) -> None:
    job_id = await jobs.create_job(bench.workflow({"id": "w", "wait": {"seconds": 2}}), start=True)
    await seen(jobs, job_id, "step.waiting")
    await bench.pass_time(3)
    assert await final(jobs, job_id) == "COMPLETED"
    assert "job.waiting" not in await types(jobs, job_id)


async def test_wait_until_a_time_that_has_passed_is_no_wait(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow({"id": "w", "wait": {"until": "2001-01-01T00:00:00Z"}})
    assert await final(jobs, await jobs.create_job(flow, start=True)) == "COMPLETED"


@pytest.mark.parametrize(("field", "value"), [("seconds", "soon"), ("until", "tomorrow"), ("seconds", -1)])
async def test_wait_for_what_is_no_time_fails(bench: Bench, jobs: JobManager, field: str, value: Any) -> None:
    wait = {field: "{{ inputs.value }}"}
    flow = bench.workflow({"id": "w", "wait": wait}, inputs={"type": "object", "additionalProperties": True})
    job_id = await jobs.create_job(flow, {"value": value}, start=True)
    assert await final(jobs, job_id) == "FAILED"
    assert (await jobs.get_job(job_id)).errors[0]["type"] == "expression.invalid"


# ── signal ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_signal_wakes_the_job_and_its_payload_is_the_output(bench: Bench, jobs: JobManager) -> None:
    job_id = await waiting(jobs, bench.workflow(APPROVAL, {"id": "s", "set": "{{ steps.approval.output.approved }}"}))
    [wait] = (await jobs.get_job_status(job_id))["waiting_for"]
    assert (wait["kind"], wait["signal"], wait["until"]) == ("signal", "approval", None)
    await jobs.signal(job_id, "approval", {"approved": True}, by="anna")
    assert await final(jobs, job_id) == "COMPLETED"
    assert await jobs.get_job_results(job_id) == {"s": True}
    [received] = [event for event in await history(jobs, job_id) if event.type == "signal.received"]
    assert received.data == {"name": "approval", "payload": {"approved": True}, "by": "anna"}


async def test_early_signals_queue_and_are_taken_in_order(bench: Bench, jobs: JobManager) -> None:
    steps = [{"id": "gate", "component": "gate"}, *({"id": f"s{n}", "signal": "go"} for n in range(3))]
    flow = bench.workflow(*steps, outputs={"all": "{{ [steps.s0.output, steps.s1.output, steps.s2.output] }}"})
    job_id = await jobs.create_job(flow)
    await jobs.signal(job_id, "go", 1)  # before it has started
    await jobs.start_job(job_id)
    await bench.gate().wait_entered()
    await jobs.signal(job_id, "go", 2)
    await jobs.signal(job_id, "go", 3)
    bench.gate().open()
    assert await final(jobs, job_id) == "COMPLETED"
    assert await jobs.get_job_results(job_id) == {"all": [1, 2, 3]}


async def test_same_key_sends_a_signal_once(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow({"id": "a", "signal": "go"}, {"id": "b", "signal": "go"})
    job_id = await waiting(jobs, flow)
    await jobs.signal(job_id, "go", 1, key="k")
    await jobs.signal(job_id, "go", 1, key="k")
    await seen(jobs, job_id, "job.waiting", count=2)
    assert (await types(jobs, job_id)).count("signal.received") == 1
    await jobs.signal(job_id, "go", 2)
    assert await jobs.get_job_results((await jobs.wait(job_id)).id) == {"b": 2}
    await jobs.signal(job_id, "go", 1, key="k")  # after a lost reply: it was accepted, and the job has ended since
    with pytest.raises(InvalidTransition):
        await jobs.signal(job_id, "go", 1, key="another")


async def test_signal_that_nobody_waits_for_or_that_does_not_fit_is_refused(bench: Bench, jobs: JobManager) -> None:
    job_id = await waiting(jobs, bench.workflow(APPROVAL))
    with pytest.raises(InvalidInputs, match="It waits for: approval"):
        await jobs.signal(job_id, "aproval", {"approved": True})
    with pytest.raises(InvalidInputs) as caught:
        await jobs.signal(job_id, "approval", {"approved": "yes"})
    assert [problem.path for problem in caught.value.problems] == ["$.payload.approved"]
    with pytest.raises(InvalidInputs, match="set"):
        await jobs.signal(job_id, "approval", {1, 2})
    assert (await jobs.get_summary(job_id)).status == "WAITING"


@pytest.mark.parametrize(("on_timeout", "status"), [("fail", "FAILED"), ("continue", "COMPLETED")])
async def test_signal_that_does_not_come_in_time(bench: Bench, jobs: JobManager, on_timeout: str, status: str) -> None:
    flow = bench.workflow({"id": "s", "signal": "go", "timeout": 86_400, "on_timeout": on_timeout})
    job_id = await waiting(jobs, flow)
    await bench.pass_time(86_401)
    assert await final(jobs, job_id) == status
    job = await jobs.get_job(job_id)
    if status == "FAILED":
        assert job.errors[0]["type"] == "timeout.signal"
    else:
        assert job.outputs == {"s": None}


async def test_signal_and_timer_that_came_during_a_pause_take_effect_in_their_order(
    bench: Bench, jobs: JobManager
) -> None:
    race = {"answer": [{"id": "s", "signal": "go"}], "late": [{"id": "w", "wait": {"seconds": 1000}}]}
    flow = bench.workflow({"id": "race", "parallel": race, "wait_for": "first"})
    job_id = await waiting(jobs, flow)
    await jobs.pause_job(job_id)
    await bench.pass_time(500)
    await jobs.signal(job_id, "go", "in time")
    await bench.pass_time(600)
    assert (await jobs.get_summary(job_id)).status == "PAUSED"
    await jobs.resume_job(job_id)
    assert await final(jobs, job_id) == "COMPLETED"
    assert await jobs.get_job_results(job_id) == {"race": {"answer": "in time", "late": None}}


async def test_name_of_a_signal_may_be_an_expression(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow({"id": "each", "foreach": ["a", "b"], "steps": [{"id": "s", "signal": "reply-{{ item }}"}]})
    job_id = await waiting(jobs, flow)
    await jobs.signal(job_id, "reply-b", 2)
    await jobs.signal(job_id, "reply-a", 1)
    assert await final(jobs, job_id) == "COMPLETED"
    assert await jobs.get_job_results(job_id) == {"each": [1, 2]}


async def test_cancel_of_a_waiting_job_is_effective_at_once(bench: Bench, jobs: JobManager) -> None:
    job_id = await waiting(jobs, bench.workflow(APPROVAL))
    await jobs.cancel_job(job_id)
    assert (await jobs.get_summary(job_id)).status == "CANCELLED"
    with pytest.raises(InvalidTransition):
        await jobs.signal(job_id, "approval", {"approved": True})


async def test_waiting_job_goes_on_after_a_restart(bench: Bench) -> None:
    async with bench.manager() as jobs:
        job_id = await waiting(jobs, bench.workflow(APPROVAL, timeout=1_000_000))
    async with bench.manager(worker=False) as other:
        await other.signal(job_id, "approval", {"approved": True})
        assert (await other.get_summary(job_id)).status == "QUEUED"
    async with bench.manager() as jobs:
        assert await final(jobs, job_id) == "COMPLETED"


# ── in doubt ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def in_doubt(bench: Bench, jobs: JobManager) -> str:
    """A job whose only step may have an effect once and ran out of time."""
    flow = bench.workflow({"id": "pay", "component": "gate", "effect": "once", "timeout": 5, "retry": {}})
    job_id = await jobs.create_job(flow, start=True)
    await bench.gate().wait_entered()
    await bench.pass_time(6)
    await seen(jobs, job_id, "step.in_doubt")
    await seen(jobs, job_id, "job.waiting")
    return job_id


@pytest.mark.guarantee("G3")
async def test_effect_that_may_happen_once_is_not_tried_again_when_its_outcome_is_unknown(
    bench: Bench, jobs: JobManager
) -> None:
    job_id = await in_doubt(bench, jobs)
    [wait] = (await jobs.get_job_status(job_id))["waiting_for"]
    assert (wait["kind"], wait["step"], wait["error"]["type"]) == ("decision", "pay", "timeout.attempt")
    assert len(bench.gate().contexts) == 1
    await jobs.resolve_step(job_id, "pay", output={"receipt": 7}, by="anna")
    assert await final(jobs, job_id) == "COMPLETED"
    assert await jobs.get_job_results(job_id) == {"pay": {"receipt": 7}}
    assert len(bench.gate().contexts) == 1


async def test_step_in_doubt_can_be_failed_or_tried_again(bench: Bench, jobs: JobManager) -> None:
    job_id = await in_doubt(bench, jobs)
    await jobs.resolve_step(job_id, "pay", retry=True)
    await bench.gate().wait_entered(2)
    await seen(jobs, job_id, "attempt.started", count=2)
    await bench.pass_time(6)
    await seen(jobs, job_id, "step.in_doubt", count=2)
    await jobs.resolve_step(job_id, "pay", error="the bank says no")
    assert await final(jobs, job_id) == "FAILED"
    assert (await jobs.get_job(job_id)).errors[0]["message"] == "the bank says no"


async def test_only_a_step_in_doubt_can_be_resolved(bench: Bench, jobs: JobManager) -> None:
    job_id = await in_doubt(bench, jobs)
    with pytest.raises(InvalidTransition, match="in doubt"):
        await jobs.resolve_step(job_id, "other", retry=True)
    with pytest.raises(ValueError, match="exactly one"):
        await jobs.resolve_step(job_id, "pay", retry=True, error="both")


@pytest.mark.guarantee("G3")
async def test_worker_that_dies_leaves_the_effect_in_doubt(bench: Bench) -> None:
    flow = bench.workflow({"id": "pay", "component": "gate", "effect": "once"})
    dead = bench.manager()
    await dead.open()
    job_id = await dead.create_job(flow, start=True)
    await bench.gate().wait_entered()
    await vanish(dead)
    if bench.kind != "sqlite":  # which knows by the worker's lock that it is dead
        bench.clock.advance(31)
    async with bench.manager() as jobs:
        await seen(jobs, job_id, "job.waiting")
        await jobs.resolve_step(job_id, "pay", output=None)
        assert await final(jobs, job_id) == "COMPLETED"
    assert len(bench.gate().contexts) == 1
