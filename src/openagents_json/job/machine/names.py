"""What expressions see of a job, and what its steps give: views over the folded state. Nothing here changes it, but for
the cache `views`."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from openagents_json.errors import ExpressionError
from openagents_json.job.machine.state import FINALLY, ROOT, JobState, Scope, StepRun
from openagents_json.job.model import StepStatus
from openagents_json.jsondata import FrozenDict, freeze
from openagents_json.workflow.expressions import Template
from openagents_json.workflow.plan import Node


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
        if (given := state.handed) and name in given and not self._is_inside(name):
            return _frozen(state, f"#given.{name}", given[name])
        if name in ("item", "index"):
            scope = self._inside("foreach")
            return item_list(state, state.runs[scope.owner])[int(scope.label)] if name == "item" else int(scope.label)
        if name in ("iteration", "last"):
            scope = self._inside("repeat")
            return int(scope.label) if name == "iteration" else last_of(state, scope)
        if name == "error":
            return freeze(state.runs[self._handler().owner].error)
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
        if step_id not in state.plan.nodes:
            given = state.handed.get("steps", {})
            return _frozen(state, f"#given.steps.{step_id}", given[step_id])  # type: ignore[no-any-return]
        block = state.plan.nodes[step_id].block
        scope: Scope | None = self._scope
        while scope is not None and state.scope_block(scope) is not block:
            scope = _enclosing(state, scope)
        if scope is None:
            raise KeyError(step_id)
        return step_view(state, scope.path_of(step_id))

    def secret(self, name: str) -> str:
        if self._secrets is None:
            raise KeyError(name)
        return self._secrets[name]

    def _is_inside(self, name: str) -> bool:
        """Whether a scope of this job has the name, and not only what a parent has given."""
        try:
            if name == "error":
                self._handler()
            else:
                self._inside("foreach" if name in ("item", "index") else "repeat")
        except KeyError:
            return False
        return True

    def _inside(self, kind: str) -> Scope:
        """The innermost scope around this place that is an item or an iteration."""
        scope: Scope | None = self._scope
        while scope is not None:
            if scope.owner and scope.label.isdecimal() and self._state.plan.nodes[scope.step_id].step.kind == kind:
                return scope
            scope = _enclosing(self._state, scope)
        raise KeyError(kind)

    def _handler(self) -> Scope:
        scope: Scope | None = self._scope
        while scope is not None:
            if scope.label.startswith("catch"):
                return scope
            scope = _enclosing(self._state, scope)
        raise KeyError("error")


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
    if state.node(run).items is not None:
        frozen = FrozenDict(frozen, errors=freeze(sorted(run.item_errors, key=lambda entry: int(entry["index"]))))
    if run.ended_us is not None:
        state.views[path] = frozen
    return frozen


def step_output(state: JobState, run: StepRun) -> Any:
    """A run's output. A container's is a view over the recorded outputs inside it, never stored a second time:

    of a foreach the items' outputs in order (mode "collect" has null where an item failed, mode "skip" leaves it out),
    of a repeat the last iteration's, of a switch the chosen case's (null if there was none), of a parallel an object
    by branch (null where it did not end). Of a step whose error was caught, it is the handler's. What was taken over
    from another job is a value like any other.
    """
    is_view = not run.taken and (run.handler is not None or state.node(run).is_container)
    if is_view and run.status == StepStatus.COMPLETED:
        return view_of(state, run)
    return run.output


def view_of(state: JobState, run: StepRun) -> Any:
    """What the scopes inside a run give together, once they have ended."""
    if run.handler is not None:
        return scope_output(state, run, f"catch{run.handler}")
    node = state.node(run)
    match node.step.kind:
        case "foreach":
            return _foreach_output(state, run, node)
        case "repeat":
            return scope_output(state, run, str(run.count - 1))
        case "switch":
            return None if run.chosen is None else scope_output(state, run, run.chosen)
    return {
        label: scope_output(state, run, label) if state.scopes[run.inner(label)].ended_well else None
        for label in node.step.parallel or {}
    }


def _foreach_output(state: JobState, run: StepRun, node: Node) -> list[Any]:
    failed = {entry["index"] for entry in run.item_errors}
    skip = node.step.on_item_error == "skip"
    view: list[Any] = []
    for index in range(run.count):
        if index in failed:
            if not skip:
                view.append(None)
        else:
            view.append(scope_output(state, run, str(index)))
    return view


def scope_output(state: JobState, run: StepRun, label: str) -> Any:
    """What a finished scope inside a run gives: its `output` expression, or its last step's output."""
    scope = state.scopes[run.inner(label)]
    block = state.scope_block(scope)
    template: Template | None = block.output
    if template is not None:
        return template.render(ScopeNames(state, scope))
    return step_view(state, scope.path_of(block.nodes[-1].id))["output"]


def last_of(state: JobState, scope: Scope) -> Any:
    """What `last` is in an iteration of a repeat: the output of the one before, first the `initial` value."""
    run, iteration = state.runs[scope.owner], int(scope.label)
    if iteration == 0:
        return _frozen(state, f"{run.inner('0')}#initial", run.initial)
    # From the first one that is not known: each may be made of the one before, and the chain may be longer than Python
    # recurses, as when a job with many iterations is taken up again.
    known = next((place for place in range(iteration, 0, -1) if _last_key(run, place) in state.views), 0)
    for place in range(known + 1, iteration):
        with contextlib.suppress(ExpressionError):  # asked for, it will say so; perhaps nobody asks
            state.views[_last_key(run, place)] = freeze(scope_output(state, run, str(place - 1)))
    key = _last_key(run, iteration)
    if key not in state.views:
        state.views[key] = freeze(scope_output(state, run, str(iteration - 1)))
    return state.views[key]


def _last_key(run: StepRun, iteration: int) -> str:
    return f"{run.inner(str(iteration))}#last"


def item_list(state: JobState, run: StepRun) -> list[Any]:
    """The items of an expanded foreach: recorded with it, or looked up where its expression refers to."""
    key = run.inner("items")
    if run.items is not None:
        return _frozen(state, key, run.items)  # type: ignore[no-any-return]
    template = state.node(run).items
    assert template is not None
    if key not in state.views:
        state.views[key] = template.render(ScopeNames(state, state.scopes[run.scope]))
    return state.views[key]  # type: ignore[no-any-return]


def _frozen(state: JobState, key: str, value: Any) -> Any:
    if key not in state.views:
        state.views[key] = freeze(value)
    return state.views[key]


def _enclosing(state: JobState, scope: Scope) -> Scope | None:
    if scope.key == FINALLY:
        return state.scopes[ROOT]
    return state.scopes[state.runs[scope.owner].scope] if scope.owner else None
