"""workflow steps: child jobs, attached and detached, and what reaches them from their parent."""

from __future__ import annotations

from typing import Any

import pytest

from openagents_json import InvalidTransition, JobManager
from tests.engine.support import Bench, final, history, seen, types

NUMBER = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def parent(bench: Bench, **fields: Any) -> str:
    return bench.workflow({"id": "sub", "workflow": "child", "inputs": {"n": 20}, **fields}, id="parent")


async def child_of(jobs: JobManager, job_id: str) -> str:
    """The child that a job has started."""
    event = await seen(jobs, job_id, "child.started")
    return str(event.data["child_id"])


async def test_parent_takes_the_outputs_of_its_child(bench: Bench, jobs: JobManager) -> None:
    add = {"id": "s", "component": "add", "inputs": {"a": "{{ inputs.n }}", "b": 1}}
    bench.workflow(add, id="child", inputs=NUMBER)
    flow = bench.workflow(
        {"id": "sub", "workflow": "child", "inputs": {"n": "{{ 10 + 10 }}"}},
        {"id": "after", "set": "{{ steps.sub.output.s * 2 }}"},
        id="parent",
    )
    job_id = await jobs.create_job(flow, start=True, priority="HIGH")
    assert await final(jobs, job_id) == "COMPLETED"
    assert await jobs.get_job_results(job_id) == {"after": 42}
    child = await jobs.get_summary(await child_of(jobs, job_id))
    assert (child.status, child.parent_id, child.priority) == ("COMPLETED", job_id, "HIGH")
    assert (await jobs.get_job_status(child.id))["parent"]["path"] == "sub"
    assert [job.id for job in await jobs.list_jobs({"parent_id": job_id})] == [child.id]


async def test_parent_holds_no_worker_while_its_child_runs(bench: Bench) -> None:
    bench.workflow({"id": "s", "component": "gate"}, id="child", inputs=NUMBER)
    async with bench.manager(max_jobs=1) as jobs:
        job_id = await jobs.create_job(parent(bench), start=True)
        await bench.gate().wait_entered()
        assert (await jobs.get_summary(job_id)).status == "WAITING"
        [wait] = (await jobs.get_job_status(job_id))["waiting_for"]
        assert (wait["kind"], wait["step"]) == ("child", "sub")
        bench.gate().open()
        assert await final(jobs, job_id) == "COMPLETED"


async def test_failure_of_a_child_is_the_failure_of_its_step(bench: Bench, jobs: JobManager) -> None:
    bench.workflow({"id": "s", "component": "fail", "inputs": {"message": "deep"}}, id="child", inputs=NUMBER)
    job_id = await jobs.create_job(parent(bench), start=True)
    assert await final(jobs, job_id) == "FAILED"
    error = (await jobs.get_job(job_id)).errors[0]
    assert (error["type"], error["step"]) == ("component.ValueError", "sub")
    assert "deep" in error["message"] and error["details"]["job_id"] == await child_of(jobs, job_id)


@pytest.mark.parametrize("kind", ["memory"])
async def test_retry_of_a_workflow_step_starts_a_new_child(bench: Bench, jobs: JobManager) -> None:
    bench.workflow({"id": "s", "component": "fail"}, id="child", inputs=NUMBER)
    flow = parent(bench, retry={"max_attempts": 2, "delay_seconds": 0})
    job_id = await jobs.create_job(flow, start=True)
    assert await final(jobs, job_id) == "FAILED"
    children = [event.data["child_id"] for event in await history(jobs, job_id) if event.type == "child.started"]
    assert len(set(children)) == 2


async def test_unknown_workflow_and_unfit_inputs_fail_the_step(bench: Bench, jobs: JobManager) -> None:
    bench.workflow({"id": "s", "set": 1}, id="child", inputs=NUMBER)
    anything = {"type": "object", "additionalProperties": True}
    unfit = bench.workflow(
        {"id": "sub", "workflow": "child", "inputs": {"n": "{{ inputs.n }}"}}, id="unfit", inputs=anything
    )
    unknown = bench.workflow(
        {"id": "sub", "workflow": "{{ inputs.name }}", "allow": ["gone"]},
        id="unknown",
        inputs={"type": "object", "properties": {"name": {"type": "string"}}},
    )
    expected = {"unfit": "input.invalid", "unknown": "workflow.not_found", "other": "workflow.not_allowed"}
    for flow, inputs, code in (
        (unfit, {"n": "x"}, expected["unfit"]),
        (unknown, {"name": "gone"}, expected["unknown"]),
        (unknown, {"name": "child"}, expected["other"]),
    ):
        job_id = await jobs.create_job(flow, inputs, start=True)
        assert await final(jobs, job_id) == "FAILED"
        assert (await jobs.get_job(job_id)).errors[0]["type"] == code


