"""health(): what a manager and its store say of themselves."""

from __future__ import annotations

from typing import Any

import pytest

from openagents_json import JobManager, StepContext
from openagents_json.errors import StoreUnavailable
from openagents_json.job.engine import meter as meter_module
from openagents_json.job.engine.meter import Meter, percentile
from openagents_json.job.events import Event
from tests.engine.support import Bench, final, until


async def test_jobs_are_counted_and_the_oldest_of_the_queue_is_timed(bench: Bench, jobs: JobManager) -> None:
    done = await jobs.create_job(bench.one("note"), start=True)
    await final(jobs, done)
    await jobs.create_job(bench.one("gate", id="gate"), start=True)
    await bench.gate().wait_entered()
    await jobs.create_job(bench.one("note"))
    health = await jobs.health()
    assert (health["status"], health["reasons"]) == ("ok", [])
    assert health["jobs"] == {"COMPLETED": 1, "CREATED": 1, "RUNNING": 1}
    assert (health["queue_age_s"], health["running_jobs"], health["steps"]) == (0.0, 1, 1)
    assert health["commit_ms"]["count"] >= 2
    assert 0 < health["commit_ms"]["p50"] <= health["commit_ms"]["p99"]


async def test_age_of_the_queue_is_that_of_the_job_that_waits_longest(bench: Bench) -> None:
    async with bench.manager(worker=False) as jobs:
        for priority in ("LOW", "CRITICAL"):
            await jobs.create_job(bench.one("note"), priority=priority, start=True)
            bench.clock.advance(2)
        health = await jobs.health()
        assert (health["queue_age_s"], health["jobs"]) == (4.0, {"QUEUED": 2})


async def test_store_that_does_not_answer_is_told_and_health_does_not_raise(bench: Bench, jobs: JobManager) -> None:
    async def count_jobs(limit: int) -> Any:
        raise StoreUnavailable("the disk is gone")

    jobs.store.count_jobs = count_jobs  # type: ignore[method-assign]
    health = await jobs.health()
    assert (health["status"], health["store_error"], health["jobs"]) == ("degraded", "the disk is gone", {})
    assert health["reasons"] == ["The store does not work: the disk is gone"]
    del jobs.store.count_jobs
    assert (await jobs.health())["status"] == "ok"


async def test_thread_that_runs_on_is_a_reason(bench: Bench, jobs: JobManager) -> None:
    bench.gate()
    job_id = await jobs.create_job(bench.one("thread_gate"), start=True)
    await bench.gate().wait_entered()
    await jobs.cancel_job(job_id, force=True)
    while not (await jobs.health())["abandoned_threads"]:
        await bench.pass_time(0.2)
    health = await jobs.health()
    assert health["status"] == "degraded" and "1 thread" in health["reasons"][0]
    bench.gate().open()
    await until(lambda: jobs._worker.admission.abandoned == 0)
    assert (await jobs.health())["status"] == "ok"


async def test_failures_of_listeners_are_counted(bench: Bench, jobs: JobManager) -> None:
    def fail(job_id: str, event: Event) -> None:
        raise ValueError("I cannot listen")

    subscription = jobs.on("job.completed", fail)
    await final(jobs, await jobs.create_job(bench.one("note"), start=True))
    await subscription.drain()
    assert (await jobs.health())["listeners"] == {"count": 1, "failures": 1, "dropped": 0}


@pytest.mark.parametrize("lag_s", [0.2, 1.5])
async def test_loop_that_was_blocked_is_a_reason(jobs: JobManager, lag_s: float) -> None:
    jobs._worker.meter.lags_s.append(lag_s)
    health = await jobs.health()
    assert health["loop_lag_ms"] >= lag_s * 1_000
    assert (health["status"] == "degraded") == (lag_s >= 1.0)


async def test_meter_measures_how_late_the_loop_is(
    bench: Bench, jobs: JobManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meter_module, "TICK_S", 0.001)
    import time

    @bench.components.registry.tool("block", isolation="inline")
    def block(context: StepContext) -> None:
        time.sleep(0.05)

    meter = Meter()
    meter.start()
    await until(lambda: len(meter.lags_s) >= 2)
    await final(jobs, await jobs.create_job(bench.one("block"), start=True))
    await until(lambda: max(meter.lags_s) >= 0.04)
    meter.stop()
    ticks = len(meter.lags_s)
    assert ticks <= meter_module.TICKS_KEPT


def test_percentiles_are_values_that_were_measured() -> None:
    assert percentile([], 50) is None
    assert [percentile([3.0], p) for p in (0, 50, 99, 100)] == [3.0] * 4
    values = [float(number) for number in range(1_000, 0, -1)]
    assert (percentile(values, 50), percentile(values, 99)) == (501.0, 991.0)
