"""Pauses of whole components and workflows: nothing of them starts anywhere, what runs ends, and all goes on later."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from openagents_json import JobManager
from openagents_json.errors import InvalidComponent, InvalidInputs
from openagents_json.job.engine.worker import POLL_S, RECOVER_S
from openagents_json.job.model import JobStatus
from tests.engine.support import SAFETY_S, Bench, final, history, seen, types, written

# Managers that share one memory store do not hear of each other.
several = pytest.mark.parametrize("kind", ["sqlite", "postgres"])


@pytest.fixture
async def jobs(bench: Bench) -> AsyncIterator[JobManager]:
    async with bench.manager() as jobs:
        yield jobs


async def waits(jobs: JobManager, job_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await jobs.get_job_status(job_id))["waiting_for"]
    return found


async def status_of(jobs: JobManager, job_id: str) -> JobStatus:
    return (await jobs.get_summary(job_id)).status


async def turn_until(bench: Bench, jobs: JobManager, job_id: str, *statuses: JobStatus) -> None:
    async with asyncio.timeout(SAFETY_S):
        while await status_of(jobs, job_id) not in statuses:
            await bench.pass_time(POLL_S)


# ── components ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_no_attempt_of_a_paused_component_begins_and_the_job_says_why(bench: Bench, jobs: JobManager) -> None:
    assert await jobs.pause_component("note", by="ann", reason="it costs")
    since = bench.clock.now()
    bench.clock.advance(3)
    assert not await jobs.pause_component("note", by="bob"), "the first one stays"
    job_id = await jobs.create_job(bench.one("note"), start=True)
    await bench.pass_time(1, 10)
    assert (await status_of(jobs, job_id), bench.components.calls) == (JobStatus.QUEUED, [])
    assert await waits(jobs, job_id) == [
        {"kind": "paused", "what": "component", "name": "note", "by": "ann", "reason": "it costs", "since": since}
    ]
    assert await jobs.resume_component("note")
    assert not await jobs.resume_component("note")
    assert await final(jobs, job_id) == "COMPLETED"


async def test_running_attempt_of_a_paused_component_ends_and_the_next_waits(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow({"id": "a", "component": "gate"}, {"id": "b", "component": "gate"})
    job_id = await jobs.create_job(flow, start=True)
    await bench.gate().wait_entered(1)
    await jobs.pause_component("gate")
    bench.gate().open()
    queued = await seen(jobs, job_id, "job.queued", reason="elsewhere")
    assert queued.data["requires"] == ["gate"]
    assert (await jobs.get_job(job_id)).steps["a"]["status"] == "COMPLETED"
    assert len(bench.gate().contexts) == 1
    await jobs.resume_component("gate")
    assert await final(jobs, job_id) == "COMPLETED"
    assert len(bench.gate().contexts) == 2


async def test_what_does_not_need_the_component_goes_on(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow(
        {"id": "a", "component": "note", "needs": []},
        {"id": "b", "component": "add", "inputs": {"a": 1, "b": 2}, "needs": []},
    )
    await jobs.pause_component("note")
    job_id = await jobs.create_job(flow, start=True)
    await seen(jobs, job_id, "job.queued", reason="elsewhere")
    assert (await jobs.get_job(job_id)).steps["b"]["output"] == 3
    await jobs.resume_component("note")
    assert await final(jobs, job_id) == "COMPLETED"


async def test_retry_of_a_paused_component_waits_for_it(bench: Bench, jobs: JobManager) -> None:
    flow = bench.one("flaky", inputs={"until": 2}, retry={"max_attempts": 3, "delay_seconds": 60})
    job_id = await jobs.create_job(flow, start=True)
    await seen(jobs, job_id, "job.waiting")
    await jobs.pause_component("flaky")
    await bench.pass_time(60)
    await seen(jobs, job_id, "job.queued", reason="elsewhere")
    assert len(bench.components.calls) == 1
    await jobs.resume_component("flaky")
    assert await final(jobs, job_id) == "COMPLETED"


async def test_resume_before_the_pause_was_noticed_by_the_job_changes_nothing(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow({"id": "a", "component": "gate"}, {"id": "b", "component": "note"})
    job_id = await jobs.create_job(flow, start=True)
    await bench.gate().wait_entered(1)
    await jobs.pause_component("note")
    await jobs.pause_workflow("flow")
    await jobs.resume_workflow("flow")
    await jobs.resume_component("note")
    bench.gate().open()
    assert await final(jobs, job_id) == "COMPLETED"
    assert (await types(jobs, job_id)).count("job.queued") == 1


async def test_resource_is_released_by_a_paused_component(bench: Bench, jobs: JobManager) -> None:
    async def acquire(context: Any) -> None:
        await context.track("thing", release="note", inputs={"value": "thing"})

    from openagents_json import StepContext

    acquire.__annotations__["context"] = StepContext
    bench.components.registry.register(acquire, "acquire")
    await jobs.pause_component("note")
    job_id = await jobs.create_job(bench.one("acquire"), start=True)
    assert await final(jobs, job_id) == "COMPLETED"
    assert bench.components.values == ["thing"]


async def test_names_that_can_be_none_are_refused(jobs: JobManager) -> None:
    with pytest.raises(InvalidComponent, match="cannot name a component"):
        await jobs.pause_component("no name")
    with pytest.raises(InvalidInputs, match="no id of a workflow"):
        await jobs.pause_workflow("no/id")
    await jobs.pause_component("of.another.worker")
    assert [(one.kind, one.name) for one in await jobs.list_pauses()] == [("component", "of.another.worker")]


@several
async def test_other_workers_hear_of_a_pause_within_a_poll(bench: Bench) -> None:
    """Once it has passed, no step is begun any more, whoever runs the job."""
    flow = bench.workflow(
        {"id": "a", "component": "gate"}, {"id": "b", "component": "note"}, {"id": "c", "component": "note"}
    )
    async with bench.manager() as runs, bench.manager(worker=False) as controls:
        job_id = await runs.create_job(flow, start=True)
        await bench.gate().wait_entered(1)
        await controls.pause_component("note", reason="from elsewhere")
        await bench.until_async(lambda: heard(bench, runs), lambda components: components == {"note"})
        bench.gate().open()
        await turn_until(bench, runs, job_id, JobStatus.QUEUED)
        assert bench.components.calls == []
        [wait] = await waits(runs, job_id)
        assert (wait["kind"], wait["reason"]) == ("paused", "from elsewhere")
        await controls.resume_component("note")
        await turn_until(bench, runs, job_id, JobStatus.COMPLETED)


async def test_managers_that_do_not_hear_of_each_other_look_now_and_then(bench: Bench) -> None:
    async with bench.manager() as runs, bench.manager(worker=False) as controls:
        await controls.pause_component("note")
        job_id = await runs.create_job(
            bench.workflow({"id": "a", "component": "gate"}, {"id": "b", "component": "note"})
        )
        await bench.pass_time(RECOVER_S)
        await bench.until_async(lambda: heard(bench, runs), lambda components: components == {"note"})
        bench.gate().open()
        await runs.start_job(job_id)
        await seen(runs, job_id, "job.queued", reason="elsewhere")
        assert bench.components.calls == []


async def heard(bench: Bench, jobs: JobManager) -> frozenset[str]:
    """Which components a worker knows to be paused after one more poll."""
    await bench.pass_time(POLL_S)
    return jobs._worker.pauses.components


@several
async def test_pause_lasts_longer_than_its_program(bench: Bench) -> None:
    async with bench.manager() as jobs:
        await jobs.pause_component("note", by="ann")
        await jobs.pause_workflow("other", by="ann")
    async with bench.manager() as jobs:
        assert [one.name for one in await jobs.list_pauses()] == ["note", "other"]
        job_id = await jobs.create_job(bench.one("note"), start=True)
        await bench.pass_time(1)
        assert (await status_of(jobs, job_id), bench.components.calls) == (JobStatus.QUEUED, [])
        await jobs.resume_component("note")
        assert await final(jobs, job_id) == "COMPLETED"


# ── workflows ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_jobs_of_a_paused_workflow_wait_in_the_queue(bench: Bench, jobs: JobManager) -> None:
    flow, other = bench.one("note"), bench.one("note", id="other")
    assert await jobs.pause_workflow(flow, by="ann", reason="wrong prices")
    since = bench.clock.now()
    ids = [await jobs.create_job(flow, start=True) for _ in range(3)]
    assert await final(jobs, await jobs.create_job(other, start=True)) == "COMPLETED"
    await bench.pass_time(1)
    for job_id in ids:
        assert await status_of(jobs, job_id) == JobStatus.QUEUED
        assert await waits(jobs, job_id) == [
            {"kind": "paused", "what": "workflow", "name": flow, "by": "ann", "reason": "wrong prices", "since": since}
        ]
    await jobs.resume_workflow(flow)
    assert [await final(jobs, job_id) for job_id in ids] == ["COMPLETED"] * 3


async def test_running_job_goes_back_to_the_queue_at_its_next_step(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow({"id": "a", "component": "gate"}, {"id": "b", "component": "note"})
    job_id = await jobs.create_job(flow, start=True)
    await bench.gate().wait_entered(1)
    await jobs.pause_workflow(flow)
    assert await status_of(jobs, job_id) == JobStatus.RUNNING
    assert [wait["kind"] for wait in await waits(jobs, job_id)] == ["paused"]
    bench.gate().open()
    await seen(jobs, job_id, "job.queued", reason="workflow_paused")
    assert bench.components.calls == []
    await jobs.resume_workflow(flow)
    assert await final(jobs, job_id) == "COMPLETED"
    assert [event.data["attempt"] for event in await history(jobs, job_id) if event.type == "attempt.started"] == [1, 1]


async def test_timers_and_signals_of_a_paused_workflow_are_recorded_and_nothing_runs(
    bench: Bench, jobs: JobManager
) -> None:
    flow = bench.workflow(
        {"id": "nap", "wait": {"seconds": 60}}, {"id": "go", "signal": "go"}, {"id": "s", "component": "note"}
    )
    job_id = await jobs.create_job(flow, start=True)
    await seen(jobs, job_id, "job.waiting")
    await jobs.pause_workflow(flow)
    await bench.pass_time(60)
    await bench.until_async(lambda: status_of(jobs, job_id), lambda status: status == JobStatus.QUEUED)
    await jobs.signal(job_id, "go")
    await bench.pass_time(1)
    assert (await status_of(jobs, job_id), bench.components.calls) == (JobStatus.QUEUED, [])
    await jobs.resume_workflow(flow)
    assert await final(jobs, job_id) == "COMPLETED"


async def test_job_of_a_paused_workflow_can_be_cancelled_and_cleans_up(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow(
        {"id": "a", "component": "gate"}, {"id": "b", "component": "gate"},
        **{"finally": [{"id": "f", "component": "note", "inputs": {"value": "cleaned"}}]},
    )  # fmt: skip
    fresh = await jobs.create_job(flow)
    job_id = await jobs.create_job(flow, start=True)
    await bench.gate().wait_entered(1)
    await jobs.pause_workflow(flow)
    bench.gate().open()
    await seen(jobs, job_id, "job.queued", reason="workflow_paused")
    await jobs.start_job(fresh)
    for one in (job_id, fresh):
        await jobs.cancel_job(one)
        assert await final(jobs, one) == "CANCELLED"
    assert bench.components.values == ["cleaned"]


async def test_job_that_cleans_up_is_left_alone(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow(
        {"id": "a", "component": "fail"},
        **{"finally": [{"id": "f", "component": "gate"}, {"id": "g", "component": "note"}]},
    )
    job_id = await jobs.create_job(flow, start=True)
    await bench.gate().wait_entered(1)
    await jobs.pause_workflow(flow)
    bench.gate().open()
    assert await final(jobs, job_id) == "FAILED"
    assert len(bench.components.calls) == 1


async def test_children_of_other_workflows_go_on(bench: Bench, jobs: JobManager) -> None:
    child = bench.one("note", id="child")
    parent = bench.workflow({"id": "c", "workflow": child}, {"id": "s", "component": "note"}, id="parent")
    await jobs.pause_workflow(child)
    job_id = await jobs.create_job(parent, start=True)
    await seen(jobs, job_id, "job.waiting")
    await jobs.pause_workflow(parent)
    await jobs.resume_workflow(child)
    await bench.until_async(lambda: status_of(jobs, job_id), lambda status: status == JobStatus.QUEUED)
    assert len(bench.components.calls) == 1
    await jobs.resume_workflow(parent)
    assert await final(jobs, job_id) == "COMPLETED"


@several
async def test_other_workers_give_jobs_of_a_paused_workflow_back(bench: Bench) -> None:
    flow = bench.workflow({"id": "a", "component": "gate"}, {"id": "b", "component": "note"})
    async with bench.manager() as runs, bench.manager(worker=False) as controls:
        job_id = await runs.create_job(flow, start=True)
        await bench.gate().wait_entered(1)
        await controls.pause_workflow(flow)
        await bench.until_async(lambda: given_back(bench, runs, job_id), lambda reason: reason == "workflow_paused")
        bench.gate().open()
        await turn_until(bench, runs, job_id, JobStatus.QUEUED)
        another = await controls.create_job(flow, start=True)
        await written(controls)
        await bench.pass_time(POLL_S, POLL_S, 1)
        assert [await status_of(controls, one) for one in (job_id, another)] == [JobStatus.QUEUED] * 2
        await controls.resume_workflow(flow)
        for one in (job_id, another):
            await turn_until(bench, runs, one, JobStatus.COMPLETED)


async def given_back(bench: Bench, jobs: JobManager, job_id: str) -> str | None:
    """Why a job is to be given back, after one more poll."""
    await bench.pass_time(POLL_S)
    released = jobs._worker.runners[job_id]._released
    return None if released is None else released.reason


@several
async def test_jobs_that_a_dead_worker_had_wait_as_well(bench: Bench) -> None:
    flow = bench.workflow({"id": "a", "component": "gate"}, {"id": "b", "component": "note"})
    doomed = bench.manager()
    await doomed.open()
    job_id = await doomed.create_job(flow, start=True)
    await bench.gate().wait_entered(1)
    await doomed.store.unregister_worker(doomed.worker_id)  # it is taken for dead
    async with bench.manager() as rescuer:
        await rescuer.pause_workflow(flow)
        async with asyncio.timeout(SAFETY_S):
            while "job.worker_lost" not in await types(rescuer, job_id):
                await bench.pass_time(1)
        await bench.pass_time(1)
        assert await status_of(rescuer, job_id) == JobStatus.QUEUED
        bench.gate().open()
        await rescuer.resume_workflow(flow)
        await turn_until(bench, rescuer, job_id, JobStatus.COMPLETED)
        await doomed.close()


async def test_time_of_a_pause_counts_for_nothing_but_the_queue(bench: Bench, jobs: JobManager) -> None:
    flow = bench.one("note", timeout=30)
    await jobs.pause_workflow(flow)
    job_id = await jobs.create_job(flow, start=True)
    await bench.pass_time(3_600)
    await jobs.resume_workflow(flow)
    assert await final(jobs, job_id) == "COMPLETED"
    job = await jobs.get_job(job_id)
    assert job.started_at is not None and job.started_at - job.created_at >= timedelta(seconds=3_600)
