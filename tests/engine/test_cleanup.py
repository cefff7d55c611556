"""What attempts leave behind, wherever they run: resources of processes that are killed, deferred calls, and leaks that
the worker tries again."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from openagents_json.job.engine import housekeeping
from openagents_json.workflow import WorkflowRegistry
from tests.engine.process_components import registry
from tests.engine.support import Bench, final, history, seen, types, until
from tests.engine.test_ledger import Things, flow

ISOLATIONS = [("defer_things_async", "inline"), ("defer_things", "thread"), ("defer_things", "process")]


@pytest.fixture
def importable(bench: Bench) -> Bench:
    """The bench with components that a process can import."""
    bench.components.registry = registry
    bench.workflows = WorkflowRegistry(registry)
    return bench


@pytest.mark.parametrize("how", ["killed", "cancel", "force"])
async def test_what_a_process_step_tracked_is_released_when_it_is_killed(
    importable: Bench, tmp_path: Path, how: str
) -> None:
    started, released = tmp_path / "started", tmp_path / "released"
    inputs = {"started": str(started), "released": str(released)}
    flow_id = importable.one("acquire_and_stay", isolation="process", inputs=inputs)
    async with importable.manager() as jobs:
        job_id = await jobs.create_job(flow_id, start=True)
        await until(lambda: started.exists() and started.read_text() != "")
        assert (await types(jobs, job_id)).count("resource.tracked") == 2, "durable before track returns"
        if how == "killed":
            os.kill(int(started.read_text()), signal.SIGKILL)
        else:
            await jobs.cancel_job(job_id, force=how == "force")
        assert await final(jobs, job_id) == ("FAILED" if how == "killed" else "CANCELLED")
        last = (await history(jobs, job_id))[-1]
    assert released.read_text().split() == ["b", "a"]
    if how != "killed":
        assert last.data["released"] == 2


@pytest.mark.parametrize(("component", "isolation"), ISOLATIONS)
@pytest.mark.parametrize("how", ["go", "fail", "wait"])
async def test_deferred_calls_are_made_newest_first_however_the_attempt_ends(
    importable: Bench, tmp_path: Path, component: str, isolation: str, how: str
) -> None:
    file = tmp_path / "deferred"
    flow_id = importable.one(component, isolation=isolation, inputs={"file": str(file), "how": how})
    async with importable.manager() as jobs:
        job_id = await jobs.create_job(flow_id, start=True)
        if how == "wait":
            await until(file.with_suffix(".started").exists)
            await jobs.cancel_job(job_id)
        status = await final(jobs, job_id)
        job = await jobs.get_job(job_id)
    assert file.read_text().split() == ["last", "first"]
    assert status == {"go": "COMPLETED", "fail": "FAILED", "wait": "CANCELLED"}[how]
    if how == "go":  # the error of a deferred call changes nothing
        assert job.outputs == {"s": "well"}
    if how == "fail":
        assert job.errors[0]["message"] == "no luck"


@pytest.mark.parametrize("component", ["defer_own_end", "defer_own_end_async"])
async def test_all_that_was_deferred_is_called_also_if_sigterm_comes_meanwhile(
    importable: Bench, tmp_path: Path, component: str
) -> None:
    file = tmp_path / "deferred"
    flow_id = importable.one(component, isolation="process", inputs={"file": str(file)})
    async with importable.manager() as jobs:
        status = await final(jobs, await jobs.create_job(flow_id, start=True))
    assert file.read_text().split() == ["first"]
    assert status == ("FAILED" if "async" in component else "COMPLETED"), "what a sync one gave by then counts"


@pytest.mark.parametrize(("component", "isolation"), ISOLATIONS[:2])
async def test_error_of_a_deferred_call_is_logged(
    importable: Bench, tmp_path: Path, component: str, isolation: str, caplog: pytest.LogCaptureFixture
) -> None:
    flow_id = importable.one(component, isolation=isolation, inputs={"file": str(tmp_path / "x"), "how": "go"})
    async with importable.manager() as jobs:
        assert await final(jobs, await jobs.create_job(flow_id, start=True)) == "COMPLETED"
    assert "nobody listens" in caplog.text


async def test_worker_tries_leaks_again_each_hour(bench: Bench) -> None:
    things = Things(bench)
    things.works = False
    async with bench.manager(cleanup_timeout_s=1.0) as jobs:
        job_id = await jobs.create_job(flow(bench), start=True)
        await seen(jobs, job_id, "release.failed", 2)
        await bench.pass_time(1.0)
        assert await final(jobs, job_id) == "COMPLETED"
        things.tries.clear()
        await bench.pass_time(3_500.0)
        assert things.tries == []
        bench.clock.advance(housekeeping.RETAIN_S - 3_500)
        leaks = await bench.until_async(jobs.list_leaks, lambda found: all(leak.tries == 1 for leak in found))
        assert sorted(things.tries) == ["a", "b"] and len(leaks) == 2
        things.works = True
        await until(lambda: jobs._worker.housekeeping._last_leak == 0)  # the round is over, and the next an hour away
        bench.clock.advance(housekeeping.RETAIN_S)
        await bench.until_async(jobs.list_leaks, lambda found: found == [])


async def test_worker_leaves_leaks_to_those_who_have_the_component(bench: Bench) -> None:
    things = Things(bench)
    things.works = False
    async with bench.manager(cleanup_timeout_s=1.0) as jobs:
        job_id = await jobs.create_job(flow(bench), start=True)
        await seen(jobs, job_id, "release.failed", 2)
        await bench.pass_time(1.0)
        assert await final(jobs, job_id) == "COMPLETED"
        known = await jobs.list_leaks()
        await until(lambda: not jobs._worker.runners)
        bench.components.registry = registry
        async with bench.manager(workflows=WorkflowRegistry(registry)) as other:
            await other._worker.housekeeping.retry_leaks()
            assert await other.list_leaks() == known


async def test_round_of_leaks_is_bounded_and_the_next_goes_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "LEAKS_AT_ONCE", 2)
    things = Things(bench)
    things.works = False
    async with bench.manager(cleanup_timeout_s=1.0) as jobs:
        job_id = await jobs.create_job(bench.one("acquire", inputs={"names": list("abc")}), start=True)
        await seen(jobs, job_id, "release.failed", 3)
        await bench.pass_time(1.0)
        assert await final(jobs, job_id) == "COMPLETED"
        tries = []
        for _ in range(3):
            await jobs._worker.housekeeping.retry_leaks()
            tries.append([leak.tries for leak in await jobs.list_leaks()])
        assert tries == [[1, 1, 0], [1, 1, 1], [2, 2, 1]]
