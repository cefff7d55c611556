"""Ctrl-C, SIGTERM and SIGHUP: the first asks to stop gently, the second ends the process at once.

Plain signal handlers, not the event loop's: they work as well while a component blocks the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Coroutine
from types import FrameType, TracebackType
from typing import Any, Self

from openagents_json.cli.exit_codes import Exit

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SHOW_CURSOR = "\x1b[?25h"


class Stop:
    """A wish to stop. A context manager that listens to the signals while it is open."""

    def __init__(self) -> None:
        self.is_asked = False  # written once, by the handler in the main thread
        self._before: dict[signal.Signals, Any] = {}
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) != signal.SIG_IGN:  # ignored by whoever started us: nohup, a script's &
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    async def wait(self) -> None:
        """Return when somebody asked to stop; at once if somebody did."""
        asked = asyncio.Event()
        self._waiters.append((asyncio.get_running_loop(), asked))
        if not self.is_asked:
            await asked.wait()

    async def finishes(self, work: Coroutine[Any, Any, None]) -> bool:
        """Do the work until it has ended (True, or its error) or somebody asks to stop (False)."""
        working, stopper = asyncio.ensure_future(work), asyncio.ensure_future(self.wait())
        try:
            await asyncio.wait((working, stopper), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()  # raises what it met
                return True
            return False
        finally:
            stopper.cancel()
            working.cancel()
            await asyncio.gather(working, stopper, return_exceptions=True)

    def ask(self) -> None:
        """Ask to stop gently."""
        self.is_asked = True
        for loop, asked in self._waiters:
            with contextlib.suppress(RuntimeError):  # a loop that is closed has nobody waiting
                loop.call_soon_threadsafe(asked.set)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.is_asked:
            end_at_once()
        self.ask()


def end_at_once() -> None:
    """End the process without waiting for anything: what was recorded is safe, and the next start takes over."""
    with contextlib.suppress(OSError, ValueError):
        if sys.__stdout__ is not None and sys.__stdout__.isatty():
            os.write(sys.__stdout__.fileno(), f"{SHOW_CURSOR}\n".encode())
        os.write(2, b"openagents: stopped at once\n")
    os._exit(Exit.INTERRUPTED)
