"""Repairing a damaged file store: what is sound and fits is kept, the rest stands aside, and each loss is named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from openagents_json.errors import InvalidStore, SchemaTooNew, StoreUnavailable
from openagents_json.job.model import JobStatus
from openagents_json.job.store.contract.jobs import CALLS, Holder, accept, begin, bring_to, new_job
from openagents_json.job.store.file_repair import JobLoss, repair
from openagents_json.testing import FakeClock
from tests.contract.file_folder import World, copy, fill, journals, lines, opened, world, world_in


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "jobs"


def flip(path: Path, at: int) -> None:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def damage_line(path: Path, number: int) -> bytes:
    """Change a bit in the middle of a line; the line as it was."""
    whole = path.read_bytes().splitlines(keepends=True)
    flip(path, sum(map(len, whole[: number - 1])) + len(whole[number - 1]) // 2)
    return whole[number - 1]


async def assert_usable(folder: Path) -> World:
    """The store opens, and its jobs can go on."""
    seen = await world_in(folder)
    async with opened(folder) as store:
        await store.register_worker("w")
        for claim in [*await store.hold_orphans("w", 100), *await store.claim("w", 100)]:
            Holder(FakeClock(), claim)  # its snapshot and events fold
            await store.release(claim)
        await accept(store, FakeClock())
    return seen


async def test_sound_store_is_left_as_it_is(folder: Path, clock: FakeClock) -> None:
    async with opened(folder, clock) as store:
        await fill(store, clock)
        await store.compact()
        await fill(store, clock)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    report = repair(folder)
    assert (report.damage, report.losses, report.set_aside, report.aside) == ((), (), 0, None)
    assert report.jobs == len((await world_in(copy(folder, folder.with_name("copy")))).jobs)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


async def test_job_keeps_its_history_up_to_the_damage_and_the_others_everything(folder: Path, clock: FakeClock) -> None:
    async with opened(folder, clock) as store:
        hit = await begin(store, clock)
        kept = await store.read_events(hit.job_id)
        await fill(store, clock)
        others = await world(store)
        mine = others.jobs.pop(hit.job_id)
        at = len(lines(folder)) + 1
        await hit.commit(store, hit.succeeded("first"))
        await hit.commit(store, hit.succeeded("second"))
        whole = await store.read_events(hit.job_id)
    [journal] = journals(folder)
    damage_line(journal, at)
    report = repair(folder)
    [damage] = report.damage
    assert (damage.file, damage.line, damage.why) == (journal.name, at, "its checksum does not fit")
    assert report.losses == (JobLoss(hit.job_id, len(kept), len(whole) - len(kept)),)
    assert report.set_aside == 1, "the last commit does not follow the one before the damage"
    assert report.jobs == len(others.jobs) + 1
    seen = await assert_usable(folder)
    assert seen.jobs.pop(hit.job_id) == mine
    assert seen == others


async def test_what_is_cut_out_stands_aside(folder: Path, clock: FakeClock) -> None:
    async with opened(folder, clock) as store:
        await bring_to(store, clock, JobStatus.COMPLETED)
    [journal] = journals(folder)
    whole = journal.read_bytes().splitlines(keepends=True)
    damage_line(journal, 4)
    text = journal.read_bytes().splitlines(keepends=True)[3]
    with journal.open("r+b") as file:  # and bytes that are no text
        file.seek(sum(map(len, whole[:5])) + 9)
        file.write(b"\xff\xfe")
    report = repair(folder)
    assert report.aside == folder / "damaged-00000001.jsonl"
    aside = [json.loads(line) for line in report.aside.read_text().splitlines()]
    assert [(one["file"], one["line"]) for one in aside] == [(journal.name, 4), (journal.name, 6), (journal.name, 7)]
    assert aside[0]["text"] == text.decode()
    assert "base64" in aside[1] and "text" not in aside[1]
    assert aside[2]["text"] == whole[6].decode() and "follows event" in aside[2]["why"]
    assert {path.name for path in folder.iterdir()} == {
        "lock", "damaged-00000001.jsonl", "journal-00000002.jsonl", "snapshot-00000002.jsonl",
    }  # fmt: skip
    assert repair(folder).aside is None
    await assert_usable(folder)


async def test_job_whose_beginning_is_damaged_is_lost_and_said_so(folder: Path, clock: FakeClock) -> None:
    async with opened(folder, clock) as store:
        await accept(store, clock, start=False)
        at = len(lines(folder)) + 1
        gone = await begin(store, clock)
    damage_line(journals(folder)[0], at)
    report = repair(folder)
    assert report.losses == (JobLoss(gone.job_id, None, gone.committed),)
    assert str(report.losses[0]) == f"job {gone.job_id} is lost, with {gone.committed} events that were found"
    assert gone.job_id not in (await assert_usable(folder)).jobs and report.jobs == 1


async def test_change_of_which_a_line_is_damaged_is_set_aside_as_a_whole(folder: Path, clock: FakeClock) -> None:
    """A parent's commit and the children that it accepts are all there or none is, whichever line is hit."""
    async with opened(folder, clock) as store:
        parent = await begin(store, clock)
        before, at = await world(store), len(lines(folder))
        children = [replace(new_job(clock, start=False), parent_id=parent.job_id) for _ in range(2)]
        commit = parent.commit_of(parent.succeeded("first"))
        await store.commit(
            type(commit)(**{name: getattr(commit, name) for name in commit.__slots__} | {"children": children})
        )
        other = await accept(store, clock, start=False)
    assert [one["type"] for one in lines(folder)[at : at + 3]] == ["committed", "accepted", "accepted"]
    for number in range(at + 1, at + 4):
        hit = copy(folder, folder.with_name(f"hit {number}"))
        damage_line(journals(hit)[0], number)
        report = repair(hit)
        assert report.set_aside == 2, "the other two lines"
        assert {loss.job_id for loss in report.losses} >= {parent.job_id}
        assert set((await assert_usable(hit)).jobs) == {*before.jobs, other}


