"""Preemption and aging together: nobody swings to and fro, and everybody comes to an end.

A worker with a few slots is simulated in virtual time, by the rules that the engine uses (`arrival`, `preemption`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from openagents_json.clock import SECOND_US
from openagents_json.job.engine.place import Standing
from openagents_json.job.engine.preemption import may_yield, who_yields
from openagents_json.job.store.arrival import virtual_arrival_us
from openagents_json.job.store.records import Waiting

AGING_S = 3_600.0
MAX_PREEMPTIONS = 3
STEP_S = 60


@dataclass
class Simulated:
    """A job of some steps of `STEP_S`."""

    number: int
    rank: int
    comes_s: int
    steps_left: int
    queued_s: int | None = None
    waited_s: int = 0
    preempted: int = 0
    claimed_s: int = 0
    yields_to: int | None = None
    room_made: bool = False
    ended_s: int | None = None
    claims: list[int] = field(default_factory=list)

    def sort_at(self, now_s: int) -> int:
        """As it is in the queue, or would be."""
        since_s = now_s if self.queued_s is None else self.queued_s
        return virtual_arrival_us(since_s * SECOND_US, self.waited_s * SECOND_US, self.rank, AGING_S)


class World:
    """Time goes in steps. At each boundary jobs end or yield; free slots take the first in the queue."""

    def __init__(self, jobs: list[Simulated], slots: int) -> None:
        self.jobs, self.slots = jobs, slots
        self.running: list[Simulated] = []
        self.queue: list[Simulated] = []
        self.now_s = 0
        self.yields: list[tuple[int, int]] = []

    def run(self, until_s: int) -> None:
        while self.now_s <= until_s and any(job.ended_s is None for job in self.jobs):
            for job in self.jobs:
                if job.comes_s == self.now_s:
                    self.enter(job)
            self.claim()
            self.make_room()
            self.now_s += STEP_S
            for job in list(self.running):
                job.steps_left -= 1
                if job.steps_left == 0:
                    job.ended_s = self.now_s
                    self.running.remove(job)
                elif job.yields_to is not None:
                    self.running.remove(job)
                    job.preempted += 1
                    self.yields.append((job.number, job.yields_to))
                    job.yields_to = None
                    self.enter(job)

    def enter(self, job: Simulated) -> None:
        job.queued_s, job.room_made = self.now_s, False
        self.queue.append(job)

    def first(self) -> Simulated:
        return min(self.queue, key=lambda job: (job.sort_at(self.now_s), job.number))

    def claim(self) -> None:
        while self.queue and len(self.running) < self.slots:
            job = self.first()
            self.queue.remove(job)
            for other in self.running:
                if other.yields_to == job.number:
                    other.yields_to = None
            assert job.queued_s is not None
            job.waited_s += self.now_s - job.queued_s
            job.queued_s, job.claimed_s = None, self.now_s
            job.claims.append(self.now_s)
            self.running.append(job)

    def make_room(self) -> None:
        if not self.queue:
            return
        first = self.first()
        if first.room_made:
            return
        waiting = Waiting(str(first.number), first.rank, first.sort_at(self.now_s), None)
        running = [
            (job, Standing(job.rank, job.sort_at(self.now_s), job.preempted))
            for job in self.running
            if job.yields_to is None
        ]
        job = who_yields(running, waiting, MAX_PREEMPTIONS)
        if job is not None:
            job.yields_to, first.room_made = first.number, True


jobs_of = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 60), st.integers(1, 12)), min_size=1, max_size=25).map(
    lambda given: [Simulated(number, rank, comes * STEP_S, steps) for number, (rank, comes, steps) in enumerate(given)]
)


@settings(max_examples=300, deadline=None)
@given(jobs_of, st.integers(1, 3))
def test_everybody_ends_and_yields_no_more_than_allowed(jobs: list[Simulated], slots: int) -> None:
    world = World(jobs, slots)
    work_s = sum(job.steps_left for job in jobs) * STEP_S
    world.run(60 * STEP_S + work_s + STEP_S)
    assert all(job.ended_s is not None for job in jobs), "with work left no slot is ever idle"
    assert all(job.preempted <= MAX_PREEMPTIONS for job in jobs)
    assert len(world.yields) <= sum(len(job.claims) for job in jobs)
    for lower, higher in world.yields:
        assert jobs[lower].rank < jobs[higher].rank
    assert not {(higher, lower) for lower, higher in world.yields} & set(world.yields), "who yielded takes nothing back"


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 3), st.integers(1, 12), st.integers(1, 3))
def test_low_job_waits_no_longer_than_those_that_may_come_before_it(rank: int, steps: int, slots: int) -> None:
    """A stream of more urgent jobs, more than the slots can do, for ever: the LOW job begins, and ends."""
    horizon_s = round(4 * AGING_S) + 100 * STEP_S
    stream = [Simulated(number, rank, comes_s, slots) for number, comes_s in enumerate(range(0, horizon_s, STEP_S), 1)]
    low = Simulated(0, 0, 0, steps)
    world = World([low, *stream], slots)
    world.run(horizon_s + STEP_S)
    assert low.ended_s is not None
    before_s = rank * round(AGING_S)  # who comes within this comes before it
    assert low.claims[0] <= before_s + (before_s // STEP_S + 2) * STEP_S


@given(st.integers(0, 3), st.integers(0, 3), st.integers(-9, 9), st.integers(-9, 9), st.integers(0, 4))
def test_of_two_jobs_only_one_yields_to_the_other(one: int, other: int, at: int, later: int, preempted: int) -> None:
    forth = may_yield(Standing(one, at, preempted), Waiting("b", other, later, None), MAX_PREEMPTIONS)
    back = may_yield(Standing(other, later, preempted), Waiting("a", one, at, None), MAX_PREEMPTIONS)
    assert not (forth and back)
    assert not forth or preempted < MAX_PREEMPTIONS


def test_lowest_rank_yields_and_of_those_the_last_in_order() -> None:
    waiting = Waiting("urgent", 3, 0, None)
    running = [("high", Standing(2, 90, 0)), ("old", Standing(0, 10, 0)), ("new", Standing(0, 20, 0))]
    assert who_yields(running, waiting, 3) == "new"
    assert who_yields([("new", Standing(0, 20, 3)), *running[:2]], waiting, 3) == "old"
    assert who_yields([("same", Standing(3, 90, 0)), ("earlier", Standing(0, -1, 0))], waiting, 3) is None
