"""What SQL stores keep in their columns: histories, requests and summaries, as all of them write and read these."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from openagents_json.job.events import Event, encode_events
from openagents_json.job.model import JobStatus, JobSummary
from openagents_json.job.store.arrival import virtual_arrival_us
from openagents_json.job.store.deadlines import Deadline
from openagents_json.job.store.limits import Limit
from openagents_json.job.store.moving import MovedJob
from openagents_json.job.store.records import (
    HISTORY_ROW_EVENTS,
    Definition,
    JobRow,
    NewJob,
    Request,
    StoredLeak,
    summary_of,
)
from openagents_json.job.store.shares import Share, share_of
from openagents_json.jsondata import decode, encode


def history_rows(events: Sequence[Event]) -> list[tuple[int, int, bytes]]:
    """(first, last, JSON) for each row that a commit's events take."""
    parts = [events[start : start + HISTORY_ROW_EVENTS] for start in range(0, len(events), HISTORY_ROW_EVENTS)]
    return [(part[0].number, part[-1].number, encode_events(part)) for part in parts]


def request_of(row: tuple[Any, ...]) -> Request:
    """A row of the inbox as a request."""
    key, kind, by, reason, at_us, payload, sequence = row
    return Request(key, kind, by, reason, at_us, decode(payload), sequence)


def row_in(row: dict[str, Any]) -> JobRow:
    """The index entry in a row of `jobs`."""
    return JobRow(
        status=JobStatus(row["status"]),
        rank=row["rank"],
        last_event=row["last_event"],
        started_us=row["started_us"],
        completed_us=row["completed_us"],
        due_us=row["due_us"],
        progress=row["progress"],
        current_step=row["current_step"],
        error_type=row["error_type"],
        error_message=row["error_message"],
        pause_requested=bool(row["pause_requested"]),
        cancel_requested=bool(row["cancel_requested"]),
        requires=required_by(row["requires"]),
        deaths=row["deaths"],
        spending=row["spending"],
        share=_share_in(row),
        deadline=_deadline_in(row),
    )


def _share_in(row: dict[str, Any]) -> Share | None:
    if row["share_key"] is None:
        return None
    return share_of(row["share_key"], row["share_expected_us"], row["share_used_us"], JobStatus(row["status"]))


def _deadline_in(row: dict[str, Any]) -> Deadline | None:
    if row["deadline_us"] is None:
        return None
    start_by_us = row["start_by_us"] if row["status"] == JobStatus.QUEUED else None
    risk_us = None if row["status"] == JobStatus.RUNNING else row["risk_us"]
    return Deadline(row["deadline_us"], start_by_us, bool(row["at_risk"]), risk_us)


def moved_in(
    row: dict[str, Any], limit: Limit | None, requests: Sequence[Request], drained: Sequence[str],
    leaks: Sequence[StoredLeak],
) -> MovedJob:  # fmt: skip
    """A row of `jobs` and what stands beside it, as a job that is moved."""
    new = NewJob(
        row["id"],
        Definition(row["definition"], row["workflow_id"], row["version"], b""),
        row_in(row),
        (),
        row["created_us"],
        decode(row["tags"]) if row["tags"] else (),
        row["idempotency_key"],
        row["body_hash"],
        row["parent_id"],
        row["origin_id"],
        limit,
    )
    return MovedJob(new, row["owner"], row["epoch"], row["queued_us"], row["queued_total_us"], requests, drained, leaks)


def summary_in(row: dict[str, Any]) -> JobSummary:
    """The public copy of a row of `jobs`."""
    return summary_of(
        job_id=row["id"],
        workflow_id=row["workflow_id"],
        version=row["version"],
        definition=row["definition"],
        row=row_in(row),
        created_us=row["created_us"],
        queued_us=row["queued_us"],
        abandoned=row["abandoned"],
        idempotency_key=row["idempotency_key"],
        tags=decode(row["tags"]) if row["tags"] else (),
        parent_id=row["parent_id"],
        origin_id=row["origin_id"],
    )


def moved_columns(job: MovedJob, aging_s: float) -> dict[str, Any]:
    """The columns of `jobs` for a job that comes from another store, by name, without key and limit."""
    new, row, arrived = job.new, job.new.row, job.waits_since_us
    sort_at = 0
    if arrived is not None:
        has_begun = row.started_us is not None
        sort_at = virtual_arrival_us(arrived, job.queued_total_us, row.rank, aging_s, has_begun=has_begun)
    return {
        "id": new.job_id,
        "workflow_id": new.definition.workflow_id,
        "version": new.definition.version,
        "definition": new.definition.hash,
        "status": row.status.value,
        "rank": row.rank,
        "sort_at": sort_at,
        "owner": job.keeper,
        "epoch": job.epoch,
        "last_event": row.last_event,
        "created_us": new.created_us,
        "queued_us": arrived,
        "queued_total_us": job.queued_total_us,
        "started_us": row.started_us,
        "completed_us": row.completed_us,
        "due_us": row.due_us,
        "progress": row.progress,
        "current_step": row.current_step,
        "error_type": row.error_type,
        "error_message": row.error_message,
        "pause_requested": row.pause_requested,
        "cancel_requested": row.cancel_requested,
        "idempotency_key": new.idempotency_key,
        "body_hash": new.body_hash,
        "tags": encode(list(new.tags)).decode() if new.tags else None,
        "parent_id": new.parent_id,
        "origin_id": new.origin_id,
        "requires": requirement(row.requires),
        "deaths": row.deaths,
        "spending": row.spending,
    }


def requirement(names: Sequence[str]) -> str:
    """The column `requires` of a job."""
    return encode(list(names)).decode() if names else ""


def required_by(requires: str) -> tuple[str, ...]:
    """The reverse."""
    return tuple(decode(requires.encode())) if requires else ()
