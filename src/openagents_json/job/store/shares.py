"""Fair shares: jobs of one key get of all work what its weight says. The rules are here once, for every store. Pure.

Start-time fair queueing: each key has an account, which says how far it has come on a scale of microseconds of work
(divided by its weight). A job that enters the queue takes a *tag*, where it begins on that scale, and the queue goes by
tags instead of times. What a store does, in the transaction that writes a row:

- it asks `settle` about each row of a job with a share, and writes what that says (tag, charged);
- it puts the job at its tag in the queue (`arrival.place_us`).

A job is *charged* what it is expected to use when it enters the queue, and at its next rest or end what it has used, no
more and no less: what it was not charged yet is added to its account, the rest is given back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from openagents_json.clock import SECOND_US
from openagents_json.job.model import JobStatus

DEFAULT_WEIGHT = 1.0
MIN_WEIGHT, MAX_WEIGHT = 0.001, 1_000.0
UNKNOWN_US = SECOND_US  # what a job is expected to use of which nothing is known
LEAST_US = 1_000  # what every job is charged at first: also very short ones of a key stand one behind the other
FORGET_ABOVE = 1_000  # accounts, before those are looked for that make no difference any more


@dataclass(frozen=True, slots=True)
class Share:
    """To whose share a job counts. What is used is the time that attempts of it are on, in microseconds."""

    key: str
    expected_us: int  # in all
    used_us: int = 0  # so far; 0 while it is RUNNING, when it is not looked at


def share_of(key: str, expected_us: int, used_us: int, status: JobStatus) -> Share:
    """The share of a job in that status."""
    return Share(key, expected_us, 0 if status == JobStatus.RUNNING else used_us)


@dataclass(slots=True)
class Account:
    """How far a key has come. Written by `settle`, and by whoever sets its weight."""

    key: str
    weight: float = DEFAULT_WEIGHT
    finish_us: int | None = None  # where its next job begins, if it is not behind the line; None: it never had one

    def charge(self, us: int, line_us: int) -> None:
        """Go on by so much work, or back."""
        self.finish_us = (line_us if self.finish_us is None else self.finish_us) + round(us / self.weight)

    def matters(self, line_us: int) -> bool:
        """Whether it says anything that a new account would not say."""
        return self.weight != DEFAULT_WEIGHT or (self.finish_us is not None and self.finish_us > line_us)


@dataclass(frozen=True, slots=True)
class StoredShare:
    """A key as it is shown: its weight, and how much work of its own it is ahead of those that are served next."""

    key: str
    weight: float
    ahead_us: int


class Book(Protocol):
    """What a store knows of its shares, inside a transaction."""

    def line_us(self, rank: int) -> int:
        """Where jobs of a rank begin whose key is not ahead: see `line`."""

    def account(self, key: str) -> Account:
        """The account of a key, a new one if it has none. What is changed in it is written."""


def line(now_us: int, first_queued_us: int | None, last_running_us: int | None, farthest_us: int | None) -> int:
    """Where a job begins whose key is not ahead of the others: who comes anew, or after a while, has no credit for the
    time before, and nobody is served before it for what it missed.

    That is the first tag in the queue or, if it is further, the last one of its own rank that runs: what is more urgent
    is served out of turn and moves nobody else. When no job with a share waits, all keys begin anew from where the
    farthest one stands, and not before now.
    """
    if first_queued_us is None:
        return max(now_us, farthest_us or now_us, last_running_us or now_us)
    return first_queued_us if last_running_us is None else max(first_queued_us, last_running_us)


class Lines:
    """The lines of one transaction: what was read of a store once, and what has entered the queue since."""

    def __init__(self, now_us: int, first_queued_us: int | None, farthest_us: int | None) -> None:
        self.now_us = now_us
        self._first_queued_us = first_queued_us
        self._farthest_us = farthest_us

    def line_us(self, last_running_us: int | None) -> int:
        """That of a rank."""
        return line(self.now_us, self._first_queued_us, last_running_us, self._farthest_us)

    def entered(self, settled: Settled | None) -> None:
        """A job was settled, and may be in the queue now."""
        if settled is not None and settled.tag_us is not None:
            first_us = self._first_queued_us
            self._first_queued_us = settled.tag_us if first_us is None else min(first_us, settled.tag_us)


@dataclass(frozen=True, slots=True)
class Settled:
    """What is written into the row: its tag while it is in the queue or runs, and what it was charged until now."""

    tag_us: int | None
    charged_us: int


def settle(
    book: Book, share: Share, rank: int, before: JobStatus, status: JobStatus, charged_us: int, *, has_begun: bool
) -> Settled | None:
    """What the row of a job with a share means for its account, and for itself; None if nothing. A new job was CREATED
    before."""
    if status == JobStatus.RUNNING or status == before == JobStatus.QUEUED:
        return None
    enters = status == JobStatus.QUEUED
    if not enters and share.used_us == charged_us:
        return Settled(None, charged_us)
    account, line_us = book.account(share.key), book.line_us(rank)
    if share.used_us != charged_us:
        account.charge(share.used_us - charged_us, line_us)
    if not enters:
        return Settled(None, share.used_us)
    begins_us = line_us if account.finish_us is None else max(line_us, account.finish_us)
    owed_us = max(share.expected_us - share.used_us, LEAST_US)
    account.finish_us = begins_us + round(owed_us / account.weight)
    # What has begun goes on at the line, before jobs of its key that have not; these pay for it all the same.
    return Settled(line_us if has_begun else begins_us, share.used_us + owed_us)


def shown(account: Account, line_us: int) -> StoredShare:
    """An account as it is listed."""
    ahead_us = 0 if account.finish_us is None else max(account.finish_us - line_us, 0)
    return StoredShare(account.key, account.weight, round(ahead_us * account.weight))