async def test_workflow_may_start_itself_until_the_depth_is_reached(bench: Bench, jobs: JobManager) -> None:
    steps: list[dict[str, Any]] = [
        {"id": "sub", "condition": "{{ inputs.n > 0 }}", "workflow": "deep", "inputs": {"n": "{{ inputs.n - 1 }}"}},
        {"id": "sum", "set": "{{ inputs.n + (steps.sub.output.sum | default(0)) }}"},
    ]
    flow = bench.workflow(*steps, id="deep", inputs=NUMBER)
    job_id = await jobs.create_job(flow, {"n": 4}, start=True)
    assert await final(jobs, job_id) == "COMPLETED"
    assert await jobs.get_job_results(job_id) == {"sum": 10}
    too_deep = await jobs.create_job(flow, {"n": 17}, start=True)
    assert await final(jobs, too_deep) == "FAILED"
    assert "16 levels deep" in (await jobs.get_job(too_deep)).errors[0]["message"]


async def test_detached_child_goes_its_own_way(bench: Bench, jobs: JobManager) -> None:
    bench.workflow({"id": "s", "component": "gate"}, id="child", inputs=NUMBER)
    job_id = await jobs.create_job(parent(bench, detached=True), start=True)
    assert await final(jobs, job_id) == "COMPLETED"
    child = (await jobs.get_job_results(job_id))["sub"]["job_id"]
    assert (await jobs.get_summary(child)).parent_id is None
    await jobs.delete_job(job_id)
    await bench.gate().wait_entered()
    bench.gate().open()
    assert await final(jobs, child) == "COMPLETED"


async def test_cancel_reaches_the_child_and_the_parent_ends_after_it(bench: Bench, jobs: JobManager) -> None:
    bench.workflow({"id": "s", "component": "gate"}, id="child", inputs=NUMBER)
    job_id = await jobs.create_job(parent(bench), start=True)
    context = await bench.gate().wait_entered()
    await jobs.cancel_job(job_id, by="anna", reason="enough")
    assert await final(jobs, job_id) == "CANCELLED"
    assert context.cancelled
    child = await child_of(jobs, job_id)
    [asked] = [event for event in await history(jobs, child) if event.type == "job.cancel_requested"]
    assert (asked.data["by"], asked.data["reason"]) == ("anna", "enough")
    parent_end = (await history(jobs, job_id))[-1].at_us
    assert (await history(jobs, child))[-1].at_us <= parent_end


async def test_pause_resume_and_priority_reach_the_child(bench: Bench, jobs: JobManager) -> None:
    bench.workflow({"id": "s", "component": "gate"}, {"id": "t", "component": "note"}, id="child", inputs=NUMBER)
    job_id = await jobs.create_job(parent(bench), start=True)
    await bench.gate().wait_entered()
    child = await child_of(jobs, job_id)
    await jobs.set_priority(job_id, "CRITICAL")
    await seen(jobs, child, "job.priority_changed")
    await jobs.pause_job(job_id)
    await seen(jobs, child, "job.pause_requested")
    bench.gate().open()
    await seen(jobs, child, "job.paused")
    await seen(jobs, job_id, "job.paused")
    await jobs.resume_job(job_id)
    assert await final(jobs, job_id) == "COMPLETED"
    assert (await jobs.get_summary(child)).priority == "CRITICAL"


async def test_child_whose_step_is_not_needed_any_more_is_cancelled(bench: Bench, jobs: JobManager) -> None:
    bench.workflow({"id": "s", "component": "gate"}, id="child", inputs=NUMBER)
    race = {
        "child": [{"id": "sub", "workflow": "child", "inputs": {"n": 1}}],
        "quick": [{"id": "q", "component": "gate", "inputs": {"name": "quick"}}],
    }
    flow = bench.workflow({"id": "race", "parallel": race, "wait_for": "first"}, id="parent")
    job_id = await jobs.create_job(flow, start=True)
    await bench.gate().wait_entered()
    bench.gate("quick").open()
    assert await final(jobs, job_id) == "COMPLETED"
    assert (await jobs.get_summary(await child_of(jobs, job_id))).status == "CANCELLED"


@pytest.mark.parametrize("kind", ["memory"])
async def test_child_over_the_timeout_of_its_step_is_cancelled_and_the_step_fails(
    bench: Bench, jobs: JobManager
) -> None:
    bench.workflow({"id": "s", "component": "gate"}, id="child", inputs=NUMBER)
    job_id = await jobs.create_job(parent(bench, timeout=100), start=True)
    await bench.gate().wait_entered()
    await seen(jobs, job_id, "job.waiting")
    await bench.pass_time(101)
    assert await final(jobs, job_id) == "FAILED"
    assert (await jobs.get_job(job_id)).errors[0]["type"] == "timeout.step"
    child = await child_of(jobs, job_id)
    assert (await jobs.get_summary(child)).status == "CANCELLED", "the parent has waited for it"


async def test_parent_and_attached_children_are_kept_and_deleted_together(bench: Bench, jobs: JobManager) -> None:
    bench.workflow({"id": "s", "set": 1}, id="child", inputs=NUMBER)
    job_id = await jobs.create_job(parent(bench), start=True)
    await final(jobs, job_id)
    child = await child_of(jobs, job_id)
    with pytest.raises(InvalidTransition):
        await jobs.delete_job(child)
    await bench.pass_time(86_400 * 30)
    assert await jobs.cleanup_old_jobs(days=7) in (0, 1)  # retention may have been quicker
    assert [job.id for job in await jobs.list_jobs()] == []


