"""The one writer of a file store: a thread that writes whatever waits and syncs it once (group commit).

`append` takes the lines of a verb and gives a ticket; once per turn of the event loop what was appended goes to the
thread, which writes all that has arrived with one sync, and then everybody who waits for a ticket up to there is told.

Danger: nobody may be told anything before the sync that covers it has returned, and after one that failed nothing of
this file's end may be trusted: this journal is then over, and says so (`failure`). Its `tail` tells how far it is good;
the store plays that back and begins another file.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from openagents_json.errors import StoreError, StoreUnavailable
from openagents_json.job.store import file_disk as disk
from openagents_json.job.store.file_folder import Tail, begin_segment, journal_name, translate
from openagents_json.job.store.file_lines import seal
from openagents_json.job.store.waiters import ANSWERED_AT_ONCE

MAX_GROUP_BYTES = 16 * 1024 * 1024  # written with one sync, about
MAX_WAITING_BYTES = 64 * 1024 * 1024  # appended and not durable; whoever comes then waits before it changes anything
SEGMENT_BYTES = 64 * 1024 * 1024  # of a journal file; then the next one begins

Lines = list[bytes]  # bodies of the lines of one verb


@dataclass(frozen=True, slots=True)
class Begun:
    """A new journal file: its number, how many lines the store has before it, and how many bytes the journal has."""

    segment: int
    lines: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Roll:
    """Asks for a new journal file."""

    begun: asyncio.Future[Begun]


class Journal:
    """Owns the file that is written to, from `tail` on."""

    def __init__(
        self,
        folder: Path,
        fd: int,
        tail: Tail,
        aging_s: float,
        now_us: Callable[[], int],
        written_bytes: int = 0,
        unsure_from: int | None = None,
    ) -> None:
        self._folder = folder
        self._fd = fd
        self._aging_s = aging_s
        self._now_us = now_us
        self._loop = asyncio.get_running_loop()
        # Loop's thread.
        self._fresh: list[Lines | Roll] = []  # of this turn of the loop
        self._waiters: deque[tuple[int, asyncio.Future[None]]] = deque()  # by rising ticket
        self._room = asyncio.Event()
        self._room.set()
        self._waiting_bytes = 0
        self._is_answering = False
        self.ticket = 0  # the last that was given
        self.durable = 0  # all up to this one are on the disk
        self.failure: Exception | None = None  # why it is over
        # The writer's thread; the loop's may look.
        self.tail = tail
        self.bytes = written_bytes  # of journal files since the last snapshot
        self._unsure_from = unsure_from  # what stands after it is written again with the first group
        self.groups = 0
        self.failed_bytes = 0  # of the group that could not be written
        self.commit_delay_s = 0.0  # a slow disk for tests and benchmarks: slept before each sync
        self._queue: queue.SimpleQueue[list[Lines | Roll] | None] = queue.SimpleQueue()
        self._next_roll = SEGMENT_BYTES
        self._thread = threading.Thread(target=self._run, name="openagents-file-writer", daemon=True)
        self._thread.start()

    # ── the loop's thread ─────────────────────────────────────────────────────────────────────────────────────────

    def append(self, lines: Lines) -> int:
        """Write the lines of a verb soon; the ticket to wait for."""
        self.ticket += 1
        self._waiting_bytes += sum(map(len, lines))
        if self._waiting_bytes >= MAX_WAITING_BYTES:
            self._room.clear()
        self._hand(lines)
        return self.ticket

    def roll(self) -> asyncio.Future[Begun]:
        """Begin a new file after what was appended so far. An `OSError` leaves the old one in use."""
        begun: asyncio.Future[Begun] = self._loop.create_future()
        self._hand(Roll(begun))
        self._hand_over()  # nothing that is appended later goes to the thread with it
        return begun

    async def wait(self, ticket: int) -> None:
        """Return when that ticket is durable; the error of the store when it will never be."""
        if ticket <= self.durable:
            return
        if self.failure is not None:
            raise self.error()
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiters.append((ticket, waiter))
        await waiter

    @property
    def is_full(self) -> bool:
        """Whether so much waits to be written that nothing should be appended."""
        return not self._room.is_set()

    async def wait_room(self) -> None:
        """Return when not too much waits to be written."""
        while not self._room.is_set():
            await self._room.wait()

    def error(self) -> StoreError:
        """The failure as an error of the store: a new one each time, since each is raised in another task."""
        if isinstance(self.failure, OSError):
            return translate(self.failure, self._folder)
        return StoreUnavailable(f"{self._folder} cannot be written: {self.failure!r}. Nothing was accepted.")

    def stop(self) -> None:
        """Take nothing more. What was appended will be written, and then the thread ends and the file is closed. May be
        called twice."""
        self._hand_over()
        self._queue.put(None)

    def join(self) -> None:
        """Wait in another thread than the loop's until the end that `stop` began."""
        self._thread.join()

    def _hand(self, one: Lines | Roll) -> None:
        if not self._fresh:
            self._loop.call_soon(self._hand_over)
        self._fresh.append(one)

    def _hand_over(self) -> None:
        if self._fresh:
            self._queue.put(self._fresh)
            self._fresh = []

    def _written(self, tickets: int, size: int) -> None:
        """A group is on the disk."""
        self.durable += tickets
        self._waiting_bytes -= size
        if self._waiting_bytes < MAX_WAITING_BYTES:
            self._room.set()
        if not self._is_answering:
            self._answer()

    def _answer(self) -> None:
        for _ in range(ANSWERED_AT_ONCE):
            if not self._waiters or self._waiters[0][0] > self.durable:
                self._is_answering = False
                return
            _, waiter = self._waiters.popleft()
            if not waiter.done():  # else its caller was cancelled; what was written stays written
                waiter.set_result(None)
        self._is_answering = True
        self._loop.call_soon(self._answer)

    def _failed(self, error: Exception) -> None:
        """Nothing more will be durable."""
        self.failure = self.failure or error
        self._room.set()
        for ticket, waiter in self._waiters:
            if not waiter.done():
                if ticket <= self.durable:
                    waiter.set_result(None)
                else:
                    waiter.set_exception(self.error())
        self._waiters.clear()

    # ── the writer's thread ───────────────────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        failure: Exception | None = None
        while (group := self._next_group()) is not None:
            verbs = [one for one in group if not isinstance(one, Roll)]
            if verbs and failure is None:
                try:
                    self._write(verbs)
                    self._tell(self._written, len(verbs), sum(map(_size, verbs)))
                except Exception as error:
                    failure = error
                    self._give_up_unsure()
            if failure is None:
                failure = self._roll(group[-1] if isinstance(group[-1], Roll) else None)
            elif isinstance(group[-1], Roll):
                self._tell(_fail, group[-1].begun, failure)
            if failure is not None:
                self._tell(self._failed, failure)
        with contextlib.suppress(OSError):
            os.close(self._fd)

    def _tell(self, call: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed before the store: nobody waits any more
            self._loop.call_soon_threadsafe(call, *arguments)

    def _next_group(self) -> list[Lines | Roll] | None:
        """All that waits, up to a `Roll` or about `MAX_GROUP_BYTES`; None at the end."""
        group = self._queue.get()
        if group is None:
            return None
        group = list(group)
        size = sum(_size(one) for one in group)
        while size < MAX_GROUP_BYTES and not any(isinstance(one, Roll) for one in group):
            try:
                more = self._queue.get_nowait()
            except queue.Empty:
                break
            if more is None:
                self._queue.put(None)
                break
            group += more
            size += sum(_size(one) for one in more)
        return group

    def _write(self, verbs: list[Lines]) -> None:
        n = durable = self.tail.lines
        parts: list[bytes] = []
        for lines in verbs:
            last = len(lines) - 1
            for index, content in enumerate(lines):
                n += 1
                mark = None if parts else durable
                parts.append(seal(n, content, durable=mark, joined=index > 0, more=index < last))
        data = b"".join(parts)
        self.failed_bytes = len(data)
        self._write_unsure_again(syncs=False)
        disk.write(self._fd, data)
        if self.commit_delay_s:
            time.sleep(self.commit_delay_s)
        disk.sync(self._fd)
        self._unsure_from = None
        self.tail = Tail(self.tail.segment, self.tail.size + len(data), n)
        self.bytes += len(data)
        self.groups += 1
        self.failed_bytes = 0

    def _write_unsure_again(self, *, syncs: bool) -> None:
        if self._unsure_from is not None:
            path = self._folder / journal_name(self.tail.segment)
            disk.rewrite(path, self._unsure_from, self.tail.size, syncs=syncs)

    def _give_up_unsure(self) -> None:
        """It could not be made sure of, so it does not count: the one line that says that the store was closed."""
        if self._unsure_from is not None:
            self.tail = Tail(self.tail.segment, self._unsure_from, self.tail.lines - 1)

    def _roll(self, asked: Roll | None) -> Exception | None:
        """Begin a new file if that is asked for, or this one is large enough. A failure goes to whoever asked, and the
        old file stays in use; it is returned where that must not be, since the new one has its name already."""
        if asked is None and self.tail.size < self._next_roll:
            return None
        try:
            self._write_unsure_again(syncs=True)
            self._unsure_from = None
            fd, tail = begin_segment(self._folder, self.tail, self._aging_s, self._now_us())
        except OSError as error:
            self._next_roll = self.tail.size + SEGMENT_BYTES
            if asked is not None:
                self._tell(_fail, asked.begun, error)
            return error if (self._folder / journal_name(self.tail.segment + 1)).exists() else None
        os.close(self._fd)
        self._fd, self.tail = fd, tail
        self._next_roll = SEGMENT_BYTES
        if asked is not None:
            self._tell(_succeed, asked.begun, Begun(tail.segment, tail.lines, self.bytes))
        return None


def _size(one: Lines | Roll) -> int:
    return 0 if isinstance(one, Roll) else sum(map(len, one))


def _succeed(future: asyncio.Future[Begun], result: Begun) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Begun], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
