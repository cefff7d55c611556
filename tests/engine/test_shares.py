"""Jobs count to shares, workers learn how long they take, and what may miss its deadline says so."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from openagents_json import JobManager
from openagents_json.clock import SECOND_US, as_datetime
from openagents_json.errors import InvalidInputs
from openagents_json.job.engine.housekeeping import LEARN_S
from openagents_json.job.engine.sharing import FRESH_S
from openagents_json.job.store.durations import WHOLE_JOB, Sample, by_step
from tests.engine.support import Bench, final, history, on_every_store, seen, types, written


async def ahead_s(jobs: JobManager) -> dict[str, float]:
    return {one.key: one.ahead_us / SECOND_US for one in await jobs.list_shares()}


def in_s(bench: Bench, seconds: float) -> datetime:
    return as_datetime(bench.clock.now_us()) + timedelta(seconds=seconds)


async def learned(jobs: JobManager, seconds: float, id: str = "flow") -> None:
    """Jobs of the workflow take so long."""
    await jobs.store.learn([Sample(id, WHOLE_JOB, round(seconds * SECOND_US), 1)])


# ── shares ────────────────────────────────────────────────────────────────────────────────────────────────────────


@on_every_store
async def test_tenants_take_turns_in_one_worker(bench: Bench) -> None:
    flow = bench.workflow(
        {"id": "s", "component": "note", "inputs": {"value": "{{ inputs.tenant }}"}},
        share_key="{{ inputs.tenant }}",
        inputs={"type": "object", "properties": {"tenant": {"type": "string"}}, "required": ["tenant"]},
    )
    async with bench.manager(worker=False) as jobs:
        await jobs.set_share("c", 2.0)
        ids = await jobs.create_jobs(flow, [{"tenant": "a"}] * 8, start=True)
        for tenant in ("b", "c"):
            ids += await jobs.create_jobs(flow, [{"tenant": tenant}] * 4, start=True)
    async with bench.manager(max_jobs=1) as jobs:
        assert [await final(jobs, one) for one in ids] == ["COMPLETED"] * 16
    first = bench.components.values[:8]
    assert (first.count("a"), first.count("b"), first.count("c")) == (2, 2, 4)


async def test_share_of_a_call_goes_before_that_of_the_workflow(bench: Bench) -> None:
    flow = bench.workflow({"id": "s", "set": 1}, share_key="usual")
    async with bench.manager() as jobs:
        usual = await jobs.create_job(flow, start=True)
        other = await jobs.create_job(flow, start=True, share_key="other")
        assert [(await jobs.get_summary(one)).share for one in (usual, other)] == ["usual", "other"]
        assert [await final(jobs, one) for one in (usual, other)] == ["COMPLETED"] * 2
        assert (await jobs.get_job_status(other))["share"] == "other"
        page = await jobs.list_jobs({"share": "other"})
        assert [job.id for job in page] == [other]


async def test_retry_counts_to_the_same_share(bench: Bench) -> None:
    flow = bench.one("fail")
    async with bench.manager() as jobs:
        job_id = await jobs.create_job(flow, start=True, share_key="tenant 7")
        assert await final(jobs, job_id) == "FAILED"
        again = await jobs.retry_job(job_id, start=False)
        assert (await jobs.get_summary(again)).share == "tenant 7"


@pytest.mark.parametrize("kind", ["memory"])  # whose accounts the test can look into
async def test_what_attached_children_use_counts_to_the_share_of_their_parent(bench: Bench) -> None:
    bench.one("gate", "inner")
    outer = bench.workflow({"id": "child", "workflow": "inner"}, id="outer")
    async with bench.manager() as jobs:
        job_id = await jobs.create_job(outer, start=True, share_key="a")
        context = await bench.gate().wait_entered()
        assert (await jobs.get_summary(context.job_id)).share is None
        bench.clock.advance(30.0)
        bench.open_gates()
        assert await final(jobs, job_id) == "COMPLETED"
        ended = await seen(jobs, job_id, "child.ended")
        assert ended.data["spent"]["time_us"] == 30 * SECOND_US
        account = jobs.store._shares.accounts["a"]  # type: ignore[attr-defined]
        assert account.finish_us is not None
        created_us = (await history(jobs, job_id))[0].at_us
        assert account.finish_us - created_us == 30 * SECOND_US


@pytest.mark.parametrize("key", ["", "x" * 201])
async def test_key_that_is_none_is_refused(bench: Bench, key: str) -> None:
    flow = bench.one("note")
    async with bench.manager() as jobs:
        with pytest.raises(InvalidInputs, match="1 to 200 characters"):
            await jobs.create_job(flow, share_key=key)
        with pytest.raises(InvalidInputs, match="1 to 200 characters"):
            await jobs.set_share(key, 1.0)


@pytest.mark.parametrize("weight", [0, -1, 0.0001, 1_001, float("nan"), float("inf"), True, "2"])
async def test_weight_that_is_none_is_refused(bench: Bench, weight: float) -> None:
    async with bench.manager() as jobs:
        with pytest.raises(ValueError, match=r"no weight of a share: give a number, 0\.001 to 1,000"):
            await jobs.set_share("a", weight)


async def test_key_that_is_too_long_for_these_inputs_is_refused(bench: Bench) -> None:
    tenant = {"type": "object", "properties": {"tenant": {"type": "string"}}}
    flow = bench.workflow({"id": "s", "set": 1}, share_key="{{ inputs.tenant }}", inputs=tenant)
    async with bench.manager() as jobs:
        with pytest.raises(InvalidInputs, match="`share_key` has"):
            await jobs.create_job(flow, {"tenant": "x" * 300})


# ── durations ─────────────────────────────────────────────────────────────────────────────────────────────────────


@on_every_store
async def test_worker_learns_how_long_steps_and_jobs_take(bench: Bench) -> None:
    flow = bench.one("gate")
    async with bench.manager() as jobs:
        job_id = await jobs.create_job(flow, start=True)
        await bench.gate().wait_entered()
        bench.clock.advance(3.0)
        bench.open_gates()
        assert await final(jobs, job_id) == "COMPLETED"
        await bench.pass_time(LEARN_S)
        expected = {"s": 3 * SECOND_US, WHOLE_JOB: 3 * SECOND_US}
        await bench.until_async(lambda: jobs.store.read_durations(flow), lambda known: by_step(known) == expected)


async def test_what_was_not_told_is_told_at_the_end(bench: Bench) -> None:
    flow = bench.one("note")
    async with bench.manager() as jobs:
        assert await final(jobs, await jobs.create_job(flow, start=True)) == "COMPLETED"
    async with bench.manager(worker=False) as jobs:
        assert set(by_step(await jobs.store.read_durations(flow))) == {"s", WHOLE_JOB}


async def test_job_is_charged_what_its_workflow_was_seen_to_take(bench: Bench) -> None:
    flow = bench.one("note")
    async with bench.manager(worker=False) as jobs:
        await jobs.create_job(flow, start=True, share_key="unknown")
        assert await ahead_s(jobs) == {"unknown": 1.0}
        await jobs.store.learn([Sample(flow, "s", 7 * SECOND_US, 1), Sample(flow, "gone", 90 * SECOND_US, 1)])
        bench.clock.advance(FRESH_S)
        await jobs.create_job(flow, start=True, share_key="steps")
        await learned(jobs, 20.0)
        bench.clock.advance(FRESH_S)
        await jobs.create_job(flow, start=True, share_key="jobs")
        assert await ahead_s(jobs) == {"unknown": 1.0, "steps": 7.0, "jobs": 20.0}


# ── deadlines ─────────────────────────────────────────────────────────────────────────────────────────────────────


@on_every_store
async def test_job_that_cannot_be_done_in_time_says_so_when_it_is_taken(bench: Bench) -> None:
    flow = bench.one("note")
    async with bench.manager() as jobs:
        await learned(jobs, 60.0)
        job_id = await jobs.create_job(flow, start=True, deadline=in_s(bench, 30))
        assert await final(jobs, job_id) == "COMPLETED"  # a deadline ends nothing
        at_risk = await seen(jobs, job_id, "job.deadline_at_risk")
        assert at_risk.data["expected_us"] == 60 * SECOND_US
        assert (await types(jobs, job_id)).count("job.deadline_at_risk") == 1
        summary = await jobs.get_summary(job_id)
        assert summary.at_risk and summary.deadline == as_datetime(at_risk.data["deadline_us"])
        assert (await jobs.get_job_status(job_id))["at_risk"] is True


async def test_job_that_is_done_in_time_says_nothing(bench: Bench) -> None:
    flow = bench.one("note")
    async with bench.manager() as jobs:
        await learned(jobs, 60.0)
        job_id = await jobs.create_job(flow, start=True, deadline=in_s(bench, 61))
        assert await final(jobs, job_id) == "COMPLETED"
        assert "job.deadline_at_risk" not in await types(jobs, job_id)
        assert not (await jobs.get_summary(job_id)).at_risk


async def test_job_that_runs_too_long_says_so_at_its_deadline(bench: Bench) -> None:
    flow = bench.one("gate")
    async with bench.manager() as jobs:
        await learned(jobs, 5.0)
        job_id = await jobs.create_job(flow, start=True, deadline=in_s(bench, 30))
        await bench.gate().wait_entered()
        await written(jobs)
        await bench.pass_time(29.0)
        assert "job.deadline_at_risk" not in await types(jobs, job_id)
        await bench.pass_time(1.5)
        at_risk = await seen(jobs, job_id, "job.deadline_at_risk")
        assert at_risk.data["expected_us"] == 0
        bench.open_gates()
        assert await final(jobs, job_id) == "COMPLETED"


async def test_step_that_took_too_long_puts_the_rest_at_risk(bench: Bench) -> None:
    flow = bench.workflow(
        {"id": "first", "component": "gate"}, {"id": "second", "component": "gate", "inputs": {"name": "second"}}
    )
    async with bench.manager() as jobs:
        await learned(jobs, 40.0)
        job_id = await jobs.create_job(flow, start=True, deadline=in_s(bench, 45))
        await bench.gate().wait_entered()
        await written(jobs)
        bench.clock.advance(20.0)
        await jobs.pause_job(job_id)
        bench.open_gates()
        await jobs.wait_paused(job_id)
        bench.clock.advance(10.0)  # 15 s are left, and the rest takes 20 s
        await jobs.resume_job(job_id)
        at_risk = await seen(jobs, job_id, "job.deadline_at_risk")
        assert at_risk.data["expected_us"] == 20 * SECOND_US
        bench.gate("second").open()
        assert await final(jobs, job_id) == "COMPLETED"


async def test_waiting_for_a_signal_is_not_ended_by_a_deadline(bench: Bench) -> None:
    flow = bench.workflow({"id": "s", "signal": "answer"})
    async with bench.manager() as jobs:
        job_id = await jobs.create_job(flow, start=True, deadline=in_s(bench, 30))
        await seen(jobs, job_id, "job.waiting")
        await bench.pass_time(60.0)
        assert (await jobs.get_summary(job_id)).status == "WAITING"
        await jobs.signal(job_id, "answer", 42)
        assert await final(jobs, job_id) == "COMPLETED"
        assert (await jobs.get_summary(job_id)).at_risk


@on_every_store
async def test_job_that_stands_in_the_queue_too_long_says_so_there(bench: Bench) -> None:
    flow, gate = bench.one("note"), bench.one("gate", id="gate")
    async with bench.manager(max_jobs=1) as jobs:
        await learned(jobs, 10.0)
        running = await jobs.create_job(gate, start=True)
        await bench.gate().wait_entered()
        queued = await jobs.create_job(flow, start=True, deadline=in_s(bench, 60))
        await bench.pass_time(49.0)
        assert "job.deadline_at_risk" not in await types(jobs, queued)
        await bench.pass_time(2.0)
        at_risk = await seen(jobs, queued, "job.deadline_at_risk")
        assert at_risk.data["expected_us"] == 10 * SECOND_US
        assert (await jobs.get_summary(queued)).status == "QUEUED"
        assert [one.id for one in (await jobs.list_jobs({"at_risk": True})).jobs] == [queued]
        bench.open_gates()
        assert [await final(jobs, job_id) for job_id in (running, queued)] == ["COMPLETED"] * 2
        assert (await types(jobs, queued)).count("job.deadline_at_risk") == 1


async def test_job_that_is_paused_says_so_while_it_is(bench: Bench) -> None:
    flow = bench.workflow({"id": "s", "signal": "answer"})
    async with bench.manager() as jobs:
        job_id = await jobs.create_job(flow, start=True, deadline=in_s(bench, 30))
        await jobs.pause_job(job_id)
        await jobs.wait_paused(job_id)
        await bench.pass_time(31.0)
        await seen(jobs, job_id, "job.deadline_at_risk")
        assert (await jobs.get_summary(job_id)).status == "PAUSED"


async def test_deadline_without_a_zone_is_refused(bench: Bench) -> None:
    flow = bench.one("note")
    async with bench.manager() as jobs:
        with pytest.raises(ValueError, match="no time zone"):
            await jobs.create_job(flow, deadline=datetime.now(UTC).replace(tzinfo=None))
