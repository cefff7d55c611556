"""Moving jobs between stores: a job that one store exported goes on in another, wherever it stood (guarantee G1)."""

from __future__ import annotations

import io
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from openagents_json import JobManager
from openagents_json.job.moving import Imported
from openagents_json.job.store import MemoryJobStore
from tests.engine.support import Bench, Clock, final, history, seen, types, until
from tests.faults.checker import check_store
from tests.postgres_server import Server

KINDS = ("memory", "sqlite", "file", "postgres")
PAIRS = [f"{one} to {other}" for one, other in itertools.permutations(KINDS, 2)]


@dataclass
class Pair:
    """The store that jobs come from and the one that they go to, each with components of its own."""

    source: Bench
    target: Bench


@pytest_asyncio.fixture
async def pair(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> AsyncIterator[Pair]:
    kinds = str(getattr(request, "param", "memory to sqlite")).split(" to ")
    benches = []
    for place, kind in enumerate(kinds):
        folder = tmp_path / str(place)
        folder.mkdir()
        url = ""
        if kind == "postgres":
            server: Server = request.getfixturevalue("postgres")
            url = server.store_url(await server.empty_schema())
        benches.append(Bench(kind, folder, clock, url))
    made = Pair(benches[0], benches[1])
    for bench in benches:
        _register(bench)
    yield made
    for bench in benches:
        bench.open_gates()
        await bench.check()


def _register(bench: Bench) -> None:
    """The workflows of these tests, the same on both sides."""
    note = {"id": "after", "component": "note", "inputs": {"value": "after"}}
    middle: list[dict[str, Any]] = [
        {"id": "before", "component": "note", "inputs": {"value": "before"}},
        {"id": "gate", "component": "gate", "inputs": {"name": "middle", "value": 7}},
    ]
    bench.workflow(*middle, note, id="middle", outputs={"seven": "{{ steps.gate.output }}"})
    bench.workflow({"id": "go", "signal": "go"}, note, id="signal", outputs={"got": "{{ steps.go.output }}"})
    bench.workflow({"id": "stop", "component": "gate", "inputs": {"name": "stop"}}, note, id="paused")
    bench.workflow({"id": "nap", "wait": {"seconds": 60}}, note, id="timer")
    retry = {"max_attempts": 3, "delay_seconds": 60}
    bench.workflow({"id": "s", "component": "flaky", "inputs": {"until": 2}, "retry": retry}, id="back-off")
    bench.workflow(
        {"id": "waits", "workflow": "signal"},
        {"id": "runs", "workflow": "middle", "needs": []},
        id="family",
        outputs={"of": "{{ steps.waits.output.got }}", "and": "{{ steps.runs.output.seven }}"},
    )
    bench.workflow({"id": "s", "component": "gate", "inputs": {"name": "limited"}}, id="limited", concurrency=1)


@asynccontextmanager
async def manager_of(bench: Bench, **options: Any) -> AsyncIterator[JobManager]:
    """An open manager, whose gates are opened before it closes."""
    async with bench.manager(**options) as jobs:
        try:
            yield jobs
        finally:
            bench.open_gates()


@dataclass
class Moved:
    """Jobs by the workflow that they are of, as the source has left them."""

    ids: dict[str, str]
    waiting: str = ""  # the second job of the workflow with a limit
    export: bytes = b""


async def leave(pair: Pair, jobs: JobManager) -> Moved:
    """A job in each situation, and the export of all of them; the source is still at work when it is made."""
    source, ids = pair.source, {}
    source.gate("middle"), source.gate("stop")
    flows = ["middle", "signal", "paused", "timer", "back-off", "family"]
    for flow in flows:
        ids[flow] = await jobs.create_job(flow, start=True, tags=["moved", flow], idempotency_key=f"key of {flow}")
    ids["created"] = await jobs.create_job("signal")
    moved = Moved(ids)
    ids["limited"] = await jobs.create_job("limited", start=True)
    moved.waiting = await jobs.create_job("limited", start=True)
    await source.gate("limited").wait_entered()
    await source.gate("stop").wait_entered()
    await jobs.pause_job(ids["paused"])
    source.gate("stop").open()
    await jobs.wait_paused(ids["paused"])
    for flow in ("signal", "timer", "back-off"):
        await seen(jobs, ids[flow], "job.waiting")
    await source.gate("middle").wait_entered(2)  # of the job, and of the child
    await seen(jobs, ids["family"], "job.waiting")
    [waits] = [one.id for one in (await jobs.list_jobs({"parent_id": ids["family"], "workflow_id": "signal"})).jobs]
    await seen(jobs, waits, "job.waiting")
    ids["child"] = waits
    export = io.BytesIO()
    done = await jobs.export_jobs(export)
    assert done.jobs == len((await jobs.list_jobs(limit=100)).jobs)
    moved.export = export.getvalue()
    return moved


@pytest.mark.parametrize("pair", PAIRS, indirect=True)
@pytest.mark.guarantee("G1")
async def test_jobs_go_on_where_they_stood(pair: Pair) -> None:
    target = pair.target
    async with manager_of(pair.source) as jobs:
        moved = await leave(pair, jobs)
    ids = moved.ids
    async with manager_of(target) as jobs:
        target.gate("middle").open()
        done = await jobs.import_jobs(io.BytesIO(moved.export))
        assert (done.refused, done.known) == (0, 0) and done.jobs > len(ids)
        again = await jobs.import_jobs(io.BytesIO(moved.export))
        assert (again.jobs, again.known, again.refused) == (0, done.jobs, 0)

        assert await final(jobs, ids["middle"]) == "COMPLETED"
        assert await jobs.get_job_results(ids["middle"]) == {"seven": 7}
        events = await types(jobs, ids["middle"])
        assert events.count("job.worker_lost") == 1 and events.count("attempt.lost") == 1

        for job_id in (ids["signal"], ids["child"]):
            await jobs.signal(job_id, "go", {"the": "word"})
            assert await final(jobs, job_id) == "COMPLETED"
        assert await final(jobs, ids["family"]) == "COMPLETED"
        assert await jobs.get_job_results(ids["family"]) == {"of": {"the": "word"}, "and": 7}

        assert (await jobs.get_summary(ids["paused"])).status == "PAUSED"
        await jobs.resume_job(ids["paused"])
        assert await final(jobs, ids["paused"]) == "COMPLETED"

        for flow in ("timer", "back-off"):
            assert (await jobs.get_summary(ids[flow])).status == "WAITING"
        await target.pass_time(61)
        for flow in ("timer", "back-off"):
            assert await final(jobs, ids[flow]) == "COMPLETED"

        assert (await jobs.get_summary(ids["created"])).status == "CREATED"
        await jobs.start_job(ids["created"])
        await jobs.signal(ids["created"], "go")
        assert await final(jobs, ids["created"]) == "COMPLETED"

        await target.gate("limited").wait_entered()
        assert (await jobs.get_summary(moved.waiting)).status == "QUEUED"
        target.gate("limited").open()
        for job_id in (ids["limited"], moved.waiting):
            assert await final(jobs, job_id) == "COMPLETED"

        # What had ended before did not run again, and a key is known where its job went.
        assert "before" not in target.components.values
        assert await jobs.create_job("signal", idempotency_key="key of signal", start=True) == ids["signal"]
        assert {one.tags for one in (await jobs.list_jobs({"tags": ["moved"]})).jobs} == {
            ("moved", flow) for flow in ("middle", "signal", "paused", "timer", "back-off", "family")
        }


async def moved_while(pair: Pair, jobs: JobManager, **options: Any) -> Imported:
    """Export what the source has now, and import it."""
    file = io.BytesIO()
    await jobs.export_jobs(file)
    async with manager_of(pair.target, worker=False) as there:
        return await there.import_jobs(io.BytesIO(file.getvalue()), **options)


async def test_job_that_has_gone_on_there_is_passed_over(pair: Pair) -> None:
    async with manager_of(pair.source) as jobs:
        moved = await leave(pair, jobs)
    async with manager_of(pair.target) as jobs:
        await jobs.import_jobs(io.BytesIO(moved.export))
        await jobs.signal(moved.ids["signal"], "go")
        assert await final(jobs, moved.ids["signal"]) == "COMPLETED"
        before = await history(jobs, moved.ids["signal"])
        done = await jobs.import_jobs(io.BytesIO(moved.export))
        assert (done.jobs, done.refused) == (0, 0)
        assert await history(jobs, moved.ids["signal"]) == before
        pair.target.open_gates()


async def test_job_that_has_gone_on_here_is_refused_there(pair: Pair) -> None:
    async with manager_of(pair.source) as jobs:
        job_id = await jobs.create_job("signal", start=True)
        await seen(jobs, job_id, "job.waiting")
        assert (await moved_while(pair, jobs)).jobs == 1
        await jobs.signal(job_id, "go")
        assert await final(jobs, job_id) == "COMPLETED"
        other = await jobs.create_job("signal")
        done = await moved_while(pair, jobs)
    assert (done.jobs, done.known, done.refused) == (1, 0, 1)
    [refusal] = done.refusals
    assert refusal.job_id == job_id and "with another history, from event" in refusal.why and refusal.line > 1
    async with manager_of(pair.target) as jobs:
        assert (await jobs.get_summary(job_id)).status == "WAITING"
        assert (await jobs.get_summary(other)).status == "CREATED"


async def test_dry_run_writes_nothing(pair: Pair) -> None:
    async with manager_of(pair.source) as jobs:
        await jobs.create_job("signal", start=True, idempotency_key="k")
        done = await moved_while(pair, jobs, dry_run=True)
        assert (done.jobs, done.refused, done.is_dry_run) == (1, 0, True)
    async with manager_of(pair.target, worker=False) as jobs:
        assert (await jobs.list_jobs()).jobs == ()


@pytest.mark.parametrize("dry_run", [True, False])
async def test_key_of_another_job_is_refused_by_name(pair: Pair, dry_run: bool) -> None:
    async with manager_of(pair.target, worker=False) as jobs:
        here = await jobs.create_job("signal", idempotency_key="k")
    async with manager_of(pair.source) as jobs:
        job_id = await jobs.create_job("signal", idempotency_key="k")
        await jobs.create_job("signal")
        done = await moved_while(pair, jobs, dry_run=dry_run)
        assert (done.jobs, [one.job_id for one in done.refusals]) == (1, [job_id])
        assert here in done.refusals[0].why
        if not dry_run:
            assert (await moved_while(pair, jobs, drop_keys=True)).jobs == 1
            assert (await moved_while(pair, jobs, drop_keys=True)).known == 2


@pytest.mark.parametrize("pair", ["memory to memory"], indirect=True)
async def test_jobs_that_are_on_come_before_those_that_wait_for_their_slots(pair: Pair) -> None:
    async with manager_of(pair.source) as jobs:
        waits = await jobs.create_job("limited", priority="LOW")
        on = await jobs.create_job("limited", start=True)
        await pair.source.gate("limited").wait_entered()
        await jobs.start_job(waits)
        done = await moved_while(pair, jobs)
        assert (done.jobs, done.refused) == (2, 0)
        pair.source.open_gates()
    async with manager_of(pair.target) as jobs:
        await pair.target.gate("limited").wait_entered()
        assert (await jobs.get_summary(on)).status == "RUNNING"
        pair.target.open_gates()
        assert await final(jobs, waits) == "COMPLETED"


@pytest.mark.parametrize("pair", ["memory to memory"], indirect=True)
async def test_job_that_is_on_is_refused_where_the_limit_is_reached(pair: Pair) -> None:
    async with manager_of(pair.target) as there:
        here = await there.create_job("limited", start=True)
        await pair.target.gate("limited").wait_entered()
        async with manager_of(pair.source) as jobs:
            on = await jobs.create_job("limited", start=True)
            await pair.source.gate("limited").wait_entered()
            file = io.BytesIO()
            await jobs.export_jobs(file)
            pair.source.open_gates()
        done = await there.import_jobs(io.BytesIO(file.getvalue()))
        assert [one.job_id for one in done.refusals] == [on] and here in done.refusals[0].why
        pair.target.open_gates()
        assert await final(there, here) == "COMPLETED"
        done = await there.import_jobs(io.BytesIO(file.getvalue()))
        assert done.jobs == 1
        assert await final(there, on) == "COMPLETED"


async def test_output_moves_and_is_not_doubled(pair: Pair) -> None:
    @pair.source.components.registry.tool("talk")
    def talk() -> None:
        print("a word")

    pair.source.workflow({"id": "s", "component": "talk"}, id="talks")
    async with manager_of(pair.source) as jobs:
        job_id = await jobs.create_job("talks", start=True)
        assert await final(jobs, job_id) == "COMPLETED"
        for _ in range(2):
            await moved_while(pair, jobs)
    async with manager_of(pair.target, worker=False) as jobs:
        pieces = [piece.text for one in await jobs.store.read_output(job_id) for piece in one.pieces]
        assert "".join(pieces) == "a word\n"


async def test_import_wakes_a_manager_that_is_open(pair: Pair) -> None:
    async with manager_of(pair.source, worker=False) as jobs:
        job_id = await jobs.create_job("middle", start=True)
        file = io.BytesIO()
        await jobs.export_jobs(file)
    async with manager_of(pair.target) as there:
        await there.import_jobs(io.BytesIO(file.getvalue()))
        await pair.target.gate("middle").wait_entered()
        pair.target.open_gates()
        assert await final(there, job_id) == "COMPLETED"
        await until(lambda: there._worker.runners == {})


@pytest.mark.parametrize("pair", ["sqlite to memory", "file to memory", "postgres to memory"], indirect=True)
@pytest.mark.guarantee("G1")
async def test_export_of_any_moment_goes_on_to_the_end(pair: Pair) -> None:
    """Workers run while it is made: parents and children have to be of one moment, or they wait for each other."""
    for bench in (pair.source, pair.target):
        note = {"id": "note", "component": "note", "inputs": {"value": "{{ inputs.n }}"}}
        number = {"type": "object", "properties": {"n": {"type": "integer"}}}
        bench.workflow(note, note | {"id": "again"}, id="small", inputs=number)
        item = {"id": "one", "workflow": "small", "inputs": {"n": "{{ item }}"}}
        bench.workflow({"id": "all", "foreach": [1, 2, 3, 4], "steps": [item]}, id="large")
    exports: list[bytes] = []
    async with manager_of(pair.source, max_jobs=4) as jobs:
        ids = await jobs.create_jobs("large", [{}] * 10, start=True)
        left: set[str] = set(ids)
        while left:
            file = io.BytesIO()
            await jobs.export_jobs(file)
            exports.append(file.getvalue())
            left = {job_id for job_id in left if not (await jobs.get_summary(job_id)).status.is_final}
    running = 0
    for export in exports[:: max(1, len(exports) // 10)]:
        async with manager_of(pair.target, store=MemoryJobStore(pair.target.clock)) as there:
            done = await there.import_jobs(io.BytesIO(export))
            assert done.refused == 0 and done.jobs >= len(ids)
            found = [one for one in (await there.list_jobs(limit=1_000)).jobs if not one.status.is_final]
            running += len(found)
            for job_id in ids:
                assert await final(there, job_id) == "COMPLETED"
            assert await check_store(there.store) == []
    assert running > 0, "nothing was on when the exports were made"
