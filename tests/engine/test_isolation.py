"""Steps in processes through the manager, and the kill ladder: which rung ends what, and what no rung can end."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from openagents_json import JobManager, JobStatus
from openagents_json.clock import SystemClock
from openagents_json.errors import InvalidDefinition
from openagents_json.job.engine.processes import groups, proc
from openagents_json.job.events import Event
from openagents_json.workflow import MappingSecrets
from tests.engine.leftovers import Mark, marked
from tests.engine.process_components import where
from tests.engine.support import SAFETY_S, Bench, final, history, seen, types, until

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


@pytest.fixture(autouse=True)
def mark() -> Iterator[Mark]:
    """What the test starts carries it."""
    with marked() as mark:
        yield mark


@pytest.fixture(autouse=True)
def components(bench: Bench) -> None:
    bench.isolate(
        "echo", "hold", "tell_all", "fail", "fail_before", "die", "compute", "hold_the_interpreter", "ignore_sigterm",
        "start_grandchildren", "start_daemon", "start_comet", "clean_up", "clean_up_async", "finish_anyway",
        "wait_told",
    )  # fmt: skip


def started(bench: Bench, name: str = "started", **inputs: Any) -> dict[str, Any]:
    """Inputs of a component that touches a file when it runs."""
    return {"started": str(bench.place(name)), **inputs}


async def begin(bench: Bench, jobs: JobManager, component: str, **step: Any) -> str:
    """A job whose one step runs now: a component in a process, or one at the gate."""
    if not component.startswith("process."):
        gate = bench.gate()
        job_id = await jobs.create_job(bench.one(component, **step), start=True)
        await gate.wait_entered()
        return job_id
    more: dict[str, Any] = {}
    if component.endswith(("clean_up", "clean_up_async")):
        more = {"ended": str(bench.place("ended"))}
    elif component.endswith("start_grandchildren"):
        more = {"count": 3}
    job_id = await jobs.create_job(bench.one(component, inputs=started(bench, **more), **step), start=True)
    await bench.appears("started")
    return job_id


async def ends_of(jobs: JobManager, job_id: str) -> list[Event]:
    """How attempts ended that were told to stop."""
    ends = ("attempt.cancelled", "attempt.lost", "attempt.failed")
    return [event for event in await history(jobs, job_id) if event.type in ends]


# ── a step in a process ───────────────────────────────────────────────────────────────────────────────────────────


async def test_output_comes_back_and_flows_on(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow(
        {"id": "a", "component": "process.echo", "inputs": {"value": {"n": [1, None, "ü"]}}},
        {"id": "b", "component": "note", "inputs": {"value": "{{ steps.a.output.n }}"}},
        outputs={"n": "{{ steps.b.output }}"},
    )
    job = await jobs.wait(await jobs.create_job(flow, start=True), SAFETY_S)
    assert (job.status, job.outputs) == ("COMPLETED", {"n": [1, None, "ü"]})


async def test_step_may_ask_for_a_process_where_its_component_does_not(bench: Bench, jobs: JobManager) -> None:
    bench.components.registry.register(where)
    job = await jobs.wait(await jobs.create_job(bench.one("where", isolation="process"), start=True), SAFETY_S)
    assert job.steps["s"]["output"]["pid"] != os.getpid()


async def test_error_is_recorded_as_if_it_had_run_here_and_retried(bench: Bench, jobs: JobManager) -> None:
    retry = {"max_attempts": 3, "delay_seconds": 0}
    flow = bench.one("process.fail_before", inputs={"attempt": 2}, retry=retry)
    job_id = await jobs.create_job(flow, start=True)
    failed = await seen(jobs, job_id, "attempt.failed")
    error = failed.data["error"]
    assert (error["type"], error["message"], error["retryable"]) == ("http.503", "come back", True)
    assert "rung" not in failed.data, "nobody told it to stop"
    await bench.pass_time(1)
    assert await final(jobs, job_id) == "COMPLETED"


async def test_fatal_error_is_not_retried(bench: Bench, jobs: JobManager) -> None:
    flow = bench.one("process.fail", inputs={"how": "fatal"}, retry={"max_attempts": 3, "delay_seconds": 0})
    job = await jobs.wait(await jobs.create_job(flow, start=True), SAFETY_S)
    assert (job.status, job.errors[0]["type"], job.steps["s"]["attempt"]) == ("FAILED", "http.404", 1)


@pytest.mark.parametrize(
    ("kind", "component", "rung", "waits_s"),
    [
        ("memory", "compute", "terminate", ()),
        ("sqlite", "ignore_sigterm", "kill", (10,)),
        ("memory", "hold_the_interpreter", "kill", (10,)),
    ],
)
async def test_timeout_ends_the_process_and_says_by_which_rung(
    bench: Bench, jobs: JobManager, component: str, rung: str, waits_s: Sequence[float]
) -> None:
    job_id = await begin(bench, jobs, f"process.{component}", timeout=1)
    await bench.pass_time(1, *waits_s)
    assert await final(jobs, job_id) == "FAILED"
    [failed] = await ends_of(jobs, job_id)
    assert (failed.data["error"]["type"], failed.data["rung"]) == ("timeout.attempt", rung)
    assert failed.data["took_us"] == sum(waits_s) * 1_000_000
    assert (await jobs.get_job(job_id)).abandoned == 0


@pytest.mark.parametrize(("kind", "how"), [("memory", "exit"), ("memory", "kill"), ("sqlite", "segv")])
async def test_crash_fails_its_attempt_and_neighbours_go_on(bench: Bench, jobs: JobManager, how: str) -> None:
    """In the same manager: another step in a process, one in a thread, one in the loop."""
    gate, go = bench.gate(), bench.place("go")
    beside = bench.one("process.hold", "beside", inputs=started(bench, go=str(go), value=1))
    here = [bench.one(name, name.replace("_", "-")) for name in ("gate", "thread_gate")]
    neighbours = [await jobs.create_job(flow, start=True) for flow in (beside, *here)]
    await bench.appears("started")
    await gate.wait_entered(2)
    retry = {"max_attempts": 2, "delay_seconds": 0}
    crash = await jobs.create_job(bench.one("process.die", inputs={"how": how}, retry=retry), start=True)
    assert await final(jobs, crash) == "FAILED"
    errors = [event.data["error"] for event in await ends_of(jobs, crash)]
    assert [error["type"] for error in errors] == ["process.died"] * 2
    assert [str((await jobs.get_summary(one)).status) for one in neighbours] == ["RUNNING"] * 3
    go.touch()
    gate.open()
    assert [await final(jobs, one) for one in neighbours] == ["COMPLETED"] * 3


async def test_all_that_it_says_is_kept_and_heard_and_holds_no_secret(bench: Bench) -> None:
    inputs = {"text": "the key is {{ secrets.KEY }}, keep it"}
    flow = bench.one("process.tell_all", inputs=inputs)
    async with bench.manager(secrets=MappingSecrets({"KEY": "canary-7f3a9c"}), echo_output=False) as jobs:
        job_id = await jobs.create_job(flow)
        heard: list[Event] = []

        async def watch() -> None:
            async for event in jobs.watch(job_id, live=True):
                heard.append(event)

        watching = asyncio.create_task(watch())
        await until(lambda: jobs._bus.has_hearers(job_id))
        await jobs.start_job(job_id)
        async with asyncio.timeout(SAFETY_S):
            await watching
        output = await jobs.read_output(job_id)
    said = {event.type: event.data for event in heard}
    assert (said["step.progress"]["fraction"], said["step.progress"]["path"]) == (0.5, "s")
    hidden = said["step.emitted"]["data"]["said"]
    assert hidden.startswith("the key is ") and hidden.endswith(", keep it")
    assert said["step.progress"]["message"] == hidden
    for stream in ("stdout", "stderr", "log"):
        text = "".join(one.text for one in output if one.stream == stream)
        assert hidden in text, (stream, text)
    assert "canary" not in str([event.as_dict() for event in heard]) + str(output)


async def test_component_that_no_process_can_import_is_refused_with_the_reason(bench: Bench) -> None:
    async def local() -> None:
        """Defined in a function."""

    bench.components.registry.register(local, "local", isolation="process")
    for step, path in (
        ({"component": "local"}, "$.steps[0].component"),
        ({"component": "note", "isolation": "process"}, "$.steps[0].isolation"),
    ):
        with pytest.raises(InvalidDefinition) as caught:
            bench.workflow({"id": "s", **step})
        [problem] = caught.value.problems
        assert problem.path == path and "defined inside a function" in problem.message


async def test_no_more_processes_than_allowed_run_at_a_time(bench: Bench) -> None:
    each = {
        "id": "each",
        "foreach": "{{ range(4) | list }}",
        "steps": [
            {
                "id": "s",
                "component": "process.hold",
                "inputs": {"started": f"{bench.place('in')}{{{{ item }}}}", "go": f"{bench.place('go')}{{{{ item }}}}"},
            }
        ],
    }
    async with bench.manager(max_processes=2) as jobs:
        job_id = await jobs.create_job(bench.workflow(each), start=True)
        await bench.appears("in0")
        await bench.appears("in1")
        assert await final(jobs, await jobs.create_job(bench.one("note", "quick"), start=True)) == "COMPLETED"
        health = await jobs.health()
        assert (health["steps"], health["processes"], health["max_processes"]) == (2, 2, 2)
        assert (await types(jobs, job_id)).count("attempt.started") == 2
        bench.place("go0").touch()
        await bench.appears("in2")
        assert not bench.place("in3").exists()
        for number in (1, 2, 3):
            bench.place(f"go{number}").touch()
        assert await final(jobs, job_id) == "COMPLETED"
        assert (await jobs.health())["processes"] == 0


# ── the ladder ────────────────────────────────────────────────────────────────────────────────────────────────────

GENTLE = [
    ("gate", "terminate", 0),
    ("polite_thread", "flag", 0),
    ("process.wait_told", "terminate", 0),
    ("process.clean_up", "terminate", 0),
    ("process.clean_up_async", "terminate", 0),
    ("process.compute", "terminate", 0),
    ("process.ignore_sigterm", "kill", 3),
    ("process.hold_the_interpreter", "kill", 3),
    ("process.start_grandchildren", "terminate", 0),  # they ignore SIGTERM and die with their parent's group
    ("process.start_daemon", "terminate", 0),  # it ignores SIGTERM, has left the group, and dies with its ancestor
    ("process.start_comet", "terminate", 0),  # as that one, and each time that one looks it is another process
]


@linux
@pytest.mark.parametrize("kind", ["sqlite"])
@pytest.mark.parametrize(("component", "rung", "waits_s"), GENTLE)
async def test_cancel_climbs_no_further_than_it_must(
    bench: Bench, mark: Mark, component: str, rung: str, waits_s: int
) -> None:
    async with bench.manager(cancel_grace_s=3) as jobs:
        job_id = await begin(bench, jobs, component)
        await jobs.cancel_job(job_id)
        await seen(jobs, job_id, "job.cancel_requested")
        if waits_s:
            await bench.pass_time(waits_s - 0.1)
            assert (await jobs.get_summary(job_id)).status == "RUNNING"
            await bench.pass_time(0.1)
        assert await final(jobs, job_id) == "CANCELLED"
        if component == "process.wait_told":  # what it returns within its grace counts
            assert (await jobs.get_job(job_id)).steps["s"]["status"] in ("COMPLETED", "CANCELLED")
        else:
            [end] = await ends_of(jobs, job_id)
            assert (end.type, end.data["reason"], end.data["rung"]) == ("attempt.cancelled", "cancelled", rung)
            assert end.data["took_us"] == waits_s * 1_000_000
        assert bench.place("ended").exists() == ("clean_up" in component), "it could clean up"
        await no_step_runs(jobs)
    assert await mark.wait_gone() == []


@linux
@pytest.mark.parametrize("kind", ["memory"])
@pytest.mark.parametrize("component", [component for component, _, _ in GENTLE])
async def test_force_goes_to_the_last_rung_at_once(bench: Bench, mark: Mark, component: str) -> None:
    """Without any time passing. What is in a process is killed; a coroutine and a thread that look are told."""
    async with bench.manager() as jobs:
        job_id = await begin(bench, jobs, component)
        await jobs.cancel_job(job_id, force=True)
        assert await final(jobs, job_id) == "CANCELLED"
        if component == "process.start_daemon":
            assert not runs(int(bench.place("started").read_text()))
        [end] = await ends_of(jobs, job_id)
        expected = {"gate": "terminate", "polite_thread": "flag"}.get(component, "kill")
        assert (end.data["reason"], end.data["rung"], end.data["took_us"]) == ("force_cancelled", expected, 0)
        await no_step_runs(jobs)
    assert await mark.wait_gone() == []


def runs(pid: int) -> bool:
    found = proc.entry(pid)
    return found is not None and found.runs


async def no_step_runs(jobs: JobManager) -> None:
    """A final status says that the code is dead: the slots are free without any waiting."""
    health = await jobs.health()
    assert (health["steps"], health["threads"], health["processes"], health["abandoned_threads"]) == (0, 0, 0, 0)


@pytest.mark.parametrize("component", ["thread_gate", "stubborn"])
@pytest.mark.parametrize("force", [False, True])
async def test_what_nothing_can_end_is_abandoned_and_said_so_until_it_ends(
    bench: Bench, component: str, force: bool
) -> None:
    async with bench.manager(cancel_grace_s=3, max_threads=1) as jobs:
        gate = bench.gate()
        job_id = await begin(bench, jobs, component, inputs={"value": "late"})
        await jobs.cancel_job(job_id, force=force)
        await seen(jobs, job_id, "job.cancel_requested")
        await bench.pass_time(0.2 if force else 3)
        assert await final(jobs, job_id) == "CANCELLED"
        [end] = await ends_of(jobs, job_id)
        assert (end.data["abandoned"], end.data["took_us"]) == (True, 200_000 if force else 3_000_000)
        assert "rung" not in end.data, "no rung did it"

        status = await jobs.get_job_status(job_id)
        assert (status["display_status"], status["abandoned"]) == ("CANCELLED (1 abandoned attempt still runs)", 1)
        assert [one.id for one in await jobs.list_jobs({"abandoned": 1})] == [job_id]
        health = await jobs.health()
        assert health["steps"] == 1, "its slot is taken"
        if component == "thread_gate":
            assert (health["status"], health["abandoned_threads"], health["threads"]) == ("degraded", 1, 1)
            waiting = await jobs.create_job(bench.one("step", "next"), start=True)
            await seen(jobs, waiting, "job.started")
            assert "attempt.started" not in await types(jobs, waiting), "there is one thread, and it is not free"
        before = await history(jobs, job_id)
        gate.open()
        await gate.wait_left()
        await bench.until_async(lambda: jobs.get_summary(job_id), lambda one: one.abandoned == 0)
        assert await history(jobs, job_id) == before, "its late result is refused"
        assert (await jobs.get_summary(job_id)).display_status == "CANCELLED"
        if component == "thread_gate":
            assert await final(jobs, waiting) == "COMPLETED"
        await no_step_runs(jobs)


async def test_output_within_the_grace_counts_also_after_sigterm(bench: Bench, jobs: JobManager) -> None:
    job_id = await begin(bench, jobs, "process.finish_anyway")
    await jobs.cancel_job(job_id)
    job = await jobs.wait(job_id, SAFETY_S)
    assert (job.status, job.steps["s"]["status"], job.steps["s"]["output"]) == ("CANCELLED", "COMPLETED", "finished")


async def test_slot_is_free_only_when_the_killed_process_is_gone(bench: Bench, mark: Mark) -> None:
    """One process at a time: the next step of another job must not start beside a killed one that still dies."""
    async with bench.manager(max_processes=1) as jobs:
        first = await begin(bench, jobs, "process.ignore_sigterm")
        second = await jobs.create_job(bench.one("process.echo", "second", inputs={"value": 2}), start=True)
        await seen(jobs, second, "job.started")
        await jobs.cancel_job(first, force=True)
        assert [await final(jobs, one) for one in (first, second)] == ["CANCELLED", "COMPLETED"]
        [end], [began] = await ends_of(jobs, first), await events_named(jobs, second, "attempt.started")
        assert end.at <= began.at
    assert await mark.wait_gone() == []


async def events_named(jobs: JobManager, job_id: str, type: str) -> list[Event]:
    return [event for event in await history(jobs, job_id) if event.type == type]


# ── leaving the manager ───────────────────────────────────────────────────────────────────────────────────────────

STOP_S = 4.0
BAD = {
    "stubborn": "stubborn",
    "thread": "thread_gate",
    "deaf": "process.ignore_sigterm",
    "in-c": "process.hold_the_interpreter",
    "parent": "process.start_grandchildren",
    "coroutine": "gate",
}


@linux
async def test_manager_is_left_in_time_with_one_of_each_bad_kind_and_the_next_one_finishes_them(
    bench: Bench, mark: Mark
) -> None:
    gate, ids = bench.gate(), {}
    real: dict[str, Any] = {"clock": SystemClock(), "stop_timeout_s": STOP_S, "shutdown_grace_s": 1, "kill_s": 0.5}
    jobs = bench.manager(**real)
    await jobs.open()
    for name, component in BAD.items():
        more = {"count": 3} if name == "parent" else {}
        inputs = started(bench, name, **more) if component.startswith("process.") else {}
        ids[name] = await jobs.create_job(bench.one(component, name, inputs=inputs), start=True)
    await gate.wait_entered(3)
    for name in ("deaf", "in-c", "parent"):
        await bench.appears(name)
    begun = time.perf_counter()
    async with asyncio.timeout(SAFETY_S * 2):
        await jobs.close()
    assert time.perf_counter() - begun <= STOP_S + 0.5
    assert await mark.wait_gone() == []
    gate.open()
    await gate.wait_left(3)
    replace_by_quick_ones(bench)
    async with bench.manager(**real) as jobs:
        for name, job_id in ids.items():
            assert await final(jobs, job_id) == "COMPLETED", name
            kinds = await types(jobs, job_id)
            assert (kinds.count("attempt.started"), kinds.count("attempt.lost")) == (2, 1), name
            [lost] = await events_named(jobs, job_id, "attempt.lost")
            assert lost.data["reason"] == "shutdown"
            expected = {"deaf": "kill", "in-c": "kill"}.get(name, "terminate")
            if name in ("stubborn", "thread"):
                assert lost.data["abandoned"] is True
            else:
                assert lost.data["rung"] == expected, name
            assert "job.worker_lost" not in kinds, "a planned stop is no death"


def replace_by_quick_ones(bench: Bench) -> None:
    """Register one that ends at once in the place of the components that never end."""
    registry = bench.components.registry

    async def quick(started: str = "", count: int = 0) -> None:
        """Nothing."""

    made = registry.register(quick, "quick")
    for component in BAD.values():
        if component.startswith("process."):
            registry._components[component] = registry._components["quick"]
            registry._highest[component] = made


@linux
async def test_process_that_outlives_its_kill_does_not_keep_the_manager(
    bench: Bench, mark: Mark, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As one that sits in the kernel: here no signal reaches its group."""
    jobs = bench.manager(clock=SystemClock(), stop_timeout_s=1, shutdown_grace_s=0.4, kill_s=0.1)
    await jobs.open()
    job_id = await begin(bench, jobs, "process.ignore_sigterm")
    with monkeypatch.context() as patch:
        patch.setattr(groups, "send", lambda group, number: None)
        async with asyncio.timeout(SAFETY_S):
            await jobs.close()
    assert any("do not end although they were killed" in message for message in caplog.messages)
    async with bench.manager(worker=False) as jobs:
        assert (await jobs.get_summary(job_id)).status == JobStatus.QUEUED
        [end] = await ends_of(jobs, job_id)
        assert (end.type, end.data["abandoned"]) == ("attempt.lost", True)
    assert await mark.wait_gone() == [], "the warden has ended what was left"


@linux
async def test_jobs_are_queued_as_soon_as_the_manager_is_left(bench: Bench, mark: Mark) -> None:
    jobs = bench.manager(clock=SystemClock(), stop_timeout_s=1, shutdown_grace_s=0.2)
    await jobs.open()
    job_id = await begin(bench, jobs, "process.compute")
    await jobs.close()
    async with bench.manager(worker=False) as jobs:
        assert (await jobs.get_summary(job_id)).status == JobStatus.QUEUED
    assert await mark.wait_gone() == []
