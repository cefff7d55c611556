"""Which processes a test has left behind, found by a mark in their environment: a grandchild keeps it when it leaves
the group, the session or its parent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

VARIABLE = "OPENAGENTS_TEST_MARK"
GONE_S = 5.0  # a warden, or a process that was told to exit, needs a moment


class Mark:
    """Every process that is started while it is set inherits it."""

    def __init__(self) -> None:
        self.text = f"{VARIABLE}={uuid.uuid4()}"

    def processes(self) -> list[str]:
        """Of the processes that carry the mark and run, their id and command line. Linux."""
        return [f"{pid} {command}" for pid, command in self._marked()]

    async def wait_gone(self) -> list[str]:
        """The processes that are still there after some seconds; normally none."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GONE_S):
                while self.processes():  # noqa: ASYNC110 - other processes tell nobody
                    await asyncio.sleep(0.01)
        return self.processes()

    def _marked(self) -> Iterator[tuple[int, str]]:
        wanted = self.text.encode()
        for place in Path("/proc").glob("[0-9]*"):
            if int(place.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                if wanted in (place / "environ").read_bytes().split(b"\0"):  # empty for zombies
                    command = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    yield int(place.name), command[:120]


@contextlib.contextmanager
def marked() -> Iterator[Mark]:
    """A mark, set for as long as the block lasts."""
    mark, before = Mark(), os.environ.get(VARIABLE)
    os.environ[VARIABLE] = mark.text.removeprefix(f"{VARIABLE}=")
    try:
        yield mark
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before
