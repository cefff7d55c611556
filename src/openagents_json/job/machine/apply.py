"""apply(state, event): the only writer of a job's state. Evaluates nothing, reads no clock, O(1) per event.

Readiness is kept by counters: when a run ends, its followers wait for one less, its scope has one node less to end,
and a scope that ends lets its container open the next item or close. So the same history gives the same state, live
or folded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from openagents_json.errors import StoreError
from openagents_json.job.events import Event
from openagents_json.job.machine.state import FINALLY, ROOT, JobState, Scope, StepRun, new_state
from openagents_json.job.model import ErrorInfo, JobStatus, StepStatus
from openagents_json.workflow.graph import Plan


def apply(state: JobState, event: Event) -> None:
    """Change the state in place by one event. `StoreError` when the event is not the next one."""
    if event.number != state.number + 1:
        raise StoreError(f"Job {state.job_id}: event {event.number} came after {state.number}; the history has a gap.")
    state.number = event.number
    _RULES[event.type](state, event.data, event)


def fold(plan: Plan, events: Iterable[Event], start: JobState | None = None) -> JobState:
    """The state after a whole history (or after `start` and the events that follow it)."""
    state = new_state(plan) if start is None else start
    for event in events:
        apply(state, event)
    state.rewind_turn()
    return state


Data = dict[str, Any]

# ── the job ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _created(state: JobState, data: Data, event: Event) -> None:
    state.job_id = data["job_id"]
    state.workflow_id = data["workflow_id"]
    state.version = data["version"]
    state.priority = data["priority"]
    state.inputs = data["inputs"]
    state.metadata = data["metadata"]
    state.tags = data["tags"]
    state.start_at_us = data.get("start_at_us")
    state.created_us = event.at_us
    _open_scope(state, Scope(ROOT, "", "", 0, [], 0, 0.0), 1.0)


def _queued(state: JobState, data: Data, event: Event) -> None:
    state.status = JobStatus.QUEUED
    state.worker = None
    state.start_at_us = None
    state.wake_us = None


def _started(state: JobState, data: Data, event: Event) -> None:
    state.status = JobStatus.RUNNING
    state.worker = data["worker"]
    if state.started_us is None:
        state.started_us = event.at_us


def _pause_requested(state: JobState, data: Data, event: Event) -> None:
    state.pause_requested = True


def _pause_withdrawn(state: JobState, data: Data, event: Event) -> None:
    state.pause_requested = False


def _paused(state: JobState, data: Data, event: Event) -> None:
    state.status = JobStatus.PAUSED
    state.pause_requested = False
    state.worker = None
    state.wake_us = None


def _resumed(state: JobState, data: Data, event: Event) -> None:
    state.pause_requested = False


def _cancel_requested(state: JobState, data: Data, event: Event) -> None:
    state.cancel = {"by": data["by"], "reason": data["reason"], "force": data["force"]}
    state.pause_requested = False
    _halt(state, state.scopes[ROOT])
    if data["force"] and FINALLY in state.scopes:
        _halt(state, state.scopes[FINALLY])


def _priority_changed(state: JobState, data: Data, event: Event) -> None:
    state.priority = data["priority"]


def _waiting(state: JobState, data: Data, event: Event) -> None:
    state.status = JobStatus.WAITING
    state.wake_us = data["until_us"]
    state.worker = None


def _worker_lost(state: JobState, data: Data, event: Event) -> None:
    state.deaths = data["deaths"]
    state.worker = None


def _finally_started(state: JobState, data: Data, event: Event) -> None:
    _decide_outcome(state, JobStatus(data["outcome"]), data)
    state.closing.pop(ROOT, None)
    _open_scope(state, Scope(FINALLY, "", "", 0, [], 0, 0.0), 0.0)


def _completed(state: JobState, data: Data, event: Event) -> None:
    _finish(state, JobStatus.COMPLETED, data, event)


def _failed(state: JobState, data: Data, event: Event) -> None:
    _finish(state, JobStatus.FAILED, data, event)


def _cancelled(state: JobState, data: Data, event: Event) -> None:
    _finish(state, JobStatus.CANCELLED, data, event)


def _decide_outcome(state: JobState, outcome: JobStatus, data: Data) -> None:
    state.outcome = outcome
    if data.get("outputs") is not None:
        state.outputs = data["outputs"]
    if data.get("error") is not None and data["error"] not in state.errors:
        state.errors.append(data["error"])


def _finish(state: JobState, status: JobStatus, data: Data, event: Event) -> None:
    _decide_outcome(state, status, data)
    state.status = status
    state.completed_us = event.at_us
    state.worker = None
    state.wake_us = None
    state.start_at_us = None
    state.pause_requested = False
    state.current_step = None
    for path in state.ready:
        del state.runs[path]
    for scope in state.scopes.values():
        for path in scope.active:  # only if a dead worker ended the job: nothing of it runs any more
            state.runs[path].status = StepStatus.CANCELLED
    state.ready.clear()
    state.closing.clear()
    state.delayed.clear()
    if status == JobStatus.COMPLETED:
        state.progress = 1.0


# ── attempts ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _attempt_started(state: JobState, data: Data, event: Event) -> None:
    run = state.runs[data["path"]]
    if run.started_us is None:
        _begin(state, run, event)
    if data["attempt"] == 1 or "inputs" in data:
        run.inputs = data.get("inputs", {})
    run.component = data["component"]
    run.attempt = data["attempt"]
    run.token = event.number
    run.live = True
    run.status = StepStatus.RUNNING
    state.delayed.pop(run.path, None)
    state.live += 1
    state.current_step = run.path


def _attempt_ended(state: JobState, data: Data) -> StepRun:
    run = state.runs[data["path"]]
    run.live = False
    state.live -= 1
    if data.get("abandoned"):
        state.abandoned += 1
    return run


def _attempt_failed(state: JobState, data: Data, event: Event) -> None:
    run = _attempt_ended(state, data)
    run.error = data["error"]
    due = data.get("retry_at_us")
    if due is not None:
        run.status = StepStatus.RETRYING
        state.delayed[run.path] = due


def _attempt_cancelled(state: JobState, data: Data, event: Event) -> None:
    _end_run(state, _attempt_ended(state, data), StepStatus.CANCELLED, event)


def _attempt_lost(state: JobState, data: Data, event: Event) -> None:
    run = _attempt_ended(state, data)
    run.lost += 1
    if state.scopes[run.scope].is_stopped:
        _end_run(state, run, StepStatus.CANCELLED, event)
    else:
        run.status = StepStatus.RETRYING
        state.delayed[run.path] = event.at_us


# ── steps ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _step_completed(state: JobState, data: Data, event: Event) -> None:
    run = state.runs[data["path"]]
    if run.live:
        run.live = False
        state.live -= 1
    run.output = data.get("output")
    run.error = None
    state.deaths = 0
    _end_run(state, run, StepStatus.COMPLETED, event)


def _step_failed(state: JobState, data: Data, event: Event) -> None:
    run = state.runs[data["path"]]
    run.error = data["error"]
    _end_run(state, run, StepStatus.FAILED, event)


def _step_skipped(state: JobState, data: Data, event: Event) -> None:
    _end_run(state, state.runs[data["path"]], StepStatus.SKIPPED, event)


def _step_cancelled(state: JobState, data: Data, event: Event) -> None:
    _end_run(state, state.runs[data["path"]], StepStatus.CANCELLED, event)


def _step_expanded(state: JobState, data: Data, event: Event) -> None:
    run = state.runs[data["path"]]
    _begin(state, run, event)
    run.status = StepStatus.RUNNING
    run.count = data["count"]
    run.items = data.get("items")
    wanted = state.node(run).step.concurrency or run.count
    for _ in range(min(wanted, run.count)):
        _open_next_item(state, run)
    if run.count == 0:
        state.closing[run.path] = None


# ── scopes and counters ───────────────────────────────────────────────────────────────────────────────────────────


def _open_scope(state: JobState, scope: Scope, weight: float) -> None:
    """Let a new scope begin; `weight` is the share of the job's progress that all its nodes together stand for."""
    state.scopes[scope.key] = scope
    block = state.scope_block(scope)
    scope.waits = list(block.waits)
    scope.left = len(block.nodes)
    scope.weight = weight / scope.left
    for index in block.starts:
        _make_ready(state, scope, block.nodes[index].id)


