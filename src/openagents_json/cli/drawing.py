"""What `openagents graph` and `openagents jobs timeline` do."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path

from openagents_json.cli.exit_codes import Exit
from openagents_json.cli.failures import UsageProblem
from openagents_json.cli.opening import opened
from openagents_json.cli.output import Output
from openagents_json.cli.running import watching
from openagents_json.cli.text import printable
from openagents_json.clock import SystemClock
from openagents_json.errors import StoreError
from openagents_json.job.events import Event
from openagents_json.job.manager import JobManager
from openagents_json.jsondata import decode
from openagents_json.pictures import GRAPH_FORMATS, TIMELINE_FORMATS, graph_picture, timeline_picture
from openagents_json.workflow import Plan, build_plan, load_workflow, stored_workflow

_ENDINGS = {".mmd": "mermaid", ".mermaid": "mermaid", ".dot": "dot", ".gv": "dot", ".svg": "svg", ".txt": "text"}
WIDTH = 100  # of a text that goes to no terminal


def draw_graph(
    file: str | None, job: str | None, format: str | None, picture: str | None, store: str | None, output: Output
) -> int:
    """Draw a workflow, alone or with a job."""
    chosen = chosen_format(format, picture, GRAPH_FORMATS)
    given = load_workflow(Path(file)) if file is not None else None
    if job is not None:
        plan, history = asyncio.run(_read(job, store))
        if given is not None and given.content_hash != plan.workflow.content_hash:
            output.note("The file has changed since the job was made from it; drawn is the job's own definition.")
        return deliver(graph_picture(plan, chosen, history, SystemClock().now_us()), chosen, picture, output)
    if given is None:
        raise UsageProblem("Name a workflow FILE, or a job with --job.")
    return deliver(graph_picture(build_plan(given), chosen), chosen, picture, output)


def draw_timeline(
    job: str, format: str | None, picture: str | None, unfold: bool, store: str | None, output: Output
) -> int:
    """Draw the timeline of a job."""
    chosen = chosen_format(format, picture, TIMELINE_FORMATS)
    plan, history = asyncio.run(_read(job, store))
    width = shutil.get_terminal_size((WIDTH, 24)).columns
    drawn = timeline_picture(plan, chosen, history, SystemClock().now_us(), width=width, is_folded=not unfold)
    return deliver(drawn, chosen, picture, output)


def chosen_format(format: str | None, picture: str | None, formats: Sequence[str]) -> str:
    """The format that was asked for, else the one of the file's ending, else the first. `UsageProblem` for others."""
    chosen = format
    if chosen is None and picture is not None:
        chosen = _ENDINGS.get(Path(picture).suffix.lower())
        chosen = chosen if chosen in formats else None
    if chosen is not None and chosen not in formats:
        raise UsageProblem(f"There is no format {printable(chosen, 40)!r}; there are {', '.join(formats)}.")
    return chosen or formats[0]


def deliver(drawn: str, format: str, picture: str | None, output: Output) -> int:
    """Print a picture, or write it to a file. `UsageProblem` if the file cannot be written."""
    if picture is None:
        output.document({"format": format, "picture": drawn}) if output.as_json else output.say(drawn.rstrip("\n"))
        return Exit.DONE
    try:
        Path(picture).write_text(drawn, encoding="utf-8")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UsageProblem(f"{printable(picture, 200)} cannot be written: {why}") from None
    output.say(f"{format} written to {printable(picture, 200)}")
    if output.as_json:
        output.document({"format": format, "file": picture})
    return Exit.DONE


async def _read(text: str, store: str | None) -> tuple[Plan, list[Event]]:
    """The plan of a job's own definition, and its history so far."""
    async with opened(store) as jobs:
        summary = await jobs.get_summary(await jobs.find_job(text))
        document = await jobs.store.read_definition(summary.definition)
        if document is None:
            raise StoreError(f"The definition {summary.definition} is not in the store; the store is damaged.")
        return build_plan(stored_workflow(decode(document))), await _history(jobs, summary.id, summary.events)


async def _history(jobs: JobManager, job_id: str, known: int) -> list[Event]:
    history: list[Event] = []
    async with watching(jobs, job_id) as events:
        async for event in events:
            history.append(event)
            if event.number >= known:
                break
    return history
