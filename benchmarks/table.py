"""The table of a benchmark run, as plain text for the terminal and as Markdown for the docs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

HEADER = ("figure", "ours", "target", "met", "bare SQLite", "speed / bare", "peers")
NOT_NUMBERS = (0, 6)  # columns that stand left


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table. Give at most one target: `at_least`, `at_most` or `ratio_at_least`.

    `unit` stands behind the name. `speed` is how fast we are where plain SQLite is 1. It is `ours` / `bare` unless
    given: for times it is the reverse, and the median of pairs is not the quotient of medians. A figure that is counted
    or a ratio holds its target on any disk, a time or rate only on the machine that the target was set for.
    """

    name: str
    ours: float
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None
    ratio_at_least: float | None = None
    bare: float | None = None
    ratio: float | None = None
    peers: str = ""
    is_counted: bool = False

    @property
    def is_met(self) -> bool | None:
        """Whether the target is reached; None without one."""
        if self.at_least is not None:
            return self.ours >= self.at_least
        if self.at_most is not None:
            return self.ours <= self.at_most
        if self.ratio_at_least is not None:
            return self.speed is not None and self.speed >= self.ratio_at_least
        return None

    @property
    def speed(self) -> float | None:
        """How fast we are where plain SQLite is 1; None without a figure of plain SQLite."""
        return self.ours / self.bare if self.ratio is None and self.bare else self.ratio

    @property
    def target(self) -> str:
        """As it stands in the table; empty without one."""
        if self.at_least is not None:
            return f"≥ {number(self.at_least)}"
        if self.at_most is not None:
            return f"≤ {number(self.at_most)}"
        return "" if self.ratio_at_least is None else f"≥ {self.ratio_at_least:g} × bare"


def without_timed_target(figure: Figure) -> Figure:
    """The figure for another disk than its target was set for: only what is counted, or a ratio, keeps its target."""
    return figure if figure.is_counted else replace(figure, at_least=None, at_most=None)


def as_text(figures: Sequence[Figure], bare: str = "bare SQLite") -> str:
    """Columns of equal width, two spaces between them. `bare` is what stands above the figures beside ours."""
    rows = [_header(bare), *map(_cells, figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if column in NOT_NUMBERS else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "  ".join("─" * width for width in widths))
    return "\n".join(lines)


def as_markdown(figures: Sequence[Figure], bare: str = "bare SQLite") -> str:
    """A Markdown table."""
    rule = ["---" if column in NOT_NUMBERS else "---:" for column in range(len(HEADER))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (_header(bare), rule, *map(_cells, figures)))


def _header(bare: str) -> tuple[str, ...]:
    return tuple(bare if title == "bare SQLite" else title for title in HEADER)


def number(value: float) -> str:
    """A figure with about three digits that mean something: 12,345 · 123 · 12.3 · 1.23 · 0.012."""
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3f}"


def _cells(figure: Figure) -> tuple[str, ...]:
    return (
        f"{figure.name}, {figure.unit}" if figure.unit else figure.name,
        number(figure.ours),
        figure.target,
        {True: "yes", False: "NO", None: ""}[figure.is_met],
        "" if figure.bare is None else number(figure.bare),
        "" if figure.speed is None else f"{figure.speed:.2f}",
        figure.peers,
    )
