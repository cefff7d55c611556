"""Pause, cancel and failure of a job with children: it is PAUSED or final only when they are."""

from __future__ import annotations

from typing import Any

import pytest

from openagents_json.errors import InvalidTransition
from openagents_json.job.machine import Requested
from openagents_json.job.views import _waiting_for
from tests.unit.machine.drive import START_US, Definition, call
from tests.unit.machine.family import Family, Member

SUB = {"id": "sub", "workflow": "child"}
CHILD = [call("a"), call("b")]
CLEAN: dict[str, Any] = {"steps": [call("a")], "finally": [call("z")]}


def family(*steps: dict[str, Any], child: Definition = CHILD, **others: Definition) -> Family:
    """A parent of these steps whose first turns, and those of its children, are over."""
    made = Family({"parent": list(steps) or [SUB], "child": child, **others})
    made.settle()
    return made


def grandparents() -> Family:
    return family(child=[{"id": "deep", "workflow": "grand"}], grand=CHILD)


def waits(member: Member) -> list[tuple[str, str]]:
    return [(wait["job_id"], wait["for"]) for wait in _waiting_for(member.state, ()) if wait["kind"] == "child"]


# ── pause ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_parent_is_paused_only_when_its_child_is() -> None:
    jobs = family()
    jobs.parent.request("pause", by="ann", reason="lunch")
    jobs.settle()
    assert jobs.statuses() == {"parent": "WAITING", "child-1": "RUNNING"}
    assert jobs.parent.state.pause_requested and jobs.parent.state.worker is None
    assert waits(jobs.parent) == [("child-1", "pause")]
    assert jobs["child-1"].state.pause == {"by": "ann", "reason": "lunch", "at_us": START_US}
    jobs["child-1"].succeed("a")
    assert jobs.statuses() == {"parent": "WAITING", "child-1": "PAUSED"}
    jobs.settle()
    assert jobs.statuses() == {"parent": "PAUSED", "child-1": "PAUSED"}
    asked = next(event.number for event in jobs.parent.history if event.type == "job.pause_requested")
    assert jobs.parent.last("child.paused") == {"path": "sub", "child_id": "child-1", "pause": asked}


def test_parent_with_steps_of_its_own_waits_for_them_and_for_the_child() -> None:
    jobs = family(SUB, call("own", needs=[]))
    jobs.parent.pause()
    jobs.settle()
    jobs["child-1"].succeed("a")
    jobs.settle()
    assert jobs.statuses() == {"parent": "RUNNING", "child-1": "PAUSED"}
    assert waits(jobs.parent) == []
    jobs.parent.succeed("own")
    assert jobs.statuses() == {"parent": "PAUSED", "child-1": "PAUSED"}


def test_pause_goes_down_to_grandchildren_and_is_true_from_below() -> None:
    jobs = grandparents()
    jobs.parent.pause()
    jobs.settle()
    assert jobs.statuses() == {"parent": "WAITING", "child-1": "WAITING", "grand-2": "RUNNING"}
    jobs["grand-2"].succeed("a")
    jobs.settle()
    assert set(jobs.statuses().values()) == {"PAUSED"}
    jobs.parent.resume()
    jobs.settle()
    assert jobs["grand-2"].running == ["b"]
    jobs["grand-2"].succeed("b")
    jobs.settle()
    assert set(jobs.statuses().values()) == {"COMPLETED"}


def test_end_of_the_child_is_as_good_as_its_pause() -> None:
    jobs = family(child=[call("a")])
    jobs["child-1"].succeed("a", 1)  # its word is on the way
    jobs.parent.pause()
    assert str(jobs.parent.status) == "WAITING"
    jobs.settle()
    assert jobs.statuses() == {"parent": "PAUSED", "child-1": "COMPLETED"}
    jobs.parent.resume()
    jobs.settle()
    assert str(jobs.parent.status) == "COMPLETED"


def test_child_that_cannot_be_paused_any_more_ends_first() -> None:
    jobs = family(child=CLEAN)
    jobs["child-1"].succeed("a")
    jobs.parent.pause()
    jobs.settle()
    assert jobs.statuses() == {"parent": "WAITING", "child-1": "RUNNING"}
    jobs["child-1"].succeed("z")
    jobs.settle()
    assert jobs.statuses() == {"parent": "PAUSED", "child-1": "COMPLETED"}


