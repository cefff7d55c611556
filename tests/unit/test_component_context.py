"""What a component is told and may say: cancellation, progress, logging, time."""

import asyncio
import gc
import logging
import threading
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from openagents_json.amounts import Amounts
from openagents_json.components import StepContext
from openagents_json.components.link import NoLink


class HandClock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.us = 1_000_000
        self.slept: list[float] = []

    def now_us(self) -> int:
        return self.us

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


class Reports(NoLink, list[tuple[float, str]]):
    def progress(self, fraction: float, message: str) -> None:
        self.append((fraction, message))


async def test_waiting_for_cancellation_ends_when_another_thread_cancels() -> None:
    context = StepContext.for_tests()
    waiters = [asyncio.create_task(context.wait_cancelled()) for _ in range(3)]
    await asyncio.sleep(0)
    assert not any(waiter.done() for waiter in waiters)
    thread = threading.Thread(target=context.cancel, args=("user",))
    thread.start()
    await asyncio.gather(*waiters)
    thread.join()
    assert context.cancelled
    assert context.cancel_reason == "user"


async def test_waiting_for_cancellation_that_has_happened_returns_at_once() -> None:
    context = StepContext.for_tests()
    context.cancel("timeout")
    await context.wait_cancelled()


def test_first_reason_to_cancel_wins() -> None:
    context = StepContext.for_tests()
    assert not context.cancelled
    assert context.cancel_reason is None
    context.cancel("timeout")
    context.cancel("user")
    assert context.cancel_reason == "timeout"


async def test_abandoned_waiter_is_forgotten_and_cancel_still_works() -> None:
    context = StepContext.for_tests()
    waiter = asyncio.create_task(context.wait_cancelled())
    await asyncio.sleep(0)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert context._waiters == []
    context.cancel("user")


def test_cancelling_after_the_waiting_loop_closed_is_harmless() -> None:
    context = StepContext.for_tests()
    loop = asyncio.new_event_loop()
    waiting = context.wait_cancelled()
    task = loop.create_task(waiting)
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    context.cancel("shutdown")
    assert context.cancelled
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # the test leaves it behind on purpose
    del task, waiting
    gc.collect()


def test_progress_reports_closer_than_50_ms_are_dropped_except_the_last() -> None:
    clock, reports = HandClock(), Reports()
    context = StepContext.for_tests(link=reports, clock=clock)
    context.progress(0, "start")
    clock.us += 49_999
    context.progress(0.1)
    clock.us += 1
    context.progress(0.2)
    context.progress(1, "end")
    context.progress(1, "end again")
    assert reports == [(0.0, "start"), (0.2, ""), (1.0, "end")]


def test_progress_goes_on_after_the_clock_was_set_back() -> None:
    clock, reports = HandClock(), Reports()
    context = StepContext.for_tests(link=reports, clock=clock)
    context.progress(0.1)
    clock.us -= 500_000
    context.progress(0.2)
    assert [fraction for fraction, _ in reports] == [0.1, 0.2]


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan"), float("inf")])
def test_progress_outside_0_to_1_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        StepContext.for_tests().progress(fraction)


def test_long_progress_message_is_cut() -> None:
    reports = Reports()
    StepContext.for_tests(link=reports).progress(0.5, "x" * 501)
    assert reports == [(0.5, "x" * 500)]


def test_progress_without_an_engine_goes_nowhere() -> None:
    StepContext.for_tests().progress(0.5)


def test_log_records_carry_job_step_and_attempt_beside_own_fields(caplog: pytest.LogCaptureFixture) -> None:
    context = StepContext.for_tests(job_id="j1", step="rows[2].score", attempt=3)
    with caplog.at_level(logging.INFO, "openagents_json.step"):
        context.logger.info("scored %d", 7, extra={"model": "m", "step": "forged"})
    record = caplog.records[0].__dict__
    assert (record["job_id"], record["step"], record["attempt"], record["model"]) == ("j1", "rows[2].score", 3, "m")
    assert caplog.records[0].getMessage() == "scored 7"
    assert context.logger is context.logger


def test_deadline_is_an_aware_utc_time_or_none() -> None:
    assert StepContext.for_tests().deadline is None
    assert StepContext.for_tests(deadline_us=60_000_000).deadline == datetime(1970, 1, 1, 0, 1, tzinfo=UTC)


async def test_sleep_goes_by_the_given_clock() -> None:
    clock = HandClock()
    await StepContext.for_tests(clock=clock).sleep(3600)
    assert clock.slept == [3600]


def test_context_shows_which_attempt_it_is() -> None:
    assert repr(StepContext.for_tests(step="a", attempt=2)).startswith("<StepContext a of job ")


# ── spending ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Purse(NoLink):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[Amounts] = []

    def spend(self, spent: Amounts) -> None:
        self.told.append(spent)


def test_spending_reaches_the_link_in_whole_numbers() -> None:
    purse = Purse()
    context = StepContext.for_tests(link=purse)
    context.spend(tokens=3, cost=0.1)
    context.spend(cost=Decimal("0.5"))
    context.spend()
    context.spend(tokens=0, cost=1e-12)
    assert purse.told == [{"tokens": 3, "cost_nanos": 100_000_000}, {"cost_nanos": 500_000_000}]


@pytest.mark.parametrize(
    "amounts",
    [
        {"tokens": -1},
        {"tokens": 1.0},
        {"tokens": True},
        {"cost": -1},
        {"cost": float("inf")},
        {"cost": "1"},
        {"cost": 1e10},
    ],
)
def test_amounts_that_cannot_be_are_refused_and_nothing_is_counted(amounts: dict[str, Any]) -> None:
    purse = Purse()
    with pytest.raises(ValueError, match=r"tokens|cost"):
        StepContext.for_tests(link=purse).spend(**{"tokens": 1, **amounts})
    assert purse.told == []


def test_component_that_is_called_in_a_test_may_spend() -> None:
    StepContext.for_tests().spend(tokens=5)
