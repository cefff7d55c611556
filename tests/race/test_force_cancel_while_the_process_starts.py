"""A forced cancel arrives before the process has imported anything: it dies, the component is never called."""

from __future__ import annotations

import pytest

from openagents_json import JobManager
from tests.engine.leftovers import marked
from tests.engine.support import Bench, final, history, seen
from tests.race.stage import Held, commits


async def ask(bench: Bench, jobs: JobManager) -> str:
    bench.isolate("hold")
    inputs = {"started": str(bench.place("started")), "go": str(bench.place("go"))}
    return await jobs.create_job(bench.one("process.hold", inputs=inputs), start=True)


@pytest.mark.parametrize("force", [True, False])
async def test_process_that_still_starts_is_ended_and_its_component_never_called(bench: Bench, force: bool) -> None:
    with marked() as mark:
        async with bench.manager() as jobs:
            job_id = await ask(bench, jobs)
            await seen(jobs, job_id, "attempt.started")
            assert not jobs._worker.processes.ready, "it takes longer to start than to record that it starts"
            await jobs.cancel_job(job_id, force=force)
            assert await final(jobs, job_id) == "CANCELLED"
            [end] = [one for one in await history(jobs, job_id) if one.type == "attempt.cancelled"]
            assert end.data["rung"] == ("kill" if force else "terminate")
            assert (await jobs.health())["processes"] == 0
        assert await mark.wait_gone() == []
    assert not bench.place("started").exists()


async def test_cancel_during_the_commit_of_the_start_kills_what_this_commit_starts(bench: Bench) -> None:
    with marked() as mark:
        async with bench.manager() as jobs:
            held = Held(jobs.store, "commit", commits("attempt.started"))
            job_id = await ask(bench, jobs)
            await held.reached()
            await jobs.cancel_job(job_id, force=True)
            held.go_on()
            assert await final(jobs, job_id) == "CANCELLED"
            assert (await jobs.health())["processes"] == 0
        assert await mark.wait_gone() == []
    assert not bench.place("started").exists()
