"""One turn of the machine: what it was given, what it records, and what it decides."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from openagents_json.amounts import Amounts
from openagents_json.clock import SECOND_US
from openagents_json.errors import ExpressionError, JobError
from openagents_json.job.events import Event
from openagents_json.job.machine.apply import apply
from openagents_json.job.machine.happenings import Offered, Released, Requested
from openagents_json.job.machine.names import ScopeNames
from openagents_json.job.machine.startable import Kind, Reply
from openagents_json.job.machine.state import FINALLY, JobState, Resource, StepRun
from openagents_json.job.model import ErrorInfo, JobStatus
from openagents_json.workflow import Workflow, limits
from openagents_json.workflow.plan import Node

T = TypeVar("T")

DEFAULT_LINGER_US = 5 * SECOND_US  # a job that waits longer than this is let go of
DEFAULT_CLEANUP_US = 600 * SECOND_US  # what compensation gets, and then the finally steps


# Asked with the component's name for each step (or release, without a node) that could start: True takes what it needs.
Admit = Callable[[str, Node | None], Reply]


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """A child job that a step wants: of the workflow with that id, or of `workflow` for an item of a spread."""

    workflow_id: str
    version: str | None
    inputs: dict[str, Any]
    parent: dict[str, Any]  # {"job_id", "path", "depth", "detached"}: stands in the child's first event
    priority: str
    workflow: Workflow | None = None


@dataclass(frozen=True, slots=True)
class Child:
    """The answer: the new job, to be written in the commit that holds its `child.started`. `job` is the engine's."""

    job_id: str
    workflow_id: str
    version: str
    job: Any


# Whether the worker has a component of that name.
Has = Callable[[str], bool]

# Asked once for each attempt: the limits of that component that it falls under with its inputs; () if there are none.
# `ExpressionError` when a limit's key has no value.
Caps = Callable[[str, Callable[[], Mapping[str, Any]]], Hashable]

# Asked before a slot is, with a run and its caps if there are any: whether these let its attempt begin now. False: not
# yet, and whoever was asked says when to ask again.
Granted = Callable[[StepRun, Any], bool]

# Asked with a component that the worker has, and the step: what it requires of a worker (`resources.requirement`) if
# this one will never have enough of some resource; None if the step can start here.
OutOfReach = Callable[[str, Node], str | None]

# Makes a child job, without writing anything. `WorkflowNotFound`, or `InvalidInputs` with every problem.
Spawn = Callable[[ChildSpec], Child]


@dataclass(slots=True)
class Call:
    """An attempt to call. `inputs` are what the component gets, or None where they have to be rendered for the attempt:
    they hold a secret, or this is not the first attempt."""

    run: StepRun
    inputs: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Post:
    """A request to another job, to be put into its inbox with the same commit; `key` makes a repetition harmless."""

    job_id: str
    key: str
    verb: str
    arguments: dict[str, Any]
    by: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """To an attempt that tracks something: the id of the resource, or why it was not recorded."""

    key: int
    id: str | None
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class Leak:
    """A resource that was given up: written into the store's table of leaks with its event."""

    id: str
    path: str
    name: str
    release: str
    inputs: dict[str, Any]
    error: ErrorInfo


class Decision(msgspec.Struct):
    """What a turn decided. `children`, `posts` and `leaks` are written with the events; `calls`, `stops`, `releases`
    and `answers` are to be carried out after the commit. Most turns decide next to nothing, and very many wait for
    their commits: so what there is none of takes no list (`with_one`)."""

    events: list[Event] = []
    calls: Sequence[Call] = ()
    stops: Sequence[tuple[StepRun, str]] = ()  # attempts to stop, with the reason
    children: Sequence[Child] = ()
    posts: Sequence[Post] = ()
    releases: Sequence[Resource] = ()  # to be called
    leaks: Sequence[Leak] = ()
    answers: Sequence[Answer] = ()
    refused: Sequence[tuple[Requested, JobError]] = ()


def with_one(kept: Sequence[T], one: T) -> list[T]:
    """What was kept and one more: the same list, unless that was nothing."""
    if isinstance(kept, list):
        kept.append(one)
        return kept
    return [*kept, one]


