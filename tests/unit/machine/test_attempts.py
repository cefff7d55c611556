"""Attempts: retries with durable due times, jobs that wait, lost workers, slots, and the limit of events."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from openagents_json.clock import SECOND_US
from openagents_json.job.machine import (
    NONE_ALIKE,
    Claimed,
    Interrupted,
    NoneAlike,
    StepRun,
    Terms,
    Tick,
    create,
    decide,
)
from openagents_json.job.machine.decide import MAX_DEATHS
from openagents_json.job.model import JobStatus
from openagents_json.workflow import limits
from openagents_json.workflow.model import Retry
from openagents_json.workflow.plan import Node
from tests.unit.machine.drive import START_US, Drive, call, plan_of, reloaded

SOON = {"max_attempts": 3, "delay_seconds": 2.0, "backoff_multiplier": 2.0}
LATE = {"max_attempts": 3, "delay_seconds": 60.0, "backoff_multiplier": 2.0}

# ── retries ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_failed_attempt_is_tried_again_at_its_recorded_time() -> None:
    drive = Drive([call("a", retry=SOON)])
    drive.fail("a")
    assert drive.last("attempt.failed")["retry_at_us"] == START_US + 2 * SECOND_US
    assert (drive.status, drive.run("a").status) == (JobStatus.RUNNING, "RETRYING")
    drive.tick(1.999)
    assert drive.running == []
    drive.tick(0.001)
    assert drive.running == ["a"]
    drive.fail("a")
    assert drive.state.next_due() == (drive.now_us + 4 * SECOND_US, "delayed", "a")


def test_last_try_fails_the_step() -> None:
    drive = Drive([call("a", retry=SOON)])
    for _ in range(2):
        drive.fail("a")
        drive.tick(100)
    drive.fail("a", "last")
    assert drive.status == JobStatus.FAILED
    assert "retry_at_us" not in drive.last("attempt.failed")
    assert drive.run("a").attempt == 3


def test_due_time_survives_a_fold_and_another_worker() -> None:
    drive = Drive([call("a", retry=LATE)])
    drive.fail("a")
    drive.refold()
    drive.tick(59)
    assert (drive.status, drive.called) == (JobStatus.WAITING, ["a"])
    drive.tick(1)
    assert (drive.status, drive.last("job.queued")) == (JobStatus.QUEUED, {"reason": "due"})
    drive.claim("worker-2")
    assert drive.called == ["a", "a"]


def test_policy_of_the_component_counts_where_the_step_has_none() -> None:
    policy = Retry(max_attempts=2, delay_seconds=0)
    with_own = Drive([call("a", retry={"max_attempts": 1})])
    with_own.fail("a", default_retry=policy)
    assert with_own.status == JobStatus.FAILED
    without = Drive([call("a")])
    without.fail("a", default_retry=policy)
    assert without.running == ["a"]


def test_error_may_ask_for_a_longer_wait_and_end_the_retrying() -> None:
    drive = Drive([call("a", retry=SOON)])
    drive.fail("a", "http.429", asked_delay_s=4.5)
    assert drive.state.next_due() == (START_US + 4_500_000, "delayed", "a")
    drive.tick(4.5)
    drive.fail("a", retryable=False)
    assert drive.status == JobStatus.FAILED


def test_jitter_is_drawn_once_and_recorded() -> None:
    drive = Drive([call("a", retry=SOON | {"jitter": 0.5})], random=0.0)
    drive.fail("a")
    assert drive.last("attempt.failed")["retry_at_us"] == START_US + SECOND_US


def test_elapsed_time_counts_from_the_first_attempt() -> None:
    drive = Drive(
        [call("a", retry=SOON | {"max_attempts": 99, "max_elapsed_seconds": 10.0, "backoff_multiplier": 1.0})]
    )
    tries = 0
    while drive.status == JobStatus.RUNNING:
        drive.now_us += 3 * SECOND_US
        drive.fail("a")
        drive.tick(2)
        tries += 1
    assert tries == 3  # at 3 s another at 5 s; at 8 s the next would start at 10 s, at 13 s it is too late


def test_abandoned_attempt_is_counted_and_the_next_one_starts() -> None:
    drive = Drive([call("a", retry=SOON | {"delay_seconds": 0.0})])
    drive.fail("a", "timeout.attempt", abandoned=True)
    assert (drive.state.abandoned, drive.running) == (1, ["a"])
    assert drive.last("attempt.failed")["abandoned"] is True


def test_sibling_goes_on_while_a_retry_is_waited_for() -> None:
    drive = Drive([call("a", retry=LATE), call("b", needs=[]), call("c", needs=["b"])])
    drive.fail("a")
    drive.succeed("b")
    assert (drive.status, drive.running) == (JobStatus.RUNNING, ["c"])
    drive.succeed("c")
    assert drive.status == JobStatus.WAITING


# ── waiting and lingering ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("delay_s", "status"), [(5.0, JobStatus.RUNNING), (5.000001, JobStatus.WAITING)])
def test_job_lingers_for_a_short_wait_and_is_let_go_for_a_longer_one(delay_s: float, status: JobStatus) -> None:
    drive = Drive([call("a", retry=SOON | {"delay_seconds": delay_s})], linger_s=5.0)
    drive.fail("a")
    assert drive.status == status
    if status == JobStatus.WAITING:
        assert drive.last("job.waiting") == {"until_us": START_US + 5_000_001}
        assert drive.state.wake_us == START_US + 5_000_001


def test_waiting_job_wakes_for_the_earliest_of_its_times() -> None:
    drive = Drive([call("a", retry=LATE), call("b", needs=[], retry=LATE)])
    drive.fail("a")
    drive.now_us += 20 * SECOND_US
    drive.fail("b")
    assert drive.state.wake_us == START_US + 60 * SECOND_US
    drive.tick(40)
    drive.claim()
    assert drive.running == ["a"]
    drive.succeed("a")
    drive.tick(20)
    drive.claim()
    assert drive.running == ["b"]


def test_job_with_something_ready_never_waits() -> None:
    drive = Drive([call("a", retry=LATE), call("b", needs=[])], slots=1)
    drive.fail("a")
    assert (drive.status, drive.running) == (JobStatus.RUNNING, ["b"])


# ── lost workers ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_lost_attempt_runs_again_and_does_not_count_as_a_try() -> None:
    drive = Drive([call("a", retry=SOON | {"max_attempts": 2, "delay_seconds": 0.0})])
    drive.crash()
    assert drive.types[-3:] == ["attempt.lost", "job.worker_lost", "job.queued"]
    assert drive.last("job.worker_lost") == {"worker": "worker-1", "deaths": 1}
    drive.claim("worker-2")
    drive.fail("a")
    assert (drive.running, drive.run("a").attempt) == (["a"], 3)
    drive.fail("a")
    assert drive.status == JobStatus.FAILED


@pytest.mark.guarantee("G6")
def test_third_death_without_progress_fails_the_job() -> None:
    drive = Drive([call("a"), call("b")])
    for number in range(1, MAX_DEATHS):
        drive.crash(f"worker-{number}")
        drive.claim(f"worker-{number + 1}")
    drive.crash("worker-3")
    assert MAX_DEATHS == 3
    assert drive.status == JobStatus.FAILED
    error = drive.last("job.failed")["error"]
    assert (error["type"], error["step"], error["retryable"]) == ("worker_lost", "a", False)
    assert drive.statuses() == {"a": "CANCELLED"}


@pytest.mark.guarantee("G6")
def test_recorded_progress_forgives_earlier_deaths() -> None:
    drive = Drive([call("a"), call("b")])
    for _ in range(2):
        drive.crash()
        drive.claim()
    drive.succeed("a")
    assert drive.state.deaths == 0
    for _ in range(2):
        drive.crash()
        drive.claim()
    assert drive.status == JobStatus.RUNNING


@pytest.mark.guarantee("G6")
def test_planned_stops_are_no_deaths() -> None:
    drive = Drive([call("a")])
    for _ in range(5):
        drive.release()
        drive.stop("a", "shutdown")
        drive.claim()
    assert (drive.status, drive.state.deaths) == (JobStatus.RUNNING, 0)


def test_death_of_a_worker_that_had_recorded_nothing_leaves_the_job_as_it_is() -> None:
    drive = Drive([call("a")], claim=False)
    before = len(drive.history)
    drive.crash()
    assert (drive.status, len(drive.history)) == (JobStatus.QUEUED, before)


def test_lost_attempt_of_a_stopped_scope_is_not_tried_again() -> None:
    drive = Drive([call("a"), call("b", needs=[])])
    drive.fail("a")
    drive.crash()
    assert drive.run("b").status == "CANCELLED"
    drive.claim()
    assert drive.status == JobStatus.FAILED


def test_lost_attempt_inside_a_foreach_runs_again_alone() -> None:
    drive = Drive([{"id": "f", "foreach": [1, 2], "steps": [call("i")]}])
    drive.succeed("f[0].i", "f[0].i")
    drive.crash()
    drive.claim("worker-2")
    assert drive.running == ["f[1].i"]
    drive.finish()
    assert drive.state.outputs == {"f": ["f[0].i", "f[1].i"]}


# ── slots ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_step_that_found_no_slot_starts_when_one_is_free() -> None:
    drive = Drive([call("a"), call("b", needs=[]), call("c", needs=[])], slots=2)
    assert drive.running == ["a", "b"]
    assert list(drive.state.startable) == ["c"]
    drive.succeed("a")
    assert drive.running == ["b", "c"]


def test_step_that_found_no_slot_is_forgotten_when_its_scope_stops() -> None:
    drive = Drive([call("a"), call("b", needs=[])], slots=1)
    drive.fail("a")
    assert (drive.status, drive.called) == (JobStatus.FAILED, ["a"])


def test_refusal_of_one_kind_of_slot_lets_the_others_start() -> None:
    plan = plan_of([call("a", component="threaded"), call("b", needs=[]), call("c", needs=[], component="threaded")])
    state, _ = create(plan, "job-1", {}, now_us=START_US, start=True)

    def admit(component: str, node: Node | None) -> bool | None:
        return component != "threaded"

    decision = decide(state, [Claimed("w", 1)], START_US, Terms(admit=admit))
    assert [one.run.path for one in decision.calls] == ["b"]
    decision = decide(state, [Tick()], START_US, Terms(admit=lambda component, node: True))
    assert [one.run.path for one in decision.calls] == ["a", "c"]


EACH = {"id": "each", "foreach": list(range(5)), "steps": [call("c", component="threaded", needs=[])]}


def test_kind_of_which_none_can_start_is_asked_for_once_a_turn() -> None:
    # The answers that say "not this one" and "none like it", and which steps are asked for in a turn then.
    for answer, asked in ((False, ["c"] * 5 + ["b"]), (NONE_ALIKE, ["c", "b"])):
        state, _ = create(plan_of([EACH, call("b", needs=[])]), "job-1", {}, now_us=START_US, start=True)
        for happening in (Claimed("w", 1), Tick()):  # what was prepared before is asked for again
            heard: list[str] = []

            def admit(component: str, node: Node | None) -> bool | NoneAlike | None:
                assert node is not None
                heard.append(node.id)  # noqa: B023
                return answer  # noqa: B023

            decision = decide(state, [happening], START_US, Terms(admit=admit))
            assert sorted(heard) == sorted(asked) and not decision.calls
        decision = decide(state, [Tick()], START_US, Terms(admit=lambda component, node: True))
        assert len(decision.calls) == 6


def test_turn_of_a_job_with_thousands_of_steps_that_wait_costs_as_much_as_of_a_few() -> None:
    """The figure of the issue is 1 ms for 10,000 (`benchmarks/scheduling.py`); here the lines that a turn runs."""

    def lines_of_a_turn(count: int) -> int:
        drive = Drive([{"id": "each", "foreach": list(range(count)), "steps": [call("c")]}], slots=0)
        tick, now_us = [Tick()], drive.now_us
        for _ in range(2):  # the first one prepares them
            lines = lines_run(lambda: decide(drive.state, tick, now_us, Terms(admit=_none_alike)))
        assert len(drive.state.startable) == count
        return lines

    assert lines_of_a_turn(10_000) == lines_of_a_turn(10)


def _none_alike(component: str, node: Node | None) -> NoneAlike:
    return NONE_ALIKE


def lines_run(work: Callable[[], object]) -> int:
    """How many lines of Python it runs."""
    count = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()  # of who measures coverage
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def test_due_retry_that_finds_no_slot_keeps_its_place() -> None:
    drive = Drive([call("a", retry=SOON), call("b", needs=[])], slots=2)
    drive.fail("a")
    drive.slots = 1
    drive.tick(10)
    assert drive.running == ["b"]
    drive.succeed("b")
    assert drive.running == ["a"]


# ── limits ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def few_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """30 events per job, 10 of them kept for the end."""
    monkeypatch.setattr(limits, "EVENTS_PER_JOB", 30)
    monkeypatch.setattr(limits, "EVENTS_KEPT_FOR_THE_END", 10)


@pytest.mark.usefixtures("few_events")
def test_job_at_the_limit_of_events_fails_and_still_has_room_for_its_finally_steps() -> None:
    steps = [call(f"s{n}") for n in range(12)]
    drive = Drive({"steps": steps, "finally": [call("z")]})
    drive.finish()
    assert drive.status == JobStatus.FAILED
    assert drive.last("job.failed")["error"]["type"] == "limit.events"
    assert drive.paths("step.completed")[-1] == "z"
    assert len(drive.history) <= 30
    first_failure = next(event.number for event in drive.history if event.type == "step.failed")
    assert 20 <= first_failure <= 22


@pytest.mark.usefixtures("few_events")
@pytest.mark.parametrize(("items", "fits"), [(8, True), (9, False)])
def test_fan_out_is_checked_before_it_begins(items: int, fits: bool) -> None:
    drive = Drive([{"id": "f", "foreach": list(range(items)), "steps": [{"id": "i", "set": 1}]}])
    assert (drive.status == JobStatus.COMPLETED) is fits
    if not fits:
        assert drive.last("step.failed")["error"]["type"] == "limit.events"
        assert "step.expanded" not in drive.types


@pytest.mark.usefixtures("few_events")
def test_endless_retrying_ends_at_the_limit_of_events() -> None:
    drive = Drive([call("a", retry={"max_attempts": 1_000, "delay_seconds": 0})])
    for _ in range(50):
        if not drive.running:
            break
        drive.fail("a")
    assert drive.status == JobStatus.FAILED
    assert drive.last("job.failed")["error"]["type"] == "limit.events"


@pytest.mark.parametrize(("count", "status"), [(10_000, JobStatus.COMPLETED), (10_001, JobStatus.FAILED)])
def test_foreach_has_at_most_10000_items(count: int, status: JobStatus) -> None:
    plan = plan_of([{"id": "f", "foreach": "{{ inputs.rows }}", "steps": [{"id": "i", "set": "{{ item }}"}]}])
    state, _ = create(plan, "job-1", {"rows": list(range(count))}, now_us=START_US, start=True)
    decide(state, [Claimed("w", 1)], START_US, Terms(admit=lambda component, node: True))
    assert state.status == status
    if status == JobStatus.FAILED:
        assert state.errors[0]["type"] == "limit.foreach_items"
    else:
        assert len(state.outputs["f"]) == 10_000


def test_interruption_and_answers_after_the_end_are_harmless() -> None:
    drive = Drive([call("a")])
    drive.succeed("a")
    before = len(drive.history)
    drive.turn(Interrupted("worker-1"))
    assert len(drive.history) == before


def test_run_that_was_reloaded_is_the_same_run() -> None:
    drive = Drive([call("a", retry=LATE)])
    drive.fail("a")
    again: StepRun = reloaded(drive.state).runs["a"]
    assert again == drive.run("a")
    facts: dict[str, Any] = {"attempt": again.attempt, "lost": again.lost, "status": str(again.status)}
    assert facts == {"attempt": 1, "lost": 0, "status": "RETRYING"}
