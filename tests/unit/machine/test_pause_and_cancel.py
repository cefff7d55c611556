"""Pause and cancel are marks until they are true: what still runs, what never starts, and what the cleanup is."""

from __future__ import annotations

from typing import Any

import pytest

from openagents_json.job.machine import Interrupted, Requested, Tick
from openagents_json.job.model import JobStatus
from tests.unit.machine.drive import Drive, call

WIDE = [call("a"), call("b", needs=[]), call("c")]
CLEAN: dict[str, Any] = {"steps": [call("a"), call("b")], "finally": [call("z"), call("y")]}
RETRY = {"max_attempts": 3, "delay_seconds": 60.0}

# ── pause ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.guarantee("G9")
def test_pause_lets_attempts_finish_and_starts_nothing() -> None:
    drive = Drive(WIDE)
    decision = drive.request("pause", by="ann", reason="lunch")
    assert not decision.stops
    assert (drive.status, drive.state.pause_requested) == (JobStatus.RUNNING, True)
    assert drive.last("job.pause_requested") == {"by": "ann", "reason": "lunch"}
    drive.succeed("a")
    assert str(drive.status) == "RUNNING"
    drive.succeed("b")
    assert (drive.status, drive.state.pause_requested, drive.called) == (JobStatus.PAUSED, False, ["a", "b"])
    drive.tick(10**6)
    assert str(drive.status) == "PAUSED"


def test_resume_goes_on_where_the_pause_began() -> None:
    drive = Drive(WIDE)
    drive.pause()
    drive.finish()
    drive.request("resume", by="bob")
    assert drive.types[-2:] == ["job.resumed", "job.queued"]
    drive.claim("worker-2")
    assert drive.running == ["c"]
    drive.finish()
    assert str(drive.status) == "COMPLETED"
    assert drive.paths("step.completed") == ["a", "b", "c"]


def test_resume_before_the_pause_is_true_withdraws_the_mark() -> None:
    drive = Drive(WIDE)
    drive.pause()
    drive.succeed("a")
    decision = drive.resume()
    assert drive.types[-1] == "job.pause_withdrawn"
    assert not decision.calls
    drive.succeed("b")
    assert drive.running == ["c"]


def test_pause_of_a_queued_job_is_true_at_once() -> None:
    drive = Drive(WIDE, claim=False)
    drive.pause()
    assert drive.types[-2:] == ["job.pause_requested", "job.paused"]


def test_pause_of_a_waiting_job_keeps_the_due_time() -> None:
    drive = Drive([call("a", retry=RETRY)])
    drive.fail("a")
    drive.pause()
    assert (drive.status, drive.state.wake_us) == (JobStatus.PAUSED, None)
    drive.tick(600)
    assert str(drive.status) == "PAUSED"
    drive.resume()
    drive.claim()
    assert drive.running == ["a"]


def test_failure_while_pausing_is_recorded_and_ends_the_job_only_after_resume() -> None:
    drive = Drive(WIDE)
    drive.pause()
    drive.fail("a")
    drive.stop("b")
    assert str(drive.status) == "PAUSED"
    drive.resume()
    drive.claim()
    assert str(drive.status) == "FAILED"


def test_last_step_that_ends_while_pausing_leaves_the_job_paused() -> None:
    drive = Drive([call("a")])
    drive.pause()
    drive.succeed("a", 1)
    assert str(drive.status) == "PAUSED"
    drive.resume()
    drive.claim()
    assert (drive.status, drive.state.outputs) == (JobStatus.COMPLETED, {"a": 1})


def test_retry_that_is_due_while_pausing_does_not_start() -> None:
    drive = Drive([call("a", retry={"max_attempts": 3, "delay_seconds": 0}), call("b", needs=[])])
    drive.pause()
    drive.fail("a")
    drive.tick(5)
    assert drive.called == ["a", "b"]
    drive.succeed("b")
    assert str(drive.status) == "PAUSED"


def test_pause_in_the_turn_of_the_last_answer_comes_in_time() -> None:
    drive = Drive([call("a"), call("b")])
    drive.turn(drive.succeeded("a"), Requested("pause"))
    assert (drive.status, drive.called) == (JobStatus.PAUSED, ["a"])


def test_worker_that_dies_while_pausing_leaves_the_job_paused() -> None:
    drive = Drive(WIDE)
    drive.pause()
    drive.crash()
    assert drive.types[-4:] == ["attempt.lost", "attempt.lost", "job.worker_lost", "job.paused"]


def test_resume_beside_the_pause_that_a_dead_worker_has_not_seen_is_heeded() -> None:
    """Both stand in the inbox when the job is taken over: it is QUEUED in the middle of that turn."""
    drive = Drive(WIDE)
    pause, resume = Requested("pause", "ann", None), Requested("resume", "ann", None)
    decision = drive.turn(Interrupted("worker-1"), pause, resume)
    assert not decision.refused
    assert drive.types[-3:] == ["job.queued", "job.pause_requested", "job.pause_withdrawn"]
    assert (drive.status, drive.state.pause_requested) == (JobStatus.QUEUED, False)
    drive.claim("worker-2")
    drive.finish()
    assert str(drive.status) == "COMPLETED"


