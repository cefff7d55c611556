"""A timeline as SVG: one row for the job and each step run, bars along a time axis."""

from __future__ import annotations

from openagents_json.job.model import JobStatus, StepStatus
from openagents_json.pictures.scale import Scale
from openagents_json.pictures.sheet import SMALL_PX, Sheet, clipped, number, text_width
from openagents_json.pictures.spans import Bar, BarKind, Line, Timeline
from openagents_json.pictures.wording import duration

MARGIN = 18.0
ROW = 22.0
INDENT = 14.0
LABEL_MAX, NOTE_MAX = 300.0, 300.0
BARS = 760.0
# Classes of a bar, and how it is drawn: full height, thin, or hollow. So no kind is told by its colour alone.
_LOOKS: dict[BarKind, tuple[str, str]] = {
    "ok": ("COMPLETED", "full"),
    "running": ("RUNNING", "full"),
    "failed": ("FAILED", "full"),
    "stopped": ("CANCELLED", "full"),
    "lost": ("FAILED", "full"),
    "backoff": ("hollow RETRYING", "thin"),
    "timer": ("hollow WAITING", "full"),
    "signal": ("hollow WAITING", "full"),
    "decision": ("hollow WAITING", "full"),
    "child": ("hollow RUNNING", "full"),
    "inside": ("inside", "line"),
    "moment": ("", "moment"),
    "created": ("faint", "line"),
    "queued": ("hollow PENDING", "thin"),
    "held": ("RUNNING", "thin"),
    "resting": ("hollow WAITING", "thin"),
    "paused": ("hollow NONE", "thin"),
}
_LEGEND: tuple[tuple[BarKind, str], ...] = (
    ("ok", "attempt"), ("running", "attempt, on"), ("failed", "attempt, failed"), ("lost", "attempt, lost"),
    ("stopped", "attempt, stopped"), ("backoff", "back-off"), ("timer", "waits for a time"),
    ("signal", "waits for a signal"), ("decision", "waits for a decision"), ("child", "child job"),
    ("inside", "steps inside"), ("moment", "took no time"),
    ("held", "job: with a worker"), ("queued", "job: queued"), ("resting", "job: waiting"), ("paused", "job: paused"),
    ("created", "job: not started"),
)  # fmt: skip
_CROSSED = frozenset({"failed", "lost"})
_OF_JOB = {
    JobStatus.COMPLETED: StepStatus.COMPLETED,
    JobStatus.FAILED: StepStatus.FAILED,
    JobStatus.CANCELLED: StepStatus.CANCELLED,
    JobStatus.RUNNING: StepStatus.RUNNING,
    JobStatus.WAITING: StepStatus.WAITING,
}


def timeline_svg_of(timeline: Timeline) -> str:
    """The picture as an SVG document."""
    scale = Scale(timeline)
    label = min(max(_label_width(line) for line in timeline.lines), LABEL_MAX)
    note = min(max(text_width(line.note, SMALL_PX) for line in timeline.lines), NOTE_MAX)
    sheet = Sheet()
    took = duration(timeline.end_us - timeline.start_us)
    title = f"{timeline.title}: {timeline.lines[0].status}, {took}{'' if timeline.is_final else ' so far'}"
    sheet.text(MARGIN, MARGIN + 14, title, "big")
    left, top = MARGIN + label + 12, MARGIN + 58
    height = ROW * len(timeline.lines)
    for index in range(0, len(timeline.lines), 2):
        sheet.box(MARGIN - 6, top + index * ROW, label + BARS + note + 36, ROW, "band", radius=3)
    _axis(sheet, scale, left, top, height)
    for index, line in enumerate(timeline.lines):
        _row(sheet, line, scale, top + index * ROW, left, label)
        sheet.text(left + BARS + 12, top + index * ROW + 15, clipped(line.note, NOTE_MAX, SMALL_PX), "small soft")
    bottom = _legend(sheet, timeline, top + height + 24, left + BARS + 12 + note)
    return sheet.svg(left + BARS + 12 + note + MARGIN, bottom + MARGIN, title)


