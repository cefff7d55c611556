"""Admission: how many steps run at a time, and who is next when a slot is free. Pure bookkeeping."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from openagents_json.components import Isolation

Waiter = TypeVar("Waiter")

MAX_ABANDONED = 8  # abandoned threads of a manager; with more, no thread step starts


@dataclass(slots=True)
class Slots(Generic[Waiter]):
    """Slots for steps, and among them threads. A slot is given back only when its code is known to have ended."""

    steps: int
    threads: int
    steps_used: int = 0
    threads_used: int = 0  # abandoned ones included: they still run
    abandoned: int = 0
    # Jobs with steps that found no slot, in order; each stands in one of the two.
    _waiting: dict[Waiter, None] = field(default_factory=dict)  # there was no slot at all
    _waiting_for_threads: dict[Waiter, None] = field(default_factory=dict)  # only threads were short

    def take(self, isolation: Isolation, waiter: Waiter) -> bool | None:
        """True takes a slot. Otherwise the waiter is remembered: False means that only this kind is short, None that
        there is no slot at all."""
        if self.steps_used >= self.steps:
            self._waiting_for_threads.pop(waiter, None)
            self._waiting.setdefault(waiter)
            return None
        if isolation == "thread":
            if not self.has_thread:
                self._waiting_for_threads.setdefault(waiter)
                return False
            self.threads_used += 1
        self.steps_used += 1
        return True

    @property
    def has_thread(self) -> bool:
        return self.threads_used < self.threads and self.abandoned < MAX_ABANDONED

    def give_back(self, isolation: Isolation) -> None:
        """A step's code has ended."""
        self.steps_used -= 1
        if isolation == "thread":
            self.threads_used -= 1

    def next_waiter(self) -> Waiter | None:
        """Who waits longest for a slot that is free now; it is forgotten that it waits. None when there is nobody.

        To be asked again after each turn: who is woken may not need the slot any more, and it is the next one's then.
        """
        if self.steps_used >= self.steps:
            return None
        waiting = self._waiting_for_threads if self._waiting_for_threads and self.has_thread else self._waiting
        waiter = next(iter(waiting), None)
        if waiter is not None:
            del waiting[waiter]
        return waiter

    def forget(self, waiter: Waiter) -> None:
        self._waiting.pop(waiter, None)
        self._waiting_for_threads.pop(waiter, None)
