"""The folder of a file store: what lies in it, whether it is ours, and who may use it.

journal-00000007.jsonl     changes, in order; the one with the highest number is written to
snapshot-00000007.jsonl    all that stood before journal 7
*.tmp                      one of the two that was not finished
lock                       locked by the one process that uses the store; its id stands in it
damaged-00000001.jsonl     what a repair has cut out
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from dataclasses import dataclass
from pathlib import Path

import msgspec

from openagents_json.errors import InvalidStore, SchemaTooNew, StoreError, StoreFull, StoreUnavailable
from openagents_json.job.store import file_disk as disk
from openagents_json.job.store.file_changes import Change, JournalHeader, encode_change
from openagents_json.job.store.file_lines import Stamps, body, seal
from openagents_json.job.store.filelock import FileLock

FORMAT = 1  # of the lines; a higher one is refused
LOCK = "lock"
_NAME = re.compile(r"(journal|snapshot|damaged)-(\d{8})\.jsonl\Z")
_HEADER_BYTES = 4_096  # of the first line, to find its format


def journal_name(segment: int) -> str:
    """The name of a journal file."""
    return f"journal-{segment:08}.jsonl"


def snapshot_name(segment: int) -> str:
    """The name of the snapshot that goes before that journal file."""
    return f"snapshot-{segment:08}.jsonl"


@dataclass(frozen=True, slots=True)
class Contents:
    """What lies in a folder, by number."""

    journals: dict[int, Path]
    snapshots: dict[int, Path]
    damaged: dict[int, Path]
    unfinished: list[Path]
    others: list[Path]

    @property
    def base(self) -> int:
        """The number of the newest snapshot; 0 when there is none."""
        return max(self.snapshots, default=0)

    @property
    def highest(self) -> int:
        """The highest number that is in use; 0 when none is."""
        return max([*self.journals, *self.snapshots], default=0)

    def in_force(self) -> list[Path]:
        """The files that make up the store, in order."""
        journals = [path for number, path in sorted(self.journals.items()) if number >= self.base]
        return [self.snapshots[self.base], *journals] if self.snapshots else journals

    def superseded(self) -> list[Path]:
        """Files that a newer snapshot stands for, and unfinished ones."""
        old = [path for files in (self.journals, self.snapshots) for n, path in files.items() if n < self.base]
        return sorted(old) + self.unfinished


def contents_of(folder: Path) -> Contents:
    """What lies in a folder that is there."""
    found = Contents({}, {}, {}, [], [])
    for path in sorted(folder.iterdir()):
        if match := _NAME.match(path.name):
            kinds = {"journal": found.journals, "snapshot": found.snapshots, "damaged": found.damaged}
            kinds[match[1]][int(match[2])] = path
        elif path.suffix == ".tmp" and _NAME.match(path.name.removesuffix(".tmp")):
            found.unfinished.append(path)
        elif path.name != LOCK:
            found.others.append(path)
    return found


def check_place(folder: Path) -> None:
    """Refuse what cannot be a store of this version, with the reason and without writing anything."""
    if not folder.exists():
        if not folder.parent.is_dir():
            what = "is no folder" if folder.parent.exists() else "does not exist"
            raise StoreUnavailable(f"{folder} cannot be created: {folder.parent} {what}.")
        return
    if not folder.is_dir():
        raise InvalidStore(f"{folder} is a file. A file store is a folder; for a SQLite file say sqlite:///{folder}.")
    found = contents_of(folder)
    for path in found.in_force():
        check_format(path)
    if not found.highest and found.others:
        names = ", ".join(path.name for path in found.others[:3])
        raise InvalidStore(f"{folder} is the folder of something else: it holds {names}, and no journal of jobs.")


def check_format(path: Path) -> None:
    """`SchemaTooNew` for a file of a newer version. What does not say its version is judged when it is read."""
    with path.open("rb") as file:
        first = file.readline(_HEADER_BYTES)
    try:
        format = msgspec.json.decode(first)["format"]
    except (msgspec.DecodeError, KeyError, TypeError):
        return
    if isinstance(format, int) and format > FORMAT:
        raise SchemaTooNew(
            f"{path} was written by a newer version of openagents_json (format {format}; this one knows {FORMAT}). "
            "Nothing was changed. Install the newer version to use it."
        )


def lock_folder(folder: Path) -> FileLock:
    """The lock of a store, taken. `StoreUnavailable` when somebody has it; nothing is waited for."""
    lock = FileLock(folder / LOCK)
    if lock.try_acquire():
        return lock
    lock.close()
    holder = "another process"
    with contextlib.suppress(OSError, ValueError):
        holder = f"process {int((folder / LOCK).read_text())}"
    raise StoreUnavailable(
        f"{folder} is in use by {holder}. A file store belongs to one process at a time: end that one first, or keep "
        "jobs in sqlite:///jobs.db, which several processes may share."
    )


def sign_lock(folder: Path) -> None:
    """Say in the lock which process has it. For people: nothing depends on it."""
    with contextlib.suppress(OSError):  # a full disk: what is there can still be read
        (folder / LOCK).write_text(f"{os.getpid()}\n")


def translate(error: OSError, folder: Path) -> StoreError:
    """An error of the disk as one of the store."""
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StoreFull(f"{folder} cannot be written: {reason}. Nothing was accepted; free some space.")
    return StoreUnavailable(f"{folder} cannot be read or written: {reason}. Nothing was accepted.")


@dataclass(slots=True)
class Tail:
    """Where the journal ends: the next line has number `lines` + 1 and begins at byte `size` of that file. All before
    it is on the disk."""

    segment: int
    size: int
    lines: int


def header_line(change: Change, lines: int, at_us: int) -> bytes:
    """The first line of a file, after so many lines of the store."""
    return seal(lines, body(Stamps().of(at_us), encode_change(change)), durable=lines)


def begin_segment(folder: Path, before: Tail, aging_s: float, at_us: int) -> tuple[int, Tail]:
    """A new journal file after `before`, open for writing, and where it ends. It gets its name when it is durable. With
    an `OSError` before that nothing has changed."""
    segment = before.segment + 1
    header = JournalHeader(
        format=FORMAT, segment=segment, aging_s=aging_s, after_bytes=before.size if before.segment else None
    )
    line = header_line(header, before.lines, at_us)
    unfinished = folder / f"{journal_name(segment)}.tmp"
    fd = disk.create(unfinished)
    try:
        disk.write(fd, line)
        disk.sync(fd)
        disk.rename(unfinished, journal_name(segment))
        disk.sync_folder(folder)
    except BaseException:
        os.close(fd)
        with contextlib.suppress(OSError):
            disk.remove(unfinished)
        raise
    return fd, Tail(segment, len(line), before.lines)
