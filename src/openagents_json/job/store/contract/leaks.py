"""The contract of leaks: resources that jobs could not release, kept apart from the jobs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from openagents_json.errors import LeaseLost, RequestsPending
from openagents_json.job.machine import Leak, ReleaseEnded, ResourceTracked, Stop
from openagents_json.job.store.base import JobStore
from openagents_json.job.store.contract.jobs import Holder, WithClock, begin, history, read, request
from openagents_json.job.store.records import Commit, StoredLeak
from openagents_json.testing import FakeClock

STUCK: dict[str, Any] = {
    "type": "door.stuck",
    "message": "the door is stuck",
    "step": "first",
    "attempt": 1,
    "retryable": None,
    "details": {"of": [1, "ü"]},
}


async def about_to_leak(store: JobStore, clock: FakeClock, *names: str) -> Holder:
    """A job whose first step has ended; the releases of what it acquired under these names are on."""
    holder = await begin(store, clock)
    token = holder.state.runs["first"].token
    tracked = [
        ResourceTracked("first", token, key, name, "tool.release", {"name": name}, "step", False)
        for key, name in enumerate(names)
    ]
    await holder.commit(store, *tracked, holder.succeeded("first"))
    while any(not one.live for one in holder.state.ledger.values()):  # each waits until the newer one was tried
        live = [one for one in holder.state.ledger.values() if one.live]
        await holder.commit(store, *(ReleaseEnded(one.id, one.token, STUCK, was_told=True) for one in live))
        if len(live) == len(holder.state.ledger):
            break
    return holder


def leaking(holder: Holder) -> Commit:
    """The commit that gives up every release that is on: its code cannot be ended."""
    on = [one for one in holder.state.ledger.values() if one.live]
    return holder.commit_of(*(ReleaseEnded(one.id, one.token, STUCK, Stop(abandoned=True)) for one in on))


async def leak(store: JobStore, clock: FakeClock, name: str = "vm") -> StoredLeak:
    """A leak of a job of its own."""
    known = {one.key for one in await store.list_leaks()}
    holder = await about_to_leak(store, clock, name)
    await store.commit(leaking(holder))
    await holder.commit(store, holder.succeeded("second"))
    [new] = [one for one in await store.list_leaks() if one.key not in known]
    return new


@pytest.mark.asyncio
class LeaksContract(WithClock):
    """Leaks come with the commit that gives them up, and go only when somebody says so."""

    async def test_leak_is_written_in_the_commit_that_gives_it_up(self, store: JobStore, clock: FakeClock) -> None:
        holder = await about_to_leak(store, clock, "vm")
        [resource] = holder.state.ledger.values()
        commit = leaking(holder)
        assert commit.leaks == [Leak(resource.id, "first", "vm", "tool.release", {"name": "vm"}, STUCK)]
        assert (await store.list_leaks(), await store.count_leaks()) == ([], 0)
        await store.commit(commit)
        [stored] = await store.list_leaks()
        assert stored == StoredLeak(
            stored.key, holder.job_id, resource.id, "calls", "first", "vm", "tool.release", {"name": "vm"}, STUCK,
            clock.now_us(), 0,
        )  # fmt: skip
        assert await store.count_leaks() == 1
        assert "resource.leaked" in [event.type for event in await history(store, holder.job_id)]

    async def test_refused_commit_leaves_no_leak(self, store: JobStore, clock: FakeClock) -> None:
        holder = await about_to_leak(store, clock, "vm")
        commit = leaking(holder)
        with pytest.raises(LeaseLost):
            await store.commit(replace(commit, claim=replace(commit.claim, epoch=99)))
        assert (await store.list_leaks(), await store.count_leaks()) == ([], 0)
        await store.commit(commit)
        assert await store.count_leaks() == 1

    async def test_final_commit_that_requests_hold_up_leaves_no_leak(self, store: JobStore, clock: FakeClock) -> None:
        holder = await about_to_leak(store, clock, "vm")
        await store.hold(holder.job_id, "caller", request("set_priority", priority="LOW"))
        [resource] = holder.state.ledger.values()
        given_up = ReleaseEnded(resource.id, resource.token, STUCK, Stop(abandoned=True))
        commit = holder.commit_of(given_up, holder.succeeded("second"))
        assert commit.row.status.is_final and commit.leaks
        with pytest.raises(RequestsPending):
            await store.commit(commit)
        assert await store.count_leaks() == 0
        asked = (await read(store, holder.job_id)).requests
        await store.commit(replace(commit, drained=[one.sequence for one in asked]))
        assert await store.count_leaks() == 1

    async def test_repeated_commit_adds_no_leak_twice(self, store: JobStore, clock: FakeClock) -> None:
        holder = await about_to_leak(store, clock, "vm")
        commit = leaking(holder)
        for _ in range(3):
            await store.commit(commit)
        [stored] = await store.list_leaks()
        assert await store.drop_leak(stored.key)
        await store.commit(commit)
        assert await store.count_leaks() == 0

    async def test_leaks_are_listed_oldest_first_and_page_by_page(self, store: JobStore, clock: FakeClock) -> None:
        made = [await leak(store, clock, f"vm {number}") for number in range(5)]
        assert await store.list_leaks() == made
        assert [one.key for one in made] == sorted({one.key for one in made})
        paged: list[StoredLeak] = []
        while page := await store.list_leaks(paged[-1].key if paged else 0, 2):
            assert len(page) <= 2
            paged += page
        assert paged == made
        assert await store.list_leaks(made[-1].key) == []
        assert await store.list_leaks(made[1].key - 1, 1) == [made[1]]

    async def test_try_that_failed_is_noted(self, store: JobStore, clock: FakeClock) -> None:
        one, other = [await leak(store, clock, name) for name in ("one", "other")]
        later = STUCK | {"message": "still stuck"}
        assert await store.note_leak(one.key, later)
        assert await store.note_leak(one.key, later)
        assert await store.list_leaks() == [replace(one, error=later, tries=2), other]
        assert await store.note_leak(other.key + 1, later) is False

    async def test_dropped_leak_is_gone_and_its_key_does_not_come_again(
        self, store: JobStore, clock: FakeClock
    ) -> None:
        one, other = [await leak(store, clock, name) for name in ("one", "other")]
        assert [await store.drop_leak(other.key), await store.drop_leak(other.key)] == [True, False]
        assert await store.list_leaks() == [one]
        assert (await leak(store, clock, "third")).key > other.key

    async def test_deleting_a_job_keeps_its_leaks(self, store: JobStore, clock: FakeClock) -> None:
        one, other = [await leak(store, clock, name) for name in ("one", "other")]
        assert await store.delete(one.job_id)
        clock.advance(60)
        assert await store.delete_final(clock.now_us(), 10) == 1
        assert await store.list_leaks() == [one, other]
        assert await store.count_leaks() == 2
