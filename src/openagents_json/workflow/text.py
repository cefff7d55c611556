"""JSON and YAML text to plain data, strictly and within bounds, and where in the text each part stands.

JSON is read by the standard library, YAML from libyaml's events: no aliases, no tags, and plain scalars by YAML 1.2's
core schema, so that `on` is a word and 2026-01-01 is a string. Where something stands is worked out in a second pass,
only when there is something to tell.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NoReturn

import yaml

from openagents_json.errors import Problem
from openagents_json.workflow import limits
from openagents_json.workflow.problems import member_path, printable, shown

MAX_INTEGER_DIGITS = 4_300  # what Python turns into an int without being asked twice
# No possessive groups: those of Python 3.11.0 to 3.11.3 match too little.
_JSON_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{},:]|[^\s\[\]{},:"]+', re.DOTALL)
_STRING_OR_BRACKET = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[\]{}]', re.DOTALL)
_YAML_NULL = frozenset(["", "~", "null", "Null", "NULL"])
_YAML_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_YAML_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_YAML_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_YAML_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")

Positions = dict[str, tuple[int, int]]  # JSON path → line and column, both from 1


class BadText(Exception):
    """The text is not what it should be; `problems` are placed already."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = list(problems)


class _Suspicious(Exception):
    """The parser met something whose place only the second pass knows."""


# ── JSON ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_json(text: str) -> Any:
    """The data of a JSON text. `BadText`: no JSON, keys twice, NaN, numbers out of range, too deep."""
    _check_depth(text)
    try:
        return json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_refuse,
            parse_float=_finite,
            parse_int=_short_integer,
        )
    except _Suspicious:
        raise BadText(*_json_findings(text)) from None
    except json.JSONDecodeError as error:
        what = "The text ends too early" if error.pos >= len(text.rstrip()) else error.msg[:1].lower() + error.msg[1:]
        message = printable(f"This is not JSON: {what}.", 200)
        raise BadText(Problem("$", message, None, error.lineno, error.colno)) from None


def _check_depth(text: str) -> None:
    """Count brackets before the parser, which recurses, sees them."""
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(text):
        sign = match[0]
        if sign in ("[", "{"):
            depth += 1
            if depth > limits.NESTING:
                raise BadText(Problem("$", too_deep(), None, *_line_and_column(text, match.start())))
        elif sign in ("]", "}"):
            depth -= 1


def too_deep() -> str:
    """What is said of a definition with too many levels."""
    return f"The definition is nested deeper than {limits.NESTING} levels."


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise _Suspicious
    return made


def _refuse(constant: str) -> Any:
    raise _Suspicious


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise _Suspicious
    return number


def _short_integer(text: str) -> int:
    if len(text) > MAX_INTEGER_DIGITS:
        raise _Suspicious
    return int(text)


@dataclass(slots=True)
class _Frame:
    """A container that is open while a text is walked through."""

    path: str
    is_object: bool
    keys: set[str] = field(default_factory=set)  # of an object: the keys met so far
    key: str | None = None  # of an object: the one whose value comes next
    count: int = 0  # of an array: items met so far


def _json_walk(text: str) -> Iterator[tuple[str, int, str, bool]]:
    """Path, offset, token and whether a key stands there for the second time, for each value of a text that parses.

    A member's offset is that of its key. Without recursion.
    """
    stack: list[_Frame] = []
    wants_key, key_offset, twice = False, 0, False
    for match in _JSON_TOKEN.finditer(text):
        token, offset = match[0], match.start()
        if token in ("}", "]"):
            stack.pop()
            wants_key = False
        elif token == ",":
            wants_key = stack[-1].is_object
        elif token == ":":
            wants_key = False
        elif wants_key:
            frame = stack[-1]
            frame.key, key_offset = json.loads(token, strict=False), offset
            twice = frame.key in frame.keys
            frame.keys.add(frame.key or "")
        else:
            path, start = "$", offset
            if stack:
                frame = stack[-1]
                if frame.is_object:
                    path, start = member_path(frame.path, frame.key or ""), key_offset
                else:
                    path, frame.count = member_path(frame.path, frame.count), frame.count + 1
            yield path, start, token, twice
            twice = False
            if token in ("{", "["):
                stack.append(_Frame(path, token == "{"))
                wants_key = token == "{"