def test_parent_that_is_queued_or_whose_worker_dies_waits_for_the_pause_of_its_child() -> None:
    jobs = family(SUB, call("own", needs=[]))
    jobs.parent.release()
    jobs.parent.stop("own", "shutdown")
    assert str(jobs.parent.status) == "QUEUED"
    jobs.parent.pause()
    assert str(jobs.parent.status) == "WAITING"
    jobs = family(SUB, call("own", needs=[]))
    jobs.parent.pause()
    jobs.settle()
    jobs.parent.crash()
    assert (str(jobs.parent.status), jobs.parent.state.pause_requested) == ("WAITING", True)
    jobs["child-1"].succeed("a")
    jobs.settle()
    assert str(jobs.parent.status) == "PAUSED"


def test_timers_and_signals_do_not_wake_a_parent_that_is_being_paused() -> None:
    jobs = family(SUB, {"id": "w", "wait": {"seconds": 60}, "needs": []}, {"id": "g", "signal": "go", "needs": []})
    jobs.parent.pause()
    jobs.parent.tick(100)
    jobs.parent.request("signal", name="go", payload=1)
    assert (str(jobs.parent.status), jobs.parent.state.wake_us) == ("WAITING", None)
    assert "step.completed" not in jobs.parent.types
    jobs.parent.resume()
    jobs.settle()
    assert jobs.parent.paths("step.completed") == ["w", "g"]


def test_resume_before_the_pause_is_true_withdraws_it_down_the_tree() -> None:
    jobs = grandparents()
    jobs.parent.pause()
    jobs.settle()
    jobs.parent.resume()
    jobs.settle()
    assert all(one.types.count("job.pause_withdrawn") == 1 for one in jobs.members.values())
    assert not any(one.state.pause_requested for one in jobs.members.values())
    jobs["grand-2"].finish()
    jobs.settle()
    assert set(jobs.statuses().values()) == {"COMPLETED"}


def test_pause_of_a_child_alone_does_not_pause_the_parent() -> None:
    jobs = family()
    child = jobs["child-1"]
    child.pause()
    child.succeed("a")
    jobs.settle()
    assert jobs.statuses() == {"parent": "WAITING", "child-1": "PAUSED"}
    assert jobs.parent.last("child.paused") == {"path": "sub", "child_id": "child-1"}
    [wait] = _waiting_for(jobs.parent.state, ())
    assert (wait["for"], wait["paused"]) == ("end", True)
    child.resume()
    jobs.settle()
    assert jobs.parent.types[-1] == "child.resumed" and not jobs.parent.state.paused_children


def test_child_that_was_paused_alone_is_held_by_the_pause_of_its_parent_as_well() -> None:
    jobs = family()
    child = jobs["child-1"]
    child.pause()
    child.succeed("a")
    jobs.settle()
    jobs.parent.pause()
    assert str(jobs.parent.status) == "WAITING", "the child may be resumed before it hears of it"
    jobs.settle()
    assert jobs.statuses() == {"parent": "PAUSED", "child-1": "PAUSED"}
    with pytest.raises(InvalidTransition, match="paused with its parent parent; resume that job"):
        child.resume()
    jobs.parent.resume()
    jobs.settle()
    assert child.running == ["b"]


def test_child_of_a_parent_that_is_being_paused_cannot_be_resumed_alone() -> None:
    jobs = family()
    jobs.parent.pause()
    jobs.settle()
    assert "resume that job" in (jobs["child-1"].refuses("resume") or "")
    jobs.parent.resume()
    jobs.settle()
    jobs["child-1"].pause()
    assert jobs["child-1"].refuses("resume") is None


def test_late_word_of_an_earlier_pause_does_not_make_the_next_one_true() -> None:
    jobs = family()
    child = jobs["child-1"]
    jobs.parent.pause()
    jobs.deliver("child-1")
    child.succeed("a")  # PAUSED, and its word lies in the parent's inbox
    jobs.parent.resume()
    jobs.parent.pause()
    jobs.deliver("parent")
    assert str(jobs.parent.status) == "WAITING"
    jobs.deliver("child-1")  # the resume
    assert str(child.status) == "QUEUED"
    jobs.settle()
    assert jobs.statuses() == {"parent": "PAUSED", "child-1": "PAUSED"}


