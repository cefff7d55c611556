"""Secrets never rest: a canary is found nowhere that lasts and nowhere that people read (guarantee G14)."""

from __future__ import annotations

import json
import logging
import traceback
from typing import Any

import pytest

from openagents_json import JobManager, StepContext
from openagents_json.errors import StepFailure
from openagents_json.job.events import Event
from openagents_json.workflow import MappingSecrets
from tests.engine.support import Bench, final, history, seen

CANARY = 'canary-7f3a9c/é"quoted'


def leaks(text: str) -> bool:
    return "canary-7f3a9c" in text


class Watcher:
    """Everything of a run that somebody could keep: log records, events, answers, files."""

    def __init__(self, bench: Bench, jobs: JobManager, caplog: pytest.LogCaptureFixture) -> None:
        self.bench, self.jobs, self.caplog = bench, jobs, caplog
        caplog.set_level(logging.DEBUG)
        self.heard: list[str] = []
        self.subscription = jobs.on("*", lambda job_id, event: self.heard.append(json.dumps(event.as_dict())))

    async def found(self, job_id: str) -> list[str]:
        """Where the canary is."""
        await self.subscription.drain()
        jobs = self.jobs
        places: dict[str, str] = {
            "events": str([event.as_dict() for event in await history(jobs, job_id)]),
            "listeners": str(self.heard),
            "job": str(await jobs.get_job(job_id)),
            "status": str(await jobs.get_job_status(job_id)),
            "list": str(await jobs.list_jobs()),
            "health": str(await jobs.health()),
            "log": "".join(
                record.getMessage()
                + str(record.__dict__)
                + ("".join(traceback.format_exception(*record.exc_info)) if record.exc_info else "")
                for record in self.caplog.records
                if record.name.startswith("openagents_json")
            ),
        }
        for path in self.bench.path.parent.rglob("*"):
            if path.is_file():
                places[path.name] = path.read_bytes().decode("utf-8", "replace")
        return [place for place, text in places.items() if leaks(text)]


@pytest.fixture
async def watcher(bench: Bench, caplog: pytest.LogCaptureFixture) -> Any:
    tool = bench.components.registry.tool

    @tool("use")
    async def use(context: StepContext, key: str) -> dict[str, Any]:
        assert key == CANARY
        context.progress(0.5, f"with {key}")
        return {"header": f"Bearer {key}", key: [key, {"deep": key}]}

    @tool("use_in_thread")
    def use_in_thread(context: StepContext, key: str) -> str:
        assert key == CANARY
        context.progress(0.5, f"with {key}")
        return key

    @tool("raise_it")
    async def raise_it(key: str) -> None:
        raise StepFailure(f"http.{key}", f"401 for {key!r} and {key}", details={"sent": {"key": key}})

    @tool("raise_any")
    def raise_any(key: str) -> None:
        raise ValueError(key)

    @tool("bad_output")
    async def bad_output(key: str) -> Any:
        return {key: {1, 2}}

    @tool("number")
    async def number(key: int) -> None: ...

    @tool("hang")
    async def hang(context: StepContext, key: str) -> None:
        bench.gate().enter(context)
        await bench.gate().wait_open()

    async with bench.manager(secrets=MappingSecrets({"CANARY": CANARY})) as jobs:
        yield Watcher(bench, jobs, caplog)
        bench.open_gates()


@pytest.mark.guarantee("G14")
@pytest.mark.parametrize(
    ("component", "status"),
    [
        ("use", "COMPLETED"),
        ("use_in_thread", "COMPLETED"),
        ("raise_it", "FAILED"),
        ("raise_any", "FAILED"),
        ("bad_output", "FAILED"),
        ("number", "FAILED"),
    ],
)
async def test_secret_in_a_steps_inputs_is_found_nowhere(
    bench: Bench, watcher: Watcher, component: str, status: str
) -> None:
    # The check knows that a secret is a text; what a filter gives, it finds out when it runs.
    secret = "{{ [secrets.CANARY, 1] | first }}" if component == "number" else "{{ secrets.CANARY }}"
    flow = bench.workflow(
        {"id": "s", "component": component, "inputs": {"key": secret}},
        {"id": "after", "set": "{{ steps.s.output }}"},
    )
    job_id = await watcher.jobs.create_job(flow, start=True)
    assert await final(watcher.jobs, job_id) == status
    assert await watcher.found(job_id) == []


@pytest.mark.guarantee("G14")
@pytest.mark.parametrize("expression", ["Bearer {{ secrets.CANARY }}", "{{ secrets.CANARY | upper | lower }}"])
async def test_secret_inside_a_text_is_found_nowhere(bench: Bench, watcher: Watcher, expression: str) -> None:
    flow = bench.one("note", inputs={"value": expression})
    job_id = await watcher.jobs.create_job(flow, start=True)
    assert await final(watcher.jobs, job_id) == "COMPLETED"
    assert leaks(bench.components.values[0])
    assert await watcher.found(job_id) == []


