"""How attempts of components start: what is called, with what, under which key. Pure, like all of the machine."""

from __future__ import annotations

from functools import partial
from typing import Any

from openagents_json.errors import ExpressionError
from openagents_json.job.machine.names import ScopeNames
from openagents_json.job.machine.state import StepRun
from openagents_json.job.machine.steps import allowed_name, fail
from openagents_json.job.machine.turn import NONE_ALIKE, Call, Turn, expression_info
from openagents_json.resources import occupied, requirement
from openagents_json.workflow import limits
from openagents_json.workflow.plan import Node


def start(turn: Turn) -> bool:
    """Start what a slot is free for. True when a step failed instead, which has to be looked at."""
    state = turn.state
    failed = False
    refused: set[tuple[str, str]] = set()  # kinds (step, component) of which none starts now
    for path, prepared in list(state.startable.items()):  # prepared: asked before, and there was no slot
        if prepared and prepared[2] in refused:
            continue  # of thousands of items that wait, this is all that a turn costs
        run = state.runs.get(path)
        if run is None or (path not in state.ready and path not in state.delayed):
            del state.startable[path]  # its scope was stopped meanwhile
            continue
        try:
            data, inputs, kind = prepared or _prepare(turn, run)
        except ExpressionError as error:
            del state.startable[path]
            fail(turn, run, expression_info(error, run))
            failed = True
            continue
        node = state.node(run)
        if (required := _required_elsewhere(turn, data["component"], node)) is not None:
            turn.elsewhere[path] = required
            state.startable[path] = (data, inputs, kind)
            continue
        try:
            is_granted = turn.terms.granted(data["component"], run, partial(_open_inputs, turn, run, data, inputs))
        except ExpressionError as error:
            del state.startable[path]
            fail(turn, run, expression_info(error, run))
            failed = True
            continue
        admitted = is_granted and (NONE_ALIKE if kind in refused else turn.terms.admit(data["component"], node))
        if admitted:
            del state.startable[path]
            turn.record("attempt.started", data)
            turn.decision.calls.append(Call(run, inputs))
        else:
            state.startable[path] = (data, inputs, kind)
            if admitted is None:
                break
            if admitted is NONE_ALIKE:
                refused.add(kind)
    return failed


def _required_elsewhere(turn: Turn, component: str, node: Node) -> str | None:
    """What a step requires of another worker, if it can never start at this one."""
    if turn.terms.has(component):
        return turn.terms.out_of_reach(component, node)
    return requirement(component, occupied(node.step.resources))  # what the component says itself, nobody knows here


def _prepare(turn: Turn, run: StepRun) -> tuple[dict[str, Any], dict[str, Any] | None, tuple[str, str]]:
    """The data of the attempt's first event (what is called, with what, under which key), the inputs to call it with if
    they are known already, and what kind it is: its step and component."""
    state = turn.state
    if turn.events_left() <= 0:
        message = f"The job has reached the limit of {limits.EVENTS_PER_JOB} events."
        raise ExpressionError(message, code="limit.events")
    node = state.node(run)
    names = turn.names(run)
    assert node.component is not None
    data: dict[str, Any] = {
        "path": run.path,
        "attempt": run.attempt + 1,
        "key": f"{state.job_id}/{run.path}",
        "component": run.component or allowed_name(node, node.component, names, "component"),
    }
    inputs = _render_inputs(turn, node, names, data) if run.attempt == 0 else None
    return data, inputs, (run.step_id, data["component"])


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
