"""G13 for expressions and templates: each bomb costs at most 1 s of CPU and 100 MiB, and ends with a named error."""

from __future__ import annotations

import pytest

from openagents_json.workflow.expressions import compile_template
from tests.unit.guarded import Guarded
from tests.unit.scope import Given

pytestmark = pytest.mark.guarantee("G13")

LOOP = "{% for a in range(9999) %}"
END = "{% endfor %}"

COMPUTED = {
    "nested loops": LOOP * 4 + "x" + END * 4,
    "nested loops that put out nothing": LOOP * 3 + END * 3,
    "loop over a product": "{% for a in range(9999) %}{% set b = range(9999) | list %}{% endfor %}",
    "giant range": "{{ range(1000000000) }}",
    "giant range as list": "{{ range(1000000000) | list }}",
    "many ranges": "{{ " + " + ".join(["(range(9999) | list)"] * 40) + " }}",
    "repeated string": "{{ 'a' * 10**9 }}",
    "repeated string in text": "x{{ 'a' * 10**9 }}",
    "string doubled 34 times": "{% set a = 'ab' %}" + "{% set a = a ~ a %}" * 34 + "{{ a }}",
    "string doubled by adding": "{% set a = 'ab' %}" + "{% set a = a + a %}" * 34 + "{{ a }}",
    "string multiplied often": "{{ 'a'" + " * 9" * 20 + " }}",
    "list doubled 34 times": "{% set a = [1] %}" + "{% set a = a + a %}" * 34 + "{{ a }}",
    "list nested and doubled": "{% set a = [1] %}" + "{% set a = [a, a] %}" * 34 + "{{ a }}",
    "object doubled": "{% set a = {'x': 1} %}" + "{% set a = {'x': a, 'y': a} %}" * 34 + "{{ a }}",
    "wide list in a list": "{% set a = [1] %}" + ("{% set a = [" + "a," * 400 + "] %}") * 5 + "{{ a }}",
    "wide list by loops": "".join(
        "{% for b in [[" + "b," * 200 + "]] %}" if n else "{% for b in [[1]] %}" for n in range(9)
    )
    + "{{ b }}"
    + END * 9,
    "comparison of doubled lists": "{% set a = [1] %}{% set b = [1] %}"
    + "{% set a = [a, a] %}{% set b = [b, b] %}" * 34
    + "{% if a == b %}{% endif %}",
    "search in doubled lists": "{% set a = [1] %}{% set b = [1] %}"
    + "{% set a = [a, a] %}{% set b = [b, b] %}" * 34
    + "{% if b in [a] %}{% endif %}",
    "comparison of doubled lists just inside the bounds": "{% set a = [1] %}{% set b = [1] %}"
    + "{% set a = [a, a] %}{% set b = [b, b] %}" * 16
    + LOOP
    + "{% if a == b %}{% endif %}"
    + END,
    "deep list": "{% set a = [1] %}" + ("{% set a = " + "[" * 28 + "a" + "]" * 28 + " %}") * 400 + "{{ a }}",
    "comparison of deep lists": "{% set a = [1] %}{% set b = [1] %}"
    + ("{% set a = " + "[" * 28 + "a" + "]" * 28 + " %}{% set b = " + "[" * 28 + "b" + "]" * 28 + " %}") * 240
    + "{% if a == b %}{% endif %}",
    "list repeated": "{{ [[0] * 10000] * 10000 }}",
    "power": "{{ 9 ** 9 ** 9 ** 9 }}",
    "product of big numbers": "{{ 99999999999999999999 * 99999999999999999999 }}",
    "replace that grows": "{{ 'aaaaaaaaaa' * 10000 | int | replace('a', 'b' * 10000) }}",
    "replace of nothing": "{{ ('a' * 100000) | replace('', 'b' * 10000) }}",
    "join that grows": "{{ range(9999) | list | join('a' * 100000) }}",
    "indent that grows": "{{ ('\\n' * 100000) | indent(100000) }}",
    "center": "{{ 'a' | center(2000000000) }}",
    "format width": "{{ '%2000000000d' | format(1) }}",
    "format width by argument": "{{ '%*d' | format(2000000000, 1) }}",
    "format many": "{{ ('%999d' * 1000) | format(1) }}",
    "tojson indent": "{{ range(9999) | list | tojson(1000000000) }}",
    "batch": "{{ [1] | batch(1000000000, 0) }}",
    "slice": "{{ [1] | slice(1000000000, 0) }}",
    "split and join": "{{ ('a,' * 500000) | split(',') | join('bbbbbbbbbb') }}",
    "macro recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "include of itself": "{% include 'x' %}",
    "method that changes": "{{ inputs.clear() }}",
    "method by key": "{{ inputs['clear']() }}",
    "sort in a loop": LOOP + "{% set b = inputs.rows | sort %}" + END,
    "unique in a loop": LOOP + "{% set b = inputs.rows | unique | list %}" + END,
    "search in a loop": LOOP + "{% if 'x' in inputs.text %}{% endif %}" + END,
    "comparison in a loop": LOOP + "{% if inputs.rows == inputs.same %}{% endif %}" + END,
    "search of every row in every row": "{{ inputs.rows | select('in', inputs.rows) | list | length > 0 and 1 / 0 }}",
    "slices in a loop": LOOP + "{% set b = inputs.rows[1:] %}" + END,
    "texts in a loop": LOOP + "{{ inputs.text }}" + END,
    "concatenation in a loop": LOOP + "{% set b = inputs.text ~ inputs.text %}" + END,
    "json in a loop": LOOP + "{% set b = inputs.rows | tojson %}" + END,
    "upper in a loop": LOOP + "{% set b = inputs.text | upper %}" + END,
    "characters in a loop": LOOP + "{% set b = inputs.text | list %}" + END,
}


