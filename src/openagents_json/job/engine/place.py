"""Where a job that runs stands among all, waiting and running."""

from __future__ import annotations

from typing import NamedTuple

from openagents_json.clock import SECOND_US, Clock
from openagents_json.job.machine import JobState
from openagents_json.job.model import rank_of
from openagents_json.job.store.records import Claim


class Standing(NamedTuple):
    """How a running job stands against those that wait."""

    rank: int
    sort_at: int  # its virtual arrival time if it went back into the queue now
    preempted: int  # how often it has made room before


class JobPlace:
    """The place that a job had when it was taken, and what has become of it since. Time in which a job runs does not
    count as waiting: among running jobs it stands where it stood, and in the queue it would stand further back."""

    def __init__(self, claim: Claim, state: JobState, clock: Clock) -> None:
        self._sort_at = claim.sort_at
        self._rank = rank_of(state.priority)  # that `_sort_at` is of
        self._came_us = clock.now_us()

    def sort_at(self, state: JobState, aging_s: float) -> int:
        """Its virtual arrival time when it was taken, by the priority that it has now."""
        ranks = rank_of(state.priority) - self._rank
        return self._sort_at - ranks * round(aging_s * SECOND_US)

    def in_queue(self, state: JobState, aging_s: float, now_us: int) -> Standing:
        """How it would stand if it went back into the queue now."""
        here_us = max(now_us - self._came_us, 0)
        return Standing(rank_of(state.priority), self.sort_at(state, aging_s) + here_us, state.preempted)
