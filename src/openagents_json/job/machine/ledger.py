"""The cleanup ledger: what steps have acquired, when it is to be released, and what became of it. Pure.

A resource is due when its attempt has ended (`until` step) or when the job's outcome is decided (`until` job); one that
is to be kept is let go of if that ended well. Then its release is called at least once, the newest first, again with
growing waits, until it works or its deadline has passed: then it is a leak, and moves to the store's table of leaks.
What the events change in the state is in `resources`.
"""

from __future__ import annotations

from typing import Any

from openagents_json.clock import SECOND_US
from openagents_json.job.machine.happenings import ReleaseEnded, ResourceTracked
from openagents_json.job.machine.state import Resource
from openagents_json.job.machine.turn import Answer, Leak, Turn, error_info, with_one
from openagents_json.job.model import ErrorInfo
from openagents_json.workflow import limits

FIRST_RETRY_US = SECOND_US  # between the tries of a release; doubles with each
LONGEST_RETRY_US = 60 * SECOND_US


def take_tracked(turn: Turn, tracked: ResourceTracked) -> None:
    """A running attempt says what it is about to acquire. It is answered after the commit."""
    state = turn.state
    run = state.runs.get(tracked.path)
    if run is None or not run.live or run.token != tracked.token:
        _answer(turn, Answer(tracked.key, None, "The attempt is over: nothing is recorded for it."))
        return
    if len(state.ledger) >= limits.RESOURCES_PER_JOB or turn.events_left() <= 0:
        why = f"A job can hold {limits.RESOURCES_PER_JOB} resources at a time, and this one does."
        _answer(turn, Answer(tracked.key, None, why))
        return
    resource_id = str(state.number + 1)
    data: dict[str, Any] = {
        "id": resource_id,
        "path": run.path,
        "attempt": run.attempt,
        "name": tracked.name,
        "release": tracked.release,
        "inputs": tracked.inputs,
        "until": tracked.until,
        "keep": tracked.keep,
        "within_us": turn.terms.cleanup_us,
    }
    turn.record("resource.tracked", data)
    _answer(turn, Answer(tracked.key, resource_id))


def _answer(turn: Turn, answer: Answer) -> None:
    turn.decision.answers = with_one(turn.decision.answers, answer)


def start(turn: Turn) -> None:
    """Call the releases whose turn it is: one at a time in each group, the newest first, and each once before any is
    tried again."""
    if not turn.state.ledger or not turn.may_start:
        return
    due = [resource for resource in reversed(turn.state.ledger.values()) if resource.is_due]
    busy = {_group(turn, resource) for resource in due if resource.live}
    for resource in sorted(due, key=lambda resource: resource.error is not None):
        group = _group(turn, resource)
        if group not in busy and resource.next_us <= turn.now_us:
            busy.add(group)
            if turn.terms.admit(resource.release, None):
                turn.record("release.started", {"id": resource.id, "attempt": resource.tries + 1})
                turn.decision.releases = with_one(turn.decision.releases, resource)


def _group(turn: Turn, resource: Resource) -> str:
    """What is released one after the other: what a step has acquired, and at its end all that the job has."""
    return "" if turn.state.releasing else resource.path


def is_pending(turn: Turn) -> bool:
    """Whether a release could be called now, if there were a worker and a slot."""
    return any(
        resource.is_due and not resource.live and resource.next_us <= turn.now_us
        for resource in turn.state.ledger.values()
    )


def take_ended(turn: Turn, ended: ReleaseEnded) -> None:
    """A release has been tried."""
    resource = turn.state.ledger.get(ended.id)
    if resource is None or not resource.live or resource.token != ended.token:
        return
    data: dict[str, Any] = {"id": resource.id, "attempt": resource.tries}
    if ended.error is None:
        turn.record("resource.released", data)
    elif turn.now_us >= resource.deadline_us or ended.stop.abandoned:
        give_up(turn, resource, ended.error)
    else:
        wait_us = min(FIRST_RETRY_US << min(resource.tries - 1, 10), LONGEST_RETRY_US)
        due_us = turn.now_us if ended.was_told else min(turn.now_us + wait_us, resource.deadline_us)
        turn.record("release.failed", data | {"error": ended.error, "retry_at_us": due_us} | ended.stop.as_data)


def expire(turn: Turn, resource_id: str) -> None:
    """The deadline of a resource has passed. One that is being released just now gets its answer first."""
    resource = turn.state.ledger[resource_id]
    if not resource.live:
        message = f"Its release {resource.release!r} could not be tried before the deadline."
        error = resource.error or error_info("timeout.release", message, step=resource.path)
        give_up(turn, resource, error)


def give_up_all(turn: Turn, error: ErrorInfo) -> None:
    """Nothing more is tried for this job."""
    for resource in list(turn.state.ledger.values()):
        give_up(turn, resource, error)


def give_up(turn: Turn, resource: Resource, error: ErrorInfo) -> None:
    """It is a leak from now on: the store keeps it apart from the job."""
    turn.record("resource.leaked", {"id": resource.id, "name": resource.name, "error": error})
    leak = Leak(resource.id, resource.path, resource.name, resource.release, resource.inputs, error)
    turn.decision.leaks = with_one(turn.decision.leaks, leak)
