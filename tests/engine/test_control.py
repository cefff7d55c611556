"""The verbs: start, pause, resume, cancel, set_priority and delete, on jobs at rest and on running ones."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from openagents_json import JobManager
from openagents_json.errors import InvalidInputs, InvalidQuery, InvalidTransition, JobNotFound
from openagents_json.job.engine.asking import ASKED_AT_ONCE
from openagents_json.job.store import Request
from tests.engine.support import Bench, final, history, on_every_store, seen, types, until

pytestmark = on_every_store

FINALLY = {"finally": [{"id": "after", "component": "note", "inputs": {"value": "{{ job.outcome }}"}}]}


async def test_created_job_waits_for_start(bench: Bench, jobs: JobManager) -> None:
    job_id = await jobs.create_job(bench.one("note"))
    assert (await jobs.get_summary(job_id)).status == "CREATED"
    await jobs.start_job(job_id, by="ada", reason="go")
    assert await final(jobs, job_id) == "COMPLETED"


async def test_start_at_starts_by_itself(bench: Bench, jobs: JobManager) -> None:
    at = bench.clock.now() + timedelta(hours=2)
    job_id = await jobs.create_job(bench.one("note"), start_at=at)
    summary = await jobs.get_summary(job_id)
    assert (summary.status, summary.start_at) == ("CREATED", at)
    await bench.pass_time(3600)
    assert (await jobs.get_summary(job_id)).status == "CREATED"
    await bench.pass_time(3600)
    assert await final(jobs, job_id) == "COMPLETED"
    assert (await jobs.get_job(job_id)).started_at == at


async def test_start_at_needs_a_time_zone(bench: Bench, jobs: JobManager) -> None:
    with pytest.raises(ValueError, match="time zone"):
        await jobs.create_job(bench.one("note"), start_at=datetime.now(UTC).replace(tzinfo=None))


async def test_job_with_a_start_time_may_be_started_before_and_runs_once(bench: Bench, jobs: JobManager) -> None:
    job_id = await jobs.create_job(bench.one("note"), start_at=bench.clock.now() + timedelta(hours=1))
    await jobs.start_job(job_id)
    assert await final(jobs, job_id) == "COMPLETED"
    await bench.pass_time(3600)
    assert len(bench.components.calls) == 1


async def test_pause_lets_the_running_attempt_finish_and_starts_nothing(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow({"id": "a", "component": "gate"}, {"id": "b", "component": "note"})
    job_id = await jobs.create_job(flow, start=True)
    await bench.gate().wait_entered()
    await jobs.pause_job(job_id, by="ada", reason="lunch")
    event = await seen(jobs, job_id, "job.pause_requested")
    assert event.data == {"by": "ada", "reason": "lunch"}
    summary = await jobs.get_summary(job_id)
    assert (summary.status, summary.pause_requested) == ("RUNNING", True)
    bench.gate().open()
    await seen(jobs, job_id, "job.paused")
    status = await jobs.get_job_status(job_id)
    assert status["status"] == "PAUSED"
    [wait] = status["waiting_for"]
    assert (wait["kind"], wait["by"], wait["reason"]) == ("resume", "ada", "lunch")
    assert status["steps"]["a"]["status"] == "COMPLETED" and bench.components.calls == []
    await jobs.resume_job(job_id)
    assert await final(jobs, job_id) == "COMPLETED"


@pytest.mark.guarantee("G9")
async def test_nothing_starts_after_paused_until_resume_also_not_what_comes_due(bench: Bench, jobs: JobManager) -> None:
    retry = {"max_attempts": 2, "delay_seconds": 3}
    job_id = await jobs.create_job(bench.one("flaky", inputs={"until": 2}, retry=retry), start=True)
    await seen(jobs, job_id, "attempt.failed")
    await jobs.pause_job(job_id)
    await seen(jobs, job_id, "job.paused")
    await bench.pass_time(60, 60)
    assert (await types(jobs, job_id))[-1] == "job.paused"
    await jobs.resume_job(job_id)
    assert await final(jobs, job_id) == "COMPLETED"


async def test_resume_before_paused_withdraws_the_pause(bench: Bench, jobs: JobManager) -> None:
    job_id = await jobs.create_job(bench.one("gate"), start=True)
    await bench.gate().wait_entered()
    await jobs.pause_job(job_id)
    await jobs.resume_job(job_id)
    await seen(jobs, job_id, "job.pause_withdrawn")
    bench.gate().open()
    assert await final(jobs, job_id) == "COMPLETED"
    assert "job.paused" not in await types(jobs, job_id)


async def test_verbs_on_jobs_that_nobody_runs_are_effective_at_once(bench: Bench) -> None:
    flow = bench.one("note")
    async with bench.manager(worker=False) as jobs:
        job_id = await jobs.create_job(flow, start=True)
        await jobs.pause_job(job_id)
        assert (await jobs.get_summary(job_id)).status == "PAUSED"
        await jobs.pause_job(job_id)
        await jobs.set_priority(job_id, "low")
        await jobs.resume_job(job_id)
        summary = await jobs.get_summary(job_id)
        assert (summary.status, summary.priority) == ("QUEUED", "LOW")
        await jobs.cancel_job(job_id, by="ada")
        assert (await jobs.get_summary(job_id)).status == "CANCELLED"
        await jobs.cancel_job(job_id)
        assert (await history(jobs, job_id))[-1].data == {"by": "ada", "reason": None, "force": False}


async def test_waiting_job_can_be_paused_resumed_and_cancelled(bench: Bench, jobs: JobManager) -> None:
    retry = {"max_attempts": 5, "delay_seconds": 600}
    flow = bench.one("flaky", inputs={"until": 9}, retry=retry)
    paused, cancelled = [await jobs.create_job(flow, start=True) for _ in range(2)]
    for job_id in (paused, cancelled):
        await seen(jobs, job_id, "job.waiting")
    await jobs.pause_job(paused)
    assert (await jobs.get_summary(paused)).status == "PAUSED"
    await jobs.cancel_job(cancelled)
    assert (await jobs.get_summary(cancelled)).status == "CANCELLED"
    assert (await jobs.get_job(cancelled)).steps["s"]["status"] == "CANCELLED"
    await bench.pass_time(700)
    await jobs.resume_job(paused)
    await seen(jobs, paused, "attempt.failed", count=2)


# ── cancel ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_cancel_tells_a_coroutine_and_finally_runs(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow({"id": "s", "component": "gate"}, {"id": "t", "component": "note"}, **FINALLY)
    job_id = await jobs.create_job(flow, start=True)
    context = await bench.gate().wait_entered()
    await jobs.cancel_job(job_id, by="ada", reason="no need")
    job = await jobs.wait(job_id)
    assert (job.status, context.cancelled, context.cancel_reason) == ("CANCELLED", True, "cancelled")
    assert {path: step["status"] for path, step in job.steps.items()} == {"s": "CANCELLED", "after": "COMPLETED"}
    assert job.steps["after"]["output"] == "CANCELLED"


async def test_cancel_tells_a_thread_that_asks_now_and_then(bench: Bench, jobs: JobManager) -> None:
    bench.gate()
    job_id = await jobs.create_job(bench.one("polite_thread"), start=True)
    await bench.gate().wait_entered()
    await jobs.cancel_job(job_id)
    job = await jobs.wait(job_id)
    assert (job.status, job.abandoned, job.steps["s"]["status"]) == ("CANCELLED", 0, "CANCELLED")


async def test_result_that_comes_within_the_grace_of_a_cancel_is_recorded(bench: Bench, jobs: JobManager) -> None:
    gate = bench.gate()
    job_id = await jobs.create_job(bench.one("thread_gate", inputs={"value": 5}), start=True)
    await gate.wait_entered()
    await jobs.cancel_job(job_id)
    await seen(jobs, job_id, "job.cancel_requested")
    gate.open()
    job = await jobs.wait(job_id)
    assert (job.status, job.steps["s"]["status"], job.steps["s"]["output"]) == ("CANCELLED", "COMPLETED", 5)


async def test_cancelled_thread_that_does_not_end_is_abandoned_after_its_grace(bench: Bench, jobs: JobManager) -> None:
    gate = bench.gate()
    job_id = await jobs.create_job(bench.one("thread_gate"), start=True)
    await gate.wait_entered()
    await jobs.cancel_job(job_id)
    await seen(jobs, job_id, "job.cancel_requested")
    await bench.pass_time(9)
    assert (await jobs.get_summary(job_id)).status == "RUNNING"
    await bench.pass_time(1)
    assert await final(jobs, job_id) == "CANCELLED"
    status = await jobs.get_job_status(job_id)
    assert (status["display_status"], status["abandoned"]) == ("CANCELLED (1 abandoned attempt still runs)", 1)
    [page] = (await jobs.list_jobs({"abandoned": 1})).jobs
    assert page.display_status == "CANCELLED (1 abandoned attempt still runs)"
    gate.open()
    await gate.wait_left()
    await bench.until_async(lambda: jobs.get_summary(job_id), lambda summary: summary.abandoned == 0)


async def test_force_gives_no_grace_and_skips_finally(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow({"id": "s", "component": "stubborn"}, **FINALLY)
    job_id = await jobs.create_job(flow, start=True)
    context = await bench.gate().wait_entered()
    await jobs.cancel_job(job_id, force=True)
    await until(lambda: context.cancelled)
    await bench.pass_time(0.2)
    job = await jobs.wait(job_id)
    assert (job.status, list(job.steps), job.abandoned) == ("CANCELLED", ["s"], 1)
    bench.open_gates()
    await bench.gate().wait_left()
    await bench.until_async(lambda: jobs.get_summary(job_id), lambda summary: summary.abandoned == 0)


async def test_force_during_finally_ends_it(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow({"id": "s", "component": "note"}, **{"finally": [{"id": "f", "component": "gate"}]})
    job_id = await jobs.create_job(flow, start=True)
    await bench.gate().wait_entered()
    await jobs.pause_job(job_id)  # durable first, and then refused by the one who runs the job
    await jobs.cancel_job(job_id, force=True)
    assert await final(jobs, job_id) == "CANCELLED"
    assert "job.pause_requested" not in await types(jobs, job_id)


async def test_cancel_of_a_job_with_finally_that_has_run_needs_a_worker(bench: Bench) -> None:
    flow = bench.workflow({"id": "s", "component": "note"}, {"id": "t", "component": "gate"}, **FINALLY)
    async with bench.manager() as jobs:
        job_id = await jobs.create_job(flow, start=True)
        await bench.gate().wait_entered()
        await jobs.pause_job(job_id)
        bench.gate().open()
        await seen(jobs, job_id, "job.paused")
    async with bench.manager(worker=False) as jobs:
        await jobs.cancel_job(job_id)
        status = await jobs.get_job_status(job_id)
        assert (status["status"], status["requests"][0]["verb"]) == ("QUEUED", "cancel")
    async with bench.manager() as jobs:
        job = await jobs.wait(job_id)
        assert (job.status, job.steps["after"]["output"]) == ("CANCELLED", "CANCELLED")


async def test_cancel_before_anything_started_is_final_at_once_even_with_finally(bench: Bench) -> None:
    async with bench.manager(worker=False) as jobs:
        job_id = await jobs.create_job(bench.workflow({"id": "s", "component": "note"}, **FINALLY))
        await jobs.cancel_job(job_id)
        assert (await jobs.get_summary(job_id)).status == "CANCELLED"


# ── priority ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_jobs_run_by_priority_and_a_changed_one_moves(bench: Bench) -> None:
    flow = bench.workflow({"id": "s", "component": "note", "inputs": {"value": "{{ job.id }}"}})
    ids: dict[str, str] = {}
    async with bench.manager(worker=False) as jobs:
        for name, priority in (("low", "LOW"), ("medium", None), ("high", "HIGH"), ("late", "MEDIUM")):
            ids[name] = await jobs.create_job(flow, priority=priority, start=True)
            bench.clock.advance(1)
        await jobs.set_priority(ids["late"], "CRITICAL", by="ada")
    async with bench.manager(max_jobs=1) as jobs:
        for job_id in ids.values():
            assert await final(jobs, job_id) == "COMPLETED"
    assert bench.components.values == [ids[name] for name in ("late", "high", "medium", "low")]


async def test_new_priority_of_many_reaches_queued_paused_and_running_jobs_and_passes_over_the_rest(
    bench: Bench, jobs: JobManager
) -> None:
    running = await jobs.create_job(bench.one("gate"), tags=["x"], start=True)
    await bench.gate().wait_entered()
    note = bench.one("note", id="note")
    ended = await jobs.create_job(note, tags=["x"], start=True)
    assert await final(jobs, ended) == "COMPLETED"
    created, other = await jobs.create_job(note, tags=["x"]), await jobs.create_job(note)
    waits = bench.workflow({"id": "s", "signal": "go"}, id="waits")
    paused = await jobs.create_job(waits, tags=["x"], start=True)
    await jobs.pause_job(paused)
    await jobs.wait_paused(paused)
    assert await jobs.set_priorities("high", filters={"tags": "x"}, by="ada", reason="boss") == 3
    assert await jobs.set_priorities("low", ids=[other, other, ended, "nobody"]) == 1
    event = await seen(jobs, running, "job.priority_changed")
    assert event.data == {"priority": "HIGH", "was": "MEDIUM", "by": "ada", "reason": "boss"}
    for job_id, priority in ((created, "HIGH"), (paused, "HIGH"), (other, "LOW"), (ended, "MEDIUM")):
        assert (await jobs.get_summary(job_id)).priority == priority


async def test_what_is_asked_of_jobs_while_many_get_a_new_priority_is_carried_out(
    bench: Bench, jobs: JobManager
) -> None:
    """Whoever finds a job held relies on its holder."""
    note = bench.one("note", id="note")
    ids = [await jobs.create_job(note) for _ in range(50)]
    starts = [asyncio.create_task(jobs.start_job(job_id)) for job_id in ids]
    assert await jobs.set_priorities("HIGH", ids=ids) == 50
    await asyncio.gather(*starts)
    assert [await final(jobs, job_id) for job_id in ids] == ["COMPLETED"] * 50


async def test_many_that_are_asked_beyond_one_transaction_are_all_asked(bench: Bench) -> None:
    async with bench.manager(worker=False) as jobs:
        ids = await jobs.create_jobs(bench.one("note"), [{}] * (2 * ASKED_AT_ONCE + 1), start=True)
        assert await jobs.set_priorities("HIGH", ids=ids) == len(ids)
        assert {(await jobs.get_summary(job_id)).priority for job_id in ids} == {"HIGH"}
        assert await jobs.store.read_leases(jobs.worker_id) == {}
        with pytest.raises(InvalidInputs):
            await jobs.set_priorities("URGENT", ids=ids)
        with pytest.raises(InvalidQuery):
            await jobs.set_priorities("HIGH", filters={"statsu": "QUEUED"})


async def test_one_that_cannot_be_settled_with_the_others_keeps_none_of_them(bench: Bench) -> None:
    flow = bench.workflow({"id": "s", "component": "gate"}, concurrency={"limit": 1, "overflow": "reject"})
    note = bench.one("note", id="note")
    async with bench.manager(max_jobs=1, max_preemptions=0) as jobs:
        await jobs.create_job(flow, start=True)
        await bench.gate().wait_entered()
        refused, other = await jobs.create_job(flow), await jobs.create_job(note)
        asked = Request("start:1", "start", None, None, bench.clock.now_us(), {})  # by somebody who has gone
        held = await jobs.store.hold(refused, "somebody", asked)
        assert held is not None and held.claim is not None
        await jobs.store.release(held.claim)
        assert await jobs.set_priorities("HIGH", ids=[refused, other]) == 2
        for job_id in (refused, other):
            await seen(jobs, job_id, "job.priority_changed")
        await jobs.cancel_job(other)
        assert await final(jobs, other) == "CANCELLED"
        bench.open_gates()


async def test_new_priority_of_no_jobs_changes_none(bench: Bench, jobs: JobManager) -> None:
    job_id = await jobs.create_job(bench.one("note"))
    assert await jobs.set_priorities("HIGH", ids=[]) == 0
    with pytest.raises(ValueError, match="Say which jobs"):
        await jobs.set_priorities("HIGH")
    assert (await jobs.get_summary(job_id)).priority == "MEDIUM"
    assert await jobs.set_priorities("HIGH", filters={}) == 1


async def test_workflow_says_the_priority_unless_the_job_does(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow({"id": "s", "component": "note"}, priority="HIGH")
    by_flow, own = await jobs.create_job(flow), await jobs.create_job(flow, priority="low")
    assert [(await jobs.get_summary(job_id)).priority for job_id in (by_flow, own)] == ["HIGH", "LOW"]


async def test_priority_of_a_running_job_can_be_changed(bench: Bench, jobs: JobManager) -> None:
    job_id = await jobs.create_job(bench.one("gate"), start=True)
    await bench.gate().wait_entered()
    await jobs.set_priority(job_id, "CRITICAL", by="ada", reason="boss")
    event = await seen(jobs, job_id, "job.priority_changed")
    assert event.data == {"priority": "CRITICAL", "was": "MEDIUM", "by": "ada", "reason": "boss"}
    assert (await jobs.get_summary(job_id)).priority == "CRITICAL"


async def test_resume_of_a_job_that_is_not_paused_changes_nothing(bench: Bench, jobs: JobManager) -> None:
    """After a stop a job is QUEUED; who resumes it then, or twice, gets what they want and no error."""
    running = await jobs.create_job(bench.one("gate"), start=True)
    await bench.gate().wait_entered()
    async with bench.manager(worker=False) as other:
        queued = await other.create_job(bench.one("note", id="other"))
        await jobs.pause_job(running)
        await seen(jobs, running, "job.pause_requested")
        await jobs.resume_job(running)
        await seen(jobs, running, "job.pause_withdrawn")
        before = await history(jobs, running)
        await jobs.resume_job(running)
        await other.start_job(queued)
        await other.resume_job(queued)
    await jobs.set_priority(queued, "HIGH")  # so this manager hears of it
    assert await final(jobs, queued) == "COMPLETED"
    assert await history(jobs, running) == before
    assert "job.resumed" not in await types(jobs, queued)


# ── what is refused ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("verb", ["start_job", "pause_job", "resume_job", "cancel_job", "set_priority", "delete_job"])
async def test_verbs_on_unknown_jobs_say_so(jobs: JobManager, verb: str) -> None:
    arguments = ("HIGH",) if verb == "set_priority" else ()
    with pytest.raises(JobNotFound) as caught:
        await getattr(jobs, verb)("nobody", *arguments)
    assert caught.value.job_id == "nobody"


async def test_illegal_verbs_name_the_status_and_what_is_allowed(bench: Bench, jobs: JobManager) -> None:
    created = await jobs.create_job(bench.one("note"))
    done = await jobs.create_job(bench.one("note"), start=True)
    await final(jobs, done)
    cases: list[tuple[str, Any, str]] = [
        (created, jobs.pause_job, "CREATED"),
        (created, jobs.resume_job, "CREATED"),
        (done, jobs.start_job, "COMPLETED"),
        (done, jobs.pause_job, "COMPLETED"),
        (done, jobs.cancel_job, "COMPLETED"),
    ]
    for job_id, verb, status in cases:
        with pytest.raises(InvalidTransition) as caught:
            await verb(job_id)
        assert (caught.value.job_id, caught.value.status) == (job_id, status)
        assert "delete" in caught.value.allowed
    assert [len(await history(jobs, job_id)) for job_id in (created, done)] == [1, 6]


async def test_running_job_cannot_be_deleted_until_it_is_cancelled(bench: Bench, jobs: JobManager) -> None:
    job_id = await jobs.create_job(bench.one("gate"), start=True)
    await bench.gate().wait_entered()
    with pytest.raises(InvalidTransition, match="cancel it first"):
        await jobs.delete_job(job_id)
    await jobs.cancel_job(job_id)
    await final(jobs, job_id)
    await jobs.delete_job(job_id)
    for ask in (jobs.get_job, jobs.get_job_status, jobs.delete_job):
        with pytest.raises(JobNotFound):
            await ask(job_id)


async def test_verbs_need_an_open_manager(bench: Bench) -> None:
    from openagents_json.errors import StoreUnavailable

    async with bench.manager() as jobs:
        job_id = await jobs.create_job(bench.one("note"))
    with pytest.raises(StoreUnavailable):
        await jobs.start_job(job_id)
    with pytest.raises(RuntimeError, match="opened once"):
        await jobs.open()
