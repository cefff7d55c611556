"""The plan: which step waits for which, what a step may refer to, and what is compiled."""

from __future__ import annotations

from typing import Any

import pytest

from openagents_json.errors import InvalidDefinition, Problem
from openagents_json.workflow import Block, Plan, build_plan, parse_workflow


def planned(*steps: dict[str, Any], **fields: Any) -> Plan:
    return build_plan(parse_workflow({"id": "w", "steps": list(steps), **fields}))


def problems_of(*steps: dict[str, Any], **fields: Any) -> list[Problem]:
    with pytest.raises(InvalidDefinition) as caught:
        planned(*steps, **fields)
    return list(caught.value.problems)


def problem_of(*steps: dict[str, Any], **fields: Any) -> Problem:
    problems = problems_of(*steps, **fields)
    assert len(problems) == 1, problems
    return problems[0]


def step(name: str, value: Any = 1, **fields: Any) -> dict[str, Any]:
    return {"id": name, "set": value, **fields}


def waits(block: Block) -> dict[str, set[str]]:
    """For each step the ones it waits for, directly or through others."""
    direct: dict[str, set[str]] = {node.id: set() for node in block.nodes}
    for node in block.nodes:
        for index in node.followers:
            direct[block.nodes[index].id].add(node.id)
    for node in block.nodes:
        assert block.waits[node.index] == len(direct[node.id])
    assert {block.nodes[index].id for index in block.starts} == {name for name, before in direct.items() if not before}
    for node in block.nodes:  # upwards only, so one pass closes it
        direct[node.id] |= {far for near in direct[node.id] for far in direct[near]}
    return direct


# ── the order rule ────────────────────────────────────────────────────────────────────────────────────────────────


def test_steps_without_needs_run_one_after_the_other() -> None:
    plan = planned(step("a"), step("b"), step("c"))
    assert waits(plan.root) == {"a": set(), "b": {"a"}, "c": {"a", "b"}}
    assert plan.root.waits == (0, 1, 1)


def test_empty_needs_start_at_once() -> None:
    assert waits(planned(step("a"), step("b", needs=[]), step("c", needs=[])).root) == {
        "a": set(),
        "b": set(),
        "c": set(),
    }


def test_step_with_needs_runs_after_exactly_those() -> None:
    plan = planned(step("a"), step("b", needs=[]), step("c", needs=["a"]), step("d", needs=["b"]))
    assert waits(plan.root) == {"a": set(), "b": set(), "c": {"a"}, "d": {"b"}}


def test_step_without_needs_waits_for_all_before_it_even_the_parallel_ones() -> None:
    plan = planned(step("a"), step("b", needs=[]), step("c", needs=["a"]), step("d"), step("e"))
    assert waits(plan.root)["d"] == {"a", "b", "c"}
    assert waits(plan.root)["e"] == {"a", "b", "c", "d"}


def test_reference_adds_to_needs() -> None:
    plan = planned(step("a"), step("b", needs=[]), step("c", "{{ steps.a.output }}", needs=["b"]))
    assert waits(plan.root)["c"] == {"a", "b"}
    plan = planned(step("a"), step("b", needs=[]), step("c", "{{ steps.b.output }}", needs=[]))
    assert waits(plan.root)["c"] == {"b"}


def test_condition_and_foreach_and_inputs_are_references_too() -> None:
    nested = {"id": "f", "foreach": "{{ steps.b.output }}", "needs": [], "steps": [step("n", "{{ steps.c.output }}")]}
    plan = planned(
        step("a"),
        step("b", needs=[]),
        step("c", needs=[]),
        nested,
        step("d", condition="{{ steps.a.success }}", needs=[]),
        {"id": "e", "component": "x", "inputs": {"deep": [{"v": "{{ steps.d.output }}"}]}, "needs": []},
    )
    order = waits(plan.root)
    assert (order["f"], order["d"], order["e"]) == ({"b", "c"}, {"a"}, {"a", "d"})


def test_diamond_is_walked_once_each() -> None:
    plan = planned(step("a"), step("b", needs=["a"]), step("c", needs=["a"]), step("d", needs=["b", "c", "b"]))
    assert plan.root.waits == (0, 1, 1, 2)
    assert [node.followers for node in plan.root.nodes] == [(1, 2), (3,), (3,), ()]


def test_nested_steps_may_need_steps_outside_without_waiting_inside() -> None:
    nested = {"id": "f", "foreach": [1], "steps": [step("n", needs=["a"]), step("m", needs=[])]}
    plan = planned(step("a"), nested)
    body = plan.nodes["f"].body
    assert body is not None
    assert waits(body) == {"n": set(), "m": set()}


def test_need_of_a_nested_step_makes_its_container_wait() -> None:
    nested = {"id": "f", "foreach": [1], "needs": [], "steps": [step("n", needs=["a"])]}
    assert waits(planned(step("a"), nested).root)["f"] == {"a"}


def test_finally_sees_every_step_of_the_definition() -> None:
    plan = planned(step("a"), step("b"), **{"finally": [step("z", "{{ steps.b.status }}"), step("y")]})
    assert plan.finally_block is not None
    assert waits(plan.finally_block) == {"z": set(), "y": {"z"}}


