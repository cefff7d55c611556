"""The heart beats in a thread of its own, whatever the event loop does. Real time, in short leases."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from openagents_json import JobManager
from openagents_json.errors import StoreError, StoreUnavailable
from openagents_json.job.engine import heart as heart_module
from openagents_json.job.engine import meter as meter_module
from openagents_json.job.engine.heart import Heart
from openagents_json.job.engine.meter import Meter
from openagents_json.job.store import MemoryJobStore, SqliteJobStore
from tests.engine.support import SAFETY_S

LEASE_S = 0.3


class Pulse:
    """Answers heartbeats as it is told to; `beats` counts them."""

    def __init__(self, answer: Callable[[], bool]) -> None:
        self.answer = answer
        self.beats = 0
        self.is_closed = threading.Event()
        self._beaten = threading.Condition()

    def beat(self) -> bool:
        with self._beaten:
            self.beats += 1
            self._beaten.notify_all()
        return self.answer()

    def wait_beats(self, more: int) -> None:
        """Block this thread, which may be the event loop's, until so many more have come."""
        with self._beaten:
            wanted = self.beats + more
            assert self._beaten.wait_for(lambda: self.beats >= wanted, SAFETY_S)

    def close(self) -> None:
        self.is_closed.set()


def unavailable() -> bool:
    raise StoreUnavailable("the disk is away")


class Told:
    """What the heart has told the worker."""

    def __init__(self) -> None:
        self.dead = asyncio.Event()
        self.ending = asyncio.Event()
        self.error: StoreError | None = None

    def lease_is_ending(self, error: StoreError) -> None:
        self.error = error
        self.ending.set()


def begin(pulse: Pulse, told: Told) -> Heart:
    return Heart(pulse, LEASE_S, Meter(), told.dead.set, told.lease_is_ending)


@pytest.mark.guarantee("G5")
async def test_heart_beats_while_the_event_loop_is_blocked() -> None:
    pulse, told = Pulse(lambda: True), Told()
    heart = begin(pulse, told)
    pulse.wait_beats(3)  # blocks the loop meanwhile
    heart.stop()
    assert await asyncio.to_thread(pulse.is_closed.wait, SAFETY_S)
    assert not told.dead.is_set() and not told.ending.is_set()


@pytest.mark.guarantee("G5")
async def test_worker_that_was_taken_for_dead_is_told() -> None:
    pulse, told = Pulse(lambda: False), Told()
    heart = begin(pulse, told)
    async with asyncio.timeout(SAFETY_S):
        await told.dead.wait()
    heart.stop()


async def test_worker_that_signs_off_during_a_heartbeat_is_not_taken_for_dead() -> None:
    entered, may_answer = threading.Event(), threading.Event()

    def gone() -> bool:
        entered.set()
        assert may_answer.wait(SAFETY_S)
        return False

    pulse, told = Pulse(gone), Told()
    heart = begin(pulse, told)
    assert await asyncio.to_thread(entered.wait, SAFETY_S)
    heart.stop()
    may_answer.set()
    assert await asyncio.to_thread(pulse.is_closed.wait, SAFETY_S)  # the thread has ended
    await asyncio.sleep(0)
    assert not told.dead.is_set()


@pytest.mark.guarantee("G5")
async def test_worker_that_cannot_renew_is_told_before_its_lease_ends() -> None:
    began_s = time.monotonic()
    pulse, told = Pulse(unavailable), Told()
    heart = begin(pulse, told)
    async with asyncio.timeout(SAFETY_S):
        await told.ending.wait()
    assert time.monotonic() - began_s >= LEASE_S * heart_module.STOP_BEFORE
    assert str(told.error) == "the disk is away"
    told.ending.clear()
    pulse.wait_beats(3)
    await asyncio.sleep(0)
    assert not told.ending.is_set(), "it is told once"
    pulse.answer = lambda: True
    await asyncio.to_thread(pulse.wait_beats, 2)
    pulse.answer = unavailable
    async with asyncio.timeout(SAFETY_S):
        await told.ending.wait()  # it was well in between, so it is told again
    heart.stop()


@pytest.mark.guarantee("G5")
async def test_blocked_event_loop_is_logged_with_the_step_and_its_stack(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(meter_module, "TICK_S", 0.02)
    for name, seconds in {"TICK_S": 0.02, "BLOCKED_S": 0.1, "LOOK_S": 0.02}.items():
        monkeypatch.setattr(heart_module, name, seconds)
    logged = threading.Event()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "blocked" in record.getMessage():
                messages.append(record.getMessage())
                logged.set()

    messages: list[str] = []
    handler = Handler()
    logging.getLogger("openagents_json.job").addHandler(handler)
    jobs = JobManager(store_type=MemoryJobStore(lease_s=LEASE_S))

    @jobs.components.tool("hold_up", isolation="inline")
    def hold_up() -> None:
        assert logged.wait(SAFETY_S)

    jobs.workflows.register({"id": "w", "steps": [{"id": "slow", "component": "hold_up"}]})
    try:
        async with jobs:
            job_id = await jobs.create_job("w", start=True)
            job = await jobs.wait(job_id, timeout_s=SAFETY_S)
    finally:
        logging.getLogger("openagents_json.job").removeHandler(handler)
    assert job.status == "COMPLETED"
    assert len(messages) == 1
    assert job_id in messages[0] and "slow" in messages[0] and "in hold_up" in messages[0]


@pytest.mark.guarantee("G5")
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_blocked_worker_keeps_its_jobs(kind: str, tmp_path: Any) -> None:
    """An inline step holds the loop up for longer than a lease; after that the worker is still alive."""
    store = MemoryJobStore(lease_s=LEASE_S) if kind == "memory" else SqliteJobStore(tmp_path / "j.db", lease_s=LEASE_S)
    jobs = JobManager(store_type=store)
    alive: list[bool] = []

    @jobs.components.tool("hold_up", isolation="inline")
    def hold_up() -> None:
        time.sleep(3 * LEASE_S)  # the time is what is tested
        pulse = store.pulse(jobs.worker_id)
        alive.append(pulse.beat())
        pulse.close()

    jobs.workflows.register({"id": "w", "steps": [{"id": "slow", "component": "hold_up"}]})
    async with jobs:
        job = await jobs.wait(await jobs.create_job("w", start=True), timeout_s=SAFETY_S)
    assert job.status == "COMPLETED" and job.steps["slow"]["attempt"] == 1
    assert alive == [True]
