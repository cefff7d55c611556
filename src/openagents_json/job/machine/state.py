"""The state of a job: the fold of its history, as flat tables of step runs and scopes.

`apply` is the only writer of everything here except the fields marked *turn*, which `decide` uses within one turn and
which are worth nothing after it (a fold starts with them empty and `decide` finds them again).
"""

from __future__ import annotations

import gc
import heapq
from collections import deque
from collections.abc import Iterator
from typing import Any

import msgspec

from openagents_json.amounts import MOST, Amounts
from openagents_json.errors import StoreError
from openagents_json.job.machine.startable import Startable
from openagents_json.job.model import ErrorInfo, JobStatus, StepStatus
from openagents_json.workflow.plan import Block, Node, Plan

FOLD_VERSION = 4  # raised when the meaning of a snapshot changes; older snapshots are then ignored
ROOT = ""  # key of the scope of the definition's steps
FINALLY = "$finally"  # key of the scope of the finally steps
UNDO = "$undo"  # stands for the compensation as a whole; each undo has a scope of its own
UNDO_LABEL = "undo"
RELEASE = "$release"  # stands for the release of what is left at the job's end
Data = dict[str, Any]  # of an event


class StepRun(msgspec.Struct, gc=False, omit_defaults=True):
    """One execution of a step in a job; `path` names it, for example `clauses[3].score`."""

    path: str
    step_id: str
    scope: str  # key of the scope it belongs to
    status: StepStatus = StepStatus.PENDING
    attempt: int = 0  # number of the latest attempt, 1…; of a container, how often it was begun
    lost: int = 0  # attempts that ended with their worker; they do not count as tries
    token: int = 0  # event number of the latest attempt.started: the fencing token
    live: bool = False  # an attempt is on: from attempt.started to its end
    component: str | None = None  # what the attempt calls
    inputs: dict[str, Any] = {}  # rendered inputs of the attempts; emptied when the run ends
    started_us: int | None = None
    ended_us: int | None = None
    output: Any = None
    error: ErrorInfo | None = None
    in_doubt: bool = False  # whether its effect happened is unknown; somebody has to say (resolve_step)
    signal: str | None = None  # name of the signal that it waits for
    child: str | None = None  # id of the child job that it waits for
    handler: int | None = None  # the entry of `catch` that has taken its error
    taken: bool = False  # its result was taken over when the job was created; it does not run here
    taken_from: str | None = None  # id of the job in which it ran; None: the result was set by hand
    since_us: int = 0  # while an attempt is on: since when, from the creation of the job
    spent: Amounts | None = None  # what its attempts have reported, those that failed as well; None: nothing
    # of a container, and of a step whose handler runs
    open: set[str] = set()  # labels of the scopes inside that have not ended
    failing: ErrorInfo | None = None  # why it will fail once everything inside has ended
    credited: float = 0.0  # how much of the job's progress its nested steps have given so far
    # of a foreach
    items: list[Any] | None = None  # None: the definition's expression only refers to a recorded list
    count: int = 0  # of items; of a repeat, iterations begun
    opened: int = 0  # items whose scope was opened; they open in order
    item_errors: list[dict[str, Any]] = []  # {"index", "error"} in modes "skip" and "collect"
    # of the other containers
    chosen: str | None = None  # label of the case that a switch has taken
    initial: Any = None  # what `last` is in the first iteration of a repeat
    won: int = 0  # branches of a parallel that ended well
    broken: int = 0  # branches that failed

    def inner(self, label: str) -> str:
        """Key of the scope with that label inside this run. A container that is retried opens new ones."""
        is_first = self.attempt <= 1 or label.startswith("catch")
        return f"{self.path}[{label}]" if is_first else f"{self.path}~{self.attempt}[{label}]"


