"""An event loop in virtual time, shared by simulated processes.

When nothing is ready it jumps to the next timer. What is ready at one time runs in an order that the seed decides. Each
callback belongs to the process in whose context it was made: those of a dead process never run, and those of a stopped
one wait.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import math
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any, TypeVar

from openagents_json.clock import SECOND_US, Timer, as_microseconds
from openagents_json.testing import START

CALLBACKS = 2_000_000  # of one seed; more means that it turns without end
T = TypeVar("T")

PLACE: contextvars.ContextVar[Place | None] = contextvars.ContextVar("place", default=None)
IN_HEART: contextvars.ContextVar[bool] = contextvars.ContextVar("in_heart", default=False)


@dataclass(eq=False)
class Place:
    """Where callbacks run: a process with an event loop of its own, and a heart thread beside it."""

    name: str
    is_dead: bool = False
    is_stopped: bool = False  # SIGSTOP: nothing of it runs
    is_blocked: bool = False  # its event loop stands; its heart goes on
    context: contextvars.Context = field(default_factory=contextvars.copy_context)
    inbox: deque[Callable[[], object]] = field(default_factory=deque)  # what other threads want done
    kept: list[asyncio.Handle] = field(default_factory=list)  # that wait, or (of a dead one) never run

    def __post_init__(self) -> None:
        self.context.run(PLACE.set, self)

    @property
    def is_up(self) -> bool:
        """Whether it runs as it should."""
        return not (self.is_dead or self.is_stopped or self.is_blocked)

    def take_next(self) -> None:
        """Do the first of what other threads want done."""
        self.inbox.popleft()()

    def admits(self, handle: asyncio.Handle) -> bool:
        """Whether a callback may run now; else it is kept."""
        in_heart = handle._context.get(IN_HEART)  # type: ignore[attr-defined]
        runs = not (self.is_dead or self.is_stopped or (self.is_blocked and not in_heart))
        if not runs:
            self.kept.append(handle)
        return runs


class Loop(asyncio.BaseEventLoop):
    """All simulated processes of one seed."""

    def __init__(self, random: Random) -> None:
        super().__init__()
        self.passed_us = 0
        self._random = random
        self._callbacks = 0
        self._ready: Any  # asyncio's own: a deque of handles, and a heap of timers
        self._scheduled: Any

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self.passed_us / SECOND_US

    def run_in(self, place: Place, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task of a process."""
        return self.create_task(work, context=place.context)

    def go_on(self, place: Place) -> None:
        """A stopped or blocked process does what has come up meanwhile."""
        place.is_stopped = place.is_blocked = False
        self._ready.extend(place.kept)
        place.kept.clear()

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """From the heart of a process into its event loop; there are no real threads. These stay in order."""
        place = PLACE.get()
        if place is None:
            return self.call_soon(callback, *args, context=context)
        place.inbox.append(partial(callback, *args))
        return self.call_soon(place.take_next, context=context or place.context)

    def _run_once(self) -> None:
        """One turn, instead of asyncio's, which waits for files."""
        self._let_time_pass()
        batch = list(self._ready)
        self._ready.clear()
        if len(batch) > 1:
            self._random.shuffle(batch)
        for handle in batch:
            if handle._cancelled:
                continue
            place = handle._context.get(PLACE)
            if place is None or place.admits(handle):
                handle._run()
        self._callbacks += len(batch)
        if self._callbacks > CALLBACKS:
            raise AssertionError(f"it does not come to rest: {CALLBACKS} callbacks within {self.time():.3f} s")

    def _let_time_pass(self) -> None:
        """If nothing is ready, jump to the next timer; then whatever is due is ready."""
        scheduled = self._scheduled
        while scheduled and scheduled[0]._cancelled:
            heapq.heappop(scheduled)._scheduled = False
        if not self._ready and not self._stopping:  # type: ignore[attr-defined]
            if not scheduled:
                raise AssertionError("nothing will ever happen again")
            self.passed_us = max(self.passed_us, math.floor(scheduled[0]._when * SECOND_US))
            while self.time() < scheduled[0]._when:  # never early, not even by a rounding
                self.passed_us += 1
        now_s = self.time()
        while scheduled and scheduled[0]._when <= now_s:
            handle = heapq.heappop(scheduled)
            handle._scheduled = False
            self._ready.append(handle)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It is passed over when it is due."""


class LoopClock:
    """The virtual time, for the engine: it passes by itself, as the system's does."""

    passes_by_itself = True

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._start_us = as_microseconds(START)

    def now_us(self) -> int:
        return self._start_us + self._loop.passed_us

    def steady_us(self) -> int:
        return self._loop.passed_us

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(seconds, 0.0))

    def call_later(self, seconds: float, call: Callable[[], object]) -> Timer:
        return self._loop.call_later(max(seconds, 0.0), call)
