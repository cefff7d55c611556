"""The world of one example of the manager's state machine: an event loop, a clock, a store, and managers on it that
open, close and vanish; components whose calls wait until they are told how to end."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from openagents_json import JobManager, RetryableError, StepContext
from openagents_json.job.store import JobStore, MemoryJobStore, SqliteJobStore
from openagents_json.settings import Settings
from openagents_json.testing import FakeClock
from tests.engine.support import vanish
from tests.faults.checker import Effect
from tests.property.manager_flows import STAGE, components, workflows

SETTINGS = Settings(job_retention_days=None, capture_output=False)
TURNS = 100_000  # of the loop; nothing that these jobs do takes nearly as many
CLOSED_S = 30.0  # real seconds
RAM_DISK = Path("/dev/shm")  # a file there costs no sync; what is on disk after a power cut is tested elsewhere
T = TypeVar("T")


class Loop(asyncio.SelectorEventLoop):
    """An event loop that knows whether anything is to be done now."""

    @property
    def is_idle(self) -> bool:
        return not self._ready  # type: ignore[attr-defined]


@dataclass(eq=False)
class Call:
    """One call of a component that waits for its end."""

    context: StepContext
    host: Host
    value: Any
    is_stubborn: bool
    told: asyncio.Event = field(default_factory=asyncio.Event)
    end: str = ""  # ok, retry or fail; dead: its process is gone

    def finish(self, end: str) -> None:
        self.end = self.end or end
        self.told.set()


@dataclass(eq=False)
class Host:
    """A process with a manager in it."""

    manager: JobManager
    is_worker: bool
    is_gone: bool = False  # vanished or closed
    was_stalled: bool = False  # its clock jumped: it may have been taken for dead

    def runs(self, context: StepContext) -> bool:
        runner = self.manager._worker.runners.get(context.job_id)
        return runner is not None and any(one.context is context for one in runner._running._attempts.values())


class World:
    """Everything is called from outside of the loop, but for what `run` runs."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.loop = Loop()
        self.clock = FakeClock()
        self.hosts: list[Host] = []  # those that are up
        self.calls: list[Call] = []
        self.effects: dict[int, Effect] = {}  # by the order in which the calls began: late ones end in any order
        self._begun = 0
        self.lets_all_pass = False
        self.on_call: Callable[[StepContext], None] = lambda context: None
        self.in_flight = 0  # questions to the stores that other threads work on
        self.writes = 0  # to SQLite stores, so far
        self._answered = asyncio.Event()
        self._memory = MemoryJobStore(self.clock)
        self._folder = Path(tempfile.mkdtemp(dir=RAM_DISK if RAM_DISK.is_dir() else None)) if kind == "sqlite" else None
        STAGE[:] = [self]
        self.asker = self.open(worker=False)

    # ── hosts ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def store(self) -> JobStore:
        """The one that the test reads."""
        return self.asker.manager.store

    @property
    def is_quiet(self) -> bool:
        """Whether nothing can happen without the clock."""
        return self.loop.is_idle and not self.in_flight

    @property
    def workers(self) -> list[Host]:
        return [host for host in self.hosts if host.is_worker]

    def open(self, *, worker: bool = True) -> Host:
        """One more process."""
        host = Host(
            JobManager(
                self._store(), components=components, workflows=workflows, clock=self.clock, settings=SETTINGS,
                worker=worker,
            ),
            worker,
        )  # fmt: skip
        self.hosts.append(host)
        self.run(host.manager.open())
        return host

    def _store(self) -> JobStore:
        if self._folder is None:
            return self._memory
        store = SqliteJobStore(self._folder / "jobs.db", self.clock)
        for name in ("open", "close", "_read", "_write"):
            setattr(store, name, self._counted(getattr(store, name), writes=name == "_write"))
        return store

    def _counted(
        self, ask: Callable[..., Coroutine[Any, Any, T]], *, writes: bool
    ) -> Callable[..., Coroutine[Any, Any, T]]:
        async def counted(*arguments: Any) -> T:
            self.in_flight += 1
            self.writes += writes
            try:
                return await ask(*arguments)
            finally:
                self.in_flight -= 1
                self._answered.set()

        return counted

    def crash(self, host: Host) -> None:
        """The process is killed."""
        self._lose(host)
        self.run(vanish(host.manager))

    def close(self, host: Host) -> None:
        """The program ends as it should; its calls are told to stop when they have not ended in time."""
        closing = self.loop.create_task(host.manager.close())
        for _ in range(100):
            self.settle()
            if closing.done():
                break
            self.clock.advance(1)
        self.run(asyncio.wait_for(closing, CLOSED_S))  # the store's threads end by themselves
        self._lose(host)
        self.settle()

    def _lose(self, host: Host) -> None:
        host.is_gone = True
        self.hosts.remove(host)
        for call in self.calls:
            if call.host is host:
                call.finish("dead")

    def end(self) -> None:
        """Close everything."""
        for host in list(self.hosts):
            if not host.is_gone:
                self.crash(host)
        pending = asyncio.all_tasks(self.loop)
        for task in pending:
            task.cancel()
        self.run(_gathered(pending))
        self.loop.close()
        STAGE.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder)

    # ── time ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def turn(self, count: int) -> None:
        """Let the loop turn so often, whatever is under way."""
        if count:
            self.run(_turn(count))

    def settle(self) -> None:
        """Let everything happen that can without the clock."""
        self.run(self._settle())

    async def _settle(self) -> None:
        for _ in range(TURNS):
            await asyncio.sleep(0)
            if self.loop.is_idle:
                if not self.in_flight:
                    return
                self._answered.clear()
                await self._answered.wait()
        raise AssertionError("it does not come to rest")

    def pass_time(self, seconds: float, step_s: float = 4.0) -> None:
        """Move the clock so that workers can renew their leases, and let happen what is due."""
        while seconds > 0:
            self.clock.advance(min(seconds, step_s))
            self.settle()
            seconds -= step_s

    # ── components ────────────────────────────────────────────────────────────────────────────────────────────────

    async def act(self, context: StepContext, value: Any, *, is_stubborn: bool) -> Any:
        host = next((host for host in self.hosts if host.runs(context)), None)
        assert host is not None, "a call that no process makes"
        order = self._begin(context)
        call = Call(context, host, value, is_stubborn)
        self.calls.append(call)
        try:
            if self.lets_all_pass:
                call.finish("ok")
            await _until_told(call)
        finally:
            self.calls.remove(call)
        if call.end == "retry":
            raise RetryableError("http.503", "come again")
        if call.end == "fail":
            raise ValueError("no luck")
        return self._effect(order, context, value)

    def quick(self, context: StepContext, value: Any) -> Any:
        return self._effect(self._begin(context), context, value)

    def _begin(self, context: StepContext) -> int:
        self.on_call(context)
        self._begun += 1
        return self._begun

    def _effect(self, order: int, context: StepContext, value: Any) -> Any:
        key, token = context.idempotency_key, context.fencing_token
        self.effects[order] = Effect(context.job_id, context.step, context.attempt, key, token, value)
        return value

    def calls_of(self, job_id: str) -> list[Call]:
        return [call for call in self.calls if call.context.job_id == job_id]


async def _until_told(call: Call) -> None:
    while True:
        try:
            await call.told.wait()
        except asyncio.CancelledError:
            if not call.is_stubborn or call.end == "dead":
                raise
        else:
            if call.end == "dead":
                raise asyncio.CancelledError
            return


async def _turn(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def _gathered(tasks: set[asyncio.Task[Any]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)
