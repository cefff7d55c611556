"""A parent is cancelled while its fan-out is being written: no child may go on after the parent has ended."""

from __future__ import annotations

from typing import Any

import pytest

from openagents_json import JobManager
from tests.engine.support import Bench, final, history
from tests.race.stage import Held, commits


def fan_out(bench: Bench, **fields: Any) -> str:
    return bench.workflow(
        {
            "id": "each",
            "foreach": "{{ range(20) | list }}",
            "spread": True,
            "steps": [{"id": "s", "component": "gate"}],
            **fields,
        }
    )


async def check(jobs: JobManager, job_id: str, children: int) -> None:
    """Every child ended before its parent did, and none was left out."""
    page = await jobs.list_jobs({"parent_id": job_id})
    assert [str(job.status) for job in page] == ["CANCELLED"] * children
    events = await history(jobs, job_id)
    assert [event.type for event in events].count("child.ended") == children
    assert all(job.completed_at is not None and job.completed_at <= events[-1].at for job in page)


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("after", [False, True])
async def test_cancel_during_the_commit_that_creates_the_children_reaches_all_of_them(
    bench: Bench, jobs: JobManager, after: bool, force: bool
) -> None:
    held = Held(jobs.store, "commit", commits("child.started"), after=after)
    job_id = await jobs.create_job(fan_out(bench), start=True)
    await held.reached()
    await jobs.cancel_job(job_id, force=force)
    held.go_on()
    assert await final(jobs, job_id) == "CANCELLED"
    await check(jobs, job_id, 20)


async def test_item_that_ends_while_the_cancel_comes_starts_no_further_child(bench: Bench, jobs: JobManager) -> None:
    job_id = await jobs.create_job(fan_out(bench, concurrency=2), start=True)
    await bench.gate().wait_entered(2)
    held = Held(jobs.store, "commit", commits("job.cancel_requested"))
    await jobs.pause_job(job_id)  # a mark that the cancel beats
    cancelling = jobs._worker.spawn(jobs.cancel_job(job_id), "cancel")
    await held.reached()
    bench.gate().open()
    held.go_on()
    await cancelling
    assert await final(jobs, job_id) == "CANCELLED"
    assert len(await jobs.list_jobs({"parent_id": job_id})) == 2
