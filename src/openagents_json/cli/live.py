"""The live view of a job in a terminal: drawn by rich from a `JobView`, at most eight times a second."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from openagents_json.amounts import outside
from openagents_json.cli.budgets import spent_text
from openagents_json.cli.plain import describe, describe_items, error_text
from openagents_json.cli.text import count, duration, percent, printable, short_time
from openagents_json.cli.view import JobView, Row
from openagents_json.clock import SECOND_US, as_datetime
from openagents_json.ids import short_id
from openagents_json.job.events import Event
from openagents_json.job.model import JobStatus, StepStatus

INTERVAL_US = 120_000  # between two drawings
IDLE_US = 500_000  # … while nothing happens but time
BAR_WIDTH = 24
ERRORS_SHOWN = 3
ITEMS_SHOWN = 3
AROUND_ROWS = 6  # lines of a terminal that rows leave to the job, the errors and the prompt

SIGNS = {
    StepStatus.PENDING: ("·", "dim"),
    StepStatus.RUNNING: ("▶", "cyan"),
    StepStatus.WAITING: ("◷", "blue"),
    StepStatus.RETRYING: ("↻", "yellow"),
    StepStatus.COMPLETED: ("✓", "green"),
    StepStatus.FAILED: ("✗", "red"),
    StepStatus.SKIPPED: ("–", "dim"),
    StepStatus.CANCELLED: ("■", "yellow"),
}
JOB_STYLES = {JobStatus.COMPLETED: "green", JobStatus.FAILED: "red", JobStatus.CANCELLED: "yellow"}


class LiveDisplay:
    """Draws the view in place. While it is open, what components print appears above it."""

    def __init__(self, view: JobView, console: Console) -> None:
        self.view = view
        self._console = console
        self._live = Live(console=console, auto_refresh=False, vertical_overflow="ellipsis")
        self._drawn_us = 0
        self._is_changed = True
        self._live.start()

    def take(self, event: Event) -> None:
        self.view.take(event)
        self._is_changed = True

    def report(self, path: str, fraction: float, message: str, at_us: int) -> None:
        self.view.report(path, fraction, message)
        self._is_changed = True

    def refresh(self, now_us: int) -> None:
        """Draw if it is time to."""
        if 0 <= now_us - self._drawn_us < (INTERVAL_US if self._is_changed else IDLE_US):
            return
        self._draw(now_us)

    def close(self) -> None:
        """Draw the last state and leave it standing."""
        self._draw(self.view.last_us if self.view.is_final else max(self._drawn_us, self.view.last_us))
        self._live.stop()

    def _draw(self, now_us: int) -> None:
        self._drawn_us, self._is_changed = now_us, False
        lines = max(self._console.height - AROUND_ROWS - ERRORS_SHOWN, 3)
        self._live.update(render(self.view, now_us, max_rows=lines), refresh=True)


def render(view: JobView, now_us: int, max_rows: int = 1_000) -> RenderableType:
    """The job line, one line per step, and the last errors."""
    parts: list[RenderableType] = [_job_line(view, now_us), _steps(view, now_us, max_rows)]
    if view.status == JobStatus.FAILED:
        return Group(*parts)  # the summary that follows tells the errors
    hidden = view.error_count - min(len(view.errors), ERRORS_SHOWN)
    if hidden > 0:
        parts.append(Text(f"  {count(hidden, 'earlier error')}", style="dim"))
    for error in view.errors[-ERRORS_SHOWN:]:
        parts.append(_line(f"  {error.get('step') or 'job'}: {error.get('type')}: {error.get('message')}", "red"))
    return Group(*parts)


def _job_line(view: JobView, now_us: int) -> RenderableType:
    name = printable(f"{view.workflow_id}/{short_id(view.job_id)}", 80)
    text = Text(name, style="bold", no_wrap=True)
    text.append(f"  {view.status}", style=JOB_STYLES.get(view.status, "cyan"))
    if view.request is not None:
        text.append(f", {view.request} requested", style="yellow")
    elif view.status == JobStatus.WAITING and view.wake_us is not None:
        text.append(f" until {short_time(as_datetime(view.wake_us))}")
    elif view.status == JobStatus.PAUSED:
        text.append(f"; it goes on after {view.after_pause}", style="dim")
    line = Table.grid(padding=(0, 2))
    share = view.progress()
    bar = ProgressBar(total=1.0, completed=share, width=BAR_WIDTH)
    spent = spent_text(outside(view.spent), outside({key: view.budget[key] for key in view.budget if key != "time_us"}))
    line.add_row(text, bar, percent(share), duration(view.elapsed_s(now_us)), Text(spent, style="dim"))
    return line


def _steps(view: JobView, now_us: int, max_rows: int) -> RenderableType:
    table = Table.grid(padding=(0, 1))
    for _ in range(4):
        table.add_column(no_wrap=True)
    rows = list(view.rows.values())
    first, last = window(rows, max_rows)
    if first:
        table.add_row("", Text(f"{count(first, 'step')} before", style="dim"), "", "")
    for row in rows[first:last]:
        sign, style = SIGNS[row.status]
        table.add_row(Text(f"  {sign}", style), _line(row.id), _bar(row), _details(row, now_us))
    if last < len(rows):
        table.add_row("", Text(f"{count(len(rows) - last, 'step')} to come", style="dim"), "", "")
    return table


def window(rows: Sequence[Row], size: int) -> tuple[int, int]:
    """Which rows to show when not all fit: those around the first that has not ended."""
    if len(rows) <= size:
        return 0, len(rows)
    active = next((index for index, row in enumerate(rows) if not row.is_ended), len(rows))
    first = min(max(active - size // 3, 0), len(rows) - size)
    return first, first + size


def _bar(row: Row) -> RenderableType:
    if not row.is_foreach or row.total is None:
        return ""
    return ProgressBar(total=max(row.total, 1), completed=row.done, width=BAR_WIDTH)


def _details(row: Row, now_us: int) -> Text:
    if row.status == StepStatus.PENDING:
        return Text("")
    if row.is_ended:
        return _line(describe(row), "red" if row.status == StepStatus.FAILED else "dim")
    if row.is_foreach:
        text = describe_items(row, now_us)
        if row.active:
            text += f"  {_items(row)}"
    elif row.status == StepStatus.RETRYING:
        due_s = max((row.retry_at_us or now_us) - now_us, 0) / SECOND_US
        text = f"attempt {row.attempt} failed, the next in {duration(due_s)}: {error_text(row)}"
    elif row.status == StepStatus.WAITING:
        text = f"waits {duration((now_us - (row.started_us or now_us)) / SECOND_US)}"
    else:
        text = duration((now_us - (row.started_us or now_us)) / SECOND_US)
        if row.attempt > 1:
            text += f", attempt {row.attempt}"
        if row.fraction:
            text += f", {percent(row.fraction)}"
    return _line(f"{text}  {row.message}" if row.message else text)


def _items(row: Row) -> str:
    """What runs now, without the name of the foreach: `[12] [13] [14] +5`."""
    paths = list(row.active)[:ITEMS_SHOWN]
    shown = [path[len(row.id) :].split(".")[0] for path in paths]
    more = len(row.active) - len(paths)
    return " ".join(dict.fromkeys(shown)) + (f" +{more}" if more else "")


def _line(text: str, style: str = "") -> Text:
    return Text(printable(text), style=style, no_wrap=True, overflow="ellipsis")
