"""The workers of the memory store: they live and die with its process."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

from openagents_json.clock import SECOND_US, Clock
from openagents_json.job.store.memory_grants import MemoryGrants
from openagents_json.job.store.records import StoredWorker, WorkerInfo
from openagents_json.job.store.shortages import Shortages


@dataclass
class _Known:
    """A worker that has registered."""

    info: WorkerInfo
    registered_us: int
    heartbeat_us: int
    lease_until_us: int  # by the steady clock


class MemoryWorkers:
    """Written and read by the verbs of the store, and by the threads that beat for a worker."""

    def __init__(self, clock: Clock, lease_s: float) -> None:
        self._clock = clock
        self._lease_us = round(lease_s * SECOND_US)
        self._lock = threading.Lock()  # a beat must not bring back a worker that has just gone
        self._workers: dict[str, _Known] = {}
        self.rooms: dict[str, str] = {}  # job in the queue → the worker that makes room for it
        self.shortages: dict[str, Shortages] = {}  # what they have told
        self.grants = MemoryGrants()  # theirs; only the event loop looks at it

    def register(self, worker: str, info: WorkerInfo) -> None:
        """It begins to live, or says something else of itself."""
        with self._lock:
            now, known = self._clock.now_us(), self._live(worker)
            since_us = known.registered_us if known else now
            self._workers[worker] = _Known(info, since_us, now, self._clock.steady_us() + self._lease_us)

    def beat(self, worker: str) -> bool:
        """Renew its leases. False when it was taken for dead. Threads may call it."""
        with self._lock:
            if (known := self._live(worker)) is not None:
                known.heartbeat_us = self._clock.now_us()
                known.lease_until_us = self._clock.steady_us() + self._lease_us
            return known is not None

    def make_room(self, job_id: str, worker: str) -> bool:
        """It makes room for a job in the queue, if no other that lives does."""
        other = self.rooms.get(job_id, worker)
        if other != worker and self.is_alive(other):
            return False
        self.rooms[job_id] = worker
        return True

    def forget(self, worker: str) -> None:
        """It is gone. Harmless when it is not there."""
        with self._lock:
            self._workers.pop(worker, None)
        self._let_go(worker)

    def bury(self) -> int:
        """Forget those that are dead; how many."""
        with self._lock:
            dead = [worker for worker in self._workers if self._live(worker) is None]
            for worker in dead:
                del self._workers[worker]
        for worker in dead:
            self._let_go(worker)
        return len(dead)

    def _let_go(self, worker: str) -> None:
        self.grants.forget(worker)
        self.shortages.pop(worker, None)

    def list(self, jobs: Mapping[str, int]) -> list[StoredWorker]:
        """The live ones by the time at which they began, with the number of jobs that each holds."""
        with self._lock:
            ahead_us = self._clock.now_us() - self._clock.steady_us()
            alive = [
                StoredWorker(
                    id, one.info, one.registered_us, one.heartbeat_us, one.lease_until_us + ahead_us, jobs.get(id, 0)
                )
                for id, one in self._workers.items()
                if self._live(id) is not None
            ]
        return sorted(alive, key=lambda one: (one.registered_us, one.id))

    def is_alive(self, worker: str) -> bool:
        """Whether its lease has not ended."""
        return self._live(worker) is not None

    def _live(self, worker: str) -> _Known | None:
        known = self._workers.get(worker)
        return known if known is not None and known.lease_until_us > self._clock.steady_us() else None
