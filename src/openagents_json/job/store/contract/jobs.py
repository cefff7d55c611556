"""Jobs for the contract suite: real ones, made by the machine, and what an owner does with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from openagents_json.amounts import Amounts
from openagents_json.clock import SECOND_US
from openagents_json.ids import uuid7
from openagents_json.job.events import Event
from openagents_json.job.machine import (
    AttemptFailed,
    AttemptSucceeded,
    Claimed,
    Happening,
    Has,
    JobState,
    OutOfReach,
    Requested,
    Stop,
    Terms,
    Tick,
    create,
    decide,
    decode_snapshot,
    encode_snapshot,
    fold,
)
from openagents_json.job.model import JobPriority, JobStatus, JobSummary
from openagents_json.job.store.base import JobStore
from openagents_json.job.store.records import Claim, Commit, Definition, NewJob, Request, StoredJob, row_of
from openagents_json.testing import FakeClock
from openagents_json.workflow.graph import build_plan
from openagents_json.workflow.model import Retry, Workflow
from openagents_json.workflow.plan import Node, Plan

OPEN_INPUTS = {"type": "object", "additionalProperties": True}
# Two calls, one after the other.
CALLS = {
    "id": "calls",
    "inputs": OPEN_INPUTS,
    "steps": [{"id": "first", "component": "tool.first"}, {"id": "second", "component": "tool.second"}],
}
OTHER_CALLS = CALLS | {"id": "other-calls", "version": "2.1.0"}
ELSEWHERE = {"id": "elsewhere", "inputs": OPEN_INPUTS, "steps": [{"id": "first", "component": "tool.other"}]}
# Nothing to call: COMPLETED as soon as a worker has it.
QUIET = {"id": "quiet", "inputs": OPEN_INPUTS, "steps": [{"id": "note", "set": "done"}]}

RETRY_LATER = Retry(max_attempts=3, delay_seconds=60.0)
_plans: dict[str, Plan] = {}  # by content hash, for folding what a store gives back


def wide(items: int) -> dict[str, Any]:
    """A definition whose one turn records more events than it has items."""
    each = {"id": "each", "foreach": list(range(items)), "steps": [{"id": "inner", "set": "done"}]}
    return {"id": f"wide-{items}", "steps": [each, {"id": "call", "component": "tool.last"}]}


def plan_of(document: dict[str, Any]) -> Plan:
    """The plan of a definition."""
    workflow = Workflow.model_validate({**document, "document": document})
    if workflow.content_hash not in _plans:
        _plans[workflow.content_hash] = build_plan(workflow)
    return _plans[workflow.content_hash]


def document_of(content_hash: str) -> bytes:
    """The document of a definition that `plan_of` was given."""
    return _plans[content_hash].workflow.encoded


def new_job(
    clock: FakeClock,
    document: dict[str, Any] = CALLS,
    *,
    job_id: str | None = None,
    start: bool = True,
    inputs: dict[str, Any] | None = None,
    priority: JobPriority = JobPriority.MEDIUM,
    tags: Sequence[str] = (),
    start_in_s: float | None = None,
    key: str | None = None,
    body: str = "body",
    budget: Amounts | None = None,
    share: str | None = None,
    deadline_us: int | None = None,
    expected_us: int = 0,
) -> NewJob:
    """A job to accept: QUEUED, or CREATED without `start`."""
    plan = plan_of(document)
    workflow = plan.workflow
    state, events = create(
        plan,
        job_id or uuid7(clock.now_us()),
        inputs or {},
        now_us=clock.now_us(),
        priority=priority,
        tags=tags,
        start_at_us=None if start_in_s is None else clock.now_us() + round(start_in_s * SECOND_US),
        idempotency_key=key,
        budget=budget,
        start=start and start_in_s is None,
        share=share,
        deadline_us=deadline_us,
        expected_us=expected_us,
    )
    definition = Definition(workflow.content_hash, workflow.id, workflow.version, workflow.encoded)
    return NewJob(state.job_id, definition, row_of(state), events, clock.now_us(), tuple(tags), key, body)


async def accept(store: JobStore, clock: FakeClock, document: dict[str, Any] = CALLS, **options: Any) -> str:
    """Create a job; its id. Options as in `new_job`."""
    return await store.create(new_job(clock, document, **options))


def all_components(component: str) -> bool:
    """What a worker that has every component says."""
    return True


def enough_of_everything(component: str, node: Node) -> None:
    """What a worker says that has enough of every resource."""


class Holder:
    """Somebody who has a lease: the claim, the folded state, and the next commit."""

    def __init__(self, clock: FakeClock, claim: Claim) -> None:
        self.clock = clock
        self.claim = claim
        self.state = folded(claim)
        self.committed = claim.last_event
        self.status = self.state.status  # as the store has it

    @property
    def job_id(self) -> str:
        return self.claim.job_id

    def commit_of(
        self,
        *happenings: Happening,
        snapshot: bool = False,
        drains: Sequence[Request] = (),
        has: Has = all_components,
        out_of_reach: OutOfReach = enough_of_everything,
    ) -> Commit:
        """What follows from the happenings and the requests of `drains`, as a commit. The state is ahead with it."""
        requested = [Requested(r.kind, r.by, r.reason, r.payload, r.sequence) for r in drains]  # type: ignore[arg-type]
        terms = Terms(admit=lambda component, node: True, has=has, out_of_reach=out_of_reach)
        decision = decide(self.state, [*happenings, *requested], self.clock.now_us(), terms)
        commit = Commit(
            self.claim,
            self.committed,
            decision.events,
            row_of(self.state),
            self.status,
            [request.sequence for request in drains],
            encode_snapshot(self.state) if snapshot else None,
            sum(1 for event in decision.events if event.data.get("abandoned")),
            leaks=decision.leaks,
        )
        self.committed, self.status = self.state.number, self.state.status
        return commit

    async def commit(self, store: JobStore, *happenings: Happening, **options: Any) -> Commit:
        """`commit_of`, written."""
        commit = self.commit_of(*happenings, **options)
        await store.commit(commit)
        return commit

    def started(self) -> Claimed:
        return Claimed(self.claim.owner, self.claim.epoch)

    def succeeded(self, path: str, output: Any = "done") -> AttemptSucceeded:
        return AttemptSucceeded(path, self.state.runs[path].token, output)

    def failed(
        self, path: str, message: str = "it broke", *, retry: Retry | None = None, abandoned: bool = False
    ) -> AttemptFailed:
        error = {"type": "contract.broken", "message": message, "step": path, "attempt": 1, "details": None}
        return AttemptFailed(
            path, self.state.runs[path].token, error | {"retryable": None}, None, retry, Stop(abandoned=abandoned)
        )


def folded(stored: Claim | StoredJob) -> JobState:
    """The state that a store's snapshot and events amount to."""
    content_hash = stored.definition_hash
    plan = _plans[content_hash]
    start = decode_snapshot(stored.snapshot, plan) if stored.snapshot is not None else None
    return fold(plan, stored.events, start)


