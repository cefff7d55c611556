"""Keeping the memory and the disk of a file store in step: opening and closing, writing down and waiting for it,
mending after a failed write, and compacting. The verbs are in `file`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from openagents_json.clock import Clock, SystemClock
from openagents_json.errors import OpenAgentsError, StoreError, StoreUnavailable
from openagents_json.job.store import file_disk as disk
from openagents_json.job.store.arrival import DEFAULT_AGING_S
from openagents_json.job.store.base import DEFAULT_LEASE_S, JobStore
from openagents_json.job.store.file_changes import Closed, encode_change
from openagents_json.job.store.file_folder import (
    FORMAT,
    Tail,
    begin_segment,
    check_place,
    contents_of,
    journal_name,
    lock_folder,
    sign_lock,
    translate,
)
from openagents_json.job.store.file_journal import Begun, Journal
from openagents_json.job.store.file_lines import Damage, Stamps, body
from openagents_json.job.store.file_loading import Loaded, load
from openagents_json.job.store.file_memory import Capture, JournaledMemory
from openagents_json.job.store.file_snapshot import BATCH_JOBS, SnapshotWriter, remove_superseded
from openagents_json.job.store.filelock import FileLock
from openagents_json.job.store.memory_workers import MemoryWorkers

COMPACT_BYTES = 32 * 1024 * 1024  # of journal since the last snapshot, and at least as much as that one has

log = logging.getLogger("openagents_json.store")

T = TypeVar("T")

# (process, folder) of those that were open: threads that were abandoned then may still run.
_opened: set[tuple[int, Path]] = set()


class FileKeeper(JobStore):
    """A store in a folder, without its verbs. `cut`: the torn tail that the last opening found and cut off, or None."""

    def __init__(
        self,
        path: str | Path,
        clock: Clock | None = None,
        *,
        aging_s: float = DEFAULT_AGING_S,
        lease_s: float = DEFAULT_LEASE_S,
        compact_bytes: int = COMPACT_BYTES,
    ) -> None:
        self.path = Path(os.path.realpath(path))
        self.clock = clock or SystemClock()
        self._aging_s = aging_s  # of a folder that is empty
        self.lease_s = lease_s
        self.cut: Damage | None = None
        self.compactions = 0  # since open
        self._compact_bytes = compact_bytes
        self._compact_at = compact_bytes  # of the journal beyond what is compacted: then the next one begins
        self._compacted_bytes = 0
        self._compacting: asyncio.Task[None] | None = None
        self._is_open = False  # from here on, the loop's thread only
        self._lock: FileLock | None = None
        # Both are None while the store is broken: a write failed, and what the memory had ahead of the disk is gone
        # with it. The memory comes back with the next verb, the journal with the next one that wants to write.
        self._memory: JournaledMemory | None = None
        self._journal: Journal | None = None
        self._former: JournaledMemory | None = None  # its workers and counters go on in the next memory
        self._workers: MemoryWorkers | None = None  # those of all memories while it is open; threads look here, too
        self._broken: Journal | None = None  # whose thread may not have ended
        self._tail = Tail(0, 0, 0)  # where the journal begins, or the last one was good to
        self._journal_bytes = 0  # the same: of its files
        self._unsure_from: int | None = None  # from where on it has to be written again with the next group
        self._wanted_bytes = 0  # that there was no room for
        self._mending = asyncio.Lock()
        self._failures = 0  # of mending
        self._why: OSError | None = None  # of the last one
        self._groups = 0  # of journals that are over
        self._commit_delay_s = 0.0

    @property
    def aging_s(self) -> float:
        memory = self._memory or self._former
        return self._aging_s if memory is None else memory.aging_s

    # ── open and close ────────────────────────────────────────────────────────────────────────────────────────────

    async def open(self) -> None:
        if self._is_open:
            return
        fd, tail = await asyncio.to_thread(self._prepare)
        self._mending = asyncio.Lock()  # of this event loop
        self._begin_journal(fd, tail)
        self._is_open = True
        await self._write_down_ends()
        if self.cut is not None:
            log.warning(
                "%s ended with a change that was being written when the process or the machine stopped: %s. Its %d "
                "bytes are cut off; nobody was told that it was done.", self.path, self.cut, self.cut.length,
            )  # fmt: skip

    async def _write_down_ends(self) -> None:
        """That the threads of an earlier process ended with it. When the disk takes nothing, the next process does it:
        whoever opens a full store to look what could go does not need it."""
        memory, journal = self._memory, self._journal
        assert memory is not None and journal is not None
        if memory.noted:
            journal.append(memory.noted)
            memory.noted = []
            with contextlib.suppress(StoreUnavailable):
                await self._wait_durable()

    def _prepare(self) -> tuple[int, Tail]:
        try:
            check_place(self.path)
            self.path.mkdir(exist_ok=True)
            self._lock = lock_folder(self.path)
            memory = self._new_memory()
            contents = contents_of(self.path)
            loaded = load(self.path, contents, memory)
            if (os.getpid(), self.path) not in _opened:
                memory.forget_threads()
            self.cut = loaded.cut
            if loaded.cut is not None:
                disk.cut(self.path / loaded.cut.file, loaded.tail.size)
            remove_superseded(self.path)
            if loaded.tail.segment:
                fd, tail = self._go_on(loaded), loaded.tail
            else:
                disk.sync_folder(self.path.parent)
                fd, tail = begin_segment(self.path, loaded.tail, memory.aging_s, self.clock.now_us())
            sign_lock(self.path)
            self._memory, self._former, self._broken, self._groups = memory, None, None, 0
            self._workers = memory._workers
            _opened.add((os.getpid(), self.path))
            self._journal_bytes, self._compacted_bytes = loaded.journal_bytes, 0
            self._compact_at = max(self._compact_bytes, loaded.snapshot_bytes)
            return fd, tail
        except BaseException as error:
            self._unlock()
            if isinstance(error, OSError):
                raise translate(error, self.path) from None
            raise

    def _go_on(self, loaded: Loaded) -> int:
        """Make sure of the last group, which a process may have written and not synced, before anybody reads of it. A
        line that only says that the store was closed says nothing to read: there the first write makes sure of it."""
        path = self.path / journal_name(loaded.tail.segment)
        if loaded.is_closed:
            self._unsure_from = loaded.group
        else:
            disk.rewrite(path, loaded.group, loaded.tail.size, syncs=True)
        return disk.append_to(path)

    def _new_memory(self) -> JournaledMemory:
        return JournaledMemory(self.clock, aging_s=self._aging_s, lease_s=self.lease_s)

    def _begin_journal(self, fd: int, tail: Tail) -> None:
        self._journal = Journal(
            self.path, fd, tail, self.aging_s, self.clock.now_us, self._journal_bytes, self._unsure_from
        )
        self._unsure_from = None
        self._journal.commit_delay_s = self._commit_delay_s

    async def close(self) -> None:
        if not self._is_open:
            return
        self._is_open = False  # from here on the verbs say that the store is not open
        if self._compacting is not None:
            await asyncio.wait([self._compacting])
        async with self._mending:  # whoever is at it sees that the store is closed, or has ended
            journal = self._journal or self._broken
            self._journal = self._broken = self._memory = self._former = self._workers = None
        if journal is not None:
            if journal.failure is None and journal.ticket:  # who has only looked leaves no trace
                journal.append([body(Stamps().of(self.clock.now_us()), encode_change(Closed()))])
            journal.stop()
        # One call on one thread: if we are cancelled while it runs, it still closes everything.
        await asyncio.to_thread(self._close_files, journal)

    def _close_files(self, journal: Journal | None) -> None:
        if journal is not None:
            journal.join()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    # ── every verb goes through here ──────────────────────────────────────────────────────────────────────────────

    async def _read(self, verb: Callable[[JournaledMemory], Awaitable[T]]) -> T:
        """What the memory says, when it is true on the disk as well."""
        memory = await self._ready(writes=False)
        try:
            return await verb(memory)  # does not wait: no verb of the memory store does
        finally:
            await self._wait_durable()

    async def _write(self, verb: Callable[[JournaledMemory], Awaitable[T]]) -> T:
        """Do it in the memory, write down what that changed, and answer when it is on the disk; so too when the verb
        refuses, since what it goes by may not be there yet."""
        memory = await self._ready(writes=True)
        journal = self._journal
        assert journal is not None
        try:
            result = await verb(memory)  # the same
        except OpenAgentsError:
            await self._wait_durable()
            raise
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            if memory.noted:  # half of it is done
                self._break()
            raise StoreError(f"This cannot be written as a line of JSON: {error}. Nothing was changed.") from None
        if memory.noted:
            journal.append(memory.noted)
            memory.noted = []
            self._compact_if_large(memory, journal)
        await self._wait_durable()
        return result

    async def _wait_durable(self) -> None:
        journal = self._journal
        if journal is not None and journal.ticket > journal.durable:
            await journal.wait(journal.ticket)

    async def _ready(self, *, writes: bool) -> JournaledMemory:
        """The memory, in step with the disk; when `writes`, there is a journal with room too."""
        while True:
            if not self._is_open:
                raise StoreUnavailable("The store is not open.")
            memory, journal = self._memory, self._journal
            if journal is not None and journal.failure is not None:
                self._break()
            elif memory is None or (writes and journal is None):
                await self._mend(writes=writes)
            elif writes and journal is not None and journal.is_full:
                await journal.wait_room()
            else:
                return memory

    # ── after a failed write ──────────────────────────────────────────────────────────────────────────────────────

    def _break(self) -> None:
        """Forget the memory, which is ahead of the disk. What waits to be written is still written if it can be."""
        self._former, self._memory = self._memory or self._former, None
        self._broken, self._journal = self._journal or self._broken, None
        if self._broken is not None:
            self._broken.stop()

    async def _mend(self, *, writes: bool) -> None:
        """Play back what is on the disk; and begin a new journal file, for the old one's end cannot be trusted. Who
        waited while somebody else tried in vain shares the error."""
        failures = self._failures
        async with self._mending:
            if failures != self._failures and self._why is not None:
                raise translate(self._why, self.path)
            try:
                if self._is_open and (broken := self._broken) is not None:
                    await asyncio.to_thread(broken.join)
                    self._let_go_of(broken)
                if self._is_open and self._memory is None:
                    memory = await asyncio.to_thread(self._play_back)
                    memory.take_workers(self._former)
                    self._memory, self._former = memory, None
                if self._is_open and writes and self._journal is None:
                    fd, tail = await asyncio.to_thread(self._begin_after)
                    self._begin_journal(fd, tail)
                    log.info("%s can be written again; it goes on in %s", self.path, journal_name(tail.segment))
            except OSError as error:
                self._failures, self._why = self._failures + 1, error
                raise translate(error, self.path) from None

    def _let_go_of(self, journal: Journal) -> None:
        """A journal whose thread has ended: where it was good to counts."""
        self._broken = None
        self._tail, self._journal_bytes, self._wanted_bytes = journal.tail, journal.bytes, journal.failed_bytes
        self._groups += journal.groups
        if journal.failure is not None:
            log.error("%s cannot be written: %s. It is tried again with each change.", self.path, journal.failure)

    def _play_back(self) -> JournaledMemory:
        memory = self._new_memory()
        load(self.path, contents_of(self.path), memory, self._tail)
        return memory

    def _begin_after(self) -> tuple[int, Tail]:
        disk.check_room(self.path / f"{journal_name(self._tail.segment + 1)}.tmp", self._wanted_bytes)
        return begin_segment(self.path, self._tail, self.aging_s, self.clock.now_us())

    # ── compacting ────────────────────────────────────────────────────────────────────────────────────────────────

    async def compact(self) -> bool:
        """Compact now, whatever the size; verbs go on meanwhile. False when it failed: the log says why."""
        before = self.compactions
        memory = await self._ready(writes=True)
        if self._compacting is None:
            self._begin_compacting(memory)
        assert self._compacting is not None
        await asyncio.wait([self._compacting])
        return self.compactions > before

    def _compact_if_large(self, memory: JournaledMemory, journal: Journal) -> None:
        if self._compacting is None and journal.bytes - self._compacted_bytes >= self._compact_at:
            self._begin_compacting(memory)

    def _begin_compacting(self, memory: JournaledMemory) -> None:
        assert self._journal is not None
        capture = Capture(memory, FORMAT)
        memory.capture = capture
        # In the same turn: what is appended from now on is in the new file, and not in the capture.
        begun = self._journal.roll()
        self._compacting = asyncio.create_task(self._compact(memory, capture, begun))

    async def _compact(self, memory: JournaledMemory, capture: Capture, begun: asyncio.Future[Begun]) -> None:
        """Write a snapshot of the capture while commits go on, and take away the journal files before it."""
        writer: SnapshotWriter | None = None
        try:
            at = await begun
            header = capture.header(at.segment, at.lines)
            writer = await asyncio.to_thread(SnapshotWriter, self.path, header, self.clock.now_us())
            await asyncio.to_thread(writer.write, capture.definitions())
            for images in capture.batches(BATCH_JOBS):
                if not self._is_open or self._memory is not memory:
                    return
                await asyncio.to_thread(writer.write_jobs, images)
            await asyncio.to_thread(writer.write, capture.others())
            await asyncio.to_thread(writer.finish, capture.jobs)
            self._compacted_bytes, self._compact_at = at.bytes, max(self._compact_bytes, writer.bytes)
            self.compactions += 1
            writer = None
        except Exception as error:
            self._compact_at += self._compact_bytes
            log.warning("%s could not be compacted: %s. It is tried again when it has grown.", self.path, error)
        finally:
            if memory.capture is capture:
                memory.capture = None
            if writer is not None:
                await asyncio.to_thread(writer.give_up)
            self._compacting = None

    # ── what is asked of the object ───────────────────────────────────────────────────────────────────────────────

    def has_foreign_changes(self) -> bool:
        return False  # nobody else has the folder; whoever shares this object is told directly

    def stats(self) -> dict[str, int]:
        memory = self._memory or self._former
        groups = self._groups + (self._journal.groups if self._journal else 0)
        return {"commits": groups, "rows": memory.stats()["rows"] if memory else 0, "syncs": groups}

    @property
    def commit_delay_s(self) -> float:
        """Seconds slept before each sync: a slow disk for tests and benchmarks."""
        return self._commit_delay_s

    @commit_delay_s.setter
    def commit_delay_s(self, seconds: float) -> None:
        self._commit_delay_s = seconds
        if self._journal is not None:
            self._journal.commit_delay_s = seconds
