"""Hearing of a job: watch, wait and on (guarantee G10)."""

from __future__ import annotations

import asyncio
import contextlib
import logging

import pytest

from openagents_json import JobManager, StepContext
from openagents_json.errors import JobNotFound, WaitTimeout
from openagents_json.job import bus
from openagents_json.job.events import Event
from tests.engine.support import SAFETY_S, Bench, events_of, final, history, seen


async def collect(jobs: JobManager, job_id: str, after: int = 0) -> list[Event]:
    async with asyncio.timeout(SAFETY_S):
        return [event async for event in jobs.watch(job_id, after)]


@pytest.mark.guarantee("G10")
async def test_reader_gets_each_event_once_in_order_and_the_final_one_last(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow(*({"id": f"s{n}", "component": "step"} for n in range(20)))
    job_id = await jobs.create_job(flow)
    reader = asyncio.create_task(collect(jobs, job_id))
    await jobs.start_job(job_id)
    events = await reader
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    assert events[-1].type == "job.completed"
    assert events == await history(jobs, job_id)


@pytest.mark.guarantee("G10")
async def test_reader_that_comes_back_with_its_last_number_misses_nothing(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow({"id": "a", "component": "gate"}, {"id": "b", "component": "note"})
    job_id = await jobs.create_job(flow, start=True)
    first: list[Event] = []
    async with contextlib.aclosing(events_of(jobs, job_id)) as events:
        async for event in events:
            first.append(event)
            if event.type == "attempt.started":
                break
    bench.gate().open()
    await final(jobs, job_id)
    rest = await collect(jobs, job_id, first[-1].number)
    assert first + rest == await history(jobs, job_id)
    assert await collect(jobs, job_id, rest[-1].number) == []


@pytest.mark.guarantee("G10")
async def test_slow_reader_holds_nobody_up_and_still_gets_everything(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow(*({"id": f"s{n}", "component": "note"} for n in range(50)))
    job_id = await jobs.create_job(flow)
    async with contextlib.aclosing(events_of(jobs, job_id)) as events:
        first = await anext(events)
        await jobs.start_job(job_id)
        await final(jobs, job_id)
        rest = [event async for event in events]
    assert [first, *rest] == await history(jobs, job_id)


async def test_watching_more_than_a_page_of_events(bench: Bench, jobs: JobManager) -> None:
    each = {"id": "each", "foreach": "{{ range(700) | list }}", "steps": [{"id": "s", "component": "note"}]}
    job_id = await jobs.create_job(bench.workflow(each), start=True)
    events = await collect(jobs, job_id)
    assert [event.number for event in events] == list(range(1, len(events) + 1)) and len(events) > 1_400


async def test_watching_an_unknown_job_says_so(jobs: JobManager) -> None:
    with pytest.raises(JobNotFound):
        await collect(jobs, "nobody")
    with pytest.raises(JobNotFound):
        await jobs.wait("nobody")


async def test_watch_and_wait_end_when_the_job_is_deleted(bench: Bench, jobs: JobManager) -> None:
    job_id = await jobs.create_job(bench.one("note"))
    watching, waiting = asyncio.create_task(collect(jobs, job_id)), asyncio.create_task(jobs.wait(job_id))
    await jobs.store.read_summary(job_id)
    await asyncio.sleep(0)
    await jobs.delete_job(job_id)
    assert len(await watching) <= 1
    with pytest.raises(JobNotFound):
        await waiting


async def test_wait_gives_up_after_its_time_and_the_job_goes_on(bench: Bench, jobs: JobManager) -> None:
    job_id = await jobs.create_job(bench.one("gate"), start=True)
    await bench.gate().wait_entered()
    sleepers = bench.clock.sleepers
    waiting = asyncio.create_task(jobs.wait(job_id, timeout_s=30))
    await bench.clock.wait_sleepers(sleepers + 1)
    bench.clock.advance(30)
    with pytest.raises(WaitTimeout) as caught:
        await waiting
    assert caught.value.job_id == job_id
    bench.gate().open()
    assert await final(jobs, job_id) == "COMPLETED"


async def test_wait_for_a_job_that_is_final_returns_at_once(bench: Bench) -> None:
    async with bench.manager() as jobs:
        job_id = await jobs.create_job(bench.one("note", inputs={"value": 3}), start=True)
        live = await jobs.wait(job_id)
    async with bench.manager() as jobs:
        assert await jobs.wait(job_id, timeout_s=0) == live == await jobs.get_job(job_id)


async def test_many_wait_for_one_job(bench: Bench, jobs: JobManager) -> None:
    job_id = await jobs.create_job(bench.one("gate"), start=True)
    waiting = [asyncio.create_task(jobs.wait(job_id)) for _ in range(50)]
    await bench.gate().wait_entered()
    bench.gate().open()
    async with asyncio.timeout(SAFETY_S):
        assert {str((await one).status) for one in waiting} == {"COMPLETED"}


# ── listeners ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_listeners_hear_events_in_order_after_their_commit(bench: Bench, jobs: JobManager) -> None:
    heard: list[int] = []
    stored: list[bool] = []

    async def listen(job_id: str, event: Event) -> None:
        heard.append(event.number)
        stored.append(event in await jobs.store.read_events(job_id, event.number - 1))

    subscription = jobs.on("*", listen)
    flow = bench.workflow(*({"id": f"s{n}", "component": "note"} for n in range(5)))
    job_id = await jobs.create_job(flow, start=True)
    await final(jobs, job_id)
    await subscription.drain()
    assert heard == list(range(1, len(heard) + 1)) and all(stored)
    assert len(heard) == len(await history(jobs, job_id))


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("job.completed", ["job.completed"]),
        ("step.*", ["step.completed"]),
        ("step", ["step.completed"]),
        ("job.complete", []),
    ],
)
async def test_listeners_choose_by_type(bench: Bench, jobs: JobManager, pattern: str, expected: list[str]) -> None:
    heard: list[str] = []
    subscription = jobs.on(pattern, lambda job_id, event: heard.append(event.type))
    await final(jobs, await jobs.create_job(bench.one("note"), start=True))
    await subscription.drain()
    assert heard == expected


async def test_failing_listener_is_logged_and_hears_on(
    bench: Bench, jobs: JobManager, caplog: pytest.LogCaptureFixture
) -> None:
    def listen(job_id: str, event: Event) -> None:
        raise ValueError("I cannot listen")

    subscription = jobs.on("job.*", listen)
    job_id = await jobs.create_job(bench.one("note"), start=True)
    assert await final(jobs, job_id) == "COMPLETED"
    await subscription.drain()
    assert subscription.failures == 4
    assert [record.levelno for record in caplog.records if "listener" in record.message] == [logging.ERROR] * 4


async def test_listener_that_is_too_slow_is_dropped_and_holds_nobody_up(
    bench: Bench, jobs: JobManager, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bus, "LISTENER_QUEUE", 5)
    never = asyncio.Event()

    async def listen(job_id: str, event: Event) -> None:
        await never.wait()

    heard: list[int] = []
    slow = jobs.on("*", listen)
    monkeypatch.setattr(bus, "LISTENER_QUEUE", 10_000)
    quick = jobs.on("*", lambda job_id, event: heard.append(event.number))
    flow = bench.workflow(*({"id": f"s{n}", "component": "note"} for n in range(10)))
    job_id = await jobs.create_job(flow, start=True)
    assert await final(jobs, job_id) == "COMPLETED"
    await quick.drain()
    assert slow.is_dropped and "dropped" in caplog.text
    assert len(heard) == len(await history(jobs, job_id))


async def test_cancelled_subscription_hears_nothing_more(bench: Bench, jobs: JobManager) -> None:
    heard: list[str] = []
    subscription = jobs.on("*", lambda job_id, event: heard.append(event.type))
    subscription.cancel()
    await final(jobs, await jobs.create_job(bench.one("note"), start=True))
    assert heard == []


async def test_listener_that_never_ends_does_not_keep_the_manager_open(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus, "CLOSE_S", 0.01)
    never = asyncio.Event()

    async def listen(job_id: str, event: Event) -> None:
        await never.wait()

    async with bench.manager() as jobs:
        jobs.on("*", listen)
        await final(jobs, await jobs.create_job(bench.one("note"), start=True))
    assert [task for task in asyncio.all_tasks() if "drain" in repr(task) or "listener" in task.get_name()] == []


async def test_progress_reaches_listeners_and_no_history(bench: Bench, jobs: JobManager) -> None:
    @bench.components.registry.tool("report")
    def report(context: StepContext) -> None:
        context.progress(0.25, "a quarter")
        context.progress(1.0)

    heard: list[dict[str, object]] = []
    subscription = jobs.on("step.progress", lambda job_id, event: heard.append(event.data))
    job_id = await jobs.create_job(bench.one("report"), start=True)
    await final(jobs, job_id)
    await subscription.drain()
    assert heard == [
        {"path": "s", "fraction": 0.25, "message": "a quarter"},
        {"path": "s", "fraction": 1.0, "message": ""},
    ]
    assert "step.progress" not in {event.type for event in await history(jobs, job_id)}


@pytest.mark.parametrize("kind", ["sqlite"])
async def test_manager_that_runs_nothing_hears_of_jobs_in_another_one(bench: Bench, jobs: JobManager) -> None:
    async with bench.manager(worker=False) as other:
        job_id = await jobs.create_job(bench.one("gate"), start=True)
        await bench.gate().wait_entered()
        waiting = asyncio.create_task(other.wait(job_id))
        watching = asyncio.create_task(seen(other, job_id, "job.completed"))
        bench.gate().open()
        await final(jobs, job_id)
        while not (waiting.done() and watching.done()):
            await bench.pass_time(0.05)
        assert (await waiting).status == "COMPLETED"
