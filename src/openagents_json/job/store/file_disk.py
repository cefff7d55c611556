"""What the file store asks of the disk, and nothing else of it does: each call is one that a power cut can fall before
or after, and that can fail."""

from __future__ import annotations

import errno
import os
from pathlib import Path

BUFFER_BYTES = 1024 * 1024  # read at a time


def create(path: Path) -> int:
    """A new, empty file to append to; one that is there is emptied."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o644)


def append_to(path: Path) -> int:
    """A file that is there, to append to."""
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)


def write(fd: int, data: bytes) -> None:
    """Write all of it, however many calls that takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def sync(fd: int) -> None:
    """Return when all that was written is on the disk."""
    os.fdatasync(fd)


def sync_folder(folder: Path) -> None:
    """Return when the names in a folder are on the disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def rename(path: Path, name: str) -> Path:
    """Give a file another name in its folder, in place of what has that name."""
    return path.replace(path.with_name(name))


def remove(path: Path) -> None:
    """Take a file away; harmless when it is gone."""
    path.unlink(missing_ok=True)


def cut(path: Path, size: int) -> None:
    """Shorten a file to `size` bytes, durably."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.ftruncate(fd, size)
        os.fsync(fd)
    finally:
        os.close(fd)


def rewrite(path: Path, first: int, last: int, *, syncs: bool) -> None:
    """Write the bytes from `first` up to `last` of a file once more, as they are read. What a process wrote before it
    died, or before a sync failed, may be in the memory of the system only, and no later sync need bring it to the disk;
    what is written again is synced again."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        while first < last:
            data = os.pread(fd, min(BUFFER_BYTES, last - first), first)
            if not data:
                raise OSError(errno.EIO, "The file has become shorter")
            first += os.pwrite(fd, data, first)
        if syncs:
            sync(fd)
    finally:
        os.close(fd)


def check_room(path: Path, size: int) -> None:
    """An `OSError` when a file of that size cannot be written now. Nothing is left of the attempt."""
    fd = create(path)
    try:
        while size > 0:
            write(fd, bytes(min(size, BUFFER_BYTES)))
            size -= BUFFER_BYTES
        sync(fd)
    finally:
        os.close(fd)
        remove(path)