def test_cancel_of_a_paused_child_alone_takes_the_parent_out_of_its_pause_until_the_child_has_cleaned_up() -> None:
    jobs = family(child={"steps": [call("a"), call("b")], "finally": [call("z")]})
    child = jobs["child-1"]
    jobs.parent.pause()
    jobs.settle()
    child.succeed("a")
    jobs.settle()
    child.cancel()
    jobs.settle()
    assert child.running == ["z"]
    assert (str(jobs.parent.status), jobs.parent.state.pause_requested) == ("WAITING", True)
    child.succeed("z")
    jobs.settle()
    assert jobs.statuses() == {"parent": "PAUSED", "child-1": "CANCELLED"}
    jobs.parent.resume()
    jobs.settle()
    assert str(jobs.parent.status) == "FAILED"


def test_items_of_a_spread_are_paused_and_resumed_with_their_parent() -> None:
    jobs = family({"id": "each", "foreach": [1, 2, 3], "spread": True, "concurrency": 2, "steps": CHILD})
    assert list(jobs.members) == ["parent", "item-1", "item-2"]
    jobs["item-1"].finish()
    jobs.parent.pause()
    jobs.settle()
    assert len(jobs.members) == 3, "no further item starts"
    jobs["item-2"].succeed("a")
    jobs.settle()
    assert jobs.statuses() == {"parent": "PAUSED", "item-1": "COMPLETED", "item-2": "PAUSED"}
    jobs.parent.resume()
    jobs.settle()
    for name in ("item-2", "item-3"):
        jobs[name].finish()
    jobs.settle()
    assert set(jobs.statuses().values()) == {"COMPLETED"}


def test_detached_children_are_never_touched_and_tell_nothing() -> None:
    jobs = family({**SUB, "detached": True}, call("own", needs=[]))
    jobs.parent.pause()
    jobs.parent.succeed("own")
    jobs["child-1"].pause()
    jobs["child-1"].succeed("a")
    assert jobs.statuses() == {"parent": "PAUSED", "child-1": "PAUSED"}
    assert not any(jobs.inboxes.values())
    jobs.parent.cancel(force=True)
    assert not any(jobs.inboxes.values())


# ── cancel and failure ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("force", [False, True])
def test_cancelled_parent_is_final_only_when_its_children_and_theirs_are(force: bool) -> None:
    jobs = grandparents()
    jobs.parent.cancel(force)
    jobs.settle()
    assert jobs.statuses() == {"parent": "WAITING", "child-1": "WAITING", "grand-2": "RUNNING"}
    assert waits(jobs.parent) == [("child-1", "cancel")]
    assert jobs["grand-2"].last("job.cancel_requested")["force"] is force
    jobs["grand-2"].stop("a")
    jobs.settle()
    assert set(jobs.statuses().values()) == {"CANCELLED"}


def test_force_after_a_gentle_cancel_reaches_the_children() -> None:
    jobs = family(child=CLEAN)
    jobs.parent.cancel()
    jobs.settle()
    jobs.parent.cancel(force=True)
    jobs.settle()
    jobs["child-1"].stop("a")
    jobs.settle()
    assert jobs.statuses() == {"parent": "CANCELLED", "child-1": "CANCELLED"}
    assert jobs["child-1"].last("job.cancelled")["skipped"] == ["finally"]


def test_cancel_of_a_paused_parent_waits_for_what_its_paused_child_cleans_up() -> None:
    jobs = family(child={"steps": [call("a"), call("b")], "finally": [call("z")]})
    jobs.parent.pause()
    jobs.settle()
    jobs["child-1"].succeed("a")
    jobs.settle()
    jobs.parent.cancel()
    jobs.settle()
    assert jobs.statuses() == {"parent": "WAITING", "child-1": "RUNNING"}
    jobs["child-1"].succeed("z")
    jobs.settle()
    assert jobs.statuses() == {"parent": "CANCELLED", "child-1": "CANCELLED"}


@pytest.mark.parametrize("handled", [{}, {"continue_on_error": True}])
def test_step_whose_child_ran_out_of_time_fails_when_the_child_has_ended(handled: dict[str, Any]) -> None:
    jobs = family({**SUB, "timeout": 60, **handled}, {"id": "after", "set": 1})
    jobs.parent.tick(61)
    jobs.settle()
    assert jobs.parent.types[-2:] == ["step.timed_out", "job.waiting"]
    assert waits(jobs.parent) == [("child-1", "cancel")]
    assert jobs["child-1"].told == {"a": "cancelled"}
    jobs["child-1"].succeed("a")  # within its grace
    jobs.settle()
    assert str(jobs["child-1"].status) == "CANCELLED"
    assert str(jobs.parent.status) == ("COMPLETED" if handled else "FAILED")
    assert jobs.parent.last("step.failed")["error"]["type"] == "timeout.step"
    assert jobs.parent.types.index("child.ended") < jobs.parent.types.index("step.failed")


