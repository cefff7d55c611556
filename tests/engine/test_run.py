"""Jobs that run to their end: chains, foreach, outputs, retries, timeouts, and components that misbehave."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from openagents_json import JobManager, StepContext
from openagents_json.errors import InvalidInputs, JobNotFound, ResultsNotReady, WorkflowNotFound
from tests.engine.support import Bench, final, history, on_every_store, seen, types

pytestmark = on_every_store

RETRY = {"max_attempts": 3, "delay_seconds": 2, "backoff_multiplier": 2}


async def test_chain_passes_outputs_on_and_computes_the_jobs_outputs(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow(
        {"id": "first", "component": "add", "inputs": {"a": "{{ inputs.n }}", "b": 1}},
        {"id": "second", "component": "step", "inputs": {"value": "{{ steps.first.output }}"}},
        {"id": "third", "set": "{{ steps.second.output * 2 }}"},
        inputs={"type": "object", "properties": {"n": {"type": "integer", "default": 4}}},
        outputs={"result": "{{ steps.third.output }}"},
    )
    job_id = await jobs.create_job(flow, start=True)
    job = await jobs.wait(job_id)
    assert (job.status, job.outputs, job.progress) == ("COMPLETED", {"result": 10}, 1.0)
    assert await jobs.get_job_results(job_id) == {"result": 10}
    assert {path: step["output"] for path, step in job.steps.items()} == {"first": 5, "second": 5, "third": 10}


async def test_chain_step_costs_one_commit(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow(*({"id": f"s{n}", "component": "note"} for n in range(20)))
    before = jobs.store.stats()["commits"]
    job_id = await jobs.create_job(flow, start=True)
    await final(jobs, job_id)
    assert jobs.store.stats()["commits"] - before <= 20 + 4


async def test_without_outputs_the_last_steps_output_is_the_jobs(bench: Bench, jobs: JobManager) -> None:
    job_id = await jobs.create_job(bench.one("add", inputs={"a": 1, "b": 2}), start=True)
    assert (await jobs.wait(job_id)).outputs == {"s": 3}


async def test_foreach_keeps_item_order_and_its_concurrency(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow(
        {
            "id": "each",
            "foreach": "{{ inputs.items }}",
            "concurrency": 2,
            "steps": [{"id": "s", "component": "gate", "inputs": {"value": "{{ item * 10 + index }}"}}],
        },
        inputs={"type": "object", "properties": {"items": {"type": "array"}}},
    )
    job_id = await jobs.create_job(flow, {"items": [1, 2, 3, 4, 5]}, start=True)
    await bench.gate().wait_entered(2)
    status = await jobs.get_job_status(job_id)
    assert status["steps"]["each"]["items"] == {"count": 5, "opened": 2, "running": 2, "errors": []}
    bench.open_gates()
    assert (await jobs.wait(job_id)).outputs == {"each": [10, 21, 32, 43, 54]}


async def test_wide_foreach_costs_a_handful_of_commits(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow(
        {
            "id": "each",
            "foreach": "{{ range(500) | list }}",
            "steps": [{"id": "s", "component": "note", "inputs": {"value": "{{ item }}"}}],
        }
    )
    before = jobs.store.stats()["commits"]
    job_id = await jobs.create_job(flow, start=True)
    assert (await jobs.wait(job_id)).outputs == {"each": list(range(500))}
    assert jobs.store.stats()["commits"] - before <= 20


@pytest.mark.parametrize(
    ("mode", "output"), [("skip", [1, 3]), ("collect", [1, None, 3])], ids=["skip leaves out", "collect has null"]
)
async def test_foreach_goes_on_past_failed_items(bench: Bench, jobs: JobManager, mode: str, output: Any) -> None:
    flow = bench.workflow(
        {
            "id": "each",
            "foreach": [1, 2, 3],
            "on_item_error": mode,
            "steps": [
                {"id": "bad", "component": "fail", "condition": "{{ item == 2 }}"},
                {"id": "good", "component": "note", "inputs": {"value": "{{ item }}"}},
            ],
        },
        {"id": "errors", "set": "{{ steps.each.errors | map(attribute='index') | list }}"},
        outputs={"each": "{{ steps.each.output }}", "errors": "{{ steps.errors.output }}"},
    )
    job_id = await jobs.create_job(flow, start=True)
    assert (await jobs.wait(job_id)).outputs == {"each": output, "errors": [1]}


async def test_failed_item_stops_its_siblings_and_fails_the_job(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow(
        {
            "id": "each",
            "foreach": ["gate", "fail"],
            "steps": [{"id": "s", "component": "{{ item }}", "allow": ["gate", "fail"]}],
        }
    )
    job_id = await jobs.create_job(flow, start=True)
    job = await jobs.wait(job_id)
    assert job.status == "FAILED"
    assert [(error["type"], error["step"]) for error in job.errors] == [("component.ValueError", "each[1].s")]
    assert job.steps["each[0].s"]["status"] == "CANCELLED"
    assert bench.gate().left == 1


async def test_skipped_step_has_null_output_and_the_next_one_runs(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow(
        {"id": "maybe", "component": "fail", "condition": "{{ 1 > 2 }}"},
        {"id": "then", "set": "{{ steps.maybe.output is none }}"},
    )
    job_id = await jobs.create_job(flow, start=True)
    job = await jobs.wait(job_id)
    assert (job.outputs, job.steps["maybe"]["status"]) == ({"then": True}, "SKIPPED")


async def test_finally_runs_after_a_failure_and_does_not_change_it(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow(
        {"id": "s", "component": "fail"},
        **{"finally": [{"id": "after", "component": "note", "inputs": {"value": "{{ job.outcome }}"}}]},
    )
    job_id = await jobs.create_job(flow, start=True)
    job = await jobs.wait(job_id)
    assert (job.status, job.steps["after"]["output"]) == ("FAILED", "FAILED")


async def test_failing_finally_is_added_to_the_errors_of_a_completed_job(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow(
        {"id": "s", "component": "note", "inputs": {"value": 7}},
        **{"finally": [{"id": "after", "component": "fail"}]},
    )
    job_id = await jobs.create_job(flow, start=True)
    job = await jobs.wait(job_id)
    assert (job.status, job.outputs) == ("COMPLETED", {"s": 7})
    assert [error["step"] for error in job.errors] == ["after"]


# ── retries ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_retry_waits_its_backoff_and_keeps_the_key_while_tokens_rise(bench: Bench, jobs: JobManager) -> None:
    job_id = await jobs.create_job(bench.one("flaky", inputs={"until": 3}, retry=RETRY), start=True)
    first = await seen(jobs, job_id, "attempt.failed")
    assert first.data["retry_at_us"] == first.at_us + 2_000_000
    assert (await jobs.get_job_status(job_id))["waiting_for"][0]["kind"] == "retry"
    await bench.pass_time(2)
    second = await seen(jobs, job_id, "attempt.failed", count=2)
    assert second.data["retry_at_us"] == second.at_us + 4_000_000
    await bench.pass_time(4)
    assert await final(jobs, job_id) == "COMPLETED"
    starts = [event for event in await history(jobs, job_id) if event.type == "attempt.started"]
    assert [event.data["attempt"] for event in starts] == [1, 2, 3]
    assert len({event.data["key"] for event in starts}) == 1


async def test_long_backoff_lets_go_of_the_job_until_it_is_due(bench: Bench, jobs: JobManager) -> None:
    retry = RETRY | {"delay_seconds": 60}
    job_id = await jobs.create_job(bench.one("flaky", inputs={"until": 2}, retry=retry), start=True)
    await seen(jobs, job_id, "job.waiting")
    summary = await jobs.get_summary(job_id)
    assert summary.status == "WAITING" and summary.wake_at is not None
    await bench.pass_time(61)
    assert await final(jobs, job_id) == "COMPLETED"
    assert "job.continued" in await types(jobs, job_id)


async def test_server_that_asks_for_a_longer_wait_gets_it(bench: Bench, jobs: JobManager) -> None:
    inputs = {"until": 2, "delay_s": 4.0}
    job_id = await jobs.create_job(bench.one("flaky", inputs=inputs, retry=RETRY), start=True)
    failed = await seen(jobs, job_id, "attempt.failed")
    assert failed.data["retry_at_us"] == failed.at_us + 4_000_000
    await bench.pass_time(4)
    assert await final(jobs, job_id) == "COMPLETED"


async def test_retry_that_is_due_before_its_failure_is_committed_still_comes(bench: Bench, jobs: JobManager) -> None:
    """A slow disk and a short delay: the due time passes while the failure is being written."""
    retry = RETRY | {"delay_seconds": 0.001}
    bench.clock.advance_at_commit(jobs.store, 0.02)
    job_id = await jobs.create_job(bench.one("flaky", inputs={"until": 3}, retry=retry), start=True)
    assert await final(jobs, job_id) == "COMPLETED"


async def test_retries_end_and_the_job_fails_with_the_last_error(bench: Bench, jobs: JobManager) -> None:
    retry = {"max_attempts": 2, "delay_seconds": 0}
    job_id = await jobs.create_job(bench.one("fail", inputs={"message": "why"}, retry=retry), start=True)
    job = await jobs.wait(job_id)
    assert job.status == "FAILED"
    assert job.errors[0] | {"details": None} == {
        "type": "component.ValueError",
        "message": "why",
        "step": "s",
        "attempt": 2,
        "retryable": None,
        "details": None,
    }
    with pytest.raises(ResultsNotReady, match="ValueError: why"):
        await jobs.get_job_results(job_id)


# ── timeouts ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_inline_timeout_cancels_the_coroutine_and_fails_the_attempt(bench: Bench, jobs: JobManager) -> None:
    job_id = await jobs.create_job(bench.one("gate", timeout=3), start=True)
    context = await bench.gate().wait_entered()
    assert context.deadline is not None
    await bench.pass_time(3)
    job = await jobs.wait(job_id)
    assert (job.status, job.errors[0]["type"]) == ("FAILED", "timeout.attempt")
    assert (bench.gate().left, context.cancel_reason) == (1, "timeout")


async def test_thread_past_its_timeout_is_abandoned_shown_and_counted_until_it_ends(
    bench: Bench, jobs: JobManager
) -> None:
    gate = bench.gate()
    job_id = await jobs.create_job(bench.one("thread_gate", timeout=3, inputs={"value": "late"}), start=True)
    await gate.wait_entered()
    await bench.pass_time(3, 10)
    job = await jobs.wait(job_id)
    assert (job.status, job.abandoned) == ("FAILED", 1)
    assert (await jobs.get_summary(job_id)).display_status == "FAILED (1 abandoned attempt still runs)"
    health = await jobs.health()
    assert (health["status"], health["abandoned_threads"], health["steps"]) == ("degraded", 1, 1)
    before = await types(jobs, job_id)
    gate.open()
    await gate.wait_left()
    await bench.until_async(lambda: jobs.get_summary(job_id), lambda summary: summary.abandoned == 0)
    assert (await jobs.get_summary(job_id)).display_status == "FAILED"
    assert await types(jobs, job_id) == before, "the late result was refused"
    assert (await jobs.health())["steps"] == 0


async def test_next_attempt_starts_in_another_slot_when_a_thread_is_abandoned(bench: Bench, jobs: JobManager) -> None:
    gate = bench.gate()
    retry = {"max_attempts": 2, "delay_seconds": 0}
    job_id = await jobs.create_job(bench.one("thread_gate", timeout=3, retry=retry), start=True)
    await gate.wait_entered()
    await bench.pass_time(3)
    assert len(gate.contexts) == 1, "nothing starts while the old code may end in its grace"
    await bench.pass_time(10)
    second = await gate.wait_entered(2)
    assert (second.attempt, second.idempotency_key) == (2, gate.contexts[0].idempotency_key)
    assert second.fencing_token > gate.contexts[0].fencing_token
    gate.open()
    assert await final(jobs, job_id) == "COMPLETED"
    await gate.wait_left(2)
    await bench.until_async(lambda: jobs.get_summary(job_id), lambda summary: summary.abandoned == 0)


async def test_coroutine_that_swallows_its_cancellation_is_abandoned_after_its_grace(
    bench: Bench, jobs: JobManager
) -> None:
    job_id = await jobs.create_job(bench.one("stubborn", timeout=3), start=True)
    await bench.gate().wait_entered()
    await bench.pass_time(3, 10)
    assert await final(jobs, job_id) == "FAILED"
    assert (await jobs.get_summary(job_id)).abandoned == 1
    bench.open_gates()
    await bench.until_async(lambda: jobs.get_summary(job_id), lambda summary: summary.abandoned == 0)


async def test_waiting_for_a_component_that_never_returns_can_be_given_up(bench: Bench, jobs: JobManager) -> None:
    job_id = await jobs.create_job(bench.one("gate"), start=True)
    await bench.gate().wait_entered()
    assert (await jobs.get_summary(job_id)).status == "RUNNING"
    await jobs.cancel_job(job_id)
    assert await final(jobs, job_id) == "CANCELLED"


# ── components that misbehave ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("isolation", ["inline", "thread"])
@pytest.mark.parametrize(
    ("what", "type"),
    [
        ("raise", "component.ZeroDivisionError"),
        ("set", "output.invalid"),
        ("nan", "output.invalid"),
        ("2 MiB", "limit.output"),
        ("coroutine", "output.invalid"),
        ("exit", "component.SystemExit"),
        ("cancel", "component.CancelledError"),
        ("stop", "component.RuntimeError"),
    ],
)
async def test_misbehaving_component_fails_its_job_only(
    bench: Bench, jobs: JobManager, isolation: Any, what: str, type: str
) -> None:
    import asyncio

    def misbehave() -> Any:
        match what:
            case "raise":
                return 1 // 0
            case "set":
                return {1, 2}
            case "nan":
                return float("nan")
            case "2 MiB":
                return "x" * 2 * 1024 * 1024
            case "coroutine":
                return asyncio.sleep(0)
            case "exit":
                raise SystemExit(3)
            case "cancel":
                raise asyncio.CancelledError
            case "stop":
                raise StopIteration(7)
        raise AssertionError(what)

    bench.components.registry.register(misbehave, "misbehave", isolation=isolation)
    bad = await jobs.create_job(bench.one("misbehave"), start=True)
    good = await jobs.create_job(bench.one("note", id="good", inputs={"value": 1}), start=True)
    job = await jobs.wait(bad)
    assert (job.status, job.errors[0]["type"]) == ("FAILED", type)
    assert await final(jobs, good) == "COMPLETED"


async def test_async_component_that_exits_fails_its_job_and_not_the_program(bench: Bench, jobs: JobManager) -> None:
    @bench.components.registry.tool("leave")
    async def leave() -> None:
        raise SystemExit(3)

    job_id = await jobs.create_job(bench.one("leave"), start=True)
    job = await jobs.wait(job_id)
    assert (job.status, job.errors[0]["type"]) == ("FAILED", "component.SystemExit")


async def test_inputs_that_do_not_fit_the_component_fail_the_step_with_every_problem(
    bench: Bench, jobs: JobManager
) -> None:
    flow = bench.workflow({"id": "s", "component": "{{ 'add' }}", "allow": ["add"], "inputs": {"a": "x", "c": 1}})
    job_id = await jobs.create_job(flow, start=True)
    job = await jobs.wait(job_id)
    assert job.errors[0]["type"] == "input.invalid"
    assert len(job.errors[0]["details"]["problems"]) == 3


async def test_job_whose_components_are_not_here_is_left_to_other_workers(bench: Bench, jobs: JobManager) -> None:
    registry = bench.components.registry
    registry.register(lambda: None, "elsewhere", isolation="inline")
    flow, other = bench.one("elsewhere"), bench.one("note", id="other")
    del registry._components["elsewhere"], registry._highest["elsewhere"]
    left = [await jobs.create_job(flow, start=True) for _ in range(3)]
    assert await final(jobs, await jobs.create_job(other, start=True)) == "COMPLETED"
    assert [(await jobs.get_summary(job_id)).status for job_id in left] == ["QUEUED"] * 3
    registry.register(lambda: None, "elsewhere", isolation="inline")
    await bench.pass_time(0.1)
    assert [await final(jobs, job_id) for job_id in left] == ["COMPLETED"] * 3


async def test_job_whose_component_goes_waits_for_a_worker_that_has_it(bench: Bench, jobs: JobManager) -> None:
    registry = bench.components.registry
    registry.register(lambda: None, "gone", isolation="inline")
    flow = bench.workflow({"id": "g", "component": "gate"}, {"id": "s", "component": "gone"})
    job_id = await jobs.create_job(flow, start=True)
    await bench.gate().wait_entered()
    del registry._components["gone"], registry._highest["gone"]
    bench.gate().open()
    queued = await seen(jobs, job_id, "job.queued", 2)
    assert queued.data == {"reason": "elsewhere", "requires": ["gone"]}
    assert (await jobs.get_job_status(job_id))["waiting_for"] == [
        {"kind": "worker", "components": ["gone"], "workers": 0}
    ]
    registry.register(lambda: None, "gone", isolation="inline")
    await bench.pass_time(0.1)
    assert await final(jobs, job_id) == "COMPLETED"
    assert (await jobs.get_job(job_id)).steps["g"]["attempt"] == 1


async def test_expression_that_fails_at_run_time_fails_the_step(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow(
        {"id": "first", "component": "note", "inputs": {"value": {"a": 1}}},
        {"id": "s", "component": "note", "inputs": {"value": "{{ steps.first.output.b }}"}},
    )
    job_id = await jobs.create_job(flow, start=True)
    job = await jobs.wait(job_id)
    assert (job.status, job.errors[0]["type"], job.errors[0]["step"]) == ("FAILED", "expression.undefined", "s")


async def test_unknown_workflow_job_and_inputs_are_refused_with_nothing_accepted(
    bench: Bench, jobs: JobManager
) -> None:
    with pytest.raises(WorkflowNotFound):
        await jobs.create_job("nowhere")
    with pytest.raises(JobNotFound):
        await jobs.get_job("nobody")
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    flow = bench.workflow({"id": "s", "component": "note"}, inputs=schema)
    for inputs in ({}, {"n": "x"}, {"n": 1, "extra": 2}):
        with pytest.raises(InvalidInputs):
            await jobs.create_job(flow, inputs)
    assert len(await jobs.list_jobs()) == 0


async def test_job_of_a_thousand_events_gets_a_snapshot_that_tells_the_same(bench: Bench) -> None:
    flow = bench.workflow(
        {
            "id": "each",
            "foreach": "{{ range(600) | list }}",
            "steps": [{"id": "s", "component": "note", "inputs": {"value": "{{ item }}"}}],
        },
        {"id": "end", "component": "gate"},
    )
    async with bench.manager() as jobs, contextlib.AsyncExitStack() as stack:
        stack.callback(bench.open_gates)  # whatever fails, the manager closes without moving the clock
        job_id = await jobs.create_job(flow, start=True)
        await bench.gate().wait_entered()
        stored = await jobs.store.read(job_id)
        assert stored is not None and stored.snapshot is not None
        await bench.check()
        await jobs.pause_job(job_id)
        bench.gate().open()
        await seen(jobs, job_id, "job.paused")
    await bench.check()
    bench.gate().shut()
    async with bench.manager() as jobs:
        await jobs.resume_job(job_id)
        assert await final(jobs, job_id) == "COMPLETED"
        assert len(bench.gate().contexts) == 1


async def test_context_tells_the_component_where_it_is(bench: Bench, jobs: JobManager) -> None:
    job_id = await jobs.create_job(bench.one("gate"), start=True)
    context: StepContext = await bench.gate().wait_entered()
    [start] = [event for event in await history(jobs, job_id) if event.type == "attempt.started"]
    assert (context.job_id, context.workflow_id, context.step, context.attempt) == (job_id, "flow", "s", 1)
    assert (context.fencing_token, context.idempotency_key) == (start.number, start.data["key"])
