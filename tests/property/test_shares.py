"""Fair shares in virtual time: whoever has work waiting gets its part, whenever it came and however long its jobs are.

Work is counted when it is given to a slot. The bound is that of start-time fair queueing: between two keys that have
jobs waiting, what each got for its weight differs by the largest job of one and the largest job of the other.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openagents_json.job.model import JobPriority, JobStatus
from openagents_json.job.store.memory_shares import MemoryShares
from openagents_json.job.store.records import JobRow
from openagents_json.job.store.shares import LEAST_US, Share

MS = 1_000  # microseconds
EMPTY = JobRow(JobStatus.CREATED, JobPriority.MEDIUM.rank, 1, None, None, None, 0.0, None, None, None, False, False)


@dataclass
class Work:
    """A job, as the rules of shares see one."""

    handle: int
    row: JobRow
    takes_us: int
    tag_us: int | None = None
    charged_us: int = 0


@dataclass
class Tenant:
    """Comes at a time with some jobs at once, each as long as it is expected to be, or not."""

    key: str
    weight: float
    comes_us: int
    lengths: list[int]
    guesses: list[int] = field(default_factory=list)

    @property
    def largest(self) -> float:
        return max([*self.lengths, *self.guesses, LEAST_US]) / self.weight


class World:
    """Some slots, which take the first tag in the queue whenever they are free."""

    def __init__(self, tenants: list[Tenant], slots: int) -> None:
        self.shares = MemoryShares()
        self.tenants = {tenant.key: tenant for tenant in tenants}
        self.free = slots
        self.now_us = 0
        self.handles = 0
        self.queue: list[tuple[int, int, Work]] = []
        self.running: list[tuple[int, int, Work]] = []
        self.given: Counter[str] = Counter()  # work, by key
        for tenant in tenants:
            self.shares.set_weight(tenant.key, tenant.weight)

    def move(self, job: Work, status: JobStatus, **changes: object) -> None:
        before = job.row.status
        started_us = job.row.started_us if status != JobStatus.RUNNING else self.now_us
        job.row = replace(job.row, status=status, started_us=started_us, **changes)  # type: ignore[arg-type]
        self.shares.place(job, before, self.now_us)

    def enter(self, tenant: Tenant, place: int) -> None:
        self.handles += 1
        takes_us = tenant.lengths[place]
        guess = tenant.guesses[place] if tenant.guesses else takes_us
        job = Work(self.handles, replace(EMPTY, share=Share(tenant.key, guess)), takes_us)
        self.move(job, JobStatus.QUEUED)
        assert job.tag_us is not None
        heapq.heappush(self.queue, (job.tag_us, job.handle, job))

    def run(self) -> Iterator[str]:
        """The key of each job that is begun, until nothing is left to do."""
        coming = sorted(self.tenants.values(), key=lambda tenant: tenant.comes_us)
        while coming or self.queue or self.running:
            while coming and coming[0].comes_us <= self.now_us:
                tenant = coming.pop(0)
                for place in range(len(tenant.lengths)):
                    self.enter(tenant, place)
            if self.queue and self.free:
                self.free -= 1
                _, handle, job = heapq.heappop(self.queue)
                self.move(job, JobStatus.RUNNING)
                assert job.row.share is not None
                heapq.heappush(self.running, (self.now_us + job.takes_us, handle, job))
                self.given[job.row.share.key] += job.takes_us
                yield job.row.share.key
                continue
            moments = ([coming[0].comes_us] if coming else []) + ([self.running[0][0]] if self.running else [])
            if moments:
                self.now_us = max(self.now_us, min(moments))
            while self.running and self.running[0][0] <= self.now_us:
                _, _, job = heapq.heappop(self.running)
                self.free += 1
                assert job.row.share is not None
                self.move(job, JobStatus.COMPLETED, share=replace(job.row.share, used_us=job.takes_us))

    def waiting(self) -> set[str]:
        return {job.row.share.key for *_, job in self.queue if job.row.share is not None}


lengths = st.lists(st.integers(1, 50).map(lambda ms: ms * MS), min_size=1, max_size=25)
weights = st.sampled_from([0.5, 1.0, 1.0, 2.0, 5.0])


def tenants(*, guess: bool = False) -> st.SearchStrategy[list[Tenant]]:
    def named(given: list[tuple[float, int, list[int], list[int]]]) -> list[Tenant]:
        return [
            Tenant(f"t{place}", weight, comes_ms * MS, long, (guesses * 25)[: len(long)] if guess else [])
            for place, (weight, comes_ms, long, guesses) in enumerate(given)
        ]

    one = st.tuples(weights, st.sampled_from([0, 0, 40, 300]), lengths, lengths)
    return st.lists(one, min_size=2, max_size=4).map(named)


@pytest.mark.guarantee("G8")
@settings(deadline=None)
@given(tenants(), st.integers(1, 4))
def test_between_keys_with_work_waiting_nobody_gets_more_than_its_part(given: list[Tenant], slots: int) -> None:
    """From whenever both wait: so who comes late is neither starved nor has credit for the time before."""
    world = World(given, slots)
    spans: dict[tuple[str, str], tuple[float, float]] = {}
    for _ in world.run():
        waiting = world.waiting()
        for a, b in combinations(world.tenants, 2):
            if {a, b} <= waiting:
                of_a, of_b = world.tenants[a], world.tenants[b]
                ahead = world.given[a] / of_a.weight - world.given[b] / of_b.weight
                low, high = spans.get((a, b), (ahead, ahead))
                spans[a, b] = min(low, ahead), max(high, ahead)
                assert spans[a, b][1] - spans[a, b][0] <= of_a.largest + of_b.largest + 2 * LEAST_US
            else:
                spans.pop((a, b), None)


@settings(deadline=None)
@given(tenants(guess=True), st.integers(1, 4))
def test_wrong_guesses_are_paid_back(given: list[Tenant], slots: int) -> None:
    """When all is done each account has come as far as what its jobs have really used, from where the line was."""
    for tenant in given:
        tenant.comes_us = 0
    world = World(given, slots)
    list(world.run())
    accounts = world.shares.accounts
    for tenant in given:
        finish_us = accounts[tenant.key].finish_us
        assert finish_us is not None
        assert abs(finish_us - sum(tenant.lengths) / tenant.weight) <= 2 * len(tenant.lengths)


@settings(deadline=None)
@given(tenants(guess=True), st.integers(1, 4))
def test_all_begin_anew_when_nothing_waits(given: list[Tenant], slots: int) -> None:
    world = World(given, slots)
    list(world.run())
    assert {one.ahead_us for one in world.shares.list(world.now_us, "", 100)} == {0}


@settings(deadline=None)
@given(st.integers(1, 20), st.integers(1, 20))
def test_newcomer_is_served_next_but_one(waiting: int, served: int) -> None:
    old = Tenant("old", 1.0, 0, [10 * MS] * (waiting + served))
    new = Tenant("new", 1.0, served * 10 * MS - 1, [10 * MS] * 3)
    begun = list(World([old, new], 1).run())
    assert begun.index("new") <= served + 1
    together = begun[begun.index("new") :][: 2 * min(3, waiting)]
    assert abs(Counter(together)["new"] - Counter(together)["old"]) <= 2
