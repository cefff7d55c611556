"""How attempts of components start: what is called, with what, under which key. Pure, like all of the machine."""

from __future__ import annotations

from functools import partial
from typing import Any

from openagents_json.errors import ExpressionError
from openagents_json.job.machine.names import ScopeNames
from openagents_json.job.machine.startable import NONE_ALIKE, Entry, Reply
from openagents_json.job.machine.state import StepRun
from openagents_json.job.machine.steps import allowed_name, fail
from openagents_json.job.machine.turn import Call, Turn, expression_info, with_one
from openagents_json.resources import occupied, requirement
from openagents_json.workflow import limits
from openagents_json.workflow.plan import Node


def start(turn: Turn) -> bool:
    """Start what there is leave for. True when a step failed instead, which has to be looked at."""
    has_failed = False

    def give_up(run: StepRun, error: ExpressionError) -> None:
        nonlocal has_failed
        fail(turn, run, expression_info(error, run))
        has_failed = True

    def prepare(entry: Entry) -> bool:
        if (run := _run_of(turn, entry)) is None:
            return False
        try:
            _prepare(turn, run, entry)
        except ExpressionError as error:
            give_up(run, error)
            return False
        return True

    def ask(entry: Entry) -> Reply:
        if (run := _run_of(turn, entry)) is None:
            return True
        try:
            return _ask(turn, run, entry)
        except ExpressionError as error:
            give_up(run, error)
            return True

    turn.state.startable.offer(prepare, ask)
    return has_failed


def _ask(turn: Turn, run: StepRun, entry: Entry) -> Reply:
    """Start it if it may start now. True: it is gone from those that wait."""
    assert entry.kind is not None
    step_id, component, caps = entry.kind
    node = turn.state.node(run)
    if (required := _required_elsewhere(turn, component, node)) is not None:
        turn.elsewhere[entry.kind] = required
        return NONE_ALIKE
    if caps is None:
        caps = turn.terms.caps(component, partial(_open_inputs, turn, run, entry.data, entry.inputs))
        entry.kind = step_id, component, caps
    if caps and not turn.terms.granted(run, caps):
        return False  # those behind it say that they wait, too
    reply = turn.terms.admit(component, node)
    if reply:
        turn.record("attempt.started", entry.data)
        turn.decision.calls = with_one(turn.decision.calls, Call(run, entry.inputs))
    return reply


def _run_of(turn: Turn, entry: Entry) -> StepRun | None:
    """What is to start; None if its scope was stopped meanwhile."""
    state, path = turn.state, entry.path
    return state.runs.get(path) if path in state.ready or path in state.delayed else None


def _required_elsewhere(turn: Turn, component: str, node: Node) -> str | None:
    """What a step requires of another worker, if it can never start at this one."""
    if turn.terms.has(component):
        return turn.terms.out_of_reach(component, node)
    return requirement(component, occupied(node.step.resources))  # what the component says itself, nobody knows here


def _prepare(turn: Turn, run: StepRun, entry: Entry) -> None:
    """Find the data of the attempt's first event (what is called, with what, under which key), the inputs to call it
    with if they are known already, and what kind it is."""
    state = turn.state
    if turn.events_left() <= 0:
        message = f"The job has reached the limit of {limits.EVENTS_PER_JOB} events."
        raise ExpressionError(message, code="limit.events")
    node = state.node(run)
    names = turn.names(run)
    assert node.component is not None
    data = entry.data = {
        "path": run.path,
        "attempt": run.attempt + 1,
        "key": f"{state.job_id}/{run.path}",
        "component": run.component or allowed_name(node, node.component, names, "component"),
    }
    entry.inputs = _render_inputs(turn, node, names, data) if run.attempt == 0 else None
    component, caps = data["component"], None
    if turn.terms.has(component):
        caps = turn.terms.caps(component, partial(_open_inputs, turn, run, data, entry.inputs))
    entry.kind = run.step_id, component, caps


def _open_inputs(turn: Turn, run: StepRun, data: dict[str, Any], inputs: dict[str, Any] | None) -> dict[str, Any]:
    """The inputs of an attempt that is prepared, without those that hold a secret."""
    if inputs is not None:
        return inputs
    known, names, plan = data.get("inputs", run.inputs), turn.names(run), turn.state.plan
    return {
        name: known[name] if name in known else template.render(names)
        for name, template in turn.state.node(run).inputs.items()
        if not plan.holds_secret(template)
    }


def _render_inputs(turn: Turn, node: Node, names: ScopeNames, data: dict[str, Any]) -> dict[str, Any] | None:
    """Put into `data` the rendered inputs, or references where they only pass recorded data on or hold a secret.
    Returns all inputs, or None if one holds a secret."""
    rendered: dict[str, Any] = {}
    values: dict[str, Any] = {}
    refs: dict[str, Any] = {}
    for name, template in node.inputs.items():
        if turn.state.plan.holds_secret(template):
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