def assert_folds_to(stored: Claim | StoredJob, holder: Holder) -> None:
    """What the store gives back is the state that the holder has."""
    plan = holder.state.plan
    assert decode_snapshot(encode_snapshot(folded(stored)), plan) == decode_snapshot(
        encode_snapshot(holder.state), plan
    )


def request(kind: str, key: str | None = None, **payload: Any) -> Request:
    """A request with its kind as key unless told otherwise."""
    return Request(key or kind, kind, "somebody", "because", 1, payload)


async def claim_one(store: JobStore, clock: FakeClock, worker: str = "w1") -> Holder:
    """Claim the one job that is next."""
    [claim] = await store.claim(worker, 1)
    return Holder(clock, claim)


async def begin(store: JobStore, clock: FakeClock, worker: str = "w1", document: dict[str, Any] = CALLS) -> Holder:
    """A RUNNING job: accepted, claimed and its first attempt started (the queue was empty)."""
    await accept(store, clock, document)
    holder = await claim_one(store, clock, worker)
    await holder.commit(store, holder.started())
    return holder


async def settle(store: JobStore, clock: FakeClock, job_id: str, asked: Request, worker: str = "w1") -> Holder:
    """Ask something of a job that nobody holds, and carry it out."""
    held = await store.hold(job_id, worker, asked)
    assert held is not None and held.claim is not None
    holder = Holder(clock, held.claim)
    await holder.commit(store, drains=held.claim.requests)
    return holder


async def wake(store: JobStore, clock: FakeClock) -> Holder:
    """Put the one WAITING job back into the queue when its time has come."""
    due_us = await store.next_due_us()
    assert due_us is not None
    clock.advance((due_us - clock.now_us()) / SECOND_US)
    [claim] = await store.hold_due("w1", 10)
    holder = Holder(clock, claim)
    await holder.commit(store, Tick())
    return holder


async def bring_to(store: JobStore, clock: FakeClock, status: JobStatus, worker: str = "w1") -> Holder:
    """A job of two calls, brought to a status in the way that jobs get there; its last holder."""
    holder = await begin(store, clock, worker)
    match status:
        case JobStatus.RUNNING:
            pass
        case JobStatus.WAITING:
            await holder.commit(store, holder.failed("first", retry=RETRY_LATER))
        case JobStatus.PAUSED:
            await holder.commit(store, Requested("pause", "somebody", "lunch"), holder.succeeded("first"))
        case JobStatus.COMPLETED:
            await holder.commit(store, holder.succeeded("first"))
            await holder.commit(store, holder.succeeded("second"))
        case JobStatus.FAILED:
            await holder.commit(store, holder.failed("first"))
        case JobStatus.CANCELLED:
            await holder.commit(store, Requested("cancel", "somebody", "enough"), holder.succeeded("first"))
        case _:
            raise ValueError(f"No job is brought to {status} here.")
    assert holder.state.status == status
    return holder


async def read(store: JobStore, job_id: str) -> StoredJob:
    """A job that is there."""
    stored = await store.read(job_id)
    assert stored is not None
    return stored


async def summary(store: JobStore, job_id: str) -> JobSummary:
    """The row of a job that is there; the same from every verb that shows it."""
    found = await store.read_summary(job_id)
    assert found is not None
    return found


async def history(store: JobStore, job_id: str) -> list[Event]:
    """All events of a job, which must be numbered 1…n."""
    events = await store.read_events(job_id, 0, 100_000)
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    return events


class WithClock:
    """The fixtures that every part of the suite has; the subclass adds `store`."""

    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock()
