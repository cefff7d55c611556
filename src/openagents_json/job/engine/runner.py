"""The runner of one job: everything that happens to it goes through the machine, is committed, and is then carried out.

    happenings → decide → store.commit → bus.publish → calls and stops

A job has at most one commit in flight. What arrives meanwhile waits and makes the next turn together, so a 500-wide
fan-out costs a handful of commits. Nothing is called before the event that says so is committed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from openagents_json.clock import SECOND_US
from openagents_json.errors import (
    LeaseLost,
    LimitReached,
    RequestsPending,
    StoreUnavailable,
)
from openagents_json.job.engine.exchange import as_requested, commit_of
from openagents_json.job.engine.limiting import ChildrenWithin, Rooms, children_before
from openagents_json.job.engine.place import JobPlace, Standing
from openagents_json.job.engine.running import NO_GRANTS, Granted, Running
from openagents_json.job.engine.slots import Slots
from openagents_json.job.events import Event
from openagents_json.job.machine import (
    PREEMPTED,
    Child,
    ChildSpec,
    Decision,
    Happening,
    JobState,
    Released,
    Requested,
    Terms,
    Tick,
    decide,
    encode_snapshot,
    next_due_us,
    risk_us,
)
from openagents_json.job.model import FINAL, JobStatus, rank_of
from openagents_json.job.store.records import Claim, NewJob, Request, Waiting, row_of

if TYPE_CHECKING:
    from openagents_json.job.engine.worker import Worker

logger = logging.getLogger("openagents_json.job")

First = asyncio.Future[Decision]  # the outcome of the first turn of a runner, or of the one commit that settles a job

SNAPSHOT_EVENTS = 1_000  # a running job gets a snapshot each time it has so many new events
RELEASE_SNAPSHOT_EVENTS = 200  # and when its lease ends with so many: shorter histories fold as fast as they load
LAST_HANDLE = 2**63 - 1  # behind every handle of a store


class JobIsThere(Exception):
    """A job was not created: its id or its idempotency key is in the store already."""


class Runner:
    """Runs one job whose lease the worker has until that ends. `happenings` are what its first turn takes in, and
    `first` is told what became of that turn: when it is committed, or when the store is away (then what was asked is
    durable, and the runner sees to it when the store is back). Whoever waits for `first` may go away.

    With `new` the job is not in the store yet: the first turn creates it. If that fails, `first` is told and nothing
    is left."""

    def __init__(
        self,
        worker: Worker,
        claim: Claim,
        state: JobState,
        happenings: Iterable[Happening],
        first: First | None = None,
        new: NewJob | None = None,
    ) -> None:
        self.job_id = claim.job_id
        self.claim = claim
        self.state = state
        self._worker = worker
        self._first = first
        self._new = new
        self._unpublished: Sequence[Event] = ()  # the first events of a new job, until its first turn is committed
        self._arrived: list[Happening] = list(happenings)
        self._wake = asyncio.Event()
        self._wake.set()
        self._running = Running(worker, self)
        self._committed = state.number  # number of the last event in the store
        self._snapshot_at = claim.last_event - len(claim.events)
        self._status = state.status  # as the store has it
        self._inbox_changed = False
        self._requests: dict[int, Request] = {}  # taken in and not drained yet, by sequence
        self._released: Released | None = None  # the job is to be given back
        self._place = JobPlace(claim, state, worker.clock)
        self._timer: Any = None
        self._grants: Granted = NO_GRANTS  # of the last turn
        self._take_requests(claim.requests)

    @property
    def standing(self) -> tuple[int, int]:
        """Its place among the jobs whose steps wait for resources; of two that stand alike, the older one is first."""
        return self.sort_at, self.claim.handle if self._new is None else LAST_HANDLE

    @property
    def has_let_go(self) -> bool:
        """Whether the lease of a job was given back that is not final."""
        return self._new is None and self._status not in FINAL and self._status != JobStatus.RUNNING

    @property
    def sort_at(self) -> int:
        """Its place among all jobs."""
        return self._place.sort_at(self.state, self._worker.store.aging_s)

    @property
    def if_it_yielded(self) -> Standing | None:
        """How it would stand in the queue; None if it may not make room: it is on its way out, or about to begin."""
        state = self.state
        is_leaving = state.pause_requested or state.cancel is not None or state.outcome is not None
        if self._released is not None or is_leaving or self._status != JobStatus.RUNNING:
            return None
        return self._place.in_queue(state, self._worker.store.aging_s, self._worker.clock.now_us())

    @property
    def as_waiting(self) -> Waiting:
        """The job as one that waits, where its steps do."""
        return Waiting(self.job_id, rank_of(self.state.priority), self.sort_at, None)

    @property
    def made_room(self) -> bool:
        """Whether it has let go of its job for the sake of a more urgent one."""
        return self._released is not None and self._released.by is not None and self.has_let_go

    @property
    def has_unread(self) -> bool:
        """Whether it was told of requests and has not looked."""
        return self._inbox_changed

    # ── what others tell the runner (same loop) ───────────────────────────────────────────────────────────────────

    def tell(self, happening: Happening) -> None:
        self._arrived.append(happening)
        self._wake.set()

    def look_again(self) -> None:
        """A slot may be free, or something may be due."""
        self.tell(Tick())

    def inbox_changed(self) -> None:
        """Somebody asked something of the job."""
        self._inbox_changed = True
        self._wake.set()

    def release(self, reason: str) -> None:
        """Give the job back as soon as nothing of it runs; nothing new starts."""
        self._released = Released(reason)
        self.look_again()

    def make_room_for(self, job_id: str) -> None:
        """Give the job back for the sake of a more urgent one, as soon as nothing of it runs."""
        self._released = Released(PREEMPTED, job_id)
        self.look_again()

    def stay(self, job_id: str) -> None:
        """No room is needed for that job any more."""
        if self._released is not None and self._released.by == job_id:
            self._released = None
            self.look_again()

    def keep(self, reason: str) -> None:
        """The job need not be given back any more for that reason. It looks for what it may start now."""
        if self._released is not None and self._released.reason == reason:
            self._released = None
        self.look_again()

    def stop_attempts(self, reason: str, grace_s: float) -> None:
        self._running.stop(reason, grace_s)

    # ── the loop ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Turn by turn until the job is final, waits, is paused or given back, or the lease is lost."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                if not await self._take_turn():
                    return
        except LeaseLost as lost:
            logger.warning("lost job %s: %s", self.job_id, lost, extra={"job_id": self.job_id})
            self.stop_attempts("lost_lease", 0.0)
            self._fail_first(lost)
        except Exception as error:
            self._fail_first(error)
            if self._new is None:  # else nobody was told of a job
                raise
        finally:
            self._worker.admission.forget(self)
            self._worker.grants.keep(self, ())
            self._worker.offer_slots()
            if self._timer is not None:
                self._timer.cancel()
            self._running.end()
            self._fail_first(LeaseLost(f"Job {self.job_id} was let go of before its first turn."))

    async def _take_turn(self) -> bool:
        """Whether the job goes on here. What belongs to the turn goes with it: very many jobs wait for their next."""
        decision = await self._turn(await self._gather())
        self._note_first(decision)
        if self.state.status != JobStatus.RUNNING:
            return False
        grants, self._grants = self._grants, NO_GRANTS
        self._running.carry_out(decision, grants)
        is_held_up = self.state.pause_requested or self._released is not None
        self._worker.grants.keep(self, () if is_held_up else self.state.startable)
        self._set_timer()
        self._worker.offer_slots()
        self._worker.preemption.end_attempt_for(self)
        return True

    def _note_first(self, decision: Decision) -> None:
        if self._first is not None:
            if not self._first.done():
                self._first.set_result(decision)
            self._first = None

    def _fail_first(self, error: Exception) -> None:
        if self._first is not None:
            if not self._first.done():
                self._first.set_exception(error)
                self._first.exception()  # perhaps nobody asks
            self._first = None

    async def _gather(self) -> list[Happening]:
        if self._inbox_changed:
            self._inbox_changed = False
            self._take_requests(await self._patiently(lambda: self._worker.store.read_requests(self.job_id)))
        happenings, self._arrived = self._arrived, []
        if self._released is not None:
            happenings.append(self._released)
        return happenings

    def _take_requests(self, requests: list[Request]) -> None:
        for request in requests:
            if request.sequence not in self._requests:
                self._requests[request.sequence] = request
                self._arrived.append(as_requested(request))

    async def _turn(self, happenings: list[Happening]) -> Decision:
        """Decide and commit. If requests came in between, the machine decides again with them; if a child may not
        start, it decides again without that child."""
        rooms: Rooms = {}
        while True:
            try:
                decision = self._decide(happenings, rooms)
            except BaseException:
                self._give_back()
                raise
            for request, refusal in decision.refused:
                logger.info("job %s: %s refused: %s", self.job_id, request.verb, refusal, extra={"job_id": self.job_id})
            if not decision.events and not self._requests:
                if self.state.status != JobStatus.RUNNING:  # it was held for one commit and needs none
                    await self._patiently(lambda: self._worker.leases.release(self.claim))
                return decision
            try:
                await self._commit(decision)
                return decision
            except (RequestsPending, LimitReached) as refusal:
                self._give_back()
                if isinstance(refusal, LimitReached):
                    rooms[refusal.key] = refusal, children_before(decision, refusal)
                others = [one for one in happenings if not isinstance(one, Requested)]
                happenings = [*others, *await self._reload()]
            except BaseException:
                self._give_back()
                raise

    def _decide(self, happenings: list[Happening], rooms: Rooms) -> Decision:
        """What follows. What was taken for it stands in `_grants`; nothing else is left of the call but what it
        returns, for very many jobs wait for their commits."""
        worker = self._worker
        slots = Slots(worker, self)
        try:
            terms = Terms(
                worker.random,
                slots.admit,
                ChildrenWithin(self._spawn, rooms),
                worker.linger_us,
                worker.cleanup_us,
                worker.may_start,
                worker.grants.caps,
                partial(worker.grants.may_begin, self),
                slots.out_of_reach,
            )
            return decide(self.state, happenings, worker.clock.now_us(), terms)
        finally:
            self._grants = slots.calls or (), slots.releases or ()

    def _spawn(self, spec: ChildSpec) -> Child:
        return self._worker.spawn_child(self.state.plan, spec)

    def _give_back(self) -> None:
        """The calls that were decided will never be made."""
        (calls, releases), self._grants = self._grants, NO_GRANTS
        for grant in (*calls, *releases):
            self._worker.give_back(grant)

    async def _commit(self, decision: Decision) -> None:
        began_s = self._worker.loop.time()
        if self._new is None or not await self._create(self._new, decision):
            await self._append(decision)
        self._worker.meter.commits_s.append(self._worker.loop.time() - began_s)
        self._committed, self._status = self.state.number, self.state.status
        self._requests.clear()
        if self._unpublished:
            self._worker.bus.publish(self.state, self._unpublished)
            self._unpublished = ()
        self._worker.published(self.state, decision)
        self._running.committed(decision.events)
        if any(event.type == "job.priority_changed" for event in decision.events):
            self._worker.admission.reorder(self)

    async def _create(self, new: NewJob, decision: Decision) -> bool:
        """Write the job, and what its first turn decided as well if that is nothing but events; whether it was."""
        row = row_of(self.state)
        more = (decision.children, decision.posts, decision.leaks, row.error_type)
        is_whole = row.status == JobStatus.RUNNING and not any(more)
        owner = self.claim.owner
        if is_whole:
            whole = replace(new, row=row, events=[*new.events, *decision.events], owner=owner)
        else:
            whole = replace(new, owner=owner)
        claim = await self._worker.leases.create_held(whole)
        if claim is None:
            raise JobIsThere
        self._new, self.claim = None, claim
        self._worker.admission.reorder(self)
        self._unpublished = new.events
        if not is_whole:
            self._note_first(decision)  # it is accepted; what follows is nobody's to wait for
        return is_whole

    async def _append(self, decision: Decision) -> None:
        state = self.state
        limit = SNAPSHOT_EVENTS if state.status == JobStatus.RUNNING else RELEASE_SNAPSHOT_EVENTS
        snapshot = None
        if state.number - self._snapshot_at >= limit and not state.is_final:
            snapshot = encode_snapshot(state)
        now_us = self._worker.clock.now_us()
        commit = commit_of(self.claim, self._committed, self._status, state, decision, self._requests, now_us, snapshot)
        try:
            await self._worker.leases.commit(commit)
        except StoreUnavailable as error:
            self._worker.note_store_error(error)
            self._note_first(decision)
            await self._patiently(lambda: self._worker.leases.commit(commit))
        if snapshot is not None:
            self._snapshot_at = state.number

    async def _reload(self) -> list[Happening]:
        """Forget the turn that was refused: fold what the store has. Nothing of that turn was carried out."""
        stored = await self._patiently(lambda: self._worker.store.read(self.job_id))
        if stored is None or stored.owner != self.claim.owner:
            self._worker.leases.ended(self.claim)
            raise LeaseLost(f"Job {self.job_id} is gone or held by another worker.")
        plan = self.state.plan
        self.state = self._worker.fold(plan, stored.snapshot, stored.events)
        self._requests = {request.sequence: request for request in stored.requests}
        return [as_requested(request) for request in stored.requests]

    async def _patiently(self, ask: Any) -> Any:
        """Ask the store until it answers: while it is away the job stands still, and nothing is lost."""
        return await self._worker.patiently(ask)

    def _set_timer(self) -> None:
        """Wake up for the next attempt that is due, if the job only waits for that."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.state.pause_requested or self._released is not None:
            return  # nothing starts now; the turn that ends this sets the timer
        # An attempt that is due and has found no slot stands in `startable`; the slot will wake it.
        due_us, now_us = next_due_us(self.state), self._worker.clock.now_us()
        if (risk := risk_us(self.state, now_us)) is not None and (due_us is None or risk < due_us):
            due_us = risk + 1  # from then on
        if due_us is not None:
            delay_s = (due_us - now_us) / SECOND_US
            if delay_s > 0:
                wait_s = delay_s if self._running else min(delay_s, self._worker.longest_linger_s)
                self._timer = self._worker.clock.call_later(wait_s, self.look_again)
            else:  # it became due while this turn was being committed
                self.look_again()
