"""Why a job began when it did, from what was recorded then. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from openagents_json.clock import as_datetime
from openagents_json.job.events import Event
from openagents_json.job.explaining.model import Overtaker, Stay
from openagents_json.job.model import JobSummary


def stays_in(events: Iterable[Event]) -> list[Stay]:
    """The stays in the queue that events tell of, in their order."""
    stays: list[Stay] = []
    queued: Event | None = None
    for event in events:
        if event.type == "job.queued":
            queued = event
        elif event.type in ("job.started", "job.continued") and queued is not None:
            stays.append(_stay(queued, event))
            queued = None
        elif event.type in ("job.paused", "job.cancelled") and queued is not None:
            queued = None
    if queued is not None:
        stays.append(_stay(queued, None))
    return stays


def _stay(queued: Event, began: Event | None) -> Stay:
    data = began.data if began is not None else {}
    sort_at = data.get("sort_at")
    return Stay(
        queued_at=queued.at,
        reason=queued.data["reason"],
        began_at=None if began is None else began.at,
        worker=data.get("worker"),
        virtual_arrival=None if sort_at is None else as_datetime(sort_at),
        made_room_for=queued.data.get("by"),
        preempted=data.get("preempted"),
    )


def overtaker(stay: Stay, other: JobSummary, began: Event) -> Overtaker:
    """A job that began during the stay, and why it could, as far as its own record tells."""
    sort_at = began.data.get("sort_at")
    stood = None if sort_at is None else as_datetime(sort_at)
    if stood is None or stay.virtual_arrival is None:
        why = "where it stood was not recorded"
    elif stood <= stay.virtual_arrival:
        why = "it stood before this job"
    else:
        why = (
            "it stood behind this job, which could not be taken then: it had no slot of its limit, no worker with its "
            "components was free, or it was paused with its workflow"
        )
    return Overtaker(other.id, other.workflow_id, began.at, stood, why)
