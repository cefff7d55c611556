"""A job that retries another takes over recorded results, and the machine goes on as if they had come here."""

from __future__ import annotations

from typing import Any

import pytest

from openagents_json.job.machine import ScopeNames, step_output, takeover_problems
from openagents_json.job.machine.names import step_view
from openagents_json.job.machine.state import ROOT
from openagents_json.job.machine.taking import what_to_take_over
from openagents_json.jsondata import TooLarge
from openagents_json.workflow import limits
from tests.unit.machine.drive import Definition, Drive, call, plan_of, reloaded, takeover_of

CHAIN = [call("a"), call("b"), call("c")]


def failed(definition: Definition, path: str = "b", **outputs: Any) -> Drive:
    """A job in which everything before `path` succeeds and that step fails."""
    drive = Drive(definition)
    while path not in drive.running:
        drive.succeed(drive.running[0], outputs.get(drive.running[0], drive.running[0]))
    drive.fail(path, retryable=False)
    drive.finish()
    assert drive.status == "FAILED"
    return drive


def completed(definition: Definition, **outputs: Any) -> Drive:
    drive = Drive(definition)
    drive.finish(outputs)
    assert drive.status == "COMPLETED"
    return drive


def retry(origin: Drive, from_step: str | None = None, outputs: dict[str, Any] | None = None, **options: Any) -> Drive:
    takeover = takeover_of(origin.state, from_step, outputs)
    return Drive(origin.plan, origin.state.inputs, takeover=takeover, **options)


# ── which results ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_retry_of_a_failed_job_runs_what_failed_and_what_never_ran() -> None:
    again = retry(failed(CHAIN))
    assert again.types[:4] == ["job.created", "step.taken_over", "job.queued", "job.started"]
    assert again.last("step.taken_over") == {"path": "a", "status": "COMPLETED", "output": "a", "from": "job-1"}
    assert again.last("job.created")["origin"]["job_id"] == "job-1"
    assert again.running == ["b"]
    again.finish()
    assert (again.status, again.called) == ("COMPLETED", ["b", "c"])
    assert again.paths("step.completed") == ["b", "c"], "step.completed still means: it ran here"


def test_retry_from_a_step_runs_it_and_all_that_waits_for_it() -> None:
    again = retry(completed(CHAIN), "b")
    again.finish({"b": "new"})
    assert (again.called, again.paths("step.taken_over")) == (["b", "c"], ["a"])


def test_retry_of_a_completed_job_runs_everything_again() -> None:
    again = retry(completed(CHAIN))
    again.finish()
    assert again.called == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("from_step", "called"),
    [("left", ["left", "join"]), ("right", ["right", "join"]), ("start", ["start", "left", "right", "join"])],
)
def test_branches_that_do_not_wait_for_the_step_keep_their_results(from_step: str, called: list[str]) -> None:
    definition = [
        call("start"),
        call("left", needs=["start"]),
        call("right", needs=[], inputs={"x": "{{ steps.start.output }}"}),
        {"id": "join", "needs": ["left", "right"], "set": "{{ steps.left.output ~ steps.right.output }}"},
    ]
    origin = completed(definition)
    again = retry(origin, from_step)
    again.finish()
    assert again.called == [path for path in called if path != "join"]
    assert again.state.outputs == origin.state.outputs


def test_failure_that_the_job_went_on_after_is_a_result_and_runs_again_only_when_asked() -> None:
    definition = [
        call("a", continue_on_error=True),
        call("b", inputs={"was": "{{ steps.a.status }}", "why": "{{ steps.a.error.type }}"}),
        call("c"),
    ]
    origin = Drive(definition)
    origin.fail("a", "http.500", retryable=False)
    origin.succeed("b")
    origin.fail("c", retryable=False)
    again = retry(origin, "b")
    assert again.inputs("b") == {"was": "FAILED", "why": "http.500"}
    assert retry(origin).running == ["c"]
    assert retry(origin, "a").running == ["a"]


def test_step_that_was_undone_runs_again_and_so_does_what_waits_for_it() -> None:
    undo = {"component": "undo", "inputs": {"id": "{{ steps.b.output }}"}}
    origin = failed([call("a"), call("b", compensate=undo), call("c"), call("d")], "d")
    assert origin.called[-1] == "b[undo]"
    again = retry(origin)
    assert (again.paths("step.taken_over"), again.running) == (["a"], ["b"])


