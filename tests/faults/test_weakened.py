"""A worker that comes back after its lease has ended: the checker has nothing to say (G4). Without the check of owner
and epoch it has: see `mutants`."""

from __future__ import annotations

import asyncio

import pytest

from openagents_json import JobManager, StepContext
from openagents_json.job.events import Event
from openagents_json.job.store import MemoryJobStore
from tests.engine.support import SAFETY_S, Bench, Clock, history, seen
from tests.faults.checker import history_violations


class Partition:
    """Two workers on one store; the first cannot renew its lease and does not know it.

    The first is in the middle of `s` when its lease ends. The second takes the job over, runs `s` as well, records it
    and is in the middle of `t`. Then the first comes back with its result of `s`.
    """

    def __init__(self, bench: Bench, store: MemoryJobStore) -> None:
        self.bench, self.store = bench, store
        self.called = {attempt: asyncio.Event() for attempt in (1, 2)}
        self.may_return = {attempt: asyncio.Event() for attempt in (1, 2)}

        @bench.components.registry.tool("slow")
        async def slow(context: StepContext) -> str:
            self.called[context.attempt].set()
            await self.may_return[context.attempt].wait()
            return f"of attempt {context.attempt}"

        self.flow = bench.workflow({"id": "s", "component": "slow"}, {"id": "t", "component": "gate"})

    async def play(self) -> list[Event]:
        """The history when the first has come back and the second has ended the job, if it still can."""
        first, second = self.bench.manager(self.store), self.bench.manager(self.store)
        self.cut_off(first)
        async with asyncio.timeout(SAFETY_S), first:
            job_id = await first.create_job(self.flow, start=True)
            await self.called[1].wait()
            self.bench.clock.advance(31)
            async with second:
                await self.called[2].wait()
                self.may_return[2].set()
                await self.bench.gate().wait_entered()
                self.may_return[1].set()
                await self.has_let_go(first, job_id)
                self.bench.gate().open()
                await seen(second, job_id, "job.completed")
                return await history(second, job_id)

    def cut_off(self, manager: JobManager) -> None:
        """Let no heartbeat of that manager reach the store."""
        heartbeat = self.store.heartbeat

        async def unless_cut_off(worker: str) -> bool:
            if worker == manager.worker_id:
                await asyncio.Event().wait()
            return await heartbeat(worker)

        self.store.heartbeat = unless_cut_off  # type: ignore[method-assign]

    async def has_let_go(self, manager: JobManager, job_id: str) -> None:
        """Return when the late result has been recorded or refused."""
        while True:
            late = [one for one in await history(manager, job_id) if one.data.get("output") == "of attempt 1"]
            if late or (await manager.health())["running_jobs"] == 0:
                return
            await asyncio.sleep(0)


@pytest.mark.guarantee("G4")
@pytest.mark.parametrize("kind", ["memory"], indirect=True)
async def test_late_worker_records_nothing_and_the_checker_is_content(bench: Bench, clock: Clock) -> None:
    store = MemoryJobStore(clock)
    events = await Partition(bench, store).play()
    assert history_violations("job", events) == []
    assert [event.data["output"] for event in events if event.type == "step.completed"] == ["of attempt 2", None]
