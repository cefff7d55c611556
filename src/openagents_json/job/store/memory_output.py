"""The output of attempts in the memory store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from openagents_json.job.store.output import JOB_BYTES, ROOM_BYTES, OutputChunk, StoredOutput, is_cut, is_within


@dataclass(slots=True)
class _JobOutput:
    """What is kept of one job: chunks by (path, attempt), the oldest attempt first, and their bytes."""

    attempts: dict[tuple[str, int], list[StoredOutput]] = field(default_factory=dict)
    total: int = 0


class MemoryOutput:
    """Written and read by the verbs of the store only."""

    def __init__(self) -> None:
        self._jobs: dict[str, _JobOutput] = {}
        self.sequence = 0  # of the last chunk that was stored

    def append(self, job_id: str, path: str, attempt: int, chunks: Sequence[OutputChunk], after: int) -> None:
        """Keep chunks of a job that is there, under sequences after `after`."""
        self.sequence = after
        job = self._jobs.setdefault(job_id, _JobOutput())
        kept = job.attempts.setdefault((path, attempt), [])
        for one in chunks:
            if not kept or one.first >= kept[-1].last:
                self.sequence += 1
                kept.append(StoredOutput(self.sequence, path, attempt, one.first, one.last, 0, list(one.pieces)))
                job.total += one.last - one.first
        for old in [old for old in kept if is_cut(old.first, old.last, kept[-1].last)]:
            kept.remove(old)
            job.total -= old.last - old.first
        if job.total > JOB_BYTES:
            while job.total > JOB_BYTES - ROOM_BYTES:
                oldest = next(iter(job.attempts))
                job.total -= sum(one.last - one.first for one in job.attempts.pop(oldest))

    def read(self, job_id: str, path: str | None, attempt: int | None, after: int, limit: int) -> list[StoredOutput]:
        """As the verb of the store says."""
        found: list[StoredOutput] = []
        for (at, number), chunks in self._jobs.get(job_id, _JobOutput()).attempts.items():
            if is_within(at, path) and attempt in (None, number):
                end = 0
                for one in chunks:
                    if one.sequence > after:
                        found.append(replace(one, cut=one.first - end))
                    end = one.last
        return sorted(found, key=lambda one: one.sequence)[:limit]

    def all_of(self, job_id: str) -> list[StoredOutput]:
        """Everything that is kept of a job, the oldest attempt first."""
        job = self._jobs.get(job_id)
        return [] if job is None else [one for chunks in job.attempts.values() for one in chunks]

    def restore(self, job_id: str, chunks: Sequence[StoredOutput]) -> None:
        """Keep what `all_of` gave."""
        job = self._jobs.setdefault(job_id, _JobOutput())
        for one in chunks:
            job.attempts.setdefault((one.path, one.attempt), []).append(one)
            job.total += one.last - one.first

    def forget(self, job_id: str) -> None:
        """The job is deleted."""
        self._jobs.pop(job_id, None)
