"""The SQLite store as a whole: facts, flaws, a smaller file, a copy. Each over a connection of its own, so that a store
is looked at without being opened, which would bring its schema up to date."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from openagents_json.clock import Clock
from openagents_json.errors import InvalidStore, StoreError, StoreUnavailable
from openagents_json.job.model import JobStatus
from openagents_json.job.store.filelock import FileLock
from openagents_json.job.store.sql import migrations
from openagents_json.job.store.sqlite_files import WorkerFiles
from openagents_json.job.store.sqlite_rows import SQL
from openagents_json.job.store.sqlite_schema import check_place, connect, missing_migrations, translate
from openagents_json.job.store.upkeep import MAX_FLAWS, Flaw, StoreFacts, Vacuumed

SYNCHRONOUS = {0: "off", 1: "normal", 2: "full", 3: "extra"}
AUTO_VACUUM = {0: "none", 1: "full", 2: "incremental"}
SAMPLE = 5  # jobs that are named of those that rows belong to and that are not there

T = TypeVar("T")


def read_facts(path: Path, clock: Clock) -> StoreFacts:
    """As the verb of the store says."""
    with _connected(path) as connection:
        missing = _asked(path, lambda: missing_migrations(connection, path))
        return _asked(path, lambda: _facts(path, connection, clock, [one.name for one in missing]))


def _facts(path: Path, connection: sqlite3.Connection, clock: Clock, pending: list[str]) -> StoreFacts:
    alive = _live_workers(path, connection, clock)
    known = len(migrations("sqlite"))
    connection.execute("BEGIN")
    jobs, events = {}, 0
    oldest: list[int] = []
    newest: list[int] = []
    for status, count, numbers, first_us, last_us in connection.execute(SQL["facts_of_jobs"]):
        jobs[JobStatus(status)] = count
        events += numbers
        oldest.append(first_us)
        newest.append(last_us)
    definitions, leaks = connection.execute(SQL["facts_beside_jobs"]).fetchone()
    pages = {name: _pragma(connection, name) for name in ("page_size", "freelist_count")}
    settings = {
        "journal mode": str(_pragma(connection, "journal_mode")),
        "synchronous": SYNCHRONOUS.get(_pragma(connection, "synchronous"), "?"),
        "page size": f"{pages['page_size']:,} bytes",
        "auto vacuum": AUTO_VACUUM.get(_pragma(connection, "auto_vacuum"), "?"),
        "aging": f"{connection.execute(SQL['meta_get'], ('aging_s',)).fetchone()[0]:g} s",
    }
    connection.execute("ROLLBACK")
    return StoreFacts(
        kind="sqlite",
        place=str(path),
        engine=f"SQLite {sqlite3.sqlite_version}",
        schema=known - len(pending),
        known_schema=known,
        pending=tuple(pending),
        jobs=jobs,
        events=events,
        definitions=definitions,
        workers=alive,
        leaks=leaks,
        oldest_us=min(oldest, default=None),
        newest_us=max(newest, default=None),
        sizes=_sizes(path),
        free_bytes=pages["page_size"] * pages["freelist_count"],
        settings=settings,
    )


def _live_workers(path: Path, connection: sqlite3.Connection, clock: Clock) -> int:
    """Whoever has a lease and holds its file. The files are looked at by who holds the lock."""
    files = WorkerFiles(_beside(path, ".workers"))
    with _locked(path):
        leased = connection.execute(SQL["workers_leased"], (clock.steady_us(),)).fetchall()
        return sum(files.is_alive(worker) for (worker,) in leased)


def find_flaws(path: Path) -> list[Flaw]:
    """What is wrong with the file: pages and indexes, and rows that belong to no job. At most `MAX_FLAWS`."""
    try:
        with _connected(path) as connection:
            flaws = [Flaw(str(path), text, is_damage=True) for text in _integrity(connection)]
            if flaws:
                return flaws
            flaws = list(_dangling(path, connection))
            if not missing_migrations(connection, path):
                flaws += [
                    Flaw(f"{path}, table {table}", f"rows that belong to no job: {count:,} ({keys})")
                    for table, count, keys in connection.execute(SQL["stray_rows"], (SAMPLE,))
                ]
            return flaws[:MAX_FLAWS]
    except sqlite3.DatabaseError as error:
        if "malformed" in str(error):
            return [Flaw(str(path), str(error), is_damage=True)]
        raise translate(error, path) from None
    except InvalidStore as error:
        if "malformed" in str(error):
            return [Flaw(str(path), str(error), is_damage=True)]
        raise


def _integrity(connection: sqlite3.Connection) -> Iterator[str]:
    for (text,) in connection.execute(f"PRAGMA integrity_check({MAX_FLAWS})"):
        if text != "ok":
            yield str(text).replace("\n", "; ")


def _dangling(path: Path, connection: sqlite3.Connection) -> Iterator[Flaw]:
    for table, row, parent, _ in connection.execute("PRAGMA foreign_key_check"):
        yield Flaw(f"{path}, table {table}", f"row {row} points to nothing in {parent}")


def vacuum(path: Path) -> Vacuumed:
    """Rewrite the file without what is free in it. Whoever wants to write waits until that is done."""
    with _connected(path) as connection, _locked(path):
        before = sum(_sizes(path).values())
        connection.execute("PRAGMA query_only = 0")
        _asked(path, lambda: connection.execute("VACUUM"))
        _asked(path, lambda: connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone())
    return Vacuumed(before, sum(_sizes(path).values()))


def back_up(path: Path, target: Path) -> int:
    """A copy of the store as it is now, whoever writes meanwhile; its bytes. `StoreError` when something is there."""
    if target.exists():
        raise StoreError(f"{target} is there already. Nothing was written; give another path for the backup.")
    with _connected(path) as connection:
        connection.execute("PRAGMA query_only = 0")
        _asked(target, lambda: connection.execute("VACUUM INTO ?", (str(target),)))
    for one in (target, target.parent):  # SQLite leaves it to the system when they come to the disk
        fd = os.open(one, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    return target.stat().st_size


@contextlib.contextmanager
def _connected(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that only reads, to a store that is there. Nothing of the store is changed by it."""
    if not path.exists():
        raise StoreUnavailable(f"There is no store at {path}. `openagents run` makes one; give another path.")
    _asked(path, lambda: check_place(path))
    connection = _asked(path, lambda: connect(path, checkpoints=False, reads_only=True))
    try:
        if not connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
            raise StoreUnavailable(f"{path} is empty. `openagents run` makes a store of it; give another path.")
        yield connection
    finally:
        with _locked(path):  # the last connection of a file checkpoints when it closes
            connection.close()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """The lock that each write transaction and each checkpoint is under."""
    lock = _asked(path, lambda: FileLock(_beside(path, ".lock")))
    try:
        with lock.held():
            yield
    finally:
        lock.close()


def _asked(path: Path, ask: Callable[[], T]) -> T:
    try:
        return ask()
    except (sqlite3.Error, OSError) as error:
        raise translate(error, path) from None


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    found: int = connection.execute(f"PRAGMA {name}").fetchone()[0]
    return found


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _sizes(path: Path) -> dict[str, int]:
    log = _beside(path, "-wal")
    return {"database": path.stat().st_size, "log": log.stat().st_size if log.exists() else 0}
