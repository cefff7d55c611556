"""A manager that vanishes without a word: the next one takes its jobs over."""

from __future__ import annotations

import asyncio

import pytest

from openagents_json import JobManager
from openagents_json.errors import StoreError
from tests.engine.support import SAFETY_S, Bench, final, history, on_every_store, seen, types, vanish, written

pytestmark = on_every_store


async def within(bench: Bench, jobs: JobManager, *ids: str) -> None:
    """All jobs are COMPLETED while the clock moves on."""
    async with asyncio.timeout(SAFETY_S):
        while not all([(await jobs.get_summary(job_id)).status == "COMPLETED" for job_id in ids]):
            await bench.pass_time(0.1)


async def test_next_manager_takes_over_at_once_when_the_dead_ones_lock_is_free(bench: Bench) -> None:
    flow = bench.workflow({"id": "a", "component": "note"}, {"id": "s", "component": "gate"})
    dead = bench.manager()
    await dead.open()
    job_id = await dead.create_job(flow, start=True)
    first = await bench.gate().wait_entered()
    await vanish(dead)
    if bench.kind != "sqlite":
        bench.clock.advance(31)  # no lock file tells: its lease has to end
    bench.gate().open()
    async with bench.manager() as jobs:
        assert await final(jobs, job_id) == "COMPLETED"
        events = await history(jobs, job_id)
    assert len(bench.components.calls) == 1, "a recorded step is not run again"
    [lost] = [event for event in events if event.type == "job.worker_lost"]
    assert lost.data == {"worker": dead.worker_id, "deaths": 1}
    second = bench.gate().contexts[1]
    assert second.idempotency_key == first.idempotency_key and second.fencing_token > first.fencing_token


async def test_running_manager_takes_over_within_five_seconds(bench: Bench) -> None:
    dead = bench.manager()
    await dead.open()
    job_id = await dead.create_job(bench.one("gate"), start=True)
    await bench.gate().wait_entered()
    async with bench.manager() as jobs:
        await vanish(dead)
        bench.gate().open()
        if bench.kind != "sqlite":
            await bench.pass_time(10, 10, 10, 0.5)
        watching = asyncio.create_task(seen(jobs, job_id, "job.completed"))
        begin_us = bench.clock.now_us()
        while not watching.done():
            await bench.pass_time(0.1)
            await written(jobs)
        await watching
        [lost] = [event for event in await history(jobs, job_id) if event.type == "job.worker_lost"]
        assert lost.at_us - begin_us <= 5e6


async def entered(bench: Bench, jobs: JobManager, calls: int) -> None:
    """The gate has so many calls, while the clock moves on."""
    async with asyncio.timeout(SAFETY_S):
        while len(bench.gate().contexts) < calls:
            await bench.pass_time(0.5)
            await written(jobs)


async def kill_twice(bench: Bench, *flows: str) -> list[str]:
    """Jobs that wait at the gate, under each of which two workers have died."""
    ids: list[str] = []
    for _ in range(2):
        dead = bench.manager()
        await dead.open()
        ids = ids or [await dead.create_job(flow, start=True) for flow in flows]
        await entered(bench, dead, len(bench.gate().contexts) + len(flows))
        await vanish(dead)
        bench.clock.advance(31)
    return ids


@pytest.mark.guarantee("G6")
async def test_job_whose_workers_die_three_times_without_progress_fails(bench: Bench) -> None:
    [job_id] = await kill_twice(bench, bench.one("gate"))
    dead = bench.manager()
    await dead.open()
    await entered(bench, dead, 3)
    await vanish(dead)
    bench.clock.advance(31)
    async with bench.manager() as jobs:
        job = await jobs.wait(job_id)
        assert (job.status, job.errors[0]["type"]) == ("FAILED", "worker_lost")


@pytest.mark.guarantee("G6")
async def test_jobs_under_which_two_workers_died_run_alone_one_after_the_other(bench: Bench) -> None:
    first, second = await kill_twice(bench, bench.one("gate"), bench.one("gate", id="neighbour"))
    async with bench.manager() as jobs:
        await entered(bench, jobs, 5)
        other = await jobs.create_job(bench.one("note", id="other"), start=True)
        await bench.pass_time(1, 1)
        rows = [await jobs.get_summary(job_id) for job_id in (first, second, other)]
        assert [str(row.status) for row in sorted(rows, key=lambda row: row.status)] == ["QUEUED", "QUEUED", "RUNNING"]
        assert rows[2].status == "QUEUED"
        bench.gate().open()
        await within(bench, jobs, first, second, other)
        spans = []
        for job_id in (first, second):
            events = await history(jobs, job_id)
            starts = [event.at_us for event in events if event.type in ("job.started", "job.continued")]
            spans.append((starts[2], events[-1].at_us))
            assert (len(starts), events[-1].type) == (3, "job.completed")
        earlier, later = sorted(spans)
        assert earlier[1] <= later[0]


