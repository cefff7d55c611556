"""Events: the lines of a job's history. Numbered 1…n per job without gaps; the final one is the last.

Only the machine constructs events; stores and readers get them through `decode_events`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from openagents_json.clock import as_datetime


class Event(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One thing that happened to a job. `data` depends on `type`: see `EVENT_TYPES`."""

    number: int
    type: str
    at_us: int
    data: dict[str, Any]

    @property
    def at(self) -> datetime:
        """When, as an aware UTC datetime."""
        return as_datetime(self.at_us)

    @classmethod
    def unrecorded(cls, type: str, at_us: int, data: dict[str, Any]) -> Event:
        """News for listeners that no history holds (`NEWS_TYPES`): its number is 0."""
        return cls(0, type, at_us, data)

    def copied(self) -> Event:
        """The same event with data of its own."""
        return msgspec.structs.replace(self, data=_copied(self.data))

    def as_dict(self) -> dict[str, Any]:
        """The event as plain JSON: number, type, at (ISO 8601), data."""
        return {"number": self.number, "type": self.type, "at": self.at.isoformat(), "data": self.data}


# type → (when it is recorded, the keys of its data). A key that ends in ? may be absent. The docs show this table.
EVENT_TYPES: dict[str, tuple[str, str]] = {
    "job.created": (
        "the job is accepted",
        "job_id workflow_id version definition inputs priority tags metadata start_at_us? idempotency_key? parent? "
        "origin? given? budget? share? deadline_us? expected_us?",
    ),
    "job.queued": (
        "it wants a worker; requires: one that meets one of these; by: the job that it made room for",
        "reason requires? by?",
    ),
    "job.started": (
        "a worker takes it for the first time; sort_at: its virtual arrival; preempted: the job that made room for it",
        "worker epoch sort_at? deadline_us? preempted?",
    ),
    "job.continued": ("a worker takes it again", "worker epoch sort_at? preempted?"),
    "job.pause_requested": ("somebody asked for a pause, or the budget is spent", "by reason parent_pause? budget?"),
    "job.pause_withdrawn": ("resume came before the pause was effective", "by reason"),
    "job.paused": ("nothing of it runs any more, and nothing of its children", ""),
    "job.resumed": ("somebody resumed a paused job", "by reason"),
    "job.cancel_requested": ("somebody asked to cancel", "by reason force"),
    "job.priority_changed": ("its priority was changed", "priority was by reason"),
    "job.budget_added": ("somebody gave it more to spend", "amounts by reason"),
    "job.waiting": (
        "all that is left waits: for a time, a signal, a child or a decision",
        "until_us",
    ),
    "job.deadline_at_risk": (
        "a worker has it, and it will perhaps miss its deadline; expected_us: how long its attempts will still take",
        "deadline_us expected_us",
    ),
    "job.worker_lost": ("the worker that held it is dead", "worker deaths"),
    "job.timed_out": ("it has taken longer than its timeout", "error"),
    "job.compensation_started": ("what was completed is undone, the latest first", "outcome error? deadline_us"),
    "job.finally_started": (
        "the outcome is decided and the finally steps begin",
        "outcome outputs? error? deadline_us",
    ),
    "job.releasing": (
        "the outcome is decided and what is left in the cleanup ledger is released; resources: how many",
        "outcome resources outputs? error?",
    ),
    "job.cleanup_timed_out": ("compensation or finally took too long and is ended", "part error"),
    "job.completed": ("final: all went well", "outputs?"),
    "job.failed": ("final: a step failed for good; children: how many still ran", "error children?"),
    "job.cancelled": (
        "final: cancelled on request; skipped: what force left out; rung: the strongest that was needed; how many"
        " resources were released, and leaked; children: how many still ran",
        "by reason force skipped? rung? released? leaked? children?",
    ),
    "attempt.started": (
        "recorded before the component is called; its number is the fencing token",
        "path attempt key component inputs? refs?",
    ),
    "attempt.spent": (
        "the attempt goes on and has spent so much since the last event that said so",
        "path attempt spent",
    ),
    "attempt.failed": (
        "the attempt raised or ran out of time",
        "path attempt error retry_at_us? rung? took_us? abandoned? spent?",
    ),
    "attempt.cancelled": (
        "the attempt was told to stop and has ended",
        "path attempt reason rung? took_us? abandoned? spent?",
    ),
    "attempt.lost": (
        "the attempt ended with its worker, or made room for the job `by`; what it did is unknown; seen_us: it counts"
        " as on until then",
        "path attempt reason rung? took_us? abandoned? by? spent? seen_us?",
    ),
    "step.completed": (
        "the step ended well; its output is recorded and never changes",
        "path attempt? output? signal? letter? timed_out? spent?",
    ),
    "step.failed": ("the step failed for good; continued: the job goes on", "path error continued?"),
    "step.skipped": ("its condition was false", "path"),
    "step.cancelled": ("the step was stopped with its scope", "path"),
    "step.taken_over": (
        "a job that retries another has its result of a step, or one set by hand, and does not run it",
        "path status output? error? errors? from?",
    ),
    "step.expanded": ("a foreach knows its items", "path count items? deadline_us?"),
    "step.chosen": ("a switch has taken a case, or none", "path case deadline_us?"),
    "step.forked": ("the branches of a parallel begin", "path deadline_us?"),
    "step.iterated": ("an iteration of a repeat begins", "path iteration initial? deadline_us?"),
    "step.waiting": ("it waits for a time or a signal", "path until_us? signal? attempt? deadline_us?"),
    "step.retrying": ("a container, signal or child failed and is begun again", "path attempt error retry_at_us"),
    "step.caught": ("its error is handled by an entry of `catch`", "path handler error"),
    "step.timed_out": ("a container or child has taken longer than its timeout", "path error"),
    "step.in_doubt": (
        "whether an effect that may happen once has happened is unknown",
        "path attempt error rung? took_us? abandoned? spent? seen_us?",
    ),
    "step.resolved": ("somebody said what became of a step in doubt", "path how by reason"),
    "signal.received": ("a signal came; the step that waits for it takes it", "name payload by"),
    "child.started": (
        "a child job was created in this commit",
        "path attempt child_id workflow_id version inputs? refs? detached? deadline_us?",
    ),
    "child.paused": ("a child job is PAUSED; pause: the event of this job that asked for it", "path child_id pause?"),
    "child.resumed": ("a child job is not PAUSED any more", "path child_id"),
    "child.spent": ("a child job goes on and has spent so much in all", "path child_id spent"),
    "child.ended": ("a child job is final; spent: in all", "path child_id status error? spent?"),
    "resource.tracked": (
        "an attempt is about to acquire something; its number is the resource's id",
        "id path attempt name release inputs until keep within_us",
    ),
    "release.started": ("recorded before the release of a resource is called", "id attempt"),
    "release.failed": (
        "a release raised, ran out of time or was stopped with its worker; it is tried again",
        "id attempt error retry_at_us rung? took_us?",
    ),
    "resource.released": ("a resource was given back", "id attempt"),
    "resource.leaked": ("a resource was given up at its deadline and moves to the leaks", "id name error"),
}

