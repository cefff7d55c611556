"""Inputs of jobs: defaults, every problem with its path, secrets, and what is no JSON."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pytest

from openagents_json.errors import InvalidDefinition, InvalidInputs
from openagents_json.jsondata import freeze
from openagents_json.workflow.inputs import InputSchema, schema_problems, secret_names

SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["path"],
    "properties": {
        "path": {"type": "string", "minLength": 1},
        "limit": {"type": "integer", "minimum": 1, "default": 10},
        "mode": {"enum": ["fast", "careful"]},
        "options": {
            "type": "object",
            "properties": {"depth": {"type": "integer", "default": 3}, "deep": {"type": ["string", "null"]}},
            "additionalProperties": False,
            "default": {"deep": "x"},
        },
        "rows": {"type": "array", "items": {"type": "object", "required": ["id"], "properties": {"id": {}}}},
    },
}


def problems_of(schema: dict[str, Any], inputs: Any) -> dict[str, str]:
    """Path → message of everything that is wrong."""
    with pytest.raises(InvalidInputs) as caught:
        InputSchema(schema).validate(inputs)
    return {problem.path: problem.message for problem in caught.value.problems}


# ── defaults ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_defaults_are_filled_in_also_inside_objects() -> None:
    schema = InputSchema(SCHEMA)
    assert schema.validate({"path": "p"}) == {"path": "p", "limit": 10, "options": {"deep": "x", "depth": 3}}
    assert schema.validate({"path": "p", "limit": 1, "options": {}}) == {
        "path": "p",
        "limit": 1,
        "options": {"depth": 3},
    }


def test_null_that_is_given_is_not_replaced_by_the_default() -> None:
    schema = InputSchema({"type": "object", "properties": {"a": {"type": ["null", "integer"], "default": 3}}})
    assert schema.validate({"a": None}) == {"a": None}


def test_filling_changes_neither_the_argument_nor_the_schema() -> None:
    schema = InputSchema(SCHEMA)
    given: dict[str, Any] = {"path": "p", "options": {}}
    filled = schema.validate(given)
    assert given == {"path": "p", "options": {}}
    filled["options"]["depth"] = 99
    schema.validate({"path": "p"})["options"]["deep"] = "changed"
    assert schema.validate({"path": "p"})["options"] == {"deep": "x", "depth": 3}
    assert schema.fill_defaults(freeze(given)) == {"path": "p", "limit": 10, "options": {"depth": 3}}
    assert InputSchema({"type": "object"}).fill_defaults({}) == {}


def test_required_input_with_a_default_need_not_be_given() -> None:
    schema = InputSchema({"type": "object", "required": ["a"], "properties": {"a": {"default": 1}}})
    assert schema.validate({}) == {"a": 1}


def test_any_mapping_is_taken() -> None:
    assert InputSchema(SCHEMA).validate(MappingProxyType({"path": "p"}))["path"] == "p"


def test_default_that_does_not_fit_its_schema_is_a_problem_of_the_definition() -> None:
    schema = {
        "type": "object",
        "properties": {
            "a": {"type": "integer", "default": "x"},
            "b": {"type": "object", "properties": {"c": {"enum": ["l"], "default": "m"}}},
            "ok": {"type": "integer", "default": 1},
        },
    }
    problems = {problem.path: problem.message for problem in schema_problems(schema, "$.inputs")}
    assert problems == {
        "$.inputs.properties.a.default": "It must be an integer, not a string.",
        "$.inputs.properties.b.properties.c.default": "It must be one of 'l'.",
    }


def test_defaults_that_do_not_fit_into_a_mebibyte_are_refused() -> None:
    half = {"type": "string", "default": "x" * 100_000}
    schema = InputSchema({"type": "object", "properties": {"a": half, "b": half, "given": {"type": "string"}}})
    room = 1024 * 1024 - 2 * 100_000
    assert len(schema.validate({"given": "y" * (room - 100)})) == 3
    assert "bytes as JSON" in problems_of(schema.schema, {"given": "y" * (room - 10)})["$"]


# ── what does not fit ─────────────────────────────────────────────────────────────────────────────────────────────


def test_all_problems_come_at_once_with_their_paths() -> None:
    inputs = {
        "limit": "many",
        "mode": "carefull",
        "options": {"depth": 1.5, "deep": 3, "width": 1},
        "rows": [{"id": 1}, {}, 7],
        "pth": "p",
    }
    assert problems_of(SCHEMA, inputs) == {
        "$.pth": "There is no input 'pth'.",
        "$.path": "It is required.",
        "$.limit": "It must be an integer, not a string.",
        "$.mode": "It must be one of 'fast', 'careful'.",
        "$.options.depth": "It must be an integer, not a number.",
        "$.options.deep": "It must be null or a string, not a number.",
        "$.options.width": "There is no field 'width' here.",
        "$.rows[1].id": "It is required.",
        "$.rows[2]": "It must be an object, not a number.",
    }


def test_near_names_are_suggested() -> None:
    with pytest.raises(InvalidInputs) as caught:
        InputSchema(SCHEMA).validate({"pth": "p", "mode": "carefull", "path": "p"})
    suggestions = {problem.path: problem.suggestion for problem in caught.value.problems}
    assert suggestions == {"$.pth": "Did you mean 'path'?", "$.mode": "Did you mean 'careful'?"}


@pytest.mark.parametrize(
    ("schema", "value", "message"),
    [
        ({"const": 3}, 4, "It must be 3."),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "x", "It must be an integer or null, not a string."),
        ({"anyOf": [{"type": "integer"}, {"minimum": 9}]}, 1.5, "It fits none of the forms"),
        ({"oneOf": [{"minimum": 1}, {"maximum": 9}]}, 5, "It fits none of the forms"),
        ({"type": "string", "format": "date"}, "tomorrow", "It does not have the format 'date'."),
        ({"type": "string", "pattern": "^a+$"}, "b", "It does not match the pattern '^a+$'."),
        ({"not": {"type": "string"}}, "x", "It is what the schema excludes."),
        (False, 1, "It must not be there."),
        ({"minimum": 5}, 1, "less than the minimum of 5"),
        ({"maxLength": 2}, "long", "longer than 2 characters"),
        ({"uniqueItems": True}, [1, 1], "non-unique"),
        ({"type": "boolean"}, None, "It must be true or false, not null."),
        ({"type": "array"}, {}, "It must be a list, not an object."),
        ({"type": "object"}, [], "It must be an object, not a list."),
        ({"type": "string"}, True, "It must be a string, not true or false."),
    ],
)
def test_each_mismatch_is_a_sentence(schema: Any, value: Any, message: str) -> None:
    found = problems_of({"type": "object", "properties": {"v": schema}}, {"v": value})
    assert message in found["$.v"]


def test_messages_never_hold_a_value() -> None:
    schema = {
        "type": "object",
        "properties": {
            "a": {"type": "integer"},
            "b": {"pattern": "^x"},
            "c": {"enum": ["x"]},
            "d": {"maxLength": 1},
            "e": {"type": "array", "uniqueItems": True},
            "f": {"format": "date"},
            "g": {"const": "x"},
            "h": {"not": {}},
            "i": {"type": "object", "propertyNames": {"maxLength": 1}},
            "k": {"minimum": 3},
        },
    }
    canary = "canary-9431"
    inputs: dict[str, Any] = dict.fromkeys("abcdfgh", canary) | {"e": [canary, canary], "i": {"j": canary}, "k": 1.9431}
    with pytest.raises(InvalidInputs) as caught:
        InputSchema(schema).validate(inputs)
    assert len(caught.value.problems) >= 8
    assert "9431" not in str(caught.value)


def test_unknown_inputs_are_refused_unless_the_schema_says_otherwise() -> None:
    assert "$.b" in problems_of({"type": "object", "properties": {"a": {}}}, {"b": 1})
    assert InputSchema({"type": "object", "additionalProperties": True}).validate({"b": 1}) == {"b": 1}
    assert InputSchema({"type": "object", "patternProperties": {"^b": {}}}).validate({"b": 1}) == {"b": 1}
    assert "$.c" in problems_of({"type": "object", "patternProperties": {"^b": {}}}, {"c": 1})


def test_inputs_that_combined_schemas_bring_are_known() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {}},
        "allOf": [{"properties": {"b": {"type": "integer"}}}],
        "$defs": {"more": {"properties": {"c": {}}}},
        "$ref": "#/$defs/more",
    }
    assert InputSchema(schema).validate({"a": 1, "b": 2, "c": 3}) == {"a": 1, "b": 2, "c": 3}
    assert problems_of(schema, {"d": 1, "b": 2}) == {"$.d": "There is no input 'd'."}
    with pytest.raises(InvalidInputs) as caught:
        InputSchema(schema).validate({"b": "x"})
    assert "$.b: It must be an integer, not a string." in map(str, caught.value.problems)


def test_problems_are_cut_at_a_hundred() -> None:
    schema = {"type": "object", "properties": {"rows": {"type": "array", "items": {"type": "integer"}}}}
    with pytest.raises(InvalidInputs) as caught:
        InputSchema(schema).validate({"rows": ["x"] * 500})
    assert len(caught.value.problems) == 101
    assert "more problems" in caught.value.problems[-1].message


def test_in_large_data_the_smallest_parts_that_do_not_fit_are_named() -> None:
    item = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}}
    schema = {"type": "object", "properties": {"rows": {"type": "array", "items": item}}}
    rows: list[dict[str, Any]] = [{"a": n, "b": "x"} for n in range(20_000)]
    rows[9_999]["a"] = "bad"
    rows[19_999]["b"] = 3
    assert problems_of(schema, {"rows": rows}) == {
        "$.rows[9999].a": "It must be an integer, not a string.",
        "$.rows[19999].b": "It must be a string, not a number.",
    }


def test_what_only_the_whole_of_large_data_breaks_is_said_at_the_top_of_it() -> None:
    schema = {"type": "object", "properties": {"rows": {"type": "array", "maxItems": 19_999}}}
    assert problems_of(schema, {"rows": [0] * 20_000}) == {"$.rows": "It does not fit its schema."}


# ── what is no JSON ───────────────────────────────────────────────────────────────────────────────────────────────

OPEN: dict[str, Any] = {"type": "object", "additionalProperties": True}


@pytest.mark.parametrize(
    ("inputs", "path", "words"),
    [
        ({"a": {"b": float("nan")}}, "$.a.b", "no number"),
        ({"a": [float("inf")]}, "$.a[0]", "no number"),
        ({"a": "x\x00y"}, "$.a", "NUL"),
        ({"a\x00": 1}, "$", "NUL"),
        ({"a": "\ud83d"}, "$.a", "surrogate"),
        ({"a": {1: 2}}, "$.a", "no string"),
        ({"a": {1: 2, "1": 3}}, "$.a", "no string"),
        ({"a": {1, 2}}, "$.a", "set"),
        ({"a": b"x"}, "$.a", "bytes"),
        ({"a": object()}, "$.a", "object"),
        ({"a": 10**5_000}, "$.a", "4,300 digits"),
    ],
)
def test_what_is_no_json_is_refused_with_its_place(inputs: dict[Any, Any], path: str, words: str) -> None:
    found = problems_of(OPEN, inputs)
    assert list(found) == [path]
    assert words in found[path]


@pytest.mark.parametrize("inputs", [None, [], "x", 3])
def test_inputs_must_be_an_object(inputs: Any) -> None:
    assert problems_of(OPEN, inputs) == {"$": "The inputs must be an object: names and their values."}


@pytest.mark.parametrize("value", [2**53 + 1, -(2**63), 2**64, 10**400, "é", "\u202e", 0.1, 1e300, "\\u0000"])
def test_every_value_of_json_survives(value: Any) -> None:
    validated = InputSchema(OPEN).validate({"a": value})["a"]
    assert validated == value
    assert type(validated) is type(value)


def test_inputs_have_at_most_one_mebibyte() -> None:
    exact = {"a": "x" * (1024 * 1024 - len('{"a":""}'))}
    assert InputSchema(OPEN).validate(exact) == exact
    assert "1,048,577 bytes" in problems_of(OPEN, {"a": exact["a"] + "x"})["$"]


# ── secrets ───────────────────────────────────────────────────────────────────────────────────────────────────────

SECRETS: dict[str, Any] = {
    "type": "object",
    "required": ["key"],
    "properties": {"key": {"type": "string", "writeOnly": True}, "n": {"type": "integer"}},
}


def test_secret_input_takes_a_reference_and_nothing_else() -> None:
    assert secret_names(SECRETS) == {"key"}
    schema = InputSchema(SECRETS)
    assert schema.validate({"key": {"secret": "LLM_KEY"}}) == {"key": {"secret": "LLM_KEY"}}
    for value in ("sk-123456", {"secret": ""}, {"secret": 3}, {"secret": "A", "b": 1}, {}, None):
        found = problems_of(SECRETS, {"key": value, "n": "x"})
        assert found == {
            "$.key": 'It is a secret: give {"secret": "NAME"}, never the value itself.',
            "$.n": "It must be an integer, not a string.",
        }
        assert "sk-123456" not in str(found)


def test_missing_secret_is_required_once() -> None:
    assert problems_of(SECRETS, {}) == {"$.key": "It is required."}


# ── the schema itself ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("schema", "path", "words"),
    [
        ({}, "$", '"type": "object"'),
        ({"type": "array"}, "$", '"type": "object"'),
        ({"type": "object", "properties": {"a": {"type": "strin"}}}, "$.properties.a.type", "'string'"),
        ({"type": "object", "properties": {"a": 3}}, "$.properties.a", "It must be a schema"),
        ({"type": "object", "properties": []}, "$.properties", "must be of type object"),
        ({"type": "object", "required": "a"}, "$.required", "must be of type array"),
        ({"type": "object", "required": ["a", "a"]}, "$.required", "does not have a value"),
        ({"type": "object", "properties": {"a": {"minimum": "x"}}}, "$.properties.a.minimum", "of type number"),
        ({"type": "object", "properties": {"a": {"enum": 3}}}, "$.properties.a.enum", "must be a list"),
        ({"type": "object", "properties": {"a": {"pattern": 3}}}, "$.properties.a.pattern", "must be a string"),
        ({"type": "object", "properties": {"a": {"pattern": "("}}}, "$.properties.a.pattern", "no regular expression"),
        ({"type": "object", "patternProperties": {"x(": {}}}, '$.patternProperties["x("]', "no regular expression"),
        ({"type": "object", "patternProperties": []}, "$.patternProperties", "must be an object"),
        ({"type": "object", "patternProperties": {"a": 3}}, "$.patternProperties.a", "must be a schema"),
        ({"type": "object", "$schema": "http://json-schema.org/draft-07/schema#"}, "$.$schema", "2020-12"),
        ({"type": "object", "$dynamicRef": "#a"}, "$.$dynamicRef", "use `$ref`"),
        ({"type": "object", "$recursiveRef": "#"}, "$.$recursiveRef", "use `$ref`"),
        ({"type": "object", "dependencies": {}}, "$.dependencies", "older JSON Schema"),
        ({"type": "object", "properties": {"a": {"$id": "x"}}}, "$.properties.a.$id", "only at the top"),
        ({"type": "object", "properties": {"a": {"$ref": "#/$defs/b"}}}, "$.properties.a.$ref", "no schema at"),
        ({"type": "object", "properties": {"a": {"$ref": "#b"}}}, "$.properties.a.$ref", "only into the same"),
        ({"type": "object", "allOf": [{"type": "x"}]}, "$.allOf[0].type", "must be one of"),
        ({"type": "object", "$defs": {"a b": {"type": "x"}}}, '$.$defs["a b"].type', "must be one of"),
        ({"type": "object", "prefixItems": [{}, {"type": "x"}]}, "$.prefixItems[1].type", "must be one of"),
    ],
)
def test_schema_that_is_wrong_is_refused_with_its_place(schema: dict[str, Any], path: str, words: str) -> None:
    with pytest.raises(InvalidDefinition) as caught:
        InputSchema(schema)
    found = {problem.path: str(problem) for problem in caught.value.problems}
    assert list(found) == [path] or path in found
    assert words in found[path]


def test_schema_that_is_no_json_is_refused() -> None:
    with pytest.raises(InvalidDefinition) as caught:
        InputSchema({"type": "object", "default": {1, 2}})
    assert caught.value.problems[0].path == "$.default"


@pytest.mark.parametrize("reference", ["#/$defs/a", "#/$defs/a~1b", "#/$defs/c~0d", "#/allOf/0", "#/$defs/yes", "#"])
def test_references_into_the_same_schema_are_followed(reference: str) -> None:
    integer = {"type": "integer"}
    schema = {
        "type": "object",
        "properties": {"v": {"$ref": reference}, "n": {}},
        "allOf": [{"properties": {"n": {}}}],
        "$defs": {"a": integer, "a/b": integer, "c~d": integer, "yes": True},
    }
    fits: Any = {"#/allOf/0": {"n": 1}, "#": {"n": 1, "v": {}}}.get(reference, 3)
    assert InputSchema(schema).validate({"v": fits}) == {"v": fits}


@pytest.mark.parametrize("reference", ["#/$defs/none", "#/allOf/1", "#/allOf/x", "#/properties", "#/allOf/0000000"])
def test_reference_to_no_schema_is_refused(reference: str) -> None:
    schema = {"type": "object", "properties": {"v": {"$ref": reference}}, "allOf": [{}]}
    (problem,) = schema_problems(schema)
    assert problem.path == "$.properties.v.$ref"
    assert problem.suggestion == "Put it under `$defs`."


def test_recursive_schema_describes_trees() -> None:
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {"tree": {"$ref": "#/$defs/node"}},
        "$defs": {
            "node": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": {"type": "string"},
                    "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
                },
            }
        },
    }
    tree = {"name": "a", "children": [{"name": "b"}, {"name": "c", "children": [{"name": "d"}]}]}
    assert InputSchema(schema).validate({"tree": tree}) == {"tree": tree}
    tree["children"][1]["children"][0] = {"nme": "d"}  # type: ignore[index]
    assert problems_of(schema, {"tree": tree}) == {"$.tree.children[1].children[0].name": "It is required."}


# ── limits of a schema, at the limit and one above ────────────────────────────────────────────────────────────────


def test_pattern_has_at_most_512_characters() -> None:
    def schema(characters: int) -> dict[str, Any]:
        return {"type": "object", "properties": {"a": {"pattern": "a" * characters}}}

    assert schema_problems(schema(512)) == []
    (problem,) = schema_problems(schema(513))
    assert problem.path == "$.properties.a.pattern"
    (problem,) = schema_problems({"type": "object", "patternProperties": {"a" * 513: {}}})
    assert problem.path == "$.patternProperties"


def test_schema_has_at_most_200_patterns() -> None:
    def schema(patterns: int) -> dict[str, Any]:
        return {"type": "object", "properties": {f"p{n}": {"pattern": "a"} for n in range(patterns)}}

    assert schema_problems(schema(200)) == []
    (problem,) = schema_problems(schema(201))
    assert "201 patterns" in problem.message


def test_schema_has_at_most_10000_subschemas() -> None:
    def schema(subschemas: int) -> dict[str, Any]:
        return {"type": "object", "$defs": {f"p{n}": {} for n in range(subschemas - 1)}}

    assert schema_problems(schema(10_000)) == []
    (problem,) = schema_problems(schema(10_001))
    assert "10,000 subschemas" in problem.message


def test_schema_describes_at_most_32_levels() -> None:
    def schema(levels: int) -> dict[str, Any]:
        inner: dict[str, Any] = {}
        for _ in range(levels):
            inner = {"type": "object", "properties": {"a": inner}}
        return inner

    reached = [levels for levels in range(20, 45) if not schema_problems(schema(levels))]
    assert reached == list(range(20, 32))
    (problem,) = schema_problems(schema(32))
    assert "more than 32 levels" in problem.message
