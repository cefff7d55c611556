"""What Linux tells about processes in `/proc`. Elsewhere nothing is to be seen, and every list here is empty.

Read with plain system calls: a look at all processes takes about 10 µs for each, and the event loop waits for it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

ENVIRONMENT_BYTES = 256 * 1024  # looked through for a mark
_STAT_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Entry:
    """One process as it was when it was looked at."""

    pid: int
    state: str  # a letter; Z and X have ended
    parent: int
    group: int
    started: str  # in the kernel's ticks since boot: with the id, a name that is never used twice

    @property
    def runs(self) -> bool:
        """Whether it had not ended."""
        return self.state not in "ZX"

    def still_runs(self) -> bool:
        """Whether it, and not another of the same number, has not ended now."""
        now = entry(self.pid)
        return now is not None and now.runs and now.started == self.started


def entries() -> Iterator[Entry]:
    """All processes that are there."""
    for pid in _pids():
        if (found := entry(pid)) is not None:
            yield found


def entry(pid: int) -> Entry | None:
    """One process, or None if it is not there."""
    # The name in the middle may contain anything, so the fields are counted from its end.
    fields = _read(pid, "stat", _STAT_BYTES).rpartition(b")")[2].split()
    if len(fields) < 20:
        return None
    return Entry(pid, fields[0].decode(), int(fields[1]), int(fields[2]), fields[19].decode())


def marked(mark: str) -> Iterator[Entry]:
    """The running processes that have inherited an entry `mark` in their environment, wherever they have gone since;
    but for those whose environment was cleared on the way."""
    wanted = mark.encode()
    for pid in _pids():
        if wanted in _read(pid, "environ", ENVIRONMENT_BYTES).split(b"\0"):
            found = entry(pid)
            if found is not None and found.runs:
                yield found


def _pids() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 (Path takes thrice as long)
    except OSError:
        return []


def _read(pid: int, name: str, limit_bytes: int) -> bytes:
    with contextlib.suppress(OSError):
        file = os.open(f"/proc/{pid}/{name}", os.O_RDONLY)
        try:
            return os.read(file, limit_bytes)
        finally:
            os.close(file)
    return b""
