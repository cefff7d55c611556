"""The pool: warm subprocesses for calls, as many as are needed up to a limit, and one to spare."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import sys
from collections import deque

from openagents_json.components import Reference
from openagents_json.job.engine.processes.ending import closed, no_guard, not_started
from openagents_json.job.engine.processes.process import Process
from openagents_json.job.engine.processes.run import ProcessCall, ProcessRun
from openagents_json.job.engine.processes.warden import Warden

logger = logging.getLogger("openagents_json.worker")

COMPONENTS_KEPT = 64  # that a new process prepares for in advance
CLOSE_S = 2.0
KILL_WAIT_S = 10.0  # a killed process that is not gone then sits in the kernel; closing does not wait for it
LEAST_S = 0.1  # what a killed process gets to be gone, however little time is left for closing


class ProcessPool:
    """Make it inside the event loop, whose thread has to live as long as the processes. `submit` never waits.

    - `limit`: processes at a time, those that are ending included; further calls wait in order.
    - `calls_per_process`: after so many a process is replaced, which bounds what components leak.
    - `idle_s`: idle processes are ended after this time, but for one.
    """

    def __init__(self, *, limit: int, calls_per_process: int = 1_000, idle_s: float = 60.0) -> None:
        self.loop = asyncio.get_running_loop()
        # The name of a variable in the environment of all that is started here: so what gets away is found.
        self.mark = f"OPENAGENTS_PROCESS_{os.urandom(8).hex()}"
        self._numbers = itertools.count(1)  # of the processes: the variable's value
        self.warden = Warden(self.loop, self.mark)
        self._limit = limit
        self._calls_per_process = calls_per_process
        self._idle_s = idle_s
        self._processes: set[Process] = set()  # all that are not gone
        # Of these, those that may get a call: the ones that still start first, the one that was used last at the end.
        self._idle: list[Process] = []
        self._waiting: deque[ProcessRun] = deque()  # calls without a process; empty unless the limit is reached
        self._components: dict[Reference, None] = {}  # what calls used, the latest last
        self._latest: Reference | None = None  # the last of these
        self._idle_timer: asyncio.TimerHandle | None = None
        self._all_gone = asyncio.Event()
        self._all_gone.set()
        self._is_closed = False

    @property
    def pids(self) -> list[int]:
        """Of the processes that are not gone."""
        return [process.pid for process in self._processes]

    @property
    def idle(self) -> int:
        """How many processes wait for a call, those that are still starting included."""
        return len(self._idle)

    @property
    def ready(self) -> int:
        """How many of those have imported everything."""
        return sum(process.is_ready for process in self._idle)

    def warm(self, *components: Reference) -> None:
        """Start the spare process before the first call, ready for these components."""
        for component in components:
            self._remember(component)
        self._keep_spare()

    def submit(self, call: ProcessCall) -> ProcessRun:
        """Have a call made, at once or when a process is free."""
        run = ProcessRun(call, self)
        if self._is_closed:
            run.fail(closed())
        elif _is_importing_main():
            run.fail(no_guard())
        else:
            self._remember(call.component)
            self._waiting.append(run)
            self._hand_out()
        return run

    def forget(self, run: ProcessRun) -> None:
        """The run does not want a process any more."""
        self._waiting.remove(run)

    async def close(self, timeout_s: float = CLOSE_S + KILL_WAIT_S) -> None:
        """End everything: calls fail, idle processes may close their agents, and what is left is killed. It returns
        when all are gone, after `timeout_s` at most: what was killed and sits in the kernel then is logged and left. A
        second call waits for the same."""
        retire_s = min(CLOSE_S, timeout_s / 2)
        until_s = self.loop.time() + timeout_s
        self._is_closed = True
        while self._waiting:
            self._waiting.popleft().fail(closed())
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        for process in list(self._processes):
            if process.run is None:
                process.retire(retire_s)
            else:
                process.run.kill()
        if not await self._wait_gone(max(timeout_s, LEAST_S)):
            logger.error("processes %s do not end although they were killed, and are left", self.pids)
            for process in list(self._processes):
                process.leave()
        await self.warden.close(until_s - self.loop.time())

    # ── what processes tell ───────────────────────────────────────────────────────────────────────────────────────

    def process_free(self, process: Process) -> None:
        """It has answered its call."""
        if self._is_closed or process.calls >= self._calls_per_process:
            process.retire(CLOSE_S)
        if not process.is_ending:
            process.idle_since = self.loop.time()
            self._idle.append(process)
            self._hand_out()
            self._watch_idle()

    def process_ending(self, process: Process) -> None:
        """It must not get another call."""
        if process in self._idle:
            self._idle.remove(process)

    def process_gone(self, process: Process) -> None:
        """Nothing of it is left."""
        self._processes.discard(process)
        if not self._processes:
            self._all_gone.set()
        if self._is_closed:
            return
        self._hand_out()
        if process.calls or process.is_ready:  # else it could not even start, and the next one could not either
            self._keep_spare()

    # ── inside ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _hand_out(self) -> None:
        """Give processes to the calls that wait, in their order."""
        while self._waiting:
            if not self._idle and len(self._processes) >= self._limit:
                return
            run = self._waiting.popleft()
            try:
                run.start(self._idle.pop() if self._idle else self._start())
            except OSError as error:
                run.fail(not_started(error))
            self._keep_spare()

    def _start(self) -> Process:
        process = Process(self, list(self._components), f"{self.mark}={next(self._numbers)}")
        self._processes.add(process)
        self._all_gone.clear()
        return process

    def _keep_spare(self) -> None:
        if self._idle or self._is_closed or len(self._processes) >= self._limit:
            return
        try:
            self._idle.append(self._start())
        except OSError as error:
            logger.warning("no spare process could be started: %s", error)

    def _remember(self, component: Reference) -> None:
        if component == self._latest:
            return
        self._latest = component
        self._components.pop(component, None)
        self._components[component] = None
        if len(self._components) > COMPONENTS_KEPT:
            del self._components[next(iter(self._components))]

    def _watch_idle(self) -> None:
        if self._idle_timer is None and len(self._idle) > 1:
            self._idle_timer = self.loop.call_later(self._idle_s, self._end_idle)

    def _end_idle(self) -> None:
        """End the processes that have been idle for long, but for the one that is used first."""
        self._idle_timer = None
        latest = self.loop.time() - self._idle_s
        for process in self._idle[:-1]:
            if process.idle_since <= latest:
                process.retire()
        self._watch_idle()

    async def _wait_gone(self, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                await self._all_gone.wait()
        except TimeoutError:
            return False
        return True


def _is_importing_main() -> bool:
    child = sys.modules.get("openagents_json.job.engine.processes.child")
    return bool(getattr(child, "is_importing_main", False))
