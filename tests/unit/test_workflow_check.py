"""`check`: every problem of a definition, with what its components say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from openagents_json.components import ComponentRegistry, StepContext
from openagents_json.errors import Problem
from openagents_json.workflow import check as check_all
from openagents_json.workflow import parse_workflow, templates, tokens


def check(definition: Any, components: ComponentRegistry | None = None) -> list[Problem]:
    """The errors; warnings and notes have tests of their own (test_check_advice)."""
    return [problem for problem in check_all(definition, components) if problem.level == "error"]


@pytest.fixture
def components() -> ComponentRegistry:
    registry = ComponentRegistry()

    @registry.tool("http.fetch")
    async def fetch(url: str, retries: int = 3, headers: dict[str, str] | None = None) -> str:
        raise AssertionError("check runs nothing")

    @registry.tool("text.count")
    def count(text: str, context: StepContext) -> int:
        raise AssertionError("check runs nothing")

    @registry.tool("quick", isolation="inline")
    def quick(**anything: Any) -> None:
        raise AssertionError("check runs nothing")

    return registry


def definition(**step: Any) -> dict[str, Any]:
    return {"id": "w", "steps": [{"id": "a", **step}]}


def call(component: str, inputs: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    return definition(component=component, inputs=inputs or {}, **fields)


def test_good_definition_has_no_problems(components: ComponentRegistry) -> None:
    good = call("http.fetch", {"url": "{{ 'x' }}", "retries": 4, "headers": {"a": "b"}})
    assert check(good, components) == []
    assert check(parse_workflow(good), components) == []
    assert check(good) == []


def test_without_a_registry_components_are_not_looked_up() -> None:
    assert check(call("anything.at.all", {"x": 1})) == []
    assert check(call("  ")) == [Problem("$.steps[0].component", "The name of the component is empty.")]


def test_unknown_component_is_suggested(components: ComponentRegistry) -> None:
    assert check(call("http.fecth"), components) == [
        Problem("$.steps[0].component", "There is no component 'http.fecth'.", "Did you mean 'http.fetch'?")
    ]


def test_empty_registry_says_that_nothing_is_registered() -> None:
    (problem,) = check(call("x"), ComponentRegistry())
    assert "None is registered" in problem.message


def test_component_inside_a_foreach_and_in_finally_is_checked(components: ComponentRegistry) -> None:
    document = {
        "id": "w",
        "steps": [{"id": "f", "foreach": [1], "steps": [{"id": "n", "component": "nope"}]}],
        "finally": [{"id": "z", "component": "nope"}],
    }
    paths = [problem.path for problem in check(document, components)]
    assert paths == ["$.steps[0].steps[0].component", "$.finally[0].component"]


def test_component_expression_needs_allow(components: ComponentRegistry) -> None:
    nothing_allowed: list[dict[str, Any]] = [{}, {"allow": []}]
    for fields in nothing_allowed:
        (problem,) = check(call("{{ 'quick' }}", **fields), components)
        assert problem.path == "$.steps[0].component"
        assert "`allow`" in problem.message
    assert check(call("{{ 'quick' }}", allow=["quick", "text.count"]), components) == []


def test_allowed_names_must_be_components(components: ComponentRegistry) -> None:
    (problem,) = check(call("{{ 'quick' }}", allow=["quick", "quik"]), components)
    assert (problem.path, problem.suggestion) == ("$.steps[0].allow[1]", "Did you mean 'quick'?")


def test_allow_beside_a_fixed_name_is_a_problem() -> None:
    (problem,) = check(call("x", allow=["x"]))
    assert problem.path == "$.steps[0].allow"


@pytest.mark.parametrize(
    ("component", "isolation", "words"),
    [("http.fetch", "thread", "is async"), ("text.count", "inline", "would block")],
)
def test_isolation_that_contradicts_the_component_is_a_problem(
    components: ComponentRegistry, component: str, isolation: str, words: str
) -> None:
    problems = check(call(component, {"url": "x", "text": "x"}, isolation=isolation), components)
    assert [problem.path for problem in problems if words in problem.message] == ["$.steps[0].isolation"]


@pytest.mark.parametrize(
    ("component", "isolation"), [("quick", "thread"), ("quick", "inline"), ("text.count", "thread")]
)
def test_isolation_that_a_component_can_have_is_fine(
    components: ComponentRegistry, component: str, isolation: str
) -> None:
    assert check(call(component, {"text": "x"}, isolation=isolation), components) == []


def test_unknown_and_missing_inputs_are_problems(components: ComponentRegistry) -> None:
    assert check(call("http.fetch", {"urll": "x"}), components) == [
        Problem("$.steps[0].inputs.urll", "Component 'http.fetch' has no input 'urll'.", "Did you mean 'url'?"),
        Problem("$.steps[0].inputs", "The input 'url' of component 'http.fetch' is missing."),
    ]
    assert check(definition(component="http.fetch"), components)[0].path == "$.steps[0]"


def test_component_that_takes_anything_is_given_anything(components: ComponentRegistry) -> None:
    assert check(call("quick", {"whatever": {"a": [1]}}), components) == []


def test_the_context_is_no_input(components: ComponentRegistry) -> None:
    assert check(call("text.count", {"text": "x"}), components) == []
    assert [problem.path for problem in check(call("text.count", {"text": "x", "context": 1}), components)] == [
        "$.steps[0].inputs.context"
    ]


def test_constants_of_the_wrong_type_are_problems(components: ComponentRegistry) -> None:
    bad = call("http.fetch", {"url": 3, "retries": "three", "headers": {"a": 1}})
    assert {problem.path: problem.message for problem in check(bad, components)} == {
        "$.steps[0].inputs.url": "It must be a string, not a number.",
        "$.steps[0].inputs.retries": "It must be an integer, not a string.",
        "$.steps[0].inputs.headers": "It fits none of the forms that are allowed here, or more than one.",
    }


def test_expressions_are_judged_by_the_type_they_are_known_to_have(components: ComponentRegistry) -> None:
    bad = call("http.fetch", {"url": "{{ 3 }}", "retries": "{{ 'x' }}"})
    assert {problem.path: problem.message for problem in check(bad, components)} == {
        "$.steps[0].inputs.url": "It must be a string, not an integer.",
        "$.steps[0].inputs.retries": "It must be an integer, not a string.",
    }
    assert check(call("http.fetch", {"url": "{{ job.metadata.url }}"}), components) == []


def test_expression_that_does_not_compile_is_said_once(components: ComponentRegistry) -> None:
    (problem,) = check(call("http.fetch", {"url": "{{ 1 + }}"}), components)
    assert problem.path == "$.steps[0].inputs.url"
    (problem,) = check(call("{{ 1 + }}"), components)
    assert problem.path == "$.steps[0].component"


def test_problems_of_shape_references_and_components_come_together(components: ComponentRegistry) -> None:
    document = {
        "id": "w",
        "steps": [
            {"id": "a", "component": "nope", "timout": 3},
            {"id": "job", "set": "{{ steps.b.output }}"},
            {"id": "c", "set": "{{ inputs.x }}"},
        ],
        "inputs": {"type": "object", "properties": {"y": {"type": "strng"}}},
    }
    assert sorted(problem.path for problem in check(document, components)) == [
        "$.inputs.properties.y.type",
        "$.steps[0].component",
        "$.steps[0].timout",
        "$.steps[1].id",
        "$.steps[1].set",
        "$.steps[2].set",
    ]


def test_problems_of_a_file_have_places_in_reading_order(components: ComponentRegistry, tmp_path: Path) -> None:
    file = tmp_path / "w.json"
    file.write_text(
        '{"id": "w", "steps": [\n {"id": "a", "component": "nope",\n  '
        '"inputs": {"v": "{{ steps.x.output }}"}}],\n "y": 1}'
    )
    places = [(problem.path, problem.line, problem.column) for problem in check(file, components)]
    assert places == [
        ("$.steps[0].component", 2, 14),
        ("$.steps[0].inputs.v", 3, 14),
        ("$.y", 4, 2),
    ]


@pytest.mark.parametrize("bad", [None, 3, [], "none.json", b"x", {}, {"steps": 1}, {"steps": [[]]}, {"id": [], 3: 4}])
def test_check_never_raises(bad: Any, components: ComponentRegistry) -> None:
    assert check(bad, components)


def test_example_of_the_repository_is_clean() -> None:
    example = Path(__file__).parents[2] / "examples/code_audit/audit.json"
    assert check(example) == []
    assert check(json.loads(example.read_text())) == []


def test_each_expression_is_read_once(components: ComponentRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def scan(source: str, start: int, closing: str) -> tuple[list[str], int, bool]:
        read.append(source)
        return original(source, start, closing)

    original = tokens.scan
    monkeypatch.setattr(templates, "scan", scan)
    once = ["{{ inputs.once | upper }}", "{{ inputs.once | length > 1 }}", "{{ inputs.once ~ 'in a list' }}"]
    step = {"id": "a", "component": "http.fetch", "inputs": {"url": once[0]}, "condition": once[1]}
    both = {"id": "b", "set": [once[2], "{{ steps.a.output }}"]}
    schema = {"type": "object", "properties": {"once": {"type": "string"}}}
    assert check({"id": "w", "inputs": schema, "steps": [step, both]}, components) == []
    assert sorted(read) == sorted(once), "a plain path is not even scanned"


def test_name_of_a_loop_means_the_root_again_behind_it() -> None:
    text = "{% for item in item.rows %}{{ item.x }}{% endfor %}{{ item.b }}"
    inner = {"id": "b", "set": text}
    rows = [{"rows": [], "c": 1}]
    found = check({"id": "w", "steps": [{"id": "a", "set": rows}, each(inner)]})
    assert [problem.message for problem in found] == ["`item` has no field 'b'."]


def each(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"id": "each", "foreach": "{{ steps.a.output }}", "steps": list(steps)}
