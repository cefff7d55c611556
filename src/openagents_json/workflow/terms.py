"""Expressions as terms: what a `{{ }}` is made of, for the questions of the static check.

The grammar makes a term of everything that it accepts, beside the translation that minijinja runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Path:
    """A reference that is known from the text alone, such as `steps.rows.output[0].name`.

    `root` is one of KNOWN_ROOTS; for steps and secrets the first key is the id or name.
    """

    root: str
    keys: tuple[str | int, ...]

    def __str__(self) -> str:
        return self.root + "".join(_key_text(key) for key in self.keys)


def _key_text(key: str | int) -> str:
    return f".{key}" if isinstance(key, str) and key.isidentifier() else f"[{key!r}]"


@dataclass(frozen=True, slots=True)
class Constant:
    """A literal."""

    value: Any


@dataclass(frozen=True, slots=True)
class Operation:
    """Terms put together: by an operator (`and`, `+`, `in`, `if` …), as a `list` or an `object`; `key` and `slice`
    reach into the first; `local` is a name that the template made itself."""

    name: str
    parts: tuple[Term, ...] = ()


@dataclass(frozen=True, slots=True)
class Applied:
    """A filter or (`is_test`) a test, applied to the first part; the others are its arguments."""

    name: str
    parts: tuple[Term, ...]
    is_test: bool = False


Term = Path | Constant | Operation | Applied
UNKNOWN = Operation("local")


@dataclass(frozen=True, slots=True)
class Piece:
    """One `{{ }}` or `{% %}` of a string. `is_guarded`: it stands inside an `{% if %}`."""

    term: Term
    is_guarded: bool = False


@dataclass(frozen=True, slots=True)
class Text:
    """A string with expressions. `is_value`: it is exactly one `{{ }}` and keeps the value's type."""

    pieces: tuple[Piece, ...]
    is_value: bool
