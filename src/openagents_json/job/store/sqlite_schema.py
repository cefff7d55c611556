"""Opening a SQLite file: is it ours, is it new enough, is it too new, and which migrations are missing."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from openagents_json.errors import InvalidStore, SchemaTooNew, StoreError, StoreFull, StoreUnavailable
from openagents_json.job.store.sql import Migration, migrations

APPLICATION_ID = 0x0A6E7473  # stands in the file's header: "this is an openagents_json store"


def connect(path: Path, *, checkpoints: bool = True, reads_only: bool = False) -> sqlite3.Connection:
    """A connection set up as DESIGN §7 says: WAL, synchronous=FULL, transactions by hand."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10.0, cached_statements=256)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = OFF")  # deletes go by hand, in one transaction
    if not checkpoints:
        connection.execute("PRAGMA wal_autocheckpoint = 0")
    if reads_only:
        connection.execute("PRAGMA query_only = 1")
    return connection


def check_place(path: Path) -> None:
    """Refuse what can never become a store, with the reason."""
    if path.is_dir():
        raise InvalidStore(f"{path} is a directory. A SQLite store is a file; give the path of one inside it.")
    if not path.parent.is_dir():
        raise StoreUnavailable(f"{path} cannot be created: the folder {path.parent} does not exist.")


def migrate(connection: sqlite3.Connection, path: Path, now_us: int) -> None:
    """Bring the schema up to date, all or nothing. The caller holds the file's lock.

    `InvalidStore` for a file of something else, `SchemaTooNew` for one written by a newer version; nothing is written
    in either case.
    """
    connection.execute("BEGIN EXCLUSIVE")
    try:
        for migration in _missing(connection, path):
            for statement in migration.statements:
                connection.execute(statement)
            connection.execute(
                "INSERT INTO migrations (number, name, checksum, applied_us) VALUES (?, ?, ?, ?)",
                (migration.number, migration.name, migration.checksum, now_us),
            )
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _missing(connection: sqlite3.Connection, path: Path) -> list[Migration]:
    known = migrations("sqlite")
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if "migrations" not in tables:
        if tables:
            raise InvalidStore(f"{path} is a SQLite database of something else (tables {', '.join(sorted(tables)[:5])}).")
        connection.execute(
            "CREATE TABLE migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL, "
            "applied_us INTEGER NOT NULL)"
        )
        return list(known)
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


def translate(error: sqlite3.Error, path: Path) -> StoreError:
    """The store's own error for one of SQLite's."""
    text = str(error)
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
