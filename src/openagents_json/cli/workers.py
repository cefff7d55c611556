"""`openagents workers`: its options, and what it prints."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import typer

from openagents_json.cli.exit_codes import Exit
from openagents_json.cli.options import Json, Store
from openagents_json.cli.output import Output, output_of

if TYPE_CHECKING:
    from openagents_json.job.model import WorkerSummary

ID_SHOWN = 8  # characters of a worker's id, its last ones: what stands before is host and process
BUILT_IN = "core."  # every worker has these: they are shown behind the others
RESOURCES_WIDTH = 40  # and of what it has of resources: those that it was given first
COMPONENTS_WIDTH = 48  # of the names of components that are shown of a worker


def workers(context: typer.Context, store: Store = None, as_json: Json = False) -> int:
    """List the live workers: where they run, what they can run, how many jobs they have, and when they were last heard.

    With --json also the processes that only create and control jobs (max_jobs is 0).
    """
    return asyncio.run(_show(store, output_of(context, as_json)))


async def _show(store: str | None, output: Output) -> int:
    from openagents_json.cli.opening import opened
    from openagents_json.clock import as_datetime

    async with opened(store) as jobs:
        found = [one for one in await jobs.list_workers() if one.id != jobs.worker_id]
        now = as_datetime(jobs.clock.now_us())
    if output.as_json:
        output.document({"workers": [_document(one, now) for one in found]})
        return Exit.DONE
    running = [one for one in found if one.max_jobs]
    if running:
        output.table(worker_rows(running, now))
    else:
        output.say("No worker lives. `openagents worker` starts one.")
    if others := len(found) - len(running):
        be = "process only creates and controls jobs" if others == 1 else "processes only create and control jobs"
        output.say(f"{others:,} more {be}")
    return Exit.DONE


def worker_rows(workers: Sequence[WorkerSummary], now: datetime) -> list[tuple[str, ...]]:
    """The table for people, with its head."""
    from openagents_json.cli.text import duration, printable

    head = ("WORKER", "HOST", "PID", "VERSION", "JOBS", "HEARD", "RESOURCES", "COMPONENTS")
    rows = [
        (
            printable(one.id[-ID_SHOWN:]),
            printable(one.host, 24),
            str(one.pid),
            printable(one.version, 16),
            f"{one.running_jobs:,} of {one.max_jobs:,}",
            f"{duration(_age_s(one, now))} ago",
            shortened(_amounts(one), RESOURCES_WIDTH),
            shortened(sorted(one.components, key=lambda name: name.startswith(BUILT_IN)), COMPONENTS_WIDTH),
        )
        for one in workers
    ]
    return [head, *rows]


def shortened(names: Sequence[str], width: int) -> str:
    """As many names as fit, and how many there are besides: `a, b and 3 more`; `-` for none."""
    from openagents_json.cli.text import printable

    shown: list[str] = []
    for name in names:
        text = printable(name, width)
        if shown and len(", ".join([*shown, text])) > width:
            break
        shown.append(text)
    rest = len(names) - len(shown)
    return (", ".join(shown) or "-") + (f" and {rest:,} more" if rest else "")


def _amounts(worker: WorkerSummary) -> list[str]:
    """What it has of each resource: `gpu 1`. Steps, threads and processes are left out: all workers have these."""
    from openagents_json.resources import BUILT_IN, PROCESSES, STEPS, THREADS

    names = sorted(worker.resources.keys() - {STEPS, THREADS, PROCESSES}, key=lambda name: (name in BUILT_IN, name))
    return [f"{name} {worker.resources[name]:,g}" for name in names]


def _age_s(worker: WorkerSummary, now: datetime) -> float:
    """Since when nothing was heard; the clocks of two machines may differ."""
    return max((now - worker.heartbeat_at).total_seconds(), 0.0)


def _document(worker: WorkerSummary, now: datetime) -> dict[str, Any]:
    fields = {name: getattr(worker, name) for name in worker.__dataclass_fields__}
    return {**fields, "heartbeat_age_s": round(_age_s(worker, now), 3)}
