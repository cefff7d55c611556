"""The limits of the memory store: who has a slot of a key, and who waits for one."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from openagents_json.job.model import JobStatus
from openagents_json.job.store.limits import HOLDERS_SHOWN, REPLACED, Limit, Place
from openagents_json.job.store.records import JobRow


class Limited(Protocol):
    """What is needed of a job here; the store's own."""

    handle: int
    row: JobRow
    sort_at: int
    owner: str | None
    has_slot: bool
    request_keys: set[str]

    @property
    def id(self) -> str: ...

    @property
    def limit(self) -> Limit | None: ...

    @property
    def is_blocked(self) -> bool: ...


@dataclass(slots=True)
class _Key:
    """The jobs of one key."""

    held: dict[int, Limited] = field(default_factory=dict)  # those with a slot, by handle
    blocked: dict[int, Limited] = field(default_factory=dict)  # those that wait for one, by handle
    turns: list[Place] = field(default_factory=list)  # heap of the blocked, whose stale entries are passed over


class MemoryLimits:
    """`limits.Book`. `set_slot` is the store's: it gives a job a slot or takes it, and says so with `note`."""

    def __init__(self, set_slot: Callable[[str, bool], None]) -> None:
        self._set_slot = set_slot
        self._keys: dict[str, _Key] = {}
        self._live: dict[int, Limited] = {}  # jobs that have a slot or are blocked, by handle

    def note(self, job: Limited) -> None:
        """A job's row, place or slot has changed: note where it stands now."""
        assert job.limit is not None
        of_key = self._keys.setdefault(job.limit.key, _Key())
        for known, belongs in (
            (of_key.held, job.has_slot),
            (of_key.blocked, job.is_blocked),
            (self._live, job.has_slot or job.is_blocked),
        ):
            if belongs:
                known[job.handle] = job
            else:
                known.pop(job.handle, None)
        if job.is_blocked:
            heapq.heappush(of_key.turns, Place(job.sort_at, job.handle))
        elif not of_key.held and not of_key.blocked:
            del self._keys[job.limit.key]

    def job(self, handle: int) -> Limited:
        """A job that has a slot or is blocked."""
        return self._live[handle]

    def held(self, key: str) -> int:
        return len(self._keys[key].held) if key in self._keys else 0

    def holders(self, key: str) -> list[str]:
        held = self._keys[key].held if key in self._keys else {}
        return [held[handle].id for handle in heapq.nsmallest(HOLDERS_SHOWN, held)]

    def first_blocked(self, key: str) -> tuple[Place, int] | None:
        of_key = self._keys.get(key, _Key())
        while of_key.turns:
            first = of_key.turns[0]
            job = of_key.blocked.get(first.handle)
            if job is not None and job.limit is not None and job.sort_at == first.sort_at:
                return first, job.limit.limit
            heapq.heappop(of_key.turns)
        return None

    def last_unbegun(self, key: str) -> Place | None:
        held = self._keys[key].held.values() if key in self._keys else ()
        return max((Place(job.sort_at, job.handle) for job in held if _may_wait(job)), default=None)

    def live(self, key: str) -> list[int]:
        of_key = self._keys.get(key, _Key())
        jobs = [*of_key.held.values(), *of_key.blocked.values()]
        return sorted(job.handle for job in jobs if not job.row.cancel_requested and REPLACED not in job.request_keys)

    def give(self, handle: int) -> None:
        self._set_slot(self._live[handle].id, True)

    def take(self, handle: int) -> None:
        self._set_slot(self._live[handle].id, False)


def _may_wait(job: Limited) -> bool:
    """Whether it could as well be blocked."""
    limit, is_queued = job.limit, job.row.status == JobStatus.QUEUED and job.owner is None
    if limit is None or not is_queued or limit.overflow == "reject":
        return False
    return job.row.started_us is None or limit.hold == "running"
