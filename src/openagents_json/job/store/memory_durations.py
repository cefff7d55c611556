"""The learned durations of the memory store."""

from __future__ import annotations

from collections.abc import Sequence

from openagents_json.job.store.durations import MAX_DURATIONS, Duration, Sample, learned


class MemoryDurations:
    """By workflow and step, those learned last at the end."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Duration] = {}

    def learn(self, samples: Sequence[Sample], now_us: int) -> list[Duration]:
        """What is to be kept after these."""
        kept: dict[tuple[str, str], Duration] = {}
        for one in samples:
            key = one.workflow_id, one.step_id
            kept[key] = learned(kept.get(key, self._known.get(key)), one, now_us)
        return list(kept.values())

    def keep(self, durations: Sequence[Duration]) -> None:
        """Keep these instead of what was known."""
        for one in durations:
            key = one.workflow_id, one.step_id
            self._known.pop(key, None)
            self._known[key] = one
        for key in list(self._known)[: len(self._known) - MAX_DURATIONS]:
            del self._known[key]

    def of_workflow(self, workflow_id: str) -> list[Duration]:
        """What is known of the steps and jobs of a workflow."""
        return [one for one in self._known.values() if one.workflow_id == workflow_id]

    def all(self) -> list[Duration]:
        """Everything, what was learned last at the end."""
        return list(self._known.values())