@pytest.mark.parametrize("what", ["journal", "snapshot"])
async def test_any_damaged_line_leaves_a_store_that_opens(
    folder: Path, clock: FakeClock, what: str, tmp_path: Path
) -> None:
    """Every line in turn, headers as well. Only jobs that the report names have lost anything."""
    async with opened(folder, clock) as store:
        await bring_to(store, clock, JobStatus.COMPLETED)
        await bring_to(store, clock, JobStatus.WAITING)
        await accept(store, clock, CALLS | {"id": "third"}, start=False)
        if what == "snapshot":
            await store.compact()
        await bring_to(store, clock, JobStatus.PAUSED)
    before = await world_in(copy(folder, tmp_path / "copy"))
    [path] = folder.glob(f"{what}-*")
    for number in range(1, path.read_bytes().count(b"\n") + 1):
        hit = copy(folder, tmp_path / f"line {number}")
        damage_line(hit / path.name, number)
        if what == "journal" and number == path.read_bytes().count(b"\n"):
            continue  # the last line: nothing proves that it was durable, so it is a torn tail
        with pytest.raises(InvalidStore, match=f"line {number} "):
            await opened(hit).__aenter__()
        report = repair(hit)
        assert [damage.line for damage in report.damage] == [number]
        seen = await assert_usable(hit)
        assert report.jobs == len(seen.jobs)
        named = {loss.job_id for loss in report.losses}
        for job_id, job in before.jobs.items():
            if job_id not in named:
                assert seen.jobs[job_id] == job, f"line {number}"
        for loss in report.losses:
            assert (loss.job_id in seen.jobs) == (loss.kept_events is not None)
            if loss.kept_events is not None:
                was = before.jobs[loss.job_id].events
                assert seen.jobs[loss.job_id].events == was[: loss.kept_events]


async def test_journal_that_is_missing_is_named(folder: Path, clock: FakeClock) -> None:
    async with opened(folder, clock) as store:
        job_id = await accept(store, clock)
        await store.compact()
    journals(folder)[0].unlink()
    report = repair(folder)
    assert [(one.file, one.why) for one in report.damage] == [("journal-00000002.jsonl", "the file is missing")]
    assert (report.jobs, report.losses) == (1, ())
    assert list((await assert_usable(folder)).jobs) == [job_id]


async def test_store_in_use_or_of_tomorrow_is_not_repaired(folder: Path, clock: FakeClock, tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="no file store"):
        repair(tmp_path / "nowhere")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "photo.jpg").touch()
    with pytest.raises(InvalidStore, match="something else"):
        repair(tmp_path / "other")
    async with opened(folder, clock) as store:
        await accept(store, clock)
        with pytest.raises(StoreUnavailable, match="in use"):
            repair(folder)
    [journal] = journals(folder)
    journal.write_bytes(journal.read_bytes().replace(b'"format":1', b'"format":2', 1))
    with pytest.raises(SchemaTooNew):
        repair(folder)
