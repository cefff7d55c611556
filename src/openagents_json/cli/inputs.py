"""The inputs of a job from `--input name=value`, `--input name=@file` and `--inputs file.json`, and its deadline."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from openagents_json.cli.failures import UsageProblem
from openagents_json.errors import InvalidInputs, Problem
from openagents_json.workflow import limits
from openagents_json.workflow.text import BadText, read_json

_FROM_NOW = re.compile(r"(\d{1,6})\s*([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
SCHEMA_DEPTH = 8  # references and combinations followed to see whether a schema says string


def read_inputs(pairs: Iterable[str], file: str | None, schema: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs that the options give: the file's (`-` is stdin), and over them the pairs.

    `UsageProblem` for a pair or file that cannot be read, `InvalidInputs` for a file that is no JSON object.
    """
    inputs = _read_file(file) if file is not None else {}
    seen = set()
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UsageProblem(f"--input {pair}: give name=value, or name=@file for what a file holds.")
        if name in seen:
            raise UsageProblem(f"--input {name} is given twice. For a list, give JSON: --input '{name}=[1, 2]'.")
        seen.add(name)
        inputs[name] = parse_value(value_text(f"--input {name}", value), _property(schema, name), schema)
    return inputs


def parse_value(text: str, schema: Any, root: Mapping[str, Any]) -> Any:
    """The text as JSON if it is some and the schema does not ask for a string; otherwise the text itself."""
    if says_string(schema, root):
        return text
    try:
        return read_json(text)
    except BadText:
        return text


def says_string(schema: Any, root: Mapping[str, Any], depth: int = SCHEMA_DEPTH) -> bool:
    """Whether a schema asks for a string, among others perhaps. A secret is an object: {"secret": "NAME"}."""
    if not isinstance(schema, Mapping) or depth == 0 or schema.get("writeOnly") is True:
        return False
    types = schema.get("type")
    if types is not None:
        return "string" in ([types] if isinstance(types, str) else types)
    values = schema.get("enum", [schema["const"]] if "const" in schema else [])
    if values:
        return all(isinstance(value, str) for value in values)
    if isinstance(reference := schema.get("$ref"), str):
        return says_string(_referred(reference, root), root, depth - 1)
    parts = [part for key in ("anyOf", "oneOf", "allOf") for part in schema.get(key, ())]
    return any(says_string(part, root, depth - 1) for part in parts)


def _property(schema: Mapping[str, Any], name: str) -> Any:
    properties = schema.get("properties")
    return properties.get(name) if isinstance(properties, Mapping) else None


def _referred(reference: str, root: Mapping[str, Any]) -> Any:
    found: Any = root
    for part in reference.removeprefix("#").split("/")[1:]:
        found = found.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
    return found


def value_text(option: str, value: str) -> str:
    """The text that an option gives: itself, or what the file after @ holds (@@ is a plain @)."""
    if value.startswith("@@"):
        return value[1:]
    if not value.startswith("@"):
        return value
    return _read_text(value[1:], option)


def _read_file(file: str) -> dict[str, Any]:
    text = _read_text(file, "--inputs")
    try:
        inputs = read_json(text)
    except BadText as error:
        raise InvalidInputs(error.problems, f"the inputs in {_name(file)}") from None
    if not isinstance(inputs, dict):
        problem = Problem("$", "The inputs must be an object: names and their values.")
        raise InvalidInputs([problem], f"the inputs in {_name(file)}")
    return inputs


def _name(file: str) -> str:
    return "stdin" if file == "-" else file


def _read_text(file: str, option: str) -> str:
    """The text of a file, or of stdin, if it is not longer than inputs may be."""
    limit = limits.INPUTS_BYTES
    try:
        if file == "-":
            data = sys.stdin.buffer.read(limit + 1)
        else:
            with Path(file).open("rb") as stream:
                data = stream.read(limit + 1)
        if len(data) > limit:
            raise UsageProblem(f"{option}: {_name(file)} is longer than the {limit:,} bytes that inputs may have.")
        return data.decode("utf-8-sig")
    except OSError as error:
        raise UsageProblem(f"{option}: {_name(file)} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise UsageProblem(f"{option}: {_name(file)} is not UTF-8 (byte {error.start}).") from None


def read_deadline(text: str, now: datetime) -> datetime:
    """An aware time: ISO 8601 (local unless it has a zone), or a time from now such as `90m`, `2h`, `3d`."""
    try:
        if found := _FROM_NOW.fullmatch(text.strip()):
            return now + timedelta(**{_UNITS[found.group(2)]: int(found.group(1))})
        return datetime.fromisoformat(text.strip()).astimezone()
    except (ValueError, OverflowError):
        raise UsageProblem(
            f"--deadline {text}: give a time such as 2026-01-31T12:00, or one from now such as 90m, 2h, 3d."
        ) from None
