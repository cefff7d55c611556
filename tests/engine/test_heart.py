"""The heart beats in a thread of its own, whatever the event loop does. Real time, in short leases."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from openagents_json import JobManager, StepContext
from openagents_json.errors import StoreError, StoreUnavailable
from openagents_json.job.engine import heart as heart_module
from openagents_json.job.engine import meter as meter_module
from openagents_json.job.engine.heart import Heart
from openagents_json.job.engine.meter import Meter
from openagents_json.job.store import Claim, MemoryJobStore, SqliteJobStore
from tests.engine.support import SAFETY_S, final, seen

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
        self.sure = asyncio.Event()
        self.error: StoreError | None = None

    def lease_is_ending(self, error: StoreError) -> None:
        self.error = error
        self.ending.set()


def begin(pulse: Pulse, told: Told, registered_s: float = 0.0) -> Heart:
    """`registered_s` seconds after the worker began to register."""
    since_s = time.monotonic() - registered_s
    return Heart(pulse, LEASE_S, Meter(), told.dead.set, told.lease_is_ending, told.sure.set, since_s)


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
    assert not told.sure.is_set() and not heart.is_lease_sure
    pulse.answer = lambda: True
    async with asyncio.timeout(SAFETY_S):
        await told.sure.wait()
    pulse.answer = unavailable
    async with asyncio.timeout(SAFETY_S):
        await told.ending.wait()  # it was well in between, so it is told again
    heart.stop()


@pytest.mark.guarantee("G5")
async def test_lease_of_a_registration_that_took_long_is_not_sure_until_the_first_beat() -> None:
    may_answer = threading.Event()
    pulse, told = Pulse(lambda: may_answer.wait(SAFETY_S)), Told()
    heart = begin(pulse, told, registered_s=LEASE_S)
    assert not heart.is_lease_sure
    may_answer.set()
    async with asyncio.timeout(SAFETY_S):
        await told.sure.wait()
    heart.stop()


@pytest.mark.guarantee("G5")
async def test_worker_that_may_lose_its_leases_begins_no_step_until_they_are_renewed() -> None:
    """It could reach the store and start a step, while another worker takes the job over and starts the same step."""
    store = MemoryJobStore(lease_s=LEASE_S)
    jobs: list[str] = []
    reaches = threading.Event()
    pulse = Pulse(lambda: reaches.is_set() or unavailable())
    store.pulse = lambda worker: pulse  # type: ignore[method-assign]
    called: list[int] = []
    async with JobManager(store_type=store) as manager:

        @manager.components.tool("gate")
        async def gate(context: StepContext) -> None:
            called.append(context.attempt)
            await asyncio.Event().wait() if context.attempt == 1 else None

        manager.workflows.register({"id": "w", "steps": [{"id": "s", "component": "gate"}]})
        jobs.append(await manager.create_job("w", start=True))
        await seen(manager, jobs[0], "attempt.lost")  # the heart has had it stopped
        jobs.append(await manager.create_job("w", start=True))
        await asyncio.to_thread(pulse.wait_beats, 3)
        assert called == [1]
        reaches.set()
        assert await final(manager, jobs[0]) == "COMPLETED"
        await seen(manager, jobs[1], "attempt.started")
    assert called == [1, 2, 1]


async def test_open_that_fails_leaves_no_heart_behind_and_may_be_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A heart that nobody stops would keep the leases of a worker that has long ended."""
    store = MemoryJobStore(lease_s=LEASE_S)
    jobs, hold_orphans = JobManager(store_type=store), store.hold_orphans

    async def damaged(worker: str, limit: int) -> list[Claim]:
        monkeypatch.setattr(store, "hold_orphans", hold_orphans)
        raise StoreError("damaged")

    monkeypatch.setattr(store, "hold_orphans", damaged)
    before = hearts()
    with pytest.raises(StoreError, match="damaged"):
        await jobs.open()
    assert [heart for heart in hearts() - before if not _ends(heart)] == []
    async with jobs:
        assert len(hearts() - before) == 1


def hearts() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "openagents-heartbeat"}


def _ends(thread: threading.Thread) -> bool:
    thread.join(SAFETY_S)
    return not thread.is_alive()


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
