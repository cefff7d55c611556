"""What `openagents store set-aging` does."""

from __future__ import annotations

import asyncio

from openagents_json.cli.exit_codes import Exit
from openagents_json.cli.failures import UsageProblem
from openagents_json.cli.opening import chosen_store
from openagents_json.cli.output import Output
from openagents_json.cli.text import printable
from openagents_json.job.arguments import aging_of
from openagents_json.job.store import JobStore
from openagents_json.job.store.upkeep import StoreFacts


def set_store_aging(aging: str, url: str | None, output: Output) -> int:
    """Set it and say what it is now."""
    try:
        aging_s = aging_of(aging if aging == "strict" else float(aging))
    except ValueError:
        raise UsageProblem(f"{aging!r} is no aging time. Give seconds, such as 600, or strict.") from None
    facts = asyncio.run(_set(chosen_store(url), aging_s))
    if output.as_json:
        output.document({"place": facts.place, "aging_s": aging_s})
    worth = "comes before every lower one" if aging == "strict" else f"is worth {aging_s:,g} s of waiting"
    output.say(f"in {printable(facts.place)} a level of priority {worth}")
    return Exit.DONE


async def _set(store: JobStore, aging_s: float) -> StoreFacts:
    facts = await store.facts()  # also of a store that is not there: then it is not made
    await store.open()
    try:
        await store.set_aging(aging_s)
    finally:
        await store.close()
    return facts
