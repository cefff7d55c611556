"""From a dictionary, JSON or YAML text, or a file to a `Workflow`, or to everything that is wrong with it."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from openagents_json import jsondata
from openagents_json.errors import InvalidDefinition, Problem
from openagents_json.workflow import limits
from openagents_json.workflow.inputs import schema_problems
from openagents_json.workflow.model import Workflow
from openagents_json.workflow.older import canonical
from openagents_json.workflow.problems import Problems, placed, printable, shown
from openagents_json.workflow.rewriting import Rewriting
from openagents_json.workflow.shape import shape_of
from openagents_json.workflow.text import BadText, locate_json, locate_yaml, read_json, read_yaml, too_deep

Language: TypeAlias = Literal["json", "yaml"]
Definition: TypeAlias = Mapping[str, Any] | str | Path

SUFFIXES: dict[str, Language] = {".json": "json", ".yaml": "yaml", ".yml": "yaml"}
FOLDER_FILES = 1_000
_HOLDERS = (Mapping, list, tuple)
_LEAVES = frozenset([str, int, float, bool, type(None)])  # asked for first: there are many, and it is quick


@dataclass(slots=True)
class Reading:
    """What came of reading a definition. `workflow` is None where its problems leave nothing to work with."""

    source: str  # what messages call it
    workflow: Workflow | None = None
    problems: Problems = field(default_factory=Problems)
    text: str | None = None
    language: Language = "json"
    rewriting: Rewriting | None = None  # how the workflow's document came from what was read

    def placed(self) -> list[Problem]:
        """Every problem, warnings and notes too, where it was read, with line and column if that was text."""
        text, found = self.text, self.problems.found + self.problems.advice
        if self.rewriting is not None:
            found = [self.rewriting.original(problem) for problem in found]
        if text is None or not found:
            return found
        locate = locate_json if self.language == "json" else locate_yaml
        problems = placed(found, lambda wanted: locate(text, wanted))
        return sorted(problems, key=lambda problem: (problem.line or 0, problem.column or 0))

    def accepted(self) -> Workflow:
        """The workflow; `InvalidDefinition` if there is any error."""
        if self.problems or self.workflow is None:
            raise InvalidDefinition(self.errors(), self.source)
        return self.workflow

    def errors(self) -> list[Problem]:
        """What keeps the definition from running, placed."""
        return [problem for problem in self.placed() if problem.level == "error"]


def load_workflow(definition: Definition) -> Workflow:
    """A workflow from a dictionary or a file (.json, .yaml, .yml). `InvalidDefinition` holds every problem.

    This checks the definition's shape; `check` and `build_plan` also its expressions, references and components.
    """
    return read(definition).accepted()


def parse_workflow(document: Mapping[str, Any], source: str = "the definition") -> Workflow:
    """A workflow from data. The workflow keeps a copy of its own. `InvalidDefinition` as for `load_workflow`."""
    return read_data(document, source).accepted()


def parse_text(text: str, language: Language = "json", source: str = "the definition") -> Workflow:
    """A workflow from JSON or YAML text. `InvalidDefinition` as for `load_workflow`, with lines and columns."""
    return read_text(text, language, source).accepted()


def load_folder(path: str | Path) -> list[Workflow]:
    """The workflows of all .json, .yaml and .yml files right in a folder, by file name.

    `InvalidDefinition` holds the problems of all files; each path starts with the file's name.
    """
    readings = read_folder(path)
    refuse_any(readings, path)
    return [reading.accepted() for reading in readings]


def stored_workflow(document: Mapping[str, Any]) -> Workflow:
    """The workflow of a document that a store has kept: it was checked when it was accepted."""
    frozen = jsondata.freeze(dict(document))
    return Workflow.model_validate({**frozen, "document": frozen})


# ── reading ───────────────────────────────────────────────────────────────────────────────────────────────────────


def read(definition: object) -> Reading:
    """Read a dictionary or a file, whatever it holds; never raises for what is wrong with it."""
    if isinstance(definition, Mapping):
        return read_data(definition, "the definition")
    if isinstance(definition, str | Path):
        return read_file(Path(definition))
    kind = type(definition).__name__
    return _refused("the definition", f"A definition is an object or the path of a file, not a {kind}.")


def read_file(path: Path) -> Reading:
    """Read a file as JSON or YAML, by its suffix."""
    source = printable(str(path), 200)
    if "\n" in str(path) or str(path).lstrip().startswith("{"):
        return _refused("the definition", "This is text, not the path of a file.", "Use parse_text for text.")
    language = SUFFIXES.get(path.suffix.lower())
    if language is None:
        return _refused(source, "The file's name must end in .json, .yaml or .yml.")
    try:
        text = _file_text(path)
    except (OSError, ValueError) as error:  # ValueError: NUL in the path, or bytes that are not UTF-8
        return _refused(source, _why_unreadable(error))
    if text is None:
        return _refused(source, _too_long())
    return read_text(text, language, source)


def read_text(text: str, language: Language, source: str) -> Reading:
    """Read JSON or YAML text."""
    if len(text) > limits.DEFINITION_BYTES or len(text.encode("utf-8", "replace")) > limits.DEFINITION_BYTES:
        return _refused(source, _too_long())
    try:
        document = read_json(text) if language == "json" else read_yaml(text)
    except BadText as error:
        reading = Reading(source)
        reading.problems.found += error.problems
        return reading
    reading = read_data(document, source)
    reading.text, reading.language = text, language
    return reading


def read_data(document: Any, source: str) -> Reading:
    """Read data, from Python or from text."""
    if not isinstance(document, Mapping):
        return _refused(source, f"A definition is a JSON object, not {_kind(document)}.")
    reading = Reading(source)
    try:
        _check_size(document)
        copy, _ = jsondata.plain(dict(document), limit_bytes=limits.DEFINITION_BYTES)
        copy, reading.rewriting = canonical(copy, reading.problems)
        _check_size(copy)  # what is written out for the older forms counts, too: this is what is stored and read again
        if len(jsondata.encode(copy)) > limits.DEFINITION_BYTES:
            return _refused(source, f"{_too_long()} That is with its older forms written out.")
    except jsondata.TooLarge:
        return _refused(source, _too_long())
    except jsondata.NotJson as error:
        return _refused(source, str(error), path=printable(error.path, 200))
    # Frozen: a registered definition is shared by all its jobs and never changes (guarantee G11).
    reading.workflow = shape_of(jsondata.freeze(copy), reading.problems)
    if not reading.rewriting.is_complete:
        reading.workflow = None
    if isinstance(schema := copy.get("inputs"), dict):
        for problem in schema_problems(schema, "$.inputs"):
            reading.problems.add(problem.path, problem.message, problem.suggestion)
    return reading


def read_folder(path: str | Path) -> list[Reading]:
    """Read every definition right in a folder. `InvalidDefinition` if it is none, or holds too many."""
    folder = Path(path)
    source = printable(str(folder), 200)
    try:
        names = sorted(one.name for one in folder.iterdir() if one.suffix.lower() in SUFFIXES)
    except (OSError, ValueError) as error:
        raise InvalidDefinition([Problem("$", _why_unreadable(error, "folder"))], source) from None
    if len(names) > FOLDER_FILES:
        message = f"The folder holds {len(names):,} definitions; {FOLDER_FILES:,} are allowed."
        raise InvalidDefinition([Problem("$", message)], source)
    return [read_file(folder / name) for name in names]


def refuse_any(readings: list[Reading], folder: str | Path) -> None:
    """`InvalidDefinition` with the problems of all files of a folder, if there is one."""
    problems: list[Problem] = []
    for reading in readings:
        name = Path(reading.source).name
        problems += [replace(one, path=f"{name}:{one.path}") for one in reading.errors()]
    if problems:
        raise InvalidDefinition(problems, printable(str(folder), 200))


def _check_size(document: Any) -> None:
    """Refuse what is too deep or too long before anything recurses into it or copies it.

    Counted without recursion, and each time it is met: a list shared by two parents counts twice, as in JSON.
    """
    level, count, depth = [document], 0, 0
    while level:
        depth += 1
        below: list[Any] = []
        for value in level:
            members = value.values() if type(value) is dict or isinstance(value, Mapping) else value
            count += len(members)
            below += [one for one in members if type(one) not in _LEAVES and isinstance(one, _HOLDERS)]
            if count > limits.DEFINITION_BYTES or len(below) > limits.DEFINITION_BYTES:
                raise jsondata.TooLarge(count, limits.DEFINITION_BYTES)
        if depth > limits.NESTING:
            raise jsondata.NotJson(too_deep())
        level = below


# ── files ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _file_text(path: Path) -> str | None:
    """The text of a file, or None if it is longer than a definition may be. OSError, or UnicodeDecodeError."""
    # Non-blocking: opening a pipe that nobody writes to would wait for ever.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as file:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise IsADirectoryError
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError("it is no regular file")
        data = file.read(limits.DEFINITION_BYTES + 1)
    return None if len(data) > limits.DEFINITION_BYTES else data.decode("utf-8-sig")


def _why_unreadable(error: OSError | ValueError, what: str = "file") -> str:
    match error:
        case FileNotFoundError():
            return f"There is no such {what}."
        case IsADirectoryError():
            return "This is a folder, not a file. Use load_folder or register_folder for a folder."
        case NotADirectoryError():
            return "A part of this path is a file, not a folder."
        case PermissionError():
            return f"The {what} may not be read."
        case UnicodeDecodeError():
            return f"The file is not UTF-8: the byte at offset {error.start} does not fit. Save it as UTF-8."
        case OSError():
            return f"The {what} cannot be read: {error.strerror or error}."
    return f"This cannot be the path of a {what}: {error}."


def _refused(source: str, message: str, suggestion: str | None = None, path: str = "$") -> Reading:
    reading = Reading(source)
    reading.problems.add(path, message, suggestion)
    return reading


def _too_long() -> str:
    return f"The definition is longer than {limits.DEFINITION_BYTES:,} bytes."


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, list):
        return "a list"
    return f"{shown(value, 40)}" if isinstance(value, str | int | float) else f"a {type(value).__name__}"
