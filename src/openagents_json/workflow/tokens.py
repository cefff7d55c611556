"""The tokens of expressions: where a `{{ }}` or `{% %}` ends and what stands in it."""

from __future__ import annotations

import re
from typing import NamedTuple

from openagents_json.errors import ExpressionError
from openagents_json.workflow.vocabulary import KEYWORDS, OPERATOR_WORDS

EXPRESSION_CHARACTERS = 1_000  # of one {{ }} or {% %}
EXPRESSION_OPERATORS = 200
_OPERATORS = OPERATOR_WORDS.union(["**", "//", "==", "!=", "<=", ">=", *"-+*/%~<>|"])

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+)
      | (?P<number>\d[\d_]*(?:\.\d+(?:[eE][+-]?\d+)?|[eE][+-]?\d+)?)
      | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<string>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
      | (?P<sign>\*\*|//|==|!=|<=|>=|[-+*/%~<>=|.,:()\[\]{}])""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|.)", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "\n": "\n"}


class Token(NamedTuple):
    """One word or sign of an expression, as written."""

    kind: str  # number, name, string, sign, end
    text: str


END = Token("end", "")


def syntax_error(message: str, expression: str, code: str = "expression.syntax") -> ExpressionError:
    """The error for a text that cannot be compiled, with the text (shortened) in its message."""
    return ExpressionError(f"{message} In: {shorten(expression)}", expression=expression, code=code)


def shorten(text: str) -> str:
    """The text on one line, at most 200 characters."""
    line = " ".join(text.split())
    return line if len(line) <= 200 else line[:199] + "…"


def scan(source: str, start: int, closing: str) -> tuple[list[Token], int, bool]:
    """The tokens from `start` to the closing `}}` or `%}`, the place after it, and whether it trims (`-}}`)."""
    tokens: list[Token] = []
    position, braces = start, 0
    while True:
        if position - start > EXPRESSION_CHARACTERS:
            message = f"The expression is longer than {EXPRESSION_CHARACTERS:,} characters; split it with `set` steps."
            raise syntax_error(message, source[start - 2 : position], "limit.expression")
        if braces == 0:
            if source.startswith(closing, position):
                return tokens, position + 2, False
            if source.startswith("-" + closing, position):
                return tokens, position + 3, True
        match = _TOKEN.match(source, position)
        if match is None:
            written = source[start - 2 : position + 20]
            if position >= len(source):
                raise syntax_error(f"The expression is not closed; `{closing}` is missing.", written)
            raise syntax_error(f"The character {source[position]!r} cannot stand here.", written)
        kind, text = match.lastgroup or "", match.group()
        position = match.end()
        if kind != "space":
            tokens.append(Token(kind, text))
            braces = max(0, braces + (text == "{") - (text == "}"))


class Reader:
    """Goes through the tokens of one expression or tag."""

    def __init__(self, tokens: list[Token], source: str) -> None:
        self.tokens = [*tokens, END, END]
        self.source = source
        self.place = 0
        operators = sum(token.text in _OPERATORS and token.kind != "string" for token in tokens)
        if operators > EXPRESSION_OPERATORS:
            message = f"The expression has {operators} operators; {EXPRESSION_OPERATORS} are allowed."
            raise self.error(f"{message} Split it with `set` steps.", "limit.expression")

    @property
    def token(self) -> Token:
        return self.tokens[self.place]

    @property
    def following(self) -> Token:
        return self.tokens[self.place + 1]

    def take(self) -> Token:
        token = self.tokens[self.place]
        if token is not END:
            self.place += 1
        return token

    def at(self, text: str) -> bool:
        """Whether this sign or word comes next (a string of the same letters does not count)."""
        token = self.tokens[self.place]
        return token.text == text and token.kind != "string"

    def skip(self, text: str) -> bool:
        if self.at(text):
            self.place += 1
            return True
        return False

    def expect(self, text: str) -> None:
        if not self.skip(text):
            raise self.unexpected(f"`{text}`")

    def name(self) -> str:
        token = self.token
        if token.kind != "name" or token.text in KEYWORDS:
            raise self.unexpected("a name")
        self.place += 1
        return token.text

    def finish(self) -> None:
        if self.token is not END:
            raise self.unexpected("the end")

    def error(self, message: str, code: str = "expression.syntax") -> ExpressionError:
        return syntax_error(message, self.source, code)

    def unexpected(self, wanted: str) -> ExpressionError:
        found = f"`{shorten(self.token.text)}`" if self.token is not END else "the end"
        return self.error(f"Expected {wanted} but found {found}.")


def unquote(text: str, source: str) -> str:
    """The value of a string literal."""

    def replace(match: re.Match[str]) -> str:
        escape = match[1]
        if len(escape) > 1 and int(escape[1:], 16):
            return chr(int(escape[1:], 16))
        if escape in "\\'\"/":
            return escape
        if escape in _ESCAPES:
            return _ESCAPES[escape]
        raise syntax_error(f"The escape `\\{escape}` is unknown; write `\\\\{escape}` for a backslash.", source)

    if "\\" not in text:
        return text[1:-1]
    value = _ESCAPE.sub(replace, text[1:-1])
    try:  # two halves of a surrogate pair, as JSON writes them, become one character
        return value.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        raise syntax_error("The string contains half a surrogate pair.", source) from None
