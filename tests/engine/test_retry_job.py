"""retry_job: a new job from one that has ended, which takes over what is done."""

from __future__ import annotations

from typing import Any

import pytest

from openagents_json import JobManager
from openagents_json.errors import IdempotencyConflict, InvalidInputs, InvalidTransition, JobNotFound
from openagents_json.workflow import limits
from tests.engine.support import Bench, final, history, seen, types

NUMBER = {"type": "object", "properties": {"n": {"type": "integer", "default": 1}}}


def note(id: str, value: Any, **fields: Any) -> dict[str, Any]:
    return {"id": id, "component": "note", "inputs": {"value": value}, **fields}


@pytest.fixture
def flow(bench: Bench) -> str:
    """Three calls; the second one fails unless `n` is positive."""
    return bench.workflow(
        note("a", "{{ inputs.n }}"),
        {"id": "check", "condition": "{{ inputs.n <= 0 }}", "component": "fail"},
        note("c", "{{ [steps.a.output, inputs.n] }}"),
        inputs=NUMBER,
    )


async def failed(jobs: JobManager, flow: str, n: int = 0, **options: Any) -> str:
    job_id = await jobs.create_job(flow, {"n": n}, start=True, **options)
    assert await final(jobs, job_id) == "FAILED"
    return job_id


async def test_retry_takes_over_what_is_done_and_runs_the_rest(bench: Bench, jobs: JobManager, flow: str) -> None:
    origin = await failed(jobs, flow, priority="HIGH", tags=["red"], metadata={"for": "ada"})
    before = await history(jobs, origin)
    job_id = await jobs.retry_job(origin, inputs={"n": 5}, by="ada", reason="fixed")
    assert await final(jobs, job_id) == "COMPLETED"
    job = await jobs.get_job(job_id)
    assert job.outputs == {"c": [0, 5]}, "the result made with the old input stays"
    assert (job.inputs, job.priority, job.tags, job.metadata) == ({"n": 5}, "HIGH", ("red",), {"for": "ada"})
    assert job.steps["a"]["taken_over"] == {"from": origin}
    assert [path for path, _ in bench.components.calls] == ["a", "c"]
    assert (await types(jobs, job_id))[:4] == ["job.created", "step.taken_over", "job.queued", "job.started"]
    assert await history(jobs, origin) == before, "a final history never changes"


async def test_origin_and_retry_are_linked_both_ways(jobs: JobManager, flow: str) -> None:
    origin = await failed(jobs, flow)
    assert (await jobs.get_job_status(origin))["retried_as"] == []
    retries = [
        await jobs.retry_job(origin, "check", by="ada", reason="again", start=False),
        await jobs.retry_job(origin, start=False, priority="low"),
    ]
    status = await jobs.get_job_status(origin)
    assert (status["retried_as"], status["origin"]) == (retries, None)
    status = await jobs.get_job_status(retries[0])
    assert status["origin"] == {"job_id": origin, "from_step": "check", "by": "ada", "reason": "again"}
    assert status["status"] == "CREATED"
    assert (await jobs.get_summary(retries[1])).origin_id == origin
    assert (await jobs.get_summary(retries[1])).priority == "LOW"
    found = await jobs.list_jobs({"origin_id": origin}, order="created_at")
    assert [job.id for job in found] == retries


async def test_retry_goes_on_when_its_origin_is_deleted(jobs: JobManager, flow: str) -> None:
    origin = await failed(jobs, flow)
    job_id = await jobs.retry_job(origin, outputs={"check": None}, start=False)
    await jobs.delete_job(origin)
    await jobs.start_job(job_id)
    assert await final(jobs, job_id) == "COMPLETED"
    assert (await jobs.get_job_status(job_id))["origin"]["job_id"] == origin
    with pytest.raises(JobNotFound):
        await jobs.retry_job(origin)


