"""Repairing a damaged file store: what is damaged is cut out and kept aside, with all that does not fit without it.

Of each job the history is kept up to the first change that is missing. A job whose beginning is damaged is lost as a
whole. The result is a new snapshot with an empty journal; the damaged parts stand in a file beside.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from openagents_json.clock import Clock, SystemClock
from openagents_json.errors import InvalidStore, StoreUnavailable
from openagents_json.job.store import file_disk as disk
from openagents_json.job.store.arrival import DEFAULT_AGING_S
from openagents_json.job.store.base import DEFAULT_LEASE_S
from openagents_json.job.store.file_changes import (
    Accepted,
    Change,
    Committed,
    Deleted,
    History,
    JournalHeader,
    Kept,
    Misfit,
    Restored,
    SnapshotHeader,
)
from openagents_json.job.store.file_folder import (
    FORMAT,
    Contents,
    Tail,
    begin_segment,
    check_place,
    contents_of,
    lock_folder,
    translate,
)
from openagents_json.job.store.file_lines import Damage, RawLine, Stamps, raw_lines
from openagents_json.job.store.file_loading import Damaged, header_of, load, sound_change
from openagents_json.job.store.file_memory import Capture, JournaledMemory
from openagents_json.job.store.file_snapshot import SnapshotWriter
from openagents_json.job.store.memory import MemoryJobStore

_JOB = re.compile(rb'"job":"([^"\\]{1,100})"')


@dataclass(frozen=True, slots=True)
class JobLoss:
    """What one job lost. `kept_events` is None when all of it is gone. `lost_events` counts those that are known of;
    0 means that something else was lost, such as output or a request."""

    job_id: str
    kept_events: int | None
    lost_events: int

    def __str__(self) -> str:
        lost = f"{self.lost_events:,} event{'' if self.lost_events == 1 else 's'}"
        if self.kept_events is None:
            return f"job {self.job_id} is lost" + (f", with {lost} that were found" if self.lost_events else "")
        if self.lost_events:
            return f"job {self.job_id} keeps its first {self.kept_events:,} events and loses at least {lost}"
        return f"job {self.job_id} keeps its {self.kept_events:,} events and loses something beside them"


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What a repair found and did. Nothing was changed when there is no damage. `set_aside` counts the sound lines that
    do not fit without the damaged ones; `aside` is the file that has all of them."""

    path: Path
    jobs: int
    damage: tuple[Damage, ...] = ()
    set_aside: int = 0
    losses: tuple[JobLoss, ...] = ()
    aside: Path | None = None


def repair(path: str | Path, clock: Clock | None = None) -> RepairReport:
    """Make a damaged store one that opens. `StoreUnavailable` when there is none, when a process uses it or when the
    disk fails, `InvalidStore` and `SchemaTooNew` for what is no store of this version."""
    folder, clock = Path(os.path.realpath(path)), clock or SystemClock()
    try:
        check_place(folder)
        if not folder.is_dir() or not contents_of(folder).highest:
            raise StoreUnavailable(f"There is no file store at {folder}.")
        lock = lock_folder(folder)
        try:
            return _repair(folder, clock)
        finally:
            lock.close()
    except OSError as error:
        raise translate(error, folder) from None


def _repair(folder: Path, clock: Clock) -> RepairReport:
    contents = contents_of(folder)
    memory = _memory(clock)
    try:
        load(folder, contents, memory)
    except InvalidStore:
        pass
    else:
        return RepairReport(folder, len(memory._jobs))
    aside = _Aside(folder / f"damaged-{max(contents.damaged, default=0) + 1:08}.jsonl")
    salvage = _Salvage(_memory(clock), aside)
    try:
        salvage.read(contents)
        aside.finish()
        _write(folder, contents, salvage, clock.now_us())
    finally:
        aside.close()
    return RepairReport(
        folder, len(salvage.memory._jobs), tuple(salvage.damage), salvage.set_aside, salvage.losses(), aside.path
    )


def _memory(clock: Clock) -> JournaledMemory:
    return JournaledMemory(clock, aging_s=DEFAULT_AGING_S, lease_s=DEFAULT_LEASE_S)


def _write(folder: Path, contents: Contents, salvage: _Salvage, now_us: int) -> None:
    """A new journal, and a snapshot before it that stands for all that there was."""
    memory = salvage.memory
    last = contents.journals.get(contents.highest)
    before = Tail(contents.highest, last.stat().st_size if last else 0, salvage.lines)
    fd, tail = begin_segment(folder, before, memory.aging_s, now_us)
    os.close(fd)
    capture = Capture(memory, FORMAT)
    writer = SnapshotWriter(folder, capture.header(tail.segment, tail.lines), now_us, rests=False)
    try:
        writer.write(capture.definitions())
        for images in capture.batches(1_000):
            writer.write_jobs(images)
        writer.write(capture.others())
        writer.finish(capture.jobs)
    except BaseException:
        writer.give_up()
        raise


