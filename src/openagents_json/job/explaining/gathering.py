"""Asks the store for all that an explanation says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

from openagents_json.clock import Clock, as_datetime
from openagents_json.ids import short_id
from openagents_json.job.events import Event
from openagents_json.job.explaining.blockers import (
    MAY_COME_NEXT,
    Facts,
    blockers_of,
    estimate_of,
    score_of,
    summary_of_blockers,
)
from openagents_json.job.explaining.model import Explanation, Overtaker, Stay
from openagents_json.job.explaining.past import overtaker, stays_in
from openagents_json.job.model import JobStatus
from openagents_json.job.store import JobStore
from openagents_json.job.store.query import build_query
from openagents_json.job.views import worker_wait

BEFORE_SHOWN = 10  # jobs before it in the queue, and jobs that began before it
STARTS_SEEN = 20  # of other jobs, for the estimate
EVENTS_SEEN = 1_000  # of its history, the first and the last ones
STAYS_SHOWN = 20  # in the queue, the latest

AskStatus = Callable[[str], Awaitable[dict[str, Any]]]


async def explain_job(store: JobStore, clock: Clock, ask_status: AskStatus, job_id: str) -> Explanation:
    """Why the job stands where it does. Errors are those of `ask_status`, which gives the detailed status."""
    status = await ask_status(job_id)
    for wait in status["waiting_for"]:
        if wait["kind"] == "limit" and "component" not in wait:
            wait["holders"] = await _holders(store, wait["held_by"])
    is_queued = status["status"] == JobStatus.QUEUED
    place = await store.queue_place(job_id, BEFORE_SHOWN) if is_queued else None
    workers = await store.list_workers() if status["status"] in MAY_COME_NEXT else ()
    if status["status"] in MAY_COME_NEXT and not is_queued:  # of a QUEUED job the status says it
        wait = worker_wait(status["requires"], workers)
        status["waiting_for"] += [] if wait["workers"] else [wait]
    facts = Facts(
        job_id=job_id,
        name=f"{status['workflow_id']}/{short_id(job_id)}",
        status=status,
        required=status["requires"],
        place=place,
        aging_s=store.aging_s,
        workers=workers,
        starts=[] if place is None else await _starts(store),
        now=as_datetime(clock.now_us()),
    )
    blockers = blockers_of(facts)
    stays = stays_in(await _events(store, job_id, status["events"]))
    stay = stays[-1] if stays else None
    return Explanation(
        job_id=job_id,
        workflow_id=status["workflow_id"],
        status=JobStatus(status["status"]),
        summary=summary_of_blockers(facts, blockers),
        blockers=tuple(blockers),
        score=score_of(facts),
        estimate=estimate_of(facts),
        stays=tuple(stays[-STAYS_SHOWN:]),
        overtaken_by=() if stay is None or stay.began_at is None else tuple(await _overtakers(store, job_id, stay)),
    )


async def _holders(store: JobStore, job_ids: Sequence[str]) -> list[dict[str, Any]]:
    """The jobs that hold the slots of a limit: {"job_id", "status", "since"}."""
    found = [await store.read_summary(job_id) for job_id in job_ids]
    return [
        {"job_id": one.id, "status": one.display_status, "since": one.started_at} for one in found if one is not None
    ]


async def _starts(store: JobStore) -> list[Any]:
    query = build_query({"started_at": {"after": as_datetime(0)}}, order="-started_at", limit=STARTS_SEEN)
    return [one.summary.started_at for one in await store.list_jobs(query)]


async def _events(store: JobStore, job_id: str, count: int) -> list[Event]:
    """The first and the last events of its history."""
    events = await store.read_events(job_id, 0, EVENTS_SEEN)
    if count > len(events):
        events += await store.read_events(job_id, max(count - EVENTS_SEEN, len(events)), EVENTS_SEEN)
    return events


async def _overtakers(store: JobStore, job_id: str, stay: Stay) -> list[Overtaker]:
    """The first jobs that began for the first time during the stay."""
    assert stay.began_at is not None, "who asks knows it"
    span = {"after": stay.queued_at, "before": stay.began_at + timedelta(microseconds=1)}
    query = build_query({"started_at": span}, order="started_at", limit=BEFORE_SHOWN + 1)
    found = []
    for one in await store.list_jobs(query):
        if one.summary.id == job_id:
            continue
        events = await store.read_events(one.summary.id, 0, EVENTS_SEEN)
        began = next((event for event in events if event.type == "job.started"), None)
        if began is not None:
            found.append(overtaker(stay, one.summary, began))
    return found[:BEFORE_SHOWN]
