"""What the attempts of a job report of their spending, from the call of `ctx.spend` to the machine.

Reports come from any thread, as often as components like. They are added up here, and the machine hears of them when
the attempt ends, at once when they use up the budget, and otherwise now and then: so a worker that dies takes the
reports of one interval with it at most, and a history does not grow with the number of reports.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Protocol

from openagents_json.amounts import Amounts, add
from openagents_json.clock import Clock, Timer
from openagents_json.job.engine.link import Which
from openagents_json.job.machine import Happening, JobState, Spent, exhausted, may_pause
from openagents_json.workflow import limits

FIRST_S = 1.0  # after the first report; twice as long each time …
LONGEST_S = 60.0  # … up to this
# Of a job with more events than this the machine hears at the end of an attempt, and when the budget is spent.
EVENTS = limits.EVENTS_PER_JOB // 2


class Spender(Protocol):
    """The runner of the job."""

    state: JobState

    def tell(self, happening: Happening) -> None: ...


class Spending:
    """Of one job. Only `report` is called from other threads than that of the event loop."""

    def __init__(self, job: Spender, clock: Clock, soon: Callable[[Callable[[], None]], object]) -> None:
        # None: nobody counts any more, and what code that was given up still reports is lost.
        self._job: Spender | None = job
        self._clock = clock
        self._soon = soon  # has something called in the event loop
        self._lock = threading.Lock()  # guards the three below; held for microseconds
        self._reported: dict[Which, Amounts] = {}  # what the machine has not heard of; no more entries than attempts
        self._total: Amounts = {}  # all of that together
        self._is_looking = False  # `_look` will be called
        self._interval_s = FIRST_S
        self._timer: Timer | None = None

    def report(self, which: Which, spent: Amounts) -> None:
        """An attempt has spent so much."""
        with self._lock:
            if self._job is None:
                return
            add(self._reported.setdefault(which, {}), spent)
            add(self._total, spent)
            is_looking, self._is_looking = self._is_looking, True
        if not is_looking:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._soon(self._look)

    def ends(self, which: Which) -> None:
        """The attempt has ended: its end is told next."""
        if self._reported:
            self._tell(which)

    def stop(self) -> None:
        """The machine hears no more."""
        with self._lock:
            self._job = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        with self._lock:
            self._is_looking = False
            if self._job is None:
                return
            state = self._job.state
            is_spent = may_pause(state) and exhausted(state, self._clock.now_us(), self._total) is not None
        if is_spent:
            self._tell_all()
        elif self._timer is None and self._reported:
            self._timer = self._clock.call_later(self._interval_s, self._remind)

    def _remind(self) -> None:
        self._timer = None
        self._interval_s = min(2 * self._interval_s, LONGEST_S)
        if self._job is not None and self._job.state.number < EVENTS:
            self._tell_all()

    def _tell_all(self) -> None:
        with self._lock:
            waiting = list(self._reported)
        for which in waiting:
            self._tell(which)

    def _tell(self, which: Which) -> None:
        with self._lock:
            spent = self._reported.pop(which, None)
            for key, amount in (spent or {}).items():
                self._total[key] -= amount
        if spent is not None and self._job is not None:
            self._job.tell(Spent(*which, spent))
