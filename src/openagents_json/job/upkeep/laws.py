"""What must hold of a stored job and of a definition, whatever happened to it. Pure: laws answer with sentences."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from openagents_json.job.events import Event
from openagents_json.job.machine import JobState, encode_snapshot
from openagents_json.job.model import JobSummary
from openagents_json.job.store.records import row_of, summary_of
from openagents_json.resources import components_of

FINAL_EVENTS = ("job.completed", "job.failed", "job.cancelled")
TEXT = 80  # characters of a value that are shown
_FROM_CREATION = {"id": "job_id", "workflow_id": "workflow_id", "version": "version", "definition": "definition"}


def numbering(events: Sequence[Event], after: int) -> Iterator[str]:
    """The events behind event `after` are numbered without a gap."""
    for expected, event in enumerate(events, after + 1):
        if event.number != expected:
            yield f"event {expected:,} is missing: the next one has number {event.number:,}"
            return


def ending(events: Sequence[Event], last: int) -> Iterator[str]:
    """A final event is the last one."""
    for event in events:
        if event.type in FINAL_EVENTS and event.number != last:
            yield f"event {event.number:,} ({event.type}) is final, and {last - event.number:,} follow"
            return


def creation(first: Event, summary: JobSummary) -> Iterator[str]:
    """A history begins with the creation of this very job."""
    if first.type != "job.created":
        yield f"its first event is {first.type}, not job.created"
        return
    for field, key in _FROM_CREATION.items():
        said, stands = first.data.get(key), getattr(summary, field)
        if said != stands:
            yield f"its row has the {field.replace('_', ' ')} {_text(stands)}, and its first event {_text(said)}"


def row(summary: JobSummary, state: JobState) -> Iterator[str]:
    """The row is the projection of the folded history."""
    expected = summary_of(
        job_id=summary.id,
        workflow_id=summary.workflow_id,
        version=summary.version,
        definition=summary.definition,
        row=row_of(state),
        created_us=state.created_us,
        queued_us=None,
        abandoned=summary.abandoned,
        idempotency_key=summary.idempotency_key,
        tags=summary.tags,
        parent_id=summary.parent_id,
        origin_id=summary.origin_id,
    )
    for field in JobSummary.__dataclass_fields__:
        if field == "queued_at":  # the store's own measure of a wait
            continue
        stands, follows = getattr(summary, field), getattr(expected, field)
        if field == "requires" and not stands:
            continue  # every worker may take it, and passes it on: rows of schema 1 say so
        if field == "requires" and stands == tuple(sorted(components_of(follows))):
            continue  # the components alone: rows from before resources counted say so
        if stands != follows:
            yield f"its row says {field} = {_text(stands)}, and its history {_text(follows)}"


def snapshot(stored: JobState, folded: JobState) -> Iterator[str]:
    """A snapshot is the fold of the history up to its event."""
    if encode_snapshot(stored) != encode_snapshot(folded):
        yield f"its snapshot at event {stored.number:,} is not what the history up to there gives"


def definition(content_hash: str, document: bytes) -> Iterator[str]:
    """A definition is stored under the hash of its content."""
    found = hashlib.sha256(document).hexdigest()
    if found != content_hash:
        yield f"its content has the hash {found}"


def _text(value: object) -> str:
    text = str(value)
    return text if len(text) <= TEXT else text[: TEXT - 1] + "…"
