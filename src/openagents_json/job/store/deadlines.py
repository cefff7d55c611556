"""Deadlines: a job with one moves forward in the queue in time to meet it. Pure.

It ends nothing. How long a job will still take is what was learned of its workflow, so it is a guess; the margin is for
that.
"""

from __future__ import annotations

from dataclasses import dataclass

from openagents_json.clock import SECOND_US
from openagents_json.job.machine import JobState, risk_us
from openagents_json.job.model import JobStatus

MARGIN_PART = 0.1  # of what it is expected to use in all
MARGIN_US = SECOND_US  # and so much besides


@dataclass(frozen=True, slots=True)
class Deadline:
    """When a job is to be done, when it has to begin for that (or go on) while it is QUEUED, whether it was found that
    it will perhaps be late, and else, while nobody runs it, from when on that is so if it stays where it is."""

    at_us: int
    start_by_us: int | None = None
    is_at_risk: bool = False
    risk_us: int | None = None


def deadline_of(state: JobState) -> Deadline | None:
    """The deadline of a job, as its row has it."""
    if state.deadline_us is None:
        return None
    start_by_us = None
    if state.status == JobStatus.QUEUED:
        margin_us = round(state.expected_us * MARGIN_PART) + MARGIN_US
        start_by_us = state.deadline_us - max(state.expected_us - state.used_us, 0) - margin_us
    risk = None if state.status == JobStatus.RUNNING else risk_us(state, state.seen_us)
    return Deadline(state.deadline_us, start_by_us, state.at_risk, None if risk is None else risk + 1)
