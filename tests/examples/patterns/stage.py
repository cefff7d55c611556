"""What the pattern tests share: the definitions on the memory store, with steps that can be held, and their story."""

from __future__ import annotations

import asyncio
import functools
import inspect
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from openagents_json import ComponentRegistry, JobManager, StepContext
from openagents_json.components import register_builtins
from openagents_json.job.store import MemoryJobStore
from openagents_json.testing import FakeClock
from openagents_json.workflow import WorkflowRegistry
from tests.engine.support import SAFETY_S, final, history, seen
from tests.faults.checker import check_store

PATTERNS = Path(__file__).parents[3] / "examples" / "patterns"

# How an event reads in a story. Others are left out: requests, retries and what only the engine needs.
_TOLD = {
    "attempt.started": "start {path}",
    "attempt.cancelled": "stop {path}",
    "step.completed": "end {path}",
    "step.failed": "fail {path}",
    "step.caught": "catch {path}",
    "step.skipped": "skip {path}",
    "step.cancelled": "stop {path}",
    "step.waiting": "wait {path}",
    "step.expanded": "expand {path}",
    "step.chosen": "choose {path}[{case}]",
    "step.forked": "fork {path}",
    "step.iterated": "round {path}[{iteration}]",
    "child.started": "call {path}",
    "signal.received": "signal {name}",
    "job.cancel_requested": "cancel",
    "job.compensation_started": "undo",
    "job.finally_started": "finally",
    "job.completed": "COMPLETED",
    "job.failed": "FAILED",
    "job.cancelled": "CANCELLED",
}


class Stage:
    """One test's workflows, clock and manager. Steps run at once, except those that the test holds."""

    def __init__(self, components: ComponentRegistry, folder: Path) -> None:
        self.clock = FakeClock()
        self.store = MemoryJobStore(self.clock)
        self._held: dict[str, asyncio.Event] = {}  # path → set when the step may go on; the test adds, steps look
        registry = ComponentRegistry()
        register_builtins(registry)
        for component in components:
            if not component.name.startswith("core."):
                timeout_s = component.timeout_s or 60
                registry.register(self._holding(component._call), component.name, timeout_s=timeout_s)
        workflows = WorkflowRegistry(registry)
        workflows.register_folder(folder)
        self.jobs = JobManager(self.store, components=registry, workflows=workflows, clock=self.clock)

    def hold(self, *paths: str) -> None:
        """From now on these steps wait inside their component, in any job, until `release`."""
        for path in paths:
            self._held[path] = asyncio.Event()

    def release(self, *paths: str) -> None:
        """Let held steps go on; those that are there and those that come."""
        for path in paths:
            self._held[path].set()

    async def start(self, workflow: str, **inputs: Any) -> str:
        return await self.jobs.create_job(workflow, inputs, start=True)

    async def started(self, job_id: str, *paths: str) -> None:
        """Return when attempts of these steps are recorded as begun."""
        for path in paths:
            await seen(self.jobs, job_id, "attempt.started", path=path)

    async def ended(self, job_id: str, *paths: str) -> None:
        """Return when these steps are recorded as completed."""
        for path in paths:
            await seen(self.jobs, job_id, "step.completed", path=path)

    async def waits(self, job_id: str, *paths: str) -> None:
        """Return when these steps wait for a time or a signal."""
        for path in paths:
            await seen(self.jobs, job_id, "step.waiting", path=path)

    async def idle(self, job_id: str) -> None:
        """Return when all that is left of the job waits, and no worker holds it."""
        await seen(self.jobs, job_id, "job.waiting")

    async def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        for _ in range(5):
            await asyncio.sleep(0)

    async def end(self, job_id: str, status: str = "COMPLETED") -> dict[str, Any]:
        """The outputs of a job that ends with this status."""
        assert await final(self.jobs, job_id) == status
        return dict((await self.jobs.get_job(job_id)).outputs or {})

    async def story(self, job_id: str) -> list[str]:
        """What happened, in order: `start`, `end`, `stop`, `skip`, `wait` … and the path of the step.

        Attempts that are told to stop together may end in any order; here they are sorted by path.
        """
        lines: list[str] = []
        told = [event for event in await history(self.jobs, job_id) if event.type in _TOLD]
        for type, events in itertools.groupby(told, lambda event: event.type):
            group = [_TOLD[type].format(**event.data) for event in events]
            lines += sorted(group) if type == "attempt.cancelled" else group
        return lines

    async def close(self) -> None:
        """Let everything go on, close the manager, and look for what no history may hold."""
        self.release(*self._held)
        await self.jobs.close()
        await self.store.open()
        assert await check_store(self.store) == []
        await self.store.close()

    def _holding(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same component, which first waits at its step's gate if there is one."""

        async def held(context_: StepContext, **arguments: Any) -> Any:
            gate = self._held.get(context_.step)
            if gate is not None:
                async with asyncio.timeout(SAFETY_S):
                    await gate.wait()
            return await call(**arguments)

        functools.update_wrapper(held, call)
        del held.__wrapped__  # type: ignore[attr-defined]
        held.__annotations__ = {**get_type_hints(call, include_extras=True), "context_": StepContext}
        context = inspect.Parameter("context_", inspect.Parameter.KEYWORD_ONLY, annotation=StepContext)
        parameters = [*inspect.signature(call).parameters.values(), context]
        held.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return held


def only(story: Sequence[str], *words: str) -> list[str]:
    """The lines of a story that begin with one of these words."""
    return [line for line in story if line.split()[0] in words]
