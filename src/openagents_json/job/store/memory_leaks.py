"""The leaks of the memory store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from openagents_json.job.machine import Leak
from openagents_json.job.model import ErrorInfo
from openagents_json.job.store.records import StoredLeak


class MemoryLeaks:
    """Written and read by the verbs of the store only."""

    def __init__(self) -> None:
        self._leaks: dict[int, StoredLeak] = {}
        self.last_key = 0  # the greatest that was ever given

    def __len__(self) -> int:
        return len(self._leaks)

    def __contains__(self, key: int) -> bool:
        return key in self._leaks

    def made_of(self, job_id: str, workflow_id: str, leaks: Sequence[Leak], now_us: int) -> Iterator[StoredLeak]:
        """What a commit gives up, with the keys that are next: each is to be added before the next one is made."""
        for leak in leaks:
            yield StoredLeak(
                self.last_key + 1, job_id, leak.id, workflow_id, leak.path, leak.name, leak.release, leak.inputs,
                leak.error, now_us, 0,
            )  # fmt: skip

    def add(self, leak: StoredLeak) -> None:
        """Keep one; its key is greater than those before."""
        self.last_key = max(self.last_key, leak.key)
        self._leaks[leak.key] = leak

    def list(self, after: int, limit: int) -> list[StoredLeak]:
        """Those with greater keys, the oldest first."""
        return [leak for key, leak in self._leaks.items() if key > after][:limit]

    def of(self, job_id: str) -> Sequence[StoredLeak]:
        """Those of a job."""
        return [leak for leak in self._leaks.values() if leak.job_id == job_id]

    def has(self, job_id: str, resource_id: str) -> bool:
        """Whether that resource of the job has leaked."""
        return any(leak.resource_id == resource_id for leak in self.of(job_id))

    def note(self, key: int, error: ErrorInfo) -> bool:
        """One more try has failed."""
        if (leak := self._leaks.get(key)) is None:
            return False
        self._leaks[key] = replace(leak, error=error, tries=leak.tries + 1)
        return True

    def drop(self, key: int) -> bool:
        """It is gone."""
        return self._leaks.pop(key, None) is not None
