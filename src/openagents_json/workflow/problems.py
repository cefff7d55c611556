"""Collecting what is wrong with a document: everything at once, but bounded, and safe to print on a terminal."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import islice

from openagents_json.errors import Level, Problem

MAX_PROBLEMS = 100  # of one document; a last one then says that there are more
MAX_ADVICE = 100  # warnings and notes of one document
MAX_SUGGESTIONS = 20  # of one document: looking for a near name costs up to 20 ms
MESSAGE_CHARACTERS = 400
PATH_CHARACTERS = 200
COMPARED_NAMES = 400  # `nearest` looks at no more, and at no more than COMPARED_CHARACTERS of each
COMPARED_CHARACTERS = 40
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


class Problems:
    """The problems of one document, in the order in which they were found."""

    def __init__(self) -> None:
        self.found: list[Problem] = []  # errors, at most MAX_PROBLEMS + 1; grows only, written by add
        self.advice: list[Problem] = []  # warnings and notes, at most MAX_ADVICE; grows only, written by add
        self._suggestions = 0  # how often a near name was looked for, at most MAX_SUGGESTIONS

    def add(self, path: str, message: str, suggestion: str | None = None, *, level: Level = "error") -> None:
        """Note a problem. Control characters are escaped and long texts cut; beyond the limit nothing is noted."""
        shown = None if suggestion is None else printable(suggestion, MESSAGE_CHARACTERS)
        problem = Problem(path, printable(message, MESSAGE_CHARACTERS), shown, level=level)
        if level != "error":
            self.advice += [problem] if len(self.advice) < MAX_ADVICE else []
        elif len(self.found) < MAX_PROBLEMS:
            self.found.append(problem)
        elif len(self.found) == MAX_PROBLEMS:
            self.found.append(Problem("$", f"There are more problems; these are the first {MAX_PROBLEMS}."))

    def add_unknown(self, path: str, message: str, name: str, known: Iterable[str], *, level: Level = "error") -> None:
        """Note that `name` is none of the known ones, with the nearest of them."""
        suggestion = None
        if self._suggestions < MAX_SUGGESTIONS and not self.is_full:
            self._suggestions += 1
            suggestion = nearest(name, known)
        self.add(path, message, suggestion, level=level)

    @property
    def is_full(self) -> bool:
        """Whether further errors would only be counted as more."""
        return len(self.found) > MAX_PROBLEMS

    def __bool__(self) -> bool:
        """Whether there are errors."""
        return bool(self.found)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """A sentence that suggests the nearest known name, or None when nothing is near. Bounded, whatever the names."""
    cut = {one[:COMPARED_CHARACTERS]: one for one in islice(known, COMPARED_NAMES)}
    matches = difflib.get_close_matches(name[:COMPARED_CHARACTERS], list(cut), n=1, cutoff=0.6)
    return f"Did you mean {printable(cut[matches[0]], PATH_CHARACTERS)!r}?" if matches else None


def printable(text: str, limit: int) -> str:
    """`text` with control characters escaped (ANSI sequences, NUL, right-to-left marks) and cut at `limit`."""
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def shown(value: object, limit: int = 60) -> str:
    """A name or other small value for a message: JSON, cut and printable."""
    if isinstance(value, str):
        return printable(json.dumps(value[: limit + 1], ensure_ascii=False), limit).replace('"', "'")
    return printable(repr(value), limit)


def member_path(parent: str, key: str | int) -> str:
    """The JSON path of a member: `$.steps`, `$.steps[2]`, `$["a b"]`; printable, and cut where it gets very long."""
    if isinstance(key, int):
        part = f"[{key}]"
    elif len(key) <= PATH_CHARACTERS and ((key.isascii() and key.isidentifier()) or _PLAIN_KEY.fullmatch(key)):
        part = f".{key}"
    else:
        part = f"[{printable(json.dumps(key[:PATH_CHARACTERS], ensure_ascii=False), PATH_CHARACTERS)}]"
    return parent + part


def json_path(place: Iterable[str | int], root: str = "$") -> str:
    """The JSON path of a place given as keys and indexes."""
    path = root
    for key in place:
        path = member_path(path, key)
    return path


def placed(problems: Sequence[Problem], locate: Callable[[set[str]], dict[str, tuple[int, int]]]) -> list[Problem]:
    """The problems with line and column. `locate` finds those of the paths that it is given which exist.

    What is missing is shown at the nearest thing around it that exists.
    """
    around = {problem.path: _around(problem.path) for problem in problems if problem.line is None}
    positions = locate({path for paths in around.values() for path in paths})
    located = []
    for problem in problems:
        found = next((path for path in around.get(problem.path, ()) if path in positions), None)
        if found is not None:
            line, column = positions[found]
            problem = replace(problem, line=line, column=column)
        located.append(problem)
    return located


def _around(path: str) -> list[str]:
    """The path itself and those of everything around it, the nearest first."""
    cuts = [match.start() for match in re.finditer(r"\.|\[", path)]
    return [path, *(path[:cut] for cut in reversed(cuts))]
