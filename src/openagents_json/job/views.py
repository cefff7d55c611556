"""What users see of a job's state: the `Job` copy and the status dictionary. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from openagents_json.clock import as_datetime
from openagents_json.job.machine import JobState, StepRun, step_output
from openagents_json.job.model import Job, JobPriority, JobStatus, JobSummary
from openagents_json.job.store.base import Request


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
    """{"status", "attempt", "started_at", "completed_at", "error"}, and "output"; of a foreach also "items"."""
    step: dict[str, Any] = {
        "status": str(run.status),
        "attempt": run.attempt,
        "started_at": _moment(run.started_us),
        "completed_at": _moment(run.ended_us),
        "error": run.error,
    }
    is_container = state.node(run).body is not None
    if is_container:
        step["items"] = {"count": run.count, "opened": run.opened, "running": len(run.open), "errors": run.item_errors}
    if with_output:
        step["output"] = step_output(state, run)
    return step


def status_of(state: JobState, summary: JobSummary, requests: Sequence[Request]) -> dict[str, Any]:
    """The detailed status: what is true now, and what was asked for and is not effective yet."""
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
        "steps": {path: step_of(state, run, with_output=False) for path, run in state.runs.items()},
        "waiting_for": _waiting_for(state),
        "requests": _requests(state, requests),
        "abandoned": summary.abandoned,
        "errors": list(state.errors),
        "events": summary.events,
    }


def _waiting_for(state: JobState) -> list[dict[str, Any]]:
    """Each thing that has to come before the job can go on: {"kind", "at" or "step", …}; empty when nothing has to."""
    waits: list[dict[str, Any]] = []
    if state.status == JobStatus.PAUSED:
        waits.append({"kind": "resume"})
    if state.status == JobStatus.CREATED:
        waits.append({"kind": "start", "at": _moment(state.start_at_us)})
    if state.status == JobStatus.QUEUED:
        waits.append({"kind": "worker"})
    if not state.is_final:
        for path, due_us in state.delayed.items():
            waits.append({"kind": "retry", "step": path, "at": as_datetime(due_us)})
    return waits


def _requests(state: JobState, undrained: Sequence[Request]) -> list[dict[str, Any]]:
    """Requests that are not effective yet: marks of the state, and what still stands in the inbox."""
    shown: list[dict[str, Any]] = []
    if state.pause_requested and not state.is_final:
        shown.append({"verb": "pause", "acknowledged": True, "by": None, "reason": None})
    if state.cancel is not None and not state.is_final:
        shown.append({"verb": "cancel", "acknowledged": True, **state.cancel})
    shown += [
        {"verb": one.kind, "acknowledged": False, "by": one.by, "reason": one.reason, "at": as_datetime(one.at_us)}
        | one.payload
        for one in undrained
    ]
    return shown


def _moment(at_us: int | None) -> Any:
    return None if at_us is None else as_datetime(at_us)
