"""decide(state, happenings, now) → events + commands. Pure: reads no clock, does no I/O, draws no randomness itself.

One call is one turn. Everything that arrived since the last commit is taken in together; each event is applied as it
is recorded, so that later decisions of the turn see it; at the end the turn says what to call and what to stop. The
caller commits the events first and carries out the commands after the commit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from openagents_json.clock import SECOND_US
from openagents_json.errors import ExpressionError, InvalidTransition
from openagents_json.job.events import Event
from openagents_json.job.machine.apply import apply
from openagents_json.job.machine.happenings import (
    AttemptFailed,
    AttemptStopped,
    AttemptSucceeded,
    Claimed,
    Happening,
    Interrupted,
    Released,
    Requested,
    Tick,
)
from openagents_json.job.machine.requests import is_repeated, refuse
from openagents_json.job.machine.state import (
    FINALLY,
    ROOT,
    JobState,
    Scope,
    ScopeNames,
    StepRun,
    new_state,
    step_output,
)
from openagents_json.job.model import ErrorInfo, JobPriority, JobStatus, StepStatus
from openagents_json.job.retry import next_delay_s
from openagents_json.workflow import limits
from openagents_json.workflow.expressions import Template
from openagents_json.workflow.graph import Node, Plan

MAX_DEATHS = 3  # workers that may die under a job without progress between (guarantee G6)
DEFAULT_LINGER_US = 5 * SECOND_US  # a job that waits longer than this is let go of

# Asked with the component's name for each step that could start: True takes a slot, False means not this one now,
# None means no slot of any kind.
Admit = Callable[[str, Node], bool | None]


@dataclass(slots=True)
class Call:
    """An attempt to call. `inputs` are what the component gets, or None where they have to be rendered for the attempt:
    they hold a secret, or this is not the first attempt."""

    run: StepRun
    inputs: dict[str, Any] | None


@dataclass(slots=True)
class Decision:
    """What a turn decided. `calls` and `stops` are to be carried out after the events are committed."""

    events: list[Event] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    stops: list[tuple[StepRun, str]] = field(default_factory=list)  # attempts to stop, with the reason
    refused: list[tuple[Requested, InvalidTransition]] = field(default_factory=list)


def create(
    plan: Plan,
    job_id: str,
    inputs: dict[str, Any],
    *,
    now_us: int,
    priority: JobPriority = JobPriority.MEDIUM,
    metadata: dict[str, Any] | None = None,
    tags: Iterable[str] = (),
    start_at_us: int | None = None,
    idempotency_key: str | None = None,
    start: bool = False,
) -> tuple[JobState, list[Event]]:
    """A new job: its state and first events. `inputs` are validated already."""
    turn = _Turn(new_state(plan), now_us, lambda: 0.0, no_slots, DEFAULT_LINGER_US)
    data: dict[str, Any] = {
        "job_id": job_id,
        "workflow_id": plan.workflow.id,
        "version": plan.workflow.version,
        "definition": plan.workflow.content_hash,
        "inputs": inputs,
        "priority": str(priority),
        "tags": list(tags),
        "metadata": metadata or {},
    }
    if start_at_us is not None:
        data["start_at_us"] = start_at_us
    if idempotency_key is not None:
        data["idempotency_key"] = idempotency_key
    turn.record("job.created", data)
    if start:
        turn.record("job.queued", {"reason": "started"})
    return turn.state, turn.decision.events


def decide(
    state: JobState,
    happenings: Iterable[Happening],
    *,
    now_us: int,
    random: Callable[[], float],
    admit: Admit,
    linger_us: int = DEFAULT_LINGER_US,
) -> Decision:
    """Take in what happened and decide what follows.

    Changes `state`, which is then ahead of the store until the commit.
    """
    turn = _Turn(state, now_us, random, admit, linger_us)
    for happening in happenings:
        turn.take(happening)
    while turn.advance() and turn.start():
        pass
    turn.conclude()
    return turn.decision


def no_slots(component: str, node: Node) -> bool | None:
    """Admits nothing: for turns on jobs that no worker runs."""
    return None


class _Turn:
    """One call of `decide`."""

    def __init__(self, state: JobState, now_us: int, random: Callable[[], float], admit: Admit, linger_us: int) -> None:
        self.state = state
        self.now_us = now_us
        self.random = random
        self.admit = admit
        self.linger_us = linger_us
        self.releasing: str | None = None
        self.decision = Decision()

    def record(self, type: str, data: dict[str, Any]) -> None:
        """The one place where an event comes into being."""
        event = Event(self.state.number + 1, type, self.now_us, data)
        apply(self.state, event)
        self.decision.events.append(event)

    @property
    def is_held(self) -> bool:
        return self.state.status == JobStatus.RUNNING

    # ── what happened ─────────────────────────────────────────────────────────────────────────────────────────────

    def take(self, happening: Happening) -> None:
        if self.state.is_final:
            if isinstance(happening, Requested):
                self.take_request(happening)
            return
        match happening:
            case AttemptSucceeded():
                if run := self.live_run(happening.path, happening.token):
                    data = {"path": run.path, "attempt": run.attempt, "output": happening.output}
                    self.record("step.completed", data)
            case AttemptFailed():
                if run := self.live_run(happening.path, happening.token):
                    self.take_failure(run, happening)
            case AttemptStopped():
                if run := self.live_run(happening.path, happening.token):
                    self.take_stop(run, happening)
            case Claimed():
                first = self.state.started_us is None
                data = {"worker": happening.worker, "epoch": happening.epoch}
                self.record("job.started" if first else "job.continued", data)
            case Interrupted():
                self.take_interruption(happening.worker)
            case Requested():
                self.take_request(happening)
            case Released():
                self.releasing = happening.reason
            case Tick():
                self.take_tick()

    def live_run(self, path: str, token: int) -> StepRun | None:
        """The run whose attempt this is, unless the attempt has ended already: then its result comes too late."""
        run = self.state.runs.get(path)
        return run if run is not None and run.live and run.token == token else None

    def take_failure(self, run: StepRun, failed: AttemptFailed) -> None:
        node = self.state.node(run)
        delay_s = None
        if not self.state.scopes[run.scope].is_stopped:
            delay_s = next_delay_s(
                node.step.retry or failed.default_retry,
                failed.error,
                run.attempt - run.lost,
                (self.now_us - (run.started_us or self.now_us)) / SECOND_US,
                self.random(),
                failed.asked_delay_s,
            )
        data: dict[str, Any] = {"path": run.path, "attempt": run.attempt, "error": failed.error}
        if failed.abandoned:
            data["abandoned"] = True
        if delay_s is not None:
            data["retry_at_us"] = self.now_us + round(delay_s * SECOND_US)
        self.record("attempt.failed", data)
        if delay_s is None:
            self.record("step.failed", {"path": run.path, "error": failed.error})

    def take_stop(self, run: StepRun, stopped: AttemptStopped) -> None:
        data: dict[str, Any] = {"path": run.path, "attempt": run.attempt, "reason": stopped.reason}
        if stopped.abandoned:
            data["abandoned"] = True
        wanted = self.state.scopes[run.scope].is_stopped
        self.record("attempt.cancelled" if wanted else "attempt.lost", data)

    def take_interruption(self, worker: str) -> None:
        state = self.state
        if state.status != JobStatus.RUNNING:
            return  # it was claimed, but nothing was recorded: it goes back as it is
        deaths = state.deaths + 1
        for run in [run for run in state.runs.values() if run.live]:
            self.record("attempt.lost", {"path": run.path, "attempt": run.attempt, "reason": "worker_lost"})
        self.record("job.worker_lost", {"worker": worker, "deaths": deaths})
        if deaths >= MAX_DEATHS:
            message = f"{deaths} workers died under this job with no recorded progress between; it is not tried again."
            error = error_info("worker_lost", message, step=state.current_step)
            self.record("job.failed", {"error": error})
        elif state.pause_requested:
            self.record("job.paused", {})
        else:
            self.record("job.queued", {"reason": "worker_lost"})

    def take_request(self, request: Requested) -> None:
        state = self.state
        try:
            refuse(state, request.verb)
            if request.verb == "cancel":
                self.refuse_late_cancel(request)
        except InvalidTransition as refusal:
            self.decision.refused.append((request, refusal))
            return
        if is_repeated(request.verb, state.status, state.pause_requested):
            return
        who = {"by": request.by, "reason": request.reason}
        match request.verb:
            case "start":
                self.record("job.queued", {"reason": "started"})
            case "pause":
                self.record("job.pause_requested", who)
            case "resume" if state.pause_requested:
                self.record("job.pause_withdrawn", who)
            case "resume":
                self.record("job.resumed", who)
                self.record("job.queued", {"reason": "resumed"})
            case "cancel":
                force = bool(request.arguments.get("force"))
                if state.cancel is None or (force and not state.cancel["force"]):
                    self.record("job.cancel_requested", who | {"force": force})
            case "set_priority":
                priority = request.arguments["priority"]
                if priority != state.priority:
                    self.record("job.priority_changed", {"priority": priority, "was": state.priority} | who)

    def refuse_late_cancel(self, request: Requested) -> None:
        """Once the outcome is decided a gentle cancel comes too late; force still ends the finally steps."""
        outcome = self.state.outcome
        if outcome not in (None, JobStatus.CANCELLED) and not request.arguments.get("force"):
            why = f"its outcome is {outcome} and its finally steps are running"
            raise InvalidTransition(self.state.job_id, "cancel", self.state.status, ("cancel with force",), why)

    def take_tick(self) -> None:
        state = self.state
        if state.status == JobStatus.WAITING and state.wake_us is not None and state.wake_us <= self.now_us:
            self.record("job.queued", {"reason": "due"})
        elif state.status == JobStatus.CREATED and state.start_at_us is not None and state.start_at_us <= self.now_us:
            self.record("job.queued", {"reason": "start_at"})

    # ── what follows ──────────────────────────────────────────────────────────────────────────────────────────────

    def advance(self) -> bool:
        """Work off what became ready, ended or is to be stopped. True when steps stand ready to start."""
        state = self.state
        while not state.is_final:
            if state.to_stop:
                self.stop_run(state.runs[state.to_stop.pop()])
            elif (path := self.next_closing()) is not None:
                self.close(path)
            elif self.may_start and state.agenda:
                self.consider(state.agenda.popleft())
            else:
                break
        if not self.may_start:
            return False
        for path, due_us in state.delayed.items():
            if due_us <= self.now_us:
                state.startable.setdefault(path, None)
        return bool(state.startable)

    @property
    def may_start(self) -> bool:
        """Whether anything new may begin now: a live worker holds the job, and no pause or return is asked for."""
        return self.is_held and not self.state.pause_requested and self.releasing is None

    def next_closing(self) -> str | None:
        if not self.state.closing:
            return None
        return next((path for path in self.state.closing if self.may_close(path)), None)

    def may_close(self, path: str) -> bool:
        """A container's end is always recorded; the job's only if nobody holds it back or a cancel asks for it."""
        if path not in (ROOT, FINALLY) or self.may_start:
            return True
        if path == ROOT and self.has_finally_to_run():
            return False  # a worker has to run the finally steps first
        return not self.state.pause_requested if self.is_held else self.state.cancel is not None

    def has_finally_to_run(self) -> bool:
        state = self.state
        is_forced = state.cancel is not None and state.cancel["force"]
        return state.plan.finally_block is not None and state.started_us is not None and not is_forced

    def stop_run(self, run: StepRun) -> None:
        if run.live:
            cancel = self.state.cancel
            reason = "sibling_failed" if cancel is None else "force_cancelled" if cancel["force"] else "cancelled"
            self.decision.stops.append((run, reason))
        elif run.ended_us is None:
            self.record("step.cancelled", {"path": run.path})

    def consider(self, path: str) -> None:
        """A step's turn has come: skip it, do it here, or line it up for a slot."""
        state = self.state
        if path not in state.ready:
            return
        run = state.runs[path]
        node = state.node(run)
        names = ScopeNames(state, state.scopes[run.scope])
        try:
            if node.condition is not None and not node.condition.render(names):
                self.record("step.skipped", {"path": path})
            elif node.value is not None:
                self.record("step.completed", {"path": path, "output": node.value.render(names)})
            elif node.items is not None:
                self.expand(run, node.items, names)
            else:
                state.startable[path] = None
        except ExpressionError as error:
            self.fail_step(run, expression_info(error, run))

    def expand(self, run: StepRun, template: Template, names: ScopeNames) -> None:
        items = template.render(names)
        if not isinstance(items, list):
            found = "null" if items is None else type(items).__name__
            self.fail_step(run, error_info("expression.invalid", f"foreach needs a list and got {found}.", run))
            return
        if len(items) > limits.FOREACH_ITEMS:
            message = f"foreach has {len(items)} items; {limits.FOREACH_ITEMS} are allowed."
            self.fail_step(run, error_info("limit.foreach_items", message, run))
            return
        if self.events_left() < 2 * len(items):
            message = f"{len(items)} items would pass the limit of {limits.EVENTS_PER_JOB} events per job."
            self.fail_step(run, error_info("limit.events", message, run))
            return
        data: dict[str, Any] = {"path": run.path, "count": len(items)}
        if not template.is_reference:
            data["items"] = items
        self.record("step.expanded", data)

    def events_left(self) -> int:
        kept = 0 if FINALLY in self.state.scopes else limits.EVENTS_KEPT_FOR_THE_END
        return limits.EVENTS_PER_JOB - kept - self.state.number

    def fail_step(self, run: StepRun, error: ErrorInfo) -> None:
        self.record("step.failed", {"path": run.path, "error": error})

    def close(self, path: str) -> None:
        """Everything inside a container (or the job) has ended."""
        if path == ROOT:
            self.close_root()
            return
        if path == FINALLY:
            self.finish(self.state.outcome or JobStatus.COMPLETED, {})
            return
        state = self.state
        run = state.runs[path]
        if run.failing is not None:
            self.fail_step(run, run.failing)
        elif state.scopes[run.scope].is_stopped:
            self.record("step.cancelled", {"path": path})
        elif error := self.output_error(run):
            self.fail_step(run, error)
        else:
            self.record("step.completed", {"path": path})

    def output_error(self, run: StepRun) -> ErrorInfo | None:
        """Why the `output` expression of a container cannot be evaluated for some item."""
        body = self.state.node(run).body
        if body is None or body.output is None:
            return None
        status, run.status = run.status, StepStatus.COMPLETED  # as it will be if this works
        try:
            step_output(self.state, run)
        except ExpressionError as error:
            return expression_info(error, run)
        finally:
            run.status = status
        return None

    def close_root(self) -> None:
        state = self.state
        outcome, data = JobStatus.COMPLETED, {}
        if state.cancel is not None:
            outcome = JobStatus.CANCELLED
        elif (error := state.scopes[ROOT].error) is not None:
            outcome, data = JobStatus.FAILED, {"error": error}
        else:
            try:
                data = {"outputs": self.outputs(state.scopes[ROOT])}
            except ExpressionError as undefined:
                outcome, data = JobStatus.FAILED, {"error": expression_info(undefined)}
        if self.has_finally_to_run():
            self.record("job.finally_started", {"outcome": str(outcome)} | data)
        else:
            self.finish(outcome, data)

    def outputs(self, root: Scope) -> dict[str, Any]:
        """The job's outputs; without `outputs` in the definition the last step's output under its id."""
        plan = self.state.plan
        names = ScopeNames(self.state, root)
        if plan.outputs is None:
            last = plan.root.nodes[-1]
            return {last.id: names.step(last.id)["output"]}
        outputs = plan.outputs.render(names)
        return outputs if isinstance(outputs, dict) else {"output": outputs}

    def finish(self, outcome: JobStatus, data: dict[str, Any]) -> None:
        state = self.state
        if state.cancel is not None and state.cancel["force"]:
            outcome, data = JobStatus.CANCELLED, {}
        if outcome == JobStatus.FAILED:
            data = {"error": data.get("error") or state.errors[0]}
        elif outcome == JobStatus.CANCELLED:
            data = dict(state.cancel or {})
        self.record({"COMPLETED": "job.completed", "FAILED": "job.failed"}.get(outcome, "job.cancelled"), data)

    # ── starting ──────────────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> bool:
        """Start what a slot is free for. True when a step failed instead, which `advance` has to look at."""
        state = self.state
        failed = False
        for path, prepared in list(state.startable.items()):  # prepared: asked before, and there was no slot
            run = state.runs.get(path)
            if run is None or (path not in state.ready and path not in state.delayed):
                del state.startable[path]  # its scope was stopped meanwhile
                continue
            try:
                data, inputs = prepared or self.prepare_attempt(run)
            except ExpressionError as error:
                del state.startable[path]
                self.fail_step(run, expression_info(error, run))
                failed = True
                continue
            admitted = self.admit(data["component"], state.node(run))
            if admitted:
                del state.startable[path]
                self.record("attempt.started", data)
                self.decision.calls.append(Call(run, inputs))
            else:
                state.startable[path] = (data, inputs)
                if admitted is None:
                    break
        return failed

    def prepare_attempt(self, run: StepRun) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """The data of the attempt's first event (what is called, with what, under which key), and the inputs to call
        it with if they are known already."""
        state = self.state
        if self.events_left() <= 0:
            message = f"The job has reached the limit of {limits.EVENTS_PER_JOB} events."
            raise ExpressionError(message, code="limit.events")
        node = state.node(run)
        names = ScopeNames(state, state.scopes[run.scope])
        data: dict[str, Any] = {
            "path": run.path,
            "attempt": run.attempt + 1,
            "key": f"{state.job_id}/{run.path}",
            "component": run.component or self.component_name(node, names),
        }
        return data, self.render_inputs(node, names, data) if run.attempt == 0 else None

    def component_name(self, node: Node, names: ScopeNames) -> str:
        assert node.component is not None
        name = node.component.render(names)
        if node.component.is_constant:
            return str(name)
        allowed = node.step.allow or []
        if name not in allowed:
            message = f"The component {name!r} is not among the allowed ones: {', '.join(allowed)}."
            raise ExpressionError(message, code="component.not_allowed", expression=str(node.component.source))
        return str(name)

    def render_inputs(self, node: Node, names: ScopeNames, data: dict[str, Any]) -> dict[str, Any] | None:
        """Put into `data` the rendered inputs, or references where they only pass recorded data on or hold a secret.
        Returns all inputs, or None if one holds a secret."""
        rendered: dict[str, Any] = {}
        values: dict[str, Any] = {}
        refs: dict[str, Any] = {}
        for name, template in node.inputs.items():
            if self.state.plan.holds_secret(template):
                refs[name] = template.source
                continue
            value = rendered[name] = template.render(names)
            if template.is_reference:
                refs[name] = template.source
            else:
                values[name] = value
        if values:
            data["inputs"] = values
        if refs:
            data["refs"] = refs
        return rendered if len(rendered) == len(node.inputs) else None

    # ── the end of the turn ───────────────────────────────────────────────────────────────────────────────────────

    def conclude(self) -> None:
        """Say truthfully where the job stands now that nothing more follows."""
        state = self.state
        if state.is_final or state.live:
            return
        if state.cancel is not None:
            if not self.is_held and state.status != JobStatus.QUEUED:
                self.record("job.queued", {"reason": "cancel"})
            elif self.is_held and self.releasing is not None:
                self.record("job.queued", {"reason": self.releasing})
        elif state.pause_requested:
            self.record("job.paused", {})
        elif self.is_held and self.releasing is not None:
            self.record("job.queued", {"reason": self.releasing})
        elif self.is_held and not (state.startable or state.agenda or state.closing):
            due_us = state.next_due_us()
            if due_us is not None and due_us - self.now_us > self.linger_us:
                self.record("job.waiting", {"until_us": due_us})


def error_info(
    type: str, message: str, run: StepRun | None = None, *, step: str | None = None, details: Any = None
) -> ErrorInfo:
    """An error in the one shape that stands in records; not retryable."""
    return {
        "type": type,
        "message": message,
        "step": run.path if run is not None else step,
        "attempt": run.attempt if run is not None else None,
        "retryable": False,
        "details": details,
    }


def expression_info(error: ExpressionError, run: StepRun | None = None) -> ErrorInfo:
    details = {"expression": error.expression} if error.expression else None
    return error_info(error.code, str(error), run, details=details)
