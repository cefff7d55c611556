"""Pausing and cancelling jobs with children: what the parent says is true of its children too."""

from __future__ import annotations

from typing import Any

import pytest

from openagents_json import InvalidTransition, JobManager
from tests.engine.support import Bench, final, history, seen, types
from tests.engine.test_children import NUMBER, child_of, parent

GATE = {"id": "s", "component": "gate"}
NOTE = {"id": "t", "component": "note"}


async def statuses(jobs: JobManager, *job_ids: str) -> list[str]:
    return [str((await jobs.get_summary(job_id)).status) for job_id in job_ids]


async def waits(jobs: JobManager, job_id: str) -> list[tuple[str, str]]:
    """The children that a job waits for, and what for."""
    found = (await jobs.get_job_status(job_id))["waiting_for"]
    return [(one["job_id"], one["for"]) for one in found if one["kind"] == "child"]


async def test_parent_is_paused_only_after_the_attempt_of_its_child_has_ended(bench: Bench) -> None:
    bench.workflow(GATE, NOTE, id="child", inputs=NUMBER)
    async with bench.manager(max_jobs=1) as jobs:
        job_id = await jobs.create_job(parent(bench), start=True)
        await bench.gate().wait_entered()
        child = await child_of(jobs, job_id)
        await jobs.pause_job(job_id, by="ada", reason="lunch")
        await seen(jobs, child, "job.pause_requested")
        summary = await jobs.get_summary(job_id)
        assert (summary.status, summary.pause_requested) == ("WAITING", True), "it holds no worker, and is not PAUSED"
        assert await waits(jobs, job_id) == [(child, "pause")]
        bench.gate().open()
        await seen(jobs, job_id, "job.paused")
        assert bench.gate().left == 1 and not bench.components.calls
        assert await statuses(jobs, job_id, child) == ["PAUSED", "PAUSED"]
        with pytest.raises(InvalidTransition, match=f"paused with its parent {job_id}"):
            await jobs.resume_job(child)
        await jobs.resume_job(job_id)
        assert await final(jobs, job_id) == "COMPLETED"
        assert [one for one in await types(jobs, job_id) if one.startswith("child.")] == [
            "child.started", "child.paused", "child.resumed", "child.ended"
        ]  # fmt: skip


async def test_pause_and_resume_reach_grandchildren(bench: Bench, jobs: JobManager) -> None:
    bench.workflow(GATE, NOTE, id="grand", inputs=NUMBER)
    bench.workflow({"id": "sub", "workflow": "grand", "inputs": {"n": 1}}, id="child", inputs=NUMBER)
    job_id = await jobs.create_job(parent(bench), start=True)
    await bench.gate().wait_entered()
    child = await child_of(jobs, job_id)
    grand = await child_of(jobs, child)
    await jobs.pause_job(job_id)
    await seen(jobs, grand, "job.pause_requested")
    assert await statuses(jobs, job_id, child, grand) == ["WAITING", "WAITING", "RUNNING"]
    bench.gate().open()
    await seen(jobs, job_id, "job.paused")
    assert await statuses(jobs, job_id, child, grand) == ["PAUSED"] * 3
    await jobs.resume_job(job_id)
    assert await final(jobs, job_id) == "COMPLETED"
    assert await statuses(jobs, child, grand) == ["COMPLETED"] * 2


async def test_items_of_a_spread_are_paused_and_resumed_with_their_parent(bench: Bench, jobs: JobManager) -> None:
    steps = [{"id": "g", "component": "gate", "inputs": {"name": "{{ item }}"}}, NOTE]
    flow = bench.workflow({"id": "each", "foreach": ["a", "b", "c"], "spread": True, "steps": steps})
    job_id = await jobs.create_job(flow, start=True)
    for name in "abc":
        await bench.gate(name).wait_entered()
    await jobs.pause_job(job_id)
    items = [job.id for job in await jobs.list_jobs({"parent_id": job_id})]
    for item in items:
        await seen(jobs, item, "job.pause_requested")
    bench.gate("a").open()
    bench.gate("b").open()
    await seen(jobs, job_id, "child.paused")
    assert await statuses(jobs, job_id) == ["WAITING"], "one of the three still runs"
    bench.gate("c").open()
    await seen(jobs, job_id, "job.paused")
    assert await statuses(jobs, *items) == ["PAUSED"] * 3
    await jobs.resume_job(job_id)
    assert await final(jobs, job_id) == "COMPLETED"
    assert (await types(jobs, job_id)).count("child.resumed") == 3


