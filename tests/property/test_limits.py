"""Limits in any order of events: the stores agree, no more jobs are on than may be, and no slot lies idle."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from openagents_json.errors import LimitReached
from openagents_json.ids import uuid7
from openagents_json.job.machine import Interrupted, Tick
from openagents_json.job.model import JobPriority, JobStatus
from openagents_json.job.store import MemoryJobStore, PostgresJobStore, SqliteJobStore, postgres_limits
from openagents_json.job.store.base import JobStore
from openagents_json.job.store.contract.jobs import RETRY_LATER, Holder, new_job, request
from openagents_json.job.store.limits import Limit
from openagents_json.testing import FakeClock
from tests.postgres_server import Server

KEYS = ("calls", 'calls "acme"')
MAX_LIMIT = 3

limits = st.builds(
    Limit,
    st.sampled_from(KEYS),
    st.integers(1, MAX_LIMIT),
    st.sampled_from(["job", "running"]),
    st.sampled_from(["queue", "reject", "replace"]),
)
actions = st.one_of(
    st.tuples(st.just("create"), limits, st.sampled_from(JobPriority), st.booleans()),
    st.tuples(st.just("claim"), st.integers(1, 3)),
    st.tuples(st.sampled_from(["begin", "fail", "wait", "pause", "finish", "die", "release"]), st.integers(0, 9)),
    st.tuples(st.sampled_from(["start", "pause", "resume", "cancel"]), st.integers(0, 9)),
    st.tuples(st.just("prioritize"), st.integers(0, 9), st.sampled_from(JobPriority)),
    st.tuples(st.just("delete"), st.integers(0, 9)),
    st.tuples(st.just("settle")),
    st.tuples(st.just("pass"), st.integers(1, 4_000)),
)


@dataclass
class World:
    """One store, and who holds what of it. The same actions have the same results in every store."""

    store: JobStore
    clock: FakeClock
    ids: list[str]
    held: dict[str, Holder] = field(default_factory=dict)
    asked: int = 0

    async def act(self, action: tuple[Any, ...], job_id: str) -> str:
        """Do it; what came of it, in a word."""
        name, *rest = action
        if name == "create":
            limit, priority, start = rest
            new = replace(new_job(self.clock, job_id=job_id, priority=priority, start=start), limit=limit)
            try:
                self.ids.append(await self.store.create(new))
            except LimitReached:
                event("a job was refused")
                return "refused"
        elif name == "claim":
            claims = await self.store.claim("w1", rest[0])
            self.held |= {claim.job_id: Holder(self.clock, claim) for claim in claims}
            return " ".join(claim.job_id for claim in claims)
        elif name == "settle":
            for claim in [*await self.store.hold_requested("w1", 99), *await self.store.hold_due("w1", 99)]:
                await self._settle(Holder(self.clock, claim))
        elif name in ("begin", "fail", "wait", "finish", "die", "release") and self.held:
            await self._run(name, sorted(self.held)[rest[0] % len(self.held)])
        elif name in ("start", "pause", "resume", "cancel", "prioritize") and self.ids:
            verb = "set_priority" if name == "prioritize" else name
            payload = {"priority": str(rest[1])} if name == "prioritize" else {"force": False}
            self.asked += 1
            job_id = self.ids[rest[0] % len(self.ids)]
            held = await self.store.hold(job_id, "w1", request(verb, f"{verb}{self.asked}", **payload))
            if held is not None and held.claim is not None:
                await self._settle(Holder(self.clock, held.claim))
        elif name == "delete" and self.ids:
            job_id = self.ids[rest[0] % len(self.ids)]
            if await self.store.delete(job_id):
                self.ids.remove(job_id)
        return ""

    async def _settle(self, holder: Holder) -> None:
        requests = holder.claim.requests
        while True:
            commit = holder.commit_of(Tick(), drains=requests)
            if not commit.events and not requests:
                return await self.store.release(holder.claim)
            try:
                return await self.store.commit(commit)
            except LimitReached:
                holder = Holder(self.clock, holder.claim)
                event("a start was refused")
                refused = [one for one in requests if one.kind == "start"]
                requests = [one for one in requests if one.kind != "start"]
                if refused and not requests:
                    drained = [one.sequence for one in refused]
                    return await self.store.commit(replace(holder.commit_of(), drained=drained))

    async def _run(self, name: str, job_id: str) -> None:
        holder = self.held[job_id]
        requests = await self.store.read_requests(job_id)
        if holder.status == JobStatus.QUEUED:
            if name == "release":
                await self.store.release(self.held.pop(job_id).claim)
            else:
                await holder.commit(self.store, holder.started(), drains=requests)
        elif name == "die":
            del self.held[job_id]
            await self.store.commit(holder.commit_of(Interrupted("w1"), drains=requests))
        elif path := next((path for path in ("first", "second") if _is_live(holder, path)), None):
            happening: Any = holder.succeeded(path)
            if name in ("fail", "wait"):
                happening = holder.failed(path, retry=RETRY_LATER if name == "wait" else None)
            await holder.commit(self.store, happening, drains=requests)
        if holder.status != JobStatus.RUNNING:
            self.held.pop(job_id, None)

    async def slots(self) -> dict[str, bool]:
        """Which jobs with a limit have a slot, after a look at what must always hold."""
        found: dict[str, bool] = {}
        blocked: dict[str, list[int]] = {}  # the limits of those that wait, by key
        held = dict.fromkeys(KEYS, 0)
        for job_id in self.ids:
            stored, row = await self.store.read_limit(job_id), await self.store.read_summary(job_id)
            assert stored is not None and row is not None
            found[job_id] = stored.has_slot
            held[stored.limit.key] += stored.has_slot
            if row.status == JobStatus.QUEUED and not stored.has_slot:
                blocked.setdefault(stored.limit.key, []).append(stored.limit.limit)
            assert stored.has_slot or row.status != JobStatus.RUNNING
            assert not (stored.has_slot and (row.status.is_final or row.status == JobStatus.CREATED))
        assert all(count <= MAX_LIMIT for count in held.values())
        for key, waiting in blocked.items():
            assert held[key] >= min(waiting), "a slot lies idle and somebody waits for one"
        return found


def _is_live(holder: Holder, path: str) -> bool:
    run = holder.state.runs.get(path)
    return run is not None and run.live


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(actions, min_size=20, max_size=60))
def test_stores_agree_on_slots_and_none_lies_idle(script: list[tuple[Any, ...]]) -> None:
    async def play() -> None:
        with tempfile.TemporaryDirectory() as folder:
            await _play(script, lambda clock: SqliteJobStore(Path(folder) / "jobs.db", clock))

    asyncio.run(play())


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(st.lists(actions, min_size=20, max_size=40))
def test_postgresql_agrees_with_memory_on_slots(
    postgres: Server, monkeypatch: pytest.MonkeyPatch, script: list[tuple[Any, ...]]
) -> None:
    monkeypatch.setattr(postgres_limits, "DEPTH", (1, 2))  # what is read of a key hardly ever is all of it

    async def play() -> None:
        url = postgres.store_url(await postgres.empty_schema())
        await _play(script, lambda clock: PostgresJobStore(url, clock))

    asyncio.run(play())


async def _play(script: list[tuple[Any, ...]], other_of: Callable[[FakeClock], JobStore]) -> None:
    clocks = FakeClock(), FakeClock()
    memory, other = MemoryJobStore(clocks[0]), other_of(clocks[1])
    await other.open()
    try:
        worlds = [World(store, clock, []) for store, clock in zip((memory, other), clocks, strict=True)]
        for world in worlds:
            await world.store.register_worker("w1")
        for action in script:
            if action[0] == "pass":
                for clock in clocks:
                    clock.advance(action[1])
                continue
            job_id = uuid7(clocks[0].now_us())
            first, second = [await world.act(action, job_id) for world in worlds]
            assert first == second
            first_slots, second_slots = [await world.slots() for world in worlds]
            assert first_slots == second_slots
    finally:
        await other.close()
