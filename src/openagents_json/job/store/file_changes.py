"""What the file store writes down: one kind of change for each mutator of the memory store, and how it is played back.

A new mutator takes a class here, with what the mutator is given, and a method in `JournaledMemory`, which notes it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import lru_cache
from typing import Any, ClassVar

import msgspec

from openagents_json.job.events import Event
from openagents_json.job.model import ErrorInfo, JobStatus
from openagents_json.job.store.durations import Duration
from openagents_json.job.store.memory import MemoryJobStore
from openagents_json.job.store.memory_job import MemoryJob
from openagents_json.job.store.output import OutputChunk, StoredOutput
from openagents_json.job.store.pauses import Pause, PauseKind
from openagents_json.job.store.records import (
    Claim,
    Commit,
    Definition,
    JobRow,
    NewJob,
    Request,
    StoredLeak,
)
from openagents_json.job.store.shares import Account


class Misfit(Exception):
    """A change does not fit what stands before it: something between them is missing."""


class Change(msgspec.Struct, tag_field="type", omit_defaults=True, kw_only=True):
    """A line of the journal or of a snapshot. The fields here are those of the line (`file_lines`)."""

    n: int = 0
    durable: int | None = None
    at: str = ""
    joined: bool = False
    more: bool = False

    is_header: ClassVar[bool] = False

    @property
    def job_id(self) -> str | None:
        """The job that it is about."""
        return getattr(self, "job", None)

    def apply(self, memory: MemoryJobStore, at_us: int) -> None:
        """Do to the memory what was done when it was written. `Misfit` when that cannot be."""


# ── the changes of the journal ────────────────────────────────────────────────────────────────────────────────────


class Defined(Change, tag="defined"):
    """A definition, before the first job that was made from it."""

    hash: str
    document: str

    def apply(self, memory: MemoryJobStore, at_us: int) -> None:
        memory._definitions[self.hash] = self.document.encode()


class Accepted(Change, tag="accepted"):
    """A job was created. Its definition stands without the document."""

    job: str
    handle: int
    new: NewJob

    def apply(self, memory: MemoryJobStore, at_us: int) -> None:
        if self.job in memory._jobs:
            raise Misfit(f"job {self.job} is there already")
        MemoryJobStore._accept(memory, with_document(memory, self.new), self.handle, at_us)


class AgingSet(Change, tag="aging"):
    """A rank is worth so much waiting from now on."""

    aging_s: float

    def apply(self, memory: MemoryJobStore, at_us: int) -> None:
        MemoryJobStore._set_aging(memory, self.aging_s)


class ShareSet(Change, tag="share"):
    """A share has that weight from now on."""

    key: str
    weight: float

    def apply(self, memory: MemoryJobStore, at_us: int) -> None:
        MemoryJobStore._set_share(memory, self.key, self.weight)


class Learned(Change, tag="learned"):
    """What is known from now on of how long some steps and jobs take. Also in snapshots."""

    durations: list[Duration]

    def apply(self, memory: MemoryJobStore, at_us: int) -> None:
        MemoryJobStore._keep_durations(memory, self.durations)


class Restored(Change, tag="restored"):
    """A job came from another store, whole. Its definition stands without the document."""

    job: str
    kept: MemoryJob

    def apply(self, memory: MemoryJobStore, at_us: int) -> None:
        if self.job in memory._jobs:
            raise Misfit(f"job {self.job} is there already")
        self.kept.new = with_document(memory, self.kept.new)
        MemoryJobStore._restore(memory, self.kept)


class Taken(Change, tag="taken"):
    """A lease began."""

    job: str
    worker: str
    epoch: int

    def apply(self, memory: MemoryJobStore, at_us: int) -> None:
        job = job_of(memory, self.job)
        if self.epoch <= job.epoch:
            raise Misfit(f"job {self.job} is in epoch {job.epoch} already")
        MemoryJobStore._take(memory, job, self.worker, self.epoch)


class GivenBack(Change, tag="given_back"):
    """A lease ended with nothing recorded."""

    job: str

    def apply(self, memory: MemoryJobStore, at_us: int) -> None:
        MemoryJobStore._give_back(memory, job_of(memory, self.job))


class Requested(Change, tag="requested"):
    """A request came into the inbox."""

    job: str
    request: Request

    def apply(self, memory: MemoryJobStore, at_us: int) -> None:
        MemoryJobStore._post(memory, job_of(memory, self.job), self.request)


class Committed(Change, tag="committed"):
    """The job's own part of a commit: its events and its row after them."""

    job: str
    worker: str
    epoch: int
    expected: int
    events: list[Event]
    row: JobRow
    previous_status: JobStatus
    drained: list[int] = []
    abandoned: int = 0
    snapshot: bytes | None = None

    @classmethod
    def of(cls, commit: Commit) -> Committed:
        return cls(
            job=commit.claim.job_id,
            worker=commit.claim.owner,
            epoch=commit.claim.epoch,
            expected=commit.expected,
            events=list(commit.events),
            row=commit.row,
            previous_status=commit.previous_status,
            drained=list(commit.drained),
            abandoned=commit.abandoned,
            snapshot=commit.snapshot,
        )

    def apply(self, memory: MemoryJobStore, at_us: int) -> None:
        job = job_of(memory, self.job)
        if job.row.last_event != self.expected:
            raise Misfit(f"job {self.job} has {job.row.last_event} events, and this follows event {self.expected}")
        content_hash = job.new.definition.hash
        claim = Claim(
            self.job, job.handle, self.worker, self.epoch, content_hash, self.expected, None, None, [], []
        )  # fmt: skip
        MemoryJobStore._record(
            memory, job,
            Commit(
                claim, self.expected, self.events, self.row, self.previous_status, self.drained, self.snapshot,
                self.abandoned,
            ),
            at_us,
        )  # fmt: skip