def test_container_is_begun_again_when_something_inside_it_was_undone() -> None:
    inner = call("reserve", compensate={"component": "undo"})
    origin = failed([{"id": "each", "foreach": [1, 2], "steps": [inner]}, call("pay")], "pay")
    assert retry(origin).running == ["each[0].reserve", "each[1].reserve"]


def test_new_job_does_not_undo_what_it_has_taken_over() -> None:
    origin = completed([call("a", compensate={"component": "undo"}), call("b")])
    again = retry(origin, "b")
    again.fail("b", retryable=False)
    assert (again.status, again.called) == ("FAILED", ["b"])


def test_retry_of_a_retry_says_where_a_step_really_ran() -> None:
    first = retry(failed(CHAIN), outputs={"b": 1})
    first.fail("c", retryable=False)
    first.state.job_id = "job-2"
    second = retry(first)
    taken = {event.data["path"]: event.data.get("from") for event in second.history if event.type == "step.taken_over"}
    assert taken == {"a": "job-1", "b": None}


# ── what later steps see ──────────────────────────────────────────────────────────────────────────────────────────

KINDS: list[dict[str, Any]] = [
    {"id": "x", "set": {"deep": [1, None]}},
    {"id": "x", "set": None},
    {"id": "x", "condition": False, "set": 1},
    {"id": "x", "foreach": [1, 2], "steps": [{"id": "y", "set": "{{ item * 2 }}"}]},
    {"id": "x", "foreach": [], "steps": [{"id": "y", "set": 1}]},
    {
        "id": "x", "foreach": [1, 0], "on_item_error": "collect",
        "steps": [{"id": "y", "condition": "{{ item == 0 }}", "raise": {"type": "odd", "message": "no"}}],
    },
    {
        "id": "x", "foreach": [1, 0], "on_item_error": "skip", "output": "{{ index }}",
        "steps": [{"id": "y", "condition": "{{ item == 0 }}", "raise": {"type": "odd", "message": "no"}}],
    },
    {
        "id": "x", "repeat": {"until": "{{ iteration == 2 }}", "max_iterations": 5, "initial": 1},
        "steps": [{"id": "y", "set": "{{ last + 1 }}"}],
    },
    {"id": "x", "switch": [{"when": False, "steps": [{"id": "y", "set": 1}]}], "default": [{"id": "z", "set": 2}]},
    {"id": "x", "switch": [{"when": False, "steps": [{"id": "y", "set": 1}]}]},
    {"id": "x", "parallel": {"a": [{"id": "y", "set": 1}], "b": [{"id": "z", "set": 2}]}},
    {
        "id": "x", "raise": {"type": "a.b", "message": "no"},
        "catch": [{"steps": [{"id": "y", "set": "{{ error.type }}"}]}],
    },
    {"id": "x", "raise": {"type": "a.b", "message": "no"}, "continue_on_error": True},
]  # fmt: skip


@pytest.mark.parametrize("step", KINDS, ids=lambda step: next(key for key in step if key != "id"))
def test_later_step_sees_of_a_result_what_it_saw_in_the_origin(step: dict[str, Any]) -> None:
    seen = {"id": "seen", "set": "{{ [steps.x.output, steps.x.success, steps.x.status, steps.x.error] }}"}
    origin = completed([step, seen, call("end")])
    again = retry(origin, "seen")
    assert again.paths("step.taken_over") == ["x"]
    again.refold()
    again.state = reloaded(again.state)
    again.finish()
    assert again.status == "COMPLETED"
    assert step_view(again.state, "x") == step_view(origin.state, "x")
    assert again.run("seen").output == origin.run("seen").output
    assert step_output(again.state, again.run("x")) == step_output(origin.state, origin.run("x"))
    assert not [path for path in again.state.runs if path.startswith("x[")]


def test_items_are_looked_up_in_a_result_that_was_taken_over() -> None:
    each = {"id": "each", "foreach": "{{ steps.list.output }}", "steps": [call("do", inputs={"x": "{{ item }}"})]}
    again = retry(completed([call("list"), each], list=[5, 6]), "each")
    assert [again.inputs(path) for path in again.running] == [{"x": 5}, {"x": 6}]


# ── results set by hand ───────────────────────────────────────────────────────────────────────────────────────────


