"""A job's progress as plain lines, for pipes, logs and --plain: bounded by the steps and the time, not by the items."""

from __future__ import annotations

from openagents_json.cli.output import Output
from openagents_json.cli.text import count, duration, percent, printable, short_time
from openagents_json.cli.view import JobView, Row
from openagents_json.clock import SECOND_US, as_datetime
from openagents_json.job.events import Event
from openagents_json.job.model import JobStatus, StepStatus

INTERVAL_US = 5 * SECOND_US  # between two lines on a foreach, and on what one step reports
LINES_PER_STEP = 20  # a step that keeps being retried falls silent after so many

STATUS_WORDS = {
    StepStatus.COMPLETED: "done",
    StepStatus.FAILED: "failed",
    StepStatus.SKIPPED: "skipped",
    StepStatus.CANCELLED: "cancelled",
}


class PlainDisplay:
    """Prints a line when a top-level step or the job changes, and now and then how far a foreach is."""

    def __init__(self, view: JobView, output: Output) -> None:
        self.view = view
        self._output = output
        self._status: dict[str, StepStatus] = {row.id: row.status for row in view.rows.values()}
        self._job_status = view.status
        self._lines: dict[str, int] = {}  # per step, for LINES_PER_STEP
        self._progress_us: dict[str, int] = {}  # when a step's progress was last told
        self._request: str | None = None
        for row in view.rows.values():  # what began before anybody looked
            if row.started_us is not None and not row.is_ended:
                self._say(row, view.last_us, describe(row))

    def take(self, event: Event) -> None:
        """Fold the event and tell what changed."""
        row = self.view.take(event)
        if row is not None:
            self._tell_row(row, event)
        if self.view.status != self._job_status or self.view.request != self._request:
            self._tell_job(event)

    def report(self, path: str, fraction: float, message: str, at_us: int) -> None:
        """Fold what a component reports; tell it at most every INTERVAL_US."""
        self.view.report(path, fraction, message)
        row = self.view.rows[path.split("[")[0].split(".")[0]]
        if not row.is_foreach and self._is_time(row, at_us):
            self._say(row, at_us, f"{percent(fraction)} {printable(message, 200)}".rstrip())

    def refresh(self, now_us: int) -> None:
        """Nothing to draw: lines come with events."""

    def close(self) -> None:
        """Nothing to take down."""

    def _tell_row(self, row: Row, event: Event) -> None:
        before, self._status[row.id] = self._status.get(row.id, StepStatus.PENDING), row.status
        if row.status != before:
            self._progress_us[row.id] = event.at_us
            self._say(row, event.at_us, describe(row))
        elif row.is_foreach and not row.is_ended and self._is_time(row, event.at_us):
            self._say(row, event.at_us, describe_items(row, event.at_us))

    def _is_time(self, row: Row, at_us: int) -> bool:
        last_us = self._progress_us.get(row.id)
        if last_us is not None and 0 <= at_us - last_us < INTERVAL_US:
            return False
        self._progress_us[row.id] = at_us
        return True

    def _say(self, row: Row, at_us: int, text: str) -> None:
        self._lines[row.id] = said = self._lines.get(row.id, 0) + 1
        if row.is_foreach or row.is_ended or said <= LINES_PER_STEP:
            self._output.say(f"{short_time(as_datetime(at_us))}  {printable(row.id)}: {text}")

    def _tell_job(self, event: Event) -> None:
        view = self.view
        self._job_status, self._request = view.status, view.request
        if view.is_final:
            return  # the summary follows
        text = str(view.status)
        if view.request is not None:
            text += f", {view.request} requested"
        elif view.status == JobStatus.PAUSED:
            text += f"; it goes on after {view.after_pause}"
        elif view.status == JobStatus.WAITING and view.wake_us is not None:
            text += f" until {short_time(as_datetime(view.wake_us))}"
        self._output.say(f"{short_time(event.at)}  {text}")


def describe(row: Row) -> str:
    """What a row's status means, in words: `done in 3.1 s`, `running`, `attempt 1 failed, …`."""
    error = f": {error_text(row)}" if row.error is not None else ""
    if row.status == StepStatus.RETRYING:
        return f"attempt {row.attempt} failed, another follows{error}"
    if row.status == StepStatus.RUNNING:
        if row.is_foreach:
            return count(row.total or 0, "item")
        words = "running" if row.attempt <= 1 else f"running, attempt {row.attempt}"
        return f"{words}, {printable(row.message, 200)}" if row.message else words
    if row.status == StepStatus.WAITING:
        return f"waits {printable(row.message, 200)}".rstrip()
    words = STATUS_WORDS.get(row.status, str(row.status).lower())
    if row.started_us is not None and row.ended_us is not None and row.status != StepStatus.SKIPPED:
        words += f" in {duration((row.ended_us - row.started_us) / SECOND_US)}"
    if row.is_taken_over:
        words += ", taken over"
    if row.is_foreach and row.total is not None:
        failed = f", {row.failed:,} failed" if row.failed else ""
        words += f" ({count(row.total, 'item')}{failed})"
    return words + (error if row.status == StepStatus.FAILED else "")


def describe_items(row: Row, now_us: int) -> str:
    """`120 of 1,700 items (7 %), 35/s`, with failures and retries where there are some."""
    total = row.total or 0
    text = f"{row.done:,} of {count(total, 'item')} ({percent(row.share())})"
    if (rate := row.rate(now_us)) is not None:
        text += f", {rate_text(rate)}"
    if row.failed:
        text += f", {row.failed:,} failed"
    if row.retries:
        text += ", 1 retry" if row.retries == 1 else f", {row.retries:,} retries"
    return text


def rate_text(rate: float) -> str:
    """`35/s`, `0.4/s`, `12/min`."""
    if rate >= 10:
        return f"{rate:,.0f}/s"
    return f"{rate:.1f}/s" if rate >= 0.1 else f"{rate * 60:.1f}/min"


def error_text(row: Row) -> str:
    """`http.429: too many requests`, printable and short."""
    error = row.error or {}
    return printable(f"{error.get('type')}: {error.get('message')}", 200)
