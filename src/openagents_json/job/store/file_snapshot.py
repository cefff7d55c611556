"""Writing a snapshot of a file store, beside the journal that goes on, and taking away what it stands for.

It is written under another name and renamed when it is on the disk; only then the older files go. So at each moment
there is one snapshot, or none, with all journal files after it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

from openagents_json.job.store import file_disk as disk
from openagents_json.job.store.file_changes import Change, End, SnapshotHeader, encode_change
from openagents_json.job.store.file_folder import contents_of, snapshot_name
from openagents_json.job.store.file_images import JobImage
from openagents_json.job.store.file_lines import Stamps, body, seal

BATCH_JOBS = 64  # copied in one turn of the loop
# Encoding holds the interpreter, and a large sync holds up the small ones of the journal: neither for long at a time.
WORK_S = 0.002
REST_S = 0.004
SYNC_BYTES = 1024 * 1024
BUFFER_BYTES = 64 * 1024


class SnapshotWriter:
    """Writes one snapshot. Each call may be made in another thread, one at a time; each may raise `OSError`."""

    def __init__(self, folder: Path, header: SnapshotHeader, at_us: int, *, rests: bool = True) -> None:
        self._folder = folder
        self._segment = header.segment
        self._stamp = Stamps().of(at_us)
        self._rests = rests
        self._path = folder / f"{snapshot_name(header.segment)}.tmp"
        self._fd = disk.create(self._path)
        self._lines = 0
        self._parts: list[bytes] = []
        self._gathered = 0
        self._unsynced = 0
        self.bytes = 0
        self.write([header])

    def write(self, changes: Iterable[Change]) -> None:
        """Add lines."""
        began = time.perf_counter()
        for change in changes:
            self._lines += 1
            line = seal(self._lines, body(self._stamp, encode_change(change)))
            self._parts.append(line)
            self._gathered += len(line)
            if self._gathered >= BUFFER_BYTES:
                self._flush()
            if self._rests and time.perf_counter() - began > WORK_S:
                time.sleep(REST_S)
                began = time.perf_counter()

    def write_jobs(self, images: Iterable[JobImage]) -> None:
        """Add jobs."""
        self.write(line for image in images for line in image.lines())

    def finish(self, jobs: int) -> None:
        """End it, and put it in the place of all that it stands for."""
        self.write([End(jobs=jobs)])
        self._flush()
        disk.sync(self._fd)
        self.close()
        disk.rename(self._path, snapshot_name(self._segment))
        disk.sync_folder(self._folder)
        remove_superseded(self._folder)

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def give_up(self) -> None:
        """Leave nothing of it."""
        with contextlib.suppress(OSError):
            self.close()
            disk.remove(self._path)

    def _flush(self) -> None:
        disk.write(self._fd, b"".join(self._parts))
        self.bytes += self._gathered
        self._unsynced += self._gathered
        self._parts, self._gathered = [], 0
        if self._unsynced >= SYNC_BYTES:
            disk.sync(self._fd)
            self._unsynced = 0


def remove_superseded(folder: Path) -> None:
    """Take away what the newest snapshot stands for, and what was not finished."""
    for path in contents_of(folder).superseded():
        disk.remove(path)
