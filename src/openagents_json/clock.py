"""Time as a parameter: whoever needs the time is given a `Clock`, so tests can move it.

All times inside are UTC microseconds since 1970 as integers (`…_us`); the public API shows aware `datetime`s.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SECOND_US = 1_000_000


class Timer(Protocol):
    """A call that is due later."""

    def cancel(self) -> None:
        """Do not make the call; harmless afterwards."""


class Clock(Protocol):
    """Tells the time and lets it pass. `SystemClock` in production, `openagents_json.testing.FakeClock` in tests."""

    passes_by_itself: bool  # also in other threads; False where tests move it

    def now_us(self) -> int:
        """UTC microseconds since 1970: the time of day. Somebody may set it, forth or back."""

    def steady_us(self) -> int:
        """Microseconds since some moment, the same for all processes of this machine until it is started again. Nobody
        sets this one: leases are measured with it."""

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`; at once if that is not positive."""

    def call_later(self, seconds: float, call: Callable[[], object]) -> Timer:
        """Call `call` in the event loop after `seconds`."""


class SystemClock:
    """The machine's clock."""

    passes_by_itself = True

    def now_us(self) -> int:
        return time.time_ns() // 1000

    def steady_us(self) -> int:
        return time.monotonic_ns() // 1000

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(seconds, 0.0))

    def call_later(self, seconds: float, call: Callable[[], object]) -> Timer:
        return asyncio.get_running_loop().call_later(max(seconds, 0.0), call)


def as_datetime(at_us: int) -> datetime:
    """An aware UTC datetime of microseconds since 1970, exact to the microsecond."""
    return EPOCH + timedelta(microseconds=at_us)


def as_microseconds(at: datetime) -> int:
    """Microseconds since 1970 of an aware datetime. `ValueError` for a naive one: its instant is unknown."""
    if at.tzinfo is None:
        raise ValueError(f"{at.isoformat()} has no time zone; pass an aware datetime, for example datetime.now(UTC)")
    return (at - EPOCH) // timedelta(microseconds=1)
