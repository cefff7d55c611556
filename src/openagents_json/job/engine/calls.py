"""From a call that the machine has decided on to its attempt: the context, the secrets, the inputs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from openagents_json.amounts import Amounts
from openagents_json.clock import SECOND_US
from openagents_json.components import Isolation, StepContext
from openagents_json.components import Resource as Held
from openagents_json.errors import ComponentError, ExpressionError, FatalError
from openagents_json.job.engine.admission import Grant
from openagents_json.job.engine.attempt import Attempt
from openagents_json.job.engine.capacities import CallLimits, stated
from openagents_json.job.engine.link import AttemptLink, Spends, Tracks, Which
from openagents_json.job.machine import (
    AttemptFailed,
    AttemptStopped,
    Call,
    Happening,
    JobState,
    ScopeNames,
    StepRun,
    error_info,
)
from openagents_json.job.store.records import StoredLeak
from openagents_json.jsondata import freeze
from openagents_json.workflow.expressions import Template
from openagents_json.workflow.plan import Node

if TYPE_CHECKING:
    from openagents_json.job.engine.worker import Worker


@dataclass(frozen=True, slots=True)
class ReleaseOf:
    """A release that is to be called: of a resource of a job, or of a leak."""

    job_id: str
    workflow_id: str
    path: str
    resource_id: str
    attempt: int
    token: int
    release: str
    inputs: Mapping[str, Any]


def make_attempt(
    worker: Worker,
    state: JobState,
    run: StepRun,
    grant: Grant,
    report: Callable[[Attempt, Happening], None],
    ended: Callable[[Attempt], None],
    tracks: Tracks,
    spends: Spends,
) -> Attempt:
    """The attempt of a step run, not begun yet. A component that is missing here lets it fail when it begins."""
    node, name = state.node(run), run.component or ""
    component = worker.component_or_missing(name)
    timeout_s = node.step.timeout if node.step.timeout is not None else component.timeout_s
    secrets: dict[str, str] = {}  # filled before the call
    output = worker.outputs.begin(state.job_id, run.path, run.attempt, secrets)
    context = StepContext(
        state.job_id,
        state.workflow_id,
        run.path,
        run.attempt,
        f"{state.job_id}/{run.path}",
        run.token,
        deadline_us=None if timeout_s is None else worker.clock.now_us() + round(timeout_s * SECOND_US),
        link=AttemptLink(worker, state.job_id, run.path, secrets, run.attempt, output, tracks, spends, run.token),
        clock=worker.clock,
    )
    isolation = worker.isolation_of(name, node)
    limits = CallLimits.of(stated(component, node.step), timeout_s)
    return Attempt(worker, run, context, component, isolation, timeout_s, secrets, report, ended, output, limits, grant)


def make_release(
    worker: Worker,
    of: ReleaseOf,
    grant: Grant,
    timeout_s: float,
    report: Callable[[Attempt, Happening], None],
) -> Attempt:
    """The call that releases a resource, not begun yet. `begin_release` begins it."""
    component = worker.component_or_missing(of.release)
    if component.timeout_s is not None:
        timeout_s = min(timeout_s, component.timeout_s)
    path = f"{of.path}~release{of.resource_id}"
    output = worker.outputs.begin(of.job_id, path, of.attempt, {})
    context = StepContext(
        of.job_id,
        of.workflow_id,
        path,
        of.attempt,
        f"{of.job_id}/{path}",
        of.token,
        deadline_us=worker.clock.now_us() + round(timeout_s * SECOND_US),
        link=AttemptLink(worker, of.job_id, path, {}, of.attempt, output, _NOTHING, _NOTHING, of.token),
        clock=worker.clock,
    )
    run = StepRun(path, path, "", attempt=of.attempt, token=of.token)
    isolation = worker.isolation_of(of.release, None)
    return Attempt(
        worker, run, context, component, isolation, timeout_s, {}, report, worker.code_ended, output,
        CallLimits.of(component.resources, timeout_s), grant,
    )  # fmt: skip


def begin_release(worker: Worker, of: ReleaseOf, attempt: Attempt) -> None:
    """Make the call. Whatever is wrong fails the attempt."""
    if attempt.component is worker.missing_component:
        attempt.fail(worker.why_missing(of.release))
    else:
        attempt.start(of.inputs)


async def release_leak(worker: Worker, leak: StoredLeak) -> bool:
    """Call the release of a leak now, outside its job: whether it worked. The store is told."""
    of = ReleaseOf(
        leak.job_id, leak.workflow_id, leak.path, leak.resource_id, leak.tries + 1, 0, leak.release, leak.inputs
    )
    ended: asyncio.Future[Happening] = worker.loop.create_future()
    grant = worker.admission.take_anyway(worker.needs_of(leak.release, None), leak.job_id)
    attempt = make_release(
        worker,
        of,
        grant,
        worker.settings.cleanup_timeout_s,
        lambda attempt, happening: None if ended.done() else ended.set_result(happening),
    )
    begin_release(worker, of, attempt)
    try:
        outcome = await ended
    except asyncio.CancelledError:
        attempt.stop("shutdown", worker.settings.shutdown_grace_s)
        raise
    match outcome:
        case AttemptFailed(error=error):
            await worker.store.note_leak(leak.key, error)
            return False
        case AttemptStopped(reason=reason):
            await worker.store.note_leak(
                leak.key, error_info("release.stopped", f"The release was stopped ({reason}).")
            )
            return False
    await worker.store.drop_leak(leak.key)
    return True


class _Nothing:
    """Where a release tracks and spends: it is no attempt of a step, and its job may be long over."""

    def track(self, which: Which, resource: Held, recorded: Future[str]) -> None:
        recorded.set_exception(FatalError("resource.nested", "A release cannot track resources of its own."))

    def report(self, which: Which, spent: Amounts) -> None:
        """It is not counted."""


_NOTHING = _Nothing()


def begin_attempt(worker: Worker, state: JobState, call: Call, attempt: Attempt) -> None:
    """Fetch the secrets that the inputs need, render them, and make the call. Whatever is wrong fails the attempt."""
    run = call.run
    node, name = state.node(run), run.component or ""
    if (reason := worker.why_nothing_begins) is not None:  # since the commit was begun
        attempt.skip(reason)  # another worker may run the step by now, or soon
    elif attempt.component is worker.missing_component:
        attempt.fail(worker.why_missing(name))
    elif refusal := isolation_refusal(attempt.component.is_async, attempt.isolation, name):
        attempt.fail(refusal)
    elif call.inputs is not None:
        attempt.start(call.inputs)
    elif names := _secret_names(state, node):
        fetching = _begin_with_secrets(worker, state, run, attempt, names)
        attempt.prepare(worker.spawn(fetching, f"secrets of {run.path}"))
    else:
        _begin(state, run, attempt)


def _begin(state: JobState, run: StepRun, attempt: Attempt) -> None:
    try:
        inputs = _inputs(state, run, attempt.secrets)
    except ExpressionError as error:
        attempt.fail(error)
    else:
        attempt.start(inputs)


async def _begin_with_secrets(worker: Worker, state: JobState, run: StepRun, attempt: Attempt, names: set[str]) -> None:
    for name in sorted(names):
        try:
            attempt.secrets[name] = await worker.secrets.get(name)
        except KeyError:
            hint = "Set the environment variable of that name, or give the manager a SecretProvider that has it."
            attempt.fail(FatalError("secret.missing", f"There is no secret {name!r}. {hint}"))
            return
        except Exception as error:
            attempt.fail(error)
            return
    _begin(state, run, attempt)


def _inputs(state: JobState, run: StepRun, secrets: Mapping[str, str]) -> dict[str, Any]:
    """What the component gets: the recorded values, and the references rendered against recorded outputs."""
    inputs = dict(run.inputs)
    resolved = None
    if secrets and (hidden := state.plan.secret_inputs & state.inputs.keys()):
        resolved = freeze(state.inputs | {name: _resolved(state.inputs[name], secrets) for name in hidden})
    names = ScopeNames(state, state.scopes[run.scope], secrets, resolved)
    for name, template in state.node(run).inputs.items():
        if name not in inputs:
            inputs[name] = template.render(names)
    return inputs


def _resolved(given: Any, secrets: Mapping[str, str]) -> Any:
    """The value behind a writeOnly input; as it stands if it is null, or if the step does not use it."""
    return given if given is None else secrets.get(given["secret"], given)


def _secret_names(state: JobState, node: Node) -> set[str]:
    """The secrets that the step's inputs need: named in them, or behind a writeOnly input of the job."""
    names: set[str] = set()
    for template in node.inputs.values():
        if state.plan.holds_secret(template):
            names |= template.secrets | _behind_inputs(state, template)
    return names


def _behind_inputs(state: JobState, template: Template) -> set[str]:
    wanted = template.inputs or (state.inputs.keys() if "inputs" in template.roots else set())
    hidden = state.plan.secret_inputs & set(wanted) & state.inputs.keys()
    return {state.inputs[name]["secret"] for name in hidden if state.inputs[name] is not None}


def isolation_refusal(is_async: bool, isolation: Isolation, name: str) -> Exception | None:
    """Why a component cannot run where its step wants it to."""
    if is_async and isolation == "thread":
        return ComponentError(f"Component {name!r} is async and cannot run in a thread.", name=name)
    return None