def test_worker_that_stops_while_pausing_leaves_the_job_paused() -> None:
    drive = Drive([call("a"), call("b")])
    drive.pause()
    drive.release()
    drive.stop("a", "shutdown")
    assert str(drive.status) == "PAUSED"


# ── gentle cancel ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_cancel_tells_what_runs_and_is_true_when_it_has_ended() -> None:
    drive = Drive(WIDE)
    decision = drive.request("cancel", by="ann", reason="wrong file", force=False)
    assert {run.path: reason for run, reason in decision.stops} == {"a": "cancelled", "b": "cancelled"}
    assert str(drive.status) == "RUNNING"
    drive.stop("a")
    drive.stop("b")
    assert str(drive.status) == "CANCELLED"
    assert drive.last("job.cancelled") == {"by": "ann", "reason": "wrong file", "force": False}
    assert drive.statuses() == {"a": "CANCELLED", "b": "CANCELLED"}


def test_answer_that_comes_although_it_was_told_to_stop_is_recorded() -> None:
    drive = Drive(WIDE)
    drive.cancel()
    drive.succeed("a", "done")
    drive.fail("b")
    assert str(drive.status) == "CANCELLED"
    assert drive.statuses() == {"a": "COMPLETED", "b": "FAILED"}


@pytest.mark.parametrize("start", [True, False])
def test_job_without_a_started_step_is_cancelled_at_once(start: bool) -> None:
    drive = Drive(CLEAN, start=start, claim=False)
    drive.cancel()
    assert drive.types[-2:] == ["job.cancel_requested", "job.cancelled"]


def test_cancel_of_a_paused_or_waiting_job_with_nothing_to_clean_up_is_true_at_once() -> None:
    paused = Drive([call("a"), call("b")])
    paused.pause()
    paused.succeed("a")
    paused.cancel()
    assert paused.status == JobStatus.CANCELLED
    waiting = Drive([call("a", retry=RETRY)])
    waiting.fail("a")
    waiting.cancel()
    assert (waiting.status, waiting.statuses()) == (JobStatus.CANCELLED, {"a": "CANCELLED"})


@pytest.mark.parametrize("verb", ["pause", "wait", "release"])
def test_cancel_of_a_started_job_at_rest_is_claimed_for_its_finally_steps(verb: str) -> None:
    drive = Drive(CLEAN | {"steps": [call("a", retry=RETRY), call("b")]})
    if verb == "pause":
        drive.pause()
        drive.succeed("a")
    elif verb == "wait":
        drive.fail("a")
    else:
        drive.release()
        drive.succeed("a")
    drive.cancel()
    assert str(drive.status) == "QUEUED"
    drive.claim("worker-2")
    assert drive.running == ["z"]
    drive.finish()
    assert str(drive.status) == "CANCELLED"


def test_cancel_runs_finally_and_then_is_true() -> None:
    drive = Drive(CLEAN)
    drive.cancel()
    drive.stop("a")
    assert (drive.status, drive.running) == (JobStatus.RUNNING, ["z"])
    assert drive.last("job.finally_started")["outcome"] == "CANCELLED"
    drive.succeed("z")
    drive.succeed("y")
    assert str(drive.status) == "CANCELLED"


def test_cancel_beats_pause() -> None:
    drive = Drive(WIDE)
    drive.pause()
    drive.cancel()
    assert drive.state.pause_requested is False
    assert "being cancelled" in (drive.refuses("pause") or "")
    drive.stop("a")
    drive.stop("b")
    assert str(drive.status) == "CANCELLED"


def test_cancel_ends_retrying() -> None:
    drive = Drive([call("a", retry={"max_attempts": 3, "delay_seconds": 0})])
    drive.cancel()
    drive.fail("a")
    assert (drive.status, drive.called) == (JobStatus.CANCELLED, ["a"])


def test_cancel_in_the_turn_of_the_last_answer_wins_over_completion() -> None:
    drive = Drive([call("a")])
    drive.turn(drive.succeeded("a"), Requested("cancel", arguments={"force": False}))
    assert str(drive.status) == "CANCELLED"


def test_worker_that_dies_during_a_cancel_is_followed_by_one_that_finishes_it() -> None:
    drive = Drive(CLEAN)
    drive.cancel()
    drive.crash()
    assert str(drive.status) == "QUEUED"
    drive.claim("worker-2")
    assert drive.running == ["z"]
    drive.finish()
    assert str(drive.status) == "CANCELLED"


def test_worker_that_stops_during_finally_of_a_cancelled_job_gives_it_back() -> None:
    drive = Drive(CLEAN)
    drive.cancel()
    drive.stop("a")
    drive.release()
    drive.stop("z", "shutdown")
    assert (drive.status, drive.last("job.queued")) == (JobStatus.QUEUED, {"reason": "shutdown"})
    drive.claim("worker-2")
    drive.finish()
    assert str(drive.status) == "CANCELLED"
    assert drive.paths("attempt.started") == ["a", "z", "z", "y"]