# ── what may be named ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("bad", [step("a", "{{ steps.b.output }}"), step("a", needs=["b"])])
def test_later_step_cannot_be_named(bad: dict[str, Any]) -> None:
    problem = problem_of(bad, step("b"))
    assert "stands later" in problem.message


def test_step_cannot_name_itself() -> None:
    assert "this step itself" in problem_of(step("a", "{{ steps.a.output }}")).message
    assert "this step itself" in problem_of(step("a", needs=["a"])).message


def test_unknown_step_is_refused_with_the_nearest() -> None:
    problem = problem_of(step("extract"), step("b", "{{ steps.extrct.output }}"))
    assert problem == Problem("$.steps[1].set", "There is no step 'extrct'.", "Did you mean 'extract'?")
    problem = problem_of(step("extract"), step("b", needs=["extrac"]))
    assert problem.path == "$.steps[1].needs[0]"


def test_nested_step_is_reached_through_its_container_only() -> None:
    nested = {"id": "f", "foreach": [1], "steps": [step("n")]}
    problem = problem_of(nested, step("b", "{{ steps.n.output }}"))
    assert problem.suggestion == "From outside use steps.f.output."


def test_nested_step_cannot_name_its_container() -> None:
    assert problems_of({"id": "f", "foreach": [1], "steps": [step("n", "{{ steps.f.output }}")]})


def test_ids_are_unique_in_the_whole_definition() -> None:
    nested = {"id": "f", "foreach": [1], "steps": [step("a")]}
    problem = problem_of(step("a"), nested)
    assert problem.path == "$.steps[1].steps[0].id"
    assert "$.steps[0]" in problem.message


def test_compensation_in_finally_is_refused() -> None:
    plan = {"id": "w", "steps": [step("a", 1)], "finally": [{**step("z", 1), "compensate": {"component": "undo"}}]}
    with pytest.raises(InvalidDefinition, match="would never run"):
        build_plan(parse_workflow(plan))


def test_item_and_index_exist_inside_foreach_only() -> None:
    planned({"id": "f", "foreach": [1], "steps": [step("n", "{{ item + index }}")], "output": "{{ item }}"})
    problem = problem_of(step("a", "{{ item }}"))
    assert "only inside `foreach`" in problem.message


def test_list_that_foreach_walks_may_use_the_outer_item_only() -> None:
    inner = {"id": "g", "foreach": "{{ item.rows }}", "steps": [step("n")]}
    planned({"id": "f", "foreach": [1], "steps": [inner]})
    assert problem_of({"id": "f", "foreach": "{{ item.rows }}", "steps": [step("n")]}).path == "$.steps[0].foreach"


def test_unknown_input_is_refused_with_the_nearest() -> None:
    schema = {"type": "object", "properties": {"max_risk": {}}}
    problem = problem_of(step("a", "{{ inputs.max_rsk }}"), inputs=schema)
    assert (problem.message, problem.suggestion) == ("The workflow has no input 'max_rsk'.", "Did you mean 'max_risk'?")


@pytest.mark.parametrize(
    "more",
    [{"additionalProperties": True}, {"patternProperties": {"^x": {}}}, {"anyOf": [{}]}, {"unevaluatedProperties": {}}],
)
def test_inputs_that_the_schema_leaves_open_may_be_named(more: dict[str, Any]) -> None:
    planned(step("a", "{{ inputs.anything }}"), inputs={"type": "object", **more})


def test_secrets_stand_in_component_inputs_only() -> None:
    planned({"id": "a", "component": "x", "inputs": {"key": "{{ secrets.K }}"}})
    assert "`secrets`" in problem_of(step("a", "{{ secrets.K }}")).message
    assert "`secrets`" in problem_of(step("a"), outputs={"k": "{{ secrets.K }}"}).message
    assert "`secrets`" in problem_of({"id": "a", "component": "x", "condition": "{{ secrets.K == 1 }}"}).message


def test_expression_that_does_not_compile_is_placed() -> None:
    problem = problem_of({"id": "a", "component": "x", "inputs": {"a b": "{{ 1 + }}"}})
    assert problem.path == '$.steps[0].inputs["a b"]'


def test_outputs_may_name_every_step_at_the_top() -> None:
    plan = planned(step("a"), step("b"), outputs={"x": "{{ steps.b.output }}"})
    assert plan.outputs is not None
    assert plan.outputs.steps == {"b"}


def test_many_problems_are_cut_with_a_word() -> None:
    problems = problems_of(*[step(f"s{number}", "{{ steps.nowhere.output }}") for number in range(300)])
    assert len(problems) == 101
    assert "more problems" in problems[-1].message


# ── secrets ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_templates_that_would_hold_a_secret_are_known() -> None:
    schema = {"type": "object", "properties": {"key": {"type": "string", "writeOnly": True}, "n": {"type": "number"}}}
    inputs = {"a": "{{ inputs.key }}", "b": "{{ inputs.n }}", "c": "{{ secrets.X }}", "d": "{{ inputs }}", "e": 1}
    plan = planned({"id": "s", "component": "x", "inputs": inputs}, inputs=schema)
    held = {name for name, template in plan.nodes["s"].inputs.items() if plan.holds_secret(template)}
    assert held == {"a", "c", "d"}
    assert plan.secret_inputs == {"key"}


def test_component_input_of_any_name_may_hold_a_secret() -> None:
    planned({"id": "a", "component": "x", "inputs": {"api key": "{{ secrets.K }}"}})
