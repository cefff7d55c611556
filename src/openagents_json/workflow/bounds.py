"""The bounds of one evaluation: what it has used up, what it may make, and what may come out of it.

Whatever turns a small value into a large one pays here; every payment also looks at the clock of the thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from openagents_json.jsondata import FrozenDict, FrozenList, encode
from openagents_json.workflow.tokens import shorten

RENDERED_BYTES = 1024 * 1024  # of one rendered string
RESULT_NODES = 1_000_000
RESULT_BYTES = 10 * 1024 * 1024
UNITS = 2_000_000  # list items made, and characters of strings divided by 8, in one evaluation
BUILT_DEPTH = 100  # levels of a value that is put together name by name
CPU_S = 0.7  # of the evaluating thread; looked at whenever one of our functions is called

LARGEST_NUMBER = 2**127 - 1

MISSING: Any = object()


class Undefined(Exception):
    """A value was asked for that is not there; the text says what. Becomes an ExpressionError with the expression."""


class Refused(Exception):
    """An operation that is not possible or not allowed here; the text says why."""


class Exhausted(Exception):
    """A bound was reached; the text says which."""


class Evaluation:
    """What one evaluation has used up. Lives in the thread that evaluates, for as long as it does."""

    __slots__ = ("deadline", "sizes", "units", "values", "why_missing")

    def __init__(self, values: Sequence[Any], why_missing: Callable[[int], str]) -> None:
        self.values = values  # of the paths; MISSING where there is none
        self.why_missing = why_missing  # the sentence for the number of such a path
        self.units = UNITS
        self.sizes: dict[int, tuple[int, int, Any]] = {}  # by identity; holds the value, so that the identity stays its
        self.deadline = time.thread_time() + CPU_S

    def pay(self, units: int) -> None:
        self.units -= units + 1
        if self.units < 0:
            raise Exhausted("it makes too much data on the way")
        if time.thread_time() > self.deadline:
            raise Exhausted(f"it takes more than {CPU_S} s")

    def size(self, value: Any) -> tuple[int, int]:
        """Parts and levels of a value as if it were written out, recorded data counted by its rows only."""
        kind = type(value)
        if kind is not list and kind is not dict and kind is not tuple:
            return (len(value), 1) if isinstance(value, list | dict) else (1, 0)
        known = self.sizes.get(id(value))
        if known is None:
            parts, levels = 1, 0
            for member in value.values() if kind is dict else value:
                below = self.size(member)
                parts, levels = parts + below[0], max(levels, below[1])
            if levels >= BUILT_DEPTH:
                raise Exhausted(f"it nests data deeper than {BUILT_DEPTH} levels")
            known = self.sizes[id(value)] = (parts, levels + 1, value)
        return known[0], known[1]


class _Current(threading.local):
    evaluation: Evaluation | None = None  # set by evaluation.run in the thread that evaluates, None outside


current = _Current()


def evaluation() -> Evaluation:
    """The evaluation that is running in this thread."""
    running = current.evaluation
    assert running is not None
    return running


def pay(units: int) -> None:
    """Take `units` from the budget of the running evaluation. Exhausted if there are not so many left."""
    evaluation().pay(units)


def used(value: Any) -> Any:
    """The value, paid for: an operation is about to visit all of it."""
    if isinstance(value, list | dict):
        pay(len(value))
    else:
        pay(len(value) >> 3 if isinstance(value, str) else 0)
    return value


def made(value: str) -> str:
    """The string, paid for. Exhausted if it is too long."""
    if len(value) > RENDERED_BYTES:
        raise Exhausted("it makes a string of more than 1 MiB")
    pay(len(value) >> 3)
    return value


def room(characters: int) -> None:
    """Exhausted if a string of so many characters may not be made; asked before it is."""
    if characters > RENDERED_BYTES:
        raise Exhausted("it makes a string of more than 1 MiB")


def joined(separator: str, members: Iterable[Any]) -> str:
    """The members as texts with the separator between them, paid for. Exhausted as soon as it would be too long."""
    texts = []
    characters = 0
    for member in members:
        texts.append(text_of(member))
        characters += len(texts[-1]) + len(separator)
        room(characters - len(separator))
    return made(separator.join(texts))


# ── what comes out ────────────────────────────────────────────────────────────────────────────────────────────────


def result(value: Any) -> Any:
    """The value as plain JSON data, lists and objects frozen or fresh. Refused or Exhausted when it is not that."""
    kind = type(value)
    if kind is bool or value is None:
        return value
    if kind is str:
        if len(value) > RESULT_BYTES:
            raise Exhausted("its result is too large")
        return value
    return _Counter().plain(value)


class _Counter:
    """Copies a result node by node. minijinja shares parts, so a small value may be a large text."""

    def __init__(self) -> None:
        self.nodes = RESULT_NODES
        self.bytes = RESULT_BYTES
        self.sizes: dict[int, int] = {}  # of shared frozen parts, by identity; they are alive as long as the value is

    def plain(self, value: Any) -> Any:
        self.nodes -= 1
        if self.nodes < 0:
            raise Exhausted("its result has too many parts")
        kind = type(value)
        if kind is str:
            self.spend(len(value))
            return value
        if kind is bool or value is None:
            return value
        if kind is int or kind is float:
            return number(value)
        if kind is FrozenDict or kind is FrozenList:
            size = self.sizes.get(id(value))
            if size is None:
                size = self.sizes[id(value)] = len(encode(value))
            self.spend(size)
            return value
        if kind is list or kind is tuple:
            return [self.plain(member) for member in value]
        if kind is dict:
            return {self.key(key): self.plain(member) for key, member in value.items()}
        raise Refused(f"its result holds a {kind.__name__}, which is no JSON")

    def key(self, key: Any) -> str:
        if type(key) is not str:
            raise Refused(f"its result has an object with the key {key!r}, and keys are strings")
        self.spend(len(key))
        return key

    def spend(self, size: int) -> None:
        self.bytes -= size
        if self.bytes < 0:
            raise Exhausted("its result is too large")


def number(value: float) -> float:
    """A number that minijinja can carry.

    Integers of more than 128 bits become floats there without a word. So a float of that size is refused, too: it may
    have been such an integer, and a wrong number is worse than an error.
    """
    if not -LARGEST_NUMBER <= value <= LARGEST_NUMBER:
        raise Refused("a number beyond 2^127 (or none at all) came up; such numbers pass as a whole `{{ path }}` only")
    return value


def text_of(value: Any) -> str:
    """A value as it stands in text: strings as they are, everything else as JSON."""
    kind = type(value)
    if kind is str:
        return value  # type: ignore[no-any-return]
    if kind is int:
        return repr(value)
    try:
        return encode(result(value)).decode()
    except (TypeError, msgspec.EncodeError) as error:
        raise Refused(f"a part of the text is no JSON ({error})") from None


# ── looking things up ─────────────────────────────────────────────────────────────────────────────────────────────


def describe_key(key: Any) -> str:
    """The key as a message names it."""
    return f"field {shorten(key)!r}" if isinstance(key, str) else f"index {key!r}"


def describe(value: Any) -> str:
    """What kind of value it is, as a message says it; of an object the first keys."""
    if value is None:
        return "null"
    if isinstance(value, dict):
        names = ", ".join(repr(shorten(name)) for name in list(value)[:5])
        return f"an object with {names}{', …' if len(value) > 5 else ''}" if names else "an empty object"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    return {str: "a string", bool: "a boolean", int: "a number", float: "a number"}.get(type(value), "this value")


def look_up(value: Any, key: Any) -> Any:
    """A member of plain data, or MISSING. Keys of objects, indexes of lists and strings (negative from the end)."""
    if isinstance(value, dict):
        return value.get(key, MISSING) if isinstance(key, str) else MISSING
    if isinstance(value, list | str | tuple) and not isinstance(key, str):
        if isinstance(key, float) and key.is_integer():
            key = int(key)
        if isinstance(key, int):
            try:
                return value[key]
            except IndexError:
                return MISSING
    return MISSING
