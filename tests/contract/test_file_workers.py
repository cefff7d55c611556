"""Workers of the file store, and their threads: they end with the process, and the next one knows that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from openagents_json.errors import InvalidStore, StoreError, StoreUnavailable
from openagents_json.job.store.contract.jobs import Holder, accept, begin, new_job, summary
from openagents_json.job.store.file import FileJobStore
from openagents_json.job.store.file_lines import body, seal
from openagents_json.job.store.query import build_query
from openagents_json.testing import FakeClock
from tests.contract.file_folder import copy, journals, lines, opened, world


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "jobs"


@pytest.fixture
async def store(folder: Path, clock: FakeClock) -> AsyncIterator[FileJobStore]:
    async with opened(folder, clock) as store:
        yield store


async def abandon(store: FileJobStore, clock: FakeClock, worker: str = "w1") -> Holder:
    """A failed job of a worker that went away, and of which a thread runs on."""
    await store.register_worker(worker)
    holder = await begin(store, clock, worker)
    await holder.commit(store, holder.failed("first", abandoned=True))
    await store.unregister_worker(worker, threads_run=True)
    return holder


@pytest.mark.parametrize("compacts", [False, True])
async def test_threads_of_an_earlier_process_have_ended(
    store: FileJobStore, clock: FakeClock, folder: Path, compacts: bool
) -> None:
    """A copy of the folder is to this process as if another one had written it."""
    ids = [(await abandon(store, clock, worker)).job_id for worker in ("w1", "w2")]
    if compacts:
        assert await store.compact()
    await store.close()
    left = copy(folder, folder.with_name("left"))
    async with opened(left, clock) as later:
        assert [(await summary(later, job_id)).abandoned for job_id in ids] == [0, 0]
        told = copy(left, folder.with_name("told"))
    forgotten = [(one["job"], one["worker"]) for one in lines(told) if one["type"] == "threads_forgotten"]
    assert forgotten == [(ids[0], "w1"), (ids[1], "w2")], "it is on the disk before anybody reads of it"
    before = lines(told)
    async with opened(told, clock) as last:
        assert [(await summary(last, job_id)).abandoned for job_id in ids] == [0, 0]
    assert lines(told) == before, "there was nothing more to say"


async def test_threads_run_on_while_the_store_of_their_process_is_closed(store: FileJobStore, clock: FakeClock) -> None:
    job_id = (await abandon(store, clock)).job_id
    await store.close()
    await store.open()
    assert (await summary(store, job_id)).abandoned == 1
    await store.thread_ended(job_id, "w1")
    await store.close()
    await store.open()
    assert (await summary(store, job_id)).abandoned == 0


async def test_end_of_a_thread_that_nobody_abandoned_is_damage(
    store: FileJobStore, clock: FakeClock, folder: Path
) -> None:
    job_id = await accept(store, clock)
    await store.close()
    [journal] = journals(folder)
    change = b'{"type":"thread_ended","job":"%b","worker":"w1"}' % job_id.encode()
    with journal.open("ab") as file:
        file.write(seal(lines(folder)[-1]["n"] + 1, body(b"2026-01-01T00:00:00.000000Z", change)))
    with pytest.raises(InvalidStore, match=f"job {job_id} has no threads of w1"):
        await store.open()


async def test_pulse_of_a_closed_store_says_so_and_finds_no_worker_later(store: FileJobStore, clock: FakeClock) -> None:
    await store.register_worker("w1")
    pulse = store.pulse("w1")
    assert await asyncio.to_thread(pulse.beat)
    await store.close()
    with pytest.raises(StoreUnavailable, match="not open"):
        await asyncio.to_thread(pulse.beat)
    await store.open()
    assert not await asyncio.to_thread(pulse.beat)
    assert await store.list_workers() == []
    await store.register_worker("w1")
    assert await asyncio.to_thread(pulse.beat)


# ── many jobs at once ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_jobs_that_are_created_together_are_torn_together(
    store: FileJobStore, clock: FakeClock, folder: Path
) -> None:
    kept = await accept(store, clock)
    [journal] = journals(folder)
    begin = journal.stat().st_size
    many = await store.create_all([new_job(clock) for _ in range(5)])
    data = journal.read_bytes()
    ends = [end for end in range(begin + 1, len(data) + 1) if data[end - 1 : end] == b"\n"]
    assert (len(ends), ends[-1]) == (5, len(data))
    for end in (*ends, ends[2] + 30):
        torn = copy(folder, folder.with_name(f"torn-{end}"))
        (torn / journal.name).write_bytes(data[:end])
        async with opened(torn, clock) as other:
            assert set((await world(other)).jobs) == ({kept, *many} if end == len(data) else {kept})


async def test_jobs_of_which_one_is_no_json_are_refused_together(store: FileJobStore, clock: FakeClock) -> None:
    kept = await accept(store, clock)
    jobs = [new_job(clock) for _ in range(3)]
    with pytest.raises(StoreError, match="Nothing was changed"):
        await store.create_all([*jobs, replace(new_job(clock), tags=("\ud800",))])
    assert [one.summary.id for one in await store.list_jobs(build_query())] == [kept]
    assert await store.create_all(jobs) == [job.job_id for job in jobs]
