"""Older definitions in the form of today: new names, moved fields, connections, and problems at their old places."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openagents_json.components import ComponentRegistry
from openagents_json.errors import InvalidDefinition, Problem
from openagents_json.workflow import build_plan, check, load_workflow, parse_text, parse_workflow
from openagents_json.workflow.load import read_data, read_text
from openagents_json.workflow.older import canonical
from openagents_json.workflow.older_names import Names
from openagents_json.workflow.problems import Problems

ROOT = Path(__file__).parents[2]
FIXTURES = sorted((ROOT / "tests" / "fixtures" / "older").glob("*.json"))
STEP: dict[str, Any] = {"id": "a", "component": "x"}


def definition(*steps: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"id": "w", "steps": list(steps) or [STEP], **fields}


def document_of(*steps: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return parse_workflow(definition(*steps, **fields)).document


def problems_of(document: dict[str, Any], level: str = "error") -> list[Problem]:
    return [problem for problem in check(document) if problem.level == level]


def problem_of(document: dict[str, Any]) -> Problem:
    problems = problems_of(document)
    assert len(problems) == 1, problems
    return problems[0]


def call(id: str, **fields: Any) -> dict[str, Any]:
    return {"id": id, "component": "x", **fields}


def connect(source: str, target: str, **fields: Any) -> dict[str, Any]:
    return {"source": source, "target": target, **fields}


# ── what is published loads ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_fixture_loads_without_problems_and_its_canonical_form_is_stable(path: Path) -> None:
    workflow = load_workflow(path)
    build_plan(workflow)
    again = parse_workflow(workflow.document)
    assert again.document == workflow.document
    assert again.content_hash == workflow.content_hash
    assert not {"output", "connections", "name"} & workflow.document.keys()


def test_there_are_enough_fixtures() -> None:
    assert len(FIXTURES) >= 12


def test_definition_of_the_readme_becomes_this() -> None:
    workflow = load_workflow(ROOT / "tests" / "fixtures" / "older" / "readme.json")
    assert workflow.document["steps"] == [
        {"id": "extract-text", "component": "letters.extract", "inputs": {"document": "{{inputs.document}}"}},
        {
            "id": "rate-mood",
            "component": "letters.mood",
            "inputs": {"text": "{{steps['extract-text'].output}}"},
            "condition": "{{steps['extract-text'].success}}",
        },
    ]
    assert workflow.document["outputs"] == {"mood": "{{steps['rate-mood'].output}}", "status": "{{'COMPLETED'}}"}
    assert workflow.document["inputs"] == {
        "type": "object",
        "properties": {"document": {}},
        "required": ["document"],
    }


@pytest.mark.parametrize("path", sorted((ROOT / "examples").rglob("*.json")), ids=lambda path: path.name)
def test_definition_of_today_stays_as_it_is(path: Path) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    if "steps" in document:
        assert canonical(document, Problems())[0] == document


def test_what_the_definition_is_made_from_is_not_changed() -> None:
    document = json.loads((ROOT / "tests" / "fixtures" / "older" / "connections.json").read_text(encoding="utf-8"))
    before = json.dumps(document)
    parse_workflow(document)
    assert json.dumps(document) == before


# ── names ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("older", "today"),
    [
        ("{{input.document}}", "{{inputs.document}}"),
        ("{{ input['a b'] }}", "{{ inputs['a b'] }}"),
        ("{{input}}", "{{inputs}}"),
        ("{{a-b.output}}", "{{steps['a-b'].output}}"),
        ("{{a-b.output.pages[0].text|upper}}", "{{steps['a-b'].output.pages[0].text|upper}}"),
        ("{{a.success and not b.error}}", "{{steps.a.success and not steps.b.error}}"),
        ("{{b.status == 'a.status'}}", "{{steps.b.status == 'a.status'}}"),
        ("{{ a . output }}", "{{ steps.a . output }}"),
        ("{{a-b-c.output}}", "{{steps['a-b-c'].output}}"),
        ("{{a.output-b.output}}", "{{steps.a.output-steps.b.output}}"),
        ("{{1-a-b.output}}", "{{1-steps['a-b'].output}}"),
        ("{{index-a.output}}", "{{index-steps.a.output}}"),
        (
            "text {{a.output}} and {{b.output}} and a.output",
            "text {{steps.a.output}} and {{steps.b.output}} and a.output",
        ),
        (
            "{% for x in a.output %}{{ x.output }}{% endfor %}",
            "{% for x in steps.a.output %}{{ x.output }}{% endfor %}",
        ),
        ("{% set n = a.output %}{{ n-b.output }}", "{% set n = steps.a.output %}{{ n-steps.b.output }}"),
        ("{{workflow.status}}", "{{'RUNNING'}}"),
        ("{{ {'a': {'b': a.output}} }}", "{{ {'a': {'b': steps.a.output}} }}"),
        ("{{gone-step.output}}", "{{steps['gone-step'].output}}"),
    ],
)
def test_older_name_becomes_one_of_today(older: str, today: str) -> None:
    assert Names({"a", "b", "a-b", "a-b-c"}).text(older, "'RUNNING'") == today


@pytest.mark.parametrize(
    "text",
    [
        "{{ steps.a.output }}",
        "{{ steps['a-b'].output }}",
        "{{ inputs.a.output }}",
        "{{ item.output + last.output }}",
        "{{ error.status }}",
        "{{ job.outcome }}",
        "{{ a.outputs }}",
        "{{ 'a.output' ~ \"b.output\" }}",
        "{# a.output #}",
        "{% raw %}{{a.output}}{% endraw %}",
        "{% for a in inputs.rows %}{{ a.output }}{% endfor %}",
        "{% set a = inputs.row %}{{ a.output }}",
        "a.output",
        "{{ a.output $ }}",
        "{{ a.output",
    ],
)
def test_what_means_something_today_or_nothing_at_all_stays(text: str) -> None:
    names = Names({"a", "b", "a-b"})
    assert names.text(text, "'RUNNING'") == text
    assert not names.has_older


def test_status_of_the_workflow_is_what_it_is_where_it_is_asked() -> None:
    notify = call("notify", inputs={"text": "{{workflow.status}}"})
    document = document_of(
        call("a", inputs={"s": "{{workflow.status}}"}), output="{{workflow.status}}", **{"finally": [notify]}
    )
    assert document["steps"][0]["inputs"] == {"s": "{{'RUNNING'}}"}
    assert document["outputs"] == "{{'COMPLETED'}}"
    assert document["finally"][0]["inputs"] == {"text": "{{job.outcome}}"}


def test_names_change_in_nested_steps_and_not_in_free_text() -> None:
    inner = {"id": "inner", "set": "{{a.output}}", "note": "{{a.output}}", "metadata": {"k": "{{a.output}}"}}
    outer = {"id": "outer", "foreach": "{{a.output}}", "steps": [inner], "output": "{{inner.output}}"}
    switch = {"id": "s", "switch": [{"when": "{{a.success}}", "steps": [{"id": "t", "set": "{{outer.output}}"}]}]}
    both = {"id": "p", "parallel": {"left": [{"id": "l", "set": "{{s.output}}"}]}}
    caught = call("e", catch=[{"steps": [{"id": "h", "set": "{{e.error.message}}"}]}])
    steps = document_of(call("a"), outer, switch, both, caught)["steps"]
    assert steps[1]["foreach"] == "{{steps.a.output}}"
    assert steps[1]["output"] == "{{steps.inner.output}}"
    assert steps[1]["steps"] == [{**inner, "set": "{{steps.a.output}}"}]
    assert steps[2]["switch"][0]["when"] == "{{steps.a.success}}"
    assert steps[2]["switch"][0]["steps"][0]["set"] == "{{steps.outer.output}}"
    assert steps[3]["parallel"]["left"][0]["set"] == "{{steps.s.output}}"
    assert steps[4]["catch"][0]["steps"][0]["set"] == "{{steps.e.error.message}}"


def test_misspelt_older_step_is_named_with_its_nearest() -> None:
    problem = problem_of(definition(call("extract-text"), call("b", inputs={"t": "{{extrct-text.output}}"})))
    assert problem.path == "$.steps[1].inputs.t"
    assert "There is no step 'extrct-text'" in problem.message
    assert "extract-text" in (problem.suggestion or "")


# ── inputs ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("parameter", "schema"),
    [
        ("string", {"type": "string"}),
        ("any", {}),
        ("The text to read", {"description": "The text to read"}),
        ({"type": "any", "description": "d"}, {"description": "d"}),
        (
            {"type": "integer", "minimum": 1, "default": 2, "required": False},
            {"type": "integer", "minimum": 1, "default": 2},
        ),
        ({"type": "string", "default": None, "enum": ["a"]}, {"type": "string", "enum": ["a"]}),
        ({"type": "array", "items_type": "string"}, {"type": "array", "items": {"type": "string"}}),
        (
            {"type": "object", "required": ["k"], "properties": {"k": {}}},
            {"type": "object", "required": ["k"], "properties": {"k": {}}},
        ),
    ],
)
def test_parameter_becomes_a_schema(parameter: Any, schema: Any) -> None:
    assert document_of(inputs={"p": parameter})["inputs"] == {"type": "object", "properties": {"p": schema}}


def test_required_parameters_are_required() -> None:
    inputs = {"p": {"type": "string", "required": True}, "q": {"type": "string"}}
    assert document_of(inputs=inputs)["inputs"]["required"] == ["p"]


def test_inputs_are_a_schema_only_if_their_type_is_the_string_object() -> None:
    assert document_of(inputs={"type": {"type": "string"}})["inputs"]["properties"] == {"type": {"type": "string"}}
    assert document_of(inputs={"type": "string"})["inputs"]["properties"] == {"type": {"type": "string"}}
    assert document_of(inputs={})["inputs"] == {"type": "object", "properties": {}}
    schema = {"type": "object", "properties": {"type": {"type": "string"}}}
    assert document_of(inputs=schema)["inputs"] == schema


@pytest.mark.parametrize(
    ("inputs", "path", "message", "suggestion"),
    [
        ({"p": 3}, "$.inputs.p", "An input is an object", None),
        ({"p": {"type": "strng"}}, "$.inputs.p.type", "There is no type 'strng'", "string"),
        ({"p": {"requird": True}}, "$.inputs.p.requird", "has no field 'requird'", "required"),
        ({"p": {"required": "yes"}}, "$.inputs.p.required", "is true or false", None),
        ({"p": {"type": "string", "minLength": "a"}}, "$.inputs.p.minLength", "", None),
        ({"p": {"type": "integer", "default": "x"}}, "$.inputs.p.default", "must be an integer", None),
        ({"properties": {"url": {}}}, "$.inputs.properties.url", "has no field 'url'", '"type": "object"'),
    ],
)
def test_faulty_parameter_is_named_at_its_place(
    inputs: dict[str, Any], path: str, message: str, suggestion: str | None
) -> None:
    problem = problem_of(definition(inputs=inputs))
    assert problem.path == path
    assert message in problem.message
    assert (suggestion or "") in (problem.suggestion or "")


def test_inputs_that_are_used_with_a_default_need_not_be_given() -> None:
    step = call("a", inputs={"x": "{{input.x}}", "y": "{{input.y | default(1)}}", "z": "{{input['z'] is defined}}"})
    assert document_of(step)["inputs"]["required"] == ["x"]
    assert list(document_of(step)["inputs"]["properties"]) == ["x", "y", "z"]


def test_definition_that_uses_all_inputs_takes_any() -> None:
    assert document_of(call("a", inputs={"all": "{{input}}"}))["inputs"]["additionalProperties"] is True


def test_unknown_input_of_declared_parameters_is_a_problem() -> None:
    problem = problem_of(definition(call("a", inputs={"x": "{{input.documnt}}"}), inputs={"document": "string"}))
    assert (problem.path, problem.suggestion) == ("$.steps[0].inputs.x", "Did you mean 'document'?")


# ── other fields ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_names_and_descriptions_go_into_metadata() -> None:
    document = document_of(call("a", name="A", description="does a", metadata={"k": 1}), name="W")
    assert document["metadata"] == {"name": "W"}
    assert document["steps"][0] == call("a", metadata={"name": "A", "description": "does a", "k": 1})


def test_older_retry_keeps_the_defaults_that_it_had() -> None:
    retry = document_of(call("a", retry={"max_attempts": 2}), output="{{a.output}}")["steps"][0]["retry"]
    assert retry == {"max_attempts": 2, "delay_seconds": 5, "backoff_multiplier": 1.0}
    retry = document_of(call("a", retry={"max_attempts": 0}), output="{{a.output}}")["steps"][0]["retry"]
    assert retry["max_attempts"] == 1
    assert document_of(call("a", retry={"max_attempts": 2}))["steps"][0]["retry"] == {"max_attempts": 2}


def test_older_condition_may_stand_without_braces() -> None:
    document = document_of(call("a"), call("b", condition="a.success"), output="{{b.output}}")
    assert document["steps"][1]["condition"] == "{{ steps.a.success }}"
    assert {problem.path for problem in problems_of(definition(call("a", condition="true")))} == {
        "$.steps[0].condition"
    }


def test_output_and_outputs_together_are_a_problem() -> None:
    assert problem_of(definition(output=1, outputs=2)).path == "$.output"


def test_output_that_nothing_gives_is_a_problem() -> None:
    step = call("a", outputs={"x": "a_x"})
    problem = problem_of(definition(step, outputs={"y": {"type": "string"}}))
    assert problem.path == "$.outputs.y"
    assert "no step says that it gives it" in problem.message


@pytest.mark.parametrize(
    ("fields", "step", "path", "message"),
    [
        (
            {"state_dependencies": {"isolation": "step"}},
            {},
            "$.state_dependencies",
            "`state_dependencies` is not supported",
        ),
        ({}, {"state": {"persist": True}}, "$.steps[0].state", "`state` of a step is not supported"),
        ({}, {"outputs": ["x"]}, "$.steps[0].outputs", "are an object"),
    ],
)
def test_what_today_has_no_word_for_is_named(
    fields: dict[str, Any], step: dict[str, Any], path: str, message: str
) -> None:
    problem = problem_of(definition({**STEP, **step}, **fields))
    assert problem.path == path
    assert message in problem.message


# ── connections ───────────────────────────────────────────────────────────────────────────────────────────────────


def wired(steps: list[dict[str, Any]], *connections: dict[str, Any]) -> list[dict[str, Any]]:
    return list(document_of(*steps, connections=list(connections))["steps"])


def test_connections_work_in_a_definition_of_today() -> None:
    steps = wired([call("b", inputs={"n": 1}), call("a")], connect("a.out", "b.in"))
    assert steps == [
        call("a", needs=[]),
        call(
            "b",
            inputs={"n": 1, "in": "{{ steps.a.output.out if steps.a.output is mapping else steps.a.output }}"},
            needs=["a"],
        ),
    ]


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("a", "{{ steps.a.output }}"),
        ("a.output", "{{ steps.a.output }}"),
        ("a.items", "{{ steps.a.output['items'] if steps.a.output is mapping else steps.a.output }}"),
        ("a.x.y", "{{ steps.a.output.x.y if steps.a.output is mapping else steps.a.output }}"),
        ("a.it's", "{{ steps.a.output['it\\'s'] if steps.a.output is mapping else steps.a.output }}"),
    ],
)
def test_source_of_a_connection_names_a_part_of_the_output(source: str, value: str) -> None:
    assert wired([call("a"), call("b")], connect(source, "b.in"))[1]["inputs"] == {"in": value}


def test_order_is_that_of_the_connections_and_references_and_otherwise_of_the_array() -> None:
    steps = [call("d"), call("c", inputs={"x": "{{ steps.b.output }}"}), call("b"), call("a")]
    ordered = wired(steps, connect("a", "d"))
    assert [step["id"] for step in ordered] == ["b", "c", "a", "d"]
    assert [step["needs"] for step in ordered] == [[], [], [], ["a"]]
    plan = build_plan(parse_workflow(definition(*steps, connections=[connect("a", "d")])))
    assert plan.root.waits == (0, 1, 0, 1)


def test_references_of_nested_steps_count_for_the_order() -> None:
    inner = {"id": "inner", "set": "{{ steps.late.output }}"}
    loop = {"id": "loop", "foreach": [1], "steps": [inner]}
    ordered = wired([loop, call("late"), call("end")], connect("loop", "end"))
    assert [step["id"] for step in ordered] == ["late", "loop", "end"]


def test_needs_that_are_given_are_kept_beside_the_connections() -> None:
    ordered = wired([call("a"), call("b"), call("c", needs=["a"])], connect("b", "c"))
    assert ordered[2]["needs"] == ["a", "b"]


def test_no_connections_at_all_leave_the_order_of_the_array() -> None:
    assert document_of(call("a"), call("b"), connections=[]) == definition(call("a"), call("b"))


def test_conditions_of_connections_guard_their_target() -> None:
    yes = "{{ steps.a.output > 1 }}"
    steps = [call("a"), call("b"), call("c", condition="{{ inputs.go }}"), call("d"), call("e")]
    schema = {"type": "object", "properties": {"go": {"type": "boolean"}}}
    connections = [
        connect("a", "b", condition=yes),
        connect("a.x", "c.x", condition=yes),
        connect("a.x", "d.x", condition=yes),
        connect("b.y", "d.y", condition=yes),
        connect("a", "e", condition=True),
    ]
    ordered = document_of(*steps, connections=connections, inputs=schema)["steps"]
    assert [step.get("condition") for step in ordered] == [
        None,
        yes,
        "{{ (inputs.go) and (steps.a.output > 1) }}",
        yes,
        None,
    ]


@pytest.mark.parametrize(
    ("connection", "path", "message"),
    [
        (connect("a.x", "b.y", transform="{{ value }}"), "transform", "`transform` of a connection is not supported"),
        (connect("z.x", "b.y"), "source", "There is no step 'z'"),
        (connect("a.x", "z"), "target", "There is no step 'z'"),
        (connect("inner", "b"), "source", "There is no step 'inner' in the `steps`"),
        (connect("a.", "b.y"), "source", "does not name a part"),
        (connect("a..x", "b.y"), "source", "does not name a part"),
        (connect("a.x", "s.y"), "target", "Step 's' takes no inputs"),
        ({"source": "a"}, "target", "`target` is missing"),
        ({"source": 1, "target": "b"}, "source", "`source` must be a string"),
        (connect("a", "b", condition=1), "condition", "A condition is true, false or"),
        (connect("a", "b", condition="{{ 1 + }}"), "condition", "Expected"),
        (connect("a", "b", conditon="{{ true }}"), "conditon", "has no field 'conditon'"),
    ],
)
def test_faulty_connection_is_named_at_its_place(connection: dict[str, Any], path: str, message: str) -> None:
    nested = {"id": "s", "foreach": [1], "steps": [{"id": "inner", "set": 1}]}
    steps = [nested, call("b"), call("a")]
    problem = problem_of(definition(*steps, connections=[connect("a.q", "b.q"), connection]))
    assert problem.path == f"$.connections[1].{path}"
    assert message in problem.message


def test_two_connections_to_one_input_are_a_problem() -> None:
    document = definition(call("a"), call("b"), connections=[connect("a.x", "b.in"), connect("a.y", "b.in")])
    assert problem_of(document).path == "$.connections[1].target"


@pytest.mark.parametrize(
    ("steps", "connections", "circles"),
    [
        ([call("a"), call("b")], [("a", "b"), ("b", "a")], {"a → b → a", "b → a → b"}),
        ([call("a")], [("a", "a")], {"a → a"}),
        (
            [call("a", inputs={"x": "{{ steps.b.output }}"}), call("b"), call("c")],
            [("c", "b"), ("a", "b")],
            {"a → b → a", "b → a → b"},
        ),
        (
            [call("z"), call("a"), call("b"), call("c")],
            [("c", "z"), ("a", "b"), ("b", "c"), ("c", "a")],
            {"a → b → c → a", "b → c → a → b", "c → a → b → c"},
        ),
    ],
)
def test_circle_is_named_at_one_of_its_connections(
    steps: list[dict[str, Any]], connections: list[tuple[str, str]], circles: set[str]
) -> None:
    problem = problem_of(definition(*steps, connections=[connect(*ends) for ends in connections]))
    circle = problem.message.removeprefix("Connections and references go round in a circle: ").removesuffix(".")
    assert circle in circles
    index = int(problem.path.removeprefix("$.connections[").removesuffix("]"))
    assert connections[index] in set(itertools.pairwise(circle.split(" → ")))


@pytest.mark.parametrize("connections", [None, 1, "a", {}, [1], [None], [[]]])
def test_connections_that_are_none_are_a_problem(connections: Any) -> None:
    assert problem_of(definition(connections=connections)).path.startswith("$.connections")


# ── places ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_problems_have_the_lines_of_the_text_that_was_read() -> None:
    text = """{"id": "w",
 "name": 3,
 "steps": [
  {"id": "late", "component": "x", "nme": 1,
   "inputs": {"v": "{{gone.output}}"}},
  {"id": "first", "component": "x",
   "timeout": -1}],
 "connections": [
  {"source": "first.out", "target": "late.in"}],
 "output": {"o": "{{absent.output}}"}}
