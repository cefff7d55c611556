"""The time axis: from instants to places on it. Long stretches in which nothing of the job ran are drawn short.

A job that runs for seconds and waits for days would else be two dots; the axis says where it is broken and how long
the stretch is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from openagents_json.clock import SECOND_US
from openagents_json.pictures.spans import BUSY, Timeline
from openagents_json.pictures.wording import duration, exact

_MS, _MIN, _H, _D = 1_000, 60 * SECOND_US, 3_600 * SECOND_US, 86_400 * SECOND_US
STEPS_US = (
    *(_MS * n // 1_000 for n in (1, 2, 5, 10, 20, 50, 100, 200, 500)),
    *(_MS * n for n in (1, 2, 5, 10, 20, 50, 100, 200, 500)),
    *(SECOND_US * n for n in (1, 2, 5, 10, 15, 30)),
    *(_MIN * n for n in (1, 2, 5, 10, 15, 30)),
    *(_H * n for n in (1, 2, 3, 6, 12)),
    *(_D * n for n in (1, 2, 7, 14, 28, 56, 112, 366)),
)
BROKEN = 0.3  # a quiet stretch longer than this part of all the rest is drawn short
SHORT = 0.12  # so long, as part of the rest


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of the axis, drawn from `start` to `end` (0 … 1)."""

    start_us: int
    end_us: int
    start: float
    end: float
    is_broken: bool


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on the axis at 0 … 1."""

    at: float
    text: str


class Scale:
    """The axis of a timeline."""

    def __init__(self, timeline: Timeline) -> None:
        self.start_us = timeline.start_us
        self.stretches = tuple(_stretches(timeline))

    def place(self, at_us: int) -> float:
        """Where an instant is: 0 at the left end, 1 at the right."""
        for one in self.stretches:
            if at_us <= one.end_us:
                length = one.end_us - one.start_us
                part = (max(at_us, one.start_us) - one.start_us) / length if length else 0.0
                return one.start + part * (one.end - one.start)
        return 1.0

    def ticks(self, wanted: int) -> Iterator[Tick]:
        """About so many marks at round times since the job was created; after a break at round times since its end."""
        for number, one in enumerate(self.stretches):
            if one.is_broken:
                continue
            share = max(round(wanted * (one.end - one.start)), 1)
            length_us = one.end_us - one.start_us
            step_us = next((step for step in STEPS_US if step * share >= length_us), STEPS_US[-1])
            yield Tick(one.start, "0" if not number else duration(one.start_us - self.start_us))
            sign = "+" if number else ""
            for at_us in range(step_us, length_us + 1, step_us):
                yield Tick(self.place(one.start_us + at_us), sign + exact(at_us))


def _stretches(timeline: Timeline) -> Iterator[Stretch]:
    """The parts of the axis, in order, without gaps; at least one."""
    parts = list(_alternating(timeline))
    total_us = timeline.end_us - timeline.start_us
    broken: set[int] = set()
    # The longest quiet stretch first: each that is drawn short makes the rest, and so the measure, smaller.
    for index in sorted(range(len(parts)), key=lambda one: parts[one][0] - parts[one][1]):
        start_us, end_us, is_quiet = parts[index]
        rest_us = total_us - (end_us - start_us)
        if is_quiet and rest_us > 0 and end_us - start_us > BROKEN * rest_us:
            broken.add(index)
            total_us = rest_us
    shown = 1.0 + SHORT * len(broken)
    at, until_us = 0.0, timeline.start_us
    start_us = until_us
    for index, (part_start_us, part_end_us, _) in enumerate(parts):
        if index in broken:
            if part_start_us > start_us:
                end = at + (part_start_us - start_us) / total_us / shown
                yield Stretch(start_us, part_start_us, at, end, is_broken=False)
                at = end
            yield Stretch(part_start_us, part_end_us, at, at + SHORT / shown, is_broken=True)
            at += SHORT / shown
            start_us = part_end_us
        until_us = part_end_us
    if until_us > start_us or not parts:
        yield Stretch(start_us, until_us, at, 1.0, is_broken=False)


def _alternating(timeline: Timeline) -> Iterator[tuple[int, int, bool]]:
    """(start, end, whether it is quiet) for all of the time: quiet while no code of the job ran."""
    at_us = timeline.start_us
    for start_us, end_us in _united(
        (bar.start_us, bar.end_us) for line in timeline.lines for bar in line.bars if bar.kind in BUSY | {"moment"}
    ):
        if start_us > at_us:
            yield at_us, start_us, True
        if end_us > max(at_us, start_us):
            yield max(at_us, start_us), end_us, False
        at_us = max(at_us, end_us)
    if timeline.end_us > at_us:
        yield at_us, timeline.end_us, True


def _united(spans: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Sorted spans that do not overlap."""
    current: tuple[int, int] | None = None
    for start_us, end_us in sorted(spans):
        if current is None:
            current = (start_us, end_us)
        elif start_us <= current[1]:
            current = (current[0], max(current[1], end_us))
        else:
            yield current
            current = (start_us, end_us)
    if current is not None:
        yield current
