"""The file store: a folder with a journal that people can read, for one process.

It is a memory store that writes down each change (`file_memory`, `file_changes`) and tells nobody of it before it is
on the disk (`file_journal`): neither who asked for the change nor who reads what came of it. This file has the verbs;
what they stand on is in `file_keeper`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from openagents_json.errors import StoreUnavailable
from openagents_json.job.events import Event
from openagents_json.job.model import ErrorInfo, JobSummary
from openagents_json.job.store.base import Pulse
from openagents_json.job.store.deleting import DELETE_S
from openagents_json.job.store.durations import Duration, Sample
from openagents_json.job.store.file_keeper import FileKeeper
from openagents_json.job.store.file_upkeep import facts_in, facts_on_disk, find_flaws, sizes_of
from openagents_json.job.store.grants import Blocked, Want
from openagents_json.job.store.limits import StoredLimit
from openagents_json.job.store.moving import MovedJob
from openagents_json.job.store.output import OutputChunk, StoredOutput
from openagents_json.job.store.pauses import Pause, PauseKind
from openagents_json.job.store.query import Query
from openagents_json.job.store.records import (
    NOBODY,
    Claim,
    Commit,
    Held,
    JobCounts,
    Listed,
    NewJob,
    QueuePlace,
    Request,
    StoredJob,
    StoredLeak,
    StoredWorker,
    Waiting,
    WorkerInfo,
)
from openagents_json.job.store.shares import StoredShare
from openagents_json.job.store.shortages import Short, Shortages
from openagents_json.job.store.upkeep import Flaw, StoreFacts, Vacuumed
from openagents_json.resources import Offers


class FileJobStore(FileKeeper):
    """Jobs in a folder. `path` is created when it is missing; the folder around it must exist.

    All jobs are in memory as well, so they have to fit there. One process at a time may have the store open.
    """

    # ── the verbs that read ───────────────────────────────────────────────────────────────────────────────────────

    async def read(self, job_id: str) -> StoredJob | None:
        return await self._read(lambda memory: memory.read(job_id))

    async def read_summary(self, job_id: str) -> JobSummary | None:
        return await self._read(lambda memory: memory.read_summary(job_id))

    async def read_limit(self, job_id: str) -> StoredLimit | None:
        return await self._read(lambda memory: memory.read_limit(job_id))

    async def read_definition_hash(self, job_id: str) -> str | None:
        return await self._read(lambda memory: memory.read_definition_hash(job_id))

    async def read_events(self, job_id: str, after: int = 0, limit: int = 1_000) -> list[Event]:
        return await self._read(lambda memory: memory.read_events(job_id, after, limit))

    async def list_jobs(self, query: Query) -> list[Listed]:
        return await self._read(lambda memory: memory.list_jobs(query))

    async def find_ids(self, ending: str, limit: int = 5) -> list[str]:
        return await self._read(lambda memory: memory.find_ids(ending, limit))

    async def read_definition(self, content_hash: str) -> bytes | None:
        return await self._read(lambda memory: memory.read_definition(content_hash))

    async def definition_hashes(self, after: str = "", limit: int = 1_000) -> list[str]:
        return await self._read(lambda memory: memory.definition_hashes(after, limit))

    async def read_requests(self, job_id: str) -> list[Request]:
        return await self._read(lambda memory: memory.read_requests(job_id))

    async def jobs_with_requests(self, worker: str) -> list[str]:
        return await self._read(lambda memory: memory.jobs_with_requests(worker))

    async def read_leases(self, worker: str) -> dict[str, int]:
        return await self._read(lambda memory: memory.read_leases(worker))

    async def next_due_us(self) -> int | None:
        return await self._read(lambda memory: memory.next_due_us())

    async def read_output(
        self, job_id: str, path: str | None = None, attempt: int | None = None, after: int = 0, limit: int = 64
    ) -> list[StoredOutput]:
        return await self._read(lambda memory: memory.read_output(job_id, path, attempt, after, limit))

    async def count_jobs(self, limit: int) -> JobCounts:
        return await self._read(lambda memory: memory.count_jobs(limit))

    async def list_leaks(self, after: int = 0, limit: int = 1_000) -> list[StoredLeak]:
        return await self._read(lambda memory: memory.list_leaks(after, limit))

    async def count_leaks(self) -> int:
        return await self._read(lambda memory: memory.count_leaks())

    async def read_family(self, job_id: str) -> list[MovedJob]:
        return await self._read(lambda memory: memory.read_family(job_id))

    async def list_pauses(self) -> list[Pause]:
        return await self._read(lambda memory: memory.list_pauses())

    async def read_blocked(self, job_id: str) -> list[Blocked]:
        return await self._read(lambda memory: memory.read_blocked(job_id))

    async def read_shortages(self, job_id: str) -> list[Short]:
        return await self._read(lambda memory: memory.read_shortages(job_id))

    # ── the verbs that write ──────────────────────────────────────────────────────────────────────────────────────

    async def create(self, job: NewJob) -> str:
        return await self._write(lambda memory: memory.create(job))

    async def create_held(self, job: NewJob) -> Claim | None:
        return await self._write(lambda memory: memory.create_held(job))

    async def create_all(self, jobs: Sequence[NewJob]) -> list[str]:
        return await self._write(lambda memory: memory.create_all(jobs))

    async def restore(self, jobs: Sequence[MovedJob]) -> list[str]:
        return await self._write(lambda memory: memory.restore(jobs))

    async def claim(
        self, worker: str, limit: int, offers: Offers | None = None, *, suspects: bool = False
    ) -> list[Claim]:
        return await self._write(lambda memory: memory.claim(worker, limit, offers, suspects=suspects))

    async def first_waiting(self, offers: Offers | None = None) -> Waiting | None:
        return await self._read(lambda memory: memory.first_waiting(offers))

    async def queue_place(self, job_id: str, shown: int = 10) -> QueuePlace | None:
        return await self._read(lambda memory: memory.queue_place(job_id, shown))

    async def make_room(self, job_id: str, worker: str) -> bool:
        """Only as long as this process lives, and so does the worker."""
        return await self._write(lambda memory: memory.make_room(job_id, worker))

    async def hold(self, job_id: str, worker: str, request: Request) -> Held | None:
        return await self._write(lambda memory: memory.hold(job_id, worker, request))

    async def hold_all(
        self, worker: str, requests: Sequence[tuple[str, Request]]
    ) -> Sequence[Held | BaseException | None]:
        return await self._write(lambda memory: memory.hold_all(worker, requests))

    async def hold_due(self, worker: str, limit: int) -> list[Claim]:
        return await self._write(lambda memory: memory.hold_due(worker, limit))

    async def hold_orphans(self, worker: str, limit: int) -> list[Claim]:
        return await self._write(lambda memory: memory.hold_orphans(worker, limit))

    async def hold_requested(self, worker: str, limit: int) -> list[Claim]:
        return await self._write(lambda memory: memory.hold_requested(worker, limit))

    async def hold_again(self, worker: str, leases: Mapping[str, int]) -> list[Claim]:
        return await self._write(lambda memory: memory.hold_again(worker, leases))

    async def commit(self, commit: Commit) -> None:
        await self._write(lambda memory: memory.commit(commit))

    async def commit_all(self, commits: Sequence[Commit]) -> Sequence[BaseException | None]:
        return await self._write(lambda memory: memory.commit_all(commits))

    async def release(self, claim: Claim) -> None:
        await self._write(lambda memory: memory.release(claim))

    async def thread_ended(self, job_id: str, worker: str) -> None:
        await self._write(lambda memory: memory.thread_ended(job_id, worker))

    async def append_output(self, job_id: str, path: str, attempt: int, chunks: Sequence[OutputChunk]) -> None:
        await self._write(lambda memory: memory.append_output(job_id, path, attempt, chunks))

    async def delete(self, job_id: str) -> bool:
        return await self._write(lambda memory: memory.delete(job_id))

    async def delete_final(self, before_us: int, limit: int, within_s: float = DELETE_S) -> int:
        return await self._write(lambda memory: memory.delete_final(before_us, limit, within_s))

    async def note_leak(self, key: int, error: ErrorInfo) -> bool:
        return await self._write(lambda memory: memory.note_leak(key, error))

    async def drop_leak(self, key: int) -> bool:
        return await self._write(lambda memory: memory.drop_leak(key))

    async def set_pause(self, kind: PauseKind, name: str, by: str | None, reason: str | None) -> bool:
        return await self._write(lambda memory: memory.set_pause(kind, name, by, reason))

    async def lift_pause(self, kind: PauseKind, name: str) -> bool:
        return await self._write(lambda memory: memory.lift_pause(kind, name))

    async def take_grants(self, worker: str, holds: Mapping[str, int], wants: Sequence[Want]) -> list[Blocked | None]:
        return await self._write(lambda memory: memory.take_grants(worker, holds, wants))

    # ── workers: they live and die with the process, so nothing of them is written down but the threads they left ──

    async def register_worker(self, worker: str, info: WorkerInfo = NOBODY) -> None:
        await (await self._ready(writes=False)).register_worker(worker, info)

    async def heartbeat(self, worker: str) -> bool:
        return await (await self._ready(writes=False)).heartbeat(worker)

    def pulse(self, worker: str) -> Pulse:
        return _Pulse(self, worker)

    async def unregister_worker(self, worker: str, *, threads_run: bool = False) -> None:
        await self._write(lambda memory: memory.unregister_worker(worker, threads_run=threads_run))

    async def bury_workers(self) -> int:
        return await (await self._ready(writes=False)).bury_workers()

    async def tell_shortages(self, worker: str, shortages: Shortages) -> None:
        await (await self._ready(writes=False)).tell_shortages(worker, shortages)

    async def set_aging(self, aging_s: float) -> None:
        await self._write(lambda memory: memory.set_aging(aging_s))

    async def set_share(self, key: str, weight: float) -> None:
        await self._write(lambda memory: memory.set_share(key, weight))

    async def list_shares(self, after: str = "", limit: int = 1_000) -> list[StoredShare]:
        return await self._read(lambda memory: memory.list_shares(after, limit))

    async def learn(self, samples: Sequence[Sample]) -> None:
        await self._write(lambda memory: memory.learn(samples))

    async def read_durations(self, workflow_id: str) -> list[Duration]:
        return await self._read(lambda memory: memory.read_durations(workflow_id))

    async def list_workers(self) -> list[StoredWorker]:
        return await self._read(lambda memory: memory.list_workers())

    # ── the folder as a whole ─────────────────────────────────────────────────────────────────────────────────────

    async def facts(self) -> StoreFacts:
        if not self._is_open:
            return await asyncio.to_thread(facts_on_disk, self.path, self._new_memory())
        workers = len(await self.list_workers())
        return facts_in(self.path, await self._ready(writes=False), workers)

    async def verify(self) -> list[Flaw]:
        return await asyncio.to_thread(find_flaws, self.path, self._new_memory, is_open=self._is_open)

    async def vacuum(self) -> Vacuumed:
        if not self._is_open:
            await self.facts()  # there is a store, and it is not damaged
            await self.open()
            try:
                return await self.vacuum()
            finally:
                await self.close()
        before = sum(sizes_of(self.path).values())
        if not await self.compact():
            raise StoreUnavailable(f"{self.path} could not be compacted: the log says why. Nothing was lost.")
        return Vacuumed(before, sum(sizes_of(self.path).values()))


class _Pulse:
    """A heartbeat that needs no disk: it goes on while that fails, for the memory that is played back then keeps the
    workers. Looks them up anew each time: they end with the store's being open."""

    def __init__(self, store: FileJobStore, worker: str) -> None:
        self._store = store
        self._worker = worker

    def beat(self) -> bool:
        if (workers := self._store._workers) is None:
            raise StoreUnavailable("The store is not open.")
        return workers.beat(self._worker)

    def close(self) -> None:
        pass
