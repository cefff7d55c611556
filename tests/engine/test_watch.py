"""Hearing of a job: watch, wait and on (guarantee G10)."""

from __future__ import annotations

import asyncio
import contextlib
import logging

import pytest

from openagents_json import JobManager, StepContext
from openagents_json.errors import InvalidTransition, JobNotFound, WaitTimeout
from openagents_json.job import bus
from openagents_json.job.events import Event, unknown_keys
from tests.engine.support import SAFETY_S, Bench, events_of, final, history, seen, until


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


# ── wait for a pause ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_wait_paused_returns_when_what_runs_has_ended(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow({"id": "a", "component": "gate"}, {"id": "b", "component": "note"})
    job_id = await jobs.create_job(flow, start=True)
    await bench.gate().wait_entered()
    await jobs.pause_job(job_id)
    waiting = asyncio.create_task(jobs.wait_paused(job_id))
    await seen(jobs, job_id, "job.pause_requested")
    assert not waiting.done()
    bench.gate().open()
    async with asyncio.timeout(SAFETY_S):
        job = await waiting
        steps = {path: step["status"] for path, step in job.steps.items()}
        assert (job.status, steps) == ("PAUSED", {"a": "COMPLETED", "b": "PENDING"})
        assert await jobs.wait_paused(job_id, timeout_s=0) == job


@pytest.mark.parametrize("ending", ["COMPLETED", "CANCELLED"])
async def test_wait_paused_of_a_job_that_ends_instead_says_so(bench: Bench, jobs: JobManager, ending: str) -> None:
    job_id = await jobs.create_job(bench.one("gate"), start=True)
    await bench.gate().wait_entered()
    waiting = asyncio.create_task(jobs.wait_paused(job_id))
    await asyncio.sleep(0)
    if ending == "CANCELLED":
        await jobs.cancel_job(job_id)
    else:
        bench.gate().open()
    for wait in (waiting, jobs.wait_paused(job_id)):
        with pytest.raises(InvalidTransition, match=f"it is {ending} \\(it ended before a pause") as caught:
            await wait
        assert (caught.value.status, "retry" in caught.value.allowed) == (ending, True)


async def test_wait_paused_gives_up_after_its_time_and_the_request_stands(bench: Bench, jobs: JobManager) -> None:
    job_id = await jobs.create_job(bench.one("gate"), start=True)
    await bench.gate().wait_entered()
    await jobs.pause_job(job_id)
    await seen(jobs, job_id, "job.pause_requested")
    sleepers = bench.clock.sleepers
    waiting = asyncio.create_task(jobs.wait_paused(job_id, timeout_s=3))
    await bench.clock.wait_sleepers(sleepers + 1)
    bench.clock.advance(3)
    with pytest.raises(WaitTimeout, match="not PAUSED after 3 s"):
        await waiting
    assert (await jobs.get_summary(job_id)).pause_requested
    with pytest.raises(JobNotFound):
        await jobs.wait_paused("nobody")


async def test_wait_paused_of_a_job_that_is_resumed_before_waits_for_the_next_pause(
    bench: Bench, jobs: JobManager
) -> None:
    job_id = await jobs.create_job(bench.one("gate"), start=True)
    await bench.gate().wait_entered()
    await jobs.pause_job(job_id)
    waiting = asyncio.create_task(jobs.wait_paused(job_id))
    await jobs.resume_job(job_id)
    await seen(jobs, job_id, "job.pause_withdrawn")
    await jobs.pause_job(job_id)
    await seen(jobs, job_id, "job.pause_requested", count=2)
    assert not waiting.done()
    bench.gate().open()
    async with asyncio.timeout(SAFETY_S):
        assert (await waiting).status == "PAUSED"


@pytest.mark.parametrize("kind", ["sqlite"])
async def test_wait_paused_and_wait_final_hear_of_what_another_process_does(bench: Bench) -> None:
    async with bench.manager(worker=False) as jobs, bench.manager(worker=False) as other:
        job_id = await jobs.create_job(bench.one("note"), start=True)
        for wait, ask, status in (
            (jobs.wait_paused, other.pause_job, "PAUSED"),
            (jobs.wait_final, other.cancel_job, "CANCELLED"),
        ):
            waiting = asyncio.create_task(wait(job_id))
            await asyncio.sleep(0)
            await ask(job_id)
            async with asyncio.timeout(SAFETY_S):
                while not waiting.done():
                    await bench.pass_time(0.05)
                assert (await waiting).status == status


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


