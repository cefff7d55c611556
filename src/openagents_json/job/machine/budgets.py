"""Budgets in a turn: what attempts and children have spent is recorded, and a job without budget is paused. Pure.

A job that has spent its budget is asked to pause, by "budget", unless nothing more of it would start anyway. Whether it
has is asked in `spending`.
"""

from __future__ import annotations

from typing import Any

from openagents_json.amounts import Amounts, add
from openagents_json.job.machine import family
from openagents_json.job.machine.happenings import Requested, Spent
from openagents_json.job.machine.spending import exhausted, may_pause, spent_by, told_each_by, why_spent, would_go_on
from openagents_json.job.machine.turn import Turn

BY = "budget"  # who asks for the pause


def take(turn: Turn, spent: Spent) -> None:
    """An attempt has reported what it spent. If it ends in this turn, the event of that says so."""
    run = turn.state.runs.get(spent.path)
    if run is not None and run.live and run.token == spent.token:
        add(turn.spent.setdefault(spent.path, {}), spent.amounts)


def record(turn: Turn) -> None:
    """Events for attempts that have reported and are still on."""
    for path in list(turn.spent):
        data = {"path": path, "attempt": turn.state.runs[path].attempt}
        turn.record("attempt.spent", data | turn.spending(path))


def heed(turn: Turn) -> None:
    """Have the job pause if its budget is spent; or withdraw such a pause when nothing is left that it holds back."""
    state = turn.state
    if state.pause_requested and "budget" in (state.pause or {}) and not would_go_on(state):
        turn.record("job.pause_withdrawn", {"by": BY, "reason": "nothing more is to start"})
    if may_pause(state) and (key := exhausted(state, turn.now_us)) is not None:
        reason = why_spent(state, turn.now_us)
        turn.record("job.pause_requested", {"by": BY, "reason": reason, "budget": key})
        family.pass_on(turn, Requested("pause", BY, reason), {"parent_pause": state.pause_number})


def add_budget(turn: Turn, request: Requested) -> None:
    """Somebody gives the job more to spend."""
    amounts: Amounts = request.arguments["amounts"]
    turn.record("job.budget_added", {"amounts": amounts, "by": request.by, "reason": request.reason})


# ── children ──────────────────────────────────────────────────────────────────────────────────────────────────────


def told_before(turn: Turn) -> Amounts:
    """What the job had spent before the turn, if its parent wants to know."""
    return spent_by(turn.state) if told_each_by(turn.state) else {}


def tell_parent(turn: Turn, before: Amounts) -> None:
    """A job that has spent another part of what its parent may spend says so. Its end is told by `ending`."""
    state = turn.state
    if state.parent is None or state.is_final or not (told_each := told_each_by(state)):
        return
    now = spent_by(state)
    if any(now.get(key, 0) // each > before.get(key, 0) // each for key, each in told_each.items()):
        word: dict[str, Any] = {"child_id": state.job_id, "spent": now}
        turn.post(state.parent["job_id"], "child_spent", word, None, None)


def child_spent(turn: Turn, request: Requested) -> None:
    """A child says what it has spent in all."""
    child_id = request.arguments["child_id"]
    if (path := turn.state.children.get(child_id)) is not None:
        data = {"path": path, "child_id": child_id, "spent": request.arguments["spent"]}
        turn.record("child.spent", data)
