"""Expressions: values and their types, what is undefined, and the rules that keep data and process safe."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from openagents_json.errors import ExpressionError
from openagents_json.jsondata import FrozenDict, FrozenList, freeze
from openagents_json.workflow.bounds import LARGEST_NUMBER, RENDERED_BYTES, RESULT_NODES
from openagents_json.workflow.expressions import NESTING, compile_condition, compile_template
from openagents_json.workflow.tokens import EXPRESSION_CHARACTERS, EXPRESSION_OPERATORS
from tests.unit.scope import SKIPPED, Given, condition_of, done, failure_of, value_of

ROWS = [{"name": "b", "score": 1}, {"name": "a", "score": 3}]

# ── values ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("value", [None, True, False, 0, -7, 2**60, 1.5, "", "text", [], [1, [2]], {}, {"a": {"b": 1}}])
def test_string_that_is_one_expression_keeps_the_type_of_the_value(value: Any) -> None:
    result = value_of("{{ inputs.value }}", inputs={"value": value})
    assert result == value
    assert isinstance(result, type(value))
    assert value_of("{{ [inputs.value][0] }}", inputs={"value": value}) == value  # by way of minijinja, too


def test_untouched_value_is_passed_on_without_a_copy() -> None:
    names = Given(inputs={"rows": ROWS})
    assert compile_template("{{ inputs.rows }}").render(names) is names.value("inputs")["rows"]


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("a {{ inputs.n }} b", "a 7 b"),
        ("{{ inputs.n }}{{ inputs.n }}", "77"),
        (" {{ inputs.s }}", " é"),
        ("{{ inputs.yes }}/{{ inputs.nothing }}", "true/null"),
        ("{{ inputs.list }}!", '[1,"x"]!'),
        ("<{{ inputs.markup }}>", "<<b>&</b>>"),  # nothing is escaped
        ("a {{- inputs.n -}} b", "a7b"),
        ("n={{ inputs.n }}{# a comment #}", "n=7"),
        ("a {#- trimmed -#} b", "ab"),
        ("}} stays, so does }", "}} stays, so does }"),
    ],
)
def test_holes_in_text_are_filled(source: str, text: str) -> None:
    inputs = {"n": 7, "s": "é", "yes": True, "nothing": None, "list": [1, "x"], "markup": "<b>&</b>"}
    assert value_of(source, inputs=inputs) == text


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{% raw %}{{ inputs.n }}{% endraw %}", "{{ inputs.n }}"),
        ("{% raw %}{% if %}{# #}{% endraw %} {{ inputs.n }}", "{% if %}{# #} 7"),
        ("a {%- raw -%} {{ x }} {%- endraw -%} b", "a {{ x }} b"),
    ],
)
def test_raw_blocks_are_text(source: str, text: str) -> None:
    assert value_of(source, inputs={"n": 7}) == text


def test_strings_inside_a_value_are_templates_and_keys_are_not() -> None:
    source = {"{{ inputs.n }}": ["{{ inputs.n }}", {"deep": "n={{ inputs.n }}"}, 3, None]}
    assert value_of(source, inputs={"n": 7}) == {"{{ inputs.n }}": [7, {"deep": "n=7"}, 3, None]}


def test_data_is_never_compiled_as_an_expression() -> None:
    inputs = {"text": "{{ secrets.KEY }} {% for x in range(9) %}", "secret": "x"}
    assert value_of("{{ inputs.text }}", inputs=inputs) == inputs["text"]
    assert value_of("<{{ inputs.text }}>", inputs=inputs) == f"<{inputs['text']}>"
    assert value_of("{{ inputs.text ~ '' }}", inputs=inputs) == inputs["text"]
    assert value_of("{% if true %}{{ inputs.text }}{% endif %}", inputs=inputs) == inputs["text"]


def test_hyphenated_ids_are_reached_by_brackets() -> None:
    steps = {"fetch-page": done({"title": "t"})}
    assert value_of("{{ steps['fetch-page'].output.title }}", steps=steps) == "t"
    assert value_of('{{ steps["fetch-page"].success }}', steps=steps) is True
    assert failure_of("{{ steps.fetch-page.output }}", steps=steps).code == "expression.syntax"


def test_template_says_what_it_refers_to() -> None:
    template = compile_template(
        {"a": "{{ steps.x.output ~ inputs.p }}", "b": ["{{ steps['y-z'].success }} {{ secrets.KEY }} {{ index }}"]}
    )
    assert template.steps == {"x", "y-z"}
    assert template.inputs == {"p"}
    assert template.secrets == {"KEY"}
    assert template.roots == {"inputs", "index"}
    assert not template.is_constant


@pytest.mark.parametrize(
    ("source", "is_reference", "is_constant"),
    [
        ("{{ inputs.a }}", True, False),
        ("{{ steps.a.output[0] }}", True, False),
        ("{{ item }}", True, False),
        ("{{ index }}", True, False),
        ("{{ job.id }}", False, False),
        ("{{ secrets.KEY }}", False, False),
        ("{{ inputs.a }} ", False, False),
        ("{{ inputs.a | length }}", False, False),
        ({"a": "{{ inputs.a }}"}, False, False),
        ("{# only a comment #}text", False, False),
        ("text", False, True),
        ({"a": [1, "x", None]}, False, True),
    ],
)
def test_references_and_constants_are_known(source: Any, is_reference: bool, is_constant: bool) -> None:
    template = compile_template(source)
    assert (template.is_reference, template.is_constant) == (is_reference, is_constant)


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("{{ inputs.rows[0].name }}", "b"),
        ("{{ inputs.rows[-1]['name'] }}", "a"),
        ("{{ inputs.rows.0.name }}", "b"),
        ("{{ inputs.rows[index - 1].name }}", "a"),
        ("{{ inputs['ro' ~ 'ws'][1].name }}", "a"),
        ("{{ inputs.rows[0:1] }}", ROWS[:1]),
        ("{{ inputs.rows[::-1] }}", ROWS[::-1]),
        ("{{ (1, 2)[:1] }}", [1]),
        ("{{ inputs.text[1:3] }}", "ex"),
        ("{{ inputs.text[-1] }}", "t"),
        ("{{ inputs.rows[1:][0].score }}", 3),
        ("{{ {'a': 1}.a + [5][0] }}", 6),
        ("{{ 'abc'[1.0] }}", "b"),
        ("{{ inputs.items }}", {"keys": 1}),  # a key called like a method is the key
        ("{{ inputs.items.keys }}", 1),
    ],
)
def test_fields_indexes_and_slices(source: str, value: Any) -> None:
    inputs = {"rows": ROWS, "text": "text", "items": {"keys": 1}}
    assert value_of(source, inputs=inputs, index=2) == value


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("1 + 2 * 3 - 4", 3),
        ("7 // 2 + 7 % 4 + 2 ** 3", 14),
        ("1 / 4", 0.25),
        ("-inputs.n + - -1", -6),
        ("1_000 + 0.25e1", 1002.5),
        ("[1] + [2, 3]", [1, 2, 3]),
        ("'ab' * 3", "ababab"),
        ("'a' + 'b'", "ab"),
        ("'a' ~ 1 ~ none ~ [1]", "a1null[1]"),
        ("1 < 2 <= 2", True),
        ("inputs.n in [7, 8] and not (inputs.n not in [7])", True),
        ("'x' in {'x': 1} and 'b' in 'abc'", True),
        ("1 if inputs.n > 8 else 2 if inputs.n > 6 else 3", 2),
        ("inputs.n is odd and inputs.n is not even", True),
        ("inputs.n is divisibleby 7", True),
        ("inputs.n is eq(7)", True),
        ("none is none and true is boolean", True),
        ("True and not False and None is none", True),
        ("() ", []),
        ("(1,)", [1]),
        ("[1, 2,]", [1, 2]),
        ("{'a': 1, 'b': [inputs.n],}", {"a": 1, "b": [7]}),
        ("range(2, 8, 2)", [2, 4, 6]),
        (r"'\u00e9\x41\n\'\\'", "éA\n'\\"),
        (r"'\ud83d\ude00'", "😀"),
        ("'}}' ~ '%}'", "}}%}"),
    ],
)
def test_operators_and_literals(source: str, value: Any) -> None:
    result = value_of("{{ " + source + " }}", inputs={"n": 7})
    assert result == value
    assert type(result) is type(value)


# ── undefined ─────────────────────────────────────────────────────────────────────────────────────────────────────

MISSING = [
    "{{ inputs.absent }}",
    "{{ inputs.nothing.field }}",
    "{{ inputs.number.field }}",
    "{{ inputs.rows[5] }}",
    "{{ inputs.rows.name }}",
    "{{ [inputs.absent] }}",
    "{{ {'a': [inputs.absent]} }}",
    "{{ inputs.absent | length }}",
    "{{ inputs.absent == 1 }}",
    "{{ inputs.absent or true }}",
    "{{ inputs[inputs.rows[0].name] }}",
    "{{ inputs.rows[index] }}",
    "{{ steps.other.output }}",
    "{{ iteration }}",
    "{{ last.x }}",
    "{{ error.type }}",
    "{{ secrets.ABSENT }}",
    "{{ inputs.empty | first }}",
    "{{ inputs.empty | max }}",
    "{{ inputs.rows | map(attribute='absent') | list }}",
    "text {{ inputs.absent }}",
    "{% for x in inputs.absent %}{% endfor %}",
    "{% if inputs.absent %}{% endif %}",
    "{% if true %}{{ inputs.absent }}{% endif %}",
    "{% for row in inputs.rows %}{{ row.absent }}{% endfor %}",
]


@pytest.mark.parametrize("source", MISSING)
def test_what_is_undefined_is_an_error_that_shows_the_expression(source: str) -> None:
    inputs = {"nothing": None, "number": 3, "rows": ROWS, "empty": []}
    error = failure_of(source, inputs=inputs, index=9)
    assert error.code == "expression.undefined"
    assert error.expression in source
    assert "In: " in str(error)
    assert "default" in str(error)


def test_message_says_how_far_the_path_goes() -> None:
    inputs = {"a": {"b": [1, 2]}}
    message = str(failure_of("{{ inputs.a.b[5].c }}", inputs=inputs))
    assert "`inputs.a.b[5].c` is undefined: `inputs.a.b` is a list of 2." in message
    message = str(failure_of("{{ inputs.a.x.y }}", inputs=inputs))
    assert "`inputs.a` is an object with 'b'." in message
    assert "`inputs.a.b[0]` is a number" in str(failure_of("{{ inputs.a.b[0].c }}", inputs=inputs))
    assert "an empty object" in str(failure_of("{{ inputs.x }}", inputs={}))


def test_field_of_a_skipped_steps_output_says_that_it_was_skipped() -> None:
    error = failure_of("{{ steps.look.output.title }}", steps={"look": SKIPPED})
    assert error.code == "expression.undefined"
    assert "because the step 'look' was skipped" in str(error)
    assert value_of("{{ steps.look.output }}", steps={"look": SKIPPED}) is None
    assert value_of("{{ steps.look.output.title | default('none') }}", steps={"look": SKIPPED}) == "none"
    assert "skipped" not in str(failure_of("{{ steps.look.output.title }}", steps={"look": done(None)}))


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("inputs.absent | default(1)", 1),
        ("inputs.nothing | default(1)", 1),
        ("inputs.nothing.a.b | default(1)", 1),
        ("inputs.absent.a.b[3].c | default(1)", 1),
        ("inputs.rows[9].name | default(1)", 1),
        ("inputs.rows[0].name.x | default(1)", 1),
        ("inputs.rows[index].name | default(1)", 1),
        ("inputs['ab' ~ 'sent'].x.y | default(1)", 1),
        ("steps.other.output | default(1)", 1),
        ("iteration | default(1)", 1),
        ("secrets.ABSENT | default(1)", 1),
        ("inputs.empty | first | default(1)", 1),
        ("inputs.absent | d(1)", 1),
        ("inputs.absent | default", ""),
        ("inputs.absent | default(inputs.zero)", 0),
        ("inputs.absent | default(inputs.absent | default(2))", 2),
        ("[inputs.absent | default(1)]", [1]),
        ("inputs.zero | default(1)", 0),
        ("inputs.no | default(true)", False),
        ("inputs.blank | default('x')", ""),
        ("inputs.blank | default('x', true)", "x"),
        ("inputs.blank | default('x', boolean=true)", "x"),
        ("inputs.empty | default([1])", []),
        ("inputs.rows | map(attribute='absent', default=0) | list", [0, 0]),
        ("inputs.zero is defined", True),
        ("inputs.nothing is defined", True),
        ("inputs.absent is defined", False),
        ("inputs.absent.x is undefined", True),
        ("inputs.rows[9] is not defined", True),
        ("inputs.rows[index] is defined", False),
        ("inputs.empty | first is defined", False),
        ("(1 + 1) is defined", True),
        ("inputs.absent if inputs.absent is defined else 5", 5),
        ("inputs.zero if inputs.zero is defined else inputs.absent", 0),
        ("false and inputs.absent", False),
        ("true or inputs.absent", True),
    ],
)
def test_default_covers_undefined_null_and_a_path_missing_at_any_depth(source: str, value: Any) -> None:
    inputs = {"nothing": None, "zero": 0, "no": False, "blank": "", "rows": ROWS, "empty": []}
    result = value_of("{{ " + source + " }}", inputs=inputs, index=9)
    assert result == value
    assert isinstance(result, type(value))


def test_default_does_not_hide_an_error_of_another_kind() -> None:
    assert failure_of("{{ (1 + 'a') | default(3) }}").code == "expression.invalid"
    assert failure_of("{{ (inputs.a.b + 1) | default(3) }}", inputs={"a": None}).code == "expression.undefined"


# ── conditions ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("source", "value"),
    [(True, True), (False, False), ("{{ inputs.n > 3 }}", True), ("  {{ inputs.n is none }} \n", False)],
)
def test_condition_gives_a_boolean(source: Any, value: bool) -> None:
    assert condition_of(source, inputs={"n": 7}) is value


@pytest.mark.parametrize(
    ("value", "kind", "advice"),
    [
        (1, "a number", "| length > 0"),
        (0.0, "a number", "is not none"),
        ("true", "a string", "| length > 0"),
        ([], "a list", "| length > 0"),
        ({}, "an object", "| length > 0"),
        (None, "null", "is not none"),
    ],
)
def test_condition_that_is_not_boolean_is_an_error_with_a_suggestion(value: Any, kind: str, advice: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        condition_of("{{ inputs.value }}", inputs={"value": value})
    assert caught.value.code == "expression.invalid"
    assert f"this is {kind}" in str(caught.value)
    assert advice in str(caught.value)


@pytest.mark.parametrize("source", ["true", "", "x {{ true }}", "{{ true }}{{ true }}", "{% if true %}{% endif %}", 3])
def test_condition_is_exactly_one_expression(source: Any) -> None:
    with pytest.raises(ExpressionError, match="exactly one") as caught:
        compile_condition(source)
    assert caught.value.code == "expression.syntax"


# ── syntax ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{ input.a }}", "Did you mean `inputs`?"),
        ("{{ inputs.a | defualt(1) }}", "Did you mean `default`?"),
        ("{{ inputs.a | safe }}", "Nothing is escaped"),
        ("{{ [1] | random }}", "the same each time"),
        ("{{ 1 is evn }}", "Did you mean `even`?"),
        ("{{ lookup('x') }}", "other than `range`"),
        ("{{ }}", "empty"),
        ("{% if true %}{{ }}{% endif %}", "empty"),
        ("{{ 1", "is not closed; `}}` is missing"),
        ("{% if true", "is not closed; `%}` is missing"),
        ("{{ 'a }}", "cannot stand here"),
        ("{{ 1 ! 2 }}", "The character '!'"),
        ("{{ 1 2 }}", "Expected the end but found `2`"),
        ("{{ 1 + }}", "Expected a value but found the end"),
        ("{{ and }}", "Expected a value"),
        ("{{ (1 }}", "Expected `,` but found the end"),
        ("{{ [1 2] }}", "Expected `]`"),
        ("{{ {'a' 1} }}", "Expected `:`"),
        ("{{ {'a': 1 'b': 2} }}", "Expected `}`"),
        ("{{ {1: 2} }}", "keys of an object are strings"),
        ("{{ inputs. }}", "a field name"),
        ("{{ inputs[] }}", "missing between"),
        ("{{ inputs[1:2:3:4] }}", "at most three parts"),
        ("{{ inputs | 3 }}", "Expected a name"),
        ("{{ 1 | round(precision=1, 2) }}", "after the others"),
        ("{{ 1 | round(1 2) }}", "Expected `)`"),
        ("{{ 1 if true }}", "needs an `else`"),
        ("{{ 'a' 'b' }}", "side by side"),
        (r"{{ '\q' }}", "The escape"),
        (r"{{ '\ud83d' }}", "half a surrogate"),
        ("{{ 1e400 }}", "too large"),
        ("{{ " + "9" * 39 + " }}", "at most 38 digits"),
        ("{{ steps }}", "a step id as a literal"),
        ("{{ steps[inputs.a].output }}", "a step id as a literal"),
        ("{{ steps[0].output }}", "a step id as a literal"),
        ("{{ secrets[inputs.a] }}", "name of a secret"),
        ("{{ secrets.KEY.x }}", "has no fields"),
        ("{{ loop.index }}", "`loop` is unknown"),
        ("{{ [1] | map | list }}", "needs the name of a filter"),
        ("{{ [1] | map(inputs.f) }}", "needs the name of a filter"),
        ("{{ [1] | map('uper') }}", "There is no filter `uper`"),
        ("{{ [1] | map('map') }}", "There is no filter `map`"),
        ("{{ [1] | map(attribute='a', then=1) }}", "not `then`"),
        ("{{ [1] | map('upper', attribute='a') }}", "not `a filter`"),
        ("{{ [1] | select('evn') }}", "There is no test `evn`"),
        ("{{ [1] | selectattr('a', inputs.t) }}", "needs the name of a test"),
        ("{{ [1] | selectattr(inputs.a) }}", "attribute as a literal"),
        ("{{ [1] | sort(attribute='a.items') }}", "cannot look for"),
        ("{% raw %}x", "no `{% endraw %}`"),
        ("{# never closed", "has no `#}`"),
        ("{% if true %}", "`if` has no `endif`"),
        ("{% for x in [] %}", "`for` has no `endfor`"),
        ("{% endif %}", "closes nothing"),
        ("{% for x in [] %}{% endif %}", "closes nothing"),
        ("{% else %}", "has no `if`"),
        ("{% elif true %}", "has no `if`"),
        ("{% if true %}{% else %}{% else %}{% endif %}", "has no `if`"),
        ("{% for x in [] %}{% elif true %}{% endfor %}", "has no `if`"),
        ("{% %}", "The tag `` cannot be used"),
        ("{% macro a() %}{% endmacro %}", "The tag `macro` cannot be used"),
        ("{% include 'x' %}", "The tag `include` cannot be used"),
        ("{% import 'x' as y %}", "The tag `import` cannot be used"),
        ("{% extends 'x' %}", "The tag `extends` cannot be used"),
        ("{% set x %}{% endset %}", "needs one name and `=`"),
        ("{% set loop = 1 %}", "The name `loop` is taken"),
        ("{% for loop in [] %}{% endfor %}", "The name `loop` is taken"),
        ("{% for x in [1] %}{{ loop.changed }}{% endfor %}", "`loop.changed` cannot be used"),
        ("{% for x in [1] %}{{ loop }}{% endfor %}", "Expected `.`"),
        ("{% if true %}{% set x = 1 %}{% endif %}{{ x }}", "`x` is unknown"),
        ("{% for x in [1] %}{% endfor %}{{ x }}", "`x` is unknown"),
        ("{% endif x %}", "closes nothing"),
    ],
)
def test_wrong_syntax_is_refused_when_it_is_compiled(source: str, words: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        compile_template(source)
    assert caught.value.code == "expression.syntax"
    assert words in str(caught.value)
    assert "In: " in str(caught.value)


def test_message_shows_a_long_expression_shortened_and_on_one_line() -> None:
    message = str(failure_of("{{ [1,\n\n" + "2, " * 200 + "nope] }}"))
    assert "\n" not in message
    assert len(message) < 500


# ── templates with tags ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{% for x in inputs.list %}{{ loop.index }}:{{ x }} {% endfor %}", "1:1 2:2 3:3 "),
        ("{% for x in inputs.list if x is odd %}{{ x }},{% endfor %}", "1,3,"),
        ("{% for x in [] %}{{ x }}{% else %}nothing{% endfor %}", "nothing"),
        ("{% for row in inputs.rows %}{{ row.name }}{% if not loop.last %}+{% endif %}{% endfor %}", "b+a"),
        ("{% for key, value in inputs.map | items %}{{ key }}={{ value }};{% endfor %}", "a=1;b=[2];"),
        ("{% for x in [[1, 2], [3]] %}{% for y in x %}{{ y }}{% endfor %}|{% endfor %}", "12|3|"),
        ("{% if inputs.n > 9 %}a{% elif inputs.n > 6 %}b{% else %}c{% endif %}", "b"),
        ("{% if inputs.absent is defined %}{{ inputs.absent }}{% else %}-{% endif %}", "-"),
        ("{% if inputs.absent | default(false) %}a{% else %}b{% endif %}", "b"),
        ("{% set x = inputs.n + 1 %}{{ x * 2 }}", "16"),
        ("{% if true %}{% set x = 1 %}{% else %}{% set x = 2 %}{% endif %}{{ x }}", "1"),
        ("{% if false %}{% set x = 1 %}{% elif true %}{% set x = 3 %}{% else %}{% set x = 2 %}{% endif %}{{ x }}", "3"),
        ("a\n{%- if true -%}\n b \n{%- endif -%}\nc", "abc"),
        ("{% if true %}line\n{% endif %}\n", "line\n\n"),
        ("{% for x in inputs.rows %}{{ x.absent | default('?') }}{% endfor %}", "??"),
        ("{% for x in range(3) %}{{ 'ab'[x:x+1] ~ x }} {% endfor %}", "a0 b1 2 "),
        ("{% for x in inputs.list %}{{ x in inputs.list and x == x }} {% endfor %}", "true true true "),
        ("{% for x in ['}}', '{{'] %}{{ x }}{% raw %}{{{% endraw %}{% endfor %}", "}}{{{{{{"),
        ("{% if inputs.map %}{{ inputs.map }}{% endif %}", '{"a":1,"b":[2]}'),
    ],
)
def test_tags_in_text(source: str, text: str) -> None:
    inputs = {"n": 7, "list": [1, 2, 3], "rows": ROWS, "map": {"a": 1, "b": [2]}}
    assert value_of(source, inputs=inputs) == text


# ── what is safe ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_frozen_data_refuses_every_change_and_is_still_encoded() -> None:
    data = freeze({"a": [1, {"b": 2}]})
    changes: list[Callable[[], object]] = [
        lambda: data.clear(),
        lambda: data.pop("a"),
        lambda: data.popitem(),
        lambda: data.update({"x": 1}),
        lambda: data.setdefault("x", 1),
        lambda: data.__setitem__("x", 1),
        lambda: data.__delitem__("a"),
        lambda: data["a"].append(1),
        lambda: data["a"].extend([1]),
        lambda: data["a"].insert(0, 1),
        lambda: data["a"].pop(),
        lambda: data["a"].remove(1),
        lambda: data["a"].sort(),
        lambda: data["a"].reverse(),
        lambda: data["a"].clear(),
        lambda: data["a"].__setitem__(0, 9),
        lambda: data["a"].__delitem__(0),
        lambda: data["a"].__iadd__([1]),
        lambda: data["a"].__imul__(2),
        lambda: data.__ior__({"x": 1}),
    ]
    for change in changes:
        with pytest.raises(TypeError, match="cannot be changed"):
            change()
    assert json.dumps(data) == '{"a": [1, {"b": 2}]}'
    assert freeze(data) is data


HOSTILE = [
    "inputs.clear()",
    "inputs['clear']()",
    "inputs.pop('a')",
    "inputs.update({'a': 1})",
    "inputs.list.append(1)",
    "inputs['list']['append'](1)",
    "(inputs | list).append(1)",
    "inputs.list.sort()",
    "inputs.__class__",
    "inputs['__class__']",
    "inputs['__cla' ~ 'ss__']",
    "inputs.list.__len__",
    "inputs.keys",
    "inputs.items",
    "inputs.list.append",
    "inputs.text.upper",
    "inputs | attr('clear')",
    "inputs.list | map(attribute='append') | list",
    "[inputs] | map(attribute='clear') | list",
    "[inputs] | selectattr('clear') | list",
    "[inputs] | sort(attribute='clear')",
    "[inputs] | groupby('keys')",
    "[inputs] | sum(attribute='values')",
    "debug()",
    "debug",
    "dict(a=1)",
    "namespace()",
    "lipsum()",
    "cycler",
    "self",
    "super()",
    "get_(inputs, 'clear')",
    "p0",
    "c0",
    "v_x",
    "out_",
    "config",
    "request",
    "os",
]


@pytest.mark.guarantee("G13")
@pytest.mark.parametrize("source", HOSTILE)
def test_expressions_reach_no_python_and_change_nothing(source: str) -> None:
    inputs = {"a": 1, "list": [3, 1, 2], "text": "x"}
    names = Given(inputs=inputs)
    for form in ("{{ %s }}", "text {{ %s }}", "{%% if %s %%}{%% endif %%}", "{%% for x in %s %%}{{ x }}{%% endfor %%}"):
        with pytest.raises(ExpressionError) as caught:
            compile_template(form % source).render(names)
        assert caught.value.code in ("expression.syntax", "expression.undefined")
    assert names.value("inputs") == inputs


@pytest.mark.guarantee("G13")
def test_mutable_parts_of_a_result_are_fresh_and_shared_ones_are_frozen() -> None:
    names = Given(inputs={"rows": ROWS})
    result = compile_template("{{ [inputs.rows, inputs.rows | list] }}").render(names)
    assert type(result) is list
    assert type(result[0]) is FrozenList
    assert all(type(row) is FrozenDict for row in result[1])
    result[1].append("mine")
    assert names.value("inputs") == {"rows": ROWS}


@pytest.mark.parametrize(
    "source",
    [
        "{{ {none: 3} }}",
        "{{ {1.5: 3} }}",
        "{{ {true: 3} }}",
        "{{ {inputs.n: 3} }}",
        "{{ 'x' ~ {inputs.n: 3} }}",
        "{{ {inputs.n: 3} | tojson }}",
    ],
)
def test_result_must_be_json(source: str) -> None:
    error = failure_of(source, inputs={"n": 7})
    assert error.code == "expression.invalid"
    assert "keys are strings" in str(error)


def test_key_that_no_object_can_have_is_an_error() -> None:
    assert failure_of("{{ {(1, 2): 3} }}").code == "expression.invalid"


def test_numbers_survive_to_127_bits_and_are_refused_beyond() -> None:
    largest = LARGEST_NUMBER
    assert value_of("{{ [inputs.n] }}", inputs={"n": largest}) == [largest]
    assert value_of("{{ inputs.n - 1 }}", inputs={"n": largest}) == largest - 1
    assert value_of("{{ -inputs.n }}", inputs={"n": largest}) == -largest
    for source in ("{{ [inputs.n] }}", "{{ inputs.n + 1 }}", "{{ inputs.n ~ '' }}"):
        assert failure_of(source, inputs={"n": largest + 1}).code == "expression.invalid"
    assert failure_of("{{ inputs.n + 1 }}", inputs={"n": largest}).code == "expression.invalid"
    assert failure_of("{{ 1.0e300 * 1.0e300 }}").code == "expression.invalid"


def test_integer_of_any_size_passes_as_a_whole_path_and_in_text() -> None:
    big = 10**300
    assert value_of("{{ inputs.n }}", inputs={"n": big}) == big
    assert value_of("n={{ inputs.n }}", inputs={"n": big}) == f"n={big}"


def test_secret_is_available_only_where_it_is_given_and_stays_out_of_messages() -> None:
    secrets = {"KEY": "sesame"}
    assert value_of("Bearer {{ secrets.KEY }}", secrets=secrets) == "Bearer sesame"
    error = failure_of("{{ secrets.KEY }}")
    assert "no such secret, or secrets cannot be used here" in str(error)
    for source in ("{{ inputs[secrets.KEY] }}", "{{ {'a': 1}[secrets.KEY] }}", "{{ secrets.KEY | format(1, 2) }}"):
        message = str(failure_of(source, secrets=secrets, inputs={}))
        assert "sesame" not in message
    assert "***" in str(failure_of("{{ inputs[secrets.KEY] }}", secrets=secrets, inputs={}))


# ── limits, at the limit and one above ────────────────────────────────────────────────────────────────────────────


def padded(characters: int) -> str:
    """An expression of so many characters between its braces, whose value is the string in it."""
    return "{{'" + "a" * (characters - 2) + "'}}"


def test_expression_has_at_most_1000_characters() -> None:
    assert EXPRESSION_CHARACTERS == 1_000
    assert len(value_of(padded(1_000))) == 998
    assert value_of("{{1" + " " * 999 + "}}") == 1
    for source in (padded(1_001), "{{1" + " " * 1_000 + "}}", "{{" + " " * 60_000):
        error = failure_of(source)
        assert error.code == "limit.expression"
        assert "1,000 characters" in str(error)
    assert failure_of("{% if '" + "a" * 1_000 + "' %}{% endif %}").code == "limit.expression"


def test_expression_has_at_most_200_operators() -> None:
    assert EXPRESSION_OPERATORS == 200
    assert value_of("{{ " + "+".join(["1"] * 201) + " }}") == 201
    error = failure_of("{{ " + "+".join(["1"] * 202) + " }}")
    assert error.code == "limit.expression"
    assert "201 operators" in str(error)


@pytest.mark.parametrize(
    "nested",
    [
        lambda depth: "(" * depth + "1" + ")" * depth,
        lambda depth: "[" * depth + "1" + "]" * depth,
        lambda depth: "not " * depth + "true",
        lambda depth: "- " * depth + "1",
        lambda depth: "1" + " if true else 1" * depth,
        lambda depth: "1" + " | string" * depth,
        lambda depth: "inputs" + "[:]" * depth,
        lambda depth: "1" + "+1-1" * depth,
    ],
)
def test_expression_is_nested_at_most_32_levels(nested: Any) -> None:
    inputs = {"a": 1}
    reached = [depth for depth in range(1, 60) if compiles("{{ " + nested(depth) + " }}")]
    assert reached == list(range(1, len(reached) + 1))
    assert 12 <= len(reached) <= 32
    assert failure_of("{{ " + nested(len(reached) + 1) + " }}", inputs=inputs).code == "limit.expression"


def compiles(source: str) -> bool:
    try:
        compile_template(source)
    except ExpressionError as error:
        assert error.code == "limit.expression"
        return False
    return True


def test_text_with_expressions_has_at_most_64_kib() -> None:
    hole = "{{ 1 }}"
    assert len(value_of(hole + "a" * (64 * 1024 - len(hole)))) == 64 * 1024 - len(hole) + 1
    assert failure_of(hole + "a" * (64 * 1024 - len(hole) + 1)).code == "limit.expression"
    assert failure_of(hole + "é" * (32 * 1024)).code == "limit.expression"
    assert value_of("a" * 100_000) == "a" * 100_000  # without any it may be longer


def test_text_has_at_most_500_tags_and_16_levels_of_them() -> None:
    tag = "{% set x = 1 %}"
    assert value_of(tag * 500) == ""
    assert failure_of(tag * 501).code == "limit.expression"
    assert value_of("{% if true %}" * 16 + "a" + "{% endif %}" * 16) == "a"
    assert failure_of("{% if true %}" * 17 + "a" + "{% endif %}" * 17).code == "limit.expression"
    assert value_of("{% if false %}" + "{% elif false %}" * 15 + "{% else %}a{% endif %}") == "a"
    assert failure_of("{% if false %}" + "{% elif false %}" * 16 + "{% endif %}").code == "limit.expression"


def test_value_is_nested_at_most_100_levels() -> None:
    def nested(levels: int) -> Any:
        value: Any = "{{ 1 }}"
        for _ in range(levels):
            value = [value]
        return value

    rendered = value_of(nested(NESTING))
    assert json.dumps(rendered) == "[" * NESTING + "1" + "]" * NESTING
    assert failure_of(nested(NESTING + 1)).code == "limit.expression"


@pytest.mark.parametrize(
    ("exact", "over"),
    [
        ("{{ inputs.text }}{{ 'a' }}", "{{ inputs.text }}{{ 'ab' }}"),
        ("{{ inputs.text ~ 'a' }}", "{{ inputs.text ~ 'ab' }}"),
        ("{{ inputs.text + 'a' }}", "{{ inputs.text + 'ab' }}"),
        ("{{ [inputs.text, 'a'] | join }}", "{{ [inputs.text, 'a'] | join('-') }}"),
        ("{% if true %}{{ inputs.text }}a{% endif %}", "{% if true %}{{ inputs.text }}ab{% endif %}"),
        ("{{ 'a' * inputs.limit }}", "{{ 'a' * (inputs.limit + 1) }}"),
        ("{{ 'a' | center(inputs.limit) }}", "{{ 'a' | center(inputs.limit + 1) }}"),
        ("{{ inputs.text | replace('b', 'bb') }}", "{{ inputs.text | replace('b', 'bbb') }}"),
        ("{{ inputs.text | indent(1, true) }}", "{{ inputs.text | indent(2, true) }}"),
    ],
)
def test_rendered_string_has_at_most_1_mib(exact: str, over: str) -> None:
    inputs = {"text": "b" + "a" * (RENDERED_BYTES - 2), "limit": RENDERED_BYTES}
    assert len(value_of(exact, inputs=inputs)) == RENDERED_BYTES
    error = failure_of(over, inputs=inputs)
    assert error.code == "limit.expression"
    assert "1 MiB" in str(error)


def test_rendered_text_is_measured_in_bytes() -> None:
    inputs = {"half": "é" * (RENDERED_BYTES // 4)}
    assert len(value_of("{{ inputs.half }}{{ inputs.half }}", inputs=inputs)) == RENDERED_BYTES // 2
    assert failure_of("{{ inputs.half }}{{ inputs.half }}a", inputs=inputs).code == "limit.expression"


def test_fuel_stops_an_expression_and_grows_with_the_data() -> None:
    loop = "{% for x in inputs.rows %}{% if x > 1 %}{% endif %}{% if x > 1 %}{% endif %}{% endfor %}"
    assert value_of(loop, inputs={"rows": [0] * 10_000}) == ""
    unpaid = "{% for x in range(20000) %}{% if x > 1 %}{% endif %}{% if x > 1 %}{% endif %}{% endfor %}"
    error = failure_of(unpaid)
    assert error.code == "limit.expression"
    assert "too many operations" in str(error)


def test_result_has_at_most_a_million_parts() -> None:
    rows = freeze([0] * 1_000)
    half = "{{ [" + ",".join(["(inputs.rows | list)"] * 40) + "] }}"
    assert len(value_of(half, inputs={"rows": rows})) == 40
    assert RESULT_NODES == 1_000_000
    many = "{{ [inputs.rows | list, inputs.rows | list, inputs.rows | list] }}"
    error = failure_of(many, inputs={"rows": [0] * 400_000})
    assert error.code == "limit.expression"


def test_shared_parts_of_a_result_count_each_time() -> None:
    big = {"text": "a" * 1_000_000}
    assert len(value_of("{{ [" + "inputs, " * 10 + "] }}", inputs=big)) == 10
    error = failure_of("{{ [" + "inputs, " * 11 + "] }}", inputs=big)
    assert error.code == "limit.expression"
    assert "too large" in str(error)
    assert failure_of("{{ [" + "inputs.text, " * 11 + "] }}", inputs=big).code == "limit.expression"


@pytest.mark.parametrize("source", ["{{ 1 / 0 }}", "{{ 1 | round('x') }}", "{{ [1] | join(',', 1, 2, 3, 4) }}"])
def test_operation_that_fails_is_an_invalid_expression(source: str) -> None:
    error = failure_of(source)
    assert error.code == "expression.invalid"
    assert str(error).startswith("The expression failed")
