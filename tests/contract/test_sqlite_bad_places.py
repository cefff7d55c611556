"""The SQLite store where things go wrong: bad paths, strange files, full disks, lost replies, dying processes."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from openagents_json.errors import InvalidStore, SchemaTooNew, StoreError, StoreFull, StoreUnavailable
from openagents_json.job.model import JobStatus
from openagents_json.job.store.contract.jobs import (
    QUIET,
    Holder,
    accept,
    history,
    new_job,
    read,
    request,
)
from openagents_json.job.store.query import build_query
from openagents_json.job.store.sqlite import SqliteJobStore
from openagents_json.testing import FakeClock
from tests.contract.small_disk import small_disk


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def store(tmp_path: Path, clock: FakeClock) -> AsyncIterator[SqliteJobStore]:
    store = SqliteJobStore(tmp_path / "jobs.db", clock)
    await store.open()
    yield store
    await store.close()


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file under a folder with its bytes; None for folders."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


async def assert_refused(path: Path, kind: type[StoreError], words: str) -> None:
    """Opening fails in that way, twice, and leaves every byte as it was."""
    before = contents(path.parent) if path.parent.is_dir() else {}
    store = SqliteJobStore(path)
    for _ in range(2):
        with pytest.raises(kind, match=words) as refused:
            await store.open()
        assert type(refused.value) is kind
    with pytest.raises(StoreUnavailable, match="not open"):
        await store.read("nobody")
    await store.close()
    assert (contents(path.parent) if path.parent.is_dir() else {}) == before


# ── bad paths and strange files ───────────────────────────────────────────────────────────────────────────────────


async def test_missing_folder_is_named(tmp_path: Path) -> None:
    await assert_refused(tmp_path / "missing" / "jobs.db", StoreUnavailable, "missing does not exist")


async def test_directory_is_no_store(tmp_path: Path) -> None:
    await assert_refused(tmp_path, InvalidStore, "is a directory")


async def test_pipe_is_no_store(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    await assert_refused(tmp_path / "pipe", InvalidStore, "no ordinary file")


async def test_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "jobs.db").write_text("These are my notes, and not a database at all.\n" * 50)
    await assert_refused(tmp_path / "jobs.db", InvalidStore, "not a SQLite database")


@pytest.mark.parametrize("mode", ["delete", "wal"])
@pytest.mark.parametrize("table", ["customers (name)", "migrations (id, hash)"])
async def test_database_of_something_else_is_left_alone(tmp_path: Path, mode: str, table: str) -> None:
    with closing(sqlite3.connect(tmp_path / "jobs.db")) as connection:
        connection.execute(f"PRAGMA journal_mode = {mode}")
        connection.execute(f"CREATE TABLE {table}")
    await assert_refused(tmp_path / "jobs.db", InvalidStore, f"something else .*{table.split()[0]}")


async def test_newer_schema_is_refused_before_any_write(tmp_path: Path, store: SqliteJobStore) -> None:
    await store.close()
    with closing(sqlite3.connect(store.path)) as connection, connection:
        connection.execute("INSERT INTO migrations VALUES (99, 'of tomorrow', 'x', 1)")
    await assert_refused(store.path, SchemaTooNew, "schema 99")


async def test_altered_schema_is_refused_before_any_write(tmp_path: Path, store: SqliteJobStore) -> None:
    await store.close()
    with closing(sqlite3.connect(store.path)) as connection, connection:
        connection.execute("UPDATE migrations SET checksum = 'x'")
    await assert_refused(store.path, InvalidStore, "migration 1")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into every folder")
async def test_unwritable_folder_is_reported(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        await assert_refused(tmp_path / "jobs.db", StoreUnavailable, "may be written|Permission denied")
    finally:
        tmp_path.chmod(0o700)


async def test_empty_file_becomes_a_store(tmp_path: Path, clock: FakeClock) -> None:
    (tmp_path / "jobs.db").touch()
    store = SqliteJobStore(tmp_path / "jobs.db", clock)
    await store.open()
    await accept(store, clock)
    await store.close()


async def test_file_has_one_set_of_locks_whatever_it_is_called(tmp_path: Path, store: SqliteJobStore) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "link.db").symlink_to(store.path)
    linked = SqliteJobStore(tmp_path / "elsewhere" / "link.db")
    await linked.open()
    assert linked.path == store.path
    await linked.close()
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["link.db"]


async def test_damaged_file_is_called_damaged(store: SqliteJobStore, clock: FakeClock) -> None:
    job_id = await accept(store, clock)
    await store.close()
    size = store.path.stat().st_size
    with store.path.open("r+b") as file:
        file.seek(8192)
        file.write(b"\xff" * (size - 8192))
    with pytest.raises(InvalidStore, match="damaged"):
        await store.open()
        await store.read(job_id)
    await store.close()


# ── full disks and failing commits ────────────────────────────────────────────────────────────────────────────────


async def fill(store: SqliteJobStore, clock: FakeClock, ids: list[str]) -> None:
    """Accept jobs until the store refuses one."""
    for _ in range(10_000):
        ids.append(await accept(store, clock, inputs={"text": "x" * 10_000}))
    raise AssertionError("the disk was not full")


async def check_full_disk(store: SqliteJobStore, clock: FakeClock) -> list[str]:
    """Everything acknowledged is there, nothing else is, and reading goes on; the ids."""
    ids: list[str] = []
    with pytest.raises(StoreFull, match="Nothing was accepted"):
        await fill(store, clock, ids)
    refused = [new_job(clock, inputs={"text": "x" * 100_000}) for _ in range(20)]
    results = await asyncio.gather(*(store.create(job) for job in refused), return_exceptions=True)
    assert {type(result) for result in results} == {StoreFull}
    assert len({id(result) for result in results}) == len(results)  # an error is raised in one task only
    listed = await store.list_jobs(build_query(order="created_at", limit=1_000))
    assert [one.summary.id for one in listed] == ids
    return ids


async def check_recovered(store: SqliteJobStore, clock: FakeClock, ids: list[str]) -> None:
    ids.append(await accept(store, clock))
    await store.close()
    await store.open()
    for job_id in ids:
        assert len(await history(store, job_id)) == 2
    (result,) = await store._write("call", lambda connection: connection.execute("PRAGMA integrity_check").fetchone())
    assert result == "ok"


@pytest.mark.guarantee("G12")
async def test_full_database_is_reported_and_work_goes_on_afterwards(store: SqliteJobStore, clock: FakeClock) -> None:
    def limit(pages: int) -> Any:
        return store._write(
            "call", lambda connection: connection.execute(f"PRAGMA max_page_count = {pages}").fetchone()
        )

    await limit(100)
    ids = await check_full_disk(store, clock)
    await limit(100_000)
    await check_recovered(store, clock, ids)


@pytest.mark.guarantee("G12")
@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root on Linux mounts a small disk")
async def test_full_disk_is_reported_and_work_goes_on_afterwards(tmp_path: Path, clock: FakeClock) -> None:
    with small_disk(tmp_path / "disk"):
        ballast = tmp_path / "disk" / "ballast"
        store = SqliteJobStore(tmp_path / "disk" / "jobs.db", clock)
        await store.open()
        ballast.write_bytes(b"x" * 1_000_000)
        ids = await check_full_disk(store, clock)
        ballast.unlink()
        await check_recovered(store, clock, ids)
        await store.close()


@pytest.mark.guarantee("G12")
@pytest.mark.parametrize("also", [(), ("ROLLBACK",)], ids=["and rolls back", "and cannot even roll back"])
async def test_commit_that_fails_acknowledges_nothing(
    store: SqliteJobStore, clock: FakeClock, also: tuple[str, ...]
) -> None:
    fails = True

    def authorize(action: int, operation: str | None, *rest: object) -> int:
        refused = fails and action == sqlite3.SQLITE_TRANSACTION and operation in ("COMMIT", *also)
        return sqlite3.SQLITE_DENY if refused else sqlite3.SQLITE_OK

    kept = await accept(store, clock)
    with pytest.raises(StoreUnavailable):
        await store._write("call", lambda connection: connection.set_authorizer(authorize))
    if not also:  # else the store has a new connection already
        with pytest.raises(StoreUnavailable, match="Nothing was accepted"):
            await accept(store, clock)
    fails = False
    again = await accept(store, clock)
    listed = await store.list_jobs(build_query(order="created_at"))
    assert [one.summary.id for one in listed] == [kept, again]


async def test_closed_store_says_so(store: SqliteJobStore, clock: FakeClock) -> None:
    await store.close()
    for verb in (accept(store, clock), store.read("x"), store.read_summary("x"), store.claim("w1", 1)):
        with pytest.raises(StoreUnavailable, match="not open"):
            await verb
    assert store.has_foreign_changes() is False


# ── lost replies ──────────────────────────────────────────────────────────────────────────────────────────────────


class Forgetful(SqliteJobStore):
    """Loses replies: the write is on disk, and the caller hears that the store is away."""

    replies_to_lose = 0

    async def _write(self, kind: str, argument: Any) -> Any:
        result = await super()._write(kind, argument)
        if self.replies_to_lose:
            self.replies_to_lose -= 1
            raise StoreUnavailable("The reply was lost.")
        return result

    async def repeat(self, verb: Any, *arguments: Any) -> Any:
        """Do it, lose the reply, and do it again."""
        self.replies_to_lose = 1
        with pytest.raises(StoreUnavailable, match="lost"):
            await verb(*arguments)
        return await verb(*arguments)


@pytest.fixture
async def forgetful(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Forgetful]:
    store = Forgetful(tmp_path / "forgetful.db", clock)
    await store.open()
    yield store
    await store.close()


async def test_verbs_after_a_lost_reply_are_done_once(forgetful: Forgetful, clock: FakeClock) -> None:
    store, repeat = forgetful, forgetful.repeat
    await repeat(store.register_worker, "w1")
    plain, keyed = new_job(clock), new_job(clock, QUIET, key="k")
    assert await repeat(store.create, plain) == plain.job_id
    assert await repeat(store.create, keyed) == keyed.job_id
    assert len(await store.list_jobs(build_query())) == 2
    assert await repeat(store.claim, "w1", 2) == []  # the lost reply had them
    await repeat(store.unregister_worker, "w1")
    await repeat(store.register_worker, "w2")
    claims = {claim.job_id: claim for claim in await store.hold_orphans("w2", 5)}
    await repeat(store.release, claims[keyed.job_id])
    holder = Holder(clock, claims[plain.job_id])
    await repeat(store.commit, holder.commit_of(holder.started()))
    held = await repeat(store.hold, plain.job_id, "caller", request("set_priority", priority="LOW"))
    assert (held.claim, held.owner) == (None, "w2")
    [asked] = await store.read_requests(plain.job_id)
    await repeat(store.commit, holder.commit_of(holder.failed("first", abandoned=True), drains=[asked]))
    row = (await read(store, plain.job_id)).summary
    assert (row.status, row.abandoned, row.events) == (JobStatus.FAILED, 1, holder.committed)
    assert len(await history(store, plain.job_id)) == holder.committed
    assert await repeat(store.heartbeat, "w2") is True
    assert await repeat(store.delete, plain.job_id) is False  # it is gone, which is what was wanted
    assert await repeat(store.delete_final, clock.now_us() + 1, 5) == 0
    assert [one.summary.id for one in await store.list_jobs(build_query())] == [keyed.job_id]


@pytest.mark.guarantee("G7")
async def test_creates_with_keys_and_lost_replies_are_as_many_as_asked_for(
    forgetful: Forgetful, clock: FakeClock
) -> None:
    async def create(number: int) -> str:
        while True:
            try:
                return await accept(forgetful, clock, key=f"order {number}")
            except StoreUnavailable:
                continue

    forgetful.replies_to_lose = 60
    ids = await asyncio.gather(*(create(number) for number in range(100)))
    assert forgetful.replies_to_lose == 0
    listed = await forgetful.list_jobs(build_query(limit=1_000))
    assert {one.summary.id for one in listed} == set(ids) and len(listed) == 100


# ── several processes ─────────────────────────────────────────────────────────────────────────────────────────────

PROCESS = """
import asyncio, json, sys
from datetime import UTC, datetime
from openagents_json.job.store.contract.jobs import CALLS, QUIET, Holder, accept, claim_one
from openagents_json.job.store.sqlite import SqliteJobStore
from openagents_json.testing import FakeClock

