"""The parent's end of the warden: one small process per pool that kills the groups of a parent that dies.

A parent-death signal reaches the child but not what the child has started; the warden reaches both.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import subprocess
import sys
from pathlib import Path

from openagents_json.job.engine.processes import groups
from openagents_json.job.engine.processes.pipes import Outlet, make_pipe

logger = logging.getLogger("openagents_json.worker")

_PROGRAM = str(Path(__file__).with_name("warden_program.py"))
CLOSE_S = 2.0
_POLL_S = 0.002
LEAST_POLLS = 50  # it needs a moment to end, however little time is left for closing


class Warden:
    """Told of each process group; starts at the first one, and again if somebody kills it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, mark: str) -> None:
        self._loop = loop
        self._mark = mark  # the variable that all of the pool's processes inherit
        self._groups: dict[int, str] = {}  # those that exist, and when their leader began
        self._program: subprocess.Popen[bytes] | None = None
        self._outlet: Outlet | None = None

    @property
    def pid(self) -> int | None:
        """Of the running warden."""
        return None if self._program is None else self._program.pid

    def guard(self, group: int) -> None:
        """A group was made; its leader has not been waited for. Before its first call, so that nothing escapes."""
        self._groups[group] = groups.started_at(group)
        self._say(f"+{group} {self._groups[group]}\n")

    def forget(self, group: int) -> None:
        """A group is empty."""
        if self._groups.pop(group, None) is not None:
            self._say(f"-{group}\n")

    async def close(self, timeout_s: float = CLOSE_S) -> None:
        """End the program. Call it when no group is left, or to have killed what is left; after `timeout_s` it is
        killed itself."""
        program, self._program = self._program, None
        if program is None:
            return
        if self._outlet is not None:
            self._outlet.close()
        for _ in range(max(int(min(timeout_s, CLOSE_S) / _POLL_S), LEAST_POLLS)):
            if program.poll() is not None:
                return
            await asyncio.sleep(_POLL_S)
        program.kill()
        program.wait()  # a killed program that does nothing but read ends at once

    def _say(self, line: str) -> None:
        if self._outlet is not None and self._outlet.write(line.encode()):
            return
        try:
            self._start()
        except OSError as error:
            logger.warning("no warden could be started (%s): killing this program may leave grandchildren", error)

    def _start(self) -> None:
        if self._program is not None:
            self._program.kill()
            self._program.wait()
            self._program = None
        read, write = make_pipe()
        try:
            self._program = subprocess.Popen(
                [sys.executable, "-I", "-S", _PROGRAM, str(os.getpid()), self._mark],
                stdin=read,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError:
            os.close(write)
            raise
        finally:
            os.close(read)
        self._outlet = Outlet(self._loop, write)
        with contextlib.suppress(BrokenPipeError):
            for group, started_at in self._groups.items():
                self._outlet.write(f"+{group} {started_at}\n".encode())
