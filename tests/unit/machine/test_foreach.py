"""foreach: items in order, concurrency, nesting, and the three ways to take an item's failure."""

from __future__ import annotations

from typing import Any

import pytest

from openagents_json.job.model import JobStatus
from tests.unit.machine.drive import Drive, call


def each(*steps: dict[str, Any], items: Any = "{{ inputs.items }}", **fields: Any) -> dict[str, Any]:
    return {"id": "f", "foreach": items, "steps": list(steps) or [call("i", inputs={"v": "{{ item }}"})]} | fields


def test_items_run_at_once_and_their_outputs_keep_the_order_of_the_items() -> None:
    drive = Drive([each()], {"items": ["x", "y", "z"]})
    assert drive.running == ["f[0].i", "f[1].i", "f[2].i"]
    assert [drive.inputs(path)["v"] for path in drive.running] == ["x", "y", "z"]
    for path in ("f[2].i", "f[0].i", "f[1].i"):
        drive.succeed(path, path)
    assert drive.state.outputs == {"f": ["f[0].i", "f[1].i", "f[2].i"]}


def test_list_that_is_recorded_already_is_referred_to_and_another_is_recorded() -> None:
    reference = Drive([each()], {"items": [1]})
    assert reference.last("step.expanded") == {"path": "f", "count": 1}
    computed = Drive([each(items="{{ inputs.items + [2] }}")], {"items": [1]})
    assert computed.last("step.expanded") == {"path": "f", "count": 2, "items": [1, 2]}
    assert computed.inputs("f[1].i") == {"v": 2}
    written = Drive([each(items=["{{ inputs.items }}", 3])], {"items": 1})
    assert written.last("step.expanded")["items"] == [1, 3]


def test_no_items_give_an_empty_list() -> None:
    drive = Drive([each(), {"id": "after", "set": "{{ steps.f.output | length }}"}], {"items": []})
    assert (drive.status, drive.state.outputs) == (JobStatus.COMPLETED, {"after": 0})
    assert drive.state.progress == 1.0


def test_no_more_items_than_the_concurrency_are_open() -> None:
    drive = Drive([each(call("i"), call("j"), concurrency=2)], {"items": [1, 2, 3]})
    assert drive.running == ["f[0].i", "f[1].i"]
    drive.succeed("f[0].i")
    assert drive.running == ["f[1].i", "f[0].j"]
    drive.succeed("f[0].j")
    assert drive.running == ["f[1].i", "f[2].i"]
    drive.finish()
    assert drive.status == JobStatus.COMPLETED


def test_steps_of_one_item_see_each_other_and_the_outside() -> None:
    drive = Drive(
        [
            {"id": "base", "set": 10},
            each(
                {"id": "i", "set": "{{ item * 2 }}"},
                {"id": "j", "set": "{{ [index, steps.i.output, steps.base.output] }}"},
            ),
        ],
        {"items": [1, 2]},
    )
    assert drive.state.outputs == {"f": [[0, 2, 10], [1, 4, 10]]}


def test_nested_foreach_has_its_own_item() -> None:
    inner = {"id": "g", "foreach": "{{ item.rows }}", "steps": [{"id": "i", "set": "{{ [index, item] }}"}]}
    drive = Drive([each(inner)], {"items": [{"rows": ["a", "b"]}, {"rows": []}]})
    assert drive.state.outputs == {"f": [[[0, "a"], [1, "b"]], []]}
    assert "f[0].g[1].i" in drive.state.runs


def test_output_of_the_container_may_be_an_expression() -> None:
    drive = Drive([each(call("i"), call("j"), output="{{ {'n': index, 'i': steps.i.output} }}")], {"items": [1, 2]})
    drive.finish()
    assert drive.state.outputs == {"f": [{"n": 0, "i": "f[0].i"}, {"n": 1, "i": "f[1].i"}]}


def test_output_expression_that_is_undefined_fails_the_container() -> None:
    drive = Drive([each(call("i"), output="{{ steps.i.output.x }}")], {"items": [1, 2]})
    drive.succeed("f[0].i", {"x": 1})
    drive.succeed("f[1].i", {})
    assert drive.status == JobStatus.FAILED
    error = drive.last("step.failed")["error"]
    assert (error["type"], error["step"]) == ("expression.undefined", "f")


def test_condition_inside_an_item_skips_that_item_only() -> None:
    drive = Drive([each({"id": "i", "set": "{{ item }}", "condition": "{{ item > 1 }}"})], {"items": [1, 2]})
    assert drive.state.outputs == {"f": [None, 2]}


# ── an item that fails ────────────────────────────────────────────────────────────────────────────────────────────


