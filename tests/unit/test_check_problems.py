"""Each class of problem of the language: where it is found and what it says (LANGUAGE: checked before it runs)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typing_extensions import TypedDict

from openagents_json.components import ComponentRegistry
from openagents_json.errors import InvalidDefinition, Problem
from openagents_json.job.machine import ScopeNames
from openagents_json.job.machine.state import ROOT
from openagents_json.job.machine.turn import error_info
from openagents_json.workflow import WorkflowRegistry, check
from openagents_json.workflow.checking.inference import ERROR, JOB
from openagents_json.workflow.checking.types import Type
from tests.unit.machine.drive import Drive


class Page(TypedDict):
    """What a component gives."""

    url: str
    size: int
    links: list[str]


@pytest.fixture
def components() -> ComponentRegistry:
    registry = ComponentRegistry()

    @registry.tool("page.fetch", timeout_s=9)
    async def fetch(url: str, depth: int = 1, note: str | None = None) -> Page:
        raise AssertionError("check runs nothing")

    @registry.tool("page.maybe", timeout_s=9)
    async def maybe(url: str) -> Page | None:
        raise AssertionError("check runs nothing")

    @registry.tool("anything", timeout_s=9)
    async def anything(value: Any = None) -> Any:
        raise AssertionError("check runs nothing")

    @registry.tool("heavy", timeout_s=9, resources={"gpu": 4, "tpu": 1, "cpu_s": 9})
    async def heavy() -> None:
        raise AssertionError("check runs nothing")

    return registry


FETCH: dict[str, Any] = {"id": "page", "component": "page.fetch", "inputs": {"url": "x"}}
ANY: dict[str, Any] = {"id": "some", "component": "anything"}
NEXT = "$.steps[1]"

# name: (the steps after `page`, path, level, message, suggestion)
CASES: dict[str, tuple[list[dict[str, Any]], str, str, str, str | None]] = {
    "unknown field": (
        [{"id": "b", "set": 1, "conditon": True}],
        f"{NEXT}.conditon", "error", "A step has no field 'conditon'.", "Did you mean 'condition'?",
    ),
    "unknown component": (
        [{"id": "b", "component": "page.fetsh", "inputs": {}}],
        f"{NEXT}.component", "error", "There is no component 'page.fetsh'.", "Did you mean 'page.fetch'?",
    ),
    "unknown step": (
        [{"id": "b", "set": "{{ steps.pag.output }}"}],
        f"{NEXT}.set", "error", "There is no step 'pag'.", "Did you mean 'page'?",
    ),
    "later step": (
        [{"id": "b", "set": "{{ steps.c.output }}"}, {"id": "c", "set": 1}],
        f"{NEXT}.set", "error",
        "Step 'c' stands later (or is this step itself); only earlier steps have an output.", None,
    ),
    "step inside a container": (
        [{"id": "b", "foreach": [1], "steps": [{"id": "c", "set": 1}]}, {"id": "d", "set": "{{ steps.c.output }}"}],
        "$.steps[2].set", "error", "Step 'c' is inside 'b'.", "From outside use steps.b.output.",
    ),
    "unknown input": (
        [{"id": "b", "set": "{{ inputs.nam }}"}],
        f"{NEXT}.set", "error", "The workflow has no input 'nam'.", "Did you mean 'name'?",
    ),
    "input that a component lacks": (
        [{"id": "b", "component": "page.fetch"}],
        NEXT, "error", "The input 'url' of component 'page.fetch' is missing.", None,
    ),
    "input that a component does not know": (
        [{"id": "b", "component": "page.fetch", "inputs": {"url": "x", "dept": 1}}],
        f"{NEXT}.inputs.dept", "error", "Component 'page.fetch' has no input 'dept'.", "Did you mean 'depth'?",
    ),
    "constant of the wrong type": (
        [{"id": "b", "component": "page.fetch", "inputs": {"url": 3}}],
        f"{NEXT}.inputs.url", "error", "It must be a string, not a number.", None,
    ),
    "reference of the wrong type": (
        [{"id": "b", "component": "page.fetch", "inputs": {"url": "{{ steps.page.output.size }}"}}],
        f"{NEXT}.inputs.url", "error", "It must be a string, not an integer.",
        "It comes from `{{ steps.page.output.size }}`.",
    ),
    "field that an output does not have": (
        [{"id": "b", "set": "{{ steps.page.output.sise }}"}],
        f"{NEXT}.set", "error", "`steps.page.output` has no field 'sise'.", "Did you mean 'size'?",
    ),
    "field that a step does not have": (
        [{"id": "b", "set": "{{ steps.page.ouput }}"}],
        f"{NEXT}.set", "error", "`steps.page` has no field 'ouput'.", "Did you mean 'output'?",
    ),
    "field of a text": (
        [{"id": "b", "set": "{{ steps.page.output.url.host }}"}],
        f"{NEXT}.set", "error", "`steps.page.output.url` is a string; it has no field 'host'.", None,
    ),
    "field that a signal's schema does not mention": (
        [
            {"id": "b", "signal": "go", "schema": {"type": "object", "properties": {"approved": {}}}},
            {"id": "c", "set": "{{ steps.b.output.aproved }}"},
        ],
        "$.steps[2].set", "warning", "The schema of `steps.b.output` does not mention the field 'aproved'.",
        "Did you mean 'approved'?",
    ),
    "field that is always the default": (
        [{"id": "b", "set": "{{ steps.page.output.sise | default(0) }}"}],
        f"{NEXT}.set", "warning", "`steps.page.output` has no field 'sise'. So it is always the default.",
        "Did you mean 'size'?",
    ),
    "condition that is a number": (
        [{"id": "b", "set": 1, "condition": "{{ steps.page.output.size }}"}],
        f"{NEXT}.condition", "error", "A condition must be true or false, but this is an integer.",
        "Compare, or use `is not none` or `| length > 0`.",
    ),
    "condition that is always null": (
        [{"id": "w", "wait": {"seconds": 0}}, {"id": "b", "set": 1, "condition": "{{ steps.w.output }}"}],
        "$.steps[2].condition", "error", "A condition must be true or false, but this is null.",
        "Compare with `is not none`.",
    ),
    "case that is a list": (
        [{"id": "b", "switch": [{"when": "{{ steps.page.output.links }}", "steps": [{"id": "c", "set": 1}]}]}],
        f"{NEXT}.switch[0].when", "error", "A condition must be true or false, but this is a list.",
        "Compare, or use `is not none` or `| length > 0`.",
    ),
    "duplicate id": (
        [{"id": "page", "set": 1}],
        f"{NEXT}.id", "error", "The id 'page' stands at $.steps[0] already.", "Ids are unique.",
    ),
    "repeat without a bound": (
        [{"id": "b", "repeat": {"until": True}, "steps": [{"id": "c", "set": 1}]}],
        f"{NEXT}.repeat", "error", "`max_iterations` is missing.", None,
    ),
    "undeclared resource": (
        [ANY | {"resources": {"gpus": 1}}],
        f"{NEXT}.resources.gpus", "warning", "Nobody declared the resource 'gpus'.", "Did you mean 'gpu'?",
    ),
    "needs above what is declared": (
        [ANY | {"resources": {"gpu": 3}}],
        f"{NEXT}.resources.gpu", "warning", "The step needs 3 of 'gpu', and 2 are declared.",
        "It waits until a worker with enough comes; give one more, or let it need less.",
    ),
    "needs of a component": (
        [{"id": "b", "component": "heavy"}],
        NEXT, "warning", "Component 'heavy' needs 4 of 'gpu', and 2 are declared.",
        "It waits until a worker with enough comes; give one more, or let it need less.",
    ),
    "undeclared resource of a component": (
        [{"id": "b", "component": "heavy"}],
        NEXT, "warning", "Component 'heavy' occupies the resource 'tpu', which nobody declared.", "Did you mean 'gpu'?",
    ),
    "output that may be skipped": (
        [ANY | {"condition": "{{ inputs.name == 'x' }}"}, {"id": "b", "set": "{{ steps.some.output }}"}],
        "$.steps[2].set", "warning", "`steps.some.output` may be missing: step 'some' may be skipped.",
        "Use `| default(…)`, or ask in a `condition`.",
    ),
    "field on the way to an input that may be null": (
        [
            FETCH | {"id": "some", "condition": "{{ inputs.name == 'x' }}"},
            {"id": "b", "component": "page.fetch", "inputs": {"url": "x", "note": "{{ steps.some.output.url }}"}},
        ],
        "$.steps[2].inputs.note", "warning", "`steps.some.output.url` may be missing: step 'some' may be skipped.",
        "Use `| default(…)`, or ask in a `condition`.",
    ),
    "output of a step that may fail": (
        [ANY | {"continue_on_error": True}, {"id": "b", "set": "{{ steps.some.output.x }}"}],
        "$.steps[2].set", "warning",
        "`steps.some.output.x` may be missing: step 'some' may fail while the job goes on.",
        "Use `| default(…)`, or ask in a `condition`.",
    ),
    "item that may have failed": (
        [
            {"id": "b", "foreach": [1], "on_item_error": "collect", "steps": [ANY]},
            {"id": "c", "foreach": "{{ steps.b.output }}", "steps": [{"id": "d", "set": "{{ item.x }}"}]},
        ],
        "$.steps[2].steps[0].set", "warning", "`item.x` may be missing: an item of 'b' may have failed.",
        "Use `| default(…)`, or ask in a `condition`.",
    ),
    "workflow chosen without a list": (
        [{"id": "b", "workflow": "{{ inputs.name }}"}],
        f"{NEXT}.workflow", "error",
        "`workflow` is an expression; `allow` must list the workflows that it may choose.", None,
    ),
    "input that a child lacks": (
        [{"id": "b", "workflow": "child", "inputs": {"nme": "x"}}],
        f"{NEXT}.inputs.nme", "error", "Workflow 'child' has no input 'nme'.", "Did you mean 'name'?",
    ),
    "output that a child does not have": (
        [{"id": "b", "workflow": "child", "inputs": {"name": "x"}}, {"id": "c", "set": "{{ steps.b.output.lenght }}"}],
        "$.steps[2].set", "error", "`steps.b.output` has no field 'lenght'.", "Did you mean 'length'?",
    ),
    "foreach over an object": (
        [{"id": "b", "foreach": "{{ steps.page.output }}", "steps": [{"id": "c", "set": 1}]}],
        f"{NEXT}.foreach", "error", "`foreach` needs a list, but this is an object.", None,
    ),
}  # fmt: skip


@pytest.fixture
def workflows(components: ComponentRegistry) -> WorkflowRegistry:
    registry = WorkflowRegistry(components)
    inputs = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}
    outputs = {"length": "{{ inputs.name | length }}"}
    registry.register({"id": "child", "inputs": inputs, "steps": [{"id": "a", "set": 1}], "outputs": outputs})
    return registry


def document_of(*steps: dict[str, Any], **fields: Any) -> dict[str, Any]:
    inputs = {"type": "object", "properties": {"name": {"type": "string"}}}
    return {"id": "w", "inputs": inputs, "steps": [FETCH, *steps], **fields}


@pytest.mark.parametrize("name", CASES)
def test_problem_is_told_with_path_level_message_and_suggestion(
    name: str, components: ComponentRegistry, workflows: WorkflowRegistry
) -> None:
    steps, path, level, message, suggestion = CASES[name]
    problems = check(document_of(*steps), components, resources={"gpu": 2}, workflows=workflows)
    told = [(one.path, one.level, one.message, one.suggestion) for one in problems]
    assert (path, level, message, suggestion) in told, told


# ── no false alarms ───────────────────────────────────────────────────────────────────────────────────────────────

GUARDED = ANY | {"condition": "{{ inputs.name == 'x' }}"}
SILENT: dict[str, list[dict[str, Any]]] = {
    "unknown output": [ANY, {"id": "b", "set": "{{ steps.some.output.a[0].b }}"}],
    "default": [GUARDED, {"id": "b", "set": "{{ steps.some.output.a | default(1) }}"}],
    "test for none": [GUARDED, {"id": "b", "set": "{{ steps.some.output is none }}"}],
    "comparison with none": [GUARDED, {"id": "b", "set": 1, "condition": "{{ steps.some.output != none }}"}],
    "asked in the condition": [
        GUARDED,
        {"id": "b", "condition": "{{ steps.some.success }}", "set": "{{ steps.some.output.a }}"},
    ],
    "the same condition": [GUARDED, {"id": "b", "condition": GUARDED["condition"], "set": "{{ steps.some.output.a }}"}],
    "asked in the case": [
        GUARDED,
        {
            "id": "b",
            "switch": [{"when": "{{ steps.some.success }}", "steps": [{"id": "c", "set": "{{ steps.some.output }}"}]}],
        },
    ],
    "asked in the expression": [GUARDED, {"id": "b", "set": "{{ steps.some.output.a if steps.some.success else 0 }}"}],
    "asked in the text": [
        GUARDED,
        {"id": "b", "set": "{% if steps.some.success %}{{ steps.some.output.a }}{% endif %}"},
    ],
    "input that may be null": [
        {"id": "some", "set": "text", "condition": GUARDED["condition"]},
        {"id": "b", "component": "page.fetch", "inputs": {"url": "x", "note": "{{ steps.some.output }}"}},
    ],
    "null by its type": [
        {"id": "m", "component": "page.maybe", "inputs": {"url": "x"}},
        {"id": "b", "component": "page.fetch", "inputs": {"url": "{{ steps.m.output.url }}"}},
    ],
    "loop variable": [{"id": "b", "set": "{% for one in steps.page.output.links %}{{ one.x }}{% endfor %}"}],
    "sum of unknowns": [ANY, {"id": "b", "component": "page.fetch", "inputs": {"url": "{{ steps.some.output + 1 }}"}}],
    "unknown child": [{"id": "b", "workflow": "nobody"}, {"id": "c", "set": "{{ steps.b.output.anything }}"}],
    "caught error": [
        FETCH | {"id": "b", "catch": [{"steps": [{"id": "h", "set": {"why": "{{ error.type }}"}}]}]},
        {"id": "c", "set": "{{ steps.b.output.why | default(steps.b.output.url) }}"},
    ],
    "last of a repeat": [
        {
            "id": "b", "repeat": {"until": "{{ steps.c.output.n > 3 }}", "max_iterations": 9, "initial": {"n": 0}},
            "steps": [{"id": "c", "set": {"n": "{{ last.n + 1 }}"}}],
        }
    ],
    "step of a job that completed, in finally": [],
}  # fmt: skip


@pytest.mark.parametrize("name", SILENT)
def test_what_may_be_right_raises_no_alarm(
    name: str, components: ComponentRegistry, workflows: WorkflowRegistry
) -> None:
    last = {"id": "z", "condition": "{{ job.outcome == 'COMPLETED' }}", "set": "{{ steps.page.output.url }}"}
    document = document_of(*SILENT[name], **{"finally": [last]})
    assert check(document, components, resources=set(), workflows=workflows) == []


# ── levels ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_definition_without_any_timeout_gets_one_warning() -> None:
    registry = ComponentRegistry()

    @registry.tool("slow")
    async def slow() -> None:
        raise AssertionError("check runs nothing")

    steps = [{"id": "a", "component": "slow"}, {"id": "b", "component": "slow"}]
    (problem,) = check({"id": "w", "steps": steps}, registry)
    assert (problem.path, problem.level) == ("$", "warning")
    assert "Nothing has a timeout" in problem.message
    assert check({"id": "w", "steps": steps, "timeout": 60}, registry) == []
    assert check({"id": "w", "steps": [steps[0] | {"timeout": 5}, steps[1]]}, registry) == []
    assert check({"id": "w", "steps": steps}) == [], "an unknown component may bring a timeout"
    assert check({"id": "w", "steps": [{"id": "a", "set": 1}]}, registry) == []


def test_thread_without_a_timeout_gets_a_note() -> None:
    registry = ComponentRegistry()

    @registry.tool("sync")
    def sync() -> None:
        raise AssertionError("check runs nothing")

    steps: list[dict[str, Any]] = [{"id": "a", "component": "sync"}, {"id": "b", "component": "sync", "timeout": 5}]
    (note,) = check({"id": "w", "steps": steps}, registry)
    assert (note.path, note.level) == ("$.steps[0]", "note")
    around = {"id": "f", "foreach": [1], "timeout": 60, "steps": [steps[0]]}
    assert check({"id": "w", "steps": [around]}, registry) == []


def test_registry_refuses_errors_and_lets_warnings_pass(components: ComponentRegistry) -> None:
    doubtful = document_of(GUARDED, {"id": "b", "set": "{{ steps.some.output }}"})
    assert [one.level for one in check(doubtful, components)] == ["warning"]
    assert WorkflowRegistry(components).register(doubtful).id == "w"
    doubtful["steps"].append({"id": "c", "set": "{{ steps.page.output.nothing }}"})
    with pytest.raises(InvalidDefinition) as caught:
        WorkflowRegistry(components).register(doubtful)
    assert [problem.path for problem in caught.value.problems] == ["$.steps[3].set"]


def test_levels_are_named_in_the_text_of_a_problem() -> None:
    assert (
        str(Problem("$.a", "It is red.", "Make it blue.", 3, 7)) == "$.a (line 3, column 7): It is red. Make it blue."
    )
    assert str(Problem("$.a", "It is red.", level="warning")) == "$.a: warning: It is red."


def test_warnings_of_a_file_have_line_and_column(tmp_path: Path, components: ComponentRegistry) -> None:
    file = tmp_path / "w.json"
    file.write_text(
        '{"id": "w", "steps": [\n  {"id": "a", "condition": "{{ job.id == \'\' }}", "component": "anything"},\n'
        '  {"id": "b", "set": {"x": ["{{ steps.a.output }}"]}}\n]}'
    )
    (problem,) = check(file, components)
    assert (problem.level, problem.path, problem.line, problem.column) == ("warning", "$.steps[1].set.x[0]", 3, 29)


@pytest.mark.parametrize("properties", [[], 3, "text", None, [None], {"a": 3}])
def test_broken_input_schema_is_a_problem_and_no_crash(properties: Any) -> None:
    inputs = {"type": "object", "properties": properties}
    steps = [{"id": "a", "set": "{{ inputs.a }} {{ inputs.b.c }}"}]
    assert any(problem.path.startswith("$.inputs") for problem in check({"id": "w", "inputs": inputs, "steps": steps}))


def test_fields_of_job_and_error_are_those_that_expressions_see() -> None:
    drive = Drive([{"id": "a", "set": 1}])
    names = ScopeNames(drive.state, drive.state.scopes[ROOT])
    assert fields_of(JOB) == set(names.value("job"))
    assert fields_of(ERROR) == set(error_info("a.b", "no"))


def fields_of(known: Type) -> set[str]:
    (alternative,) = known.alternatives or ()
    return set(alternative.fields or ())