@pytest.mark.parametrize("name", COMPUTED)
def test_template_bomb_is_stopped(name: str, guarded: Guarded) -> None:
    inputs = {"rows": list(range(5_000)), "same": list(range(5_000)), "text": "a" * 200_000}
    outcome = guarded.refuses("render", COMPUTED[name], inputs)
    assert outcome.error == "ExpressionError"
    assert outcome.code in ("limit.expression", "expression.invalid", "expression.syntax", "expression.undefined")
    assert "In: " in outcome.message


WRITTEN = {
    "100,000 parentheses": "{{ " + "(" * 100_000 + "1" + ")" * 100_000 + " }}",
    "60,000 parentheses": "{{ " + "(" * 30_000 + "1" + ")" * 30_000 + " }}",
    "400 parentheses": "{{ " + "(" * 400 + "1" + ")" * 400 + " }}",
    "20,000 additions": "{{ 1" + "+1" * 20_000 + " }}",
    "20,000 negations": "{{ " + "not " * 10_000 + "1 }}",
    "20,000 minus signs": "{{ " + "-" * 20_000 + "1 }}",
    "900 minus signs": "{{ " + "-" * 900 + "1 }}",
    "200 negations": "{{ " + "not " * 200 + "true }}",
    "900 brackets": "{{ " + "[" * 900 + " }}",
    "900 braces": "{{ " + "{'a':" * 150 + "1" + "}" * 150 + " }}",
    "conditionals": "{{ " + "1 if 1 else " * 70 + "1 }}",
    "filters": "{{ 1" + "|abs" * 200 + " }}",
    "subscripts": "{{ inputs" + "[[" * 300 + " }}",
    "slices": "{{ inputs" + "[:]" * 300 + " }}",
    "a million characters": "{{ '" + "a" * 1_000_000 + "' }}",
    "an unclosed string": "{{ '" + "\\'" * 30_000,
    "an unclosed comment": "{# " * 20_000,
    "an unclosed raw block": "{% raw %}" * 6_000,
    "blocks in blocks": "{% if true %}" * 4_000,
    "10,000 loops in loops": "{% for a in [1] %}" * 3_000,
    "elifs": "{% if false %}" + "{% elif false %}" * 3_000 + "{% endif %}",
    "names": "{{ " + "a" * 990 + " }}",
    "digits": "{{ " + "9" * 990 + " }}",
    "exponent": "{{ 1e999999999 }}",
}


@pytest.mark.parametrize("name", WRITTEN)
def test_text_that_would_break_a_parser_is_refused(name: str, guarded: Guarded) -> None:
    outcome = guarded.refuses("render", WRITTEN[name])
    assert outcome.error == "ExpressionError"
    assert outcome.code in ("limit.expression", "expression.syntax")
    assert len(outcome.message) < 2_000


def test_many_expressions_in_one_text_are_cheap(guarded: Guarded) -> None:
    outcome = guarded.survives("render", "{{1}}" * 13_000)
    assert outcome.value == "1" * 1_000


def test_value_with_many_templates_is_cheap(guarded: Guarded) -> None:
    guarded.survives("render", [f"{{{{ inputs.n + {n} }}}}" for n in range(5_000)], {"n": 1})


@pytest.mark.parametrize("source", ["{{ item | tojson }}", "x{{ item }}", "{{ item | string }}"])
def test_shared_data_that_unfolds_to_a_huge_text_is_stopped(source: str, guarded: Guarded) -> None:
    outcome = guarded.refuses("render_doubled", source, 18)
    assert outcome.code == "limit.expression"


def test_bomb_as_a_condition_is_stopped(guarded: Guarded) -> None:
    outcome = guarded.refuses("condition", "{{ ('a' * 10**9) == 'a' }}")
    assert outcome.code == "limit.expression"


def test_bomb_leaves_the_next_evaluation_its_whole_budget() -> None:
    names = Given(inputs={})
    bomb = compile_template("{{ 'a' * 10**9 }}")
    loop = compile_template("{% for a in range(2000) %}{{ a ~ '' }}{% endfor %}")
    before = loop.render(names)
    for _ in range(3):
        with pytest.raises(Exception, match="1 MiB"):
            bomb.render(names)
    assert loop.render(names) == before
