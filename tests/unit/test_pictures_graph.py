"""The graph of a workflow: what is drawn, in each format, without and with a job."""

from __future__ import annotations

import json
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from openagents_json.clock import SECOND_US
from openagents_json.pictures import GRAPH_FORMATS, graph_picture
from openagents_json.pictures.outline import outline_of, reduced, tie
from openagents_json.workflow import Plan
from tests.unit.every_kind import ALL_IDS, EVERY_KIND
from tests.unit.machine.drive import Drive, call, plan_of

SVG = "{http://www.w3.org/2000/svg}"
AUDIT = Path(__file__).parents[2] / "examples" / "code_audit" / "audit.json"


def texts(svg: str) -> list[str]:
    """The texts of an SVG in order. It has to be well-formed."""
    return ["".join(one.itertext()) for one in ET.fromstring(svg).iter(f"{SVG}text")]


def drawn(drive: Drive, format: str = "svg") -> str:
    return graph_picture(drive.plan, format, drive.history, drive.now_us)


# ── the structure ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_svg_shows_every_step_once() -> None:
    shown = texts(graph_picture(plan_of(EVERY_KIND), "svg"))
    assert {one: shown.count(one) for one in ALL_IDS - {"chat"}} == dict.fromkeys(ALL_IDS - {"chat"}, 1)
    assert shown.count("chat") == 2, "the step and its branch"


def test_svg_says_what_steps_do_and_when() -> None:
    shown = texts(graph_picture(plan_of(EVERY_KIND), "svg"))
    for words in (
        'One of every kind, <nested> & "quoted"', "llm.plan", "up to 4 attempts", "timeout 30 s", "on http",
        "on any error", "for 90 s", "effect: once", "needs 1 llm", "each of steps.plan.output.cities", "4 at a time",
        "failed items become null", "for each item", "if steps.fetch.success", "until steps.critic.output > 0.9",
        "at most 5 times", "2 s between", "on timeout", "review.rejected", "if inputs.n > 10", "else", "report 1.0.0",
        "waits for 'approval'", "at most 1 d", "waits for all", "mail", "undone by", "mail.sorry",
        "one of chat.a, chat.b", "each item is a child job", "if inputs.n < 0", "too.few", "finally",
    ):  # fmt: skip
        assert words in shown, words


def test_pointer_on_a_step_tells_what_it_reads() -> None:
    root = ET.fromstring(graph_picture(plan_of(json.loads(AUDIT.read_text())), "svg"))
    titles = {"".join(one.itertext()) for one in root.iter(f"{SVG}title")}
    assert "report: component\nreads steps.ranking, inputs.report" in titles


@pytest.mark.parametrize("format", GRAPH_FORMATS)
def test_same_definition_gives_the_same_picture(format: str) -> None:
    assert graph_picture(plan_of(EVERY_KIND), format) == graph_picture(plan_of(EVERY_KIND), format)


def test_texts_cannot_break_out_of_the_picture() -> None:
    hostile = '</text><script>alert("1")</script>\x1b[31m\u202e"]; end\n%%{init}%% \\'
    plan = plan_of({"description": hostile, "steps": [{"id": "a", "set": hostile}]})
    svg = graph_picture(plan, "svg")
    assert {one.tag for one in ET.fromstring(svg).iter()} <= {
        f"{SVG}{tag}" for tag in ("svg", "title", "style", "rect", "text", "path")
    }
    for format in GRAPH_FORMATS:
        assert not re.search("[\x00-\x09\x0b-\x1f\u202e]", graph_picture(plan, format))
    mermaid = graph_picture(plan, "mermaid")
    assert "<script" not in mermaid and re.findall("n2.*", mermaid)[0].count('"') == 2
    label = re.search(r'label="((?:[^"\\]|\\.)*)"\s*,', graph_picture(plan, "dot"))
    assert label is not None and "script" in label[1] and "]; end" in label[1]


# ── arrows ────────────────────────────────────────────────────────────────────────────────────────────────────────


def arrows(plan: Plan) -> set[tuple[str, str]]:
    """The arrows between top-level steps as pairs of ids."""
    before = reduced(plan.root)
    return {
        (plan.root.nodes[one].id, node.id)
        for node, direct in zip(plan.root.nodes, before, strict=True)
        for one in direct
    }


