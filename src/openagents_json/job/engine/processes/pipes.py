"""The parent's ends of pipes, in the event loop: reading whatever comes, writing whatever fits."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable

CHUNK_BYTES = 64 * 1024  # the usual capacity of a pipe
DRAINED_BYTES = 1024 * 1024  # the largest capacity that a component may give to a pipe without privileges


def make_pipe() -> tuple[int, int]:
    """A read and a write end, neither of them 0, 1 or 2 (a program that closed those gets them from `os.pipe`)."""
    ends: list[int] = []
    for end in os.pipe():
        low: list[int] = []
        while end < 3:
            low.append(end)
            end = os.dup(end)
        for number in low:
            os.close(number)
        ends.append(end)
    return ends[0], ends[1]


class Inlet:
    """A read end. Whatever comes is handed on in chunks, one per turn of the loop, so that a flood stops nobody."""

    def __init__(self, loop: asyncio.AbstractEventLoop, end: int, take: Callable[[bytes], None]) -> None:
        os.set_blocking(end, False)
        self._loop = loop
        self._end = end
        self._take = take
        self._is_open = True
        loop.add_reader(end, self._read)

    def drain(self) -> None:
        """Hand on what is there now."""
        taken = 0
        while self._is_open and taken < DRAINED_BYTES:
            size = self._read()
            if not size:
                return
            taken += size

    def close(self) -> None:
        """A second call does nothing."""
        if self._is_open:
            self._is_open = False
            self._loop.remove_reader(self._end)
            os.close(self._end)

    def _read(self) -> int:
        """How many bytes there were."""
        try:
            chunk = os.read(self._end, CHUNK_BYTES)
        except BlockingIOError:
            return 0
        except OSError:
            chunk = b""
        if not chunk:
            self.close()  # nobody has the other end any more
            return 0
        self._take(chunk)
        return len(chunk)


class Outlet:
    """A write end. What the pipe cannot take now is kept and follows by itself."""

    def __init__(self, loop: asyncio.AbstractEventLoop, end: int) -> None:
        os.set_blocking(end, False)
        self._loop = loop
        self._end = end
        self._is_open = True
        self._rest = b""  # what is still to be written; not empty exactly while the loop watches the end

    def write(self, data: bytes) -> bool:
        """False if nobody has the other end any more."""
        if not self._is_open:
            return False
        if self._rest:
            self._rest += data
            return True
        try:
            written = os.write(self._end, data)
        except BlockingIOError:
            written = 0
        except OSError:
            self.close()
            return False
        if written < len(data):
            self._rest = data[written:]
            self._loop.add_writer(self._end, self._write_rest)
        return True

    def close(self) -> None:
        """The other side sees the end; what was kept is dropped. A second call does nothing."""
        if self._is_open:
            self._is_open = False
            if self._rest:
                self._loop.remove_writer(self._end)
                self._rest = b""
            os.close(self._end)

    def _write_rest(self) -> None:
        try:
            written = os.write(self._end, self._rest)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        self._rest = self._rest[written:]
        if not self._rest:
            with contextlib.suppress(ValueError):
                self._loop.remove_writer(self._end)
