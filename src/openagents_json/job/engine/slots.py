"""Admission: how many steps run at a time, and who comes next when a slot is free. Pure bookkeeping, no clock, no I/O."""

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
    _waiting: dict[Waiter, None] = field(default_factory=dict)  # jobs with steps that found no slot, in order

    def take(self, isolation: Isolation, waiter: Waiter) -> bool | None:
        """True takes a slot. Otherwise the waiter is remembered: False means that only this kind is short, None that
        there is no slot at all."""
        if self.steps_used >= self.steps:
            self._waiting.setdefault(waiter)
            return None
        if isolation == "thread":
            if self.threads_used >= self.threads or self.abandoned >= MAX_ABANDONED:
                self._waiting.setdefault(waiter)
                return False
            self.threads_used += 1
        self.steps_used += 1
        return True

    def give_back(self, isolation: Isolation) -> Waiter | None:
        """A step's code has ended. Returns who waits longest for a slot, and forgets that it waits."""
        self.steps_used -= 1
        if isolation == "thread":
            self.threads_used -= 1
        waiter = next(iter(self._waiting), None)
        if waiter is not None:
            del self._waiting[waiter]
        return waiter

    def forget(self, waiter: Waiter) -> None:
        self._waiting.pop(waiter, None)
