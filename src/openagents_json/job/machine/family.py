"""Jobs with children: what a parent passes on, what its children say, and when a pause of all of them is true.

A child's word is late: it may come when the parent has been resumed and paused again. So a pause that is passed on
carries a number, and the child says which one it has heeded.
"""

from __future__ import annotations

from typing import Any

from openagents_json.job.machine import steps
from openagents_json.job.machine.happenings import Requested
from openagents_json.job.machine.state import JobState
from openagents_json.job.machine.turn import Turn, error_info
from openagents_json.job.model import JobStatus


def pass_on(turn: Turn, request: Requested, arguments: dict[str, Any]) -> None:
    """Let the attached children hear what was asked of the job."""
    for child in turn.state.children:
        turn.post(child, request.verb, arguments, request.by, request.reason)


# ── what the children say ───────────────────────────────────────────────────────────────────────────────────────────


def child_paused(turn: Turn, request: Requested) -> None:
    """A child is PAUSED: `pause` is the number of the pause of this job that it has heeded, if it was paused by one."""
    child_id, pause = request.arguments["child_id"], request.arguments.get("pause")
    if (path := turn.state.children.get(child_id)) is not None:
        heeded = {} if pause is None else {"pause": pause}
        turn.record("child.paused", {"path": path, "child_id": child_id} | heeded)


def child_resumed(turn: Turn, request: Requested) -> None:
    """A child is not PAUSED any more."""
    child_id = request.arguments["child_id"]
    if child_id in turn.state.paused_children:
        turn.record("child.resumed", {"path": turn.state.children[child_id], "child_id": child_id})


def child_ended(turn: Turn, request: Requested) -> None:
    """A child job is final. What it says comes once, by its commit."""
    state, child_id = turn.state, request.arguments["child_id"]
    path = state.children.get(child_id)
    if path is None:
        return
    status, error = request.arguments["status"], request.arguments.get("error")
    data: dict[str, Any] = {"path": path, "child_id": child_id, "status": status}
    if error is not None:
        data["error"] = error
    if "spent" in request.arguments:
        data["spent"] = request.arguments["spent"]
    turn.record("child.ended", data)
    run = state.runs[path]
    if state.scopes[run.scope].is_cut:
        turn.record("step.cancelled", {"path": path})
    elif run.failing is not None:
        steps.fail(turn, run, run.failing)
    elif status == JobStatus.COMPLETED:
        outputs = request.arguments["outputs"]
        is_item = state.node(run).spread is not None
        turn.record("step.completed", {"path": path, "output": outputs["output"] if is_item else outputs})
    else:
        why = error or {"type": "cancelled", "message": "It was cancelled."}
        message = f"The child job {child_id} ended as {status}: {why['message']}"
        details = {"job_id": child_id, "error": error} if error else {"job_id": child_id}
        steps.fail(turn, run, error_info(why["type"], message, run, details=details))


# ── pause ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def pause_if_children_are(turn: Turn) -> None:
    """A pause is asked for and nothing of the job itself runs: it is true once every attached child has heeded it or
    ended. Until then the job waits, and no time wakes it. A child of a PAUSED job runs again if it is cancelled and
    has something to clean up."""
    state = turn.state
    is_true = next(state.restless, None) is None
    if is_true and state.status != JobStatus.PAUSED:
        turn.record("job.paused", {})
    elif not is_true and (state.status != JobStatus.WAITING or state.wake_us is not None):
        turn.record("job.waiting", {"until_us": None})


def pause_of(state: JobState) -> tuple[bool, int | None]:
    """What the parent has to know of a job's pause: whether it is true, and which pause of the parent holds it."""
    return state.status == JobStatus.PAUSED, state.parent_pause


def tell_parent(turn: Turn, before: tuple[bool, int | None]) -> None:
    """A job that became PAUSED or has left it says so to its parent. Its end is told by `ending`."""
    state, now = turn.state, pause_of(turn.state)
    if state.parent is None or state.parent["detached"] or state.is_final or now == before:
        return
    word: dict[str, Any] = {"child_id": state.job_id}
    if state.status == JobStatus.PAUSED:
        turn.post(state.parent["job_id"], "child_paused", word | {"pause": state.parent_pause}, None, None)
    elif before[0]:
        turn.post(state.parent["job_id"], "child_resumed", word, None, None)
