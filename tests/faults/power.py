"""A disk that loses its power: what a folder holds after a cut, told from the record of the calls that changed it.

What was synced is there. Of the rest each sector of 512 bytes is there or not, by chance, and so is a change of size.
Of the names that were made, changed or taken away in a folder since it was synced, the first few are as they became; a
file's own sync does not save its name. Only calls that had ended when a sync began are covered by it.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from tests.faults.tracing import SYNCS, WRITES, Call

SECTOR = 512


@dataclass(eq=False)
class Change:
    """Of a file's content: bytes at an offset, or a size."""

    offset: int
    data: bytes | None  # None: the size becomes `offset`
    has_ended: bool

    def apply(self, content: bytearray) -> None:
        if self.data is None:
            _resize(content, self.offset)
        else:
            _put(content, self.offset, self.data)

    def apply_partly(self, content: bytearray, random: Random) -> bool:
        """Do a random half of it; whether something was left out."""
        if self.data is None:
            keeps = random.random() < 0.5
            if keeps:
                _resize(content, self.offset)
            return not keeps
        end, at, all_kept = self.offset + len(self.data), self.offset, True
        while at < end:
            sector_end = min((at // SECTOR + 1) * SECTOR, end)
            if random.random() < 0.5:
                _put(content, at, self.data[at - self.offset : sector_end - self.offset])
            else:
                all_kept = False
            at = sector_end
        return not all_kept


@dataclass(eq=False)
class File:
    synced: bytearray = field(default_factory=bytearray)
    unsynced: list[Change] = field(default_factory=list)
    size: int = 0  # as programs see it

    def change(self, offset: int, data: bytes | None, *, has_ended: bool) -> Change:
        change = Change(offset, data, has_ended)
        self.unsynced.append(change)
        self.size = offset if data is None else max(self.size, offset + len(data))
        return change

    def sync(self, changes: list[Change]) -> None:
        for change in changes:
            if change in self.unsynced:
                self.unsynced.remove(change)
                change.apply(self.synced)

    def after_cut(self, random: Random) -> tuple[bytes, bool]:
        """The content, and whether some of what programs have seen is missing."""
        content, is_torn = bytearray(self.synced), False
        for change in self.unsynced:
            is_torn |= change.apply_partly(content, random)
        return bytes(content), is_torn


Entry = File | None  # a file, or a folder
NamesChange = list[tuple[str, Entry, bool]]  # paths, what they lead to, and whether they are there from then on


class Disk:
    """The folder `root`, which began empty, as the calls of a record change it one by one. Files called `but` are not
    on it."""

    def __init__(self, root: Path, but: Collection[str] = ()) -> None:
        self._root = os.path.realpath(root)
        self._but = but
        self._names: dict[str, Entry] = {}  # as programs see them
        self._synced: dict[str, Entry] = {}  # as they are after a cut
        self._unsynced: dict[str, list[NamesChange]] = defaultdict(list)  # by folder, in their order
        self._on: dict[int, tuple[Call, Any]] = {}  # by thread: the call that is on, and what `_begin` said of it

    def apply(self, call: Call) -> None:
        """The next call of the record."""
        if call.begins:
            self._on[call.thread] = (call, self._begin(call))
        if call.result is not None:
            begun, what = self._on.pop(call.thread)
            if call.result >= 0:
                self._end(begun, what)
            else:
                assert not isinstance(what, Change), f"a write failed: {begun.name} {begun.target()}"

    def image(self, random: Random, folder: Path) -> list[str]:
        """Write what is there after a cut now into an empty folder; the names of files that lack some content."""
        names, torn = dict(self._synced), list[str]()
        for changes in self._unsynced.values():
            for change in changes[: random.randint(0, len(changes))]:
                _rename(names, change)
        for path, entry in sorted(names.items()):
            target = folder / os.path.relpath(path, self._root)
            if not target.parent.is_dir():
                continue  # its folder's name is lost, and all that is in it
            if entry is None:
                target.mkdir()
            else:
                content, is_torn = entry.after_cut(random)
                torn += [target.name] * is_torn
                target.write_bytes(content)
        return torn

    def _begin(self, call: Call) -> Any:
        """Of a write its change, which may get to the disk from now on. Of a sync what it will cover."""
        if call.name in WRITES:
            if file := self._file(call.target()):
                offset = call.last_number() if call.name == "pwrite64" else file.size  # else it is appended
                return file.change(offset, call.data(), has_ended=False)
        elif call.name in SYNCS:
            if file := self._file(call.target()):
                return [change for change in file.unsynced if change.has_ended]
            return len(self._unsynced[call.target()])
        return None

    def _end(self, call: Call, begun: Any) -> None:
        if call.name in WRITES:
            if begun is not None:
                begun.has_ended = True
        elif call.name in SYNCS:
            if isinstance(begun, int):
                self._sync_names(call.target(), begun)
            elif file := self._file(call.target()):
                file.sync(begun)
        elif call.name == "ftruncate":
            if file := self._file(call.target()):
                file.change(call.last_number(), None, has_ended=True)
        elif call.name == "openat":
            if "O_CREAT" in call.arguments or "O_TRUNC" in call.arguments:
                self._create(call)
        else:
            self._change_names(call)

    def _file(self, path: str) -> File | None:
        return self._names.get(path)

    def _has_place(self, path: str) -> bool:
        return Path(path).is_relative_to(self._root) and Path(path).name not in self._but

    # ── names ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _create(self, call: Call) -> None:
        path = call.strings()[0]
        if file := self._file(path):
            if "O_TRUNC" in call.arguments:
                file.change(0, None, has_ended=True)
        elif self._has_place(path) and path not in self._names:
            self._note([(path, File(), True)])

    def _change_names(self, call: Call) -> None:
        paths = call.strings()
        if not any(map(self._has_place, paths)):
            return
        if call.name in ("mkdir", "mkdirat"):
            self._note([(paths[0], None, True)])
        elif call.name in ("unlink", "unlinkat", "rmdir"):
            self._note([(paths[0], self._names[paths[0]], False)])
        else:
            assert call.name in ("rename", "renameat", "renameat2"), f"what does {call.name} do to {paths}?"
            self._note([(paths[0], self._names[paths[0]], False), (paths[1], self._names[paths[0]], True)])

    def _note(self, change: NamesChange) -> None:
        _rename(self._names, change)
        self._unsynced[str(Path(change[0][0]).parent)].append(change)

    def _sync_names(self, folder: str, count: int) -> None:
        """The first so many changes are on the disk. (Of two syncs at once, one has done some of it already.)"""
        changes = self._unsynced[folder]
        for change in changes[:count]:
            _rename(self._synced, change)
        del changes[:count]


def _rename(names: dict[str, Entry], change: NamesChange) -> None:
    for path, entry, is_there in change:
        if is_there:
            names[path] = entry
        else:
            names.pop(path, None)


def _put(content: bytearray, offset: int, data: bytes) -> None:
    content.extend(bytes(max(0, offset - len(content))))
    content[offset : offset + len(data)] = data


def _resize(content: bytearray, size: int) -> None:
    content.extend(bytes(max(0, size - len(content))))
    del content[size:]
