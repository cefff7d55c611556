"""Plain SQLite as the yardstick: one writer thread with group commit and nothing else, writing the rows that we wrote.

What it leaves out is what a job manager adds: deciding, encoding, calling components, claiming, answering. So our time
divided by this one is the price of everything but the database.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_SCHEMA = """
CREATE TABLE history (
  seq INTEGER PRIMARY KEY, job INT NOT NULL, first INT NOT NULL, last INT NOT NULL, events BLOB NOT NULL
);
CREATE UNIQUE INDEX history_of_job ON history (job, first);
CREATE TABLE jobs (id INTEGER PRIMARY KEY, status INT NOT NULL, last INT NOT NULL);
"""
_GROUP_AT_MOST = 5_000  # commits that share one transaction; more wait for the next

# What one job wrote: for each of its commits, in order, the sizes in bytes of the rows of that commit.
JobRows = Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True)
class Replayed:
    """How long plain SQLite took for the same rows. `job_seconds`: of each job, in the order of their ends."""

    seconds: float
    rows: int
    commits: int
    job_seconds: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class _Write:
    """One commit of a job: rows to write from number `first` on, and whom to tell once they are durable."""

    job: int
    first: int
    rows: Sequence[bytes]
    durable: asyncio.Future[None]


class _Writer:
    """The thread. It commits whatever has gathered meanwhile as one transaction, then tells all who wait for it."""

    def __init__(self, path: Path, jobs: int, commit_delay_s: float) -> None:
        self.path = path
        self.jobs = jobs
        self.commit_delay_s = commit_delay_s
        self.commits = 0  # written by the thread, read by others once it has ended
        self.writes: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()  # None ends the thread
        self.loop = asyncio.get_running_loop()
        self.ready = self.loop.create_future()
        self.thread = threading.Thread(target=self._run, name="bare-writer", daemon=True)
        self.thread.start()

    async def write(self, job: int, first: int, rows: Sequence[bytes]) -> None:
        """Returns when the rows are durable."""
        durable: asyncio.Future[None] = self.loop.create_future()
        self.writes.put(_Write(job, first, rows, durable))
        await durable

    def close(self) -> None:
        self.writes.put(None)
        self.thread.join()

    def _run(self) -> None:
        connection = sqlite3.connect(self.path, isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.executescript(_SCHEMA)
        connection.executemany("INSERT INTO jobs VALUES (?, 0, 0)", ((job,) for job in range(self.jobs)))
        self.loop.call_soon_threadsafe(self.ready.set_result, None)
        while (write := self.writes.get()) is not None:
            group = [write]
            while len(group) < _GROUP_AT_MOST and not self.writes.empty():
                another = self.writes.get()
                if another is None:
                    self.writes.put(None)
                    break
                group.append(another)
            error = None
            try:
                self._commit(connection, group)
            except sqlite3.Error as raised:
                error = raised
            self.loop.call_soon_threadsafe(_tell, group, error)
        connection.close()

    def _commit(self, connection: sqlite3.Connection, group: Sequence[_Write]) -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            "INSERT INTO history (job, first, last, events) VALUES (?, ?, ?, ?)",
            [
                (write.job, number, number, events)
                for write in group
                for number, events in enumerate(write.rows, write.first)
            ],
        )
        connection.executemany(
            "UPDATE jobs SET status = ?, last = ? WHERE id = ?",
            [(write.first & 7, write.first + len(write.rows) - 1, write.job) for write in group],
        )
        if self.commit_delay_s:
            time.sleep(self.commit_delay_s)
        connection.execute("COMMIT")
        self.commits += 1


def _tell(group: Sequence[_Write], error: sqlite3.Error | None) -> None:
    for write in group:
        if write.durable.done():
            continue  # its waiter was cancelled
        if error is None:
            write.durable.set_result(None)
        else:
            write.durable.set_exception(error)


async def replay(path: Path, jobs: Sequence[JobRows], *, waiters: int, commit_delay_s: float = 0.0) -> Replayed:
    """Write the rows of `jobs` into a new database at `path`.

    `waiters` jobs are written at a time, the commits of one job one after the other, each once the previous is durable:
    the same waiting as that of a job whose next step needs the last one's output. The time of creating the database
    and the job rows is not counted.
    """
    writer = _Writer(path, len(jobs), commit_delay_s)
    await writer.ready
    durations: list[float] = []
    todo = iter(enumerate(jobs))
    largest = bytes(max((size for commits in jobs for sizes in commits for size in sizes), default=0))
    started = time.perf_counter()
    try:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(waiters, len(jobs))):
                tasks.create_task(_write_jobs(writer, todo, largest, durations))
        seconds = time.perf_counter() - started
    finally:
        writer.close()
    rows = sum(len(sizes) for commits in jobs for sizes in commits)
    return Replayed(seconds, rows, writer.commits, tuple(durations))


async def _write_jobs(
    writer: _Writer, todo: Iterator[tuple[int, JobRows]], content: bytes, durations: list[float]
) -> None:
    for job, commits in todo:
        started = time.perf_counter()
        first = 1
        for sizes in commits:
            await writer.write(job, first, [content[:size] for size in sizes])
            first += len(sizes)
        durations.append(time.perf_counter() - started)
