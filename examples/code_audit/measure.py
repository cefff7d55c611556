"""Measuring one Python file: pure functions from source text to numbers, nothing is imported or run.

Cyclomatic complexity is McCabe's ("A Complexity Measure", IEEE Transactions on Software Engineering SE-2(4), 1976,
pages 308–320): the number of decisions plus one. Its section on simplification counts each condition of a compound
predicate, so `a and b` is two. What counts here:

    if, elif, conditional expression, for, while, except, each `for` and each `if` of a comprehension     1
    and, or                                                                     1 for each operand but the first
    case of a match                                              1, unless it always matches; its guard 1 more

`else`, `finally`, `with` and `assert` open no path of their own. A function inside another is measured on its own and
not with the outer one; a lambda belongs to the function it stands in. The complexity of a file is the sum over its
functions and its top-level code (class bodies included).
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

NAME_CHARACTERS = 60  # of a function's dotted name; keeps one result small
REASON_CHARACTERS = 160  # of the reason why a file did not parse

# What reading and parsing a file may raise when the file is at fault. MemoryError and RecursionError are how the parser
# answers nesting that is too deep, LookupError a coding line such as `# coding: hex`.
UNREADABLE = (SyntaxError, UnicodeError, LookupError, ValueError, RecursionError, MemoryError)

MARK = re.compile(r"\b(?:TODO|FIXME|XXX)\b")

# Strings are matched only to step over what looks like a comment in them.
# Known to be blind to a `#` behind reused quotes in a replacement field of an f-string (Python 3.12 and newer).
# No possessive groups: those of Python 3.11.0 to 3.11.3 match too little. Each alternative begins with a sign that the
# part before cannot hold, so there is nothing to go back over either.
_COMMENT_OR_STRING = re.compile(
    r"""
    [^"'#]+
    | (?P<comment> \#[^\n]* )
    | \"\"\" [^"\\]* (?: (?: \\. | "(?!"") ) [^"\\]* )* \"\"\"
    | ''' [^'\\]* (?: (?: \\. | '(?!'') ) [^'\\]* )* '''
    | " [^"\\\n]* (?: \\. [^"\\\n]* )* "
    | ' [^'\\\n]* (?: \\. [^'\\\n]* )* '
    """,
    re.DOTALL | re.VERBOSE,
)

_FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
_NO_DECISION_INSIDE = {"ctx", "op", "ops", "annotation", "returns", "type_params", "type_ignores", "names"}
_FIELDS: dict[type[ast.AST], tuple[str, ...]] = {
    kind: tuple(name for name in kind._fields if name not in _NO_DECISION_INSIDE)
    for kind in vars(ast).values()
    if isinstance(kind, type) and issubclass(kind, ast.AST)
}


@dataclass(frozen=True, slots=True)
class Function:
    """A function or method: dotted name inside its file, first line, length in lines, cyclomatic complexity."""

    name: str
    line: int
    lines: int
    complexity: int


@dataclass(frozen=True, slots=True)
class Measures:
    """What was counted in one file.

    `lines` are all lines; `code` are those that hold more than blanks, a comment or a docstring. `public` counts the
    module, its classes, functions and methods, unless they stand in a function, or their name or that of what they
    stand in begins with `_`; `documented` are those of them with a docstring. `marks` are comments that say TODO, FIXME
    or XXX.
    """

    lines: int
    code: int
    functions: tuple[Function, ...]
    complexity: int
    public: int
    documented: int
    marks: int

    @property
    def most_complex(self) -> Function | None:
        """The function of the greatest complexity, the first of several; None in a file without functions."""
        return max(self.functions, key=lambda function: (function.complexity, -function.line), default=None)

    @property
    def longest(self) -> Function | None:
        """The function of the most lines, the first of several; None in a file without functions."""
        return max(self.functions, key=lambda function: (function.lines, -function.line), default=None)


def read_source(data: bytes) -> str:
    """The text of a Python file, decoded as Python decodes it (byte order mark, coding line, else UTF-8).

    Raises one of `UNREADABLE` when the bytes are no such text. Line ends come out as `\\n`.
    """
    encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
    return data.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")


def measure_source(text: str, module_name: str = "module") -> Measures:
    """The measures of a file's text. Raises one of `UNREADABLE` when it is no valid Python for this interpreter."""
    tree = parse_quietly(text)
    found = _Walk(tree, module_name).run()
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    comment_lines, marks = _comments(text)
    blank = sum(not line or line.isspace() for line in lines)
    docstring_lines = sum(1 for number in found.docstring_lines if lines[number - 1].strip())
    return Measures(
        lines=len(lines),
        code=len(lines) - blank - comment_lines - docstring_lines,
        functions=tuple(found.functions()),
        complexity=sum(found.complexity),
        public=found.public,
        documented=found.documented,
        marks=marks,
    )


def reason(error: BaseException) -> str:
    """One line that says why a file could not be measured, for example `SyntaxError: invalid syntax (line 3)`."""
    message = (error.msg if isinstance(error, SyntaxError) else str(error)).strip().splitlines()
    where = f" (line {error.lineno})" if isinstance(error, SyntaxError) and error.lineno else ""
    text = f"{type(error).__name__}: {message[0]}" if message else type(error).__name__
    return f"{text[: REASON_CHARACTERS - len(where)]}{where}"


# ── parsing without noise ─────────────────────────────────────────────────────────────────────────────────────────

_PARSED_AS = "<code audit>"
_OUR_WARNINGS = re.compile(re.escape(_PARSED_AS))


def parse_quietly(text: str) -> ast.Module:
    """The syntax tree of `text`; warnings about its style (a stray `\\d`, `1or 2`) go nowhere.

    `warnings.catch_warnings` swaps state that all threads share, so it cannot be used where 16 threads parse. Instead
    one filter of the process matches only what is parsed under our pretended file name. It is put in again if somebody
    replaced the filters since; two threads that both do so leave it there twice, which changes nothing.
    """
    if not any(entry[3] == _OUR_WARNINGS for entry in warnings.filters):
        warnings.filterwarnings("ignore", module=_OUR_WARNINGS.pattern)
    return ast.parse(text, filename=_PARSED_AS)


# ── walking ───────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class _Scope:
    """A module, class or function whose body is still to be walked, and to which function its decisions belong."""

    node: ast.Module | ast.ClassDef | _FunctionNode
    owner: int  # index into _Walk.complexity
    prefix: str  # of the names inside
    is_public: bool  # whether names inside can be public


class _Walk:
    """One pass over a syntax tree with an own stack, so that deep nesting cannot exhaust Python's."""

    def __init__(self, tree: ast.Module, module_name: str) -> None:
        self.nodes: list[tuple[str, _FunctionNode]] = []
        self.complexity = [1]  # the top-level code, then one entry per function of `nodes`
        self.public = 0
        self.documented = 0
        self.docstring_lines: set[int] = set()
        is_public = module_name in ("__init__", "__main__") or _is_public(module_name)
        self.scopes = [_Scope(tree, 0, "", is_public)]
        if tree.body:
            self.note_docstring(tree, is_public)

    def run(self) -> _Walk:
        while self.scopes:
            self.walk(self.scopes.pop())
        return self

    def functions(self) -> list[Function]:
        """In the order of their first lines."""
        measured = zip(self.nodes, self.complexity[1:], strict=True)
        found = [
            Function(name[:NAME_CHARACTERS], node.lineno, _length(node), count) for (name, node), count in measured
        ]
        return sorted(found, key=lambda function: function.line)

    def walk(self, scope: _Scope) -> None:
        decisions = 0
        stack: list[ast.AST] = list(scope.node.body)
        while stack:
            node = stack.pop()
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                stack += self.enter_function(node, scope)
                continue
            if isinstance(node, ast.ClassDef):
                stack += self.enter_class(node, scope)
                continue
            kind = type(node)
            if count := _DECISIONS.get(kind):
                decisions += count(node)
            for name in _FIELDS[kind]:
                child = getattr(node, name, None)
                if isinstance(child, ast.AST):
                    stack.append(child)
                elif type(child) is list:
                    stack += [entry for entry in child if isinstance(entry, ast.AST)]
        self.complexity[scope.owner] += decisions

    def enter_function(self, node: _FunctionNode, scope: _Scope) -> list[ast.AST]:
        """Leave the body for later; returns what the scope around it evaluates."""
        name = f"{scope.prefix}{node.name}"
        self.nodes.append((name, node))
        self.complexity.append(1)
        self.note_docstring(node, scope.is_public and _is_public(node.name))
        self.scopes.append(_Scope(node, len(self.nodes), f"{name}.", is_public=False))
        defaults = [default for default in node.args.kw_defaults if default is not None]
        return [*node.decorator_list, *node.args.defaults, *defaults]

    def enter_class(self, node: ast.ClassDef, scope: _Scope) -> list[ast.AST]:
        is_public = scope.is_public and _is_public(node.name)
        self.note_docstring(node, is_public)
        self.scopes.append(_Scope(node, scope.owner, f"{scope.prefix}{node.name}.", is_public))
        return [*node.decorator_list, *node.bases, *node.keywords]

    def note_docstring(self, node: ast.Module | ast.ClassDef | _FunctionNode, is_public: bool) -> None:
        self.public += is_public
        first = node.body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            self.documented += is_public
            if isinstance(node, ast.Module) or first.lineno > node.lineno:  # else it shares its line with the `def`
                self.docstring_lines.update(range(first.lineno, (first.end_lineno or first.lineno) + 1))


def _always_matches(pattern: ast.pattern) -> bool:
    if isinstance(pattern, ast.MatchAs):
        return pattern.pattern is None or _always_matches(pattern.pattern)
    return isinstance(pattern, ast.MatchOr) and _always_matches(pattern.patterns[-1])


def _one(_: Any) -> int:
    return 1


# Which nodes decide, and how many decisions each of them is.
_DECISIONS: dict[type[ast.AST], Callable[[Any], int]] = {
    **dict.fromkeys((ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler), _one),
    ast.comprehension: lambda node: 1 + len(node.ifs),
    ast.BoolOp: lambda node: len(node.values) - 1,
    ast.match_case: lambda node: (not _always_matches(node.pattern)) + (node.guard is not None),
}


def _length(node: _FunctionNode) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def _is_public(name: str) -> bool:
    return not name.startswith("_")


def _comments(text: str) -> tuple[int, int]:
    """How many lines hold nothing but a comment, and how many comments carry a mark."""
    alone = marks = 0
    for match in _COMMENT_OR_STRING.finditer(text):
        if match.lastgroup is None:
            continue
        start = match.start()
        before = text[text.rfind("\n", 0, start) + 1 : start]
        alone += not before or before.isspace()
        marks += MARK.search(match.group()) is not None
    return alone, marks
