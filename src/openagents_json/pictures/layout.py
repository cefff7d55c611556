"""The layout of an outline: how large each box is and where everything in it stands. Pure geometry in pixels.

Steps of an array stand in rows, top-down; cases, branches and handlers side by side. Many steps that wait for the same
and are waited for by the same (a wide fan-out) share one box, in a grid, so that one arrow leads in and one out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from openagents_json.pictures.layers import Placed, Point, Size, place
from openagents_json.pictures.outline import Panel, Shape
from openagents_json.pictures.sheet import SMALL_PX, text_width

PAD = 10.0
LINE = 16.0  # height of a line of text
KNOT = 5.0
CARD_MIN = 132.0
SIGN = 20.0  # room for a status sign
SIDE_BY_SIDE = 1_100.0  # panels that are wider together stand in several rows
TWINS = 7  # so many steps with the same arrows become a grid
GRID_WIDTH = 900.0

Words = tuple[str, str]  # (classes, text)


@dataclass(frozen=True, slots=True)
class Card:
    """A step: its words on top, its panels below."""

    shape: Shape
    words: tuple[Words, ...]
    width: float
    height: float
    panels: tuple[tuple[Point, Pane], ...]


@dataclass(frozen=True, slots=True)
class Grid:
    """Many steps with the same arrows."""

    width: float
    height: float
    cards: tuple[tuple[Point, Card], ...]


@dataclass(frozen=True, slots=True)
class Knot:
    """Where arrows meet."""

    width: float = KNOT
    height: float = KNOT


Thing = Card | Grid | Knot


@dataclass(frozen=True, slots=True)
class Pane:
    """An array of steps with its label."""

    panel: Panel
    width: float
    height: float
    things: tuple[tuple[Point, Thing], ...]
    routes: tuple[tuple[Point, ...], ...]
    tips: tuple[bool, ...]  # for each route, whether it ends with a tip: not where arrows meet in a knot


def words_of(shape: Shape) -> Iterator[Words]:
    """The lines of a card, from top to bottom."""
    yield "bold", shape.title
    if shape.condition is not None:
        yield "small if", f"if {shape.condition}"
    is_prose = shape.kind == "parallel"
    yield from (("small soft" if is_prose else "mono", line) for line in shape.lines[:1])
    yield from (("small soft", line) for line in (*shape.lines[1:], *shape.fields))
    if shape.mark is not None:
        status = shape.mark.status
        yield "small soft" if status is None else f"small bold {status}", shape.mark.text
        yield from (("small soft", line) for line in shape.mark.details)


def words_width(words: Words) -> float:
    """How wide a line of a card is."""
    classes, text = words
    is_small = "small" in classes or "mono" in classes
    mono, bold = "mono" in classes, "bold" in classes
    return text_width(text, SMALL_PX if is_small else 13, mono=mono, bold=bold)


def card_of(shape: Shape) -> Card:
    """The card of a step."""
    words = tuple(words_of(shape))
    head = words_width(words[0]) + 14 + text_width(shape.kind, SMALL_PX) + (SIGN if shape.mark is not None else 0)
    width = max(CARD_MIN, head + 2 * PAD, *(words_width(line) + 2 * PAD for line in words[1:]))
    height = LINE * len(words) + PAD
    if not shape.panels:
        return Card(shape, words, width, height, ())
    panes = [pane_of(panel) for panel in shape.panels]
    is_aside = [panel.role in ("catch", "undo") for panel in shape.panels]
    spots: list[tuple[Point, Pane]] = []
    inner = 0.0
    for wanted in (False, True):
        row = [pane for pane, aside in zip(panes, is_aside, strict=True) if aside == wanted]
        for group in _rows([(pane.width, pane.height) for pane in row], SIDE_BY_SIDE):
            members = [row[index] for index in group]
            x = PAD
            for pane in members:
                spots.append(((x, height), pane))
                x += pane.width + PAD
            inner = max(inner, x)
            height += max(pane.height for pane in members) + PAD
    width = max(width, inner)
    return Card(shape, words, width, height, tuple(_centred(spots, width)))


def _centred(spots: Sequence[tuple[Point, Pane]], width: float) -> Iterator[tuple[Point, Pane]]:
    """The same panes with each row in the middle of the card."""
    rows: dict[float, list[tuple[Point, Pane]]] = defaultdict(list)
    for spot in spots:
        rows[spot[0][1]].append(spot)
    for y, row in rows.items():
        (x, _), last = row[-1]
        shift = (width - (x + last.width + PAD)) / 2
        yield from (((left + shift, y), pane) for (left, _), pane in row)


def _rows(sizes: Sequence[Size], limit: float) -> Iterator[list[int]]:
    """The places of boxes that stand side by side, row by row."""
    row: list[int] = []
    used = 0.0
    for index, (width, _) in enumerate(sizes):
        if row and used + width > limit:
            yield row
            row, used = [], 0.0
        row.append(index)
        used += width + PAD
    if row:
        yield row


def pane_of(panel: Panel) -> Pane:
    """The layout of an array of steps."""
    things, arrows = _with_grids(panel)
    placed: Placed = place([(thing.width, thing.height) for thing in things], arrows)
    top = PAD + (LINE if panel.label else 0)
    width = max(placed.width, text_width(panel.label, SMALL_PX, bold=True)) + 2 * PAD
    left = (width - placed.width) / 2
    return Pane(
        panel,
        width,
        top + placed.height + PAD,
        tuple(((x + left, y + top), thing) for (x, y), thing in zip(placed.corners, things, strict=True)),
        tuple(tuple((x + left, y + top) for x, y in route) for route in placed.routes),
        tuple(not isinstance(things[end], Knot) for _, end in arrows),
    )


def _with_grids(panel: Panel) -> tuple[list[Thing], list[tuple[int, int]]]:
    """The things of a panel, with many twins as one, and the arrows between them."""
    before: dict[int, list[int]] = defaultdict(list)
    after: dict[int, list[int]] = defaultdict(list)
    for start, end in panel.arrows:
        after[start].append(end)
        before[end].append(start)
    twins: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = defaultdict(list)
    for index in range(len(panel.steps)):
        twins[tuple(before[index]), tuple(after[index])].append(index)
    grouped = {index: group for group in twins.values() if len(group) >= TWINS for index in group}
    things: list[Thing] = []
    number: dict[int, int] = {}
    for index, shape in enumerate(panel.steps):
        group = grouped.get(index)
        if group is None or group[0] == index:
            number[index] = len(things)
            things.append(card_of(shape) if group is None else _grid([card_of(panel.steps[one]) for one in group]))
        else:
            number[index] = number[group[0]]
    for knot in range(len(panel.steps), len(panel.steps) + panel.knots):
        number[knot] = len(things)
        things.append(Knot())
    arrows = dict.fromkeys((number[start], number[end]) for start, end in panel.arrows)
    return things, list(arrows)


def _grid(cards: Sequence[Card]) -> Grid:
    cell = max(card.width for card in cards)
    columns = min(max(int(GRID_WIDTH // (cell + PAD)), 1), len(cards), max(round(len(cards) ** 0.5), 3))
    spots: list[tuple[Point, Card]] = []
    y = PAD
    for start in range(0, len(cards), columns):
        row = cards[start : start + columns]
        spots += [((PAD + place * (cell + PAD), y), card) for place, card in enumerate(row)]
        y += max(card.height for card in row) + PAD
    return Grid(PAD + columns * (cell + PAD), y, tuple(spots))
