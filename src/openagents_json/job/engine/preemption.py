"""Making room: where every job slot of a worker is taken, one of its jobs yields to a more urgent one in the queue; and
where a step of an urgent job waits for a resource, an attempt that is `preemptible` ends for it.

Who yields is a pure rule (`who_yields`). It goes back into the queue at its next step boundary, or at once where all
that it runs is `preemptible`; nothing that is recorded is done again. Only the first in the queue is made room for, so
that the slot which comes free is taken in the order of the queue, as always: nobody has to keep it for that job.

Why nothing swings to and fro: a job yields to one of a higher rank only, and so never takes back the slot that it gave;
for each stay of a job in the queue one job yields, in all workers together (`JobStore.make_room`); and each yields at
most `max_preemptions` times.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeVar

from openagents_json.job.engine.place import Standing
from openagents_json.job.machine import PREEMPTED
from openagents_json.job.model import JobStatus
from openagents_json.job.store.records import Waiting

if TYPE_CHECKING:
    from openagents_json.job.engine.attempt import Attempt
    from openagents_json.job.engine.runner import Runner
    from openagents_json.job.engine.worker import Worker

RECONSIDER_S = 1.0  # how often it is looked again: who runs would stand further back in the queue as time goes by

T = TypeVar("T")


def may_yield(running: Standing, waiting: Waiting, max_preemptions: int) -> bool:
    """Whether the waiting job is more urgent by its rank and by its place, and the running one has not yielded too
    often."""
    is_urgent = running.rank < waiting.rank and waiting.sort_at < running.sort_at
    return is_urgent and running.preempted < max_preemptions


def who_yields(running: Iterable[tuple[T, Standing]], waiting: Waiting, max_preemptions: int) -> T | None:
    """The lowest of the jobs that may yield, of those of one rank the last in the order of the queue, and of those that
    stand alike the one that is given last."""
    able = [(one, standing) for one, standing in running if may_yield(standing, waiting, max_preemptions)]
    return min(reversed(able), key=lambda one: (one[1].rank, -one[1].sort_at))[0] if able else None


class Preemption:
    """Of one worker."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._asked: dict[str, Runner] = {}  # job in the queue → who is to make room for it, and has not yet
        self._made: dict[str, str] = {}  # job in the queue → id of the one that has; as many as there are job slots
        self._preemptible: dict[Attempt, Runner] = {}  # attempts that are on

    async def make_room(self) -> None:
        """Every job slot is taken: let a job yield to the first in the queue, if it may."""
        worker = self._worker
        if not worker.settings.max_preemptions or not any(runner.if_it_yielded for runner in worker.runners.values()):
            return
        waiting = await worker.store.first_waiting(worker.offers)
        if waiting is None or waiting.room_by == worker.id:
            return
        running = ((runner, runner.if_it_yielded) for runner in worker.runners.values())
        able = ((runner, standing) for runner, standing in running if standing is not None)
        runner = who_yields(able, waiting, worker.settings.max_preemptions)
        if runner is not None and await worker.store.make_room(waiting.job_id, worker.id) and runner.if_it_yielded:
            self._asked[waiting.job_id] = runner
            runner.make_room_for(waiting.job_id)
            for attempt in [attempt for attempt, other in self._preemptible.items() if other is runner]:
                attempt.stop(PREEMPTED, worker.settings.cancel_grace_s, by=waiting.job_id)

    def yielded(self, runner: Runner) -> None:
        """A runner has let go of its job, or come to its end."""
        for job_id in [job_id for job_id, asked in self._asked.items() if asked is runner]:
            del self._asked[job_id]
            if runner.made_room:
                self._made[job_id] = runner.job_id
        while len(self._made) > self._worker.settings.max_jobs:  # others have taken those that wait
            del self._made[next(iter(self._made))]

    def claimed(self, job_id: str) -> str | None:
        """The worker has taken a job from the queue: the job that made room for it. Nobody has to any more."""
        self._withdraw(job_id)
        return self._made.pop(job_id, None)

    async def look(self) -> None:
        """Others have written: perhaps they have taken what we make room for."""
        for job_id in list(self._asked):
            summary = await self._worker.store.read_summary(job_id)
            if summary is None or summary.status != JobStatus.QUEUED:
                self._withdraw(job_id)

    def _withdraw(self, job_id: str) -> None:
        if (runner := self._asked.pop(job_id, None)) is not None:
            runner.stay(job_id)

    async def reconsider(self) -> None:
        """A loop of the worker."""
        await self._worker.clock.sleep(RECONSIDER_S)
        self._worker.reconsider_queue()

    # ── for steps that wait for a resource ────────────────────────────────────────────────────────────────────────────

    def began(self, attempt: Attempt, runner: Runner) -> None:
        """An attempt is on that may be ended in the middle."""
        self._preemptible[attempt] = runner

    def code_ended(self, attempt: Attempt) -> None:
        """The code of an attempt has ended, and what it occupied is free. It may not be enough for who it was for."""
        self._preemptible.pop(attempt, None)
        waiting = self._worker.runners.get(attempt.makes_room_for or "")
        if waiting is not None:
            self.end_attempt_for(waiting)

    def end_attempt_for(self, waiting: Runner) -> None:
        """If steps of a job wait for resources, end the lowest preemptible attempt that occupies one of them and that
        may yield to it; one at a time. What comes free is kept for the job, if it is the first that waits for it."""
        worker = self._worker
        if not self._preemptible or not worker.admission.waits(waiting):
            return
        if any(attempt.makes_room_for == waiting.job_id for attempt in self._preemptible):
            return
        short = {one.resource for one in worker.admission.why(waiting)}
        able = (
            (attempt, standing)
            for attempt, runner in self._preemptible.items()
            if runner is not waiting
            and not attempt.is_told
            and not short.isdisjoint(attempt.grant.needs.names)
            and (standing := runner.if_it_yielded) is not None
        )
        attempt = who_yields(able, waiting.as_waiting, worker.settings.max_preemptions)
        if attempt is not None:
            attempt.stop(PREEMPTED, worker.settings.cancel_grace_s, by=waiting.job_id)
