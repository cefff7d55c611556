"""Stores that earlier versions wrote: they are brought up to date with their jobs, which go on; and what a later
version wrote is refused before anything is written.

`tests/fixtures/stores/sqlite-schema-1.sql` was dumped while the program of schema 1 ran: a job in each status. Schema 2
is the same with the second migration and what its program writes into the new columns, schema 3 with the third one,
which leaves these jobs without a limit.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from openagents_json import ComponentRegistry, JobManager
from openagents_json.components import register_builtins
from openagents_json.errors import SchemaTooNew, StoreError
from openagents_json.job.model import JobStatus
from openagents_json.job.store import FileJobStore, SqliteJobStore
from openagents_json.job.store.file_folder import FORMAT
from openagents_json.job.store.postgres import PostgresJobStore
from openagents_json.job.store.sql import migrations
from openagents_json.job.store.sqlite_upkeep import back_up
from openagents_json.job.upkeep import Checked, check_store
from openagents_json.testing import FakeClock
from openagents_json.workflow import WorkflowRegistry
from tests.faults import checker
from tests.postgres_server import Server

STORES = Path(__file__).parents[1] / "fixtures" / "stores"
DUMPED = datetime(2026, 11, 27, 12, 30, tzinfo=UTC)  # some minutes after the fixtures were made
ONE_OF_EACH = dict.fromkeys(JobStatus, 1)
SAFETY_S = 10.0


@pytest.fixture(params=[1, 2, 3])
def schema(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def database(schema: int, tmp_path: Path) -> Path:
    """A store of that schema as its program would have left it."""
    path = tmp_path / "jobs.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript((STORES / f"sqlite-schema-{schema}.sql").read_text())
    return path


def written(folder: Path) -> dict[str, bytes]:
    """All files but the locks, which are empty."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.stat().st_size
    }


def shop() -> ComponentRegistry:
    """The components of the jobs in the fixtures."""
    registry = ComponentRegistry()
    register_builtins(registry)

    @registry.tool("shop.price")
    async def price(item: str) -> int:
        return len(item)

    @registry.tool("shop.hold")
    async def hold(item: str) -> str:
        return item

    return registry


def test_there_is_a_fixture_of_every_earlier_schema() -> None:
    there = {path.name for path in STORES.glob("sqlite-schema-*.sql")}
    assert there == {f"sqlite-schema-{number}.sql" for number in range(1, len(migrations("sqlite")))}


async def test_facts_are_read_in_every_schema_and_change_nothing(database: Path, schema: int) -> None:
    before = written(database.parent)
    store = SqliteJobStore(database, FakeClock(DUMPED))
    facts = await store.facts()
    assert await store.verify() == []
    names = [one.name for one in migrations("sqlite")]
    assert (facts.schema, facts.known_schema, list(facts.pending)) == (schema, len(names), names[schema:])
    assert facts.jobs == ONE_OF_EACH
    assert (facts.definitions, facts.workers, facts.leaks) == (3, 0, 0)
    assert written(database.parent) == before


async def test_every_job_is_there_after_the_migration(database: Path) -> None:
    store = SqliteJobStore(database, FakeClock(DUMPED))
    await store.open()
    try:
        checked = Checked()
        assert [str(flaw) async for flaw in check_store(store, checked)] == []
        assert (checked.jobs, checked.definitions) == (8, 3)
        facts = await store.facts()
        assert (facts.pending, facts.jobs) == ((), ONE_OF_EACH)
    finally:
        await store.close()


@pytest.mark.guarantee("G11")
async def test_every_job_goes_on_after_the_migration(database: Path) -> None:
    components = shop()
    jobs = JobManager(
        f"sqlite:///{database}",
        components=components,
        workflows=WorkflowRegistry(components),
        clock=FakeClock(DUMPED),
        job_retention_days=None,
    )
    async with jobs, asyncio.timeout(SAFETY_S):
        page = await jobs.list_jobs(order="created_at")
        by_status = {job.status: job.id for job in page}  # RUNNING and QUEUED go on by themselves meanwhile
        ended = {status: by_status[status] for status in JobStatus if status.is_final and status != "COMPLETED"}
        [failed, cancelled] = ended.values()
        asking = [job.id for job in page if job.workflow_id == "ask"]
        for job_id in asking:
            if (await jobs.get_summary(job_id)).status == JobStatus.PAUSED:
                await jobs.resume_job(job_id)
            await jobs.signal(job_id, "approval", "yes")
        await jobs.start_job(by_status[JobStatus.CREATED])
        for job in page:
            outcome = await jobs.wait(job.id)
            assert outcome.status == (
                "FAILED" if job.id == failed else "CANCELLED" if job.id == cancelled else "COMPLETED"
            )
        assert [(await jobs.get_job(job_id)).outputs for job_id in asking] == [{"said": "yes"}] * 2
        [slow] = [job.id for job in page if job.workflow_id == "slow"]
        assert (await jobs.get_job(slow)).outputs == {"got": "chair"}
        assert "attempt.lost" in [event.type for event in await jobs.store.read_events(slow)]
        assert await checker.check_store(jobs.store) == []


