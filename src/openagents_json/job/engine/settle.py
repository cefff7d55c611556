"""Jobs that nobody runs: whoever changes one takes a lease of one commit, decides, and commits; the lease ends with it.

So start, pause, resume, cancel and set_priority on a job at rest, timers that come due, and jobs of dead workers all go
the one way through the machine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from openagents_json.clock import Clock
from openagents_json.errors import JobError, LeaseLost, LimitReached, RequestsPending, StoreError, StoreUnavailable
from openagents_json.job.engine.exchange import as_requested, commit_of
from openagents_json.job.engine.leases import Leases
from openagents_json.job.engine.plans import Plans
from openagents_json.job.engine.runner import First, Runner
from openagents_json.job.machine import NOTHING_STARTS, Decision, Happening, JobState, Requested, decide
from openagents_json.job.model import JobStatus
from openagents_json.job.store.base import JobStore
from openagents_json.job.store.limits import REPLACED_BY
from openagents_json.job.store.records import Claim
from openagents_json.workflow import Plan

TakeOver = Callable[[Plan, Claim, tuple[Happening, ...], First], Runner | None]

Refused = list[tuple[Requested, JobError]]

SETTLED_AT_ONCE = 16  # of many jobs, in one turn of the event loop
SETTLE_TRIES = 100  # requests may come faster than they are settled, but not for ever


class Settler:
    """Carries out what needs one commit."""

    def __init__(self, store: JobStore, leases: Leases, plans: Plans, clock: Clock) -> None:
        self._store = store
        self.leases = leases
        self._plans = plans
        self._clock = clock
        # The worker's: hears of each commit.
        self.published: Callable[[JobState, Decision], None] = lambda state, decision: None
        # The worker's: makes a runner for a job that it has room for, and starts one.
        self.take_over: TakeOver = lambda plan, claim, happenings, first: None
        self.start: Callable[[Runner], None] = lambda runner: None

    async def offer(self, claim: Claim, happenings: Iterable[Happening], first: First) -> Runner | None:
        """Offer the job to the worker. If it would run the job at once: a runner that the caller has to run, which
        tells `first` what its first turn decided. None: the job is to be settled."""
        return self.take_over(await self._plans.get(claim.definition_hash), claim, tuple(happenings), first)

    async def settle(self, claim: Claim, happenings: Iterable[Happening] = (), *, may_run: bool = True) -> Decision:
        """Apply the happenings and the job's undrained requests: what was decided. With `may_run` the worker takes
        the job over at once if it has room.

        `LeaseLost` when another worker took the job meanwhile. `StoreUnavailable` may leave the lease with the caller,
        who has to try again.
        """
        happenings = tuple(happenings)
        if may_run and (first := await self.run_at_once(claim, happenings)) is not None:
            return await first
        status, decision = await self._settle_once(claim, happenings)
        if not status.is_final:
            await self.settle_rest(claim.job_id)
        return decision

    async def settle_all(self, claims: Sequence[Claim]) -> list[Claim]:
        """Settle the undrained requests of many jobs, many commits in a transaction. Those that it did not come to
        that with are returned, still with their leases: the caller settles them, one by one. Raises nothing."""
        commits, decided, left = [], [], []
        for number, claim in enumerate(claims, 1):
            if number % SETTLED_AT_ONCE == 0:
                await asyncio.sleep(0)  # folding many histories in one go would hold up everything else
            try:
                state = self._plans.fold(await self._plans.get(claim.definition_hash), claim.snapshot, claim.events)
                previous = state.status
                decision = self._decide(state, _to_take_in(claim, []))
            except Exception:
                left.append(claim)
                continue
            drained = [request.sequence for request in claim.requests]
            now_us = self._clock.now_us()
            commits.append(commit_of(claim, claim.last_event, previous, state, decision, drained, now_us))
            decided.append((state, decision))
        try:
            errors: Sequence[BaseException | None] = await self.leases.commit_all(commits)
        except Exception as failure:
            errors = [failure] * len(commits)
        for commit, (state, decision), error in zip(commits, decided, errors, strict=True):
            if error is None:
                self.published(state, decision)
            elif not isinstance(error, LeaseLost):  # then somebody else has the job
                left.append(commit.claim)
        return left

    async def run_at_once(self, claim: Claim, happenings: Iterable[Happening]) -> First | None:
        """The outcome of the first turn if the worker takes the job over. Its runner sees to all that follows."""
        first: First = asyncio.get_running_loop().create_future()
        if (runner := await self.offer(claim, happenings, first)) is None:
            return None
        self.start(runner)
        return first

    async def settle_rest(self, job_id: str) -> None:
        """Settle the requests that came while somebody held the job and did not look into its inbox any more. Whoever
        gives a lease back calls this afterwards, since those who asked meanwhile rely on it."""
        for _ in range(SETTLE_TRIES):
            requests = await self._store.read_requests(job_id)
            if not requests:
                return
            held = await self.leases.hold(job_id, requests[0])  # its key is known: this only takes the lease
            if held is None or held.claim is None:
                return  # it is gone or final, or its holder sees to it
            try:
                first = await self.run_at_once(held.claim, ())
                if first is None:
                    await self._settle_once(held.claim, ())
                    continue
            except StoreUnavailable:
                self.leases.abandon(held.claim)  # whoever tries again finds the job held, by us
                raise
            await first
            return

    async def _settle_once(self, claim: Claim, happenings: tuple[Happening, ...]) -> tuple[JobStatus, Decision]:
        plan = await self._plans.get(claim.definition_hash)
        refused: Refused = []
        for _ in range(SETTLE_TRIES):
            state = self._plans.fold(plan, claim.snapshot, claim.events)
            previous = state.status
            decision = self._decide(state, [*happenings, *_to_take_in(claim, refused)])
            if not decision.events and not claim.requests:
                await self.leases.release(claim)
                self.published(state, decision)
                return previous, decision
            drained = [request.sequence for request in claim.requests]
            now_us = self._clock.now_us()
            decision.refused = [*decision.refused, *refused]
            try:
                await self.leases.commit(commit_of(claim, claim.last_event, previous, state, decision, drained, now_us))
            except LimitReached as full:
                happenings, refused = _without_start(happenings, claim, refused, full)
                continue
            except RequestsPending:  # one slipped in between: decide again with it
                claim = replace(claim, requests=await self._store.read_requests(claim.job_id))
                continue
            self.published(state, decision)
            return state.status, decision
        raise StoreError(f"Job {claim.job_id} got new requests {SETTLE_TRIES} times while it was to end.")

    def _decide(self, state: JobState, happenings: Iterable[Happening]) -> Decision:
        return decide(state, happenings, self._clock.now_us(), NOTHING_STARTS)


def _to_take_in(claim: Claim, refused: Refused) -> list[Requested]:
    """The undrained requests of a job, but for those that are refused."""
    keys = {request.key for request, _ in refused}
    return [as_requested(request) for request in claim.requests if request.key not in keys]


def _without_start(
    happenings: tuple[Happening, ...], claim: Claim, refused: Refused, full: LimitReached
) -> tuple[tuple[Happening, ...], Refused]:
    """What is to be decided instead when a job may not enter the queue: who asked to start it is refused, and one whose
    time to start has come is cancelled, since that time does not come again."""
    starts = [request for request in _to_take_in(claim, refused) if request.verb == "start"]
    if starts:
        return happenings, [*refused, *((request, full) for request in starts)]
    return (Requested("cancel", REPLACED_BY, str(full), {"force": False}),), refused
