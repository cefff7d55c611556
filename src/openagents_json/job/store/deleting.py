"""How long a transaction that deletes old jobs may take: whoever wants to commit meanwhile waits for it."""

from __future__ import annotations

import time

from openagents_json.clock import SECOND_US, Clock

DELETE_S = 0.05  # then the transaction ends, with whatever it has deleted; but one job it has, if there is one
ROOTS_AT_ONCE = 16  # jobs with their children between two looks at the time


class Allowance:
    """Time for one transaction, by the machine's clock, or by that of a test."""

    def __init__(self, within_s: float, clock: Clock | None) -> None:
        self._clock = None if clock is None or clock.passes_by_itself else clock
        self._until_us = self._now_us() + round(within_s * SECOND_US)

    @property
    def is_spent(self) -> bool:
        """Whether it is over."""
        return self._now_us() >= self._until_us

    def _now_us(self) -> int:
        return time.monotonic_ns() // 1_000 if self._clock is None else self._clock.now_us()
