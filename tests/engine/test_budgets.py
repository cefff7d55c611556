"""Budgets through the manager: what components report is counted in every isolation and whatever becomes of them, and
a job that has spent its budget is paused until it has more."""

from __future__ import annotations

import asyncio
import itertools
import threading
from typing import Any

import pytest

from openagents_json import FatalError, JobManager, JobStatus, RetryableError, StepContext
from openagents_json.errors import InvalidInputs, InvalidTransition
from openagents_json.job.engine.spending import FIRST_S
from tests.engine.support import SAFETY_S, Bench, final, history, seen, types, until, vanish


@pytest.fixture(params=["memory", "sqlite", "file", "postgres"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


on_one_store = pytest.mark.parametrize("kind", ["memory"])
everywhere = pytest.mark.parametrize("isolation", ["inline", "thread", "process"])


@pytest.fixture(autouse=True)
def components(bench: Bench, request: pytest.FixtureRequest) -> None:
    """`inline.spend`, `thread.spend` and `process.spend`, and `spend_at` that reports when it is told to."""
    if "process" in request.node.name:  # they are started beforehand
        bench.isolate("spend")
    registry = bench.components.registry

    def spend(ctx: StepContext, tokens: int, cost: float = 0.0, then: str = "return", name: str = "gate") -> int:
        ctx.spend(tokens=tokens - 1, cost=cost)
        ctx.spend(tokens=1)
        if then == "raise":
            raise RetryableError("llm.overloaded", "it was spent in vain")
        return tokens

    async def spend_inline(ctx: StepContext, tokens: int, cost: float = 0.0, then: str = "return") -> int:
        value = spend(ctx, tokens, cost, then)
        if then == "stay":
            await ctx.sleep(1e9)
        return value

    def spend_in_thread(ctx: StepContext, tokens: int, cost: float = 0.0, then: str = "return") -> int:
        value = spend(ctx, tokens, cost, then)
        if then == "stay":
            while not ctx.cancelled:
                threading.Event().wait(0.002)
            raise FatalError("told", "to stop")
        return value

    registry.register(spend_inline, "inline.spend")
    registry.register(spend_in_thread, "thread.spend", isolation="thread")

    @registry.tool("spend_at")
    async def spend_at(ctx: StepContext, name: str = "gate", tokens: int = 0, value: Any = None) -> Any:
        """Enters the gate, and reports when that opens."""
        here = bench.gate(name)
        here.enter(ctx)
        await here.wait_open()
        ctx.spend(tokens=tokens)
        return value


async def spent(jobs: JobManager, job_id: str) -> dict[str, Any]:
    """Tokens and cost in the listing, which has the same as the status."""
    [listed] = (await jobs.list_jobs({"id": job_id})).jobs
    status = await jobs.get_job_status(job_id)
    assert listed.spent.items() <= status["spent"].items()
    assert listed.budget == status["budget"]
    return {kind: amount for kind, amount in listed.spent.items() if kind != "seconds"}


async def paused(jobs: JobManager, job_id: str) -> None:
    await jobs.wait_paused(job_id, SAFETY_S)


def call(isolation: str, id: str = "s", **inputs: Any) -> dict[str, Any]:
    return {"id": id, "component": f"{isolation}.spend", "inputs": {"tokens": 10, "cost": 0.1} | inputs}


# ── what is counted ───────────────────────────────────────────────────────────────────────────────────────────────


@everywhere
async def test_what_an_attempt_reports_stands_in_status_listing_and_step(
    bench: Bench, jobs: JobManager, isolation: str
) -> None:
    flow = bench.workflow(call(isolation, "a"), call(isolation, "b", tokens=5, cost=0.2))
    job_id = await jobs.create_job(flow, start=True)
    assert await final(jobs, job_id) == "COMPLETED"
    assert await spent(jobs, job_id) == {"tokens": 15, "cost": 0.3}
    assert (await jobs.get_job_status(job_id))["steps"]["b"]["spent"] == {"tokens": 5, "cost": 0.2}
    assert "attempt.spent" not in await types(jobs, job_id), "an attempt that is short is told of once"


@everywhere
async def test_attempts_that_fail_count_with_those_that_follow(bench: Bench, jobs: JobManager, isolation: str) -> None:
    retry = {"max_attempts": 3, "delay_seconds": 0}
    job_id = await jobs.create_job(bench.workflow(call(isolation, then="raise") | {"retry": retry}), start=True)
    assert await final(jobs, job_id) == "FAILED"
    assert await spent(jobs, job_id) == {"tokens": 30, "cost": 0.3}
    failed = [event.data for event in await history(jobs, job_id) if event.type == "attempt.failed"]
    assert [data["spent"] for data in failed] == [{"tokens": 10, "cost_nanos": 100_000_000}] * 3


async def staying(bench: Bench, jobs: JobManager, isolation: str, **step: Any) -> str:
    """A job whose one attempt has reported, and stays."""
    inputs = {"started": str(bench.place("started"))} if isolation == "process" else {}
    job_id = await jobs.create_job(bench.workflow(call(isolation, then="stay", **inputs) | step), start=True)
    await seen(jobs, job_id, "attempt.started")
    if isolation == "process":
        await bench.appears("started")
    runner = jobs._worker.runners[job_id]
    await until(lambda: runner._running._spending._total.get("tokens") == 10)
    return job_id


@everywhere
@on_one_store
async def test_attempt_that_is_cancelled_counts(bench: Bench, jobs: JobManager, isolation: str) -> None:
    job_id = await staying(bench, jobs, isolation)
    await jobs.cancel_job(job_id)
    assert await final(jobs, job_id) == "CANCELLED"
    assert await spent(jobs, job_id) == {"tokens": 10, "cost": 0.1}


@everywhere
@on_one_store
async def test_attempt_that_runs_out_of_time_counts(bench: Bench, jobs: JobManager, isolation: str) -> None:
    job_id = await staying(bench, jobs, isolation, timeout=100)
    await bench.pass_time(100)
    assert await final(jobs, job_id) == "FAILED"
    assert await spent(jobs, job_id) == {"tokens": 10, "cost": 0.1}
    assert (await jobs.get_summary(job_id)).spent["seconds"] == 100


async def test_process_that_is_killed_counts_with_what_it_reported_before(bench: Bench, jobs: JobManager) -> None:
    job_id = await staying(bench, jobs, "process")
    await jobs.cancel_job(job_id, force=True)
    assert await final(jobs, job_id) == "CANCELLED"
    [ended] = [event for event in await history(jobs, job_id) if event.type == "attempt.cancelled"]
    assert (ended.data["rung"], ended.data["spent"]["tokens"]) == ("kill", 10)


async def test_process_that_dies_counts_with_what_it_reported_before(bench: Bench, jobs: JobManager) -> None:
    job_id = await jobs.create_job(bench.workflow(call("process", then="die")), start=True)
    assert await final(jobs, job_id) == "FAILED"
    assert await spent(jobs, job_id) == {"tokens": 10, "cost": 0.1}


@on_one_store
async def test_very_many_small_amounts_from_many_threads_add_up_exactly(bench: Bench, jobs: JobManager) -> None:
    @bench.components.registry.tool("crowd", isolation="thread")
    def crowd(ctx: StepContext) -> None:
        def report() -> None:
            for _ in range(1_000):
                ctx.spend(tokens=1, cost=0.1)
                ctx.spend(cost=1.5e-7)

        threads = [threading.Thread(target=report) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    job_id = await jobs.create_job(bench.one("crowd"), start=True)
    assert await final(jobs, job_id) == "COMPLETED"
    assert await spent(jobs, job_id) == {"tokens": 4_000, "cost": 400.0006}
    assert (await types(jobs, job_id)).count("attempt.spent") == 0


@on_one_store
async def test_what_an_abandoned_thread_spends_later_is_not_counted(bench: Bench, jobs: JobManager) -> None:
    gate = bench.gate("late")

    @bench.components.registry.tool("stuck", isolation="thread")
    def stuck(ctx: StepContext) -> None:
        ctx.spend(tokens=1)
        gate.enter(ctx)
        gate.wait_open_in_thread()
        ctx.spend(tokens=100)
        gate.leave()

    job_id = await jobs.create_job(bench.one("stuck"), start=True)
    await gate.wait_entered()
    await jobs.cancel_job(job_id, force=True)
    await bench.pass_time(0.3)
    assert await final(jobs, job_id) == "CANCELLED"
    gate.open()
    await gate.wait_left()
    await bench.until_async(lambda: jobs.get_summary(job_id), lambda summary: summary.abandoned == 0)
    assert await spent(jobs, job_id) == {"tokens": 1}


@on_one_store
@pytest.mark.parametrize("amounts", [{"tokens": -1}, {"cost": -0.1}, {"cost": float("nan")}, {"tokens": 1.5}])
async def test_amount_that_cannot_be_is_an_error_of_the_component(
    bench: Bench, jobs: JobManager, amounts: dict[str, Any]
) -> None:
    @bench.components.registry.tool("wrong")
    async def wrong(ctx: StepContext) -> None:
        ctx.spend(**amounts)

    job_id = await jobs.create_job(bench.one("wrong"), start=True)
    assert await final(jobs, job_id) == "FAILED"
    assert (await jobs.get_job(job_id)).errors[0]["type"] == "component.ValueError"
    assert await spent(jobs, job_id) == {}


@on_one_store
async def test_attempt_that_goes_on_is_told_of_now_and_then(bench: Bench, jobs: JobManager) -> None:
    job_id = await jobs.create_job(bench.one("gate"), start=True)
    context = await bench.gate().wait_entered()
    for _ in range(200):
        context.spend(tokens=1)
        await bench.pass_time(0.1)
    bench.gate().open()
    assert await final(jobs, job_id) == "COMPLETED"
    told = [event for event in await history(jobs, job_id) if event.type == "attempt.spent"]
    gaps_s = [round((after.at_us - before.at_us) / 1e6) for before, after in itertools.pairwise(told)]
    assert gaps_s == [2, 4, 8], "twice as long each time"
    assert await spent(jobs, job_id) == {"tokens": 200}


# ── the budget is spent ───────────────────────────────────────────────────────────────────────────────────────────


async def test_job_pauses_and_goes_on_with_more(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow(call("inline", "a"), call("inline", "b"), budget={"tokens": 10})
    job_id = await jobs.create_job(flow, start=True)
    await paused(jobs, job_id)
    status = await jobs.get_job_status(job_id)
    reason = "budget of 10 tokens is spent (10)"
    [wait] = status["waiting_for"]
    assert wait.pop("since") is not None
    assert wait == {"kind": "resume", "by": "budget", "reason": reason, "budget": "tokens"}
    assert status["budget"] == {"tokens": 10}
    with pytest.raises(InvalidTransition, match=r"its budget of 10 tokens is spent \(10\); give it more first"):
        await jobs.resume_job(job_id)
    await jobs.add_budget(job_id, tokens=5, by="ada", reason="it is worth it")
    added = await seen(jobs, job_id, "job.budget_added")
    assert added.data == {"amounts": {"tokens": 5}, "by": "ada", "reason": "it is worth it"}
    assert (await jobs.get_summary(job_id)).budget == {"tokens": 15}
    await jobs.resume_job(job_id)
    assert await final(jobs, job_id) == "COMPLETED"
    assert await spent(jobs, job_id) == {"tokens": 20, "cost": 0.2}


@everywhere
@on_one_store
async def test_attempt_that_is_still_on_pauses_its_job_at_once(bench: Bench, jobs: JobManager, isolation: str) -> None:
    inputs = {"started": str(bench.place("started"))} if isolation == "process" else {}
    steps = [call(isolation, "a", then="stay", **inputs), {"id": "b", "component": "note"}]
    job_id = await jobs.create_job(bench.workflow(*steps, budget={"tokens": 10}), start=True)
    asked = await seen(jobs, job_id, "job.pause_requested")
    assert asked.data["by"] == "budget"
    summary = await jobs.get_summary(job_id)
    assert (summary.status, summary.pause_requested, summary.spent["tokens"]) == ("RUNNING", True, 10)
    await jobs.cancel_job(job_id)
    assert await final(jobs, job_id) == "CANCELLED"
    assert bench.components.calls == []


async def test_seconds_pause_a_job_while_its_attempt_is_on(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow(
        {"id": "a", "component": "gate"}, {"id": "b", "component": "note"}, budget={"seconds": 10.5}
    )  # fmt: skip
    job_id = await jobs.create_job(flow, start=True)
    await bench.gate().wait_entered()
    await seen(jobs, job_id, "attempt.started")
    await bench.pass_time(10.4)
    assert not (await jobs.get_summary(job_id)).pause_requested
    await bench.pass_time(0.1)
    asked = await seen(jobs, job_id, "job.pause_requested")
    assert asked.data["reason"] == "budget of 10.5 seconds is spent (10.5)"
    await bench.pass_time(1)
    bench.gate().open()
    await paused(jobs, job_id)
    assert (await jobs.get_summary(job_id)).spent == {"seconds": 11.5}
    assert bench.components.calls == []
    await jobs.add_budget(job_id, seconds=1.5)
    await jobs.resume_job(job_id)
    assert await final(jobs, job_id) == "COMPLETED"


@on_one_store
async def test_pause_that_is_not_effective_yet_is_withdrawn_with_more_budget(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow(
        {"id": "spend", "component": "inline.spend", "inputs": {"tokens": 10}, "needs": []},
        {"id": "hold", "component": "gate", "needs": []},
        {"id": "after", "component": "note"},
        budget={"tokens": 10},
    )
    job_id = await jobs.create_job(flow, start=True)
    await seen(jobs, job_id, "job.pause_requested")
    await jobs.add_budget(job_id, tokens=1)
    await seen(jobs, job_id, "job.budget_added")
    await jobs.resume_job(job_id)
    await seen(jobs, job_id, "job.pause_withdrawn")
    bench.gate().open()
    assert await final(jobs, job_id) == "COMPLETED"


@pytest.mark.parametrize("kind", ["memory", "sqlite", "file"])
async def test_spending_survives_the_death_of_a_worker(bench: Bench) -> None:
    flow = bench.workflow(
        call("inline", "a"),
        {"id": "b", "component": "spend_at", "inputs": {"tokens": 5}},
        {"id": "c", "component": "note"},
        budget={"tokens": 100},
    )
    dead = bench.manager()
    await dead.open()
    job_id = await dead.create_job(flow, start=True)
    context = await bench.gate().wait_entered()
    context.spend(tokens=20)
    await bench.pass_time(FIRST_S)
    await seen(dead, job_id, "attempt.spent")
    context.spend(tokens=1_000)  # nobody is told of this before the end
    await vanish(dead)
    bench.clock.advance(31)
    bench.gate().open()
    async with bench.manager() as jobs:
        assert await final(jobs, job_id) == "COMPLETED"
        assert await spent(jobs, job_id) == {"tokens": 35, "cost": 0.1}
        [lost] = [event for event in await history(jobs, job_id) if event.type == "attempt.lost"]
        assert (await jobs.get_summary(job_id)).spent["seconds"] == FIRST_S, "31 s of nobody knows what do not count"
        assert lost.data["seen_us"] < lost.at_us - 30_000_000


# ── children and retries ──────────────────────────────────────────────────────────────────────────────────────────


async def test_child_spends_what_its_parent_has(bench: Bench, jobs: JobManager) -> None:
    bench.workflow(call("inline", "x"), call("inline", "y"), id="child")
    flow = bench.workflow(
        {"id": "sub", "workflow": "child"}, {"id": "after", "component": "note"}, id="parent", budget={"tokens": 20}
    )
    job_id = await jobs.create_job(flow, start=True)
    await paused(jobs, job_id)
    assert await spent(jobs, job_id) == {"tokens": 20, "cost": 0.2}
    assert bench.components.calls == []
    await jobs.add_budget(job_id, tokens=1)
    await jobs.resume_job(job_id)
    assert await final(jobs, job_id) == "COMPLETED"


async def test_child_is_paused_with_the_budget_of_its_parent(bench: Bench, jobs: JobManager) -> None:
    bench.workflow(call("inline", "x"), {"id": "hold", "component": "gate"}, call("inline", "y"), id="child")
    flow = bench.workflow({"id": "sub", "workflow": "child"}, id="parent", budget={"tokens": 10})
    job_id = await jobs.create_job(flow, start=True)
    await seen(jobs, job_id, "child.spent")
    child = str((await seen(jobs, job_id, "child.started")).data["child_id"])
    await seen(jobs, child, "job.pause_requested")
    bench.gate().open()
    await paused(jobs, job_id)
    assert (await jobs.get_summary(child)).status == JobStatus.PAUSED
    await jobs.add_budget(job_id, tokens=50)
    await jobs.resume_job(job_id)
    assert await final(jobs, job_id) == "COMPLETED"
    assert await spent(jobs, job_id) == await spent(jobs, child) | {"tokens": 20}


@on_one_store
async def test_retry_begins_with_nothing_spent_and_the_budget_that_was(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow(
        call("inline", "a"), {"id": "b", "component": "fail"}, budget={"tokens": 50, "cost": 1}
    )  # fmt: skip
    job_id = await jobs.create_job(flow, start=True)
    assert await final(jobs, job_id) == "FAILED"
    again = await jobs.retry_job(job_id, budget={"cost": 2, "seconds": 9})
    assert await final(jobs, again) == "FAILED"
    assert (await jobs.get_summary(again)).budget == {"seconds": 9, "tokens": 50, "cost": 2}
    assert await spent(jobs, again) == {}, "what was taken over costs nothing"


# ── what callers say ──────────────────────────────────────────────────────────────────────────────────────────────


@on_one_store
async def test_budget_of_a_job_comes_over_that_of_its_workflow(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow(call("inline"), budget={"tokens": 10, "cost": 1.5})
    cases: list[tuple[Any, dict[str, Any]]] = [
        (None, {"tokens": 10, "cost": 1.5}),
        ({"tokens": 99}, {"tokens": 99, "cost": 1.5}),
        ({"tokens": None, "seconds": 60}, {"seconds": 60, "cost": 1.5}),
        ({"tokens": None, "cost": None}, {}),
    ]
    for given, expected in cases:
        job_id = await jobs.create_job(flow, budget=given)
        assert (await jobs.get_summary(job_id)).budget == expected
        [other] = await jobs.create_jobs(flow, [{}], budget=given)
        assert (await jobs.get_summary(other)).budget == expected


@on_one_store
@pytest.mark.parametrize(
    ("budget", "path", "says"),
    [
        ({"token": 5}, "$.budget.token", "is nothing that has a budget"),
        ({"tokens": 0}, "$.budget.tokens", "at least 1"),
        ({"tokens": 1.5}, "$.budget.tokens", "counted"),
        ({"tokens": True}, "$.budget.tokens", "a number"),
        ({"cost": -1}, "$.budget.cost", "at least"),
        ({"cost": float("inf")}, "$.budget.cost", "finite"),
        ({"seconds": "60"}, "$.budget.seconds", "a number"),
        ({"tokens": 10**16}, "$.budget.tokens", "at most"),
        ([1], "$.budget", "an object"),
    ],
)
async def test_budget_that_cannot_be_is_refused_with_its_path(
    bench: Bench, jobs: JobManager, budget: Any, path: str, says: str
) -> None:
    with pytest.raises(InvalidInputs) as refused:
        await jobs.create_job(bench.workflow(call("inline")), budget=budget)
    [problem] = refused.value.problems
    assert problem.path == path
    assert says in problem.message


@on_one_store
async def test_what_is_added_has_to_be_something_that_is_limited(bench: Bench, jobs: JobManager) -> None:
    job_id = await jobs.create_job(bench.workflow(call("inline"), budget={"tokens": 10}))
    with pytest.raises(InvalidInputs, match="Nothing is to be added"):
        await jobs.add_budget(job_id)
    with pytest.raises(InvalidInputs, match="at least 1"):
        await jobs.add_budget(job_id, tokens=-5)
    with pytest.raises(InvalidTransition, match=r"Cannot add to the budget of job .* no budget of cost"):
        await jobs.add_budget(job_id, cost=5)
    await jobs.add_budget(job_id, tokens=5)
    await jobs.start_job(job_id)
    assert await final(jobs, job_id) == "COMPLETED"
    with pytest.raises(InvalidTransition, match="it is COMPLETED"):
        await jobs.add_budget(job_id, tokens=5)
    assert (await jobs.get_summary(job_id)).budget == {"tokens": 15}


@on_one_store
async def test_verb_on_a_running_job_is_carried_out_by_its_worker(bench: Bench, jobs: JobManager) -> None:
    job_id = await jobs.create_job(bench.one("gate"), budget={"tokens": 10}, start=True)
    await bench.gate().wait_entered()
    await asyncio.gather(*(jobs.add_budget(job_id, tokens=1) for _ in range(5)))
    await seen(jobs, job_id, "job.budget_added", 5)
    assert (await jobs.get_summary(job_id)).budget == {"tokens": 15}
