"""Writing jobs of a store as an export. Workers may run meanwhile: each family is written as it is at one moment."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from openagents_json.clock import SystemClock, as_datetime
from openagents_json.errors import InvalidQuery, JobNotFound, StoreError
from openagents_json.job.events import Event, encode_events
from openagents_json.job.moving.format import (
    EVENTS_BYTES,
    FORMAT,
    DefinitionLine,
    EndLine,
    EventsLine,
    FamilyLine,
    Header,
    JobLine,
    Line,
    OutputLine,
    WithdrawnLine,
    encode_line,
)
from openagents_json.job.moving.masking import Masker, masked_chunk, masked_event, masked_leak, masked_request
from openagents_json.job.store import JobStore
from openagents_json.job.store.choosing import chosen
from openagents_json.job.store.moving import MovedJob
from openagents_json.job.store.output import OutputChunk
from openagents_json.job.store.query import build_query
from openagents_json.job.store.records import HISTORY_ROW_EVENTS, Definition
from openagents_json.version import VERSION
from openagents_json.workflow import EnvironmentSecrets, SecretProvider


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written."""

    jobs: int
    events: int
    definitions: int
    bytes: int
    sha256: str  # of all lines but the last


async def export_jobs(
    store: JobStore,
    target: Path | BinaryIO,
    *,
    filters: Mapping[str, Any] | None = None,
    ids: Sequence[str] = (),
    secrets: SecretProvider | None = None,
) -> Exported:
    """Write jobs of an open store, with their children, as an export: all of them, those that fit `filters` (as in
    `JobManager.list_jobs`), or those of these ids, each once.

    `target` is a new file, which is there when it is whole, or a binary stream. The values that `secrets` (by default
    the environment) has for names that definitions use are masked. `JobNotFound`, `InvalidQuery` (also for the id of an
    attached child, which goes with its parent), `FileExistsError`, and what the store raises.
    """
    ids = await _checked(store, ids)
    query = {**(filters or {}), "parent_id": None}
    build_query(query)
    with _opened(target) as file:
        writing = _Writing(store, file, Masker(secrets or EnvironmentSecrets()))
        done = await writing.all(chosen(store, query, ids or None))
        if isinstance(target, Path):
            await asyncio.to_thread(os.fsync, file.fileno())
    return done


@contextlib.contextmanager
def _opened(target: Path | BinaryIO) -> Iterator[BinaryIO]:
    """The file to write to. Its name is given to it when all of it is on the disk."""
    if not isinstance(target, Path):
        yield target
        return
    if target.exists():
        raise FileExistsError(f"{target} is there already; an export writes a new file.")
    unfinished = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    try:
        with unfinished.open("xb") as file:
            yield file
        os.link(unfinished, target)  # unlike a rename it takes nobody's place
    finally:
        unfinished.unlink(missing_ok=True)


async def _checked(store: JobStore, ids: Sequence[str]) -> list[str]:
    """The ids, each once. Raises for one that cannot be exported, before anything is written."""
    for job_id in ids:
        summary = await store.read_summary(job_id)
        if summary is None:
            raise JobNotFound(job_id)
        if summary.parent_id is not None:
            parent = summary.parent_id
            raise InvalidQuery(
                f"Job {job_id} is a child of job {parent} and goes where that one goes: export {parent}."
            )
    return list(dict.fromkeys(ids))


