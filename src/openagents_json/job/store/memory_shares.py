"""The shares of the memory store: the accounts of their keys, and which of their jobs wait or run."""

from __future__ import annotations

import heapq
from typing import Protocol

from openagents_json.job.model import JobStatus
from openagents_json.job.store.records import JobRow
from openagents_json.job.store.shares import FORGET_ABOVE, Account, StoredShare, line, settle, shown


class Shared(Protocol):
    """What is needed of a job here; the store's own."""

    handle: int
    row: JobRow
    tag_us: int | None
    charged_us: int


class MemoryShares:
    """`shares.Book`, and the tags of jobs. All that it does follows from the mutators of the store and their times."""

    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {}
        self._queued: dict[int, Shared] = {}  # jobs in the queue, by handle
        self._running: dict[int, Shared] = {}  # those that went from there into RUNNING
        self._turns: list[tuple[int, int]] = []  # heap of (tag, handle) of the queued; stale entries are passed over
        self._now_us = 0  # of the mutator that is at work

    def place(self, job: Shared, before: JobStatus, now_us: int) -> None:
        """A row of a job with a share was written: settle its account, and note where it stands now."""
        row = job.row
        assert row.share is not None
        self._now_us = now_us
        self._queued.pop(job.handle, None)  # where it stood says nothing of the line at which it comes back
        self._running.pop(job.handle, None)
        has_begun = row.started_us is not None
        settled = settle(self, row.share, row.rank, before, row.status, job.charged_us, has_begun=has_begun)
        if settled is not None:
            job.tag_us, job.charged_us = settled.tag_us, settled.charged_us
        self.note(job)

    def note(self, job: Shared) -> None:
        """Note where a job with a share stands."""
        status, tag_us = job.row.status, job.tag_us
        for known, of in ((self._queued, JobStatus.QUEUED), (self._running, JobStatus.RUNNING)):
            if status == of and tag_us is not None:
                known[job.handle] = job
            else:
                known.pop(job.handle, None)
        if status == JobStatus.QUEUED and tag_us is not None:
            heapq.heappush(self._turns, (tag_us, job.handle))

    def line_us(self, rank: int) -> int:
        running = (job.tag_us for job in self._running.values() if job.row.rank == rank and job.tag_us is not None)
        first_us = self._first_us()
        farthest_us = self._farthest_us() if first_us is None else None  # it does not count then
        return line(self._now_us, first_us, max(running, default=None), farthest_us)

    def account(self, key: str) -> Account:
        account = self.accounts.get(key)
        if account is None:
            if len(self.accounts) >= FORGET_ABOVE:
                floor_us = line(self._now_us, self._first_us(), None, self._farthest_us())
                self.accounts = {name: one for name, one in self.accounts.items() if one.matters(floor_us)}
            account = self.accounts[key] = Account(key)
        return account

    def set_weight(self, key: str, weight: float) -> None:
        """From now on its jobs are charged by that weight."""
        self.account(key).weight = weight

    def list(self, now_us: int, after: str, limit: int) -> list[StoredShare]:
        """As the verb of the store says."""
        line_us = line(now_us, self._first_us(), None, self._farthest_us())
        keys = sorted(key for key in self.accounts if key > after)[:limit]
        return [shown(self.accounts[key], line_us) for key in keys]

    def _first_us(self) -> int | None:
        while self._turns:
            tag_us, handle = self._turns[0]
            job = self._queued.get(handle)
            if job is not None and job.tag_us == tag_us:
                return tag_us
            heapq.heappop(self._turns)
        return None

    def _farthest_us(self) -> int | None:
        return max((one.finish_us for one in self.accounts.values() if one.finish_us is not None), default=None)
