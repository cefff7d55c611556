"""Rules of the cleanup ledger: when a resource is due, in which order and how often its release is tried, and when it
is given up."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from openagents_json.clock import SECOND_US
from openagents_json.job.machine import Answer, Requested, ResourceTracked
from openagents_json.job.model import JobStatus
from openagents_json.workflow import limits
from tests.unit.machine.drive import Drive, call, reloaded

ONE = [call("a")]
TWO = [call("a"), call("b")]


def held(*names: str, steps: list[dict[str, object]] | None = None, **options: object) -> Drive:
    """A job whose step `a` runs and has tracked resources with these names."""
    until, keep = str(options.pop("until", "step")), bool(options.pop("keep", False))
    drive = Drive(steps or ONE, **options)  # type: ignore[arg-type]
    drive.track("a", *names, until=until, keep=keep)
    return drive


def status_of(drive: Drive) -> JobStatus:
    """The status now: what was asserted of an earlier one tells nothing."""
    return drive.status


def wait_s(drive: Drive, name: str) -> float:
    """How long the next try of a release waits."""
    return (drive.resource(name).next_us - drive.now_us) / SECOND_US


# ── tracking ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_tracked_resource_is_recorded_and_answered_with_its_number() -> None:
    drive = Drive(ONE)
    decision = drive.track("a", "vm", until="job", keep=True)
    [event] = decision.events
    assert decision.answers == [Answer(0, str(event.number))]
    assert event.data == {
        "id": str(event.number), "path": "a", "attempt": 1, "name": "vm", "release": "give_back", "inputs": {},
        "until": "job", "keep": True, "within_us": 600 * SECOND_US,
    }  # fmt: skip


def test_track_of_an_attempt_that_is_over_is_refused() -> None:
    drive = Drive([call("a", retry={"max_attempts": 2, "delay_seconds": 60})])
    token = drive.run("a").token
    late = ResourceTracked("a", token, 7, "vm", "give_back", {}, "step", False)
    drive.fail("a")
    assert [(answer.key, answer.id) for answer in drive.turn(late).answers] == [(7, None)]
    drive.tick(60)
    drive.claim()
    assert drive.running == ["a"]
    assert [answer.id for answer in drive.turn(late).answers] == [None], "of an older attempt"
    drive.succeed("a")
    assert status_of(drive) == JobStatus.COMPLETED
    decision = drive.turn(late)
    assert (decision.events, [answer.id for answer in decision.answers]) == ([], [None])


def test_job_holds_a_thousand_resources_and_no_more() -> None:
    assert limits.RESOURCES_PER_JOB == 1_000
    drive = Drive(ONE)
    assert all(answer.id for answer in drive.track("a", *map(str, range(1_000))).answers)
    decision = drive.track("a", "one more")
    assert decision.events == [] and decision.answers[0].id is None and "1000" in decision.answers[0].why_not
    drive.succeed("a")
    assert drive.being_released == ["999"]


def test_place_in_the_ledger_is_free_again_after_a_release(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RESOURCES_PER_JOB", 1)
    drive = held("one", steps=[call("a"), call("b", needs=[])])
    assert drive.track("b", "other").answers[0].id is None
    drive.succeed("a")
    assert drive.track("b", "other").answers[0].id is None, "it is being released"
    drive.give_back("one")
    assert drive.track("b", "other").answers[0].id is not None


# ── when it is due ────────────────────────────────────────────────────────────────────────────────────────────────


def test_resource_of_a_step_is_released_when_its_attempt_succeeded_while_the_job_goes_on() -> None:
    drive = held("vm", steps=TWO)
    assert not drive.resource("vm").is_due
    decision = drive.succeed("a")
    assert [one.name for one in decision.releases] == ["vm"] and drive.running == ["b"]
    drive.give_back("vm")
    drive.succeed("b")
    assert status_of(drive) == JobStatus.COMPLETED
    assert "job.releasing" not in drive.types


def test_resource_of_an_attempt_that_failed_is_released_before_or_beside_the_next() -> None:
    drive = held("vm", steps=[call("a", retry={"max_attempts": 2, "delay_seconds": 60})])
    drive.fail("a")
    assert drive.being_released == ["vm"]
    drive.tick(60)
    assert drive.running == ["a"], "the next attempt does not wait for it"
    drive.track("a", "vm 2")
    drive.succeed("a")
    drive.give_back("vm")
    assert drive.released == ["vm", "vm 2"]


def test_resource_of_an_attempt_that_was_cancelled_is_released() -> None:
    drive = held("vm")
    drive.cancel()
    assert drive.released == []
    drive.stop("a")
    assert drive.released == ["vm"] and status_of(drive) == JobStatus.RUNNING
    drive.give_back("vm")
    assert status_of(drive) == JobStatus.CANCELLED
    assert drive.last("job.cancelled")["released"] == 1


def test_resource_of_an_attempt_that_was_lost_is_released_by_the_next_worker() -> None:
    drive = held("vm")
    drive.crash()
    assert status_of(drive) == JobStatus.QUEUED and drive.released == []
    drive.refold()
    drive.claim("worker-2")
    assert drive.released == ["vm"] and drive.running == ["a"]


def test_resource_of_the_job_is_released_when_its_outcome_is_decided() -> None:
    drive = held("vm", steps=TWO, until="job")
    drive.succeed("a")
    assert drive.released == []
    drive.succeed("b", 7)
    assert drive.released == ["vm"] and status_of(drive) == JobStatus.RUNNING
    assert drive.last("job.releasing") == {"outcome": "COMPLETED", "resources": 1, "outputs": {"b": 7}}
    drive.give_back("vm")
    assert (status_of(drive), drive.state.outputs) == (JobStatus.COMPLETED, {"b": 7})


def test_resource_for_the_job_of_an_attempt_that_did_not_end_well_is_due_at_once() -> None:
    drive = held("vm", steps=[call("a", retry={"max_attempts": 2, "delay_seconds": 60})], until="job", keep=True)
    drive.fail("a")
    assert drive.released == ["vm"]


@pytest.mark.parametrize("until", ["step", "job"])
def test_what_is_kept_is_let_go_of_if_it_ended_well(until: str) -> None:
    drive = held("vm", until=until, keep=True)
    drive.succeed("a")
    assert (status_of(drive), drive.released, drive.leaks) == (JobStatus.COMPLETED, [], [])


def test_what_is_kept_until_the_job_ends_is_released_if_the_job_fails() -> None:
    drive = held("vm", steps=TWO, until="job", keep=True)
    drive.succeed("a")
    drive.fail("b")
    assert drive.released == ["vm"]
    drive.give_back("vm")
    assert status_of(drive) == JobStatus.FAILED and drive.last("job.failed")["error"]["type"] == "boom"


def test_kept_resource_of_a_step_that_fails_is_released() -> None:
    drive = held("vm", keep=True)
    drive.fail("a")
    assert drive.released == ["vm"]


# ── order ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_newest_is_released_first_one_at_a_time() -> None:
    drive = held("one", "two", "three")
    drive.succeed("a")
    for name in ("three", "two", "one"):
        assert drive.being_released == [name]
        drive.give_back(name)
    assert status_of(drive) == JobStatus.COMPLETED


def test_older_ones_do_not_wait_for_a_release_that_was_tried_and_failed() -> None:
    drive = held("old", "new")
    drive.succeed("a")
    assert drive.being_released == ["new"]
    drive.keep_stuck("new")
    assert drive.being_released == ["old"]
    drive.tick(1)
    assert drive.being_released == ["old"], "still one at a time"
    drive.give_back("old")
    assert drive.being_released == ["new"]


def test_each_is_tried_once_before_any_is_tried_again() -> None:
    drive = held("old", "middle", "new")
    drive.succeed("a")
    drive.keep_stuck("new")
    assert drive.being_released == ["middle"]
    drive.tick(5)  # the second try of the newest is due
    drive.keep_stuck("middle")
    assert drive.being_released == ["old"]
    drive.give_back("old")
    assert drive.being_released == ["new"]


def test_steps_release_beside_each_other_and_the_job_one_after_the_other() -> None:
    steps = [call("a", needs=[]), call("b", needs=[])]
    drive = Drive(steps)
    drive.track("a", "of a")
    drive.track("b", "of b")
    drive.turn(drive.succeeded("a"), drive.succeeded("b"))
    # the outcome is decided in the same turn: now they are one row
    assert drive.being_released == ["of b"]
    apart = Drive([*steps, call("c", needs=[])])
    apart.track("a", "of a")
    apart.track("b", "of b")
    apart.turn(apart.succeeded("a"), apart.succeeded("b"))
    assert apart.being_released == ["of a", "of b"]


# ── tries ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_waits_between_tries_double_up_to_a_minute() -> None:
    drive = held("vm")
    drive.succeed("a")
    waits = []
    for _ in range(9):
        drive.keep_stuck("vm")
        waits.append(wait_s(drive, "vm"))
        drive.tick(waits[-1])
        if status_of(drive) == JobStatus.QUEUED:  # it has waited without a worker
            drive.claim()
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert drive.released == ["vm"] * 10


def test_job_that_only_waits_for_a_retry_holds_no_worker() -> None:
    drive = held("vm")
    drive.succeed("a")
    for seconds in (1, 2, 4):
        drive.keep_stuck("vm")
        assert status_of(drive) == JobStatus.RUNNING
        drive.tick(seconds)
    drive.keep_stuck("vm")
    assert status_of(drive) == JobStatus.WAITING
    assert drive.state.wake_us == drive.now_us + 8 * SECOND_US
    drive.tick(8)
    assert status_of(drive) == JobStatus.QUEUED


def test_next_try_never_comes_after_the_deadline() -> None:
    drive = held("vm", cleanup_s=2.5)
    drive.succeed("a")
    drive.keep_stuck("vm")
    drive.tick(1)
    drive.keep_stuck("vm")
    assert wait_s(drive, "vm") == 1.5
    drive.tick(1.5)
    assert [leak.name for leak in drive.leaks] == ["vm"] and status_of(drive) == JobStatus.COMPLETED


def test_what_is_not_released_by_its_deadline_is_a_leak() -> None:
    drive = held("vm", steps=TWO, cleanup_s=5)
    drive.succeed("a")
    resource_id = drive.resource("vm").id
    drive.keep_stuck("vm")
    drive.tick(1)
    drive.now_us += 10 * SECOND_US
    drive.keep_stuck("vm")  # it came back late
    [leak] = drive.leaks
    assert (leak.id, leak.path, leak.name, leak.release, leak.error["type"]) == (
        resource_id, "a", "vm", "give_back", "stuck",
    )  # fmt: skip
    assert drive.last("resource.leaked")["error"]["type"] == "stuck"
    drive.cancel()
    drive.stop("b")
    assert drive.last("job.cancelled")["leaked"] == 1


def test_release_that_is_on_at_the_deadline_may_end_and_counts() -> None:
    drive = held("vm", cleanup_s=5)
    drive.succeed("a")
    drive.tick(60)
    assert drive.leaks == [] and drive.being_released == ["vm"]
    drive.give_back("vm")
    assert status_of(drive) == JobStatus.COMPLETED and drive.leaks == []


def test_deadline_holds_after_a_try_that_was_on_for_a_while() -> None:
    """The clock may be looked at while a release is on; its deadline is not forgotten by that."""
    drive = held("vm", steps=[call("a", needs=[]), call("b", needs=[])], cleanup_s=5)
    drive.succeed("a")
    drive.tick(1)
    drive.keep_stuck("vm")
    assert drive.state.next_due() == (drive.now_us + SECOND_US, "release", drive.resource("vm").id)
    drive.slots = 0  # and no slot is free from then on
    drive.tick(1)
    drive.tick(3)
    assert [leak.name for leak in drive.leaks] == ["vm"]


def test_release_whose_code_cannot_be_ended_is_a_leak_at_once() -> None:
    drive = held("vm")
    drive.succeed("a")
    drive.keep_stuck("vm", abandoned=True)
    assert [leak.name for leak in drive.leaks] == ["vm"] and status_of(drive) == JobStatus.COMPLETED


def test_answer_of_an_earlier_try_is_not_taken() -> None:
    drive = held("vm")
    drive.succeed("a")
    late = drive.tried("vm")
    drive.keep_stuck("vm")
    assert drive.turn(late).events == []
    drive.tick(1)
    assert drive.turn(late).events == [] and drive.being_released == ["vm"]


def test_release_waits_for_a_slot() -> None:
    drive = held("vm", steps=[call("a"), call("b", needs=[])], slots=2)
    drive.slots = 1
    drive.succeed("a")
    assert drive.released == [] and status_of(drive) == JobStatus.RUNNING
    drive.succeed("b")
    assert drive.released == ["vm"]


# ── pause, cancel, stop ───────────────────────────────────────────────────────────────────────────────────────────


def test_pause_lets_a_release_end_and_starts_no_other() -> None:
    drive = held("old", "new", steps=TWO)
    drive.succeed("a")
    drive.pause()
    drive.succeed("b")
    assert status_of(drive) == JobStatus.RUNNING, "a release is on"
    drive.give_back("new")
    assert status_of(drive) == JobStatus.PAUSED and drive.released == ["new"]
    drive.resume()
    drive.claim()
    assert drive.released == ["new", "old"]


def test_pause_is_refused_once_the_job_releases() -> None:
    drive = held("vm")
    drive.succeed("a")
    assert "being released" in (drive.refuses("pause") or "")
    assert "being released" in (drive.refuses("cancel") or "")


def test_time_without_a_worker_costs_no_resource_its_release() -> None:
    drive = held("old", "new", steps=TWO, cleanup_s=5)
    drive.succeed("a")
    drive.pause()
    drive.turn(drive.tried("new"), drive.succeeded("b"))
    assert status_of(drive) == JobStatus.PAUSED
    drive.now_us += 3_600 * SECOND_US
    drive.resume()
    drive.refold()
    drive.claim()
    assert drive.leaks == [] and drive.being_released == ["old"]
    assert drive.resource("old").deadline_us == drive.now_us + 5 * SECOND_US


def test_release_that_died_with_its_worker_is_tried_again_however_late() -> None:
    drive = held("vm", cleanup_s=5)
    drive.succeed("a")
    drive.now_us += 3_600 * SECOND_US
    drive.crash()
    drive.refold()
    drive.claim("worker-2")
    assert drive.leaks == [] and drive.released == ["vm", "vm"]


def test_what_was_tried_in_vain_gets_no_more_time_from_another_claim() -> None:
    drive = held("vm", cleanup_s=20)
    drive.succeed("a")
    deadline_us = drive.resource("vm").deadline_us
    for seconds in (1, 2, 4, 8):
        drive.keep_stuck("vm")
        drive.tick(seconds)
        if status_of(drive) == JobStatus.QUEUED:
            drive.claim()
    assert "job.continued" in drive.types and drive.resource("vm").deadline_us == deadline_us


def test_cancel_of_a_paused_job_needs_a_worker_for_its_ledger() -> None:
    drive = held("vm", steps=TWO, until="job")
    drive.pause()
    drive.succeed("a")
    assert status_of(drive) == JobStatus.PAUSED
    drive.cancel()
    assert status_of(drive) == JobStatus.QUEUED and drive.released == []
    drive.claim()
    assert drive.released == ["vm"]
    drive.give_back("vm")
    assert status_of(drive) == JobStatus.CANCELLED


def test_cancel_of_a_queued_job_needs_a_worker_for_its_ledger() -> None:
    drive = held("vm", steps=TWO, until="job")
    drive.release()
    drive.succeed("a")
    assert status_of(drive) == JobStatus.QUEUED
    drive.cancel(force=True)
    assert status_of(drive) == JobStatus.QUEUED
    drive.claim()
    drive.give_back("vm")
    assert status_of(drive) == JobStatus.CANCELLED


def test_force_skips_what_undoes_and_not_the_ledger() -> None:
    definition = {
        "steps": [call("a", compensate={"component": "undo"}), call("b")],
        "finally": [call("end")],
    }
    drive = Drive(definition)
    drive.track("a", "vm", until="job")
    drive.succeed("a")
    drive.cancel(force=True)
    drive.stop("b")
    assert drive.running == [] and drive.released == ["vm"]
    drive.give_back("vm")
    last = drive.last("job.cancelled")
    assert (last["skipped"], last["released"]) == (["compensation", "finally"], 1)


def test_force_while_resources_are_released_changes_the_outcome_and_lets_them_end() -> None:
    drive = held("vm")
    drive.succeed("a")
    drive.cancel(force=True)
    assert drive.being_released == ["vm"]
    drive.give_back("vm")
    assert status_of(drive) == JobStatus.CANCELLED


def test_undoing_and_finally_come_before_what_the_job_holds_is_released() -> None:
    definition = {
        "steps": [call("a", compensate={"component": "undo"}), call("b")],
        "finally": [call("end")],
    }
    drive = Drive(definition)
    drive.track("a", "vm", until="job")
    drive.succeed("a")
    drive.fail("b")
    assert drive.running == ["a[undo]"]
    drive.track("a[undo]", "of the undo")
    drive.succeed("a[undo]")
    assert drive.running == ["end"] and drive.released == ["of the undo"]
    drive.track("end", "of the end", until="job")
    drive.give_back("of the undo")
    drive.succeed("end")
    assert drive.released == ["of the undo", "of the end"], "the newest of the job comes first"
    drive.give_back("of the end")
    drive.give_back("vm")
    assert status_of(drive) == JobStatus.FAILED


def test_release_that_ends_with_its_worker_is_tried_at_once_by_the_next() -> None:
    drive = held("vm")
    drive.succeed("a")
    drive.release()
    assert status_of(drive) == JobStatus.RUNNING
    drive.keep_stuck("vm", was_told=True)
    assert status_of(drive) == JobStatus.QUEUED
    drive.claim("worker-2")
    assert drive.released == ["vm", "vm"]


# ── dead workers ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_release_whose_worker_died_is_tried_again() -> None:
    drive = held("old", "new")
    drive.succeed("a")
    drive.crash()
    assert status_of(drive) == JobStatus.QUEUED
    drive.claim("worker-2")
    assert drive.released == ["new", "new"]
    drive.give_back("new")
    drive.give_back("old")
    assert status_of(drive) == JobStatus.COMPLETED


def test_releases_that_kill_three_workers_are_leaks_and_the_job_is_final() -> None:
    drive = held("old", "new")
    drive.succeed("a")
    for number in range(3):
        assert status_of(drive) == JobStatus.RUNNING
        drive.crash(f"worker-{number}")
        if number < 2:
            drive.claim(f"worker-{number + 1}")
    assert status_of(drive) == JobStatus.COMPLETED, "its outcome was decided"
    assert {(leak.name, leak.error["type"]) for leak in drive.leaks} == {
        ("old", "worker_lost"), ("new", "worker_lost"),
    }  # fmt: skip


def test_release_that_works_starts_the_count_of_deaths_anew() -> None:
    drive = held("1", "2", "3", "4")
    drive.succeed("a")
    for name in ("4", "3", "2", "1"):
        drive.crash()
        drive.claim()
        assert drive.being_released == [name]
        drive.give_back(name)
    assert status_of(drive) == JobStatus.COMPLETED and drive.leaks == []


def test_job_whose_attempts_killed_three_workers_still_releases() -> None:
    drive = Drive(TWO)
    drive.track("a", "vm", until="job")
    drive.succeed("a")
    for number in range(3):
        drive.crash()
        if number < 2:
            drive.claim()
    assert status_of(drive) == JobStatus.QUEUED and "job.releasing" in drive.types
    drive.claim()
    drive.give_back("vm")
    assert status_of(drive) == JobStatus.FAILED and drive.last("job.failed")["error"]["type"] == "worker_lost"


def test_job_that_dead_workers_ended_runs_nothing_more_while_it_releases() -> None:
    steps = [call("a"), call("b", needs=[]), call("c", needs=["b"]), {"id": "go", "signal": "go", "needs": []}]
    drive = Drive(steps)
    drive.track("a", "vm", until="job")
    drive.succeed("a")
    for _ in range(3):
        drive.crash()
        if status_of(drive) == JobStatus.QUEUED:
            drive.claim()
    assert drive.running == [] and drive.being_released == ["vm"]
    drive.refold()
    drive.turn(Requested("signal", arguments={"name": "go", "payload": 1}))
    assert drive.running == []
    drive.give_back("vm")
    assert status_of(drive) == JobStatus.FAILED


def test_time_of_the_finally_steps_ends_with_them() -> None:
    drive = Drive({"steps": ONE, "finally": [call("end")]}, cleanup_s=50)
    drive.track("a", "vm", until="job")
    drive.succeed("a")
    drive.tick(40)
    drive.succeed("end")
    assert drive.being_released == ["vm"]
    drive.tick(20)  # more than the finally steps had
    assert status_of(drive) == JobStatus.RUNNING and "job.cleanup_timed_out" not in drive.types
    drive.give_back("vm")
    assert status_of(drive) == JobStatus.COMPLETED


# ── the record ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_job_goes_on_from_its_history_or_a_snapshot_at_any_time() -> None:
    """Drive compares each state with the fold of its history; here the folded one goes on."""
    drive = held("1", "2", "3", steps=TWO, cleanup_s=5)
    turns: list[Callable[[], object]] = [
        lambda: drive.succeed("a"),
        lambda: drive.keep_stuck("3"),
        lambda: drive.give_back("2"),
        lambda: drive.tick(1),
        lambda: drive.give_back("1"),
        lambda: drive.succeed("b"),
        lambda: drive.keep_stuck("3"),
    ]
    for turn in turns:
        turn()
        drive.state = reloaded(drive.state)
        times = drive.state.next_due()
        drive.refold()
        assert drive.state.next_due() == times
    drive.tick(60)
    if status_of(drive) == JobStatus.QUEUED:
        drive.claim()
    assert status_of(drive) == JobStatus.COMPLETED and [leak.name for leak in drive.leaks] == ["3"]


def test_events_run_out_for_tracking_before_they_do_for_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    drive = Drive(ONE)
    monkeypatch.setattr(limits, "EVENTS_PER_JOB", drive.state.number + limits.EVENTS_KEPT_FOR_THE_END)
    assert drive.track("a", "vm").answers[0].id is None


def test_request_to_a_job_that_released_everything_finds_it_final() -> None:
    drive = held("vm")
    drive.succeed("a")
    drive.turn(drive.tried("vm"), Requested("set_priority", None, None, {"priority": "LOW"}))
    assert status_of(drive) == JobStatus.COMPLETED