async def work(store, clock, worker, count):
    "Accept jobs and run whatever is in the queue; the ids of both."
    created, done = [], []
    for _ in range(count // 5):
        created += await asyncio.gather(*(accept(store, clock, QUIET) for _ in range(5)))
        claims = await store.claim(worker, 4)
        await asyncio.gather(*(run(store, clock, claim) for claim in claims))
        done += [claim.job_id for claim in claims]
    return created, done

async def run(store, clock, claim):
    holder = Holder(clock, claim)
    await holder.commit(store, holder.started())

async def main():
    path, task, worker = sys.argv[1:]
    store, clock = SqliteJobStore(path), FakeClock(datetime.now(UTC))
    await store.open()
    await store.register_worker(worker)
    if task == "hang":
        await accept(store, clock, CALLS)
        holder = await claim_one(store, clock, worker)
        await holder.commit(store, holder.started())
        print(holder.job_id, flush=True)
        sys.stdin.read()
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(await work(store, clock, worker, 75)), flush=True)
    await store.close()

asyncio.run(main())
"""


@contextmanager
def process(path: Path, task: str, worker: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another process on the file, and the first line that it says."""
    command = [sys.executable, "-c", PROCESS, str(path), task, worker]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        try:
            yield started, started.stdout.readline().strip()
        finally:
            started.kill()


