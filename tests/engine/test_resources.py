"""Steps occupy resources of their worker: how many run at a time, who is next, where jobs go that need more, and that
all is given back whatever becomes of a step."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from openagents_json import ComponentRegistry, JobManager, StepContext
from openagents_json.errors import InvalidSettings, StoreUnavailable
from openagents_json.ids import short_id
from openagents_json.job.engine.admission import Needs
from openagents_json.job.engine.telling import TELL_S
from openagents_json.job.engine.worker import POLL_S
from openagents_json.job.store import Commit
from openagents_json.job.store.shortages import MAX_JOBS
from openagents_json.workflow.plan import Node
from tests.engine.support import SAFETY_S, Bench, final, history, on_every_store, seen, until, vanish

# Managers that share one memory store do not hear of each other.
several = pytest.mark.parametrize("kind", ["sqlite"])


def held(bench: Bench, id: str, resources: Mapping[str, float], component: str = "gate", **step: Any) -> str:
    """Register a workflow of one step that waits at the gate with its own name; its id."""
    bench.gate(id)
    return bench.one(component, id, inputs={"name": id}, resources=dict(resources), **step)


def entered(bench: Bench, *names: str) -> list[str]:
    """Those of the gates that a call has come to."""
    return [name for name in names if bench.gate(name).contexts]


def used(jobs: JobManager, name: str) -> float:
    return jobs._worker.admission.used(name)


def nothing_is_used(jobs: JobManager) -> bool:
    return jobs._worker.admission.steps == 0 and all(used(jobs, name) == 0 for name in jobs.resources)


async def begun(jobs: JobManager, flow: str, **options: Any) -> str:
    """A job that a worker has begun; its id."""
    job_id = await jobs.create_job(flow, start=True, **options)
    await seen(jobs, job_id, "job.started")
    return job_id


# ── told to others ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_other_programs_can_say_who_holds_what_a_step_waits_for(bench: Bench) -> None:
    async with bench.manager(resources={"gpu": 1}) as jobs, bench.manager(worker=False) as other:
        first = await begun(jobs, held(bench, "a", {"gpu": 1}))
        await bench.gate("a").wait_entered()
        second, third = [await begun(jobs, held(bench, name, {"gpu": 1})) for name in "bc"]
        since = bench.clock.now()

        async def told(job_id: str) -> list[dict[str, Any]]:
            waits: list[dict[str, Any]] = (await other.get_job_status(job_id))["waiting_for"]
            return [wait for wait in waits if wait["kind"] == "resource"]

        await bench.pass_time(TELL_S)
        [wait] = await bench.until_async(lambda: told(third), bool)
        assert wait == {
            "kind": "resource", "resource": "gpu", "need": 1, "capacity": 1, "free": 0, "held_by": [first],
            "ahead": [second], "since": since,
        }  # fmt: skip
        assert (await jobs.get_job_status(third))["waiting_for"] == [wait]
        [blocker] = (await other.explain(second)).blockers
        assert f"Held by {short_id(first)}." in blocker.message
        assert blocker.command == f"openagents jobs cancel {first}"
        bench.open_gates()
        assert [await final(jobs, job_id) for job_id in (first, second, third)] == ["COMPLETED"] * 3
        await bench.pass_time(TELL_S)
        assert await other.store.read_shortages(third) == []


async def test_nothing_is_told_of_steps_that_wait_for_a_moment(bench: Bench) -> None:
    async with bench.manager(resources={"gpu": 1}) as jobs:
        await begun(jobs, held(bench, "a", {"gpu": 1}))
        await bench.gate("a").wait_entered()
        await bench.pass_time(TELL_S - 0.5)
        late = await begun(jobs, held(bench, "b", {"gpu": 1}))
        await bench.pass_time(0.5)
        assert await jobs.store.read_shortages(late) == []
        bench.open_gates()


@several
async def test_what_was_told_is_taken_back_also_after_the_worker_registered_again(bench: Bench) -> None:
    async with bench.manager(resources={"gpu": 1}) as jobs:
        await begun(jobs, held(bench, "a", {"gpu": 1}))
        await bench.gate("a").wait_entered()
        second = await begun(jobs, held(bench, "b", {"gpu": 1}))
        await bench.pass_time(TELL_S)
        await bench.until_async(lambda: jobs.store.read_shortages(second), bool)
        bench.components.registry.register(lambda: None, "late")
        await bench.pass_time(POLL_S)
        bench.gate("a").open()
        await bench.gate("b").wait_entered()
        await bench.pass_time(TELL_S)
        await bench.until_async(lambda: jobs.store.read_shortages(second), lambda found: not found)
        bench.open_gates()


async def test_short_waits_in_front_do_not_hide_the_long_ones(bench: Bench) -> None:
    flow = held(bench, "a", {"gpu": 1})
    async with bench.manager(resources={"gpu": 1}) as jobs:
        await begun(jobs, flow)
        await bench.gate("a").wait_entered()
        patient = await begun(jobs, flow, priority="LOW")
        await bench.pass_time(TELL_S - 0.5)
        for _ in range(MAX_JOBS):
            await begun(jobs, flow, priority="HIGH")
        await bench.pass_time(0.5)
        await bench.until_async(lambda: jobs.store.read_shortages(patient), bool)
        bench.open_gates()


# ── at one worker ─────────────────────────────────────────────────────────────────────────────────────────────────


@on_every_store
async def test_steps_run_while_there_is_enough_and_in_the_order_of_their_jobs(bench: Bench) -> None:
    async with bench.manager(resources={"gpu": 2}) as jobs:
        ids = [await begun(jobs, held(bench, name, {"gpu": 1})) for name in "abcd"]
        await bench.gate("b").wait_entered()
        assert entered(bench, *"abcd") == ["a", "b"] and used(jobs, "gpu") == 2
        for done, following in (("b", "c"), ("a", "d")):
            bench.gate(done).open()
            await bench.gate(following).wait_entered()
            assert used(jobs, "gpu") == 2
        bench.open_gates()
        assert [await final(jobs, job_id) for job_id in ids] == ["COMPLETED"] * 4
        assert nothing_is_used(jobs)


async def test_step_that_waits_says_for_what_and_for_whom(bench: Bench) -> None:
    async with bench.manager(resources={"gpu": 2}) as jobs:
        first = await begun(jobs, held(bench, "a", {"gpu": 1.5}))
        await bench.gate("a").wait_entered()
        assert (await jobs.get_job_status(first))["waiting_for"] == []
        second, third = [await begun(jobs, held(bench, name, {"gpu": 1})) for name in "bc"]
        waits = [(await jobs.get_job_status(job_id))["waiting_for"] for job_id in (second, third)]
        expected = {"kind": "resource", "resource": "gpu", "need": 1, "capacity": 2, "held_by": [first]}
        assert [[{key: one[key] for key in expected} for one in wait] for wait in waits] == [[expected]] * 2
        assert [(wait[0]["free"], wait[0]["ahead"]) for wait in waits] == [(0.5, []), (0, [second])]
        health = await jobs.health()
        assert health["resources"]["gpu"] == {"used": 1.5, "of": 2}
        bench.open_gates()
        assert [await final(jobs, one) for one in (first, second, third)] == ["COMPLETED"] * 3


async def test_component_says_what_it_occupies_and_a_step_says_otherwise(bench: Bench) -> None:
    gate = bench.components.registry.get("gate").origin[0]
    bench.components.registry.register(gate, "heavy", resources={"gpu": 2, "browser": 1})
    async with bench.manager(resources={"gpu": 2, "browser": 4}) as jobs:
        first = await begun(jobs, held(bench, "a", {"gpu": 0.5}, "heavy"))
        second = await begun(jobs, held(bench, "b", {"gpu": 0, "browser": 3}, "heavy"))
        await bench.gate("b").wait_entered()
        assert (used(jobs, "gpu"), used(jobs, "browser")) == (0.5, 4)
        third = await begun(jobs, held(bench, "c", {}, "heavy"))
        [gpu, browser] = sorted((await jobs.get_job_status(third))["waiting_for"], key=lambda one: -one["need"])
        assert (gpu["need"], browser["need"]) == (2, 1)
        bench.open_gates()
        assert [await final(jobs, one) for one in (first, second, third)] == ["COMPLETED"] * 3


async def test_wide_step_gets_its_turn_among_narrow_ones(bench: Bench) -> None:
    async with bench.manager(resources={"cpu": 2}) as jobs:
        narrow = [await begun(jobs, held(bench, name, {"cpu": 1})) for name in "ab"]
        await bench.gate("b").wait_entered()
        wide = await begun(jobs, held(bench, "wide", {"cpu": 2}))
        later = await begun(jobs, held(bench, "later", {"cpu": 1}))
        bench.gate("a").open()
        assert await final(jobs, narrow[0]) == "COMPLETED"
        quick = await jobs.create_job(bench.one("note", "quick", resources={"disk": 0}), start=True)
        assert await final(jobs, quick) == "COMPLETED", "it touches nothing that is short"
        assert entered(bench, "wide", "later") == [] and used(jobs, "cpu") == 1
        bench.gate("b").open()
        await bench.gate("wide").wait_entered()
        assert entered(bench, "later") == []
        bench.open_gates()
        assert [await final(jobs, one) for one in (wide, later)] == ["COMPLETED"] * 2


async def test_steps_of_one_job_share_what_there_is(bench: Bench) -> None:
    gate = bench.gate()
    inner = {"id": "s", "component": "gate", "resources": {"browser": 1}}
    flow = bench.workflow({"id": "each", "foreach": list(range(20)), "steps": [inner]})
    async with bench.manager(resources={"browser": 4}) as jobs:
        job_id = await jobs.create_job(flow, start=True)
        await gate.wait_entered(4)
        assert len(gate.contexts) == 4 and used(jobs, "browser") == 4
        gate.open()
        assert await final(jobs, job_id) == "COMPLETED"
        await until(lambda: nothing_is_used(jobs))


async def test_threads_and_processes_are_resources_too(bench: Bench) -> None:
    async with bench.manager(resources={"threads": 2}) as jobs:
        assert (jobs.resources["threads"], jobs.resources["processes"]) == (2, jobs.settings.max_processes)
        wide = await begun(jobs, held(bench, "a", {"threads": 2}, "thread_gate"))
        await bench.gate("a").wait_entered()
        narrow = await begun(jobs, held(bench, "b", {"threads": 0.25}, "thread_gate"))
        [wait] = (await jobs.get_job_status(narrow))["waiting_for"]
        assert (wait["resource"], wait["need"]) == ("threads", 1), "it runs in a whole one"
        bench.open_gates()
        assert [await final(jobs, one) for one in (wide, narrow)] == ["COMPLETED"] * 2


async def test_worker_knows_its_cores_and_its_memory(bench: Bench) -> None:
    async with bench.manager() as jobs:
        assert 0 < jobs.resources["cpu"] <= 4_096 and jobs.resources["memory_mb"] >= 64
    async with bench.manager(resources={"cpu": 0.5, "memory_mb": 100}) as jobs:
        assert (jobs.resources["cpu"], jobs.resources["memory_mb"]) == (0.5, 100)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"gpu": -1}, "gpu = -1"),
        ({"gpu": float("nan")}, "gpu = nan"),
        ({"a gpu": 1}, "have the name 'a gpu'"),
        ({"threads": 0.5}, "threads = 0.5; give 1 or more"),
        ({f"r{number}": 1 for number in range(65)}, "name 65 resources; at most 64"),
    ],
)
def test_capacities_that_make_no_sense_are_refused(wrong: dict[str, float], why: str) -> None:
    with pytest.raises(InvalidSettings, match=why):
        JobManager(resources=wrong)


# ── whatever becomes of a step ────────────────────────────────────────────────────────────────────────────────────


async def test_cancelled_job_gives_back_what_it_has_and_waits_for_nothing(bench: Bench) -> None:
    async with bench.manager(resources={"gpu": 1}) as jobs:
        first, second, third = [await begun(jobs, held(bench, name, {"gpu": 1})) for name in "abc"]
        await bench.gate("a").wait_entered()
        await jobs.cancel_job(second)
        assert await final(jobs, second) == "CANCELLED"
        await jobs.cancel_job(first)
        assert await final(jobs, first) == "CANCELLED"
        await bench.gate("c").wait_entered()
        assert entered(bench, "b") == []
        bench.open_gates()
        assert await final(jobs, third) == "COMPLETED" and nothing_is_used(jobs)


async def test_paused_job_lets_those_behind_it_pass(bench: Bench) -> None:
    async with bench.manager(resources={"gpu": 1}) as jobs:
        first, second, third = [await begun(jobs, held(bench, name, {"gpu": 1})) for name in "abc"]
        await bench.gate("a").wait_entered()
        await jobs.pause_job(second)
        await seen(jobs, second, "job.paused")
        bench.open_gates()
        assert [await final(jobs, one) for one in (first, third)] == ["COMPLETED"] * 2
        await jobs.resume_job(second)
        assert await final(jobs, second) == "COMPLETED"


async def test_abandoned_thread_occupies_what_it_has_until_it_ends(bench: Bench) -> None:
    async with bench.manager(resources={"gpu": 1}) as jobs:
        stuck = await begun(jobs, held(bench, "a", {"gpu": 1}, "thread_gate", timeout=1))
        await bench.gate("a").wait_entered()
        waiting = await begun(jobs, held(bench, "b", {"gpu": 1}))
        await bench.pass_time(1, 10)
        assert await final(jobs, stuck) == "FAILED"
        assert used(jobs, "gpu") == 1 and entered(bench, "b") == []
        [wait] = (await jobs.get_job_status(waiting))["waiting_for"]
        assert wait["held_by"] == [stuck]
        bench.gate("a").open()
        await bench.gate("b").wait_entered()
        bench.open_gates()
        assert await final(jobs, waiting) == "COMPLETED"
        await until(lambda: nothing_is_used(jobs))


async def test_killed_process_gives_back_what_it_had(bench: Bench) -> None:
    bench.isolate("ignore_sigterm")
    inputs = {"started": str(bench.place("started"))}
    async with bench.manager(resources={"gpu": 1}) as jobs:
        first = await begun(jobs, bench.one("process.ignore_sigterm", "first", inputs=inputs, resources={"gpu": 1}))
        await bench.appears("started")
        waiting = await begun(jobs, held(bench, "b", {"gpu": 1}))
        assert (used(jobs, "gpu"), used(jobs, "processes")) == (1, 1)
        await jobs.cancel_job(first, force=True)
        assert await final(jobs, first) == "CANCELLED"
        await bench.gate("b").wait_entered()
        assert used(jobs, "processes") == 0
        bench.open_gates()
        assert await final(jobs, waiting) == "COMPLETED" and nothing_is_used(jobs)


async def test_start_that_is_not_committed_gives_back_what_it_was_given(bench: Bench) -> None:
    """The commit that holds the start meets a request, is refused, and the job decides again."""
    async with bench.manager(resources={"gpu": 1}) as jobs:
        first = await begun(jobs, held(bench, "a", {"gpu": 1}))
        await bench.gate("a").wait_entered()
        second, third = [await begun(jobs, held(bench, name, {"gpu": 1})) for name in "bc"]
        commit, asked = jobs.store.commit, asyncio.Event()

        async def late(one: Commit) -> None:
            if one.claim.job_id == second and not asked.is_set():
                asked.set()
                await jobs.cancel_job(second)
            await commit(one)

        jobs.store.commit = late  # type: ignore[method-assign, assignment]
        bench.open_gates()
        assert [await final(jobs, one) for one in (first, third)] == ["COMPLETED"] * 2
        assert asked.is_set() and await final(jobs, second) == "CANCELLED"
        assert nothing_is_used(jobs)


async def test_turn_that_fails_in_the_middle_gives_back_what_it_was_given(bench: Bench) -> None:
    flow = bench.workflow(
        {"id": "a", "component": "note", "needs": [], "resources": {"gpu": 1}},
        {"id": "b", "component": "step", "needs": []},
    )
    async with bench.manager(resources={"gpu": 1}) as jobs:
        ask, failed = jobs._worker.out_of_reach, asyncio.Event()

        def fail_once(component: str, node: Node, needs: Needs) -> str | None:
            if component == "step" and not failed.is_set():
                failed.set()
                assert used(jobs, "gpu") == 1
                raise RuntimeError("a defect")
            return ask(component, node, needs)

        jobs._worker.out_of_reach = fail_once  # type: ignore[method-assign]
        job_id = await jobs.create_job(flow)
        with pytest.raises(RuntimeError, match="a defect"):
            await jobs.start_job(job_id)
        await until(lambda: failed.is_set() and nothing_is_used(jobs))
        await turn_until_final(bench, jobs, job_id)
        assert (await jobs.get_job(job_id)).status == "COMPLETED" and nothing_is_used(jobs)


async def test_nothing_is_over_used_while_the_store_is_away(bench: Bench) -> None:
    async with bench.manager(resources={"gpu": 1}) as jobs:
        ids = [await begun(jobs, held(bench, name, {"gpu": 1})) for name in "abc"]
        await bench.gate("a").wait_entered()
        commit, away = jobs.store.commit, True

        async def refuse(one: Commit) -> None:
            if away:
                raise StoreUnavailable("the disk is full")
            await commit(one)

        jobs.store.commit = refuse  # type: ignore[method-assign, assignment]
        bench.open_gates()
        await until(lambda: jobs._worker.store_error is not None)
        assert used(jobs, "gpu") <= 1
        away = False
        async with asyncio.timeout(SAFETY_S):
            while not all([(await jobs.get_summary(job_id)).status.is_final for job_id in ids]):
                await bench.pass_time(0.1)
        assert nothing_is_used(jobs)


async def test_release_that_says_too_much_runs_with_what_there_is(bench: Bench) -> None:
    released: list[str] = []
    tool = bench.components.registry.tool

    @tool("acquire")
    async def acquire(context: StepContext) -> None:
        await context.track("vm", "give_back", {"name": "vm"})

    @tool("give_back", resources={"gpu": 5, "licence": 1})
    async def give_back(name: str) -> None:
        released.append(name)

    async with bench.manager(resources={"gpu": 1}) as jobs:
        job_id = await jobs.create_job(bench.one("acquire"), start=True)
        assert await final(jobs, job_id) == "COMPLETED" and released == ["vm"]
        assert nothing_is_used(jobs)


@pytest.mark.parametrize("count", [200])
async def test_many_jobs_with_various_needs_all_end_and_all_is_given_back(bench: Bench, count: int) -> None:
    needs: list[dict[str, float]] = [{"gpu": 1}, {"gpu": 2, "cpu": 0.5}, {"cpu": 1}, {"cpu": 0.1, "disk": 3}, {}]
    flows = [
        bench.workflow(
            *({"id": f"s{n}", "component": component, "resources": one, "needs": []} for n in range(3)),
            id=f"{component}-{place}",
        )
        for component in ("note", "step")
        for place, one in enumerate(needs)
    ]
    async with bench.manager(resources={"gpu": 2, "cpu": 1, "disk": 4}, max_threads=3, max_steps=6) as jobs:
        ids = [await jobs.create_job(flows[number % len(flows)], start=True) for number in range(count)]
        assert [await final(jobs, job_id) for job_id in ids] == ["COMPLETED"] * count
        await until(lambda: not jobs._worker.runners)
        assert nothing_is_used(jobs)
        assert len(bench.components.calls) == 3 * count


# ── limits of processes ───────────────────────────────────────────────────────────────────────────────────────────


async def test_process_that_takes_more_memory_than_it_said_fails_and_the_pool_goes_on(bench: Bench) -> None:
    bench.isolate("allocate", "noop")
    flow = bench.one("process.allocate", inputs={"megabytes": 200}, resources={"memory_mb": 64})
    async with bench.manager() as jobs:
        job = await jobs.wait(await jobs.create_job(flow, start=True), SAFETY_S)
        assert (job.errors[0]["type"], "64 MiB" in job.errors[0]["message"]) == ("resource.memory", True)
        fits = bench.one("process.allocate", "fits", inputs={"megabytes": 20}, resources={"memory_mb": 64})
        assert await final(jobs, await jobs.create_job(fits, start=True)) == "COMPLETED"
        assert nothing_is_used(jobs)


async def test_process_that_takes_more_cpu_than_it_said_within_its_timeout_fails(bench: Bench) -> None:
    """The clock of the test stands still, so it is not the timeout that ends it."""
    bench.isolate("compute")
    flow = bench.one(
        "process.compute", inputs={"started": str(bench.place("started"))}, resources={"cpu": 0.1}, timeout=1
    )
    async with bench.manager() as jobs:
        job = await jobs.wait(await jobs.create_job(flow, start=True), 2 * SAFETY_S)
        assert (job.errors[0]["type"], "0.1 s" in job.errors[0]["message"]) == ("resource.cpu", True)
        assert nothing_is_used(jobs)


# ── at several workers ────────────────────────────────────────────────────────────────────────────────────────────


async def turn_until_final(bench: Bench, jobs: JobManager, *ids: str) -> None:
    async with asyncio.timeout(SAFETY_S):
        while not all([(await jobs.get_summary(job_id)).status.is_final for job_id in ids]):
            await bench.pass_time(0.05)


@several
@pytest.mark.parametrize("says", ["step", "component"])
async def test_steps_run_where_there_is_enough(bench: Bench, says: str) -> None:
    options = {"resources": {"gpu": 1}} if says == "component" else {}
    bench.components.registry.register(lambda: None, "train", **options)  # type: ignore[arg-type]
    step: dict[str, Any] = {"resources": {"gpu": 1}} if says == "step" else {}
    flow = bench.workflow(
        {"id": "a", "component": "note"}, {"id": "b", "component": "train"} | step, {"id": "c", "component": "note"}
    )
    async with bench.manager() as plain, bench.manager(resources={"gpu": 2}) as strong:
        ids = [await plain.create_job(flow, start=True) for _ in range(3)]
        await turn_until_final(bench, plain, *ids)
        for job_id in ids:
            events = await history(plain, job_id)
            owner = ""
            for event in events:
                owner = event.data.get("worker", owner)
                if event.type == "attempt.started" and event.data["path"] == "b":
                    assert owner == strong.worker_id
            moved = [event.data for event in events if event.data.get("reason") == "elsewhere"]
            assert all(one["requires"] == ['train {"gpu":1}'] for one in moved)
            assert (await plain.get_job(job_id)).status == "COMPLETED"


@pytest.mark.parametrize("says", ["step", "component"])
async def test_job_that_needs_more_than_any_worker_has_waits_and_says_so(bench: Bench, says: str) -> None:
    options = {"resources": {"gpu": 4, "tpu": 1}} if says == "component" else {}
    bench.components.registry.register(lambda: None, "train", **options)  # type: ignore[arg-type]
    step: dict[str, Any] = {"resources": {"gpu": 4, "tpu": 1}} if says == "step" else {}
    async with bench.manager(resources={"gpu": 1}) as jobs:
        job_id = await jobs.create_job(bench.one("train", **step), start=True)
        await bench.until_async(lambda: jobs.get_summary(job_id), lambda row: row.requires[0] != "train")
        [wait] = (await jobs.get_job_status(job_id))["waiting_for"]
        assert (wait["kind"], wait["components"], wait["workers"]) == ("worker", ["train"], 0)
        assert wait["resources"] == [
            {"resource": "gpu", "need": 4, "most": 1},
            {"resource": "tpu", "need": 1, "most": 0},
        ]
        written = len(await history(jobs, job_id))
        await bench.pass_time(1, 10, 100)
        assert len(await history(jobs, job_id)) == written, "nobody takes it to give it back"
        other = await jobs.create_job(bench.one("note", "other"), start=True)
        assert await final(jobs, other) == "COMPLETED"
        await jobs.cancel_job(job_id)
        assert await final(jobs, job_id) == "CANCELLED"


@several
async def test_job_that_nobody_could_run_goes_on_when_a_stronger_worker_comes(bench: Bench) -> None:
    async with bench.manager(resources={"gpu": 1}) as weak:
        job_id = await weak.create_job(bench.one("note", resources={"gpu": 4}), start=True)
        await bench.pass_time(1)
        assert (await weak.get_summary(job_id)).status == "QUEUED"
        async with bench.manager(resources={"gpu": 4}) as strong:
            await turn_until_final(bench, strong, job_id)
            assert [worker.resources.get("gpu") for worker in await weak.list_workers()] == [1, 4]
        assert (await weak.get_job(job_id)).status == "COMPLETED"


@several
async def test_what_can_start_here_runs_before_the_job_moves(bench: Bench) -> None:
    flow = bench.workflow(
        {"id": "a", "component": "note", "needs": []},
        {"id": "b", "component": "note", "needs": [], "resources": {"gpu": 1}},
    )
    async with bench.manager() as plain:
        job_id = await plain.create_job(flow, start=True)
        await seen(plain, job_id, "job.queued", reason="elsewhere")
        assert bench.components.calls == [("a", 1)]
        assert (await plain.get_summary(job_id)).requires == ('note {"gpu":1}',)
        async with bench.manager(resources={"gpu": 1}):
            await turn_until_final(bench, plain, job_id)
    assert bench.components.calls == [("a", 1), ("b", 1)]


@several
async def test_dead_worker_takes_nothing_with_it(bench: Bench) -> None:
    flow = held(bench, "a", {"gpu": 1})
    dead = bench.manager(resources={"gpu": 1})
    await dead.open()
    job_id = await begun(dead, flow)
    await bench.gate("a").wait_entered()
    await vanish(dead)
    async with bench.manager(resources={"gpu": 1}) as jobs:
        bench.open_gates()
        bench.clock.advance(jobs.store.lease_s + 5)
        await turn_until_final(bench, jobs, job_id)
        assert (await jobs.get_job(job_id)).status == "COMPLETED"
        await until(lambda: nothing_is_used(jobs))


async def test_worker_without_the_component_says_what_the_step_occupies(bench: Bench) -> None:
    """What the component occupies, only a worker that has it knows."""
    bench.components.registry.register(lambda: None, "train")
    registry = ComponentRegistry()
    registry.register(lambda: None, "start")
    bench.components.registry.register(lambda: None, "start")
    flow = bench.workflow(
        {"id": "a", "component": "start"}, {"id": "b", "component": "train", "resources": {"gpu": 0.5}}
    )
    async with bench.manager(components=registry) as jobs:
        job_id = await jobs.create_job(flow, start=True)
        moved = await seen(jobs, job_id, "job.queued", reason="elsewhere")
        assert moved.data["requires"] == ['train {"gpu":0.5}']
