"""What every store decides in the same way. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from openagents_json.errors import IdempotencyConflict
from openagents_json.job.events import Event
from openagents_json.job.machine import MAX_DEATHS
from openagents_json.job.model import JobStatus
from openagents_json.job.store.records import Commit, NewJob
from openagents_json.resources import Offers

MAX_REQUIREMENTS = 1_000  # different sets of required components that a claim looks at
SUSPECT_DEATHS = MAX_DEATHS - 1  # a job under which so many workers died is tried once more, alone


def same_body(earlier_hash: str, job: NewJob, earlier_id: str) -> str:
    """The earlier job's id when the key was used for the same body, else `IdempotencyConflict`."""
    if earlier_hash == job.body_hash:
        return earlier_id
    raise IdempotencyConflict(
        f"The idempotency key {job.idempotency_key!r} was used for job {earlier_id} with another workflow version or "
        "other inputs. Use a new key, or send the same body.",
        job_id=earlier_id,
    )


def is_written(commit: Commit, epoch: int, last_event: int, events: Iterable[Event]) -> bool:
    """Whether exactly this commit stands in the history already: then its repetition is a success.

    `epoch`, `last_event` and `events` are what the store has now. Under a later lease only a commit that gave its own
    lease back may be called a success; one that keeps it would let its owner believe that it still has the job.
    """
    if epoch != commit.claim.epoch and (commit.row.status == JobStatus.RUNNING or not commit.events):
        return False
    if last_event < commit.expected + len(commit.events):
        return False
    written = [event for event in events if event.number > commit.expected][: len(commit.events)]
    return written == list(commit.events)


def serves(offers: Offers | None, required: Collection[str]) -> bool:
    """Whether a worker that offers this (None: everything) can go on with a job that requires one of those."""
    return offers is None or not required or any(offers.meets(one) for one in required)
