"""`openagents pause`, `openagents resume` and `openagents pauses`: their options, and what they do."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openagents_json.cli.exit_codes import Exit
from openagents_json.cli.options import By, Json, Reason, Store
from openagents_json.cli.output import Output, output_of

if TYPE_CHECKING:
    from datetime import datetime

    from openagents_json.job.store.pauses import Pause


class What(StrEnum):
    """What can be paused as a whole."""

    COMPONENT = "component"
    WORKFLOW = "workflow"


Kind = Annotated[What, typer.Argument(metavar="KIND", help="component or workflow.")]
Names = Annotated[list[str], typer.Argument(metavar="NAME…", help="Names of components, or ids of workflows.")]


def pause(
    context: typer.Context,
    kind: Kind,
    names: Names,
    by: By = None,
    reason: Reason = None,
    store: Store = None,
    as_json: Json = False,
) -> int:
    """Pause whole components or workflows, in all workers: nothing of them starts until `openagents resume`.

    What runs may end. For single jobs there is `openagents jobs pause`.
    """
    from openagents_json.cli.opening import check_reason

    check_reason(reason)
    return asyncio.run(_pause(kind, names, by, reason, store, output_of(context, as_json)))


def resume(context: typer.Context, kind: Kind, names: Names, store: Store = None, as_json: Json = False) -> int:
    """End pauses of whole components or workflows."""
    return asyncio.run(_resume(kind, names, store, output_of(context, as_json)))


def pauses(context: typer.Context, store: Store = None, as_json: Json = False) -> int:
    """List the components and workflows that are paused: by whom, since when, and why."""
    return asyncio.run(_list(store, output_of(context, as_json)))


async def _pause(
    kind: What, names: Sequence[str], by: str | None, reason: str | None, store: str | None, output: Output
) -> int:
    from openagents_json.cli.opening import asker, opened

    documents = []
    async with opened(store) as jobs:
        verb = jobs.pause_component if kind == What.COMPONENT else jobs.pause_workflow
        for name in names:
            is_new = await verb(name, by=asker(by), reason=reason)
            documents.append({"kind": str(kind), "name": name, "is_new": is_new})
            output.say(f"{kind} {name} {'is paused' if is_new else 'was paused already'}")
    if output.as_json:
        output.document({"pauses": documents})
    return Exit.DONE


async def _resume(kind: What, names: Sequence[str], store: str | None, output: Output) -> int:
    from openagents_json.cli.opening import opened

    documents = []
    async with opened(store) as jobs:
        verb = jobs.resume_component if kind == What.COMPONENT else jobs.resume_workflow
        for name in names:
            was_paused = await verb(name)
            documents.append({"kind": str(kind), "name": name, "was_paused": was_paused})
            output.say(f"{kind} {name} {'goes on' if was_paused else 'was not paused'}")
    if output.as_json:
        output.document({"pauses": documents})
    return Exit.DONE


async def _list(store: str | None, output: Output) -> int:
    from openagents_json.cli.opening import opened
    from openagents_json.clock import as_datetime

    async with opened(store) as jobs:
        found = await jobs.list_pauses()
        now = as_datetime(jobs.clock.now_us())
    if output.as_json:
        output.document({"pauses": [_document(one) for one in found]})
    elif found:
        output.table(pause_rows(found, now))
    else:
        output.say("Nothing is paused as a whole. `openagents jobs list --status PAUSED` lists paused jobs.")
    return Exit.DONE


def pause_rows(pauses: Sequence[Pause], now: datetime) -> list[tuple[str, ...]]:
    """The table for people, with its head."""
    from openagents_json.cli.text import printable, short_time
    from openagents_json.clock import as_datetime

    rows = [
        (
            one.kind,
            printable(one.name, 80),
            printable(one.by or "-", 40),
            short_time(as_datetime(one.at_us), now),
            printable(one.reason or "-", 80),
        )
        for one in pauses
    ]
    return [("KIND", "NAME", "BY", "SINCE", "REASON"), *rows]


def _document(pause: Pause) -> dict[str, Any]:
    from openagents_json.clock import as_datetime

    since = as_datetime(pause.at_us)
    return {"kind": pause.kind, "name": pause.name, "by": pause.by, "reason": pause.reason, "since": since}
