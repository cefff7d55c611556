"""What `openagents store info` does."""

from __future__ import annotations

import asyncio
from typing import Any

from openagents_json.cli.exit_codes import Exit
from openagents_json.cli.opening import chosen_store
from openagents_json.cli.output import Output
from openagents_json.cli.text import count, printable, short_time, size
from openagents_json.clock import as_datetime
from openagents_json.job.model import JobStatus
from openagents_json.job.store.upkeep import StoreFacts


def show_facts(url: str | None, output: Output) -> int:
    """Print how a store is."""
    facts = asyncio.run(chosen_store(url).facts())
    if output.as_json:
        output.document(facts_document(facts))
    for line in facts_lines(facts):
        output.say(line)
    return Exit.DONE


def facts_lines(facts: StoreFacts) -> list[str]:
    """The facts for people."""
    lines = [printable(facts.place), f"  kind         {facts.kind}, {printable(facts.engine)}"]
    lines.append(f"  schema       {schema_text(facts)}")
    total = sum(facts.jobs.values())
    by_status = ", ".join(f"{facts.jobs[status]:,} {status}" for status in JobStatus if facts.jobs.get(status))
    lines.append(f"  jobs         {total:,}" + (f": {by_status}" if total else ""))
    if facts.oldest_us is not None and facts.newest_us is not None:
        oldest, newest = (short_time(as_datetime(at_us)) for at_us in (facts.oldest_us, facts.newest_us))
        lines.append(f"  created      from {oldest} to {newest}")
    counted = {"events": facts.events, "definitions": facts.definitions, "leaks": facts.leaks, "workers": facts.workers}
    lines += [f"  {name:<11}  {number:,}" for name, number in counted.items() if number is not None]
    if facts.sizes:
        parts = ", ".join(f"{printable(part)} {size(bytes)}" for part, bytes in facts.sizes.items())
        free = f", {size(facts.free_bytes)} of it free" if facts.free_bytes is not None else ""
        lines.append(f"  on the disk  {size(facts.disk_bytes)} ({parts}){free}")
    if facts.settings:
        settings = ", ".join(f"{printable(name)} {printable(value)}" for name, value in facts.settings.items())
        lines.append(f"  settings     {settings}")
    return lines


def schema_text(facts: StoreFacts) -> str:
    """`3, the newest`, or what is missing."""
    if facts.schema is None:
        return "none"
    if not facts.pending:
        return f"{facts.schema}, the newest that this program has"
    missing = count(len(facts.pending), "migration")
    return f"{facts.schema}; this program has {facts.known_schema} ({missing} to do: `openagents store migrate`)"


def facts_document(facts: StoreFacts) -> dict[str, Any]:
    """The facts as JSON. Sizes are bytes."""
    return {
        "kind": facts.kind,
        "place": facts.place,
        "engine": facts.engine,
        "schema": facts.schema,
        "known_schema": facts.known_schema,
        "pending": facts.pending,
        "jobs": {str(status): number for status, number in facts.jobs.items()},
        "events": facts.events,
        "definitions": facts.definitions,
        "leaks": facts.leaks,
        "workers": facts.workers,
        "oldest_created_at": None if facts.oldest_us is None else as_datetime(facts.oldest_us),
        "newest_created_at": None if facts.newest_us is None else as_datetime(facts.newest_us),
        "disk_bytes": facts.disk_bytes,
        "sizes": facts.sizes,
        "free_bytes": facts.free_bytes,
        "settings": facts.settings,
    }
