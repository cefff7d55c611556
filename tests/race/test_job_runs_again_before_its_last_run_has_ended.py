"""A job lets go of its worker, is woken, and runs again in the same worker, while its last run still looks a last time
into the inbox over a slow store. When that look is over, the worker must not forget the run that is on."""

from __future__ import annotations

from openagents_json import JobManager
from tests.engine.support import Bench, final, seen
from tests.race.stage import Held


async def test_worker_still_knows_the_run_that_is_on(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow({"id": "s", "signal": "go"}, {"id": "g", "component": "gate"})
    held = Held(jobs.store, "read_requests")
    job_id = await jobs.create_job(flow, start=True)
    await held.reached()  # it waits for the signal, its lease is given back, and it looks into the inbox
    assert (await jobs.get_summary(job_id)).status == "WAITING"
    await jobs.signal(job_id, "go")
    await bench.gate().wait_entered()
    before = jobs._worker.runners[job_id]
    held.go_on()
    await bench.pass_time(*[0.1] * 5)
    assert jobs._worker.runners.get(job_id) is before
    await jobs.pause_job(job_id)
    await seen(jobs, job_id, "job.pause_requested")  # it is heard at once, not when the step ends
    await jobs.resume_job(job_id)
    bench.gate().open()
    assert await final(jobs, job_id) == "COMPLETED"
