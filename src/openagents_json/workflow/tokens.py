"""The tokens of expressions: where a `{{ }}` or `{% %}` ends and what stands in it."""

from __future__ import annotations

import re
import string

from openagents_json.errors import ExpressionError
from openagents_json.workflow.vocabulary import KEYWORDS, OPERATOR_WORDS

EXPRESSION_CHARACTERS = 1_000  # of one {{ }} or {% %}
EXPRESSION_OPERATORS = 200
_OPERATORS = OPERATOR_WORDS.union(["**", "//", "==", "!=", "<=", ">=", *"-+*/%~<>|"])

_NUMBER = r"\d[\d_]*(?:\.\d+(?:[eE][+-]?\d+)?|[eE][+-]?\d+)?"
_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_STRING = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
_SIGNS = "-+*/%~<>=|.,:()[]{}"
_SIGN = r"\*\*|//|==|!=|<=|>=|[-+*/%~<>=|.,:()\[\]{}]"
_TOKEN = re.compile(f"{_NAME}|{_SIGN}|{_NUMBER}|{_STRING}", re.DOTALL)
_SPACE = re.compile(r"[ \t\r\n]+")
_TOKEN_OR_STRAY = re.compile(rf"{_TOKEN.pattern}|[^ \t\r\n]", re.DOTALL)
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|.)", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "\n": "\n"}


Token = str  # one word or sign of an expression, as written; strings with their quotes
END = ""  # stands behind the last token
_KINDS = (
    dict.fromkeys(string.ascii_letters + "_", "name")
    | dict.fromkeys(string.digits, "number")
    | dict.fromkeys("'\"", "string")
    | dict.fromkeys(_SIGNS + "!", "sign")
    | {END: "end"}
)
_ALONE = frozenset(string.ascii_letters + string.digits + "_" + _SIGNS)  # tokens of one character


def kind_of(token: Token) -> str:
    """number, name, string, sign or end."""
    return _KINDS.get(token[:1], "number")  # digits of other scripts


def syntax_error(message: str, expression: str, code: str = "expression.syntax") -> ExpressionError:
    """The error for a text that cannot be compiled, with the text (shortened) in its message."""
    return ExpressionError(f"{message} In: {shorten(expression)}", expression=expression, code=code)


def shorten(text: str) -> str:
    """The text on one line, at most 200 characters."""
    line = " ".join(text.split())
    return line if len(line) <= 200 else line[:199] + "…"


def scan(source: str, start: int, closing: str) -> tuple[list[Token], int, bool]:
    """The tokens from `start` to the closing `}}` or `%}`, the place after it, and whether it trims (`-}}`)."""
    return _scan_plain(source, start, closing) or _scan(source, start, closing)


def _scan_plain(source: str, start: int, closing: str) -> tuple[list[Token], int, bool] | None:
    """The same in one go; None where it takes a closer look: braces, `}}` in a string, and everything wrong."""
    end = source.find(closing, start)
    if end < 0 or end - start > EXPRESSION_CHARACTERS:
        return None
    written = source[start:end]
    if "{" in written or "}" in written:
        return None
    trims = written.endswith("-")
    tokens = _TOKEN_OR_STRAY.findall(written[:-1] if trims else written)
    for token in tokens:
        if len(token) == 1 and token not in _ALONE and not token.isdecimal():
            return None
    return tokens, end + 2, trims


def _scan(source: str, start: int, closing: str) -> tuple[list[Token], int, bool]:
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
        if space := _SPACE.match(source, position):
            position = space.end()
            continue
        match = _TOKEN.match(source, position)
        if match is None:
            written = source[start - 2 : position + 20]
            if position >= len(source):
                raise syntax_error(f"The expression is not closed; `{closing}` is missing.", written)
            raise syntax_error(f"The character {source[position]!r} cannot stand here.", written)
        token = match.group()
        position = match.end()
        tokens.append(token)
        braces = max(0, braces + (token == "{") - (token == "}"))


class Reader:
    """Goes through the tokens of one expression or tag."""

    def __init__(self, tokens: list[Token], source: str) -> None:
        self.tokens = [*tokens, END, END]
        self.source = source
        self.place = 0
        if len(tokens) > EXPRESSION_OPERATORS:
            self.count_operators()

    def count_operators(self) -> None:
        operators = sum(token in _OPERATORS for token in self.tokens)
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
        if token != END:
            self.place += 1
        return token

    def at(self, text: str) -> bool:
        """Whether this sign or word comes next (a string of the same letters does not count: it has its quotes)."""
        return self.tokens[self.place] == text

    def skip(self, text: str) -> bool:
        if self.tokens[self.place] == text:
            self.place += 1
            return True
        return False

    def expect(self, text: str) -> None:
        if not self.skip(text):
            raise self.unexpected(f"`{text}`")

    def name(self) -> str:
        token = self.tokens[self.place]
        if kind_of(token) != "name" or token in KEYWORDS:
            raise self.unexpected("a name")
        self.place += 1
        return token

    def finish(self) -> None:
        if self.token != END:
            raise self.unexpected("the end")

    def error(self, message: str, code: str = "expression.syntax") -> ExpressionError:
        return syntax_error(message, self.source, code)

    def unexpected(self, wanted: str) -> ExpressionError:
        found = f"`{shorten(self.token)}`" if self.token != END else "the end"
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
