"""How values read on a terminal: escaped, short, local times, columns. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from rich.cells import cell_len, set_cell_size

# What json.dumps leaves as it is and a terminal might obey: C1 controls, line separators, direction marks, surrogates.
_OBEYED = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")


def printable(text: str, limit: int = 400) -> str:
    """`text` on one line with control characters escaped (newlines and ANSI sequences too), cut at `limit`."""
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def json_text(value: Any, *, indent: int | None = None) -> str:
    """`value` as JSON that a terminal prints and does not obey; times become ISO 8601."""
    separators = (",", ": ") if indent else (",", ":")
    text = json.dumps(value, ensure_ascii=False, indent=indent, separators=separators, default=_as_json)
    return _OBEYED.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


def _as_json(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, tuple | set | frozenset):
        return list(value)
    return str(value)


def short_time(at: datetime | None, now: datetime | None = None) -> str:
    """The local time: `14:03:22` today, `2026-11-23 14:03` on other days, `-` for none."""
    if at is None:
        return "-"
    local, today = at.astimezone(), (now or datetime.now().astimezone()).astimezone().date()
    return f"{local:%H:%M:%S}" if local.date() == today else f"{local:%Y-%m-%d %H:%M}"


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 05 s`, `2 h 07 min`."""
    if seconds < 9.95:
        return f"{max(seconds, 0.0):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def count(number: int, noun: str) -> str:
    """`1 step`, `1,200 steps`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def size(number: int) -> str:
    """`812 bytes`, `1.2 KiB`, `34.0 MiB`."""
    if number < 1024:
        return count(number, "byte")
    amount, units = number / 1024, ["KiB", "MiB", "GiB", "TiB"]
    while amount >= 1024 and len(units) > 1:
        amount, units = amount / 1024, units[1:]
    return f"{amount:,.1f} {units[0]}"


def percent(fraction: float) -> str:
    """Rounded down, so that 100 % means all."""
    return f"{int(fraction * 100 + 1e-9)} %"


def columns(rows: Iterable[Sequence[str]], *, width: int | None = None) -> list[str]:
    """Rows of cells as aligned lines; with a `width`, lines are cut there."""
    cells = [list(row) for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(map(_padded, row, widths)).rstrip() for row in cells]
    return lines if width is None else [_cut(line, width) for line in lines]


def _padded(cell: str, width: int) -> str:
    return cell + " " * (width - cell_len(cell))


def _cut(line: str, width: int) -> str:
    return line if cell_len(line) <= width else set_cell_size(line, max(width - 1, 0)).rstrip() + "…"