class Scope(msgspec.Struct, gc=False, omit_defaults=True):
    """One running through a block: the definition's steps, an item, iteration, case, branch, handler, undo, or the
    finally steps."""

    key: str
    owner: str  # path of the run it belongs to; "" for the two top scopes
    step_id: str  # id of the owner's step
    label: str  # which of the owner's scopes: index of the item or iteration, case, branch, catch0 …, undo
    waits: list[int] = []  # for each node, how many others it still waits for
    left: int = 0  # nodes that have not ended
    weight: float = 0.0  # share of the job's progress that each node stands for
    active: set[str] = set()  # paths of runs that started and have not ended
    ready: int = 0  # how many paths of this scope stand in JobState.ready
    error: ErrorInfo | None = None  # the first failure: no further step starts here
    winding: bool = False  # after a failure: what runs may finish (`fail_fast: false`)
    halted: bool = False  # told to stop from outside
    ended: bool = False

    @property
    def is_stopped(self) -> bool:
        """Whether no further step starts here."""
        return self.halted or self.error is not None

    @property
    def is_cut(self) -> bool:
        """Whether what runs here is to stop as well."""
        return self.halted or (self.error is not None and not self.winding)

    @property
    def ended_well(self) -> bool:
        return self.ended and not self.is_stopped

    def path_of(self, step_id: str) -> str:
        """Path of the run of a step in this scope. A call that undoes and a child that stands for an item have ids
        with a bracket: they are all there is in their scope, and bear its name."""
        if not self.owner:
            return step_id
        return self.key if step_id.endswith("]") else f"{self.key}.{step_id}"


class Resource(msgspec.Struct, gc=False, omit_defaults=True):
    """A resource of the cleanup ledger: tracked, and neither released nor kept nor leaked."""

    id: str  # number of the event that recorded it
    path: str  # of the run whose attempt acquired it
    attempt: int
    name: str
    release: str  # the component that gives it back, and its inputs
    inputs: dict[str, Any]
    until: str  # "step" or "job": what has to end before it is due
    keep: bool  # let go of if that ended well
    within_us: int  # how long its release may take once it is due
    is_due: bool = False
    next_us: int = 0  # when its release is tried next, once it is due
    deadline_us: int = 0  # when it is given up, once it is due
    live: bool = False  # its release is on
    tries: int = 0
    token: int = 0  # event number of the latest release.started
    error: ErrorInfo | None = None  # of the last try


