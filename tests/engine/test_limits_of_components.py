"""`concurrency` and `rate_limit` of components: how many attempts are on, or begin, in all workers together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from openagents_json import JobManager, StepContext
from openagents_json.errors import StoreUnavailable
from openagents_json.job.engine.worker import POLL_S
from openagents_json.job.model import JobStatus
from openagents_json.job.store.grants import Cap, Want, cap_key
from openagents_json.job.store.limits import Place
from tests.engine.support import SAFETY_S, Bench, Gate, final, seen, types, until, vanish, written

# Managers that share one memory store do not hear of each other.
several = pytest.mark.parametrize("kind", ["sqlite", "postgres"])
INPUTS = {"type": "object", "additionalProperties": True}


@pytest.fixture
async def jobs(bench: Bench) -> AsyncIterator[JobManager]:
    async with bench.manager() as jobs:
        yield jobs


def limit(bench: Bench, **options: Any) -> None:
    """Register `limited`, which waits at the gate, with these limits."""

    async def limited(context: StepContext, host: str = "a.org", value: Any = None) -> Any:
        here = bench.gate()
        here.enter(context)
        try:
            await here.wait_open()
        finally:
            here.leave()
        return value

    bench.components.registry.register(limited, "limited", **options)


def flow_of(bench: Bench, *, count: int = 1, **step: Any) -> str:
    """A workflow of steps that have nothing to wait for but the limits."""
    given = {"component": "limited", "inputs": {"host": "{{ inputs.host | default('a.org') }}"}, "needs": []} | step
    return bench.workflow(*({"id": f"s{n}", **given} for n in range(count)), inputs=INPUTS)


async def waits(jobs: JobManager, job_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await jobs.get_job_status(job_id))["waiting_for"]
    return found


async def limit_waits(jobs: JobManager, job_id: str) -> list[dict[str, Any]]:
    """What a job waits for of limits of components, when the store has said so."""
    return [wait for wait in await waits(jobs, job_id) if wait["kind"] == "limit"]


def on(gate: Gate) -> int:
    """How many calls are on."""
    return len(gate.contexts) - gate.left


async def ended(bench: Bench, jobs: JobManager, *ids: str) -> list[JobStatus]:
    """The final statuses of these, while time passes."""
    async with asyncio.timeout(SAFETY_S):
        while not all([(await jobs.get_summary(job_id)).status.is_final for job_id in ids]):
            await bench.pass_time(POLL_S)
    return [(await jobs.get_summary(job_id)).status for job_id in ids]


# ── concurrency ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_no_more_attempts_are_on_than_the_limit(bench: Bench, jobs: JobManager) -> None:
    limit(bench, concurrency=2)
    since = bench.clock.now()
    job_id = await jobs.create_job(flow_of(bench, count=5), start=True)
    await bench.gate().wait_entered(2)
    blocked = await bench.until_async(lambda: limit_waits(jobs, job_id), lambda found: len(found) == 3)
    assert (await jobs.get_summary(job_id)).status == JobStatus.RUNNING
    assert blocked[0] == {
        "kind": "limit", "component": "limited", "key": None, "limit": 2, "step": "s2", "since": since,
        "held_by": [jobs.worker_id],
    }  # fmt: skip
    assert len(bench.gate().contexts) == 2
    bench.gate().open()
    assert await final(jobs, job_id) == "COMPLETED"
    assert len(bench.gate().contexts) == 5
    assert (await jobs.get_job_status(job_id))["waiting_for"] == []


async def test_attempts_with_other_keys_do_not_wait(bench: Bench, jobs: JobManager) -> None:
    limit(bench, concurrency={"limit": 1, "key": "{{ inputs.host }}"})
    flow = flow_of(bench)
    first = await jobs.create_job(flow, {"host": "a.org"}, start=True)
    await bench.gate().wait_entered(1)
    second = await jobs.create_job(flow, {"host": "a.org"}, start=True)
    other = await jobs.create_job(flow, {"host": "b.org"}, start=True)
    assert (await bench.gate().wait_entered(2)).job_id == other
    [wait] = await bench.until_async(lambda: limit_waits(jobs, second), bool)
    assert (wait["key"], wait["limit"]) == ("a.org", 1)
    bench.gate().open()
    assert [await final(jobs, one) for one in (first, second, other)] == ["COMPLETED"] * 3


async def test_key_that_has_no_value_fails_the_step(bench: Bench, jobs: JobManager) -> None:
    limit(bench, concurrency={"limit": 1, "key": "{{ inputs.nothing.here }}"})
    job_id = await jobs.create_job(flow_of(bench), start=True)
    assert await final(jobs, job_id) == "FAILED"
    error = (await jobs.get_job(job_id)).errors[0]
    assert error["type"] == "limit.key" and "`concurrency` of component 'limited'" in error["message"]


async def test_key_may_be_so_long(bench: Bench, jobs: JobManager) -> None:
    limit(bench, concurrency={"limit": 1, "key": "{{ inputs.host }}"})
    bench.gate().open()
    flow = flow_of(bench)
    assert await final(jobs, await jobs.create_job(flow, {"host": "x" * 198}, start=True)) == "COMPLETED"
    job_id = await jobs.create_job(flow, {"host": "x" * 199}, start=True)
    assert await final(jobs, job_id) == "FAILED"
    assert "201 characters as JSON; 200 are allowed" in (await jobs.get_job(job_id)).errors[0]["message"]


async def test_key_does_not_see_secrets(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST", "secret.org")
    limit(bench, concurrency={"limit": 1, "key": "{{ inputs.value | default('-') }}/{{ inputs.host | default('-') }}"})
    async with bench.manager() as jobs:
        flow = bench.one("limited", inputs={"host": "{{ secrets.HOST }}", "value": 7})
        first, second = [await jobs.create_job(flow, start=True) for _ in range(2)]
        await bench.gate().wait_entered(1)
        [wait] = await bench.until_async(lambda: limit_waits(jobs, second), bool)
        assert wait["key"] == "7/-"
        bench.gate().open()
        assert [await final(jobs, one) for one in (first, second)] == ["COMPLETED"] * 2


async def test_retry_asks_anew_with_the_same_key(bench: Bench, jobs: JobManager) -> None:
    tries: list[int] = []

    async def flaky(context: StepContext, host: str) -> int:
        tries.append(context.attempt)
        if context.attempt < 3:
            raise ValueError("not yet")
        return context.attempt

    limits = {"limit": 1, "key": "{{ inputs.host }}"}
    bench.components.registry.register(flaky, "flaky_host", concurrency=limits)  # type: ignore[arg-type]
    flow = bench.workflow(
        {"id": "a", "set": "a.org"},
        {"id": "s", "component": "flaky_host", "inputs": {"host": "{{ steps.a.output }}"}, "needs": ["a"],
         "retry": {"max_attempts": 3, "delay_seconds": 0}},
    )  # fmt: skip
    assert await final(jobs, await jobs.create_job(flow, start=True)) == "COMPLETED"
    assert tries == [1, 2, 3]


async def test_attempt_that_fails_or_is_cancelled_gives_its_slot_back(bench: Bench, jobs: JobManager) -> None:
    limit(bench, concurrency=1)
    flow = flow_of(bench)
    doomed = await jobs.create_job(flow, start=True)
    await bench.gate().wait_entered(1)
    waiting = await jobs.create_job(flow, start=True)
    gone = await jobs.create_job(flow, start=True)
    await bench.until_async(lambda: limit_waits(jobs, gone), bool)
    await jobs.cancel_job(gone)
    assert await final(jobs, gone) == "CANCELLED"
    await jobs.cancel_job(doomed)
    assert await final(jobs, doomed) == "CANCELLED"
    assert (await bench.gate().wait_entered(2)).job_id == waiting
    bench.gate().open()
    assert await final(jobs, waiting) == "COMPLETED"
    assert await nothing_is_held(jobs)


async def nothing_is_held(jobs: JobManager) -> bool:
    """Whether all slots are given back, and the store knows it."""
    grants = jobs._worker.grants
    await until(lambda: not grants._unsaid)
    await written(jobs)
    return not (grants._held or grants._waiters or grants._begun)


async def test_abandoned_thread_keeps_its_slot_until_it_ends(bench: Bench) -> None:
    gate = bench.gate()

    def thread(context: StepContext) -> None:
        gate.enter(context)
        gate.wait_open_in_thread()
        gate.leave()

    bench.components.registry.register(thread, "limited", concurrency=1)
    async with bench.manager(abandon_after_s=1, cancel_grace_s=1) as jobs:
        flow = bench.one("limited")
        first = await jobs.create_job(flow, start=True)
        await gate.wait_entered(1)
        await jobs.cancel_job(first, force=True)
        await seen(jobs, first, "job.cancel_requested")
        async with asyncio.timeout(SAFETY_S):
            while not (await jobs.get_summary(first)).status.is_final:
                await bench.pass_time(1)
        second = await jobs.create_job(flow, start=True)
        [wait] = await bench.until_async(lambda: limit_waits(jobs, second), bool)
        assert wait["held_by"] == [jobs.worker_id] and len(gate.contexts) == 1
        gate.open()
        assert await final(jobs, second) == "COMPLETED"


async def test_paused_job_gives_back_what_is_in_hand_and_waits_for_nothing(bench: Bench, jobs: JobManager) -> None:
    limit(bench, concurrency=1)
    flow = flow_of(bench)
    first = await jobs.create_job(flow, start=True)
    await bench.gate().wait_entered(1)
    second, third = [await jobs.create_job(flow, start=True) for _ in range(2)]
    await bench.until_async(lambda: limit_waits(jobs, third), bool)
    await jobs.pause_job(second)
    assert (await jobs.wait_paused(second)).status == JobStatus.PAUSED
    bench.gate().open()
    assert [await final(jobs, one) for one in (first, third)] == ["COMPLETED"] * 2
    await jobs.resume_job(second)
    assert await final(jobs, second) == "COMPLETED"
    assert await nothing_is_held(jobs)


async def test_step_that_waits_for_a_limit_holds_up_nothing_else(bench: Bench, jobs: JobManager) -> None:
    limit(bench, concurrency=1)
    flow = flow_of(bench, count=2)
    await jobs.create_job(flow, start=True)
    await bench.gate().wait_entered(1)
    other = await jobs.create_job(bench.one("note", id="other"), start=True)
    assert await final(jobs, other) == "COMPLETED"
    bench.gate().open()


async def test_leave_in_hand_waits_for_a_slot_of_the_worker(bench: Bench) -> None:
    limit(bench, concurrency=1)
    async with bench.manager(max_steps=1) as jobs:
        blocker = await jobs.create_job(bench.one("gate", id="blocker", inputs={"name": "other"}), start=True)
        await bench.gate("other").wait_entered(1)
        job_id = await jobs.create_job(flow_of(bench), start=True)
        await until(lambda: bool(jobs._worker.grants._held))
        assert bench.gate().contexts == []
        bench.gate("other").open()
        bench.gate().open()
        assert [await final(jobs, one) for one in (blocker, job_id)] == ["COMPLETED"] * 2
        assert await nothing_is_held(jobs)


async def test_component_without_limits_asks_the_store_nothing(bench: Bench, jobs: JobManager) -> None:
    asked = 0
    take = jobs.store.take_grants

    async def counted(*arguments: Any) -> Any:
        nonlocal asked
        asked += 1
        return await take(*arguments)

    jobs.store.take_grants = counted  # type: ignore[method-assign, assignment]
    assert await final(jobs, await jobs.create_job(bench.one("note"), start=True)) == "COMPLETED"
    await bench.pass_time(1, 10)
    assert asked == 0


@several
async def test_limit_holds_for_all_workers_together(bench: Bench) -> None:
    limit(bench, concurrency=2)
    flow = flow_of(bench)
    most = 0
    async with bench.manager() as left, bench.manager() as right:
        ids = [await one.create_job(flow, start=True) for one in (left, right) * 4]
        async with asyncio.timeout(SAFETY_S):
            while len(bench.gate().contexts) < 2:
                await bench.pass_time(POLL_S)
        await bench.pass_time(1, 1, 1)
        assert on(bench.gate()) == 2

        gate = bench.gate()
        enter = gate.enter

        def counted(context: StepContext) -> None:
            nonlocal most
            enter(context)
            most = max(most, on(gate))

        gate.enter = counted  # type: ignore[method-assign]
        bench.gate().open()
        assert await ended(bench, left, *ids) == [JobStatus.COMPLETED] * 8
        assert most <= 2
        assert await nothing_is_held(left) and await nothing_is_held(right)
        assert await left.store.take_grants("nobody", {}, []) == []


@several
async def test_other_processes_are_told_what_a_job_waits_for(bench: Bench) -> None:
    limit(bench, concurrency=1)
    flow = flow_of(bench)
    async with bench.manager() as runs, bench.manager(worker=False) as looks:
        first, second = [await runs.create_job(flow, start=True) for _ in range(2)]
        await bench.gate().wait_entered(1)
        running = bench.gate().contexts[0].job_id
        [blocked] = {first, second} - {running}
        here = await bench.until_async(lambda: limit_waits(runs, blocked), bool)
        there = await bench.until_async(lambda: limit_waits(looks, blocked), bool)
        assert here == there and here[0]["held_by"] == [runs.worker_id]
        bench.gate().open()
        await ended(bench, runs, first, second)


@several
async def test_killed_worker_gives_its_slots_back(bench: Bench) -> None:
    limit(bench, concurrency=1)
    flow = flow_of(bench)
    doomed = bench.manager()
    await doomed.open()
    await doomed.create_job(flow, start=True)
    await bench.gate().wait_entered(1)
    async with bench.manager() as other:
        second = await other.create_job(flow, start=True)
        [wait] = await bench.until_async(lambda: limit_waits(other, second), bool)
        assert wait["held_by"] == [doomed.worker_id]
        await vanish(doomed)
        bench.gate().open()
        assert await ended(bench, other, second) == [JobStatus.COMPLETED]
        async with asyncio.timeout(SAFETY_S):
            while len(bench.gate().contexts) < 3:  # the job of the dead worker goes on, too
                await bench.pass_time(1)


@several
async def test_worker_that_was_taken_for_dead_says_again_what_it_holds(bench: Bench) -> None:
    gate = bench.gate()

    def thread(context: StepContext) -> None:
        gate.enter(context)
        gate.wait_open_in_thread()
        gate.leave()

    bench.components.registry.register(thread, "limited", concurrency=1)
    flow = bench.one("limited")
    async with bench.manager(shutdown_grace_s=0.1) as late, bench.manager() as other:
        await late.create_job(flow, start=True)
        async with asyncio.timeout(SAFETY_S):
            while not gate.contexts:
                await bench.pass_time(POLL_S)
        holder = late if late._worker.grants._held else other
        rest = other if holder is late else late
        await rest.store.unregister_worker(holder.worker_id)
        async with asyncio.timeout(SAFETY_S):
            while holder.worker_id not in [one.id for one in await rest.list_workers()]:
                await bench.pass_time(1)
        await bench.until_async(lambda: holders(rest), lambda workers: holder.worker_id in workers)
        gate.open()


async def holders(jobs: JobManager) -> tuple[str, ...]:
    """Who has the slot of `limited`, as one who wants it is told."""
    cap = Cap(cap_key("concurrency", "limited"), 1)
    [answer] = await jobs.store.take_grants("another", {cap.key: 0}, [Want("none", "s", Place(0, 0), 0, (cap,))])
    return () if answer is None else answer.held_by


# ── rates ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def rated(bench: Bench, **options: Any) -> list[Any]:
    """Register `rated`; the times of its calls."""
    times: list[Any] = []

    async def call(host: str = "a.org") -> None:
        times.append(bench.clock.now())

    bench.components.registry.register(call, "rated", **options)
    return times


@pytest.mark.parametrize("kind", ["memory"])  # which takes no time of its own
async def test_so_many_begin_in_a_time_and_the_next_one_when_a_token_comes(bench: Bench, jobs: JobManager) -> None:
    times = rated(bench, rate_limit={"limit": 3, "per_seconds": 60})
    began = bench.clock.now()
    job_id = await jobs.create_job(flow_of(bench, count=5, component="rated"), start=True)
    await until(lambda: len(times) == 3)
    found = await bench.until_async(lambda: limit_waits(jobs, job_id), lambda found: len(found) == 2)
    assert found[0] == {
        "kind": "limit", "component": "rated", "key": None, "limit": 3, "per_seconds": 60.0, "step": "s3",
        "since": began, "at": began + timedelta(seconds=20),
    }  # fmt: skip
    await bench.pass_time(*[1.0] * 19)
    assert len(times) == 3
    await bench.pass_time(1)
    await until(lambda: len(times) == 4)
    await bench.pass_time(*[1.0] * 20)
    assert await final(jobs, job_id) == "COMPLETED"
    assert times == [began] * 3 + [began + timedelta(seconds=20), began + timedelta(seconds=40)]


async def test_both_limits_hold_at_once(bench: Bench, jobs: JobManager) -> None:
    limit(bench, concurrency={"limit": 2, "key": "{{ inputs.host }}"}, rate_limit={"limit": 3, "per_seconds": 30})
    flow = flow_of(bench)
    ids = [await jobs.create_job(flow, {"host": "a"}, start=True) for _ in range(3)]
    await bench.gate().wait_entered(2)
    ids += [await jobs.create_job(flow, {"host": "b"}, start=True) for _ in range(2)]
    third = (await bench.gate().wait_entered(3)).job_id
    [fourth] = {ids[3], ids[4]} - {third}
    [wait] = await bench.until_async(lambda: limit_waits(jobs, fourth), bool)
    assert (wait["limit"], wait["per_seconds"]) == (3, 30), "there is a slot for it and no token"
    bench.gate().open()
    assert await ended(bench, jobs, *ids) == [JobStatus.COMPLETED] * 5
    assert await nothing_is_held(jobs)


@pytest.mark.parametrize("kind", ["sqlite", "file", "postgres"])
async def test_rate_holds_over_a_restart(bench: Bench) -> None:
    times = rated(bench, rate_limit={"limit": 2, "per_seconds": 12, "key": "{{ inputs.host }}"})
    flow = flow_of(bench, component="rated")
    began = bench.clock.now()
    async with bench.manager() as jobs:
        for _ in range(2):
            assert await final(jobs, await jobs.create_job(flow, start=True)) == "COMPLETED"
    bench.clock.advance(4)
    async with bench.manager() as jobs:
        job_id = await jobs.create_job(flow, start=True)
        [wait] = await bench.until_async(lambda: limit_waits(jobs, job_id), bool)
        assert wait["at"] == began + timedelta(seconds=6)
        assert await ended(bench, jobs, job_id) == [JobStatus.COMPLETED]
    assert times[:2] == [began, began] and times[2] >= began + timedelta(seconds=6)


@several
async def test_rate_holds_for_all_workers_together(bench: Bench) -> None:
    times = rated(bench, rate_limit={"limit": 2, "per_seconds": 2})
    flow, began = flow_of(bench, component="rated"), bench.clock.now()
    async with bench.manager() as left, bench.manager() as right:
        ids = [await one.create_job(flow, start=True) for one in (left, right) * 3]
        assert await ended(bench, left, *ids) == [JobStatus.COMPLETED] * 6
    for number, time in enumerate(times[2:], 1):
        assert time >= began + timedelta(seconds=number), "two at once, then one each second, or later"


async def test_store_that_is_away_for_a_while_loses_no_slot(bench: Bench, jobs: JobManager) -> None:
    limit(bench, concurrency=1)
    take, failing = jobs.store.take_grants, 3

    async def failing_at_first(*arguments: Any) -> Any:
        nonlocal failing
        if failing:
            failing -= 1
            answer = take(*arguments) if failing == 1 else None  # of one only the answer is lost
            if answer is not None:
                await answer
            raise StoreUnavailable("away")
        return await take(*arguments)

    jobs.store.take_grants = failing_at_first  # type: ignore[method-assign, assignment]
    bench.gate().open()
    flow = flow_of(bench)
    ids = [await jobs.create_job(flow, start=True) for _ in range(3)]
    assert await ended(bench, jobs, *ids) == [JobStatus.COMPLETED] * 3
    assert "attempt.failed" not in [type for one in ids for type in await types(jobs, one)]
    assert await nothing_is_held(jobs)
