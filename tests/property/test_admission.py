"""Laws of admission: nothing is over-used or lost, steps start in the order of their jobs, nobody is starved, there is
no deadlock, and what `why` names is what holds a job up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from openagents_json.job.engine.admission import Admission, Grant, Needs

CAPACITIES = {"steps": 6_000, "cpu": 4_000, "gpu": 2_000, "disk": 500}
AMOUNTS = st.dictionaries(
    st.sampled_from(["cpu", "gpu", "disk"]), st.integers(1, 4).map(lambda quarters: quarters / 4), max_size=3
)
NEEDS = AMOUNTS.map(lambda parts: Needs.of({name: round(part * CAPACITIES[name]) for name, part in parts.items()}))


@dataclass(eq=False)
class Job:
    """A job with steps that are ready, in its order, and those that run."""

    job_id: str
    place: int
    ready: list[Needs] = field(default_factory=list)
    running: list[Grant] = field(default_factory=list)

    @property
    def standing(self) -> tuple[int, int]:
        return 0, self.place


class World:
    """Jobs on one worker."""

    def __init__(self, places: Sequence[int]) -> None:
        self.admission: Admission[Job] = Admission(CAPACITIES)
        self.jobs = [Job(f"j{number}", place) for number, place in enumerate(places)]
        self.starts: list[tuple[Job, Needs]] = []

    def turn(self, job: Job) -> None:
        """The job asks for what it has ready, as the machine does."""
        asking, left, is_full = self.admission.ask(job, 0), list[Needs](), False
        for needs in job.ready:
            verdict = None if is_full else asking.take(needs)
            if verdict is not None and verdict.grant is not None:
                job.running.append(verdict.grant)
                self.starts.append((job, needs))
            else:
                left.append(needs)
                is_full = is_full or (verdict is not None and verdict.is_full)
        job.ready = left

    def settle(self) -> None:
        """Wake whoever can start something, until nobody can."""
        for _ in range(1_000):
            woken = self.admission.wake()
            if not woken:
                return
            assert [job.standing for job in woken] == sorted(job.standing for job in woken)
            before = len(self.starts)
            self.turn(woken[0])
            can_start = len(self.starts) > before
            assert can_start or woken[0].ready, "a job without ready steps was woken"
            for job in woken[1:]:
                self.turn(job)
        raise AssertionError("jobs are woken for ever, for nothing")

    def end(self, job: Job, place: int = 0) -> None:
        self.admission.give_back(job.running.pop(place))

    def check(self) -> None:
        for name, capacity in CAPACITIES.items():
            used = sum(dict(one.needs.amounts).get(name, 0) for job in self.jobs for one in job.running)
            assert 0 <= used <= capacity
            assert round(self.admission.used(name) * 1_000) == used
        assert self.admission.steps == sum(len(job.running) for job in self.jobs)

    def may_start(self) -> list[tuple[Job, Needs]]:
        """The rule once more, plainly: which steps that are ready could start now."""
        left = {
            name: capacity - sum(dict(one.needs.amounts).get(name, 0) for job in self.jobs for one in job.running)
            for name, capacity in CAPACITIES.items()
        }
        short_of: set[str] = set()
        behind: set[tuple[str, ...]] = set()
        found = []
        for job in sorted(self.jobs, key=lambda one: one.standing):
            for needs in job.ready:
                if needs.names in behind:
                    continue
                short = {name for name, units in needs.amounts if units > left[name]}
                if short:
                    behind.add(needs.names)
                else:
                    found.append((job, needs))
                if not short or short - short_of:
                    for name, units in needs.amounts:
                        left[name] -= units
                    short_of |= short
        return found


class AdmissionMachine(RuleBasedStateMachine):
    """Jobs get steps, ask, end steps, are given new places and go away, in any order."""

    @initialize(places=st.permutations(range(4)))
    def begin(self, places: Sequence[int]) -> None:
        self.world = World(places)

    @rule(number=st.integers(0, 3), steps=st.lists(NEEDS, min_size=1, max_size=4))
    def get_steps(self, number: int, steps: list[Needs]) -> None:
        job = self.world.jobs[number]
        job.ready += steps
        before = len(self.world.starts)
        self.world.turn(job)
        for _, needs in self.world.starts[before:]:
            assert needs in steps, "what waited before was woken when it could start"
        self.world.settle()

    @precondition(lambda self: any(job.running for job in self.world.jobs))
    @rule(data=st.data())
    def end_step(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from([job for job in self.world.jobs if job.running]))
        self.world.end(job, data.draw(st.integers(0, len(job.running) - 1)))
        expected = self.world.may_start()
        before = len(self.world.starts)
        self.world.settle()
        assert self.world.starts[before : before + len(expected)] == expected

    @rule(number=st.integers(0, 3), place=st.integers(10, 20))
    def change_place(self, number: int, place: int) -> None:
        job = self.world.jobs[number]
        job.place = place * 4 + number  # no two jobs have the same
        self.world.admission.reorder(job)
        self.world.settle()

    @rule(number=st.integers(0, 3))
    def lose_ready_steps(self, number: int) -> None:
        """It is paused or cancelled, and finds nothing to ask for in its next turn."""
        self.world.jobs[number].ready.clear()
        self.world.turn(self.world.jobs[number])
        self.world.settle()

    @invariant()
    def nothing_is_over_used(self) -> None:
        self.world.check()

    @invariant()
    def nothing_waits_that_could_start(self) -> None:
        assert self.world.may_start() == []

    @invariant()
    def who_waits_is_told_why(self) -> None:
        for job in self.world.jobs:
            assert bool(self.world.admission.why(job)) == bool(job.ready)

    def teardown(self) -> None:
        """Every step starts at last, whatever ends first: there is no deadlock. And then all is free."""
        for _ in range(1_000):
            busy = [job for job in self.world.jobs if job.running]
            if not busy:
                break
            self.world.end(busy[-1])
            self.world.settle()
            self.world.check()
        assert not any(job.ready or job.running for job in self.world.jobs)
        assert all(self.world.admission.used(name) == 0 for name in CAPACITIES)


TestAdmission = AdmissionMachine.TestCase
TestAdmission.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


@given(wide=NEEDS, first=st.lists(NEEDS, min_size=1, max_size=8), stream=st.lists(NEEDS, min_size=20, max_size=20))
@settings(max_examples=200, deadline=None)
def test_wide_step_starts_when_what_ran_before_it_has_ended_whatever_comes_behind(
    wide: Needs, first: list[Needs], stream: list[Needs]
) -> None:
    world = World(range(3))
    first_in_order, waiting, hostile = world.jobs
    first_in_order.ready = list(first)
    world.turn(first_in_order)
    first_in_order.ready.clear()
    world.turn(first_in_order)
    waiting.ready = [wide]
    world.turn(waiting)
    for needs in stream:
        if not waiting.ready:
            break
        hostile.ready.append(needs)
        world.turn(hostile)
        if first_in_order.running:
            world.end(first_in_order)
        elif hostile.running:
            world.end(hostile)
        world.settle()
        if not first_in_order.running:
            assert not waiting.ready, "what comes behind was given what it needs"
    assert not waiting.ready


@given(data=st.data(), lists=st.lists(st.lists(NEEDS, max_size=5), min_size=4, max_size=6))
@settings(max_examples=200, deadline=None)
def test_job_starts_when_what_it_is_said_to_wait_for_is_gone(data: st.DataObject, lists: list[list[Needs]]) -> None:
    world = World(range(len(lists)))
    by_id = {job.job_id: job for job in world.jobs}
    for job, ready in zip(world.jobs, lists, strict=True):
        job.ready = ready
        world.turn(job)
    waiting = [job for job in world.jobs if job.ready]
    if not waiting:
        return
    job = data.draw(st.sampled_from(waiting))
    for _ in world.jobs:
        shorts = world.admission.why(job)
        if not shorts:
            break
        blockers: dict[str, Any] = {}
        for short in shorts:
            assert short.need > short.free and short.capacity * 1_000 == CAPACITIES[short.resource]
            assert short.holders or short.ahead
            blockers |= dict.fromkeys((*short.holders, *short.ahead))
        for other in map(by_id.__getitem__, blockers):
            while other.running:
                world.end(other)
            if other is not job:
                world.admission.forget(other)
    assert job in world.admission.wake()
    before = len(job.ready)
    world.turn(job)
    assert len(job.ready) < before
