"""Taking an export into a store. All of it is checked before anything is written; then it goes in in batches, each one
transaction. What is there already is passed over, so an import that was interrupted is simply done again."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

from openagents_json.errors import IdempotencyConflict, LimitReached, StoreError, StoreUnavailable
from openagents_json.job.moving.checking import ExportReader, Family
from openagents_json.job.moving.format import OutputLine
from openagents_json.job.store import JobStore
from openagents_json.job.store.moving import MovedJob, key_taken
from openagents_json.job.store.query import build_query

BATCH_JOBS = 200  # of one transaction, unless a single family has more
BATCH_EVENTS = 5_000
BATCH_CHUNKS = 256  # of output that waits for its job
REFUSALS = 1_000  # that are kept; the others are counted
COPY_BYTES = 1024 * 1024
PAGE = 1_000  # events that are compared at a time


@dataclass(frozen=True, slots=True)
class Refusal:
    """A job that was not taken in, with its children."""

    job_id: str
    line: int
    why: str


@dataclass(slots=True)
class Imported:
    """What became of the jobs of an export; of a dry run, what would."""

    jobs: int = 0  # that were written, children counted
    events: int = 0
    known: int = 0  # that were there already
    refused: int = 0  # families
    refusals: list[Refusal] = field(default_factory=list)  # the first of them
    is_dry_run: bool = False

    def refuse(self, family: Family, why: str) -> None:
        self.refused += 1
        if len(self.refusals) < REFUSALS:
            self.refusals.append(Refusal(family.root.id, family.line, why))


async def import_jobs(
    store: JobStore, source: Path | BinaryIO, *, dry_run: bool = False, drop_keys: bool = False
) -> Imported:
    """Take the jobs of an export into an open store of any kind; they go on there as after the death of a worker.

    `source` is a file or a binary stream; one that cannot be read twice is copied to a temporary file. With `dry_run`
    nothing is written, and limits of workflows are not looked at. With `drop_keys` jobs lose their idempotency keys.
    A job that is there already with the same history, or has gone on from it, is passed over; a job that cannot be
    taken in is refused (`Imported.refusals`) and nothing of it is written. `InvalidExport` when anything is wrong with
    the export: nothing at all was written. `StoreUnavailable`: import it again.
    """
    done = Imported(is_dry_run=dry_run)
    with _seekable(source) as file:
        rounds = await _rounds(file)
        for is_on in rounds:
            importing = _Importing(store, done, dry_run=dry_run, drop_keys=drop_keys)
            async for item in _items(file):
                await importing.take(item, is_on)
            await importing.flush()
    return done


async def _rounds(file: BinaryIO) -> list[bool | None]:
    """Look through the whole export. Jobs that are on come before those that would take their slots."""
    needing: set[bool] = set()
    async for item in _items(file):
        if isinstance(item, Family) and item.root.new.limit is not None:
            needing.add(item.root.needs_slot)
    return [True, False] if len(needing) == 2 else [None]


async def _items(file: BinaryIO) -> AsyncIterator[Family | OutputLine]:
    """What is in the export, read in a thread: a long history takes a while to fold."""
    file.seek(0)
    items = ExportReader(file).items()
    while (item := await asyncio.to_thread(next, items, None)) is not None:
        yield item


@contextlib.contextmanager
def _seekable(source: Path | BinaryIO) -> Iterator[BinaryIO]:
    if isinstance(source, Path):
        with source.open("rb") as file:
            yield file
    elif source.seekable():
        yield source
    else:
        with tempfile.TemporaryFile() as copy:
            while data := source.read(COPY_BYTES):
                copy.write(data)
            yield copy


class _Importing:
    """One round of an import: a batch of families, and the output that waits for them."""

    def __init__(self, store: JobStore, done: Imported, *, dry_run: bool, drop_keys: bool) -> None:
        self._store = store
        self._done = done
        self._dry_run = dry_run
        self._drop_keys = drop_keys
        self._batch: list[Family] = []
        self._ids: set[str] = set()  # of the jobs in the batch
        self._output: list[OutputLine] = []
        self._without: set[str] = set()  # ids of the last family, when it was refused or is not of this round

    async def take(self, item: Family | OutputLine, is_on: bool | None) -> None:
        """The next item of the export; only families of that kind are of this round."""
        if isinstance(item, OutputLine):
            if item.job not in self._without:
                self._output.append(item)
        else:
            self._without = {job.id for job in item.jobs}
            if is_on in (None, item.root.needs_slot) and await self._is_welcome(item):
                self._without = set()
        if self._is_full:
            await self.flush()

    @property
    def _is_full(self) -> bool:
        jobs = sum(len(family.jobs) for family in self._batch)
        events = sum(family.events for family in self._batch)
        return jobs >= BATCH_JOBS or events >= BATCH_EVENTS or len(self._output) >= BATCH_CHUNKS

    async def _is_welcome(self, family: Family) -> bool:
        """Whether its output is wanted: it is to be written, or is there already."""
        if self._drop_keys:
            family.jobs = [replace(job, new=replace(job.new, idempotency_key=None)) for job in family.jobs]
        if any(job.id in self._ids for job in family.jobs):
            await self.flush()
        there = [job for job in family.jobs if await self._store.read_summary(job.id) is not None]
        if there:
            return await self._is_same(family, there)
        if self._dry_run and (why := await self._key_conflict(family)) is not None:
            self._done.refuse(family, why)
            return False
        self._batch.append(family)
        self._ids |= {job.id for job in family.jobs}
        return True

    async def _is_same(self, family: Family, there: list[MovedJob]) -> bool:
        """Whether a family of which some are there is there as a whole, and has gone on from this history if at all."""
        for job in there:
            if (number := await self._differs(job)) is not None:
                self._done.refuse(
                    family, f"job {job.id} is there already with another history, from event {number:,} on"
                )
                return False
        if len(there) < len(family.jobs):
            missing = next(job.id for job in family.jobs if job not in there)
            self._done.refuse(family, f"job {there[0].id} is there already, and its child {missing} is not")
            return False
        self._done.known += len(family.jobs)
        return True

    async def _differs(self, job: MovedJob) -> int | None:
        """The number of the first event that is another one there, or is not there."""
        events = job.new.events
        for start in range(0, len(events), PAGE):
            expected = events[start : start + PAGE]
            found = await self._store.read_events(job.id, start, len(expected))
            if list(found) != list(expected):
                pairs = zip(found, expected, strict=False)
                return start + 1 + next((at for at, (one, other) in enumerate(pairs) if one != other), len(found))
        return None

    async def _key_conflict(self, family: Family) -> str | None:
        """Why an idempotency key keeps a family out."""
        for job in family.jobs:
            if job.new.idempotency_key is not None:
                key = {"workflow_id": job.new.definition.workflow_id, "idempotency_key": job.new.idempotency_key}
                for other in await self._store.list_jobs(build_query(key, limit=1)):
                    return str(key_taken(job.new, other.summary.id))
        return None

    async def flush(self) -> None:
        """Write what has gathered."""
        batch, self._batch, self._ids = self._batch, [], set()
        output, self._output = self._output, []
        refused: set[str] = set()
        if self._dry_run:
            self._count(batch)
            return
        if batch:
            refused = await self._restore(batch)
        for (job, path, attempt), lines in groupby(output, lambda line: (line.job, line.path, line.attempt)):
            if job not in refused:
                chunks = [chunk for line in lines for chunk in line.chunks]
                await self._store.append_output(job, path, attempt, chunks)
        self._without |= refused

    async def _restore(self, batch: list[Family]) -> set[str]:
        """Write families, all at once if that can be, else one by one; the ids of those that were refused."""
        try:
            there = await self._store.restore([job for family in batch for job in family.jobs])
        except StoreUnavailable:
            raise
        except (IdempotencyConflict, LimitReached, StoreError) as error:
            why = str(error)
        else:
            if not there:
                self._count(batch)
                return set()
            why = f"job {there[0]} came from elsewhere at this moment; import again"
        if len(batch) > 1:
            return {job_id for family in batch for job_id in await self._restore([family])}
        self._done.refuse(batch[0], why)
        return {job.id for job in batch[0].jobs}

    def _count(self, batch: list[Family]) -> None:
        self._done.jobs += sum(len(family.jobs) for family in batch)
        self._done.events += sum(family.events for family in batch)