def no_slots(component: str, node: Node | None) -> bool | None:
    """Admits nothing: for turns on jobs that no worker runs."""
    return None


def no_children(spec: ChildSpec) -> Child:
    """Makes none: for turns that start nothing."""
    raise ExpressionError("A child job cannot be made here.", code="workflow.not_found")


@dataclass(slots=True)
class Terms:
    """What a turn is decided under: chance, slots, children, how long things may take (microseconds), and what the
    worker has."""

    random: Callable[[], float] = lambda: 0.5
    admit: Admit = no_slots
    spawn: Spawn = no_children
    linger_us: int = DEFAULT_LINGER_US
    cleanup_us: int = DEFAULT_CLEANUP_US
    has: Has = lambda component: True
    caps: Caps = lambda component, inputs: ()
    granted: Granted = lambda run, caps: True
    out_of_reach: OutOfReach = lambda component, node: None


NOTHING_STARTS = Terms()  # for turns on jobs that no worker runs


class Turn:
    """One call of `decide`, at one instant."""

    def __init__(self, state: JobState, now_us: int, terms: Terms) -> None:
        self.state = state
        self.now_us = now_us
        self.terms = terms
        self.releasing: Released | None = None  # the worker wants to give the job back
        self.offer: Offered | None = None  # a worker that runs the job at once if it wants one
        # Steps that are ready and can never start at this worker, by kind: what they require of another.
        self.elsewhere: dict[Kind | None, str] = {}
        self.spent: dict[str, Amounts] = {}  # what attempts have reported that no event holds yet, by path
        self.told: set[str] = set()  # children to which the turn passes a cancel on
        self.decision = Decision()

    def record(self, type: str, data: dict[str, Any]) -> None:
        """The one place where an event comes into being."""
        event = Event(self.state.number + 1, type, self.now_us, data)
        apply(self.state, event)
        self.decision.events.append(event)

    @property
    def is_held(self) -> bool:
        return self.state.status == JobStatus.RUNNING

    @property
    def may_start(self) -> bool:
        """Whether anything new may begin now: a live worker holds the job, and no pause or return is asked for."""
        return self.is_held and not self.state.pause_requested and self.releasing is None

    def names(self, run: StepRun) -> ScopeNames:
        """What expressions of a run can see."""
        return ScopeNames(self.state, self.state.scopes[run.scope])

    def deadline(self, node: Node) -> dict[str, int]:
        """The time at which a step that begins now has taken too long, as data of its event."""
        timeout_s = node.step.timeout
        return {} if timeout_s is None else {"deadline_us": self.now_us + round(timeout_s * SECOND_US)}

    def spending(self, path: str) -> dict[str, Amounts]:
        """What an attempt has reported since the last event about that, as data of the next one."""
        return {"spent": self.spent.pop(path)} if path in self.spent else {}

    def events_left(self) -> int:
        kept = 0 if FINALLY in self.state.scopes else limits.EVENTS_KEPT_FOR_THE_END
        return limits.EVENTS_PER_JOB - kept - self.state.number

    def post(self, job_id: str, verb: str, arguments: dict[str, Any], by: str | None, reason: str | None) -> None:
        """Ask something of a child, or tell the parent something, once for the event that was recorded last."""
        key = f"{verb}:{self.state.job_id}:{self.state.number}"
        self.decision.posts = with_one(self.decision.posts, Post(job_id, key, verb, arguments, by, reason))


def error_info(
    type: str, message: str, run: StepRun | None = None, *, step: str | None = None, details: Any = None
) -> ErrorInfo:
    """An error in the one shape that stands in records; not retryable."""
    return {
        "type": type,
        "message": message,
        "step": run.path if run is not None else step,
        "attempt": run.attempt if run is not None else None,
        "retryable": False,
        "details": details,
    }


def expression_info(error: ExpressionError, run: StepRun | None = None) -> ErrorInfo:
    """The error of an expression as it stands in records, with the expression under `details`."""
    details = {"expression": error.expression} if error.expression else None
    return error_info(error.code, str(error), run, details=details)