class SlotSet(Change, tag="slot"):
    """A job got a slot of its limit, or lost it."""

    job: str
    has_slot: bool

    def apply(self, memory: MemoryJobStore, at_us: int) -> None:
        job = job_of(memory, self.job)
        if job.limit is None:
            raise Misfit(f"job {self.job} has no limit")
        MemoryJobStore._set_slot(memory, job, self.has_slot)


class ThreadEnded(Change, tag="thread_ended"):
    """One of the threads that could not be stopped has ended."""

    job: str
    worker: str

    def apply(self, memory: MemoryJobStore, at_us: int) -> None:
        MemoryJobStore._count_thread_out(memory, _abandoned_by(self.worker, memory, self.job), self.worker)


class ThreadsForgotten(Change, tag="threads_forgotten"):
    """No thread that this worker could not stop runs any more: it went away, or its process has ended."""

    job: str
    worker: str

    def apply(self, memory: MemoryJobStore, at_us: int) -> None:
        MemoryJobStore._forget_threads(memory, _abandoned_by(self.worker, memory, self.job), self.worker)


class Printed(Change, tag="printed"):
    """Output of an attempt."""

    job: str
    path: str
    attempt: int
    after: int
    chunks: list[OutputChunk]

    def apply(self, memory: MemoryJobStore, at_us: int) -> None:
        MemoryJobStore._keep_output(memory, job_of(memory, self.job), self.path, self.attempt, self.chunks, self.after)


class Leaked(Change, tag="leaked"):
    """A resource that could not be released."""

    job: str
    leak: StoredLeak

    def apply(self, memory: MemoryJobStore, at_us: int) -> None:
        MemoryJobStore._keep_leak(memory, self.leak)


class LeakTried(Change, tag="leak_tried"):
    """A leak was tried again in vain."""

    key: int
    error: ErrorInfo

    def apply(self, memory: MemoryJobStore, at_us: int) -> None:
        if not MemoryJobStore._note_leak(memory, self.key, self.error):
            raise Misfit(f"leak {self.key} is not there")


class LeakDropped(Change, tag="leak_dropped"):
    """A leak is gone."""

    key: int

    def apply(self, memory: MemoryJobStore, at_us: int) -> None:
        if not MemoryJobStore._drop_leak(memory, self.key):
            raise Misfit(f"leak {self.key} is not there")


class Paused(Change, tag="paused"):
    """A component or a workflow is paused. Stands in snapshots, too."""

    pause: Pause

    def apply(self, memory: MemoryJobStore, at_us: int) -> None:
        MemoryJobStore._pause(memory, self.pause)


class PauseLifted(Change, tag="pause_lifted"):
    """One is paused no more."""

    kind: PauseKind
    name: str

    def apply(self, memory: MemoryJobStore, at_us: int) -> None:
        if not memory._pauses.has(self.kind, self.name):
            raise Misfit(f"{self.kind} {self.name} is not paused")
        MemoryJobStore._lift(memory, self.kind, self.name)


class BucketPut(Change, tag="bucket"):
    """Tokens of a rate were taken: its bucket will be full at that time. Stands in snapshots, too."""

    key: str
    full_us: int

    def apply(self, memory: MemoryJobStore, at_us: int) -> None:
        MemoryJobStore._put_bucket(memory, self.key, self.full_us, at_us)


class Deleted(Change, tag="deleted"):
    """A job was deleted."""

    job: str

    def apply(self, memory: MemoryJobStore, at_us: int) -> None:
        MemoryJobStore._forget(memory, job_of(memory, self.job))


class Closed(Change, tag="closed"):
    """The store was closed: all before it was on the disk."""


