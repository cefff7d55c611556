"""Locks of the kernel on files: they end with the process that holds them, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

LOOK_S = 0.002  # between two looks at a lock that is not waited for without end


class FileLock:
    """An advisory lock on a file, which stays there. Freed by the kernel when the process dies, however it dies."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def try_acquire(self) -> bool:
        """Take the lock if it is free."""
        assert self._fd is not None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    @contextlib.contextmanager
    def held(self, patience_s: float | None = None) -> Iterator[None]:
        """Hold the lock, waiting for it as long as it takes: others hold it for one transaction only. With patience
        `TimeoutError` after so many seconds: the process that holds it may have been stopped."""
        assert self._fd is not None
        if patience_s is None:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
        else:
            until_s = time.monotonic() + patience_s
            while not self.try_acquire():
                if time.monotonic() >= until_s:
                    raise TimeoutError(f"{self.path} was not free for {patience_s:g} seconds")
                time.sleep(LOOK_S)
        try:
            yield
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go of the lock and the file."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
