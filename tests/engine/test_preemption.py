"""A worker without a free job slot lets its lowest job make room for a more urgent one that is first in the queue."""

from __future__ import annotations

from typing import Any

import pytest

from openagents_json import JobManager
from openagents_json.job.engine.preemption import RECONSIDER_S
from tests.engine.support import Bench, final, history, on_every_store, seen, types, until

several = pytest.mark.parametrize("kind", ["sqlite"])


def gates(bench: Bench, id: str, *names: str, **step: object) -> str:
    """A workflow whose steps wait at these gates, one after the other."""
    return bench.workflow(
        *({"id": name, "component": "gate", "inputs": {"name": name, "value": name}} | step for name in names), id=id
    )


@on_every_store
async def test_lowest_job_makes_room_at_its_next_step_boundary(bench: Bench) -> None:
    low_flow, urgent_flow = gates(bench, "low", "first", "second"), gates(bench, "urgent", "quick")
    async with bench.manager(max_jobs=2) as jobs:
        medium = await jobs.create_job(bench.one("gate", "medium"), start=True)
        low = await jobs.create_job(low_flow, priority="LOW", start=True)
        await bench.gate("first").wait_entered()
        await bench.gate().wait_entered()
        urgent = await jobs.create_job(urgent_flow, priority="CRITICAL", start=True)
        await until(lambda: jobs._worker.runners[low]._released is not None)
        assert (await jobs.get_summary(urgent)).status == "QUEUED"
        bench.gate("first").open()
        await bench.gate("quick").wait_entered()
        queued = await seen(jobs, low, "job.queued", 2)
        assert queued.data == {"reason": "preempted", "by": urgent}
        started = await seen(jobs, urgent, "job.started")
        assert started.data["preempted"] == low
        bench.open_gates()
        bench.gate("second").open()
        assert [await final(jobs, one) for one in (urgent, low, medium)] == ["COMPLETED"] * 3
        assert len(bench.gate("first").contexts) == len(bench.gate("second").contexts) == 1
        assert "job.continued" in await types(jobs, low)
        assert all(event.data.get("reason") != "preempted" for event in await history(jobs, medium))


async def test_preemptible_attempt_is_ended_in_the_middle_and_runs_again(bench: Bench) -> None:
    low_flow = gates(bench, "low", "long", preemptible=True)
    async with bench.manager(max_jobs=1) as jobs:
        low = await jobs.create_job(low_flow, priority="LOW", start=True)
        await bench.gate("long").wait_entered()
        urgent = await jobs.create_job(bench.one("note", "urgent"), priority="HIGH", start=True)
        assert await final(jobs, urgent) == "COMPLETED"
        lost = await seen(jobs, low, "attempt.lost")
        assert (lost.data["reason"], lost.data["by"]) == ("preempted", urgent)
        again = await bench.gate("long").wait_entered(2)
        bench.gate("long").open()
        assert await final(jobs, low) == "COMPLETED"
        assert again.attempt == 2
        assert jobs._worker.preemption._asked == {} and jobs._worker.preemption._made == {}


async def test_job_makes_room_so_often_and_is_then_left_alone(bench: Bench) -> None:
    async with bench.manager(max_jobs=1, max_preemptions=2) as jobs:
        low = await jobs.create_job(gates(bench, "low", "long", preemptible=True), priority="LOW", start=True)
        for turn in range(1, 3):
            await bench.gate("long").wait_entered(turn)
            urgent = await jobs.create_job(bench.one("note", f"urgent{turn}"), priority="HIGH", start=True)
            assert await final(jobs, urgent) == "COMPLETED"
        await bench.gate("long").wait_entered(3)
        late = await jobs.create_job(bench.one("note", "late"), priority="CRITICAL", start=True)
        await bench.pass_time(RECONSIDER_S, RECONSIDER_S)
        assert (await jobs.get_summary(late)).status == "QUEUED"
        bench.gate("long").open()
        assert [await final(jobs, low), await final(jobs, late)] == ["COMPLETED"] * 2
        assert len(bench.gate("long").contexts) == 3


