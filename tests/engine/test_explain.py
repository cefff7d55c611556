"""`explain` names what blocks a job, and nothing else: when that is removed, the job begins."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from openagents_json import ComponentRegistry, JobManager
from openagents_json.errors import JobNotFound
from openagents_json.job.engine.preemption import RECONSIDER_S
from openagents_json.job.explaining import Blocker, Explanation
from tests.engine.support import SAFETY_S, Bench, final, history, seen, types, until, written


def kinds(found: Explanation) -> list[str]:
    return [blocker.kind for blocker in found.blockers]


async def explained(jobs: JobManager, job_id: str, *wanted: str) -> Explanation:
    """The explanation with these blockers, in this order."""
    found = await jobs.explain(job_id)
    assert kinds(found) == list(wanted), found
    return found


async def test_unknown_job_is_an_error(jobs: JobManager) -> None:
    with pytest.raises(JobNotFound):
        await jobs.explain("nothing")


async def test_created_job_was_not_started(bench: Bench, jobs: JobManager) -> None:
    job_id = await jobs.create_job(bench.one("note"))
    found = await explained(jobs, job_id, "start")
    assert found.summary == "It is CREATED. Nobody has started it."
    assert found.blockers[0].command == f"openagents jobs start flow/{job_id[-8:]}"
    assert (found.score, found.estimate, found.stays) == (None, None, ())


async def test_paused_job_says_who_why_and_since_when(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow({"id": "a", "signal": "go"}, {"id": "b", "component": "note"})
    job_id = await jobs.create_job(flow, start=True)
    await seen(jobs, job_id, "step.waiting")
    await bench.pass_time(10)
    await jobs.pause_job(job_id, by="ada", reason="lunch")
    await seen(jobs, job_id, "job.paused")
    found = await explained(jobs, job_id, "resume", "signal")
    first, second = found.blockers
    assert first.message == "It was paused by ada (lunch)." and first.since == bench.clock.now()
    assert second.message == "The step a waits for the signal 'go'." and second.since is not None
    assert second.command == f"openagents jobs signal flow/{job_id[-8:]} go"


async def test_running_job_that_nothing_blocks(bench: Bench, jobs: JobManager) -> None:
    job_id = await jobs.create_job(bench.one("gate"), start=True)
    await bench.gate().wait_entered()
    found = await explained(jobs, job_id)
    assert found.summary == "It is RUNNING, and nothing blocks it."
    await jobs.pause_job(job_id, by="ada")
    await seen(jobs, job_id, "job.pause_requested")
    asked = await explained(jobs, job_id, "pause")
    assert asked.blockers[0].message.startswith("It is to be paused by ada; what runs may end first")
    bench.gate().open()


async def test_final_job_is_at_its_end_and_tells_its_stays(bench: Bench, jobs: JobManager) -> None:
    job_id = await jobs.create_job(bench.one("note"), start=True)
    assert await final(jobs, job_id) == "COMPLETED"
    found = await explained(jobs, job_id)
    assert found.summary == "It is COMPLETED: nothing more happens to it."
    [stay] = found.stays
    assert (stay.reason, stay.worker) == ("started", jobs.worker_id)
    assert stay.virtual_arrival is not None and stay.began_at is not None


async def test_queued_job_has_its_place_and_who_stands_before_it(bench: Bench) -> None:
    bench.workflow({"id": "s", "component": "gate"}, id="busy")
    flow = bench.one("note")
    async with bench.manager(max_jobs=1, max_preemptions=0) as jobs:
        busy = await jobs.create_job("busy", start=True)
        await bench.gate().wait_entered()
        urgent = await jobs.create_job(flow, priority="HIGH", start=True)
        await bench.pass_time(9)
        job_id = await jobs.create_job(flow, start=True)
        found = await explained(jobs, job_id, "queue")
        score = found.score
        assert score is not None and (score.ahead, score.level, score.waited_s) == (1, 1, 0.0)
        assert score.by == "time"
        assert (score.queued_at - score.virtual_arrival).total_seconds() == score.level * score.aging_s
        assert [(one["job_id"], one["priority"]) for one in score.before] == [(urgent, "HIGH")]
        assert found.blockers[0].message == (f"1 job stands before it in the queue; the first is {urgent[-8:]} (HIGH).")
        assert found.blockers[0].command == f"openagents jobs priority flow/{job_id[-8:]} CRITICAL"
        assert found.estimate is not None and found.estimate.begins_at is None
        first = await explained(jobs, urgent, "queue")
        assert first.blockers[0].message == (
            "It is the next. The one worker that can run it is busy: its only job slot is taken."
        )
        bench.gate().open()
        for one in (busy, urgent, job_id):
            assert await final(jobs, one) == "COMPLETED"
        past = await jobs.explain(job_id)
        assert [(one.job_id, one.why) for one in past.overtaken_by] == [(urgent, "it stood before this job")]


async def test_place_says_what_has_put_the_job_there(bench: Bench) -> None:
    flow = bench.workflow({"id": "s", "wait": {"seconds": 1}})
    bench.workflow({"id": "s", "component": "gate"}, id="busy")
    async with bench.manager(max_jobs=1, max_preemptions=0) as jobs:
        await jobs.create_job("busy", start=True, share_key="tenant")  # which has had its share for now
        await bench.gate().wait_entered()
        placed = {}
        soon = bench.clock.now() + timedelta(seconds=60)
        chosen: dict[str, dict[str, Any]] = {
            "time": {},
            "share": {"share_key": "tenant"},
            "deadline": {"deadline": soon},
        }
        for by, options in chosen.items():
            job_id = await jobs.create_job(flow, start=True, **options)
            placed[by] = (await jobs.explain(job_id)).score
        assert [score and score.by for score in placed.values()] == list(placed)
        bench.gate().open()


async def test_estimate_rests_on_how_fast_jobs_began(bench: Bench) -> None:
    flow = bench.one("note")
    bench.workflow({"id": "s", "component": "gate"}, id="busy")
    async with bench.manager(max_jobs=1, max_preemptions=0) as jobs:
        for _ in range(4):
            assert await final(jobs, await jobs.create_job(flow, start=True)) == "COMPLETED"
            await bench.pass_time(10)
        await jobs.create_job("busy", start=True)
        await bench.gate().wait_entered()
        waiting = [await jobs.create_job(flow, start=True) for _ in range(2)]
        await bench.pass_time(4)
        found = await jobs.explain(waiting[1])
        assert found.estimate is not None and found.estimate.begins_at is not None
        assert (found.estimate.begins_at - bench.clock.now()).total_seconds() == pytest.approx(2 * 10 - 4)
        assert found.estimate.basis == "the last 5 jobs began at 6.0 a minute, and 1 stand before it"
        bench.gate().open()
        for one in waiting:
            await final(jobs, one)


async def test_job_over_its_limit_names_the_holders(bench: Bench, jobs: JobManager) -> None:
    flow = bench.workflow({"id": "s", "component": "gate"}, id="single", concurrency=1)
    holder = await jobs.create_job(flow, start=True)
    await bench.gate().wait_entered()
    job_id = await jobs.create_job(flow, start=True)
    found = await explained(jobs, job_id, "limit")
    assert found.blockers[0].message == (
        f"Its workflow lets one job be on at a time (`concurrency`), and on are: {holder[-8:]}."
    )
    assert found.blockers[0].command == f"openagents jobs cancel {holder}"
    bench.gate().open()
    assert [await final(jobs, one) for one in (holder, job_id)] == ["COMPLETED"] * 2


async def test_job_that_no_worker_can_run(bench: Bench, jobs: JobManager) -> None:
    bench.components.registry.register(lambda: None, "far")
    flow = bench.one("far")
    async with bench.manager(components=ComponentRegistry()), bench.manager(worker=False) as creator:
        await jobs.close()
        job_id = await creator.create_job(flow, start=True)
        found = await explained(creator, job_id, "worker")
        assert found.blockers[0].message == "No worker that lives has far."
        assert found.blockers[0].command == "openagents worker --components MODULE"
        assert found.estimate is not None and found.estimate.basis == "no living worker can run it"


async def test_job_that_made_room_says_for_whom(bench: Bench) -> None:
    low_flow = bench.one("gate", "low", inputs={"name": "long"}, preemptible=True)
    async with bench.manager(max_jobs=1) as jobs:
        low = await jobs.create_job(low_flow, priority="LOW", start=True)
        await bench.gate("long").wait_entered()
        urgent = await jobs.create_job(bench.one("gate", "urgent"), priority="HIGH", start=True)
        await bench.gate().wait_entered()
        found = await explained(jobs, low, "queue")
        stay = found.stays[-1]
        assert (stay.reason, stay.made_room_for, stay.began_at) == ("preempted", urgent, None)
        bench.open_gates()
        assert [await final(jobs, one) for one in (urgent, low)] == ["COMPLETED"] * 2
        assert (await jobs.explain(urgent)).stays[0].preempted == low


async def test_limit_that_is_not_full_blocks_nobody(bench: Bench, jobs: JobManager) -> None:
    wide = bench.workflow({"id": "s", "component": "gate"}, concurrency=50)
    for _ in range(12):
        await jobs.create_job(wide, start=True)
    await bench.gate().wait_entered(12)
    replacing = bench.workflow(
        {"id": "s", "component": "gate"}, id="replacing", concurrency={"limit": 1, "overflow": "replace"}
    )
    await jobs.create_job(replacing, start=True)
    await bench.gate().wait_entered(13)
    for flow in (wide, replacing):
        await explained(jobs, await jobs.create_job(flow), "start")
    bench.open_gates()


async def test_job_that_is_short_of_what_it_has_itself_is_not_to_be_cancelled(bench: Bench) -> None:
    item = {"id": "s", "component": "gate", "resources": {"gpu": 1}}
    flow = bench.workflow({"id": "each", "foreach": [1, 2, 3], "steps": [item]})
    async with bench.manager(resources={"gpu": 1}) as jobs:
        job_id = await jobs.create_job(flow, start=True)
        await bench.gate().wait_entered()
        found = await explained(jobs, job_id, "resource")
        assert found.blockers[0].command is None
        bench.open_gates()


async def test_worker_that_a_job_will_want_is_named_before_it_is_started(bench: Bench, jobs: JobManager) -> None:
    flow = bench.one("note", resources={"gpu": 8})
    async with bench.manager(worker=False) as creator:
        found = await explained(creator, await creator.create_job(flow), "start", "worker")
        assert found.blockers[1].message == "No worker that lives has 8 gpu (the most is 0)."


async def test_paused_component_does_not_block_a_job_that_can_do_something_else(bench: Bench, jobs: JobManager) -> None:
    """A try that is to come, say."""
    retry = {"max_attempts": 3, "delay_seconds": 600}
    failing = {"id": "a", "component": "fail", "retry": retry}
    branches = {"x": [failing], "y": [{"id": "b", "component": "gate"}, {"id": "c", "component": "note"}]}
    job_id = await jobs.create_job(bench.workflow({"id": "p", "parallel": branches}), start=True)
    await seen(jobs, job_id, "attempt.failed")
    await bench.gate().wait_entered()
    await jobs.pause_job(job_id)
    await seen(jobs, job_id, "job.pause_requested")
    bench.open_gates()
    await jobs.wait_paused(job_id)
    await jobs.pause_component("note")
    assert "paused" not in kinds(await jobs.explain(job_id))


# ── what is named is what blocks ──────────────────────────────────────────────────────────────────────────────────


JOB_SLOTS = 2
ROUNDS = 16  # of explaining and removing; none needs more
GOES_ON = {"job.started", "job.continued", "attempt.started"}


class Situation:
    """A job in the way of which a random selection of things stands, and how each of them is removed."""

    def __init__(self, bench: Bench, seed: int) -> None:
        self.bench = bench
        self.random = random.Random(seed)
        self.jobs = bench.manager(max_jobs=JOB_SLOTS, max_preemptions=0, resources={"gpu": 1})
        self.begun = bench.gate("begun")

    def chance(self) -> bool:
        return self.random.random() < 0.5

    @asynccontextmanager
    async def made(self) -> AsyncIterator[str]:
        """The job, and the manager is open; what still runs ends afterwards."""
        async with self.jobs, asyncio.timeout(SAFETY_S):
            try:
                yield await self.make()
            finally:
                self.bench.open_gates()

    async def make(self) -> str:
        """The job; it has begun when its gate `begun` is entered."""
        bench, jobs = self.bench, self.jobs
        steps: list[dict[str, Any]] = []
        if self.chance():
            steps.append({"id": "asks", "signal": "go"})
        if self.chance():
            steps.append({"id": "sleeps", "wait": {"seconds": 100}})
        steps.append({"id": "ends", "component": "gate", "inputs": {"name": "begun"}})
        if self.chance():
            steps[-1]["resources"] = {"gpu": 1}
        limited = {"concurrency": 1} if self.chance() else {}
        flow = bench.workflow(*steps, id="flow", **limited)
        bench.workflow(
            {"id": "s", "component": "gate", "inputs": {"name": "holder"}, "resources": {"gpu": 1}}, id="other"
        )
        for _ in range(self.random.choice((0, 1, 2, 3))):
            await jobs.create_job("other", priority="CRITICAL", start=True)
        if limited and self.chance():
            await jobs.create_job(flow, priority="CRITICAL", start=True)
        if self.chance():
            await jobs.pause_workflow(flow, by="eve")
        if self.chance():
            await jobs.pause_component("gate", by="eve")
        job_id = await jobs.create_job(flow, start=self.chance())
        if self.chance() and (await jobs.get_summary(job_id)).status != "CREATED":
            await jobs.pause_job(job_id, by="ada")
        await self.settle()
        return job_id

    async def settle(self) -> None:
        await written(self.jobs)
        await self.bench.pass_time(0.06, 0.06)
        await written(self.jobs)

    async def remove(self, job_id: str, blocker: Blocker) -> None:
        """Do what the blocker says, and only that."""
        jobs, kind = self.jobs, blocker.kind
        if kind in ("resume", "pause"):
            await jobs.resume_job(job_id)
        elif kind == "start":
            await jobs.start_job(job_id)
        elif kind == "signal":
            await jobs.signal(job_id, "go")
        elif kind == "timer":
            assert blocker.until is not None
            await self.bench.pass_time((blocker.until - self.bench.clock.now()).total_seconds() + 0.1)
        elif kind == "limit":
            for holder in blocker.details["held_by"]:
                await jobs.cancel_job(holder, force=True)
                await final(jobs, holder)
        elif kind == "paused":
            await (jobs.resume_workflow if blocker.details["what"] == "workflow" else jobs.resume_component)(
                blocker.details["name"]
            )
        elif kind == "resource":
            for holder in [*blocker.details["held_by"], *blocker.details["ahead"]]:
                await jobs.cancel_job(holder, force=True)
                await final(jobs, holder)
        elif kind == "queue":
            found = await jobs.explain(job_id)
            assert found.score is not None
            before = [str(one["job_id"]) for one in found.score.before]
            running = [one.id for one in await jobs.list_jobs({"status": "RUNNING"})]
            for other in [*before, *(running[:1] if len(running) == JOB_SLOTS else [])]:  # one slot is all it needs
                await jobs.cancel_job(other, force=True)
                await final(jobs, other)
        else:
            raise AssertionError(f"nobody knows how to remove {blocker}")

    async def removing(
        self, job_id: str, at_once: int | None
    ) -> AsyncIterator[tuple[Explanation, list[str], Explanation]]:
        """Again and again until the job has begun: remove the first `at_once` blockers that its explanation names, all
        of them if None. What was explained, the types of the job's events since then, and what is explained now."""
        found = await self.jobs.explain(job_id)
        for _ in range(ROUNDS):
            if any(context.job_id == job_id for context in self.begun.contexts):
                return
            assert found.blockers, found
            known = len(await history(self.jobs, job_id))
            for blocker in found.blockers[:at_once]:
                await self.remove(job_id, blocker)
            await self.settle()
            await self.bench.pass_time(RECONSIDER_S)
            now = await self.jobs.explain(job_id)
            yield found, (await types(self.jobs, job_id))[known:], now
            found = now
        raise AssertionError(f"it did not begin: {found}")


