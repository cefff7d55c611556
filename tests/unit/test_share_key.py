"""`share_key` of a workflow: what may stand in it, and what it is for the inputs of a job."""

from __future__ import annotations

from typing import Any

import pytest

from openagents_json.errors import InvalidDefinition, InvalidInputs
from openagents_json.job.engine.sharing import share_of
from openagents_json.workflow import Plan, build_plan, parse_workflow
from openagents_json.workflow.limits import SHARE_KEY_CHARACTERS


def plan_of(key: Any, **inputs: Any) -> Plan:
    document = {
        "id": "flow",
        "share_key": key,
        "inputs": {"type": "object", "properties": inputs},
        "steps": [{"id": "a", "set": 1}],
    }
    return build_plan(parse_workflow(document))


TEXT, SECRET = {"type": "string"}, {"type": "string", "writeOnly": True}


@pytest.mark.parametrize(
    ("key", "path", "message"),
    [
        ("{{ steps.a.output }}", "$.share_key", "worked out before anything runs"),
        ("{{ inputs.token }}", "$.share_key", "is secret"),
        ("{{ inputs.tenant", "$.share_key", ""),
        ("", "$.share_key", ""),
        (7, "$.share_key", ""),
    ],
)
def test_key_that_cannot_be_is_refused_with_its_path(key: Any, path: str, message: str) -> None:
    with pytest.raises(InvalidDefinition) as refused:
        plan_of(key, tenant=TEXT, token=SECRET)
    problem = refused.value.problems[0]
    assert problem.path == path and message in problem.message


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("{{ inputs.tenant }}", "acme"),
        ("{{ inputs.tenant }}/{{ inputs.level }}", "acme/3"),
        ("{{ inputs.level }}", "3"),
        ("{{ inputs }}", '{"tenant":"acme","level":3}'),
        ("all of them", "all of them"),
    ],
)
def test_key_is_text_or_the_json_of_what_is_none(key: str, expected: str) -> None:
    plan = plan_of(key, tenant=TEXT, level={"type": "integer"})
    assert share_of(plan, {"tenant": "acme", "level": 3}) == expected


@pytest.mark.parametrize("tenant", ["", "x" * (SHARE_KEY_CHARACTERS + 1)])
def test_key_has_a_bounded_length(tenant: str) -> None:
    with pytest.raises(InvalidInputs, match=f"1 to {SHARE_KEY_CHARACTERS} are allowed"):
        share_of(plan_of("{{ inputs.tenant }}", tenant=TEXT), {"tenant": tenant})


def test_key_at_its_greatest_length_is_taken() -> None:
    longest = "x" * SHARE_KEY_CHARACTERS
    assert share_of(plan_of("{{ inputs.tenant }}", tenant=TEXT), {"tenant": longest}) == longest


def test_key_that_cannot_be_worked_out_is_refused() -> None:
    with pytest.raises(InvalidInputs, match="`share_key` cannot be worked out"):
        share_of(plan_of("{{ inputs.tenant }}", tenant=TEXT), {})