@pytest.mark.parametrize("options", [{"max_preemptions": 0}, {}], ids=["switched off", "same rank"])
async def test_nobody_makes_room_without_need(bench: Bench, options: dict[str, Any]) -> None:
    async with bench.manager(max_jobs=1, **options) as jobs:
        low = await jobs.create_job(gates(bench, "low", "long", preemptible=True), priority="LOW", start=True)
        await bench.gate("long").wait_entered()
        later = await jobs.create_job(bench.one("note", "later"), priority="HIGH" if options else "LOW", start=True)
        await bench.pass_time(RECONSIDER_S, RECONSIDER_S)
        assert (await jobs.get_summary(later)).status == "QUEUED"
        bench.gate("long").open()
        assert [await final(jobs, low), await final(jobs, later)] == ["COMPLETED"] * 2
        assert await types(jobs, low) == [
            "job.created", "job.queued", "job.started", "attempt.started", "step.completed", "job.completed"
        ]  # fmt: skip


async def test_urgent_job_that_came_too_late_gets_room_when_the_other_has_run_long_enough(bench: Bench) -> None:
    """LOW has waited in the queue for so long that it would still come first if it went back; later it would not."""
    async with bench.manager(max_jobs=1) as jobs:
        await jobs.set_aging(9)
        first = await jobs.create_job(bench.one("gate", "first"), priority="CRITICAL", start=True)
        await bench.gate().wait_entered()
        low = await jobs.create_job(gates(bench, "low", "long", preemptible=True), priority="LOW", start=True)
        await bench.pass_time(9)
        bench.gate().open()
        assert await final(jobs, first) == "COMPLETED"
        await bench.gate("long").wait_entered()
        medium = await jobs.create_job(bench.one("note", "medium"), priority="MEDIUM", start=True)
        await jobs.store.read_summary(medium)
        assert (await jobs.get_summary(medium)).status == "QUEUED"
        await bench.pass_time(RECONSIDER_S, RECONSIDER_S)
        assert await final(jobs, medium) == "COMPLETED"
        bench.gate("long").open()
        assert await final(jobs, low) == "COMPLETED"


async def test_higher_priority_given_to_a_waiting_job_lets_another_make_room(bench: Bench) -> None:
    async with bench.manager(max_jobs=1) as jobs:
        low = await jobs.create_job(gates(bench, "low", "long", preemptible=True), priority="LOW", start=True)
        await bench.gate("long").wait_entered()
        other = await jobs.create_job(bench.one("note", "other"), priority="LOW", start=True)
        await jobs.set_priority(other, "CRITICAL")
        assert await final(jobs, other) == "COMPLETED"
        bench.gate("long").open()
        assert await final(jobs, low) == "COMPLETED"


async def test_running_job_that_got_a_higher_priority_makes_no_room(bench: Bench) -> None:
    async with bench.manager(max_jobs=1) as jobs:
        low = await jobs.create_job(gates(bench, "low", "long", preemptible=True), priority="LOW", start=True)
        await bench.gate("long").wait_entered()
        await jobs.set_priority(low, "CRITICAL")
        await seen(jobs, low, "job.priority_changed")
        urgent = await jobs.create_job(bench.one("note", "urgent"), priority="HIGH", start=True)
        await bench.pass_time(RECONSIDER_S)
        assert (await jobs.get_summary(urgent)).status == "QUEUED"
        bench.gate("long").open()
        assert [await final(jobs, low), await final(jobs, urgent)] == ["COMPLETED"] * 2


async def test_job_stays_when_the_urgent_one_finds_another_slot(bench: Bench) -> None:
    async with bench.manager(max_jobs=2) as jobs:
        low = await jobs.create_job(gates(bench, "low", "long", "more"), priority="LOW", start=True)
        medium = await jobs.create_job(bench.one("gate", "medium"), start=True)
        await bench.gate("long").wait_entered()
        await bench.gate().wait_entered()
        urgent = await jobs.create_job(bench.one("note", "urgent"), priority="CRITICAL", start=True)
        await until(lambda: jobs._worker.runners[low]._released is not None)
        bench.gate().open()
        assert [await final(jobs, medium), await final(jobs, urgent)] == ["COMPLETED"] * 2
        bench.open_gates()
        bench.gate("more").open()
        assert await final(jobs, low) == "COMPLETED"
        assert (await types(jobs, low)).count("job.queued") == 1


# ── steps that wait for a resource ────────────────────────────────────────────────────────────────────────────────


def on_gpu(bench: Bench, id: str, gate: str, gpus: int = 1, **step: Any) -> str:
    """A workflow of one step that occupies GPUs and waits at its gate."""
    inputs = {"name": gate}
    return bench.workflow({"id": "s", "component": "gate", "inputs": inputs, "resources": {"gpu": gpus}} | step, id=id)