async def test_resume_before_the_children_are_paused_withdraws_the_pause_everywhere(
    bench: Bench, jobs: JobManager
) -> None:
    bench.workflow(GATE, NOTE, id="child", inputs=NUMBER)
    job_id = await jobs.create_job(parent(bench), start=True)
    await bench.gate().wait_entered()
    child = await child_of(jobs, job_id)
    await jobs.pause_job(job_id)
    await jobs.resume_job(job_id)
    await seen(jobs, child, "job.pause_withdrawn")
    bench.gate().open()
    assert await final(jobs, job_id) == "COMPLETED"
    assert "job.paused" not in await types(jobs, job_id) + await types(jobs, child)


async def test_pause_of_a_child_alone_leaves_its_parent_waiting(bench: Bench, jobs: JobManager) -> None:
    bench.workflow(GATE, NOTE, id="child", inputs=NUMBER)
    job_id = await jobs.create_job(parent(bench), start=True)
    await bench.gate().wait_entered()
    child = await child_of(jobs, job_id)
    await jobs.pause_job(child)
    bench.gate().open()
    await seen(jobs, job_id, "child.paused")
    [wait] = (await jobs.get_job_status(job_id))["waiting_for"]
    assert (await statuses(jobs, job_id), wait["for"], wait["paused"]) == (["WAITING"], "end", True)
    await jobs.resume_job(child)
    assert await final(jobs, job_id) == "COMPLETED"


async def test_pause_is_finished_by_the_next_worker_when_the_first_one_stops(bench: Bench) -> None:
    bench.workflow(GATE, NOTE, id="child", inputs=NUMBER)
    async with bench.manager() as jobs:
        job_id = await jobs.create_job(parent(bench), start=True)
        await bench.gate().wait_entered()
        await jobs.pause_job(job_id)
        child = await child_of(jobs, job_id)
        await seen(jobs, child, "job.pause_requested")
        jobs._worker.posted = lambda job_ids: None  # type: ignore[method-assign]  # its word lies in the inbox
        bench.gate().open()
        await seen(jobs, child, "job.paused")
        assert await statuses(jobs, job_id) == ["WAITING"]
    async with bench.manager() as jobs:
        await seen(jobs, job_id, "job.paused")
        await jobs.resume_job(job_id)
        assert await final(jobs, job_id) == "COMPLETED"


async def test_force_reaches_a_child_that_swallows_its_cancellation_and_the_parent_ends_after_it(
    bench: Bench, jobs: JobManager
) -> None:
    bench.workflow({"id": "s", "component": "stubborn"}, id="child", inputs=NUMBER)
    job_id = await jobs.create_job(parent(bench), start=True)
    await bench.gate().wait_entered()
    child = await child_of(jobs, job_id)
    await jobs.cancel_job(job_id, force=True)
    await seen(jobs, child, "job.cancel_requested")
    assert await statuses(jobs, job_id, child) == ["WAITING", "RUNNING"]
    assert await waits(jobs, job_id) == [(child, "cancel")]
    await bench.pass_time(0.1, 0.2)  # the grace that force leaves
    assert await final(jobs, job_id) == "CANCELLED"
    assert await statuses(jobs, child) == ["CANCELLED"]
    ends = [(await history(jobs, one))[-1].at_us for one in (child, job_id)]
    assert ends == sorted(ends)


@pytest.mark.parametrize("handled", [{}, {"continue_on_error": True}])
async def test_step_over_its_timeout_fails_only_when_its_slow_child_has_ended(
    bench: Bench, jobs: JobManager, handled: dict[str, Any]
) -> None:
    bench.workflow(
        {"id": "s", "component": "gate"},
        id="child",
        inputs=NUMBER,
        **{"finally": [{"id": "z", "component": "gate", "inputs": {"name": "slow"}}]},
    )
    job_id = await jobs.create_job(parent(bench, timeout=100, **handled), start=True)
    await bench.gate().wait_entered()
    child = await child_of(jobs, job_id)
    await seen(jobs, job_id, "job.waiting")
    await bench.pass_time(101)
    await bench.gate("slow").wait_entered()
    await seen(jobs, job_id, "step.timed_out")
    assert await waits(jobs, job_id) == [(child, "cancel")]
    assert not (await jobs.get_summary(job_id)).status.is_final
    bench.gate("slow").open()
    assert await final(jobs, job_id) == ("COMPLETED" if handled else "FAILED")
    assert await statuses(jobs, child) == ["CANCELLED"]
    told = [one for one in await types(jobs, job_id) if one in ("step.timed_out", "child.ended", "step.failed")]
    assert told == ["step.timed_out", "child.ended", "step.failed"]
