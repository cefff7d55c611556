"""The manager is left while a cancel waits for its grace: the request is not lost, and nothing is run again for it."""

from __future__ import annotations

import pytest

from openagents_json import JobManager
from tests.engine.leftovers import marked
from tests.engine.support import Bench, final, history, seen, types
from tests.engine.test_stop import TIMES, close
from tests.race.stage import Held, commits

FINALLY = {"finally": [{"id": "after", "component": "note", "inputs": {"value": "{{ job.outcome }}"}}]}


async def begin(bench: Bench, jobs: JobManager, component: str) -> str:
    bench.isolate("ignore_sigterm", "compute")
    gate = bench.gate()
    inputs = {"started": str(bench.place("started"))} if "process" in component else {}
    flow = bench.workflow({"id": "s", "component": component, "inputs": inputs}, **FINALLY)
    job_id = await jobs.create_job(flow, start=True)
    if "process" in component:
        await bench.appears("started")
    else:
        await gate.wait_entered()
    return job_id


@pytest.mark.parametrize("component", ["stubborn", "thread_gate", "process.ignore_sigterm"])
async def test_cancel_that_waits_for_its_grace_is_carried_out_by_the_next_manager(bench: Bench, component: str) -> None:
    with marked() as mark:
        jobs = bench.manager(cancel_grace_s=60, **TIMES)
        await jobs.open()
        job_id = await begin(bench, jobs, component)
        await jobs.cancel_job(job_id, by="ada")
        await seen(jobs, job_id, "job.cancel_requested")
        await close(bench, jobs, 9)
        assert await mark.wait_gone() == []
    bench.open_gates()
    async with bench.manager() as jobs:
        assert await final(jobs, job_id) == "CANCELLED"
        events = await history(jobs, job_id)
    assert events[-1].data["by"] == "ada"
    starts = [event.data["path"] for event in events if event.type == "attempt.started"]
    assert starts == ["s", "after"], "the step is not begun again only to be cancelled"
    assert bench.components.values == ["CANCELLED"]


async def test_stop_during_the_commit_of_the_cancel_loses_nothing(bench: Bench) -> None:
    jobs = bench.manager(**TIMES)
    await jobs.open()
    job_id = await begin(bench, jobs, "process.compute")
    held = Held(jobs.store, "commit", commits("job.cancel_requested"))
    await jobs.cancel_job(job_id)
    await held.reached()
    held.go_on()
    await close(bench, jobs, 9)
    async with bench.manager() as jobs:
        assert await final(jobs, job_id) == "CANCELLED"
        assert (await types(jobs, job_id)).count("job.cancel_requested") == 1
