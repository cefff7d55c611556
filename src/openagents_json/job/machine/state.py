"""The state of a job: the fold of its history, as flat tables of step runs and scopes.

`apply` is the only writer of everything here except the fields marked *turn*, which `decide` uses within one turn and
which are worth nothing after it (a fold starts with them empty and `decide` finds them again).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import msgspec

from openagents_json.errors import StoreError
from openagents_json.job.model import ErrorInfo, JobStatus, StepStatus
from openagents_json.jsondata import FrozenDict, freeze
from openagents_json.workflow.expressions import Template
from openagents_json.workflow.graph import Block, Node, Plan

FOLD_VERSION = 1  # raised when the meaning of a snapshot changes; older snapshots are then ignored
ROOT = ""  # key of the scope of the definition's steps
FINALLY = "$finally"  # key of the scope of the finally steps


class StepRun(msgspec.Struct):
    """One execution of a step in a job; `path` names it, for example `clauses[3].score`."""

    path: str
    step_id: str
    scope: str  # key of the scope it belongs to
    status: StepStatus = StepStatus.PENDING
    attempt: int = 0  # number of the latest attempt, 1…
    lost: int = 0  # attempts that ended with their worker; they do not count as tries
    token: int = 0  # event number of the latest attempt.started: the fencing token
    live: bool = False  # an attempt is on: from attempt.started to its end
    component: str | None = None  # what the attempt calls
    inputs: dict[str, Any] = {}  # rendered inputs of the attempts; emptied when the run ends
    started_us: int | None = None
    ended_us: int | None = None
    output: Any = None
    error: ErrorInfo | None = None
    # of a foreach
    items: list[Any] | None = None  # None: the definition's expression only refers to a recorded list
    count: int = 0
    opened: int = 0  # items whose scope was opened; they open in order
    open: set[int] = set()  # indexes of items that have not ended
    failing: ErrorInfo | None = None  # the first item's error in mode "fail"
    item_errors: list[dict[str, Any]] = []  # {"index", "error"} in modes "skip" and "collect"
    credited: float = 0.0  # how much of the job's progress its nested steps have given so far


class Scope(msgspec.Struct):
    """One running through a block: the definition's steps, one item of a foreach, or the finally steps."""

    key: str
    owner: str  # path of the container's run; "" for the two top scopes
    step_id: str  # id of the container step
    index: int  # of the item
    waits: list[int]  # for each node, how many others it still waits for
    left: int  # nodes that have not ended
    weight: float  # share of the job's progress that each node stands for
    active: set[str] = set()  # paths of runs that started and have not ended
    ready: int = 0  # how many paths of this scope stand in JobState.ready
    error: ErrorInfo | None = None  # the first failure: nothing more starts here
    halted: bool = False  # told to stop from outside: nothing more starts here
    ended: bool = False

    @property
    def is_stopped(self) -> bool:
        return self.halted or self.error is not None

    @property
    def prefix(self) -> str:
        return f"{self.key}." if self.owner else ""


class Folded(msgspec.Struct):
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
    deaths: int = 0  # workers that died under it since the last recorded progress
    pause_requested: bool = False
    cancel: dict[str, Any] | None = None  # {"by", "reason", "force"} once requested
    outcome: JobStatus | None = None  # decided when the finally steps begin, or with the final event
    outputs: dict[str, Any] = {}
    errors: list[ErrorInfo] = []
    wake_us: int | None = None  # while WAITING
    abandoned: int = 0  # threads that were given up, ever; the row counts those that still run
    runs: dict[str, StepRun] = {}
    scopes: dict[str, Scope] = {}
    ready: dict[str, None] = {}  # paths whose dependencies have ended and that nothing was recorded of yet, in order
    closing: dict[str, None] = {}  # containers (and ROOT, FINALLY) whose inside has ended
    delayed: dict[str, int] = {}  # path → time of its next attempt
    live: int = 0  # attempts that are on
    current_step: str | None = None
    progress: float = 0.0  # 0 … 1, never falls


class JobState(Folded):
    """The folded state and the plan it runs by."""

    plan: Plan = None  # type: ignore[assignment]
    # turn: paths of `ready` that decide has not looked at yet
    agenda: deque[str] = msgspec.field(default_factory=deque)
    startable: dict[str, Any] = {}  # turn: steps that only wait for a slot → their attempt.started, once prepared
    to_stop: list[str] = []  # turn: active runs of scopes that were stopped
    views: dict[str, Any] = {}  # cache: frozen outputs, item lists and item views by path

    @property
    def is_final(self) -> bool:
        return self.status.is_final

    def scope_block(self, scope: Scope) -> Block:
        if scope.owner:
            body = self.plan.nodes[scope.step_id].body
            assert body is not None
            return body
        if scope.key == FINALLY:
            assert self.plan.finally_block is not None
            return self.plan.finally_block
        return self.plan.root

    def node(self, run: StepRun) -> Node:
        return self.plan.nodes[run.step_id]

    def next_due_us(self) -> int | None:
        """When the earliest delayed attempt is due."""
        return min(self.delayed.values()) if self.delayed else None

    def rewind_turn(self) -> None:
        """Forget what belongs to a turn: everything ready and closing is looked at again."""
        self.agenda = deque(self.ready)
        self.startable = {}
        self.to_stop = []


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
    try:
        folded = _decoder.decode(data)
    except msgspec.DecodeError as error:
        raise StoreError(f"A snapshot does not decode: {error}") from None
    state = JobState(**{name: getattr(folded, name) for name in _FIELDS})
    state.plan = plan
    state.rewind_turn()
    return state