class Folded(msgspec.Struct, gc=False):
    """What a snapshot holds: everything that follows from the history alone."""

    job_id: str = ""
    workflow_id: str = ""
    version: str = ""
    number: int = 0  # of the last event
    status: JobStatus = JobStatus.CREATED
    priority: str = "MEDIUM"
    inputs: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    tags: list[str] = []
    created_us: int = 0
    start_at_us: int | None = None
    started_us: int | None = None
    completed_us: int | None = None
    worker: str | None = None  # who runs it, while it is RUNNING
    requires: list[str] = []  # while QUEUED: what its steps require and its last worker did not have
    preempted: int = 0  # how often it has made room for another job, as a whole or with an attempt
    made_room_for: str | None = None  # the last one, since it runs
    deaths: int = 0  # workers that died under it since the last recorded progress
    share: str | None = None  # key of the share that it counts to
    expected_us: int = 0  # what its attempts are expected to take in all, if it has a share or a deadline
    deadline_us: int | None = None
    at_risk: bool = False  # its deadline was found to be
    pause_requested: bool = False
    pause: dict[str, Any] | None = None  # {"by", "reason", "at_us"} of the last request
    pause_number: int = 0  # of the last request's event; children say it when they have heeded that one
    parent_pause: int | None = None  # the parent's `pause_number`, while its pause holds this job: only it resumes it
    cancel: dict[str, Any] | None = None  # {"by", "reason", "force"} once requested
    cancel_us: int | None = None  # when it was requested first
    outcome: JobStatus | None = None  # decided when the finally steps begin, or with the final event
    outputs: dict[str, Any] = {}
    errors: list[ErrorInfo] = []
    wake_us: int | None = None  # while WAITING
    abandoned: int = 0  # threads that were given up, ever; the row counts those that still run
    runs: dict[str, StepRun] = {}
    scopes: dict[str, Scope] = {}
    ready: dict[str, None] = {}  # paths whose dependencies have ended and that nothing was recorded of yet, in order
    closing: dict[str, None] = {}  # containers (and ROOT, FINALLY) whose inside has ended
    delayed: dict[str, int] = {}  # path → when it goes on: next attempt or iteration, end of a wait
    deadlines: dict[str, int] = {}  # path (or ROOT, UNDO, FINALLY) → when it has taken too long
    awaiting: dict[str, dict[str, None]] = {}  # signal name → paths of the steps that wait for it, in order
    mailbox: dict[str, list[Any]] = {}  # signal name → payloads that no step has taken, in order
    children: dict[str, str] = {}  # attached child jobs that have not ended → path of their step
    paused_children: dict[str, int | None] = {}  # those that are PAUSED → the `pause_number` that they have heeded last
    in_doubt: dict[str, None] = {}  # paths of runs that somebody has to resolve
    parent: dict[str, Any] | None = None  # {"job_id", "path", "depth", "detached"} of a child
    origin: dict[str, Any] | None = None  # {"job_id", "from_step", "by", "reason"} of a job that retries another
    given: dict[str, Any] = {}  # what a retried item of a spread sees of its parent; of the item itself in `parent`
    undone: list[str] = []  # paths of completed runs that have a `compensate`, in order of completion
    undoing: str | None = None  # key of the scope of the undo that is on
    undo_ended: bool = False  # nothing more is undone: force, or the deadline
    live: int = 0  # attempts that are on
    ledger: dict[str, Resource] = {}  # by id, in the order of their events
    releasing: bool = False  # the outcome is decided, and all that is left in the ledger is due
    releases: int = 0  # releases that are on
    released: int = 0
    leaked: int = 0
    rung: str | None = None  # the strongest rung that an attempt needed to stop
    budget: Amounts = {}  # what it may spend, as far as that is limited
    spent: Amounts = {}  # tokens and cost that attempts and attached children have reported
    time_us: int = 0  # during which attempts were on that have ended, and those of children, all added up
    live_since_us: int = 0  # sum of `since_us` of the attempts that are on
    children_spent: dict[str, Amounts] = {}  # attached children that have not ended → what they have told of
    seen_us: int = 0  # time of the last event
    current_step: str | None = None
    progress: float = 0.0  # 0 … 1, never falls


