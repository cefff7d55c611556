"""G13 for schemas, JSON, YAML, names and graphs: each bomb is refused or survived within 1 s of CPU and 100 MiB."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.guarded import Guarded

pytestmark = pytest.mark.guarantee("G13")

# ── schemas ───────────────────────────────────────────────────────────────────────────────────────────────────────


def doubling(keyword: str, levels: int) -> dict[str, Any]:
    """A schema whose references double at each level."""
    names: dict[str, Any] = {f"d{n}": {keyword: [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(levels)}
    return {"type": "object", "$ref": "#/$defs/d0", "$defs": names | {f"d{levels}": {"type": "object"}}}


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"type": "object", "allOf": [schema]}
    return schema


def fanning() -> dict[str, Any]:
    """Each level of the data goes through a list of subschemas that each go through it again."""
    names = {f"d{n}": {"allOf": [{"items": {"$ref": f"#/$defs/d{n + 1}"}}] * 6} for n in range(12)}
    return {"type": "object", "properties": {"v": {"$ref": "#/$defs/d0"}}, "$defs": names | {"d12": {}}}


SCHEMAS: dict[str, dict[str, Any]] = {
    "doubling allOf": doubling("allOf", 30),
    "doubling anyOf": doubling("anyOf", 30),
    "doubling oneOf": doubling("oneOf", 30),
    "fanning by level": fanning(),
    "itself": {"type": "object", "$ref": "#"},
    "itself by allOf": {"type": "object", "allOf": [{"$ref": "#"}]},
    "two in a circle": {
        "type": "object",
        "$ref": "#/$defs/a",
        "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
    },
    "remote reference": {"type": "object", "$ref": "http://127.0.0.1:9/schema.json"},
    "reference over TLS": {"type": "object", "properties": {"a": {"$ref": "https://example.com/schema.json#/x"}}},
    "reference to a file": {"type": "object", "$ref": "file:///etc/hostname"},
    "reference to a path": {"type": "object", "$ref": "/etc/hostname"},
    "remote base": {"$id": "http://127.0.0.1:9/", "type": "object", "$ref": "other.json"},
    "remote meta schema": {"$schema": "http://127.0.0.1:9/meta.json", "type": "object"},
    "dynamic reference": {"type": "object", "$dynamicRef": "http://127.0.0.1:9/x"},
    "deeply nested": nested(300),
    "large pattern": {"type": "object", "properties": {"a": {"pattern": "(a{1000}){1000}"}}},
    "long pattern": {"type": "object", "properties": {"a": {"pattern": "a" * 100_000}}},
    "many patterns": {"type": "object", "properties": {f"p{n}": {"pattern": f"^{n}(a+)+$"} for n in range(2_000)}},
    "many subschemas": {"type": "object", "properties": {f"p{n}": {"not": {}} for n in range(8_000)}},
    "wrong everywhere": {"type": "object", "properties": {f"p{n}": {"type": n} for n in range(5_000)}},
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_schema_bomb_is_refused(name: str, guarded: Guarded) -> None:
    outcome = guarded.refuses("validate", SCHEMAS[name], {})
    assert outcome.error == "InvalidDefinition"
    assert outcome.code == "definition.invalid"


@pytest.mark.parametrize("name", SCHEMAS)
def test_schema_bomb_in_a_definition_is_a_problem_at_its_inputs(name: str, guarded: Guarded) -> None:
    outcome = guarded.survives("checked", {"id": "w", "inputs": SCHEMAS[name], "steps": [{"id": "a", "set": 1}]})
    assert outcome.value
    assert all(problem.startswith(("$.inputs", "$: There are more", "$: The definition")) for problem in outcome.value)


def test_pattern_that_backtracks_without_end_is_answered(guarded: Guarded) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(a+)+$"}}}
    outcome = guarded.refuses("validate", schema, {"a": "a" * 50_000 + "!"})
    assert outcome.error == "InvalidInputs"
    look = {"type": "object", "properties": {"a": {"type": "string", "pattern": r"^(?=(a+))(a+)+\1$"}}}
    assert guarded.refuses("validate", look, {"a": "a" * 50_000 + "!"}).error == "InvalidInputs"


def test_pattern_that_backtracks_on_many_values_is_answered(guarded: Guarded) -> None:
    pattern = {"type": "string", "pattern": r"^(?=(a+))(a+)+\1$"}
    schema = {"type": "object", "properties": {"v": {"type": "array", "items": pattern}}}
    outcome = guarded.call("validate_repeated", schema, "v", "a" * 40 + "!", 20)
    outcome.check_bounds()
    assert outcome.error == "InvalidInputs"


def test_unique_items_over_thousands_of_objects_are_checked(guarded: Guarded) -> None:
    schema = {"type": "object", "properties": {"v": {"type": "array", "uniqueItems": True}}}
    guarded.survives("validate_objects", schema, "v", 3_000)
    outcome = guarded.refuses("validate_repeated", schema, "v", {"a": [1, 2, 3]}, 3_000)
    assert outcome.error == "InvalidInputs"


def test_data_that_goes_round_a_recursive_schema_is_bounded(guarded: Guarded) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"anyOf": [{"$ref": "#"}, {"type": "object", "allOf": [{"$ref": "#"}]}]}},
    }
    for levels in (3, 40, 400):
        outcome = guarded.call("validate_nested", schema, "a", levels)
        outcome.check_bounds()
        assert outcome.error == "InvalidInputs"


def test_many_errors_of_a_dear_schema_are_bounded(guarded: Guarded) -> None:
    branches = [{"type": "object", "required": [f"f{n}"]} for n in range(100)]
    schema = {"type": "object", "properties": {"v": {"type": "array", "items": {"anyOf": branches}}}}
    outcome = guarded.refuses("validate_repeated", schema, "v", {}, 20_000)
    assert outcome.error == "InvalidInputs"


def test_megabyte_of_wrong_inputs_is_bounded(guarded: Guarded) -> None:
    schema = {"type": "object", "properties": {"v": {"type": "array", "items": {"type": "integer"}}}}
    outcome = guarded.refuses("validate_repeated", schema, "v", "x", 200_000)
    assert outcome.error == "InvalidInputs"
    names = {f"n{n}": 1 for n in range(60_000)}
    assert guarded.refuses("validate", {"type": "object", "properties": {"a": {}}}, names).error == "InvalidInputs"


# ── JSON ──────────────────────────────────────────────────────────────────────────────────────────────────────────

TEXTS = {
    "100,000 brackets": "[" * 100_000,
    "100,000 closed brackets": "[" * 100_000 + "]" * 100_000,
    "100,000 objects": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "1e999": '{"a": 1e999}',
    "NaN": '{"a": NaN}',
    "Infinity": '{"a": -Infinity}',
    "lone surrogate": r'{"a": "\ud83d"}',
    "nothing": "",
    "two values": "1 2",
    "control character": '{"a": "\x01"}',
}


@pytest.mark.parametrize("name", TEXTS)
def test_json_text_that_is_none_is_refused(name: str, guarded: Guarded) -> None:
    outcome = guarded.refuses("decode", TEXTS[name])
    assert outcome.error == "NotJson"


@pytest.mark.parametrize("suffix", [".json", ".yaml"])
@pytest.mark.parametrize(
    "value",
    ["[" * 100_000, "[" * 1_000 + "]" * 1_000, "1e999", "9" * 100_000, r'"\ud83d"', r'"\u0000"', "1" + "0" * 5_000],
    ids=["brackets", "closed brackets", "1e999", "100,000 digits", "surrogate", "NUL", "5,000 digits"],
)
def test_definition_with_a_json_bomb_is_refused(value: str, suffix: str, guarded: Guarded, tmp_path: Path) -> None:
    text = f'{{"id": "w", "metadata": {{"a": {value}}}, "steps": [{{"id": "a", "set": 1}}]}}'
    outcome = guarded.refuses("register_text", text, str(tmp_path), suffix)
    assert outcome.error == "InvalidDefinition"


@pytest.mark.parametrize("text", ['{"a": NaN}', '{"id": "w", "id": "v", "steps": [{"id": "a", "set": 1}]}'])
def test_definition_with_nan_or_a_key_twice_is_refused(text: str, guarded: Guarded, tmp_path: Path) -> None:
    assert guarded.refuses("register_text", text, str(tmp_path), ".json").error == "InvalidDefinition"


def test_integers_beyond_two_to_53_survive(guarded: Guarded) -> None:
    assert guarded.survives("decode", "[9007199254740993, 123456789012345678901234567890]").value == (
        "[9007199254740993,123456789012345678901234567890]"
    )


def test_output_that_is_nested_or_long_without_bound_is_answered(guarded: Guarded) -> None:
    guarded.survives("plain_nested", 499)
    assert guarded.refuses("plain_nested", 500).error == "NotJson"
    assert guarded.refuses("plain_nested", 100_000).error == "NotJson"
    guarded.survives("plain_integer", 4_300)
    assert guarded.refuses("plain_integer", 100_000).error == "NotJson"


# ── YAML ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def aliases(levels: int) -> str:
    lines = ["a0: &a0 [" + ", ".join(["lol"] * 9) + "]"]
    lines += [f"a{n}: &a{n} [" + ", ".join([f"*a{n - 1}"] * 9) + "]" for n in range(1, levels)]
    return "\n".join(lines)


YAMLS = {
    "aliases 9^10": aliases(10),
    "alias of itself": "id: w\nsteps: &a [*a]",
    "merge keys": "a: &a {b: 1}\n" + "".join(f"k{n}: {{<<: *a}}\n" for n in range(5_000)),
    "tag of Python": "id: !!python/object/apply:os.system ['true']",
    "deep flow": "a: " + "[" * 20_000,
    "deep blocks": "\n".join(" " * n + "-" for n in range(600)),
    "many documents": "---\nid: w\n" * 5_000,
    "long key": "? " + "a" * 200_000 + "\n: 1",
    "many keys twice": "a: 1\n" * 20_000,
    "no mapping": "- 1\n" * 50_000,
}


@pytest.mark.parametrize("name", YAMLS)
def test_yaml_bomb_is_refused(name: str, guarded: Guarded, tmp_path: Path) -> None:
    outcome = guarded.refuses("register_text", YAMLS[name], str(tmp_path), ".yaml")
    assert outcome.error == "InvalidDefinition"


# ── names ─────────────────────────────────────────────────────────────────────────────────────────────────────────

NAMES = [
    "",
    " ",
    "a" * 1_000_000,
    "__proto__ ",
    "../x",
    "a\x00b",
    "\x1b[31mred",
    "a b",
    "\u202ea",
    "é" * 200,
    "1a",
    "a\n",
]


@pytest.mark.parametrize("name", NAMES, ids=[repr(name[:12]) for name in NAMES])
def test_hostile_name_of_a_workflow_or_step_is_refused_and_shown_safely(name: str, guarded: Guarded) -> None:
    step = {"id": "a", "set": 1}
    for definition in ({"id": name, "steps": [step]}, {"id": "w", "steps": [{**step, "id": name}]}):
        outcome = guarded.refuses("register", definition)
        assert outcome.error == "InvalidDefinition"
        assert not any(sign in outcome.message for sign in ("\x00", "\x1b", "\u202e"))
        assert len(outcome.message) < 3_000


@pytest.mark.parametrize("name", ["__class__", "__proto__", "health", "constructor", "_", "a-b"])
def test_name_that_only_looks_dangerous_is_a_name(name: str, guarded: Guarded) -> None:
    reference = f"{{{{ steps['{name}'].output.v }}}}"
    definition = {"id": name, "steps": [{"id": name, "set": {"v": 1}}, {"id": "z", "set": reference}]}
    assert guarded.survives("register", definition).value == name


@pytest.mark.parametrize("name", ["", "a" * 50_000, "__class__", "__proto__", "\x1b[31mred", "../x", " ", "items"])
def test_input_may_have_any_name_that_is_json(name: str, guarded: Guarded) -> None:
    schema = {"type": "object", "properties": {name: {"type": "integer"}}, "required": [name]}
    assert guarded.survives("validate", schema, {name: 3}).value.startswith('{"')
    outcome = guarded.refuses("validate", schema, {name: "x"})
    assert "\x1b" not in outcome.message
    assert len(outcome.message) < 2_000


def test_million_characters_are_a_fine_value_and_a_poor_name(guarded: Guarded) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    guarded.survives("validate", schema, {"a": "x" * 1_000_000})
    outcome = guarded.refuses("validate", schema, {"x" * 1_000_000: 1})
    assert len(outcome.message) < 2_000


# ── graphs ────────────────────────────────────────────────────────────────────────────────────────────────────────


def chain(count: int, **fields: Any) -> list[dict[str, Any]]:
    return [{"id": f"s{n}", "set": n} | fields for n in range(count)]


def in_each_other(levels: int) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = [{"id": "inner", "set": 1}]
    for n in range(levels):
        steps = [{"id": f"f{n}", "foreach": [1], "steps": steps}]
    return steps


GRAPHS: dict[str, list[dict[str, Any]]] = {
    "10,000 steps": chain(10_000),
    "1,001 steps": chain(1_001),
    "self reference": [{"id": "a", "set": "{{ steps.a.output }}"}],
    "need of itself": [{"id": "a", "set": 1, "needs": ["a"]}],
    "cycle": [{"id": "a", "set": 1, "needs": ["b"]}, {"id": "b", "set": 1, "needs": ["a"]}],
    "one id 900 times": [{"id": "a", "set": 1}] * 900,
    "foreach in foreach": in_each_other(100),
    "unknown needs": [{"id": "a", "set": 1, "needs": [f"x{n}" for n in range(5_000)]}],
    "wrong steps": [{"idd": n} for n in range(900)],
    "steps that are none": [None] * 900,  # type: ignore[list-item]
    "retry without bound": [{"id": "a", "component": "x", "retry": {"max_attempts": 10**9, "delay_seconds": 0}}],
    "negative delay": [{"id": "a", "component": "x", "retry": {"delay_seconds": -1}}],
    "delay to the year 9999": [{"id": "a", "component": "x", "retry": {"delay_seconds": 2.5e11}}],
    "endless timeout": [{"id": "a", "component": "x", "timeout": 1e300}],
}


@pytest.mark.parametrize("name", GRAPHS)
def test_graph_bomb_is_refused(name: str, guarded: Guarded) -> None:
    outcome = guarded.refuses("register", {"id": "w", "steps": GRAPHS[name]})
    assert outcome.error == "InvalidDefinition"
    assert len(outcome.message) < 60_000


@pytest.mark.parametrize(
    "steps",
    [
        chain(1_000),
        chain(1_000, needs=[]),
        [{"id": f"s{n}", "set": n, "needs": [f"s{m}" for m in range(max(0, n - 12), n)]} for n in range(900)],
        [{"id": f"s{n}", "set": "".join(f"{{{{ steps.s{m}.output }}}}" for m in range(n))} for n in range(130)],
        in_each_other(20),
    ],
    ids=["chain", "all at once", "many needs", "many references", "nested"],
)
def test_large_graph_inside_the_limits_is_cheap(steps: list[dict[str, Any]], guarded: Guarded) -> None:
    assert guarded.survives("register", {"id": "w", "steps": steps}).value == "w"


def test_definition_has_at_most_256_kib(guarded: Guarded) -> None:
    def definition(note: str) -> dict[str, Any]:
        return {"id": "w", "note": note, "steps": [{"id": "a", "set": 1}]}

    room = 256 * 1024 - len(json.dumps(definition(""), separators=(",", ":")))
    guarded.survives("register", definition("x" * room))
    assert "262,144" in guarded.refuses("register", definition("x" * (room + 1))).message
