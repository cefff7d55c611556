"""What a worker does now and then for the store as a whole: old jobs are deleted, leaks are tried again, and
it is told how long steps and jobs take."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from openagents_json.clock import SECOND_US
from openagents_json.job.engine.calls import release_leak

if TYPE_CHECKING:
    from openagents_json.job.engine.worker import Worker

RETAIN_S = 3_600.0  # how often old jobs are deleted
RETAIN_BATCH = 500
LEAKS_S = 3_600.0  # how often leaks are tried again
LEARN_S = 5.0  # how often the store is told how long steps and jobs took
LEAKS_AT_ONCE = 100  # tried again in one round; the next round goes on behind them

logger = logging.getLogger("openagents_json.worker")


class Housekeeping:
    """One per worker."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._last_leak = 0  # key of the last leak that was looked at

    @property
    def loops(self) -> tuple[Callable[[], Coroutine[Any, Any, None]], ...]:
        """What the worker does again and again."""
        return self._retain, self._tend_leaks, self._learn

    async def _retain(self) -> None:
        days = self._worker.settings.job_retention_days
        if days is not None:
            await self.delete_final(days)
        await self._worker.clock.sleep(RETAIN_S)

    async def _tend_leaks(self) -> None:
        await self.retry_leaks()
        await self._worker.clock.sleep(LEAKS_S)

    async def _learn(self) -> None:
        await self._worker.clock.sleep(LEARN_S)
        await self.tell_durations()

    async def tell_durations(self) -> None:
        """Tell the store how long steps and jobs took since it was told last. What is lost is lost."""
        if samples := self._worker.seen.take():
            await self._worker.store.learn(samples)

    async def retry_leaks(self) -> None:
        """Try to release what jobs could not: each leak once whose component is here, one at a time."""
        worker = self._worker
        leaks = await worker.store.list_leaks(self._last_leak, LEAKS_AT_ONCE)
        for leak in leaks:
            self._last_leak = leak.key
            if leak.release in worker.components and worker.admission.fits(worker.needs_of(leak.release, None)):
                is_gone = await release_leak(worker, leak)
                what = "was released" if is_gone else "still cannot be released"
                logger.info("leak %d (%s) of job %s %s", leak.key, leak.name, leak.job_id, what)
        if len(leaks) < LEAKS_AT_ONCE:
            self._last_leak = 0

    async def delete_final(self, days: float) -> int:
        """Delete jobs that became final more than `days` ago, in batches that let other commits in between: each is one
        transaction of `RETAIN_BATCH` jobs at most, and ends after `DELETE_S`."""
        before_us = self._worker.clock.now_us() - round(days * 86_400 * SECOND_US)
        total = 0
        while deleted := await self._worker.store.delete_final(before_us, RETAIN_BATCH):
            total += deleted
            await asyncio.sleep(0)
        return total
