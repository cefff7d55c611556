"""The output of steps: what components print, log and emit is kept with the job, and readable when they have ended."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from openagents_json import JobManager, OutputText, StepContext
from openagents_json.errors import JobNotFound, StoreUnavailable
from openagents_json.job.engine.output import FLUSH_S
from openagents_json.job.store import JobStore
from openagents_json.workflow import MappingSecrets
from tests.engine.support import Bench, final, history, seen, until


async def output(
    jobs: JobManager, job_id: str, step: str | None = None, attempt: int | None = None
) -> list[OutputText]:
    """All that is there now."""
    found: list[OutputText] = []
    while page := await jobs.read_output(job_id, step, attempt, found[-1].cursor if found else 0):
        found += page
    return found


async def text_of(jobs: JobManager, job_id: str, stream: str = "stdout") -> str:
    return "".join(one.text for one in await output(jobs, job_id) if one.stream == stream)


@pytest.fixture(autouse=True)
def talkers(bench: Bench) -> None:
    tool = bench.components.registry.tool

    @tool("say")
    async def say(context: StepContext, text: str = "hello") -> None:
        print(text)
        await asyncio.sleep(0)
        print("trouble", file=sys.stderr)
        context.logger.info("told %s", text)

    @tool("say_in_thread")
    def say_in_thread(context: StepContext, text: str = "hello") -> None:
        print(text)
        print("trouble", file=sys.stderr)
        context.logger.info("told %s", text)

    @tool("say_inline", isolation="inline")
    def say_inline(context: StepContext, text: str = "hello") -> None:
        print(text)
        print("trouble", file=sys.stderr)
        context.logger.info("told %s", text)

    @tool("say_elsewhere")
    async def say_elsewhere(text: str = "hello") -> None:
        """From what an async component starts: a task, and a thread that gets its context."""
        await asyncio.gather(asyncio.to_thread(sys.stdout.write, "in a thread\n"), _said("in a task\n"))

    @tool("say_and_wait")
    async def say_and_wait(context: StepContext, name: str = "gate") -> None:
        print("begun")
        bench.gate(name).enter(context)
        await bench.gate(name).wait_open()
        print("ended")

    @tool("flood")
    def flood(lines: int) -> None:
        for number in range(lines):
            print(f"{number:06} {'x' * 93}")


async def _said(text: str) -> None:
    sys.stdout.write(text)


@pytest.mark.parametrize("component", ["say", "say_in_thread", "say_inline"])
async def test_what_a_step_prints_and_logs_is_there_when_its_end_is_seen(
    bench: Bench, jobs: JobManager, component: str
) -> None:
    flow = bench.workflow({"id": "a", "component": component}, {"id": "b", "component": "gate"})
    job_id = await jobs.create_job(flow, start=True)
    await seen(jobs, job_id, "step.completed", path="a")
    found = await output(jobs, job_id)
    assert [(one.step, one.attempt, one.stream, one.text, one.cut) for one in found] == [
        ("a", 1, "stdout", "hello\n", 0),
        ("a", 1, "stderr", "trouble\n", 0),
        ("a", 1, "log", "INFO told hello\n", 0),
    ]
    assert all(one.at == bench.clock.now() for one in found)


async def test_two_steps_that_talk_at_the_same_time_are_kept_apart(bench: Bench, jobs: JobManager) -> None:
    each = {"id": "each", "foreach": "{{ range(20) | list }}", "steps": [
        {"id": "s", "component": ["say", "say_in_thread"][0], "inputs": {"text": "item {{ index }}"}},
        {"id": "t", "component": "say_in_thread", "inputs": {"text": "thread {{ index }}"}},
    ]}  # fmt: skip
    job_id = await jobs.create_job(bench.workflow(each), start=True)
    assert await final(jobs, job_id) == "COMPLETED"
    for index in range(20):
        for id, word in (("s", "item"), ("t", "thread")):
            texts = [one.text for one in await output(jobs, job_id, f"each[{index}].{id}")]
            assert texts == [f"{word} {index}\n", "trouble\n", f"INFO told {word} {index}\n"]
    assert len(await output(jobs, job_id, "each[3]")) == 6
    assert len(await output(jobs, job_id, "each")) == 120


async def test_tasks_and_threads_of_a_component_belong_to_its_attempt(bench: Bench, jobs: JobManager) -> None:
    job_id = await jobs.create_job(bench.one("say_elsewhere"), start=True)
    await final(jobs, job_id)
    assert sorted((await text_of(jobs, job_id)).splitlines()) == ["in a task", "in a thread"]


async def test_output_of_a_running_step_comes_after_half_a_second(bench: Bench, jobs: JobManager) -> None:
    job_id = await jobs.create_job(bench.one("say_and_wait"), start=True)
    await bench.gate().wait_entered()
    await until(lambda: jobs._worker.outputs._timer is not None)
    assert await output(jobs, job_id) == []
    bench.clock.advance(FLUSH_S)
    found = await bench.until_async(lambda: output(jobs, job_id), bool)
    assert [one.text for one in found] == ["begun\n"]
    bench.gate().open()
    await final(jobs, job_id)
    assert [one.text for one in await jobs.read_output(job_id, after=found[-1].cursor)] == ["ended\n"]


async def test_each_attempt_has_its_own_output_also_when_it_fails(bench: Bench, jobs: JobManager) -> None:
    @bench.components.registry.tool("fail_loudly")
    async def fail_loudly(context: StepContext) -> None:
        print(f"attempt {context.attempt}")
        raise ValueError("no luck")

    flow = bench.one("fail_loudly", retry={"max_attempts": 2, "delay_seconds": 0})
    job_id = await jobs.create_job(flow, start=True)
    assert await final(jobs, job_id) == "FAILED"
    assert [(one.attempt, one.text) for one in await output(jobs, job_id)] == [(1, "attempt 1\n"), (2, "attempt 2\n")]
    assert [one.text for one in await output(jobs, job_id, "s", 2)] == ["attempt 2\n"]


async def test_no_history_holds_any_of_it(bench: Bench, jobs: JobManager) -> None:
    job_id = await jobs.create_job(bench.one("say", inputs={"text": "a canary"}), start=True)
    await final(jobs, job_id)
    data = str([event.data for event in await history(jobs, job_id) if event.type != "attempt.started"])
    assert "trouble" not in data


async def test_beginning_and_end_of_a_flood_are_kept_and_the_cut_is_told(bench: Bench, jobs: JobManager) -> None:
    job_id = await jobs.create_job(bench.one("flood", inputs={"lines": 20_000}), start=True)
    assert await final(jobs, job_id) == "COMPLETED"
    found = await output(jobs, job_id)
    lines = "".join(one.text for one in found).splitlines()
    assert lines[0].startswith("000000 ") and lines[-1].startswith("019999 ")
    (cut,) = [one.cut for one in found if one.cut]
    kept = sum(len(one.text) for one in found)
    assert 200_000 < kept < 300_000
    assert cut + kept == pytest.approx(20_000 * 101, rel=0.01)


@pytest.mark.guarantee("G14")
@pytest.mark.parametrize("component", ["leak", "leak_in_thread"])
async def test_secret_that_a_component_prints_logs_and_emits_is_found_in_no_byte(
    bench: Bench, tmp_path: Path, component: str
) -> None:
    canary = 'canary-7f3a9c/é"quoted'

    def tell(context: StepContext, key: str) -> None:
        print("key:", key)
        for letter in key:
            sys.stderr.write(letter)
        context.logger.warning("with %s", key)
        context.emit({"key": key})
        print({"key": key}, end="")
        print(key[:9], end="")

    @bench.components.registry.tool("leak")
    async def leak(context: StepContext, key: str) -> None:
        tell(context, key)

    @bench.components.registry.tool("leak_in_thread")
    def leak_in_thread(context: StepContext, key: str) -> None:
        tell(context, key)

    async with bench.manager(secrets=MappingSecrets({"KEY": canary})) as jobs:
        job_id = await jobs.create_job(bench.one(component, inputs={"key": "{{ secrets.KEY }}"}), start=True)
        assert await final(jobs, job_id) == "COMPLETED"
        found = await output(jobs, job_id)
        assert {one.stream for one in found} == {"stdout", "stderr", "log", "emitted"}
        assert "canary-7f3a9c" not in str(found)
        assert [one.text for one in found if one.stream == "stderr"] == ["***"]
        for path in tmp_path.rglob("*"):
            assert not path.is_file() or b"canary-7f3a9c" not in path.read_bytes()


@pytest.mark.parametrize("echoes", [True, False])
async def test_setting_says_whether_it_is_printed_as_well(
    bench: Bench, capsys: pytest.CaptureFixture[str], echoes: bool
) -> None:
    async with bench.manager(echo_output=echoes) as jobs:
        job_id = await jobs.create_job(bench.one("say"), start=True)
        await final(jobs, job_id)
        assert await text_of(jobs, job_id) == "hello\n"
    assert capsys.readouterr().out == ("hello\n" if echoes else "")


async def test_manager_that_shall_not_capture_leaves_the_streams_alone(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sys.stdout, sys.stderr
    async with bench.manager(capture_output=False) as jobs:
        assert (sys.stdout, sys.stderr) == before
        job_id = await jobs.create_job(bench.one("say"), start=True)
        await final(jobs, job_id)
        assert await output(jobs, job_id) == []
    assert capsys.readouterr().out == "hello\n"


async def test_several_managers_capture_for_themselves_and_the_last_one_gives_the_streams_back(bench: Bench) -> None:
    before = sys.stdout, sys.stderr, logging.getLogRecordFactory()
    async with JobManager("memory", components=bench.components.registry, workflows=bench.workflows) as one:
        async with JobManager("memory", components=bench.components.registry, workflows=bench.workflows) as other:
            bench.workflow({"id": "s", "component": "say", "inputs": {"text": "{{ inputs.text }}"}}, id="saying",
                           inputs={"type": "object", "properties": {"text": {"type": "string"}}})  # fmt: skip
            ids = [await jobs.create_job("saying", {"text": text}, start=True)
                   for jobs, text in ((one, "one"), (other, "other"))]  # fmt: skip
            await one.wait(ids[0])
            await other.wait(ids[1])
            assert [await text_of(one, ids[0]), await text_of(other, ids[1])] == ["one\n", "other\n"]
        job_id = await one.create_job("saying", {"text": "still"}, start=True)
        await one.wait(job_id)
        assert await text_of(one, job_id) == "still\n"
    assert (sys.stdout, sys.stderr, logging.getLogRecordFactory()) == before


async def test_store_that_does_not_take_output_costs_no_job(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    store = bench.store()
    _refuse_output(store)
    async with bench.manager(store) as jobs:
        job_id = await jobs.create_job(bench.one("say"), start=True)
        assert await final(jobs, job_id) == "COMPLETED"
        await until(lambda: jobs._worker.outputs.lost > 0)
        assert (await jobs.health())["output_lost_bytes"] > 0
    assert "output of step s was lost" in caplog.text


def _refuse_output(store: JobStore) -> None:
    async def append_output(*given: Any) -> None:
        raise StoreUnavailable("no room for this")

    store.append_output = append_output  # type: ignore[method-assign, assignment]


async def test_slow_store_gets_no_second_part_before_it_has_taken_the_first(bench: Bench, jobs: JobManager) -> None:
    taken, go_on = asyncio.Event(), asyncio.Event()
    append_output = jobs.store.append_output
    parts: list[Any] = []

    async def slow(*given: Any) -> None:
        parts.append(given)
        taken.set()
        await go_on.wait()
        await append_output(*given)

    jobs.store.append_output = slow  # type: ignore[method-assign, assignment]

    @bench.components.registry.tool("count")
    async def count(context: StepContext) -> None:
        for number in range(3):
            print(number)
            gate = bench.gate(f"gate{number}")
            gate.enter(context)
            await gate.wait_open()

    job_id = await jobs.create_job(bench.one("count"), start=True)
    for number in range(3):
        await bench.gate(f"gate{number}").wait_entered()
        await until(lambda: jobs._worker.outputs._timer is not None)
        await bench.pass_time(FLUSH_S)
        await taken.wait()
        bench.gate(f"gate{number}").open()
    assert await final(jobs, job_id) == "COMPLETED"
    assert len(parts) == 2  # the first, and all the rest with the attempt's end
    go_on.set()
    await bench.until_async(lambda: text_of(jobs, job_id), lambda text: text == "0\n1\n2\n")


async def test_abandoned_thread_is_heard_until_it_ends(bench: Bench, jobs: JobManager) -> None:
    go_on, told = threading.Event(), threading.Event()

    @bench.components.registry.tool("deaf")
    def deaf(context: StepContext) -> None:
        print("begun")
        bench.gate().enter(context)
        go_on.wait(10)
        print("still here")
        told.set()

    bench.gate()
    job_id = await jobs.create_job(bench.one("deaf"), start=True)
    await bench.gate().wait_entered()
    await jobs.cancel_job(job_id, force=True)
    await until(lambda: jobs._worker.admission.steps == 1)
    while (await jobs.get_summary(job_id)).status != "CANCELLED":
        await bench.pass_time(0.2)
    assert await text_of(jobs, job_id) == "begun\n"
    go_on.set()
    await asyncio.to_thread(told.wait)
    await bench.until_async(lambda: text_of(jobs, job_id), lambda text: text == "begun\nstill here\n")


async def test_output_of_a_job_that_is_deleted_is_gone(bench: Bench, jobs: JobManager) -> None:
    job_id = await jobs.create_job(bench.one("say"), start=True)
    await final(jobs, job_id)
    await jobs.delete_job(job_id)
    with pytest.raises(JobNotFound):
        await jobs.read_output(job_id)
    assert await jobs.store.read_output(job_id) == []