async def test_preemptible_attempt_ends_for_a_step_of_an_urgent_job(bench: Bench) -> None:
    async with bench.manager(resources={"gpu": 1}) as jobs:
        low = await jobs.create_job(on_gpu(bench, "low", "long", preemptible=True), priority="LOW", start=True)
        await bench.gate("long").wait_entered()
        urgent = await jobs.create_job(on_gpu(bench, "urgent", "quick"), priority="HIGH", start=True)
        await bench.gate("quick").wait_entered()
        lost = await seen(jobs, low, "attempt.lost")
        assert (lost.data["reason"], lost.data["by"]) == ("preempted", urgent)
        assert (await jobs.get_summary(low)).status == "RUNNING"
        assert len(bench.gate("long").contexts) == 1  # it waits for the GPU
        bench.gate("quick").open()
        assert await final(jobs, urgent) == "COMPLETED"
        await bench.gate("long").wait_entered(2)
        bench.gate("long").open()
        assert await final(jobs, low) == "COMPLETED"
        assert jobs._worker.preemption._preemptible == {}


async def test_so_many_attempts_end_as_a_wide_step_needs(bench: Bench) -> None:
    async with bench.manager(resources={"gpu": 3}) as jobs:
        flows = [on_gpu(bench, f"low{number}", f"long{number}", preemptible=True) for number in range(3)]
        lows = [await jobs.create_job(flow, priority="LOW", start=True) for flow in flows]
        for number in range(3):
            await bench.gate(f"long{number}").wait_entered()
        urgent = await jobs.create_job(on_gpu(bench, "urgent", "quick", gpus=2), priority="CRITICAL", start=True)
        await bench.gate("quick").wait_entered()
        lost = [low for low in lows if "attempt.lost" in await types(jobs, low)]
        assert len(lost) == 2 and lows[0] not in lost  # the last in the order of the queue go first
        bench.open_gates()
        assert [await final(jobs, one) for one in (urgent, *lows)] == ["COMPLETED"] * 4


@pytest.mark.parametrize(
    ("step", "priority"), [({}, "CRITICAL"), ({"preemptible": True}, "LOW")], ids=["not preemptible", "same rank"]
)
async def test_attempt_is_left_alone(bench: Bench, step: dict[str, Any], priority: str) -> None:
    async with bench.manager(resources={"gpu": 1}) as jobs:
        low = await jobs.create_job(on_gpu(bench, "low", "long", **step), priority="LOW", start=True)
        await bench.gate("long").wait_entered()
        other = await jobs.create_job(on_gpu(bench, "other", "quick"), priority=priority, start=True)
        await seen(jobs, other, "job.started")
        await bench.pass_time(RECONSIDER_S)
        assert len(bench.gate("quick").contexts) == 0
        [wait] = (await jobs.get_job_status(other))["waiting_for"]
        assert (wait["kind"], wait["resource"], wait["held_by"]) == ("resource", "gpu", [low])
        [blocker] = (await jobs.explain(other)).blockers
        assert blocker.message == f"A step needs 1 gpu, and 0 of 1 is free for it. Held by {low[-8:]}."
        bench.gate("long").open()
        bench.gate("quick").open()
        assert [await final(jobs, low), await final(jobs, other)] == ["COMPLETED"] * 2


@several
async def test_one_worker_of_two_makes_room_for_a_job(bench: Bench) -> None:
    flows = [gates(bench, f"low{n}", f"a{n}", f"b{n}") for n in range(2)]
    async with bench.manager(max_jobs=1) as left, bench.manager(max_jobs=1) as right:
        managers = (left, right)
        lows = [
            await jobs.create_job(flow, priority="LOW", start=True) for jobs, flow in zip(managers, flows, strict=True)
        ]
        for number in range(2):
            await bench.gate(f"a{number}").wait_entered()
        urgent = await left.create_job(bench.one("gate", "urgent"), priority="CRITICAL", start=True)
        await until(lambda: _yielding(left) + _yielding(right) == 1)
        await bench.pass_time(0.05, 0.05, RECONSIDER_S)
        assert _yielding(left) + _yielding(right) == 1
        bench.open_gates()
        for name in ("b0", "b1", "gate"):
            bench.gate(name).open()
        await bench.until_async(lambda: left.get_summary(urgent), lambda summary: summary.status.is_final)
        for low in lows:
            await bench.until_async(lambda low=low: left.get_summary(low), lambda summary: summary.status.is_final)  # type: ignore[misc]
        reasons = [event.data.get("reason") for low in lows for event in await history(left, low)]
        assert reasons.count("preempted") == 1


def _yielding(jobs: JobManager) -> int:
    return sum(runner._released is not None for runner in jobs._worker.runners.values())
