"""The store goes away for a while, loses replies, or finds a request or another owner in the way (guarantee G12)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

import pytest

from openagents_json import JobManager
from openagents_json.errors import LeaseLost, StoreUnavailable
from openagents_json.job.store import Commit, JobStore, Request
from tests.engine.support import Bench, final, history, seen, types, vanish, written

VERBS = [
    "create", "create_held", "read", "read_summary", "read_events", "list_jobs", "read_definition", "claim", "hold",
    "hold_due", "hold_orphans", "commit", "release", "read_requests", "thread_ended", "next_due_us", "heartbeat",
    "delete", "delete_final",
]  # fmt: skip


class Trouble:
    """Makes a store's verbs fail. `failures` counts by verb, so that a test can see that it injected something."""

    def __init__(self, store: JobStore) -> None:
        self.store = store
        self.failures: dict[str, int] = {}
        self._left: dict[str, int] = {}
        self._loses_reply: set[str] = set()
        for verb in VERBS:
            setattr(store, verb, self._wrapped(verb, getattr(store, verb)))

    def fail(self, verb: str, times: int = 1, *, loses_reply: bool = False) -> None:
        """The next calls of a verb raise `StoreUnavailable`: before anything happened, or after it did."""
        self._left[verb] = times
        if loses_reply:
            self._loses_reply.add(verb)

    def _wrapped(self, verb: str, call: Callable[..., Any]) -> Callable[..., Any]:
        async def wrapped(*arguments: Any, **named: Any) -> Any:
            if self._left.get(verb, 0) <= 0:
                return await call(*arguments, **named)
            self._left[verb] -= 1
            self.failures[verb] = self.failures.get(verb, 0) + 1
            if verb in self._loses_reply:
                await call(*arguments, **named)
            raise StoreUnavailable(f"{verb} is away")

        return wrapped


async def during(bench: Bench, jobs: JobManager, work: Any) -> Any:
    """The result of the work, while the clock moves on, no faster than the store writes: else leases end meanwhile."""
    task = asyncio.ensure_future(work)
    while not task.done():
        await bench.pass_time(0.25)
        with contextlib.suppress(StoreUnavailable):  # it is closed at the end of some
            await written(jobs)
    return await task


@pytest.mark.guarantee("G12")
@pytest.mark.parametrize("times", [1, 4])
@pytest.mark.parametrize("loses_reply", [False, True], ids=["before", "after"])
async def test_commits_that_fail_are_repeated_until_they_stand_once(
    bench: Bench, times: int, loses_reply: bool, caplog: pytest.LogCaptureFixture
) -> None:
    flow = bench.workflow(
        {"id": "a", "component": "note"}, {"id": "g", "component": "gate"}, {"id": "b", "component": "step"}
    )
    async with bench.manager() as jobs:
        trouble = Trouble(jobs.store)
        job_id = await jobs.create_job(flow, start=True)
        await bench.gate().wait_entered()
        trouble.fail("commit", times, loses_reply=loses_reply)
        bench.gate().open()
        assert await during(bench, jobs, final(jobs, job_id)) == "COMPLETED"
        assert trouble.failures == {"commit": times}
        assert (await jobs.health())["store_error"] is None
    assert bench.components.calls == [("a", 1), ("b", 1)]
    assert {record.levelno for record in caplog.records if "store is away" in record.message} == {logging.ERROR}


@pytest.mark.guarantee("G12")
@pytest.mark.parametrize(
    "verb", ["claim", "hold_due", "hold_orphans", "next_due_us", "heartbeat", "read_definition", "read_requests"]
)
async def test_engine_goes_on_by_itself_when_a_verb_works_again(bench: Bench, verb: str) -> None:
    retry = {"max_attempts": 3, "delay_seconds": 30}
    flow = bench.one("flaky", inputs={"until": 3}, retry=retry)
    async with bench.manager(worker=False) as jobs:
        ids = [await jobs.create_job(flow, start=True) for _ in range(2)]
    jobs = bench.manager()
    trouble = Trouble(jobs.store)
    if verb != "hold_orphans":
        trouble.fail(verb, 3)
    async with jobs:
        trouble.fail(verb, 3)
        for job_id in ids:
            assert await during(bench, jobs, final(jobs, job_id)) == "COMPLETED"
        if verb != "read_requests":
            assert trouble.failures[verb] >= 3, "nothing was injected"
        trouble.fail(verb, 0)


@pytest.mark.guarantee("G12")
async def test_create_that_fails_accepts_nothing_and_says_so(bench: Bench, jobs: JobManager) -> None:
    trouble = Trouble(jobs.store)
    for start in (False, True):
        trouble.fail("create")
        trouble.fail("create_held")  # which it is to be begun with if there is known to be room
        with pytest.raises(StoreUnavailable):
            await jobs.create_job(bench.one("note"), start=start)
    assert len(await jobs.list_jobs()) == 0
    health = await jobs.health()
    assert (health["running_jobs"], health["steps"]) == (0, 0), "its slot is free again"


