"""The grammar of expressions and templates: reads them, refuses what may not stand there, and rewrites the rest.

What minijinja gets to see is never the author's text but a translation of it: paths such as `inputs.a.b` become
variables (`p0`, `p1` …) that are looked up beforehand, literal strings become variables too (`c0` …), and every
operation that could grow without bound or meet a missing value becomes a call of a guarded function (evaluation.py).
So names, methods, tags, filters and tests reach minijinja only if they are listed here.

Each translation comes twice: `fast` for when every path has a value, `slow` for when one is missing; there a path is a
call, so that `a.b if a is defined else 0` fails only where the missing one is really asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from openagents_json.workflow.tokens import Reader, Token, unquote
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


@dataclass(slots=True)
class Translation:
    """What a text is rewritten to. Filled by the parser, then only read."""

    paths: list[Path] = field(default_factory=list)  # p0, p1 …
    constants: dict[str, Any] = field(default_factory=dict)  # c0, c1 …: literal strings of the author
    fast: str = ""
    slow: str = ""
    path: Path | None = None  # the whole expression is this path
    work: int = 0  # operations that may visit every row of the data

    def path_number(self, path: Path) -> int:
        if path not in self.paths:
            self.paths.append(path)
        return self.paths.index(path)

    def constant(self, value: str) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = value
        return name


_COMPARISONS = frozenset(["==", "!=", "<", "<=", ">", ">=", "in"])
Forms = tuple[str, str]  # (fast, slow)


@dataclass(slots=True)
class Code:
    """A translated part, in its two forms.

    `lenient` are the forms that give none (or undefined) for a missing value, used inside `default`; `defined` those of
    `… is defined`. None: the strict forms do.
    """

    forms: Forms
    depth: int = 1
    lenient: Forms | None = None
    defined: Forms | None = None
    path: Path | None = None
    literal: str | int | None = None

    @classmethod
    def of(cls, text: str, literal: str | int | None = None) -> Code:
        return cls((text, text), literal=literal)


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

    # ── operators, loosest first ──────────────────────────────────────────────────────────────────────────────────

    def expression(self) -> Code:
        """One expression, `a if b else c` included."""
        self.depth += 1
        if self.depth > EXPRESSION_DEPTH:
            raise self.error(f"The expression is nested deeper than {EXPRESSION_DEPTH} levels.", "limit.expression")
        value = self.either()
        if self.skip("if"):
            condition = self.either()
            if not self.skip("else"):
                raise self.error("`… if …` needs an `else`: without it the value may be undefined.")
            value = self.join("({} if {} else {})", value, condition, self.expression())
        self.depth -= 1
        return value

    def join(self, pattern: str, *parts: Code) -> Code:
        """The parts put into the pattern's places."""
        depth = 1 + max((part.depth for part in parts), default=0)
        if depth > EXPRESSION_DEPTH:
            raise self.error(f"The expression is nested deeper than {EXPRESSION_DEPTH} levels.", "limit.expression")
        return Code(_fill(pattern, [part.forms for part in parts]), depth)

    def chain(self, below: Callable[[], Code], signs: dict[str, str]) -> Code:
        """`a + b + c`: equal signs in a row become one flat form, so that long sums are not deep."""
        value = below()
        while (sign := self.token.text) in signs and self.token.kind != "string":
            parts = [value]
            while self.skip(sign):
                parts.append(below())
            pattern = signs[sign]
            separator = f" {sign} " if pattern.startswith("(") else ", "
            value = self.join(pattern.replace("…", separator.join(["{}"] * len(parts))), *parts)
        return value

    def either(self) -> Code:
        return self.chain(self.both, {"or": "(…)"})

    def both(self) -> Code:
        return self.chain(self.negation, {"and": "(…)"})

    def negation(self) -> Code:
        return self.nested("(not {})", self.negation) if self.skip("not") else self.comparison()

    def nested(self, pattern: str, below: Callable[[], Code]) -> Code:
        self.depth += 1
        if self.depth > EXPRESSION_DEPTH:
            raise self.error(f"The expression is nested deeper than {EXPRESSION_DEPTH} levels.", "limit.expression")
        value = self.join(pattern, below())
        self.depth -= 1
        return value

    def comparison(self) -> Code:
        value = self.sum()
        parts, pattern = [value], "{}"
        while sign := self.comparison_sign():
            parts.append(self.sum())
            pattern += f" {sign} {{}}"
        if len(parts) == 1:
            return value
        self.translation.work += len(parts)
        return self.join(f"({pattern})", *[self.charged(part) for part in parts])

    def comparison_sign(self) -> str:
        if self.at("not") and self.following.text == "in":
            self.place += 2
            return "not in"
        if self.token.kind != "string" and self.token.text in _COMPARISONS:
            return self.take().text
        return ""

    def charged(self, value: Code) -> Code:
        """Inside a loop an operand pays for its size: minijinja's fuel counts operations, not what each costs."""
        if not self.in_loop or value.literal is not None:
            return value
        return self.join("use_({})", value)

    def sum(self) -> Code:
        return self.chain(self.concatenation, {"+": "add_(…)", "-": "(…)"})

    def concatenation(self) -> Code:
        return self.chain(self.product, {"~": "cat_(…)"})

    def product(self) -> Code:
        return self.chain(self.power, {"*": "mul_(…)", "/": "(…)", "//": "(…)", "%": "(…)"})

    def power(self) -> Code:
        return self.chain(self.unary, {"**": "(…)"})

    def unary(self) -> Code:
        return self.filters(self.signed())

    def signed(self) -> Code:
        if self.skip("-"):
            return self.nested("(-{})", self.signed)
        return self.postfix(*self.primary())

    # ── values ────────────────────────────────────────────────────────────────────────────────────────────────────

    def primary(self) -> tuple[Code | None, str]:
        """A value, or None and the name of a root whose path follows."""
        kind, text = self.token
        if kind == "name":
            return self.named(text)
        if kind == "string":
            return self.string(text), ""
        if kind == "number":
            self.place += 1
            return self.number(text), ""
        if self.skip("("):
            return self.parentheses(), ""
        if self.skip("["):
            return self.list_of(self.listed("]")), ""
        if self.skip("{"):
            return self.object(), ""
        raise self.unexpected("a value")

    def string(self, written: str) -> Code:
        self.place += 1
        if self.token.kind == "string":
            raise self.error("Two strings stand side by side; join them with `~`.")
        text = unquote(written, self.source)
        return Code.of(self.translation.constant(text), text)

    def list_of(self, parts: list[Code]) -> Code:
        return self.join("[" + ", ".join(["{}"] * len(parts)) + "]", *parts)

    def number(self, text: str) -> Code:
        if re.fullmatch(r"[\d_]+", text):
            digits = text.replace("_", "")
            if len(digits) > 38:
                raise self.error("The integer is too large; at most 38 digits are possible.")
            return Code.of(digits, int(digits))
        number = float(text.replace("_", ""))
        if number == float("inf"):
            raise self.error(f"The number {text} is too large.")
        return Code.of(repr(number))

    def parentheses(self) -> Code:
        if self.skip(")"):
            return Code.of("[]")
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
        return self.join("{{" + ", ".join(["{}: {}"] * (len(parts) // 2)) + "}}", *parts)

    def named(self, name: str) -> tuple[Code | None, str]:
        if name in KEYWORDS and name not in CONSTANTS:
            raise self.unexpected("a value")
        self.place += 1
        if name in CONSTANTS:
            return Code.of(CONSTANTS[name]), ""
        if name in self.names:
            return (self.loop_field() if name == "loop" else Code.of(f"v_{name}")), ""
        if name in FUNCTIONS:
            return self.call(name), ""
        if name in KNOWN_ROOTS:
            return None, name
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
        return self.join(f"{name}(" + ", ".join(["{}"] * len(parts)) + ")", *parts)

    # ── fields, indexes and slices ────────────────────────────────────────────────────────────────────────────────

    def postfix(self, value: Code | None, root: str) -> Code:
        keys: list[str | int] = []
        while self.token.kind == "sign" and self.token.text in ".[(":
            sign = self.take().text
            if sign == "(":
                raise self.error("Only `range` can be called; use filters instead of methods, such as `| upper`.")
            if sign == "." and self.token.kind == "number" and self.token.text.isdigit():
                keys.append(int(self.take().text))
                continue
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
            value = self.cut(value, key) if isinstance(key, list) else self.dynamic(value, key)
        if value is None:
            return self.path(root, keys)
        return self.access(value, keys) if keys else value

    def field_name(self) -> str:
        if self.token.kind != "name":
            raise self.unexpected("a field name after `.`")
        return self.take().text

    def subscript(self) -> Code | list[Code]:
        """The key between brackets, or the three parts of a slice."""
        none = Code.of("none")
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
        if match := re.fullmatch(r"\(-(\d+)\)", code.forms[0]):
            code.literal = -int(match[1])
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
        return Code(
            (f"p{number}", f"at_({number})"),
            lenient=(f"p{number}", f"may_({number})"),
            defined=("true", f"has_({number})"),
            path=path,
        )

    def access(self, value: Code, keys: list[str | int]) -> Code:
        names = [self.translation.constant(key) if isinstance(key, str) else str(key) for key in keys]
        return self.reach(value, [Code.of(name) for name in names])

    def dynamic(self, value: Code, key: Code) -> Code:
        return self.reach(value, [key])

    def reach(self, value: Code, keys: list[Code]) -> Code:
        """A field that is only known at run time. Where it may be missing, `find_` gives none instead of an error."""
        pattern = "_({}" + ", {}" * len(keys) + ")"
        code = self.join("get" + pattern, value, *keys)
        inner = [value.lenient or value.forms, *[key.forms for key in keys]]
        code.lenient = _fill("find" + pattern, inner)
        code.defined = _fill("exists" + pattern, inner)
        return code

    def cut(self, value: Code, parts: list[Code]) -> Code:
        return self.join("slice_({}, {}, {}, {})", value, *parts)

    # ── filters and tests ─────────────────────────────────────────────────────────────────────────────────────────

    def filters(self, value: Code) -> Code:
        while True:
            if self.skip("|"):
                value = self.filter(value)
            elif self.skip("is"):
                value = self.test(value)
            else:
                return value

    def filter(self, value: Code) -> Code:
        name = self.name()
        name = ALIASES.get(name, name)
        if name not in FILTERS:
            advice = f" {ADVICE[name]}" if name in ADVICE else nearest(name, FILTERS)
            raise self.error(f"There is no filter `{name}`.{advice}")
        arguments = self.arguments()
        self.translation.work += 1
        if name == "default":
            return self.default(value, arguments)
        value = self.charged(value)
        if name == "map":
            if mapped := self.mapped_attribute(value, arguments):
                return mapped
            self.literal(arguments, 0, "map", FILTERS)
        elif name in ("select", "reject") and arguments:
            self.literal(arguments, 0, name, TESTS | SIGN_TESTS)
        elif name in ("selectattr", "rejectattr") and len(arguments) > 1:
            self.literal(arguments, 1, name, TESTS | SIGN_TESTS)
        if name in ATTRIBUTE_FILTERS:
            self.check_attribute(name, arguments)
        code = self.apply(value, name, arguments)
        if name in MAY_BE_EMPTY:
            strict = self.apply(self.join("filled_({})", value), name, arguments)
            strict.lenient = code.forms
            strict.defined = _fill("({} is defined)", [code.forms])
            return strict
        return code

    def apply(self, value: Code, name: str, arguments: list[tuple[str, Code]]) -> Code:
        pattern = "({}|" + name
        if arguments:
            pattern += "(" + ", ".join(f"{key}={{}}" if key else "{}" for key, _ in arguments) + ")"
        return self.join(pattern + ")", value, *[code for _, code in arguments])

    def arguments(self) -> list[tuple[str, Code]]:
        """The arguments in parentheses, if there are any: (name or "", value)."""
        arguments: list[tuple[str, Code]] = []
        if not self.skip("("):
            return arguments
        while not self.skip(")"):
            key = ""
            if self.token.kind == "name" and self.following == ("sign", "="):
                key = self.name()
                self.expect("=")
            elif arguments and arguments[-1][0]:
                raise self.error("Named arguments stand after the others.")
            arguments.append((key, self.expression()))
            if not self.skip(","):
                self.expect(")")
                break
        return arguments

    def default(self, value: Code, arguments: list[tuple[str, Code]]) -> Code:
        return self.apply(Code(value.lenient or value.forms, value.depth), "default", arguments)

    def mapped_attribute(self, value: Code, arguments: list[tuple[str, Code]]) -> Code | None:
        """`map(attribute='a.b')`, done by ours: a row without the attribute is an error unless `default` is given."""
        named = dict(arguments)
        if "attribute" not in named:
            return None
        if unknown := set(named) - {"attribute", "default"}:
            raise self.error(f"`map(attribute=…)` takes `default` too, but not `{sorted(unknown)[0] or 'a filter'}`.")
        return self.apply(value, "attribute", [("", named.pop("attribute")), *named.items()])

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
        name = CONSTANTS.get(token.text, token.text)
        if name not in TESTS or token.kind != "name":
            raise self.error(f"There is no test `{token.text}`.{nearest(token.text, TESTS)}")
        arguments = [("", self.signed())] if self.starts_value() else self.arguments()
        if name in ("defined", "undefined"):
            code = self.defined(value)
            return self.join("(not {})", code) if negated != (name == "undefined") else code
        self.translation.work += 1
        pattern = "({} is " + ("not " if negated else "") + name
        if arguments:
            pattern += "(" + ", ".join(["{}"] * len(arguments)) + ")"
        return self.join(pattern + ")", self.charged(value), *[code for _, code in arguments])

    def starts_value(self) -> bool:
        """Whether the argument of a test follows without parentheses, as in `is divisibleby 3`."""
        kind, text = self.token
        if kind == "name":
            return text not in KEYWORDS or text in CONSTANTS
        return kind in ("string", "number") or self.at("[") or self.at("{")

    def defined(self, value: Code) -> Code:
        if value.defined:
            return Code(value.defined, value.depth)
        return self.join("({} is defined)", value)


def _fill(pattern: str, parts: list[Forms]) -> Forms:
    return pattern.format(*[part[0] for part in parts]), pattern.format(*[part[1] for part in parts])
