"""Plain data: what JSON can hold, and how deep it may be."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from openagents_json import jsondata
from openagents_json.jsondata import DEPTH, FrozenDict, FrozenList, NotJson, TooLarge, depth, freeze, plain, thaw
from tests.unit.machine.drive import Drive, call

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_plain_data_survives_being_written_and_read(value: Any) -> None:
    copy, encoded = plain(value)
    assert copy == value
    assert jsondata.decode(encoded) == value
    assert jsondata.decode(jsondata.encode(copy)) == value


@given(JSON)
def test_thaw_undoes_freeze_and_shares_nothing(value: Any) -> None:
    frozen = freeze(value)
    assert frozen == value
    assert freeze(frozen) is frozen
    thawed = thaw(frozen)
    assert thawed == value
    assert not containers(thawed) & (containers(frozen) | containers(value))


def containers(value: Any) -> set[int]:
    """The identities of all dicts and lists in a value."""
    if not isinstance(value, dict | list):
        return set()
    members = value.values() if isinstance(value, dict) else value
    return {id(value)}.union(*[containers(member) for member in members])


def nested(levels: int) -> Any:
    value: Any = 1
    for level in range(levels):
        value = [value] if level % 2 else {"a": value}
    return value


def test_what_is_accepted_can_be_frozen_thawed_and_read_again() -> None:
    value = nested(DEPTH)
    copy, encoded = plain(value)
    assert depth(copy) == DEPTH
    assert depth(thaw(freeze(copy))) == DEPTH
    assert depth(jsondata.decode(encoded)) == DEPTH
    for levels in (DEPTH + 1, DEPTH + 200, 5_000):
        with pytest.raises(NotJson, match="nested"):
            plain(nested(levels))


def test_job_with_the_deepest_inputs_runs_to_its_end() -> None:
    drive = Drive(
        [call("a", inputs={"v": "{{ inputs.deep }}", "w": "x{{ inputs.deep }}"})], {"deep": nested(DEPTH - 1)}
    )
    drive.succeed("a", nested(DEPTH))
    assert drive.status == "COMPLETED"


def test_models_dataclasses_and_tuples_become_objects_and_lists() -> None:
    class Model(BaseModel):
        a: int

    @dataclasses.dataclass
    class Data:
        b: Any

    assert plain(Data((1, Model(a=2))))[0] == {"b": [1, {"a": 2}]}
    with pytest.raises(NotJson, match="type"):
        plain({"x": Data})


def test_hook_may_turn_further_types_into_json_or_fail() -> None:
    assert plain({"x": {1, 2}}, default=lambda value: sorted(value))[0] == {"x": [1, 2]}

    def failing(value: object) -> object:
        raise ValueError("not today")

    with pytest.raises(NotJson, match="not today") as caught:
        plain([{1}], default=failing)
    assert caught.value.path == "$[0]"


def test_circle_is_found_and_a_part_that_stands_twice_is_none() -> None:
    circle: dict[str, Any] = {}
    circle["a"] = [circle]
    with pytest.raises(NotJson, match="contains itself") as caught:
        plain(circle)
    assert caught.value.path == "$.a[0]"
    part = [1]
    assert plain([part, part])[0] == [[1], [1]]


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        ({1}, "sorted"),
        (frozenset([1]), "sorted"),
        (b"x", "base64"),
        (bytearray(b"x"), "base64"),
        (1j, "Return dicts"),
    ],
)
def test_message_says_what_to_do_instead(value: Any, advice: str) -> None:
    with pytest.raises(NotJson, match=advice):
        plain({"a": value})


def test_size_is_refused_above_the_limit() -> None:
    assert plain("abc", limit_bytes=5)[1] == b'"abc"'
    with pytest.raises(TooLarge) as caught:
        plain("abcd", limit_bytes=5)
    assert (caught.value.size_bytes, caught.value.limit_bytes) == (6, 5)
    assert plain("é", limit_bytes=4)[1] == '"é"'.encode()


def test_text_that_only_looks_like_nul_is_text() -> None:
    assert plain("\\u0000")[0] == "\\u0000"
    with pytest.raises(NotJson, match="NUL"):
        plain("\\u0000\x00")


@pytest.mark.parametrize("text", ["", "{", "NaN", "[1,]", "\x00", '{"a": 1e999}', "[" * 5_000])
def test_text_that_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(NotJson):
        jsondata.decode(text)


def test_frozen_containers_equal_plain_ones() -> None:
    assert FrozenDict(a=1) == {"a": 1}
    assert FrozenList([1]) == [1]