@pytest.mark.guarantee("G14")
@pytest.mark.parametrize(
    "expression", ["{{ secrets.CANARY < 1 }}", "{{ secrets.CANARY | int }}", "{{ 1 + secrets.CANARY }}"]
)
async def test_expression_that_fails_on_a_secret_does_not_show_it(
    bench: Bench, watcher: Watcher, expression: str
) -> None:
    flow = bench.one("note", inputs={"value": expression})
    job_id = await watcher.jobs.create_job(flow, start=True)
    await final(watcher.jobs, job_id)
    assert await watcher.found(job_id) == []


@pytest.mark.guarantee("G14")
async def test_write_only_input_holds_a_reference_and_is_resolved_at_the_attempt(
    bench: Bench, watcher: Watcher
) -> None:
    flow = bench.workflow(
        {"id": "s", "component": "use", "inputs": {"key": "{{ inputs.key }}"}},
        inputs={"type": "object", "properties": {"key": {"type": "string", "writeOnly": True}}, "required": ["key"]},
    )
    job_id = await watcher.jobs.create_job(flow, {"key": {"secret": "CANARY"}}, start=True)
    assert await final(watcher.jobs, job_id) == "COMPLETED"
    assert await watcher.found(job_id) == []


@pytest.mark.guarantee("G14")
async def test_secret_of_a_step_that_is_cancelled_or_times_out_is_found_nowhere(bench: Bench, watcher: Watcher) -> None:
    inputs = {"key": "{{ secrets.CANARY }}"}
    timed = await watcher.jobs.create_job(bench.one("hang", id="timed", inputs=inputs, timeout=1), start=True)
    stopped = await watcher.jobs.create_job(bench.one("hang", id="stopped", inputs=inputs), start=True)
    await bench.gate().wait_entered(2)
    await bench.pass_time(1)
    await watcher.jobs.cancel_job(stopped)
    assert [await final(watcher.jobs, job_id) for job_id in (timed, stopped)] == ["FAILED", "CANCELLED"]
    assert await watcher.found(timed) == await watcher.found(stopped) == []


async def test_missing_secret_fails_the_step_and_says_which(bench: Bench, watcher: Watcher) -> None:
    job_id = await watcher.jobs.create_job(bench.one("use", inputs={"key": "{{ secrets.NOWHERE }}"}), start=True)
    job = await watcher.jobs.wait(job_id)
    assert (job.errors[0]["type"], "NOWHERE" in job.errors[0]["message"]) == ("secret.missing", True)


async def test_provider_that_fails_fails_the_step(bench: Bench) -> None:
    class Broken:
        async def get(self, name: str) -> str:
            raise ConnectionError("vault is sealed")

    async with bench.manager(secrets=Broken()) as jobs:
        job_id = await jobs.create_job(bench.one("note", inputs={"value": "{{ secrets.KEY }}"}), start=True)
        job = await jobs.wait(job_id)
        assert job.errors[0]["type"] == "component.ConnectionError"


async def test_provider_is_asked_at_each_attempt_and_can_be_cancelled(bench: Bench) -> None:
    import asyncio

    class Slow:
        def __init__(self) -> None:
            self.asked: list[str] = []
            self.answer = asyncio.Event()

        async def get(self, name: str) -> str:
            self.asked.append(name)
            if len(self.asked) == 2:
                self.answer.set()
                await asyncio.Event().wait()
            return "v"

    provider = Slow()
    retry = {"max_attempts": 2, "delay_seconds": 0}
    flow = bench.one("fail", inputs={"message": "{{ secrets.KEY }}"}, retry=retry)
    async with bench.manager(secrets=provider) as jobs:
        job_id = await jobs.create_job(flow, start=True)
        await provider.answer.wait()
        await seen(jobs, job_id, "attempt.started", count=2)
        await jobs.cancel_job(job_id)
        assert await final(jobs, job_id) == "CANCELLED"
        assert provider.asked == ["KEY", "KEY"]


def test_canary_would_be_found() -> None:
    assert leaks(str(Event.unrecorded("x", 0, {"a": CANARY}).as_dict()))


async def test_step_with_a_secret_of_its_own_needs_no_write_only_input_that_it_does_not_use(
    bench: Bench, watcher: Watcher
) -> None:
    schema = {"type": "string", "writeOnly": True}
    flow = bench.workflow(
        {"id": "s", "component": "use", "inputs": {"key": "{{ secrets.CANARY }}"}},
        inputs={"type": "object", "properties": {"other": schema, "none": schema}},
    )
    job_id = await watcher.jobs.create_job(flow, {"other": {"secret": "ELSEWHERE"}}, start=True)
    assert await final(watcher.jobs, job_id) == "COMPLETED"
    assert await watcher.found(job_id) == []
