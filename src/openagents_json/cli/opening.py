"""Opening a manager for a command."""

from __future__ import annotations

import getpass
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from openagents_json.app import OpenAgentsApp
from openagents_json.cli.failures import UsageProblem
from openagents_json.errors import StoreUnavailable
from openagents_json.job.arguments import REASON_CHARACTERS
from openagents_json.job.manager import JobManager
from openagents_json.job.store import FileJobStore, JobStore, MemoryJobStore, PostgresJobStore, SqliteJobStore


@asynccontextmanager
async def opened(store: str | None, app: OpenAgentsApp | None = None) -> AsyncIterator[JobManager]:
    """A manager that runs no jobs, on a store that is there already. `StoreUnavailable` if it is not."""
    jobs = (app or OpenAgentsApp()).manager(store, worker=False)
    refuse_memory(jobs)
    if isinstance(jobs.store, SqliteJobStore | FileJobStore) and not jobs.store.path.exists():
        raise StoreUnavailable(
            f"There is no store at {jobs.store.path}. `openagents run` makes one; name another with --store."
        )
    if isinstance(jobs.store, PostgresJobStore) and not await jobs.store.is_made():
        raise StoreUnavailable(
            f"There is no store at {jobs.store.place.shown}. `openagents run` makes one; name another with --store."
        )
    async with jobs:
        yield jobs


def chosen_store(url: str | None) -> JobStore:
    """The store that a command names, or the usual one, not opened."""
    jobs = OpenAgentsApp().manager(url, worker=False)
    refuse_memory(jobs)
    return jobs.store


def refuse_memory(jobs: JobManager) -> None:
    """`UsageProblem` where another process is to see the jobs and the store is this one's memory."""
    if isinstance(jobs.store, MemoryJobStore):
        raise UsageProblem("The memory store ends with this process. Use a file, such as --store sqlite:///jobs.db.")


def asker(by: str | None) -> str | None:
    """Who asks: what was given, else the login name, else nobody."""
    if by is not None:
        return by
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return None


def check_reason(reason: str | None) -> None:
    """`UsageProblem` for a reason that is too long to be recorded."""
    if reason is not None and len(reason) > REASON_CHARACTERS:
        raise UsageProblem(f"--reason has {len(reason):,} characters; {REASON_CHARACTERS:,} are allowed.")
