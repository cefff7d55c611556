"""`openagents health`: its options, and what it prints."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from openagents_json.cli.exit_codes import Exit
from openagents_json.cli.options import Json, Store
from openagents_json.cli.output import Output, output_of


def health(
    context: typer.Context,
    max_queue_age_s: Annotated[
        float | None,
        typer.Option(
            "--max-queue-age", min=0, metavar="SECONDS", help="Unhealthy if a job has been queued for longer."
        ),
    ] = None,
    store: Store = None,
    as_json: Json = False,
) -> int:
    """Say whether the store works, how many jobs there are, and how long the queue is.

    Exits with 0 if all is well, 6 if something is not, 5 if the store cannot be used.
    """
    return asyncio.run(_show(max_queue_age_s, store, output_of(context, as_json)))


async def _show(max_queue_age_s: float | None, store: str | None, output: Output) -> int:
    from openagents_json.cli.opening import opened

    async with opened(store) as jobs:
        found = await jobs.health()
    reasons = list(found["reasons"])
    if max_queue_age_s is not None and found["queue_age_s"] > max_queue_age_s:
        reasons.append(f"A job has been queued for {found['queue_age_s']:,.0f} s; is there a worker that can run it?")
    found |= {"status": "degraded" if reasons else "ok", "reasons": reasons}
    if output.as_json:
        output.document(found)
    for line in health_lines(found):
        output.say(line)
    if found["store_error"] is not None:
        return Exit.STORE
    return Exit.UNHEALTHY if reasons else Exit.DONE


def health_lines(found: Mapping[str, Any]) -> list[str]:
    """The health for people."""
    from openagents_json.cli.text import duration, printable

    lines = [f"{found['status']}"]
    lines += [f"  {printable(reason)}" for reason in found["reasons"]]
    jobs = ", ".join(f"{count:,} {status}" for status, count in found["jobs"].items())
    lines.append(f"  jobs   {jobs or 'none'}")
    if found["jobs"].get("QUEUED"):
        lines.append(f"  queue  the oldest has waited for {duration(found['queue_age_s'])}")
    return lines
