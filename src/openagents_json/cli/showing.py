"""How a job is shown while it runs, and what is said of it when it has ended."""

from __future__ import annotations

from typing import Any, Protocol

from openagents_json.cli.output import Output
from openagents_json.cli.plain import PlainDisplay
from openagents_json.cli.text import duration, printable
from openagents_json.cli.view import JobView
from openagents_json.ids import short_id
from openagents_json.job.events import Event
from openagents_json.job.model import ErrorInfo, Job, JobStatus

ERRORS_SHOWN = 10
SIGNS = {JobStatus.COMPLETED: "✓", JobStatus.FAILED: "✗", JobStatus.CANCELLED: "■"}


class Display(Protocol):
    """Shows one job: in a terminal, as lines, or not at all."""

    view: JobView

    def take(self, event: Event) -> None:
        """Fold the next event."""

    def report(self, path: str, fraction: float, message: str, at_us: int) -> None:
        """What a component says of its progress."""

    def refresh(self, now_us: int) -> None:
        """Draw if there is something to draw and it is time to."""

    def close(self) -> None:
        """Show the last state and let go of the terminal."""


class SilentDisplay:
    """Folds and shows nothing: with --json only the outcome is told."""

    def __init__(self, view: JobView) -> None:
        self.view = view

    def take(self, event: Event) -> None:
        self.view.take(event)

    def report(self, path: str, fraction: float, message: str, at_us: int) -> None:
        pass

    def refresh(self, now_us: int) -> None:
        pass

    def close(self) -> None:
        pass


def make_display(view: JobView, output: Output, *, plain: bool = False) -> Display:
    """The display that fits the output."""
    if output.as_json:
        return SilentDisplay(view)
    if plain or not output.is_terminal:
        hint = f"; it goes on after {view.after_pause}" if view.status == JobStatus.PAUSED else ""
        output.say(f"Job {job_name(view.workflow_id, view.job_id)} is {view.status}{hint}.")
        return PlainDisplay(view, output)
    from rich.console import Console

    from openagents_json.cli.live import LiveDisplay

    return LiveDisplay(view, Console(file=output.stream, highlight=False))


def job_name(workflow_id: str, job_id: str) -> str:
    """`workflow/short-id`, which every command takes for an id."""
    return printable(f"{workflow_id}/{short_id(job_id)}", 240)


def error_line(error: ErrorInfo) -> str:
    """`score, attempt 3: http.429: too many requests`."""
    place = f"{error['step']}, attempt {error['attempt']}" if error.get("attempt") else error.get("step")
    return printable(f"{f'{place}: ' if place else ''}{error.get('type')}: {error.get('message')}", 600)


def result_document(job: Job) -> dict[str, Any]:
    """What `run --json` prints of a job that has ended."""
    return {
        "id": job.id,
        "job": job_name(job.workflow_id, job.id),
        "workflow_id": job.workflow_id,
        "version": job.version,
        "status": job.status,
        "outputs": job.outputs if job.status == JobStatus.COMPLETED else None,
        "errors": job.errors,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "completed_at": job.completed_at,
    }


def show_result(job: Job, output: Output) -> None:
    """The outcome of a job: its outputs, or its errors on stderr."""
    if output.as_json:
        output.document(result_document(job))
        return
    name = job_name(job.workflow_id, job.id)
    since = job.started_at or job.created_at
    took = f" after {duration((job.completed_at - since).total_seconds())}" if job.completed_at is not None else ""
    output.say(f"{SIGNS.get(job.status, '')} {name} {job.status}{took}")
    if job.status == JobStatus.COMPLETED:
        if job.outputs:
            output.data(job.outputs)
        return
    for error in job.errors[:ERRORS_SHOWN]:
        output.note(f"  {error_line(error)}")
    if len(job.errors) > ERRORS_SHOWN:
        output.note(f"  … and {len(job.errors) - ERRORS_SHOWN} more")
    output.note(f"  See `openagents jobs show {name}`.")
