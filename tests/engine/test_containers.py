"""repeat, switch and parallel: what they open, what they give, and how they fail."""

from __future__ import annotations

from typing import Any

import pytest

from openagents_json import JobManager
from tests.engine.support import Bench, final, history, seen, types


async def run(jobs: JobManager, flow: str, inputs: dict[str, Any] | None = None) -> tuple[str, Any]:
    """Run a job to its end: its status and outputs."""
    job_id = await jobs.create_job(flow, inputs, start=True)
    status = await final(jobs, job_id)
    return status, (await jobs.get_job(job_id)).outputs


def note(id: str, value: Any = None, **fields: Any) -> dict[str, Any]:
    return {"id": id, "component": "note", "inputs": {"value": value}, **fields}


# ── repeat ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_repeat_goes_round_until_its_condition_holds(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow(
        {
            "id": "double",
            "repeat": {"until": "{{ steps.twice.output >= 20 }}", "max_iterations": 10, "initial": 3},
            "steps": [{"id": "twice", "component": "add", "inputs": {"a": "{{ last }}", "b": "{{ last }}"}}],
        }
    )
    job_id = await jobs.create_job(flow, start=True)
    assert await final(jobs, job_id) == "COMPLETED"
    job = await jobs.get_job(job_id)
    assert job.outputs == {"double": 24}
    assert list(job.steps) == ["double", "double[0].twice", "double[1].twice", "double[2].twice"]
    assert job.steps["double"]["iterations"] == 3


