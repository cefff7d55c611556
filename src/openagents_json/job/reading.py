"""Reading whole jobs: the row, the undrained requests, and the folded state, as they belong together."""

from __future__ import annotations

from openagents_json.errors import JobNotFound
from openagents_json.job.engine import KnownStates, Plans
from openagents_json.job.machine import JobState, fold
from openagents_json.job.model import JobSummary
from openagents_json.job.store import JobStore, Request

PAGE = 1_000  # events read at a time
TRIES = 3  # a job that changes faster than it is read is read as a whole


class JobReader:
    """Reads jobs for those that only look. Of a large one that is known it folds only what is new."""

    def __init__(self, store: JobStore, plans: Plans, states: KnownStates) -> None:
        self._store = store
        self._plans = plans
        self._states = states

    async def read(self, job_id: str) -> tuple[JobSummary, list[Request], JobState]:
        """A job; `JobNotFound`. The state is good until the caller awaits something: the next reading changes it."""
        state = self._states.take(job_id)
        if state is not None:  # others that read the same job meanwhile read it as a whole
            for _ in range(TRIES):
                if (found := await self._go_on(job_id, state)) is not None:
                    return self._keep(*found, state)
        stored = await self._store.read(job_id)
        if stored is None:
            raise JobNotFound(job_id)
        plan = await self._plans.get(stored.definition_hash)
        return self._keep(stored.summary, stored.requests, self._plans.fold(plan, stored.snapshot, stored.events))

    async def _go_on(self, job_id: str, state: JobState) -> tuple[JobSummary, list[Request]] | None:
        """Bring a state up to date; None when it changed between the readings."""
        summary = await self._store.read_summary(job_id)
        if summary is None:
            raise JobNotFound(job_id)
        while state.number < summary.events:
            events = await self._store.read_events(job_id, state.number, min(PAGE, summary.events - state.number))
            if not events:
                return None
            fold(state.plan, events, state)
        requests = await self._store.read_requests(job_id)
        again = await self._store.read_summary(job_id)
        return (summary, requests) if again == summary else None

    def _keep(
        self, summary: JobSummary, requests: list[Request], state: JobState
    ) -> tuple[JobSummary, list[Request], JobState]:
        self._states.keep(state)
        return summary, requests, state
