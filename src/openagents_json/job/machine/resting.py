"""Where a job stands when nothing more follows: the end of a turn. Pure, like all of the machine."""

from __future__ import annotations

from openagents_json.job.machine import family, ledger, use
from openagents_json.job.machine.happenings import Released
from openagents_json.job.machine.turn import Turn
from openagents_json.job.model import JobStatus
from openagents_json.resources import shortened


def conclude(turn: Turn) -> None:
    """Say truthfully where the job stands now that nothing more follows."""
    state = turn.state
    look_at_deadline(turn)
    if state.is_final or state.live or state.releases:
        return
    if not turn.is_held:
        _conclude_at_rest(turn)
    elif state.cancel is not None and turn.releasing is not None:
        _give_back(turn, turn.releasing)
    elif state.pause_requested:
        family.pause_if_children_are(turn)
    elif turn.releasing is not None:
        _give_back(turn, turn.releasing)
    elif _can_go_on_elsewhere(turn):
        turn.record("job.queued", {"reason": "elsewhere", "requires": shortened(set(turn.elsewhere.values()))})
    elif not _has_work(turn):
        due = state.next_due()
        if due is None or due[0] - turn.now_us > turn.terms.linger_us:
            turn.record("job.waiting", {"until_us": None if due is None else due[0]})


def _give_back(turn: Turn, released: Released) -> None:
    """The job goes back into the queue; one that is only to make room, and would wait anyway, waits."""
    due = turn.state.next_due()
    if released.by is None:
        turn.record("job.queued", {"reason": released.reason})
    elif _has_work(turn) or (due is not None and due[0] <= turn.now_us):
        turn.record("job.queued", {"reason": released.reason, "by": released.by})
    else:
        turn.record("job.waiting", {"until_us": None if due is None else due[0]})


def _has_work(turn: Turn) -> bool:
    """Whether there is something to do now."""
    state = turn.state
    return bool(state.startable or state.agenda or state.closing) or ledger.is_pending(turn)


def _can_go_on_elsewhere(turn: Turn) -> bool:
    """Whether all that could start now needs components, or more of a resource, that this worker does not have."""
    state = turn.state
    if not turn.elsewhere or state.agenda or state.closing or ledger.is_pending(turn):
        return False
    return state.startable.are_all(turn.elsewhere)


def look_at_deadline(turn: Turn) -> None:
    """A job that will perhaps miss its deadline says so, once."""
    state = turn.state
    at_us = use.risk_us(state, turn.now_us)
    if at_us is not None and at_us < turn.now_us:
        data = {"deadline_us": state.deadline_us, "expected_us": use.left_us(state, turn.now_us)}
        turn.record("job.deadline_at_risk", data)


def _conclude_at_rest(turn: Turn) -> None:
    """Nobody runs the job: does it want a worker now?"""
    state = turn.state
    due = state.next_due()
    has_work = (
        bool(state.agenda or state.closing) or ledger.is_pending(turn) or (due is not None and due[0] <= turn.now_us)
    )
    if state.pause_requested:
        family.pause_if_children_are(turn)
    elif state.cancel is not None:
        if state.status != JobStatus.QUEUED and (has_work or state.status != JobStatus.WAITING):
            turn.record("job.queued", {"reason": "cancel"})
    elif state.status == JobStatus.WAITING and has_work:
        turn.record("job.queued", {"reason": "due" if due is not None and due[1] != "signal" else "woken"})
    elif state.status == JobStatus.PAUSED:
        family.pause_if_children_are(turn)
    elif state.status == JobStatus.WAITING and state.wake_us != (due[0] if due is not None else None):
        turn.record("job.waiting", {"until_us": None if due is None else due[0]})
