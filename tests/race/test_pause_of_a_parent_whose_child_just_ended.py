"""A parent is paused while the last commit of its child is on its way: the pause must be true, and nothing be lost."""

from __future__ import annotations

import pytest

from openagents_json import JobManager
from tests.engine.support import Bench, final, seen, types
from tests.engine.test_children import NUMBER, child_of, parent
from tests.race.stage import Held, commits


@pytest.mark.guarantee("G9")
@pytest.mark.parametrize("after", [False, True])
async def test_pause_beside_the_final_commit_of_the_child_becomes_true_with_it(
    bench: Bench, jobs: JobManager, after: bool
) -> None:
    bench.workflow({"id": "s", "component": "gate"}, id="child", inputs=NUMBER)
    job_id = await jobs.create_job(parent(bench), start=True)
    await bench.gate().wait_entered()
    child = await child_of(jobs, job_id)
    held = Held(jobs.store, "commit", commits("job.completed"), after=after)
    bench.gate().open()
    await held.reached()
    await jobs.pause_job(job_id)
    if not after:
        assert str((await jobs.get_summary(job_id)).status) == "WAITING", "the child may still run"
    held.go_on()
    await seen(jobs, job_id, "job.paused")
    assert str((await jobs.get_summary(child)).status) in ("COMPLETED", "PAUSED")
    await jobs.resume_job(job_id)
    assert await final(jobs, job_id) == "COMPLETED"
    assert (await types(jobs, job_id)).count("child.ended") == 1


@pytest.mark.guarantee("G9")
async def test_word_of_the_child_in_the_same_turn_as_the_pause_starts_nothing(bench: Bench, jobs: JobManager) -> None:
    bench.workflow({"id": "s", "component": "gate"}, id="child", inputs=NUMBER)
    flow = bench.workflow(
        {"id": "sub", "workflow": "child", "inputs": {"n": 1}}, {"id": "t", "component": "note"}, id="parent"
    )
    job_id = await jobs.create_job(flow, start=True)
    await bench.gate().wait_entered()
    held = Held(jobs.store, "hold", lambda held_id, *_: held_id == job_id, after=True)
    pausing = jobs._worker.spawn(jobs.pause_job(job_id), "pause")
    await held.reached()  # the pause stands in the inbox, and the lease of one commit is taken
    bench.gate().open()
    assert await final(jobs, await child_of(jobs, job_id)) == "COMPLETED"
    held.go_on()
    await pausing
    await seen(jobs, job_id, "job.paused")
    assert bench.components.calls == []
    await jobs.resume_job(job_id)
    assert await final(jobs, job_id) == "COMPLETED"
    assert bench.components.calls == [("t", 1)]
