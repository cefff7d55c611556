"""A clock that is set back while a turn is being committed: the job is let go of, and no timer waits for the jump."""

from __future__ import annotations

import asyncio

import pytest

from openagents_json import OpenAgentsApp
from openagents_json.job.store import Commit, MemoryJobStore
from openagents_json.testing import FakeClock
from tests.engine.support import until

DAY_S = 86_400


@pytest.mark.guarantee("G5")
async def test_job_that_lingers_is_let_go_of_when_the_clock_was_set_back() -> None:
    clock = FakeClock()

    class SetsBack(MemoryJobStore):
        async def commit(self, commit: Commit) -> None:
            await super().commit(commit)
            if any(event.type == "step.waiting" for event in commit.events):
                clock.jump(-DAY_S)

    app = OpenAgentsApp(SetsBack(clock), clock=clock)
    app.register_workflow({"id": "short", "steps": [{"id": "w", "wait": {"seconds": 2}}]})
    async with app.jobs as jobs, asyncio.timeout(20):
        job_id = await jobs.create_job("short", start=True)
        events = []
        while "step.waiting" not in events:
            await asyncio.sleep(0)
            events = [event.type for event in await jobs.store.read_events(job_id)]
        await until(lambda: job_id in jobs._worker.runners)
        for _ in range(6):
            clock.advance(1)
            await clock.wait_sleepers(1)
        await until(lambda: job_id not in jobs._worker.runners)
        assert (await jobs.get_summary(job_id)).status == "WAITING"
        clock.jump(DAY_S)
        clock.advance(60)
        assert (await jobs.wait(job_id)).status == "COMPLETED"
