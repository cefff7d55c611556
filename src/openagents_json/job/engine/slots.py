"""Admission: how many steps run at a time, and who is next when a slot is free. Pure bookkeeping."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from openagents_json.components import Isolation

Waiter = TypeVar("Waiter")

MAX_ABANDONED = 8  # abandoned threads of a manager; with more, no thread step starts


@dataclass(slots=True)
class Slots(Generic[Waiter]):
    """Slots for steps, and among them threads and processes. A slot is given back only when its code is known to have
    ended."""

    steps: int
    limits: dict[Isolation, int]  # of the kinds that are short, such as threads
    steps_used: int = 0
    used: Counter[Isolation] = field(default_factory=Counter)  # by kind; abandoned ones included: they still run
    abandoned: int = 0  # threads
    # Jobs with steps that found no slot, in order; each stands in one of them.
    _waiting: dict[Waiter, None] = field(default_factory=dict)  # there was no slot at all
    _waiting_for: dict[Isolation, dict[Waiter, None]] = field(default_factory=dict)  # only that kind was short

    def take(self, isolation: Isolation, waiter: Waiter) -> bool | None:
        """True takes a slot. Otherwise the waiter is remembered: False means that only this kind is short, None that
        there is no slot at all."""
        if self.steps_used >= self.steps:
            for waiting in self._waiting_for.values():
                waiting.pop(waiter, None)
            self._waiting.setdefault(waiter)
            return None
        if not self.has(isolation):
            self._waiting_for.setdefault(isolation, {}).setdefault(waiter)
            return False
        self.used[isolation] += 1
        self.steps_used += 1
        return True

    def take_anyway(self, isolation: Isolation) -> None:
        """A slot beyond the limits if need be: for what a person asks for by hand."""
        self.used[isolation] += 1
        self.steps_used += 1

    def has(self, isolation: Isolation) -> bool:
        """Whether one more of that kind may run."""
        if isolation == "thread" and self.abandoned >= MAX_ABANDONED:
            return False
        limit = self.limits.get(isolation)
        return limit is None or self.used[isolation] < limit

    def give_back(self, isolation: Isolation) -> None:
        """A step's code has ended."""
        self.steps_used -= 1
        self.used[isolation] -= 1

    def next_waiter(self) -> Waiter | None:
        """Who waits longest for a slot that is free now; it is forgotten that it waits. None when there is nobody.

        To be asked again after each turn: who is woken may not need the slot any more, and it is the next one's then.
        """
        if self.steps_used >= self.steps:
            return None
        kinds = (waiting for kind, waiting in self._waiting_for.items() if waiting and self.has(kind))
        waiting = next(kinds, self._waiting)
        waiter = next(iter(waiting), None)
        if waiter is not None:
            del waiting[waiter]
        return waiter

    def forget(self, waiter: Waiter) -> None:
        self._waiting.pop(waiter, None)
        for waiting in self._waiting_for.values():
            waiting.pop(waiter, None)
