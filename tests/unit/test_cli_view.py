"""What a viewer of a job is shown: the fold of its events, the plain lines, and the live view without a terminal."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from openagents_json.cli.live import LiveDisplay, render, window
from openagents_json.cli.output import Output
from openagents_json.cli.plain import LINES_PER_STEP, PlainDisplay, rate_text
from openagents_json.cli.view import JobView, Row
from openagents_json.clock import SECOND_US
from openagents_json.job.events import EVENT_TYPES, Event
from openagents_json.job.model import JobStatus, StepStatus

START_US = 1_790_000_000 * SECOND_US
OUTLINE: dict[str, Any] = {
    "steps": [
        {"id": "files", "component": "list"},
        {"id": "each", "foreach": "{{ x }}", "steps": [{"id": "read", "component": "r"}, {"id": "keep", "set": 1}]},
        {"id": "report", "component": "report"},
    ],
    "finally": [{"id": "tidy", "component": "tidy"}],
}
ERROR = {"type": "http.429", "message": "too many \x1b[31mrequests", "step": "files", "attempt": 1}


class History:
    """Events of one job, a second apart unless told otherwise, handed to a view or a display."""

    def __init__(self, taker: Any) -> None:
        self.taker = taker
        self.number = 0
        self.at_us = START_US

    def __call__(self, type: str, after_s: float = 1.0, **data: Any) -> None:
        assert type in EVENT_TYPES
        self.number += 1
        self.at_us += round(after_s * SECOND_US)
        self.taker.take(Event(self.number, type, self.at_us, data))

    def begin(self) -> None:
        self(
            "job.created", job_id="01a20c25-cb0b-7000-a488-9eb52755a44a", workflow_id="audit", version="1.0.0",
            definition="x", inputs={}, priority="MEDIUM", tags=[], metadata={},
        )  # fmt: skip
        self("job.queued", 0, reason="started")
        self("job.started", 0, worker="w", epoch=1)

    def attempt(self, path: str, number: int = 1, after_s: float = 1.0) -> None:
        self("attempt.started", after_s, path=path, attempt=number, key="k", component="c")

    def done(self, path: str, after_s: float = 1.0) -> None:
        self("step.completed", after_s, path=path, output=1)

    def item(self, index: int) -> None:
        self.attempt(f"each[{index}].read", after_s=0)
        self.done(f"each[{index}].read", 0.5)
        self.done(f"each[{index}].keep", 0)


@pytest.fixture
def view() -> JobView:
    return JobView(OUTLINE)


@pytest.fixture
def history(view: JobView) -> History:
    history = History(view)
    history.begin()
    return history


def expand(history: History, count: int) -> None:
    history.attempt("files")
    history.done("files")
    history("step.expanded", path="each", count=count)


# ── the fold ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_all_steps_of_the_definition_are_rows_before_they_run(view: JobView) -> None:
    assert list(view.rows) == ["files", "each", "report", "tidy"]
    assert view.rows["each"].is_foreach
    assert view.rows["tidy"].is_finally
    assert view.progress() == 0.0


def test_step_runs_and_ends(view: JobView, history: History) -> None:
    history.attempt("files")
    assert str(view.rows["files"].status) == "RUNNING"
    assert view.rows["files"].active == {"files": 1}
    history.done("files")
    assert view.rows["files"].status == StepStatus.COMPLETED
    assert view.rows["files"].active == {}
    assert view.progress() == pytest.approx(1 / 3)


def test_failed_attempt_shows_when_the_next_is_due_and_forgets_its_error_on_success(
    view: JobView, history: History
) -> None:
    history.attempt("files")
    history("attempt.failed", path="files", attempt=1, error=ERROR, retry_at_us=history.at_us + 5)
    row = view.rows["files"]
    assert (row.status, row.retry_at_us, row.error) == (StepStatus.RETRYING, history.at_us - SECOND_US + 5, ERROR)
    assert view.errors == []
    history.attempt("files", 2)
    assert (row.status, row.retry_at_us, row.attempt) == (StepStatus.RUNNING, None, 2)
    history.done("files")
    assert row.error is None


def test_item_is_done_when_all_its_steps_have_ended(view: JobView, history: History) -> None:
    expand(history, 4)
    row = view.rows["each"]
    history.done("each[2].read")
    assert row.done == 0
    history("step.skipped", path="each[2].keep")
    assert row.done == 1
    assert row.share() == 0.25


def test_failed_item_counts_once_whatever_happens_to_its_other_steps(view: JobView, history: History) -> None:
    expand(history, 2)
    row = view.rows["each"]
    history("step.failed", path="each[0].read", error=ERROR)
    history("step.cancelled", path="each[0].keep")
    assert (row.done, row.failed) == (1, 1)
    assert row.status == StepStatus.RUNNING
    assert view.errors == [ERROR]


def test_steps_deep_inside_an_item_do_not_count_as_items(view: JobView, history: History) -> None:
    expand(history, 2)
    history.attempt("each[0].read[3].deep")
    assert list(view.rows["each"].active) == ["each[0].read[3].deep"]
    history.done("each[0].read[3].deep")
    assert view.rows["each"].done == 0


def test_rate_counts_from_the_last_start_of_the_job(view: JobView, history: History) -> None:
    expand(history, 100)
    for index in range(10):
        history.item(index)
    assert view.rows["each"].rate(history.at_us) == pytest.approx(2.0)
    history("job.worker_lost", 3600, worker="w", deaths=1)
    history("job.queued", 0, reason="worker_lost")
    history("job.continued", 0, worker="v", epoch=2)
    assert view.rows["each"].rate(history.at_us) is None
    history.item(10)
    history.item(11)
    assert view.rows["each"].rate(history.at_us) == pytest.approx(2.0)


def test_time_in_a_queue_a_pause_or_with_a_dead_worker_is_not_elapsed_time(view: JobView, history: History) -> None:
    history.attempt("files", after_s=2)
    history("job.pause_requested", 0, by="me", reason=None)
    assert str(view.request) == "pause"
    history.done("files", 3)
    history("job.paused", 0)
    assert (view.status, view.request) == (JobStatus.PAUSED, None)
    assert view.elapsed_s(history.at_us + 100 * SECOND_US) == pytest.approx(5)
    history("job.resumed", 500, by="me", reason=None)
    history("job.queued", 0, reason="resumed")
    history("job.continued", 10, worker="w", epoch=2)
    history.attempt("report", after_s=1)
    history("job.worker_lost", 1000, worker="w", deaths=1)
    assert view.elapsed_s(history.at_us) == pytest.approx(6)


def test_progress_never_falls(view: JobView, history: History) -> None:
    history.attempt("files")
    view.report("files", 0.9, "nearly")
    high = view.progress()
    history("attempt.failed", path="files", attempt=1, error=ERROR, retry_at_us=1)
    history.attempt("files", 2)
    assert view.rows["files"].fraction == 0.0
    assert view.progress() == high


def test_final_job_shows_what_ran_as_cancelled_and_the_rest_as_never_run(view: JobView, history: History) -> None:
    expand(history, 10)
    history.attempt("each[0].read")
    history("job.cancel_requested", by="me", reason=None, force=True)
    assert str(view.request) == "forced cancel"
    history("job.cancelled", by="me", reason=None, force=True)
    assert view.is_final
    assert view.request is None
    assert [row.status for row in view.rows.values()] == ["COMPLETED", "CANCELLED", "PENDING", "PENDING"]
    assert view.rows["each"].active == {}


def test_event_taken_twice_changes_nothing(view: JobView, history: History) -> None:
    expand(history, 2)
    last = Event(history.number + 1, "step.completed", history.at_us, {"path": "each[0].read"})
    view.take(last)
    view.take(last)
    view.take(Event(1, "job.created", 0, {}))
    assert view.rows["each"].done == 0
    assert view.number == last.number


def test_rows_appear_as_steps_begin_when_the_definition_is_not_known() -> None:
    view = JobView()
    history = History(view)
    history.begin()
    history.attempt("files")
    history("step.expanded", path="each", count=2)
    history.done("each[0].read")
    assert list(view.rows) == ["files", "each"]
    assert view.rows["each"].total == 2


def test_event_of_a_later_release_is_passed_over(view: JobView, history: History) -> None:
    view.take(Event(history.number + 1, "job.blessed", history.at_us, {"path": "files"}))
    assert view.rows["files"].status == StepStatus.PENDING


# ── plain lines ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def lines() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def told(view: JobView, lines: io.StringIO) -> History:
    history = History(PlainDisplay(view, Output(lines)))
    history.begin()
    return history


def texts(lines: io.StringIO) -> list[str]:
    """The lines without their times."""
    return [line.split("  ", 1)[1] for line in lines.getvalue().splitlines()]


def test_each_transition_of_a_step_is_one_line(told: History, lines: io.StringIO) -> None:
    told.attempt("files")
    told("attempt.failed", path="files", attempt=1, error=ERROR, retry_at_us=1)
    told.attempt("files", 2)
    told.done("files")
    told("step.skipped", path="report")
    assert texts(lines) == [
        "QUEUED",
        "RUNNING",
        "files: running",
        "files: attempt 1 failed, another follows: http.429: too many \\x1b[31mrequests",
        "files: running, attempt 2",
        "files: done in 3.0 s",
        "report: skipped",
    ]


def test_result_that_was_taken_over_is_told_with_how_it_had_ended(
    view: JobView, told: History, lines: io.StringIO
) -> None:
    before = view.progress()
    told("step.taken_over", path="files", status="COMPLETED", output=1)
    told("step.taken_over", path="each", status="FAILED", error=ERROR)
    told("step.taken_over", path="report", status="SKIPPED")
    assert view.progress() == pytest.approx(before + 1)
    assert texts(lines)[2:] == [
        "files: done, taken over",
        "each: failed, taken over: http.429: too many \\x1b[31mrequests",
        "report: skipped, taken over",
    ]


def test_foreach_of_any_size_gives_a_line_every_few_seconds(told: History, lines: io.StringIO) -> None:
    expand(told, 10_000)
    before = len(texts(lines))
    for index in range(24):  # 12 seconds
        told.item(index)
    said = texts(lines)[before:]
    assert said == [
        "each: 9 of 10,000 items (0 %), 1.8/s",
        "each: 19 of 10,000 items (0 %), 1.9/s",
    ]


def test_step_that_is_retried_for_ever_falls_silent_but_tells_its_end(told: History, lines: io.StringIO) -> None:
    for number in range(1, 100):
        told.attempt("files", number)
        told("attempt.failed", path="files", attempt=number, error=ERROR, retry_at_us=1)
    told("step.failed", path="files", error=ERROR)
    said = [text for text in texts(lines) if text.startswith("files: ")]
    assert len(said) == LINES_PER_STEP + 1
    assert said[-1].startswith("files: failed in")


def test_waiting_and_paused_jobs_say_what_they_wait_for(told: History, lines: io.StringIO) -> None:
    told("job.waiting", until_us=told.at_us)
    told("job.pause_requested", by=None, reason=None)
    told("job.paused")
    waiting, asked, paused = texts(lines)[-3:]
    assert waiting.startswith("WAITING until ")
    assert asked == "WAITING, pause requested"
    assert paused == "PAUSED; it goes on after `openagents jobs resume`"


@pytest.mark.parametrize(("rate", "text"), [(1234.0, "1,234/s"), (2.34, "2.3/s"), (0.05, "3.0/min")])
def test_rates_are_short(rate: float, text: str) -> None:
    assert rate_text(rate) == text


# ── the live view ─────────────────────────────────────────────────────────────────────────────────────────────────


def drawn(view: JobView, now_us: int, **options: Any) -> str:
    console = Console(record=True, width=100, file=io.StringIO(), force_terminal=True)
    console.print(render(view, now_us, **options))
    return console.export_text()


def test_live_view_shows_job_steps_items_and_errors(view: JobView, history: History) -> None:
    expand(history, 8)
    history.item(0)
    history.item(1)
    history("step.failed", path="each[2].read", error=ERROR)
    history.attempt("each[3].read")
    view.report("each[3].read", 0.5, "page 2\x1b[2J")
    shown = drawn(view, history.at_us)
    assert "audit/2755a44a  RUNNING" in shown
    assert "45 %" in shown
    assert "✓ files" in shown
    assert "3 of 8 items (37 %), 1.0/s, 1 failed  [3]  page 2\\x1b[2J" in shown
    assert "· report" in shown
    assert "files: http.429: too many \\x1b[31mrequests" in shown
    assert "\x1b[2J" not in shown


def test_live_view_counts_down_to_the_next_attempt(view: JobView, history: History) -> None:
    history.attempt("files")
    history("attempt.failed", path="files", attempt=1, error=ERROR, retry_at_us=history.at_us + 4 * SECOND_US)
    assert "attempt 1 failed, the next in 3.0 s: http.429" in drawn(view, history.at_us)


def test_markup_in_names_is_text(history: History, view: JobView) -> None:
    history("step.failed", path="files", error={"type": "[red]x[/red]", "message": "[/]", "step": "files"})
    assert "[red]x[/red]: [/]" in drawn(view, history.at_us)


def test_many_steps_are_shown_around_the_first_that_has_not_ended() -> None:
    outline = {"steps": [{"id": f"s{number}"} for number in range(40)]}
    view = JobView(outline)
    history = History(view)
    history.begin()
    for number in range(20):
        history.done(f"s{number}")
    shown = drawn(view, history.at_us, max_rows=9)
    assert "17 steps before" in shown
    assert "14 steps to come" in shown
    assert "s20" in shown


@pytest.mark.parametrize(("ended", "expected"), [(0, (0, 5)), (10, (9, 14)), (20, (15, 20))])
def test_window_stays_inside_the_rows(ended: int, expected: tuple[int, int]) -> None:
    rows = [Row(str(n), status=StepStatus.COMPLETED if n < ended else StepStatus.PENDING) for n in range(20)]
    assert window(rows, 5) == expected


def test_live_display_draws_at_most_so_often_and_leaves_the_last_state() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=100, height=30)
    display = LiveDisplay(JobView(OUTLINE), console)
    history = History(display)
    history.begin()
    display.refresh(history.at_us)
    size = len(file.getvalue())
    assert size
    history.attempt("files", after_s=0)
    display.refresh(history.at_us + 50_000)
    assert len(file.getvalue()) == size
    display.refresh(history.at_us + 200_000)
    assert len(file.getvalue()) > size
    history("job.completed", 3)
    display.close()
    assert "COMPLETED" in file.getvalue()
    assert "100 %" in file.getvalue()


def test_plain_lines_begin_with_what_runs_already() -> None:
    view = JobView(OUTLINE)
    history = History(view)
    history.begin()
    history.attempt("files")
    lines = io.StringIO()
    PlainDisplay(view, Output(lines))
    assert "files: running" in lines.getvalue()


def test_view_adds_up_what_steps_and_children_spend() -> None:
    events: list[tuple[str, dict[str, Any]]] = [
        ("job.created", {"job_id": "j", "workflow_id": "w", "version": "1.0.0", "budget": {"tokens": 100}}),
        ("attempt.spent", {"path": "a", "attempt": 1, "spent": {"tokens": 5}}),
        ("step.completed", {"path": "a", "attempt": 1, "spent": {"tokens": 7, "cost_nanos": 10}}),
        ("child.spent", {"path": "b", "child_id": "c", "spent": {"time_us": 3, "tokens": 20}}),
        ("job.pause_requested", {"by": "budget", "reason": "spent", "budget": "tokens"}),
        ("job.budget_added", {"amounts": {"tokens": 50}, "by": None, "reason": None}),
        ("child.ended", {"path": "b", "child_id": "c", "status": "COMPLETED", "spent": {"time_us": 4, "tokens": 21}}),
        ("job.paused", {}),
    ]
    view = JobView()
    for number, (type, data) in enumerate(events, 1):
        view.take(Event(number, type, number, data))
    assert view.spent == {"tokens": 33, "cost_nanos": 10, "time_us": 4}
    assert view.budget == {"tokens": 150}
    assert view.after_pause == "`openagents jobs add-budget` and `openagents jobs resume`"
    view.take(Event(9, "job.queued", 9, {"reason": "resumed"}))
    assert view.after_pause == "`openagents jobs resume`"
