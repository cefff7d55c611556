"""How long a job is expected to be on from now, and when its deadline is at risk. Pure.

What it has used is the time that attempts of it were on, those of its attached children included once these have ended
(`spending`).
"""

from __future__ import annotations

from openagents_json.job.machine.state import JobState


def left_us(state: JobState, now_us: int) -> int:
    """How long attempts are expected to be on from now."""
    return max(state.expected_us - state.time_spent_us(now_us), 0)


def risk_us(state: JobState, now_us: int) -> int | None:
    """When the deadline is at risk if nothing happens until then, perhaps a time in the past; None if it has none, or
    that is known already. While an attempt is on, what is left becomes less as time goes by."""
    if state.deadline_us is None or state.at_risk or state.is_final or state.cancel is not None:
        return None
    if state.live and now_us + left_us(state, now_us) <= state.deadline_us:
        return state.deadline_us
    return state.deadline_us - left_us(state, now_us)
