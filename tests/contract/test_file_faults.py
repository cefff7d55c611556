"""The file store where things go wrong: strange folders, torn tails, damage, full disks, failing syncs."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from openagents_json.errors import InvalidStore, SchemaTooNew, StoreError, StoreFull, StoreUnavailable
from openagents_json.job.model import JobStatus
from openagents_json.job.store import file_disk
from openagents_json.job.store.contract.jobs import QUIET, Holder, accept, begin, bring_to, new_job
from openagents_json.job.store.file import FileJobStore
from openagents_json.job.store.file_folder import contents_of
from openagents_json.job.store.file_lines import body, seal
from openagents_json.job.store.file_loading import load
from openagents_json.job.store.file_memory import JournaledMemory
from openagents_json.job.store.query import build_query
from openagents_json.testing import FakeClock
from tests.contract.file_folder import copy, fill, journals, lines, opened, world, world_in
from tests.contract.small_disk import small_disk


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


async def ids(store: FileJobStore) -> list[str]:
    """All jobs, the oldest first."""
    return [one.summary.id for one in await store.list_jobs(build_query(order="created_at", limit=1_000))]


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file under a folder with its bytes; None for folders."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


async def assert_refused(path: Path, kind: type[StoreError], words: str) -> None:
    """Opening fails in that way, twice, and leaves every byte as it was, but for the lock of a store."""
    before = contents(path.parent) if path.parent.is_dir() else {}
    store = FileJobStore(path)
    for _ in range(2):
        with pytest.raises(kind, match=words) as refused:
            await store.open()
        assert type(refused.value) is kind
    with pytest.raises(StoreUnavailable, match="not open"):
        await store.read("nobody")
    await store.close()
    after = contents(path.parent) if path.parent.is_dir() else {}
    if str(path / "lock") not in before:
        after.pop(str(path / "lock"), None)
    assert after == before


# ── strange folders ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_missing_folder_around_is_named(tmp_path: Path) -> None:
    await assert_refused(tmp_path / "missing" / "jobs", StoreUnavailable, "missing does not exist")


async def test_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "jobs").write_text("notes")
    await assert_refused(tmp_path / "jobs", InvalidStore, "is a file")


async def test_folder_of_something_else_is_left_alone(folder: Path) -> None:
    folder.mkdir()
    (folder / "photo.jpg").write_text("x")
    await assert_refused(folder, InvalidStore, "something else: it holds photo.jpg")


async def test_empty_folder_becomes_a_store(folder: Path, clock: FakeClock) -> None:
    folder.mkdir()
    async with opened(folder, clock) as store:
        await accept(store, clock)
    assert len(await world_jobs(folder)) == 1


async def test_newer_format_is_refused_before_any_write(store: FileJobStore, folder: Path, clock: FakeClock) -> None:
    await accept(store, clock)
    await store.close()
    [journal] = journals(folder)
    journal.write_bytes(journal.read_bytes().replace(b'"format":1', b'"format":2', 1))
    await assert_refused(folder, SchemaTooNew, "format 2")


async def world_jobs(folder: Path) -> list[str]:
    return list((await world_in(folder)).jobs)


# ── torn tails ────────────────────────────────────────────────────────────────────────────────────────────────────


NEW = {**QUIET, "id": "not-seen-before"}  # its first job takes two lines: the definition and the job


@dataclass
class Torn:
    """A store that was left in the middle, where its last two groups begin and end, and the jobs before and after."""

    folder: Path
    groups: list[int]
    jobs: list[set[str]]


@pytest.fixture
async def torn(tmp_path: Path, clock: FakeClock) -> Torn:
    """The last group but one is one change of two lines; the last one is two changes of a line each."""
    folder = tmp_path / "whole"
    async with opened(folder, clock) as store:
        await bring_to(store, clock, JobStatus.WAITING)
        [journal] = journals(folder)
        groups, jobs = [journal.stat().st_size], [set(await ids(store))]
        await accept(store, clock, NEW)
        groups, jobs = [*groups, journal.stat().st_size], [*jobs, set(await ids(store))]
        await asyncio.gather(*(accept(store, clock) for _ in range(2)))
        groups, jobs = [*groups, journal.stat().st_size], [*jobs, set(await ids(store))]
        return Torn(copy(folder, tmp_path / "torn"), groups, jobs)


@pytest.mark.guarantee("G1")
async def test_tail_that_is_cut_at_any_byte_loses_what_is_cut_and_nothing_else(torn: Torn, tmp_path: Path) -> None:
    [journal] = journals(torn.folder)
    data = journal.read_bytes()
    first, second, end = torn.groups
    assert end == len(data)
    ends = [size for size in range(first, end + 1) if data[:size].endswith(b"\n")]
    whole = [size for size in ends if b'"more":true' not in data[:size].splitlines()[-1]]
    assert len(ends) == 5 and len(whole) == 4, "five ends of lines, one of them in the middle of a change"
    for size in range(first, end + 1):
        journal.write_bytes(data[:size])
        good = max(one for one in whole if one <= size)
        memory = JournaledMemory(FakeClock(), aging_s=1, lease_s=1)
        loaded = load(torn.folder, contents_of(torn.folder), memory)
        found = set(memory._jobs)
        assert torn.jobs[0] <= found and len(found) == len(torn.jobs[0]) + whole.index(good)
        assert found >= torn.jobs[1] or size < second
        assert (loaded.cut is None) == (size == good) and loaded.tail.size == good
        if loaded.cut is not None:
            assert (loaded.cut.file, loaded.cut.byte, loaded.cut.length) == (journal.name, good, size - good)
            assert loaded.cut.line == data[:good].count(b"\n") + 1
    for size in [one + more for one in ends for more in (-1, 0, 1) if first <= one + more <= end]:
        journal.write_bytes(data[:size])
        async with opened(torn.folder) as store:
            assert journal.stat().st_size == max(one for one in whole if one <= size)
            assert (store.cut is None) == (size in whole)


async def test_store_goes_on_after_a_torn_tail(torn: Torn, clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    [journal] = journals(torn.folder)
    file_disk.cut(journal, torn.groups[-1] - 3)
    async with opened(torn.folder, clock) as store:
        assert store.cut is not None and "it does not end" in store.cut.why
        assert "cut off" in caplog.text and f"{journal.name}, line {store.cut.line}" in caplog.text
        new = await accept(store, clock)
        before = await world(store)
    async with opened(torn.folder, clock) as store:
        assert store.cut is None
        assert await world(store) == before and new in before.jobs


async def test_holes_in_the_last_group_are_a_torn_tail(torn: Torn) -> None:
    """The disk writes the sectors of a group in any order: the end may be there and the beginning not."""
    [journal] = journals(torn.folder)
    data = journal.read_bytes()
    hole = torn.groups[1] + 10
    journal.write_bytes(data[:hole] + bytes(100) + data[hole + 100 :])
    async with opened(torn.folder) as store:
        assert set(await ids(store)) == torn.jobs[1]
        assert store.cut is not None and store.cut.byte == torn.groups[1]


# ── damage ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_damage_in_the_middle_is_refused_with_its_place_at_any_line(
    store: FileJobStore, folder: Path, clock: FakeClock
) -> None:
    await bring_to(store, clock, JobStatus.COMPLETED)
    await store.close()
    [journal] = journals(folder)
    data = journal.read_bytes()
    assert lines(folder)[-1]["type"] == "closed"
    whole, byte = data.splitlines(keepends=True), 0
    for number, line in enumerate(whole[:-1], 1):  # after the last one comes no proof that it was durable
        at = byte + len(line) // 2
        journal.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        place = rf"{journal.name} is damaged at line {number} \(byte {byte:,}\): .*Nothing was changed.*store repair"
        await assert_refused(folder, InvalidStore, place)
        byte += len(line)
    journal.write_bytes(data)
    assert len(await world_jobs(folder)) == 1


async def test_line_that_is_missing_is_damage(store: FileJobStore, folder: Path, clock: FakeClock) -> None:
    await bring_to(store, clock, JobStatus.COMPLETED)
    await store.close()
    [journal] = journals(folder)
    whole = journal.read_bytes().splitlines(keepends=True)
    for number in range(1, len(whole) - 1):
        journal.write_bytes(b"".join(whole[:number] + whole[number + 1 :]))
        await assert_refused(folder, InvalidStore, f"line {number + 1} .*should be line {number:,}")


async def test_journal_or_snapshot_that_is_missing_is_damage(folder: Path, clock: FakeClock) -> None:
    async with opened(folder, clock, compact_bytes=1) as store:
        await bring_to(store, clock, JobStatus.COMPLETED)
        await compacted(store)
    [journal] = journals(folder)
    kept = journal.read_bytes()
    journal.unlink()
    await assert_refused(folder, InvalidStore, f"{journal.name} is damaged .*the file is missing")
    journal.write_bytes(kept)
    [snapshot] = folder.glob("snapshot-*")
    snapshot.rename(folder.parent / "elsewhere")
    await assert_refused(folder, InvalidStore, "journal-00000001.jsonl is damaged .*the file is missing")


async def test_damaged_snapshot_is_refused_with_its_place(folder: Path, clock: FakeClock) -> None:
    async with opened(folder, clock, compact_bytes=1) as store:
        await bring_to(store, clock, JobStatus.COMPLETED)
        await compacted(store)
    [snapshot] = folder.glob("snapshot-*")
    data = snapshot.read_bytes()
    whole = data.splitlines(keepends=True)
    for number in range(len(whole)):
        at = sum(map(len, whole[:number])) + 20
        snapshot.write_bytes(data[:at] + b"#" + data[at + 1 :])
        await assert_refused(folder, InvalidStore, rf"{snapshot.name} is damaged at line {number + 1} ")
    snapshot.write_bytes(b"".join(whole[:-1]))
    await assert_refused(folder, InvalidStore, "has no end")


async def test_line_of_an_unknown_kind_is_no_torn_tail(store: FileJobStore, folder: Path, clock: FakeClock) -> None:
    """A sound line at the end was acknowledged: whoever does not know what it says must not cut it off."""
    await accept(store, clock)
    await store.close()
    [journal] = journals(folder)
    last = lines(folder)[-1]["n"]
    with journal.open("ab") as file:
        file.write(seal(last + 1, body(b"2026-01-01T00:00:00.000000Z", b'{"type":"of_tomorrow"}')))
    await assert_refused(folder, InvalidStore, "sound and not understood .*of_tomorrow")


async def compacted(store: FileJobStore) -> None:
    """Return when the compaction that is on has ended."""
    if store._compacting is not None:
        await asyncio.wait([store._compacting])
    assert store.compactions


# ── full and failing disks ────────────────────────────────────────────────────────────────────────────────────────


class BadDisk:
    """Lets chosen calls of the disk fail while they are named in `failing`: `half` writes half of the data first."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.failing: dict[str, int] = {}  # call → errno
        self.failed: list[str] = []
        self._write = file_disk.write
        for name in ("create", "write", "sync", "rename", "sync_folder", "remove"):
            monkeypatch.setattr(file_disk, name, self._wrapped(name, getattr(file_disk, name)))

    def _wrapped(self, name: str, call):  # type: ignore[no-untyped-def]
        def perhaps(*arguments):  # type: ignore[no-untyped-def]
            if (number := self.failing.get(name)) is None:
                return call(*arguments)
            self.failed.append(name)
            if name == "write":
                fd, data = arguments
                self._write(fd, data[: len(data) // 2])
            raise OSError(number, os.strerror(number))

        return perhaps


@pytest.fixture
def bad_disk(monkeypatch: pytest.MonkeyPatch) -> BadDisk:
    return BadDisk(monkeypatch)


@pytest.mark.guarantee("G12")
@pytest.mark.parametrize("call", ["write", "sync"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
async def test_failed_write_acknowledges_nothing_and_work_goes_on_afterwards(
    store: FileJobStore, folder: Path, clock: FakeClock, bad_disk: BadDisk, call: str, number: int
) -> None:
    await store.register_worker("w1")
    pulse = store.pulse("w1")
    await fill(store, clock)
    holder = await begin(store, clock)
    before = await world(store)
    kind = StoreFull if number == errno.ENOSPC else StoreUnavailable
    bad_disk.failing[call] = number
    commit = holder.commit_of(holder.succeeded("first"))
    refused = [new_job(clock) for _ in range(20)]
    for _ in range(3):  # the first time it fails on the way, then at once
        verbs = [store.commit(commit), store.claim("w1", 5), *(store.create(job) for job in refused)]
        results = await asyncio.gather(*verbs, return_exceptions=True)
        assert {type(result) for result in results} == {kind}
        assert len({id(result) for result in results}) == len(results)  # an error is raised in one task only
        assert await world(store) == before, "reading goes on, and shows what is on the disk"
        clock.advance(store.lease_s / 2)
        assert await asyncio.to_thread(pulse.beat), "the worker is alive, whatever the disk is"
        assert await store.heartbeat("w1")
    meanwhile = copy(folder, folder.with_name("meanwhile"))
    bad_disk.failing.clear()
    assert set((await world_in(meanwhile)).jobs) >= set(before.jobs)
    await store.commit(commit)
    assert await store.create(refused[0]) == refused[0].job_id
    after = await world(store)
    assert set(after.jobs) == {*before.jobs, refused[0].job_id}
    assert await world_in(copy(folder, folder.with_name("copy"))) == after


async def test_file_whose_sync_failed_is_not_written_to_again(
    store: FileJobStore, folder: Path, clock: FakeClock, bad_disk: BadDisk
) -> None:
    kept = await accept(store, clock)
    good = journals(folder)[0].stat().st_size
    bad_disk.failing["sync"] = errno.EIO
    with pytest.raises(StoreUnavailable, match="Nothing was accepted"):
        await accept(store, clock)
    bad_disk.failing.clear()
    again = await accept(store, clock)
    first, second = journals(folder)
    assert first.stat().st_size > good, "the bytes are there, and do not count"
    header = msgspec.json.decode(second.read_bytes().splitlines()[0])
    assert (header["segment"], header["after_bytes"]) == (2, good)
    await store.close()
    assert set(await world_jobs(folder)) == {kept, again}


@pytest.mark.parametrize("call", ["create", "write", "sync", "rename", "sync_folder"])
async def test_new_file_that_cannot_be_begun_is_tried_again(
    store: FileJobStore, folder: Path, clock: FakeClock, bad_disk: BadDisk, call: str
) -> None:
    kept = await accept(store, clock)
    bad_disk.failing["sync"] = errno.EIO
    with pytest.raises(StoreUnavailable):
        await accept(store, clock)
    bad_disk.failing = {call: errno.EIO}
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await accept(store, clock)
    assert bad_disk.failed.count(call) >= 2
    bad_disk.failing.clear()
    again = await accept(store, clock)
    await store.close()
    assert set(await world_jobs(folder)) == {kept, again}


@pytest.mark.parametrize("compacts", [False, True])
async def test_closing_line_that_cannot_be_made_sure_of_does_not_count(
    folder: Path, clock: FakeClock, bad_disk: BadDisk, compacts: bool
) -> None:
    async with opened(folder, clock) as store:
        kept = await accept(store, clock)
        end = journals(folder)[0].stat().st_size
    async with opened(folder, clock) as store:
        bad_disk.failing["sync"] = errno.EIO
        if compacts:
            assert not await store.compact()
        with pytest.raises(StoreUnavailable):
            await accept(store, clock)
        bad_disk.failing.clear()
        again = await accept(store, clock)
    header = msgspec.json.decode(journals(folder)[1].read_bytes().splitlines()[0])
    assert header["after_bytes"] == end
    assert set(await world_jobs(folder)) == {kept, again}


async def test_store_that_is_closed_while_it_is_mended_is_closed(
    store: FileJobStore, folder: Path, clock: FakeClock, bad_disk: BadDisk
) -> None:
    kept = await accept(store, clock)
    bad_disk.failing["sync"] = errno.EIO
    with pytest.raises(StoreUnavailable):
        await accept(store, clock)
    bad_disk.failing.clear()
    verbs = [asyncio.create_task(accept(store, clock)) for _ in range(3)]
    await asyncio.sleep(0)
    await store.close()
    results = await asyncio.gather(*verbs, return_exceptions=True)
    assert {type(one) for one in results} <= {str, StoreUnavailable}
    assert {kept, *(one for one in results if isinstance(one, str))} <= set(await world_jobs(folder))


async def test_those_who_wait_while_it_is_mended_in_vain_share_one_attempt(
    store: FileJobStore, clock: FakeClock, bad_disk: BadDisk
) -> None:
    bad_disk.failing["sync"] = errno.EIO
    with pytest.raises(StoreUnavailable):
        await accept(store, clock)
    before = len(bad_disk.failed)
    results = await asyncio.gather(*(accept(store, clock) for _ in range(50)), return_exceptions=True)
    assert {type(result) for result in results} == {StoreUnavailable}
    assert len(bad_disk.failed) - before == 1


@pytest.mark.guarantee("G12")
@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root on Linux mounts a small disk")
async def test_full_disk_is_reported_and_work_goes_on_afterwards(tmp_path: Path, clock: FakeClock) -> None:
    with small_disk(tmp_path / "disk"):
        ballast, accepted = tmp_path / "disk" / "ballast", []
        async with opened(tmp_path / "disk" / "jobs", clock) as store:
            ballast.write_bytes(b"x" * 1_000_000)
            with pytest.raises(StoreFull, match="free some space"):
                for _ in range(10_000):
                    accepted.append(await accept(store, clock, inputs={"text": "x" * 10_000}))
            for _ in range(3):
                results = await asyncio.gather(
                    *(accept(store, clock, inputs={"text": "x" * 100_000}) for _ in range(20)), return_exceptions=True
                )
                assert {type(result) for result in results} == {StoreFull}
                assert await ids(store) == accepted
            ballast.unlink()
            accepted.append(await accept(store, clock, inputs={"text": "x" * 10_000}))
            assert await ids(store) == accepted
        assert set(await world_jobs(tmp_path / "disk" / "jobs")) == set(accepted)


async def test_store_whose_disk_takes_nothing_can_be_looked_into(
    store: FileJobStore, folder: Path, clock: FakeClock, bad_disk: BadDisk
) -> None:
    """Also where an earlier process left threads behind, which have ended with it: that is written down later."""
    holder = await begin(store, clock)
    await holder.commit(store, holder.failed("first", abandoned=True))
    await store.close()
    left = copy(folder, folder.with_name("left"))
    bad_disk.failing["write"] = errno.ENOSPC
    async with opened(left, clock) as other:
        assert await ids(other) == [holder.job_id]
    bad_disk.failing.clear()
    async with opened(copy(left, folder.with_name("later")), clock) as later:
        [listed] = await later.list_jobs(build_query())
        assert (listed.summary.id, listed.summary.abandoned) == (holder.job_id, 0)


# ── lost replies ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_commit_that_is_on_the_disk_without_a_reply_is_not_done_twice(
    store: FileJobStore, folder: Path, clock: FakeClock, bad_disk: BadDisk
) -> None:
    """The sync fails, the bytes are there after all, and the process dies before it begins another file."""
    holder = await begin(store, clock)
    commit = holder.commit_of(holder.succeeded("first"))
    bad_disk.failing["sync"] = errno.EIO
    with pytest.raises(StoreUnavailable):
        await store.commit(commit)
    bad_disk.failing.clear()
    async with opened(copy(folder, folder.with_name("after")), clock) as other:
        events = await other.read_events(holder.job_id)
        assert len(events) == holder.committed
        await other.commit(commit)
        assert await other.read_events(holder.job_id) == events
        [claim] = await other.hold_orphans("w2", 1)
        again = Holder(clock, claim)
        await again.commit(other, again.succeeded("second"))
