"""What a job has spent, and whether that is its whole budget: questions to its state. Pure, like all of the machine.

Tokens and cost are what attempts report: data of the events that end them, and of `attempt.spent` while they are on.
Seconds follow from the times of the events: those during which attempts were on, all added up. What attached children
have spent counts for the job, too. What follows from it in a turn is in `budgets`.
"""

from __future__ import annotations

from collections.abc import Mapping

from openagents_json.amounts import Amounts, number, text
from openagents_json.job.machine.state import ROOT, JobState
from openagents_json.job.model import JobStatus

TIME = "time_us"
TOLD_IN = 20  # a child tells its parent at least as often, until the budget of that is spent

_NOTHING: Amounts = {}
_UNDER_WAY = (JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.WAITING)


def spent_by(state: JobState) -> Amounts:
    """All that the job has spent by its last event."""
    return {TIME: state.time_spent_us(state.seen_us)} | state.spent


def exhausted(state: JobState, now_us: int, unrecorded: Mapping[str, int] = _NOTHING) -> str | None:
    """The first part of the budget of which nothing is left, together with what no event holds yet; None if there is
    something left of each."""
    for key, budget in state.budget.items():
        spent = state.time_spent_us(now_us) if key == TIME else state.spent.get(key, 0) + unrecorded.get(key, 0)
        if spent >= budget:
            return key
    return None


def why_spent(state: JobState, now_us: int) -> str | None:
    """`budget of 10,000 tokens is spent (10,240)`; None if there is something left of each part."""
    key = exhausted(state, now_us)
    if key is None:
        return None
    spent = state.time_spent_us(now_us) if key == TIME else state.spent[key]
    return f"budget of {text(key, state.budget[key])} is spent ({number(key, spent)})"


def wanting(state: JobState) -> str | None:
    """The part of the budget that somebody has to add to before the job can be resumed; None if nobody has to."""
    key = exhausted(state, state.seen_us)
    return key if key is not None and would_go_on(state) else None


def may_pause(state: JobState) -> bool:
    """Whether a spent budget holds the job back: it is under way, nobody has asked for a pause or cancel, and something
    more of it would start."""
    return state.status in _UNDER_WAY and not state.pause_requested and state.cancel is None and would_go_on(state)


def would_go_on(state: JobState) -> bool:
    """Whether more of the job starts if nobody holds it back: it is neither about to end nor at its cleanup."""
    return state.outcome is None and ROOT not in state.closing and not state.scopes[ROOT].is_cut


def next_due_us(state: JobState) -> int | None:
    """When the job has to be looked at next, if nothing happens before; None: never."""
    due, spent_us = state.next_due(), _time_is_spent_us(state) if state.budget else None
    if due is None or spent_us is None:
        return spent_us if due is None else due[0]
    return min(due[0], spent_us)


def _time_is_spent_us(state: JobState) -> int | None:
    """When the budget of seconds will be spent if what is on now goes on; None if it is not being spent, or spending it
    would pause nothing."""
    if TIME not in state.budget or not state.live or not may_pause(state):
        return None
    left_us = state.budget[TIME] - state.time_us
    return state.created_us - (-(left_us + state.live_since_us) // state.live)  # rounded up


def told_each(state: JobState) -> Amounts:
    """What an attached child of the job may spend until it tells of it: a part of the smallest budget above it."""
    told = {key: max(budget // TOLD_IN, 1) for key, budget in state.budget.items()}
    for key, amount in told_each_by(state).items():
        told[key] = min(told.get(key, amount), amount)
    return told


def told_each_by(state: JobState) -> Amounts:
    """The same of the job itself, as its parent has it; empty if nobody above it has a budget."""
    parent = state.parent
    return _NOTHING if parent is None else parent.get("told_each", _NOTHING)