def test_mode_fail_stops_the_other_items_and_fails_with_the_first_error() -> None:
    drive = Drive([each(concurrency=2), call("after")], {"items": [1, 2, 3]})
    drive.fail("f[1].i", "first")
    assert drive.told == {"f[0].i": "sibling_failed"}
    drive.fail("f[0].i", "second")
    assert drive.status == JobStatus.FAILED
    assert drive.last("job.failed")["error"]["type"] == "first"
    assert drive.run("f").status == "FAILED"
    assert "f[2].i" not in drive.state.runs


@pytest.mark.parametrize(("mode", "output"), [("skip", ["f[0].i", "f[2].i"]), ("collect", ["f[0].i", None, "f[2].i"])])
def test_modes_skip_and_collect_go_on_without_the_item(mode: str, output: list[Any]) -> None:
    steps = [each(on_item_error=mode, concurrency=1), {"id": "errors", "set": "{{ steps.f.errors }}"}]
    drive = Drive(
        {"steps": steps, "outputs": {"f": "{{ steps.f.output }}", "e": "{{ steps.errors.output }}"}},
        {"items": [1, 2, 3]},
    )
    drive.succeed("f[0].i", "f[0].i")
    drive.fail("f[1].i", "boom")
    drive.succeed("f[2].i", "f[2].i")
    assert drive.status == JobStatus.COMPLETED
    assert drive.state.outputs["f"] == output
    (one,) = drive.state.outputs["e"]
    assert (one["index"], one["error"]["type"], one["error"]["step"]) == (1, "boom", "f[1].i")
    assert drive.state.errors == []


def test_failing_item_stops_its_own_steps_only() -> None:
    drive = Drive([each(call("i"), call("j", needs=[]), on_item_error="collect")], {"items": [1, 2]})
    drive.fail("f[0].i")
    assert drive.told == {"f[0].j": "sibling_failed"}
    drive.finish()
    assert drive.state.outputs == {"f": [None, "f[1].j"]}


def test_all_items_may_fail_in_mode_collect() -> None:
    drive = Drive([each(on_item_error="collect")], {"items": [1, 2]})
    drive.fail("f[1].i")
    drive.fail("f[0].i")
    assert (drive.status, drive.state.outputs) == (JobStatus.COMPLETED, {"f": [None, None]})


def test_failure_in_a_nested_foreach_reaches_the_mode_of_the_outer_one() -> None:
    inner = {"id": "g", "foreach": [1, 2], "steps": [call("i")]}
    drive = Drive([each(inner, on_item_error="collect")], {"items": ["x", "y"]})
    drive.fail("f[0].g[1].i", "deep")
    assert drive.told == {"f[0].g[0].i": "sibling_failed"}
    drive.finish()
    assert drive.status == JobStatus.COMPLETED
    assert drive.state.outputs["f"][0] is None
    assert drive.run("f").item_errors[0]["error"]["type"] == "deep"


def test_failure_outside_stops_a_foreach_inside_and_out() -> None:
    inner = {"id": "g", "foreach": [1, 2], "steps": [call("i")], "concurrency": 1}
    drive = Drive([call("a"), each(inner) | {"needs": []}], {"items": ["x"]})
    drive.fail("a")
    assert drive.told == {"f[0].g[0].i": "sibling_failed"}
    drive.stop("f[0].g[0].i")
    assert drive.status == JobStatus.FAILED
    assert [drive.run(path).status for path in ("f", "f[0].g")] == ["CANCELLED", "CANCELLED"]


def test_retry_inside_an_item_does_not_hold_up_the_others() -> None:
    step = call("i", retry={"max_attempts": 2, "delay_seconds": 60.0})
    drive = Drive([each(step)], {"items": [1, 2]})
    drive.fail("f[0].i")
    drive.succeed("f[1].i")
    assert drive.status == JobStatus.WAITING
    drive.tick(60)
    drive.claim()
    drive.succeed("f[0].i", "again")
    assert drive.state.outputs == {"f": ["again", None]}


# ── progress ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_progress_counts_items_inside_their_container_and_never_twice() -> None:
    drive = Drive([call("a"), each(call("i"), call("j"))], {"items": [1, 2]})
    seen = []
    while drive.running:
        drive.succeed(drive.running[0])
        seen.append(round(drive.state.progress, 6))
    assert seen == [0.5, 0.625, 0.75, 0.875, 1.0]


def test_progress_of_a_failed_item_counts_the_whole_item_in_the_end() -> None:
    drive = Drive([each(call("i"), call("j"), on_item_error="skip"), call("z")], {"items": [1, 2]})
    drive.fail("f[0].i")
    drive.succeed("f[1].i")
    drive.succeed("f[1].j")
    assert drive.state.progress == pytest.approx(0.5)
