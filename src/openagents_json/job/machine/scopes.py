"""Scopes and counters: what a beginning, an ending and a failure change around a run. Used by `apply` only.

Readiness is kept by counters: when a run ends, its followers wait for one less, its scope has one node less to end,
and a scope that ends lets its container open the next item or close. All of it is O(1) per event, but for what a stop
reaches.
"""

from __future__ import annotations

from openagents_json.job.events import Event
from openagents_json.job.machine.state import FINALLY, ROOT, UNDO, UNDO_LABEL, Data, JobState, Scope, StepRun
from openagents_json.job.model import ErrorInfo, StepStatus


def open_scope(state: JobState, scope: Scope, weight: float) -> None:
    """Let a new scope begin; `weight` is the share of the job's progress that all its nodes together stand for."""
    state.scopes[scope.key] = scope
    block = state.scope_block(scope)
    scope.waits = list(block.waits)
    scope.left = len(block.nodes)
    scope.weight = weight / scope.left
    for index in block.starts:
        _make_ready(state, scope, block.nodes[index].id)


def open_container(state: JobState, data: Data, event: Event) -> StepRun:
    """A container begins, or begins again after a retry."""
    run = state.runs[data["path"]]
    if run.path not in state.scopes[run.scope].active:
        begin(state, run, event)
    undelay(state, run)
    run.attempt += 1
    run.status = StepStatus.RUNNING
    run.count = run.opened = run.won = run.broken = 0
    run.item_errors = []
    if (deadline := data.get("deadline_us")) is not None:
        set_deadline(state, run.path, deadline)
    return run


def open_inner(state: JobState, run: StepRun, label: str, weight: float) -> None:
    """A scope inside a run begins."""
    run.open.add(label)
    open_scope(state, Scope(run.inner(label), run.path, run.step_id, label), weight)


def open_next_item(state: JobState, run: StepRun) -> None:
    """The next item of a foreach begins."""
    label = str(run.opened)
    run.opened += 1
    open_inner(state, run, label, state.scopes[run.scope].weight / run.count)


def open_next_undo(state: JobState) -> None:
    """The run that completed last and was not undone yet; UNDO closes when there is none."""
    state.undoing = None
    if not state.undone or state.undo_ended:
        state.closing[UNDO] = None
        return
    run = state.runs[state.undone.pop()]
    state.undoing = f"{run.path}[{UNDO_LABEL}]"
    open_scope(state, Scope(state.undoing, run.path, run.step_id, UNDO_LABEL), 0.0)


def _make_ready(state: JobState, scope: Scope, step_id: str) -> None:
    path = scope.path_of(step_id)
    state.runs[path] = StepRun(path, step_id, scope.key)
    state.ready[path] = None
    state.agenda.append(path)
    scope.ready += 1


def _leave_ready(state: JobState, run: StepRun) -> None:
    if run.path in state.ready:
        del state.ready[run.path]
        state.scopes[run.scope].ready -= 1


def begin(state: JobState, run: StepRun, event: Event) -> None:
    """A run begins: it stands among the active ones of its scope until it ends."""
    _leave_ready(state, run)
    if run.started_us is None:
        run.started_us = event.at_us
    state.scopes[run.scope].active.add(run.path)


def delay(state: JobState, run: StepRun, due_us: int) -> None:
    """A run goes on at that time, and not before."""
    state.delayed[run.path] = due_us
    state.schedule(due_us, "delayed", run.path)


def undelay(state: JobState, run: StepRun) -> None:
    """A run does not wait for a time any more."""
    state.delayed.pop(run.path, None)
    state.startable.discard(run.path)


def set_deadline(state: JobState, path: str, deadline_us: int) -> None:
    """A run (or ROOT, UNDO, FINALLY) may take until that time."""
    state.deadlines[path] = deadline_us
    state.schedule(deadline_us, "deadline", path)


def let_go(state: JobState, run: StepRun) -> None:
    """A run waits for nothing and closes nothing any more."""
    state.delayed.pop(run.path, None)
    state.closing.pop(run.path, None)
    state.deadlines.pop(run.path, None)
    if run.signal is not None:
        waiting = state.awaiting.get(run.signal, {})
        waiting.pop(run.path, None)
        if not waiting:
            state.awaiting.pop(run.signal, None)
        run.signal = None
    if run.in_doubt:
        run.in_doubt = False
        state.in_doubt.pop(run.path, None)


def end_run(state: JobState, run: StepRun, status: StepStatus, event: Event, *, is_tolerated: bool = False) -> None:
    """A run has ended: count it out of its scope, wake its followers, and end the scope if it was the last."""
    scope = state.scopes[run.scope]
    _leave_ready(state, run)
    let_go(state, run)
    run.status = status
    run.ended_us = event.at_us
    if run.inputs:
        run.inputs = {}
    scope.active.discard(run.path)
    scope.left -= 1
    _credit(state, scope, scope.weight - run.credited)
    if status == StepStatus.FAILED and not is_tolerated:
        if (scope.key == FINALLY or scope.label == UNDO_LABEL) and run.error is not None:
            state.errors.append(run.error)
        if scope.error is None:
            scope.error = run.error
            if _is_fast(state, run):
                stop_inside(state, scope)
            else:
                scope.winding = True
                _drop_ready(state, scope)
    if not scope.is_stopped:
        _wake_followers(state, scope, run)
    end_scope_if_done(state, scope)


