"""The store gives a worker a lease and the answer gets lost: the worker finds out, and the job goes on (G5)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from openagents_json import JobManager
from openagents_json.clock import SECOND_US
from openagents_json.errors import StoreUnavailable
from openagents_json.job.engine.leases import LOOKS
from openagents_json.job.engine.worker import RECOVER_S
from openagents_json.job.model import JobStatus
from openagents_json.job.store import Claim, Held, JobStore, Request
from tests.engine.support import SAFETY_S, Bench, history, types, until, vanish, written

everywhere = pytest.mark.parametrize("kind", ["memory", "sqlite", "file", "postgres"])


def ids_in(answer: Any) -> list[str]:
    """The jobs whose leases a verb has given."""
    if isinstance(answer, Held):
        answer = answer.claim
    if isinstance(answer, Claim):
        return [answer.job_id]
    return [claim.job_id for claim in answer or []]


def wrap(store: JobStore, verb: str, around: Callable[..., Any]) -> None:
    """From now on `around(call, *arguments, **named)` stands in for the verb."""
    call = getattr(store, verb)

    async def wrapped(*arguments: Any, **named: Any) -> Any:
        return await around(call, *arguments, **named)

    setattr(store, verb, wrapped)


def lose_answers(store: JobStore, verb: str, times: int = 1) -> list[str]:
    """The next answers of a verb that give leases get lost; the ids of the jobs, once that has happened."""
    lost: list[list[str]] = []
    ids: list[str] = []

    async def lose(call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        answer = await call(*arguments, **named)
        if len(lost) < times and (given := ids_in(answer)):
            lost.append(given)
            ids.extend(given)
            raise StoreUnavailable(f"the answer to {verb} is lost")
        return answer

    wrap(store, verb, lose)
    return ids


def note(store: JobStore, verb: str) -> list[Any]:
    """The answers of a verb, from now on."""
    answers: list[Any] = []

    async def noting(call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        answers.append(answer := await call(*arguments, **named))
        return answer

    wrap(store, verb, noting)
    return answers


async def tick(bench: Bench, jobs: JobManager) -> None:
    """The clock moves on, no faster than the store reads and writes: what was asked of it before is answered then."""
    await bench.pass_time(0.25)
    for _ in range(4):
        await written(jobs)
        await jobs.store.list_leaks()


async def passes(bench: Bench, jobs: JobManager, condition: Callable[[], Any]) -> None:
    """Until something is so, while the clock moves on."""
    async with asyncio.timeout(SAFETY_S):
        while not condition():
            await tick(bench, jobs)


async def final_within(bench: Bench, jobs: JobManager, seconds: float, *ids: str) -> list[JobStatus]:
    """The final statuses of jobs, which they have in so much time."""
    until_us = bench.clock.now_us() + round(seconds * SECOND_US)
    async with asyncio.timeout(SAFETY_S):
        while True:
            found = [(await jobs.get_summary(job_id)).status for job_id in ids]
            if all(status.is_final for status in found):
                return found
            assert bench.clock.now_us() < until_us, f"they stand still: {found}"
            await tick(bench, jobs)


def heartbeat_s(jobs: JobManager) -> float:
    return jobs.store.lease_s / 3


# ── each verb that takes leases ───────────────────────────────────────────────────────────────────────────────────


@everywhere
@pytest.mark.guarantee("G5")
@pytest.mark.parametrize("times", [1, 2])
async def test_claimed_jobs_go_on(bench: Bench, jobs: JobManager, times: int) -> None:
    lost = lose_answers(jobs.store, "claim", times)
    ids = await jobs.create_jobs(bench.one("note"), [{} for _ in range(5)], start=True)
    assert await final_within(bench, jobs, heartbeat_s(jobs), *ids) == ["COMPLETED"] * 5
    assert set(lost) <= set(ids) and lost
    assert [attempt for _, attempt in bench.components.calls] == [1] * 5
    assert "job.worker_lost" not in await types(jobs, ids[0])


@everywhere
@pytest.mark.guarantee("G5")
@pytest.mark.parametrize("with_worker", [True, False])
async def test_job_that_was_asked_something_goes_on(bench: Bench, with_worker: bool) -> None:
    async with bench.manager(worker=with_worker) as jobs:
        started = await jobs.create_job(bench.one("note"))
        cancelled = await jobs.create_job("flow")
        lost = lose_answers(jobs.store, "hold", 2)
        with pytest.raises(StoreUnavailable):
            await jobs.start_job(started)
        with pytest.raises(StoreUnavailable):
            await jobs.cancel_job(cancelled)
        assert lost == [started, cancelled]
        assert await final_within(bench, jobs, heartbeat_s(jobs), cancelled) == ["CANCELLED"]
        if with_worker:
            assert await final_within(bench, jobs, heartbeat_s(jobs), started) == ["COMPLETED"]
            return
        await passes(bench, jobs, lambda: not jobs._worker.leases._told)
        assert (await jobs.get_summary(started)).status == "QUEUED"
        stored = await jobs.store.read(started)
        assert stored is not None and stored.owner is None


@everywhere
@pytest.mark.guarantee("G5")
@pytest.mark.guarantee("G7")
async def test_job_that_began_when_it_was_created_goes_on(bench: Bench, jobs: JobManager) -> None:
    flow = bench.one("note")
    lost = lose_answers(jobs.store, "create_held")
    unknown = number = 0
    while not unknown:  # until the worker knows that there is nothing to overtake
        number += 1
        try:
            job_id = await jobs.create_job(flow, idempotency_key=f"k{number}", start=True)
        except StoreUnavailable:
            unknown = number
        else:
            await final_within(bench, jobs, heartbeat_s(jobs), job_id)
    job_id = await jobs.create_job(flow, idempotency_key=f"k{unknown}", start=True)
    assert [job_id] == lost
    assert await final_within(bench, jobs, heartbeat_s(jobs), job_id) == ["COMPLETED"]
    assert "attempt.lost" in await types(jobs, job_id), "the first attempt was recorded and never made"


@everywhere
@pytest.mark.guarantee("G5")
async def test_job_whose_timer_was_due_goes_on(bench: Bench, jobs: JobManager) -> None:
    lost = lose_answers(jobs.store, "hold_due", 2)
    at = bench.clock.now() + timedelta(seconds=5)
    new = await jobs.create_job(bench.one("note"), start_at=at)
    later = bench.one("flaky", id="later", inputs={"until": 2}, retry={"max_attempts": 2, "delay_seconds": 5})
    waiting = await jobs.create_job(later, start=True)
    await passes(bench, jobs, lambda: lost)
    assert await final_within(bench, jobs, heartbeat_s(jobs), new, waiting) == ["COMPLETED"] * 2


@everywhere
@pytest.mark.guarantee("G5")
async def test_job_of_a_dead_worker_goes_on(bench: Bench) -> None:
    async with bench.manager() as jobs:
        dead = bench.manager()
        await dead.open()
        flow = bench.workflow({"id": "a", "component": "note"}, {"id": "s", "component": "gate"})
        job_id = await dead.create_job(flow, start=True)
        while not bench.gate().contexts:
            await tick(bench, jobs)
        holder = next(one for one in (jobs, dead) if job_id in one._worker.runners)
        heir = dead if holder is jobs else jobs
        lost = lose_answers(heir.store, "hold_orphans")
        taken = note(heir.store, "hold_again")
        async with asyncio.timeout(SAFETY_S):
            await vanish(holder)
        bench.gate().open()
        await passes(bench, heir, lambda: lost)
        assert lost == [job_id]
        assert await final_within(bench, heir, heartbeat_s(heir), job_id) == ["COMPLETED"]
        assert [ids_in(answer) for answer in taken if answer] == [[job_id]]
        events = await history(heir, job_id)
        assert [event.data["path"] for event in events if event.type == "attempt.lost"] == ["s"]
        [worker_lost] = [event for event in events if event.type == "job.worker_lost"]
        assert worker_lost.data == {"worker": holder.worker_id, "deaths": 1}
        assert len(bench.components.calls) == 1, "a recorded step is not run again"
        if heir is dead:
            await heir.close()


@everywhere
@pytest.mark.guarantee("G5")
async def test_request_that_its_asker_left_behind_is_carried_out(bench: Bench, jobs: JobManager) -> None:
    job_id = await jobs.create_job(bench.one("note"))
    lost = lose_answers(jobs.store, "hold_requested")
    held = await jobs.store.hold(job_id, "gone", Request("key", "start", None, None, bench.clock.now_us()))
    assert held is not None and held.claim is not None
    await jobs.store.release(held.claim)
    await passes(bench, jobs, lambda: lost)
    assert await final_within(bench, jobs, heartbeat_s(jobs), job_id) == ["COMPLETED"]


@everywhere
@pytest.mark.guarantee("G5")
async def test_lease_whose_new_answer_is_lost_as_well_is_found_again(bench: Bench, jobs: JobManager) -> None:
    again = lose_answers(jobs.store, "hold_again", 2)
    lost = lose_answers(jobs.store, "hold_due")
    job_id = await jobs.create_job(bench.one("note"), start_at=bench.clock.now() + timedelta(seconds=5))
    await passes(bench, jobs, lambda: lost)
    assert await final_within(bench, jobs, heartbeat_s(jobs), job_id) == ["COMPLETED"]
    assert (lost, again) == ([job_id], [job_id, job_id])
    assert bench.components.calls == [("s", 1)]


@everywhere
async def test_job_that_is_held_while_the_store_fails_is_not_forgotten(bench: Bench) -> None:
    """Its request is settled for others, so nobody here waits for it and would try again."""
    async with bench.manager(worker=False) as jobs:
        job_id = await jobs.create_job(bench.one("note"))
        held = await jobs.store.hold(job_id, "gone", Request("key", "cancel", None, None, bench.clock.now_us()))
        assert held is not None and held.claim is not None
        await jobs.store.release(held.claim)
        failed = asyncio.Event()

        async def fail_once(call: Callable[..., Any], commit: Any) -> None:
            if not failed.is_set():
                failed.set()
                raise StoreUnavailable("away")
            await call(commit)

        wrap(jobs.store, "commit", fail_once)
        jobs._worker.posted([job_id])
        await failed.wait()
        assert await final_within(bench, jobs, heartbeat_s(jobs), job_id) == ["CANCELLED"]


# ── limits ────────────────────────────────────────────────────────────────────────────────────────────────────────


@everywhere
@pytest.mark.guarantee("G5")
@pytest.mark.parametrize("verb", ["claim", "hold_orphans"])
async def test_slot_of_a_limit_is_neither_lost_nor_doubled(bench: Bench, verb: str) -> None:
    flow = bench.workflow({"id": "s", "component": "gate"}, concurrency=1)
    dead = bench.manager()
    await dead.open()
    first = await dead.create_job(flow, start=verb == "hold_orphans")
    if verb == "hold_orphans":
        await bench.gate().wait_entered()
    await vanish(dead)
    async with bench.manager(worker=False) as desk:
        if verb == "claim":
            await desk.start_job(first)
        second = await desk.create_job(flow, start=True)
        entered = len(bench.gate().contexts)
    jobs = bench.manager()
    lost = lose_answers(jobs.store, verb)  # on SQLite the orphan is taken over at once, when the manager begins
    async with jobs:
        await passes(bench, jobs, lambda: lost == [first] and len(bench.gate().contexts) > entered)
        assert [context.job_id for context in bench.gate().contexts[entered:]] == [first]
        assert (await jobs.get_job_status(second))["waiting_for"][0]["held_by"] == [first]
        bench.gate().open()
        assert await final_within(bench, jobs, 2 * heartbeat_s(jobs), first, second) == ["COMPLETED"] * 2
        limit = await jobs.store.read_limit(second)
        assert limit is not None and not limit.held_by


# ── what must not be taken ────────────────────────────────────────────────────────────────────────────────────────


@everywhere
@pytest.mark.guarantee("G4")
async def test_lease_whose_answer_is_on_its_way_is_left_to_who_asked(bench: Bench, jobs: JobManager) -> None:
    """The store has given it, and the worker looks for lost ones before the answer comes."""
    arrives, is_given = asyncio.Event(), asyncio.Event()

    async def slow(call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        if answer := await call(*arguments, **named):
            is_given.set()
            await arrives.wait()
        return answer

    read, taken = note(jobs.store, "read_leases"), note(jobs.store, "hold_again")
    other = await jobs.create_job(bench.one("note", id="other"))
    wrap(jobs.store, "claim", slow)
    [job_id] = await jobs.create_jobs(bench.one("note"), [{}], start=True)
    await is_given.wait()
    lose_answers(jobs.store, "hold")
    with pytest.raises(StoreUnavailable):
        await jobs.start_job(other)
    await passes(bench, jobs, lambda: read)
    assert set(read[0]) == {job_id, other}
    await bench.pass_time(1, 1)
    assert taken == []
    arrives.set()
    assert await final_within(bench, jobs, heartbeat_s(jobs), job_id, other) == ["COMPLETED"] * 2
    assert [ids_in(answer) for answer in taken if answer] == [[other]]
    [started] = [event for event in await history(jobs, job_id) if event.type == "job.started"]
    assert started.data["epoch"] == read[0][job_id]


@everywhere
@pytest.mark.guarantee("G4")
async def test_jobs_that_run_or_are_being_settled_are_not_taken(bench: Bench, jobs: JobManager) -> None:
    running = await jobs.create_job(bench.one("gate"), start=True)
    await bench.gate().wait_entered()
    settling, other = [await jobs.create_job(bench.one("note", id="other")) for _ in range(2)]
    may_commit, commits = asyncio.Event(), asyncio.Event()

    async def slow(call: Callable[..., Any], commit: Any) -> None:
        if commit.claim.job_id == settling:
            commits.set()
            await may_commit.wait()
        await call(commit)

    wrap(jobs.store, "commit", slow)
    cancelling = asyncio.create_task(jobs.cancel_job(settling))
    await commits.wait()
    taken = note(jobs.store, "hold_again")
    lose_answers(jobs.store, "hold")
    with pytest.raises(StoreUnavailable):
        await jobs.cancel_job(other)
    assert await final_within(bench, jobs, heartbeat_s(jobs), other) == ["CANCELLED"]
    await bench.pass_time(*[RECOVER_S] * 2)
    may_commit.set()
    await cancelling
    bench.gate().open()
    assert await final_within(bench, jobs, heartbeat_s(jobs), running, settling) == ["COMPLETED", "CANCELLED"]
    assert [ids_in(answer) for answer in taken if answer] == [[other]]
    assert len(bench.gate().contexts) == 1


# ── how long is looked ────────────────────────────────────────────────────────────────────────────────────────────


async def test_lease_that_comes_into_being_after_the_first_look_is_found(bench: Bench, jobs: JobManager) -> None:
    """A transaction may be committed some time after its connection was lost."""
    real, read = jobs.store.claim, note(jobs.store, "read_leases")
    asked: list[int] = []

    async def away(call: Callable[..., Any], worker: str, limit: int, *others: Any, **named: Any) -> Any:
        asked.append(limit)
        if len(asked) == 1:
            raise StoreUnavailable("away")
        return []

    wrap(jobs.store, "claim", away)
    job_id = await jobs.create_job(bench.one("note"), start=True)
    await passes(bench, jobs, lambda: read)
    await real(jobs.worker_id, 1)
    jobs.store.claim = real  # type: ignore[method-assign]
    assert await final_within(bench, jobs, heartbeat_s(jobs), job_id) == ["COMPLETED"]


async def test_worker_does_not_look_for_ever(bench: Bench, jobs: JobManager) -> None:
    read = note(jobs.store, "read_leases")
    await bench.pass_time(*[RECOVER_S] * 3)
    assert read == []
    lose_answers(jobs.store, "hold")
    job_id = await jobs.create_job(bench.one("note"))
    with pytest.raises(StoreUnavailable):
        await jobs.start_job(job_id)
    await passes(bench, jobs, lambda: not jobs._worker.leases._in_doubt.is_set())
    assert len(read) == LOOKS + 1
    await bench.pass_time(*[RECOVER_S] * 3)
    assert len(read) == LOOKS + 1


async def test_leases_that_have_ended_are_forgotten(bench: Bench, jobs: JobManager) -> None:
    ids = await jobs.create_jobs(bench.one("note"), [{} for _ in range(20)], start=True)
    assert await final_within(bench, jobs, heartbeat_s(jobs), *ids) == ["COMPLETED"] * 20
    await until(lambda: not jobs._worker.runners)
    assert jobs._worker.leases._told == {}
