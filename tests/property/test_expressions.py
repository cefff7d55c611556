"""Laws of expressions: values pass unchanged, nothing but ExpressionError comes out, and `default` always helps."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openagents_json.errors import ExpressionError
from openagents_json.jsondata import decode, freeze, plain
from openagents_json.workflow.expressions import compile_template
from openagents_json.workflow.vocabulary import FILTERS, ROOTS, TAGS, TESTS
from tests.unit.scope import SKIPPED, Given, done, value_of

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**127) + 1, 2**127 - 1) | st.floats(-1e30, 1e30) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=15,
)
WORDS = st.sampled_from(
    [
        *sorted(FILTERS | TESTS | TAGS | set(ROOTS)),
        *[
            "steps",
            "secrets",
            "a",
            "output",
            "x",
            "loop",
            "true",
            "none",
            "and",
            "or",
            "not",
            "in",
            "is",
            "if",
            "else",
            "range",
            "0",
            "1",
            "9",
            "'a'",
            "'x'",
            '"',
        ],
        *[
            ".",
            ",",
            ":",
            "|",
            "(",
            ")",
            "[",
            "]",
            "{",
            "}",
            "+",
            "-",
            "*",
            "/",
            "//",
            "%",
            "**",
            "~",
            "=",
            "==",
            "!=",
            "<",
            "<=",
            ">",
            ">=",
            "{{",
            "}}",
            "{%",
            "%}",
            "{#",
            "#}",
            "-%}",
            "{%-",
        ],
    ]
)
PATHS = st.lists(st.sampled_from([".a", ".b", "[0]", "[-1]", "['c d']", ".items"]), max_size=5)


@given(JSON)
def test_every_value_passes_as_it_is_alone_and_inside_others(value: Any) -> None:
    assert value_of("{{ inputs.v }}", inputs={"v": value}) == value
    assert value_of("{{ [inputs.v, {'k': inputs.v}] }}", inputs={"v": value}) == [value, {"k": value}]
    assert decode(value_of("{% set x = [inputs.v] %}{{ x }}", inputs={"v": value})) == [value]


@given(JSON)
def test_value_in_text_is_its_json_and_strings_are_themselves(value: Any) -> None:
    text = value_of("<{{ inputs.v }}>", inputs={"v": value})[1:-1]
    assert text == value if isinstance(value, str) else decode(text) == value


@given(JSON, PATHS)
def test_default_never_fails_on_a_path_and_gives_the_value_where_there_is_one(value: Any, path: list[str]) -> None:
    names = Given(inputs=value if isinstance(value, dict) else {"a": value})
    source = "inputs" + "".join(path)
    try:
        found = compile_template("{{ " + source + " }}").render(names)
    except ExpressionError as error:
        assert error.code == "expression.undefined"
        found = None
    expected = "instead" if found is None else found
    assert compile_template("{{ " + source + " | default('instead') }}").render(names) == expected


@settings(max_examples=500)
@given(st.lists(WORDS, max_size=25), st.sampled_from([" ", ""]))
def test_whatever_is_written_gives_json_or_an_expression_error(words: list[str], between: str) -> None:
    inputs = {"a": [1, {"x": "y"}], "x": "text", "items": {"k": None}}
    names = Given(inputs=inputs, steps={"a": done({"x": 1}), "x": SKIPPED}, secrets={"a": "s"}, item=inputs, index=0)
    for source in (between.join(words), "{{ " + between.join(words) + " }}"):
        try:
            value = compile_template(source).render(names)
        except ExpressionError as error:
            assert error.code.startswith(("expression.", "limit."))
            continue
        assert plain(value)[0] == value
    assert names.value("inputs") == freeze(inputs)


@given(st.text(max_size=60))
def test_text_without_markup_is_a_constant(text: str) -> None:
    if "{{" in text or "{%" in text or "{#" in text:
        return
    template = compile_template(text)
    assert template.is_constant
    assert template.render(Given()) == text


@pytest.mark.guarantee("G13")
@given(JSON, st.sampled_from(["sort", "reverse", "unique", "list", "items", "join", "batch(2)", "tojson", "upper"]))
def test_no_filter_changes_what_it_is_given(value: Any, name: str) -> None:
    names = Given(inputs={"v": value})
    try:
        compile_template("{{ inputs.v | " + name + " }}").render(names)
    except ExpressionError as error:
        assert error.expression
    assert names.value("inputs") == {"v": value}