def _json_findings(text: str) -> list[Problem]:
    """Every key that stands twice and every number that is none, with its place."""
    problems: list[Problem] = []
    for path, offset, token, twice in _json_walk(text):
        message = None
        if twice:
            message = "This key stands twice in its object; JSON readers would disagree about which one counts."
        elif token in ("NaN", "Infinity", "-Infinity"):
            message = f"{token} is no JSON number. Use null or a string."
        elif token[0] in "-0123456789":
            message = _number_problem(token)
        if message is not None:
            problems.append(Problem(path, message, None, *_line_and_column(text, offset)))
            if len(problems) >= 100:
                break
    return problems


def _number_problem(token: str) -> str | None:
    is_integer = not any(sign in token for sign in ".eE")
    if is_integer and len(token) > MAX_INTEGER_DIGITS:
        return f"The integer has more than {MAX_INTEGER_DIGITS:,} digits. Write it as a string."
    if not is_integer and math.isinf(float(token)):
        return f"The number {shown(token, 30)} is too large. Write it as a string."
    return None


def locate_json(text: str, wanted: set[str]) -> Positions:
    """Where the wanted paths stand in a JSON text; those that it does not have are left out."""
    found: Positions = {}
    for path, offset, _, _ in _json_walk(text):
        if path in wanted and path not in found:
            found[path] = _line_and_column(text, offset)
    return found


def _line_and_column(text: str, offset: int) -> tuple[int, int]:
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)


# ── YAML ──────────────────────────────────────────────────────────────────────────────────────────────────────────

# libyaml's parser, which is 20 times faster than the one in Python; both give the same events
_Parser: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(text: str) -> Any:
    """The data of a YAML text. `BadText`: no YAML, aliases, tags, several documents, keys twice or no strings …"""
    return _walk_yaml(text, None)


def locate_yaml(text: str, wanted: set[str]) -> Positions:
    """Where the wanted paths stand in a YAML text that `read_yaml` accepts."""
    found: Positions = {}

    def note(path: str, event: yaml.Event) -> None:
        if path in wanted and path not in found:
            found[path] = _place(event)

    _walk_yaml(text, note)
    return found


def _walk_yaml(text: str, note: Callable[[str, yaml.Event], None] | None) -> Any:
    try:
        return _Builder(note).build(yaml.parse(text, Loader=_Parser))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = (mark.line + 1, mark.column + 1) if mark is not None else (None, None)
        what = getattr(error, "problem", None) or "a character that YAML does not allow stands in it"
        raise BadText(Problem("$", printable(f"This is not YAML: {what}.", 200), None, *place)) from None


@dataclass(slots=True)
class _Open:
    """A collection whose end has not come yet."""

    value: dict[str, Any] | list[Any]
    path: str
    key: str | None = None  # of a mapping: the key whose value comes next
    key_event: yaml.Event | None = None


