"""The memory store as a whole: its facts."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import TYPE_CHECKING

from openagents_json.job.store.upkeep import StoreFacts

if TYPE_CHECKING:
    from openagents_json.job.store.memory import MemoryJobStore


def facts_of(memory: MemoryJobStore, workers: int) -> StoreFacts:
    """Facts of all that it holds."""
    jobs = memory._jobs.values()
    created = [job.new.created_us for job in jobs]
    return StoreFacts(
        kind="memory",
        place="memory",
        engine="dictionaries of this process",
        schema=None,
        known_schema=None,
        jobs=dict(Counter(job.row.status for job in jobs)),
        events=sum(job.row.last_event for job in jobs),
        definitions=len(memory._definitions),
        workers=workers,
        leaks=len(memory._leaks),
        oldest_us=min(created, default=None),
        newest_us=max(created, default=None),
    )


def in_folder(
    facts: StoreFacts, place: str, format: int, sizes: dict[str, int], settings: dict[str, str]
) -> StoreFacts:
    """The same of a memory that stands in a folder as well."""
    return dataclasses.replace(
        facts,
        kind="file",
        place=place,
        engine="JSON lines with checksums",
        schema=format,
        known_schema=format,
        sizes=sizes,
        settings=settings,
    )
