"""Ids that are ordered and unique, and the machine's clock."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openagents_json import ids
from openagents_json.clock import SystemClock, as_datetime, as_microseconds

NOW_US = 1_767_225_600_000_000


@pytest.fixture(autouse=True)
def _from_the_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids, "_last_ms", 0)
    monkeypatch.setattr(ids, "_counter", 0)


def test_id_is_a_uuid_of_version_7_that_holds_the_time() -> None:
    made = uuid.UUID(ids.uuid7(NOW_US))
    assert made.version == 7
    assert made.variant == uuid.RFC_4122
    assert made.int >> 80 == NOW_US // 1000


def test_ids_of_one_moment_are_ordered_and_unique_even_past_4096() -> None:
    made = [ids.uuid7(NOW_US) for _ in range(10_000)]
    assert made == sorted(set(made))
    assert uuid.UUID(made[4_095]).int >> 80 == NOW_US // 1000
    assert uuid.UUID(made[4_096]).int >> 80 == NOW_US // 1000 + 1


def test_ids_stay_ordered_when_the_clock_is_set_back() -> None:
    later = ids.uuid7(NOW_US)
    assert ids.uuid7(NOW_US - 3_600_000_000) > later
    assert ids.uuid7(NOW_US + 1_000) > later


def test_ids_of_several_threads_are_unique() -> None:
    made: list[list[str]] = [[] for _ in range(4)]
    threads = [
        threading.Thread(target=lambda own=own: own.extend(ids.uuid7(NOW_US) for _ in range(2_000))) for own in made
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(own == sorted(own) for own in made)
    assert len(set().union(*made)) == 8_000


def test_short_id_is_the_random_end() -> None:
    job_id = ids.uuid7(NOW_US)
    assert ids.short_id(job_id) == job_id[-8:]


def test_times_survive_to_the_microsecond() -> None:
    at = datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=UTC)
    assert as_microseconds(at) == NOW_US + 1
    assert as_datetime(NOW_US + 1) == at
    assert as_microseconds(at.astimezone(timezone(timedelta(hours=9)))) == NOW_US + 1


@given(st.integers(-(10**15), 2 * 10**17))
def test_microseconds_and_datetimes_are_the_same_thing(at_us: int) -> None:
    assert as_microseconds(as_datetime(at_us)) == at_us


def test_naive_time_is_refused() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        as_microseconds(datetime(2026, 1, 1))  # noqa: DTZ001


async def test_system_clock_tells_the_time_and_lets_it_pass() -> None:
    clock = SystemClock()
    assert abs(clock.now_us() - time.time_ns() // 1000) < 10_000_000
    await clock.sleep(-1)
    called = asyncio.Event()
    clock.call_later(-1, called.set)
    await asyncio.wait_for(called.wait(), 5)
    timer = clock.call_later(3_600, called.clear)
    timer.cancel()
    timer.cancel()
    assert called.is_set()
