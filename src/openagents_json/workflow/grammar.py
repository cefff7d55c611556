"""The grammar of expressions and templates: reads them, refuses what may not stand there, and rewrites the rest.

What minijinja gets to see is never the author's text but a translation of it: paths such as `inputs.a.b` become
variables (`p0`, `p1` …) that are looked up beforehand, literal strings become variables too (`c0` …), and every
operation that could grow without bound or meet a missing value becomes a call of a guarded function (evaluation.py).
So names, methods, tags, filters and tests reach minijinja only if they are listed here.

Each translation can be spelled in two ways: `fast` for when every path has a value, `slow` for when one is missing;
there a path is a call, so that `a.b if a is defined else 0` fails only where the missing one is really asked for. Until
then, marks stand for the paths. Every part has its term too, by which the static check tells types and references.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from openagents_json.errors import ExpressionError
from openagents_json.workflow.terms import UNKNOWN, Applied, Constant, Operation, Path, Term
from openagents_json.workflow.tokens import Reader, Token, kind_of, unquote
from openagents_json.workflow.vocabulary import (
    ADVICE,
    ALIASES,
    ATTRIBUTE_FILTERS,
    CONSTANTS,
    FILTERS,
    FUNCTIONS,
    KEYWORDS,
    KNOWN_ROOTS,
    LOOP_FIELDS,
    MAY_BE_EMPTY,
    METHOD_NAMES,
    SIGN_TESTS,
    TESTS,
    nearest,
)

EXPRESSION_DEPTH = 32  # levels of nesting in one expression; minijinja's parser and compiler recurse


@dataclass(slots=True)
class Translation:
    """What a text is rewritten to. Filled by the parser, then only read."""

    paths: list[Path] = field(default_factory=list)  # p0, p1 …
    constants: dict[str, Any] = field(default_factory=dict)  # c0, c1 …: literal strings of the author
    code: str = ""  # with marks where paths stand
    fast: str = ""  # these two are spelled out when they are first asked for
    slow: str = ""
    path: Path | None = None  # the whole expression is this path
    work: int = 0  # operations that may visit every row of the data

    def spelled(self, *, some_missing: bool) -> str:
        """What minijinja compiles: where some paths have no value, the slow form."""
        if some_missing:
            self.slow = self.slow or _MARK.sub(lambda mark: f"{_SLOW[mark[1]]}({mark[2]})", self.code)
            return self.slow
        self.fast = self.fast or _MARK.sub(lambda mark: "true" if mark[1] == "?" else f"p{mark[2]}", self.code)
        return self.fast

    def path_number(self, path: Path) -> int:
        if path in self.paths:
            return self.paths.index(path)
        self.paths.append(path)
        return len(self.paths) - 1

    def constant(self, value: str) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = value
        return name


# How tightly operators bind, as in minijinja; unary ones, filters and tests bind tighter still.
_NEGATION, _COMPARISON, _SUM = 3, 4, 5
_BINDING = (
    {"or": 1, "and": 2, "+": _SUM, "-": _SUM, "~": 6, "*": 7, "/": 7, "//": 7, "%": 7, "**": 8}
    | dict.fromkeys(["==", "!=", "<", "<=", ">", ">=", "in"], _COMPARISON)
    | {"not": _COMPARISON}  # `not in`
)
_POSTFIX = frozenset(".[(")
_ROOTS = frozenset(KNOWN_ROOTS)
_NEGATIVE = re.compile(r"\(-(\d+)\)")
_GUARDED = {"+": "add_", "~": "cat_", "*": "mul_"}  # operators that become calls
_VALUES: dict[str, Any] = {"true": True, "false": False, "none": None}
# What a path is until it is spelled out; the signs stand nowhere else in a translation.
_MARK = re.compile(r"([@$?])([0-9]+)")
_SLOW = {"@": "at_", "$": "may_", "?": "has_"}  # a value, a value or none, whether there is one
FIRST_PATH = "@0"


@dataclass(slots=True)
class Code:
    """A translated part, and its term.

    `lenient` is the text that gives none (or undefined) for a missing value, used inside `default`; `defined` that of
    `… is defined`. None: the strict text does.
    """

    text: str
    term: Term
    depth: int = 1
    lenient: str | None = None
    defined: str | None = None

    @classmethod
    def of(cls, text: str, term: Term = UNKNOWN) -> Code:
        return cls(text, term)

    @property
    def literal(self) -> str | int | None:
        """The string or integer that it is, if it is one."""
        value = self.term.value if isinstance(self.term, Constant) else None
        return value if type(value) in (str, int) else None


class Parser(Reader):
    """Reads the tokens of one expression or tag and translates them. Precedence is minijinja's."""

    def __init__(
        self,
        translation: Translation,
        tokens: list[Token],
        source: str,
        names: frozenset[str] = frozenset(),
        in_loop: bool = False,
    ) -> None:
        super().__init__(tokens, source)
        self.translation = translation
        self.names = names  # what {% for %} and {% set %} have defined up to here
        self.in_loop = in_loop
        self.depth = 0

    # ── operators ─────────────────────────────────────────────────────────────────────────────────────────────────

    def expression(self) -> Code:
        """One expression, `a if b else c` included."""
        self.deeper()
        value = self.binary(0)
        if self.skip("if"):
            condition = self.either()
            if not self.skip("else"):
                raise self.error("`… if …` needs an `else`: without it the value may be undefined.")
            other = self.expression()
            term = Operation("if", (condition.term, value.term, other.term))
            value = self.join(term, "({} if {} else {})", value, condition, other)
        self.depth -= 1
        return value

    def deeper(self) -> None:
        self.depth += 1
        if self.depth > EXPRESSION_DEPTH:
            raise self.too_deep()

    def too_deep(self) -> ExpressionError:
        return self.error(f"The expression is nested deeper than {EXPRESSION_DEPTH} levels.", "limit.expression")

    def join(self, term: Term, pattern: str, *parts: Code) -> Code:
        """The parts put into the pattern's places."""
        return Code(pattern.format(*[part.text for part in parts]), term, self.depth_above(parts))

    def depth_above(self, parts: Sequence[Code]) -> int:
        depth = 1
        for part in parts:
            if part.depth >= depth:
                depth = part.depth + 1
        if depth > EXPRESSION_DEPTH:
            raise self.too_deep()
        return depth

    def either(self) -> Code:
        """Anything but `a if b else c`."""
        return self.binary(0)

    def binary(self, level: int) -> Code:
        """Values joined by operators that bind at least as tightly as `level`."""
        is_negated = level <= _NEGATION and self.tokens[self.place] == "not"
        value = self.negation() if is_negated else self.unary()
        while (binding := _BINDING.get(sign := self.tokens[self.place], -1)) >= level:
            if binding != _COMPARISON:
                value = self.chain(value, sign, binding)
            elif self.comparison_sign(self.place):
                value = self.comparison(value)
            else:
                break
        return value

    def chain(self, value: Code, sign: str, binding: int) -> Code:
        """`a + b + c`: equal signs in a row become one flat form, so that long sums are not deep."""
        parts = [value]
        while self.skip(sign):
            parts.append(self.binary(binding + 1))
        call = _GUARDED.get(sign, "")
        separator = ", " if call else f" {sign} "
        return self.joined(Operation(sign, _terms(parts)), f"{call}(", parts, ")", separator)

    def negation(self) -> Code:
        self.place += 1
        self.deeper()
        value = self.binary(_NEGATION)
        value = self.join(Operation("not", (value.term,)), "(not {})", value)
        self.depth -= 1
        return value

    def comparison(self, value: Code) -> Code:
        parts, pattern, last = [value], "{}", ""
        while sign := self.comparison_sign(self.place):
            self.place += 2 if sign == "not in" else 1
            parts.append(self.binary(_SUM))
            pattern += f" {sign} {{}}"
            last = sign
        self.translation.work += len(parts)
        term = Operation(last.removeprefix("not "), tuple([part.term for part in parts]))
        return self.join(term, f"({pattern})", *[self.charged(part) for part in parts])

    def comparison_sign(self, place: int) -> str:
        """The sign of comparison that stands there, or nothing."""
        sign = self.tokens[place]
        if sign == "not":
            return "not in" if self.tokens[place + 1] == "in" else ""
        return sign if _BINDING.get(sign) == _COMPARISON else ""

    def charged(self, value: Code) -> Code:
        """Inside a loop an operand pays for its size: minijinja's fuel counts operations, not what each costs."""
        if not self.in_loop or value.literal is not None:
            return value
        return self.join(value.term, "use_({})", value)

    def unary(self) -> Code:
        value = self.signed()
        while (sign := self.tokens[self.place]) == "|" or sign == "is":
            self.place += 1
            value = self.filter(value) if sign == "|" else self.test(value)
        return value

    def signed(self) -> Code:
        token = self.tokens[self.place]
        if token != "-":
            value, root = self.primary(token)
            if value is None or self.tokens[self.place] in _POSTFIX:
                value = self.postfix(value, root)
            return value
        self.place += 1
        self.deeper()
        value = self.signed()
        value = self.join(Operation("-", (Constant(0), value.term)), "(-{})", value)
        self.depth -= 1
        return value

    # ── values ────────────────────────────────────────────────────────────────────────────────────────────────────

    def primary(self, token: Token) -> tuple[Code | None, str]:
        """A value, or None and the name of a root whose path follows."""
        kind = kind_of(token)
        if kind == "name":
            return self.named(token)
        if kind == "string":
            return self.string(token), ""
        if kind == "number":
            self.place += 1
            return self.number(token), ""
        if self.skip("("):
            return self.parentheses(), ""
        if self.skip("["):
            return self.list_of(self.listed("]")), ""
        if self.skip("{"):
            return self.object(), ""
        raise self.unexpected("a value")

    def string(self, written: str) -> Code:
        self.place += 1
        if kind_of(self.token) == "string":
            raise self.error("Two strings stand side by side; join them with `~`.")
        text = unquote(written, self.source)
        return Code(self.translation.constant(text), Constant(text))

    def list_of(self, parts: list[Code]) -> Code:
        return self.joined(Operation("list", _terms(parts)), "[", parts, "]")

    def joined(self, term: Term, opening: str, parts: list[Code], closing: str, separator: str = ", ") -> Code:
        """The parts side by side."""
        text = opening + separator.join([part.text for part in parts]) + closing
        return Code(text, term, self.depth_above(parts))

    def number(self, text: str) -> Code:
        digits = text.replace("_", "")
        if digits.isdecimal():
            if len(digits) > 38:
                raise self.error("The integer is too large; at most 38 digits are possible.")
            return Code(digits, Constant(int(digits)))
        number = float(digits)
        if number == float("inf"):
            raise self.error(f"The number {text} is too large.")
        return Code(repr(number), Constant(number))

    def parentheses(self) -> Code:
        if self.skip(")"):
            return Code.of("[]", Operation("list"))
        value = self.expression()
        if self.skip(")"):
            return value
        self.expect(",")  # a tuple; JSON has lists only
        return self.list_of([value, *self.listed(")")])

    def listed(self, closing: str) -> list[Code]:
        parts: list[Code] = []
        while not self.skip(closing):
            parts.append(self.expression())
            if not self.skip(","):
                self.expect(closing)
                break
        return parts

    def object(self) -> Code:
        parts: list[Code] = []
        while not self.skip("}"):
            key = self.expression()
            if isinstance(key.literal, int):
                raise self.error("The keys of an object are strings.")
            self.expect(":")
            parts += [key, self.expression()]
            if not self.skip(","):
                self.expect("}")
                break
        pattern = "{{" + ", ".join(["{}: {}"] * (len(parts) // 2)) + "}}"
        return self.join(Operation("object", _terms(parts)), pattern, *parts)

    def named(self, name: str) -> tuple[Code | None, str]:
        if name in _ROOTS and name not in self.names:
            self.place += 1
            return None, name
        if name in KEYWORDS and name not in CONSTANTS:
            raise self.unexpected("a value")
        self.place += 1
        if name in CONSTANTS:
            text = CONSTANTS[name]
            return Code.of(text, Constant(_VALUES[text])), ""
        if name in self.names:
            return (self.loop_field() if name == "loop" else Code.of(f"v_{name}")), ""
        if name in FUNCTIONS:
            return self.call(name), ""
        following = " Functions other than `range` do not exist here." if self.at("(") else ""
        known = ", ".join(KNOWN_ROOTS)
        raise self.error(f"The name `{name}` is unknown; known are {known}.{following}{nearest(name, KNOWN_ROOTS)}")

    def loop_field(self) -> Code:
        self.expect(".")
        name = self.name()
        if name not in LOOP_FIELDS:
            raise self.error(f"`loop.{name}` cannot be used; there are {', '.join(sorted(LOOP_FIELDS))}.")
        return Code.of(f"loop.{name}")

    def call(self, name: str) -> Code:
        self.expect("(")
        parts = self.listed(")")
        return self.joined(Operation(name, _terms(parts)), f"{name}(", parts, ")")

    # ── fields, indexes and slices ────────────────────────────────────────────────────────────────────────────────

    def postfix(self, value: Code | None, root: str) -> Code:
        keys: list[str | int] = []
        while (sign := self.tokens[self.place]) in _POSTFIX:
            self.place += 1
            if sign == "(":
                raise self.error("Only `range` can be called; use filters instead of methods, such as `| upper`.")
            if sign == ".":
                keys.append(self.field_name())
                continue
            key = self.subscript()
            if isinstance(key, Code) and key.literal is not None:
                keys.append(key.literal)
                continue
            if value is None:
                value = self.path(root, keys, dynamic=not keys)
            elif keys:
                value = self.access(value, keys)
            keys = []
            value = self.cut(value, key) if isinstance(key, list) else self.reach(value, [key])
        if value is None:
            return self.path(root, keys)
        return self.access(value, keys) if keys else value

    def field_name(self) -> str | int:
        token = self.tokens[self.place]
        kind = kind_of(token)
        if kind != "name" and not (kind == "number" and token.isdigit()):
            raise self.unexpected("a field name after `.`")
        self.place += 1
        return token if kind == "name" else int(token)

    def subscript(self) -> Code | list[Code]:
        """The key between brackets, or the three parts of a slice."""
        none = Code.of("none", Constant(None))
        parts = [none, none, none]
        count = 0
        while True:
            if not (self.at(":") or self.at("]")):
                parts[count] = self.key()
            if self.skip("]"):
                break
            self.expect(":")
            count += 1
            if count > 2:
                raise self.error("A slice has at most three parts.")
        if count == 0 and parts[0] is none:
            raise self.error("A key or an index is missing between `[` and `]`.")
        return parts if count else parts[0]

    def key(self) -> Code:
        code = self.expression()
        if match := _NEGATIVE.fullmatch(code.text):
            code.term = Constant(-int(match[1]))
        return code

    def path(self, root: str, keys: list[str | int], dynamic: bool = False) -> Code:
        if root in ("steps", "secrets"):
            what = "a step id" if root == "steps" else "the name of a secret"
            if dynamic or not keys or not isinstance(keys[0], str):
                example = "steps.fetch.output or steps['fetch-page'].output" if root == "steps" else "secrets.API_KEY"
                raise self.error(f"`{root}` must be followed by {what} as a literal, such as {example}.")
            if root == "secrets" and len(keys) > 1:
                raise self.error(f"A secret is a string; `secrets.{keys[0]}` has no fields.")
        path = Path(root, tuple(keys))
        number = self.translation.path_number(path)
        return Code(f"@{number}", path, 1, f"${number}", f"?{number}")

    def access(self, value: Code, keys: list[str | int]) -> Code:
        names = [self.translation.constant(key) if isinstance(key, str) else str(key) for key in keys]
        return self.reach(value, [Code.of(name, Constant(key)) for name, key in zip(names, keys, strict=True)])

    def reach(self, value: Code, keys: list[Code]) -> Code:
        """A field that is only known at run time. Where it may be missing, `find_` gives none instead of an error."""
        pattern = "_({}" + ", {}" * len(keys) + ")"
        term = value.term
        for key in keys:
            term = _reached(term, key)
        code = self.join(term, "get" + pattern, value, *keys)
        inner = [value.lenient or value.text, *[key.text for key in keys]]
        code.lenient = "find" + pattern.format(*inner)
        code.defined = "exists" + pattern.format(*inner)
        return code

    def cut(self, value: Code, parts: list[Code]) -> Code:
        return self.join(Operation("slice", _terms([value, *parts])), "slice_({}, {}, {}, {})", value, *parts)

    # ── filters and tests ─────────────────────────────────────────────────────────────────────────────────────────

    def filter(self, value: Code) -> Code:
        name = self.name()
        name = ALIASES.get(name, name)
        if name not in FILTERS:
            advice = f" {ADVICE[name]}" if name in ADVICE else nearest(name, FILTERS)
            raise self.error(f"There is no filter `{name}`.{advice}")
        arguments = self.arguments()
        self.translation.work += 1
        term = Applied(name, (value.term, *[code.term for _, code in arguments]))
        if name == "default":
            if value.lenient:
                value = Code(value.lenient, value.term, value.depth)
            return self.apply(term, value, name, arguments)
        value = self.charged(value)
        if name == "map":
            if mapped := self.mapped_attribute(term, value, arguments):
                return mapped
            self.literal(arguments, 0, "map", FILTERS)
        elif name in ("select", "reject") and arguments:
            self.literal(arguments, 0, name, TESTS | SIGN_TESTS)
        elif name in ("selectattr", "rejectattr") and len(arguments) > 1:
            self.literal(arguments, 1, name, TESTS | SIGN_TESTS)
        if name in ATTRIBUTE_FILTERS:
            self.check_attribute(name, arguments)
        code = self.apply(term, value, name, arguments)
        if name in MAY_BE_EMPTY:
            strict = self.apply(term, self.join(value.term, "filled_({})", value), name, arguments)
            strict.lenient = code.text
            strict.defined = f"({code.text} is defined)"
            return strict
        return code

    def apply(self, term: Term, value: Code, name: str, arguments: list[tuple[str, Code]]) -> Code:
        if not arguments:
            return Code(f"({value.text}|{name})", term, self.depth_above([value]))
        given = ", ".join([f"{key}={code.text}" if key else code.text for key, code in arguments])
        depth = self.depth_above([value, *[code for _, code in arguments]])
        return Code(f"({value.text}|{name}({given}))", term, depth)

    def arguments(self) -> list[tuple[str, Code]]:
        """The arguments in parentheses, if there are any: (name or "", value)."""
        arguments: list[tuple[str, Code]] = []
        if not self.skip("("):
            return arguments
        while not self.skip(")"):
            key = ""
            if self.tokens[self.place + 1] == "=" and kind_of(self.token) == "name":
                key = self.name()
                self.expect("=")
            elif arguments and arguments[-1][0]:
                raise self.error("Named arguments stand after the others.")
            arguments.append((key, self.expression()))
            if not self.skip(","):
                self.expect(")")
                break
        return arguments

    def mapped_attribute(self, term: Term, value: Code, arguments: list[tuple[str, Code]]) -> Code | None:
        """`map(attribute='a.b')`, done by ours: a row without the attribute is an error unless `default` is given."""
        named = dict(arguments)
        if "attribute" not in named:
            return None
        if unknown := set(named) - {"attribute", "default"}:
            raise self.error(f"`map(attribute=…)` takes `default` too, but not `{sorted(unknown)[0] or 'a filter'}`.")
        return self.apply(term, value, "attribute", [("", named.pop("attribute")), *named.items()])

    def literal(self, arguments: list[tuple[str, Code]], place: int, name: str, known: Collection[str]) -> None:
        what = "filter" if name == "map" else "test"
        if len(arguments) <= place or arguments[place][0] or not isinstance(arguments[place][1].literal, str):
            raise self.error(f"`{name}` needs the name of a {what} as a literal string, such as {name}('string').")
        given = str(arguments[place][1].literal)
        if ALIASES.get(given, given) not in known or given == "map":
            raise self.error(f"There is no {what} `{given}` for `{name}`.{nearest(given, known)}")

    def check_attribute(self, name: str, arguments: list[tuple[str, Code]]) -> None:
        """minijinja takes the Python method where the key is missing, so such keys cannot be asked for."""
        for place, (key, code) in enumerate(arguments):
            if key == "attribute" or (place == 0 and not key and name in ("selectattr", "rejectattr", "groupby")):
                if not isinstance(code.literal, str | int):
                    raise self.error(f"`{name}` needs the attribute as a literal string.")
                if METHOD_NAMES & set(str(code.literal).split(".")):
                    raise self.error(f"`{name}` cannot look for {code.literal!r}; use map(attribute=…) instead.")

    def test(self, value: Code) -> Code:
        negated = self.skip("not")
        token = self.take()
        name = CONSTANTS.get(token, token)
        if name not in TESTS:
            raise self.error(f"There is no test `{token}`.{nearest(token, TESTS)}")
        arguments = [("", self.signed())] if self.starts_value() else self.arguments()
        term = Applied(name, (value.term, *[code.term for _, code in arguments]), is_test=True)
        if name in ("defined", "undefined"):
            code = (
                Code(value.defined, term, value.depth) if value.defined else self.join(term, "({} is defined)", value)
            )
            return self.join(term, "(not {})", code) if negated != (name == "undefined") else code
        self.translation.work += 1
        pattern = "({} is " + ("not " if negated else "") + name
        if arguments:
            pattern += "(" + ", ".join(["{}"] * len(arguments)) + ")"
        return self.join(term, pattern + ")", self.charged(value), *[code for _, code in arguments])

    def starts_value(self) -> bool:
        """Whether the argument of a test follows without parentheses, as in `is divisibleby 3`."""
        token = self.token
        kind = kind_of(token)
        if kind == "name":
            return token not in KEYWORDS or token in CONSTANTS
        return kind in ("string", "number") or token in ("[", "{")


def _reached(holder: Term, key: Code) -> Term:
    if isinstance(holder, Path) and key.literal is not None:  # `(inputs.a).b`
        return Path(holder.root, (*holder.keys, key.literal))
    return Operation("key", (holder, key.term))


def _terms(parts: list[Code]) -> tuple[Term, ...]:
    return tuple([part.term for part in parts])
