"""Places for boxes with arrows between them: rows by longest path, order by what is above, columns by what is near.

Pure geometry in pixels, deterministic. Arrows that pass rows go round the boxes there through places of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

GAP = 26.0  # between boxes side by side
ROW_GAP = 30.0  # between rows; arrows bend there
LANE = 10.0  # width of the place where an arrow passes a row
LANES = 3_000  # of more, arrows run straight, behind the boxes
SWEEPS = 4

Point = tuple[float, float]
Size = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Placed:
    """Where everything is, from (0, 0). A route is the points that an arrow goes through, pairs of them in one row."""

    width: float
    height: float
    corners: tuple[Point, ...]  # upper left of each box
    routes: tuple[tuple[Point, ...], ...]  # of each arrow, in the order given


class _Rows:
    """The boxes and lanes of a drawing in rows; a lane has a number above those of the boxes."""

    def __init__(self, sizes: Sequence[Size], arrows: Sequence[tuple[int, int]]) -> None:
        self.sizes = list(sizes)
        self.row_of = _longest_paths(len(sizes), arrows)
        self.above: list[list[int]] = [[] for _ in sizes]
        self.below: list[list[int]] = [[] for _ in sizes]
        self.chains: list[list[int]] = []  # of each arrow: its boxes and the lanes between
        lanes = sum(self.row_of[end] - self.row_of[start] - 1 for start, end in arrows)
        for start, end in arrows:
            self.chains.append(self._chain(start, end) if lanes <= LANES else [start, end])
        self.rows: list[list[int]] = [[] for _ in range(max(self.row_of, default=0) + 1)]
        for number, row in enumerate(self.row_of):
            self.rows[row].append(number)
        self.x = [0.0] * len(self.sizes)  # of the centres

    def _chain(self, start: int, end: int) -> list[int]:
        chain = [start]
        for row in range(self.row_of[start] + 1, self.row_of[end]):
            lane = len(self.sizes)
            self.sizes.append((LANE, 0.0))
            self.row_of.append(row)
            self.above.append([])
            self.below.append([])
            chain.append(lane)
        chain.append(end)
        for upper, lower in pairwise(chain):
            self.below[upper].append(lower)
            self.above[lower].append(upper)
        return chain

    def arrange(self) -> None:
        """Order each row and give everything an x."""
        self._pack()
        for rows, near in ((self.rows[1:], self.above), (self.rows[-2::-1], self.below), (self.rows[1:], self.above)):
            for row in rows:  # in the order of what is above, then of what is below, and again
                wished = [self._mean(near[one], self.x[one]) for one in row]
                row[:] = [one for _, one in sorted(zip(wished, row, strict=True))]
                self._settle(row, near)
        for sweep in range(SWEEPS):
            near = self.below if sweep % 2 == 0 else self.above
            for row in reversed(self.rows) if sweep % 2 == 0 else self.rows:
                self._settle(row, near)

    def _pack(self) -> None:
        for row in self.rows:
            width = sum(self.sizes[one][0] for one in row) + GAP * (len(row) - 1)
            left = -width / 2
            for one in row:
                self.x[one] = left + self.sizes[one][0] / 2
                left += self.sizes[one][0] + GAP

    def _mean(self, near: Sequence[int], otherwise: float) -> float:
        return sum(self.x[one] for one in near) / len(near) if near else otherwise

    def _settle(self, row: Sequence[int], near: Sequence[Sequence[int]]) -> None:
        """Move the boxes of a row as near to their neighbours as their order allows (least squares)."""
        offset = 0.0
        clusters: list[tuple[float, int]] = []  # (mean of the wished places less the offsets, how many)
        offsets = []
        for place, one in enumerate(row):
            if place:
                offset += (self.sizes[row[place - 1]][0] + self.sizes[one][0]) / 2 + GAP
            offsets.append(offset)
            wished, count = self._mean(near[one], self.x[one]) - offset, 1
            while clusters and clusters[-1][0] >= wished:
                mean, many = clusters.pop()
                wished = (wished * count + mean * many) / (count + many)
                count += many
            clusters.append((wished, count))
        base = [mean for mean, many in clusters for _ in range(many)]
        for one, start, shift in zip(row, base, offsets, strict=True):
            self.x[one] = start + shift


def place(sizes: Sequence[Size], arrows: Sequence[tuple[int, int]]) -> Placed:
    """Places for boxes of these sizes. Arrows are (from, to) and have no cycle."""
    rows = _Rows(sizes, arrows)
    rows.arrange()
    left = min((rows.x[one] - rows.sizes[one][0] / 2 for one in range(len(rows.sizes))), default=0.0)
    right = max((rows.x[one] + rows.sizes[one][0] / 2 for one in range(len(rows.sizes))), default=0.0)
    tops: list[float] = []
    heights: list[float] = []
    y = 0.0
    for row in rows.rows:
        tops.append(y)
        heights.append(max((rows.sizes[one][1] for one in row), default=0.0))
        y += heights[-1] + ROW_GAP
    corners = tuple((rows.x[one] - width / 2 - left, tops[rows.row_of[one]]) for one, (width, _) in enumerate(sizes))
    routes = []
    for chain in rows.chains:
        first, last = chain[0], chain[-1]
        above = rows.row_of[first]
        points = [(rows.x[first] - left, tops[above] + rows.sizes[first][1])]
        points.append((rows.x[first] - left, tops[above] + heights[above]))
        for lane in chain[1:-1]:
            passed = rows.row_of[lane]
            points += [(rows.x[lane] - left, tops[passed]), (rows.x[lane] - left, tops[passed] + heights[passed])]
        points.append((rows.x[last] - left, tops[rows.row_of[last]]))
        routes.append(tuple(points))
    return Placed(right - left, max(y - ROW_GAP, 0.0), corners, tuple(routes))


def _longest_paths(count: int, arrows: Sequence[tuple[int, int]]) -> list[int]:
    """For each box the length of the longest way to it."""
    after: list[list[int]] = [[] for _ in range(count)]
    waits = [0] * count
    for start, end in arrows:
        after[start].append(end)
        waits[end] += 1
    depth = [0] * count
    ready = [one for one in range(count) if not waits[one]]
    for one in ready:  # grows while it is walked
        for follower in after[one]:
            depth[follower] = max(depth[follower], depth[one] + 1)
            waits[follower] -= 1
            if not waits[follower]:
                ready.append(follower)
    return depth
