"""Inputs from the command line: which text is JSON, which stays text, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openagents_json.cli.failures import UsageProblem
from openagents_json.cli.inputs import read_inputs, says_string
from openagents_json.errors import InvalidInputs
from openagents_json.workflow import limits

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "text": {"type": "string"},
        "number": {"type": "integer"},
        "word": {"enum": ["1", "2"]},
        "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "referred": {"$ref": "#/$defs/name"},
        "key": {"type": "string", "writeOnly": True},
        "anything": {},
    },
    "$defs": {"name": {"type": "string"}, "loop": {"$ref": "#/$defs/loop"}},
}


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        ("number=5", 5),
        ("number=five", "five"),
        ("text=5", "5"),
        ("text=", ""),
        ("text=a=b", "a=b"),
        ("word=1", "1"),
        ("maybe=null", "null"),
        ("referred=12", "12"),
        ('key={"secret": "KEY"}', {"secret": "KEY"}),
        ("anything=[1, 2]", [1, 2]),
        ("anything=true", True),
        ("anything=NaN", "NaN"),
        ('anything={"a": 1, "a": 2}', '{"a": 1, "a": 2}'),
        ("unknown=3", 3),
        ("text=@@someone", "@someone"),
    ],
)
def test_value_is_json_unless_the_schema_asks_for_text(pair: str, expected: object) -> None:
    name = pair.partition("=")[0]
    assert read_inputs([pair], None, SCHEMA) == {name: expected}


@given(st.text().filter(lambda text: not text.startswith("@")))
def test_text_for_a_string_input_arrives_as_it_was_typed(text: str) -> None:
    assert read_inputs([f"text={text}"], None, SCHEMA) == {"text": text}


def test_schema_that_refers_to_itself_is_not_followed_for_ever() -> None:
    assert not says_string({"$ref": "#/$defs/loop"}, SCHEMA)


def test_value_from_a_file_follows_the_same_rules(tmp_path: Path) -> None:
    file = tmp_path / "value"
    file.write_text("[1]")
    assert read_inputs([f"text=@{file}", f"number=@{file}"], None, SCHEMA) == {"text": "[1]", "number": [1]}


def test_pair_wins_over_the_inputs_file(tmp_path: Path) -> None:
    file = tmp_path / "inputs.json"
    file.write_text('{"number": 1, "text": "a"}')
    assert read_inputs(["number=2"], str(file), SCHEMA) == {"number": 2, "text": "a"}


@pytest.mark.parametrize("pair", ["number", "=5", ""])
def test_pair_without_name_or_equals_sign_is_refused(pair: str) -> None:
    with pytest.raises(UsageProblem, match="give name=value"):
        read_inputs([pair], None, SCHEMA)


def test_name_given_twice_is_refused() -> None:
    with pytest.raises(UsageProblem, match="given twice"):
        read_inputs(["number=1", "number=2"], None, SCHEMA)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageProblem, match="--input text: nowhere cannot be read: No such file"):
        read_inputs(["text=@nowhere"], None, SCHEMA)
    with pytest.raises(UsageProblem, match="--inputs: nowhere cannot be read"):
        read_inputs([], "nowhere", SCHEMA)


def test_inputs_file_that_is_no_json_is_refused_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "inputs.json"
    file.write_text('{"a": 1,\n "b": }')
    with pytest.raises(InvalidInputs) as caught:
        read_inputs([], str(file), SCHEMA)
    assert caught.value.problems[0].line == 2


def test_inputs_file_that_is_no_object_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "inputs.json"
    file.write_text("[1]")
    with pytest.raises(InvalidInputs, match="must be an object"):
        read_inputs([], str(file), SCHEMA)


@pytest.mark.parametrize("too_many", [0, 1])
def test_file_may_be_as_long_as_inputs_may_be(tmp_path: Path, too_many: int) -> None:
    file = tmp_path / "long"
    file.write_bytes(b"a" * (limits.INPUTS_BYTES + too_many))
    if too_many:
        with pytest.raises(UsageProblem, match="is longer than"):
            read_inputs([f"text=@{file}"], None, SCHEMA)
    else:
        assert len(read_inputs([f"text=@{file}"], None, SCHEMA)["text"]) == limits.INPUTS_BYTES


def test_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "latin"
    file.write_bytes(b"caf\xe9")
    with pytest.raises(UsageProblem, match="is not UTF-8"):
        read_inputs([f"text=@{file}"], None, SCHEMA)
