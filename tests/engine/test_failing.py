"""When something fails: raise, catch, continue_on_error, fail_fast, compensation, and the deadline of the cleanup."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from openagents_json import JobManager
from tests.engine.support import Bench, final, history, seen, types


def note(id: str, value: Any = None, **fields: Any) -> dict[str, Any]:
    return {"id": id, "component": "note", "inputs": {"value": value}, **fields}


def failing(id: str = "bad", **fields: Any) -> dict[str, Any]:
    return {"id": id, "component": "fail", "inputs": {"message": "no luck"}, **fields}


# ── raise and catch ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_raise_fails_with_its_type_and_message(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow({"id": "r", "raise": {"type": "review.rejected", "message": "not {{ inputs.what }}"}},
                          inputs={"type": "object", "properties": {"what": {"type": "string"}}})  # fmt: skip
    job_id = await jobs.create_job(flow, {"what": "approved"}, start=True)
    assert await final(jobs, job_id) == "FAILED"
    [error] = (await jobs.get_job(job_id)).errors
    assert (error["type"], error["message"], error["step"]) == ("review.rejected", "not approved", "r")


async def test_first_matching_handler_takes_the_error_and_gives_the_output(bench: Bench, jobs: JobManager) -> None:
    catch = [
        {"type": "http", "steps": [note("never")]},
        {"type": "component.ValueError", "steps": [note("handled", "{{ error.message }}")]},
        {"steps": [note("late")]},
    ]
    flow = bench.workflow(
        failing(catch=catch),
        {"id": "after", "set": "{{ [steps.bad.output, steps.bad.success, steps.bad.error.type] }}"},
    )
    job_id = await jobs.create_job(flow, start=True)
    assert await final(jobs, job_id) == "COMPLETED"
    job = await jobs.get_job(job_id)
    assert job.outputs == {"after": ["no luck", True, "component.ValueError"]}
    assert "bad[catch1].handled" in job.steps and job.errors == ()


async def test_error_that_no_handler_takes_or_that_comes_from_one_fails_the_step(
    bench: Bench, jobs: JobManager
) -> None:
    flow = bench.workflow(failing(catch=[{"type": "http", "steps": [note("n")]}]))
    assert await final(jobs, await jobs.create_job(flow, start=True)) == "FAILED"
    worse = [{"id": "worse", "raise": {"type": "worse", "message": "{{ steps.bad.error.message }}"}}]
    flow = bench.workflow(failing(catch=[{"steps": worse}]), id="other")
    job_id = await jobs.create_job(flow, start=True)
    assert await final(jobs, job_id) == "FAILED"
    assert [error["type"] for error in (await jobs.get_job(job_id)).errors] == ["worse"]


async def test_container_and_expression_errors_are_caught_too(bench: Bench, jobs: JobManager) -> None:
    def caught(number: int) -> list[dict[str, Any]]:
        return [{"steps": [{"id": f"h{number}", "set": "{{ error.type }}"}]}]

    flow = bench.workflow(
        {"id": "each", "foreach": [1], "steps": [failing()], "catch": caught(1)},
        {"id": "typo", "set": "{{ {}.x }}", "catch": caught(2)},
        outputs={"each": "{{ steps.each.output }}", "typo": "{{ steps.typo.output }}"},
    )
    job_id = await jobs.create_job(flow, start=True)
    assert await final(jobs, job_id) == "COMPLETED"
    assert await jobs.get_job_results(job_id) == {"each": "component.ValueError", "typo": "expression.undefined"}


async def test_handler_runs_after_the_retries(bench: Bench, jobs: JobManager) -> None:
    retry = {"max_attempts": 3, "delay_seconds": 0}
    flow = bench.workflow(failing(retry=retry, catch=[{"steps": [note("h", "{{ error.attempt }}")]}]))
    job_id = await jobs.create_job(flow, start=True)
    assert await final(jobs, job_id) == "COMPLETED"
    assert await jobs.get_job_results(job_id) == {"bad": 3}


async def test_cancellation_is_never_caught(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow({"id": "s", "component": "gate", "catch": [{"steps": [note("h")]}]})
    job_id = await jobs.create_job(flow, start=True)
    await bench.gate().wait_entered()
    await jobs.cancel_job(job_id)
    assert await final(jobs, job_id) == "CANCELLED"
    assert "step.caught" not in await types(jobs, job_id)


# ── going on in spite of it ───────────────────────────────────────────────────────────────────────────────────────


async def test_job_goes_on_after_a_step_that_may_fail(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow(
        failing(continue_on_error=True),
        {"id": "after", "set": "{{ [steps.bad.output, steps.bad.status, steps.bad.error.message] }}"},
    )
    job_id = await jobs.create_job(flow, start=True)
    assert await final(jobs, job_id) == "COMPLETED"
    assert await jobs.get_job_results(job_id) == {"after": [None, "FAILED", "no luck"]}


@pytest.mark.parametrize("fail_fast", [True, False])
async def test_siblings_are_stopped_or_finish_when_a_step_fails(
    bench: Bench, jobs: JobManager, fail_fast: bool
) -> None:
    flow = bench.workflow(
        {"id": "slow", "component": "gate", "needs": []},
        {"id": "bad", "component": "gate", "needs": [], "inputs": {"name": "bad"}, "fail_fast": fail_fast,
         "timeout": 3},
        note("after", needs=["slow"]),
    )  # fmt: skip
    job_id = await jobs.create_job(flow, start=True)
    await bench.gate().wait_entered()
    await bench.gate("bad").wait_entered()
    await bench.pass_time(4)
    await seen(jobs, job_id, "step.failed")
    bench.gate().open()
    assert await final(jobs, job_id) == "FAILED"
    steps = (await jobs.get_job(job_id)).steps
    assert steps["slow"]["status"] == ("CANCELLED" if fail_fast else "COMPLETED")
    assert "after" not in steps, "nothing new starts"


@pytest.mark.parametrize("kind", ["memory"])
async def test_branch_that_runs_out_of_time_lets_the_others_finish_where_its_container_says_so(
    bench: Bench, jobs: JobManager
) -> None:
    slow = {"id": "slow", "component": "gate", "inputs": {"name": "slow"}, "timeout": 5}
    flow = bench.workflow(
        {"id": "both", "parallel": {"a": [slow], "b": [{"id": "b", "component": "gate"}]}, "fail_fast": False}
    )
    job_id = await jobs.create_job(flow, start=True)
    await bench.gate("slow").wait_entered()
    await bench.gate().wait_entered()
    await bench.pass_time(6)
    await seen(jobs, job_id, "step.failed", path="both[a].slow")
    bench.gate().open()
    assert await final(jobs, job_id) == "FAILED"
    assert (await jobs.get_job(job_id)).steps["both[b].b"]["status"] == "COMPLETED"


# ── compensation ──────────────────────────────────────────────────────────────────────────────────────────────────


def undone(id: str, **fields: Any) -> dict[str, Any]:
    undo = {"component": "note", "inputs": {"value": "undo {{ steps." + id + ".output }}"}}
    return note(id, id, compensate=undo, **fields)


async def test_completed_steps_are_undone_in_reverse_order_when_the_job_fails(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow(
        undone("a"),
        {"id": "each", "foreach": [1, 2], "concurrency": 1, "steps": [
            note("x", "{{ item }}", compensate={"component": "note", "inputs": {"value": "{{ 'undo x' ~ item }}"}})
        ]},
        undone("b"),
        failing(),
        **{"finally": [note("f", "{{ job.outcome }}")]},
    )  # fmt: skip
    job_id = await jobs.create_job(flow, start=True)
    assert await final(jobs, job_id) == "FAILED"
    assert bench.components.values == ["a", 1, 2, "b", "undo b", "undo x2", "undo x1", "undo a", "FAILED"]
    steps = (await jobs.get_job(job_id)).steps
    assert {"b[undo]", "each[1].x[undo]", "each[0].x[undo]", "a[undo]"} <= set(steps)
    assert [error["message"] for error in (await jobs.get_job(job_id)).errors] == ["no luck"]


async def test_nothing_is_undone_when_all_went_well_or_the_error_was_caught(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow(undone("a"), failing(catch=[{"steps": [note("h", "h")]}]))
    assert await final(jobs, await jobs.create_job(flow, start=True)) == "COMPLETED"
    assert bench.components.values == ["a", "h"]


async def test_step_whose_error_was_caught_is_not_undone(bench: Bench, jobs: JobManager) -> None:
    undo = {"component": "note", "inputs": {"value": "undo"}}
    caught = failing("c", catch=[{"type": ["http", "component"], "steps": [note("h", "h")]}], compensate=undo)
    job_id = await jobs.create_job(bench.workflow(undone("a"), caught, failing()), start=True)
    assert await final(jobs, job_id) == "FAILED"
    assert bench.components.values == ["a", "h", "undo a"]


async def test_cancel_undoes_and_force_does_not_and_says_so(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow(undone("a"), {"id": "s", "component": "gate"}, **{"finally": [note("f", "f")]})
    for force in (False, True):
        job_id = await jobs.create_job(flow, start=True)
        await seen(jobs, job_id, "attempt.started", path="s")
        await jobs.cancel_job(job_id, force=force)
        assert await final(jobs, job_id) == "CANCELLED"
        last = (await history(jobs, job_id))[-1]
        assert last.data.get("skipped") == (["compensation", "finally"] if force else None)
    assert bench.components.values == ["a", "undo a", "f", "a"]


async def test_undo_that_fails_is_recorded_and_the_rest_goes_on(bench: Bench, jobs: JobManager) -> None:
    retry = {"max_attempts": 2, "delay_seconds": 0}
    broken = {"component": "fail", "inputs": {"message": "cannot undo"}, "retry": retry}
    flow = bench.workflow(undone("a"), note("b", "b", compensate=broken), failing())
    job_id = await jobs.create_job(flow, start=True)
    assert await final(jobs, job_id) == "FAILED"
    job = await jobs.get_job(job_id)
    assert [error["message"] for error in job.errors] == ["no luck", "cannot undo"]
    assert job.steps["b[undo]"]["attempt"] == 2
    assert bench.components.values == ["a", "b", "undo a"]


async def test_pause_and_gentle_cancel_are_refused_during_compensation_and_force_ends_it(
    bench: Bench, jobs: JobManager
) -> None:
    flow = bench.workflow(
        undone("a"), note("b", "b", compensate={"component": "gate"}), failing(), **{"finally": [note("f", "f")]}
    )
    job_id = await jobs.create_job(flow, start=True)
    await bench.gate().wait_entered()
    await jobs.pause_job(job_id)
    await jobs.cancel_job(job_id)
    assert (await jobs.get_summary(job_id)).status == "RUNNING"
    await jobs.cancel_job(job_id, force=True)
    assert await final(jobs, job_id) == "CANCELLED"
    assert bench.components.values == ["a", "b"]
    assert "job.pause_requested" not in await types(jobs, job_id)


@pytest.mark.parametrize("kind", ["memory"])
async def test_cleanup_that_takes_too_long_is_ended(bench: Bench) -> None:
    flow = bench.workflow(
        undone("a"), note("b", "b", compensate={"component": "gate"}), failing(),
        **{"finally": [{"id": "f", "component": "gate", "inputs": {"name": "f"}}]},
    )  # fmt: skip
    async with bench.manager(cleanup_timeout_s=100) as jobs:
        job_id = await jobs.create_job(flow, start=True)
        await bench.gate().wait_entered()
        await bench.pass_time(101)
        await bench.gate("f").wait_entered()
        await bench.pass_time(101)
        assert await final(jobs, job_id) == "FAILED"
        assert [error["type"] for error in (await jobs.get_job(job_id)).errors] == [
            "component.ValueError",
            "timeout.cleanup",
            "timeout.cleanup",
        ]


async def test_compensation_goes_on_in_the_next_worker(bench: Bench) -> None:
    flow = bench.workflow(undone("a"), note("b", "b", compensate={"component": "gate"}), failing())
    async with bench.manager(stop_timeout_s=0.1, shutdown_grace_s=0.1) as jobs:
        job_id = await jobs.create_job(flow, start=True)
        await bench.gate().wait_entered()
        closing = asyncio.create_task(jobs.close())
        until = bench.clock.now() + timedelta(minutes=5)  # then the compensation would still have time
        while not closing.done():
            if bench.clock.now() < until:
                bench.clock.advance(0.1)
            await asyncio.sleep(0)
        await closing
    bench.gate().open()
    async with bench.manager() as jobs:
        assert await final(jobs, job_id) == "FAILED"
        assert bench.components.values == ["a", "b", "undo a"]
        assert (await types(jobs, job_id)).count("job.compensation_started") == 1
