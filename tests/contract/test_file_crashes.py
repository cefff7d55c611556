"""The file store and power cuts: at each moment of a compaction, and at random moments of its life, with only a part of
what was not synced on the disk. Nothing acknowledged is lost, and what somebody has read stays (G1, I9)."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from openagents_json.errors import StoreError
from openagents_json.job.events import Event
from openagents_json.job.model import JobStatus
from openagents_json.job.store import file_disk, file_journal, file_keeper
from openagents_json.job.store.contract.jobs import QUIET, Holder, accept, begin, history, new_job
from openagents_json.job.store.file import FileJobStore
from openagents_json.job.store.file_snapshot import SnapshotWriter
from openagents_json.job.store.query import build_query
from openagents_json.testing import FakeClock
from tests.contract.conftest import DiskGate
from tests.contract.file_folder import copy, fill, journals, opened, world, world_in

CALLS = ("create", "write", "sync", "rename", "sync_folder", "remove")
IMAGES = 150  # power cuts that are tried
SECTOR = 512


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "jobs"


# ── compacting ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_compaction_leaves_one_snapshot_with_an_empty_journal(folder: Path, clock: FakeClock) -> None:
    async with opened(folder, clock) as store:
        await fill(store, clock)
        before = await world(store)
        for number in (2, 3):
            await store.compact()
            assert await world(store) == before
            names = {path.name for path in folder.iterdir()}
            assert names == {"lock", f"snapshot-{number:08}.jsonl", f"journal-{number:08}.jsonl"}
            assert await world_in(copy(folder, folder.with_name(f"copy {number}"))) == before
        assert store.compactions == 2


async def test_crash_at_any_point_of_a_compaction_loses_nothing(
    folder: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    copies: list[Path] = []

    def photographed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def around(*arguments: Any) -> Any:
            copies.append(copy(folder, tmp_path / f"{len(copies):03} before {name}"))
            result = call(*arguments)
            copies.append(copy(folder, tmp_path / f"{len(copies):03} after {name}"))
            return result

        return around

    async with opened(folder, clock) as store:
        await fill(store, clock)
        await store.compact()
        await fill(store, clock)
        before = await world(store)
        for name in CALLS:
            monkeypatch.setattr(file_disk, name, photographed(name, getattr(file_disk, name)))
        await store.compact()
        monkeypatch.undo()
        assert store.compactions == 2
    said = {path.name.split(" ", 1)[1] for path in copies}
    assert said == {f"{when} {name}" for when in ("before", "after") for name in CALLS}
    for path in copies:
        assert await world_in(path) == before, path.name
        assert not list(path.glob("*.tmp")), "what was not finished is taken away"
        assert await world_in(path) is not None


async def test_snapshot_is_of_one_moment_whatever_changes_while_it_is_written(
    folder: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_keeper, "BATCH_JOBS", 1)
    async with opened(folder, clock) as store:
        holders = [await begin(store, clock) for _ in range(6)]
        idle = [await accept(store, clock, start=False) for _ in range(4)]
        turns = iter(snapshot_turns(monkeypatch))
        compacting = asyncio.create_task(store.compact())
        for holder, job_id in zip(holders, idle, strict=False):
            assert not compacting.done()
            await holder.commit(store, holder.succeeded("first"))
            assert await store.delete(job_id)
            await accept(store, clock)
            next(turns)()
        for turn in turns:
            turn()
        assert await compacting
        for holder in holders:
            await holder.commit(store, holder.succeeded("second" if holder.state.runs.get("second") else "first"))
        before = await world(store)
        assert (folder / "snapshot-00000002.jsonl").exists()
        assert await world_in(copy(folder, folder.with_name("copy"))) == before


def snapshot_turns(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
    """Make the snapshot wait before each of its first batches until the function at that place is called."""
    gates = [threading.Event() for _ in range(8)]
    left = iter(gates)
    write = SnapshotWriter.write_jobs

    def gated(writer: SnapshotWriter, images: Any) -> None:
        if (gate := next(left, None)) is not None:
            assert gate.wait(30), "nobody let the snapshot go on"
        write(writer, images)

    monkeypatch.setattr(SnapshotWriter, "write_jobs", gated)
    return [gate.set for gate in gates]


@pytest.mark.parametrize("call", ["create", "write", "sync", "rename", "sync_folder", "remove"])
async def test_compaction_that_fails_is_told_and_commits_go_on(
    folder: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    original = getattr(file_disk, call)

    def failing(*arguments: Any) -> Any:
        fd_or_path = arguments[0]
        name = str(Path(f"/proc/self/fd/{fd_or_path}").resolve() if isinstance(fd_or_path, int) else fd_or_path)
        if "snapshot" in name or (call in ("sync_folder", "remove") and list(folder.glob("snapshot-*"))):
            raise OSError(errno.EIO, "Input/output error")
        return original(*arguments)

    async with opened(folder, clock) as store:
        await fill(store, clock)
        before = await world(store)
        monkeypatch.setattr(file_disk, call, failing)
        await store.compact()
        monkeypatch.undo()
        assert store.compactions == 0 and "could not be compacted" in caplog.text
        assert await world(store) == before
        new = await accept(store, clock)
        assert await world_in(copy(folder, folder.with_name("copy"))) == await world(store)
        await store.compact()
        assert store.compactions == 1
        after = await world(store)
        assert new in after.jobs
        assert await world_in(copy(folder, folder.with_name("compacted"))) == after


async def test_journal_file_that_cannot_be_begun_leaves_the_old_one_in_use(
    folder: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(folder, clock) as store:
        await fill(store, clock)
        with monkeypatch.context() as patch:
            patch.setattr(file_disk, "rename", failing_call)
            assert not await store.compact()
        assert store.compactions == 0 and len(journals(folder)) == 1
        await accept(store, clock)
        assert await world_in(copy(folder, folder.with_name("copy"))) == await world(store)


async def test_journal_file_that_may_have_begun_ends_the_old_one(
    folder: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has its name, and whether the disk knows that is unknown: nothing may be added to the one before it."""
    async with opened(folder, clock) as store:
        kept = await accept(store, clock)
        with monkeypatch.context() as patch:
            patch.setattr(file_disk, "sync_folder", failing_call)
            await store.compact()
            old = journals(folder)[0].stat().st_size
            with pytest.raises(StoreError):
                await accept(store, clock)
        new = await accept(store, clock)
        assert journals(folder)[0].stat().st_size == old
        assert {kept, new} <= set((await world_in(copy(folder, folder.with_name("copy")))).jobs)