def test_retry_of_a_step_that_ran_out_of_time_begins_after_the_end_of_the_child() -> None:
    jobs = family({**SUB, "timeout": 60, "retry": {"max_attempts": 2, "delay_seconds": 0}})
    jobs.parent.tick(61)
    jobs.settle()
    assert list(jobs.members) == ["parent", "child-1"]
    jobs["child-1"].stop("a")
    jobs.settle()
    jobs["child-2"].finish()
    jobs.settle()
    assert jobs.statuses() == {"parent": "COMPLETED", "child-1": "CANCELLED", "child-2": "COMPLETED"}


def test_job_that_ran_out_of_time_or_whose_sibling_failed_ends_after_its_child() -> None:
    late = Family({"parent": {"steps": [SUB], "timeout": 60}, "child": CHILD})
    late.settle()
    late.parent.tick(61)
    late.settle()
    broken = family(SUB, call("own", needs=[]))
    broken.parent.fail("own")
    broken.settle()
    for jobs in (late, broken):
        assert jobs.statuses() == {"parent": "WAITING", "child-1": "RUNNING"}
        assert waits(jobs.parent) == [("child-1", "cancel")]
        jobs["child-1"].stop("a")
        jobs.settle()
        assert jobs.statuses() == {"parent": "FAILED", "child-1": "CANCELLED"}


def test_first_branch_that_ends_well_waits_for_the_child_of_the_other() -> None:
    race = {"slow": [SUB], "quick": [call("q")]}
    jobs = family({"id": "race", "parallel": race, "wait_for": "first"})
    jobs.parent.succeed("race[quick].q")
    jobs.settle()
    assert jobs.statuses() == {"parent": "WAITING", "child-1": "RUNNING"}
    jobs["child-1"].stop("a")
    jobs.settle()
    assert jobs.statuses() == {"parent": "COMPLETED", "child-1": "CANCELLED"}


def test_compensation_begins_after_the_children_have_ended() -> None:
    jobs = family(call("first", compensate={"component": "undo"}), SUB)
    jobs.parent.succeed("first")
    jobs.settle()
    jobs.parent.cancel()
    jobs.settle()
    assert "job.compensation_started" not in jobs.parent.types
    jobs["child-1"].stop("a")
    jobs.settle()
    assert jobs.parent.running == ["first[undo]"]


def test_child_of_the_finally_steps_of_a_cancelled_job_is_told_when_their_time_is_over() -> None:
    jobs = Family({"parent": {"steps": [call("a")], "finally": [SUB]}, "child": CHILD})
    jobs.settle()
    jobs.parent.cancel()
    jobs.parent.stop("a")
    jobs.settle()
    assert jobs["child-1"].running == ["a"]
    jobs.parent.tick(601)
    jobs.settle()
    assert jobs["child-1"].told == {"a": "cancelled"}
    jobs["child-1"].stop("a")
    jobs.settle()
    assert jobs.statuses() == {"parent": "CANCELLED", "child-1": "CANCELLED"}


def test_job_that_three_dead_workers_end_says_how_many_children_still_run() -> None:
    jobs = family(SUB, call("own", needs=[]))
    for _ in range(3):
        jobs.parent.crash()
        if str(jobs.parent.status) == "QUEUED":
            jobs.parent.claim()
    assert (str(jobs.parent.status), jobs.parent.last("job.failed")["children"]) == ("FAILED", 1)
    jobs.settle()
    assert jobs["child-1"].last("job.cancel_requested")["reason"] == "its parent is FAILED"


def test_cancel_reaches_a_child_that_was_created_in_the_commit_before() -> None:
    jobs = family(call("a"), SUB)
    jobs.parent.turn(jobs.parent.succeeded("a"))
    jobs.parent.turn(Requested("cancel", arguments={"force": False}))
    jobs.settle()
    assert jobs.statuses() == {"parent": "CANCELLED", "child-1": "CANCELLED"}
    assert jobs["child-1"].called == []