class _Writing:
    """One export."""

    def __init__(self, store: JobStore, file: BinaryIO, masker: Masker) -> None:
        self._store = store
        self._file = file
        self._masker = masker
        self._digest = hashlib.sha256()
        self._definitions: dict[str, bytes] = {}  # hash → names of secrets in it, as far as the document tells
        self._jobs = self._events = self._bytes = 0

    async def all(self, roots: AsyncIterator[str]) -> Exported:
        kind = type(self._store).__name__.removesuffix("JobStore").lower()
        now = as_datetime(SystemClock().now_us()).isoformat(timespec="seconds")
        self._write(Header(format=FORMAT, program=VERSION, store=kind, exported_at=now))
        async for job_id in roots:
            await self._family(job_id)
            await asyncio.sleep(0)  # stores in memory answer at once: others have their turn
        counts = (self._jobs, self._events, len(self._definitions))
        digest = self._digest.hexdigest()
        self._write(EndLine(jobs=counts[0], events=counts[1], definitions=counts[2], sha256=digest))
        self._file.flush()
        return Exported(*counts, self._bytes, digest)

    def _write(self, line: Line) -> None:
        data = encode_line(line)
        self._file.write(data)
        self._digest.update(data)
        self._bytes += len(data)

    async def _family(self, root: str) -> None:
        """A job with its attached children. What is deleted meanwhile is withdrawn."""
        family = await self._store.read_family(root)
        if not family:
            return
        started: list[tuple[str, Collection[str], set[tuple[str, int]]]] = []
        for job in family:
            document = await self._define(job.new.definition)
            first = await self._store.read_events(job.id, 0, 1)
            secrets = await self._masker.values(document, encode_events(first))
            self._write(_job_line(job, secrets))
            attempts = await self._history(job, secrets)
            if attempts is None:
                self._write(WithdrawnLine(job=root))
                return
            started.append((job.id, secrets, attempts))
        self._write(FamilyLine(job=root, jobs=len(family)))
        self._jobs += len(family)
        self._events += sum(job.new.row.last_event for job in family)
        for job_id, secrets, attempts in started:
            await self._output(job_id, secrets, attempts)

    async def _define(self, definition: Definition) -> bytes:
        """Write a definition before its first job; what of it names secrets."""
        known = self._definitions.get(definition.hash)
        if known is not None:
            return known
        document = await self._store.read_definition(definition.hash)
        if document is None:
            raise StoreError(f"The definition {definition.hash} is not in the store; the store is damaged.")
        self._write(
            DefinitionLine(
                hash=definition.hash,
                workflow_id=definition.workflow_id,
                version=definition.version,
                document=msgspec.Raw(document),
            )
        )
        self._definitions[definition.hash] = document if b"secret" in document else b""
        return self._definitions[definition.hash]

    async def _history(self, job: MovedJob, secrets: Collection[str]) -> set[tuple[str, int]] | None:
        """Write the events up to that of the row, which never change; the attempts that had begun by then, or None when
        the job is gone."""
        attempts: set[tuple[str, int]] = set()
        done, last = 0, job.new.row.last_event
        while done < last:
            events = await self._store.read_events(job.id, done, min(HISTORY_ROW_EVENTS, last - done))
            if not events:
                return None
            for part in _parts([masked_event(event, secrets) for event in events]):
                self._write(EventsLine(job=job.id, events=part))
            attempts |= {began for event in events if (began := _attempt(event)) is not None}
            done += len(events)
            await asyncio.sleep(0)
        return attempts

    async def _output(self, job_id: str, secrets: Collection[str], attempts: set[tuple[str, int]]) -> None:
        """Write the output of those attempts. What others have written since belongs to a later moment."""
        after = 0
        while chunks := await self._store.read_output(job_id, after=after):
            for one in chunks:
                release = one.path.rfind("~release")
                path = one.path if release < 0 else one.path[release:]
                if (path, one.attempt) in attempts:
                    chunk = masked_chunk(OutputChunk(one.first, one.last, one.pieces), secrets)
                    self._write(OutputLine(job=job_id, path=one.path, attempt=one.attempt, chunks=[chunk]))
            after = chunks[-1].sequence


def _attempt(event: Event) -> tuple[str, int] | None:
    """The attempt that an event begins, by the end of the path under which its output stands."""
    if event.type == "attempt.started":
        return event.data["path"], event.data["attempt"]
    if event.type == "release.started":
        return f"~release{event.data['id']}", event.data["attempt"]
    return None


def _parts(events: Sequence[Event]) -> Iterator[list[Event]]:
    """The events in parts of about `EVENTS_BYTES`."""
    part: list[Event] = []
    size = 0
    for event in events:
        size += len(encode_events([event]))
        if part and size > EVENTS_BYTES:
            yield part
            part, size = [], 0
        part.append(event)
    if part:
        yield part


def _job_line(job: MovedJob, secrets: Collection[str]) -> JobLine:
    new = job.new
    return JobLine(
        id=job.id,
        definition=new.definition.hash,
        status=job.status,
        events=new.row.last_event,
        created_us=new.created_us,
        queued_us=job.queued_us,
        queued_total_us=job.queued_total_us,
        owner=job.keeper,
        epoch=job.epoch,
        tags=list(new.tags),
        idempotency_key=new.idempotency_key,
        body_hash=new.body_hash,
        parent_id=new.parent_id,
        origin_id=new.origin_id,
        limit=new.limit,
        requests=[masked_request(request, secrets) for request in job.requests],
        drained=list(job.drained),
        leaks=[masked_leak(leak, secrets) for leak in job.leaks],
    )
