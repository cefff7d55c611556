"""Expressions of older definitions: `{{input.x}}`, `{{extract-text.output}}` and `{{workflow.status}}` get new names.

Only names change, outside of string literals, comments and raw blocks. What has a meaning in the language of today is
never touched: none of these names can stand there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from typing import Any

from openagents_json.errors import ExpressionError
from openagents_json.workflow import limits
from openagents_json.workflow.model import RESERVED_IDS
from openagents_json.workflow.tokens import scan
from openagents_json.workflow.vocabulary import FUNCTIONS, KEYWORDS, METHOD_NAMES

FIELDS = frozenset({"output", "success", "error", "status"})
FREE_TEXT = frozenset(
    {"id", "note", "metadata", "name", "description", "needs", "allow", "schema", "version", "isolation", "type"}
)  # fields of a step that hold no expression
_KEPT_FIELDS = FREE_TEXT | {"steps", "default", "parallel"}
_OPENING = re.compile(r"\{([{%#])[-+]?")
_RAW = re.compile(r"\{%[-+]?\s*raw\s*[-+]?%\}")
_END_RAW = re.compile(r"\{%[-+]?\s*endraw\s*-?\+?%\}")
_BOUND = re.compile(
    r"\{%[-+]?\s*(?:set\s+([A-Za-z_]\w*)|for\s+([A-Za-z_]\w*(?:\s*,\s*[A-Za-z_]\w*)*)\s+in\b)", re.ASCII
)
_PART = re.compile(
    r"""'(?:[^'\\]|\\.)*' | "(?:[^"\\]|\\.)*" | \.\s*[A-Za-z_]\w* | \d[\w.]*
      | (?P<name>[A-Za-z_][\w-]*) (?P<field>\s*\.\s*(?P<key>[A-Za-z_]\w*))?""",
    re.VERBOSE | re.DOTALL | re.ASCII,
)
# Whether a string can hold what `_PART` is looked for: a quick no for most strings of today.
_MAYBE = re.compile(
    r"""(?<![\w.])
    (?: inputs?\b | workflow\b | (?!steps\s*[.\[]) [A-Za-z_][\w-]* \s*\.\s* (?:output|success|error|status)\b)""",
    re.VERBOSE | re.ASCII,
)
_KEY_IN_BRACKETS = re.compile(r"\s*\[\s*(?:'([^'\\]*)'|\"([^\"\\]*)\")\s*\]")
_LENIENT = re.compile(r"(?:\.\w+|\[[^\]]*\])*\s*(?:\|\s*d(?:efault)?\b|is\b)", re.ASCII)
_KEPT = RESERVED_IDS | KEYWORDS | FUNCTIONS | {"loop"}
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*", re.ASCII)


class Names:
    """Gives the strings of one definition their new names, and remembers what they used."""

    def __init__(self, ids: Collection[str]) -> None:
        self.ids = ids
        self.has_older = False  # whether an older name was met
        self.inputs: dict[str, bool] = {}  # names under `input` and `inputs` → whether any use of it needs a value
        self.uses_all_inputs = False  # `{{input}}`, whole

    def value(self, value: Any, status: str) -> Any:
        """A JSON value with its expressions renamed; `status` is the expression that `workflow.status` stands for."""
        if isinstance(value, str):
            return self.text(value, status) if "{{" in value or "{%" in value else value
        if isinstance(value, dict):
            return {key: self.value(member, status) for key, member in value.items()}
        if isinstance(value, list):
            return [self.value(member, status) for member in value]
        return value

    def text(self, source: str, status: str) -> str:
        """One string. What cannot be read as expressions stays as it is, for the compiler to refuse."""
        if _MAYBE.search(source) is None:
            return source
        bound = {name.strip() for one in _BOUND.finditer(source) for name in (one[1] or one[2]).split(",")}
        try:
            return "".join(self.hole(part, status, bound) if is_hole else part for part, is_hole in _parts(source))
        except ExpressionError:
            return source

    def hole(self, source: str, status: str, bound: Collection[str]) -> str:
        def renamed(match: re.Match[str]) -> str:
            name, field, key = match["name"], match["field"] or "", match["key"]
            if name is None:
                return match[0]
            for start, word in _suffixes(name):  # the longest first
                if word in bound:
                    continue
                new = self.word(word, field, key, status, match)
                if new is not None:
                    return name[:start] + new
            first = name.partition("-")[0]
            if (
                key in FIELDS and first not in bound and first not in _KEPT
            ):  # the planner says that there is no such step
                return step_path(name) + field
            return match[0]

        return _PART.sub(renamed, source)

    def word(self, word: str, field: str, key: str | None, status: str, match: re.Match[str]) -> str | None:
        """What a name and its field become; None if they are no older name."""
        if word in self.ids and key in FIELDS and word not in RESERVED_IDS:
            self.has_older = True
            return step_path(word) + field
        if word == "workflow" and key == "status":
            self.has_older = True
            return status
        if word in ("input", "inputs"):
            self.has_older |= word == "input"
            self.note_input(key, match)
            return "inputs" + field
        return None

    def note_input(self, key: str | None, match: re.Match[str]) -> None:
        rest = match.string[match.end() :]
        if key is None:
            bracket = _KEY_IN_BRACKETS.match(rest)
            if bracket is None:
                self.uses_all_inputs = True
                return
            key, rest = bracket[1] or bracket[2], rest[bracket.end() :]
        needed = _LENIENT.match(rest) is None
        self.inputs[key] = self.inputs.get(key, False) or needed


def step_path(step_id: str) -> str:
    """The expression for a step: `steps.a`, `steps['extract-text']`."""
    return "steps" + member(step_id)


def member(key: str) -> str:
    """The expression for a member, to be put after that of an object: `.a`, `['a b']`."""
    if _IDENTIFIER.fullmatch(key) and key not in METHOD_NAMES and key not in KEYWORDS:
        return f".{key}"
    return "['" + key.replace("\\", "\\\\").replace("'", "\\'") + "']"


def _suffixes(name: str) -> Iterator[tuple[int, str]]:
    """The name itself and what stands behind each hyphen: `a-b-c`, `b-c`, `c`. Ids are no longer than they may be."""
    start = 0
    while True:
        if len(name) - start <= limits.ID_CHARACTERS:
            yield start, name[start:]
        start = name.find("-", start) + 1
        if not start:
            return


def _parts(source: str) -> Iterator[tuple[str, bool]]:
    """The string in pieces, each with whether it is a `{{ }}` or `{% %}` whose names count."""
    place = 0
    while (match := _OPENING.search(source, place)) is not None:
        yield source[place : match.start()], False
        if raw := _RAW.match(source, match.start()):
            end = _END_RAW.search(source, raw.end())
            place = end.end() if end else len(source)
            yield source[match.start() : place], False
        elif match[1] == "#":
            close = source.find("#}", match.end())
            place = close + 2 if close >= 0 else len(source)
            yield source[match.start() : place], False
        else:
            _, place, _ = scan(source, match.end(), "}}" if match[1] == "{" else "%}")
            yield source[match.start() : place], True
    yield source[place:], False


# ── the steps of a document that may be anything ──────────────────────────────────────────────────────────────────


def map_steps(steps: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """A list of steps with each changed, nested ones before those that hold them; what is no step stays."""
    if not isinstance(steps, list):
        return steps
    return [change(_map_nested(step, change)) if isinstance(step, dict) else step for step in steps]


def _map_nested(step: dict[str, Any], change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    changed = dict(step)
    for name in ("steps", "default"):
        if name in step:
            changed[name] = map_steps(step[name], change)
    for name in ("switch", "catch"):
        if isinstance(parts := step.get(name), list):
            changed[name] = [
                {**part, "steps": map_steps(part["steps"], change)}
                if isinstance(part, dict) and "steps" in part
                else part
                for part in parts
            ]
    if isinstance(branches := step.get("parallel"), dict):
        changed["parallel"] = {name: map_steps(inner, change) for name, inner in branches.items()}
    return changed


def own_fields(step: dict[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    """A step with every field changed that may hold expressions of its own; nested steps stay as they are."""
    changed: dict[str, Any] = {}
    for name, value in step.items():
        if name in _KEPT_FIELDS or name.startswith("x-"):
            changed[name] = value
        elif name in ("switch", "catch") and isinstance(value, list):
            changed[name] = [
                {key: inner if key in ("steps", "type") else change(inner) for key, inner in part.items()}
                if isinstance(part, dict)
                else part
                for part in value
            ]
        else:
            changed[name] = change(value)
    return changed
