"""A workflow as SVG, laid out here: no browser, no Node, no Graphviz."""

from __future__ import annotations

from openagents_json.pictures.layers import ROW_GAP, Point
from openagents_json.pictures.layout import LINE, PAD, Card, Grid, Knot, Pane, pane_of
from openagents_json.pictures.outline import Outline
from openagents_json.pictures.sheet import Sheet, number, text_width

MARGIN = 18.0


def svg_of(outline: Outline) -> str:
    """The picture as an SVG document."""
    panes = [pane_of(panel) for panel in outline.panels]
    sheet = Sheet()
    width = max(pane.width for pane in panes)
    width = max(width, text_width(outline.title, 17, bold=True), *(text_width(line) for line in outline.lines), 0)
    y = MARGIN + 16
    sheet.text(MARGIN, y, outline.title, "big")
    for line in outline.lines:
        y += LINE + 2
        sheet.text(MARGIN, y, line, "soft")
    y += PAD
    for place, pane in enumerate(panes):
        x = MARGIN + (width - pane.width) / 2
        if place:
            _arrow(sheet, ((x + pane.width / 2, y - PAD), (x + pane.width / 2, y + ROW_GAP)))
            y += ROW_GAP
        _pane(sheet, pane, x, y)
        y += pane.height
    return sheet.svg(width + 2 * MARGIN, y + MARGIN, outline.title)


def _pane(sheet: Sheet, pane: Pane, x: float, y: float, *, in_idle: bool = False) -> None:
    panel = pane.panel
    fades = panel.is_idle and not in_idle  # what fades twice cannot be read
    in_idle = in_idle or panel.is_idle
    if fades:
        sheet.open("idle")
    if panel.role in ("catch", "undo", "finally"):
        sheet.box(x, y, pane.width, pane.height, "panel aside", radius=6)
    elif panel.role != "steps":
        sheet.box(x, y, pane.width, pane.height, "panel", radius=6)
    if panel.label:
        classes = "small if" if panel.role == "case" else "small bold soft"
        sheet.text(x + PAD, y + PAD + 5, panel.label, classes)
    for route, has_tip in zip(pane.routes, pane.tips, strict=True):
        _arrow(sheet, tuple((left + x, top + y) for left, top in route), has_tip=has_tip)
    for (left, top), thing in pane.things:
        match thing:
            case Card():
                _card(sheet, thing, x + left, y + top, in_idle=in_idle)
            case Grid():
                sheet.box(x + left, y + top, thing.width, thing.height, "panel", radius=6)
                for (across, down), card in thing.cards:
                    _card(sheet, card, x + left + across, y + top + down, in_idle=in_idle)
            case Knot():
                sheet.box(x + left, y + top, thing.width, thing.height, "knot", radius=2.5)
    if fades:
        sheet.close()


def _card(sheet: Sheet, card: Card, x: float, y: float, *, in_idle: bool) -> None:
    shape = card.shape
    mark = shape.mark
    reads = f"reads {', '.join(shape.reads)}" if shape.reads else ""
    title = "\n".join([f"{shape.title}: {shape.kind}", *([reads] if reads else [])])
    fades = mark is not None and mark.status is None and not in_idle
    if fades:
        sheet.open("idle")
    sheet.box(x, y, card.width, card.height, "frame" if card.panels else "card", radius=6, title=title)
    right = x + card.width - PAD
    if mark is not None:
        if mark.status is not None:
            sheet.box(x, y + 5, 4, card.height - 10, str(mark.status), radius=2)
        sheet.sign(right - 6, y + 14, mark.status)
        right -= 20
    baseline = y + 18
    for classes, text in card.words:
        sheet.text(x + PAD, baseline, text, classes)
        if classes == "bold":
            sheet.text(right, baseline, shape.kind, "small soft end")
        baseline += LINE
    for (left, top), pane in card.panels:
        _pane(sheet, pane, x + left, y + top, in_idle=in_idle or fades)
    if fades:
        sheet.close()


def _arrow(sheet: Sheet, route: tuple[Point, ...], *, has_tip: bool = True) -> None:
    """A curve through the points of a route (straight inside a row, bent between rows), and its tip."""
    x, y = route[0]
    d = [f"M{number(x)} {number(y)}"]
    *middle, (end_x, end_y) = route[1:]
    for next_x, next_y in [*middle, (end_x, end_y - 5 * has_tip)]:
        if abs(next_x - x) < 0.05:
            if next_y - y > 0.05:
                d.append(f"V{number(next_y)}")
        else:
            half = (y + next_y) / 2
            d.append(f"C{number(x)} {number(half)} {number(next_x)} {number(half)} {number(next_x)} {number(next_y)}")
        x, y = next_x, next_y
    sheet.path("".join(d), "line")
    if has_tip:
        sheet.path(f"M{number(end_x)} {number(end_y)}l-4.5-8h9z", "tip")
