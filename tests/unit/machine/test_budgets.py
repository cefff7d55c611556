"""Budgets: what jobs spend is counted whatever becomes of their attempts, and who has spent all is paused."""

from __future__ import annotations

from typing import Any

import pytest

from openagents_json.clock import SECOND_US
from openagents_json.job.machine import next_due_us, spent_by
from openagents_json.job.machine.spending import TOLD_IN
from openagents_json.job.model import JobStatus, StepStatus
from tests.unit.machine.drive import START_US, Drive, call, reloaded
from tests.unit.machine.family import Family

TWO = [call("a"), call("b")]


def limited(budget: dict[str, Any], *steps: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A definition with a budget; of two calls unless other steps are given."""
    return {"budget": budget, "steps": list(steps) or TWO} | fields


# ── counting ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_seconds_are_those_during_which_attempts_were_on() -> None:
    drive = Drive([call("a", needs=[]), call("b", needs=[]), call("c")])
    drive.now_us += 2 * SECOND_US
    drive.succeed("a")
    drive.now_us += 3 * SECOND_US
    drive.succeed("b")
    assert spent_by(drive.state) == {"time_us": 7 * SECOND_US}
    drive.now_us += SECOND_US
    drive.pause()
    assert spent_by(drive.state) == {"time_us": 8 * SECOND_US}
    drive.succeed("c")
    drive.now_us += 100 * SECOND_US
    drive.resume()
    assert spent_by(drive.state) == {"time_us": 8 * SECOND_US}, "nothing is on while it is paused"


def test_clock_that_was_set_back_takes_nothing_away() -> None:
    drive = Drive(TWO)
    drive.now_us += 5 * SECOND_US
    drive.succeed("a")
    drive.now_us -= 60 * SECOND_US
    drive.succeed("b")
    assert spent_by(drive.state) == {"time_us": 5 * SECOND_US}


@pytest.mark.parametrize("end", ["succeed", "fail", "stop", "doubt", "retry"])
def test_reports_stand_in_the_event_that_ends_their_attempt(end: str) -> None:
    step = call("a", effect="once") if end == "doubt" else call("a")
    if end == "retry":
        step["retry"] = {"max_attempts": 2, "delay_seconds": 1}
    drive = Drive([step, call("b")])
    report = drive.spent("a", tokens=10, cost_nanos=5)
    match end:
        case "succeed":
            drive.turn(report, report, drive.succeeded("a"))
        case "fail" | "retry":
            drive.turn(report, report, drive.failed("a"))
        case "doubt":
            drive.turn(report, report, drive.failed("a", "timeout.attempt"))
        case _:
            drive.cancel()
            drive.turn(report, report, drive.stopped("a"))
    type = {"succeed": "step.completed", "stop": "attempt.cancelled", "doubt": "step.in_doubt"}.get(
        end, "attempt.failed"
    )
    assert drive.last(type)["spent"] == {"tokens": 20, "cost_nanos": 10}
    assert "attempt.spent" not in drive.types
    assert drive.state.spent == drive.run("a").spent == {"tokens": 20, "cost_nanos": 10}


def test_attempt_that_goes_on_has_one_event_for_all_that_came_together() -> None:
    drive = Drive(TWO)
    drive.turn(drive.spent("a", tokens=1), drive.spent("a", tokens=2), drive.spent("a", cost_nanos=3))
    drive.turn(drive.spent("a", tokens=4), drive.succeeded("a"))
    drive.turn(drive.spent("b", tokens=5))
    assert [event.data["spent"] for event in drive.history if "spent" in event.data] == [
        {"tokens": 3, "cost_nanos": 3}, {"tokens": 4}, {"tokens": 5},
    ]  # fmt: skip
    assert drive.types.count("attempt.spent") == 2
    assert drive.state.spent == {"tokens": 12, "cost_nanos": 3}


def test_report_of_an_attempt_that_is_over_is_not_counted() -> None:
    drive = Drive([call("a", retry={"max_attempts": 2, "delay_seconds": 0})])
    late = drive.spent("a", tokens=1)
    drive.fail("a")
    drive.turn(late)
    assert drive.state.spent == {}
    drive.tick()
    drive.turn(drive.spent("a", tokens=2))
    assert drive.state.spent == {"tokens": 2}


@pytest.mark.parametrize("effect", [{}, {"effect": "once"}])
def test_time_of_an_attempt_that_died_with_its_worker_ends_with_the_last_event_before(effect: dict[str, Any]) -> None:
    drive = Drive([call("a", needs=[], **effect), call("b", needs=[], **effect), call("c")])
    drive.now_us += 4 * SECOND_US
    drive.turn(drive.spent("a", tokens=1))
    drive.now_us += 1_000_000 * SECOND_US
    drive.crash()
    assert spent_by(drive.state) == {"time_us": 8 * SECOND_US, "tokens": 1}


def test_totals_stay_where_64_bits_end() -> None:
    drive = Drive(TWO)
    for _ in range(10):
        drive.turn(drive.spent("a", tokens=10**18))
    assert drive.state.spent["tokens"] == 4 * 10**18
    assert spent_by(reloaded(drive.state)) == spent_by(drive.state)


# ── the budget is spent ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("budget", "amounts", "reason"),
    [
        ({"tokens": 10_000}, {"tokens": 10_240}, "budget of 10,000 tokens is spent (10,240)"),
        ({"tokens": 1}, {"tokens": 1}, "budget of 1 token is spent (1)"),
        ({"cost": 2.5}, {"cost_nanos": 2_600_000_000}, "budget of a cost of 2.5 is spent (2.6)"),
        ({"cost": 0.1, "tokens": 99}, {"cost_nanos": 100_000_000}, "budget of a cost of 0.1 is spent (0.1)"),
    ],
)
def test_job_that_has_spent_its_budget_pauses_and_says_why(
    budget: dict[str, Any], amounts: dict[str, int], reason: str
) -> None:
    drive = Drive(limited(budget))
    drive.turn(drive.spent("a", **amounts), drive.succeeded("a"))
    assert drive.status == JobStatus.PAUSED
    asked = drive.last("job.pause_requested")
    assert (asked["by"], asked["reason"]) == ("budget", reason)
    assert drive.called == ["a"]


def test_running_attempts_end_and_are_recorded_before_the_pause() -> None:
    drive = Drive(limited({"tokens": 10}, call("a", needs=[]), call("b", needs=[]), call("c")))
    drive.turn(drive.spent("a", tokens=10))
    assert (drive.status, drive.state.pause_requested, drive.running) == (JobStatus.RUNNING, True, ["a", "b"])
    drive.turn(drive.spent("b", tokens=5), drive.succeeded("a"))
    drive.succeed("b")
    assert (drive.status, drive.called) == (JobStatus.PAUSED, ["a", "b"])
    assert drive.state.spent == {"tokens": 15}
    assert drive.types.count("job.pause_requested") == 1


def test_less_than_the_budget_holds_nothing_back() -> None:
    drive = Drive(limited({"tokens": 10, "seconds": 5, "cost": 1}))
    drive.turn(drive.spent("a", tokens=9, cost_nanos=999_999_999, seconds=4.9), drive.succeeded("a"))
    assert (drive.status, drive.running) == (JobStatus.RUNNING, ["b"])


def test_seconds_are_spent_while_an_attempt_is_on() -> None:
    drive = Drive(limited({"seconds": 10}, call("a", needs=[]), call("b", needs=[]), call("c")))
    assert next_due_us(drive.state) == START_US + 5 * SECOND_US, "two attempts spend twice as fast"
    drive.now_us += 2 * SECOND_US
    drive.succeed("b")
    assert next_due_us(drive.state) == START_US + 8 * SECOND_US
    drive.refold()
    assert next_due_us(drive.state) == START_US + 8 * SECOND_US
    drive.tick(5.999999)
    assert not drive.state.pause_requested
    drive.tick(0.000001)
    assert drive.last("job.pause_requested")["reason"] == "budget of 10 seconds is spent (10)"
    assert next_due_us(drive.state) is None, "it is asked once"
    drive.now_us += 3 * SECOND_US
    drive.succeed("a")
    assert drive.status == JobStatus.PAUSED
    assert spent_by(drive.state) == {"time_us": 13 * SECOND_US}
    assert "budget of 10 seconds is spent (13)" in (drive.refuses("resume") or "")


# ── what holds nothing back ───────────────────────────────────────────────────────────────────────────────────────


def test_job_that_ends_with_its_last_token_is_completed() -> None:
    drive = Drive(limited({"tokens": 10}, call("a")))
    drive.turn(drive.spent("a", tokens=10), drive.succeeded("a"))
    assert drive.status == JobStatus.COMPLETED
    assert "job.pause_requested" not in drive.types


def test_container_that_ends_with_the_last_token_ends_its_job() -> None:
    each = {"id": "each", "foreach": [1, 2], "steps": [{"id": "way", "switch": [{"when": True, "steps": [call("a")]}]}]}
    drive = Drive(limited({"tokens": 10}, each))
    first, last = drive.running
    drive.succeed(first)
    drive.turn(drive.spent(last, tokens=10), drive.succeeded(last))
    assert drive.status == JobStatus.COMPLETED
    assert "job.pause_requested" not in drive.types


def test_repeat_that_would_go_round_again_is_held_back() -> None:
    loop = {"id": "loop", "repeat": {"until": "{{ last == 'loop' }}", "max_iterations": 3}, "steps": [call("a")]}
    drive = Drive(limited({"tokens": 10}, loop))
    path = drive.running[0]
    drive.turn(drive.spent(path, tokens=10), drive.succeeded(path))
    assert (drive.status, len(drive.called)) == (JobStatus.PAUSED, 1)


def test_pause_is_withdrawn_when_what_ran_was_all_that_was_left() -> None:
    drive = Drive(limited({"tokens": 10}, call("a")))
    drive.turn(drive.spent("a", tokens=10))
    assert drive.state.pause_requested
    drive.succeed("a")
    assert drive.status == JobStatus.COMPLETED
    assert drive.last("job.pause_withdrawn") == {"by": "budget", "reason": "nothing more is to start"}


def test_pause_that_somebody_asked_for_is_not_withdrawn() -> None:
    drive = Drive(limited({"tokens": 10}, call("a")))
    drive.request("pause", by="budget", reason="a person by that name")
    drive.turn(drive.spent("a", tokens=10), drive.succeeded("a"))
    assert drive.status == JobStatus.PAUSED
    assert drive.types.count("job.pause_requested") == 1


def test_job_that_somebody_paused_at_its_end_needs_no_more_budget() -> None:
    drive = Drive(limited({"tokens": 10}, call("a")))
    drive.pause()
    drive.turn(drive.spent("a", tokens=10), drive.succeeded("a"))
    assert str(drive.status) == "PAUSED"
    drive.resume()
    drive.claim()
    assert drive.status == JobStatus.COMPLETED


def test_job_that_lets_siblings_finish_after_a_failure_is_held_back_where_they_would_begin_more() -> None:
    each = {"id": "each", "foreach": [1, 2], "concurrency": 1, "steps": [call("a")], "needs": []}
    drive = Drive(limited({"tokens": 10}, each, call("b", needs=[], fail_fast=False)))
    drive.fail("b")
    first = drive.running[0]
    drive.turn(drive.spent(first, tokens=10), drive.succeeded(first))
    assert str(drive.status) == "PAUSED"
    drive.request("add_budget", amounts={"tokens": 1})
    drive.resume()
    drive.claim()
    drive.succeed(drive.running[0])
    assert drive.status == JobStatus.FAILED


def test_job_that_fails_is_not_held_back() -> None:
    drive = Drive(limited({"tokens": 10}, call("a", needs=[]), call("b", needs=[]), call("c")))
    drive.turn(drive.spent("a", tokens=10), drive.failed("a"))
    assert not drive.state.pause_requested
    drive.stop("b")
    assert drive.status == JobStatus.FAILED


def test_sibling_that_fails_the_job_withdraws_the_pause() -> None:
    drive = Drive(limited({"tokens": 10}, call("a", needs=[]), call("b", needs=[]), call("c")))
    drive.turn(drive.spent("a", tokens=10))
    drive.fail("b")
    drive.stop("a")
    assert drive.status == JobStatus.FAILED
    assert "job.pause_withdrawn" in drive.types


@pytest.mark.parametrize("phase", ["compensation", "finally", "cancel"])
def test_cleanup_spends_and_is_not_held_back(phase: str) -> None:
    steps = [call("a", compensate={"component": "undo"}), call("b")]
    drive = Drive(limited({"tokens": 10}, *steps, **{"finally": [call("late"), call("later")]}))
    drive.succeed("a")
    if phase == "cancel":
        drive.cancel()
        drive.turn(drive.spent("b", tokens=20), drive.stopped("b"))
    elif phase == "compensation":
        drive.fail("b")
    else:
        drive.succeed("b")
    while drive.running:
        path = drive.running[0]
        drive.turn(drive.spent(path, tokens=20))
        drive.succeed(path)
    assert drive.status.is_final
    assert "job.pause_requested" not in drive.types
    assert drive.state.spent["tokens"] == (80 if phase == "cancel" else 60 if phase == "compensation" else 40)
    assert next_due_us(drive.state) is None


def test_waiting_job_with_something_left_is_paused() -> None:
    drive = Drive(limited({"tokens": 10}, call("a", needs=[]), {"id": "s", "signal": "go", "needs": []}, call("b")))
    drive.turn(drive.spent("a", tokens=10), drive.succeeded("a"))
    assert drive.status == JobStatus.PAUSED
    drive.request("signal", name="go", payload=1)
    assert drive.status == JobStatus.PAUSED
    drive.request("add_budget", amounts={"tokens": 1})
    drive.resume()
    drive.claim()
    assert drive.running == ["b"]


# ── more of it ────────────────────────────────────────────────────────────────────────────────────────────────────


def paused() -> Drive:
    drive = Drive(limited({"tokens": 10, "seconds": 100}))
    drive.turn(drive.spent("a", tokens=12), drive.succeeded("a"))
    assert drive.status == JobStatus.PAUSED
    return drive


def test_resume_without_more_budget_says_what_to_do() -> None:
    drive = paused()
    refusal = drive.refuses("resume") or ""
    assert "its budget of 10 tokens is spent (12); give it more first, by add_budget" in refusal
    drive.request("add_budget", amounts={"tokens": 2}, by="ada", reason="go on")
    assert drive.last("job.budget_added") == {"amounts": {"tokens": 2}, "by": "ada", "reason": "go on"}
    assert "budget of 12 tokens is spent (12)" in (drive.refuses("resume") or "")
    drive.request("add_budget", amounts={"tokens": 8})
    assert drive.state.budget == {"tokens": 20, "time_us": 100 * SECOND_US}
    drive.resume()
    drive.claim()
    drive.turn(drive.spent("b", tokens=8), drive.succeeded("b"))
    assert drive.status == JobStatus.COMPLETED


def test_pause_that_is_not_effective_yet_is_not_withdrawn_without_more_budget() -> None:
    drive = Drive(limited({"tokens": 10}))
    drive.turn(drive.spent("a", tokens=10))
    assert drive.refuses("resume") is not None
    drive.request("add_budget", amounts={"tokens": 10})
    drive.resume()
    drive.succeed("a")
    assert drive.running == ["b"]


@pytest.mark.parametrize("status", ["CREATED", "QUEUED", "RUNNING", "WAITING", "PAUSED", "COMPLETED"])
def test_budget_is_added_until_the_job_is_final(status: str) -> None:
    steps = [call("a"), {"id": "nap", "wait": {"seconds": 60}}]
    drive = Drive(limited({"cost": 1}, *steps), start=status != "CREATED", claim=status not in ("CREATED", "QUEUED"))
    if status in ("WAITING", "COMPLETED"):
        drive.succeed("a")
    if status == "COMPLETED":
        drive.tick(60)
        drive.claim()
    if status == "PAUSED":
        drive.pause()
        drive.succeed("a")
    assert drive.status == status
    refusal = drive.refuses("add_budget", amounts={"cost_nanos": 5})
    assert (refusal is None) == (status != "COMPLETED")
    assert drive.state.budget == {"cost_nanos": 1_000_000_005 if refusal is None else 1_000_000_000}


def test_nothing_is_added_to_what_is_not_limited() -> None:
    drive = Drive(limited({"tokens": 10}))
    refusal = drive.refuses("add_budget", amounts={"tokens": 1, "time_us": 1, "cost_nanos": 1}) or ""
    assert "it has no budget of seconds and cost, so that there is nothing to add to" in refusal
    assert drive.state.budget == {"tokens": 10}


# ── children ──────────────────────────────────────────────────────────────────────────────────────────────────────


def family(budget: dict[str, Any] | None, child: dict[str, Any] | None = None, **step: Any) -> Family:
    """A parent with a child of two calls, and a call after it."""
    start = {"id": "child", "workflow": "child"} | step
    parent = {"steps": [start, call("after")]} | ({} if budget is None else {"budget": budget})
    return Family({"parent": parent, "child": {"steps": TWO} | (child or {})})


def test_what_a_child_spends_counts_for_its_parent_when_it_ends() -> None:
    members = family(None)
    members.settle()
    child = members["child-1"]
    child.turn(child.spent("a", tokens=10, seconds=2), child.succeeded("a"))
    child.turn(child.spent("b", tokens=5, cost_nanos=7, seconds=3), child.failed("b"))
    assert spent_by(members.parent.state) == {"time_us": 0}
    members.settle()
    assert members.parent.last("child.ended")["spent"] == {"time_us": 5 * SECOND_US, "tokens": 15, "cost_nanos": 7}
    assert spent_by(members.parent.state) == {"time_us": 5 * SECOND_US, "tokens": 15, "cost_nanos": 7}
    assert "child.spent" not in members.parent.types, "nobody above has a budget"


def test_child_tells_a_parent_that_has_a_budget_while_it_runs() -> None:
    members = family({"tokens": 200})
    members.settle()
    child = members["child-1"]
    each = 200 // TOLD_IN
    for _ in range(each):
        child.turn(child.spent("a", tokens=1))
    members.settle()
    assert [event.data["spent"]["tokens"] for event in members.parent.history if event.type == "child.spent"] == [each]
    child.turn(child.spent("a", tokens=200), child.succeeded("a"))
    members.settle()
    assert members.parent.state.spent == {"tokens": 200 + each}
    assert members.statuses() == {"parent": "WAITING", "child-1": "RUNNING"}
    assert members.parent.state.pause_requested and child.state.pause_requested
    child.succeed("b")
    members.settle()
    assert members.statuses() == {"parent": "PAUSED", "child-1": "PAUSED"}
    members.check()


def test_parent_pauses_its_children_with_it_and_resumes_them() -> None:
    members = family({"tokens": 20})
    members.settle()
    child = members["child-1"]
    child.turn(child.spent("a", tokens=20))
    members.settle()
    assert members.parent.state.pause_requested and child.state.pause_requested
    child.succeed("a")
    members.settle()
    assert members.statuses() == {"parent": "PAUSED", "child-1": "PAUSED"}
    assert "paused with its parent" in (child.refuses("resume") or "")
    members.parent.request("add_budget", amounts={"tokens": 100})
    members.parent.resume()
    members.settle()
    child.turn(child.spent("b", tokens=1), child.succeeded("b"))
    members.settle()
    assert members.parent.running == ["after"]
    assert members.parent.state.spent == {"tokens": 21}, "what was told before is not counted twice"
    assert members.parent.state.children_spent == {}


def test_child_has_the_budget_of_its_own_workflow_and_its_parent_waits() -> None:
    members = family(None, {"budget": {"tokens": 5}})
    members.settle()
    child = members["child-1"]
    child.turn(child.spent("a", tokens=5), child.succeeded("a"))
    members.settle()
    assert members.statuses() == {"parent": "WAITING", "child-1": "PAUSED"}
    assert members.parent.state.spent == {}
    child.request("add_budget", amounts={"tokens": 5})
    child.resume()
    members.settle()
    assert child.running == ["b"]


def test_child_that_has_spent_its_own_budget_stays_paused_when_its_parent_is_resumed() -> None:
    members = family({"cost": 100}, {"budget": {"tokens": 5}})
    members.settle()
    child = members["child-1"]
    members.parent.pause()
    members.settle()
    child.turn(child.spent("a", tokens=5), child.succeeded("a"))
    members.settle()
    assert members.statuses() == {"parent": "PAUSED", "child-1": "PAUSED"}
    members.parent.resume()
    members.settle()
    assert members.statuses() == {"parent": "WAITING", "child-1": "PAUSED"}
    assert child.last("job.pause_requested")["by"] == "budget"
    assert "its budget of 5 tokens is spent" in (child.refuses("resume") or ""), "its parent holds it no more"
    child.request("add_budget", amounts={"tokens": 5})
    child.resume()
    members.settle()
    assert child.running == ["b"]


def test_grandchild_is_heard_by_all_above_it() -> None:
    members = Family(
        {
            "parent": {"budget": {"tokens": 40}, "steps": [{"id": "c", "workflow": "child"}, call("after")]},
            "child": [{"id": "g", "workflow": "grandchild"}, call("x")],
            "grandchild": TWO,
        }
    )
    members.settle()
    grandchild = members["grandchild-2"]
    grandchild.turn(grandchild.spent("a", tokens=40))
    members.settle()
    assert members.parent.state.pause_requested
    assert grandchild.state.pause_requested
    grandchild.succeed("a")
    members.settle()
    assert set(members.statuses().values()) == {"PAUSED"}
    members.check()


def test_detached_child_counts_for_itself() -> None:
    members = family({"tokens": 10}, detached=True)
    members.settle()
    child = members["child-1"]
    assert "told_each" not in (child.state.parent or {})
    child.turn(child.spent("a", tokens=100), child.succeeded("a"))
    child.succeed("b")
    members.settle()
    assert child.status == JobStatus.COMPLETED
    assert members.parent.state.spent == {}
    assert members.parent.running == ["after"]


def test_items_of_a_spread_count_for_their_job() -> None:
    each = {"id": "each", "foreach": [1, 2], "spread": True, "steps": [call("a")]}
    members = Family({"parent": {"budget": {"tokens": 1_000}, "steps": [each, call("after")]}})
    members.settle()
    for item in ("item-1", "item-2"):
        one = members[item]
        assert one.state.budget == {}, "the budget is that of the whole job"
        one.turn(one.spent("a", tokens=500), one.succeeded("a"))
    members.settle()
    assert members.parent.status == JobStatus.PAUSED
    assert members.parent.state.spent == {"tokens": 1_000}
    assert members.parent.run("each").status == StepStatus.COMPLETED
