"""Opening a SQLite file: is it ours, is it new enough, is it too new, and which migrations are missing."""

from __future__ import annotations

import contextlib
import errno
import sqlite3
from pathlib import Path

from openagents_json.errors import InvalidStore, SchemaTooNew, StoreError, StoreFull, StoreUnavailable
from openagents_json.job.store.sql import Migration, migrations

APPLICATION_ID = 0x0A6E7473  # written with the first migration: "this is an openagents_json store"


# What is wrong with one operation, as opposed to the database: the others of its group go on without it. (An integer
# that is too large for a column and half a surrogate pair come as errors of Python.)
OWN_FAULTS = (
    sqlite3.IntegrityError,
    sqlite3.ProgrammingError,
    sqlite3.InterfaceError,
    sqlite3.DataError,
    OverflowError,
    UnicodeError,
)


def connect(path: Path, *, checkpoints: bool = True, reads_only: bool = False) -> sqlite3.Connection:
    """A connection set up as DESIGN §7 says: WAL, synchronous=FULL, transactions by hand."""
    connection = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, timeout=10.0, cached_statements=256
    )
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = OFF")  # deletes go by hand, in one transaction
    if not checkpoints:
        connection.execute("PRAGMA wal_autocheckpoint = 0")
    if reads_only:
        connection.execute("PRAGMA query_only = 1")
    return connection


def check_place(path: Path) -> None:
    """Refuse what cannot be a store of this version, with the reason and without writing anything."""
    if path.is_dir():
        raise InvalidStore(f"{path} is a directory. A SQLite store is a file; give the path of one inside it.")
    if not path.parent.is_dir():
        what = "is no folder" if path.parent.exists() else "does not exist"
        raise StoreUnavailable(f"{path} cannot be created: {path.parent} {what}.")
    if not path.exists():
        return
    if not path.is_file():
        raise InvalidStore(f"{path} is no ordinary file.")
    # No `connect`: its journal mode would be written into a file that may belong to somebody else.
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=10.0)) as connection:
        connection.execute("BEGIN")
        missing_migrations(connection, path)
        connection.execute("ROLLBACK")


def migrate(connection: sqlite3.Connection, path: Path, now_us: int) -> None:
    """Bring the schema up to date, all or nothing. The caller holds the file's lock.

    `InvalidStore` for a file of something else, `SchemaTooNew` for one written by a newer version; nothing is written
    in either case.
    """
    connection.execute("BEGIN EXCLUSIVE")
    try:
        missing = missing_migrations(connection, path)
        if missing and missing[0].number == 1:
            connection.execute(
                "CREATE TABLE migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL, "
                "applied_us INTEGER NOT NULL)"
            )
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        for migration in missing:
            for statement in migration.statements:
                connection.execute(statement)
            connection.execute(
                "INSERT INTO migrations (number, name, checksum, applied_us) VALUES (?, ?, ?, ?)",
                (migration.number, migration.name, migration.checksum, now_us),
            )
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def missing_migrations(connection: sqlite3.Connection, path: Path) -> list[Migration]:
    """The migrations that a database still needs: all of them if it is empty. Only reads."""
    known = migrations("sqlite")
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master ORDER BY name")]
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if not tables and application == 0:
        return list(known)
    if application != APPLICATION_ID:
        found = f" (it has {', '.join(tables[:5])})" if tables else ""
        raise InvalidStore(f"{path} is a SQLite database of something else{found}. Give another path.")
    applied = dict(connection.execute("SELECT number, checksum FROM migrations"))
    newest = max(applied, default=0)
    if newest > len(known):
        raise SchemaTooNew(
            f"{path} has schema {newest}; this version of openagents_json knows {len(known)}. Install a newer version."
        )
    for migration in known[:newest]:
        if applied.get(migration.number) != migration.checksum:
            raise InvalidStore(f"{path}: migration {migration.number} is not the one this version knows.")
    return list(known[newest:])


def translate(error: Exception, path: Path) -> StoreError:
    """The store's own error for one of SQLite's or of the system's."""
    text = str(error)
    if isinstance(error, OWN_FAULTS):
        return StoreError(f"{path} refuses what is to be written: {text}. Nothing of it was.")
    if isinstance(error, OSError):
        text = "database or disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or text
    if "not a database" in text or "malformed" in text or "unsupported file format" in text:
        return InvalidStore(f"{path} is not a SQLite database, or it is damaged: {text}.")
    if "is full" in text:
        return StoreFull(f"{path} cannot grow: no space is left ({text}). Nothing was accepted; free some space.")
    hints = {
        "unable to open": "check that the folder exists and may be written",
        "readonly": "check that the file and its folder may be written",
        "locked": "another program holds it for long",
        "disk I/O error": "check the disk",
    }
    hint = next((hint for part, hint in hints.items() if part in text), "try again")
    return StoreUnavailable(f"{path} cannot be used now: {text}; {hint}. Nothing was accepted.")
