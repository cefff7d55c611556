"""What a worker measures of itself: how late its event loop is, and how long commits take."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Collection

TICK_S = 1.0  # between two readings of the loop
TICKS_KEPT = 60
COMMITS_KEPT = 1_000


class Meter:
    """One per worker; written in the event loop only. In real time: a clock that tests move says nothing about it."""

    def __init__(self) -> None:
        self.commits_s: deque[float] = deque(maxlen=COMMITS_KEPT)  # how long the last commits took
        self.lags_s: deque[float] = deque(maxlen=TICKS_KEPT)  # how much too late the loop came to its last ticks
        self.ticked_s = 0.0  # when it ticked last, by the monotonic clock; other threads read it
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Tick from now on."""
        loop = asyncio.get_running_loop()
        self.ticked_s = time.monotonic()
        due_s = loop.time() + TICK_S
        self._timer = loop.call_at(due_s, self._tick, loop, due_s)

    def stop(self) -> None:
        """No more ticks."""
        if self._timer is not None:
            self._timer.cancel()

    def _tick(self, loop: asyncio.AbstractEventLoop, due_s: float) -> None:
        self.lags_s.append(loop.time() - due_s)
        self.start()


def percentile(values: Collection[float], percent: float) -> float | None:
    """The value that so many percent of the values do not exceed; None of no values."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * percent / 100), len(ordered) - 1)]
