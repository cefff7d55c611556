"""Drives one job through the machine without I/O, and checks after every turn what must always hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from openagents_json.clock import SECOND_US
from openagents_json.errors import InvalidTransition
from openagents_json.job.events import EVENT_TYPES, Event
from openagents_json.job.machine import (
    AttemptFailed,
    AttemptStopped,
    AttemptSucceeded,
    Caps,
    Claimed,
    Decision,
    Granted,
    Happening,
    Interrupted,
    JobState,
    Leak,
    Released,
    ReleaseEnded,
    Requested,
    Resource,
    ResourceTracked,
    ScopeNames,
    Spawn,
    Spent,
    StepRun,
    Stop,
    Takeover,
    Terms,
    Tick,
    Verb,
    create,
    decide,
    decode_snapshot,
    encode_snapshot,
    fold,
    no_children,
    what_to_take_over,
)
from openagents_json.job.model import JobPriority, JobStatus
from openagents_json.workflow.graph import build_plan
from openagents_json.workflow.model import Retry, Workflow
from openagents_json.workflow.plan import Node, Plan

START_US = 1_700_000_000 * SECOND_US
FINAL_EVENTS = ("job.completed", "job.failed", "job.cancelled")

Definition = dict[str, Any] | list[dict[str, Any]]


def plan_of(definition: Definition) -> Plan:
    """The plan of a definition, or of its steps alone."""
    document = {"steps": definition} if isinstance(definition, list) else definition
    document = {"id": "example", "inputs": {"type": "object", "additionalProperties": True}} | document
    return build_plan(Workflow.model_validate(document | {"document": document}))


def call(id: str, **fields: Any) -> dict[str, Any]:
    """A component step."""
    return {"id": id, "component": "do"} | fields


def error(type: str = "boom", retryable: bool | None = None, step: str | None = None) -> dict[str, Any]:
    return {
        "type": type,
        "message": f"{type} happened",
        "step": step,
        "attempt": 1,
        "retryable": retryable,
        "details": None,
    }


class Drive:
    """One job. Every verb is one turn of the machine; the events land in `history`."""

    def __init__(
        self,
        definition: Definition | Plan,
        inputs: dict[str, Any] | None = None,
        *,
        start: bool = True,
        claim: bool = True,
        slots: int = 1_000,
        linger_s: float = 5.0,
        cleanup_s: float = 600.0,
        random: float = 0.5,
        start_at_us: int | None = None,
        takeover: Takeover | None = None,
        job_id: str = "job-1",
        parent: dict[str, Any] | None = None,
        caps: Caps = lambda component, inputs: (),
        granted: Granted = lambda run, caps: True,
    ) -> None:
        self.plan = definition if isinstance(definition, Plan) else plan_of(definition)
        self.now_us = START_US
        self.slots = slots
        self.linger_us = round(linger_s * SECOND_US)
        self.cleanup_us = round(cleanup_s * SECOND_US)
        self.random = random
        self.state, events = create(
            self.plan, job_id, inputs or {}, now_us=self.now_us, start=start, start_at_us=start_at_us,
            takeover=takeover, parent=parent, budget=self.plan.workflow.spendable,
        )  # fmt: skip
        self.history: list[Event] = list(events)
        self.commits: list[int] = [len(events)]  # lengths of the history after each turn that recorded something
        self.called: list[str] = []  # paths in the order of their calls
        self.released: list[str] = []  # names of resources in the order in which their releases were called
        self.leaks: list[Leak] = []
        self.told: dict[str, str] = {}  # live paths that were told to stop → the reason
        self.releasing: str | None = None
        self.epoch = 0
        self.spawn: Spawn = no_children
        self.caps = caps
        self.granted = granted
        self.missing: set[str] = set()  # components that the worker does not have
        self.out_of_reach: dict[str, str] = {}  # what steps require that need more than the worker has, by step id
        if claim and start:
            self.claim()

    # ── turns ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def turn(self, *happenings: Happening) -> Decision:
        """One turn, as the runner makes it: with the wish to give the job back as long as it is not fulfilled."""
        was_final, progress = self.state.is_final, self.state.progress
        wanted = [Released(self.releasing)] if self.releasing and self.state.status == JobStatus.RUNNING else []
        terms = Terms(
            random=lambda: self.random,
            admit=self._admit,
            spawn=self.spawn,
            linger_us=self.linger_us,
            cleanup_us=self.cleanup_us,
            has=lambda component: component not in self.missing,
            caps=self.caps,
            granted=self.granted,
            out_of_reach=lambda component, node: self.out_of_reach.get(node.id),
        )
        decision = decide(self.state, [*happenings, *wanted], self.now_us, terms)
        assert not (was_final and decision.events), "a final state changed"
        self.history += decision.events
        if decision.events:
            self.commits.append(len(self.history))
        self.called += [call.run.path for call in decision.calls]
        self.released += [resource.name for resource in decision.releases]
        self.leaks += decision.leaks
        self.told |= {run.path: reason for run, reason in decision.stops}
        self.told = {path: reason for path, reason in self.told.items() if self.state.runs[path].live}
        if self.state.status != JobStatus.RUNNING:
            self.releasing = None
        assert progress <= self.state.progress <= 1, "progress fell or left 0…1"
        self._check(decision.events)
        return decision

    def _admit(self, component: str, node: Node | None) -> bool | None:
        return True if self.state.live + self.state.releases < self.slots else None

    def _check(self, events: Sequence[Event]) -> None:
        check_keys(events)
        assert [event.number for event in self.history] == list(range(1, len(self.history) + 1))
        assert all(event.type not in FINAL_EVENTS for event in self.history[:-1])
        assert (self.history[-1].type in FINAL_EVENTS) == self.state.is_final
        assert self.state.live == sum(run.live for run in self.state.runs.values())
        assert self.state.releases == sum(resource.live for resource in self.state.ledger.values())
        assert self.state.live + self.state.releases == 0 or self.state.status == JobStatus.RUNNING
        assert not (self.state.is_final and self.state.ledger)
        assert snapshot(fold(self.plan, self.history)) == snapshot(self.state), "fold(history) is not the live state"

    def request(self, verb: Verb, *, by: str | None = None, reason: str | None = None, **arguments: Any) -> Decision:
        """Ask for something. `InvalidTransition` if it is refused."""
        decision = self.turn(Requested(verb, by, reason, arguments))
        if decision.refused:
            raise decision.refused[0][1]
        return decision

    def refuses(self, verb: Verb, **arguments: Any) -> str | None:
        """Why a request is refused, or None."""
        before = len(self.history)
        try:
            self.request(verb, **arguments)
        except InvalidTransition as refusal:
            assert len(self.history) == before
            return str(refusal)
        return None

    def start(self) -> Decision:
        return self.request("start")

    def pause(self) -> Decision:
        return self.request("pause")

    def resume(self) -> Decision:
        return self.request("resume")

    def cancel(self, force: bool = False) -> Decision:
        return self.request("cancel", force=force)

    def claim(self, worker: str = "worker-1") -> Decision:
        assert self.status == JobStatus.QUEUED
        self.epoch += 1
        return self.turn(Claimed(worker, self.epoch))

    def release(self, reason: str = "shutdown") -> Decision:
        self.releasing = reason
        return self.turn()

    def crash(self, worker: str = "worker-1") -> Decision:
        """The worker dies; another one finds out."""
        self.releasing = None
        return self.turn(Interrupted(worker))

    def tick(self, seconds: float = 0.0) -> Decision:
        self.now_us += round(seconds * SECOND_US)
        return self.turn(Tick())

    def refold(self) -> None:
        """Go on with the state that the history gives, as a worker that loads the job does."""
        self.state = fold(self.plan, self.history)

    # ── answers of attempts ───────────────────────────────────────────────────────────────────────────────────────

    def succeeded(self, path: str, output: Any = None, token: int | None = None) -> AttemptSucceeded:
        return AttemptSucceeded(path, self.run(path).token if token is None else token, output)

    def failed(
        self,
        path: str,
        type: str = "boom",
        *,
        retryable: bool | None = None,
        asked_delay_s: float | None = None,
        default_retry: Retry | None = None,
        abandoned: bool = False,
    ) -> AttemptFailed:
        info = error(type, retryable, path) | {"attempt": self.run(path).attempt}
        return AttemptFailed(path, self.run(path).token, info, asked_delay_s, default_retry, Stop(abandoned=abandoned))

    def stopped(self, path: str, reason: str = "cancelled", abandoned: bool = False) -> AttemptStopped:
        return AttemptStopped(path, self.run(path).token, self.told.get(path, reason), Stop(abandoned=abandoned))

    def succeed(self, path: str, output: Any = None) -> Decision:
        return self.turn(self.succeeded(path, output))

    def fail(self, path: str, type: str = "boom", **fields: Any) -> Decision:
        return self.turn(self.failed(path, type, **fields))

    def stop(self, path: str, reason: str = "cancelled", abandoned: bool = False) -> Decision:
        return self.turn(self.stopped(path, reason, abandoned))

    def finish(self, outputs: dict[str, Any] | None = None) -> None:
        """Answer what runs, first in first out, until nothing runs: with its output here, else with its path."""
        outputs = outputs or {}
        while self.running:
            path = self.running[0]
            if path in self.told:
                self.stop(path)
            else:
                self.succeed(path, outputs.get(path, path))

    def spent(self, path: str, *, seconds: float = 0.0, **amounts: int) -> Spent:
        """What a live attempt reports, after so many seconds."""
        self.now_us += round(seconds * SECOND_US)
        return Spent(path, self.run(path).token, amounts)

    # ── resources ─────────────────────────────────────────────────────────────────────────────────────────────────

    def track(self, path: str, *names: str, until: str = "step", keep: bool = False) -> Decision:
        """A live attempt tracks resources with these names; each is answered under its place in the row."""
        token = self.run(path).token
        return self.turn(
            *(ResourceTracked(path, token, key, name, "give_back", {}, until, keep) for key, name in enumerate(names))
        )

    def resource(self, name: str) -> Resource:
        return next(one for one in self.state.ledger.values() if one.name == name)

    def tried(
        self, name: str, error: dict[str, Any] | None = None, *, was_told: bool = False, abandoned: bool = False
    ) -> ReleaseEnded:
        """The answer of a release that is on."""
        one = self.resource(name)
        return ReleaseEnded(one.id, one.token, error, Stop(abandoned=abandoned), was_told)

    def give_back(self, *names: str) -> Decision:
        """These releases work."""
        return self.turn(*(self.tried(name) for name in names))

    def keep_stuck(self, name: str, **fields: Any) -> Decision:
        """That release does not work."""
        return self.turn(self.tried(name, error("stuck"), **fields))

    @property
    def being_released(self) -> list[str]:
        """Names of resources whose release is on."""
        return [one.name for one in self.state.ledger.values() if one.live]

    # ── what came of it ───────────────────────────────────────────────────────────────────────────────────────────

    @property
    def status(self) -> JobStatus:
        return self.state.status

    @property
    def running(self) -> list[str]:
        """Paths of live attempts in the order of their start."""
        live = [run for run in self.state.runs.values() if run.live]
        return [run.path for run in sorted(live, key=lambda run: run.token)]

    @property
    def types(self) -> list[str]:
        return [event.type for event in self.history]

    def run(self, path: str) -> StepRun:
        return self.state.runs[path]

    def statuses(self) -> dict[str, str]:
        return {path: str(run.status) for path, run in self.state.runs.items()}

    def paths(self, type: str) -> list[str]:
        """The paths of all events of a type, in order."""
        return [event.data["path"] for event in self.history if event.type == type]

    def last(self, type: str) -> dict[str, Any]:
        """The data of the last event of a type."""
        return next(event.data for event in reversed(self.history) if event.type == type)

    def inputs(self, path: str, secrets: dict[str, str] | None = None) -> dict[str, Any]:
        """What the component of a live attempt gets, as the runner makes it."""
        run = self.run(path)
        names = ScopeNames(self.state, self.state.scopes[run.scope], secrets)
        given = dict(run.inputs)
        for name, template in self.state.node(run).inputs.items():
            if name not in given:
                given[name] = template.render(names)
        return given


def snapshot(state: JobState) -> dict[str, Any]:
    """The encoded state, with its sets in order: a set that was decoded may iterate in another one."""
    decoded: dict[str, Any] = msgspec.json.decode(encode_snapshot(state))
    for scope in decoded["scopes"].values():
        scope.get("active", []).sort()
    for run in decoded["runs"].values():
        run.get("open", []).sort()
    # dicts compare without order, but the order of these decides what comes next
    return decoded | {name: list(decoded[name].items()) for name in ("runs", "ready", "closing", "delayed", "ledger")}


def reloaded(state: JobState) -> JobState:
    """The state after a snapshot of it was written and read."""
    return decode_snapshot(encode_snapshot(state), state.plan)


def takeover_of(state: JobState, from_step: str | None = None, outputs: dict[str, Any] | None = None) -> Takeover:
    """What a retry of a job that has ended takes over."""
    origin = {"job_id": state.job_id, "from_step": from_step, "by": None, "reason": None}
    return Takeover({"origin": origin}, what_to_take_over(state, from_step, outputs or {}))


def check_keys(events: Sequence[Event]) -> None:
    """Every event is in the table EVENT_TYPES, and has the keys that stand there."""
    for event in events:
        keys = EVENT_TYPES[event.type][1].split()
        required = {key for key in keys if not key.endswith("?")}
        allowed = {key.removesuffix("?") for key in keys}
        assert required <= event.data.keys() <= allowed, f"{event.type}: {sorted(event.data)}"


def priority_of(drive: Drive) -> JobPriority:
    return JobPriority(drive.state.priority)
