"""Stores: where jobs are kept. `JobStore` is the contract; `open_store` picks one by name or URL."""

from __future__ import annotations

from pathlib import Path

from openagents_json.clock import Clock
from openagents_json.errors import InvalidSettings
from openagents_json.job.store.base import (
    Claim,
    Commit,
    Definition,
    Held,
    JobRow,
    JobStore,
    Listed,
    NewJob,
    Request,
    StoredJob,
    StoredLeak,
    row_of,
)
from openagents_json.job.store.memory import MemoryJobStore
from openagents_json.job.store.sqlite import SqliteJobStore

DEFAULT_PATH = "openagents.db"

__all__ = [
    "Claim",
    "Commit",
    "Definition",
    "Held",
    "JobRow",
    "JobStore",
    "Listed",
    "MemoryJobStore",
    "NewJob",
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

    `store` is `memory`, `database` (a SQLite file at `path`, `openagents.db` by default), a URL
    (`sqlite:///jobs.db`, `sqlite:////var/lib/jobs.db`), a path that ends in `.db`, or a `JobStore`.
    """
    if isinstance(store, JobStore):
        return store
    name = str(store if store is not None else "database")
    if name == "memory":
        return MemoryJobStore(clock, lease_s=lease_s)
    if name == "file":
        raise InvalidSettings("The file store comes with a later release. Use 'database' (a SQLite file) for now.")
    if name == "database":
        name = str(path) if path is not None else DEFAULT_PATH
    if name.startswith("sqlite:///"):
        name = name.removeprefix("sqlite:///")
    elif name.startswith(("postgresql:", "postgres:")):
        raise InvalidSettings("The PostgreSQL store comes with a later release. Use sqlite:///file.db for now.")
    elif "://" in name:
        raise InvalidSettings(f"{name!r} is no store. Use memory, database, or sqlite:///file.db.")
    if not name:
        raise InvalidSettings("The store has no path. Use for example sqlite:///jobs.db.")
    return SqliteJobStore(name, clock, lease_s=lease_s)
