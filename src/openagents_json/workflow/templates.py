"""Text with holes: splits a string into text, `{{ }}` and `{% %}`, and translates what minijinja has to run.

Tags are `for`, `if` and `set`, `raw` and comments; macros, includes and inheritance are refused by name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from openagents_json.workflow.grammar import FIRST_PATH, Parser, Translation
from openagents_json.workflow.limits import TEMPLATE_BYTES
from openagents_json.workflow.terms import Path, Piece, Term
from openagents_json.workflow.tokens import Token, scan, syntax_error
from openagents_json.workflow.vocabulary import ROOTS

TEMPLATE_TAGS = 500
BLOCK_DEPTH = 16  # {% for %} and {% if %} inside each other; an elif counts as one level, as minijinja nests it

_OPENING = re.compile(r"\{([{%#])([-+]?)")
_RAW = re.compile(r"\{%[-+]?\s*raw\s*[-+]?%\}")
_END_RAW = re.compile(r"\{%[-+]?\s*endraw\s*(-?)\+?%\}")
_PLAIN_PATH = re.compile(r"\{\{ *([a-z]+)((?:\.[A-Za-z_][A-Za-z0-9_]*)*) *\}\}")  # the most usual expression
PLAIN_CHARACTERS = 200  # such a path has no part in the limits of expressions
_TAGS = "for, if, elif, else, set and raw"


@dataclass(slots=True)
class Hole:
    """A `{{ }}` (or a `{% %}`, if `is_tag`) with its tokens and its text."""

    tokens: list[Token]
    source: str
    is_tag: bool


def has_markup(source: str) -> bool:
    """Whether the string can hold anything but text."""
    return "{{" in source or "{%" in source or "{#" in source


def split(source: str) -> list[str | Hole]:
    """The string as texts and holes in order; comments are gone, raw blocks are text, no two texts side by side."""
    if len(source) * 4 > TEMPLATE_BYTES and len(source.encode(errors="replace")) > TEMPLATE_BYTES:
        message = f"A string with expressions is longer than {TEMPLATE_BYTES // 1024} KiB; shorten it."
        raise syntax_error(message, source, "limit.expression")
    parts: list[str | Hole] = []
    place, trims = 0, False

    while (match := _OPENING.search(source, place)) is not None:
        if before := source[place : match.start()]:
            before = before.lstrip() if trims else before
            _add_text(parts, before.rstrip() if match[2] == "-" else before)
        if match[1] == "%" and (raw := _RAW.match(source, match.start())):
            end = _END_RAW.search(source, raw.end())
            if end is None:
                raise syntax_error("`{% raw %}` has no `{% endraw %}`.", source[match.start() :])
            _add_text(parts, source[raw.end() : end.start()])
            place, trims = end.end(), end[1] == "-"
        elif match[1] == "#":
            close = source.find("#}", match.end())
            if close < 0:
                raise syntax_error("A comment `{#` has no `#}`.", source[match.start() :])
            place, trims = close + 2, source[close - 1] == "-"
        else:
            closing = "}}" if match[1] == "{" else "%}"
            tokens, place, trims = scan(source, match.end(), closing)
            parts.append(Hole(tokens, source[match.start() : place], match[1] == "%"))
    if rest := source[place:]:
        _add_text(parts, rest.lstrip() if trims else rest)
    return parts


def _add_text(parts: list[str | Hole], text: str) -> None:
    if parts and isinstance(parts[-1], str):
        parts[-1] += text
    elif text:
        parts.append(text)


def plain_path(source: str) -> tuple[Translation, Path] | None:
    """The translation of a string that is one `{{ }}` around a path of names, and the path; None for every other."""
    match = _PLAIN_PATH.fullmatch(source) if len(source) <= PLAIN_CHARACTERS else None
    if match is None:
        return None
    root, keys = match[1], match[2].split(".")[1:]
    if root in ROOTS or (root == "steps" and keys) or (root == "secrets" and len(keys) == 1):
        path = Path(root, tuple(keys))
        return Translation([path], code=FIRST_PATH, path=path), path
    return None


def translate_hole(hole: Hole) -> tuple[Translation, Term]:
    """The translation of one `{{ }}`, and its term."""
    translation = Translation()
    parser = Parser(translation, hole.tokens, hole.source)
    if not hole.tokens:
        raise parser.error("The expression is empty.")
    code = parser.expression()
    parser.finish()
    translation.code = code.text
    translation.path = translation.paths[0] if code.text == FIRST_PATH else None
    return translation, code.term


def translate_template(parts: list[str | Hole], source: str) -> tuple[Translation, list[Piece]]:
    """The translation of a text with tags, for minijinja to render, and its terms in reading order."""
    template = _Template(source)
    for part in parts:
        if isinstance(part, str):
            template.text(part)
        elif part.is_tag:
            template.tag(part)
        else:
            template.hole(part)
    return template.finish(), template.pieces


@dataclass(slots=True)
class _Block:
    """An open {% for %} or {% if %}."""

    kind: str
    source: str
    levels: int = 1  # what it adds to the depth: each elif nests in the one before
    has_else: bool = False
    names: set[str] = field(default_factory=set)  # defined in the branch that is being read
    common: set[str] | None = None  # of an if: defined in every branch read before


class _Template:
    def __init__(self, source: str) -> None:
        self.source = source
        self.translation = Translation()
        self.pieces: list[Piece] = []
        self.code: list[str] = []
        self.blocks = [_Block("", "")]  # the first stands for the whole text
        self.tags = 0

    # ── what is in scope ──────────────────────────────────────────────────────────────────────────────────────────

    @property
    def is_guarded(self) -> bool:
        return any(block.kind == "if" for block in self.blocks)

    @property
    def in_loop(self) -> bool:
        return any(block.kind == "for" for block in self.blocks)

    def parser(self, tokens: list[Token], source: str) -> Parser:
        names = frozenset().union(*[block.names for block in self.blocks])
        return Parser(self.translation, tokens, source, names, self.in_loop)

    def emit(self, text: str, pattern: str) -> None:
        self.code.append(pattern.replace("…", text))

    def piece(self, term: Term, is_guarded: bool) -> None:
        self.pieces.append(Piece(term, is_guarded))

    # ── parts ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def text(self, text: str) -> None:
        name = self.translation.constant(text)
        self.emit(name, "{{ out_(…) }}" if self.in_loop else "{{ … }}")

    def hole(self, hole: Hole) -> None:
        parser = self.parser(hole.tokens, hole.source)
        if not hole.tokens:
            raise parser.error("The expression is empty.")
        code = parser.expression()
        parser.finish()
        self.piece(code.term, self.is_guarded)
        self.emit(code.text, "{{ out_(…) }}")

    def tag(self, tag: Hole) -> None:
        self.tags += 1
        parser = self.parser(tag.tokens[1:], tag.source)
        if self.tags > TEMPLATE_TAGS:
            raise parser.error(f"The text has more than {TEMPLATE_TAGS} tags.", "limit.expression")
        name = tag.tokens[0] if tag.tokens else ""
        match name:
            case "for":
                self.open_for(parser, tag)
            case "if":
                is_guarded = self.is_guarded
                self.open(_Block("if", tag.source), parser)
                self.condition(parser, "{% if … %}", is_guarded)
            case "elif":
                block = self.branch(parser, "elif", ("if",))
                block.levels += 1
                self.check_depth(parser)
                self.condition(parser, "{% elif … %}", True)  # asked only if those before it do not hold
            case "else":
                self.branch(parser, "else", ("if", "for")).has_else = True
                self.emit("", "{% else %}")
            case "endif" | "endfor":
                self.close(parser, name.removeprefix("end"))
                self.emit("", f"{{% {name} %}}")
            case "set":
                self.assign(parser)
            case _:
                raise parser.error(f"The tag `{name}` cannot be used; there are {_TAGS}.")
        parser.finish()

    def condition(self, parser: Parser, pattern: str, is_guarded: bool) -> None:
        code = parser.expression()
        self.piece(code.term, is_guarded)
        self.emit(code.text, pattern)

    def open_for(self, parser: Parser, tag: Hole) -> None:
        names = [self.new_name(parser)]
        while parser.skip(","):
            names.append(self.new_name(parser))
        parser.expect("in")
        rows = parser.either()
        self.piece(rows.term, self.is_guarded)
        block = _Block("for", tag.source, names={*names, "loop"})
        self.open(block, parser)
        text = f"keep_({rows.text})"
        if parser.skip("if"):
            parser.names |= block.names
            parser.in_loop = True
            condition = parser.either()
            self.piece(condition.term, True)
            text = f"{text} if {condition.text}"
        self.emit(text, "{% for " + ", ".join(f"v_{name}" for name in names) + " in … %}")

    def assign(self, parser: Parser) -> None:
        name = self.new_name(parser)
        if not parser.skip("="):
            raise parser.error("`set` needs one name and `=`; blocks and several names cannot be set.")
        code = parser.expression()
        self.piece(code.term, self.is_guarded)
        self.emit(code.text, f"{{% set v_{name} = keep_(…) %}}")
        self.blocks[-1].names.add(name)

    def new_name(self, parser: Parser) -> str:
        name = parser.name()
        if name == "loop":
            raise parser.error("The name `loop` is taken: it tells where a loop is.")
        return name

    # ── blocks ────────────────────────────────────────────────────────────────────────────────────────────────────

    def open(self, block: _Block, parser: Parser) -> None:
        self.blocks.append(block)
        self.check_depth(parser)

    def check_depth(self, parser: Parser) -> None:
        if sum(block.levels for block in self.blocks) - 1 > BLOCK_DEPTH:
            raise parser.error(f"Tags are nested deeper than {BLOCK_DEPTH} levels.", "limit.expression")

    def branch(self, parser: Parser, name: str, kinds: tuple[str, ...]) -> _Block:
        block = self.blocks[-1]
        if block.kind not in kinds or block.has_else:
            raise parser.error(f"`{name}` has no `{kinds[0]}` before it.")
        block.common = set(block.names) if block.common is None else block.common & block.names
        block.names = set()
        return block

    def close(self, parser: Parser, kind: str) -> None:
        block = self.blocks[-1]
        if block.kind != kind:
            raise parser.error(f"`end{kind}` closes nothing that is open here.")
        self.blocks.pop()
        if kind == "if" and block.has_else and block.common is not None:
            self.blocks[-1].names |= block.common & block.names  # set in every branch, so defined from here on

    def finish(self) -> Translation:
        if len(self.blocks) > 1:
            block = self.blocks[-1]
            raise syntax_error(f"`{block.kind}` has no `end{block.kind}`.", block.source)
        self.translation.code = "".join(self.code)
        return self.translation
