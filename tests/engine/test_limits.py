"""How much runs at a time, who comes next, and an event loop that no disk can block."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import Any

import pytest

from openagents_json import JobManager
from openagents_json.job.store import SqliteJobStore
from tests.engine.support import Bench, final, seen, until


async def test_no_more_jobs_than_max_jobs_run_at_a_time(bench: Bench) -> None:
    flow = bench.one("gate")
    async with bench.manager(max_jobs=2) as jobs:
        ids = [await jobs.create_job(flow, start=True) for _ in range(5)]
        await bench.gate().wait_entered(2)
        statuses = [str((await jobs.get_summary(job_id)).status) for job_id in ids]
        assert statuses == ["RUNNING", "RUNNING", "QUEUED", "QUEUED", "QUEUED"]
        assert (await jobs.health())["running_jobs"] == 2
        bench.gate().open()
        for job_id in ids:
            assert await final(jobs, job_id) == "COMPLETED"


@pytest.mark.parametrize(
    ("component", "limits"), [("gate", {"max_steps": 3}), ("thread_gate", {"max_threads": 3})], ids=["steps", "threads"]
)
async def test_no_more_steps_than_allowed_run_at_a_time(bench: Bench, component: str, limits: dict[str, Any]) -> None:
    gate = bench.gate()
    each = {"id": "each", "foreach": "{{ range(6) | list }}", "steps": [{"id": "s", "component": component}]}
    flow = bench.workflow(each)
    async with bench.manager(**limits) as jobs:
        ids = [await jobs.create_job(flow, start=True) for _ in range(2)]
        await gate.wait_entered(3)
        for job_id in ids:
            await seen(jobs, job_id, "step.expanded")
        assert len(gate.contexts) == 3
        assert (await jobs.health())["steps"] == 3
        gate.open()
        for job_id in ids:
            assert await final(jobs, job_id) == "COMPLETED"
        assert (await jobs.health())["steps"] == 0


async def test_slot_of_a_step_that_is_told_to_stop_stays_taken_until_its_code_has_ended(bench: Bench) -> None:
    async with bench.manager(max_steps=1) as jobs, contextlib.AsyncExitStack() as stack:
        stack.callback(bench.open_gates)  # whatever fails, the manager closes without moving the clock
        first = await jobs.create_job(bench.one("stubborn", "first"), start=True)
        await bench.gate().wait_entered()
        second = await jobs.create_job(bench.one("gate", "second", inputs={"name": "second"}), start=True)
        await seen(jobs, second, "job.started")
        await jobs.cancel_job(first)
        await seen(jobs, first, "job.cancel_requested")
        await bench.pass_time(0.1, 0.1)
        assert bench.gate("second").contexts == []
        bench.open_gates()
        assert [await final(jobs, one) for one in (first, second)] == ["CANCELLED", "COMPLETED"]


async def test_threads_that_are_short_do_not_hold_up_inline_steps(bench: Bench) -> None:
    bench.gate()
    slow, quick = bench.one("thread_gate", id="slow"), bench.one("note", id="quick")
    async with bench.manager(max_threads=1) as jobs:
        first, second = [await jobs.create_job(slow, start=True) for _ in range(2)]
        await bench.gate().wait_entered()
        assert await final(jobs, await jobs.create_job(quick, start=True)) == "COMPLETED"
        bench.open_gates()
        assert [await final(jobs, job_id) for job_id in (first, second)] == ["COMPLETED"] * 2


async def test_waiting_retry_that_is_due_starts_as_soon_as_a_slot_is_free(bench: Bench) -> None:
    retry = {"max_attempts": 2, "delay_seconds": 1}
    async with bench.manager(max_steps=1) as jobs:
        job_id = await jobs.create_job(bench.one("flaky", id="a", inputs={"until": 2}, retry=retry), start=True)
        await seen(jobs, job_id, "attempt.failed")
        other = await jobs.create_job(bench.one("gate", id="b"), start=True)
        await bench.gate().wait_entered()
        await bench.pass_time(2)
        assert bench.components.calls == [("s", 1)]
        bench.gate().open()
        assert [await final(jobs, one) for one in (job_id, other)] == ["COMPLETED"] * 2


async def test_job_that_gives_up_its_turn_passes_the_slot_on(bench: Bench) -> None:
    """Jobs b and c wait for the one slot; b is woken for it while its cancel is on its way, and c must get it."""
    async with bench.manager(max_steps=1) as jobs:
        a = await jobs.create_job(bench.one("gate", id="a"), start=True)
        await bench.gate().wait_entered()
        b, c = [await jobs.create_job(bench.one("note", id="b"), start=True) for _ in range(2)]
        for job_id in (b, c):
            await seen(jobs, job_id, "job.started")
        cancelling = asyncio.create_task(jobs.cancel_job(b))
        bench.gate().open()
        assert await final(jobs, c) == "COMPLETED"
        await cancelling
        assert await final(jobs, a) == "COMPLETED"
        assert await final(jobs, b) in ("CANCELLED", "COMPLETED")


async def test_abandoned_threads_keep_their_slots_and_at_eight_no_thread_step_starts(bench: Bench) -> None:
    gate = bench.gate()
    async with bench.manager() as jobs:
        stuck = [await jobs.create_job(bench.one("thread_gate", timeout=1), start=True) for _ in range(8)]
        await gate.wait_entered(8)
        await bench.pass_time(1, 10)
        for job_id in stuck:
            assert await final(jobs, job_id) == "FAILED"
        health = await jobs.health()
        assert (health["threads"], health["abandoned_threads"], health["status"]) == (8, 8, "degraded")
        waiting = await jobs.create_job(bench.one("step", id="waits"), start=True)
        await seen(jobs, waiting, "job.started")
        assert await final(jobs, await jobs.create_job(bench.one("note", id="n"), start=True)) == "COMPLETED"
        assert bench.components.calls == [("s", 1)]
        gate.open()
        assert await final(jobs, waiting) == "COMPLETED"
        await gate.wait_left(8)
        for job_id in stuck:
            await bench.until_async(lambda: jobs.get_summary(job_id), lambda one: one.abandoned == 0)  # noqa: B023
        assert (await jobs.health())["status"] == "ok"


async def test_components_run_where_they_belong(bench: Bench, jobs: JobManager) -> None:
    threads: dict[str, bool] = {}

    def here(name: str) -> None:
        threads[name] = threading.current_thread() is threading.main_thread()

    bench.components.registry.register(here, "here")
    bench.components.registry.register(here, "quick", isolation="inline")
    flow = bench.workflow(
        {"id": "a", "component": "here", "inputs": {"name": "default"}},
        {"id": "b", "component": "quick", "inputs": {"name": "inline"}},
        {"id": "c", "component": "quick", "isolation": "thread", "inputs": {"name": "thread"}},
    )
    assert await final(jobs, await jobs.create_job(flow, start=True)) == "COMPLETED"
    assert threads == {"default": False, "inline": True, "thread": False}


@pytest.mark.parametrize("kind", ["sqlite"])
async def test_slow_disk_does_not_block_the_event_loop(bench: Bench) -> None:
    """With 20 ms added to every commit, no turn of the loop takes as long as half a commit."""
    flow = bench.workflow(*({"id": f"s{n}", "component": "note"} for n in range(5)))
    longest, done = 0.0, False

    async def measure() -> None:
        nonlocal longest
        while not done:
            before = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - before)

    async with bench.manager() as jobs:
        assert isinstance(jobs.store, SqliteJobStore)
        jobs.store.commit_delay_s = 0.02
        measuring = asyncio.create_task(measure())
        ids = [await jobs.create_job(flow, start=True) for _ in range(5)]
        for job_id in ids:
            assert await final(jobs, job_id) == "COMPLETED"
        done = True
        await measuring
        jobs.store.commit_delay_s = 0
    assert longest < 0.01


async def test_five_hundred_jobs_at_once_all_end(bench: Bench) -> None:
    flow = bench.workflow({"id": "a", "component": "note"}, {"id": "b", "component": "step"})
    async with bench.manager(max_jobs=50, max_steps=20, max_threads=4) as jobs:
        ids = await asyncio.gather(*(jobs.create_job(flow, start=True) for _ in range(500)))
        for job_id in ids:
            assert await final(jobs, job_id) == "COMPLETED"
        await until(lambda: not jobs._worker.runners)
        assert (await jobs.health())["steps"] == 0
