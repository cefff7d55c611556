"""What SIGTERM does in the child, depending on what its main thread is doing. Everything here runs in that thread.

Python calls signal handlers between two instructions of the main thread, wherever that happens to be. An exception
out of the handler is right inside a component; inside the code that writes a frame it would leave half a frame in
the pipe. So the handler looks at the mode, and where the time is wrong the signal waits until `release`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

EXIT_CODE = 128 + signal.SIGTERM
_DEFAULT = int(signal.SIG_DFL)
# `signal.signal` without the enums that it looks up for its answer, which take longer than the system call.
_install: Callable[[int, Any], Any] = getattr(signal.signal, "__wrapped__", signal.signal)


class Terminated(SystemExit):
    """Raised in a sync component: its `finally` blocks run, and `except Exception` lets it pass."""


class Termination:
    """The handler of SIGTERM. Modes: held (wait), idle (exit), sync (raise), or a task (cancel it)."""

    def __init__(self) -> None:
        self.is_asked = False  # written by the handler, once; read by everybody
        self._is_done = False  # the signal has had its effect
        self._holds = 1  # more than 0: held. Imports, frames and whatever else is ours run so
        self._is_idle = False
        self._task: asyncio.Task[Any] | None = None
        self._main = threading.get_ident()

    def listen(self) -> None:
        """Install the handler, and let a CPU limit end the process. After each call again, since a component may have
        changed either."""
        _install(signal.SIGTERM, self._handle)
        if hasattr(signal, "SIGXCPU"):
            _install(signal.SIGXCPU, _DEFAULT)

    def hold(self) -> None:
        """From here on the signal waits. Another thread may call it too, which never sees the signal anyway."""
        if threading.get_ident() == self._main:
            self._holds += 1

    def release(self) -> None:
        """The end of the innermost `hold`; raises here if the signal came meanwhile."""
        if threading.get_ident() == self._main:
            self._holds -= 1
            self._act()

    def go_on(self) -> None:
        """The end of the innermost `hold` where it is too late for the signal: one that came meanwhile waits for the
        next `release`."""
        if threading.get_ident() == self._main:
            self._holds -= 1

    def go_idle(self) -> None:
        """Nothing is running; the signal ends the process, also one that came before."""
        self._is_idle = True
        if self.is_asked:
            os._exit(EXIT_CODE)

    def leave_idle(self) -> None:
        """A call has come. Held again from here on."""
        self._is_idle = False

    def watch(self, task: asyncio.Task[Any] | None) -> None:
        """The signal cancels this task instead of raising; None ends that."""
        self._task = task

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.is_asked = True
        self._act()

    def _act(self) -> None:
        if not self.is_asked or self._is_done:
            return
        if self._is_idle:
            os._exit(EXIT_CODE)
        if self._holds > 0:
            return
        self._is_done = True
        if self._task is None:
            raise Terminated(EXIT_CODE)
        # From a handler only the threadsafe way wakes a loop that is waiting.
        self._task.get_loop().call_soon_threadsafe(self._task.cancel, "terminated")
