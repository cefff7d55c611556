"""What `openagents store migrate` does."""

from __future__ import annotations

import asyncio
from pathlib import Path

from openagents_json.cli.exit_codes import Exit
from openagents_json.cli.failures import UsageProblem
from openagents_json.cli.opening import chosen_store
from openagents_json.cli.output import Output
from openagents_json.cli.text import count, printable, size
from openagents_json.job.store import JobStore, SqliteJobStore
from openagents_json.job.store.sqlite_upkeep import back_up
from openagents_json.job.store.upkeep import StoreFacts


def migrate_store(url: str | None, dry_run: bool, backup: str | None, output: Output) -> int:
    """Do what is missing, or say it. A store that is too new is refused by its facts, before anything is written."""
    store = chosen_store(url)
    if backup is not None and not isinstance(store, SqliteJobStore):
        raise UsageProblem(
            "--backup copies a SQLite file. Copy the folder of a file store; for PostgreSQL use pg_dump."
        )
    facts = asyncio.run(store.facts())
    backup_bytes = None
    if facts.pending and not dry_run:
        backup_bytes = asyncio.run(_migrate(store, facts, None if backup is None else Path(backup)))
    if output.as_json:
        output.document(
            {
                "place": facts.place,
                "schema": facts.schema,
                "known_schema": facts.known_schema,
                "pending": facts.pending,
                "migrated": bool(facts.pending) and not dry_run,
                "backup": None if backup_bytes is None else {"path": backup, "bytes": backup_bytes},
            }
        )
    for line in _lines(facts, dry_run, backup, backup_bytes):
        output.say(line)
    return Exit.DONE


async def _migrate(store: JobStore, facts: StoreFacts, backup: Path | None) -> int | None:
    """The bytes of the backup, if there was to be one."""
    if facts.workers:
        raise UsageProblem(
            f"{count(facts.workers, 'worker')} of an older version may be at work on {facts.place}. Stop them first: "
            "Ctrl-C or SIGTERM lets running steps end."
        )
    made = None
    if backup is not None and isinstance(store, SqliteJobStore):
        made = await asyncio.to_thread(back_up, store.path, backup)
    await store.open()
    await store.close()
    return made


def _lines(facts: StoreFacts, dry_run: bool, backup: str | None, backup_bytes: int | None) -> list[str]:
    place = printable(facts.place)
    if not facts.pending:
        return [f"{place} has schema {facts.schema}, the newest that this program has. Nothing was changed."]
    first = (facts.schema or 0) + 1
    steps = [f"  {number}  {printable(name)}" for number, name in enumerate(facts.pending, first)]
    lines = [f"{place} has schema {facts.schema}{' and would get' if dry_run else ', and got'}", *steps]
    if backup_bytes is not None:
        lines.append(f"The backup is {printable(backup or '')} ({size(backup_bytes)})")
    if dry_run:
        lines.append("Nothing was changed.")
    return lines
