"""The runner of one job: everything that happens to it goes through the machine, is committed, and is then carried out.

    happenings → decide → store.commit → bus.publish → calls and stops

A job has at most one commit in flight. What arrives meanwhile waits and makes the next turn together, so a 500-wide
fan-out costs a handful of commits. Nothing is called before the event that says so is committed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from openagents_json.clock import SECOND_US
from openagents_json.components import Isolation, StepContext
from openagents_json.errors import (
    ComponentError,
    ComponentNotFound,
    ExpressionError,
    FatalError,
    LeaseLost,
    RequestsPending,
    StoreUnavailable,
)
from openagents_json.job.engine.attempt import Attempt
from openagents_json.job.machine import (
    Child,
    ChildSpec,
    Claimed,
    Decision,
    Happening,
    JobState,
    Released,
    Requested,
    ScopeNames,
    StepRun,
    Tick,
    decide,
    encode_snapshot,
)
from openagents_json.job.model import FINAL, JobStatus
from openagents_json.job.store.base import Claim, Commit, Request, row_of
from openagents_json.jsondata import freeze
from openagents_json.workflow.expressions import Template
from openagents_json.workflow.plan import Node

if TYPE_CHECKING:
    from openagents_json.job.engine.worker import Worker

logger = logging.getLogger("openagents_json.job")

SNAPSHOT_EVENTS = 1_000  # a running job gets a snapshot each time it has so many new events
RELEASE_SNAPSHOT_EVENTS = 200  # and when its lease ends with so many: shorter histories fold as fast as they load
FORCED_GRACE_S = 0.2  # what force leaves an attempt to end by itself before it is called abandoned


class Runner:
    """Runs one claimed job until its lease ends."""

    def __init__(self, worker: Worker, claim: Claim, state: JobState) -> None:
        self.job_id = claim.job_id
        self.claim = claim
        self.state = state
        self._worker = worker
        self._arrived: list[Happening] = [Claimed(claim.owner, claim.epoch)]
        self._wake = asyncio.Event()
        self._wake.set()
        self._attempts: dict[str, Attempt] = {}  # by path; the ones whose end is not reported yet
        self._committed = state.number  # number of the last event in the store
        self._snapshot_at = claim.last_event - len(claim.events)
        self._status = state.status  # as the store has it
        self._inbox_changed = False
        self._requests: dict[int, Request] = {}  # taken in and not drained yet, by sequence
        self._release_reason: str | None = None
        # Abandoned attempts as (path, number), to count each out of the row once, after it was counted in.
        self._counted_abandoned: set[tuple[str, int]] = set()  # their event is committed, their code still runs
        self._ended_abandoned: set[tuple[str, int]] = set()  # their code has ended, their event is not committed
        self._timer: Any = None
        self._take_requests(claim.requests)

    @property
    def has_let_go(self) -> bool:
        """Whether its last commit gave the lease of a job back that is not final."""
        return (
            self._status not in FINAL and self._status != JobStatus.RUNNING and self._committed > self.claim.last_event
        )

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
        self._release_reason = reason
        self.look_again()

    def stop_attempts(self, reason: str, grace_s: float) -> None:
        for attempt in list(self._attempts.values()):
            attempt.stop(reason, grace_s)

    # ── the loop ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Turn by turn until the job is final, waits, is paused or given back, or the lease is lost."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                happenings = await self._gather()
                decision = await self._turn(happenings)
                if self.state.status != JobStatus.RUNNING:
                    return
                self._carry_out(decision)
                self._set_timer()
                self._worker.offer_slot()
        except LeaseLost as lost:
            logger.warning("lost job %s: %s", self.job_id, lost, extra={"job_id": self.job_id})
            self.stop_attempts("lost_lease", 0.0)
        finally:
            self._worker.slots.forget(self)
            self._worker.offer_slot()
            if self._timer is not None:
                self._timer.cancel()

    async def _gather(self) -> list[Happening]:
        if self._inbox_changed:
            self._inbox_changed = False
            self._take_requests(await self._patiently(lambda: self._worker.store.read_requests(self.job_id)))
        happenings, self._arrived = self._arrived, []
        if self._release_reason is not None:
            happenings.append(Released(self._release_reason))
        return happenings

    def _take_requests(self, requests: list[Request]) -> None:
        for request in requests:
            if request.sequence not in self._requests:
                self._requests[request.sequence] = request
                self._arrived.append(as_requested(request))

    async def _turn(self, happenings: list[Happening]) -> Decision:
        """Decide and commit. If requests came in between, the machine decides again with them."""
        while True:
            decision = decide(
                self.state,
                happenings,
                now_us=self._worker.clock.now_us(),
                random=self._worker.random,
                admit=self._admit,
                spawn=self._spawn,
                linger_us=self._worker.linger_us,
                cleanup_us=self._worker.cleanup_us,
            )
            for request, refusal in decision.refused:
                logger.info("job %s: %s refused: %s", self.job_id, request.verb, refusal, extra={"job_id": self.job_id})
            if not decision.events and not self._requests:
                return decision
            try:
                await self._commit(decision)
                return decision
            except RequestsPending:
                others = [one for one in happenings if not isinstance(one, Requested)]
                happenings = [*others, *await self._reload()]
            except BaseException:
                for call in decision.calls:  # they took slots and will never be made
                    run = call.run
                    self._worker.free_slot(self._worker.isolation_of(run.component or "", self.state.node(run)))
                raise

    async def _commit(self, decision: Decision) -> None:
        state, events = self.state, decision.events
        limit = SNAPSHOT_EVENTS if state.status == JobStatus.RUNNING else RELEASE_SNAPSHOT_EVENTS
        snapshot = None
        if state.number - self._snapshot_at >= limit and not state.is_final:
            snapshot = encode_snapshot(state)
        commit = Commit(
            claim=self.claim,
            expected=self._committed,
            events=events,
            row=row_of(state),
            previous_status=self._status,
            drained=list(self._requests),
            snapshot=snapshot,
            abandoned=sum(1 for event in events if event.data.get("abandoned")),
            children=[child.job[0] for child in decision.children],
            posts=posted(decision, self._worker.clock.now_us()),
        )
        try:
            await self._worker.store.commit(commit)
        except StoreUnavailable as error:
            self._worker.note_store_error(error)
            await self._patiently(lambda: self._worker.store.commit(commit))
        self._committed, self._status = state.number, state.status
        self._requests.clear()
        if snapshot is not None:
            self._snapshot_at = state.number
        self._worker.published(state, decision)
        for event in events:
            if event.data.get("abandoned"):
                self._count_abandoned((event.data["path"], event.data["attempt"]))

    async def _reload(self) -> list[Happening]:
        """Forget the turn that was refused: fold what the store has. Nothing of that turn was carried out."""
        stored = await self._patiently(lambda: self._worker.store.read(self.job_id))
        if stored is None or stored.owner != self.claim.owner:
            raise LeaseLost(f"Job {self.job_id} is gone or held by another worker.")
        plan = self.state.plan
        self.state = self._worker.fold(plan, stored.snapshot, stored.events)
        self._requests = {request.sequence: request for request in stored.requests}
        return [as_requested(request) for request in stored.requests]

    async def _patiently(self, ask: Any) -> Any:
        """Ask the store until it answers: while it is away the job stands still, and nothing is lost."""
        return await self._worker.patiently(ask)

    # ── carrying out ──────────────────────────────────────────────────────────────────────────────────────────────

    def _spawn(self, spec: ChildSpec) -> Child:
        return self._worker.spawn_child(self.state.plan, spec)

    def _admit(self, component: str, node: Node) -> bool | None:
        return self._worker.slots.take(self._worker.isolation_of(component, node), self)

    def _carry_out(self, decision: Decision) -> None:
        for run, reason in decision.stops:
            if (attempt := self._attempts.get(run.path)) is not None:
                forced = reason == "force_cancelled"
                attempt.stop(reason, FORCED_GRACE_S if forced else self._worker.settings.cancel_grace_s)
        if any(event.type == "job.cancel_requested" and event.data["force"] for event in decision.events):
            self.stop_attempts("force_cancelled", FORCED_GRACE_S)  # also those that a gentle cancel has told before
        for call in decision.calls:
            self._call(call.run, call.inputs)

    def _call(self, run: StepRun, inputs: dict[str, Any] | None) -> None:
        worker, state, node = self._worker, self.state, self.state.node(run)
        name = run.component or ""
        refusal: Exception | None = None
        try:
            component = worker.components.get(name)
        except ComponentNotFound as error:
            component, refusal = worker.missing_component, error
        timeout_s = node.step.timeout if node.step.timeout is not None else component.timeout_s
        now_us = worker.clock.now_us()
        secrets: dict[str, str] = {}
        context = StepContext(
            state.job_id,
            state.workflow_id,
            run.path,
            run.attempt,
            f"{state.job_id}/{run.path}",
            run.token,
            deadline_us=None if timeout_s is None else now_us + round(timeout_s * SECOND_US),
            report=worker.progress_reporter(state.job_id, run.path, secrets),
            clock=worker.clock,
        )
        isolation = worker.isolation_of(name, node)
        attempt = Attempt(worker, run, context, component, isolation, timeout_s, secrets, self._ended, self._code_ended)
        self._attempts[run.path] = attempt
        refusal = refusal or isolation_refusal(component.is_async, isolation, name)
        if refusal is not None:
            attempt.fail(refusal)
            return
        if inputs is not None:
            attempt.start(inputs)
        elif names := self._secret_names(node):
            fetching = self._start_with_secrets(attempt, run, node, names, secrets)
            attempt.prepare(worker.spawn(fetching, f"secrets of {run.path}"))
        else:
            self._start(attempt, run, node, secrets)

    def _start(self, attempt: Attempt, run: StepRun, node: Node, secrets: Mapping[str, str]) -> None:
        try:
            inputs = self._inputs(run, node, secrets)
        except ExpressionError as error:
            attempt.fail(error)
        else:
            attempt.start(inputs)

    async def _start_with_secrets(
        self, attempt: Attempt, run: StepRun, node: Node, names: set[str], secrets: dict[str, str]
    ) -> None:
        for name in sorted(names):
            try:
                secrets[name] = await self._worker.secrets.get(name)
            except KeyError:
                hint = "Set the environment variable of that name, or give the manager a SecretProvider that has it."
                attempt.fail(FatalError("secret.missing", f"There is no secret {name!r}. {hint}"))
                return
            except Exception as error:
                attempt.fail(error)
                return
        self._start(attempt, run, node, secrets)

    def _inputs(self, run: StepRun, node: Node, secrets: Mapping[str, str]) -> dict[str, Any]:
        """What the component gets: the recorded values, and the references rendered against recorded outputs."""
        inputs = dict(run.inputs)
        state = self.state
        resolved = None
        if secrets and (hidden := state.plan.secret_inputs & state.inputs.keys()):
            resolved = freeze(state.inputs | {name: _resolved(state.inputs[name], secrets) for name in hidden})
        names = ScopeNames(state, state.scopes[run.scope], secrets, resolved)
        for name, template in node.inputs.items():
            if name not in inputs:
                inputs[name] = template.render(names)
        return inputs

    def _secret_names(self, node: Node) -> set[str]:
        """The secrets that the step's inputs need: named in them, or behind a writeOnly input of the job."""
        plan = self.state.plan
        names: set[str] = set()
        for template in node.inputs.values():
            if plan.holds_secret(template):
                names |= template.secrets | self._behind_inputs(template)
        return names

    def _behind_inputs(self, template: Template) -> set[str]:
        wanted = template.inputs or (self.state.inputs.keys() if "inputs" in template.roots else set())
        hidden = self.state.plan.secret_inputs & set(wanted) & self.state.inputs.keys()
        return {self.state.inputs[name]["secret"] for name in hidden if self.state.inputs[name] is not None}

    def _ended(self, attempt: Attempt, happening: Happening) -> None:
        """The attempt's outcome is known."""
        if self._attempts.get(attempt.path) is attempt:
            del self._attempts[attempt.path]
        self.tell(happening)

    def _code_ended(self, attempt: Attempt) -> None:
        self._worker.code_ended(attempt)
        if attempt.is_abandoned:
            which = attempt.path, attempt.number
            if which in self._counted_abandoned:
                self._counted_abandoned.remove(which)
                self._worker.thread_ended(self.job_id)
            else:
                self._ended_abandoned.add(which)

    def _count_abandoned(self, which: tuple[str, int]) -> None:
        """The row counts an abandoned attempt from now on, until its code ends; perhaps it has already."""
        if which in self._ended_abandoned:
            self._ended_abandoned.remove(which)
            self._worker.thread_ended(self.job_id)
        else:
            self._counted_abandoned.add(which)

    def _set_timer(self) -> None:
        """Wake up for the next attempt that is due, if the job only waits for that."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.state.pause_requested or self._release_reason is not None:
            return  # nothing starts now; the turn that ends this sets the timer
        # An attempt that is due and has found no slot stands in `startable`; the slot will wake it.
        due = self.state.next_due()
        if due is not None:
            delay_s = (due[0] - self._worker.clock.now_us()) / SECOND_US
            if delay_s > 0:
                self._timer = self._worker.clock.call_later(delay_s, self.look_again)
            else:  # it became due while this turn was being committed
                self.look_again()


def posted(decision: Decision, now_us: int) -> list[tuple[str, Request]]:
    """What a turn asks of other jobs, as entries of their inboxes."""
    return [
        (post.job_id, Request(post.key, post.verb, post.by, post.reason, now_us, post.arguments))
        for post in decision.posts
    ]


def _resolved(given: Any, secrets: Mapping[str, str]) -> Any:
    """The value behind a writeOnly input; as it stands if it is null, or if the step does not use it."""
    return given if given is None else secrets.get(given["secret"], given)


def as_requested(request: Request) -> Requested:
    """An inbox entry as a happening."""
    return Requested(request.kind, request.by, request.reason, request.payload, request.sequence)  # type: ignore[arg-type]


def isolation_refusal(is_async: bool, isolation: Isolation, name: str) -> Exception | None:
    """Why a component cannot run where its step wants it to."""
    if is_async and isolation == "thread":
        return ComponentError(f"Component {name!r} is async and cannot run in a thread.", name=name)
    return None
