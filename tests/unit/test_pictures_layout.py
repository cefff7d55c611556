"""The layout of graphs, pure: nothing overlaps, everything is inside, arrows lead from box to box."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openagents_json.pictures.layers import GAP, LANE, ROW_GAP, place
from openagents_json.pictures.layout import TWINS, Card, Grid, Pane, pane_of
from openagents_json.pictures.outline import outline_of
from openagents_json.pictures.sheet import clipped, text_width
from openagents_json.pictures.wording import duration, exact, expression, line_of
from tests.unit.every_kind import EVERY_KIND
from tests.unit.machine.drive import call, plan_of

Box = tuple[float, float, float, float]  # left, top, right, bottom
SIZES = st.tuples(st.floats(5, 300), st.floats(5, 200))


def overlap(one: Box, other: Box) -> bool:
    apart = 1e-6
    across = one[0] < other[2] - apart and other[0] < one[2] - apart
    return across and one[1] < other[3] - apart and other[1] < one[3] - apart


@st.composite
def drawings(draw: st.DrawFn) -> tuple[list[tuple[float, float]], list[tuple[int, int]]]:
    sizes = draw(st.lists(SIZES, min_size=1, max_size=14))
    pairs = [(start, end) for end in range(len(sizes)) for start in range(end)]
    return sizes, sorted(draw(st.sets(st.sampled_from(pairs), max_size=20))) if pairs else []


@given(drawings())
def test_boxes_do_not_overlap_and_arrows_lead_down(
    drawing: tuple[list[tuple[float, float]], list[tuple[int, int]]],
) -> None:
    sizes, arrows = drawing
    placed = place(sizes, arrows)
    boxes: list[Box] = [(x, y, x + w, y + h) for (x, y), (w, h) in zip(placed.corners, sizes, strict=True)]
    for index, one in enumerate(boxes):
        assert one[0] >= -1e-6 and one[1] >= 0 and one[2] <= placed.width + 1e-6 and one[3] <= placed.height + 1e-6
        assert not any(overlap(one, other) for other in boxes[:index])
    for (start, end), route in zip(arrows, placed.routes, strict=True):
        assert route[0] == pytest.approx(((boxes[start][0] + boxes[start][2]) / 2, boxes[start][3]))
        assert route[-1] == pytest.approx(((boxes[end][0] + boxes[end][2]) / 2, boxes[end][1]))
        heights = [y for _, y in route]
        assert heights == sorted(heights) and boxes[end][1] - boxes[start][3] >= ROW_GAP - 1e-6
        for (x, top), (_, bottom) in zip(route[2:-1:2], route[3:-1:2], strict=True):  # past a row: between its boxes
            assert not any(overlap((x - LANE / 2, top, x + LANE / 2, bottom), box) for box in boxes)


def test_boxes_side_by_side_keep_a_distance_and_a_chain_is_straight() -> None:
    placed = place([(10, 10)] * 5, [(0, 2), (1, 2), (2, 3), (3, 4)])
    assert placed.corners[1][0] - placed.corners[0][0] == pytest.approx(10 + GAP)
    assert placed.corners[2][0] == pytest.approx(placed.corners[3][0]) == pytest.approx(placed.corners[4][0])


def boxes_of(pane: Pane, x: float = 0, y: float = 0) -> Iterator[tuple[Box, list[Box]]]:
    """Each box with the boxes right inside it."""
    inside: list[Box] = []
    for (left, top), thing in pane.things:
        at = (x + left, y + top)
        inside.append((*at, at[0] + thing.width, at[1] + thing.height))
        spots = thing.cards if isinstance(thing, Grid) else (((0.0, 0.0), thing),)
        for (across, down), card in spots:
            if isinstance(card, Card):
                yield from boxes_of_card(card, at[0] + across, at[1] + down)
    yield (x, y, x + pane.width, y + pane.height), inside


def boxes_of_card(card: Card, x: float, y: float) -> Iterator[tuple[Box, list[Box]]]:
    inside: list[Box] = []
    for (left, top), pane in card.panels:
        inside.append((x + left, y + top, x + left + pane.width, y + top + pane.height))
        yield from boxes_of(pane, x + left, y + top)
    yield (x, y, x + card.width, y + card.height), inside


def test_everything_nested_is_inside_its_box() -> None:
    fan = [call("first"), *(call(f"f{n}", needs=["first"]) for n in range(TWINS)), call("end")]
    for definition in (EVERY_KIND, fan):
        outline = outline_of(plan_of(definition), "t")
        pairs = [pair for panel in outline.panels for pair in boxes_of(pane_of(panel))]
        assert len(pairs) > 8
        for (left, top, right, bottom), inside in pairs:
            for index, one in enumerate(inside):
                assert left < one[0] and top < one[1] and one[2] < right and one[3] < bottom
                assert not any(overlap(one, other) for other in inside[:index])


def test_many_steps_with_the_same_arrows_share_a_box() -> None:
    steps = [call("first"), *(call(f"f{n}", needs=["first"]) for n in range(50)), call("end")]
    pane = pane_of(outline_of(plan_of(steps), "t").panels[0])
    kinds = [type(thing).__name__ for _, thing in pane.things]
    assert kinds == ["Card", "Grid", "Card"] and len(pane.routes) == 2
    assert pane.width < 1_100


# ── words ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("us", "text"),
    [
        (0, "0 s"), (-5, "0 s"), (1_234, "1.2 ms"), (85_000, "85 ms"), (999_400, "999 ms"), (999_600, "1.0 s"),
        (42_000_000, "42 s"), (59_700_000, "1 min 00 s"), (185_000_000, "3 min 05 s"), (7_620_000_000, "2 h 07 min"),
        (97_200_000_000, "1 d 3 h"),
    ],
)  # fmt: skip
def test_durations_read_well(us: int, text: str) -> None:
    assert duration(us) == text


@pytest.mark.parametrize(
    ("us", "text"),
    [(86_400_000_000, "1 d"), (90_000_000, "90 s"), (120_000_000, "2 min"), (1_500_000, "1.5 s"), (500_000, "500 ms")],
)
def test_chosen_durations_are_not_rounded(us: int, text: str) -> None:
    assert exact(us) == text


def test_expressions_are_shown_without_braces_and_cut() -> None:
    assert expression("{{ inputs.x }}") == "inputs.x"
    assert expression("{{ a }} and {{ b }}") == "{{ a }} and {{ b }}"
    assert expression({"a": [1, None]}) == '{"a": [1, null]}'
    assert line_of("a\n b\x1b[0m\ud800") == "a b\\x1b[0m\\ud800"
    assert len(line_of("x" * 10_000)) == 56 and line_of("x" * 10_000).endswith("…")


@given(st.text(max_size=60), st.floats(20, 200))
def test_clipped_text_fits(text: str, width: float) -> None:
    assert text_width(clipped(text, width)) <= width
    assert text_width(text) > width or clipped(text, width) == text
