"""How each kind of step begins, goes on when its time has come, closes, and fails. Pure, like all of the machine.

A step begins once what it waits for has ended (`begin`). Components only line up for a slot here (see `attempts`);
all other kinds are done, opened or set waiting at once, by one event.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from openagents_json import jsondata
from openagents_json.clock import SECOND_US, as_microseconds
from openagents_json.errors import ExpressionError, InvalidInputs, LimitReached, WorkflowNotFound
from openagents_json.job.machine import spending
from openagents_json.job.machine.names import ScopeNames, view_of
from openagents_json.job.machine.state import FINALLY, ROOT, UNDO, StepRun
from openagents_json.job.machine.turn import ChildSpec, Turn, error_info, expression_info, with_one
from openagents_json.job.model import ErrorInfo, StepStatus
from openagents_json.job.retry import matches, next_delay_s
from openagents_json.workflow import Workflow, limits
from openagents_json.workflow.expressions import Template
from openagents_json.workflow.graph import GIVEN_NAMES, moment_problem, seconds_problem
from openagents_json.workflow.plan import Node

# ── beginning ─────────────────────────────────────────────────────────────────────────────────────────────────────


def begin(turn: Turn, path: str) -> None:
    """A step's turn has come: skip it, or do what its kind does."""
    state = turn.state
    if path not in state.ready:
        return
    run = state.runs[path]
    node = state.node(run)
    try:
        if node.condition is not None and not node.condition.render(turn.names(run)):
            turn.record("step.skipped", {"path": path})
            return
    except ExpressionError as error:
        fail(turn, run, expression_info(error, run))
        return
    begin_kind(turn, run)


def begin_kind(turn: Turn, run: StepRun) -> None:
    """The first time, or again after a retry."""
    node = turn.state.node(run)
    if node.component is not None:  # the usual case
        turn.state.startable.add(run.path)
        return
    try:
        _BEGIN[node.step.kind](turn, run, node, turn.names(run))
    except ExpressionError as error:
        fail(turn, run, expression_info(error, run))


def _set(turn: Turn, run: StepRun, node: Node, names: ScopeNames) -> None:
    assert node.value is not None
    turn.record("step.completed", {"path": run.path, "output": node.value.render(names)})


def _foreach(turn: Turn, run: StepRun, node: Node, names: ScopeNames) -> None:
    assert node.items is not None
    items = node.items.render(names)
    if not isinstance(items, list):
        found = "null" if items is None else type(items).__name__
        raise ExpressionError(f"foreach needs a list and got {found}.", code="expression.invalid")
    allowed = limits.SPREAD_ITEMS if node.step.spread else limits.FOREACH_ITEMS
    if len(items) > allowed:
        message = f"foreach has {len(items)} items; {allowed} are allowed."
        raise ExpressionError(message, code="limit.foreach_items")
    if turn.events_left() < (3 if node.step.spread else 2) * len(items):
        message = f"{len(items)} items would pass the limit of {limits.EVENTS_PER_JOB} events per job."
        raise ExpressionError(message, code="limit.events")
    data: dict[str, Any] = {"path": run.path, "count": len(items)} | turn.deadline(node)
    if not node.items.is_reference:
        data["items"] = items
    turn.record("step.expanded", data)


def _repeat(turn: Turn, run: StepRun, node: Node, names: ScopeNames) -> None:
    assert node.initial is not None
    data: dict[str, Any] = {"path": run.path, "iteration": 0} | turn.deadline(node)
    initial = node.initial.render(names)
    if initial is not None:
        data["initial"] = initial
    turn.record("step.iterated", data)


def _switch(turn: Turn, run: StepRun, node: Node, names: ScopeNames) -> None:
    chosen = next((str(place) for place, case in enumerate(node.cases) if case.render(names)), None)
    if chosen is None and "default" in node.blocks:
        chosen = "default"
    turn.record("step.chosen", {"path": run.path, "case": chosen} | turn.deadline(node))


def _parallel(turn: Turn, run: StepRun, node: Node, names: ScopeNames) -> None:
    turn.record("step.forked", {"path": run.path} | turn.deadline(node))