# The same of events that no history holds: their number is 0, and only those who listen now hear of them.
NEWS_TYPES: dict[str, tuple[str, str]] = {
    "step.progress": ("a component reports how far it is", "path attempt fraction message"),
    "step.emitted": ("a component shows something, such as the next tokens of an answer", "path attempt data"),
    "listener.dropped": ("a listener or a live watcher was too slow and missed so many events", "dropped jobs"),
}


def unknown_keys(event: Event) -> set[str]:
    """What is wrong with the data of an event: keys that its table does not have, and keys of it that are missing.
    All of them, and the type, for an event whose type is in neither table."""
    described = EVENT_TYPES.get(event.type) or NEWS_TYPES.get(event.type)
    if described is None:
        return {event.type, *event.data}
    keys = described[1].split()
    missing = {key for key in keys if not key.endswith("?")} - event.data.keys()
    return missing | (event.data.keys() - {key.removesuffix("?") for key in keys})


def _copied(value: Any) -> Any:
    """A copy of plain data that shares nothing mutable with it."""
    if isinstance(value, dict):
        return {key: _copied(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_copied(member) for member in value]
    return value


_decoder = msgspec.json.Decoder(list[Event])


def encode_events(events: Sequence[Event]) -> bytes:
    """Events as JSON: an array of [number, type, at_us, data]."""
    return msgspec.json.encode(events)


def decode_events(data: bytes | str) -> list[Event]:
    """The reverse of `encode_events`."""
    return _decoder.decode(data)