def test_arrows_are_the_order_without_what_follows_from_it() -> None:
    plan = plan_of([call("a"), call("b"), call("c", needs=["a", "b"]), call("d", needs=["a"]), call("e")])
    assert arrows(plan) == {("a", "b"), ("b", "c"), ("a", "d"), ("c", "e"), ("d", "e")}


def test_reference_is_an_arrow() -> None:
    plan = plan_of([call("a"), call("b", needs=[]), call("c", needs=[], inputs={"x": "{{ steps.a.output }}"})])
    assert arrows(plan) == {("a", "c")}


def test_arrows_of_many_to_many_meet_in_a_knot() -> None:
    together: list[set[int]] = [set(), set(), {0, 1}, {0, 1}, {2}]
    assert tie(together) == (((0, 5), (1, 5), (2, 4), (5, 2), (5, 3)), 1)


def test_nested_steps_have_arrows_of_their_own() -> None:
    outline = outline_of(plan_of(EVERY_KIND), "t")
    every = next(shape for shape in outline.panels[0].steps if shape.title == "every")
    [body] = every.panels
    assert ([shape.title for shape in body.steps], body.arrows) == (["fetch", "score"], ((0, 1),))


# ── other formats ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_mermaid_nests_boxes_and_names_only_what_it_has_written() -> None:
    text = graph_picture(plan_of(EVERY_KIND), "mermaid")
    depth, known = 0, set()
    for line in text.splitlines()[2:]:
        line = line.strip()
        if line.startswith("subgraph "):
            depth += 1
        if line == "end":
            depth -= 1
        for end in re.findall(r"^(n\d+) (?:-->|-\.->)", line) + re.findall(r"(?:-->|-\.->)(?:\|.*\|)? (n\d+)$", line):
            assert end in known, line
        known |= set(re.findall(r"^(?:subgraph )?(n\d+)[\[({]", line))
    assert depth == 0
    assert '-->|"if inputs.n #62; 10"|' in text and '-.->|"on http"|' in text
    assert "n1 --> " in text, "finally comes after the steps"


def test_dot_nests_clusters_and_names_only_what_it_has_written() -> None:
    text = graph_picture(plan_of(EVERY_KIND), "dot")
    outside = re.sub(r'"(?:[^"\\]|\\.)*"', "", text)
    assert outside.count("{") == outside.count("}")
    known = set(re.findall(r"^\s*(n\d+) \[", text, re.MULTILINE)) | set(re.findall(r"subgraph (cluster_\d+)", text))
    used = set(re.findall(r"\b(n\d+)\b", outside)) | set(re.findall(r"l(?:head|tail)=(\w+)", text))
    assert used <= known and len(known) > len(ALL_IDS)


# ── with a job ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_states_and_durations_of_a_job_are_shown() -> None:
    drive = Drive([call("a"), {"id": "b", "condition": "{{ false }}", "set": 1}, call("c"), call("d")])
    drive.now_us += 3 * SECOND_US
    drive.succeed("a")
    drive.now_us += SECOND_US // 2
    shown = texts(drawn(drive))
    assert "COMPLETED in 3.0 s" in shown and "SKIPPED" in shown
    assert "RUNNING for 500 ms" in shown, "it is still on"
    assert "not yet" in shown
    assert any(one.endswith("RUNNING, 3.5 s so far") for one in shown)
    drive.fail("c", "http.500")
    shown = texts(drawn(drive))
    assert "FAILED in 500 ms" in shown and "http.500: http.500 happened" in shown and "not reached" in shown
    assert any(one.endswith("FAILED in 3.5 s") for one in shown)


def test_items_are_counted() -> None:
    step = {"id": "each", "foreach": [1, 2, 3, 4], "on_item_error": "collect", "steps": [call("x")]}
    drive = Drive([step])
    drive.succeed("each[0].x")
    drive.fail("each[1].x")
    shown = texts(drawn(drive))
    assert "2 of 4 items" in shown and "1 failed" in shown
    assert any(one.startswith("✗ 1 failed, ▶ 2 running, ✓ 1 completed") for one in shown)
    assert "✗ 1 failed" in drawn(drive, "mermaid") and "✗ 1 failed" in drawn(drive, "dot")


