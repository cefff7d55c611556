"""The file store keeps the contract, and what only it promises: readable lines, one process, nothing read too early."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from openagents_json.errors import StoreError, StoreUnavailable
from openagents_json.job.model import JobPriority, JobStatus
from openagents_json.job.store import file_journal, file_memory
from openagents_json.job.store.arrival import STRICT_AGING_S
from openagents_json.job.store.base import JobStore
from openagents_json.job.store.contract import StoreContract
from openagents_json.job.store.contract.jobs import QUIET, Holder, accept, begin, bring_to, new_job, request
from openagents_json.job.store.file import FileJobStore
from openagents_json.job.store.file_memory import JournaledMemory
from openagents_json.job.store.memory import MemoryJobStore
from openagents_json.job.store.query import build_query
from openagents_json.testing import FakeClock
from tests.contract.conftest import DiskGate
from tests.contract.file_folder import copy, fill, lines, opened, world, world_in
from tests.contract.reopening import VERBS, Reopened, keep_file_workers


class TestFile(StoreContract):
    @pytest.fixture
    async def store(self, tmp_path: Path, clock: FakeClock) -> AsyncIterator[JobStore]:
        store = FileJobStore(tmp_path / "jobs", clock)
        await store.open()
        yield store
        await store.close()


class TestFileReopened(StoreContract):
    @pytest.fixture
    async def store(self, tmp_path: Path, clock: FakeClock) -> AsyncIterator[JobStore]:
        store = cast(JobStore, Reopened(FileJobStore(tmp_path / "jobs", clock), keep_file_workers))
        await store.open()
        yield store
        await store.close()

    async def test_counters_rise_with_what_is_written(self, store: JobStore, clock: FakeClock) -> None:
        """Counters begin anew with each opening: not asked here."""


class Compacted(FileJobStore):
    """Compacts whenever it can, and always comes to the end of it."""

    async def close(self) -> None:
        if self._compacting is not None:
            await asyncio.wait([self._compacting])
        await super().close()


class TestFileAlwaysCompacting(StoreContract):
    @pytest.fixture
    async def store(self, tmp_path: Path, clock: FakeClock) -> AsyncIterator[JobStore]:
        store = cast(JobStore, Reopened(Compacted(tmp_path / "jobs", clock, compact_bytes=1), keep_file_workers))
        await store.open()
        yield store
        await store.close()

    async def test_counters_rise_with_what_is_written(self, store: JobStore, clock: FakeClock) -> None:
        """Counters begin anew with each opening: not asked here."""


# ── what only this store promises ─────────────────────────────────────────────────────────────────────────────────


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


def test_every_verb_that_changes_jobs_waits_for_the_disk() -> None:
    """No verb is inherited: each says whether it reads or writes."""
    assert {name for name in VERBS if name not in vars(FileJobStore)} == set()
    mutators = {
        name
        for name, member in vars(JournaledMemory).items()
        if inspect.isfunction(member) and name in vars(MemoryJobStore)
    }
    assert mutators >= {"_accept", "_take", "_give_back", "_post", "_record", "_forget", "_keep_output"}


async def test_people_can_read_the_journal(store: FileJobStore, clock: FakeClock, folder: Path) -> None:
    holder = await bring_to(store, clock, JobStatus.COMPLETED)
    found = lines(folder)
    assert [one["type"] for one in found] == ["journal", "defined", "accepted", "taken", *["committed"] * 3]
    assert [one["n"] for one in found] == [0, 1, 2, 3, 4, 5, 6]
    assert {one["at"] for one in found} == {"2026-01-01T00:00:00.000000Z"}
    assert {one["job"] for one in found if "job" in one} == {holder.job_id}
    assert found[-1]["row"]["status"] == "COMPLETED"
    assert [event[1] for event in found[-1]["events"]] == ["step.completed", "job.completed"]
    assert (found[0]["format"], found[0]["segment"]) == (1, 1)


async def test_lines_say_what_belongs_together_and_what_was_durable_before(
    store: FileJobStore, clock: FakeClock, folder: Path
) -> None:
    await asyncio.gather(*(accept(store, clock) for _ in range(3)))
    await accept(store, clock)
    found = [(one["n"], one.get("durable"), one.get("joined"), one.get("more")) for one in lines(folder)]
    assert found == [
        (0, 0, None, None),
        (1, 0, None, True),  # the definition, and …
        (2, None, True, None),  # … its first job
        (3, None, None, None),
        (4, None, None, None),
        (5, 4, None, None),  # the next group
    ]


async def test_everything_is_as_it_was_after_opening_again(store: FileJobStore, clock: FakeClock, folder: Path) -> None:
    await fill(store, clock)
    before = await world(store)
    await store.close()
    await store.open()
    assert await world(store) == before
    assert store.cut is None


@pytest.mark.guarantee("G5")
async def test_jobs_of_an_earlier_process_are_orphans_at_once(store: FileJobStore, clock: FakeClock) -> None:
    await store.register_worker("w1")
    holder = await begin(store, clock)
    await store.close()
    await store.open()
    await store.register_worker("w2")
    [claim] = await store.hold_orphans("w2", 10)
    assert (claim.job_id, claim.previous_owner) == (holder.job_id, "w1")


async def test_aging_belongs_to_the_folder(store: FileJobStore, clock: FakeClock, folder: Path) -> None:
    await store.close()
    async with opened(folder, clock, aging_s=5.0) as other:
        assert other.aging_s == 3_600.0


async def test_aging_that_was_set_stays_also_in_a_later_journal(
    store: FileJobStore, clock: FakeClock, folder: Path
) -> None:
    low = await store.create(new_job(clock, priority=JobPriority.LOW))
    clock.advance(120.0)
    high = await store.create(new_job(clock, priority=JobPriority.HIGH))
    await store.set_aging(STRICT_AGING_S)
    await store.compact()
    await store.set_aging(1.0)
    await store.close()
    async with opened(folder, clock) as other:
        assert other.aging_s == 1.0
        assert [claim.job_id for claim in await other.claim("w1", 2)] == [low, high]


async def test_second_store_on_the_folder_is_refused_with_a_sentence(store: FileJobStore, folder: Path) -> None:
    other = FileJobStore(folder)
    with pytest.raises(StoreUnavailable, match=rf"in use by process {os.getpid()}\. .* one process at a time"):
        await other.open()
    await store.close()
    await other.open()
    await other.close()


async def test_closed_store_says_so(store: FileJobStore, clock: FakeClock) -> None:
    await store.close()
    for verb in (accept(store, clock), store.read("x"), store.read_summary("x"), store.claim("w1", 1)):
        with pytest.raises(StoreUnavailable, match="not open"):
            await verb
    assert store.has_foreign_changes() is False


async def test_many_commits_at_once_take_few_syncs(store: FileJobStore, clock: FakeClock) -> None:
    await asyncio.gather(*(accept(store, clock, QUIET) for _ in range(500)))
    holders = [Holder(clock, claim) for claim in await store.claim("w1", 500)]
    before = store.stats()["syncs"]
    await asyncio.gather(*(holder.commit(store, holder.started()) for holder in holders))
    assert 1 <= store.stats()["syncs"] - before <= 5
    assert len(await store.list_jobs(build_query({"status": "COMPLETED"}, limit=1_000))) == 500


async def test_close_finishes_what_was_submitted(store: FileJobStore, clock: FakeClock) -> None:
    store.commit_delay_s = 0.05
    creating = [asyncio.create_task(accept(store, clock)) for _ in range(50)]
    await asyncio.sleep(0)
    await store.close()
    ids = await asyncio.gather(*creating)
    await store.open()
    assert {one.summary.id for one in await store.list_jobs(build_query(limit=100))} == set(ids)


async def test_cancelled_caller_does_not_disturb_its_group(store: FileJobStore, clock: FakeClock) -> None:
    store.commit_delay_s = 0.05
    creating = [asyncio.create_task(accept(store, clock)) for _ in range(3)]
    await asyncio.sleep(0.01)
    creating[1].cancel()
    results = await asyncio.gather(*creating, return_exceptions=True)
    assert [type(result) for result in results] == [str, asyncio.CancelledError, str]
    assert len(await store.list_jobs(build_query())) == 3  # it was too late: what is written stays


async def test_slow_disk_does_not_hold_up_the_loop(store: FileJobStore, clock: FakeClock) -> None:
    store.commit_delay_s = 0.2
    creating = asyncio.create_task(accept(store, clock))
    ticks = 0
    while not creating.done():
        await asyncio.sleep(0.005)
        ticks += 1
    assert ticks > 5


async def test_verbs_wait_when_too_much_is_to_be_written(
    store: FileJobStore, clock: FakeClock, disk_gate: DiskGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_journal, "MAX_WAITING_BYTES", 20_000)
    disk_gate.shut()
    creating = [asyncio.create_task(accept(store, clock, inputs={"text": "x" * 3_000})) for _ in range(50)]
    await disk_gate.wait_reached()
    for _ in range(20):
        await asyncio.sleep(0)
    assert store._memory is not None
    assert 1 <= len(store._memory._jobs) <= 7, "the others have changed nothing yet"
    disk_gate.open()
    assert len(set(await asyncio.gather(*creating))) == 50


async def test_nobody_reads_what_is_not_on_the_disk(store: FileJobStore, clock: FakeClock, disk_gate: DiskGate) -> None:
    """Else a power cut could take back what somebody has seen (I9)."""
    holder = await begin(store, clock)
    disk_gate.shut()
    committing = asyncio.create_task(holder.commit(store, holder.succeeded("first")))
    await disk_gate.wait_reached()
    readers: list[asyncio.Task[object]] = [
        asyncio.create_task(store.read_events(holder.job_id)),
        asyncio.create_task(store.read(holder.job_id)),
        asyncio.create_task(store.list_jobs(build_query())),
        asyncio.create_task(store.hold(holder.job_id, "caller", request("pause"))),
    ]
    repeated = asyncio.create_task(store.commit(holder.commit_of()))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not any(task.done() for task in (committing, repeated, *readers))
    disk_gate.open()
    await asyncio.gather(committing, repeated, *readers)


async def test_what_is_no_json_is_refused_and_changes_nothing(store: FileJobStore, clock: FakeClock) -> None:
    kept, half = new_job(clock), new_job(clock)
    bad = replace(half, tags=("\ud800",))
    results = await asyncio.gather(store.create(bad), store.create(kept), return_exceptions=True)
    assert [type(result) for result in results] == [StoreError, str]
    assert [one.summary.id for one in await store.list_jobs(build_query())] == [kept.job_id]


async def test_change_that_is_too_long_for_a_line_is_refused(
    store: FileJobStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_memory, "MAX_CHANGE_BYTES", 5_000)
    kept = await accept(store, clock)
    with pytest.raises(StoreError, match=r"at most 5,000\. Nothing was changed"):
        await accept(store, clock, inputs={"text": "x" * 5_000})
    assert [one.summary.id for one in await store.list_jobs(build_query())] == [kept]


async def test_who_has_only_looked_leaves_no_trace(store: FileJobStore, clock: FakeClock, folder: Path) -> None:
    await accept(store, clock)
    await store.close()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    await store.open()
    await store.list_jobs(build_query())
    await store.close()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


async def test_commit_of_which_a_part_is_no_json_is_undone_as_a_whole(
    store: FileJobStore, clock: FakeClock, folder: Path
) -> None:
    holder = await begin(store, clock)
    before = await world(store)
    child = replace(new_job(clock), tags=("\ud800",))
    commit = replace(holder.commit_of(holder.succeeded("first")), children=[child])
    accepting = [asyncio.create_task(accept(store, clock)) for _ in range(2)]
    with pytest.raises(StoreError, match="JSON"):
        await store.commit(commit)
    ids = set(await asyncio.gather(*accepting))
    after = await world(store)
    assert {job_id: job for job_id, job in after.jobs.items() if job_id not in ids} == before.jobs
    await store.commit(replace(commit, children=()))
    assert await world_in(copy(folder, folder.with_name("copy"))) == await world(store)
