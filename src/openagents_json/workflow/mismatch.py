"""What does not fit a JSON Schema, in sentences without values, and at a bounded price.

The validator makes all errors of a call at once, with 1.3 KB and 13 µs for each. So it is asked for them only where
there can be few; in larger data, the smallest parts that do not fit are looked for first, with the cheap yes-or-no.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jsonschema_rs
from jsonschema_rs import ValidationError, ValidatorMap

from openagents_json import jsondata
from openagents_json.workflow.problems import Problems, json_path, member_path, nearest, shown
from openagents_json.workflow.schema import PATTERN_OPTIONS, SchemaCost

ERROR_COST = 2_000  # units × values for which all errors may be made
ERROR_BYTES = 2_000_000  # units × bytes: each error may hold a copy
UNFIT = "It does not fit its schema."
_WORDS = {
    "string": "a string",
    "number": "a number",
    "integer": "an integer",
    "boolean": "true or false",
    "object": "an object",
    "array": "a list",
    "null": "null",
}


class Mismatches:
    """Finds what does not fit one schema. Compiles each subschema: make it when something is wrong."""

    def __init__(self, schema: dict[str, Any], cost: SchemaCost) -> None:
        self.schema = schema
        self.cost = cost
        self.validators: ValidatorMap = jsonschema_rs.validator_map_for(
            jsondata.thaw(schema),
            offline=True,
            validate_formats=True,
            pattern_options=PATTERN_OPTIONS,
            mask="the value",
        )

    def note(self, value: Any, path: str, problems: Problems, pointer: str = "#") -> None:
        """Note what does not fit the subschema at `pointer`, until there are too many problems."""
        for place, error in self.find(pointer, value, path):
            if error is None:
                problems.add(place, UNFIT)
            else:
                note(error, place, problems)
            if problems.is_full:
                return

    def find(self, pointer: str, value: Any, path: str) -> Iterator[tuple[str, ValidationError | None]]:
        """The errors of the subschema at `pointer` with their paths; None stands for one that is too dear to make."""
        validator = self.validators.get(pointer)
        if validator is None or validator.is_valid(value):
            return
        if self._is_small(value):
            for error in validator.iter_errors(value):
                yield json_path(error.instance_path, path), error
            return
        found = False
        for key, member, below in _members(pointer, value):
            for one in self.find(below, member, member_path(path, key)):
                found = True
                yield one
        if not found:
            yield path, None

    def _is_small(self, value: Any) -> bool:
        encoded = jsondata.encode(value)
        units = self.cost.top + self.cost.below
        places = encoded.count(b",") + encoded.count(b"{") + encoded.count(b"[")
        return self.cost.of(places) <= ERROR_COST and len(encoded) * units <= ERROR_BYTES


def _members(pointer: str, value: Any) -> Iterator[tuple[str | int, Any, str]]:
    """Key, value and the pointer of the subschema that describes it."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield index, item, f"{pointer}/items"
    elif isinstance(value, dict):
        for key, member in value.items():
            yield key, member, member_pointer(pointer, key)


def member_pointer(pointer: str, name: str) -> str:
    """The JSON pointer of a property's schema."""
    return f"{pointer}/properties/{name.replace('~', '~0').replace('/', '~1')}"


def note(error: ValidationError, path: str, problems: Problems) -> None:
    """Note one error of the validator, as one problem for each name that it is about."""
    kind = error.kind
    if kind.name in ("additionalProperties", "unevaluatedProperties"):
        for name in kind.unexpected:  # type: ignore[attr-defined]
            problems.add(member_path(path, name), f"There is no field {shown(name)} here.")
    elif kind.name == "required":
        name = kind.property  # type: ignore[attr-defined]
        problems.add(member_path(path, name), "It is required.")
    else:
        suggestion = None
        if kind.name == "enum" and isinstance(error.instance, str):
            suggestion = nearest(error.instance, [one for one in kind.options if isinstance(one, str)])  # type: ignore[attr-defined]
        problems.add(path, sentence(error), suggestion)


def sentence(error: ValidationError) -> str:
    """What must hold, as a sentence; never what the value is."""
    facts = error.kind.as_dict()
    match error.kind.name:
        case "type":
            return f"It must be {_any_of(facts['types'])}, not {_kind(error.instance)}."
        case "enum":
            return f"It must be one of {', '.join(shown(one, 40) for one in facts['options'][:20])}."
        case "const":
            return f"It must be {shown(facts['expected_value'])}."
        case "anyOf" | "oneOf":
            return _alternatives(error, facts)
        case "format":
            return f"It does not have the format {shown(facts['format'])}."
        case "pattern":
            return f"It does not match the pattern {shown(facts['pattern'], 200)}."
        case "not":
            return "It is what the schema excludes."
        case "falseSchema":
            return "It must not be there."
        case _:
            return f"{error.message[:1].upper()}{error.message[1:]}."


def _alternatives(error: ValidationError, facts: dict[str, Any]) -> str:
    """Of schemas that differ in their types only, the types; else a general sentence."""
    types: list[str] = []
    for branch in facts.get("context", []):
        if len(branch) != 1 or branch[0].kind.name != "type" or branch[0].instance_path != error.instance_path:
            return "It fits none of the forms that are allowed here, or more than one."
        types += branch[0].kind.types
    return f"It must be {_any_of(types)}, not {_kind(error.instance)}."


def _any_of(types: list[str]) -> str:
    return " or ".join(_WORDS.get(one, one) for one in types)


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    kinds: dict[type, str] = {str: "a string", int: "a number", float: "a number", dict: "an object", list: "a list"}
    return kinds.get(type(value), "null" if value is None else "this")
