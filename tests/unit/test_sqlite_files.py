"""What stands around a SQLite store: locks, workers' signs of life, migrations, statements, translated errors."""

from __future__ import annotations

import errno
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from openagents_json.errors import InvalidStore, SchemaTooNew, StoreError, StoreFull, StoreUnavailable
from openagents_json.job.store import sqlite_schema
from openagents_json.job.store.sql import migrations, statements
from openagents_json.job.store.sqlite_files import FileLock, WorkerFiles
from openagents_json.job.store.sqlite_rows import SQL
from openagents_json.job.store.sqlite_schema import APPLICATION_ID, check_place, connect, migrate, translate

HOLDS_A_LOCK = """
import sys
from pathlib import Path
from openagents_json.job.store.sqlite_files import FileLock, WorkerFiles
workers = WorkerFiles(Path(sys.argv[1]))
workers.begin("w1")
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def process_with_worker(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process, in which the worker w1 of `tmp_path / "workers"` lives."""
    command = [sys.executable, "-c", HOLDS_A_LOCK, str(tmp_path / "workers")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        yield process
        process.kill()


# ── locks ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_lock_excludes_other_objects_of_the_same_process(tmp_path: Path) -> None:
    one, other = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    with one.held():
        assert not other.try_acquire()
    assert other.try_acquire()
    other.close()
    other.close()
    assert one.try_acquire()
    one.close()


def test_lock_that_is_had_already_is_had_again(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "lock")
    assert [lock.try_acquire(), lock.try_acquire()] == [True, True]
    lock.close()


# ── workers ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_worker_lives_until_it_ends(tmp_path: Path) -> None:
    ours, others = WorkerFiles(tmp_path / "workers"), WorkerFiles(tmp_path / "workers")
    assert not others.is_alive("w1")
    for _ in range(2):
        ours.begin("w1")
    assert ours.is_alive("w1") and others.is_alive("w1")
    for _ in range(2):
        ours.end("w1")
    assert not ours.is_alive("w1") and not others.is_alive("w1")
    ours.end_all()
    assert list(tmp_path.iterdir()) == []


def test_killed_process_takes_its_workers_with_it(tmp_path: Path, process_with_worker: subprocess.Popen[str]) -> None:
    workers = WorkerFiles(tmp_path / "workers")
    assert workers.is_alive("w1")
    process_with_worker.kill()
    process_with_worker.wait()
    assert not workers.is_alive("w1")
    assert list((tmp_path / "workers").iterdir()) == []


def test_sweep_removes_the_files_of_the_dead_alone(tmp_path: Path) -> None:
    ours, others = WorkerFiles(tmp_path / "workers"), WorkerFiles(tmp_path / "workers")
    ours.sweep()
    ours.begin("ours")
    others.begin("others/ä")
    FileLock(tmp_path / "workers" / "dead.alive").close()
    ours.sweep()
    assert {path.name for path in (tmp_path / "workers").iterdir()} == {"ours.alive", "others%2F%C3%A4.alive"}
    assert ours.is_alive("others/ä")
    for workers in (ours, others):
        workers.end_all()


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "..", "a/b", "ä ö", "x.alive"])
def test_worker_name_is_no_path(tmp_path: Path, name: str) -> None:
    (tmp_path / "outside").touch()
    workers, others = WorkerFiles(tmp_path / "workers"), WorkerFiles(tmp_path / "workers")
    assert not others.is_alive(name)
    workers.begin(name)
    assert others.is_alive(name)
    assert [path.parent for path in (tmp_path / "workers").iterdir()] == [tmp_path / "workers"]
    workers.end_all()
    assert [path.name for path in tmp_path.iterdir()] == ["outside"]


# ── schema ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def migrated(tmp_path: Path) -> Path:
    path = tmp_path / "jobs.db"
    with closing(connect(path)) as connection:
        migrate(connection, path, 1)
    return path


def test_new_file_is_migrated_once_and_marked_as_ours(migrated: Path) -> None:
    with closing(connect(migrated)) as connection:
        migrate(connection, migrated, 2)
        assert connection.execute("SELECT DISTINCT applied_us FROM migrations").fetchall() == [(1,)]
        assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    check_place(migrated)


