"""The checker notices each law that is broken, and says nothing of a healthy run. One test per law."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from openagents_json import JobManager, JobStatus, RetryableError, StepContext
from openagents_json.job.events import Event
from tests.engine.support import Bench, final
from tests.faults.checker import (
    Effect,
    Evidence,
    Record,
    fault_violations,
    history_violations,
    read_records,
    row_violations,
    violations,
)

Tamper = Callable[[list[Event]], list[Event]]


@pytest.fixture(params=["memory"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest_asyncio.fixture
async def healthy(bench: Bench, jobs: JobManager) -> Evidence:
    """The evidence of two jobs in which all went well: a step of two attempts, and a foreach."""
    effects: list[Effect] = []

    @bench.components.registry.tool("noted")
    async def noted(context: StepContext, value: Any) -> Any:
        key, token = context.idempotency_key, context.fencing_token
        effects.append(Effect(context.job_id, context.step, context.attempt, key, token, value))
        if context.step == "a" and context.attempt == 1:
            raise RetryableError("demo.busy", "come again", 0.0)
        return value

    retry = {"max_attempts": 2, "delay_seconds": 0}
    inner = {"id": "b", "component": "noted", "inputs": {"value": "{{ item }}"}}
    flow = bench.workflow(
        {"id": "a", "component": "noted", "inputs": {"value": 7}, "retry": retry},
        {"id": "each", "foreach": [1, 2], "steps": [inner]},
    )
    ids = [await jobs.create_job(flow, start=True) for _ in range(2)]
    assert [await final(jobs, job_id) for job_id in ids] == ["COMPLETED"] * 2
    records = await read_records(jobs.store)
    return Evidence(
        records,
        accepted=set(ids),
        effects=effects,
        faults=1,
        declared_retries=2,
        prefixes={record.id: record.events[:4] for record in records},
        finals=dict.fromkeys(ids, "COMPLETED"),
    )


def found(sentences: Sequence[str]) -> set[str]:
    """The laws that are said to be broken."""
    return {sentence.split(":")[0] for sentence in sentences}


def history_of(evidence: Evidence) -> list[Event]:
    return list(evidence.records[0].events)


def numbered(events: list[Event]) -> list[Event]:
    return [msgspec.structs.replace(event, number=number) for number, event in enumerate(events, 1)]


def where(events: list[Event], type: str, **data: Any) -> int:
    """The index of the first event of that type with these data."""
    return next(i for i, event in enumerate(events) if event.type == type and data.items() <= event.data.items())


def changed(event: Event, **data: Any) -> Event:
    return msgspec.structs.replace(event, data=event.data | data)


def with_first(evidence: Evidence, record: Record) -> Evidence:
    return replace(evidence, records=[record, *evidence.records[1:]])


async def test_healthy_run_breaks_no_law(healthy: Evidence) -> None:
    assert fault_violations(healthy) == []


@pytest.mark.parametrize(
    "missing",
    [
        {"faults": 0},
        {"accepted": set()},
        {"effects": ()},
        {"prefixes": {}},
        {"finals": {}},
        {"records": [], "accepted": {"x"}},
    ],
    ids=lambda missing: next(iter(missing)),
)
async def test_fault_test_without_faults_or_evidence_is_red(healthy: Evidence, missing: dict[str, Any]) -> None:
    assert "K" in found(fault_violations(replace(healthy, **missing)))


async def test_i1_accepted_job_that_is_gone(healthy: Evidence) -> None:
    gone = replace(healthy, records=healthy.records[1:], effects=(), prefixes={}, finals={})
    assert found(violations(gone)) == {"I1"}


async def test_i1_job_that_is_there_twice(healthy: Evidence) -> None:
    twice = replace(healthy, records=[*healthy.records, healthy.records[0]])
    assert found(violations(twice)) == {"I1"}


async def test_i1_unknown_job_may_exist(healthy: Evidence) -> None:
    assert violations(replace(healthy, accepted={healthy.records[0].id})) == []


async def test_i2_job_that_is_not_final_in_the_end(bench: Bench, jobs: JobManager) -> None:
    await jobs.create_job(bench.one("note"))
    records = await read_records(jobs.store)
    assert found(violations(Evidence(records))) == {"I2"}
    assert violations(Evidence(records, is_quiet=False)) == []


async def test_i3_step_that_is_completed_twice(healthy: Evidence) -> None:
    events = history_of(healthy)
    at = where(events, "step.completed")
    assert "I3" in found(history_violations("x", numbered([*events[: at + 1], *events[at:]])))


async def test_i3_step_that_starts_again_after_it_was_completed(healthy: Evidence) -> None:
    events = history_of(healthy)
    at, start = where(events, "step.completed"), where(events, "attempt.started")
    again = changed(events[start], attempt=3)
    assert found(history_violations("x", numbered([*events[: at + 1], again, *events[at + 1 :]]))) == {"I3"}


async def test_i4_completion_without_an_effect(healthy: Evidence) -> None:
    last = healthy.effects[-1]
    assert found(violations(replace(healthy, effects=healthy.effects[:-1]))) == {"I4"}
    other_output = replace(last, output="something else")
    assert found(violations(replace(healthy, effects=[*healthy.effects[:-1], other_output]))) == {"I4"}


async def test_i5_effects_that_no_fault_explains(healthy: Evidence) -> None:
    effects = [*healthy.effects, *healthy.effects]
    assert "I5" in found(violations(replace(healthy, effects=effects)))
    assert "I5" in found(violations(replace(healthy, faults=0, declared_retries=0)))


async def test_i6_attempts_of_a_step_with_two_keys(healthy: Evidence) -> None:
    events = history_of(healthy)
    at = where(events, "attempt.started", attempt=2)
    events[at] = changed(events[at], key="another")
    assert found(history_violations("x", events)) == {"I6"}


async def test_i6_tokens_that_do_not_rise(healthy: Evidence) -> None:
    events = history_of(healthy)
    start, again = where(events, "attempt.started", attempt=1), where(events, "attempt.started", attempt=2)
    events[again] = msgspec.structs.replace(events[again], number=events[start].number)
    assert "I6" in found(history_violations("x", events))


@pytest.mark.parametrize("change", [{"token": 2}, {"key": "another"}, {"attempt": 9}])
async def test_i6_call_that_was_not_recorded_before(healthy: Evidence, change: dict[str, Any]) -> None:
    first, *others = healthy.effects  # the attempt that failed: no completion depends on it
    assert found(violations(replace(healthy, effects=[replace(first, **change), *others]))) == {"I6"}


async def test_i6_component_that_sees_its_tokens_fall(healthy: Evidence) -> None:
    one, two, *others = [one for one in healthy.effects if one.job_id == healthy.records[0].id]
    other_job = [one for one in healthy.effects if one.job_id != healthy.records[0].id]
    assert found(violations(replace(healthy, effects=[two, one, *others, *other_job]))) == {"I6"}


async def test_i7_epochs_that_do_not_rise(healthy: Evidence) -> None:
    events = history_of(healthy)
    at = where(events, "job.started")
    stale = msgspec.structs.replace(events[at], type="job.continued")
    assert found(history_violations("x", numbered([*events[: at + 1], stale, *events[at + 1 :]]))) == {"I7"}


async def test_i7_result_of_an_attempt_that_is_not_on(healthy: Evidence) -> None:
    events = history_of(healthy)
    at = where(events, "step.completed", path="a")
    events[at] = changed(events[at], attempt=1)
    assert found(history_violations("x", events)) == {"I7"}


@pytest.mark.parametrize(
    "tamper",
    [
        lambda events: [*events[:3], *events[4:]],
        lambda events: [*events[:3], events[2], *events[3:]],
        lambda events: numbered([events[-1], *events]),
    ],
    ids=["gap", "repeat", "final event not last"],
)
async def test_i8_numbers_with_a_gap_or_a_repeat_or_an_early_end(healthy: Evidence, tamper: Tamper) -> None:
    assert "I8" in found(history_violations("x", tamper(history_of(healthy))))


async def test_i9_history_that_changes_after_it_was_read(healthy: Evidence) -> None:
    events = history_of(healthy)
    read = [*events[:2], changed(events[2], worker="another")]
    assert found(violations(replace(healthy, prefixes={healthy.records[0].id: read}))) == {"I9"}


async def test_i9_history_that_has_become_shorter(healthy: Evidence) -> None:
    events = history_of(healthy)
    longer = [*events, events[-1]]
    assert found(violations(replace(healthy, prefixes={healthy.records[0].id: longer}))) == {"I9"}


@pytest.mark.parametrize("rest", ["job.paused", "job.completed"])
async def test_i10_attempt_that_starts_at_rest(healthy: Evidence, rest: str) -> None:
    events = history_of(healthy)
    at = where(events, "attempt.started", path="each[0].b")
    pause = msgspec.structs.replace(events[-1], type=rest, data={})
    assert "I10" in found(history_violations("x", numbered([*events[:at], pause, *events[at:]])))


async def test_i11_final_status_that_another_reader_saw_otherwise(healthy: Evidence) -> None:
    assert found(violations(replace(healthy, finals={healthy.records[0].id: "CANCELLED"}))) == {"I11"}


async def test_i11_row_that_says_another_end_than_the_history(healthy: Evidence) -> None:
    record = healthy.records[0]
    other = replace(record, summary=replace(record.summary, status=JobStatus.FAILED))
    assert "I11" in found(violations(with_first(healthy, other)))


async def test_row_that_is_not_the_fold_of_its_history(healthy: Evidence) -> None:
    record = healthy.records[0]
    assert row_violations(record) == []
    for change in ({"progress": 0.5}, {"events": 3}, {"current_step": "b"}, {"cancel_requested": True}):
        assert row_violations(replace(record, summary=replace(record.summary, **change)))
