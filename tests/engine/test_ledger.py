"""The cleanup ledger: whatever becomes of a step, what it has acquired is released, or said to be a leak."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from openagents_json import JobManager, StepContext
from openagents_json.errors import ComponentNotFound, RetryableError
from tests.engine.support import Bench, final, history, seen, types, vanish


class Things:
    """What the components of these tests hold."""

    def __init__(self, bench: Bench) -> None:
        self.held: list[str] = []
        self.released: list[str] = []
        self.tries: list[str] = []
        self.works = True  # else a release raises
        tool = bench.components.registry.tool

        @tool("acquire")
        async def acquire(
            context: StepContext, names: list[str], until: str = "step", keep: bool = False, then: str = "go"
        ) -> list[str]:
            for name in names:
                await context.track(name, "give_back", {"name": name}, until=until, keep=keep)  # type: ignore[arg-type]
                self.held.append(name)
            if then == "fail" or (then == "flaky" and context.attempt == 1):
                raise RetryableError("it.broke", "it broke", 0)
            if then == "wait":
                await context.wait_cancelled()
                await asyncio.sleep(0)
            return names

        @tool("impatient")
        async def impatient(context: StepContext) -> int:
            """Gives up waiting for the record, which is on its way already."""
            tracking = asyncio.create_task(context.track("x", "give_back", {"name": "x"}))
            await asyncio.sleep(0)
            tracking.cancel()
            await asyncio.gather(tracking, return_exceptions=True)
            return context.attempt

        @tool("acquire_in_thread")
        def acquire_in_thread(context: StepContext, name: str) -> str:
            return context.track_blocking(name, "give_back", {"name": name})

        @tool("give_back")
        async def give_back(name: str) -> None:
            self.tries.append(name)
            if not self.works:
                raise RuntimeError("the door is stuck")
            if name in self.held:
                self.held.remove(name)
            self.released.append(name)

        @tool("wrong_release")
        async def wrong_release(context: StepContext) -> None:
            await context.track("thing", "giveback")


@pytest.fixture
def things(bench: Bench) -> Things:
    return Things(bench)


def flow(bench: Bench, *more: Any, **inputs: Any) -> str:
    step = {"id": "s", "component": "acquire", "inputs": {"names": ["a", "b"], **inputs}}
    return bench.workflow(step, *more, id="flow")


async def test_what_a_step_acquired_is_released_when_it_ends_newest_first(
    bench: Bench, jobs: JobManager, things: Things
) -> None:
    job_id = await jobs.create_job(flow(bench, {"id": "t", "component": "note"}), start=True)
    assert await final(jobs, job_id) == "COMPLETED"
    assert things.released == ["b", "a"]
    told = await types(jobs, job_id)
    assert told.index("resource.tracked") < told.index("step.completed") < told.index("release.started")
    assert told[-1] == "job.completed"
    assert told.count("resource.released") == 2


async def test_a_record_is_durable_before_track_returns(bench: Bench, jobs: JobManager, things: Things) -> None:
    job_id = await jobs.create_job(flow(bench, then="wait"), start=True)
    await seen(jobs, job_id, "resource.tracked", 2)
    status = await jobs.get_job_status(job_id)
    assert [(one["name"], one["state"]) for one in status["resources"]] == [("a", "held"), ("b", "held")]
    await jobs.cancel_job(job_id)
    assert await final(jobs, job_id) == "CANCELLED"


@pytest.mark.parametrize("force", [False, True])
async def test_cancel_releases_and_says_so_also_by_force(
    bench: Bench, jobs: JobManager, things: Things, force: bool
) -> None:
    job_id = await jobs.create_job(flow(bench, then="wait", until="job"), start=True)
    await seen(jobs, job_id, "resource.tracked", 2)
    await jobs.cancel_job(job_id, force=force, by="ann", reason="enough")
    assert await final(jobs, job_id) == "CANCELLED"
    assert things.released == ["b", "a"]
    last = (await history(jobs, job_id))[-1]
    assert last.data == {"by": "ann", "reason": "enough", "force": force, "rung": last.data["rung"], "released": 2}


async def test_each_attempt_gives_back_its_own(bench: Bench, jobs: JobManager, things: Things) -> None:
    step = {"id": "s", "component": "acquire", "inputs": {"names": ["a"], "then": "flaky"}, "retry": 2}
    step["retry"] = {"max_attempts": 2, "delay_seconds": 0}
    job_id = await jobs.create_job(bench.workflow(step, id="flow"), start=True)
    assert await final(jobs, job_id) == "COMPLETED"
    assert things.released == ["a", "a"] and things.held == []


async def test_what_is_kept_is_left_alone_if_it_ended_well(bench: Bench, jobs: JobManager, things: Things) -> None:
    good = await jobs.create_job(flow(bench, keep=True, until="job"), start=True)
    assert await final(jobs, good) == "COMPLETED"
    assert things.released == []
    broken = {"id": "t", "component": "fail"}
    bad = await jobs.create_job(
        bench.workflow(
            {"id": "s", "component": "acquire", "inputs": {"names": ["c"], "keep": True, "until": "job"}},
            broken,
            id="bad",
        ),
        start=True,
    )
    assert await final(jobs, bad) == "FAILED"
    assert things.released == ["c"]


async def test_things_of_the_job_are_there_until_its_end(bench: Bench, jobs: JobManager, things: Things) -> None:
    job_id = await jobs.create_job(flow(bench, {"id": "t", "component": "gate"}, until="job"), start=True)
    await bench.gate().wait_entered()
    assert things.held == ["a", "b"]
    bench.gate().open()
    assert await final(jobs, job_id) == "COMPLETED"
    assert things.released == ["b", "a"]


async def test_thread_steps_track_too(bench: Bench, jobs: JobManager, things: Things) -> None:
    step = {"id": "s", "component": "acquire_in_thread", "inputs": {"name": "x"}}
    job_id = await jobs.create_job(bench.workflow(step, id="flow"), start=True)
    assert await final(jobs, job_id) == "COMPLETED"
    assert things.released == ["x"]


async def test_who_does_not_wait_for_the_record_hurts_nobody(
    bench: Bench, jobs: JobManager, things: Things, caplog: pytest.LogCaptureFixture
) -> None:
    job_id = await jobs.create_job(bench.one("impatient"), start=True)
    assert await final(jobs, job_id) == "COMPLETED"
    assert (await jobs.get_job_results(job_id))["s"] == 1
    assert "failed" not in caplog.text


async def test_release_that_fails_is_tried_again(bench: Bench, jobs: JobManager, things: Things) -> None:
    things.works = False
    job_id = await jobs.create_job(flow(bench), start=True)
    await seen(jobs, job_id, "release.failed", 2)
    things.works = True
    await bench.pass_time(1.0)
    assert await final(jobs, job_id) == "COMPLETED"
    assert things.tries == ["b", "a", "b", "a"]


async def test_what_cannot_be_released_is_a_leak_that_stays(bench: Bench, things: Things) -> None:
    things.works = False
    async with bench.manager(cleanup_timeout_s=5.0) as jobs:
        job_id = await jobs.create_job(flow(bench), start=True)
        await seen(jobs, job_id, "release.failed", 2)
        await bench.pass_time(1.0)
        await seen(jobs, job_id, "release.failed", 4)
        await bench.pass_time(5.0)
        assert await final(jobs, job_id) == "COMPLETED"
        assert (await types(jobs, job_id)).count("resource.leaked") == 2
        await jobs.delete_job(job_id)
        leaks = await jobs.list_leaks()
        assert {(leak.name, leak.job_id, leak.error["message"]) for leak in leaks} == {
            ("b", job_id, "the door is stuck"),
            ("a", job_id, "the door is stuck"),
        }
        assert (await jobs.health())["leaks"] == 2
        assert await jobs.retry_leak(leaks[0].key) is False
        assert (await jobs.list_leaks())[0].tries == 1
        things.works = True
        assert await jobs.retry_leak(leaks[0].key) is True
        assert [leak.name for leak in await jobs.list_leaks()] == [leaks[1].name]
        await jobs.drop_leak(leaks[1].key)
        assert await jobs.list_leaks() == []


async def test_the_next_worker_releases_what_a_dead_one_left(bench: Bench, things: Things) -> None:
    dead = bench.manager()
    await dead.open()
    job_id = await dead.create_job(flow(bench, then="wait"), start=True)
    await seen(dead, job_id, "resource.tracked", 2)
    await vanish(dead)
    things.released.clear()
    bench.clock.advance(31)
    async with bench.manager() as jobs:
        await seen(jobs, job_id, "resource.released", 2)
        assert things.released[:2] == ["b", "a"]
        await jobs.cancel_job(job_id)
        assert await final(jobs, job_id) == "CANCELLED"


async def test_cancel_of_a_paused_job_releases_with_the_help_of_a_worker(bench: Bench, things: Things) -> None:
    async with bench.manager() as jobs:
        job_id = await jobs.create_job(flow(bench, {"id": "t", "component": "gate"}, until="job"), start=True)
        await bench.gate().wait_entered()
        await jobs.pause_job(job_id)
        bench.gate().open()
        await seen(jobs, job_id, "job.paused")
    async with bench.manager(worker=False) as jobs:
        await jobs.cancel_job(job_id)
        assert (await jobs.get_summary(job_id)).status == "QUEUED"
        assert things.released == []
    async with bench.manager() as jobs:
        assert await final(jobs, job_id) == "CANCELLED"
    assert things.released == ["b", "a"]


async def test_release_without_a_component_is_refused_at_once(bench: Bench, jobs: JobManager, things: Things) -> None:
    job_id = await jobs.create_job(bench.one("wrong_release"), start=True)
    assert await final(jobs, job_id) == "FAILED"
    error = (await jobs.get_job(job_id)).errors[0]
    assert error["type"] == ComponentNotFound.code
    assert "giveback" in error["message"]
