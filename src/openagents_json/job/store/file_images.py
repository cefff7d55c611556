"""A job of a file store as it was at one moment, for a snapshot that is written while jobs go on."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace

from openagents_json.job.store.file_changes import Change, History, Kept, Output, bare
from openagents_json.job.store.memory import MemoryJobStore
from openagents_json.job.store.memory_job import MemoryJob
from openagents_json.job.store.records import HISTORY_ROW_EVENTS


class JobImage:
    """A job as it is now, for a thread to write down while the job itself goes on."""

    __slots__ = ("count", "events", "output", "row")

    def __init__(self, memory: MemoryJobStore, job: MemoryJob) -> None:
        self.row = copy.copy(job)
        for name in job.__slots__:
            value = getattr(job, name)
            if name != "events" and isinstance(value, list | set | dict):
                setattr(self.row, name, copy.copy(value))
        self.events = job.events  # a list that only grows: its first `count` members stay as they are
        self.count = len(job.events)
        self.output = memory._output.all_of(job.id)
        self.row.events = []

    def lines(self) -> Iterable[Change]:
        """The lines that stand for it."""
        job_id = self.row.id
        self.row.new = replace(bare(self.row.new), events=[])
        yield Kept(job=job_id, kept=self.row, events=self.count)
        for first in range(0, self.count, HISTORY_ROW_EVENTS):
            yield History(job=job_id, events=self.events[first : min(first + HISTORY_ROW_EVENTS, self.count)])
        for first in range(0, len(self.output), HISTORY_ROW_EVENTS):
            yield Output(job=job_id, chunks=self.output[first : first + HISTORY_ROW_EVENTS])