def _open_next_item(state: JobState, run: StepRun) -> None:
    index = run.opened
    run.opened += 1
    run.open.add(index)
    weight = state.scopes[run.scope].weight / run.count
    _open_scope(state, Scope(f"{run.path}[{index}]", run.path, run.step_id, index, [], 0, 0.0), weight)


def _make_ready(state: JobState, scope: Scope, step_id: str) -> None:
    path = scope.prefix + step_id
    state.runs[path] = StepRun(path, step_id, scope.key)
    state.ready[path] = None
    state.agenda.append(path)
    scope.ready += 1


def _leave_ready(state: JobState, run: StepRun) -> None:
    if run.path in state.ready:
        del state.ready[run.path]
        state.scopes[run.scope].ready -= 1


def _begin(state: JobState, run: StepRun, event: Event) -> None:
    _leave_ready(state, run)
    run.started_us = event.at_us
    state.scopes[run.scope].active.add(run.path)


def _end_run(state: JobState, run: StepRun, status: StepStatus, event: Event) -> None:
    """A run has ended: count it out of its scope, wake its followers, and end the scope if it was the last."""
    scope = state.scopes[run.scope]
    _leave_ready(state, run)
    run.status = status
    run.ended_us = event.at_us
    if run.inputs:
        run.inputs = {}
    state.delayed.pop(run.path, None)
    state.closing.pop(run.path, None)
    scope.active.discard(run.path)
    scope.left -= 1
    _credit(state, scope, scope.weight - run.credited)
    if status == StepStatus.FAILED:
        if scope.key == FINALLY and run.error is not None:
            state.errors.append(run.error)
        if scope.error is None:
            scope.error = run.error
            _stop_inside(state, scope)
    if not scope.is_stopped:
        for index in state.node(run).followers:
            scope.waits[index] -= 1
            if scope.waits[index] == 0:
                _make_ready(state, scope, state.scope_block(scope).nodes[index].id)
    _end_scope_if_done(state, scope)


