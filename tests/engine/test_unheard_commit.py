"""A commit that is recorded while its reply is lost, and cannot be repeated since the lease has moved on: what it put
into the queue is found all the same (G1, G12)."""

from __future__ import annotations

import asyncio

import pytest

from openagents_json import OpenAgentsApp, StoreUnavailable
from openagents_json.job.store import Commit, MemoryJobStore

SAFETY_S = 10.0


class Unheard(MemoryJobStore):
    """Records one commit, of a job that is to be queued, lets another worker hold that job for a moment, and fails."""

    loses_for: str | None = None  # the job

    async def commit(self, commit: Commit) -> None:
        await super().commit(commit)
        if commit.claim.job_id == self.loses_for:
            self.loses_for = None
            await self.register_worker("other")
            [claim] = await self.claim("other", 1)
            await self.release(claim)
            raise StoreUnavailable("the reply was lost")


@pytest.mark.guarantee("G12")
async def test_job_that_was_queued_by_an_unheard_commit_runs() -> None:
    store = Unheard()
    app = OpenAgentsApp(store, max_jobs=2)
    begun, may_end = asyncio.Semaphore(0), asyncio.Event()

    @app.tool("hold_up")
    async def hold_up() -> None:
        begun.release()
        await may_end.wait()

    @app.tool("quick")
    async def quick() -> str:
        return "done"

    for name in ("hold_up", "quick"):
        app.register_workflow({"id": name, "steps": [{"id": "s", "component": name}]})
    async with app.jobs as jobs, asyncio.timeout(SAFETY_S):
        ids = []
        for _ in range(2):  # there is room for no more, and the worker knows that nothing is queued
            ids.append(await jobs.create_job("hold_up"))
            await jobs.start_job(ids[-1])
            await begun.acquire()
        ids.append(await jobs.create_job("quick"))
        store.loses_for = ids[-1]
        await jobs.start_job(ids[-1])
        may_end.set()
        for job_id in ids:
            assert (await jobs.wait(job_id)).status == "COMPLETED"