# ── what expressions see ──────────────────────────────────────────────────────────────────────────────────────────


class ScopeNames:
    """The names an expression can use at one place of a job (implements `expressions.Names`). All values frozen."""

    __slots__ = ("_inputs", "_scope", "_secrets", "_state")

    def __init__(
        self, state: JobState, scope: Scope, secrets: Mapping[str, str] | None = None, inputs: Any = None
    ) -> None:
        self._state = state
        self._scope = scope
        self._secrets = secrets
        self._inputs = inputs  # at the attempt: the inputs with their secrets resolved

    def value(self, name: str) -> Any:
        state = self._state
        if name == "inputs":
            return self._inputs if self._inputs is not None else _frozen(state, "#inputs", state.inputs)
        if name == "item":
            scope = self._item_scope()
            return item_list(state, state.runs[scope.owner])[scope.index]
        if name == "index":
            return self._item_scope().index
        if name == "job":
            return freeze(
                {
                    "id": state.job_id,
                    "workflow_id": state.workflow_id,
                    "version": state.version,
                    "created_at": state.created_us / 1_000_000,
                    "outcome": None if state.outcome is None else str(state.outcome),
                    "metadata": state.metadata,
                    "error": state.errors[0] if state.errors else None,
                }
            )
        raise KeyError(name)

    def step(self, step_id: str) -> Mapping[str, Any]:
        state = self._state
        block = state.plan.nodes[step_id].block
        scope = self._scope
        while state.scope_block(scope) is not block:
            scope = _enclosing(state, scope)
        return step_view(state, scope.prefix + step_id)

    def secret(self, name: str) -> str:
        if self._secrets is None:
            raise KeyError(name)
        return self._secrets[name]

    def _item_scope(self) -> Scope:
        scope = self._scope
        while not scope.owner:
            if scope.key == ROOT:
                raise KeyError("item")
            scope = _enclosing(self._state, scope)
        return scope


_NOT_RUN: Mapping[str, Any] = freeze({"output": None, "success": False, "status": StepStatus.SKIPPED, "error": None})


def step_view(state: JobState, path: str) -> Mapping[str, Any]:
    """What `steps.<id>` is: {"output", "success", "status", "error"}, and "errors" for a foreach. Frozen.

    Cached once the run has ended: a recorded result never changes. A step that never came to run reads as SKIPPED.
    """
    view = state.views.get(path)
    if view is not None:
        return view  # type: ignore[no-any-return]
    run = state.runs.get(path)
    if run is None:
        return _NOT_RUN
    frozen = FrozenDict(
        output=freeze(step_output(state, run)),
        success=run.status is StepStatus.COMPLETED,
        status=run.status.value,
        error=freeze(run.error),
    )
    if state.node(run).body is not None:
        frozen = FrozenDict(frozen, errors=freeze(run.item_errors))
    if run.ended_us is not None:
        state.views[path] = frozen
    return frozen


def step_output(state: JobState, run: StepRun) -> Any:
    """A run's output; a container's is a view over the recorded outputs of its items, in item order.

    Mode "collect" has null where an item failed, mode "skip" leaves it out.
    """
    node = state.node(run)
    if node.body is None:
        return run.output
    if run.status != StepStatus.COMPLETED:
        return None
    failed = {entry["index"] for entry in run.item_errors}
    skip = node.step.on_item_error == "skip"
    view: list[Any] = []
    for index in range(run.count):
        if index in failed:
            if not skip:
                view.append(None)
        else:
            view.append(block_output(state, state.scopes[f"{run.path}[{index}]"], node.body))
    return view


def block_output(state: JobState, scope: Scope, block: Block) -> Any:
    """What a finished scope gives: its `output` expression, or its last step's output."""
    template: Template | None = block.output
    if template is not None:
        return template.render(ScopeNames(state, scope))
    return step_view(state, scope.prefix + block.nodes[-1].id)["output"]


def item_list(state: JobState, run: StepRun) -> list[Any]:
    """The items of an expanded foreach: recorded with it, or looked up where its expression refers to."""
    if run.items is not None:
        return _frozen(state, f"{run.path}#items", run.items)  # type: ignore[no-any-return]
    template = state.node(run).items
    assert template is not None
    key = f"{run.path}#items"
    if key not in state.views:
        state.views[key] = template.render(ScopeNames(state, state.scopes[run.scope]))
    return state.views[key]  # type: ignore[no-any-return]


def _frozen(state: JobState, key: str, value: Any) -> Any:
    if key not in state.views:
        state.views[key] = freeze(value)
    return state.views[key]


def _enclosing(state: JobState, scope: Scope) -> Scope:
    if scope.key == FINALLY:
        return state.scopes[ROOT]
    return state.scopes[state.runs[scope.owner].scope]
