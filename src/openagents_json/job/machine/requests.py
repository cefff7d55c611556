"""Which verbs a job allows, as one table for the machine (that applies them) and the manager (that refuses early)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from openagents_json.amounts import KEYS
from openagents_json.errors import InvalidTransition
from openagents_json.job.machine.happenings import Verb
from openagents_json.job.machine.spending import wanting, why_spent
from openagents_json.job.machine.state import FINALLY, JobState
from openagents_json.job.model import JobStatus
from openagents_json.workflow import limits

_WORDS_OF_CHILDREN = ("child_ended", "child_paused", "child_resumed", "child_spent")  # heard until the job is final
_ALLOWED: dict[JobStatus, tuple[str, ...]] = {
    JobStatus.CREATED: ("start", "cancel", "set_priority", "add_budget", "signal", "delete"),
    JobStatus.QUEUED: ("pause", "cancel", "set_priority", "add_budget", "signal", "resolve_step"),
    JobStatus.RUNNING: ("pause", "cancel", "set_priority", "add_budget", "signal", "resolve_step"),
    JobStatus.WAITING: ("pause", "cancel", "set_priority", "add_budget", "signal", "resolve_step"),
    JobStatus.PAUSED: ("resume", "cancel", "set_priority", "add_budget", "signal", "resolve_step"),
    JobStatus.COMPLETED: ("retry", "delete"),
    JobStatus.FAILED: ("retry", "delete"),
    JobStatus.CANCELLED: ("retry", "delete"),
}


def allowed_verbs(status: JobStatus, pause_requested: bool = False) -> tuple[str, ...]:
    """The verbs that work on a job of this status."""
    # A QUEUED job with the mark is one in the middle of a turn: its worker died, or it was asked for both at once.
    if pause_requested and status in (JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.WAITING):
        return ("resume", "cancel", "set_priority", "add_budget", "signal", "resolve_step")
    return _ALLOWED[status]


def spoken(verb: Verb) -> str:
    """The verb as it stands before `job` in a sentence."""
    return "add to the budget of" if verb == "add_budget" else verb.replace("_", " ")


def is_repeated(verb: Verb, status: JobStatus, pause_requested: bool) -> bool:
    """Whether what is asked for is already so: then the request is harmless and changes nothing."""
    if verb == "pause":
        return status == JobStatus.PAUSED or pause_requested
    if verb == "resume":  # the second time, or after a stop: a job that a worker gave back is QUEUED, not PAUSED
        return status in (JobStatus.QUEUED, JobStatus.RUNNING) and not pause_requested
    return verb == "cancel" and status == JobStatus.CANCELLED


def refuse(state: JobState, verb: Verb, arguments: Mapping[str, Any]) -> None:
    """`InvalidTransition` when the state does not allow the verb; nothing when it does or is repeated."""
    status, marked = state.status, state.pause_requested
    if is_repeated(verb, status, marked) or (verb in _WORDS_OF_CHILDREN and not status.is_final):
        return
    allowed = allowed_verbs(status, marked)
    why = _why_not_now(state, verb, arguments)
    if verb in allowed and not why:
        return
    if verb == "cancel" and why:
        allowed = ("cancel with force",)
    allowed = tuple(one for one in allowed if one != verb)
    raise InvalidTransition(state.job_id, spoken(verb), status, allowed, why)


def _why_not_now(state: JobState, verb: Verb, arguments: Mapping[str, Any]) -> str:
    """What the status alone does not tell; empty if there is nothing."""
    if state.is_final:
        return ""
    if verb == "pause":
        if state.cancel is not None:
            return "it is being cancelled"
        if state.outcome is not None:
            return f"its {_cleanup(state)}"
    elif verb == "resume" and state.parent_pause is not None and "parent_pause" not in arguments:
        parent = (state.parent or {}).get("job_id")
        return f"it was paused with its parent {parent}; resume that job"
    elif verb == "resume" and "parent_pause" not in arguments and wanting(state) is not None:
        return (
            f"its {why_spent(state, state.seen_us)}; give it more first, by add_budget or `openagents jobs add-budget`"
        )
    elif verb == "add_budget" and (others := arguments["amounts"].keys() - state.budget.keys()):
        kinds = " and ".join(kind for kind, key in KEYS.items() if key in others)
        return f"it has no budget of {kinds}, so that there is nothing to add to"
    elif verb == "cancel" and state.outcome not in (None, JobStatus.CANCELLED) and not arguments.get("force"):
        return f"its outcome is {state.outcome} and its {_cleanup(state)}"
    elif verb == "signal" and sum(map(len, state.mailbox.values())) >= limits.SIGNALS_KEPT:
        return f"it has {limits.SIGNALS_KEPT} signals that no step has taken"
    elif verb == "resolve_step" and arguments["path"] not in state.in_doubt:
        return f"no step {arguments['path']} of it is in doubt"
    return ""


def _cleanup(state: JobState) -> str:
    if state.releasing:
        return "resources are being released"
    return "finally steps are running" if FINALLY in state.scopes else "completed steps are being undone"
