"""Which verbs a job allows, as one table for the machine (that applies them) and the manager (that refuses early)."""

from __future__ import annotations

from openagents_json.errors import InvalidTransition
from openagents_json.job.machine.happenings import Verb
from openagents_json.job.machine.state import FINALLY, JobState
from openagents_json.job.model import JobStatus

_ALLOWED: dict[JobStatus, tuple[str, ...]] = {
    JobStatus.CREATED: ("start", "cancel", "set_priority", "delete"),
    JobStatus.QUEUED: ("pause", "cancel", "set_priority"),
    JobStatus.RUNNING: ("pause", "cancel", "set_priority"),
    JobStatus.WAITING: ("pause", "cancel", "set_priority"),
    JobStatus.PAUSED: ("resume", "cancel", "set_priority"),
    JobStatus.COMPLETED: ("delete",),
    JobStatus.FAILED: ("delete",),
    JobStatus.CANCELLED: ("delete",),
}


def allowed_verbs(status: JobStatus, pause_requested: bool = False) -> tuple[str, ...]:
    """The verbs that work on a job of this status."""
    if pause_requested and status == JobStatus.RUNNING:
        return ("resume", "cancel", "set_priority")
    return _ALLOWED[status]


def is_repeated(verb: Verb, status: JobStatus, pause_requested: bool) -> bool:
    """Whether what is asked for is already so: then the request is harmless and changes nothing."""
    if verb == "pause":
        return status == JobStatus.PAUSED or pause_requested
    return verb == "cancel" and status == JobStatus.CANCELLED


def refuse(state: JobState, verb: Verb) -> None:
    """`InvalidTransition` when the state does not allow the verb; nothing when it does or is repeated."""
    status, marked = state.status, state.pause_requested
    if is_repeated(verb, status, marked):
        return
    why = ""
    if verb == "pause" and state.cancel is not None:
        why = "it is being cancelled"
    elif verb == "pause" and FINALLY in state.scopes:
        why = "its finally steps are running"
    elif verb in allowed_verbs(status, marked):
        return
    raise InvalidTransition(state.job_id, verb.replace("_", " "), status, allowed_verbs(status, marked), why)
