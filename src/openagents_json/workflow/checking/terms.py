"""Expressions as terms: what a `{{ }}` is made of, for the questions of the static check.

The grammar (workflow/grammar.py) translates expressions for minijinja and keeps no tree. This reads the same tokens,
which have been accepted by it, into a small tree that tells types and references; it refuses nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from openagents_json.errors import ExpressionError
from openagents_json.workflow import templates
from openagents_json.workflow.tokens import Reader, Token, unquote
from openagents_json.workflow.vocabulary import ALIASES, CONSTANTS, FUNCTIONS

CACHED_CHARACTERS = 4_000  # longer strings are read anew
_CONSTANTS = {"true": True, "false": False, "none": None}
_COMPARISONS = ("==", "!=", "<", "<=", ">", ">=", "in")
_PLAIN = re.compile(r"\{\{ *([a-z_]+)((?:\.[A-Za-z_]\w*)*) *\}\}", re.ASCII)  # the most usual expression
_LEVELS = (("or",), ("and",))


@dataclass(frozen=True, slots=True)
class Reference:
    """`root.key[key]…`; of steps and secrets the first key is the id or name."""

    root: str
    keys: tuple[str | int, ...]

    def __str__(self) -> str:
        parts = [f".{key}" if isinstance(key, str) and key.isidentifier() else f"[{key!r}]" for key in self.keys]
        return self.root + "".join(parts)


@dataclass(frozen=True, slots=True)
class Constant:
    """A literal."""

    value: Any


@dataclass(frozen=True, slots=True)
class Operation:
    """Terms put together: by an operator (`and`, `+`, `in`, `if` …), as a `list`, an `object` or a `text`; `key` and
    `slice` reach into the first; `local` is a name that the template made itself."""

    name: str
    parts: tuple[Term, ...] = ()


@dataclass(frozen=True, slots=True)
class Applied:
    """A filter or (`is_test`) a test, applied to the first part; the others are its arguments."""

    name: str
    parts: tuple[Term, ...]
    is_test: bool = False


Term = Reference | Constant | Operation | Applied
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


def read_text(source: str) -> Text:
    """The terms of a string; of one that does not compile, none."""
    return _cached(source) if len(source) <= CACHED_CHARACTERS else _read(source)


def _read(source: str) -> Text:
    if (match := _PLAIN.fullmatch(source)) is not None and match[1] not in (*CONSTANTS, *FUNCTIONS):
        keys = tuple(match[2].split(".")[1:])
        return Text((Piece(Reference(match[1], keys)),), is_value=True)
    try:
        parts = templates.split(source)
        holes = [part for part in parts if isinstance(part, templates.Hole)]
        pieces = tuple(_pieces(holes))
    except (ExpressionError, RecursionError):
        return Text((), False)
    return Text(pieces, is_value=len(parts) == 1 and len(pieces) == 1 and not holes[0].is_tag)


_cached = lru_cache(maxsize=1_024)(_read)


def _pieces(holes: list[templates.Hole]) -> Iterator[Piece]:
    depth, names = 0, set[str]()
    for hole in holes:
        word = hole.tokens[0].text if hole.is_tag and hole.tokens else ""
        if not hole.is_tag:
            yield Piece(_Terms(hole.tokens, hole.source, frozenset(names)).whole(), depth > 0)
        elif word in ("if", "elif"):
            term = _Terms(hole.tokens[1:], hole.source, frozenset(names)).whole()
            yield Piece(term, depth > 0)  # an elif is asked only if the conditions before it do not hold
            depth += word == "if"
        elif word == "endif":
            depth -= 1
        elif word in ("for", "set"):
            sign = "in" if word == "for" else "="
            place = next((index for index, token in enumerate(hole.tokens) if token.text == sign), 0)
            names |= {token.text for token in hole.tokens[1:place] if token.kind == "name"} | {"loop"}
            rest = _Terms(hole.tokens[place + 1 :], hole.source, frozenset(names))
            yield Piece(rest.chain(0), depth > 0)
            if rest.skip("if"):
                yield Piece(rest.chain(0), True)


class _Terms(Reader):
    """Reads the tokens of one expression. Precedence is that of the grammar."""

    def __init__(self, tokens: list[Token], source: str, names: frozenset[str]) -> None:
        super().__init__(tokens, source)
        self.names = names

    def whole(self) -> Term:
        return self.expression()

    def expression(self) -> Term:
        value = self.chain(0)
        if self.skip("if"):
            condition = self.chain(0)
            self.expect("else")
            return Operation("if", (condition, value, self.expression()))
        return value

    def chain(self, level: int) -> Term:
        """`or`, `and` and below them the rest."""
        if level == len(_LEVELS):
            return self.negation()
        parts = [self.chain(level + 1)]
        while self.skip(_LEVELS[level][0]):
            parts.append(self.chain(level + 1))
        return parts[0] if len(parts) == 1 else Operation(_LEVELS[level][0], tuple(parts))

    def negation(self) -> Term:
        return Operation("not", (self.negation(),)) if self.skip("not") else self.comparison()

    def comparison(self) -> Term:
        parts = [self.sum()]
        sign = ""
        while found := self.comparison_sign():
            sign = found
            parts.append(self.sum())
        return parts[0] if len(parts) == 1 else Operation(sign, tuple(parts))

    def comparison_sign(self) -> str:
        if self.at("not") and self.following.text == "in":
            self.place += 2
            return "in"
        if self.token.kind != "string" and self.token.text in _COMPARISONS:
            return self.take().text
        return ""

    def sum(self) -> Term:
        value = self.product()
        while self.token.kind == "sign" and self.token.text in ("+", "-", "~"):
            sign = self.take().text
            value = Operation(sign, (value, self.product()))
        return value

    def product(self) -> Term:
        value = self.unary()
        while self.token.kind == "sign" and self.token.text in ("*", "/", "//", "%", "**"):
            sign = self.take().text
            value = Operation(sign, (value, self.unary()))
        return value

    def unary(self) -> Term:
        value = self.signed()
        while True:
            if self.skip("|"):
                name = self.take().text
                value = Applied(ALIASES.get(name, name), (value, *self.arguments()))
            elif self.skip("is"):
                self.skip("not")
                name = self.take().text
                arguments = self.arguments() if self.at("(") else [self.signed()] if self.starts_value() else []
                value = Applied(CONSTANTS.get(name, name), (value, *arguments), is_test=True)
            else:
                return value

    def starts_value(self) -> bool:
        kind, text = self.token
        if kind == "name":
            return text not in ("and", "or", "not", "in", "is", "if", "else")
        return kind in ("string", "number") or self.at("[") or self.at("{")

    def signed(self) -> Term:
        if self.skip("-"):
            return Operation("-", (Constant(0), self.signed()))
        return self.postfix(self.primary())

    def arguments(self) -> list[Term]:
        parts: list[Term] = []
        if self.skip("("):
            while not self.skip(")"):
                if self.token.kind == "name" and self.following == ("sign", "="):
                    self.place += 2
                parts.append(self.expression())
                if not self.skip(","):
                    self.expect(")")
                    break
        return parts

    def primary(self) -> Term:
        kind, text = self.token
        if kind == "string":
            self.place += 1
            return Constant(unquote(text, self.source))
        if kind == "number":
            self.place += 1
            digits = text.replace("_", "")
            return Constant(int(digits) if digits.isdigit() else float(digits))
        if kind == "name":
            return self.named(self.take().text)
        if self.skip("("):
            parts = self.listed(")")
            return parts[0] if len(parts) == 1 else Operation("list", tuple(parts))
        if self.skip("["):
            return Operation("list", tuple(self.listed("]")))
        self.expect("{")
        return self.object()

    def named(self, name: str) -> Term:
        if name in CONSTANTS:
            return Constant(_CONSTANTS[CONSTANTS[name]])
        if name in FUNCTIONS:
            return Operation("range", tuple(self.arguments()))
        return UNKNOWN if name in self.names else Reference(name, ())

    def listed(self, closing: str) -> list[Term]:
        parts: list[Term] = []
        while not self.skip(closing):
            parts.append(self.expression())
            if not self.skip(","):
                self.expect(closing)
                break
        return parts

    def object(self) -> Term:
        parts: list[Term] = []
        while not self.skip("}"):
            parts.append(self.expression())
            self.expect(":")
            parts.append(self.expression())
            if not self.skip(","):
                self.expect("}")
                break
        return Operation("object", tuple(parts))

    def postfix(self, value: Term) -> Term:
        while self.token.kind == "sign" and self.token.text in ".[":
            if self.take().text == ".":
                token = self.take()
                value = _reach(value, int(token.text) if token.text.isdigit() else token.text)
                continue
            parts: list[Term] = []
            is_slice = False
            while not self.skip("]"):
                if self.skip(":"):
                    is_slice = True
                else:
                    parts.append(self.expression())
            value = Operation("slice", (value, *parts)) if is_slice else _reach(value, parts[0])
        return value


def _reach(value: Term, key: Term | str | int) -> Term:
    if isinstance(key, Operation) and key.name == "-" and key.parts[0] == Constant(0):
        inner = key.parts[1]
        key = Constant(-inner.value) if isinstance(inner, Constant) and isinstance(inner.value, int) else key
    if isinstance(key, Constant) and isinstance(key.value, str | int) and not isinstance(key.value, bool):
        key = key.value
    if not isinstance(key, str | int):
        return Operation("key", (value, key))
    if isinstance(value, Reference):
        return Reference(value.root, (*value.keys, key))
    return Operation("key", (value, Constant(key)))


# ── references with how they are used ─────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Use:
    """A reference in a term. `may_miss`: the expression allows for it to be missing, by `default`, by a test such as
    `is none`, or because it is asked for only if something else holds."""

    reference: Reference
    has_default: bool = False  # a missing path is covered too
    may_miss: bool = False


_ASKS = frozenset(["defined", "undefined", "none", "boolean", "string", "number", "mapping", "sequence", "iterable"])


def uses_of(term: Term, *, has_default: bool = False, may_miss: bool = False) -> Iterator[Use]:
    """Every reference of a term, in reading order."""
    match term:
        case Reference():
            yield Use(term, has_default, may_miss)
        case Applied(name="default", is_test=False):
            yield from uses_of(term.parts[0], has_default=True, may_miss=True)
            for part in term.parts[1:]:
                yield from uses_of(part, may_miss=True)
        case Applied(is_test=True):
            asks = term.name in _ASKS
            covered = term.name in ("defined", "undefined")
            yield from uses_of(term.parts[0], has_default=has_default or covered, may_miss=may_miss or asks)
            for part in term.parts[1:]:
                yield from uses_of(part, has_default=has_default, may_miss=may_miss)
        case Operation(name="and" | "or" | "if"):
            # `a and a.b`: what stands behind the first part is asked for only if the first part lets it.
            yield from uses_of(term.parts[0], has_default=has_default, may_miss=may_miss)
            for part in term.parts[1:]:
                yield from uses_of(part, has_default=has_default, may_miss=True)
        case Operation(name="==" | "!=" | "in"):
            for part in term.parts:
                yield from uses_of(part, has_default=has_default, may_miss=True)
        case Operation(parts=parts) | Applied(parts=parts):
            for part in parts:
                yield from uses_of(part, has_default=has_default, may_miss=may_miss)