def _wait(turn: Turn, run: StepRun, node: Node, names: ScopeNames) -> None:
    if node.seconds is not None:
        seconds = node.seconds.render(names)
        if problem := seconds_problem(seconds):
            raise ExpressionError(problem, code="expression.invalid")
        until_us = turn.now_us + round(seconds * SECOND_US)
    else:
        assert node.moment is not None
        moment = node.moment.render(names)
        if problem := moment_problem(moment):
            raise ExpressionError(problem, code="expression.invalid")
        until_us = as_microseconds(datetime.fromisoformat(moment))
    turn.record("step.waiting", {"path": run.path, "until_us": until_us})


def _signal(turn: Turn, run: StepRun, node: Node, names: ScopeNames) -> None:
    assert node.signal is not None
    name = node.signal.render(names)
    if not isinstance(name, str) or not name:
        raise ExpressionError("The name of a signal is a text that is not empty.", code="expression.invalid")
    if (letter := _fitting_letter(turn, name, node)) is not None:
        turn.record("step.completed", {"path": run.path, "signal": name, "letter": letter})
        return
    data: dict[str, Any] = {"path": run.path, "signal": name}
    if run.attempt:
        data["attempt"] = run.attempt + 1
    turn.record("step.waiting", data | turn.deadline(node))


def _workflow(turn: Turn, run: StepRun, node: Node, names: ScopeNames) -> None:
    state, step = turn.state, node.step
    depth = (state.parent or {}).get("depth", 0) + 1
    if depth > limits.CHILD_DEPTH:
        message = f"Workflows may start workflows {limits.CHILD_DEPTH} levels deep; this would be one more."
        raise ExpressionError(message, code="limit.depth")
    parent = {"job_id": state.job_id, "path": run.path, "depth": depth, "detached": step.detached}
    if not step.detached and (told_each := spending.told_each(state)):
        parent["told_each"] = told_each
    if node.spread is not None:
        parent["given"] = _given(turn, run, node.spread, names)
        workflow = node.spread
        spec = ChildSpec(workflow.id, None, state.inputs, parent, state.priority, workflow)
    else:
        assert node.child is not None
        workflow_id = allowed_name(node, node.child, names, "workflow")
        inputs = {name: template.render(names) for name, template in node.inputs.items()}
        spec = ChildSpec(workflow_id, step.version, jsondata.thaw(inputs), parent, state.priority)
    try:
        child = turn.terms.spawn(spec)
    except WorkflowNotFound as error:
        raise ExpressionError(str(error), code="workflow.not_found") from None
    except InvalidInputs as error:
        raise ExpressionError(str(error), code="input.invalid") from None
    except LimitReached as error:
        raise ExpressionError(str(error), code=error.code) from None
    data: dict[str, Any] = {
        "path": run.path,
        "attempt": run.attempt + 1,
        "child_id": child.job_id,
        "workflow_id": child.workflow_id,
        "version": child.version,
    }
    if step.detached:
        turn.record("child.started", data | {"detached": True})
        turn.record("step.completed", {"path": run.path, "output": {"job_id": child.job_id}})
    else:
        turn.record("child.started", data | turn.deadline(node))
    turn.decision.children = with_one(turn.decision.children, child)


def _given(turn: Turn, run: StepRun, workflow: Workflow, names: ScopeNames) -> dict[str, Any]:
    """What a child that stands for an item can see of its parent: only what its steps refer to."""
    given: dict[str, Any] = {name: names.value(name) for name in workflow.given if name in GIVEN_NAMES}
    given["steps"] = {step_id: names.step(step_id) for step_id in workflow.given if step_id not in GIVEN_NAMES}
    try:
        return jsondata.plain(given, limit_bytes=limits.INPUTS_BYTES)[0]  # type: ignore[no-any-return]
    except jsondata.TooLarge as error:
        raise ExpressionError(f"What the item hands to its child is too large. {error}", code="limit.inputs") from None


def _raise(turn: Turn, run: StepRun, node: Node, names: ScopeNames) -> None:
    assert node.error is not None
    error_type, message = (template.render(names) for template in node.error)
    if not isinstance(error_type, str) or not error_type:
        raise ExpressionError("The type of an error is a text such as review.rejected.", code="expression.invalid")
    fail(turn, run, error_info(error_type[: limits.ID_CHARACTERS], str(message), run))


