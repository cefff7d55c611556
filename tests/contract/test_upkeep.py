"""`store check` finds what is wrong, says where, and finds nothing wrong with what is well."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from openagents_json.errors import StoreUnavailable
from openagents_json.job.model import JobStatus
from openagents_json.job.store import FileJobStore, JobStore, MemoryJobStore, PostgresJobStore, SqliteJobStore
from openagents_json.job.store.contract.jobs import (
    CALLS,
    QUIET,
    Holder,
    accept,
    begin,
    bring_to,
    plan_of,
    request,
    wide,
)
from openagents_json.job.store.memory_job import MemoryJob
from openagents_json.job.upkeep import Checked, check_store
from openagents_json.testing import FakeClock
from tests.postgres_server import Server


async def flaws_of(store: JobStore, checked: Checked | None = None) -> list[str]:
    return [str(flaw) async for flaw in check_store(store, checked or Checked())]


async def fill(store: JobStore, clock: FakeClock) -> str:
    """A job of every status, one of them with a snapshot and events behind it; its id."""
    for status in (JobStatus.WAITING, *(one for one in JobStatus if one.is_final), JobStatus.RUNNING):
        await bring_to(store, clock, status)
    await accept(store, clock, wide(700), start=False)
    holder = await bring_to(store, clock, JobStatus.PAUSED)
    for snapshot in (True, False):
        held = await store.hold(holder.job_id, "w1", request("set_priority", f"key-{snapshot}", priority="LOW"))
        assert held is not None and held.claim is not None
        await Holder(clock, held.claim).commit(store, drains=held.claim.requests, snapshot=snapshot)
    return holder.job_id


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def memory(clock: FakeClock) -> MemoryJobStore:
    return MemoryJobStore(clock)


@pytest.fixture
async def sqlite(database: Path, clock: FakeClock) -> AsyncIterator[SqliteJobStore]:
    store = SqliteJobStore(database, clock)
    await store.open()
    yield store
    await store.close()


# ── what is well ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_whole_store_is_well(memory: MemoryJobStore, sqlite: SqliteJobStore, clock: FakeClock) -> None:
    for store in (memory, sqlite):
        await fill(store, clock)
        checked = Checked()
        assert await flaws_of(store, checked) == []
        assert (checked.jobs, checked.snapshots, checked.definitions) == (7, 1, 2)
        assert checked.events == (await store.facts()).events


async def test_history_of_many_pages_is_read_page_by_page(memory: MemoryJobStore, clock: FakeClock) -> None:
    holder = await begin(memory, clock, document=wide(1_500))
    await holder.commit(memory, holder.succeeded("call"), snapshot=True)
    checked = Checked()
    assert await flaws_of(memory, checked) == []
    assert checked.events > 1_500 and checked.snapshots == 1


async def test_jobs_of_many_pages_are_all_read(memory: MemoryJobStore, clock: FakeClock) -> None:
    for _ in range(450):
        await accept(memory, clock, QUIET)
    checked = Checked()
    assert await flaws_of(memory, checked) == []
    assert checked.jobs == 450


async def test_job_that_is_deleted_while_it_is_read_is_no_flaw(memory: MemoryJobStore, clock: FakeClock) -> None:
    job_id = (await begin(memory, clock, document=QUIET)).job_id
    read_events = memory.read_events

    async def deleted_before(*arguments: object, **named: object) -> object:
        await memory.delete(job_id)
        return await read_events(*arguments, **named)  # type: ignore[arg-type]

    memory.read_events = deleted_before  # type: ignore[method-assign, assignment]
    assert await flaws_of(memory) == []


# ── what is wrong with a job ──────────────────────────────────────────────────────────────────────────────────────


def lose_event(job: MemoryJob) -> None:
    del job.events[3]


def lose_end(job: MemoryJob) -> None:
    del job.events[-2:]
    job.snapshot = None


def change_row(job: MemoryJob) -> None:
    job.row = replace(job.row, progress=0.75, current_step="elsewhere")


def change_status(job: MemoryJob) -> None:
    job.row = replace(job.row, status=JobStatus.WAITING)


def be_another_job(job: MemoryJob) -> None:
    job.new = replace(job.new, definition=replace(job.new.definition, version="9.9.9"))


def age_snapshot(job: MemoryJob) -> None:
    assert job.snapshot is not None
    number, state = job.snapshot
    job.snapshot = number, state.replace(b'"LOW"', b'"HIGH"')


def spoil_snapshot(job: MemoryJob) -> None:
    assert job.snapshot is not None
    job.snapshot = job.snapshot[0], b"{"


def end_early(job: MemoryJob) -> None:
    event = job.events[4]
    job.events[4] = type(event)(event.number, "job.completed", event.at_us, {})


def be_unreadable(job: MemoryJob) -> None:
    event = job.events[2]
    job.events[2] = type(event)(event.number, event.type, event.at_us, {"path": "nowhere"})


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lose_event, ["event 4 is missing: the next one has number 5"]),
        (lose_end, ["events, and its row says"]),
        (change_row, ["says progress = 0.75, and its history", "says current_step = elsewhere"]),
        (change_status, ["says status = WAITING, and its history PAUSED"]),
        (be_another_job, ["its row has the version 9.9.9, and its first event"]),
        (age_snapshot, ["its snapshot at event", "is not what the history up to there gives"]),
        (spoil_snapshot, ["cannot be read: A snapshot does not decode"]),
        (end_early, ["event 5 (job.completed) is final, and", "follow"]),
        (be_unreadable, ["cannot be read: "]),
    ],
)
async def test_harmed_job_is_found_and_named(
    memory: MemoryJobStore, clock: FakeClock, harm: Callable[[MemoryJob], None], said: list[str]
) -> None:
    job_id = await fill(memory, clock)
    harm(memory._jobs[job_id])
    found = await flaws_of(memory)
    assert found and all(one.startswith(f"job {job_id}: ") for one in found), found
    for part in said:
        assert any(part in one for one in found), found


async def test_changed_and_missing_definitions_are_found(memory: MemoryJobStore, clock: FakeClock) -> None:
    await fill(memory, clock)
    calls = plan_of(CALLS).workflow.content_hash
    memory._definitions[calls] = memory._definitions[calls].replace(b"second", b"zecond")
    assert (await flaws_of(memory))[0].startswith(f"definition {calls}: its content has the hash ")
    del memory._definitions[calls]
    found = await flaws_of(memory)
    assert len(found) == 6 and all(f"its definition {calls} is not there" in one for one in found)


async def test_store_that_goes_away_ends_the_check(memory: MemoryJobStore, clock: FakeClock) -> None:
    await fill(memory, clock)

    async def away(*arguments: object) -> object:
        raise StoreUnavailable("The store is away.")

    memory.read = away  # type: ignore[method-assign, assignment]
    with pytest.raises(StoreUnavailable):
        await flaws_of(memory)


# ── what is wrong underneath ──────────────────────────────────────────────────────────────────────────────────────


async def test_harmed_page_of_sqlite_is_found_without_opening_the_store(
    sqlite: SqliteJobStore, clock: FakeClock
) -> None:
    await fill(sqlite, clock)
    await sqlite.close()
    with closing(sqlite3.connect(sqlite.path)) as connection:
        size = connection.execute("PRAGMA page_size").fetchone()[0]
        [page] = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'history'").fetchone()
    data = bytearray(sqlite.path.read_bytes())
    data[(page - 1) * size : page * size] = bytes(size)
    sqlite.path.write_bytes(data)
    flaws = await sqlite.verify()
    assert flaws and all(flaw.is_damage for flaw in flaws)
    assert str(sqlite.path) in str(flaws[0])
    assert sqlite.path.read_bytes() == data


async def test_stray_rows_of_sqlite_are_found(sqlite: SqliteJobStore, clock: FakeClock) -> None:
    await fill(sqlite, clock)
    put = "INSERT INTO history (job, first, last, events) VALUES (77, 1, 1, x'5b5d')"
    await sqlite._write("call", lambda connection: connection.execute(put).rowcount)
    drop = "DELETE FROM definitions WHERE workflow_id = 'calls'"
    await sqlite._write("call", lambda connection: connection.execute(drop).rowcount)
    found = {str(flaw).partition("jobs.db")[2] for flaw in await sqlite.verify()}
    assert ", table history: rows that belong to no job: 1 (key 77)" in found
    assert any("points to nothing in definitions" in one for one in found)


async def test_stray_rows_and_rows_that_do_not_fit_are_found_on_postgres(postgres: Server, clock: FakeClock) -> None:
    store = PostgresJobStore(postgres.store_url(await postgres.empty_schema()), clock)
    await store.open()
    try:
        job_id = await fill(store, clock)
        checked = Checked()
        assert (await store.verify(), await flaws_of(store, checked)) == ([], [])
        assert (checked.jobs, checked.snapshots, checked.definitions) == (7, 1, 2)
        async with postgres.connected() as connection:
            schema = store.place.schema
            await connection.execute(f"INSERT INTO {schema}.history VALUES (77, 1, 1, '[]')")
            await connection.execute(f"UPDATE {schema}.jobs SET progress = 0.75 WHERE id = $1", job_id)
        [flaw] = await store.verify()
        assert str(flaw).endswith("table history: rows that belong to no job: 1 (key 77)")
        [row] = await flaws_of(store)
        assert row.startswith(f"job {job_id}: its row says progress = 0.75, and its history")
    finally:
        await store.close()


async def test_damaged_line_of_a_folder_is_found_open_or_not(tmp_path: Path, clock: FakeClock) -> None:
    store = FileJobStore(tmp_path / "jobs", clock)
    await store.open()
    await fill(store, clock)
    assert await store.verify() == []
    journal = store.path / "journal-00000001.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    lines[4] = lines[4].replace(b'"worker"', b'"walker"')
    journal.write_bytes(b"".join(lines))
    for _ in range(2):
        [flaw] = await store.verify()
        assert flaw.is_damage and flaw.where.startswith(f"{journal}, line 5 (byte ")
        assert flaw.what.startswith("its checksum does not fit")
        await store.close()


async def test_folder_that_a_process_has_open_is_not_looked_at(tmp_path: Path, clock: FakeClock) -> None:
    store = FileJobStore(tmp_path / "jobs", clock)
    await store.open()
    other = FileJobStore(tmp_path / "jobs", clock)
    for look in (other.verify, other.facts, other.vacuum):
        with pytest.raises(StoreUnavailable, match="in use by process"):
            await look()
    await store.close()
    assert (await other.vacuum()).after_bytes > 0


@pytest.mark.parametrize("kind", [SqliteJobStore, FileJobStore])
async def test_no_store_is_made_by_looking_for_one(
    tmp_path: Path, kind: type[SqliteJobStore] | type[FileJobStore]
) -> None:
    store = kind(tmp_path / "nothing")
    for look in (store.facts, store.verify, store.vacuum):
        with pytest.raises(StoreUnavailable, match="There is no store at"):
            await look()
    assert list(tmp_path.iterdir()) == []


async def test_vacuum_of_sqlite_gives_the_room_of_deleted_jobs_back(sqlite: SqliteJobStore, clock: FakeClock) -> None:
    for _ in range(3):
        await accept(sqlite, clock, wide(700), start=False)
        await begin(sqlite, clock, document=wide(700))
    kept = await bring_to(sqlite, clock, JobStatus.PAUSED)
    delete = "DELETE FROM history WHERE job <> (SELECT key FROM jobs WHERE id = ?)"
    await sqlite._write("call", lambda connection: connection.execute(delete, (kept.job_id,)).rowcount)
    done = await sqlite.vacuum()
    assert done.after_bytes < done.before_bytes / 2
    assert (await sqlite.facts()).free_bytes == 0
    assert await sqlite.read_events(kept.job_id) != []