async def test_repeat_sees_its_iteration_and_the_outputs_around_it(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow(
        {"id": "base", "set": 10},
        {
            "id": "loop",
            "repeat": {"until": "{{ iteration == 2 }}", "max_iterations": 5},
            "steps": [{"id": "sum", "set": "{{ steps.base.output + iteration }}"}],
            "output": "{{ [steps.sum.output, last] }}",
        },
    )
    assert await run(jobs, flow) == ("COMPLETED", {"loop": [12, [11, [10, None]]]})


@pytest.mark.parametrize(("on_max", "expected"), [("fail", "FAILED"), ("continue", "COMPLETED")])
async def test_repeat_that_is_never_enough_fails_or_goes_on(
    bench: Bench, jobs: JobManager, on_max: str, expected: str
) -> None:
    repeat = {"until": False, "max_iterations": 3, "on_max": on_max}
    flow = bench.workflow({"id": "loop", "repeat": repeat, "steps": [{"id": "s", "set": "{{ iteration }}"}]})
    job_id = await jobs.create_job(flow, start=True)
    assert await final(jobs, job_id) == expected
    job = await jobs.get_job(job_id)
    if expected == "FAILED":
        assert job.errors[0]["type"] == "limit.iterations"
    else:
        assert job.outputs == {"loop": 2}


async def test_repeat_waits_between_iterations_without_a_worker(bench: Bench, jobs: JobManager) -> None:
    repeat = {"until": "{{ iteration == 1 }}", "max_iterations": 3, "delay_seconds": 600}
    flow = bench.workflow({"id": "loop", "repeat": repeat, "steps": [note("s", "{{ iteration }}")]})
    job_id = await jobs.create_job(flow, start=True)
    await seen(jobs, job_id, "job.waiting")
    assert (await jobs.get_summary(job_id)).status == "WAITING"
    await bench.pass_time(601)
    assert await final(jobs, job_id) == "COMPLETED"
    assert bench.components.values == [0, 1]


async def test_failure_inside_a_repeat_is_the_failure_of_the_repeat(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow(
        {"id": "loop", "repeat": {"until": True, "max_iterations": 2}, "steps": [{"id": "s", "component": "fail"}]}
    )
    job_id = await jobs.create_job(flow, start=True)
    assert await final(jobs, job_id) == "FAILED"
    steps = (await jobs.get_job(job_id)).steps
    assert (steps["loop"]["status"], steps["loop"]["error"]["type"]) == ("FAILED", "component.ValueError")


# ── switch ────────────────────────────────────────────────────────────────────────────────────────────────────────


def switch(**fields: Any) -> dict[str, Any]:
    return {
        "id": "choice",
        "switch": [
            {"when": "{{ inputs.n < 10 }}", "steps": [note("small", "small")]},
            {"when": "{{ inputs.n < 100 }}", "steps": [note("middle", "middle")], "output": "{{ inputs.n }}"},
        ],
        **fields,
    }


ANYTHING = {"type": "object", "additionalProperties": True}
NUMBER = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


@pytest.mark.parametrize(("n", "path", "output"), [(1, "choice[0].small", "small"), (50, "choice[1].middle", 50)])
async def test_switch_runs_the_first_case_that_is_true(
    bench: Bench, jobs: JobManager, n: int, path: str, output: Any
) -> None:
    flow = bench.workflow(switch(), inputs=NUMBER)
    job_id = await jobs.create_job(flow, {"n": n}, start=True)
    await final(jobs, job_id)
    job = await jobs.get_job(job_id)
    assert (list(job.steps), job.outputs) == (["choice", path], {"choice": output})


async def test_switch_without_a_true_case_gives_null_or_its_default(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow(switch(), {"id": "after", "set": "{{ steps.choice.output is none }}"}, inputs=NUMBER)
    assert await run(jobs, flow, {"n": 1000}) == ("COMPLETED", {"after": True})
    flow = bench.workflow(switch(default=[note("large", "large")]), id="other", inputs=NUMBER)
    assert await run(jobs, flow, {"n": 1000}) == ("COMPLETED", {"choice": "large"})


async def test_switch_whose_condition_is_no_boolean_fails(bench: Bench, jobs: JobManager) -> None:
    switch = [{"when": "{{ inputs.answer }}", "steps": [note("s")]}]
    flow = bench.workflow({"id": "c", "switch": switch}, inputs=ANYTHING)
    job_id = await jobs.create_job(flow, {"answer": 1}, start=True)
    assert await final(jobs, job_id) == "FAILED"
    assert "must be true or false" in (await jobs.get_job(job_id)).errors[0]["message"]


# ── parallel ──────────────────────────────────────────────────────────────────────────────────────────────────────


def branch(name: str) -> list[dict[str, Any]]:
    return [{"id": name, "component": "gate", "inputs": {"name": name, "value": f"of {name}"}}]


async def test_parallel_gives_an_object_by_branch(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow(
        {"id": "both", "parallel": {"left": [note("a", 1), note("b", 2)], "right": [note("c", 3)]}},
        {"id": "sum", "set": "{{ steps.both.output.left + steps.both.output.right }}"},
    )
    assert await run(jobs, flow) == ("COMPLETED", {"sum": 5})


async def test_first_branch_wins_and_the_others_are_cancelled(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow(
        {"id": "race", "parallel": {"a": branch("a"), "b": branch("b"), "c": branch("c")}, "wait_for": "first"}
    )
    job_id = await jobs.create_job(flow, start=True)
    for name in "abc":
        await bench.gate(name).wait_entered()
    bench.gate("b").open()
    assert await final(jobs, job_id) == "COMPLETED"
    job = await jobs.get_job(job_id)
    assert job.outputs == {"race": {"a": None, "b": "of b", "c": None}}
    assert job.steps["race[a].a"]["status"] == job.steps["race[c].c"]["status"] == "CANCELLED"


async def test_two_of_three_branches_are_enough_even_if_one_fails(bench: Bench, jobs: JobManager) -> None:
    parallel = {"a": [{"id": "a", "component": "fail"}], "b": [note("b", 2)], "c": [note("c", 3)]}
    flow = bench.workflow({"id": "two", "parallel": parallel, "wait_for": 2})
    assert await run(jobs, flow) == ("COMPLETED", {"two": {"a": None, "b": 2, "c": 3}})


async def test_parallel_fails_once_too_few_branches_are_left(bench: Bench, jobs: JobManager) -> None:
    bad = [{"component": "fail"}]
    parallel = {"a": [bad[0] | {"id": "a"}], "b": [bad[0] | {"id": "b"}], "c": branch("c")}
    flow = bench.workflow({"id": "two", "parallel": parallel, "wait_for": 2})
    job_id = await jobs.create_job(flow, start=True)
    assert await final(jobs, job_id) == "FAILED"
    assert (await jobs.get_job(job_id)).steps["two[c].c"]["status"] == "CANCELLED"


# ── what they share ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["memory"])
async def test_container_over_its_timeout_stops_what_runs_inside(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow({"id": "slow", "parallel": {"a": branch("a"), "b": [note("b")]}, "timeout": 30})
    job_id = await jobs.create_job(flow, start=True)
    context = await bench.gate("a").wait_entered()
    await seen(jobs, job_id, "step.completed", path="slow[b].b")
    await bench.pass_time(31)
    assert await final(jobs, job_id) == "FAILED"
    job = await jobs.get_job(job_id)
    assert job.errors[0]["type"] == "timeout.step" and context.cancelled


@pytest.mark.parametrize("kind", ["memory"])
async def test_container_is_begun_again_by_its_retry(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow(
        {
            "id": "each",
            "foreach": [1, 2],
            "steps": [note("n", "{{ item }}"), {"id": "s", "component": "fail"}],
            "retry": {"max_attempts": 2, "delay_seconds": 100},
        }
    )
    job_id = await jobs.create_job(flow, start=True)
    await seen(jobs, job_id, "step.retrying")
    await bench.pass_time(101)
    assert await final(jobs, job_id) == "FAILED"
    job = await jobs.get_job(job_id)
    assert {"each[0].n", "each~2[0].n"} <= set(job.steps)
    assert job.steps["each"]["attempt"] == 2


@pytest.mark.parametrize("kind", ["memory"])
async def test_job_over_its_timeout_fails_and_runs_its_finally_steps(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow({"id": "s", "component": "gate"}, timeout=60, **{"finally": [note("f", "{{ job.outcome }}")]})
    job_id = await jobs.create_job(flow, start=True)
    await bench.gate().wait_entered()
    await bench.pass_time(61)
    assert await final(jobs, job_id) == "FAILED"
    assert (await jobs.get_job(job_id)).errors[0]["type"] == "timeout.job"
    assert bench.components.values == ["FAILED"]


async def test_containers_nest(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow(
        {
            "id": "each",
            "foreach": "{{ [1, 2] }}",
            "steps": [
                {
                    "id": "pick",
                    "switch": [
                        {
                            "when": "{{ item == 1 }}",
                            "steps": [
                                {
                                    "id": "loop",
                                    "repeat": {"until": "{{ iteration == index + 1 }}", "max_iterations": 3},
                                    "steps": [{"id": "mark", "set": "{{ [item, iteration] }}"}],
                                }
                            ],
                        }
                    ],
                    "default": [{"id": "par", "parallel": {"x": [{"id": "px", "set": "{{ item * 10 }}"}]}}],
                }
            ],
        }
    )
    assert await run(jobs, flow) == ("COMPLETED", {"each": [[1, 1], {"x": 20}]})
    paths = {event.data.get("path") for event in await history(jobs, (await jobs.list_jobs()).jobs[0].id)}
    assert {"each[0].pick[0].loop[1].mark", "each[1].pick[default].par[x].px"} <= paths


async def test_pause_holds_a_repeat_and_resume_lets_it_go_on(bench: Bench, jobs: JobManager) -> None:
    repeat = {"until": "{{ iteration == 2 }}", "max_iterations": 3}
    flow = bench.workflow({"id": "loop", "repeat": repeat, "steps": [{"id": "s", "component": "gate"}]})
    job_id = await jobs.create_job(flow, start=True)
    await bench.gate().wait_entered()
    await jobs.pause_job(job_id)
    bench.gate().open()
    await seen(jobs, job_id, "job.paused")
    assert "attempt.started" not in (await types(jobs, job_id))[-2:]
    await jobs.resume_job(job_id)
    assert await final(jobs, job_id) == "COMPLETED"
    assert len(bench.gate().contexts) == 3


async def test_long_chain_of_iterations_goes_on_in_the_next_worker(bench: Bench) -> None:
    """What an iteration gives may be made of the one before; nothing of that is at hand when a job is taken up."""
    repeat = {"until": "{{ iteration == 400 }}", "max_iterations": 500, "initial": 0}
    pause = {"id": "pause", "signal": "go", "condition": "{{ iteration == 400 }}"}
    flow = bench.workflow({"id": "loop", "repeat": repeat, "steps": [pause], "output": "{{ last + 1 }}"})
    async with bench.manager(linger_s=0) as jobs:
        job_id = await jobs.create_job(flow, start=True)
        await seen(jobs, job_id, "job.waiting")
        await jobs.signal(job_id, "go")
        assert await final(jobs, job_id) == "COMPLETED"
        assert await jobs.get_job_results(job_id) == {"loop": 401}


async def test_what_only_passes_the_iteration_before_on_is_recorded_as_a_reference(
    bench: Bench, jobs: JobManager
) -> None:
    repeat = {"until": "{{ iteration == 2 }}", "max_iterations": 3, "initial": {"said": ["hello"]}}
    output = {"said": "{{ last.said + [steps.s.output] }}"}
    step = {"id": "s", "component": "note", "inputs": {"value": "{{ last.said }}"}}
    flow = bench.workflow({"id": "loop", "repeat": repeat, "steps": [step], "output": output})
    job_id = await jobs.create_job(flow, start=True)
    assert await final(jobs, job_id) == "COMPLETED"
    started = [event.data for event in await history(jobs, job_id) if event.type == "attempt.started"]
    assert all(data["refs"] == {"value": "{{ last.said }}"} and "inputs" not in data for data in started)
    assert bench.components.values[:2] == [["hello"], ["hello", ["hello"]]]
