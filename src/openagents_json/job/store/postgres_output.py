"""The output of attempts in the PostgreSQL store. Everything here runs inside a transaction, or is one statement."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence

from openagents_json.job.model import JobStatus
from openagents_json.job.store.output import (
    HEAD_BYTES,
    JOB_BYTES,
    ROOM_BYTES,
    TAIL_BYTES,
    OutputChunk,
    StoredOutput,
    decode_pieces,
    encode_pieces,
)
from openagents_json.job.store.postgres_driver import Connection, readable
from openagents_json.job.store.postgres_rows import SQL
from openagents_json.job.store.records import JobCounts

JOBS_KNOWN = 10_000  # jobs whose bytes are remembered; of others they are added up anew


class PostgresOutput:
    """Writing, by the one writer of a store."""

    def __init__(self) -> None:
        # key of a job → bytes of its output, or more: what was cut, or not committed after all, still counts. What
        # another store wrote of the same job, when it had it, does not: then the job may keep more for a while.
        self._bytes: OrderedDict[int, int] = OrderedDict()

    def appending(
        self, job_id: str, path: str, attempt: int, chunks: Sequence[OutputChunk]
    ) -> Callable[[Connection], Awaitable[None]]:
        """The writing of these chunks, as an operation of the writer."""
        firsts = [one.first for one in chunks]
        lasts = [one.last for one in chunks]
        pieces = [encode_pieces(one.pieces) for one in chunks]

        async def call(connection: Connection) -> None:
            key = await connection.value(SQL["output_put"], job_id, path, attempt, firsts, lasts, pieces)
            if key is None:
                return
            if (total := lasts[-1]) > HEAD_BYTES + TAIL_BYTES:
                await connection.rows(SQL["output_cut"], key, path, attempt, HEAD_BYTES, total - TAIL_BYTES)
            await self._bound(connection, key, total - firsts[0])

        return call

    async def _bound(self, connection: Connection, key: int, more: int) -> None:
        """Make room if the job has too much."""
        known = self._bytes.pop(key, None)
        total = await self._sum(connection, key) if known is None else known + more
        if total > JOB_BYTES and known is not None:
            total = await self._sum(connection, key)
        if total > JOB_BYTES:
            while total > JOB_BYTES - ROOM_BYTES:
                oldest = await connection.row(SQL["output_oldest"], key)
                assert oldest is not None, "what has bytes has rows"
                await connection.rows(SQL["output_drop"], key, readable(oldest[0]), oldest[1])
                total = await self._sum(connection, key)
        self._bytes[key] = total
        if len(self._bytes) > JOBS_KNOWN:
            self._bytes.popitem(last=False)

    async def _sum(self, connection: Connection, key: int) -> int:
        return int(await connection.value(SQL["output_bytes"], key))


async def read_output(
    connection: Connection, job_id: str, path: str | None, attempt: int | None, after: int, limit: int
) -> list[StoredOutput]:
    """As the verb of the store says."""
    found = []
    for row in await connection.rows(SQL["output_of"], job_id, path, attempt, after, limit):
        sequence, at, number, first, last, cut, pieces = (row[place] for place in range(7))
        found.append(StoredOutput(sequence, readable(at) or "", number, first, last, cut, decode_pieces(pieces)))
    return found


async def count_jobs(connection: Connection, limit: int) -> JobCounts:
    """As the verb of the store says."""
    counts: dict[JobStatus, int] = {}
    oldest_us = None
    for row in await connection.rows(SQL["job_counts"], limit):
        counts[JobStatus(row["status"])] = row["count"]
        oldest_us = oldest_us if row["since"] is None else row["since"]
    return JobCounts(counts, oldest_us)