def failing_call(*arguments: Any) -> None:
    raise OSError(errno.EIO, "Input/output error")


async def test_journal_files_have_a_bounded_size(
    folder: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_journal, "SEGMENT_BYTES", 20_000)
    async with opened(folder, clock) as store:
        for _ in range(60):
            await accept(store, clock)
        before = await world(store)
    assert len(journals(folder)) > 2
    assert max(path.stat().st_size for path in journals(folder)) < 25_000
    assert await world_in(folder) == before


@pytest.mark.guarantee("G1")
async def test_what_a_dead_process_wrote_is_synced_before_anybody_reads_it(
    folder: Path, clock: FakeClock, tmp_path: Path, disk_gate: DiskGate
) -> None:
    """Its last group may be in the memory of the system only: a power cut would take back what was read (I9)."""
    async with opened(folder, clock) as store:
        await accept(store, clock)
        job_id = await accept(store, clock)
        dead = copy(folder, tmp_path / "dead")
    disk_gate.shut()
    other = FileJobStore(dead, clock)
    opening = asyncio.create_task(other.open())
    await disk_gate.wait_reached()
    with pytest.raises(StoreError, match="not open"):
        await other.read(job_id)
    assert not opening.done()
    disk_gate.open()
    await opening
    assert await other.read(job_id) is not None
    await other.close()


