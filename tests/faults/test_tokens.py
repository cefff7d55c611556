"""What a component is told of its attempt: one key for all attempts of a step run, and a token that only rises (G3)."""

from __future__ import annotations

import pytest

from openagents_json import JobManager, RetryableError, StepContext
from openagents_json.job.events import Event
from tests.engine.support import Bench, final, history, vanish

Seen = list[tuple[str, str, int]]  # (path, key, token) of every call, in the order the component saw them


@pytest.fixture
def seen(bench: Bench) -> Seen:
    """What the component `unlucky` saw. It fails before its third attempt."""
    calls: Seen = []

    @bench.components.registry.tool("unlucky")
    async def unlucky(context: StepContext) -> str:
        calls.append((context.step, context.idempotency_key, context.fencing_token))
        if context.attempt < 3:
            raise RetryableError("demo.busy", "come again", 0.0)
        return context.idempotency_key

    return calls


RETRY = {"max_attempts": 3, "delay_seconds": 0}


@pytest.mark.guarantee("G3")
async def test_all_attempts_of_a_step_run_see_one_key_and_rising_tokens(
    bench: Bench, jobs: JobManager, seen: Seen
) -> None:
    job_id = await jobs.create_job(bench.one("unlucky", retry=RETRY), start=True)
    assert await final(jobs, job_id) == "COMPLETED"
    assert len(seen) == 3 and len({key for _, key, _ in seen}) == 1
    tokens = [token for _, _, token in seen]
    assert tokens == sorted(set(tokens))
    assert [(path, key, token) for path, key, token in seen] == starts(await history(jobs, job_id))


@pytest.mark.guarantee("G3")
async def test_each_step_run_has_a_key_of_its_own_and_the_tokens_rise_over_the_whole_job(
    bench: Bench, jobs: JobManager, seen: Seen
) -> None:
    inner = {"id": "inner", "component": "unlucky", "retry": RETRY}
    flow = bench.workflow({"id": "each", "foreach": [1, 2], "steps": [inner]}, {**inner, "id": "after"})
    ids = [await jobs.create_job(flow, start=True) for _ in range(2)]
    for job_id in ids:
        assert await final(jobs, job_id) == "COMPLETED"
    keys = {key for _, key, _ in seen}
    assert len(keys) == 6, "three step runs in each of two jobs"
    for job_id in ids:
        events = await history(jobs, job_id)
        tokens = [event.number for event in events if event.type == "attempt.started"]
        assert len(tokens) == 9 and tokens == sorted(set(tokens))


@pytest.mark.guarantee("G3")
async def test_start_of_an_attempt_is_recorded_before_its_component_is_called(bench: Bench) -> None:
    recorded: list[tuple[int, list[Event]]] = []
    store = bench.store()

    @bench.components.registry.tool("look")
    async def look(context: StepContext) -> None:
        """Reads, from the store, what is recorded of the call that it is."""
        recorded.append((context.fencing_token, await store.read_events(context.job_id, context.fencing_token - 1)))

    async with bench.manager(store) as jobs:
        job_id = await jobs.create_job(bench.one("look"), start=True)
        assert await final(jobs, job_id) == "COMPLETED"
    [(token, events)] = recorded
    assert (events[0].number, events[0].type, events[0].data["path"]) == (token, "attempt.started", "s")


@pytest.mark.guarantee("G3")
async def test_attempt_after_a_dead_worker_sees_the_same_key_and_a_higher_token(bench: Bench) -> None:
    dead = bench.manager()
    await dead.open()
    job_id = await dead.create_job(bench.one("gate"), start=True)
    first = await bench.gate().wait_entered()
    await vanish(dead)
    bench.clock.advance(31)
    bench.gate().open()
    async with bench.manager() as jobs:
        assert await final(jobs, job_id) == "COMPLETED"
    second = bench.gate().contexts[1]
    assert second.idempotency_key == first.idempotency_key
    assert second.fencing_token > first.fencing_token and (first.attempt, second.attempt) == (1, 2)


def starts(events: list[Event]) -> Seen:
    return [
        (event.data["path"], event.data["key"], event.number) for event in events if event.type == "attempt.started"
    ]