@pytest.mark.guarantee("G11")
async def test_retry_keeps_the_definition_of_its_origin(bench: Bench) -> None:
    flow = bench.workflow(note("a", "old"), id="flow", version="1.0.0-dev")
    async with bench.manager() as jobs:
        origin = await jobs.create_job(flow, start=True)
        await final(jobs, origin)
    bench.workflow(note("a", "new"), id="flow", version="1.0.0-dev")
    async with bench.manager() as jobs:  # which has never seen the old one
        job_id = await jobs.retry_job(origin)
        assert await final(jobs, job_id) == "COMPLETED"
        assert await jobs.get_job_results(job_id) == {"a": "old"}
        assert (await jobs.get_summary(job_id)).definition == (await jobs.get_summary(origin)).definition


async def test_retry_goes_on_from_what_is_on_the_disk(bench: Bench, flow: str) -> None:
    async with bench.manager() as jobs:
        job_id = await jobs.retry_job(await failed(jobs, flow), inputs={"n": 1}, start=False)
        assert await types(jobs, job_id) == ["job.created", "step.taken_over"]
    async with bench.manager() as jobs:
        await jobs.start_job(job_id)
        assert await final(jobs, job_id) == "COMPLETED"
        assert await jobs.get_job_results(job_id) == {"c": [0, 1]}


@pytest.mark.parametrize("status", ["CREATED", "RUNNING"])
async def test_job_that_has_not_ended_is_not_retried(bench: Bench, jobs: JobManager, status: str) -> None:
    flow = bench.workflow({"id": "s", "component": "gate"})
    job_id = await jobs.create_job(flow, start=status == "RUNNING")
    if status == "RUNNING":
        await bench.gate().wait_entered()
    with pytest.raises(InvalidTransition) as caught:
        await jobs.retry_job(job_id)
    assert (caught.value.verb, caught.value.status) == ("retry", status)
    assert "cancel" in caught.value.allowed and "retry" not in caught.value.allowed


