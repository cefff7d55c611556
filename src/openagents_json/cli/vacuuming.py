"""What `openagents store vacuum` does."""

from __future__ import annotations

import asyncio

from openagents_json.cli.exit_codes import Exit
from openagents_json.cli.failures import UsageProblem
from openagents_json.cli.opening import chosen_store
from openagents_json.cli.output import Output
from openagents_json.cli.text import count, printable, size
from openagents_json.job.store import JobStore
from openagents_json.job.store.upkeep import StoreFacts, Vacuumed


def vacuum_store(url: str | None, force: bool, output: Output) -> int:
    """Make the store small and say what that has won."""
    facts, done = asyncio.run(_vacuum(chosen_store(url), force))
    if output.as_json:
        output.document({"place": facts.place, "before_bytes": done.before_bytes, "after_bytes": done.after_bytes})
    change = done.before_bytes - done.after_bytes
    won = f"{size(change)} less" if change > 0 else "no less"
    output.say(
        f"{printable(facts.place)} has {size(done.after_bytes)}, {won} than the {size(done.before_bytes)} before"
    )
    return Exit.DONE


async def _vacuum(store: JobStore, force: bool) -> tuple[StoreFacts, Vacuumed]:
    facts = await store.facts()
    if store.vacuum_holds_up and facts.workers and not force:
        workers = count(facts.workers, "worker")
        raise UsageProblem(
            f"{workers} could not write while {size(facts.disk_bytes)} are rewritten, and might be taken for dead. "
            "Stop what `openagents workers` lists, or give --force."
        )
    return facts, await store.vacuum()