async def test_listener_that_is_too_slow_misses_some_and_holds_nobody_up(
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
    assert slow.dropped > 0 and "misses some" in caplog.text
    assert (await jobs.health())["listeners"] == {"count": 2, "failures": 0, "dropped": slow.dropped}
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
        {"path": "s", "attempt": 1, "fraction": 0.25, "message": "a quarter"},
        {"path": "s", "attempt": 1, "fraction": 1.0, "message": ""},
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


# ── news that no history holds ────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def tokens(bench: Bench) -> None:
    @bench.components.registry.tool("tokens", isolation="inline")
    async def say(context: StepContext, words: list[str]) -> None:
        for word in words:
            context.emit({"token": word})
        context.progress(1.0, "said")

    @bench.components.registry.tool("tokens_in_thread")
    def say_in_thread(context: StepContext, words: list[str]) -> None:
        for word in words:
            context.emit({"token": word})


@pytest.mark.usefixtures("tokens")
@pytest.mark.parametrize("component", ["tokens", "tokens_in_thread"])
async def test_live_watcher_gets_what_a_step_emits_between_its_start_and_its_end(
    bench: Bench, jobs: JobManager, component: str
) -> None:
    words = [f"w{number}" for number in range(20)]
    job_id = await jobs.create_job(bench.one(component, inputs={"words": words}))

    async def watch() -> list[Event]:
        return [event async for event in jobs.watch(job_id, live=True)]

    watching = asyncio.create_task(watch())
    await until(lambda: jobs._bus.has_hearers(job_id))
    await jobs.start_job(job_id)
    events = await asyncio.wait_for(watching, SAFETY_S)
    names = [event.type for event in events]
    emitted = [event for event in events if event.type == "step.emitted"]
    assert [event.data for event in emitted] == [{"path": "s", "attempt": 1, "data": {"token": word}} for word in words]
    assert names.index("attempt.started") < names.index("step.emitted")
    assert names.index("step.completed") > max(place for place, name in enumerate(names) if name == "step.emitted")
    assert [event for event in events if event.number] == await history(jobs, job_id)
    assert all(not unknown_keys(event) for event in events)


@pytest.mark.usefixtures("tokens")
async def test_emitted_data_reaches_listeners_and_no_history(bench: Bench, jobs: JobManager) -> None:
    heard: list[object] = []
    subscription = jobs.on("step.emitted", lambda job_id, event: heard.append(event.data["data"]))
    job_id = await jobs.create_job(bench.one("tokens", inputs={"words": ["a", "b"]}), start=True)
    await final(jobs, job_id)
    await subscription.drain()
    assert heard == [{"token": "a"}, {"token": "b"}]
    assert [event for event in await collect(jobs, job_id) if not event.number] == []


@pytest.mark.usefixtures("tokens")
async def test_slow_live_watcher_misses_some_but_no_recorded_event(
    bench: Bench, jobs: JobManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus, "LIVE_QUEUE", 5)
    job_id = await jobs.create_job(bench.one("tokens", inputs={"words": ["w"] * 50}))
    async with contextlib.aclosing(jobs.watch(job_id, live=True)) as events:
        got = [await anext(events)]
        await jobs.start_job(job_id)
        await final(jobs, job_id)
        got += [event async for event in events]
    assert [event for event in got if event.number] == await history(jobs, job_id)
    (dropped,) = [event for event in got if event.type == "listener.dropped"]
    assert dropped.data == {"dropped": 46, "jobs": [job_id]}  # the last of them is progress


async def test_what_is_too_large_or_no_json_is_not_emitted(bench: Bench, jobs: JobManager) -> None:
    @bench.components.registry.tool("emit")
    async def emit(context: StepContext, what: str) -> None:
        context.emit({1, 2} if what == "set" else "x" * 70_000)

    for what in ("set", "large"):
        job_id = await jobs.create_job(bench.one("emit", id=what, inputs={"what": what}), start=True)
        assert await final(jobs, job_id) == "FAILED"