async def test_backup_is_the_store_before_its_migration(database: Path, schema: int, tmp_path: Path) -> None:
    target = tmp_path / "backup.db"
    assert back_up(database, target) == target.stat().st_size
    store = SqliteJobStore(database, FakeClock(DUMPED))
    await store.open()
    await store.close()
    assert (await store.facts()).pending == ()
    facts = await SqliteJobStore(target, FakeClock(DUMPED)).facts()
    assert (facts.schema, facts.jobs) == (schema, ONE_OF_EACH)
    with pytest.raises(StoreError, match="is there already"):
        back_up(database, target)


async def test_migration_that_fails_leaves_the_old_schema(
    database: Path, schema: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of a migration is none: the next try begins from the same schema."""
    from openagents_json.job.store import sqlite_schema
    from openagents_json.job.store.sql import Migration

    known = migrations("sqlite")
    broken = (*known, Migration(len(known) + 1, "broken", "CREATE TABLE half (a); CREATE TABLE half (a);"))
    store = SqliteJobStore(database, FakeClock(DUMPED))
    with monkeypatch.context() as patch:
        patch.setattr(sqlite_schema, "migrations", lambda dialect: broken)
        with pytest.raises(StoreError):
            await store.open()
    assert (await store.facts()).schema == schema
    await store.open()
    await store.close()
    assert (await store.facts()).jobs == ONE_OF_EACH


# ── a program older than the store ────────────────────────────────────────────────────────────────────────────────

WHOLE: dict[str, Callable[[SqliteJobStore], object]] = {
    "open": lambda store: store.open(),
    "facts": lambda store: store.facts(),
    "verify": lambda store: store.verify(),
    "vacuum": lambda store: store.vacuum(),
}


@pytest.mark.parametrize("verb", WHOLE)
async def test_sqlite_of_a_later_version_is_refused_before_it_is_written(tmp_path: Path, verb: str) -> None:
    store = SqliteJobStore(tmp_path / "jobs.db")
    await store.open()
    await store.close()
    with closing(sqlite3.connect(store.path)) as connection, connection:
        connection.execute("INSERT INTO migrations VALUES (99, 'of tomorrow', 'x', 1)")
    before = written(tmp_path)
    with pytest.raises(SchemaTooNew, match="has schema 99; this version of openagents_json knows"):
        await WHOLE[verb](store)  # type: ignore[misc]
    assert written(tmp_path) == before


@pytest.mark.parametrize("verb", WHOLE)
async def test_folder_of_a_later_version_is_refused_before_it_is_written(tmp_path: Path, verb: str) -> None:
    store = FileJobStore(tmp_path / "jobs")
    await store.open()
    await store.close()
    journal = store.path / "journal-00000001.jsonl"
    journal.write_text(journal.read_text().replace(f'"format":{FORMAT}', f'"format":{FORMAT + 1}'))
    before = written(tmp_path)
    with pytest.raises(SchemaTooNew, match=f"format {FORMAT + 1}"):
        await WHOLE[verb](store)  # type: ignore[misc, arg-type]
    assert written(tmp_path) == before


@pytest.mark.parametrize("verb", WHOLE)
async def test_schema_of_a_later_version_is_refused_before_it_is_written(postgres: Server, verb: str) -> None:
    store = PostgresJobStore(postgres.store_url(postgres.new_schema()))
    await store.open()
    await store.close()
    async with postgres.connected() as connection:
        table = f"{store.place.schema}.migrations"
        await connection.execute(f"INSERT INTO {table} (number, name, checksum) VALUES (99, 'of tomorrow', 'x')")
        with pytest.raises(SchemaTooNew, match="has schema 99; this version of openagents_json knows"):
            await WHOLE[verb](store)  # type: ignore[misc, arg-type]
        numbers = [row[0] for row in await connection.fetch(f"SELECT number FROM {table} ORDER BY 1")]
        assert numbers == [*range(1, len(migrations("postgres")) + 1), 99]


# ── the journal of the file store ─────────────────────────────────────────────────────────────────────────────────


async def test_journal_of_version_0_2_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "jobs"
    folder.mkdir()
    shutil.copy(STORES / "journal-00000001.jsonl", folder)
    store = FileJobStore(folder)
    assert await store.verify() == []
    await store.open()
    try:
        assert [str(flaw) async for flaw in check_store(store, Checked())] == []
        assert (await store.facts()).jobs == {JobStatus.COMPLETED: 1}
    finally:
        await store.close()