# ── headers, and what stands in snapshots only ────────────────────────────────────────────────────────────────────


class JournalHeader(Change, tag="journal"):
    """The first line of a journal file. Of the file before it, only so many bytes count. `aging_s` holds in the first
    file of all; later on it is the snapshot's, or the last one that was set."""

    format: int
    segment: int
    aging_s: float
    after_bytes: int | None = None

    is_header: ClassVar[bool] = True

    def apply(self, memory: MemoryJobStore, at_us: int) -> None:
        if self.after_bytes is None:
            memory.aging_s = self.aging_s


class SnapshotHeader(Change, tag="snapshot"):
    """The first line of a snapshot: it stands for all journal files before `segment`. The counters go on from here."""

    format: int
    segment: int
    aging_s: float
    lines_before: int
    handle: int
    sequence: int
    leak_key: int
    output_sequence: int

    is_header: ClassVar[bool] = True

    def apply(self, memory: MemoryJobStore, at_us: int) -> None:
        memory.aging_s, memory._handle, memory._sequence = self.aging_s, self.handle, self.sequence
        memory._output.sequence = self.output_sequence
        memory._leaks.last_key = self.leak_key


class Kept(Change, tag="job"):
    """A job as it was when the snapshot was taken, without its events and output, which follow."""

    job: str
    kept: MemoryJob
    events: int  # how many follow

    def apply(self, memory: MemoryJobStore, at_us: int) -> None:
        self.kept.new = with_document(memory, self.kept.new)
        memory._add(self.kept)


class History(Change, tag="history"):
    """Some events of the job, in order."""

    job: str
    events: list[Event]

    def apply(self, memory: MemoryJobStore, at_us: int) -> None:
        job = job_of(memory, self.job)
        if self.events and self.events[0].number != len(job.events) + 1:
            raise Misfit(f"job {self.job} has {len(job.events)} events, and this begins at {self.events[0].number}")
        job.events.extend(self.events)


class Output(Change, tag="output"):
    """Some of the output of the job, attempt by attempt."""

    job: str
    chunks: list[StoredOutput]

    def apply(self, memory: MemoryJobStore, at_us: int) -> None:
        job_of(memory, self.job)
        memory._output.restore(self.job, self.chunks)


class Accounts(Change, tag="accounts"):
    """The accounts of some shares."""

    accounts: list[Account]

    def apply(self, memory: MemoryJobStore, at_us: int) -> None:
        memory._shares.accounts |= {one.key: one for one in self.accounts}


class End(Change, tag="end"):
    """The last line of a snapshot."""

    jobs: int


AnyChange = (
    Defined
    | Accepted
    | AgingSet
    | ShareSet
    | Learned
    | Restored
    | Taken
    | GivenBack
    | Requested
    | Committed
    | SlotSet
    | ThreadEnded
    | ThreadsForgotten
    | Printed
    | Leaked
    | LeakTried
    | LeakDropped
    | Paused
    | PauseLifted
    | BucketPut
    | Deleted
    | Closed
    | JournalHeader
    | SnapshotHeader
    | Kept
    | History
    | Output
    | Accounts
    | End
)


# A Counter is the only type of a field that is none of JSON.
_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(AnyChange, dec_hook=lambda _, value: Counter(value))
_encoder = msgspec.json.Encoder()


def encode_change(change: Change) -> bytes:
    """The JSON object of a change, without what belongs to its line."""
    return _encoder.encode(change)


def decode_change(line: bytes) -> Change:
    """The change on a line. `msgspec.DecodeError` for one that this version does not know."""
    found: Change = _decoder.decode(line)
    return found


def job_of(memory: MemoryJobStore, job_id: str) -> MemoryJob:
    """A job that has to be there."""
    job = memory._jobs.get(job_id)
    if job is None:
        raise Misfit(f"job {job_id} is not there")
    return job


def _abandoned_by(worker: str, memory: MemoryJobStore, job_id: str) -> MemoryJob:
    """A job that has to have threads which this worker could not stop."""
    job = job_of(memory, job_id)
    if not job.abandoned[worker]:
        raise Misfit(f"job {job_id} has no threads of {worker}")
    return job


@lru_cache(maxsize=4_096)
def _without_document(definition: Definition) -> Definition:
    return replace(definition, document=b"")


def bare(new: NewJob) -> NewJob:
    """The same with its definition named only: that stands in a line of its own."""
    return replace(new, definition=_without_document(new.definition))


def with_document(memory: MemoryJobStore, new: NewJob) -> NewJob:
    """The reverse of `bare`."""
    document = memory._definitions.get(new.definition.hash)
    if document is None:
        raise Misfit(f"the definition of job {new.job_id} is not there")
    return replace(new, definition=replace(new.definition, document=document))
