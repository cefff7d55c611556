"""The heartbeat: a thread that renews a worker's leases, whatever the event loop does (guarantee G5).

It also looks at the event loop. A worker whose loop is blocked keeps its leases, since this thread goes on; but it is
said, with the step that blocks it and where in its code.

Danger: a worker that cannot renew its leases must have stopped its steps before they end, because another worker may
then run them. So the time that counts is when the last heartbeat that succeeded was *begun*.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable

from openagents_json.errors import StoreError
from openagents_json.job.engine.meter import TICK_S, Meter
from openagents_json.job.store.base import Pulse

logger = logging.getLogger("openagents_json.job")

BLOCKED_S = 1.0  # an event loop that is so late is blocked by something
LOOK_S = 0.5  # how often the loop is looked at
FRAMES_SHOWN = 8
STOP_BEFORE = 0.7  # of a lease: when so much of it has gone by without a heartbeat, the steps are stopped


class Heart:
    """One per worker, where time is real. What it tells is called in the event loop: `taken_for_dead`,
    `lease_is_ending`, and after that `lease_is_sure` once a heartbeat has succeeded. `renewed_s` is when the worker
    began to register, by the monotonic clock: its leases count from then on."""

    def __init__(
        self,
        pulse: Pulse,
        lease_s: float,
        meter: Meter,
        taken_for_dead: Callable[[], object],
        lease_is_ending: Callable[[StoreError], object],
        lease_is_sure: Callable[[], object],
        renewed_s: float,
    ) -> None:
        self._pulse = pulse
        self._lease_s = lease_s
        self._meter = meter
        self._taken_for_dead = taken_for_dead
        self._lease_is_ending = lease_is_ending
        self._lease_is_sure = lease_is_sure
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._stop = threading.Event()
        self._renewed_s = renewed_s  # when the last heartbeat that succeeded was begun
        self._is_told = self._is_late  # that the lease is about to end
        self._blocked_since_s: float | None = None  # the tick that the loop is stuck after, once that was logged
        self._thread = threading.Thread(target=self._run, name="openagents-heartbeat", daemon=True)
        self._thread.start()

    @property
    def _is_late(self) -> bool:
        return time.monotonic() - self._renewed_s >= self._lease_s * STOP_BEFORE

    @property
    def is_lease_sure(self) -> bool:
        """Whether the leases are good for a while yet, as far as was told."""
        return not self._is_told

    def stop(self) -> None:
        """No more heartbeats. One that is on may still end; nobody waits for it."""
        self._stop.set()

    def _run(self) -> None:
        next_s = self._renewed_s + self._lease_s / 3
        while not self._stop.wait(min(LOOK_S, max(next_s - time.monotonic(), 0.0))):
            self._look_at_loop()
            if time.monotonic() >= next_s:
                next_s = time.monotonic() + self._beat()
        with contextlib.suppress(StoreError):
            self._pulse.close()

    def _beat(self) -> float:
        """One heartbeat; after how many seconds the next one is due."""
        began_s = time.monotonic()
        try:
            is_alive = self._pulse.beat()
        except StoreError as error:
            self._note_failure(error)
            return min(self._lease_s / 10, 1.0)
        except Exception:
            logger.exception("a heartbeat failed")
            return min(self._lease_s / 10, 1.0)
        if not is_alive and not self._stop.is_set():  # else it has signed off meanwhile
            self._tell(self._taken_for_dead)
        elif self._is_told:
            self._tell(self._lease_is_sure)
        self._renewed_s, self._is_told = began_s, False
        return self._lease_s / 3

    def _note_failure(self, error: StoreError) -> None:
        if not self._is_told and self._is_late:
            self._is_told = True
            self._tell(lambda: self._lease_is_ending(error))

    def _tell(self, what: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nothing runs in it any more
            self._loop.call_soon_threadsafe(what)

    def _look_at_loop(self) -> None:
        """Say once when the loop does not turn."""
        ticked_s = self._meter.ticked_s
        late_s = time.monotonic() - ticked_s - TICK_S
        if late_s < BLOCKED_S:
            self._blocked_since_s = None
        elif self._blocked_since_s != ticked_s:
            self._blocked_since_s = ticked_s
            logger.warning("the event loop has been blocked for %.1f s, by %s", late_s, self._what_blocks())

    def _what_blocks(self) -> str:
        """The task that is on, by its name, and where its code stands."""
        task = asyncio.current_task(self._loop)
        frame = sys._current_frames().get(self._loop_thread)
        stack = "".join(traceback.format_stack(frame)[-FRAMES_SHOWN:]) if frame is not None else "?\n"
        return f"{task.get_name() if task is not None else 'no task'}:\n{stack.rstrip()}"