@pytest.mark.guarantee("G12")
async def test_create_whose_reply_is_lost_is_the_same_job_when_it_is_repeated(bench: Bench, jobs: JobManager) -> None:
    trouble = Trouble(jobs.store)
    trouble.fail("create", loses_reply=True)
    flow = bench.one("note")
    with pytest.raises(StoreUnavailable):
        await jobs.create_job(flow, idempotency_key="k")
    job_id = await jobs.create_job(flow, idempotency_key="k")
    assert [one.id for one in await jobs.list_jobs()] == [job_id]


@pytest.mark.guarantee("G12")
@pytest.mark.parametrize("verb", ["start", "cancel"])
async def test_verb_that_is_durable_is_carried_out_when_the_store_is_back(
    bench: Bench, jobs: JobManager, verb: str
) -> None:
    """The request is in the inbox and the lease is ours when the store goes away before the commit."""
    job_id = await jobs.create_job(bench.one("note"))
    trouble = Trouble(jobs.store)
    trouble.fail("commit", 3)
    await getattr(jobs, f"{verb}_job")(job_id)
    assert await during(bench, jobs, final(jobs, job_id)) == ("COMPLETED" if verb == "start" else "CANCELLED")
    assert trouble.failures == {"commit": 3}


@pytest.mark.guarantee("G12")
async def test_verb_whose_request_could_not_be_stored_says_so_and_changes_nothing(
    bench: Bench, jobs: JobManager
) -> None:
    job_id = await jobs.create_job(bench.one("note"))
    trouble = Trouble(jobs.store)
    trouble.fail("hold")
    with pytest.raises(StoreUnavailable):
        await jobs.start_job(job_id)
    assert await types(jobs, job_id) == ["job.created"]
    await jobs.start_job(job_id)
    assert await final(jobs, job_id) == "COMPLETED"


@pytest.mark.guarantee("G12")
async def test_lease_that_was_taken_for_a_late_request_is_used_when_the_store_is_back(bench: Bench) -> None:
    """Who takes it and cannot go on has it already when it asks again."""
    async with bench.manager(worker=False) as asker:
        job_id = await asker.create_job(bench.one("note"))
        request = Request("cancel:late", "cancel", "somebody", None, bench.clock.now_us(), {"force": False})
        held = await asker.store.hold(job_id, asker.worker_id, request)
        assert held is not None and held.claim is not None
        await asker.store.release(held.claim)
    async with bench.manager(worker=False) as jobs:
        trouble = Trouble(jobs.store)
        trouble.fail("read_definition")
        jobs._worker.posted([job_id])
        assert await during(bench, jobs, final(jobs, job_id)) == "CANCELLED"
        assert trouble.failures == {"read_definition": 1}


@pytest.mark.guarantee("G12")
async def test_manager_opens_although_the_store_goes_away_while_it_takes_over_jobs(bench: Bench) -> None:
    """It may have taken leases by then: they are not dropped, and the jobs go on."""
    dead = bench.manager()
    await dead.open()
    job_id = await dead.create_job(bench.one("gate"), start=True)
    await bench.gate().wait_entered()
    await vanish(dead)
    bench.clock.advance(31)
    store = bench.store()
    trouble = Trouble(store)
    trouble.fail("read_definition", 2)
    trouble.fail("hold_orphans", 1)
    bench.open_gates()
    async with bench.manager(store) as jobs:
        assert await during(bench, jobs, final(jobs, job_id)) == "COMPLETED"
    assert trouble.failures == {"read_definition": 2, "hold_orphans": 1}


@pytest.mark.guarantee("G12")
async def test_timer_that_comes_due_while_commits_fail_is_not_lost(bench: Bench, jobs: JobManager) -> None:
    from datetime import timedelta

    trouble = Trouble(jobs.store)
    job_id = await jobs.create_job(bench.one("note"), start_at=bench.clock.now() + timedelta(seconds=5))
    trouble.fail("commit", 3)
    assert await during(bench, jobs, final(jobs, job_id)) == "COMPLETED"
    assert trouble.failures == {"commit": 3}


async def test_end_of_an_abandoned_thread_is_recorded_when_the_store_is_back(bench: Bench, jobs: JobManager) -> None:
    gate = bench.gate()
    job_id = await jobs.create_job(bench.one("thread_gate", timeout=1), start=True)
    await gate.wait_entered()
    await bench.pass_time(1, 10)
    assert await final(jobs, job_id) == "FAILED"
    trouble = Trouble(jobs.store)
    trouble.fail("thread_ended", 2)
    gate.open()
    await gate.wait_left()
    await during(bench, jobs, bench.until_async(lambda: jobs.get_summary(job_id), lambda one: one.abandoned == 0))
    assert trouble.failures == {"thread_ended": 2}


