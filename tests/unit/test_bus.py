"""The bus: listeners that are slow are dropped, those that fail are counted, and readers are woken."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from openagents_json.job import bus as bus_module
from openagents_json.job.bus import Bus
from openagents_json.job.events import Event
from tests.unit.machine.drive import Drive, call


def news(number: int = 1, type: str = "job.completed") -> Event:
    return Event(number, type, 0, {})


@pytest.fixture
async def bus() -> AsyncIterator[Bus]:
    bus = Bus()
    yield bus
    await bus.close()


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("*", {"job.completed", "job.queued", "step.completed", "jobs"}),
        ("job", {"job.completed", "job.queued"}),
        ("job.*", {"job.completed", "job.queued"}),
        ("job.completed", {"job.completed"}),
        ("jo", set()),
    ],
)
async def test_pattern_takes_a_type_or_all_below_it(bus: Bus, pattern: str, wanted: set[str]) -> None:
    heard: list[str] = []
    subscription = bus.subscribe(pattern, lambda job_id, event: heard.append(event.type))
    for type in ("job.completed", "job.queued", "step.completed", "jobs"):
        bus.tell("j", news(type=type))
    await subscription.drain()
    assert set(heard) == wanted


async def test_listener_hears_events_in_order_also_as_a_coroutine(bus: Bus) -> None:
    heard: list[int] = []

    async def listen(job_id: str, event: Event) -> None:
        await asyncio.sleep(0)
        heard.append(event.number)

    subscription = bus.subscribe("*", listen)
    for number in range(100):
        bus.tell("j", news(number))
    await subscription.drain()
    assert heard == list(range(100))


async def test_listener_that_fails_is_counted_logged_and_called_again(
    bus: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[int] = []

    def listen(job_id: str, event: Event) -> None:
        heard.append(event.number)
        if event.number == 1:
            raise ValueError("no luck")

    subscription = bus.subscribe("*", listen)
    with caplog.at_level(logging.ERROR):
        for number in (1, 2):
            bus.tell("j-7", news(number))
        await subscription.drain()
    assert (heard, subscription.failures, subscription.is_dropped) == ([1, 2], 1, False)
    assert "failed on event 1 of job j-7" in caplog.text


async def test_slow_listener_is_dropped_and_holds_up_nobody(
    bus: Bus, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bus_module, "LISTENER_QUEUE", 3)
    entered, gate = asyncio.Event(), asyncio.Event()
    heard: list[int] = []

    async def slow(job_id: str, event: Event) -> None:
        entered.set()
        await gate.wait()

    dropped = bus.subscribe("*", slow)
    quick = bus.subscribe("*", lambda job_id, event: heard.append(event.number))
    bus.tell("j", news(0))
    await entered.wait()
    with caplog.at_level(logging.ERROR):
        for number in range(1, 5):
            bus.tell("j", news(number))
            await quick.drain()
    assert dropped.is_dropped
    assert not quick.is_dropped
    assert heard == [0, 1, 2, 3, 4]
    assert "was dropped" in caplog.text
    await asyncio.wait([dropped.task])
    assert dropped.task.cancelled()


async def test_cancelled_subscription_hears_nothing_more(bus: Bus) -> None:
    heard: list[int] = []
    subscription = bus.subscribe("*", lambda job_id, event: heard.append(event.number))
    before = bus.has_listeners
    subscription.cancel()
    subscription.cancel()
    assert (before, bus.has_listeners) == (True, False)
    bus.tell("j", news())
    await asyncio.wait([subscription.task])
    assert heard == []


async def test_readers_are_woken_by_every_change_and_waiters_by_the_end(bus: Bus) -> None:
    drive = Drive([call("a")])
    with bus.reading("job-1") as reader, bus.reading("job-1", final_only=True) as waiter:
        bus.publish(drive.state, drive.history)
        assert (reader.is_set(), waiter.is_set(), bus.is_alive("job-1")) == (True, False, True)
        reader.clear()
        decision = drive.succeed("a")
        bus.publish(drive.state, decision.events)
        assert (reader.is_set(), waiter.is_set(), bus.is_alive("job-1")) == (True, True, False)
    assert bus.recent_final("job-1") is drive.state
    bus.gone("job-1")
    assert bus.recent_final("job-1") is None


async def test_readers_of_other_jobs_sleep_on(bus: Bus) -> None:
    with bus.reading("other") as reader, bus.reading("other") as second:
        bus.publish(Drive([call("a")]).state, [])
        assert not reader.is_set()
        bus.wake_readers()
        assert reader.is_set()
        assert second.is_set()


async def test_deleted_job_wakes_who_waits_for_it(bus: Bus) -> None:
    with bus.reading("job-1", final_only=True) as waiter:
        bus.gone("job-1")
        assert waiter.is_set()


async def test_only_the_jobs_that_ended_last_are_kept(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bus_module, "RECENT_FINALS", 2)
    for number in range(3):
        drive = Drive([{"id": "a", "set": 1}])
        drive.state.job_id = f"job-{number}"
        bus.publish(drive.state, [])
    assert [bus.recent_final(f"job-{number}") is None for number in range(3)] == [True, False, False]


async def test_no_more_than_so_many_live_jobs_are_remembered(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bus_module, "KNOWN_ALIVE", 1)
    for number in range(2):
        drive = Drive([call("a")])
        drive.state.job_id = f"job-{number}"
        bus.publish(drive.state, [])
    assert [bus.is_alive(f"job-{number}") for number in range(2)] == [True, False]


async def test_closing_lets_listeners_hear_what_was_published() -> None:
    bus = Bus()
    heard: list[int] = []
    subscription = bus.subscribe("*", lambda job_id, event: heard.append(event.number))
    for number in range(5):
        bus.tell("j", news(number))
    await bus.close()
    assert heard == [0, 1, 2, 3, 4]
    assert subscription.task.done()
    await bus.close()


async def test_closing_does_not_wait_for_a_listener_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bus_module, "CLOSE_S", 0.05)
    bus = Bus()

    async def hang(job_id: str, event: Event) -> None:
        await asyncio.Event().wait()

    subscription = bus.subscribe("*", hang)
    bus.tell("j", news())
    await asyncio.wait_for(bus.close(), 5)
    assert subscription.task.cancelled()
