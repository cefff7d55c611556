"""Learned durations: how long attempts of each step of a workflow are on, and all those of a job of it. Pure.

A worker says what it has seen every few seconds; what it had not said when it died is lost, which harms nobody.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

MAX_DURATIONS = 10_000  # that a store keeps: those learned last
LATEST_PART = 1 / 8  # what the latest run counts in the mean; of the first eight runs each counts the same
WHOLE_JOB = ""  # stands for the step, where the attempts of a whole job are meant


@dataclass(frozen=True, slots=True)
class Sample:
    """So many runs of a step (or jobs) took so long in the mean."""

    workflow_id: str
    step_id: str
    mean_us: int
    runs: int


@dataclass(frozen=True, slots=True)
class Duration:
    """What a store knows of one."""

    workflow_id: str
    step_id: str
    mean_us: int
    runs: int
    learned_us: int  # when it was learned last


def learned(known: Duration | None, sample: Sample, now_us: int) -> Duration:
    """What is known after some more runs."""
    runs, mean_us = (0, 0) if known is None else (known.runs, known.mean_us)
    part = max(sample.runs / (runs + sample.runs), 1 - (1 - LATEST_PART) ** sample.runs)
    mean_us = round(mean_us + (sample.mean_us - mean_us) * part)
    return Duration(sample.workflow_id, sample.step_id, mean_us, runs + sample.runs, now_us)


class Gathered:
    """What has been seen and not been said yet, at most `MAX_DURATIONS` steps and jobs of it."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], tuple[int, int]] = {}  # (workflow, step) → time in all, runs

    def add(self, workflow_id: str, step_id: str, us: int) -> None:
        """A run has ended well that took so long."""
        key = (workflow_id, step_id)
        if key in self._seen or len(self._seen) < MAX_DURATIONS:
            total_us, runs = self._seen.get(key, (0, 0))
            self._seen[key] = (total_us + max(us, 0), runs + 1)

    def take(self) -> list[Sample]:
        """All of it, once."""
        seen, self._seen = self._seen, {}
        return [Sample(*key, round(total_us / runs), runs) for key, (total_us, runs) in seen.items()]


def by_step(durations: Iterable[Duration]) -> dict[str, int]:
    """Means by the ids of steps; that of a whole job under `WHOLE_JOB`."""
    return {one.step_id: one.mean_us for one in durations}