def _credit(state: JobState, scope: Scope, share: float) -> None:
    """Add to the job's progress, and to what the enclosing containers have given, so that nothing counts twice."""
    state.progress = min(state.progress + share, 1.0)
    while scope.owner:
        container = state.runs[scope.owner]
        container.credited += share
        scope = state.scopes[container.scope]


def _end_scope_if_done(state: JobState, scope: Scope) -> None:
    if scope.ended or scope.active or (scope.left and not scope.is_stopped):
        return
    scope.ended = True
    scope.waits = []
    if not scope.owner:
        state.closing[scope.key] = None
        return
    run = state.runs[scope.owner]
    run.open.discard(scope.index)
    if scope.error is not None:
        _item_failed(state, run, scope.index, scope.error)
    if run.failing is None and run.opened < run.count and not state.scopes[run.scope].is_stopped:
        _open_next_item(state, run)
    if not run.open:
        state.closing[run.path] = None


def _item_failed(state: JobState, run: StepRun, index: int, error: ErrorInfo) -> None:
    if state.node(run).step.on_item_error != "fail":
        run.item_errors.append({"index": index, "error": error})
    elif run.failing is None:
        run.failing = error
        for other in sorted(run.open):
            _halt(state, state.scopes[f"{run.path}[{other}]"])


def _halt(state: JobState, scope: Scope) -> None:
    """Tell a scope from outside to stop."""
    if not scope.ended and not scope.halted:
        scope.halted = True
        _stop_inside(state, scope)
        _end_scope_if_done(state, scope)


def _stop_inside(state: JobState, scope: Scope) -> None:
    """A scope has just stopped: what is ready never starts, what is active is told (by decide) or halted."""
    if scope.ready:
        for path in [path for path in state.ready if state.runs[path].scope == scope.key]:
            del state.ready[path]
            del state.runs[path]
        scope.ready = 0
    for path in sorted(scope.active):
        run = state.runs[path]
        if state.node(run).body is None:
            state.to_stop.append(path)
        else:
            for index in sorted(run.open):
                _halt(state, state.scopes[f"{path}[{index}]"])


_RULES: dict[str, Callable[[JobState, Data, Event], None]] = {
    "job.created": _created,
    "job.queued": _queued,
    "job.started": _started,
    "job.continued": _started,
    "job.pause_requested": _pause_requested,
    "job.pause_withdrawn": _pause_withdrawn,
    "job.paused": _paused,
    "job.resumed": _resumed,
    "job.cancel_requested": _cancel_requested,
    "job.priority_changed": _priority_changed,
    "job.waiting": _waiting,
    "job.worker_lost": _worker_lost,
    "job.finally_started": _finally_started,
    "job.completed": _completed,
    "job.failed": _failed,
    "job.cancelled": _cancelled,
    "attempt.started": _attempt_started,
    "attempt.failed": _attempt_failed,
    "attempt.cancelled": _attempt_cancelled,
    "attempt.lost": _attempt_lost,
    "step.completed": _step_completed,
    "step.failed": _step_failed,
    "step.skipped": _step_skipped,
    "step.cancelled": _step_cancelled,
    "step.expanded": _step_expanded,
}
