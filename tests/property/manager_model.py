"""What the model knows of each job: the fold of its history as far as it was read, and what was asked of it.

`look` reads on and says what is wrong. The pure machine is the model: its fold says which verbs are allowed, and its
`decide` says what a verb on a job that nobody runs records.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from openagents_json.errors import InvalidTransition
from openagents_json.job.events import Event
from openagents_json.job.machine import (
    NOTHING_STARTS,
    JobState,
    Requested,
    Verb,
    allowed_verbs,
    apply,
    decide,
    fold,
    is_repeated,
    new_state,
    refuse,
)
from openagents_json.job.model import JobStatus
from openagents_json.job.store import JobStore, Request
from openagents_json.workflow import Plan
from tests.faults.checker import FINAL_EVENTS, Record, row_violations


@dataclass(frozen=True)
class Asked:
    """A verb that somebody called. `token` stands in its `by`: no two are alike."""

    verb: Verb
    token: str
    arguments: Mapping[str, Any]
    since: int  # number of the last event that was known before

    def as_requested(self) -> Requested:
        return Requested(self.verb, self.token, None, dict(self.arguments))


@dataclass
class Shadow:
    """One job as the model sees it."""

    id: str
    plan: Plan
    state: JobState
    events: list[Event] = field(default_factory=list)
    accepted: dict[str, Asked] = field(default_factory=dict)  # verbs that returned, and that no event tells of yet
    refused: set[str] = field(default_factory=set)  # tokens of verbs that raised InvalidTransition
    requests: list[Request] = field(default_factory=list)  # the inbox, as it was read last
    is_at_rest: bool = False  # PAUSED or final was seen, and nothing that ends this was asked since

    @classmethod
    def of(cls, job_id: str, plan: Plan) -> Shadow:
        return cls(job_id, plan, new_state(plan))

    @property
    def status(self) -> JobStatus:
        return self.state.status

    @property
    def shown(self) -> tuple[JobStatus, bool]:
        """The status and whether a pause is asked for, as the manager judges: with what still stands in the inbox."""
        paused = self.state.pause_requested
        for request in self.requests if not self.state.is_final else ():
            paused = {"pause": True, "resume": False}.get(request.kind, paused)
        return self.status, paused

    async def look(self, store: JobStore) -> list[Event]:
        """Read on; the new events. AssertionError for what may not be."""
        self.requests = await store.read_requests(self.id)  # before the events: what is drained between stays open
        new = await store.read_events(self.id, len(self.events))
        for event in new:
            assert not self.state.is_final, f"event {event.number} ({event.type}) comes after the final one"
            assert event.number == len(self.events) + 1, f"event {event.number} follows {len(self.events)}"
            assert event.data.get("by") not in self.refused, f"{event.type} of a verb that was refused"
            apply(self.state, event)
            self.events.append(event)
        inbox = {request.by for request in self.requests}
        for token in [token for token in self.accepted if token not in inbox]:
            asked = self.accepted.pop(token)
            story = [(event.number, event.type) for event in self.events[max(asked.since - 3, 0) :]]
            assert self._is_told(asked), f"{asked} was accepted for job {self.id}, and nothing tells of it: {story}"
        assert not self.refused & inbox, "a verb that was refused stands in the inbox"
        return new

    def _is_told(self, asked: Asked) -> bool:
        """Whether the history tells of a verb, or says why it changed nothing."""
        if any(event.data.get("by") == asked.token for event in self.events[asked.since :]):
            return True
        states = self._states_since(asked)
        if asked.verb == "start":
            return any(state.status != JobStatus.CREATED for state in states)
        return any(_changes_nothing(state, asked) for state in states)

    def _states_since(self, asked: Asked) -> Iterator[JobState]:
        """The job as it was known when the verb was called, and after each later event. That it is final is no excuse
        for a verb that was accepted before, unless it is CANCELLED anyway, or was given up for its dead workers."""
        state = fold(self.plan, self.events[: asked.since])
        yield state
        for event in self.events[asked.since :]:
            apply(state, event)
            was_given_up = event.type == "job.failed" and event.data["error"]["type"] == "worker_lost"
            is_so = event.type == "job.cancelled" and asked.verb == "cancel"
            if event.type not in FINAL_EVENTS or was_given_up or is_so:
                yield state

    # ── predictions ───────────────────────────────────────────────────────────────────────────────────────────────

    def is_refused_early(self, verb: Verb) -> bool:
        """Whether the manager refuses a verb at sight."""
        status, paused = self.shown
        return not is_repeated(verb, status, paused) and verb not in allowed_verbs(status, paused)

    def is_refused(self, asked: Asked) -> bool:
        """Whether the machine refuses it as the job stands now."""
        return _is_refused(self.state, asked)

    def next_events(self, asked: Asked, now_us: int) -> list[tuple[str, dict[str, Any]]]:
        """What a verb records on a job that nobody runs and whose inbox is empty."""
        state = fold(self.plan, self.events)
        decision = decide(state, [asked.as_requested()], now_us, NOTHING_STARTS)
        return [(event.type, event.data) for event in decision.events]

    async def check_row(self, store: JobStore) -> None:
        """The row is the projection of the fold, unless a commit came after what was read."""
        summary = await store.read_summary(self.id)
        assert summary is not None, f"the accepted job {self.id} is gone"
        if summary.events == len(self.events):
            assert row_violations(Record(summary, self.events, self.state)) == []


def _is_refused(state: JobState, asked: Asked) -> bool:
    try:
        refuse(state, asked.verb, asked.arguments)
    except InvalidTransition:
        return True
    return False


def _changes_nothing(state: JobState, asked: Asked) -> bool:
    if _is_refused(state, asked) or is_repeated(asked.verb, state.status, state.pause_requested):
        return True
    if asked.verb == "cancel" and state.cancel is not None:
        return bool(state.cancel["force"]) or not asked.arguments["force"]
    return asked.verb == "set_priority" and asked.arguments["priority"] == state.priority


def told(events: Sequence[Event]) -> list[tuple[str, dict[str, Any]]]:
    return [(event.type, event.data) for event in events]
