"""Points of a campaign: calls of a recorded life that can be spoiled, and in which order they are tried."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Generic, Protocol, TypeVar

from tests.faults.sizes import Hits
from tests.faults.tracing import Call

MORE = 25  # trials at most, after those that were asked for, for a window that these have missed


class Aimed(Protocol):
    @property
    def window(self) -> str:
        """What it should hit, by the record of a whole life."""


P = TypeVar("P", bound=Aimed)


def firsts(calls: Iterable[Call]) -> Iterator[tuple[Call, int]]:
    """The calls at which strace does what is to be done `when=N`, each with its N: with each one a thread is the first
    to have made so many calls of that kind."""
    counts: Counter[tuple[int, str]] = Counter()
    reached: Counter[str] = Counter()
    for call in calls:
        counts[call.thread, call.name] += call.begins
        if counts[call.thread, call.name] > reached[call.name]:
            reached[call.name] += 1
            yield call, reached[call.name]


def in_turn(points: Iterable[P], random: Random) -> list[P]:
    """Shuffled, but one of each window after the other, so that a part has something of each."""
    shuffled = list(points)
    random.shuffle(shuffled)
    turns: Counter[str] = Counter()
    ranked: list[tuple[int, P]] = []
    for point in shuffled:
        turns[point.window] += 1
        ranked.append((turns[point.window], point))
    return [point for _, point in sorted(ranked, key=lambda one: one[0])]


@dataclass
class Trial(Generic[P]):
    """Tries points, each of which answers with the window that it has really hit, or None for none."""

    try_point: Callable[[P], Awaitable[str | None]]
    hits: Hits
    tried: int = 0
    missed: int = 0  # not hit: the life did not come so far
    unreached: int = 0  # the same, among those that were asked for

    async def run(self, points: list[P], wanted: int) -> None:
        """Try the first so many, and then those of windows that these have missed: the others, and again these, since
        no life is quite like another."""
        seen = {await self._try(point) for point in points[:wanted]}
        self.unreached = self.missed
        again = deque([*points[wanted:], *points[:wanted]])
        for _ in range(MORE):
            while again and again[0].window in seen:
                again.popleft()
            if not again:
                return
            again.rotate(-1)
            seen.add(await self._try(again[-1]))

    async def _try(self, point: P) -> str | None:
        self.tried += 1
        window = await self.try_point(point)
        if window is None:
            self.missed += 1
        else:
            self.hits.count(window)
        return window

    def check(self) -> None:
        """Fail when a window was not hit, or most of what was asked for."""
        print(f"{self.tried} points, {self.missed} of them were not reached")
        self.hits.check()
        assert self.unreached <= self.hits.total, "most points are reached"
