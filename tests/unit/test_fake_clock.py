"""The clock for tests stands still until it is moved, and wakes whoever is due."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from openagents_json.clock import SECOND_US, Clock
from openagents_json.testing import START, FakeClock


async def turns(count: int = 5) -> None:
    """Let the loop go round, so that whoever was woken goes on."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_time_passes_by_advance_alone() -> None:
    clock: Clock = FakeClock()
    assert clock.now_us() == clock.now_us()
    fake = FakeClock(datetime(2030, 5, 1, tzinfo=UTC))
    fake.advance(1.5)
    assert fake.now() == datetime(2030, 5, 1, 0, 0, 1, 500_000, tzinfo=UTC)
    with pytest.raises(ValueError, match="backwards"):
        fake.advance(-1)
    with pytest.raises(ValueError, match="time zone"):
        FakeClock(datetime(2030, 5, 1))  # noqa: DTZ001


async def test_sleepers_wake_in_the_order_of_their_times() -> None:
    clock, woken = FakeClock(), []

    async def sleep(seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append((seconds, clock.now() - START))

    tasks = [asyncio.create_task(sleep(seconds)) for seconds in (30, 10, 20, 10.000_001)]
    await clock.wait_sleepers(4)
    clock.advance(10)
    await turns()
    assert woken == [(10, timedelta(seconds=10))]
    assert clock.sleepers == 3
    clock.advance(20)
    await asyncio.gather(*tasks)
    assert [seconds for seconds, _ in woken] == [10, 10.000_001, 20, 30]
    assert clock.sleepers == 0


async def test_sleep_of_no_time_returns_without_advance() -> None:
    clock = FakeClock()
    await asyncio.gather(clock.sleep(0), clock.sleep(-1))
    assert clock.now() == START


async def test_cancelled_sleeper_leaves_nothing() -> None:
    clock = FakeClock()
    task = asyncio.create_task(clock.sleep(10))
    await clock.wait_sleepers(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert clock.sleepers == 0
    clock.advance(10)


async def test_calls_are_made_when_due_unless_cancelled() -> None:
    clock, called = FakeClock(), list[str]()
    clock.call_later(5, lambda: called.append("first"))
    clock.call_later(5, lambda: called.append("second"))
    timer = clock.call_later(5, lambda: called.append("cancelled"))
    timer.cancel()
    timer.cancel()
    clock.call_later(0, lambda: called.append("at once"))
    clock.call_later(0, lambda: called.append("never")).cancel()
    await turns()
    assert called == ["at once"]
    clock.advance(5)
    assert called == ["at once"]  # in the next turn of the loop, as with a real clock
    await turns()
    assert called == ["at once", "first", "second"]
    timer.cancel()


async def test_call_that_is_due_can_still_be_cancelled() -> None:
    clock, called = FakeClock(), []
    timer = clock.call_later(5, lambda: called.append("too late"))
    clock.advance(5)
    timer.cancel()
    await turns()
    assert called == []


async def test_waiting_for_sleepers_ends_with_the_last_one() -> None:
    clock = FakeClock()
    waiting = asyncio.create_task(clock.wait_sleepers(2))
    sleeping = [asyncio.create_task(clock.sleep(1))]
    await turns()
    assert not waiting.done()
    sleeping.append(asyncio.create_task(clock.sleep(2)))
    await waiting
    clock.advance(2)
    await asyncio.gather(*sleeping)


async def test_waiting_for_nobody_says_how_many_came() -> None:
    clock = FakeClock()
    clock.call_later(1, print)
    with pytest.raises(TimeoutError, match="1 of 2 sleepers"):
        await clock.wait_sleepers(2, timeout_s=0.01)
    assert clock.now_us() == int(START.timestamp()) * SECOND_US
