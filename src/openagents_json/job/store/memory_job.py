"""One job of the memory store, and how it is found in a listing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from openagents_json.job.events import Event
from openagents_json.job.model import JobStatus, JobSummary
from openagents_json.job.store.limits import Limit
from openagents_json.job.store.query import Query
from openagents_json.job.store.records import JobRow, NewJob, Request, summary_of


@dataclass(slots=True)
class MemoryJob:
    """One job. Everything here is written by the verbs of the store only, each of which runs without an await."""

    new: NewJob
    handle: int
    row: JobRow
    queued_us: int | None = None
    queued_total_us: int = 0
    sort_at: int = 0
    tag_us: int | None = None  # of its share: written when it enters the queue, kept until it rests or ends
    charged_us: int = 0  # to its share, until now
    owner: str | None = None
    epoch: int = 0
    has_slot: bool = False  # of its limit
    abandoned: Counter[str] = field(default_factory=Counter)  # threads that still run, by the worker that runs them
    events: list[Event] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    request_keys: set[str] = field(default_factory=set)
    snapshot: tuple[int, bytes] | None = None  # number of its last event, state

    @property
    def id(self) -> str:
        return self.new.job_id

    @property
    def limit(self) -> Limit | None:
        return self.new.limit

    @property
    def is_blocked(self) -> bool:
        """Whether no claim finds it in the queue until it gets a slot."""
        return self.new.limit is not None and not self.has_slot and self.row.status == JobStatus.QUEUED

    @property
    def waits(self) -> bool:
        """Whether it is QUEUED and nobody holds it."""
        return self.owner is None and self.row.status == JobStatus.QUEUED

    def column(self, name: str) -> Any:
        """The value that the SQL stores have in that column."""
        match name:
            case "key":
                return self.handle
            case "id":
                return self.id
            case "workflow_id" | "version":
                return getattr(self.new.definition, name)
            case "definition":
                return self.new.definition.hash
            case "idempotency_key" | "created_us" | "parent_id" | "origin_id":
                return getattr(self.new, name)
            case "share_key":
                return None if self.row.share is None else self.row.share.key
            case "deadline_us":
                return None if self.row.deadline is None else self.row.deadline.at_us
            case "at_risk":
                return self.row.deadline is not None and self.row.deadline.is_at_risk
            case "queued_us":
                return self.queued_us
            case "abandoned":
                return self.abandoned.total()
            case "status":
                return str(self.row.status)
        return getattr(self.row, name)

    @property
    def summary(self) -> JobSummary:
        definition = self.new.definition
        return summary_of(
            job_id=self.id,
            workflow_id=definition.workflow_id,
            version=definition.version,
            definition=definition.hash,
            row=self.row,
            created_us=self.new.created_us,
            queued_us=self.queued_us,
            abandoned=self.abandoned.total(),
            idempotency_key=self.new.idempotency_key,
            tags=self.new.tags,
            parent_id=self.new.parent_id,
            origin_id=self.new.origin_id,
        )


def sortable(position: tuple[Any, int]) -> tuple[bool, Any, int]:
    """NULL before everything, as SQLite sorts it."""
    value, handle = position
    return (value is not None, 0 if value is None else value, handle)


def fits(job: MemoryJob, query: Query) -> bool:
    """Whether a checked query finds it."""
    for column, values in query.equal.items():
        if job.column(column) not in values:
            return False
    for column, span in query.times.items():
        if not span.holds(job.column(column)):
            return False
    if query.statuses_of_due and job.row.status not in query.statuses_of_due:
        return False
    if not set(query.tags) <= set(job.new.tags):
        return False
    if query.error_text is not None:
        texts: Iterator[str] = (text for text in (job.row.error_type, job.row.error_message) if text)
        return any(query.error_text.casefold() in text.casefold() for text in texts)
    return True
