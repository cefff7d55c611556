"""`concurrency` of a workflow: how many of its jobs are on at a time, and what becomes of one more."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from openagents_json import Job, JobManager
from openagents_json.errors import InvalidInputs, LimitReached
from openagents_json.job.model import JobStatus
from tests.engine.support import SAFETY_S, Bench, history, seen, types

CUSTOMER = {"type": "object", "properties": {"customer": {"type": "string"}}}
BY_CUSTOMER = {"key": "{{ inputs.customer }}", "limit": 1}

# Managers that share one memory store do not hear of each other.
several = pytest.mark.parametrize("kind", ["sqlite", "postgres"])


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def gated(bench: Bench, concurrency: Any, **fields: Any) -> str:
    """A workflow of one step that waits at the gate."""
    given = {"id": "flow", "inputs": CUSTOMER, "concurrency": concurrency} | fields
    return bench.workflow({"id": "s", "component": "gate"}, **given)


async def status_of(jobs: JobManager, job_id: str) -> JobStatus:
    return (await jobs.get_summary(job_id)).status


async def ended(jobs: JobManager, job_id: str) -> Job:
    """The job, when it is final."""
    async with asyncio.timeout(SAFETY_S):
        return await jobs.wait(job_id)


async def waits(jobs: JobManager, job_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await jobs.get_job_status(job_id))["waiting_for"]
    return found


async def started(jobs: JobManager, *ids: str) -> list[bool]:
    return [(await jobs.get_summary(job_id)).started_at is not None for job_id in ids]


# ── queue ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_no_more_jobs_run_than_the_limit_and_the_others_follow_in_order(bench: Bench, jobs: JobManager) -> None:
    flow = gated(bench, 2)
    ids = [await jobs.create_job(flow, start=True) for _ in range(5)]
    await bench.gate().wait_entered(2)
    assert await started(jobs, *ids) == [True, True, False, False, False]
    bench.gate().open()
    for job_id in ids:
        assert (await ended(jobs, job_id)).status == JobStatus.COMPLETED
    begun = [context.job_id for context in bench.gate().contexts]
    assert sorted(begun[:2]) == sorted(ids[:2])
    assert sorted(begun) == sorted(ids)


async def test_job_over_the_limit_says_who_holds_it(bench: Bench, jobs: JobManager) -> None:
    flow = gated(bench, BY_CUSTOMER)
    first = await jobs.create_job(flow, {"customer": "acme"}, start=True)
    second = await jobs.create_job(flow, {"customer": "acme"}, start=True)
    other = await jobs.create_job(flow, {"customer": "zenith"}, start=True)
    await seen(jobs, other, "attempt.started")
    assert await waits(jobs, second) == [{"kind": "limit", "key": "acme", "limit": 1, "held_by": [first]}]
    assert await status_of(jobs, second) == JobStatus.QUEUED
    bench.gate().open()
    assert (await ended(jobs, second)).status == JobStatus.COMPLETED


async def test_of_those_that_wait_the_most_urgent_is_next(bench: Bench, jobs: JobManager) -> None:
    flow = gated(bench, 1)
    ids = [await jobs.create_job(flow, start=True) for _ in range(4)]
    await bench.gate().wait_entered(1)
    await jobs.set_priority(ids[3], "CRITICAL")
    await jobs.set_priority(ids[2], "HIGH")
    assert [wait["kind"] for wait in await waits(jobs, ids[3])] == ["limit"]
    bench.gate().open()
    for job_id in ids:
        await ended(jobs, job_id)
    assert [context.job_id for context in bench.gate().contexts] == [ids[0], ids[3], ids[2], ids[1]]


async def test_cancelled_job_that_waits_lets_the_next_one_through(bench: Bench, jobs: JobManager) -> None:
    flow = gated(bench, 1)
    first, second, third = [await jobs.create_job(flow, start=True) for _ in range(3)]
    await bench.gate().wait_entered(1)
    await jobs.cancel_job(second)
    assert await status_of(jobs, second) == JobStatus.CANCELLED
    await jobs.cancel_job(first)
    await ended(jobs, first)
    bench.gate().open()
    assert (await ended(jobs, third)).status == JobStatus.COMPLETED


async def test_job_that_is_started_or_resumed_waits_for_its_turn(bench: Bench, jobs: JobManager) -> None:
    """Neither is run at once by whoever asked for it."""
    flow = gated(bench, 1)
    first = await jobs.create_job(flow, start=True)
    await bench.gate().wait_entered(1)
    second, third = [await jobs.create_job(flow) for _ in range(2)]
    await jobs.start_job(second)
    await jobs.start_job(third)
    await jobs.pause_job(third)
    assert await status_of(jobs, third) == JobStatus.PAUSED
    await jobs.resume_job(third)
    assert [await status_of(jobs, job_id) for job_id in (second, third)] == [JobStatus.QUEUED] * 2
    bench.gate().open()
    for job_id in (first, second, third):
        assert (await ended(jobs, job_id)).status == JobStatus.COMPLETED
    assert "job.started" in await types(jobs, third)


async def test_first_job_of_a_key_runs_when_it_is_started(bench: Bench, jobs: JobManager) -> None:
    job_id = await jobs.create_job(gated(bench, 1))
    bench.gate().open()
    await jobs.start_job(job_id)
    assert (await ended(jobs, job_id)).status == JobStatus.COMPLETED


# ── what holds a slot ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_paused_job_keeps_its_slot(bench: Bench, jobs: JobManager) -> None:
    flow = gated(bench, 1)
    first, second = [await jobs.create_job(flow, start=True) for _ in range(2)]
    await bench.gate().wait_entered(1)
    await jobs.pause_job(first)
    bench.gate().open()
    await jobs.wait_paused(first)
    assert (await waits(jobs, second))[0]["held_by"] == [first]
    await jobs.resume_job(first)
    assert (await ended(jobs, second)).status == JobStatus.COMPLETED


async def test_job_that_waits_keeps_its_slot(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow({"id": "nap", "wait": {"seconds": 60}}, concurrency=1)
    first, second = [await jobs.create_job(flow, start=True) for _ in range(2)]
    await seen(jobs, first, "job.waiting")
    assert await started(jobs, second) == [False]
    await bench.pass_time(60)
    await ended(jobs, first)
    await seen(jobs, second, "job.waiting")


async def test_limit_on_what_runs_lets_others_in_while_a_job_waits(bench: Bench, jobs: JobManager) -> None:
    """And a job whose time has come waits for its turn again."""
    flow = bench.workflow(
        {"id": "nap", "wait": {"seconds": 60}}, {"id": "s", "component": "gate"},
        concurrency={"limit": 1, "hold": "running"},
    )  # fmt: skip
    first, second = [await jobs.create_job(flow, start=True) for _ in range(2)]
    await seen(jobs, first, "job.waiting")
    await seen(jobs, second, "job.waiting")
    await bench.pass_time(60)
    await bench.gate().wait_entered(1)
    running = bench.gate().contexts[0].job_id
    [blocked] = {first, second} - {running}
    await bench.until_async(lambda: status_of(jobs, blocked), lambda status: status == JobStatus.QUEUED)
    assert (await waits(jobs, blocked))[0] == {"kind": "limit", "key": None, "limit": 1, "held_by": [running]}
    bench.gate().open()
    for job_id in (first, second):
        assert (await ended(jobs, job_id)).status == JobStatus.COMPLETED


@several
async def test_crash_gives_the_slot_of_a_running_job_back(bench: Bench) -> None:
    flow = gated(bench, {"limit": 1, "hold": "running"})
    doomed = bench.manager()
    await doomed.open()
    first = await doomed.create_job(flow, start=True)
    await bench.gate().wait_entered(1)
    second = await doomed.create_job(flow, start=True)
    await doomed.store.unregister_worker(doomed.worker_id)  # it is taken for dead
    async with bench.manager() as rescuer:
        async with asyncio.timeout(SAFETY_S):
            while "job.worker_lost" not in await types(rescuer, first):
                await bench.pass_time(1)
        bench.gate().open()
        async with asyncio.timeout(SAFETY_S):
            while not all([(await rescuer.get_summary(one)).status.is_final for one in (first, second)]):
                await bench.pass_time(0.05)
        assert [await status_of(rescuer, one) for one in (first, second)] == [JobStatus.COMPLETED] * 2
        await doomed.close()


async def test_deleted_job_is_forgotten_by_its_limit(bench: Bench, jobs: JobManager) -> None:
    flow = gated(bench, 1)
    bench.gate().open()
    for _ in range(3):
        job_id = await jobs.create_job(flow, start=True)
        await ended(jobs, job_id)
        await jobs.delete_job(job_id)


# ── children ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_child_is_on_in_the_slot_of_its_parent(bench: Bench, jobs: JobManager) -> None:
    """A workflow that starts itself three levels deep ends, though only one job of it may be on."""
    flow = bench.workflow(
        {"id": "deeper", "workflow": "deep", "inputs": {"n": "{{ inputs.n - 1 }}"}, "condition": "{{ inputs.n > 0 }}"},
        id="deep", inputs={"type": "object", "properties": {"n": {"type": "integer"}}}, concurrency=1,
    )  # fmt: skip
    ids = [await jobs.create_job(flow, {"n": 3}, start=True) for _ in range(2)]
    for job_id in ids:
        assert (await ended(jobs, job_id)).status == JobStatus.COMPLETED


async def test_spread_items_are_on_in_the_slot_of_their_parent(bench: Bench, jobs: JobManager) -> None:
    each = {"id": "each", "foreach": [1, 2, 3], "spread": True, "steps": [{"id": "s", "component": "gate"}]}
    flow = bench.workflow(each, concurrency=1)
    job_id = await jobs.create_job(flow, start=True)
    await bench.gate().wait_entered(3)
    bench.gate().open()
    assert (await ended(jobs, job_id)).status == JobStatus.COMPLETED


async def test_detached_child_counts_for_itself(bench: Bench, jobs: JobManager) -> None:
    gated(bench, 1, id="single")
    each = {"id": "each", "foreach": [1, 2], "steps": [{"id": "go", "workflow": "single", "detached": True}]}
    parent = await jobs.create_job(bench.workflow(each), start=True)
    ids = [item["job_id"] for item in (await ended(jobs, parent)).outputs["each"]]
    await bench.gate().wait_entered(1)
    assert sorted(await started(jobs, *ids)) == [False, True]
    bench.gate().open()
    for job_id in ids:
        assert (await ended(jobs, job_id)).status == JobStatus.COMPLETED


async def test_detached_child_that_is_refused_fails_its_step(bench: Bench, jobs: JobManager) -> None:
    gated(bench, {"limit": 2, "overflow": "reject"}, id="single")
    each = {
        "id": "each", "foreach": [1, 2, 3], "on_item_error": "collect",
        "steps": [{"id": "go", "workflow": "single", "detached": True}],
    }  # fmt: skip
    parent = await ended(jobs, await jobs.create_job(bench.workflow(each), start=True))
    assert parent.status == JobStatus.COMPLETED
    first, second, third = parent.outputs["each"]
    assert third is None
    failed = [event.data for event in await history(jobs, parent.id) if event.type == "step.failed"]
    assert [one["error"]["type"] for one in failed] == ["job.limit_reached"]
    for child in (first, second):
        await seen(jobs, child["job_id"], "attempt.started")


# ── reject ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_refused_job_is_not_created(bench: Bench, jobs: JobManager) -> None:
    flow = gated(bench, BY_CUSTOMER | {"overflow": "reject"})
    first = await jobs.create_job(flow, {"customer": "acme"}, start=True)
    with pytest.raises(LimitReached, match=f"'flow' only one job with the key \"acme\".*{first}") as caught:
        await jobs.create_job(flow, {"customer": "acme"}, start=True)
    assert caught.value.held_by == (first,)
    await jobs.create_job(flow, {"customer": "zenith"}, start=True)
    assert len((await jobs.list_jobs()).jobs) == 2
    with pytest.raises(LimitReached):
        await jobs.create_jobs(flow, [{"customer": "new"}, {"customer": "new"}], start=True)
    assert len((await jobs.list_jobs()).jobs) == 2


async def test_refused_start_leaves_the_job_created(bench: Bench, jobs: JobManager) -> None:
    flow = gated(bench, {"limit": 1, "overflow": "reject"})
    first = await jobs.create_job(flow, start=True)
    await bench.gate().wait_entered(1)
    second = await jobs.create_job(flow)
    for _ in range(2):
        with pytest.raises(LimitReached, match=second):
            await jobs.start_job(second)
    assert await status_of(jobs, second) == JobStatus.CREATED
    assert await types(jobs, second) == ["job.created"]
    bench.gate().open()
    await ended(jobs, first)
    await jobs.start_job(second)
    assert (await ended(jobs, second)).status == JobStatus.COMPLETED


async def test_job_whose_time_comes_when_the_key_is_full_is_cancelled(bench: Bench, jobs: JobManager) -> None:
    flow = gated(bench, {"limit": 1, "overflow": "reject"})
    first = await jobs.create_job(flow, start=True)
    await bench.gate().wait_entered(1)
    second = await jobs.create_job(flow, start_at=bench.clock.now() + timedelta(seconds=60))
    await bench.pass_time(60)
    assert (await ended(jobs, second)).status == JobStatus.CANCELLED
    cancelled = await seen(jobs, second, "job.cancelled")
    assert cancelled.data["by"] == "concurrency"
    assert first in cancelled.data["reason"]


async def test_retry_is_limited_as_well(bench: Bench, jobs: JobManager) -> None:
    flow = gated(bench, {"limit": 1, "overflow": "reject"})
    first = await jobs.create_job(flow, start=True)
    await bench.gate().wait_entered(1)
    await jobs.cancel_job(first)
    await ended(jobs, first)
    second = await jobs.create_job(flow, start=True)
    with pytest.raises(LimitReached, match=second):
        await jobs.retry_job(first)
    bench.gate().open()
    await ended(jobs, second)
    assert (await ended(jobs, await jobs.retry_job(first))).status == JobStatus.COMPLETED


# ── replace ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_newest_job_replaces_the_older_ones(bench: Bench, jobs: JobManager) -> None:
    flow = gated(bench, BY_CUSTOMER | {"overflow": "replace"})
    first, second, third = [await jobs.create_job(flow, {"customer": "acme"}, start=True) for _ in range(3)]
    for older in (first, second):
        assert (await ended(jobs, older)).status == JobStatus.CANCELLED
        cancelled = await seen(jobs, older, "job.cancelled")
        assert cancelled.data["by"] == "concurrency"
    assert second in (await seen(jobs, first, "job.cancelled")).data["reason"]
    bench.gate().open()
    assert (await ended(jobs, third)).status == JobStatus.COMPLETED


async def test_newest_job_waits_until_the_older_one_has_cleaned_up(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow(
        {"id": "s", "component": "gate"}, concurrency={"limit": 1, "overflow": "replace"},
        **{"finally": [{"id": "tidy", "component": "gate", "inputs": {"name": "tidy"}}]},
    )  # fmt: skip
    first = await jobs.create_job(flow, start=True)
    await bench.gate().wait_entered(1)
    second = await jobs.create_job(flow)
    await jobs.start_job(second)
    await bench.gate("tidy").wait_entered(1)
    assert (await waits(jobs, second))[0]["held_by"] == [first]
    bench.open_gates()
    assert (await ended(jobs, first)).status == JobStatus.CANCELLED
    assert (await ended(jobs, second)).status == JobStatus.COMPLETED


@several
async def test_job_of_another_process_is_replaced(bench: Bench) -> None:
    flow = gated(bench, {"limit": 1, "overflow": "replace"})
    async with bench.manager() as worker, bench.manager(worker=False) as caller:
        first = await worker.create_job(flow, start=True)
        await bench.gate().wait_entered(1)
        second = await caller.create_job(flow, start=True)
        bench.gate().shut()
        async with asyncio.timeout(SAFETY_S):
            while not (await caller.get_summary(first)).status.is_final:
                await bench.pass_time(0.05)
        assert await status_of(caller, first) == JobStatus.CANCELLED
        bench.gate().open()
        async with asyncio.timeout(SAFETY_S):
            while not (await caller.get_summary(second)).status.is_final:
                await bench.pass_time(0.05)
        assert await status_of(caller, second) == JobStatus.COMPLETED


@several
async def test_freed_slot_is_noticed_by_another_process(bench: Bench) -> None:
    flow = gated(bench, 1)
    async with bench.manager(max_jobs=1) as one, bench.manager(max_jobs=1) as other:
        ids = [await one.create_job(flow, start=True) for _ in range(2)]
        await bench.gate().wait_entered(1)
        bench.gate().open()
        async with asyncio.timeout(SAFETY_S):
            while not all([(await other.get_summary(job_id)).status.is_final for job_id in ids]):
                await bench.pass_time(0.05)


# ── keys ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_key_that_cannot_be_worked_out_is_a_problem_of_the_inputs(bench: Bench, jobs: JobManager) -> None:
    flow = gated(bench, BY_CUSTOMER)
    with pytest.raises(InvalidInputs, match="key of `concurrency` cannot be worked out"):
        await jobs.create_job(flow)
    assert (await jobs.list_jobs()).jobs == ()


@pytest.mark.parametrize(("characters", "fits"), [(198, True), (199, False)])
async def test_key_is_bounded(bench: Bench, jobs: JobManager, characters: int, fits: bool) -> None:
    flow = gated(bench, BY_CUSTOMER)
    inputs = {"customer": "x" * characters}
    if fits:  # 200 with its quotation marks
        assert await jobs.create_job(flow, inputs)
    else:
        with pytest.raises(InvalidInputs, match="201 characters as JSON; 200 are allowed"):
            await jobs.create_job(flow, inputs)


async def test_versions_of_a_workflow_share_their_limit(bench: Bench, jobs: JobManager) -> None:
    gated(bench, 1, version="1.0.0")
    gated(bench, 2, version="2.0.0")
    first = await jobs.create_job("flow", version="1.0.0", start=True)
    second = await jobs.create_job("flow", version="2.0.0", start=True)
    third = await jobs.create_job("flow", version="2.0.0", start=True)
    await bench.gate().wait_entered(2)
    assert await started(jobs, first, second, third) == [True, True, False]