def test_jobs_of_an_earlier_schema_stay_in_the_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "jobs.db"
    earlier = migrations("sqlite")[:2]
    with closing(connect(path)) as connection:
        with monkeypatch.context() as patch:
            patch.setattr(sqlite_schema, "migrations", lambda dialect: earlier)
            migrate(connection, path, 1)
        connection.executemany(
            "INSERT INTO jobs (key, id, status, owner, started_us, completed_us, workflow_id, version, definition, "
            "rank, last_event, created_us, queued_us, body_hash) "
            "VALUES (?, ?, ?, ?, ?, ?, 'w', '1.0.0', 'x', 1, 1, 1, 1, '')",
            [
                (1, "a", "QUEUED", None, None, None),
                (2, "b", "RUNNING", "w1", 1, None),
                (3, "c", "COMPLETED", None, 1, 1),
            ],
        )
        migrate(connection, path, 2)
        values = {"suspects": False, "requires": "", "limit": 10}
        assert connection.execute(SQL["claimable"], values).fetchall() == [(0, 1)]
        assert connection.execute("SELECT DISTINCT limit_key, slot FROM jobs").fetchall() == [(None, None)]


def test_failed_migration_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    with closing(connect(path)) as connection:
        connection.execute("PRAGMA max_page_count = 5")
        with pytest.raises(sqlite3.OperationalError, match="full"):
            migrate(connection, path, 1)
        assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
        connection.execute("PRAGMA max_page_count = 1000")
        migrate(connection, path, 2)


def test_newer_schema_is_refused(migrated: Path) -> None:
    with closing(sqlite3.connect(migrated)) as connection, connection:
        connection.execute("INSERT INTO migrations VALUES (99, 'of tomorrow', 'x', 1)")
    with pytest.raises(SchemaTooNew, match="schema 99"):
        check_place(migrated)


@pytest.mark.parametrize("change", ["UPDATE migrations SET checksum = 'x'", "DELETE FROM migrations WHERE number = 1"])
def test_altered_migrations_are_refused(migrated: Path, change: str) -> None:
    with closing(sqlite3.connect(migrated)) as connection, connection:
        connection.execute(change)
    with pytest.raises(InvalidStore, match="migration 1"):
        check_place(migrated)


def test_migrations_are_numbered_and_named() -> None:
    found = migrations("sqlite")
    assert [migration.number for migration in found] == list(range(1, len(found) + 1))
    for migration in found:
        assert migration.name and migration.statements and len(migration.checksum) == 64


class Zeroes(dict[str, int]):
    """A value for each named parameter."""

    def __missing__(self, name: str) -> int:
        return 0


def test_every_statement_is_understood_by_the_schema(migrated: Path) -> None:
    with closing(connect(migrated)) as connection:
        for name, sql in statements("sqlite").items():
            assert sql.endswith(";"), name
            numbered = [int(number) for number in re.findall(r"\?(\d+)", sql)]
            values = [0] * max(numbered, default=sql.count("?")) if "?" in sql else Zeroes()
            connection.execute(f"EXPLAIN {sql}", values).fetchall()


def test_queue_and_timers_are_read_from_their_indexes(migrated: Path) -> None:
    with closing(connect(migrated)) as connection:
        for name, index in (
            ("claimable", "jobs_queue"),
            ("requirements", "jobs_queue"),
            ("due", "jobs_due"),
            ("at_risk", "jobs_risks"),
            ("next_due", "jobs_due"),
            ("next_due", "jobs_risks"),
            ("leased", "inbox_waiting"),
            ("leased", "history_of_job"),
        ):
            sql = statements("sqlite")[name]
            values = [1] * sql.count("?") if "?" in sql else Zeroes()
            plan = connection.execute(f"EXPLAIN QUERY PLAN {sql}", values).fetchall()
            assert index in str(plan) and "TEMP B-TREE" not in str(plan), plan


# ── errors ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (sqlite3.DatabaseError("file is not a database"), InvalidStore, "not a SQLite database"),
        (sqlite3.DatabaseError("database disk image is malformed"), InvalidStore, "damaged"),
        (sqlite3.OperationalError("database or disk is full"), StoreFull, "free some space"),
        (OSError(errno.ENOSPC, "No space left on device"), StoreFull, "free some space"),
        (sqlite3.OperationalError("database is locked"), StoreUnavailable, "another program"),
        (sqlite3.OperationalError("disk I/O error"), StoreUnavailable, "check the disk"),
        (sqlite3.OperationalError("attempt to write a readonly database"), StoreUnavailable, "may be written"),
        (sqlite3.OperationalError("unable to open database file"), StoreUnavailable, "the folder exists"),
        (PermissionError(errno.EACCES, "Permission denied"), StoreUnavailable, "Permission denied"),
        (sqlite3.IntegrityError("CHECK constraint failed"), StoreError, "refuses"),
        (OverflowError("Python int too large"), StoreError, "refuses"),
    ],
)
def test_errors_say_what_happened_and_what_to_do(error: Exception, kind: type[StoreError], words: str) -> None:
    translated = translate(error, Path("/data/jobs.db"))
    assert type(translated) is kind
    assert words in str(translated) and "/data/jobs.db" in str(translated)