async def test_manager_can_be_left_while_the_store_is_away_and_nothing_is_lost(bench: Bench) -> None:
    jobs = bench.manager(stop_timeout_s=1, shutdown_grace_s=1)
    await jobs.open()
    job_id = await jobs.create_job(bench.one("gate"), start=True)
    await bench.gate().wait_entered()
    trouble = Trouble(jobs.store)
    trouble.fail("commit", 1_000_000)
    bench.gate().open()
    await during(bench, jobs, jobs.close())
    assert trouble.failures["commit"] > 0
    if bench.kind == "memory":
        del bench.store().commit
    async with bench.manager() as jobs:
        assert await during(bench, jobs, final(jobs, job_id)) == "COMPLETED"


# ── a request or another owner in the way ─────────────────────────────────────────────────────────────────────────


def before_commit(store: JobStore, when: Callable[[Commit], bool], do: Callable[[], Any]) -> list[Commit]:
    """Before the first commit that fits, do something else. The list holds that commit once it has come."""
    commit = store.commit
    met: list[Commit] = []

    async def wrapped(one: Commit) -> None:
        if not met and when(one):
            met.append(one)
            await do()
        await commit(one)

    store.commit = wrapped  # type: ignore[method-assign, assignment]
    return met


def ends(status: str) -> Callable[[Commit], bool]:
    return lambda commit: commit.row.status == status


@pytest.mark.parametrize("with_finally", [False, True])
async def test_request_before_the_final_commit_makes_the_machine_decide_again(
    bench: Bench, jobs: JobManager, with_finally: bool
) -> None:
    closing = {"finally": [{"id": "f", "component": "note"}]} if with_finally else {}
    flow = bench.workflow({"id": "s", "component": "note"}, **closing)
    job_id = await jobs.create_job(flow)

    async def pause() -> None:
        request = Request("other:1", "set_priority", "ada", None, bench.clock.now_us(), {"priority": "LOW"})
        held = await jobs.store.hold(job_id, "another process", request)
        assert held is not None and held.claim is None

    met = before_commit(jobs.store, ends("COMPLETED"), pause)
    await jobs.start_job(job_id)
    assert await final(jobs, job_id) == "COMPLETED"
    assert met and "job.priority_changed" in await types(jobs, job_id)
    assert bench.components.calls == [("s", 1), ("f", 1)][: 1 + with_finally]


async def test_requests_keep_their_order_when_the_machine_decides_again(bench: Bench, jobs: JobManager) -> None:
    """A resume was taken in, then a pause came before the final commit: the pause is the last word."""
    job_id = await jobs.create_job(bench.one("gate"), start=True)
    await bench.gate().wait_entered()
    await jobs.pause_job(job_id)
    await seen(jobs, job_id, "job.pause_requested")

    async def pause() -> None:
        await jobs.store.hold(job_id, "another process", Request("other:1", "pause", "bob", None, 0))

    met = before_commit(jobs.store, ends("COMPLETED"), pause)
    resuming = asyncio.create_task(jobs.resume_job(job_id))
    hold, held = jobs.store.hold, asyncio.Event()

    async def tell(*arguments: Any) -> Any:
        answer = await hold(*arguments)
        bench.gate().open()
        held.set()
        return answer

    jobs.store.hold = tell  # type: ignore[method-assign, assignment]
    await resuming
    await held.wait()
    event = await seen(jobs, job_id, "job.paused")
    assert event.number == len(await history(jobs, job_id))
    await jobs.resume_job(job_id)
    assert await final(jobs, job_id) == "COMPLETED"
    assert len(met) <= 1


async def test_lost_lease_stops_the_attempts_and_records_nothing_more(
    bench: Bench, jobs: JobManager, caplog: pytest.LogCaptureFixture
) -> None:
    flow = bench.workflow(
        {"id": "a", "component": "gate", "needs": [], "inputs": {"name": "a"}},
        {"id": "b", "component": "gate", "needs": [], "inputs": {"name": "b"}},
    )
    job_id = await jobs.create_job(flow, start=True)
    await bench.gate("a").wait_entered()
    second = await bench.gate("b").wait_entered()
    commit = jobs.store.commit

    async def lose(one: Commit) -> None:
        jobs.store.commit = commit  # type: ignore[method-assign]
        raise LeaseLost("another worker has it")

    jobs.store.commit = lose  # type: ignore[method-assign, assignment]
    before = await types(jobs, job_id)
    bench.gate("a").open()
    await bench.gate("b").wait_left()
    assert second.cancel_reason == "lost_lease"
    assert await types(jobs, job_id) == before
    assert "lost job" in caplog.text
    assert (await jobs.health())["steps"] == 0