def test_retried_container_shows_its_last_try_only() -> None:
    step = {"id": "each", "foreach": [1, 2], "steps": [call("x")], "retry": {"max_attempts": 2, "delay_seconds": 1}}
    drive = Drive([step])
    drive.fail("each[0].x")
    drive.stop("each[1].x")
    assert "next try in 1.0 s" in texts(drawn(drive))
    drive.tick(2)
    shown = texts(drawn(drive))
    assert "0 of 2 items" in shown and "attempt 2" in shown
    assert any(one.startswith("▶ 2 running") for one in shown)


def test_case_that_was_not_taken_fades() -> None:
    cases = [{"when": "{{ inputs.n == 1 }}", "steps": [call("one")]}, {"when": True, "steps": [call("other")]}]
    drive = Drive([{"id": "pick", "switch": cases}], {"n": 2})
    assert texts(drawn(drive)).count("not yet") == 1
    drive.succeed("pick[1].other")
    assert texts(drawn(drive)).count("not reached") == 1
    root = ET.fromstring(drawn(drive))
    faded = {
        "".join(text.itertext())
        for group in root.iter(f"{SVG}g")
        if group.get("class") == "idle"
        for text in group.iter(f"{SVG}text")
    }
    assert "one" in faded and "other" not in faded
    assert not root.findall(f".//{SVG}g[@class='idle']//{SVG}g[@class='idle']"), "faded twice"


def test_undo_shows_that_it_ran() -> None:
    undo: dict[str, Any] = {"compensate": {"component": "sorry"}}
    drive = Drive([call("a", **undo), call("b", **undo), call("c")])
    drive.succeed("a")
    assert texts(drawn(drive)).count("sorry") == 2
    drive.succeed("b")
    drive.fail("c")
    drive.now_us += 2 * SECOND_US
    drive.succeed("b[undo]")
    shown = texts(drawn(drive))
    place = shown.index("sorry", shown.index("b"))
    assert "COMPLETED in 2.0 s" in shown[place : place + 4]


# ── limits ────────────────────────────────────────────────────────────────────────────────────────────────────────

MORE_WORK = 2.1  # times as much for twice the steps


def large(name: str, count: int) -> list[dict[str, Any]]:
    """About so many steps, of which each waits for others in a way that has a name."""
    half = count // 2
    match name:
        case "chain":
            return [call(f"s{n}") for n in range(count)]
        case "fan":
            return [call("s0"), *(call(f"s{n}", needs=["s0"]) for n in range(1, count - 1)), call(f"s{count - 1}")]
        case "far":
            return [call(f"s{n}", needs=[f"s{n - 1 if n < half else n * 7 % half}"] if n else []) for n in range(count)]
        case "dense":
            return [call(f"s{n}", needs=[f"s{one}" for one in range(max(0, n - 40), n)]) for n in range(count - 10)]
        case "two":
            before = [[n - 2, n // 2 * 2 - 4] if n % 2 and n > 9 else [n - 2] if n > 1 else [] for n in range(count)]
            return [call(f"s{n}", needs=[f"s{one}" for one in needs]) for n, needs in enumerate(before)]
    raise LookupError(name)


def draw_all(plan: Plan) -> list[str]:
    return [graph_picture(plan, format) for format in GRAPH_FORMATS]


def work_of(draw: Callable[[], object]) -> int:
    """How many lines Python executes, and how often it enters and leaves a function: the same each time, whatever else
    the machine does."""
    work = 0

    def count(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal work
        work += 1
        return count

    before = sys.gettrace()  # of a measurement of coverage
    sys.settrace(count)
    try:
        draw()
    finally:
        sys.settrace(before)
    return work


@pytest.mark.parametrize("name", ["chain", "fan", "far", "dense", "two"])
def test_work_grows_with_the_steps_and_no_faster(name: str) -> None:
    """Something quadratic shows as soon as it is a tenth of what a thousand steps take."""
    work = []
    for count in (500, 1_000):
        steps = large(name, count)
        plan = plan_of(steps)
        assert all(f"s{len(steps) - 1}" in picture for picture in draw_all(plan))
        work.append(work_of(partial(draw_all, plan)))
    assert 0 < work[1] <= MORE_WORK * work[0]


def test_deepest_nesting_is_drawn() -> None:
    step: dict[str, Any] = call("s0")
    for depth in range(1, 28):
        step = {"id": f"s{depth}", "foreach": [1], "steps": [step]}
    assert {f"s{depth}" for depth in range(28)} <= set(texts(graph_picture(plan_of([step]), "svg")))