@pytest.mark.guarantee("G6")
async def test_job_that_is_to_run_alone_waits_for_others_to_end_but_not_for_ever(bench: Bench) -> None:
    [suspect] = await kill_twice(bench, bench.one("gate"))
    gate = bench.gate()
    async with bench.manager() as jobs:
        busy = await jobs.create_job(bench.one("gate", id="busy"), start=True)
        await gate.wait_entered(3)
        await bench.pass_time(5)
        async with asyncio.timeout(SAFETY_S):
            while (stored := await jobs.store.read(suspect)) is None or stored.owner != jobs.worker_id:
                await bench.pass_time(0.5)
        late = await jobs.create_job(bench.one("note", id="late"), start=True)
        await bench.pass_time(1)
        assert (await jobs.get_summary(late)).status == "QUEUED"  # room is made
        await bench.pass_time(30)
        await within(bench, jobs, late)  # and given up for a while
        gate.open()
        await within(bench, jobs, busy)
        await bench.pass_time(300)
        await within(bench, jobs, suspect)


async def test_recorded_progress_begins_the_count_of_deaths_anew(bench: Bench) -> None:
    flow = bench.workflow(*({"id": f"s{n}", "component": "gate", "inputs": {"name": f"g{n}"}} for n in range(4)))
    job_id = ""
    for n in range(4):
        dead = bench.manager()
        await dead.open()
        job_id = job_id or await dead.create_job(flow, start=True)
        await bench.gate(f"g{n}").wait_entered()
        await vanish(dead)
        bench.clock.advance(31)
        bench.gate(f"g{n}").open()
    async with bench.manager() as jobs:
        assert await final(jobs, job_id) == "COMPLETED"


@pytest.mark.parametrize("verb", ["pause", "cancel"])
async def test_request_that_its_dead_worker_had_not_seen_is_carried_out(bench: Bench, verb: str) -> None:
    dead = bench.manager()
    await dead.open()
    job_id = await dead.create_job(bench.one("gate"), start=True)
    await bench.gate().wait_entered()
    await vanish(dead)
    async with bench.manager(worker=False) as jobs:
        await getattr(jobs, f"{verb}_job")(job_id)
        assert (await jobs.get_job_status(job_id))["requests"][0]["acknowledged"] is False
    bench.clock.advance(31)
    async with bench.manager() as jobs:
        await seen(jobs, job_id, "job.paused" if verb == "pause" else "job.cancelled")
        assert len(bench.gate().contexts) == 1


async def test_job_with_a_fault_in_the_engine_is_taken_up_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever goes wrong in one job's runner: the job is not lost, and the others do not notice."""
    async with bench.manager() as jobs:
        commit, refused = jobs.store.commit, asyncio.Event()

        async def refuse_once(one: object) -> None:
            if not refused.is_set():
                refused.set()
                raise StoreError("refused")
            await commit(one)  # type: ignore[arg-type]

        monkeypatch.setattr(jobs.store, "commit", refuse_once)
        job_id = await jobs.create_job(bench.one("note"), start=True)
        await refused.wait()
        other = await jobs.create_job("flow", start=True)
        assert await final(jobs, other) == "COMPLETED"
        await within(bench, jobs, job_id)
    assert "taken up again" in caplog.text


async def test_job_that_fails_in_the_engine_while_it_runs_is_taken_up_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bench.manager() as jobs:
        job_id = await jobs.create_job(bench.one("gate"), start=True)
        await bench.gate().wait_entered()
        commit, left = jobs.store.commit, [1]

        async def refuse_once(one: object) -> None:
            if left.pop() if left else 0:
                raise StoreError("refused")
            await commit(one)  # type: ignore[arg-type]

        monkeypatch.setattr(jobs.store, "commit", refuse_once)
        bench.gate().open()
        await within(bench, jobs, job_id)
        assert [kind for kind in await types(jobs, job_id) if kind.startswith("job.")] == [
            "job.created",
            "job.queued",
            "job.started",
            "job.worker_lost",
            "job.queued",
            "job.continued",
            "job.completed",
        ]


async def test_worker_that_was_taken_for_dead_loses_its_jobs_and_takes_new_ones(bench: Bench) -> None:
    async with bench.manager() as slow:
        job_id = await slow.create_job(bench.one("gate"), start=True)
        first = await bench.gate().wait_entered()
        bench.clock.advance(31)  # a loop that was blocked for so long could not renew anything
        async with bench.manager() as jobs:
            await bench.gate().wait_entered(2)
            bench.gate().open()
            other = await slow.create_job(bench.one("note", id="other"), start=True)
            await within(bench, jobs, job_id, other)
        assert first.cancelled