async def test_word_of_a_child_reaches_a_parent_whose_asker_went_away(bench: Bench) -> None:
    """The child's final commit has put it into the parent's inbox; a later worker carries it out."""
    bench.workflow({"id": "s", "component": "gate"}, id="child", inputs=NUMBER)
    async with bench.manager() as jobs:
        job_id = await jobs.create_job(parent(bench), start=True)
        await bench.gate().wait_entered()
        await seen(jobs, job_id, "job.waiting")
        jobs._worker.posted = lambda job_ids: None  # type: ignore[method-assign]  # it dies right after the commit
        bench.gate().open()
        assert await final(jobs, await child_of(jobs, job_id)) == "COMPLETED"
        assert (await jobs.get_summary(job_id)).status == "WAITING"
    async with bench.manager() as jobs:
        assert await final(jobs, job_id) == "COMPLETED"
        assert (await types(jobs, job_id)).count("child.ended") == 1


async def test_many_children_of_one_job(bench: Bench, jobs: JobManager) -> None:
    bench.workflow({"id": "s", "set": "{{ inputs.n * 2 }}"}, id="child", inputs=NUMBER)
    flow = bench.workflow(
        {
            "id": "each",
            "foreach": "{{ range(50) | list }}",
            "steps": [{"id": "sub", "workflow": "child", "inputs": {"n": "{{ item }}"}}],
            "output": "{{ steps.sub.output.s }}",
        },
        id="parent",
    )
    job_id = await jobs.create_job(flow, start=True)
    assert await final(jobs, job_id) == "COMPLETED"
    assert await jobs.get_job_results(job_id) == {"each": [2 * n for n in range(50)]}


# ── spread ────────────────────────────────────────────────────────────────────────────────────────────────────────


def spreading(bench: Bench, **fields: Any) -> str:
    """Each item of a list is a child that sees its item, an outer step and an input."""
    return bench.workflow(
        {"id": "base", "set": 100},
        {
            "id": "each",
            "foreach": "{{ [1, 2, 3] }}",
            "spread": True,
            "steps": [
                {"id": "double", "set": "{{ item * 2 }}"},
                {
                    "id": "sum",
                    "component": "add",
                    "inputs": {
                        "a": "{{ steps.double.output + steps.base.output }}",
                        "b": "{{ inputs.n + index }}",
                    },
                },
            ],
            **fields,
        },
        {"id": "after", "set": "{{ steps.each.output }}"},
        inputs=NUMBER,
    )


async def test_items_of_a_spreading_foreach_are_children_that_see_what_they_refer_to(
    bench: Bench, jobs: JobManager
) -> None:
    job_id = await jobs.create_job(spreading(bench), {"n": 1000}, start=True)
    assert await final(jobs, job_id) == "COMPLETED"
    assert await jobs.get_job_results(job_id) == {"after": [1102, 1105, 1108]}
    job = await jobs.get_job(job_id)
    assert [path for path in job.steps if path.startswith("each[")] == ["each[0]", "each[1]", "each[2]"]
    children = await jobs.list_jobs({"parent_id": job_id})
    assert [str(child.status) for child in children] == ["COMPLETED"] * 3
    status = await jobs.get_job_status(children.jobs[0].id)
    assert list(status["steps"]) == ["double", "sum"]


async def test_spread_has_an_output_expression_and_item_errors_like_any_foreach(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow(
        {
            "id": "each",
            "foreach": [1, 2, 3],
            "spread": True,
            "on_item_error": "collect",
            "concurrency": 2,
            "steps": [
                {"id": "bad", "condition": "{{ item == 2 }}", "component": "fail"},
                {"id": "s", "set": "{{ item }}"},
            ],
            "output": "{{ [index, steps.s.output] }}",
        },
        outputs={
            "each": "{{ steps.each.output }}",
            "errors": "{{ steps.each.errors | map(attribute='index') | list }}",
        },
    )
    job_id = await jobs.create_job(flow, start=True)
    assert await final(jobs, job_id) == "COMPLETED"
    assert await jobs.get_job_results(job_id) == {"each": [[0, 1], None, [2, 3]], "errors": [1]}


async def test_spread_inside_a_foreach_and_a_repeat_sees_their_names(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow(
        {
            "id": "loop",
            "repeat": {"until": "{{ iteration == 1 }}", "max_iterations": 2, "initial": 5},
            "steps": [
                {
                    "id": "each",
                    "foreach": [10],
                    "spread": True,
                    "steps": [{"id": "s", "set": "{{ [item, iteration, last] }}"}],
                }
            ],
        }
    )
    job_id = await jobs.create_job(flow, start=True)
    assert await final(jobs, job_id) == "COMPLETED"
    assert await jobs.get_job_results(job_id) == {"loop": [[10, 1, [[10, 0, 5]]]]}
