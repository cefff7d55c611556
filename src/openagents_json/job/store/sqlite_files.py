"""The files beside a SQLite database that let several processes share it safely.

    <db>.lock      held (flock) for each write transaction and each checkpoint, by whoever writes
    <db>.owner     held for life by the one process that checkpoints; the others leave the WAL to it
    <db>.workers/  one file per worker, held for the worker's life: a free one means its worker is dead. They are made,
                   looked at and removed only by who holds <db>.lock, so nobody meets one half made

SQLite 3.7.0 – 3.51.2 can corrupt a database when two connections write and checkpoint at the same moment (the
WAL-reset bug). The first two files keep every version clear of it. flock belongs to the open file, not to the process,
so two stores in one process exclude each other as well.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from pathlib import Path
from urllib.parse import quote, unquote

from openagents_json.job.store.filelock import FileLock as FileLock


class WorkerFiles:
    """Signs of life: each live worker holds the lock of its own file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[str, FileLock] = {}

    def begin(self, worker: str) -> None:
        """Show a sign of life from now on. May be repeated."""
        if worker not in self._held:
            self._folder.mkdir(exist_ok=True)
            lock = FileLock(self._path(worker))
            lock.try_acquire()  # if it is taken, another store object shows it for the same worker
            self._held[worker] = lock

    def end(self, worker: str) -> None:
        """Take the sign away. Harmless when there is none of ours."""
        if lock := self._held.pop(worker, None):
            lock.path.unlink(missing_ok=True)
            lock.close()

    def end_all(self, but: Collection[str] = ()) -> None:
        """Take every sign of ours away, but for some: those stay until the process ends."""
        for worker in list(self._held):
            if worker not in but:
                self.end(worker)
        with contextlib.suppress(OSError):
            self._folder.rmdir()  # works when it is empty

    def sweep(self) -> None:
        """Remove the files of dead workers."""
        for path in self._folder.iterdir() if self._folder.is_dir() else ():
            self.is_alive(unquote(path.name.removesuffix(".alive")))

    def is_alive(self, worker: str) -> bool:
        """Whether some process holds the worker's file. The file of a dead worker is removed on the way."""
        if worker in self._held:
            return True
        path = self._path(worker)
        if not path.exists():
            return False
        lock = FileLock(path)
        try:
            if not lock.try_acquire():
                return True
            path.unlink(missing_ok=True)
            return False
        finally:
            lock.close()

    def _path(self, worker: str) -> Path:
        return self._folder / (quote(worker, safe="") + ".alive")  # a name is no path, whatever stands in it