def _wake_followers(state: JobState, scope: Scope, run: StepRun) -> None:
    """What waits for a run waits for one less. A follower whose result was taken over has its turn now, and so wakes
    its own: by a list, for many may stand in a row."""
    ended = [run]
    while ended:
        for index in state.node(ended.pop()).followers:
            scope.waits[index] -= 1
            if scope.waits[index] == 0:
                step_id = state.scope_block(scope).nodes[index].id
                follower = state.runs.get(scope.path_of(step_id))
                if follower is not None and follower.taken:
                    ended.append(follower)
                else:
                    _make_ready(state, scope, step_id)


def take_over(state: JobState, data: Data, event: Event) -> None:
    """A step of the definition has its result before anything runs. It counts as ended at once, but what waits for it
    goes on only when its turn has come: when all that it waits for itself has ended as well."""
    scope, path = state.scopes[ROOT], data["path"]
    run = state.runs.setdefault(path, StepRun(path, path, ROOT))
    run.taken, run.taken_from = True, data.get("from")
    run.status = StepStatus(data["status"])
    run.output, run.error = data.get("output"), data.get("error")
    run.item_errors = data.get("errors", [])
    run.ended_us = event.at_us
    scope.left -= 1
    _credit(state, scope, scope.weight)
    if path in state.ready:
        _leave_ready(state, run)
        _wake_followers(state, scope, run)
    end_scope_if_done(state, scope)


def _credit(state: JobState, scope: Scope, share: float) -> None:
    """Add to the job's progress, and to what the containers around have given, so that nothing counts twice: not more
    than a container's own share, however often it is begun again."""
    while share > 0 and scope.owner and scope.label != UNDO_LABEL:
        container = state.runs[scope.owner]
        scope = state.scopes[container.scope]
        share = min(share, scope.weight - container.credited)
        container.credited += max(share, 0.0)
    if share > 0:
        state.progress = min(state.progress + share, 1.0)


def end_scope_if_done(state: JobState, scope: Scope) -> None:
    """If nothing of a scope runs or will, it has ended: so its run goes on, fails or closes, or the job does."""
    if scope.ended or scope.active or (scope.left and not scope.is_stopped):
        return
    scope.ended = True
    scope.waits = []
    if not scope.owner:
        state.closing[scope.key] = None
    elif scope.label == UNDO_LABEL:
        open_next_undo(state)
    else:
        _scope_of_run_ended(state, state.runs[scope.owner], scope)


def _scope_of_run_ended(state: JobState, run: StepRun, scope: Scope) -> None:
    """One of the scopes inside a run has ended: the run goes on, fails, or closes."""
    run.open.discard(scope.label)
    if scope.label.startswith("catch"):
        run.failing = run.failing or scope.error
    else:
        match state.node(run).step.kind:
            case "foreach":
                _item_ended(state, run, scope)
            case "parallel":
                _branch_ended(state, run, scope)
            case _:
                if scope.error is not None and run.failing is None:
                    run.failing = scope.error
    if not run.open:
        state.closing[run.path] = None


def _item_ended(state: JobState, run: StepRun, scope: Scope) -> None:
    if scope.error is not None:
        if state.node(run).step.on_item_error != "fail":
            run.item_errors.append({"index": int(scope.label), "error": scope.error})
        else:
            fail_inside(state, run, scope.error)
    if run.failing is None and run.opened < run.count and not state.scopes[run.scope].is_cut:
        open_next_item(state, run)


def _branch_ended(state: JobState, run: StepRun, scope: Scope) -> None:
    step = state.node(run).step
    branches = len(step.parallel or {})
    needed = {"all": branches, "first": 1}.get(str(step.wait_for)) or int(step.wait_for)
    if scope.ended_well:
        run.won += 1
        if run.won == needed:
            _halt_inside(state, run)
    elif scope.error is not None:
        run.broken += 1
        if branches - run.broken < needed and run.won < needed:
            fail_inside(state, run, scope.error)


def fail_inside(state: JobState, run: StepRun, error: ErrorInfo, *, at_once: bool = False) -> None:
    """A container is going to fail: nothing more begins inside, and what runs is told to stop, unless the container
    lets it finish (`fail_fast: false`). `at_once`: it has run out of time, and nothing is let finish. So is a step
    that has run out of time and whose child has not ended."""
    if run.failing is not None:
        return
    run.failing = error
    if at_once or state.node(run).step.fail_fast:
        _halt_inside(state, run)
    if not run.open and run.child not in state.children:
        state.closing[run.path] = None


def _halt_inside(state: JobState, run: StepRun) -> None:
    for label in sorted(run.open):
        halt(state, state.scopes[run.inner(label)])


def _is_fast(state: JobState, run: StepRun) -> bool:
    """Whether a failure of this run stops what runs beside it: not if it, or a container around it, says otherwise."""
    while state.node(run).step.fail_fast:
        scope = state.scopes[run.scope]
        if not scope.owner or scope.label == UNDO_LABEL:
            return True
        run = state.runs[scope.owner]
    return False


def halt(state: JobState, scope: Scope) -> None:
    """Tell a scope from outside to stop."""
    if not scope.ended and not scope.halted:
        scope.halted = True
        stop_inside(state, scope)
        end_scope_if_done(state, scope)


def stop_inside(state: JobState, scope: Scope) -> None:
    """A scope has just stopped: what is ready never starts, what is active is told (by decide) or halted."""
    _drop_ready(state, scope)
    for path in sorted(scope.active):
        run = state.runs[path]
        if run.open:
            _halt_inside(state, run)
        else:
            state.to_stop.append(path)


def _drop_ready(state: JobState, scope: Scope) -> None:
    if scope.ready:
        for path in [path for path in state.ready if state.runs[path].scope == scope.key]:
            del state.ready[path]
            del state.runs[path]
        scope.ready = 0
