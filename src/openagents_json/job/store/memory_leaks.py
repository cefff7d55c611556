"""The leaks of the memory store."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from openagents_json.job.machine import Leak
from openagents_json.job.model import ErrorInfo
from openagents_json.job.store.base import StoredLeak


class MemoryLeaks:
    """Written and read by the verbs of the store only."""

    def __init__(self) -> None:
        self._leaks: dict[int, StoredLeak] = {}
        self._key = 0

    def __len__(self) -> int:
        return len(self._leaks)

    def add(self, job_id: str, workflow_id: str, leaks: Iterable[Leak], now_us: int) -> None:
        """Keep what a commit gives up."""
        for leak in leaks:
            self._key += 1
            self._leaks[self._key] = StoredLeak(
                self._key, job_id, leak.id, workflow_id, leak.path, leak.name, leak.release, leak.inputs, leak.error,
                now_us, 0,
            )  # fmt: skip

    def list(self, after: int, limit: int) -> list[StoredLeak]:
        """Those with greater keys, the oldest first."""
        return [leak for key, leak in self._leaks.items() if key > after][:limit]

    def note(self, key: int, error: ErrorInfo) -> bool:
        """One more try has failed."""
        if (leak := self._leaks.get(key)) is None:
            return False
        self._leaks[key] = replace(leak, error=error, tries=leak.tries + 1)
        return True

    def drop(self, key: int) -> bool:
        """It is gone."""
        return self._leaks.pop(key, None) is not None
