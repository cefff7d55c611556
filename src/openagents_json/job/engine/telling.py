"""A worker tells the store what steps of its jobs are short of: only admission knows, and that is in its process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from openagents_json.clock import SECOND_US
from openagents_json.job.store.shortages import MAX_JOBS, Shortages

if TYPE_CHECKING:
    from openagents_json.job.engine.worker import Worker

TELL_S = 2.0  # how often
PATIENCE_US = SECOND_US  # a step that has waited for less is not worth telling of


class Telling:
    """One per worker."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._told: Shortages | None = {}  # None: nobody knows what the store has

    def forget(self) -> None:
        """The store may have forgotten what it was told."""
        self._told = None

    async def tell(self) -> None:
        """A loop of the worker. Nothing is written while nothing has changed."""
        worker = self._worker
        await worker.clock.sleep(TELL_S)
        until_us = worker.clock.now_us() - PATIENCE_US
        waiting = worker.admission.first_waiting(MAX_JOBS, until_us)
        found = {runner.job_id: list(short) for runner in waiting if (short := worker.admission.why(runner))}
        if found != self._told:
            await worker.store.tell_shortages(worker.id, found)
            self._told = found
