"""A timeline as lines of text that fit a width."""

from __future__ import annotations

from collections.abc import Iterator

from openagents_json.job.model import JobStatus, StepStatus
from openagents_json.pictures.scale import Scale, Tick
from openagents_json.pictures.spans import BarKind, Line, Timeline
from openagents_json.pictures.wording import SIGNS, duration

WIDTH_MIN = 60
BARS_MIN = 20
LABEL_SHARE, NOTE_SHARE = 0.34, 0.3
_CELLS: dict[BarKind, str] = {
    "ok": "█", "running": "█", "failed": "▓", "stopped": "▓", "lost": "▓",
    "backoff": "░", "timer": "·", "signal": "·", "decision": "·", "child": "=", "inside": "─", "moment": "|",
    "created": " ", "queued": "░", "held": "█", "resting": "·", "paused": "‖",
}  # fmt: skip
# Which of several bars in one cell is seen: the one that tells more.
_RANK: tuple[BarKind, ...] = (
    "inside", "created", "backoff", "queued", "resting", "paused", "timer", "signal", "decision", "child", "moment",
    "held", "ok", "running", "stopped", "lost", "failed",
)  # fmt: skip
_LEGEND: tuple[tuple[str, str, frozenset[BarKind]], ...] = (
    ("█", "runs", frozenset({"ok", "running", "held"})),
    ("▓", "failed or stopped", frozenset({"failed", "stopped", "lost"})),
    ("░", "back-off or queue", frozenset({"backoff", "queued"})),
    ("·", "waits", frozenset({"timer", "signal", "decision", "resting"})),
    ("=", "child job", frozenset({"child"})),
    ("‖", "paused", frozenset({"paused"})),
    ("─", "steps inside", frozenset({"inside"})),
    ("|", "took no time", frozenset({"moment"})),
)
_JOB_SIGNS = {JobStatus.COMPLETED: "✓", JobStatus.FAILED: "✗", JobStatus.CANCELLED: "■", JobStatus.RUNNING: "▶"}


def text_of(timeline: Timeline, width: int) -> str:
    """The picture as text, at most `width` columns wide but never narrower than `WIDTH_MIN`."""
    width = max(width, WIDTH_MIN)
    labels = ["  " * line.depth + _sign(line) + line.label for line in timeline.lines]
    label_width = min(max(map(len, labels)), int(width * LABEL_SHARE))
    note_width = min(max(len(line.note) for line in timeline.lines), int(width * NOTE_SHARE))
    columns = max(width - label_width - note_width - 4, BARS_MIN)
    scale = Scale(timeline)
    took = duration(timeline.end_us - timeline.start_us)
    lines = [f"{timeline.title}  {timeline.lines[0].status}  {took}{'' if timeline.is_final else ' so far'}"]
    lines += [f"{'':<{label_width}}  {one}".rstrip() for one in _axis(scale, columns)]
    for label, line in zip(labels, timeline.lines, strict=True):
        bars = _bars(line, scale, columns)
        lines.append(f"{_cut(label, label_width):<{label_width}}  {bars}  {_cut(line.note, note_width)}".rstrip())
    lines += _wrapped(_legend(timeline, scale), width)
    return "\n".join(lines) + "\n"


def _sign(line: Line) -> str:
    if line.status is None:
        return ""
    sign = SIGNS[line.status] if isinstance(line.status, StepStatus) else _JOB_SIGNS.get(line.status, "○")
    return f"{sign} "


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _bars(line: Line, scale: Scale, columns: int) -> str:
    cells = [" "] * columns
    ranks = [-1] * columns
    for bar in line.bars:
        rank = _RANK.index(bar.kind)
        first = min(int(scale.place(bar.start_us) * columns), columns - 1)
        last = max(min(round(scale.place(bar.end_us) * columns), columns), first + 1)
        for cell in range(first, last):
            if rank >= ranks[cell]:
                cells[cell], ranks[cell] = _CELLS[bar.kind], rank
        if bar.is_open:
            cells[last - 1] = "▶"
            ranks[last - 1] = len(_RANK)
    return "".join(cells)


def _axis(scale: Scale, columns: int) -> tuple[str, str]:
    """The words above the ticks, and the ticks. A broken stretch is drawn as ┄."""
    words, marks = [" "] * columns, ["─"] * columns
    for one in scale.stretches:
        if one.is_broken:
            first, last = round(one.start * columns), max(round(one.end * columns), round(one.start * columns) + 1)
            marks[first:last] = "┄" * (min(last, columns) - first)
    free = 0  # where the next word may begin
    for tick in sorted(scale.ticks(max(columns // 10, 2)), key=lambda one: one.at):
        free = _write(tick, words, marks, free)
    return "".join(words).rstrip(), "".join(marks)


def _write(tick: Tick, words: list[str], marks: list[str], free: int) -> int:
    at = min(int(tick.at * len(words)), len(words) - 1)
    start = min(at, len(words) - len(tick.text))
    if start < free:
        return free
    marks[at] = "┬"
    words[start : start + len(tick.text)] = tick.text
    return start + len(tick.text) + 2


def _legend(timeline: Timeline, scale: Scale) -> list[str]:
    used = {bar.kind for line in timeline.lines for bar in line.bars}
    parts = [f"{sign} {words}" for sign, words, kinds in _LEGEND if used & kinds]
    if any(one.is_broken for one in scale.stretches):
        gaps = [duration(one.end_us - one.start_us) for one in scale.stretches if one.is_broken]
        parts.append(f"┄ nothing ran, drawn short ({', '.join(gaps[:3])}{' …' if len(gaps) > 3 else ''})")
    if not timeline.is_final:
        parts.append("▶ still on")
    return parts


def _wrapped(parts: list[str], width: int) -> Iterator[str]:
    """The parts in as many lines as they need."""
    line = ""
    for part in parts:
        if line and len(line) + 2 + len(part) > width:
            yield line
            line = ""
        line = f"{line}  {part}" if line else _cut(part, width)
    yield line