async def test_processes_that_write_one_file_at_once_both_stay_correct(tmp_path: Path, clock: FakeClock) -> None:
    path = tmp_path / "jobs.db"
    with process(path, "work", "w1") as (one, ready), process(path, "work", "w2") as (other, also_ready):
        assert ready == also_ready == "ready"
        for started in (one, other):
            assert started.stdin is not None
            started.stdin.write("go\n")
            started.stdin.flush()
        said = [await asyncio.to_thread(started.communicate) for started in (one, other)]
    (created, done), (other_created, other_done) = (json.loads(out) for out, _ in said)
    assert len(set(created) | set(other_created)) == 150
    assert not set(done) & set(other_done)
    assert set(done) & set(other_created) or set(other_done) & set(created), "they did not meet"
    store = SqliteJobStore(path, clock)
    await store.open()
    for job_id in created + other_created:
        stored = await read(store, job_id)
        is_done = job_id in done or job_id in other_done
        assert stored.summary.status == (JobStatus.COMPLETED if is_done else JobStatus.QUEUED)
        assert await history(store, job_id) == stored.events
    (result,) = await store._write("call", lambda connection: connection.execute("PRAGMA integrity_check").fetchone())
    assert result == "ok"
    await store.close()


@pytest.mark.guarantee("G5")
async def test_worker_of_a_killed_process_is_dead_at_once(tmp_path: Path) -> None:
    store = SqliteJobStore(tmp_path / "jobs.db")  # real time: the dead worker's lease is good for 30 seconds more
    await store.open()
    await store.register_worker("rescuer")
    with process(store.path, "hang", "victim") as (victim, job_id):
        assert await store.hold_orphans("rescuer", 10) == []
        victim.kill()
        victim.wait()
        [claim] = await store.hold_orphans("rescuer", 10)
    assert (claim.job_id, claim.previous_owner) == (job_id, "victim")
    assert [event.type for event in claim.events][-1] == "attempt.started"  # it was acknowledged, so it is there
    await store.close()
