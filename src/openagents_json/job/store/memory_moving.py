"""Moving jobs in the memory store: what of one goes with it, and which are refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from openagents_json.job.store.limits import Book
from openagents_json.job.store.moving import MovedJob, key_taken, keys_of, refuse_without_slot
from openagents_json.job.store.records import JobRow, NewJob, Request, StoredLeak


class Movable(Protocol):
    """What is needed of a job here; the store's own."""

    new: NewJob
    row: JobRow
    owner: str | None
    epoch: int
    queued_us: int | None
    queued_total_us: int
    requests: list[Request]
    request_keys: set[str]


def moved(job: Movable, leaks: Sequence[StoredLeak]) -> MovedJob:
    """The job as it is now, without its events and the document of its definition."""
    new = replace(job.new, row=job.row, events=(), definition=replace(job.new.definition, document=b""))
    undrained = {request.key for request in job.requests}
    drained = sorted(job.request_keys - undrained)
    return MovedJob(
        new, job.owner, job.epoch, job.queued_us, job.queued_total_us, tuple(job.requests), drained, tuple(leaks)
    )


def refuse_to_restore(jobs: Sequence[MovedJob], keys: Mapping[tuple[str, str], str], limits: Book) -> None:
    """Raise for the first that may not be restored, as `JobStore.restore` says; nothing was written then."""
    for new, key in keys_of(jobs):
        if key in keys:
            raise key_taken(new, keys[key])
    refuse_without_slot(limits, jobs)
