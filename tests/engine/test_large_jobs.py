"""Jobs with long histories: their status is bounded and true, whoever reads it and however it changes meanwhile."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from openagents_json import JobManager
from openagents_json.errors import JobNotFound
from openagents_json.job.engine import states as states_module
from tests.engine.support import Bench, final, seen


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is large begins with 20 events, and a status shows 10 steps."""
    monkeypatch.setattr(states_module, "LARGE", 20)
    monkeypatch.setattr("openagents_json.job.views.STEPS_SHOWN", 10)


def flow(bench: Bench) -> str:
    each = {"id": "each", "foreach": "{{ range(30) }}", "steps": [{"id": "s", "component": "note"}]}
    bad = {"id": "bad", "component": "fail", "continue_on_error": True, "needs": []}
    return bench.workflow(bad, each, {"id": "first", "signal": "go"}, {"id": "second", "signal": "go"})


def without_times(status: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in status.items() if name != "requests"}


@pytest.mark.usefixtures("small")
async def test_status_goes_on_from_what_is_known_and_says_the_same_as_a_fresh_reading(bench: Bench) -> None:
    async with bench.manager() as jobs:
        job_id = await jobs.create_job(flow(bench), start=True)
        await seen(jobs, job_id, "job.waiting")
        for round, verb in enumerate((None, "signal", "pause", "resume", "signal")):
            if verb == "signal":
                await jobs.signal(job_id, "go", round)
                await jobs.wait(job_id) if round == 4 else await seen(jobs, job_id, "job.waiting", 2)
            elif verb is not None:
                await getattr(jobs, f"{verb}_job")(job_id)
                await seen(
                    jobs, job_id, "job.paused" if verb == "pause" else "job.waiting", 3 if verb == "resume" else 1
                )
            known = [await jobs.get_job_status(job_id) for _ in range(2)]
            if bench.kind != "memory":
                async with bench.manager(worker=False) as other:
                    fresh = await other.get_job_status(job_id)
                    assert without_times(known[0]) == without_times(known[1]) == without_times(fresh)
            job = await jobs.get_job(job_id)
            counts = Counter(str(step["status"]) for step in job.steps.values())
            assert known[0]["step_counts"] == counts
            assert known[0]["events"] == (await jobs.get_summary(job_id)).events
            assert len(known[0]["steps"]) == 10 and "bad" in known[0]["steps"]
            live = {path for path, step in job.steps.items() if step["status"] in ("RUNNING", "WAITING")}
            assert live <= known[0]["steps"].keys()
        assert await final(jobs, job_id) == "COMPLETED"


@pytest.mark.usefixtures("small")
async def test_what_a_reader_knows_of_a_job_is_of_no_use_once_it_is_deleted(bench: Bench, jobs: JobManager) -> None:
    job_id = await jobs.create_job(flow(bench), start=True)
    await seen(jobs, job_id, "job.waiting")
    await jobs.get_job_status(job_id)
    await jobs.cancel_job(job_id)
    await jobs.wait(job_id)
    await jobs.delete_job(job_id)
    with pytest.raises(JobNotFound):
        await jobs.get_job_status(job_id)
    with pytest.raises(JobNotFound):  # deleted between the two readings of a status
        await jobs._reader.read(job_id)
