"""What the tests of the file store share: a store with jobs in it, copies of its folder, what it says of all jobs."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from openagents_json.job.machine import Requested
from openagents_json.job.model import JobStatus
from openagents_json.job.store.base import JobStore
from openagents_json.job.store.contract.jobs import QUIET, accept, begin, bring_to, history, request, settle
from openagents_json.job.store.contract.leaks import leak
from openagents_json.job.store.file import FileJobStore
from openagents_json.job.store.output import OutputChunk, Piece, StoredOutput
from openagents_json.job.store.query import build_query
from openagents_json.job.store.records import StoredJob, StoredLeak
from openagents_json.testing import FakeClock


@asynccontextmanager
async def opened(path: Path, clock: FakeClock | None = None, **options: Any) -> AsyncIterator[FileJobStore]:
    """The store in that folder."""
    store = FileJobStore(path, clock or FakeClock(), **options)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@dataclass
class World:
    """All that a store says: jobs by id, their output, the leaks."""

    jobs: dict[str, StoredJob]
    output: dict[str, list[StoredOutput]]
    leaks: list[StoredLeak]


async def world(store: JobStore) -> World:
    jobs, output = {}, {}
    for listed in await store.list_jobs(build_query(limit=1_000)):
        job_id = listed.summary.id
        job = await store.read(job_id)
        assert job is not None
        events = await history(store, job_id)
        assert events[len(events) - len(job.events) :] == job.events
        jobs[job_id], output[job_id] = job, await store.read_output(job_id, limit=10_000)
    return World(jobs, output, await store.list_leaks())


async def world_in(folder: Path) -> World:
    """What the store in a folder says when it is opened."""
    async with opened(folder) as store:
        return await world(store)


def copy(folder: Path, to: Path) -> Path:
    """The folder as it is now, as a power cut would leave it if all was on the disk."""
    return Path(shutil.copytree(folder, to, ignore=shutil.ignore_patterns("lock")))


def lines(folder: Path) -> list[dict[str, Any]]:
    """Every line of every journal, in order."""
    return [msgspec.json.decode(line) for path in journals(folder) for line in path.read_bytes().splitlines()]


def journals(folder: Path) -> list[Path]:
    return sorted(folder.glob("journal-*.jsonl"))


async def fill(store: JobStore, clock: FakeClock) -> None:
    """Jobs in every status, with requests, output, leaks, a deleted one, and one that somebody holds."""
    for status in JobStatus:
        if status == JobStatus.CREATED:
            await accept(store, clock, start=False, tags=("a", "b"), key="k")
        elif status != JobStatus.QUEUED:
            holder = await bring_to(store, clock, status)
            chunks = [OutputChunk(0, 5, [Piece("stdout", 1, "hällo")])]
            await store.append_output(holder.job_id, "first", 1, chunks)
        clock.advance(1)
    holder = await begin(store, clock)
    await store.hold(holder.job_id, "caller", request("pause"))
    await holder.commit(store, Requested("set_priority", "somebody", "", {"priority": "HIGH"}), snapshot=True)
    await leak(store, clock)
    gone = await accept(store, clock, QUIET, start=False)
    assert await store.delete(gone)
    later = await accept(store, clock, start_in_s=60)
    await settle(store, clock, later, request("set_priority", priority="LOW"))
    await accept(store, clock)
