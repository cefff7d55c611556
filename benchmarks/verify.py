"""Reading histories back after a run: a fast figure counts only if every event of every job is where it belongs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

FINAL_EVENTS = ("job.completed", "job.failed", "job.cancelled")


class EventLike(Protocol):
    """What is read of an event."""

    @property
    def number(self) -> int: ...
    @property
    def type(self) -> str: ...
    @property
    def data(self) -> dict[str, Any]: ...


class WrongHistory(Exception):
    """A history that does not say what happened. `problems` are sentences."""

    def __init__(self, job_id: str, problems: Sequence[str]) -> None:
        super().__init__(f"job {job_id}: " + "; ".join(problems[:5]))
        self.job_id = job_id
        self.problems = tuple(problems)


def check_history(job_id: str, events: Sequence[EventLike], *, component_steps: int) -> None:
    """Raise `WrongHistory` unless these are all events of a job that ended well after `component_steps` calls."""
    problems = [*_order_problems(events), *_step_problems(events, component_steps)]
    if problems:
        raise WrongHistory(job_id, problems)


def _order_problems(events: Sequence[EventLike]) -> list[str]:
    problems = []
    if [event.number for event in events] != list(range(1, len(events) + 1)):
        problems.append("its events are not numbered 1, 2, 3 … without gaps")
    if not events or events[0].type != "job.created":
        problems.append("its first event is not job.created")
    if not events or events[-1].type != "job.completed":
        problems.append(f"its last event is {events[-1].type if events else 'missing'}, not job.completed")
    if any(event.type in FINAL_EVENTS for event in events[:-1]):
        problems.append("a final event is followed by others")
    return problems


def _step_problems(events: Sequence[EventLike], component_steps: int) -> list[str]:
    started = [event for event in events if event.type == "attempt.started"]
    # Containers and `set` steps complete without an attempt.
    completed = [event for event in events if event.type == "step.completed" and "attempt" in event.data]
    problems = []
    for name, found in (("attempt.started", started), ("step.completed", completed)):
        if len(found) != component_steps:
            problems.append(f"it has {len(found)} {name} of components instead of {component_steps}")
        counts = Counter(event.data["path"] for event in found)
        if doubled := [path for path, count in counts.items() if count > 1]:
            problems.append(f"{name} stands twice for {doubled[0]}")
    keys = [event.data.get("key") for event in started]
    if not all(isinstance(key, str) and key for key in keys) or len(set(keys)) != len(keys):
        problems.append("an attempt has no idempotency key of its own")
    start_of = {event.data["path"]: event.number for event in started}
    if any(start_of.get(event.data["path"], event.number) >= event.number for event in completed):
        problems.append("a step completed without an attempt that started before")
    return problems
