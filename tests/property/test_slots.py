"""Laws of admission: whatever is taken and given back, slots are never over-used and nobody who waits is forgotten."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from openagents_json.components import Isolation
from openagents_json.job.engine.slots import MAX_ABANDONED, Slots

STEPS, THREADS = 4, 2
WAITERS = st.sampled_from(["j1", "j2", "j3"])
ISOLATIONS: st.SearchStrategy[Isolation] = st.sampled_from(["inline", "thread"])


class Admission(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.slots: Slots[str] = Slots(STEPS, {"thread": THREADS})
        self.running: list[Isolation] = []
        self.waiting: set[str] = set()

    @rule(isolation=ISOLATIONS, waiter=WAITERS)
    def take(self, isolation: Isolation, waiter: str) -> None:
        threads = self.running.count("thread")
        taken = self.slots.take(isolation, waiter)
        if len(self.running) >= STEPS:
            assert taken is None
        elif isolation == "thread" and (threads >= THREADS or self.slots.abandoned >= MAX_ABANDONED):
            assert taken is False
        else:
            assert taken is True
            self.running.append(isolation)
        if taken is not True:
            self.waiting.add(waiter)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        isolation = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.slots.give_back(isolation)

    @rule()
    def wake_next(self) -> None:
        waiter = self.slots.next_waiter()
        if len(self.running) >= STEPS:
            assert waiter is None
        elif waiter is not None:
            assert waiter in self.waiting
        if waiter is not None and not self.stands(waiter):
            self.waiting.discard(waiter)

    @rule(waiter=WAITERS)
    def forget(self, waiter: str) -> None:
        self.slots.forget(waiter)
        self.waiting.discard(waiter)
        assert not self.stands(waiter)

    def stands(self, waiter: str) -> bool:
        return any(waiter in waiting for waiting in (self.slots._waiting, *self.slots._waiting_for.values()))

    @invariant()
    def counts_are_those_of_what_runs(self) -> None:
        assert self.slots.steps_used == len(self.running) <= STEPS
        assert self.slots.used["thread"] == self.running.count("thread") <= THREADS

    @invariant()
    def nobody_who_waits_is_forgotten(self) -> None:
        assert all(self.stands(waiter) for waiter in self.waiting)

    def teardown(self) -> None:
        """When everything has ended, everybody who waits is woken."""
        while self.running:
            self.slots.give_back(self.running.pop())
        woken = set()
        while (waiter := self.slots.next_waiter()) is not None:
            woken.add(waiter)
        assert woken == self.waiting


TestAdmission = Admission.TestCase
TestAdmission.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