class _Builder:
    """Makes plain data of parser events, with a stack of its own instead of recursion."""

    def __init__(self, note: Callable[[str, yaml.Event], None] | None) -> None:
        self.note = note
        self.stack: list[_Open] = []
        self.root: Any = None
        self.documents = 0

    def build(self, events: Iterator[yaml.Event]) -> Any:
        for event in islice(events, 4 * limits.DEFINITION_BYTES):
            if isinstance(event, yaml.DocumentStartEvent):
                self.documents += 1
                if self.documents > 1:
                    self.refuse(event, "There are several documents in this text. Write one definition per file.")
            elif isinstance(event, yaml.AliasEvent):
                self.refuse(event, "Aliases (`*name`) are not read. Write the value out.")
            elif isinstance(event, (yaml.SequenceEndEvent, yaml.MappingEndEvent)):
                self.stack.pop()
            elif isinstance(event, (yaml.ScalarEvent, yaml.CollectionStartEvent)):
                self.node(event)
        return self.root

    def node(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent) -> None:
        if event.tag is not None:
            tag = shown(event.tag, 60)
            self.refuse(event, f"Tags (here {tag}) are not read. Leave it out; quotes make a string.")
        if self.stack and isinstance(self.stack[-1].value, dict) and self.stack[-1].key is None:
            self.key(event, self.stack[-1])
            return
        path = self.path()
        value: Any
        if isinstance(event, yaml.ScalarEvent):
            value = self.scalar(event)
        else:
            value = {} if isinstance(event, yaml.MappingStartEvent) else []
        self.put(value, path, event)
        if not isinstance(event, yaml.ScalarEvent):
            if len(self.stack) >= limits.NESTING:
                self.refuse(event, too_deep())
            self.stack.append(_Open(value, path))

    def key(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent, parent: _Open) -> None:
        if not isinstance(event, yaml.ScalarEvent):
            self.refuse(event, "A key must be a string, not a list or an object.")
        key = event.value
        if _is_plain(event) and not _is_word(key):
            self.refuse(event, f"The key {shown(key)} is no string. Put it in quotes.")
        if key in parent.value:
            self.refuse(event, f"The key {shown(key)} stands twice here.")
        parent.key, parent.key_event = key, event

    def path(self) -> str:
        if not self.stack:
            return "$"
        parent = self.stack[-1]
        return member_path(parent.path, len(parent.value) if parent.key is None else parent.key)

    def put(self, value: Any, path: str, event: yaml.Event) -> None:
        start = event
        if not self.stack:
            self.root = value
        else:
            parent = self.stack[-1]
            if isinstance(parent.value, list):
                parent.value.append(value)
            elif parent.key is not None and parent.key_event is not None:
                parent.value[parent.key] = value
                parent.key, start = None, parent.key_event
        if self.note is not None:
            self.note(path, start)

    def scalar(self, event: yaml.ScalarEvent) -> Any:
        if not _is_plain(event):
            return event.value
        try:
            value = _plain_scalar(event.value)
        except ValueError:
            self.refuse(event, f"The integer has more than {MAX_INTEGER_DIGITS:,} digits. Put it in quotes.")
        if isinstance(value, float) and not math.isfinite(value):
            self.refuse(event, f"{shown(event.value, 30)} is no JSON number. Use null, or put it in quotes.")
        return value

    def refuse(self, event: yaml.Event, message: str) -> NoReturn:
        raise BadText(Problem(self.path(), message, None, *_place(event)))


def _place(event: yaml.Event) -> tuple[int, int]:
    mark: Any = event.start_mark
    return mark.line + 1, mark.column + 1


def _is_plain(event: yaml.ScalarEvent) -> bool:
    """Whether a scalar stands without quotes."""
    implicit: Any = event.implicit  # a pair, whatever the type stubs say
    return bool(implicit[0])


def _is_word(text: str) -> bool:
    """Whether a scalar without quotes is a string."""
    try:
        return isinstance(_plain_scalar(text), str)
    except ValueError:
        return False


def _plain_scalar(text: str) -> Any:
    """A scalar without quotes by YAML 1.2's core schema. ValueError for an integer that is too long."""
    if text in _YAML_NULL:
        return None
    if text in _YAML_BOOL:
        return _YAML_BOOL[text]
    if _YAML_INT.fullmatch(text):
        if len(text) > MAX_INTEGER_DIGITS:
            raise ValueError
        return int(text, 0) if text[:2] in ("0x", "0o") else int(text)
    if _YAML_FLOAT.fullmatch(text):
        return float(text)
    if _YAML_NOT_FINITE.fullmatch(text):
        return math.inf
    return text