def test_result_set_by_hand_stands_for_a_step_that_failed() -> None:
    again = retry(failed(CHAIN), outputs={"b": {"by": "hand"}})
    assert again.last("step.taken_over") == {"path": "b", "status": "COMPLETED", "output": {"by": "hand"}}
    assert again.running == ["c"]
    assert ScopeNames(again.state, again.state.scopes[ROOT]).step("b")["output"] == {"by": "hand"}


def test_result_set_by_hand_replaces_the_one_of_the_step_that_the_retry_begins_from() -> None:
    again = retry(completed(CHAIN), "b", {"b": 7})
    assert (again.running, again.run("b").output) == (["c"], 7)


def test_what_waits_for_a_result_set_by_hand_also_waits_for_what_that_step_waits_for() -> None:
    definition = [call("a"), call("b"), call("c"), call("d", inputs={"x": "{{ steps.b.output }}"}), call("e")]
    again = retry(failed(definition), outputs={"c": 3})
    assert again.running == ["b"]
    again.succeed("b", "late")
    assert (again.running, again.inputs("d")) == (["d"], {"x": "late"})
    again.finish()
    assert again.status == "COMPLETED"


def test_failure_before_a_result_set_by_hand_fails_the_job() -> None:
    again = retry(failed(CHAIN), outputs={"c": 3})
    again.fail("b", retryable=False)
    assert (again.status, again.statuses()) == ("FAILED", {"a": "COMPLETED", "b": "FAILED", "c": "COMPLETED"})


def test_thousand_results_in_a_row_are_passed_through_at_once() -> None:
    definition = [call("first"), *(call(f"s{number}") for number in range(limits.STEPS - 1))]
    origin = failed(definition, "first")
    again = retry(origin, outputs={f"s{number}": number for number in range(limits.STEPS - 1)})
    again.succeed("first")
    assert again.status == "COMPLETED" and again.called == ["first"]


def test_job_with_every_result_set_by_hand_completes_as_soon_as_a_worker_has_it() -> None:
    again = retry(failed(CHAIN), outputs={"a": 1, "b": 2, "c": 3}, claim=False)
    assert again.status == "QUEUED" and again.state.progress == pytest.approx(1.0)
    again.claim()
    assert (again.status, again.called, again.state.outputs) == ("COMPLETED", [], {"c": 3})


def test_progress_begins_with_what_was_taken_over_and_the_finally_steps_run() -> None:
    definition = {"steps": [*CHAIN, call("d")], "finally": [call("tidy")]}
    again = retry(completed(definition), "c")
    assert again.state.progress == pytest.approx(0.5)
    again.finish()
    assert again.called == ["c", "d", "tidy"]


# ── what is refused ───────────────────────────────────────────────────────────────────────────────────────────────

NESTED = {
    "steps": [
        {"id": "each", "foreach": [1], "steps": [{"id": "inner", "foreach": [1], "steps": [call("score")]}]},
        call("report"),
    ],
    "finally": [{"id": "tidying", "foreach": [1], "steps": [call("tidy")]}],
}


@pytest.mark.parametrize(
    ("name", "message", "suggestion"),
    [
        ("reprot", "There is no step 'reprot'", "'report'"),
        ("", "There is no step ''", "each, report"),
        ("each[3].score", "inside the step 'each'", "Give 'each'"),
        ("each.score", "inside the step 'each'", "Give 'each'"),
        ("score", "inside the step 'each'", "Give 'each'"),
        ("tidy", "finally", ""),
        ("tidying", "finally", ""),
        (7, "a text", ""),
    ],
)
def test_step_that_is_none_is_named_with_what_to_give(name: Any, message: str, suggestion: str) -> None:
    for problems in (takeover_problems(plan_of(NESTED), name, ()), takeover_problems(plan_of(NESTED), None, [name])):
        [problem] = problems
        assert message in problem.message and suggestion in (problem.suggestion or "")
    assert takeover_problems(plan_of(NESTED), "report", ["each"]) == []


def test_results_are_bounded_together() -> None:
    origin = completed([call("a"), call("b"), call("c")], a="x" * 1_000, b="y" * 1_000)
    assert len(what_to_take_over(origin.state, "c", {})) == 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "VIEW_BYTES", 2_000)
        with pytest.raises(TooLarge):
            what_to_take_over(origin.state, "c", {})
