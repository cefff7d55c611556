"""Jobs that nobody runs: whoever changes one takes a lease of one commit, decides, and commits; the lease ends with it.

So start, pause, resume, cancel and set_priority on a job at rest, timers that come due, and jobs of dead workers all go
the one way through the machine.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace

from openagents_json.clock import Clock
from openagents_json.errors import RequestsPending, StoreError
from openagents_json.job.engine.plans import Plans
from openagents_json.job.engine.runner import as_requested, commit_of
from openagents_json.job.machine import Decision, Happening, JobState, decide, no_slots
from openagents_json.job.model import JobStatus
from openagents_json.job.store.base import Claim, JobStore
from openagents_json.workflow import Plan

TakeOver = Callable[[Plan, Claim, tuple[Happening, ...]], Awaitable[tuple[JobStatus, Decision]] | None]

SETTLE_TRIES = 100  # requests may come faster than they are settled, but not for ever


class Settler:
    """Carries out what needs one commit."""

    def __init__(self, store: JobStore, plans: Plans, clock: Clock) -> None:
        self._store = store
        self._plans = plans
        self._clock = clock
        # The worker's: hears of each commit.
        self.published: Callable[[JobState, Decision], None] = lambda state, decision: None
        # Takes a job over that a worker with room would run at once, or says no. The first turn's outcome.
        self.take_over: TakeOver = lambda plan, claim, happenings: None

    async def settle(
        self, claim: Claim, happenings: Iterable[Happening] = (), *, may_run: bool = True
    ) -> tuple[JobStatus, Decision]:
        """Apply the happenings and the job's undrained requests. The status afterwards, and what was decided. With
        `may_run` the worker takes the job over at once if it has room.

        `LeaseLost` when another worker took the job meanwhile. `StoreUnavailable` may leave the lease with the caller,
        who has to try again.
        """
        status, decision = await self._settle_once(claim, happenings, may_run)
        if not status.is_final and status != JobStatus.RUNNING:  # one that runs now has a runner that sees to the rest
            await self.settle_rest(claim.job_id, claim.owner)
        return status, decision

    async def settle_rest(self, job_id: str, worker: str) -> None:
        """Settle the requests that came while somebody held the job and did not look into its inbox any more. Whoever
        gives a lease back calls this afterwards, since those who asked meanwhile rely on it."""
        for _ in range(SETTLE_TRIES):
            requests = await self._store.read_requests(job_id)
            if not requests:
                return
            held = await self._store.hold(job_id, worker, requests[0])  # its key is known: this only takes the lease
            if held is None or held.claim is None:
                return  # it is gone or final, or its holder sees to it
            await self._settle_once(held.claim)

    async def _settle_once(
        self, claim: Claim, happenings: Iterable[Happening] = (), may_run: bool = True
    ) -> tuple[JobStatus, Decision]:
        plan = await self._plans.get(claim.definition_hash)
        happenings = tuple(happenings)
        if may_run and (first := self.take_over(plan, claim, happenings)) is not None:
            return await first
        for _ in range(SETTLE_TRIES):
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
                self.published(state, decision)
                return previous, decision
            drained = [request.sequence for request in claim.requests]
            now_us = self._clock.now_us()
            try:
                await self._store.commit(commit_of(claim, claim.last_event, previous, state, decision, drained, now_us))
            except RequestsPending:  # one slipped in between: decide again with it
                claim = replace(claim, requests=await self._store.read_requests(claim.job_id))
                continue
            self.published(state, decision)
            return state.status, decision
        raise StoreError(f"Job {claim.job_id} got new requests {SETTLE_TRIES} times while it was to end.")
