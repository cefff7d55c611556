"""What users see of a job's state: the `Job` copy and the status dictionary. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from openagents_json.amounts import KEYS, outside
from openagents_json.clock import SECOND_US, as_datetime
from openagents_json.job.machine import JobState, Resource, StepRun, spent_by, step_output, wanting
from openagents_json.job.model import Job, JobPriority, JobStatus, JobSummary, OutputText, StepStatus, WorkerSummary
from openagents_json.job.store.grants import Blocked
from openagents_json.job.store.limits import StoredLimit
from openagents_json.job.store.output import StoredOutput
from openagents_json.job.store.pauses import Pause
from openagents_json.job.store.records import Request, StoredWorker
from openagents_json.job.store.rules import SUSPECT_DEATHS, serves
from openagents_json.job.store.shortages import Short
from openagents_json.resources import Offers, amount_of, components_of, occupied, parts_of, requirement

STEPS_SHOWN = 1_000  # of a detailed status
_QUIET = (StepStatus.COMPLETED, StepStatus.SKIPPED, StepStatus.CANCELLED)


def job_of(state: JobState, abandoned: int = 0) -> Job:
    """The frozen copy of a whole job."""
    return Job(
        id=state.job_id,
        workflow_id=state.workflow_id,
        version=state.version,
        inputs=state.inputs,
        outputs=state.outputs,
        status=state.status,
        priority=JobPriority(state.priority),
        created_at=as_datetime(state.created_us),
        started_at=_moment(state.started_us),
        completed_at=_moment(state.completed_us),
        current_step=state.current_step,
        progress=state.progress,
        metadata=state.metadata,
        tags=tuple(state.tags),
        steps={path: step_of(state, run) for path, run in state.runs.items()},
        errors=tuple(state.errors),
        abandoned=abandoned,
    )


def step_of(state: JobState, run: StepRun, *, with_output: bool = True) -> dict[str, Any]:
    """{"status", "attempt", "started_at", "completed_at", "error"}, and "output"; of a foreach also "items".

    A result that was taken over has "taken_over": {"from": id of the job in which it ran, None if it was set by hand}.
    """
    step: dict[str, Any] = {
        "status": str(run.status),
        "attempt": run.attempt,
        "started_at": _moment(run.started_us),
        "completed_at": _moment(run.ended_us),
        "error": run.error,
    }
    kind = state.node(run).step.kind
    if run.taken:
        step["taken_over"] = {"from": run.taken_from}
    elif kind == "foreach":
        step["items"] = {"count": run.count, "opened": run.opened, "running": len(run.open), "errors": run.item_errors}
    elif kind == "repeat":
        step["iterations"] = run.count
    elif kind == "switch":
        step["case"] = run.chosen
    if run.child is not None:
        step["child"] = run.child
    if run.spent:
        step["spent"] = outside(run.spent)
    if with_output:
        step["output"] = step_output(state, run)
    return step


def status_of(
    state: JobState,
    summary: JobSummary,
    requests: Sequence[Request],
    retried_as: Sequence[str] = (),
    workers: Sequence[StoredWorker] = (),
    limit: StoredLimit | None = None,
    pauses: Sequence[Pause] = (),
    blocked: Sequence[Blocked] = (),
    short: Sequence[Short] = (),
) -> dict[str, Any]:
    """The detailed status: what is true now, and what was asked for and is not effective yet. `workers` are those that
    live, for a job that is QUEUED, and `limit` is what the store says of it, for one that is not RUNNING; `pauses` are
    those of the store, and of a job that is RUNNING `blocked` says which attempts wait for limits of their components,
    `short` for which resources."""
    return {
        "id": state.job_id,
        "workflow_id": state.workflow_id,
        "version": state.version,
        "status": str(summary.status),
        "display_status": summary.display_status,
        "priority": str(summary.priority),
        "progress": summary.progress,
        "current_step": summary.current_step,
        "created_at": summary.created_at,
        "started_at": summary.started_at,
        "completed_at": summary.completed_at,
        "steps": {run.path: step_of(state, run, with_output=False) for run in _runs_shown(state)},
        "step_counts": {
            str(status): count for status, count in Counter(run.status for run in state.runs.values()).items()
        },
        "requires": [] if state.status == JobStatus.RUNNING or state.is_final else list(_required_next(state)),
        "waiting_for": _waiting_for(state, workers, limit, pauses, blocked, short),
        "requests": _requests(state, requests),
        "resources": [_resource(resource) for resource in state.ledger.values()],
        "signals": {name: len(letters) for name, letters in state.mailbox.items()},
        "share": summary.share,
        "deadline": summary.deadline,
        "at_risk": summary.at_risk,
        "parent": state.parent,
        "origin": state.origin,
        "retried_as": list(retried_as),
        "budget": outside(state.budget),
        "spent": outside({"time_us": 0, "tokens": 0, "cost_nanos": 0} | spent_by(state)),
        "abandoned": summary.abandoned,
        "errors": list(state.errors),
        "events": summary.events,
    }


def _runs_shown(state: JobState) -> list[StepRun]:
    """All runs if they are not too many; else those that are on, those that failed, and the latest, in their order."""
    runs = list(state.runs.values())
    if len(runs) <= STEPS_SHOWN:
        return runs
    loud = [place for place, run in enumerate(runs) if run.status not in _QUIET]
    loud.sort(key=lambda place: runs[place].status == StepStatus.FAILED)  # those that are on come first
    shown = set(loud[:STEPS_SHOWN])
    for place in range(len(runs) - 1, -1, -1):
        if len(shown) == STEPS_SHOWN:
            break
        shown.add(place)
    return [runs[place] for place in sorted(shown)]


def _waiting_for(
    state: JobState,
    workers: Sequence[StoredWorker],
    limit: StoredLimit | None = None,
    pauses: Sequence[Pause] = (),
    blocked: Sequence[Blocked] = (),
    short: Sequence[Short] = (),
) -> list[dict[str, Any]]:
    """Each thing that has to come before the job can go on: {"kind", "at" or "step", …}; empty when nothing has to."""
    waits: list[dict[str, Any]] = []
    if state.status == JobStatus.PAUSED:
        who = state.pause or {"by": None, "reason": None}
        wait = {"kind": "resume", "by": who["by"], "reason": who["reason"], "since": _moment(who.get("at_us"))}
        if (key := wanting(state)) is not None:  # resume is refused until that is more
            wait["budget"] = next(kind for kind, inside in KEYS.items() if inside == key)
        waits.append(wait)
    if state.status == JobStatus.CREATED:
        waits.append({"kind": "start", "at": _moment(state.start_at_us)})
    held_up = _pauses_of(state, pauses)
    waits += [_paused(pause) for pause in held_up]
    is_queued = state.status == JobStatus.QUEUED
    is_at_rest = not state.is_final and state.status != JobStatus.RUNNING
    if limit is not None and is_at_rest and not limit.has_slot and (is_queued or limit.is_full):
        waits.append(_slot(limit))
    elif is_queued and not held_up:
        waits.append(worker_wait(state.required, workers, is_alone=state.deaths >= SUSPECT_DEATHS))
    if state.is_final:
        return waits
    waits += [_component_limit(one) for one in blocked if state.status == JobStatus.RUNNING][:STEPS_SHOWN]
    waits += [_short(one) for one in short]
    if not short and not blocked:
        waits += _ready(state)
    for path, due_us in state.delayed.items():
        kind = "retry" if state.runs[path].status == StepStatus.RETRYING else "timer"
        waits.append({"kind": kind, "step": path, "at": as_datetime(due_us)})
    for name, paths in state.awaiting.items():
        for path in paths:
            until = _moment(state.deadlines.get(path))
            since = _moment(state.runs[path].started_us)
            waits.append({"kind": "signal", "signal": name, "step": path, "since": since, "until": until})
    waits += _children(state)
    waits += [
        {"kind": "release", "step": one.path, "resource": one.name, "at": _moment(one.next_us)}
        for one in state.ledger.values()
        if one.is_due
    ]
    waits += [{"kind": "decision", "step": path, "error": state.runs[path].error} for path in state.in_doubt]
    return waits


def _pauses_of(state: JobState, pauses: Sequence[Pause]) -> list[Pause]:
    """The pauses that keep a job from going on: that of its workflow, and those of all components that it could go on
    with when a worker takes it."""
    if state.is_final:
        return []
    is_going_on = state.cancel is not None or state.outcome is not None
    found = [one for one in pauses if one.kind == "workflow" and one.name == state.workflow_id and not is_going_on]
    if state.status != JobStatus.RUNNING:
        paused = {one.name: one for one in pauses if one.kind == "component"}
        names = components_of(_required_next(state)) if paused else ()
        if names and all(name in paused for name in names):
            found += [paused[name] for name in names]
    return found


def _required_next(state: JobState) -> Sequence[str]:
    """What a worker has to meet one of to go on with the job from the queue, as far as can be told of one that is not
    there; none if every worker can do something for it."""
    if state.required or state.status == JobStatus.QUEUED:
        return state.required
    if state.delayed or state.closing or any(one.is_due for one in state.ledger.values()):
        return ()
    required = set()
    for path in state.ready:
        node = state.node(state.runs[path])
        if node.component is None or not node.component.is_constant or node.condition is not None:
            return ()
        required.add(requirement(str(node.component.source), occupied(node.step.resources)))
    return sorted(required)


def _paused(pause: Pause) -> dict[str, Any]:
    """{"kind": "paused", "what": component or workflow, "name", "by", "reason", "since"}."""
    since = as_datetime(pause.at_us)
    return {
        "kind": "paused",
        "what": pause.kind,
        "name": pause.name,
        "by": pause.by,
        "reason": pause.reason,
        "since": since,
    }


def _component_limit(blocked: Blocked) -> dict[str, Any]:
    """What a step waits for whose component has a limit: {"kind": "limit", "component", "key", "limit", "step",
    "since"}, and "held_by" (ids of workers that hold the slots, 10 at most), or "per_seconds" and "at", when the next
    token of the rate comes."""
    cap = blocked.cap
    wait: dict[str, Any] = {
        "kind": "limit",
        "component": cap.component,
        "key": cap.value,
        "limit": cap.limit,
        "step": blocked.path,
        "since": as_datetime(blocked.since_us),
    }
    if cap.per_us is None:
        return wait | {"held_by": list(blocked.held_by)}
    return wait | {"per_seconds": cap.per_us / SECOND_US, "at": _moment(blocked.next_us)}


def _ready(state: JobState) -> list[dict[str, Any]]:
    """What is ready in a RUNNING job and has not begun: {"kind": "slot", "step" (the first), "steps" (how many),
    "worker", "needs" (what the step says that it needs)}. What there is a slot for begins in the commit that makes it
    ready, so the rest waits for one."""
    if state.status != JobStatus.RUNNING or state.pause_requested or state.cancel is not None or not state.ready:
        return []
    path = next(iter(state.ready))
    needs = dict(state.node(state.runs[path]).step.resources)
    return [{"kind": "slot", "step": path, "steps": len(state.ready), "worker": state.worker, "needs": needs}]


def _short(one: Short) -> dict[str, Any]:
    """What steps of a RUNNING job wait for: {"kind": "resource", "resource", "need", "capacity", "free", "held_by",
    "ahead", "since"}. "held_by" are ids of jobs whose steps occupy it, "ahead" of those that want it too and come
    first, 10 at most each."""
    return {
        "kind": "resource",
        "resource": one.resource,
        "need": one.need,
        "capacity": one.capacity,
        "free": one.free,
        "held_by": list(one.holders),
        "ahead": list(one.ahead),
        "since": as_datetime(one.since_us),
    }


def _slot(stored: StoredLimit) -> dict[str, Any]:
    """What a job over its limit waits for: {"kind": "limit", "key", "limit", "held_by"}: that one of the jobs that hold
    the slots of its key (None if the limit has none) gives its own back. "held_by" are ids, 10 at most."""
    limit = stored.limit
    return {"kind": "limit", "key": limit.value, "limit": limit.limit, "held_by": list(stored.held_by)}


def worker_wait(required: Sequence[str], workers: Sequence[StoredWorker], *, is_alone: bool = False) -> dict[str, Any]:
    """What a job waits for that wants a worker: {"kind": "worker", "components", "workers"}: one with one of these
    components (any one if there are none), and how many such workers there are. "alone": True if it is run with nothing
    beside it. "resources" if no such worker has enough: see `_lacking`."""
    offers = [one.info.offers for one in workers if one.info.max_jobs]
    able = sum(serves(one, required) for one in offers)
    wait: dict[str, Any] = {"kind": "worker", "components": components_of(required), "workers": able}
    if not able and (lacking := _lacking(required, offers)):
        wait["resources"] = lacking
    return wait | {"alone": True} if is_alone else wait


def _lacking(required: Sequence[str], offers: Sequence[Offers]) -> list[dict[str, Any]]:
    """What is short where there are workers with the right components: {"resource", "need", "most"} for each resource
    that none of them has enough of; "most" is what the one with the most has."""
    found: dict[str, dict[str, Any]] = {}
    for one in required:
        component, needs = parts_of(one)
        having = [offer.capacities for offer in offers if component in offer.components]
        for name, units in needs:
            most = max((capacities.get(name, 0) for capacities in having), default=0)
            if having and units > most:
                found.setdefault(name, {"resource": name, "need": amount_of(units), "most": amount_of(most)})
    return list(found.values())


def _resource(resource: Resource) -> dict[str, Any]:
    """A resource of the cleanup ledger: held by its step or job, or on its way to be released."""
    return {
        "id": resource.id,
        "name": resource.name,
        "step": resource.path,
        "until": resource.until,
        "keep": resource.keep,
        "release": resource.release,
        "state": "releasing" if resource.live else "due" if resource.is_due else "held",
        "tries": resource.tries,
        "error": resource.error,
        "deadline": _moment(resource.deadline_us) if resource.is_due else None,
    }


def _children(state: JobState) -> list[dict[str, Any]]:
    """The children that the job waits for: {"kind", "step", "job_id", "for"}.

    "for" is end, or pause while the job is to be paused (those that are paused already are left out), or cancel once
    the child was told to stop. With "paused": True if the child was paused and the job was not.
    """
    is_pausing = state.pause_requested
    waits: list[dict[str, Any]] = []
    for child in list(state.restless) if is_pausing else state.children:
        path = state.children[child]
        run = state.runs[path]
        is_told = state.scopes[run.scope].is_cut or run.failing is not None
        why = "cancel" if is_told else "pause" if is_pausing else "end"
        wait: dict[str, Any] = {"kind": "child", "step": path, "job_id": child, "for": why}
        if child in state.paused_children and state.status != JobStatus.PAUSED:
            wait["paused"] = True
        waits.append(wait)
    return waits


def _requests(state: JobState, undrained: Sequence[Request]) -> list[dict[str, Any]]:
    """Requests that are not effective yet: marks of the state, and what still stands in the inbox."""
    shown: list[dict[str, Any]] = []
    if state.pause_requested and state.pause is not None and not state.is_final:
        who = {"by": state.pause["by"], "reason": state.pause["reason"], "at": _moment(state.pause["at_us"])}
        shown.append({"verb": "pause", "acknowledged": True, **who})
    if state.cancel is not None and not state.is_final:
        shown.append({"verb": "cancel", "acknowledged": True, **state.cancel, "at": _moment(state.cancel_us)})
    shown += [
        {"verb": one.kind, "acknowledged": False, "by": one.by, "reason": one.reason, "at": as_datetime(one.at_us)}
        | {name: outside(value) if name == "amounts" else value for name, value in one.payload.items()}
        for one in undrained
    ]
    return shown


def worker_of(stored: StoredWorker) -> WorkerSummary:
    """The public copy of a worker."""
    info = stored.info
    return WorkerSummary(
        id=stored.id,
        host=info.host,
        pid=info.pid,
        version=info.version,
        components=tuple(info.components),
        max_jobs=info.max_jobs,
        resources=dict(info.resources),
        running_jobs=stored.jobs,
        started_at=as_datetime(stored.registered_us),
        heartbeat_at=as_datetime(stored.heartbeat_us),
    )


def _moment(at_us: int | None) -> Any:
    return None if at_us is None else as_datetime(at_us)


def output_of(stored: StoredOutput) -> list[OutputText]:
    """The texts of a stored chunk."""
    return [
        OutputText(
            as_datetime(piece.at_us),
            stored.path,
            stored.attempt,
            piece.stream,
            piece.text,
            stored.cut if place == 0 else 0,
            stored.sequence,
        )
        for place, piece in enumerate(stored.pieces)
    ]
