"""Limits: at most so many jobs of one key are on at a time. The rules are here once, for every store. Pure.

A job with a limit has a slot of its key or none. QUEUED without one it is *blocked*: no claim finds it, until a slot of
the key comes free and it comes first in the queue. What a store does, in the transaction that writes rows:

- it takes a slot back where `keeps_slot` says no: then nothing leaks, since every way out of the queue and out of
  RUNNING is a commit;
- it asks `refuse` about jobs that enter the queue for the first time (`reject`), and then lets them in with `enter`,
  which says whom to cancel (`replace`);
- it then calls `balance` for each key of which a slot came free or a job's place in the queue has changed: of those of
  the jobs that entered, and of every job with a limit that a commit has left in another status than RUNNING.

All jobs of a transaction go through each of these together: a job with its children, all of `create_all`.

Deleting a job frees nothing: what may be deleted has no slot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

from openagents_json.errors import LimitReached
from openagents_json.job.model import JobStatus
from openagents_json.jsondata import decode, encode

HOLDERS_SHOWN = 10  # of those that hold the slots of a key
REPLACED = "replaced"  # key of the request by which a job is replaced: it is asked once
REPLACED_BY = "concurrency"  # who asks

ALL_JOBS: Any = object()  # no value: None is one

Hold: TypeAlias = Literal["job", "running"]
Overflow: TypeAlias = Literal["queue", "reject", "replace"]


@dataclass(frozen=True, slots=True)
class Limit:
    """What a job's workflow says of it. Jobs with the same `key` share slots; each is let in by its own `limit`."""

    key: str  # the workflow's id, and behind a space the key's value as canonical JSON if there is one
    limit: int
    hold: Hold = "job"  # from the first start to the end, or only while it is RUNNING or about to be
    overflow: Overflow = "queue"

    @property
    def workflow_id(self) -> str:
        return self.key.partition(" ")[0]

    @property
    def value(self) -> Any:
        """The key's value; None if the limit has no key."""
        text = self.key.partition(" ")[2]
        return decode(text.encode()) if text else None


@dataclass(frozen=True, slots=True)
class StoredLimit:
    """How a job stands with its limit."""

    limit: Limit
    has_slot: bool
    held_by: Sequence[str]  # ids of those that have a slot of its key, `HOLDERS_SHOWN` at most, the oldest first

    @property
    def is_full(self) -> bool:
        """Whether `held_by` shows that all slots of its key are taken, and none would make way."""
        return len(self.held_by) >= self.limit.limit and self.limit.overflow != "replace"


def limit_key(workflow_id: str, value: Any = ALL_JOBS) -> str:
    """The key of a workflow's limit for one value, or for all its jobs."""
    return workflow_id if value is ALL_JOBS else f"{workflow_id} {encode(_ordered(value)).decode()}"


def keeps_slot(limit: Limit, status: JobStatus, before: JobStatus, *, has_started: bool) -> bool:
    """Whether a job that has a slot still has it in its new status. From the queue it goes on into RUNNING; coming back
    into it, or at rest, only what has started keeps its slot, and only if the limit holds jobs as a whole."""
    if status.is_final:
        return False
    if status == JobStatus.RUNNING or status == before == JobStatus.QUEUED:
        return True
    return limit.hold == "job" and has_started


class Place(NamedTuple):
    """Where a job stands in the queue."""

    sort_at: int
    handle: int


class Book(Protocol):
    """What a store knows of the slots of its keys, inside a transaction."""

    def held(self, key: str) -> int:
        """How many slots of the key are held."""

    def holders(self, key: str) -> list[str]:
        """Ids of jobs that have a slot of the key, `HOLDERS_SHOWN` at most, the oldest first."""

    def first_blocked(self, key: str) -> tuple[Place, int] | None:
        """The blocked job of the key that comes first in the queue, and its limit."""

    def last_unbegun(self, key: str) -> Place | None:
        """The last in the queue of the jobs that have a slot of the key and could wait as well: QUEUED, held by nobody,
        not begun (or its limit holds only what runs), and not promised to be let in at once (`reject`)."""

    def live(self, key: str) -> list[int]:
        """Handles of the jobs of the key that have a slot or are blocked, and were not asked to make way: in order."""

    def give(self, handle: int) -> None:
        """A blocked job gets a slot: from now on claims find it."""

    def take(self, handle: int) -> None:
        """An unbegun job loses its slot and is blocked."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A job that enters the queue for the first time, written already and without a slot."""

    handle: int
    job_id: str
    limit: Limit


def refuse(book: Book, entries: Sequence[Entry], freeing: str | None = None) -> None:
    """`LimitReached` for the first that may not enter, and then none does. `freeing` is a key of which the same
    transaction gives a slot back, where that is not written yet."""
    taken: dict[str, int] = {}
    for entry in entries:
        key, limit = entry.limit.key, entry.limit
        if limit.overflow == "reject":
            held = taken.get(key)
            held = book.held(key) - (key == freeing) if held is None else held
            if held >= limit.limit:
                raise limit_reached(entry.job_id, limit, book.holders(key))
            taken[key] = held + 1


def enter(book: Book, entries: Sequence[Entry]) -> list[tuple[int, str]]:
    """Let jobs into the queue that are not refused: those that would be, are let in at once.

    Returns whom to ask to cancel, each (handle, reason); the request has `REPLACED` as its key and `REPLACED_BY` as
    who asks.
    """
    asked: list[tuple[int, str]] = []
    newest: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.limit.overflow == "reject":
            book.give(entry.handle)
        elif entry.limit.overflow == "replace":
            newest.setdefault(entry.limit.key, []).append(entry)
    for key, entered in newest.items():
        # Whoever enters now is the newest, also a job that was created long ago.
        handles = [entry.handle for entry in entered]
        others = [handle for handle in book.live(key) if handle not in set(handles)]
        last = entered[-1]
        asked += [(handle, f"job {last.job_id} replaces it") for handle in [*others, *handles][: -last.limit.limit]]
    return asked


def balance(book: Book, key: str) -> int:
    """Give the slots of a key to those that come first in the queue; how many jobs claims find that they did not find
    before. A job that has a slot and was not begun makes way for one that comes before it."""
    given, held = 0, None
    while (found := book.first_blocked(key)) is not None:
        first, limit = found
        held = book.held(key) if held is None else held
        if held < limit:
            held += 1
        elif (last := book.last_unbegun(key)) is not None and first < last:
            book.take(last.handle)
        else:
            break
        book.give(first.handle)
        given += 1
    return given


def limit_reached(job_id: str, limit: Limit, held_by: Sequence[str]) -> LimitReached:
    """The refusal, as a sentence with key, limit and who holds it."""
    what = f"{limit.limit:,} jobs" if limit.limit > 1 else "one job"
    key = f" with the key {limit.key.partition(' ')[2]}" if " " in limit.key else ""
    shown = ", ".join(held_by) + (" and others" if limit.limit > len(held_by) else "")
    return LimitReached(
        f"Job {job_id} may not start: of workflow {limit.workflow_id!r} only {what}{key} may be on at a time, and "
        f"{'those are' if limit.limit > 1 else 'that is'} {shown}. Wait for one of them to end, or cancel it.",
        job_id=job_id,
        key=limit.key,
        limit=limit.limit,
        held_by=held_by,
    )


def _ordered(value: Any) -> Any:
    """Objects with their keys in order: the same value is the same text."""
    if isinstance(value, dict):
        return {key: _ordered(value[key]) for key in sorted(value)}
    return [_ordered(item) for item in value] if isinstance(value, list) else value