# A component only lines up for a slot.
_BEGIN: dict[str, Callable[[Turn, StepRun, Node, ScopeNames], None]] = {
    "set": _set,
    "foreach": _foreach,
    "repeat": _repeat,
    "switch": _switch,
    "parallel": _parallel,
    "wait": _wait,
    "signal": _signal,
    "workflow": _workflow,
    "raise": _raise,
}


def allowed_name(node: Node, template: Template, names: ScopeNames, what: str) -> str:
    """The component or workflow that a step names; one that an expression chooses has to be in `allow`."""
    name = template.render(names)
    if template.is_constant:
        return str(name)
    allowed = node.step.allow or []
    if name not in allowed:
        message = f"The {what} {name!r} is not among the allowed ones: {', '.join(allowed)}."
        raise ExpressionError(message, code=f"{what}.not_allowed", expression=str(template.source))
    return str(name)


# ── when the time has come ────────────────────────────────────────────────────────────────────────────────────────


def go_on(turn: Turn, path: str) -> None:
    """What a run was delayed for is over: the end of a wait, the next iteration, another try."""
    state = turn.state
    run = state.runs[path]
    node = state.node(run)
    if node.step.kind == "component":
        state.startable.add(path)
    elif run.status == StepStatus.RETRYING:
        begin_kind(turn, run)
    elif node.step.kind == "wait":
        turn.record("step.completed", {"path": path, "output": None})
    else:
        turn.record("step.iterated", {"path": path, "iteration": run.count})


def expire(turn: Turn, path: str) -> None:
    """A deadline has passed: of the job, of its cleanup, or of a run that is still on."""
    state = turn.state
    if path == ROOT:
        timeout_s = state.plan.workflow.timeout
        message = f"The job was not done {timeout_s:g} s after its first start."
        turn.record("job.timed_out", {"error": error_info("timeout.job", message)})
        return
    if path in (UNDO, FINALLY):
        part = "compensation" if path == UNDO else "finally"
        message = f"The {part} steps took longer than {turn.terms.cleanup_us / SECOND_US:g} s and were ended."
        turn.record("job.cleanup_timed_out", {"part": part, "error": error_info("timeout.cleanup", message)})
        return
    run = state.runs[path]
    node = state.node(run)
    if node.step.kind != "signal":
        message = f"The step took longer than {node.step.timeout:g} s."
        turn.record("step.timed_out", {"path": path, "error": error_info("timeout.step", message, run)})
        if run.child is not None and run.child in state.children:
            arguments = {"force": False}
            turn.post(run.child, "cancel", arguments, None, f"step {path} of its parent timed out")
    elif node.step.on_timeout == "continue":
        turn.record("step.completed", {"path": path, "output": None, "timed_out": True})
    else:
        message = f"The signal {run.signal!r} did not come within {node.step.timeout:g} s."
        fail(turn, run, error_info("timeout.signal", message, run))


def deliver(turn: Turn, name: str) -> None:
    """Hand signals of a name to the steps that wait for it: each takes the first that fits its schema."""
    state = turn.state
    for path in list(state.awaiting.get(name, ())):
        letter = _fitting_letter(turn, name, state.node(state.runs[path]))
        if letter is not None:
            turn.record("step.completed", {"path": path, "signal": name, "letter": letter})


def _fitting_letter(turn: Turn, name: str, node: Node) -> int | None:
    """The place in the mailbox of the first signal of that name that fits the step's schema."""
    for place, letter in enumerate(turn.state.mailbox.get(name, ())):
        if node.schema is None or not node.schema.problems(letter["payload"]):
            return place
    return None


# ── closing ───────────────────────────────────────────────────────────────────────────────────────────────────────


def close(turn: Turn, path: str) -> None:
    """Everything inside a run has ended: it completes, goes round again, or fails."""
    state = turn.state
    run = state.runs[path]
    if state.scopes[run.scope].is_cut:
        turn.record("step.cancelled", {"path": path})
    elif run.failing is not None:
        fail(turn, run, run.failing)
    elif run.handler is None and state.node(run).step.kind == "repeat":
        _close_iteration(turn, run, state.node(run))
    else:
        _complete(turn, run)


