"""The two pictures in all their formats: the graph of a workflow, with or without a job, and the timeline of a job."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from openagents_json.job.events import Event
from openagents_json.job.machine import JobState, fold
from openagents_json.pictures.dot import dot_of
from openagents_json.pictures.graph_svg import svg_of
from openagents_json.pictures.marks import Marks
from openagents_json.pictures.mermaid import mermaid_of
from openagents_json.pictures.outline import Outline, outline_of
from openagents_json.pictures.spans import timeline_of
from openagents_json.pictures.timeline_svg import timeline_svg_of
from openagents_json.pictures.timeline_text import text_of
from openagents_json.pictures.wording import duration, line_of
from openagents_json.workflow import Plan

_GRAPHS: dict[str, Callable[[Outline], str]] = {"mermaid": mermaid_of, "dot": dot_of, "svg": svg_of}
GRAPH_FORMATS = tuple(_GRAPHS)
TIMELINE_FORMATS = ("text", "svg")
LINE_CHARACTERS = 120


def graph_picture(plan: Plan, format: str, history: Sequence[Event] | None = None, now_us: int = 0) -> str:
    """The structure of a workflow as text in one of `GRAPH_FORMATS`.

    With a job's history each step shows its state and how long it took; what runs has lasted until `now_us`.
    """
    workflow = plan.workflow
    title = f"{workflow.id} {workflow.version}"
    lines = [line_of(workflow.description, LINE_CHARACTERS)] if workflow.description else []
    marks = None
    if history is not None:
        state = fold(plan, history)
        marks = Marks(state, now_us)
        lines.append(standing(state, now_us))
    return _GRAPHS[format](outline_of(plan, title, tuple(lines), marks))


def standing(state: JobState, now_us: int) -> str:
    """`job 019a…: RUNNING, 12 s so far` or `job 019a…: COMPLETED in 3.2 s`."""
    text = f"job {state.job_id}: {state.status}"
    if state.started_us is None:
        return text
    if state.completed_us is not None:
        return f"{text} in {duration(state.completed_us - state.started_us)}"
    return f"{text}, {duration(now_us - state.started_us)} so far"


def timeline_picture(
    plan: Plan, format: str, history: Sequence[Event], now_us: int, *, width: int = 100, is_folded: bool = True
) -> str:
    """When a job's step runs and attempts were on, as text in one of `TIMELINE_FORMATS`.

    `width` is that of the text in columns. Folded, a loop shows its first items and a line that sums up the others.
    """
    timeline = timeline_of(plan, history, now_us, is_folded=is_folded)
    return text_of(timeline, width) if format == "text" else timeline_svg_of(timeline)
