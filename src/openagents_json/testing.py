"""Helpers for tests of programs that use this package: a clock that stands still until the test moves it.

clock = FakeClock()
async with JobManager(store_type="memory", clock=clock) as jobs:
    job_id = await jobs.create_job("report", start_at=clock.now() + timedelta(days=1))
    await clock.wait_sleepers(1)    # whoever waits for tomorrow does so now
    clock.advance(86_400)           # it is tomorrow
"""

from __future__ import annotations

import asyncio
import bisect
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from openagents_json.clock import SECOND_US, Timer, as_datetime, as_microseconds

START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(order=True, slots=True)
class _FakeTimer:
    """One pending call. Sorted by time, then by the order in which they were asked for."""

    due_us: int
    order: int
    clock: FakeClock = field(compare=False)
    loop: asyncio.AbstractEventLoop = field(compare=False)
    call: Callable[[], object] = field(compare=False)
    is_cancelled: bool = field(default=False, compare=False)

    def cancel(self) -> None:
        self.is_cancelled = True
        self.clock._forget(self)

    def fire(self) -> None:
        if not self.is_cancelled:  # it may be cancelled between `advance` and this turn of the loop
            self.call()


class FakeClock:
    """A `Clock` for tests: time passes only by `advance`. Use it in one event loop; `now_us` may be asked anywhere."""

    passes_by_itself = False

    def __init__(self, now: datetime = START) -> None:
        self._steady_us = self._now_us = as_microseconds(now)
        self._timers: list[_FakeTimer] = []  # sorted
        self._orders = itertools.count()
        self._changed = asyncio.Event()  # set whenever a timer was added

    def now_us(self) -> int:
        """UTC microseconds since 1970."""
        return self._now_us

    def steady_us(self) -> int:
        """Microseconds that only `advance` moves."""
        return self._steady_us

    def now(self) -> datetime:
        """The same as an aware datetime."""
        return as_datetime(self._now_us)

    async def sleep(self, seconds: float) -> None:
        """Return once the clock was moved on by `seconds`; after one turn of the loop if that is not positive."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken = asyncio.Event()
        timer = self.call_later(seconds, woken.set)
        try:
            await woken.wait()
        finally:
            timer.cancel()

    def call_later(self, seconds: float, call: Callable[[], object]) -> Timer:
        """Call `call` in the event loop once the clock was moved on by `seconds`; soon if that is not positive."""
        loop = asyncio.get_running_loop()
        if seconds <= 0:
            return loop.call_soon(call)
        due_us = self._steady_us + round(seconds * SECOND_US)
        timer = _FakeTimer(due_us, next(self._orders), self, loop, call)
        bisect.insort(self._timers, timer)
        self._changed.set()
        return timer

    def advance(self, seconds: float) -> None:
        """Move the time on. Whatever is due by then goes on in the next turn of the loop, earliest first."""
        if seconds < 0:
            raise ValueError(f"Time does not run backwards; advance by 0 or more seconds, not {seconds}.")
        self._steady_us += round(seconds * SECOND_US)
        self._now_us += round(seconds * SECOND_US)
        while self._timers and self._timers[0].due_us <= self._steady_us:
            timer = self._timers.pop(0)
            timer.loop.call_soon(timer.fire)

    def jump(self, seconds: float) -> None:
        """Somebody sets the time of day, forth or back. No time passes: who sleeps goes on sleeping."""
        self._now_us += round(seconds * SECOND_US)

    @property
    def sleepers(self) -> int:
        """How many sleeps and later calls are pending."""
        return len(self._timers)

    async def wait_sleepers(self, count: int, *, timeout_s: float = 5.0) -> None:
        """Return when at least `count` sleeps and later calls are pending. `TimeoutError` after so many real seconds:
        then what the test waits for does not sleep at all."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.sleepers < count:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise TimeoutError(f"{self.sleepers} of {count} sleepers came within {timeout_s} seconds.") from None

    def _forget(self, timer: _FakeTimer) -> None:
        if timer in self._timers:
            self._timers.remove(timer)