def _complete(turn: Turn, run: StepRun) -> None:
    if error := _output_error(turn, run):
        fail(turn, run, error)
    else:
        turn.record("step.completed", {"path": run.path})


def _close_iteration(turn: Turn, run: StepRun, node: Node) -> None:
    """After an iteration: is it enough, is another one allowed, and when does it begin?"""
    repeat = node.step.repeat
    assert repeat is not None and node.until is not None
    scope = turn.state.scopes[run.inner(str(run.count - 1))]
    try:
        is_enough = node.until.render(ScopeNames(turn.state, scope))
    except ExpressionError as error:
        fail(turn, run, expression_info(error, run))
        return
    if is_enough or (run.count >= repeat.max_iterations and repeat.on_max == "continue"):
        _complete(turn, run)
    elif run.count >= repeat.max_iterations:
        message = f"The condition `until` was not true after {run.count} iterations."
        fail(turn, run, error_info("limit.iterations", message, run))
    elif turn.events_left() <= 0:
        message = f"The job has reached the limit of {limits.EVENTS_PER_JOB} events."
        fail(turn, run, error_info("limit.events", message, run))
    elif repeat.delay_seconds:
        until_us = turn.now_us + round(repeat.delay_seconds * SECOND_US)
        turn.record("step.waiting", {"path": run.path, "until_us": until_us})
    else:
        turn.record("step.iterated", {"path": run.path, "iteration": run.count})


def _output_error(turn: Turn, run: StepRun) -> ErrorInfo | None:
    """Why the output of a run that is about to complete cannot be had, or None."""
    state = turn.state
    node = state.node(run)
    inner = [state.scope_block(state.scopes[key]) for key in _output_scopes(turn, run, node)]
    if all(block.output is None for block in inner) and run.count * limits.OUTPUT_BYTES <= limits.VIEW_BYTES:
        return None
    try:
        view = view_of(state, run)
    except ExpressionError as error:
        return expression_info(error, run)
    if len(jsondata.encode(view)) > limits.VIEW_BYTES:
        message = f"The outputs inside take more than {limits.VIEW_BYTES:,} bytes together."
        return error_info("limit.output", message, run)
    return None


def _output_scopes(turn: Turn, run: StepRun, node: Node) -> list[str]:
    """Keys of the scopes that the output of a run is made of; of a foreach the first stands for all."""
    if run.handler is not None:
        return [run.inner(f"catch{run.handler}")]
    match node.step.kind:
        case "foreach":
            return [run.inner("0")] if run.count else []
        case "repeat":
            return [run.inner(str(run.count - 1))]
        case "switch":
            return [] if run.chosen is None else [run.inner(run.chosen)]
    return []


# ── failing ───────────────────────────────────────────────────────────────────────────────────────────────────────


def fail(turn: Turn, run: StepRun, error: ErrorInfo) -> None:
    """A run has failed: begin it again, hand the error to a handler, let the job go on without it, or fail for good.

    Attempts of components have been tried again before this (see `decide.take_failure`).
    """
    state = turn.state
    step = state.node(run).step
    is_free = not state.scopes[run.scope].is_cut and run.handler is None
    if is_free and step.kind != "component" and step.retry is not None:
        elapsed_s = (turn.now_us - (run.started_us or turn.now_us)) / SECOND_US
        delay_s = next_delay_s(
            step.retry, error | {"retryable": None}, max(run.attempt, 1), elapsed_s, turn.terms.random()
        )
        if delay_s is not None:
            due_us = turn.now_us + round(delay_s * SECOND_US)
            data = {"path": run.path, "attempt": max(run.attempt, 1), "error": error, "retry_at_us": due_us}
            turn.record("step.retrying", data)
            return
    if is_free:
        for place, handler in enumerate(step.catch):
            if handler.types is None or any(matches(error["type"], prefix) for prefix in handler.types):
                turn.record("step.caught", {"path": run.path, "handler": place, "error": error})
                return
    data = {"path": run.path, "error": error}
    if step.continue_on_error:
        data["continued"] = True
    turn.record("step.failed", data)
