"""The steps of a job that only wait for leave to start, in the order in which they became ready. Pure.

A job may have 10,000 of them. Those that were asked for and have to wait are grouped by what makes them alike, and
when one of a group hears that none like it can start, the others are not asked for: so a turn costs as much as there
are kinds, however many wait.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Container, Hashable, Iterator
from typing import Any

import msgspec

# Of those that fall under the same limits, so many hear "not this one" in a turn; then the others wait with them, so
# that none behind comes before them.
ALIKE_ASKED = 256

# What makes steps alike: step, component, and the limits of the component that the attempt falls under; None as long as
# these are not known, since the component is missing.
Kind = tuple[str, str, Hashable]


class NoneAlike:
    """The answer that neither this step nor another one of its kind can start now. It is false."""

    def __bool__(self) -> bool:
        return False


NONE_ALIKE = NoneAlike()

# What a step hears that asks to start: True: it does. False: not this one now. NONE_ALIKE: none of its kind. None: no
# step at all.
Reply = bool | NoneAlike | None

# How many of a kind are to wait, or of those that fall under the same limits.
Passed = dict[Hashable, int]


class Entry(msgspec.Struct, gc=False):
    """A step that waits. What it is called with is prepared when it is offered for the first time, and kept."""

    path: str
    number: int  # in the order in which they became ready
    kind: Kind | None = None  # None: it was not prepared yet
    data: dict[str, Any] = {}  # of its `attempt.started`
    inputs: dict[str, Any] | None = None  # what it is called with, where that is known already


class Startable(msgspec.Struct, gc=False):
    """All of a job, by path. Each job has one, and mostly an empty one, so nothing in it takes room before."""

    _entries: dict[str, Entry] = {}
    # The same in their order: those that were prepared by kind, and behind all of them the new ones. An entry that
    # was discarded stays there until its turn comes.
    _kinds: dict[Kind | None, deque[Entry]] = {}
    _new: deque[Entry] | None = None  # None: there are none
    _number: int = 0

    def __bool__(self) -> bool:
        return bool(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, path: object) -> bool:
        return path in self._entries

    def __eq__(self, other: object) -> bool:
        """Whether the same steps wait in the same order."""
        return isinstance(other, Startable) and list(self) == list(other)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def are_all(self, kinds: Container[Kind | None]) -> bool:
        """Whether nothing waits but what is known to be of these kinds."""
        return not any(map(self._is_live, self._new or ())) and all(
            kind in kinds or not any(map(self._is_live, group)) for kind, group in self._kinds.items()
        )

    def add(self, path: str) -> None:
        """Behind all others. One that is there keeps its place."""
        if path not in self._entries:
            self._number += 1
            entry = self._entries[path] = Entry(path, self._number)
            if self._new is None:
                self._new = deque()
            self._new.append(entry)

    def discard(self, path: str) -> None:
        """It is not to start any more."""
        self._entries.pop(path, None)

    def clear(self) -> None:
        """None is to start any more."""
        self._entries.clear()
        self._kinds.clear()
        self._new = None

    def offer(self, prepare: Callable[[Entry], bool], ask: Callable[[Entry], Reply]) -> None:
        """Offer one after the other; whoever starts is gone. `prepare` is called once for each and gives it its kind;
        it is false when the step is not to start any more. Neither of the two adds any."""
        passed: Passed = {}
        if (not self._kinds or self._offer_prepared(passed, ask)) and self._new is not None:
            self._offer_new(self._new, passed, prepare, ask)
            if not self._new:
                self._new = None

    def _offer_prepared(self, passed: Passed, ask: Callable[[Entry], Reply]) -> bool:
        """Those that have waited in an earlier turn. Whether more may be offered."""
        kinds, kept = self._kinds, list[Entry]()
        # Of each kind the number of its first. Numbers differ, so that no two kinds are compared.
        heads = [(group[0].number, kind) for kind, group in kinds.items()]
        heapq.heapify(heads)
        goes_on = True
        try:
            while heads and goes_on:
                kind = heads[0][1]
                if _is_passed(kind, passed):
                    heapq.heappop(heads)
                    continue
                entry = kinds[kind].popleft()
                if self._is_live(entry):
                    kept.append(entry)  # before anything can fail
                    goes_on = self._offer_one(kept, passed, ask)
                if kinds[kind]:
                    heapq.heapreplace(heads, (kinds[kind][0].number, kind))
                else:
                    heapq.heappop(heads)
        finally:
            for entry in reversed(kept):
                kinds.setdefault(entry.kind, deque()).appendleft(entry)  # its kind may have become known
            for kind in [kind for kind, group in kinds.items() if not group]:
                del kinds[kind]
        return goes_on

    def _offer_new(
        self,
        new: deque[Entry],
        passed: Passed,
        prepare: Callable[[Entry], bool],
        ask: Callable[[Entry], Reply],
    ) -> None:
        kept: list[Entry] = []
        goes_on = True
        try:
            while new and goes_on:
                entry = new[0]
                is_wanted = self._is_live(entry) and prepare(entry)
                new.popleft()
                if is_wanted:
                    kept.append(entry)
                    if not _is_passed(entry.kind, passed):
                        goes_on = self._offer_one(kept, passed, ask)
                elif self._is_live(entry):
                    self.discard(entry.path)
        finally:
            for entry in kept:
                self._kinds.setdefault(entry.kind, deque()).append(entry)

    def _offer_one(self, kept: list[Entry], passed: Passed, ask: Callable[[Entry], Reply]) -> bool:
        """Offer the last of those that are kept. Whether more may be offered."""
        entry = kept[-1]
        reply = ask(entry)
        if reply:
            kept.pop()
            self.discard(entry.path)
        elif reply is not None:
            if reply is NONE_ALIKE:
                passed[entry.kind] = ALIKE_ASKED
            else:
                alike = _limits_of(entry.kind)
                passed[alike] = passed.get(alike, 0) + 1
        return reply is not None

    def _is_live(self, entry: Entry) -> bool:
        return self._entries.get(entry.path) is entry


def _limits_of(kind: Kind | None) -> Hashable:
    """By what those are counted that hear "not this one": the limits that they fall under, or else their kind."""
    return kind[2] if kind is not None and kind[2] else kind


def _is_passed(kind: Kind | None, passed: Passed) -> bool:
    return bool(passed) and (passed.get(kind, 0) >= ALIKE_ASKED or passed.get(_limits_of(kind), 0) >= ALIKE_ASKED)
