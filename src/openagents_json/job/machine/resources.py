"""The cleanup ledger in the state: what its events change. What is decided about it is in `ledger`."""

from __future__ import annotations

from typing import Any

from openagents_json.job.events import Event
from openagents_json.job.machine.state import RELEASE, JobState, Resource, StepRun


def tracked(state: JobState, data: dict[str, Any], event: Event) -> None:
    """A resource stands in the ledger."""
    state.ledger[data["id"]] = Resource(
        data["id"],
        data["path"],
        data["attempt"],
        data["name"],
        data["release"],
        data["inputs"],
        data["until"],
        data["keep"],
        data["within_us"],
    )


def attempt_ended(state: JobState, run: StepRun, at_us: int, *, well: bool) -> None:
    """What an attempt has acquired for itself is due, or let go of."""
    for resource in list(state.ledger.values()):
        if resource.path == run.path and resource.attempt == run.attempt and not resource.is_due:
            if resource.until == "step":
                _make_due(state, resource, at_us, well=well)
            elif not well:  # it did not get as far as to hand it on to anybody
                _make_due(state, resource, at_us, well=False)


def job_ended(state: JobState, at_us: int, *, well: bool) -> None:
    """The outcome of the job is decided: everything that is left is due, or let go of."""
    state.releasing = True
    for resource in list(state.ledger.values()):
        if not resource.is_due:
            _make_due(state, resource, at_us, well=well)
    close_if_empty(state)


def _make_due(state: JobState, resource: Resource, at_us: int, *, well: bool) -> None:
    if well and resource.keep:
        del state.ledger[resource.id]
        return
    resource.is_due = True
    resource.next_us = at_us
    resource.deadline_us = at_us + resource.within_us
    state.schedule(resource.deadline_us, "leak", resource.id)


def release_started(state: JobState, data: dict[str, Any], event: Event) -> None:
    """A release is on."""
    resource = state.ledger[data["id"]]
    resource.live, resource.tries, resource.token = True, data["attempt"], event.number
    state.releases += 1


def release_failed(state: JobState, data: dict[str, Any], event: Event) -> None:
    """A release did not work: the resource waits for the next try."""
    resource = state.ledger[data["id"]]
    resource.live, resource.error, resource.next_us = False, data["error"], data["retry_at_us"]
    state.releases -= 1
    state.schedule(resource.next_us, "release", resource.id)
    state.schedule(resource.deadline_us, "leak", resource.id)  # looked at while the release was on, it was not true


def released(state: JobState, data: dict[str, Any], event: Event) -> None:
    """A resource was given back."""
    state.releases -= 1
    state.released += 1
    state.deaths = 0
    del state.ledger[data["id"]]
    close_if_empty(state)


def leaked(state: JobState, data: dict[str, Any], event: Event) -> None:
    """A resource was given up."""
    if state.ledger.pop(data["id"]).live:
        state.releases -= 1
    state.leaked += 1
    close_if_empty(state)


def worker_lost(state: JobState, at_us: int) -> None:
    """Releases that were on are tried again: that is what at least once means."""
    for resource in state.ledger.values():
        if resource.live:
            resource.live, resource.next_us = False, at_us
            state.schedule(resource.deadline_us, "leak", resource.id)
    state.releases = 0


def worker_came(state: JobState, at_us: int) -> None:
    """A worker takes the job. What no try has ended for has its whole time from now on: a job that stood still, for
    want of a worker or paused, is to lose nothing by that."""
    for resource in state.ledger.values():
        if resource.is_due and resource.error is None:
            resource.deadline_us = at_us + resource.within_us
            state.schedule(resource.deadline_us, "leak", resource.id)


def close_if_empty(state: JobState) -> None:
    """With the last resource gone the job can end."""
    if state.releasing and not state.ledger:
        state.closing[RELEASE] = None
