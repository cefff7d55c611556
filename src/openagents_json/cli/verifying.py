"""What `openagents store check` does."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass, field

from openagents_json.cli.exit_codes import Exit
from openagents_json.cli.opening import chosen_store
from openagents_json.cli.output import Output
from openagents_json.cli.text import count, printable
from openagents_json.errors import StoreError
from openagents_json.job.store import JobStore
from openagents_json.job.store.upkeep import Flaw
from openagents_json.job.upkeep import Checked
from openagents_json.job.upkeep import check_store as check_open_store

FLAWS_SHOWN = 50
FLAWS_LISTED = 1_000  # with --json


@dataclass
class _Found:
    place: str
    flaws: list[Flaw] = field(default_factory=list)
    number: int = 0
    checked: Checked | None = None  # None: the bytes are damaged, so histories were not looked at

    def add(self, flaw: Flaw) -> None:
        self.number += 1
        if self.number <= FLAWS_LISTED:
            self.flaws.append(flaw)


def check_store(url: str | None, output: Output) -> int:
    """Check the store and say what is wrong."""
    found = asyncio.run(_check(chosen_store(url)))
    if output.as_json:
        output.document(
            {
                "place": found.place,
                "ok": not found.number,
                "checked": None if found.checked is None else asdict(found.checked),
                "problems": found.number,
                "first_problems": [{"where": one.where, "what": one.what} for one in found.flaws],
            }
        )
    for line in _lines(found):
        output.say(line)
    return Exit.UNHEALTHY if found.number else Exit.DONE


async def _check(store: JobStore) -> _Found:
    """First what it is made of, without opening it: damage could keep it from being opened."""
    flaws = await store.verify()
    if any(flaw.is_damage for flaw in flaws):
        return _Found(str(getattr(store, "path", "the store")), flaws, len(flaws))
    facts = await store.facts()
    if facts.pending:
        raise StoreError(
            f"{facts.place} has schema {facts.schema}, and this program {facts.known_schema}. Its file is sound; its "
            "histories are checked after `openagents store migrate`."
        )
    found = _Found(facts.place, flaws, len(flaws), checked=Checked())
    assert found.checked is not None
    await store.open()
    try:
        async for flaw in check_open_store(store, found.checked):
            found.add(flaw)
    finally:
        await store.close()
    return found


def _lines(found: _Found) -> list[str]:
    lines = [printable(str(flaw), 1_000) for flaw in found.flaws[:FLAWS_SHOWN]]
    if found.number > len(lines):
        lines.append(f"… and {found.number - len(lines):,} more")
    place = printable(found.place)
    if found.checked is None:
        return [*lines, f"{place} is damaged. Histories were not looked at."]
    looked = ", ".join(
        (
            count(found.checked.jobs, "job"),
            count(found.checked.events, "event"),
            count(found.checked.snapshots, "snapshot"),
            count(found.checked.definitions, "definition"),
        )
    )
    verdict = f"{count(found.number, 'problem')} in" if found.number else "Nothing is wrong with"
    return [*lines, f"{verdict} {place}: {looked}"]
