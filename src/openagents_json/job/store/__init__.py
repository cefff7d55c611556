"""Stores: where jobs are kept. `JobStore` is the contract; `open_store` picks one by name or URL."""

from __future__ import annotations

from pathlib import Path

from openagents_json.clock import Clock
from openagents_json.errors import InvalidSettings
from openagents_json.job.store.base import JobStore
from openagents_json.job.store.file import FileJobStore
from openagents_json.job.store.memory import MemoryJobStore
from openagents_json.job.store.postgres import PostgresJobStore
from openagents_json.job.store.records import (
    Claim,
    Commit,
    Definition,
    Held,
    JobRow,
    Listed,
    NewJob,
    Request,
    StoredJob,
    StoredLeak,
    row_of,
)
from openagents_json.job.store.sqlite import SqliteJobStore

DEFAULT_PATH = "openagents.db"
DEFAULT_FOLDER = "openagents.jobs"  # of the file store

__all__ = [
    "Claim",
    "Commit",
    "Definition",
    "FileJobStore",
    "Held",
    "JobRow",
    "JobStore",
    "Listed",
    "MemoryJobStore",
    "NewJob",
    "PostgresJobStore",
    "Request",
    "SqliteJobStore",
    "StoredJob",
    "StoredLeak",
    "make_store",
    "row_of",
]


def make_store(
    store: str | Path | JobStore | None,
    path: str | Path | None = None,
    clock: Clock | None = None,
    lease_s: float = 30.0,
) -> JobStore:
    """A store, not opened yet.

    `store` is `memory`, `database` (a SQLite file at `path`, `openagents.db` by default), `file` (a folder at `path`,
    `openagents.jobs` by default), a URL (`sqlite:///jobs.db`, `sqlite:////var/lib/jobs.db`, `file:///jobs`,
    `postgresql://user@host/database`), a path that ends in `.db`, or a `JobStore`.
    """
    if isinstance(store, JobStore):
        return store
    name = str(store if store is not None else "database")
    if name == "memory":
        return MemoryJobStore(clock, lease_s=lease_s)
    if name == "file":
        name = str(path) if path is not None else DEFAULT_FOLDER
        name = name if name.startswith("file:///") else f"file:///{name}"
    if name.startswith("file:///"):
        folder = name.removeprefix("file:///")
        if not folder:
            raise InvalidSettings("The store has no path. Use for example file:///openagents.jobs.")
        return FileJobStore(folder, clock, lease_s=lease_s)
    if name == "database":
        name = str(path) if path is not None else DEFAULT_PATH
    if name.startswith("sqlite:///"):
        name = name.removeprefix("sqlite:///")
    elif name.startswith(("postgresql://", "postgres://")):
        return PostgresJobStore(name, clock, lease_s=lease_s)
    elif "://" in name:
        kind = name.split("://")[0]  # what follows may hold a password
        raise InvalidSettings(
            f"{kind}://… is no store. Use memory, file, database, file:///folder, sqlite:///file.db, or "
            "postgresql://user@host/database."
        )
    if not name:
        raise InvalidSettings("The store has no path. Use for example sqlite:///jobs.db.")
    return SqliteJobStore(name, clock, lease_s=lease_s)