class JobState(Folded, gc=False):
    """The folded state and the plan it runs by."""

    plan: Plan = None  # type: ignore[assignment]
    # turn: paths of `ready` that decide has not looked at yet
    agenda: deque[str] = msgspec.field(default_factory=deque)
    startable: Startable = msgspec.field(default_factory=Startable)  # turn: steps that only wait for leave to start
    to_stop: list[str] = []  # turn: active runs of scopes that were stopped
    views: dict[str, Any] = {}  # cache: frozen outputs, item lists and item views by path
    # cache: heap of (time, what, path or signal name); entries that `delayed`, `deadlines` … do not confirm are stale
    agenda_of_times: list[tuple[int, str, str]] = []

    @property
    def is_final(self) -> bool:
        return self.status.is_final

    @property
    def used_us(self) -> int:
        """How long attempts of it were on, by its last event."""
        return self.time_spent_us(self.seen_us)

    @property
    def required(self) -> tuple[str, ...]:
        """A worker can go on with it that meets one of these requirements; every worker if there are none."""
        if self.requires or self.started_us is not None or self.origin is not None:
            return tuple(self.requires)  # of a retry, what was taken over may be all that is first
        return self.plan.first_components

    @property
    def handed(self) -> dict[str, Any]:
        """What steps that stand for an item of a spread can see of the job that they were taken from, by name."""
        return self.given if self.parent is None else self.parent.get("given", {})

    def scope_block(self, scope: Scope) -> Block:
        if scope.owner:
            return self.plan.nodes[scope.step_id].block_of(scope.label)
        if scope.key == FINALLY:
            assert self.plan.finally_block is not None
            return self.plan.finally_block
        return self.plan.root

    def node(self, run: StepRun) -> Node:
        return self.plan.nodes[run.step_id]

    def time_spent_us(self, now_us: int) -> int:
        """During which attempts were on by then, all added up."""
        running_us = self.live * (now_us - self.created_us) - self.live_since_us
        return min(self.time_us + max(running_us, 0), MOST)  # of a clock that was set back, nothing

    def schedule(self, at_us: int, what: str, name: str) -> None:
        """Remember that something is due. `what` is delayed, deadline, signal, release or leak."""
        heapq.heappush(self.agenda_of_times, (at_us, what, name))

    def next_due(self) -> tuple[int, str, str] | None:
        """The earliest thing that is due or will be, as (when, what, path or signal name)."""
        times = self.agenda_of_times
        while times and not self._is_true(times[0]):
            heapq.heappop(times)
        return times[0] if times else None

    def pop_due(self, now_us: int) -> tuple[int, str, str] | None:
        """Take out the earliest thing that is due by now. What it stands for is done next, or it comes no more."""
        due = self.next_due()
        if due is None or due[0] > now_us:
            return None
        return heapq.heappop(self.agenda_of_times)

    def _is_true(self, entry: tuple[int, str, str]) -> bool:
        at_us, what, name = entry
        if what == "signal":
            return bool(self.mailbox.get(name) and self.awaiting.get(name))
        if what in ("release", "leak"):
            resource = self.ledger.get(name)
            if resource is None or not resource.is_due:
                return False
            return at_us == (resource.deadline_us if what == "leak" else resource.next_us) and not resource.live
        return (self.delayed if what == "delayed" else self.deadlines).get(name) == at_us

    @property
    def restless(self) -> Iterator[str]:
        """Attached children that have neither heeded the last pause of this job nor ended."""
        heeded, number = self.paused_children, self.pause_number
        return (child for child in self.children if heeded.get(child) != number)

    @property
    def waits_for_others(self) -> bool:
        """Whether a signal, a child or a decision can make it go on."""
        return bool(self.awaiting or self.children or self.in_doubt)

    def rewind_turn(self) -> None:
        """Forget what belongs to a turn: everything ready and closing is looked at again."""
        self.agenda = deque(self.ready)
        self.startable = Startable()
        self.to_stop = []
        self.agenda_of_times = [
            *((at_us, "delayed", path) for path, at_us in self.delayed.items()),
            *((at_us, "deadline", path) for path, at_us in self.deadlines.items()),
            *((letters[0]["at_us"], "signal", name) for name, letters in self.mailbox.items() if letters),
            *((one.next_us, "release", one.id) for one in self.ledger.values() if one.is_due and one.tries),
            *((one.deadline_us, "leak", one.id) for one in self.ledger.values() if one.is_due),
        ]
        heapq.heapify(self.agenda_of_times)


def new_state(plan: Plan) -> JobState:
    """The state before the first event."""
    return JobState(plan=plan)


_FIELDS = Folded.__struct_fields__
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Folded)


def encode_snapshot(state: JobState) -> bytes:
    """The folded part of a state, as JSON."""
    return _encoder.encode(Folded(*(getattr(state, name) for name in _FIELDS)))


def decode_snapshot(data: bytes, plan: Plan) -> JobState:
    """The reverse of `encode_snapshot`. `StoreError` for bytes that are no snapshot; the caller folds instead."""
    collects = gc.isenabled()
    gc.disable()  # nothing here is garbage, and looking for some among so many new objects takes half of the time
    try:
        folded = _decoder.decode(data)
    except msgspec.DecodeError as error:
        raise StoreError(f"A snapshot does not decode: {error}") from None
    finally:
        if collects:
            gc.enable()
    state = JobState(**{name: getattr(folded, name) for name in _FIELDS})
    state.plan = plan
    state.rewind_turn()
    return state