async def test_last_group_is_written_again_before_anything_follows_it(
    folder: Path, clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether its sync succeeded is not known: a sync that failed once says nothing any more."""
    async with opened(folder, clock) as store:
        await accept(store, clock)
        before_second = journals(folder)[0].stat().st_size
        await accept(store, clock)
        end = journals(folder)[0].stat().st_size
        dead = copy(folder, tmp_path / "dead")
    closed_end = journals(folder)[0].stat().st_size
    calls: list[tuple[Path, int, int, bool]] = []
    rewrite = file_disk.rewrite

    def noted(path: Path, first: int, last: int, *, syncs: bool) -> None:
        calls.append((path, first, last, syncs))
        rewrite(path, first, last, syncs=syncs)

    monkeypatch.setattr(file_disk, "rewrite", noted)
    async with opened(dead, clock) as store:
        assert calls == [(journals(dead)[0], before_second, end, True)]
        await accept(store, clock)
    async with opened(folder, clock) as store:
        assert len(calls) == 1, "who only looks writes nothing"
        await accept(store, clock)
        await accept(store, clock)
        assert calls[1:] == [(journals(folder)[0], end, closed_end, False)]
        assert await world_in(copy(folder, tmp_path / "copy")) == await world(store)


# ── power cuts ────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class File:
    """What a file has, and how much of it is on the disk for sure."""

    data: bytearray = field(default_factory=bytearray)
    synced: int = 0


@dataclass
class Film:
    """Every call of the disk in order, and what clients knew after how many of them."""

    calls: list[tuple[str, Any]] = field(default_factory=list)
    accepted: list[tuple[int, str]] = field(default_factory=list)
    seen: list[tuple[int, str, list[Event]]] = field(default_factory=list)  # histories that somebody read
    deleted: list[str] = field(default_factory=list)  # that somebody began to delete
    _names: dict[int, str] = field(default_factory=dict)

    @contextlib.contextmanager
    def rolling(self) -> Iterator[None]:
        """Record while this lasts."""
        with pytest.MonkeyPatch.context() as patch:
            for name in (*CALLS, "append_to", "cut"):
                patch.setattr(file_disk, name, self._recorded(name, getattr(file_disk, name)))
            yield

    def _recorded(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def recorded(*arguments: Any) -> Any:
            first = arguments[0]
            if name in ("create", "append_to"):
                fd = call(*arguments)
                self._names[fd] = first.name
                self.calls.append((name, first.name))
                return fd
            subject = self._names[first] if isinstance(first, int) else first.name
            if name in ("sync", "sync_folder"):  # done when it returns
                result = call(*arguments)
                self.calls.append((name, subject))
                return result
            self.calls.append((name, (subject, *arguments[1:])))
            result = call(*arguments)
            if name == "rename":
                for fd, known in self._names.items():
                    if known == subject:
                        self._names[fd] = arguments[1]
            return result

        return recorded

    def now(self) -> int:
        return len(self.calls)

    def image(self, moment: int, folder: Path, chance: random.Random, *, syncs: bool = True) -> None:
        """The folder as a power cut right after so many calls may leave it. Without `syncs` the disk lies."""
        files: dict[str, File] = {}
        on_disk: dict[str, File] = {}  # names
        pending: list[tuple[str, File | None]] = []  # changes of names that the disk may have or not, in this order

        def named(name: str, file: File | None) -> None:
            pending.append((name, file))

        for call, subject in self.calls[:moment]:
            if call == "create":
                files[subject] = File()
                named(subject, files[subject])
            elif call == "write":
                files[subject[0]].data += subject[1]
            elif call == "sync" and syncs:
                files[subject].synced = len(files[subject].data)
            elif call == "rename":
                moved = files[subject[1]] = files.pop(subject[0])
                named(subject[1], moved)
                named(subject[0], None)
            elif call == "remove":
                files.pop(subject[0], None)
                named(subject[0], None)
            elif call == "sync_folder" and syncs:
                self._apply(on_disk, pending)
                pending = []
        self._apply(on_disk, pending[: chance.randrange(len(pending) + 1)])
        folder.mkdir()
        for name, one in on_disk.items():
            (folder / name).write_bytes(self._remains(one, chance))

    def _apply(self, on_disk: dict[str, File], changes: list[tuple[str, File | None]]) -> None:
        for name, one in changes:
            if one is None:
                on_disk.pop(name, None)
            else:
                on_disk[name] = one

    def _remains(self, file: File, chance: random.Random) -> bytes:
        """What is synced, and of the rest each sector or zeros, up to some size."""
        rest = bytearray(file.data[file.synced :])
        rest = rest[: chance.choice([len(rest), chance.randrange(len(rest) + 1)])]
        for at in range(0, len(rest), SECTOR):
            if chance.random() < 0.5:
                rest[at : at + SECTOR] = bytes(len(rest[at : at + SECTOR]))
        return bytes(file.data[: file.synced] + rest)


async def live(folder: Path, film: Film, chance: random.Random) -> None:
    """Some clients and workers at the same moment, on a store that compacts and is opened several times."""
    clock = FakeClock()
    for _ in range(3):
        store = FileJobStore(folder, clock, compact_bytes=6_000)
        await store.open()
        orphans = await store.hold_orphans(f"life {clock.now_us()}", 100)
        holders = [Holder(clock, claim) for claim in orphans]

        async def client() -> None:
            for _ in range(6):
                job_id = await accept(store, clock, inputs={"text": "x" * chance.randrange(2_000)})  # noqa: B023
                film.accepted.append((film.now(), job_id))

        async def worker() -> None:
            for _ in range(4):
                for claim in await store.claim(f"life {clock.now_us()}", 2):  # noqa: B023
                    holder = Holder(clock, claim)
                    await holder.commit(store, holder.started())  # noqa: B023
                    if chance.random() < 0.7:
                        await holder.commit(store, holder.succeeded("first"))  # noqa: B023
                        await holder.commit(store, holder.succeeded("second"))  # noqa: B023
                await asyncio.sleep(0)

        async def reader() -> None:
            for _ in range(12):
                for listed in await store.list_jobs(build_query(limit=5)):  # noqa: B023
                    events = await store.read_events(listed.summary.id)  # noqa: B023
                    film.seen.append((film.now(), listed.summary.id, events))
                await asyncio.sleep(0)

        async def cleaner() -> None:
            for _ in range(3):
                gone = await accept(store, clock, QUIET, start=False)  # noqa: B023
                film.deleted.append(gone)
                await store.delete(gone)  # noqa: B023

        work: list[Awaitable[None]] = [client(), client(), worker(), worker(), reader(), cleaner()]
        await asyncio.gather(*work)
        for holder in holders:
            if holder.state.status == JobStatus.QUEUED:
                await store.release(holder.claim)
        clock.advance(1)
        await store.close()


async def losses(film: Film, moment: int, folder: Path) -> list[str]:
    """What clients knew by then and the image does not have."""
    store = FileJobStore(folder, FakeClock())
    try:
        await store.open()
    except StoreError as error:
        return [f"it does not open: {error}"]
    try:
        found = []
        for at, job_id in film.accepted:
            if at <= moment and await store.read_summary(job_id) is None:
                found.append(f"job {job_id} was accepted and is lost")
        for at, job_id, events in film.seen:
            if (
                at <= moment
                and job_id not in film.deleted
                and await store.read_events(job_id, 0, len(events)) != events
            ):
                found.append(f"job {job_id} had {len(events)} events for a reader")
        for listed in await store.list_jobs(build_query(limit=1_000)):
            await history(store, listed.summary.id)
        await store.create(new_job(FakeClock()))
        return found
    finally:
        await store.close()


@pytest.mark.guarantee("G1")
async def test_power_cut_at_any_moment_loses_nothing_that_was_acknowledged_or_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = int(os.environ.get("POWER_SEED") or random.SystemRandom().randrange(10**6))
    print(f"repeat this by: POWER_SEED={seed} .venv/bin/pytest tests/contract/test_file_crashes.py")
    chance, film = random.Random(seed), Film()
    with film.rolling():
        await live(tmp_path / "jobs", film, chance)
    names = [call for call, _ in film.calls]
    assert names.count("rename") > 4 and "remove" in names, "it was compacted meanwhile"
    assert film.seen and len(film.accepted) == 36
    lost = 0
    for number in range(IMAGES):
        moment = chance.randrange(names.index("sync_folder") + 1, film.now() + 1)
        film.image(moment, tmp_path / f"{number}", chance)
        assert await losses(film, moment, tmp_path / f"{number}") == [], f"after {moment} calls"
    for number in range(30):  # the control: with a disk that lies the same check is red
        moment = film.now() - number
        film.image(moment, tmp_path / f"lie {number}", chance, syncs=False)
        lost += bool(await losses(film, moment, tmp_path / f"lie {number}"))
    assert lost > 20
