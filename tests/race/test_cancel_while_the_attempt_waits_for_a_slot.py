"""A cancel arrives while a step waits for a slot, or just as it gets one: it starts nothing, and keeps no slot."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from openagents_json import JobManager
from tests.engine.support import Bench, final, seen, types
from tests.race.stage import Held, commits

ONE: dict[str, Any] = {"max_threads": 1}


async def busy_and_waiting(bench: Bench, jobs: JobManager) -> tuple[str, str]:
    """A job that has the only thread, and one that wants it."""
    gate = bench.gate()
    busy = await jobs.create_job(bench.one("thread_gate", "busy"), start=True)
    await gate.wait_entered()
    waiting = await jobs.create_job(bench.one("step", "waiting"), start=True)
    await seen(jobs, waiting, "job.started")
    return busy, waiting


@pytest.mark.parametrize("force", [False, True])
async def test_job_that_waits_for_a_slot_is_cancelled_at_once(bench: Bench, force: bool) -> None:
    async with bench.manager(**ONE) as jobs:
        busy, waiting = await busy_and_waiting(bench, jobs)
        await jobs.cancel_job(waiting, force=force)
        assert await final(jobs, waiting) == "CANCELLED"
        assert "attempt.started" not in await types(jobs, waiting)
        bench.open_gates()
        assert await final(jobs, busy) == "COMPLETED"
        after = await jobs.create_job(bench.one("step", "after"), start=True)
        assert await final(jobs, after) == "COMPLETED", "the slot went to the next"


async def test_cancel_during_the_commit_that_uses_the_slot_gives_it_back(bench: Bench) -> None:
    async with bench.manager(**ONE) as jobs:
        busy, waiting = await busy_and_waiting(bench, jobs)
        held = Held(jobs.store, "commit", commits("attempt.started"))
        bench.open_gates()
        await held.reached()
        cancelling = asyncio.create_task(jobs.cancel_job(waiting))
        await bench.until_async(lambda: jobs.get_job_status(waiting), lambda one: bool(one["requests"]))
        held.go_on()
        await cancelling
        assert [await final(jobs, one) for one in (busy, waiting)] == ["COMPLETED", "CANCELLED"]
        assert len(bench.components.calls) == (await types(jobs, waiting)).count("attempt.started") <= 1
        health = await jobs.health()
        assert (health["steps"], health["threads"]) == (0, 0)
