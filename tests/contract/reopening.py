"""A store that is closed and opened again before each verb: nothing of it may live in the object alone.

    store = cast(JobStore, Reopened(SqliteJobStore(path, clock), keep_sqlite_workers))

A worker lives and dies with its store object; `keep_workers` shows it to live on, as if the disk were all that there
is. It is called before closing, and what it returns after opening.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

from openagents_json.job.store.base import JobStore
from openagents_json.job.store.file import FileJobStore
from openagents_json.job.store.sqlite import SqliteJobStore

VERBS = {
    name
    for name, member in vars(JobStore).items()
    if inspect.iscoroutinefunction(member) and name not in ("open", "close")
}


class Reopened:
    """Reopens before every verb; verbs that come at the same moment go one after the other."""

    def __init__(self, store: Any, keep_workers: Callable[[Any], Callable[[], None]]) -> None:
        self._store = store
        self._keep_workers = keep_workers
        self._turn = asyncio.Lock()
        self.times = 0

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._store, name)
        return self._reopening(member) if name in VERBS else member

    def _reopening(self, verb: Callable[..., Any]) -> Callable[..., Any]:
        async def after_reopening(*arguments: Any, **named: Any) -> Any:
            async with self._turn:
                revive = self._keep_workers(self._store)
                await self._store.close()
                await self._store.open()
                revive()
                self.times += 1
                return await verb(*arguments, **named)

        return after_reopening


def keep_sqlite_workers(store: SqliteJobStore) -> Callable[[], None]:
    """The rows of workers are in the file; the signs of life of this process go on."""
    workers = list(store._workers._files._held)

    def revive() -> None:
        for worker in workers:
            store._workers._files.begin(worker)

    return revive


def keep_file_workers(store: FileJobStore) -> Callable[[], None]:
    """Workers of the file store are in its memory only."""
    assert store._workers is not None
    workers = store._workers

    def revive() -> None:
        assert store._memory is not None
        store._workers = store._memory._workers = workers

    return revive