"""
    reading = read_text(text, "json", "w")
    found = {(problem.path, problem.line) for problem in reading.placed()}
    assert {("$.steps[0].nme", 4), ("$.steps[1].timeout", 7)} <= found
    fixed = text.replace(', "nme": 1', "").replace("-1", "1")
    with pytest.raises(InvalidDefinition) as caught:
        build_plan(parse_text(fixed))
    assert {problem.path for problem in caught.value.problems} == {"$.steps[1].inputs.v", "$.outputs"}
    file_problems = [problem for problem in _check_text(fixed) if problem.level == "error"]
    assert [(problem.path, problem.line) for problem in file_problems] == [("$.steps[0].inputs.v", 5), ("$.output", 10)]


def _check_text(text: str) -> list[Problem]:
    from openagents_json.workflow.check import examine_reading

    reading = read_text(text, "json", "w")
    examine_reading(reading, None)
    return reading.placed()


def test_input_that_the_component_does_not_have_is_told_at_the_connection() -> None:
    registry = ComponentRegistry()

    @registry.tool("x")
    async def x(value: int = 0) -> int:
        return value

    document = definition(call("b"), call("a"), connections=[connect("a", "b.valeu")])
    errors = [problem for problem in check(document, registry) if problem.level == "error"]
    assert [(problem.path, problem.suggestion) for problem in errors] == [
        ("$.connections[0].target", "Did you mean 'value'?")
    ]


def test_definition_that_is_too_large_once_written_out_is_refused() -> None:
    steps = [call(f"s{index}", inputs={"v": "{{s0.output}}" * 500}) for index in range(38)]
    assert len(json.dumps(definition(*steps))) < 256 * 1024
    problems = read_data(definition(*steps), "w").placed()
    assert [problem.path for problem in problems] == ["$"]
    assert "longer than 262,144 bytes" in problems[0].message


# ── whatever comes ────────────────────────────────────────────────────────────────────────────────────────────────

ids = st.sampled_from(["a", "b", "a-b", "input", "workflow", "1", ""])
texts = st.sampled_from(
    ["{{a.output}}", "{{input.x}}", "a.x", "workflow.x", "b", "{{", "{{ a-b.output }}", "{% set a %}", ""]
)
scalars = st.none() | st.booleans() | st.integers(-2, 3) | texts
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "name", "required", "default", "x", "outputs"]), inner, max_size=3)
    ),
    max_leaves=5,
)
odd_steps = st.fixed_dictionaries(
    {"id": ids},
    optional=dict.fromkeys(
        (
            "component", "set", "foreach", "steps", "switch", "parallel", "catch", "inputs", "outputs", "condition",
            "needs", "retry", "name", "description", "metadata", "state", "type", "agent", "capability", "tool",
        ),
        values,
    ),
)  # fmt: skip
odd_connections = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(
        ("source", "target", "condition", "transform", "from_step", "to_step", "from_output", "to_input"), values
    ),
)
documents = st.fixed_dictionaries(
    {"id": st.just("w")},
    optional={
        "steps": st.lists(odd_steps | values, max_size=4) | values,
        "connections": st.lists(odd_connections | values, max_size=4) | values,
        **dict.fromkeys(("inputs", "outputs", "output", "name", "metadata", "finally", "state_dependencies"), values),
    },
)


@settings(max_examples=400, deadline=None)
@given(documents)
def test_any_document_loads_or_gives_problems(document: dict[str, Any]) -> None:
    reading = read_data(document, "w")
    assert (reading.workflow is not None) or reading.placed()
    check(document)


good_ids = ["a", "b", "c", "d", "e"]
edges = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)).filter(lambda pair: pair[0] < pair[1]), max_size=8)


@settings(max_examples=200, deadline=None)
@given(st.permutations(good_ids), st.permutations(good_ids), edges)
def test_acyclic_connections_give_a_plan_that_keeps_every_one(
    array: list[str], ranks: list[str], pairs: list[tuple[int, int]]
) -> None:
    connections = [connect(ranks[before], ranks[after]) for before, after in pairs]
    workflow = parse_workflow(
        definition(*[call(name) for name in array], connections=connections or [connect("a", "b")])
    )
    plan = build_plan(workflow)
    places = {node.id: node.index for node in plan.root.nodes}
    for one in connections:
        source, target = places[one["source"]], places[one["target"]]
        assert source < target
        assert target in plan.root.nodes[source].followers
    assert parse_workflow(workflow.document).document == workflow.document
