"""apply(state, event): the only writer of a job's state. Evaluates nothing, reads no clock, O(1) per event.

One rule for each type of event; what they do to scopes and counters is in `scopes`. So the same history gives the same
state, live or folded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from openagents_json.amounts import MOST, add
from openagents_json.errors import StoreError
from openagents_json.job.events import Event
from openagents_json.job.machine import resources
from openagents_json.job.machine.happenings import PREEMPTED
from openagents_json.job.machine.scopes import (
    begin,
    delay,
    end_run,
    end_scope_if_done,
    fail_inside,
    halt,
    let_go,
    open_container,
    open_inner,
    open_next_item,
    open_next_undo,
    open_scope,
    set_deadline,
    stop_inside,
    take_over,
    undelay,
)
from openagents_json.job.machine.state import FINALLY, ROOT, UNDO, Data, JobState, Scope, StepRun, new_state
from openagents_json.job.model import JobStatus, StepStatus
from openagents_json.workflow.plan import Plan

RUNGS = (None, "flag", "terminate", "kill")  # of the kill ladder, the strongest last


def apply(state: JobState, event: Event) -> None:
    """Change the state in place by one event. `StoreError` when the event is not the next one."""
    if event.number != state.number + 1:
        raise StoreError(f"Job {state.job_id}: event {event.number} came after {state.number}; the history has a gap.")
    state.number = event.number
    _RULES[event.type](state, event.data, event)
    state.seen_us = event.at_us


def fold(plan: Plan, events: Iterable[Event], start: JobState | None = None) -> JobState:
    """The state after a whole history (or after `start` and the events that follow it)."""
    state = new_state(plan) if start is None else start
    for event in events:
        apply(state, event)
    state.rewind_turn()
    return state


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
    state.parent = data.get("parent")
    state.origin = data.get("origin")
    state.given = data.get("given", {})
    state.budget = dict(data.get("budget", {}))
    state.share = data.get("share")
    state.expected_us = data.get("expected_us", 0)
    state.deadline_us = data.get("deadline_us")
    state.created_us = event.at_us
    open_scope(state, Scope(ROOT, "", "", ""), 1.0)


def _queued(state: JobState, data: Data, event: Event) -> None:
    state.status = JobStatus.QUEUED
    state.requires = data.get("requires", state.requires)
    _count_preemption(state, data)
    state.worker = None
    state.start_at_us = None
    state.wake_us = None


def _count_preemption(state: JobState, data: Data) -> None:
    """A job that makes room for another counts once for all its attempts that are ended, and for its own going."""
    if data["reason"] == PREEMPTED and data.get("by") != state.made_room_for:
        state.preempted += 1
        state.made_room_for = data.get("by")


def _started(state: JobState, data: Data, event: Event) -> None:
    state.status = JobStatus.RUNNING
    state.made_room_for = None
    state.worker = data["worker"]
    state.requires = []
    state.wake_us = None
    if state.started_us is None:
        state.started_us = event.at_us
    resources.worker_came(state, event.at_us)
    if (deadline := data.get("deadline_us")) is not None:
        set_deadline(state, ROOT, deadline)


def _pause_requested(state: JobState, data: Data, event: Event) -> None:
    state.parent_pause = data.get("parent_pause")
    if state.pause_requested or state.status == JobStatus.PAUSED:
        return  # it is so already: from now on its parent's pause holds it as well
    state.pause_requested = True
    state.pause = {"by": data["by"], "reason": data["reason"], "at_us": event.at_us}
    if "budget" in data:
        state.pause["budget"] = data["budget"]
    state.pause_number = event.number


def _pause_withdrawn(state: JobState, data: Data, event: Event) -> None:
    state.pause_requested = False
    state.parent_pause = None


def _paused(state: JobState, data: Data, event: Event) -> None:
    state.status = JobStatus.PAUSED
    state.pause_requested = False
    state.worker = None
    state.wake_us = None


def _resumed(state: JobState, data: Data, event: Event) -> None:
    state.pause_requested = False
    state.parent_pause = None


def _cancel_requested(state: JobState, data: Data, event: Event) -> None:
    state.cancel = {"by": data["by"], "reason": data["reason"], "force": data["force"]}
    state.cancel_us = state.cancel_us or event.at_us
    state.pause_requested = False
    state.parent_pause = None
    state.deadlines.pop(ROOT, None)
    halt(state, state.scopes[ROOT])
    if data["force"]:
        _end_cleanup(state, UNDO)
        _end_cleanup(state, FINALLY)


def _priority_changed(state: JobState, data: Data, event: Event) -> None:
    state.priority = data["priority"]


def _budget_added(state: JobState, data: Data, event: Event) -> None:
    add(state.budget, data["amounts"])


def _deadline_at_risk(state: JobState, data: Data, event: Event) -> None:
    state.at_risk = True


def _waiting(state: JobState, data: Data, event: Event) -> None:
    if state.status == JobStatus.PAUSED:
        state.pause_requested = True  # a child runs again, to clean up: the pause stays, and is not effective
    state.status = JobStatus.WAITING
    state.wake_us = data["until_us"]
    state.worker = None


def _worker_lost(state: JobState, data: Data, event: Event) -> None:
    state.deaths = data["deaths"]
    state.worker = None
    resources.worker_lost(state, event.at_us)


def _timed_out(state: JobState, data: Data, event: Event) -> None:
    state.deadlines.pop(ROOT, None)
    root = state.scopes[ROOT]
    root.error = data["error"]
    stop_inside(state, root)
    end_scope_if_done(state, root)


def _compensation_started(state: JobState, data: Data, event: Event) -> None:
    _decide_outcome(state, JobStatus(data["outcome"]), data)
    state.closing.pop(ROOT, None)
    set_deadline(state, UNDO, data["deadline_us"])
    open_next_undo(state)


def _finally_started(state: JobState, data: Data, event: Event) -> None:
    _decide_outcome(state, JobStatus(data["outcome"]), data)
    state.closing.pop(ROOT, None)
    state.closing.pop(UNDO, None)
    state.deadlines.pop(UNDO, None)
    set_deadline(state, FINALLY, data["deadline_us"])
    open_scope(state, Scope(FINALLY, "", "", ""), 0.0)


def _releasing(state: JobState, data: Data, event: Event) -> None:
    _decide_outcome(state, JobStatus(data["outcome"]), data)
    _drop_what_is_left(state)
    state.agenda.clear()
    state.startable.clear()
    state.to_stop.clear()
    resources.job_ended(state, event.at_us, well=state.outcome == JobStatus.COMPLETED)


def _cleanup_timed_out(state: JobState, data: Data, event: Event) -> None:
    part = UNDO if data["part"] == "compensation" else FINALLY
    state.errors.append(data["error"])
    _end_cleanup(state, part)


def _end_cleanup(state: JobState, part: str) -> None:
    """Nothing more of the compensation or the finally steps starts, and what runs of them is told to stop."""
    state.deadlines.pop(part, None)
    state.undo_ended = state.undo_ended or part == UNDO
    key = state.undoing if part == UNDO else FINALLY
    if key is not None and key in state.scopes:
        halt(state, state.scopes[key])


def _completed(state: JobState, data: Data, event: Event) -> None:
    _finish(state, JobStatus.COMPLETED, data, event)


def _failed(state: JobState, data: Data, event: Event) -> None:
    _finish(state, JobStatus.FAILED, data, event)


def _cancelled(state: JobState, data: Data, event: Event) -> None:
    _finish(state, JobStatus.CANCELLED, data, event)


def _decide_outcome(state: JobState, outcome: JobStatus, data: Data) -> None:
    state.outcome = outcome
    state.deadlines.pop(ROOT, None)
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
    _drop_what_is_left(state)
    if status == JobStatus.COMPLETED:
        state.progress = 1.0


def _drop_what_is_left(state: JobState) -> None:
    """No step begins or goes on any more. There is something left only if dead workers ended the job."""
    state.deadlines.clear()
    state.awaiting.clear()
    state.in_doubt.clear()
    state.children.clear()
    state.paused_children.clear()
    for path in state.ready:
        del state.runs[path]
    for scope in state.scopes.values():
        scope.ready = 0
        for path in scope.active:  # nothing of it runs any more
            state.runs[path].status = StepStatus.CANCELLED
    state.ready.clear()
    state.closing.clear()
    state.delayed.clear()


# ── attempts ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _attempt_started(state: JobState, data: Data, event: Event) -> None:
    run = state.runs[data["path"]]
    if run.started_us is None:
        begin(state, run, event)
    if data["attempt"] == 1 or "inputs" in data:
        run.inputs = data.get("inputs", {})
    run.component = data["component"]
    run.attempt = data["attempt"]
    run.token = event.number
    run.live = True
    run.since_us = event.at_us - state.created_us
    state.live_since_us += run.since_us
    run.status = StepStatus.RUNNING
    state.delayed.pop(run.path, None)
    state.live += 1
    state.current_step = run.path


def _attempt_ended(state: JobState, data: Data, event: Event) -> StepRun:
    run = state.runs[data["path"]]
    _leave(state, run, data, event)
    if data.get("abandoned"):
        state.abandoned += 1
    if (rung := data.get("rung")) is not None and RUNGS.index(rung) > RUNGS.index(state.rung):
        state.rung = rung
    if state.ledger:
        resources.attempt_ended(state, run, event.at_us, well=False)
    return run


def _leave(state: JobState, run: StepRun, data: Data, event: Event) -> None:
    """The attempt is not on any more."""
    run.live = False
    state.live -= 1
    # Of one that ended with its worker nobody knows when that was: it counts up to the last event before.
    on_us = data.get("seen_us", event.at_us) - state.created_us - run.since_us
    if on_us > 0:  # else the clock was set back
        state.time_us = min(state.time_us + on_us, MOST)
    state.live_since_us -= run.since_us
    run.since_us = 0
    if "spent" in data:
        _spent(state, data, event)


def _spent(state: JobState, data: Data, event: Event) -> None:
    run = state.runs[data["path"]]
    if run.spent is None:
        run.spent = {}
    add(run.spent, data["spent"])
    add(state.spent, data["spent"])


def _attempt_failed(state: JobState, data: Data, event: Event) -> None:
    run = _attempt_ended(state, data, event)
    run.error = data["error"]
    due = data.get("retry_at_us")
    if due is not None:
        run.status = StepStatus.RETRYING
        delay(state, run, due)


def _attempt_cancelled(state: JobState, data: Data, event: Event) -> None:
    end_run(state, _attempt_ended(state, data, event), StepStatus.CANCELLED, event)


def _attempt_lost(state: JobState, data: Data, event: Event) -> None:
    run = _attempt_ended(state, data, event)
    run.lost += 1
    _count_preemption(state, data)
    if state.scopes[run.scope].is_cut:
        end_run(state, run, StepStatus.CANCELLED, event)
    else:
        run.status = StepStatus.RETRYING
        delay(state, run, event.at_us)


# ── steps ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _step_completed(state: JobState, data: Data, event: Event) -> None:
    run = state.runs[data["path"]]
    if run.live:
        _leave(state, run, data, event)
        if state.ledger:
            resources.attempt_ended(state, run, event.at_us, well=True)
    if "signal" in data:  # the payload stands in the history once, where it was received
        run.output = state.mailbox[data["signal"]].pop(data["letter"])["payload"]
        if not state.mailbox[data["signal"]]:
            del state.mailbox[data["signal"]]
    else:
        run.output = data.get("output")
    if run.handler is None:
        run.error = None
    state.deaths = 0
    if state.node(run).undo is not None and run.handler is None:  # of a caught error there is nothing to undo
        state.undone.append(run.path)
    end_run(state, run, StepStatus.COMPLETED, event)


def _step_failed(state: JobState, data: Data, event: Event) -> None:
    run = state.runs[data["path"]]
    run.error = data["error"]
    end_run(state, run, StepStatus.FAILED, event, is_tolerated=bool(data.get("continued")))


def _step_skipped(state: JobState, data: Data, event: Event) -> None:
    end_run(state, state.runs[data["path"]], StepStatus.SKIPPED, event)


def _step_cancelled(state: JobState, data: Data, event: Event) -> None:
    end_run(state, state.runs[data["path"]], StepStatus.CANCELLED, event)


def _step_taken_over(state: JobState, data: Data, event: Event) -> None:
    take_over(state, data, event)


def _step_expanded(state: JobState, data: Data, event: Event) -> None:
    run = open_container(state, data, event)
    run.count = data["count"]
    run.items = data.get("items")
    wanted = state.node(run).step.concurrency or run.count
    for _ in range(min(wanted, run.count)):
        open_next_item(state, run)
    if run.count == 0:
        state.closing[run.path] = None


def _step_chosen(state: JobState, data: Data, event: Event) -> None:
    run = open_container(state, data, event)
    run.chosen = data["case"]
    if run.chosen is None:
        state.closing[run.path] = None
    else:
        open_inner(state, run, run.chosen, state.scopes[run.scope].weight)


def _step_forked(state: JobState, data: Data, event: Event) -> None:
    run = open_container(state, data, event)
    branches = state.node(run).step.parallel or {}
    for label in branches:
        open_inner(state, run, label, state.scopes[run.scope].weight / len(branches))


def _step_iterated(state: JobState, data: Data, event: Event) -> None:
    if data["iteration"] == 0:
        run = open_container(state, data, event)
        run.initial = data.get("initial")
    else:
        run = state.runs[data["path"]]
        undelay(state, run)
        state.closing.pop(run.path, None)
        run.status = StepStatus.RUNNING
    run.count = data["iteration"] + 1
    repeat = state.node(run).step.repeat
    assert repeat is not None
    open_inner(state, run, str(data["iteration"]), state.scopes[run.scope].weight / repeat.max_iterations)


def _step_waiting(state: JobState, data: Data, event: Event) -> None:
    run = state.runs[data["path"]]
    if run.path not in state.scopes[run.scope].active:
        begin(state, run, event)
    undelay(state, run)
    state.closing.pop(run.path, None)
    run.attempt = max(run.attempt, data.get("attempt", 1))
    run.status = StepStatus.WAITING
    state.current_step = run.path
    if "signal" in data:
        run.signal = data["signal"]
        state.awaiting.setdefault(run.signal, {})[run.path] = None
        if (deadline := data.get("deadline_us")) is not None:
            set_deadline(state, run.path, deadline)
    else:
        delay(state, run, data["until_us"])


def _step_retrying(state: JobState, data: Data, event: Event) -> None:
    """A container, a signal or a child failed and will be begun again."""
    run = state.runs[data["path"]]
    let_go(state, run)
    run.error = data["error"]
    run.failing = None
    run.status = StepStatus.RETRYING
    delay(state, run, data["retry_at_us"])


def _step_caught(state: JobState, data: Data, event: Event) -> None:
    run = state.runs[data["path"]]
    if run.path not in state.scopes[run.scope].active:
        begin(state, run, event)
    let_go(state, run)
    run.error = data["error"]
    run.failing = None
    run.handler = data["handler"]
    run.status = StepStatus.RUNNING
    open_inner(state, run, f"catch{run.handler}", 0.0)


def _step_timed_out(state: JobState, data: Data, event: Event) -> None:
    run = state.runs[data["path"]]
    state.deadlines.pop(run.path, None)
    fail_inside(state, run, data["error"], at_once=True)


def _step_in_doubt(state: JobState, data: Data, event: Event) -> None:
    run = _attempt_ended(state, data, event)
    run.error = data["error"]
    run.in_doubt = True
    run.status = StepStatus.WAITING
    state.in_doubt[run.path] = None


def _step_resolved(state: JobState, data: Data, event: Event) -> None:
    run = state.runs[data["path"]]
    run.in_doubt = False
    state.in_doubt.pop(run.path, None)
    if data["how"] == "retry":
        run.status = StepStatus.RETRYING
        delay(state, run, event.at_us)


# ── signals and children ──────────────────────────────────────────────────────────────────────────────────────────


def _signal_received(state: JobState, data: Data, event: Event) -> None:
    state.mailbox.setdefault(data["name"], []).append({"at_us": event.at_us, "payload": data["payload"]})
    state.schedule(event.at_us, "signal", data["name"])


def _child_started(state: JobState, data: Data, event: Event) -> None:
    run = state.runs[data["path"]]
    if run.path not in state.scopes[run.scope].active:
        begin(state, run, event)
    undelay(state, run)
    run.attempt = data["attempt"]
    run.status = StepStatus.RUNNING
    run.child = data["child_id"]
    state.current_step = run.path
    if not data.get("detached"):
        state.children[data["child_id"]] = run.path
        if (deadline := data.get("deadline_us")) is not None:
            set_deadline(state, run.path, deadline)


def _child_paused(state: JobState, data: Data, event: Event) -> None:
    state.paused_children[data["child_id"]] = data.get("pause")


def _child_resumed(state: JobState, data: Data, event: Event) -> None:
    del state.paused_children[data["child_id"]]


def _child_spent(state: JobState, data: Data, event: Event) -> None:
    """What a child has spent in all: what is new of it counts for this job."""
    known = state.children_spent.get(data["child_id"], {})
    new = {key: max(amount - known.get(key, 0), 0) for key, amount in data["spent"].items()}
    state.time_us = min(state.time_us + new.pop("time_us", 0), MOST)
    add(state.spent, new)
    state.children_spent[data["child_id"]] = data["spent"]


def _child_ended(state: JobState, data: Data, event: Event) -> None:
    if "spent" in data:
        _child_spent(state, data, event)
        del state.children_spent[data["child_id"]]
    path = state.children.pop(data["child_id"])
    state.paused_children.pop(data["child_id"], None)
    state.deadlines.pop(path, None)


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
    "job.budget_added": _budget_added,
    "job.deadline_at_risk": _deadline_at_risk,
    "job.waiting": _waiting,
    "job.worker_lost": _worker_lost,
    "job.timed_out": _timed_out,
    "job.compensation_started": _compensation_started,
    "job.finally_started": _finally_started,
    "job.cleanup_timed_out": _cleanup_timed_out,
    "job.releasing": _releasing,
    "job.completed": _completed,
    "job.failed": _failed,
    "job.cancelled": _cancelled,
    "attempt.started": _attempt_started,
    "attempt.spent": _spent,
    "attempt.failed": _attempt_failed,
    "attempt.cancelled": _attempt_cancelled,
    "attempt.lost": _attempt_lost,
    "step.completed": _step_completed,
    "step.failed": _step_failed,
    "step.skipped": _step_skipped,
    "step.cancelled": _step_cancelled,
    "step.taken_over": _step_taken_over,
    "step.expanded": _step_expanded,
    "step.chosen": _step_chosen,
    "step.forked": _step_forked,
    "step.iterated": _step_iterated,
    "step.waiting": _step_waiting,
    "step.retrying": _step_retrying,
    "step.caught": _step_caught,
    "step.timed_out": _step_timed_out,
    "step.in_doubt": _step_in_doubt,
    "step.resolved": _step_resolved,
    "signal.received": _signal_received,
    "child.started": _child_started,
    "child.paused": _child_paused,
    "child.resumed": _child_resumed,
    "child.spent": _child_spent,
    "child.ended": _child_ended,
    "resource.tracked": resources.tracked,
    "release.started": resources.release_started,
    "release.failed": resources.release_failed,
    "resource.released": resources.released,
    "resource.leaked": resources.leaked,
}