def test_cancel_of_a_foreach_stops_every_item() -> None:
    drive = Drive([{"id": "f", "foreach": [1, 2, 3], "concurrency": 2, "steps": [call("i")]}])
    drive.cancel()
    assert set(drive.told) == {"f[0].i", "f[1].i"}
    drive.finish()
    assert (drive.status, drive.run("f").status) == (JobStatus.CANCELLED, "CANCELLED")
    assert "f[2].i" not in drive.state.runs


# ── force ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_force_skips_finally() -> None:
    drive = Drive(CLEAN)
    drive.cancel(force=True)
    assert drive.told == {"a": "force_cancelled"}
    drive.stop("a")
    assert str(drive.status) == "CANCELLED"
    assert drive.last("job.cancelled")["force"] is True
    assert "job.finally_started" not in drive.types


def test_force_after_a_gentle_cancel_ends_the_finally_steps() -> None:
    drive = Drive(CLEAN)
    drive.cancel()
    drive.stop("a")
    drive.cancel(force=True)
    assert drive.told == {"z": "force_cancelled"}
    drive.stop("z")
    assert str(drive.status) == "CANCELLED"
    assert drive.called == ["a", "z"]


def test_gentle_cancel_after_force_changes_nothing() -> None:
    drive = Drive(CLEAN)
    drive.cancel(force=True)
    before = len(drive.history)
    drive.cancel()
    drive.cancel(force=True)
    assert len(drive.history) == before


def test_force_before_the_finally_steps_of_a_finished_job_makes_it_cancelled() -> None:
    drive = Drive(CLEAN)
    drive.succeed("a")
    drive.succeed("b", 1)
    started = drive.last("job.finally_started")
    assert (started["outcome"], started["outputs"]) == ("COMPLETED", {"b": 1})
    assert started["deadline_us"] > drive.now_us
    refusal = drive.refuses("cancel", force=False)
    assert "its outcome is COMPLETED" in (refusal or "")
    drive.cancel(force=True)
    drive.stop("z")
    assert str(drive.status) == "CANCELLED"


def test_force_of_a_job_at_rest_is_true_at_once() -> None:
    drive = Drive(CLEAN)
    drive.pause()
    drive.succeed("a")
    drive.cancel(force=True)
    assert str(drive.status) == "CANCELLED"


def test_thread_that_could_not_be_stopped_is_counted_and_its_late_result_refused() -> None:
    drive = Drive([call("a")])
    late = drive.succeeded("a", "late")
    drive.cancel(force=True)
    drive.stop("a", abandoned=True)
    assert (drive.status, drive.state.abandoned) == (JobStatus.CANCELLED, 1)
    before = len(drive.history)
    drive.turn(late)
    assert len(drive.history) == before


# ── finally ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_finally_sees_the_outcome_and_its_failure_does_not_change_it() -> None:
    drive = Drive(
        {
            "steps": [call("a")],
            "finally": [call("z", inputs={"o": "{{ job.outcome }}", "a": "{{ steps.a.status }}"}), call("y")],
        }
    )
    drive.succeed("a", 1)
    assert drive.inputs("z") == {"o": "COMPLETED", "a": "COMPLETED"}
    drive.fail("z", "mail.down")
    assert str(drive.status) == "COMPLETED"
    assert [error["type"] for error in drive.state.errors] == ["mail.down"]
    assert (drive.state.outputs, "y" in drive.state.runs) == ({"a": 1}, False)


def test_failed_job_keeps_the_first_error_although_finally_fails_too() -> None:
    drive = Drive({"steps": [call("a")], "finally": [call("z", inputs={"e": "{{ job.error.type }}"})]})
    drive.fail("a", "first")
    assert drive.inputs("z") == {"e": "first"}
    drive.fail("z", "second")
    assert str(drive.status) == "FAILED"
    assert drive.last("job.failed")["error"]["type"] == "first"
    assert [error["type"] for error in drive.state.errors] == ["first", "second"]


def test_finally_is_not_paused_but_given_back_and_taken_up_again() -> None:
    drive = Drive(CLEAN)
    drive.succeed("a")
    drive.succeed("b")
    assert "finally steps are running" in (drive.refuses("pause") or "")
    drive.release()
    drive.succeed("z")
    assert str(drive.status) == "QUEUED"
    drive.claim("worker-2")
    assert drive.running == ["y"]
    drive.succeed("y")
    assert str(drive.status) == "COMPLETED"


def test_progress_is_complete_before_finally_and_never_falls() -> None:
    drive = Drive(CLEAN)
    seen = [drive.state.progress]
    for path in ("a", "b", "z", "y"):
        drive.succeed(path)
        seen.append(drive.state.progress)
    assert seen == sorted(seen)
    assert seen == [0.0, 0.5, 1.0, 1.0, 1.0]


def test_tick_of_a_cancelled_job_in_the_queue_changes_nothing() -> None:
    drive = Drive(CLEAN)
    drive.pause()
    drive.succeed("a")
    drive.cancel()
    before = len(drive.history)
    drive.turn(Tick())
    assert len(drive.history) == before
