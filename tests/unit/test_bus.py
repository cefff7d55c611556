"""The bus: listeners that are slow miss some, those that fail are counted, and readers are woken."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

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
    assert (heard, subscription.failures, subscription.dropped) == ([1, 2], 1, 0)
    assert bus.counts() == {"count": 1, "failures": 1, "dropped": 0}
    assert "failed on event 1 of job j-7" in caplog.text


async def test_slow_listener_misses_what_does_not_fit_and_is_told_so_in_its_place(
    bus: Bus, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bus_module, "LISTENER_QUEUE", 3)
    entered, gate = asyncio.Event(), asyncio.Event()
    heard: list[Any] = []
    quickly: list[int] = []

    async def slow(job_id: str, event: Event) -> None:
        heard.append(event.data if event.type == "listener.dropped" else event.number)
        entered.set()
        await gate.wait()

    behind = bus.subscribe("job.completed", slow)
    quick = bus.subscribe("*", lambda job_id, event: quickly.append(event.number))
    bus.tell("j", news(0))
    await entered.wait()
    with caplog.at_level(logging.ERROR):
        for number in range(1, 7):
            bus.tell(f"j{number}", news(number))
            await quick.drain()
    assert "is 3 events behind" in caplog.text and len(caplog.records) == 1
    assert (behind.dropped, quick.dropped, bus.counts()["dropped"]) == (3, 0, 3)
    gate.set()
    await behind.drain()
    bus.tell("j", news(7))
    await behind.drain()
    assert heard == [0, 1, 2, 3, {"dropped": 3, "jobs": ["j4", "j5", "j6"]}, 7]
    assert quickly == [0, 1, 2, 3, 4, 5, 6, 7]


async def test_listener_cannot_change_what_others_and_the_store_have(bus: Bus) -> None:
    event = Event(1, "job.failed", 0, {"error": {"type": "x"}, "list": [{}]})
    heard: list[Event] = []

    def spoil(job_id: str, given: Event) -> None:
        given.data["error"].clear()
        given.data["list"][0]["a"] = 1

    one = bus.subscribe("*", spoil)
    other = bus.subscribe("*", lambda job_id, given: heard.append(given))
    bus.tell("j", event)
    await one.drain()
    await other.drain()
    assert heard == [event] and event.data == {"error": {"type": "x"}, "list": [{}]}


@pytest.mark.parametrize("error", [SystemExit(1), asyncio.CancelledError()])
async def test_listener_that_wants_to_end_everything_ends_nothing(bus: Bus, error: BaseException) -> None:
    def listen(job_id: str, event: Event) -> None:
        raise error

    subscription = bus.subscribe("*", listen)
    for number in (1, 2):
        bus.tell("j", news(number))
    await subscription.drain()
    assert (subscription.failures, subscription.task.done()) == (2, False)


async def test_listener_with_a_long_queue_lets_others_in_between(bus: Bus) -> None:
    turns: list[str] = []
    subscription = bus.subscribe("*", lambda job_id, event: turns.append("call"))
    for number in range(bus_module.CALLED_AT_ONCE * 2):
        bus.tell("j", news(number))

    async def other() -> None:
        turns.append("other")

    await asyncio.gather(subscription.drain(), other())
    assert turns.index("other") <= bus_module.CALLED_AT_ONCE


# ── live readers ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_live_reader_gets_news_of_its_job_with_their_place_in_the_history(bus: Bus) -> None:
    drive = Drive([call("a")])
    changed = asyncio.Event()
    with bus.living("job-1", changed) as reader:
        assert (bus.has_hearers("job-1"), bus.has_hearers("job-2")) == (True, False)
        bus.publish(drive.state, [])
        bus.tell("job-1", Event.unrecorded("step.emitted", 0, {"data": 1}))
        bus.tell("job-2", Event.unrecorded("step.emitted", 0, {"data": 2}))
        assert changed.is_set()
        assert [(place, event.data) for place, event in reader.take()] == [(drive.state.number, {"data": 1})]
        assert reader.take() == []
    assert not bus.has_hearers("job-1")


async def test_live_reader_that_is_slow_misses_some_and_is_told_how_many(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus_module, "LIVE_QUEUE", 2)
    with bus.living("j", asyncio.Event()) as reader:
        for number in range(5):
            bus.tell("j", Event.unrecorded("step.emitted", 0, {"data": number}))
        assert [event.data for _, event in reader.take()] == [{"data": 0}, {"data": 1}, {"dropped": 3, "jobs": ["j"]}]
    assert bus.counts()["dropped"] == 3


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
