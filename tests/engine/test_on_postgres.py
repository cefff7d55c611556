"""The engine on the PostgreSQL store: tests of other files once more, and what several machines do with one schema."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from openagents_json import JobManager, OpenAgentsApp, StepContext
from tests.engine import test_routing as routing
from tests.engine.support import SAFETY_S, Bench, history, vanish
from tests.engine.test_children import *  # noqa: F403
from tests.engine.test_control import *  # noqa: F403
from tests.engine.test_recovery import *  # noqa: F403
from tests.engine.test_run import *  # noqa: F403
from tests.postgres_server import Server

pytestmark = []  # type: ignore[assignment]  # the marks of those files are not for this one


@pytest.fixture
def kind() -> str:
    return "postgres"


async def test_steps_go_to_the_machines_that_have_their_components(bench: Bench) -> None:
    await routing.test_steps_run_where_their_components_are(bench)


async def test_branches_go_to_the_machines_that_have_their_components(bench: Bench) -> None:
    await routing.test_branches_that_need_different_workers_are_both_run(bench)


# ── several managers, each as on a machine of its own; time is the server's ───────────────────────────────────────

FLOW: dict[str, Any] = {
    "id": "two-steps",
    "inputs": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
    "steps": [
        {"id": "first", "component": "work", "inputs": {"n": "{{ inputs.n }}"}},
        {"id": "second", "component": "work", "inputs": {"n": "{{ steps.first.output }}"}},
    ],
    "outputs": {"n": "{{ steps.second.output }}"},
}


class Machines:
    """Managers on one schema, with components that note who called them."""

    def __init__(self, url: str, stack: AsyncExitStack) -> None:
        self._url = url
        self._stack = stack
        self.calls: list[tuple[str, str, str]] = []  # (machine, job, step)
        self.began = asyncio.Event()  # `hang` was called
        self.may_end = asyncio.Event()

    async def open(self, name: str, **settings: Any) -> JobManager:
        """Another machine. It is closed at the end of the test."""
        app = OpenAgentsApp(store=self._url, **settings)

        @app.tool("work", isolation="inline")
        async def work(context: StepContext, n: int) -> int:
            self.calls.append((name, context.job_id, context.step))
            await asyncio.sleep(0)
            return n + 1

        @app.tool("hang", isolation="inline")
        async def hang(context: StepContext) -> str:
            self.calls.append((name, context.job_id, context.step))
            self.began.set()
            await self.may_end.wait()
            return name

        app.register_workflow(FLOW)
        app.register_workflow({"id": "hanging", "steps": [{"id": "s", "component": "hang"}]})
        return await self._stack.enter_async_context(app.jobs)


@pytest.fixture
async def machines(postgres: Server) -> AsyncIterator[Machines]:
    url = postgres.store_url(await postgres.empty_schema())
    async with AsyncExitStack() as stack, asyncio.timeout(3 * SAFETY_S):
        made = Machines(url, stack)
        yield made
        made.may_end.set()


async def test_two_machines_share_the_queue_and_run_each_step_once(machines: Machines) -> None:
    one, other = await machines.open("one", max_jobs=4), await machines.open("other", max_jobs=4)
    ids = await asyncio.gather(
        *(each.create_job("two-steps", {"n": n}, start=True) for n in range(40) for each in (one, other))
    )
    jobs = await asyncio.gather(*(one.wait(job_id) for job_id in ids))
    assert sorted(job.outputs["n"] for job in jobs) == sorted(n + 2 for n in range(40) for _ in range(2))
    assert set(Counter((job_id, step) for _, job_id, step in machines.calls).values()) == {1}
    assert {name for name, _, _ in machines.calls} == {"one", "other"}
    for job_id in ids:
        events = await history(other, job_id)
        assert [event.number for event in events] == list(range(1, len(events) + 1))
        assert events[-1].type == "job.completed"


async def test_job_is_watched_and_cancelled_from_another_machine(machines: Machines) -> None:
    one = await machines.open("one")
    desk = await machines.open("desk", max_jobs=1)
    job_id = await one.create_job("hanging", start=True)
    await machines.began.wait()
    [(runner, _, _)] = machines.calls
    elsewhere = desk if runner == "one" else one
    await elsewhere.cancel_job(job_id, reason="enough")
    types = [event.type async for event in elsewhere.watch(job_id)]
    assert types[0] == "job.created" and types[-1] == "job.cancelled"
    assert str((await one.wait(job_id)).status) == str((await desk.wait(job_id)).status) == "CANCELLED"


@pytest.mark.guarantee("G5")
async def test_jobs_of_a_dead_machine_go_on_when_its_lease_has_ended(machines: Machines) -> None:
    dying = await machines.open("dying", lease_s=1)
    job_id = await dying.create_job("hanging", start=True)
    await machines.began.wait()
    await vanish(dying)
    await machines.open("heir", lease_s=1)
    heir = await machines.open("desk", lease_s=1)
    machines.may_end.set()
    job = await heir.wait(job_id)
    assert str(job.status) == "COMPLETED"
    (first, _, _), _ = machines.calls
    assert first == "dying"
    types = [event.type for event in await history(heir, job_id)]
    assert types.count("attempt.started") == 2 and types.count("step.completed") == 1
