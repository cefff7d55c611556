"""Jobs that nobody runs: whoever changes one takes a lease of one commit, decides, and commits; the lease ends with it.

So start, pause, resume, cancel and set_priority on a job at rest, timers that come due, and jobs of dead workers all go
the one way through the machine.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from openagents_json.clock import Clock
from openagents_json.errors import LeaseLost, RequestsPending
from openagents_json.job.bus import Bus
from openagents_json.job.engine.plans import Plans
from openagents_json.job.engine.runner import as_requested
from openagents_json.job.machine import Decision, Happening, decide, no_slots
from openagents_json.job.model import JobStatus
from openagents_json.job.store.base import Claim, Commit, JobStore, row_of

logger = logging.getLogger("openagents_json.job")


class Settler:
    """Carries out what needs one commit."""

    def __init__(self, store: JobStore, plans: Plans, bus: Bus, clock: Clock) -> None:
        self._store = store
        self._plans = plans
        self._bus = bus
        self._clock = clock

    async def settle(self, claim: Claim, happenings: Iterable[Happening] = ()) -> tuple[JobStatus, Decision]:
        """Apply the happenings and the job's undrained requests. The status afterwards, and what was decided.

        `LeaseLost` when another worker took the job meanwhile.
        """
        plan = await self._plans.get(claim.definition_hash)
        state = self._plans.fold(plan, claim.snapshot, claim.events)
        previous = state.status
        decision = decide(
            state,
            [*happenings, *(as_requested(request) for request in claim.requests)],
            now_us=self._clock.now_us(),
            random=lambda: 0.5,
            admit=no_slots,
        )
        if not decision.events and not claim.requests:
            await self._store.release(claim)
            return previous, decision
        drained = [request.sequence for request in claim.requests]
        commit = Commit(claim, claim.last_event, decision.events, row_of(state), previous, drained)
        try:
            await self._store.commit(commit)
        except RequestsPending:
            # A request slipped in between: leave the lease; the next look at the inbox settles both.
            await self._store.release(claim)
            raise LeaseLost(f"Job {claim.job_id} was asked for something else at the same moment.") from None
        self._bus.publish(state, decision.events)
        return state.status, decision
