"""How a job ends: its outcome, compensation (the latest completed step first), the finally steps, the final event."""

from __future__ import annotations

from typing import Any

from openagents_json.errors import ExpressionError
from openagents_json.job.machine.names import ScopeNames
from openagents_json.job.machine.spending import spent_by
from openagents_json.job.machine.state import FINALLY, ROOT, UNDO, JobState, Scope
from openagents_json.job.machine.turn import Post, Turn, expression_info, with_one
from openagents_json.job.model import JobStatus

FINAL_EVENTS = {
    JobStatus.COMPLETED: "job.completed",
    JobStatus.FAILED: "job.failed",
    JobStatus.CANCELLED: "job.cancelled",
}


def may_close(turn: Turn, path: str) -> bool:
    """A container's end is always recorded; the job's only if nobody holds it back or a cancel asks for it."""
    if path not in (ROOT, UNDO, FINALLY) or turn.may_start:
        return True  # RELEASE: nothing is left to run, and the outcome is decided
    if path != FINALLY and _has_cleanup_to_run(turn, path):
        return False  # a worker has to run it first
    return not turn.state.pause_requested if turn.is_held else turn.state.cancel is not None


def close_job(turn: Turn, part: str) -> None:
    """The steps, the compensation or the finally steps have ended."""
    if part == ROOT:
        _close_root(turn)
    elif part == UNDO and _has_finally_to_run(turn):
        data = {"outcome": str(turn.state.outcome), "deadline_us": turn.now_us + turn.terms.cleanup_us}
        turn.record("job.finally_started", data)
    else:
        finish(turn, turn.state.outcome or JobStatus.COMPLETED, {})


def finish(turn: Turn, outcome: JobStatus, data: dict[str, Any]) -> None:
    """Record the final event, or first have released what is left in the ledger. Children still run only if a dead
    worker ends the job: they are told to stop, and the event says how many there were."""
    state = turn.state
    if state.cancel is not None and state.cancel["force"]:
        outcome, data = JobStatus.CANCELLED, {}
    children = list(state.children)
    if state.ledger and not state.releasing:
        turn.record("job.releasing", {"outcome": str(outcome), "resources": len(state.ledger)} | data)
        if state.ledger:
            _stop_children(turn, children)
            return
    if outcome == JobStatus.FAILED:
        data = {"error": data.get("error") or state.errors[0]}
    elif outcome == JobStatus.CANCELLED:
        data = dict(state.cancel or {})
        if skipped := _skipped(turn):
            data["skipped"] = skipped
        data |= {name: value for name, value in _what_it_took(state).items() if value}
    if children:
        data = data | {"children": len(children)}
    turn.record(FINAL_EVENTS[outcome], data)
    _stop_children(turn, children)
    if state.parent is not None and not state.parent["detached"]:
        turn.decision.posts = with_one(turn.decision.posts, _word_to_parent(state))


def _stop_children(turn: Turn, children: list[str]) -> None:
    for child in children:
        turn.post(child, "cancel", {"force": False}, None, f"its parent is {turn.state.outcome}")


def _what_it_took(state: JobState) -> dict[str, Any]:
    return {"rung": state.rung, "released": state.released, "leaked": state.leaked}


def _word_to_parent(state: JobState) -> Post:
    word: dict[str, Any] = {"child_id": state.job_id, "status": str(state.status)}
    if any((spent := spent_by(state)).values()):
        word["spent"] = spent
    if state.status == JobStatus.COMPLETED:
        word["outputs"] = state.outputs
    elif state.errors:
        word["error"] = state.errors[0]
    assert state.parent is not None
    return Post(state.parent["job_id"], f"child_ended:{state.job_id}", "child_ended", word)


def _close_root(turn: Turn) -> None:
    state = turn.state
    outcome, data = JobStatus.COMPLETED, {}
    if state.cancel is not None:
        outcome = JobStatus.CANCELLED
    elif (error := state.scopes[ROOT].error) is not None:
        outcome, data = JobStatus.FAILED, {"error": error}
    else:
        try:
            data = {"outputs": _outputs(turn, state.scopes[ROOT])}
        except ExpressionError as undefined:
            outcome, data = JobStatus.FAILED, {"error": expression_info(undefined)}
    cleanup = {"outcome": str(outcome), "deadline_us": turn.now_us + turn.terms.cleanup_us}
    if outcome != JobStatus.COMPLETED and _has_undo_to_run(turn):
        turn.record("job.compensation_started", cleanup | data)
    elif _has_finally_to_run(turn):
        turn.record("job.finally_started", cleanup | data)
    else:
        finish(turn, outcome, data)


def _outputs(turn: Turn, root: Scope) -> dict[str, Any]:
    """The job's outputs; without `outputs` in the definition the last step's output under its id."""
    plan = turn.state.plan
    names = ScopeNames(turn.state, root)
    if plan.outputs is None:
        last = plan.root.nodes[-1]
        return {last.id: names.step(last.id)["output"]}
    outputs = plan.outputs.render(names)
    return outputs if isinstance(outputs, dict) else {"output": outputs}


def _has_cleanup_to_run(turn: Turn, part: str) -> bool:
    is_failing = turn.state.cancel is not None or turn.state.scopes[ROOT].error is not None
    return _has_finally_to_run(turn) or (part == ROOT and is_failing and _has_undo_to_run(turn))


def _has_finally_to_run(turn: Turn) -> bool:
    state = turn.state
    return state.plan.finally_block is not None and state.started_us is not None and not _is_forced(turn)


def _has_undo_to_run(turn: Turn) -> bool:
    return bool(turn.state.undone) and not _is_forced(turn)


def _is_forced(turn: Turn) -> bool:
    return turn.state.cancel is not None and bool(turn.state.cancel["force"])


def _skipped(turn: Turn) -> list[str]:
    """What a forced cancel leaves out."""
    state = turn.state
    if not _is_forced(turn):
        return []
    skipped = ["compensation"] if state.undone else []
    if state.plan.finally_block is not None and state.started_us is not None and FINALLY not in state.scopes:
        skipped.append("finally")
    return skipped
