"""What was asked of a job: each request becomes events, or is refused. Pure, like all of the machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from openagents_json.errors import InvalidTransition
from openagents_json.job.machine import budgets, family, steps
from openagents_json.job.machine.happenings import Requested
from openagents_json.job.machine.requests import is_repeated, refuse
from openagents_json.job.machine.turn import Turn, error_info, with_one


def take(turn: Turn, request: Requested) -> None:
    """Do what is asked, or note the refusal; what is so already changes nothing."""
    state = turn.state
    try:
        refuse(state, request.verb, request.arguments)
    except InvalidTransition as refusal:
        turn.decision.refused = with_one(turn.decision.refused, (request, refusal))
        return
    is_passed_on = request.verb == "pause" and "parent_pause" in request.arguments  # which a paused job notes as well
    if is_passed_on or not is_repeated(request.verb, state.status, state.pause_requested):
        _REQUESTS[request.verb](turn, request)


def _who(request: Requested) -> dict[str, Any]:
    return {"by": request.by, "reason": request.reason}


def _start(turn: Turn, request: Requested) -> None:
    turn.record("job.queued", {"reason": "started"})


def _pause(turn: Turn, request: Requested) -> None:
    state = turn.state
    is_new = not is_repeated("pause", state.status, state.pause_requested)
    passed_on = {key: request.arguments[key] for key in ("parent_pause",) if key in request.arguments}
    turn.record("job.pause_requested", _who(request) | passed_on)
    if is_new:
        family.pass_on(turn, request, {"parent_pause": state.pause_number})


def _resume(turn: Turn, request: Requested) -> None:
    if turn.state.pause_requested:
        turn.record("job.pause_withdrawn", _who(request))
    else:
        turn.record("job.resumed", _who(request))
        turn.record("job.queued", {"reason": "resumed"})
    family.pass_on(turn, request, {"parent_pause": turn.state.pause_number})


def _cancel(turn: Turn, request: Requested) -> None:
    force = bool(request.arguments.get("force"))
    if turn.state.cancel is None or (force and not turn.state.cancel["force"]):
        turn.record("job.cancel_requested", _who(request) | {"force": force})
        turn.told.update(turn.state.children)
        family.pass_on(turn, request, request.arguments)


def _set_priority(turn: Turn, request: Requested) -> None:
    priority = request.arguments["priority"]
    if priority != turn.state.priority:
        turn.record("job.priority_changed", {"priority": priority, "was": turn.state.priority} | _who(request))
        family.pass_on(turn, request, request.arguments)


def _signal(turn: Turn, request: Requested) -> None:
    name, payload = request.arguments["name"], request.arguments["payload"]
    turn.record("signal.received", {"name": name, "payload": payload, "by": request.by})


def _resolve_step(turn: Turn, request: Requested) -> None:
    path, how = request.arguments["path"], request.arguments["how"]
    run = turn.state.runs[path]
    turn.record("step.resolved", {"path": path, "how": how} | _who(request))
    if how == "output":
        turn.record("step.completed", {"path": path, "output": request.arguments["output"]})
    elif how == "error":
        steps.fail(turn, run, error_info("in_doubt", request.arguments["error"], run))


_REQUESTS: dict[str, Callable[[Turn, Requested], None]] = {
    "start": _start,
    "pause": _pause,
    "resume": _resume,
    "cancel": _cancel,
    "set_priority": _set_priority,
    "signal": _signal,
    "resolve_step": _resolve_step,
    "child_ended": family.child_ended,
    "child_paused": family.child_paused,
    "child_resumed": family.child_resumed,
    "child_spent": budgets.child_spent,
    "add_budget": budgets.add_budget,
}
