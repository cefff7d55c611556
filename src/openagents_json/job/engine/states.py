"""Folded states of large jobs that were read or run lately. To fold one of 100,000 events takes most of a second."""

from __future__ import annotations

from collections import OrderedDict

from openagents_json.job.machine import JobState

LARGE = 2_000  # events; smaller states fold as fast as they are looked up
KEPT = 4  # states


class KnownStates:
    """Whoever takes a state has it alone, may change it, and keeps it again when it is as the store has it."""

    def __init__(self) -> None:
        self._states: OrderedDict[str, JobState] = OrderedDict()  # by job id, the last used last

    def take(self, job_id: str) -> JobState | None:
        """The state of a job as the store had it at event number `state.number`."""
        return self._states.pop(job_id, None)

    def keep(self, state: JobState) -> None:
        """A state that is as the store has it, and that nobody changes any more, if it is worth it."""
        if state.number >= LARGE:
            self._states[state.job_id] = state
            if len(self._states) > KEPT:
                self._states.popitem(last=False)
