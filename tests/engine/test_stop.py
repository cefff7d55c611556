"""Leaving the manager: within its time whatever components do, and the next one goes on where it was left."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Any

import pytest

from openagents_json import JobManager
from openagents_json.clock import SystemClock
from openagents_json.components import capability
from tests.engine.support import SAFETY_S, Bench, final, history, types, written

TIMES: dict[str, Any] = {"stop_timeout_s": 5, "shutdown_grace_s": 2}


async def close(bench: Bench, jobs: JobManager, limit_s: float) -> float:
    """Close the manager while the clock moves on; how many seconds it took by that clock."""
    begin_us = bench.clock.now_us()
    closing = asyncio.create_task(jobs.close())
    async with asyncio.timeout(SAFETY_S):
        while not closing.done():
            if bench.clock.now_us() - begin_us <= limit_s * 1e6:
                bench.clock.advance(0.1)
            await asyncio.sleep(0)
    await closing
    return (bench.clock.now_us() - begin_us) / 1e6


async def test_idle_manager_closes_at_once(bench: Bench) -> None:
    jobs = bench.manager(**TIMES)
    await jobs.open()
    async with asyncio.timeout(SAFETY_S):
        await jobs.close()
        await jobs.close()


async def test_running_attempt_that_ends_in_time_is_recorded_and_never_run_again(bench: Bench) -> None:
    flow = bench.workflow({"id": "a", "component": "gate", "inputs": {"value": 1}}, {"id": "b", "component": "note"})
    jobs = bench.manager(**TIMES)
    await jobs.open()
    job_id = await jobs.create_job(flow, start=True)
    await bench.gate().wait_entered()
    closing = asyncio.create_task(jobs.close())
    await asyncio.sleep(0)
    bench.gate().open()
    await closing
    async with bench.manager() as jobs:
        assert await final(jobs, job_id) == "COMPLETED"
        assert len(bench.gate().contexts) == 1
        assert (await types(jobs, job_id))[:8] == [
            "job.created",
            "job.queued",
            "job.started",
            "attempt.started",
            "step.completed",
            "job.queued",
            "job.continued",
            "attempt.started",
        ]


@pytest.mark.parametrize(
    ("component", "limit_s"),
    [("gate", 6), ("polite_thread", 6), ("stubborn", 9), ("thread_gate", 9)],
    ids=["coroutine", "thread that asks", "coroutine that swallows its cancellation", "thread that never asks"],
)
async def test_manager_is_left_within_its_time_and_the_next_one_goes_on(
    bench: Bench, component: str, limit_s: float
) -> None:
    gate = bench.gate()
    flow = bench.workflow({"id": "first", "component": "note"}, {"id": "s", "component": component})
    jobs = bench.manager(**TIMES)
    await jobs.open()
    job_id = await jobs.create_job(flow, start=True)
    await gate.wait_entered()
    assert await close(bench, jobs, limit_s) <= limit_s + 0.2
    assert gate.contexts[0].cancel_reason == "shutdown"
    bench.open_gates()
    if component == "polite_thread":
        bench.components.registry._components["polite_thread"] = bench.components.registry._components["note"]
        bench.components.registry._highest["polite_thread"] = bench.components.registry._highest["note"]
    async with bench.manager() as jobs:
        assert await final(jobs, job_id) == "COMPLETED"
        events = await history(jobs, job_id)
    lost = [event for event in events if event.type == "attempt.lost"]
    assert [event.data["reason"] for event in lost] == ["shutdown"]
    assert [event.type for event in events].count("job.worker_lost") == 0, "a planned stop is no death"
    starts = [event.data["path"] for event in events if event.type == "attempt.started"]
    assert starts == ["first", "s", "s"]
    await gate.wait_left(1)


async def test_stop_does_not_count_as_a_try(bench: Bench) -> None:
    flow = bench.one("gate", retry={"max_attempts": 1})
    jobs = bench.manager(**TIMES)
    await jobs.open()
    job_id = await jobs.create_job(flow, start=True)
    await bench.gate().wait_entered()
    await close(bench, jobs, 6)
    bench.gate().open()
    async with bench.manager() as jobs:
        assert await final(jobs, job_id) == "COMPLETED"


async def test_many_jobs_go_back_and_all_end(bench: Bench) -> None:
    flow = bench.workflow(*({"id": f"s{n}", "component": "note"} for n in range(10)))
    jobs = bench.manager(**TIMES)
    await jobs.open()
    ids = [await jobs.create_job(flow, start=True) for _ in range(40)]
    await jobs.close()
    async with bench.manager() as jobs:
        for job_id in ids:
            assert await final(jobs, job_id) == "COMPLETED"
            completed = [event.data["path"] for event in await history(jobs, job_id) if event.type == "step.completed"]
            assert completed == [f"s{n}" for n in range(10)]


async def test_jobs_in_a_secret_provider_that_never_answers_do_not_keep_the_manager(bench: Bench) -> None:
    class Silent:
        asked = asyncio.Event()

        async def get(self, name: str) -> str:
            self.asked.set()
            await asyncio.Event().wait()
            return ""

    provider = Silent()
    flow = bench.one("note", inputs={"value": "{{ secrets.KEY }}"})
    jobs = bench.manager(secrets=provider, **TIMES)
    await jobs.open()
    job_id = await jobs.create_job(flow, start=True)
    await provider.asked.wait()
    assert await close(bench, jobs, 6) <= 6.2
    async with bench.manager(worker=False) as jobs:
        assert (await jobs.get_summary(job_id)).status == "QUEUED"


async def test_secret_provider_that_swallows_its_cancellation_does_not_keep_the_manager(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    class Deaf:
        asked, go = asyncio.Event(), asyncio.Event()

        async def get(self, name: str) -> str:
            self.asked.set()
            while not self.go.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await self.go.wait()
            return ""

    provider = Deaf()
    jobs = bench.manager(secrets=provider, **TIMES)
    await jobs.open()
    job_id = await jobs.create_job(bench.one("note", inputs={"value": "{{ secrets.KEY }}"}), start=True)
    await provider.asked.wait()
    assert await close(bench, jobs, 6) <= 6.2
    assert "secrets of s does not end and is left" in caplog.messages
    provider.go.set()
    async with bench.manager() as jobs:
        assert await final(jobs, job_id) == "FAILED", "the job goes on, and here the secret is missing"


async def test_agents_that_never_close_do_not_keep_the_manager(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """One swallows its cancellation, one blocks its thread; a third one is still closed."""
    registry, go, closed = bench.components.registry, threading.Event(), asyncio.Event()

    @registry.agent("polite")
    class Polite:
        @capability
        async def run(self) -> None: ...

        async def close(self) -> None:
            closed.set()

    @registry.agent("deaf")
    class Deaf:
        @capability
        async def run(self) -> None: ...

        async def close(self) -> None:
            while not go.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(0.01)

    @registry.agent("blocking")
    class Blocking:
        @capability
        def run(self) -> None: ...

        def close(self) -> None:
            go.wait()

    jobs = bench.manager(clock=SystemClock(), stop_timeout_s=0.3)
    await jobs.open()
    names = ("polite", "deaf", "blocking")
    flow = bench.workflow(*({"id": name, "component": f"{name}.run"} for name in names))
    assert await final(jobs, await jobs.create_job(flow, start=True)) == "COMPLETED"
    try:
        async with asyncio.timeout(SAFETY_S):
            await jobs.close()
    finally:
        go.set()
    assert closed.is_set()
    for name in ("deaf", "blocking"):
        assert f"Agent {name!r} 1.0.0 did not close cleanly." in caplog.messages


async def test_no_thread_of_the_store_outlives_the_manager(bench: Bench) -> None:
    async with bench.manager() as jobs:
        await final(jobs, await jobs.create_job(bench.one("step"), start=True))
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("openagents-sqlite")] == []


async def test_leases_are_renewed_while_a_long_stop_goes_on(bench: Bench) -> None:
    jobs = bench.manager(stop_timeout_s=300)
    await jobs.open()
    await jobs.create_job(bench.one("gate"), start=True)
    await bench.gate().wait_entered()
    closing = asyncio.create_task(jobs.close())
    for _ in range(20):
        await bench.pass_time(5)
        await written(jobs)
    async with bench.manager(worker=False) as other:
        assert await other.store.hold_orphans("somebody", 10) == []
    bench.gate().open()
    await closing
