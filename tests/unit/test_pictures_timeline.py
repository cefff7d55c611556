"""The timeline of a job: bars as the history tells, folded loops, the axis, and both formats."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import pytest

from openagents_json import OpenAgentsApp
from openagents_json.clock import SECOND_US
from openagents_json.pictures import graph_picture, timeline_picture
from openagents_json.pictures.scale import STEPS_US, Scale
from openagents_json.pictures.spans import Bar, Line, Timeline, merged, timeline_of
from openagents_json.workflow import build_plan
from tests.unit.every_kind import EVERY_KIND
from tests.unit.machine.drive import START_US, Drive, call, takeover_of


def timeline(drive: Drive, **options: Any) -> Timeline:
    return timeline_of(drive.plan, drive.history, drive.now_us, **options)


def line(drive: Drive, label: str) -> Line:
    """The one line with that label."""
    [found] = [one for one in timeline(drive).lines if one.label == label]
    return found


def bars(drive: Drive, label: str) -> list[tuple[str, float, float]]:
    """Kind, start and end of the bars of a line, in seconds since the job was created."""
    return [
        (bar.kind, (bar.start_us - START_US) / SECOND_US, (bar.end_us - START_US) / SECOND_US)
        for bar in line(drive, label).bars
    ]


def text(drive: Drive, width: int = 100, **options: Any) -> str:
    return timeline_picture(drive.plan, "text", drive.history, drive.now_us, width=width, **options)


def svg(drive: Drive) -> ET.Element:
    return ET.fromstring(timeline_picture(drive.plan, "svg", drive.history, drive.now_us))


def passed(drive: Drive, seconds: float) -> None:
    drive.now_us += round(seconds * SECOND_US)


# ── steps ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_attempts_and_the_back_off_between_them_are_bars() -> None:
    drive = Drive([call("a", retry={"max_attempts": 3, "delay_seconds": 4, "jitter": 0})])
    passed(drive, 2)
    drive.fail("a", "http.429")
    drive.tick(5)
    passed(drive, 1)
    drive.succeed("a")
    assert bars(drive, "a") == [("failed", 0, 2), ("backoff", 2, 7), ("ok", 7, 8)]
    assert line(drive, "a").bars[0].text == "attempt 1: http.429: http.429 happened"
    assert line(drive, "a").note == "8.0 s, attempt 2"


def test_result_that_was_taken_over_is_a_moment() -> None:
    fails = {"id": "y", "raise": {"type": "a.b", "message": "no"}}
    each = {"id": "each", "foreach": [1, 2], "on_item_error": "collect", "steps": [fails]}
    origin = Drive([each, call("a")])
    origin.finish()
    drive = Drive(origin.plan, takeover=takeover_of(origin.state, "a"))
    assert (line(drive, "each").note, bars(drive, "each")) == ("taken over", [("moment", 0, 0)])
    assert "taken over" in text(drive)
    assert "taken over" in graph_picture(drive.plan, "mermaid", drive.history, drive.now_us)


def test_what_is_still_on_is_open_until_now() -> None:
    drive = Drive([call("a"), {"id": "b", "wait": {"seconds": 60}, "needs": []}])
    passed(drive, 3)
    assert bars(drive, "a") == [("running", 0, 3)] and bars(drive, "b") == [("timer", 0, 3)]
    assert all(bar.is_open for label in ("job", "a", "b") for bar in line(drive, label).bars)
    assert "▶ still on" in text(drive) and "3.0 s so far" in text(drive)
    drive.succeed("a")
    drive.tick(60)
    drive.claim()
    assert not any(bar.is_open for one in timeline(drive).lines for bar in one.bars)
    assert "still on" not in text(drive) and "so far" not in text(drive)


def test_waits_for_signal_and_decision_are_bars() -> None:
    drive = Drive([{"id": "ask", "signal": "go"}, call("pay", effect="once"), call("end")])
    passed(drive, 2)
    drive.request("signal", name="go", payload=1)
    drive.claim() if drive.status == "QUEUED" else None
    passed(drive, 1)
    drive.crash()
    passed(drive, 1)
    drive.claim()
    passed(drive, 3)
    drive.request("resolve_step", path="pay", how="output", output=7)
    assert bars(drive, "ask") == [("signal", 0, 2)]
    assert bars(drive, "pay") == [("lost", 2, 3), ("decision", 3, 7)]


def test_step_that_took_no_time_is_a_moment() -> None:
    drive = Drive([{"id": "a", "set": 1}, {"id": "b", "condition": False, "set": 1}, call("c")])
    assert bars(drive, "a") == [("moment", 0, 0)] and bars(drive, "b") == [("moment", 0, 0)]
    assert "| took no time" in text(drive)


def test_lost_worker_ends_the_attempt_and_another_goes_on() -> None:
    drive = Drive([call("a")])
    passed(drive, 2)
    drive.crash()
    passed(drive, 3)
    drive.claim("worker-2")
    passed(drive, 1)
    drive.succeed("a")
    assert bars(drive, "a") == [("lost", 0, 2), ("backoff", 2, 5), ("ok", 5, 6)]
    assert bars(drive, "job") == [("held", 0, 2), ("queued", 2, 5), ("held", 5, 6)]


def test_stopped_attempt_ends_where_it_was_stopped() -> None:
    drive = Drive([call("a"), call("b", needs=[])])
    passed(drive, 2)
    drive.fail("b")
    passed(drive, 1)
    drive.stop("a")
    assert bars(drive, "a") == [("stopped", 0, 3)]


def test_handler_and_undo_stand_below_their_step() -> None:
    steps = [
        call("a", compensate={"component": "sorry"}),
        call("b", catch=[{"steps": [call("help")]}]),
        call("c"),
    ]
    drive = Drive(steps)
    for path in ("a", "b", "b[catch0].help", "c", "a[undo]"):
        passed(drive, 1)
        drive.fail(path) if path in ("b", "c") else drive.succeed(path)
    lines = {one.label: one.depth for one in timeline(drive).lines}
    assert lines == {"job": 0, "a": 0, "[undo]": 1, "b": 0, "[catch0] help": 1, "c": 0}
    assert bars(drive, "b") == [("failed", 1, 2), ("inside", 2, 3)]
    assert bars(drive, "[undo]") == [("ok", 4, 5)]


def test_repeat_shows_iterations_and_the_pause_between() -> None:
    repeat = {"until": "{{ steps.x.output == 'yes' }}", "max_iterations": 3, "delay_seconds": 2}
    drive = Drive([{"id": "r", "repeat": repeat, "steps": [call("x")]}])
    passed(drive, 1)
    drive.succeed("r[0].x", "no")
    drive.tick(2)
    passed(drive, 1)
    drive.succeed("r[1].x", "yes")
    assert bars(drive, "r") == [("inside", 0, 1), ("timer", 1, 3), ("inside", 3, 4)]
    assert bars(drive, "[1] x") == [("ok", 3, 4)]


async def test_child_job_is_a_bar_with_its_id() -> None:
    app = OpenAgentsApp("memory")
    app.register_workflow({"id": "child", "steps": [{"id": "s", "set": 1}]})
    app.register_workflow({"id": "parent", "steps": [{"id": "sub", "workflow": "child"}]})
    async with app.jobs as jobs:
        job_id = await jobs.create_job("parent", start=True)
        await jobs.wait(job_id, timeout_s=10)
        history = [event async for event in jobs.watch(job_id)]
    child_id = next(event.data["child_id"] for event in history if event.type == "child.started")
    plan = build_plan(app.workflows.get("parent"))
    [sub] = [one for one in timeline_of(plan, history, 0).lines if one.label == "sub"]
    assert [(bar.kind, bar.text) for bar in sub.bars] == [("child", f"child job {child_id}: COMPLETED")]


# ── the job ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_queue_pause_and_waiting_are_bars_of_the_job() -> None:
    drive = Drive([call("a"), {"id": "ask", "signal": "go"}], claim=False)
    passed(drive, 1)
    drive.claim()
    drive.pause()
    passed(drive, 2)
    drive.succeed("a")
    passed(drive, 3)
    drive.resume()
    passed(drive, 1)
    drive.claim()
    passed(drive, 4)
    drive.cancel()
    assert bars(drive, "job") == [
        ("queued", 0, 1), ("held", 1, 3), ("paused", 3, 6), ("queued", 6, 7), ("resting", 7, 11),
    ] + ([("queued", 11, 11)] if drive.status == "QUEUED" else [])  # fmt: skip
    assert "‖ paused" in text(drive)


# ── loops ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def many(count: int) -> Drive:
    step = {"id": "each", "foreach": list(range(count)), "on_item_error": "skip", "steps": [call("x"), call("y")]}
    drive = Drive([step])
    while drive.running:
        passed(drive, 0.01)
        path = drive.running[0]
        drive.fail(path) if path == "each[11].y" else drive.succeed(path)
    return drive


def test_many_items_are_folded_into_the_first_and_a_summary() -> None:
    drive = many(20)
    lines = timeline(drive).lines
    assert [one.label for one in lines][:4] == ["job", "each", "[0] x", "[0] y"]
    assert lines[-1].label == "… 12 more items" and lines[-1].note == "✓ 23  ✗ 1"
    assert len(lines) == 2 + 8 * 2 + 1
    assert {bar.kind for bar in lines[-1].bars} == {"ok", "failed"}


def test_all_items_are_shown_on_request_and_when_they_are_few() -> None:
    assert len(timeline(many(20), is_folded=False).lines) == 2 + 20 * 2
    assert len(timeline(many(9)).lines) == 2 + 9 * 2, "a summary of one would save nothing"


def test_merged_bars_cover_the_same_time() -> None:
    some = [Bar("ok", 5, 9), Bar("ok", 0, 2), Bar("ok", 8, 12), Bar("failed", 1, 3), Bar("ok", 2, 3)]
    assert list(merged(some)) == [Bar("failed", 1, 3), Bar("ok", 0, 3), Bar("ok", 5, 12)]


# ── the axis ──────────────────────────────────────────────────────────────────────────────────────────────────────


def axis(*spans: tuple[float, float], end: float) -> Scale:
    found = tuple(Bar("ok", round(a * SECOND_US), round(b * SECOND_US)) for a, b in spans)
    return Scale(Timeline("t", 0, round(end * SECOND_US), True, (Line("job", 0, None, "", found),)))


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (0.0009, ["0", "0.1 ms", "0.2 ms"]), (0.09, ["0", "10 ms", "20 ms"]), (9, ["0", "1 s", "2 s"]),
        (100, ["0", "15 s", "30 s"]), (3_000, ["0", "10 min", "20 min"]), (80_000, ["0", "3 h", "6 h"]),
        (1_000_000, ["0", "2 d", "4 d"]),
    ],
)  # fmt: skip
def test_ticks_have_sensible_units(end: float, words: list[str]) -> None:
    assert [tick.text for tick in axis((0, end), end=end).ticks(9)][:3] == words


def test_long_quiet_time_is_drawn_short_and_time_stays_in_order() -> None:
    scale = axis((0, 10), (86_400, 86_420), end=86_420)
    assert [one.is_broken for one in scale.stretches] == [False, True, False]
    assert scale.place(10 * SECOND_US) > 0.25 and scale.place(86_400 * SECOND_US) < 0.5
    places = [scale.place(round(at * SECOND_US)) for at in (0, 5, 10, 4_000, 86_400, 86_410, 86_420)]
    assert places == sorted(places) and places[0] == 0 and places[-1] == pytest.approx(1)
    assert [tick.text for tick in scale.ticks(6)] == ["0", "5 s", "10 s", "1 d 0 h", "+5 s", "+10 s", "+15 s", "+20 s"]


def test_time_without_anything_has_an_axis() -> None:
    assert [tick.text for tick in axis(end=0).ticks(5)] == ["0"]
    assert axis(end=0).place(0) == 0 and axis(end=60).stretches[0].is_broken is False
    assert list(STEPS_US) == sorted(set(STEPS_US))


# ── formats ───────────────────────────────────────────────────────────────────────────────────────────────────────


def busy() -> Drive:
    drive = Drive(EVERY_KIND, {"city": "Bern", "n": 3})
    outputs: dict[str, Any] = {"plan": {"cities": list(range(30)), "tool": "chat.a"}}
    for _ in range(40):
        if not drive.running:
            drive.tick(90)
            drive.claim()
        passed(drive, 0.7)
        path = drive.running[0]
        drive.fail(path) if path == "every[3].fetch" else drive.succeed(path, outputs.get(path, 1))
    return drive


@pytest.mark.parametrize("width", [1, 60, 80, 133, 400])
def test_text_fits_the_width(width: int) -> None:
    lines = text(busy(), width).splitlines()
    assert max(map(len, lines)) <= max(width, 60)
    assert len(lines) > 3 + len(timeline(busy()).lines)
    assert lines[0].startswith("every-kind 2.1.0  RUNNING")


def test_text_is_a_chart_with_an_axis_and_a_legend() -> None:
    drive = Drive([call("fetch", retry={"max_attempts": 2, "delay_seconds": 2, "jitter": 0}), call("sum")])
    passed(drive, 2)
    drive.fail("fetch")
    drive.tick(2)
    passed(drive, 4)
    drive.succeed("fetch")
    passed(drive, 2)
    drive.succeed("sum")
    assert text(drive, 60) == (
        "example 1.0.0  COMPLETED  10 s\n"
        "         0               5 s          10 s\n"
        "         ┬───────────────┬───────────────┬\n"
        "✓ job    █████████████████████████████████  10 s\n"
        "✓ fetch  ▓▓▓▓▓▓▓░░░░░░█████████████         8.0 s, attempt 2\n"
        "✓ sum                              ███████  2.0 s\n"
        "█ runs  ▓ failed or stopped  ░ back-off or queue\n"
    )


def test_svg_has_a_row_for_each_line_and_says_what_bars_mean() -> None:
    drive = busy()
    shown = ["".join(one.itertext()) for one in svg(drive).iter("{http://www.w3.org/2000/svg}text")]
    for one in timeline(drive).lines:
        assert one.label in shown
    assert "… 13 more items" in shown and "▶ 4  ✓ 21  9 to come" in shown
    assert "attempt, failed" in shown and "steps inside" in shown
    titles = ["".join(one.itertext()) for one in svg(drive).iter("{http://www.w3.org/2000/svg}title")]
    assert "attempt 1: boom: boom happened (2.8 s)" in titles
    assert any(one.endswith("so far)") for one in titles)


def test_job_that_never_started_has_a_timeline() -> None:
    drive = Drive([call("a")], start=False)
    passed(drive, 3)
    assert bars(drive, "job") == [("created", 0, 3)]
    assert text(drive).startswith("example 1.0.0  CREATED  3.0 s so far\n")
    assert svg(drive).tag.endswith("svg")