def _label_width(line: Line) -> float:
    return INDENT * line.depth + 22 + text_width(line.label, 12)


def _axis(sheet: Sheet, scale: Scale, left: float, top: float, height: float) -> None:
    for one in scale.stretches:
        if one.is_broken:
            x, width = left + one.start * BARS, (one.end - one.start) * BARS
            words = duration(one.end_us - one.start_us)
            sheet.box(x, top - 18, width, height + 18, "break", title=f"nothing ran for {words}, drawn short")
            sheet.text(x + width / 2, top - 6, f"⋯ {words}", "small soft mid")
    free = 0.0
    for tick in sorted(scale.ticks(9), key=lambda one: one.at):
        x = left + tick.at * BARS
        width = text_width(tick.text, SMALL_PX)
        start = min(x, left + BARS - width)
        sheet.path(f"M{number(x)} {number(top - 4)}V{number(top + height)}", "grid")
        if start >= free:
            sheet.text(start, top - 22, tick.text, "small soft")
            free = start + width + 8


def _row(sheet: Sheet, line: Line, scale: Scale, y: float, left: float, label_width: float) -> None:
    x = MARGIN + INDENT * line.depth
    status = _OF_JOB.get(line.status, StepStatus.PENDING) if isinstance(line.status, JobStatus) else line.status
    if line.status is not None:
        sheet.sign(x + 7, y + ROW / 2, status)
    sheet.text(x + 20, y + 15, clipped(line.label, label_width - INDENT * line.depth - 20, 12), "small")
    for bar in line.bars:
        start, end = (left + scale.place(at_us) * BARS for at_us in (bar.start_us, bar.end_us))
        _bar(sheet, bar, start, end, y, status)


def _bar(
    sheet: Sheet, bar: Bar, start: float, end: float, y: float, status: StepStatus | None = StepStatus.COMPLETED
) -> None:
    classes, form = _LOOKS[bar.kind]
    width = max(end - start, 1.5)
    words = duration(bar.end_us - bar.start_us)
    title = f"{bar.text} ({words}{' so far' if bar.is_open else ''})" if bar.text else words
    match form:
        case "full":
            sheet.box(start, y + 4, width, ROW - 8, classes, radius=2, title=title)
        case "thin":
            sheet.box(start, y + 7, width, ROW - 14, classes, radius=2, title=title)
        case "line":
            sheet.box(start, y + ROW / 2 - 1.5, width, 3, classes, title=title)
        case _:
            at = f"{number(start)} {number(y + ROW / 2 - 5)}"
            sheet.path(f"M{at}l4.5 5l-4.5 5l-4.5-5z", str(status))
    if bar.kind in _CROSSED and width > 12:
        x, middle = start + width - 7, y + ROW / 2
        sheet.path(f"M{number(x - 3)} {number(middle - 3)}l6 6m0-6l-6 6", "pen")
    if bar.is_open:
        sheet.path(f"M{number(start + width)} {number(y + ROW / 2 - 6)}l8 6l-8 6z", classes.split()[-1])


def _legend(sheet: Sheet, timeline: Timeline, y: float, right: float) -> float:
    """Write what the bars mean, only of those that are there; returns the lower end."""
    used = {bar.kind for line in timeline.lines for bar in line.bars}
    x = MARGIN
    for kind, words in _LEGEND:
        if kind not in used:
            continue
        width = 30 + text_width(words, SMALL_PX) + 14
        if x + width > right and x > MARGIN:
            x, y = MARGIN, y + ROW
        _bar(sheet, Bar(kind, 0, 0), x + (10 if kind == "moment" else 0), x + 22, y - 15)
        sheet.text(x + 28, y, words, "small soft")
        x += width
    return y
