"""Rows of single jobs from the PostgreSQL store: what is asked while no reader is free is asked in one statement.

Everybody who waits for a job reads its row now and then, so under load these questions come by the hundred, and a round
trip for each would cost more than all else that its job needs of a reader.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from openagents_json.job.model import JobSummary
from openagents_json.job.store.postgres_driver import Connection
from openagents_json.job.store.postgres_rows import SQL, summary_in
from openagents_json.job.store.postgres_session import Ask

Rows = dict[str, JobSummary]
MAX_AT_ONCE = 1_000


class _Batch:
    """Ids that are asked for in one statement, as soon as a reader is free; from then on there is no joining it."""

    def __init__(self, closed: Callable[[_Batch], None]) -> None:
        self.ids: set[str] = set()
        self.answer: asyncio.Task[Rows] | None = None
        self._closed = closed

    async def ask(self, connection: Connection) -> Rows:
        self._closed(self)
        rows = [summary_in(row) for row in await connection.rows(SQL["jobs_by_id"], list(self.ids))]
        return {row.id: row for row in rows}


class PostgresSummaries:
    """`read` asks one of the readers. Everything runs in the event loop."""

    def __init__(self, read: Callable[[Ask[Rows]], Awaitable[Rows]]) -> None:
        self._read = read
        self._open: _Batch | None = None

    async def get(self, job_id: str) -> JobSummary | None:
        """The row of a job as it is now or a moment later. Errors are those of reading."""
        batch = self._open
        if batch is None or len(batch.ids) >= MAX_AT_ONCE:
            batch = self._open = _Batch(self._close)
            batch.answer = asyncio.create_task(self._answer(batch), name="openagents-postgres-rows")
            batch.answer.add_done_callback(_note)
        batch.ids.add(job_id)
        assert batch.answer is not None
        found = await asyncio.shield(batch.answer)  # others may wait for it, too
        return found.get(job_id)

    def _close(self, batch: _Batch) -> None:
        if self._open is batch:
            self._open = None

    async def _answer(self, batch: _Batch) -> Rows:
        try:
            return await self._read(batch.ask)
        finally:
            self._close(batch)  # if no reader could take it


def _note(answer: asyncio.Task[Rows]) -> None:
    """Whoever asked may have been cancelled; then nobody is there to hear of an error."""
    if not answer.cancelled():
        answer.exception()
