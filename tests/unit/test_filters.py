"""The filters and tests of ours: what they give, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest

from openagents_json.workflow.filters import OWN_FILTERS
from openagents_json.workflow.vocabulary import ALIASES, FILTERS
from tests.unit.scope import failure_of, value_of

INPUTS: dict[str, Any] = {
    "rows": [{"name": "b", "score": 1, "in": {"x": [5]}}, {"name": "a", "score": 3, "in": {"x": [6]}}],
    "pairs": [[1, 2], [3, 4]],
    "map": {"b": 1, "a": 2},
    "text": "a-b-c",
}


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("[1, 2, 3] | batch(2)", [[1, 2], [3]]),
        ("[1, 2, 3] | batch(2, 0)", [[1, 2], [3, 0]]),
        ("[] | batch(2, 0)", []),
        ("[1, 2, 3] | slice(2)", [[1, 2], [3]]),
        ("[1, 2, 3, 4] | slice(3, 0)", [[1, 2], [3, 0], [4, 0]]),
        ("[1] | slice(2)", [[1], []]),
        ("'a' | center(5)", "  a  "),
        ("'abc' | center(2)", "abc"),
        ("'%s-%03d-%5.2f%%' | format('a', 7, 1.5)", "a-007- 1.50%"),
        ("'%s' | format([1])", "[1]"),
        ("'a\\nb' | indent", "a\n    b"),
        ("'a\\n\\nb' | indent(2, true, true)", "  a\n  \n  b"),
        ("'a\\n\\nb' | indent(2)", "a\n\n  b"),
        ("inputs.map | items", [["b", 1], ["a", 2]]),
        ("inputs.map | keys", ["b", "a"]),
        ("inputs.map | values", [1, 2]),
        ("[1, 'a', none] | join('-')", "1-a-null"),
        ("'abc' | join('-')", "a-b-c"),
        ("inputs.map | join", "ba"),
        ("inputs.rows | join(',', attribute='name')", "b,a"),
        ("'abc' | list", ["a", "b", "c"]),
        ("inputs.map | list", ["b", "a"]),
        ("inputs.rows | map(attribute='in.x.0') | list", [5, 6]),
        ("inputs.pairs | map(attribute=1) | list", [2, 4]),
        ("inputs.rows | map(attribute='none', default='-') | list", ["-", "-"]),
        ("[{'a': none}] | map(attribute='a', default=1) | list", [1]),
        ("[{'a': none}] | map(attribute='a') | list", [None]),
        ("['x', 'y'] | map('upper') | list", ["X", "Y"]),
        ("[none, 2] | map('default', 1) | list", [1, 2]),
        ("inputs.text | replace('-', '+')", "a+b+c"),
        ("inputs.text | split('-')", ["a", "b", "c"]),
        ("inputs.text | split('-', 1)", ["a", "b-c"]),
        ("' a  b ' | split", ["a", "b"]),
        ("5 | string", "5"),
        ("inputs.map | string", '{"b":1,"a":2}'),
        ("{'a': [1]} | tojson", '{"a":[1]}'),
        ("{'a': [1]} | tojson(2)", '{\n  "a": [\n    1\n  ]\n}'),
        ("'é</script>' | tojson", '"é</script>"'),
        ("'abc def ghi' | truncate(8)", "abc..."),
        ("'abc def ghi' | truncate(8, true)", "abc d..."),
        ("'abcdefghi' | truncate(5, end='')", "abcde"),
        ("'abc' | truncate(3)", "abc"),
        ("[1, 2, 3] | select('in', [2, 9]) | list", [2]),
        ("['a', 1] | select('in', 'abc') | list", ["a"]),
        ("['b', 'z', 1] | select('in', inputs.map) | list", ["b"]),
        ("inputs.rows | selectattr('score', '>', 1) | map(attribute='name') | list", ["a"]),
        ("inputs.rows | rejectattr('name', 'in', ['a']) | map(attribute='name') | list", ["b"]),
        ("inputs.rows | sort(attribute='name') | map(attribute='score') | list", [3, 1]),
        ("inputs.rows | sum(attribute='score')", 4),
        ("inputs.rows | groupby('name') | map(attribute='0') | list", ["a", "b"]),
        ("[3, 1] | min ~ [3, 1] | max ~ [3, 1] | first ~ [3, 1] | last", "1331"),
        ("inputs.map | dictsort", [["a", 2], ["b", 1]]),
    ],
)
def test_filter_gives(source: str, value: Any) -> None:
    assert value_of("{{ " + source + " }}", inputs=INPUTS) == value


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("[1] | batch(0)", "a count from 1 to 10,000"),
        ("[1] | batch(10001)", "a count from 1 to 10,000"),
        ("[1] | slice('a')", "a count from 1 to 10,000"),
        ("'abc' | batch(2)", "need a list"),
        ("'%d' | format('x')", "format:"),
        ("'%s %s' | format(1)", "not enough arguments"),
        ("'%(a)s' | format(1)", "format knows forms"),
        ("'%1000d' | format(1)", "format knows forms"),
        ("'%*d' | format(3, 1)", "format knows forms"),
        ("3 | items", "items needs an object, not a number"),
        ("[1] | keys", "keys needs an object, not a list of 1"),
        ("none | values", "values needs an object, not null"),
        ("3 | join", "join needs a list, not a number"),
        ("true | list", "list cannot be made of a boolean"),
        ("'ab' | map(attribute='x') | list", "map needs a list, not a string"),
        ("'a' | split('')", "separator that is not empty"),
        ("1 | tojson(9)", "at most 8"),
        ("1 | tojson(-1)", "at most 8"),
        ("[1] | select('in', 3) | list", "`in` needs a list, an object or a string"),
        ("1 + 'a'", "`~` joins text"),
        ("[1] * 3", "cannot multiply a list"),
        ("'a' * 1.5", "cannot multiply a string"),
        ("5[1:]", "a slice cannot be taken of a number"),
        ("'a'[::0]", "step cannot be zero"),
    ],
)
def test_filter_refuses_what_it_cannot_take(source: str, words: str) -> None:
    error = failure_of("{{ " + source + " }}", inputs=INPUTS)
    assert error.code == "expression.invalid"
    assert words in str(error)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("inputs.rows | map(attribute='none') | list", "Item 0 of the list has no 'none'"),
        ("inputs.rows | join(',', attribute='none')", "Item 0 of the list has no 'none'"),
        ("{} | first", "of an empty object does not exist"),
        ("'' | last", "does not exist"),
        ("[] | min", "does not exist"),
        ("'xyz'[{'a': 1}]", "There is no index"),
        ("{'a': 1}['b' ~ '']", "There is no field 'b' in an object with 'a'"),
    ],
)
def test_filter_of_what_is_missing_is_undefined(source: str, words: str) -> None:
    error = failure_of("{{ " + source + " }}", inputs=INPUTS)
    assert error.code == "expression.undefined"
    assert words in str(error)


def test_every_filter_of_ours_is_known_to_the_language() -> None:
    assert set(OWN_FILTERS) - set(FILTERS) - set(ALIASES) == {"attribute"}
    assert failure_of("{{ [1] | attribute('a') }}").code == "expression.syntax"