@dataclass
class _Aside:
    """The file of what is cut out: one JSON object for each line, {"file", "line", "byte", "why", "text"}, or "base64"
    in place of "text" for bytes that are none."""

    path: Path
    _fd: int = -1

    def add(self, raw: RawLine, why: str) -> None:
        entry = {"file": raw.file, "line": raw.line, "byte": raw.byte, "why": why}
        try:
            entry["text"] = raw.data.decode()
        except UnicodeDecodeError:
            entry["base64"] = base64.b64encode(raw.data).decode()
        if self._fd < 0:
            self._fd = disk.create(self.path)
        disk.write(self._fd, msgspec.json.encode(entry) + b"\n")

    def finish(self) -> None:
        if self._fd < 0:
            self._fd = disk.create(self.path)  # a file that is missing leaves nothing to keep
        disk.sync(self._fd)
        disk.sync_folder(self.path.parent)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


@dataclass
class _Salvage:
    """Plays back what can be, and sets the rest aside."""

    memory: JournaledMemory
    aside: _Aside
    damage: list[Damage] = field(default_factory=list)
    set_aside: int = 0
    lines: int = 0  # the highest number of a line
    _known: dict[str, int] = field(default_factory=dict)  # job → number of its last event that was found, of those hit
    _stamps: Stamps = field(default_factory=Stamps)

    def read(self, contents: Contents) -> None:
        """Read the whole store."""
        if contents.base:
            self._read_lines(raw_lines(contents.snapshots[contents.base]))
            self._drop_incomplete()
        self.memory.ready()
        numbers = range(contents.base or 1, contents.highest + 1)
        for number in numbers:
            path = contents.journals.get(number)
            if path is None:
                self.damage.append(Damage(f"journal-{number:08}.jsonl", 1, 0, 0, "the file is missing"))
            else:
                self._read_lines(raw_lines(path, self._end_of(contents, number)))

    def losses(self) -> tuple[JobLoss, ...]:
        """What each job lost, by id."""
        found = []
        for job_id, last in sorted(self._known.items()):
            job = self.memory._jobs.get(job_id)
            kept = len(job.events) if job else 0
            found.append(JobLoss(job_id, kept if job else None, max(0, last - kept)))
        return tuple(found)

    def _end_of(self, contents: Contents, number: int) -> int | None:
        """How much of a journal counts, as the next one says, if that can be read."""
        following = contents.journals.get(number + 1)
        try:
            return header_of(following).after_bytes if following else None
        except Damaged:
            return None

    def _read_lines(self, lines: Iterable[RawLine]) -> None:
        pending: list[tuple[RawLine, Change]] = []  # lines that count together
        is_broken = False  # a line of theirs is damaged: the others are set aside, too
        for raw in lines:
            try:
                change = sound_change(raw)
            except Damaged as error:
                self._cut_out(raw, error.damage)
                self._drop(pending, "the change is not whole")
                pending, is_broken = [], True
                continue
            if not isinstance(change, SnapshotHeader | JournalHeader | Kept | History):
                self.lines = max(self.lines, change.n)
            if not change.joined:
                self._drop(pending, "the change is not whole")
                pending, is_broken = [], False
            if is_broken:
                self._drop([(raw, change)], "the change is not whole")
                continue
            pending.append((raw, change))
            if not change.more:
                self._play(pending)
                pending = []
        self._drop(pending, "the change is not whole")

    def _play(self, pending: list[tuple[RawLine, Change]]) -> None:
        for raw, change in pending:
            try:
                change.apply(self.memory, self._stamps.at_us(change.at))
            except Misfit as error:
                if not isinstance(change, Deleted):  # it is gone, which was wanted
                    self._drop([(raw, change)], str(error))
            if isinstance(change, SnapshotHeader):
                self.lines = max(self.lines, change.lines_before)

    def _drop(self, dropped: Iterable[tuple[RawLine, Change]], why: str) -> None:
        for raw, change in dropped:
            self.set_aside += 1
            self.aside.add(raw, why)
            if change.job_id is not None:
                self._hit(change.job_id, _last_event(change))

    def _cut_out(self, raw: RawLine, damage: Damage) -> None:
        self.damage.append(damage)
        self.aside.add(raw, damage.why)
        for job_id in _JOB.findall(raw.data):  # as far as it can still be read
            self._hit(job_id.decode("utf-8", "replace"), 0)

    def _hit(self, job_id: str, last_event: int) -> None:
        self._known[job_id] = max(self._known.get(job_id, 0), last_event)

    def _drop_incomplete(self) -> None:
        """Jobs of the snapshot whose history is not all there: their row belongs to an event that is missing."""
        for job in list(self.memory._jobs.values()):
            if len(job.events) != job.row.last_event:
                self._hit(job.id, job.row.last_event)
                for rest in (Kept(job=job.id, kept=job, events=0), History(job=job.id, events=job.events)):
                    self.aside.add(RawLine("snapshot", 0, 0, msgspec.json.encode(rest)), "its history is not whole")
                MemoryJobStore._forget(self.memory, job)


def _last_event(change: Change) -> int:
    match change:
        case Accepted():
            return change.new.row.last_event
        case Committed():
            return change.row.last_event
        case Kept() | Restored():
            return change.kept.row.last_event
        case History():
            return change.events[-1].number if change.events else 0
    return 0
