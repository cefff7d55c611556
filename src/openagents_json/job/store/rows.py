"""What SQL stores keep in their columns: histories, requests and summaries, as all of them write and read these."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from openagents_json.job.events import Event, encode_events
from openagents_json.job.model import JobStatus, JobSummary
from openagents_json.job.store.records import HISTORY_ROW_EVENTS, JobRow, Request, summary_of
from openagents_json.jsondata import decode, encode


def history_rows(events: Sequence[Event]) -> list[tuple[int, int, bytes]]:
    """(first, last, JSON) for each row that a commit's events take."""
    parts = [events[start : start + HISTORY_ROW_EVENTS] for start in range(0, len(events), HISTORY_ROW_EVENTS)]
    return [(part[0].number, part[-1].number, encode_events(part)) for part in parts]


def request_of(row: tuple[Any, ...]) -> Request:
    """A row of the inbox as a request."""
    key, kind, by, reason, at_us, payload, sequence = row
    return Request(key, kind, by, reason, at_us, decode(payload), sequence)


def summary_in(row: dict[str, Any]) -> JobSummary:
    """The public copy of a row of `jobs`."""
    return summary_of(
        job_id=row["id"],
        workflow_id=row["workflow_id"],
        version=row["version"],
        definition=row["definition"],
        row=JobRow(
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
        ),
        created_us=row["created_us"],
        queued_us=row["queued_us"],
        abandoned=row["abandoned"],
        idempotency_key=row["idempotency_key"],
        tags=decode(row["tags"]) if row["tags"] else (),
        parent_id=row["parent_id"],
        origin_id=row["origin_id"],
    )


def requirement(names: Sequence[str]) -> str:
    """The column `requires` of a job."""
    return encode(list(names)).decode() if names else ""


def required_by(requires: str) -> tuple[str, ...]:
    """The reverse."""
    return tuple(decode(requires.encode())) if requires else ()
