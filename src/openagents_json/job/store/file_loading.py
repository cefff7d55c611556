"""Opening a file store: its snapshot and its journal are played back into a memory.

A torn tail (the last group of lines, as a power cut left it) is where the store ends: none of it was acknowledged.
Anything else that is not as it was written is damage, and refused with its place.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from openagents_json.errors import InvalidStore
from openagents_json.job.store.file_changes import (
    Change,
    Closed,
    End,
    JournalHeader,
    Misfit,
    SnapshotHeader,
    decode_change,
)
from openagents_json.job.store.file_folder import Contents, Tail, journal_name
from openagents_json.job.store.file_lines import Damage, RawLine, Stamps, begins_group, fault_of, raw_lines
from openagents_json.job.store.file_memory import JournaledMemory


class Damaged(Exception):
    """The store is not as it was written."""

    def __init__(self, damage: Damage) -> None:
        super().__init__(str(damage))
        self.damage = damage


@dataclass(slots=True)
class Loaded:
    """What opening found. `cut`: the torn tail, which does not count. `group`: where the last group of the last file
    begins, which alone need not be on the disk; `is_closed`: it is one line that says that the store was closed."""

    tail: Tail
    group: int = 0
    is_closed: bool = False
    snapshot_bytes: int = 0
    journal_bytes: int = 0
    cut: Damage | None = None
    stamps: Stamps = field(default_factory=Stamps)


def load(folder: Path, contents: Contents, memory: JournaledMemory, until: Tail | None = None) -> Loaded:
    """Play everything back, or all up to a place in the journal; `InvalidStore` names the place of damage."""
    try:
        return play_back(contents, memory, until)
    except Damaged as error:
        raise InvalidStore(
            f"{folder / error.damage.file} is damaged at line {error.damage.line:,} (byte {error.damage.byte:,}): "
            f"{error.damage.why}. Nothing was changed. `openagents store repair file:///{folder}` cuts it out and says "
            "what is lost; keep a copy of the folder."
        ) from None


def play_back(contents: Contents, memory: JournaledMemory, until: Tail | None = None) -> Loaded:
    """The same, with `Damaged` for damage."""
    base = contents.base
    loaded = Loaded(Tail(base, 0, 0))
    if base:
        _load_snapshot(contents.snapshots[base], memory, loaded)
    memory.ready()
    segments = sorted(number for number in contents.journals if number >= base)
    if until is not None:
        segments = [number for number in segments if number <= until.segment]
    check_sequence(contents, segments)
    for number in segments:
        loaded.tail = Tail(number, 0, loaded.tail.lines)
        if number < segments[-1]:
            end = header_of(contents.journals[number + 1]).after_bytes
            _load_segment(contents.journals[number], memory, loaded, end)
        else:
            end = until.size if until else None
            _load_segment(contents.journals[number], memory, loaded, end, is_last=until is None)
    return loaded


def check_sequence(contents: Contents, segments: list[int]) -> None:
    """`Damaged` when a file is missing between, before or after the others."""
    first = contents.base or 1
    needed = range(first, max([*segments, contents.base]) + 1)
    for number in needed:
        if number and number not in segments:
            raise Damaged(Damage(journal_name(number), 1, 0, 0, "the file is missing"))


def header_of(path: Path) -> JournalHeader:
    """The header of a journal file."""
    for raw in raw_lines(path):
        change = sound_change(raw)
        if isinstance(change, JournalHeader):
            return change
        raise Damaged(raw.damage("it is no header of a journal"))
    raise Damaged(Damage(path.name, 1, 0, 0, "the file is empty"))


def sound_change(raw: RawLine) -> Change:
    """What stands on a line. `Damaged` when it is not as it was written, or not understood."""
    if (fault := fault_of(raw.data)) is not None:
        raise Damaged(raw.damage(fault))
    try:
        return decode_change(raw.data)
    except msgspec.DecodeError as error:
        raise Damaged(raw.damage(f"it is sound and not understood ({error})")) from None


def _load_snapshot(path: Path, memory: JournaledMemory, loaded: Loaded) -> None:
    last: Change | None = None
    for number, raw in enumerate(raw_lines(path), 1):
        last = change = sound_change(raw)
        if (number == 1) != change.is_header or (number > 1 and change.n != number):
            raise Damaged(raw.damage(f"it is line {change.n:,} of a snapshot, and should be line {number:,}"))
        if isinstance(change, SnapshotHeader):
            loaded.tail.lines = change.lines_before
        play(raw, change, memory, loaded.stamps)
        loaded.snapshot_bytes += len(raw.data)
    if not isinstance(last, End):
        raise Damaged(Damage(path.name, 1, 0, 0, "the snapshot has no end"))


def play(raw: RawLine, change: Change, memory: JournaledMemory, stamps: Stamps) -> None:
    """Do what a line says."""
    try:
        change.apply(memory, stamps.at_us(change.at))
    except Misfit as error:
        raise Damaged(raw.damage(str(error))) from None


def _load_segment(
    path: Path, memory: JournaledMemory, loaded: Loaded, until: int | None, *, is_last: bool = False
) -> None:
    pending: list[tuple[RawLine, Change]] = []  # lines of a change whose last line has not come
    lines = raw_lines(path, until)
    for raw in lines:
        try:
            change = _next_change(raw, loaded, len(pending))
        except Damaged as error:
            is_torn = is_last and raw.line > 1 and fault_of(raw.data) is not None
            if not is_torn or any(begins_group(later.data) and fault_of(later.data) is None for later in lines):
                raise
            _cut(path, loaded, pending[0][0].line if pending else raw.line, error.damage.why)
            return
        pending.append((raw, change))
        if not change.more:
            for one, other in pending:
                play(one, other, memory, loaded.stamps)
                if other.durable is not None:
                    loaded.group = len(one.data) if other.is_header else one.byte
            loaded.is_closed = isinstance(change, Closed) and change.durable is not None
            if not change.is_header:
                loaded.tail.lines = change.n
            loaded.tail.size = raw.byte + len(raw.data)
            loaded.journal_bytes += sum(len(one.data) for one, _ in pending)
            pending = []
    if pending:
        why = "the rest of the change is missing"
        if not is_last:
            raise Damaged(pending[0][0].damage(why))
        _cut(path, loaded, pending[0][0].line, why)
    elif loaded.tail.size == 0 or (until is not None and loaded.tail.size != until):
        raise Damaged(Damage(path.name, 1, loaded.tail.size, 0, "the file ends too early"))


def _next_change(raw: RawLine, loaded: Loaded, pending: int) -> Change:
    """The change on a line of a journal, which has to be the next one."""
    change = sound_change(raw)
    expected = loaded.tail.lines + pending + (0 if raw.line == 1 else 1)
    if (raw.line == 1) != isinstance(change, JournalHeader) or change.n != expected:
        raise Damaged(raw.damage(f"it is line {change.n:,} of the store, and should be line {expected:,}"))
    if isinstance(change, JournalHeader) and change.segment != loaded.tail.segment:
        raise Damaged(raw.damage(f"it belongs to journal {change.segment}"))
    return change


def _cut(path: Path, loaded: Loaded, line: int, why: str) -> None:
    size = path.stat().st_size
    loaded.cut = Damage(path.name, line, loaded.tail.size, size - loaded.tail.size, why)
