"""The output of attempts in the SQLite store. Everything here runs inside a transaction that somebody else began."""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Sequence

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
from openagents_json.job.store.records import JobCounts
from openagents_json.job.store.sqlite_rows import SQL

JOBS_KNOWN = 10_000  # jobs whose bytes are remembered; of others they are added up anew


class SqliteOutput:
    """`append` is called by the writer's thread only."""

    def __init__(self) -> None:
        # key of a job → bytes of its output, or more: what was cut since they were added up still counts.
        self._bytes: OrderedDict[int, int] = OrderedDict()

    def appending(
        self, job_id: str, path: str, attempt: int, chunks: Sequence[OutputChunk]
    ) -> Callable[[sqlite3.Connection], None]:
        """The writing of these chunks, as an operation of the writer."""
        rows = [(path, attempt, one.first, one.last, encode_pieces(one.pieces)) for one in chunks]

        def call(connection: sqlite3.Connection) -> None:
            found = connection.execute(SQL["job_to_hold"], (job_id,)).fetchone()
            if found is None:
                return
            key: int = found[0]
            connection.executemany(SQL["output_put"], [(key, *row) for row in rows])
            if (total := chunks[-1].last) > HEAD_BYTES + TAIL_BYTES:
                connection.execute(SQL["output_cut"], (key, path, attempt, HEAD_BYTES, total - TAIL_BYTES))
            self._bound(connection, key, total - chunks[0].first)

        return call

    def _bound(self, connection: sqlite3.Connection, key: int, more: int) -> None:
        """Make room if the job has too much."""
        known = self._bytes.pop(key, None)
        total = self._sum(connection, key) if known is None else known + more
        if total > JOB_BYTES and known is not None:
            total = self._sum(connection, key)
        if total > JOB_BYTES:
            while total > JOB_BYTES - ROOM_BYTES:
                path, attempt = connection.execute(SQL["output_oldest"], (key,)).fetchone()
                connection.execute(SQL["output_drop"], (key, path, attempt))
                total = self._sum(connection, key)
        self._bytes[key] = total
        if len(self._bytes) > JOBS_KNOWN:
            self._bytes.popitem(last=False)

    def _sum(self, connection: sqlite3.Connection, key: int) -> int:
        return int(connection.execute(SQL["output_bytes"], (key,)).fetchone()[0])


def read_output(
    connection: sqlite3.Connection, job_id: str, path: str | None, attempt: int | None, after: int, limit: int
) -> list[StoredOutput]:
    """As the verb of the store says."""
    values = {"id": job_id, "path": path, "attempt": attempt, "after": after, "limit": limit}
    rows = connection.execute(SQL["output_of"], values)
    return [
        StoredOutput(sequence, at, number, first, last, cut, decode_pieces(pieces))
        for sequence, at, number, first, last, cut, pieces in rows
    ]


def count_jobs(connection: sqlite3.Connection, limit: int) -> JobCounts:
    """As the verb of the store says."""
    counts: dict[JobStatus, int] = {}
    oldest_us = None
    for status, count, since_us in connection.execute(SQL["job_counts"], {"limit": limit}):
        counts[JobStatus(status)] = count
        oldest_us = oldest_us if since_us is None else since_us
    return JobCounts(counts, oldest_us)
