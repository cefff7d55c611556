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
        self._told: Shortages = {}

    def forget(self) -> None:
        """The store may have forgotten what it was told."""
        self._told = {}

    async def tell(self) -> None:
        """A loop of the worker. Nothing is written while nothing has changed."""
        worker = self._worker
        await worker.clock.sleep(TELL_S)
        until_us = worker.clock.now_us() - PATIENCE_US
        found = {}
        for runner in worker.admission.first_waiting(MAX_JOBS):
            short = worker.admission.why(runner)
            if any(one.since_us <= until_us for one in short):
                found[runner.job_id] = list(short)
        if found != self._told:
            await worker.store.tell_shortages(worker.id, found)
            self._told = found
