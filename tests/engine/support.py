"""What the tests of the engine, of races and of faults share: a clock, gates, typical components, managers."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest

from openagents_json import ComponentRegistry, JobManager, RetryableError, StepContext
from openagents_json.components import register_builtins
from openagents_json.job.events import Event
from openagents_json.job.store import Commit, FileJobStore, JobStore, MemoryJobStore, PostgresJobStore, SqliteJobStore
from openagents_json.testing import FakeClock
from openagents_json.workflow import WorkflowRegistry
from tests.engine import process_components
from tests.faults.checker import check_store

SAFETY_S = 10.0  # only a safety net: no test comes near it
T = TypeVar("T")


class Clock(FakeClock):
    """The fake clock, and a disk that takes time by it."""

    def advance_at_commit(self, store: JobStore, seconds: float) -> None:
        """From now on each commit of that store takes so long."""
        commit = store.commit

        async def slow_commit(one: Commit) -> None:
            await commit(one)
            self.advance(seconds)

        store.commit = slow_commit  # type: ignore[method-assign, assignment]


class Gate:
    """A component's call waits here until the test opens it. For coroutines and for threads."""

    def __init__(self) -> None:
        self.contexts: list[StepContext] = []  # of the calls, in the order they came
        self.left = 0  # calls that have ended
        self._loop = asyncio.get_running_loop()
        self._open = asyncio.Event()
        self._open_for_threads = threading.Event()
        self._changed = asyncio.Event()

    def open(self) -> None:
        self._open.set()
        self._open_for_threads.set()

    def shut(self) -> None:
        self._open.clear()
        self._open_for_threads.clear()

    def enter(self, context: StepContext) -> None:
        self.contexts.append(context)
        self._tell()

    def leave(self) -> None:
        self.left += 1
        self._tell()

    def _tell(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the test is over
            self._loop.call_soon_threadsafe(self._changed.set)

    async def wait_open(self) -> None:
        await self._open.wait()

    def wait_open_in_thread(self) -> None:
        self._open_for_threads.wait(SAFETY_S)

    async def wait_entered(self, calls: int = 1) -> StepContext:
        """The context of call number `calls`, as soon as it has come."""
        await self._wait(lambda: len(self.contexts) >= calls)
        return self.contexts[calls - 1]

    async def wait_left(self, calls: int = 1) -> None:
        await self._wait(lambda: self.left >= calls)

    async def _wait(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(SAFETY_S):
            while not condition():
                await self._changed.wait()
                self._changed.clear()


class Components:
    """A registry of typical components, and the gates that they wait at. Gates are made when they are first named."""

    def __init__(self) -> None:
        self.registry = ComponentRegistry()
        register_builtins(self.registry)
        self.gates: dict[str, Gate] = {}
        self.calls: list[tuple[str, int]] = []  # (path, attempt) of every call of `note`, `flaky` and `step`
        self.values: list[Any] = []  # what `note` got
        self._register()

    def gate(self, name: str = "gate") -> Gate:
        if name not in self.gates:
            self.gates[name] = Gate()
        return self.gates[name]

    def _register(self) -> None:
        tool = self.registry.tool

        @tool("add")
        async def add(a: int, b: int) -> int:
            return a + b

        @tool("note")
        async def note(context: StepContext, value: Any = None) -> Any:
            self.calls.append((context.step, context.attempt))
            self.values.append(value)
            return value

        @tool("step")
        def step(context: StepContext, value: Any = None) -> Any:
            self.calls.append((context.step, context.attempt))
            return value

        @tool("gate")
        async def gate(context: StepContext, name: str = "gate", value: Any = None) -> Any:
            here = self.gate(name)
            here.enter(context)
            try:
                await here.wait_open()
            finally:
                here.leave()
            return value

        @tool("thread_gate")
        def thread_gate(context: StepContext, name: str = "gate", value: Any = None) -> Any:
            here = self.gates[name]
            here.enter(context)
            try:
                here.wait_open_in_thread()
            finally:
                here.leave()
            return value

        @tool("polite_thread")
        def polite_thread(context: StepContext, name: str = "gate") -> str:
            here = self.gates[name]
            here.enter(context)
            while not context.cancelled:
                here._open_for_threads.wait(0.005)
            here.leave()
            raise RuntimeError("told to stop")

        @tool("stubborn")
        async def stubborn(context: StepContext, name: str = "gate", value: Any = None) -> Any:
            """Swallows every CancelledError until its gate opens."""
            here = self.gate(name)
            here.enter(context)
            while not here._open.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await here.wait_open()
            here.leave()
            return value

        @tool("fail")
        async def fail(message: str = "no luck") -> None:
            raise ValueError(message)

        @tool("flaky")
        async def flaky(context: StepContext, until: int, delay_s: float | None = None) -> int:
            """Fails before attempt number `until`."""
            self.calls.append((context.step, context.attempt))
            if context.attempt < until:
                raise RetryableError("http.429", "try again", delay_s)
            return context.attempt


# For a module: its tests run on the file store, too.
on_every_store = pytest.mark.parametrize("kind", ["memory", "sqlite", "file"])


class SharedFileStore(FileJobStore):
    """A file store for the managers of one process: closed when the last of those that opened it closes it."""

    users = 0

    async def open(self) -> None:
        await super().open()
        self.users += 1

    async def close(self) -> None:
        self.users = max(0, self.users - 1)
        if self.users == 0:
            await super().close()


class Bench:
    """One test's store, components, workflows, clock and managers."""

    def __init__(self, kind: str, folder: Path, clock: Clock, url: str = "") -> None:
        self.kind = kind
        self.url = url  # of the PostgreSQL store
        self.path = folder / "jobs.db"
        self.clock = clock
        self.components = Components()
        self.workflows = WorkflowRegistry(self.components.registry)
        self.gate = self.components.gate
        self._memory = MemoryJobStore(clock)
        self._file = SharedFileStore(folder / "jobs", clock)

    def store(self) -> JobStore:
        """The store of this test: the same jobs at each call."""
        if self.kind == "postgres":
            return PostgresJobStore(self.url, self.clock)
        if self.kind == "sqlite":
            return SqliteJobStore(self.path, self.clock)
        return self._memory if self.kind == "memory" else self._file

    def manager(self, store: JobStore | None = None, **options: Any) -> JobManager:
        """A manager, not opened yet, on the test's store, with its components, workflows and clock."""
        shared: dict[str, Any] = {
            "components": self.components.registry,
            "workflows": self.workflows,
            "clock": self.clock,
        }
        return JobManager(store or self.store(), **(shared | options))

    def workflow(self, *steps: Mapping[str, Any], **fields: Any) -> str:
        """Register a workflow of these steps, `flow` if no `id` is given; its id."""
        return self.workflows.register({"id": "flow", "steps": list(steps)} | fields).id

    def one(self, component: str, id: str = "flow", **step: Any) -> str:
        """Register a workflow of one step `s` that calls a component; its id."""
        return self.workflow({"id": "s", "component": component, **step}, id=id)

    def isolate(self, *names: str) -> None:
        """Register components of `process_components` as steps in processes: `compute` as `process.compute`."""
        for name in names:
            call, _, _ = process_components.registry.get(name).origin
            self.components.registry.register(call, f"process.{name}", isolation="process")

    def place(self, name: str) -> Path:
        """A file of this test, for what a process says and waits for."""
        return self.path.with_name(name)

    async def appears(self, name: str) -> None:
        """Return when a process has made the file."""
        async with asyncio.timeout(SAFETY_S):
            while not self.place(name).exists():  # noqa: ASYNC110 - a file tells nobody
                await asyncio.sleep(0.003)

    def open_gates(self) -> None:
        for gate in self.components.gates.values():
            gate.open()

    async def pass_time(self, *seconds: float) -> None:
        """Move the clock, step by step, and let what is due at each step happen."""
        for step in seconds:
            self.clock.advance(step)
            for _ in range(5):
                await asyncio.sleep(0)

    async def until_async(self, ask: Callable[[], Awaitable[T]], condition: Callable[[T], bool]) -> T:
        """Ask until the answer fits; for rows that change without an event."""
        async with asyncio.timeout(SAFETY_S):
            while not condition(answer := await ask()):  # noqa: ASYNC110 - there is no event to wait for
                await asyncio.sleep(0)
        return answer

    async def check(self) -> None:
        """Fold every history, compare it with its row, and look for what no history may hold."""
        if self.kind == "sqlite" and not self.path.exists():
            return
        store = self.store()
        await store.open()
        try:
            problems = await check_store(store)
            assert problems == [], problems
        finally:
            await store.close()


async def seen(jobs: JobManager, job_id: str, type: str, count: int = 1, **data: Any) -> Event:
    """Return the `count`-th event of a type (and with these data) of a job, as soon as it is committed and carried out:
    from then on time may pass."""
    async with asyncio.timeout(SAFETY_S), contextlib.aclosing(events_of(jobs, job_id)) as events:
        async for event in events:
            if event.type == type and data.items() <= event.data.items():
                count -= 1
                if count == 0:
                    await _carried_out(jobs, job_id, event)
                    return event
    raise AssertionError(f"the job ended without {type}")


async def _carried_out(jobs: JobManager, job_id: str, event: Event) -> None:
    """A reader may see an event before the runner hears that it is committed, and sets its timers. A runner that has
    let go commits no more: what comes then is settled by others."""
    runners = jobs._worker.runners
    runner = runners.get(job_id)
    if runner is not None:
        await until(lambda: runner._committed >= event.number or runners.get(job_id) is not runner)


async def events_of(jobs: JobManager, job_id: str, after: int = 0) -> AsyncGenerator[Event, None]:
    async for event in jobs.watch(job_id, after):
        yield event


async def history(jobs: JobManager, job_id: str) -> list[Event]:
    """The events that are recorded now."""
    events: list[Event] = []
    while page := await jobs.store.read_events(job_id, len(events)):
        events += page
    return events


async def types(jobs: JobManager, job_id: str) -> list[str]:
    return [event.type for event in await history(jobs, job_id)]


async def written(jobs: JobManager) -> None:
    """Return when all that the loop has given to the store is written: the clock may move on."""
    await jobs.store.unregister_worker("nobody")


async def until(condition: Callable[[], bool]) -> None:
    """Let the event loop turn until something is so; for what gives no signal of its own."""
    async with asyncio.timeout(SAFETY_S):
        while not condition():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0)


async def final(jobs: JobManager, job_id: str) -> str:
    """The job's final status, when it has one."""
    async with asyncio.timeout(SAFETY_S):
        return str((await jobs.wait(job_id)).status)


async def vanish(jobs: JobManager) -> None:
    """End a manager as a killed process would: nothing is said, nothing is given back. Only for these tests."""
    worker = jobs._worker
    tasks: list[asyncio.Future[Any]] = [*worker._tasks, *worker._loops, *worker._upkeep]
    attempts = [attempt for runner in worker.runners.values() for attempt in runner._running._attempts.values()]
    tasks += [attempt._code.done for attempt in attempts if attempt._code is not None]
    if worker._heart is not None:
        worker._heart.stop()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    worker.threads.close()
    worker.stop_capture()  # its streams end with a process
    if not isinstance(jobs.store, MemoryJobStore):
        await jobs.store.close()  # the process's files are closed by the kernel; what is said of the worker stays
