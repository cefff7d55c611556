"""The JSON Schema of the language: up to date, as strict as the loader, and accepted by editors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema_rs import Draft202012Validator

import openagents_json.workflow
from openagents_json.workflow import check, load_workflow
from openagents_json.workflow.language_schema import TEXTS, language_schema
from openagents_json.workflow.model import KINDS, RESERVED_IDS
from openagents_json.workflow.shape import KIND_FIELDS
from tests.fixtures.planted import FILES
from tests.property.definitions import generated

SHIPPED = Path(openagents_json.workflow.__file__).with_name("language.schema.json")
VALIDATOR = Draft202012Validator(language_schema())
GENERATED = 300


def definition(**step: Any) -> dict[str, Any]:
    return {"id": "w", "steps": [{"id": "a", **step}]}


def accepts(document: Any) -> bool:
    return bool(VALIDATOR.is_valid(document))


def test_shipped_file_is_what_the_model_gives() -> None:
    regenerate = "openagents schema > src/openagents_json/workflow/language.schema.json"
    assert json.loads(SHIPPED.read_text()) == language_schema(), f"run: {regenerate}"


@pytest.mark.parametrize("name", FILES)
def test_good_definitions_fit_the_schema(name: str) -> None:
    assert accepts(json.loads(FILES[name].read_text()))


def test_generated_definitions_that_load_fit_the_schema() -> None:
    documents = [generated(seed) for seed in range(GENERATED)]
    loaded = [load_workflow(document).document for document in documents]
    assert [document for document in loaded if not accepts(json.loads(json.dumps(document)))] == []


BROKEN: dict[str, Any] = {
    "no object": [],
    "no id": {"steps": [{"id": "a", "set": 1}]},
    "no steps": {"id": "w", "steps": []},
    "unknown field": definition(set=1) | {"stepz": []},
    "internal field": definition(set=1) | {"document": {}},
    "unknown field of a step": definition(set=1, timout=3),
    "no kind": definition(),
    "two kinds": definition(set=1, component="x"),
    "kind of null": definition(component=None),
    "field of another kind": definition(set=1, inputs={}),
    "timeout of a set": definition(set=1, timeout=3),
    "reserved id": {"id": "w", "steps": [{"id": "item", "set": 1}]},
    "id with a space": {"id": "w", "steps": [{"id": "a b", "set": 1}]},
    "foreach without steps": definition(foreach=[1]),
    "repeat without a bound": definition(repeat={"until": True}, steps=[{"id": "b", "set": 1}]),
    "wait for nothing": definition(wait={}),
    "wait for both": definition(wait={"seconds": 1, "until": "2030-01-01T00:00:00Z"}),
    "empty branch": definition(parallel={"a": []}),
    "reserved branch": definition(parallel={"catch0": [{"id": "b", "set": 1}]}),
    "on_timeout without timeout": definition(signal="go", on_timeout="continue"),
    "detached with retry": definition(workflow="x", detached=True, retry={}),
    "timeout of zero": definition(component="x", timeout=0),
    "retry of nothing": definition(component="x", retry={"max_attempts": 0}),
    "handler without steps": definition(component="x", catch=[{"type": "http"}]),
    "nested unknown field": definition(foreach=[1], steps=[{"id": "b", "set": 1, "nots": 1}]),
    "unknown field of a case": definition(switch=[{"when": True, "steps": [{"id": "b", "set": 1}], "els": []}]),
    "inputs that are no schema": definition(set=1) | {"inputs": ["path"]},
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_definition_fits_neither_the_schema_nor_the_check(name: str) -> None:
    assert not accepts(BROKEN[name])
    assert any(problem.level == "error" for problem in check(BROKEN[name]))


def test_free_fields_and_the_schema_key_are_accepted() -> None:
    document = definition(set=None, **{"x-mine": [1], "note": {"any": 1}}) | {"$schema": "./workflow.schema.json"}
    assert accepts(document)
    assert check(document) == []


def test_every_field_has_a_sentence_that_editors_show() -> None:
    schema = language_schema()
    assert set(schema["properties"]) == set(TEXTS["Workflow"])
    assert set(schema["$defs"]["Step"]["properties"]) == set(TEXTS["Step"])


def test_every_kind_has_its_rule() -> None:
    step = language_schema()["$defs"]["Step"]
    assert step["oneOf"] == [{"required": [kind]} for kind in KINDS]
    rules = {rule["if"]["required"][0]: rule["then"] for rule in step["allOf"][: len(KINDS)]}
    assert rules.keys() == KIND_FIELDS.keys()
    assert all(rules[kind]["properties"].get(name, True) for kind in KINDS for name in KIND_FIELDS[kind])
    assert set(step["properties"]["id"]["not"]["enum"]) == RESERVED_IDS