def may_be_next(found: Explanation) -> set[str]:
    """What may block a job that has not gone on although all is removed that was named: who stands before it is said of
    a job that claims find in the queue."""
    if found.score is not None or found.status == "RUNNING":
        return set()
    return {"queue"}


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("kind", ["memory"])
async def test_removing_all_that_one_explanation_names_makes_the_job_begin(bench: Bench, seed: int) -> None:
    """Or wait for what could not be said before; of what was named nothing is named again."""
    situation = Situation(bench, seed)
    async with situation.made() as job_id:
        async for found, happened, now in situation.removing(job_id, None):
            if GOES_ON.isdisjoint(happened):
                assert now.blockers and {*kinds(now)} <= may_be_next(found), (found, happened, now)


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("kind", ["memory"])
async def test_removing_the_first_blocker_that_is_named_leads_to_the_next(bench: Bench, seed: int) -> None:
    situation = Situation(bench, seed)
    async with situation.made() as job_id:
        async for found, happened, now in situation.removing(job_id, 1):
            assert happened or now.blockers[:1] != found.blockers[:1], (found, now)


@pytest.mark.parametrize("kind", ["sqlite"])
async def test_step_that_waits_in_another_process_is_named(bench: Bench) -> None:
    flow = bench.one("gate", resources={"gpu": 1})
    async with bench.manager(resources={"gpu": 1}) as jobs, bench.manager(worker=False) as other:
        holder = await jobs.create_job(flow, start=True)
        await bench.gate().wait_entered()
        job_id = await jobs.create_job(flow, start=True)
        await seen(jobs, job_id, "job.started")
        assert kinds(await jobs.explain(job_id)) == ["resource"]
        [blocker] = (await other.explain(job_id)).blockers
        where = f"a slot or a resource at the worker {jobs.worker_id}"
        assert blocker.message == f"One step is ready and waits for {where}: s, which needs 1 gpu."
        assert kinds(await other.explain(holder)) == []
        bench.gate().open()
        assert [await final(jobs, one) for one in (holder, job_id)] == ["COMPLETED"] * 2


async def test_what_is_named_are_all_the_blockers_there_are(bench: Bench, jobs: JobManager) -> None:
    """A job that nothing blocks has none, from its first moment to its last."""
    job_id = await jobs.create_job(bench.one("gate"), start=True)
    await until(lambda: bool(bench.gate().contexts))
    assert kinds(await jobs.explain(job_id)) == []
    bench.gate().open()
    await final(jobs, job_id)
    assert kinds(await jobs.explain(job_id)) == []
