"""The lifecycle as a table: every verb in every status, and how each status is reached and left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from openagents_json.errors import InvalidTransition, StoreError
from openagents_json.job.events import EVENT_TYPES, Event
from openagents_json.job.machine import (
    AttemptSucceeded,
    Happening,
    Requested,
    Tick,
    Verb,
    allowed_verbs,
    apply,
    new_state,
)
from openagents_json.job.model import JobStatus
from tests.unit.machine.drive import START_US, Drive, call, priority_of

RETRY = {"max_attempts": 3, "delay_seconds": 60.0}
STEPS = [call("a", retry=RETRY), call("b")]
VERBS: tuple[Verb, ...] = ("start", "pause", "resume", "cancel", "set_priority")

# ── a job in each situation ───────────────────────────────────────────────────────────────────────────────────────


def created() -> Drive:
    return Drive(STEPS, start=False)


def queued() -> Drive:
    return Drive(STEPS, claim=False)


def running() -> Drive:
    return Drive(STEPS)


def pausing() -> Drive:
    drive = running()
    drive.pause()
    return drive


def cancelling() -> Drive:
    drive = running()
    drive.cancel()
    return drive


def forcing() -> Drive:
    drive = running()
    drive.cancel(force=True)
    return drive


def waiting() -> Drive:
    drive = running()
    drive.fail("a")
    return drive


def paused() -> Drive:
    drive = pausing()
    drive.succeed("a")
    return drive


def finishing() -> Drive:
    """Its finally steps run."""
    drive = Drive({"steps": STEPS, "finally": [call("z")]})
    drive.succeed("a")
    drive.succeed("b")
    return drive


def completed() -> Drive:
    drive = running()
    drive.finish()
    return drive


def failed() -> Drive:
    drive = running()
    drive.fail("a", retryable=False)
    return drive


def cancelled() -> Drive:
    drive = cancelling()
    drive.stop("a")
    return drive


ALLOWED, REPEATED, REFUSED = "allowed", "repeated", "refused"

# situation → status and, in the order of VERBS, what becomes of each verb
TABLE: list[tuple[Callable[[], Drive], JobStatus, tuple[str, str, str, str, str]]] = [
    (created, JobStatus.CREATED, (ALLOWED, REFUSED, REFUSED, ALLOWED, ALLOWED)),
    (queued, JobStatus.QUEUED, (REFUSED, ALLOWED, REPEATED, ALLOWED, ALLOWED)),
    (running, JobStatus.RUNNING, (REFUSED, ALLOWED, REPEATED, ALLOWED, ALLOWED)),
    (pausing, JobStatus.RUNNING, (REFUSED, REPEATED, ALLOWED, ALLOWED, ALLOWED)),
    (cancelling, JobStatus.RUNNING, (REFUSED, REFUSED, REPEATED, REPEATED, ALLOWED)),
    (forcing, JobStatus.RUNNING, (REFUSED, REFUSED, REPEATED, REPEATED, ALLOWED)),
    (finishing, JobStatus.RUNNING, (REFUSED, REFUSED, REPEATED, REFUSED, ALLOWED)),
    (waiting, JobStatus.WAITING, (REFUSED, ALLOWED, REFUSED, ALLOWED, ALLOWED)),
    (paused, JobStatus.PAUSED, (REFUSED, REPEATED, ALLOWED, ALLOWED, ALLOWED)),
    (completed, JobStatus.COMPLETED, (REFUSED, REFUSED, REFUSED, REFUSED, REFUSED)),
    (failed, JobStatus.FAILED, (REFUSED, REFUSED, REFUSED, REFUSED, REFUSED)),
    (cancelled, JobStatus.CANCELLED, (REFUSED, REFUSED, REFUSED, REPEATED, REFUSED)),
]


@pytest.mark.parametrize(
    ("make", "status", "verb", "expected"),
    [(make, status, verb, expected) for make, status, row in TABLE for verb, expected in zip(VERBS, row, strict=True)],
)
def test_verb_is_allowed_repeated_or_refused(
    make: Callable[[], Drive], status: JobStatus, verb: Verb, expected: str
) -> None:
    drive = make()
    assert drive.status == status
    before = len(drive.history)
    arguments: dict[str, Any] = {"priority": "HIGH"} if verb == "set_priority" else {}
    refusal = drive.refuses(verb, **arguments)
    found = REFUSED if refusal is not None else ALLOWED if len(drive.history) > before else REPEATED
    assert found == expected
    if expected == REFUSED:
        assert drive.status == status


@pytest.mark.parametrize(("make", "status", "row"), TABLE)
def test_refusal_says_the_status_and_what_is_allowed(
    make: Callable[[], Drive], status: JobStatus, row: tuple[str, ...]
) -> None:
    drive = make()
    for verb, expected in zip(VERBS, row, strict=True):
        if expected == REFUSED:
            with pytest.raises(InvalidTransition) as caught:
                drive.request(verb, priority="HIGH")
            assert caught.value.status == status
            assert caught.value.job_id == "job-1"
            assert str(status) in str(caught.value)
            assert verb not in caught.value.allowed


@pytest.mark.parametrize(("make", "status", "row"), TABLE)
def test_table_of_allowed_verbs_agrees_with_the_machine(
    make: Callable[[], Drive], status: JobStatus, row: tuple[str, ...]
) -> None:
    drive = make()
    allowed = set(allowed_verbs(drive.status, drive.state.pause_requested))
    for verb, expected in zip(VERBS, row, strict=True):
        if expected == ALLOWED:
            assert verb in allowed
        if verb not in allowed:
            assert expected != ALLOWED


def test_only_final_and_unstarted_jobs_may_be_deleted() -> None:
    deletable = {status for status in JobStatus if "delete" in allowed_verbs(status)}
    assert deletable == {JobStatus.CREATED, JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED}


@pytest.mark.parametrize("make", [completed, failed, cancelled])
@pytest.mark.guarantee("G9")
def test_final_status_never_changes(make: Callable[[], Drive]) -> None:
    drive = make()
    before = len(drive.history)
    late: list[Happening] = [drive.succeeded("a"), drive.failed("a"), drive.stopped("a"), Tick()]
    drive.turn(*late)
    drive.now_us += 10**15
    drive.turn(*late, Requested("cancel", arguments={"force": True}), Requested("resume"))
    assert len(drive.history) == before


# ── how the statuses follow each other ────────────────────────────────────────────────────────────────────────────


def test_chain_runs_from_created_to_completed() -> None:
    drive = created()
    drive.start()
    assert str(drive.status) == "QUEUED"
    drive.claim()
    assert (drive.status, drive.running) == (JobStatus.RUNNING, ["a"])
    drive.succeed("a", 1)
    drive.succeed("b", {"x": 2})
    assert str(drive.status) == "COMPLETED"
    assert drive.types == [
        "job.created",
        "job.queued",
        "job.started",
        "attempt.started",
        "step.completed",
        "attempt.started",
        "step.completed",
        "job.completed",
    ]
    assert drive.state.outputs == {"b": {"x": 2}}
    assert drive.state.progress == 1.0


def test_start_of_the_next_step_shares_the_commit_of_the_last_completion() -> None:
    drive = running()
    decision = drive.succeed("a")
    assert [event.type for event in decision.events] == ["step.completed", "attempt.started"]
    assert [one.run.path for one in decision.calls] == ["b"]


def test_start_at_puts_the_job_into_the_queue_when_it_is_due() -> None:
    drive = Drive(STEPS, start=False, start_at_us=START_US + 60_000_000)
    drive.tick(59)
    assert str(drive.status) == "CREATED"
    drive.tick(1)
    assert (drive.status, drive.last("job.queued")) == (JobStatus.QUEUED, {"reason": "start_at"})
    assert drive.state.start_at_us is None


def test_start_before_start_at_starts_at_once_and_only_once() -> None:
    drive = Drive(STEPS, start=False, start_at_us=START_US + 60_000_000)
    drive.start()
    drive.tick(60)
    assert drive.types.count("job.queued") == 1


def test_worker_that_stops_gives_the_job_back_when_its_attempts_have_ended() -> None:
    drive = running()
    drive.release("shutdown")
    assert str(drive.status) == "RUNNING"
    decision = drive.succeed("a")
    assert not decision.calls
    assert (drive.status, drive.last("job.queued")) == (JobStatus.QUEUED, {"reason": "shutdown"})
    drive.claim("worker-2")
    assert drive.types[-2:] == ["job.continued", "attempt.started"]
    assert drive.paths("attempt.started") == ["a", "b"]


def test_attempt_that_is_stopped_by_a_shutdown_runs_again_and_is_no_try() -> None:
    drive = running()
    drive.release("shutdown")
    drive.stop("a", "shutdown")
    assert drive.last("attempt.lost")["reason"] == "shutdown"
    drive.claim("worker-2")
    assert (drive.running, drive.run("a").attempt, drive.run("a").lost) == (["a"], 2, 1)
    assert drive.state.deaths == 0


def test_priority_changes_are_recorded_with_what_it_was_and_who_asked() -> None:
    drive = queued()
    drive.request("set_priority", by="ann", reason="late", priority="CRITICAL")
    assert drive.last("job.priority_changed") == {
        "priority": "CRITICAL",
        "was": "MEDIUM",
        "by": "ann",
        "reason": "late",
    }
    assert priority_of(drive) == "CRITICAL"
    before = len(drive.history)
    drive.request("set_priority", priority="CRITICAL")
    assert len(drive.history) == before


def test_current_step_is_the_one_that_started_last_and_none_at_the_end() -> None:
    drive = running()
    assert drive.state.current_step == "a"
    drive.succeed("a")
    assert drive.state.current_step == "b"
    drive.succeed("b")
    assert drive.state.current_step is None


def test_event_that_is_not_the_next_one_is_refused() -> None:
    drive = running()
    for number in (0, 1, len(drive.history), len(drive.history) + 2):
        event = Event(number, "job.paused", START_US, {})
        with pytest.raises(StoreError, match="gap"):
            apply(drive.state, event)
    with pytest.raises(StoreError, match="gap"):
        apply(new_state(drive.plan), drive.history[1])


def test_every_event_type_says_when_it_is_recorded() -> None:
    for meaning, keys in EVENT_TYPES.values():
        assert meaning
        assert len(set(keys.split())) == len(keys.split())


# ── outputs and the failure of a job ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ({"r": "{{ steps.a.output.x }}", "n": 1}, {"r": 3, "n": 1}),
        ("{{ steps.a.output }}", {"x": 3}),
        ("{{ steps.a.output.x }}", {"output": 3}),
        ([1, "{{ steps.a.output.x }}"], {"output": [1, 3]}),
    ],
)
def test_outputs_are_an_object(outputs: Any, expected: Any) -> None:
    drive = Drive({"steps": [call("a")], "outputs": outputs})
    drive.succeed("a", {"x": 3})
    assert drive.state.outputs == expected


def test_outputs_that_are_undefined_fail_the_job() -> None:
    drive = Drive({"steps": [call("a")], "outputs": {"r": "{{ steps.a.output.x }}"}})
    drive.succeed("a", {})
    assert str(drive.status) == "FAILED"
    assert drive.last("job.failed")["error"]["type"] == "expression.undefined"
    assert drive.last("job.failed")["error"]["details"] == {"expression": "{{ steps.a.output.x }}"}


def test_step_that_fails_for_good_fails_the_job_and_what_follows_never_starts() -> None:
    drive = running()
    drive.fail("a", "http.500", retryable=False)
    assert drive.types[-3:] == ["attempt.failed", "step.failed", "job.failed"]
    assert drive.last("job.failed")["error"]["type"] == "http.500"
    assert [one["type"] for one in drive.state.errors] == ["http.500"]
    assert "b" not in drive.state.runs


def test_failure_stops_the_siblings_and_waits_for_them() -> None:
    drive = Drive([call("a"), call("b", needs=[]), call("c", needs=[])])
    assert drive.running == ["a", "b", "c"]
    drive.fail("b")
    assert drive.told == {"a": "sibling_failed", "c": "sibling_failed"}
    assert str(drive.status) == "RUNNING"
    drive.stop("a")
    drive.succeed("c", "in time")
    assert str(drive.status) == "FAILED"
    assert drive.statuses() == {"a": "CANCELLED", "b": "FAILED", "c": "COMPLETED"}


def test_condition_that_is_false_skips_the_step_and_what_depends_on_it_runs() -> None:
    drive = Drive(
        [
            call("a", condition="{{ inputs.go }}"),
            {"id": "b", "set": "{{ [steps.a.status, steps.a.output, steps.a.success] }}"},
        ],
        {"go": False},
    )
    assert drive.state.outputs == {"b": ["SKIPPED", None, False]}
    assert drive.paths("step.skipped") == ["a"]


@pytest.mark.parametrize(
    ("step", "type"),
    [
        (call("a", condition="{{ inputs.n }}"), "expression.invalid"),
        (call("a", condition="{{ inputs.absent }}"), "expression.undefined"),
        ({"id": "a", "set": "{{ inputs.n.x }}"}, "expression.undefined"),
        (call("a", inputs={"v": "{{ inputs.absent }}"}), "expression.undefined"),
        (call("a") | {"component": "{{ inputs.tool }}", "allow": ["x", "y"]}, "component.not_allowed"),
        ({"id": "a", "foreach": "{{ inputs.n }}", "steps": [call("i")]}, "expression.invalid"),
        ({"id": "a", "foreach": "{{ inputs.nothing }}", "steps": [call("i")]}, "expression.invalid"),
        ({"id": "a", "foreach": "{{ inputs.absent }}", "steps": [call("i")]}, "expression.undefined"),
    ],
)
def test_expression_that_fails_fails_its_step_without_a_call(step: dict[str, Any], type: str) -> None:
    drive = Drive([step, call("b")], {"n": 3, "tool": "z", "nothing": None})
    assert str(drive.status) == "FAILED"
    assert drive.called == []
    error = drive.last("step.failed")["error"]
    assert (error["type"], error["step"], error["retryable"]) == (type, "a", False)


def test_component_by_expression_is_rendered_once_and_kept_for_the_retries() -> None:
    step = call("a", retry=RETRY) | {"component": "{{ inputs.tool }}", "allow": ["x", "y"]}
    drive = Drive([step], {"tool": "y"})
    drive.fail("a")
    drive.tick(60)
    drive.claim()
    assert [event.data["component"] for event in drive.history if event.type == "attempt.started"] == ["y", "y"]


def test_inputs_are_recorded_as_values_or_as_references_to_recorded_data() -> None:
    inputs = {"ref": "{{ steps.s.output }}", "value": "{{ steps.s.output + 1 }}", "key": "{{ secrets.KEY }}", "c": 5}
    drive = Drive([{"id": "s", "set": 7}, call("a", inputs=inputs)])
    started = drive.last("attempt.started")
    assert started["inputs"] == {"value": 8, "c": 5}
    assert started["refs"] == {"ref": "{{ steps.s.output }}", "key": "{{ secrets.KEY }}"}
    assert drive.inputs("a", {"KEY": "sesame"}) == {"ref": 7, "value": 8, "c": 5, "key": "sesame"}


def test_key_is_the_same_for_all_attempts_and_the_token_rises() -> None:
    drive = Drive([call("a", retry={"max_attempts": 3, "delay_seconds": 0})])
    for _ in range(2):
        drive.fail("a")
    starts = [event for event in drive.history if event.type == "attempt.started"]
    assert [event.data["key"] for event in starts] == ["job-1/a"] * 3
    assert [event.data["attempt"] for event in starts] == [1, 2, 3]
    assert drive.run("a").token == starts[-1].number


@pytest.mark.guarantee("G2")
def test_late_or_repeated_answers_are_not_recorded() -> None:
    drive = Drive([call("a", retry={"max_attempts": 3, "delay_seconds": 0}), call("b")])
    first = drive.run("a").token
    drive.fail("a")
    before = len(drive.history)
    drive.turn(drive.succeeded("a", "late", first), AttemptSucceeded("nowhere", 1, "x"))
    assert len(drive.history) == before
    drive.turn(drive.succeeded("a", 1), drive.succeeded("a", 2), drive.failed("a"))
    assert drive.paths("step.completed") == ["a"]
    assert drive.run("a").output == 1
