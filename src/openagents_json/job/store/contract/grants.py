"""The contract of grants: no more attempts of a component are on, or begin in a time, than its limits let."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from openagents_json.clock import SECOND_US
from openagents_json.job.store.base import JobStore
from openagents_json.job.store.contract.jobs import WithClock, accept, begin
from openagents_json.job.store.grants import WAITS_KEPT, Blocked, Cap, Want, cap_key
from openagents_json.job.store.limits import Place
from openagents_json.testing import FakeClock

FETCH = Cap(cap_key("concurrency", "fetch", "a.org"), 2)
RATE = Cap(cap_key("rate", "fetch"), 3, 60 * SECOND_US)


def want(number: int, *caps: Cap, job_id: str = "job") -> Want:
    """An attempt that comes at that place."""
    return Want(job_id, f"step{number}", Place(number, number), number, caps or (FETCH,))


async def register(store: JobStore, *workers: str) -> None:
    """These live."""
    for worker in workers:
        await store.register_worker(worker)


async def ask(store: JobStore, worker: str, holds: int, *wants: Want) -> list[bool]:
    """Which of these are granted to a worker that holds so many slots of the one key."""
    return [one is None for one in await store.take_grants(worker, {FETCH.key: holds}, wants)]


def refusals(answers: Sequence[Blocked | None]) -> list[Blocked]:
    """Why those that are not granted are not."""
    return [one for one in answers if one is not None]


@pytest.mark.asyncio
class GrantContract(WithClock):
    """Leave to begin attempts, by concurrency and by rate."""

    # ── slots ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def test_no_more_are_granted_than_the_limit_whoever_asks(self, store: JobStore) -> None:
        await register(store, "w1", "w2")
        assert await ask(store, "w1", 0, want(1)) == [True]
        assert await ask(store, "w2", 0, want(2), want(3)) == [True, False]
        assert await ask(store, "w1", 1, want(4)) == [False]
        assert await ask(store, "w2", 0) == []
        assert await ask(store, "w1", 1, want(4)) == [True], "w2 has given its slot back, and wants none any more"

    async def test_refusal_says_why(self, store: JobStore, clock: FakeClock) -> None:
        await register(store, "w1", "w2")
        await ask(store, "w1", 0, want(1), want(2))
        [refusal] = refusals(await store.take_grants("w2", {}, [want(3)]))
        assert refusal == Blocked("job", "step3", FETCH, ("w1",), 3, None)
        assert (FETCH.kind, FETCH.component, FETCH.value, RATE.value) == ("concurrency", "fetch", "a.org", None)

    async def test_keys_do_not_share_slots(self, store: JobStore) -> None:
        await register(store, "w1")
        other = Cap(cap_key("concurrency", "fetch", {"b": 1, "a": [None]}), 1)
        assert await ask(store, "w1", 0, want(1), want(2), want(3, other), want(4, other)) == [True, True, True, False]

    async def test_question_whose_answer_was_lost_is_repeated(self, store: JobStore) -> None:
        await register(store, "w1", "w2")
        for _ in range(3):
            assert await ask(store, "w1", 0, want(1)) == [True]
        assert await ask(store, "w2", 0, want(2)) == [True]

    async def test_slots_of_a_worker_that_is_gone_are_free(self, store: JobStore) -> None:
        await register(store, "w1", "w2")
        await ask(store, "w1", 0, want(1), want(2))
        await store.unregister_worker("w1")
        assert await ask(store, "w2", 0, want(3), want(4)) == [True, True]

    async def test_slots_of_a_dead_worker_are_free_and_its_wants_are_forgotten(
        self, store: JobStore, clock: FakeClock
    ) -> None:
        await register(store, "w1", "w2")
        await ask(store, "w1", 0, want(1), want(2), want(3))
        clock.advance(store.lease_s - 1)
        await store.heartbeat("w2")
        assert await ask(store, "w2", 0, want(4), want(5)) == [False, False]
        clock.advance(1)
        assert await ask(store, "w2", 0, want(4), want(5)) == [True, True]
        assert await store.bury_workers() == 1
        await register(store, "w1")
        assert await ask(store, "w1", 0, want(6)) == [False]

    async def test_worker_that_comes_back_says_what_it_still_holds(self, store: JobStore, clock: FakeClock) -> None:
        await register(store, "w1", "w2")
        await ask(store, "w1", 0, want(1), want(2))
        clock.advance(store.lease_s)
        await register(store, "w2")
        await store.bury_workers()
        assert await ask(store, "w2", 0, want(3)) == [True]
        await register(store, "w1")
        assert await ask(store, "w1", 2) == []
        assert await ask(store, "w2", 1, want(4)) == [False], "three are on, and that is one too many"
        assert await ask(store, "w2", 0) == []
        assert await ask(store, "w2", 0, want(4)) == [False]

    async def test_free_slot_goes_to_the_first_of_all_workers(self, store: JobStore) -> None:
        await register(store, "w1", "w2", "w3")
        await ask(store, "w1", 0, want(1), want(2))
        assert await ask(store, "w2", 0, want(3)) == [False]
        assert await ask(store, "w1", 1, want(4)) == [False], "w2 has been waiting for longer"
        assert await ask(store, "w3", 0, want(5)) == [False]
        assert await ask(store, "w2", 0, want(3)) == [True]
        assert await ask(store, "w3", 0, want(5)) == [False]
        assert await ask(store, "w2", 0) == []
        assert await ask(store, "w3", 0, want(5)) == [False], "w1 comes before"
        assert await ask(store, "w1", 1, want(4)) == [True]

    async def test_want_that_is_withdrawn_holds_nobody_up(self, store: JobStore) -> None:
        await register(store, "w1", "w2")
        await ask(store, "w1", 0, want(1), want(2))
        await ask(store, "w2", 0, want(3))
        await ask(store, "w2", 0)
        assert await ask(store, "w1", 1, want(4)) == [True]

    async def test_of_one_worker_the_first_comes_first(self, store: JobStore) -> None:
        await register(store, "w1")
        assert await ask(store, "w1", 0, want(3), want(1), want(2)) == [False, True, True]

    async def test_two_that_want_the_last_slot_at_the_same_moment(self, store: JobStore) -> None:
        workers = [f"w{n}" for n in range(8)]
        await register(store, *workers)
        answers = await asyncio.gather(*(ask(store, worker, 0, want(1)) for worker in workers))
        assert sum(granted for [granted] in answers) == FETCH.limit

    async def test_limits_of_different_programs_count_each_for_its_own(self, store: JobStore) -> None:
        await register(store, "w1", "w2")
        wider = Cap(FETCH.key, 3)
        await ask(store, "w1", 0, want(1), want(2))
        assert await ask(store, "w2", 0, want(3)) == [False]
        assert await ask(store, "w2", 0, want(3, wider)) == [True]

    # ── rates ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def rated(self, store: JobStore, worker: str, *numbers: int, cap: Cap = RATE) -> list[bool]:
        """Which of these may begin by a rate."""
        return [one is None for one in await store.take_grants(worker, {}, [want(number, cap) for number in numbers])]

    async def test_bucket_is_full_at_first_and_fills_with_time(self, store: JobStore, clock: FakeClock) -> None:
        await register(store, "w1", "w2")
        assert await self.rated(store, "w1", 1, 2) == [True, True]
        assert await self.rated(store, "w2", 3, 4) == [True, False]
        await store.take_grants("w2", {RATE.key: 0}, [])
        clock.advance(19)
        assert await self.rated(store, "w1", 5) == [False]
        clock.advance(1)
        assert await self.rated(store, "w1", 5, 6) == [True, False]
        await store.take_grants("w1", {RATE.key: 0}, [])
        clock.advance(3_600)
        await register(store, "w1")
        assert await self.rated(store, "w1", 7, 8, 9, 10) == [True, True, True, False], "it is never more than full"

    async def test_refusal_says_when_the_next_token_comes(self, store: JobStore, clock: FakeClock) -> None:
        await register(store, "w1", "w2")
        assert await self.rated(store, "w1", 1, 2, 3) == [True] * 3
        clock.advance(5)
        [refusal] = refusals(await store.take_grants("w1", {}, [want(4, RATE)]))
        next_us = clock.now_us() + 15 * SECOND_US
        assert refusal == Blocked("job", "step4", RATE, (), 4, next_us, 15 * SECOND_US)
        clock.advance(15)
        [refusal] = refusals(await store.take_grants("w2", {}, [want(5, RATE)]))
        assert refusal.next_us == clock.now_us() + 20 * SECOND_US, "the token of now is for who came first"
        assert await self.rated(store, "w1", 4) == [True]

    async def test_rate_is_never_exceeded_by_rounding(self, store: JobStore, clock: FakeClock) -> None:
        await register(store, "w1")
        odd = Cap(cap_key("rate", "odd"), 7, SECOND_US)
        assert await self.rated(store, "w1", *range(8), cap=odd) == [True] * 7 + [False]
        granted = 0
        for number in range(100):
            clock.advance(0.1)
            if number % 10 == 0:
                await register(store, "w1")
            granted += sum(await self.rated(store, "w1", number, cap=odd))
        assert granted == 69, "in ten seconds seventy could come, and each takes a little longer than a seventh"

    async def test_attempt_needs_room_in_all_its_limits_at_once(self, store: JobStore, clock: FakeClock) -> None:
        await register(store, "w1", "w2")
        both = [want(number, FETCH, RATE) for number in range(1, 5)]
        answers = await store.take_grants("w1", {}, both)
        assert [one if one is None else one.cap for one in answers] == [None, None, FETCH, FETCH]
        answers = await store.take_grants("w1", {FETCH.key: 0}, both[2:])
        assert [one if one is None else one.cap for one in answers] == [None, RATE], "one token was left"
        answers = await store.take_grants("w2", {}, [want(5, FETCH)])
        assert answers == [None], "who waits for a token holds no slot up"

    # ── what is told ──────────────────────────────────────────────────────────────────────────────────────────────

    async def told(self, store: JobStore, worker: str, holds: Mapping[str, int], wants: Sequence[Want]) -> None:
        """A worker asks, whatever the answer."""
        await store.take_grants(worker, holds, wants)

    async def test_what_a_job_waits_for_is_told_to_everybody(self, store: JobStore, clock: FakeClock) -> None:
        await register(store, "w1", "w2")
        holder = await begin(store, clock, "w2")
        waiting = [want(number, FETCH, job_id=holder.job_id) for number in (3, 4)]
        rated = [want(number, RATE, job_id=holder.job_id) for number in range(5, 9)]
        await self.told(store, "w1", {}, [want(1), want(2)])
        await self.told(store, "w2", {}, [*waiting, *rated])
        clock.advance(5)
        next_us = clock.now_us() + 15 * SECOND_US
        assert await store.read_blocked(holder.job_id) == [
            Blocked(holder.job_id, "step3", FETCH, ("w1",), 3, None),
            Blocked(holder.job_id, "step4", FETCH, ("w1",), 4, None),
            Blocked(holder.job_id, "step8", RATE, (), 8, next_us),
        ]
        await self.told(store, "w2", {FETCH.key: 0, RATE.key: 0}, [])
        assert await store.read_blocked(holder.job_id) == []
        assert await store.read_blocked("nobody") == []
        assert await store.read_blocked(await accept(store, clock)) == []

    async def test_of_many_that_wait_the_first_are_told(self, store: JobStore, clock: FakeClock) -> None:
        await register(store, "w1", "w2")
        holder = await begin(store, clock, "w2")
        await self.told(store, "w1", {}, [want(1), want(2)])
        many = [want(number, job_id=holder.job_id) for number in range(100, 100 + 3 * WAITS_KEPT)]
        await self.told(store, "w2", {}, many)
        found = await store.read_blocked(holder.job_id)
        assert [one.path for one in found] == [one.path for one in many[:WAITS_KEPT]]
