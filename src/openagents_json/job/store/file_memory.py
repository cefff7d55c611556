"""The memory of a file store: a memory store that notes every change, and lets its jobs be written down as they were
at one moment while they go on changing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

import msgspec

from openagents_json.clock import Clock
from openagents_json.job.model import ErrorInfo, JobStatus
from openagents_json.job.store.durations import Duration
from openagents_json.job.store.file_changes import (
    Accepted,
    Accounts,
    AgingSet,
    BucketPut,
    Change,
    Committed,
    Defined,
    Deleted,
    GivenBack,
    LeakDropped,
    Leaked,
    LeakTried,
    Learned,
    Paused,
    PauseLifted,
    Printed,
    Requested,
    Restored,
    ShareSet,
    SlotSet,
    SnapshotHeader,
    Taken,
    ThreadEnded,
    ThreadsForgotten,
    bare,
    encode_change,
)
from openagents_json.job.store.file_images import JobImage
from openagents_json.job.store.file_lines import MAX_CHANGE_BYTES, Stamps, body
from openagents_json.job.store.memory import MemoryJobStore
from openagents_json.job.store.memory_job import MemoryJob
from openagents_json.job.store.output import OutputChunk
from openagents_json.job.store.pauses import Pause, PauseKind
from openagents_json.job.store.records import Commit, Definition, NewJob, Request, StoredLeak

AT_ONCE = 256  # shares or durations in one line of a snapshot


class JournaledMemory(MemoryJobStore):
    """Every mutator notes what it was given before it changes anything."""

    def __init__(self, clock: Clock, *, aging_s: float, lease_s: float) -> None:
        super().__init__(clock, aging_s=aging_s, lease_s=lease_s)
        self.noted: list[bytes] = []  # bodies of lines: of the verb that is being done, taken when it has ended
        self.capture: Capture | None = None  # set while a snapshot is taken
        self._stamps = Stamps()

    def _note(self, change: Change, at_us: int | None = None) -> None:
        stamp = self._stamps.of(self.clock.now_us() if at_us is None else at_us)
        content = body(stamp, encode_change(change))
        if len(content) > MAX_CHANGE_BYTES:
            raise ValueError(f"it takes {len(content):,} bytes, and a line has at most {MAX_CHANGE_BYTES:,}")
        self.noted.append(content)

    def _note_of(self, job: MemoryJob, change: Change, at_us: int | None = None) -> None:
        """Note a change of a job that is there."""
        self._note(change, at_us)
        if self.capture is not None:
            self.capture.keep(job)

    def ready(self) -> None:
        """Make the queue, the timers and the order of ending of jobs that were played back from a snapshot."""
        for job in self._jobs.values():
            if job.limit is not None:
                self._limits.note(job)
            if job.row.share is not None:
                self._shares.note(job)
            if job.row.status == JobStatus.QUEUED and job.owner is None and not job.is_blocked:
                self._enqueue(job)
            if (wakes_us := job.row.wakes_us) is not None:
                self._due.append((wakes_us, job.handle, job.id))
            if job.row.completed_us is not None:
                self._ended.append((job.row.completed_us, job.handle, job.id))
        self._due.sort()  # a sorted list is a heap
        self._ended.sort()

    def forget_threads(self) -> None:
        """No thread that could not be stopped runs any more."""
        for job in self._jobs.values():
            for worker in list(job.abandoned):
                self._forget_threads(job, worker)

    def take_workers(self, other: MemoryJobStore | None) -> None:
        """Go on with the workers and the counters of the memory that this one stands in for."""
        if other is not None:
            self._workers, self._counters = other._workers, other._counters

    # ── the mutators ──────────────────────────────────────────────────────────────────────────────────────────────

    def _accept(self, job: NewJob, handle: int, now: int) -> None:
        self._note_definition(job.definition, now)
        self._note(Accepted(job=job.job_id, handle=handle, new=bare(job)), now)
        super()._accept(job, handle, now)

    def _restore(self, job: MemoryJob) -> None:
        self._note_definition(job.new.definition)
        self._note(Restored(job=job.id, kept=replace(job, new=bare(job.new))))
        super()._restore(job)

    def _note_definition(self, definition: Definition, at_us: int | None = None) -> None:
        if definition.hash not in self._definitions:
            self._note(Defined(hash=definition.hash, document=definition.document.decode()), at_us)

    def _set_aging(self, aging_s: float) -> None:
        self._note(AgingSet(aging_s=aging_s))
        if self.capture is not None:
            for job in self._jobs.values():
                self.capture.keep(job)
        super()._set_aging(aging_s)

    def _set_share(self, key: str, weight: float) -> None:
        self._note(ShareSet(key=key, weight=weight))
        super()._set_share(key, weight)

    def _keep_durations(self, durations: Sequence[Duration]) -> None:
        self._note(Learned(durations=list(durations)))
        super()._keep_durations(durations)

    def _take(self, job: MemoryJob, worker: str, epoch: int) -> None:
        self._note_of(job, Taken(job=job.id, worker=worker, epoch=epoch))
        super()._take(job, worker, epoch)

    def _give_back(self, job: MemoryJob) -> None:
        self._note_of(job, GivenBack(job=job.id))
        super()._give_back(job)

    def _post(self, job: MemoryJob, request: Request) -> None:
        self._note_of(job, Requested(job=job.id, request=request))
        super()._post(job, request)

    def _record(self, job: MemoryJob, commit: Commit, now: int) -> None:
        self._note_of(job, Committed.of(commit), now)
        super()._record(job, commit, now)

    def _set_slot(self, job: MemoryJob, has_slot: bool) -> None:
        self._note_of(job, SlotSet(job=job.id, has_slot=has_slot))
        super()._set_slot(job, has_slot)

    def _count_thread_out(self, job: MemoryJob, worker: str) -> None:
        self._note_of(job, ThreadEnded(job=job.id, worker=worker))
        super()._count_thread_out(job, worker)

    def _forget_threads(self, job: MemoryJob, worker: str) -> None:
        self._note_of(job, ThreadsForgotten(job=job.id, worker=worker))
        super()._forget_threads(job, worker)

    def _keep_output(self, job: MemoryJob, path: str, attempt: int, chunks: Sequence[OutputChunk], after: int) -> None:
        self._note_of(job, Printed(job=job.id, path=path, attempt=attempt, after=after, chunks=list(chunks)))
        super()._keep_output(job, path, attempt, chunks, after)

    def _keep_leak(self, leak: StoredLeak) -> None:
        self._note(Leaked(job=leak.job_id, leak=leak))
        super()._keep_leak(leak)

    def _note_leak(self, key: int, error: ErrorInfo) -> bool:
        self._note(LeakTried(key=key, error=error))
        return super()._note_leak(key, error)

    def _drop_leak(self, key: int) -> bool:
        self._note(LeakDropped(key=key))
        return super()._drop_leak(key)

    def _pause(self, pause: Pause) -> None:
        self._note(Paused(pause=pause))
        super()._pause(pause)

    def _lift(self, kind: PauseKind, name: str) -> None:
        self._note(PauseLifted(kind=kind, name=name))
        super()._lift(kind, name)

    def _put_bucket(self, key: str, full_us: int, now: int) -> None:
        self._note(BucketPut(key=key, full_us=full_us), now)
        super()._put_bucket(key, full_us, now)

    def _forget(self, job: MemoryJob) -> None:
        self._note_of(job, Deleted(job=job.id))
        super()._forget(job)


class Capture:
    """All jobs, definitions, leaks and the rest as they are when this is made. A job that is to change before its turn
    has come is copied first (`keep`), so what `batches` gives is of one moment."""

    def __init__(self, memory: JournaledMemory, format: int) -> None:
        self._memory = memory
        self._left = dict(memory._jobs)  # whose turn has not come
        self._early: dict[str, JobImage] = {}  # of those, the ones that have changed meanwhile
        self._definitions = dict(memory._definitions)
        self._leaks = memory._leaks.list(0, len(memory._leaks))
        self._pauses = memory._pauses.all()
        self._buckets = dict(memory._buckets)
        self._accounts = [replace(one) for one in memory._shares.accounts.values()]
        self._durations = memory._durations.all()
        self.jobs = len(self._left)
        self._header = SnapshotHeader(
            format=format,
            segment=0,
            aging_s=memory.aging_s,
            lines_before=0,
            handle=memory._handle,
            sequence=memory._sequence,
            leak_key=memory._leaks.last_key,
            output_sequence=memory._output.sequence,
        )

    def keep(self, job: MemoryJob) -> None:
        """The job is about to change."""
        if job.id in self._left and job.id not in self._early:
            self._early[job.id] = JobImage(self._memory, job)

    def header(self, segment: int, lines_before: int) -> SnapshotHeader:
        """The first line of the snapshot that goes before that journal file."""
        return msgspec.structs.replace(self._header, segment=segment, lines_before=lines_before)

    def definitions(self) -> Iterable[Change]:
        """The lines that come before the jobs."""
        return (Defined(hash=key, document=document.decode()) for key, document in self._definitions.items())

    def others(self) -> Iterable[Change]:
        """The lines that come after them: leaks, pauses, buckets, shares and what was learned."""
        yield from (Leaked(job=leak.job_id, leak=leak) for leak in self._leaks)
        yield from (Paused(pause=pause) for pause in self._pauses)
        yield from (BucketPut(key=key, full_us=full_us) for key, full_us in self._buckets.items())
        for start in range(0, len(self._accounts), AT_ONCE):
            yield Accounts(accounts=self._accounts[start : start + AT_ONCE])
        for start in range(0, len(self._durations), AT_ONCE):
            yield Learned(durations=self._durations[start : start + AT_ONCE])

    def batches(self, size: int) -> Iterator[list[JobImage]]:
        """The jobs, in the order of their handles, so many at a time; each batch is made when it is asked for."""
        ids = iter(list(self._left))
        while batch := list(islice(ids, size)):
            yield [self._turn(job_id) for job_id in batch]

    def _turn(self, job_id: str) -> JobImage:
        job = self._left.pop(job_id)
        early = self._early.pop(job_id, None)
        return early or JobImage(self._memory, job)