async def test_cancelled_job_is_retried(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow(note("a", 1), {"id": "s", "component": "gate", "inputs": {"value": 2}})
    origin = await jobs.create_job(flow, start=True)
    await bench.gate().wait_entered()
    await jobs.cancel_job(origin)
    assert await final(jobs, origin) == "CANCELLED"
    bench.gate().open()
    job_id = await jobs.retry_job(origin)
    assert await final(jobs, job_id) == "COMPLETED"
    assert [path for path, _ in bench.components.calls] == ["a"]


async def test_every_problem_is_told_and_nothing_is_made(jobs: JobManager, flow: str) -> None:
    origin = await failed(jobs, flow)
    outputs = {"a": object(), "check": "x" * limits.OUTPUT_BYTES, "d": 1, "c[0]": 1}
    with pytest.raises(InvalidInputs) as caught:
        await jobs.retry_job(origin, "chekc", outputs=outputs)
    paths = {problem.path for problem in caught.value.problems}
    assert paths == {"$.from_step", "$.outputs.a", "$.outputs.check", "$.outputs.d", '$.outputs["c[0]"]'}
    for inputs in ({"n": "many"}, {"m": 1}):
        with pytest.raises(InvalidInputs):
            await jobs.retry_job(origin, inputs=inputs)
    with pytest.raises(InvalidInputs, match="priority"):
        await jobs.retry_job(origin, priority="URGENT")
    with pytest.raises(ValueError, match="reason"):
        await jobs.retry_job(origin, reason="x" * 2_001)
    assert len(await jobs.list_jobs()) == 1


async def test_output_set_by_hand_may_have_its_limit(jobs: JobManager, flow: str) -> None:
    origin = await failed(jobs, flow)
    value = "x" * (limits.OUTPUT_BYTES - 2)
    job_id = await jobs.retry_job(origin, outputs={"c": value, "check": None})
    assert await final(jobs, job_id) == "COMPLETED"
    assert await jobs.get_job_results(job_id) == {"c": value}


@pytest.mark.guarantee("G7")
async def test_same_key_is_the_same_retry(jobs: JobManager, flow: str) -> None:
    origin = await failed(jobs, flow)
    first = await jobs.retry_job(origin, inputs={"n": 1}, idempotency_key="k")
    await final(jobs, first)
    assert await jobs.retry_job(origin, inputs={"n": 1}, idempotency_key="k") == first
    others: list[dict[str, Any]] = [{"inputs": {"n": 2}}, {"inputs": {"n": 1}, "from_step": "a"},
                                    {"inputs": {"n": 1}, "outputs": {"a": 9}}]  # fmt: skip
    for other in others:
        with pytest.raises(IdempotencyConflict):
            await jobs.retry_job(origin, idempotency_key="k", **other)
    with pytest.raises(IdempotencyConflict):
        await jobs.create_job(flow, {"n": 1}, idempotency_key="k")
    assert len(await jobs.list_jobs({"origin_id": origin})) == 1


async def test_secret_inputs_stay_references(bench: Bench, jobs: JobManager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "canary-4711")
    schema = {"type": "object", "properties": {"token": {"type": "string", "writeOnly": True}}}
    flow = bench.workflow(
        {"id": "s", "component": "note", "inputs": {"value": "{{ inputs.token }}"}}, {"id": "f", "component": "fail"},
        inputs=schema,
    )  # fmt: skip
    origin = await jobs.create_job(flow, {"token": {"secret": "TOKEN"}}, start=True)
    await final(jobs, origin)
    job_id = await jobs.retry_job(origin, "s", outputs={"f": 1})
    assert await final(jobs, job_id) == "COMPLETED"
    assert (await jobs.get_job(job_id)).inputs == {"token": {"secret": "TOKEN"}}
    assert bench.components.values == ["canary-4711"] * 2
    with pytest.raises(InvalidInputs, match="secret"):
        await jobs.retry_job(origin, inputs={"token": "plain"})


# ── children ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_retry_of_a_child_has_no_parent(bench: Bench, jobs: JobManager) -> None:
    bench.workflow(note("a", 1), {"id": "f", "component": "fail"}, id="child", inputs=NUMBER)
    flow = bench.workflow({"id": "sub", "workflow": "child"}, id="parent", inputs=NUMBER)
    parent = await failed(jobs, flow)
    child = str((await seen(jobs, parent, "child.started")).data["child_id"])
    job_id = await jobs.retry_job(child, outputs={"f": "well"})
    assert await final(jobs, job_id) == "COMPLETED"
    assert (await jobs.get_summary(job_id)).parent_id is None
    assert (await jobs.get_job_status(job_id))["parent"] is None
    await jobs.delete_job(parent)
    assert await jobs.get_job_results(job_id) == {"f": "well"}


async def test_retry_of_an_item_of_a_spread_still_sees_what_it_was_given(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow(
        {"id": "base", "set": 10},
        {
            "id": "each", "foreach": [1, 2], "spread": True, "on_item_error": "collect",
            "steps": [
                note("first", "{{ item + steps.base.output }}"),
                {"id": "f", "condition": "{{ index == 1 }}", "component": "fail"},
                note("second", "{{ steps.first.output * item }}"),
            ],
        },
        inputs=NUMBER,
    )  # fmt: skip
    job_id = await jobs.create_job(flow, start=True)
    assert await final(jobs, job_id) == "COMPLETED"
    [child] = await jobs.list_jobs({"parent_id": job_id, "status": "FAILED"})
    retry = await jobs.retry_job(child.id, outputs={"f": None})
    assert await final(jobs, retry) == "COMPLETED"
    assert await jobs.get_job_results(retry) == {"output": 24}
    again = await jobs.retry_job(retry, "second")
    assert await final(jobs, again) == "COMPLETED"
    assert await jobs.get_job_results(again) == {"output": 24}


async def test_finished_child_is_not_run_again(bench: Bench, jobs: JobManager) -> None:
    bench.workflow(note("a", 7), id="child", inputs=NUMBER)
    flow = bench.workflow({"id": "sub", "workflow": "child"}, note("after", "{{ steps.sub.output.a }}"), id="parent")
    origin = await jobs.create_job(flow, start=True)
    await final(jobs, origin)
    job_id = await jobs.retry_job(origin, "after")
    assert await final(jobs, job_id) == "COMPLETED"
    assert await jobs.get_job_results(job_id) == {"after": 7}
    assert len(await jobs.list_jobs({"workflow_id": "child"})) == 1


# ── the same in the end ───────────────────────────────────────────────────────────────────────────────────────────

FLOWS: dict[str, list[dict[str, Any]]] = {
    "sequence": [note("a", 1), note("b", "{{ steps.a.output + 1 }}"), note("c", "{{ steps.b.output + 1 }}")],
    "diamond": [
        note("start", [3, 4]),
        note("left", "{{ steps.start.output[0] }}", needs=[]),
        note("right", "{{ steps.start.output[1] }}", needs=["start"]),
        {"id": "join", "set": "{{ [steps.left.output, steps.right.output] }}"},
    ],
    "containers": [
        {"id": "list", "set": [1, 2, 3]},
        {
            "id": "each", "foreach": "{{ steps.list.output }}", "on_item_error": "collect", "concurrency": 2,
            "steps": [
                note("twice", "{{ item * 2 }}"),
                {"id": "odd", "condition": "{{ item == 3 }}", "raise": {"type": "odd", "message": "three"}},
                {"id": "value", "set": "{{ steps.twice.output }}"},
            ],
        },
        {
            "id": "round", "repeat": {"until": "{{ last == 2 }}", "max_iterations": 9, "initial": 0},
            "steps": [note("more", "{{ last + 1 }}")],
        },
        {
            "id": "way", "switch": [{"when": "{{ steps.round.output > 9 }}", "steps": [note("high", "high")]}],
            "default": [note("low", "low")],
        },
        {"id": "both", "parallel": {"x": [note("px", 1)], "y": [note("py", 2)]}},
        {
            "id": "all",
            "set": "{{ [steps.each.output, steps.each.errors | length, steps.round.output, steps.way.output] }}",
        },
        {"id": "more_of_it", "set": "{{ steps.both.output }}"},
    ],
    "failures": [
        {"id": "tolerated", "component": "fail", "continue_on_error": True},
        {"id": "caught", "component": "fail", "catch": [{"steps": [{"id": "handled", "set": "{{ error.type }}"}]}]},
        {"id": "skipped", "condition": "{{ steps.tolerated.success }}", "set": 1},
        {
            "id": "seen",
            "set": "{{ [steps.tolerated.status, steps.caught.output, steps.caught.error.step, steps.skipped.status] }}",
        },
    ],
    "child": [
        {"id": "sub", "workflow": "double", "inputs": {"n": 4}},
        {"id": "spread", "foreach": [1, 2], "spread": True, "steps": [note("inner", "{{ item }}")]},
        {"id": "sum", "set": "{{ steps.sub.output.s + (steps.spread.output | sum) }}"},
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", FLOWS)
async def test_retry_from_every_step_ends_with_the_same_outputs(bench: Bench, jobs: JobManager, name: str) -> None:
    bench.workflow({"id": "s", "set": "{{ inputs.n * 2 }}"}, id="double", inputs=NUMBER)
    steps = FLOWS[name]
    flow = bench.workflow(*steps, outputs={step["id"]: "{{ steps['" + step["id"] + "'].output }}" for step in steps})
    origin = await jobs.create_job(flow, start=True)
    assert await final(jobs, origin) == "COMPLETED"
    outputs = await jobs.get_job_results(origin)
    retries = {step["id"]: await jobs.retry_job(origin, step["id"]) for step in steps}
    for step_id, job_id in retries.items():
        assert await final(jobs, job_id) == "COMPLETED"
        assert await jobs.get_job_results(job_id) == outputs, step_id
        assert "taken_over" not in (await jobs.get_job(job_id)).steps[step_id]
