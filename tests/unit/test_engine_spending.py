"""What the engine makes of the reports of attempts before the machine hears of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from openagents_json.job.engine.spending import EVENTS, FIRST_S, LONGEST_S, Spending
from openagents_json.job.machine import Happening, JobState, Spent
from openagents_json.testing import FakeClock
from tests.unit.machine.drive import Drive, call


class Job:
    """A runner that only listens. What is to be called in the event loop waits in `soon`."""

    def __init__(self, budget: dict[str, int] | None = None) -> None:
        definition = {"steps": [call("a", needs=[]), call("b", needs=[])]} | ({"budget": budget} if budget else {})
        self.state: JobState = Drive(definition).state
        self.clock = FakeClock()
        self.told: list[Happening] = []
        self.soon: list[Callable[[], None]] = []
        self.spending = Spending(self, self.clock, self.soon.append)

    def tell(self, happening: Happening) -> None:
        self.told.append(happening)

    def look(self) -> None:
        while self.soon:
            self.soon.pop(0)()

    async def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        await asyncio.sleep(0)


async def test_reports_that_come_together_cost_one_look_and_no_happening() -> None:
    job = Job()
    for _ in range(1_000):
        job.spending.report(("a", 1), {"tokens": 1})
    assert len(job.soon) == 1
    job.look()
    assert job.told == []
    job.spending.ends(("a", 1))
    assert job.told == [Spent("a", 1, {"tokens": 1_000})]
    job.spending.ends(("a", 1))
    assert len(job.told) == 1, "it is told once"
    job.spending.stop()


async def test_reports_that_use_up_the_budget_together_are_told_at_once() -> None:
    job = Job({"tokens": 10})
    job.spending.report(("a", 1), {"tokens": 5})
    job.look()
    assert job.told == []
    job.spending.report(("b", 2), {"tokens": 5})
    job.look()
    assert job.told == [Spent("a", 1, {"tokens": 5}), Spent("b", 2, {"tokens": 5})]
    job.spending.stop()


async def test_others_are_told_ever_more_seldom() -> None:
    job = Job()
    waits_s = [FIRST_S, 2.0, 4.0, 8.0, 16.0, 32.0, LONGEST_S, LONGEST_S]
    for count, wait_s in enumerate(waits_s):
        job.spending.report(("a", 1), {"tokens": 1})
        job.look()
        await job.pass_time(wait_s - 0.001)
        assert len(job.told) == count
        await job.pass_time(0.001)
        assert len(job.told) == count + 1
    job.spending.stop()


async def test_job_with_very_many_events_hears_at_the_end_of_attempts_only() -> None:
    job = Job()
    job.state.number = EVENTS
    job.spending.report(("a", 1), {"tokens": 1})
    job.look()
    await job.pass_time(10 * LONGEST_S)
    assert job.told == []
    job.spending.ends(("a", 1))
    assert job.told == [Spent("a", 1, {"tokens": 1})]
    job.spending.stop()


async def test_nothing_is_kept_or_told_when_the_job_is_let_go_of() -> None:
    job = Job({"tokens": 1})
    job.spending.report(("a", 1), {"tokens": 5})
    job.spending.stop()
    job.look()
    job.spending.report(("a", 1), {"tokens": 5})
    assert job.soon == []
    await job.pass_time(LONGEST_S)
    assert job.told == []
