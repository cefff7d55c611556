"""What a folder of the victim shows while nobody runs in it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from openagents_json import Event
from tests.faults import victim
from tests.faults.checker import Evidence, Record, read_records
from tests.faults.traced_victim import read_finals

# Attempts of a job that may be on at a time: started, and their end not recorded. That is not `MAX_STEPS`: a slot is
# given back when the code returns, and its result may wait for a commit while other code runs in that slot.
ON_PER_JOB = victim.ITEMS_AT_ONCE


async def read_evidence(
    folder: Path, *, is_file: bool, faults: int, is_quiet: bool, prefixes: Mapping[str, Sequence[Event]] | None = None
) -> Evidence:
    """Everything, read back through a store that is opened for it and closed. `prefixes` are the histories as they
    were read earlier. A store that cannot be opened raises its error."""
    records: list[Record] = []
    store = victim.store_in(folder, is_file=is_file)
    if store.path.exists():
        await store.open()
        try:
            records = await read_records(store)
        finally:
            await store.close()
    return Evidence(
        records,
        accepted=set(victim.read_accepted(folder).values()),
        effects=victim.read_effects(folder),
        faults=faults,
        concurrency=ON_PER_JOB * min(len(records), victim.MAX_JOBS),
        declared_retries=victim.RETRIES_PER_JOB * len(records),
        prefixes=prefixes or {},
        finals=read_finals(folder),
        is_quiet=is_quiet,
    )


async def read_copy(folder: Path, *, is_file: bool, faults: int) -> Evidence:
    """The same of a copy, since to open a store is to mend it: what died stays as it died."""
    copy = folder.with_name(f"{folder.name} copied")
    shutil.copytree(folder, copy)
    try:
        return await read_evidence(copy, is_file=is_file, faults=faults, is_quiet=False)
    finally:
        shutil.rmtree(copy)


def wrong_ends(evidence: Evidence, count: int) -> list[str]:
    """What is wrong with the ends of jobs 0 … count - 1: each is there once (G7), COMPLETED, with its own sum."""
    sums = sorted((one.state.inputs["n"], str(one.summary.status), one.state.outputs) for one in evidence.records)
    wanted = [(number, "COMPLETED", {"sum": victim.expected_sum(number)}) for number in range(count)]
    return [] if sums == wanted else [f"ends: {sums}"]
