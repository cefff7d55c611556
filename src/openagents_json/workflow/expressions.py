"""Expressions in definitions: compiled once, evaluated with the names that are in scope.

A string that is exactly one `{{ … }}` gives the value with its type; in other text, holes are filled in and `{% %}` is
allowed. A plain path such as `steps.rows.output[0].name` is resolved here; everything else is translated (grammar.py,
templates.py) and run by minijinja within bounds (evaluation.py). Data is never compiled as an expression.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, Protocol

from openagents_json.errors import ExpressionError
from openagents_json.jsondata import FrozenDict
from openagents_json.workflow import evaluation, templates
from openagents_json.workflow.bounds import (
    MISSING,
    RENDERED_BYTES,
    Evaluation,
    Exhausted,
    Refused,
    Undefined,
    describe,
    look_up,
    number,
    result,
    text_of,
)
from openagents_json.workflow.evaluation import explain
from openagents_json.workflow.grammar import Translation
from openagents_json.workflow.terms import UNKNOWN, Path, Piece, Term, Text
from openagents_json.workflow.tokens import shorten, syntax_error

NESTING = 100  # levels of a value with templates in it
CACHED_CHARACTERS = 1_000  # longer strings are compiled anew
_NONE: frozenset[str] = frozenset()  # shared: no names
REFERENCE_ROOTS = frozenset(["inputs", "item", "index", "iteration", "last", "steps"])


class Names(Protocol):
    """What an expression can see where it stands. All data is frozen plain JSON."""

    def value(self, name: str) -> Any:
        """The value of inputs, item, index, iteration, last, job or error; KeyError where it is not in scope."""
        ...

    def step(self, step_id: str) -> Mapping[str, Any]:
        """{"output", "success", "status", "error"} of a step; KeyError when there is none."""
        ...

    def secret(self, name: str) -> str:
        """The value of a secret; KeyError when it does not exist or secrets are not available here."""
        ...


@dataclass(frozen=True, slots=True)
class Template:
    """A JSON value with expressions in it, compiled.

    `render` returns plain JSON (parts of the data come back frozen, as they are) or raises ExpressionError.
    """

    source: Any  # the value as written
    steps: frozenset[str]  # ids of the steps it refers to
    roots: frozenset[str]  # other roots: inputs, item, index, iteration, last, job, error
    inputs: frozenset[str]  # names right under `inputs`
    secrets: frozenset[str]  # names under `secrets`
    is_constant: bool  # no expression inside: render returns `source`; treat it as immutable
    is_reference: bool  # exactly one `{{ path }}` that starts at one of REFERENCE_ROOTS
    _render: Callable[[Names], Any] = field(repr=False, compare=False)
    # For the static check: what a string with expressions is made of, and the members of an object or list with such.
    text: Text | None = field(default=None, repr=False, compare=False)
    members: dict[str, Template] | list[Template] | None = field(default=None, repr=False, compare=False)

    def render(self, names: Names) -> Any:
        """The value with every expression evaluated. ExpressionError: undefined, invalid, or over a limit."""
        return self._render(names)


def compile_template(value: Any) -> Template:
    """Any JSON value as a template: strings in it are templates, keys are not. ExpressionError if one is wrong."""
    return _compile(value, 0)


def compile_condition(source: str | bool) -> Template:
    """A template whose `render` gives a bool. ExpressionError if it is neither a bool nor exactly one `{{ … }}`."""
    if isinstance(source, bool):
        return _constant(source)
    if not isinstance(source, str):
        raise _not_a_condition(str(source))
    translation, term = templates.plain_path(source.strip()) or _one_hole(source)
    render = partial(_truth, _evaluator(translation, source.strip()), source)
    return _template(source, translation.paths, render, Text((Piece(term),), True))


def _truth(evaluate: Callable[[Names], Any], source: str, names: Names) -> bool:
    value = evaluate(names)
    if value is True or value is False:
        return value
    advice = "Compare with `is not none`." if value is None else "Compare, or use `is not none` or `| length > 0`."
    message = f"A condition must be true or false, but this is {_kind(value)}. {advice} In: {shorten(source)}"
    raise ExpressionError(message, expression=source, code="expression.invalid")


def broken_template(value: Any) -> Template:
    """Stands for a value that does not compile: null. Of what in it does compile, types and references can be told."""
    text: Text | None = None
    members: dict[str, Template] | list[Template] | None = None
    if isinstance(value, str):
        try:
            text = compile_template(value).text
        except ExpressionError:
            text = None
        if text is None or not text.pieces:
            text = Text((Piece(UNKNOWN),), is_value="{{" in value)
    elif isinstance(value, dict):
        members = {key: broken_template(member) for key, member in value.items()}
    elif isinstance(value, list):
        members = [broken_template(member) for member in value]
    else:
        return _constant(value)
    return Template(None, _NONE, _NONE, _NONE, _NONE, True, False, lambda names: None, text, members)


def _one_hole(source: str) -> tuple[Translation, Term]:
    parts = templates.split(source.strip())
    if len(parts) != 1 or isinstance(parts[0], str) or parts[0].is_tag:
        raise _not_a_condition(source)
    return templates.translate_hole(parts[0])


def _not_a_condition(source: str) -> ExpressionError:
    return syntax_error("A condition is true, false or exactly one `{{ … }}`.", source)


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, str):
        return "a string"
    return "a number" if isinstance(value, int | float) else "an object" if isinstance(value, dict) else "a list"


# ── compiling ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _compile(value: Any, depth: int) -> Template:
    if isinstance(value, str):
        if not templates.has_markup(value):
            return _constant(value)
        return _cached_string(value) if len(value) <= CACHED_CHARACTERS else _compile_string(value)
    if not isinstance(value, dict | list):
        return _constant(value)
    if depth >= NESTING:
        raise syntax_error(f"The value is nested deeper than {NESTING} levels.", "…", "limit.expression")
    if isinstance(value, dict):
        return _compile_object(value, depth)
    return _compile_list(value, depth)


def _compile_object(value: dict[str, Any], depth: int) -> Template:
    members = {key: _compile(member, depth + 1) for key, member in value.items()}
    if all(member.is_constant for member in members.values()):
        return _constant(value)
    renders = [(key, member._render) for key, member in members.items()]
    return _merged(value, members, lambda names: {key: render(names) for key, render in renders})


def _compile_list(value: list[Any], depth: int) -> Template:
    members = [_compile(member, depth + 1) for member in value]
    if all(member.is_constant for member in members):
        return _constant(value)
    renders = [member._render for member in members]
    return _merged(value, members, lambda names: [render(names) for render in renders])


def _compile_string(source: str) -> Template:
    if (plain := templates.plain_path(source)) is not None:
        return _value_template(*plain, source)
    parts = templates.split(source)
    if len(parts) == 1 and not isinstance(parts[0], str) and not parts[0].is_tag:
        return _value_template(*templates.translate_hole(parts[0]), source)
    if all(isinstance(part, str) for part in parts):  # comments and raw blocks only
        text = "".join(part for part in parts if isinstance(part, str))
        return _template(source, [], lambda names: text, Text((), False))
    if any(isinstance(part, templates.Hole) and part.is_tag for part in parts):
        translation, pieces = templates.translate_template(parts, source)
        return _template(source, translation.paths, _text_evaluator(translation, source), Text(tuple(pieces), False))
    return _compile_mixed(source, parts)


def _value_template(translation: Translation, term: Term, source: str) -> Template:
    """The template of exactly one `{{ }}`."""
    path = translation.path
    is_reference = path is not None and path.root in REFERENCE_ROOTS
    text = Text((Piece(term),), True)
    return _template(source, translation.paths, _evaluator(translation, source), text, is_reference)


_cached_string = lru_cache(maxsize=4096)(_compile_string)


def _compile_mixed(source: str, parts: list[str | templates.Hole]) -> Template:
    """Text with holes but without tags: filled in here, hole by hole."""
    paths: list[Path] = []
    pieces: list[str | Callable[[Names], Any]] = []
    terms: list[Piece] = []
    for part in parts:
        if isinstance(part, str):
            pieces.append(part)
        else:
            translation, term = templates.translate_hole(part)
            paths += translation.paths
            terms.append(Piece(term))
            pieces.append(_evaluator(translation, part.source))

    def render(names: Names) -> str:
        return _filled(pieces, names, source)

    return _template(source, paths, render, Text(tuple(terms), False))


def _filled(pieces: list[str | Callable[[Names], Any]], names: Names, source: str) -> str:
    texts: list[str] = []
    characters = 0
    for piece in pieces:
        text = piece if isinstance(piece, str) else _text(piece(names), source)
        texts.append(text)
        characters += len(text)
        if characters > RENDERED_BYTES:
            raise _too_long(source)
    return _checked_text("".join(texts), source)


def _text(value: Any, source: str) -> str:
    try:
        return text_of(value)
    except (Refused, Exhausted) as error:
        raise explain(error, source) from None


def _checked_text(text: str, source: str) -> str:
    limit = RENDERED_BYTES
    if len(text) > limit or (len(text) * 4 > limit and len(text.encode()) > limit):
        raise _too_long(source)
    return text


def _too_long(source: str) -> ExpressionError:
    return explain(Exhausted("its text is longer than 1 MiB"), source)


def _constant(value: Any) -> Template:
    return Template(value, _NONE, _NONE, _NONE, _NONE, True, False, lambda names: value)


def _template(
    source: str, paths: list[Path], render: Callable[[Names], Any], text: Text, is_reference: bool = False
) -> Template:
    roots: set[str] = set()
    under: dict[str, set[str]] = {}
    for path in paths:
        if path.root not in ("steps", "secrets"):
            roots.add(path.root)
        if path.keys:
            under.setdefault(path.root, set()).add(str(path.keys[0]))
    return Template(
        source=source,
        steps=frozenset(under["steps"]) if "steps" in under else _NONE,
        roots=frozenset(roots) if roots else _NONE,
        inputs=frozenset(under["inputs"]) if "inputs" in under else _NONE,
        secrets=frozenset(under["secrets"]) if "secrets" in under else _NONE,
        is_constant=False,
        is_reference=is_reference,
        _render=render,
        text=text,
    )


def _merged(source: Any, members: dict[str, Template] | list[Template], render: Callable[[Names], Any]) -> Template:
    several = members.values() if isinstance(members, dict) else members
    return Template(
        source=source,
        steps=_NONE.union(*[member.steps for member in several]),
        roots=_NONE.union(*[member.roots for member in several]),
        inputs=_NONE.union(*[member.inputs for member in several]),
        secrets=_NONE.union(*[member.secrets for member in several]),
        is_constant=False,
        is_reference=False,
        _render=render,
        members=members,
    )


# ── evaluating ────────────────────────────────────────────────────────────────────────────────────────────────────


def _evaluator(translation: Translation, source: str) -> Callable[[Names], Any]:
    """The function that gives the value of one `{{ }}`."""
    if translation.path is not None:
        return _path_evaluator(translation.path, source)
    return partial(_run, translation, source, False)


def _text_evaluator(translation: Translation, source: str) -> Callable[[Names], Any]:
    return lambda names: _checked_text(_run(translation, source, True, names), source)


def _run(translation: Translation, source: str, text: bool, names: Names) -> Any:
    paths = translation.paths
    values = [_resolve(path, names) for path in paths]
    try:
        context, rows = _context(translation, values)
        running = Evaluation(values, lambda number: _why_missing(paths[number], names))
        code = translation.spelled(some_missing=MISSING in values)
        value = evaluation.run(code, context, running, rows, text=text)
        return value if text else result(value)
    except Exception as error:  # what comes out of an expression is an ExpressionError, whatever it did
        raise _without_secrets(explain(error, source), paths, values) from None


def _context(translation: Translation, values: list[Any]) -> tuple[dict[str, Any], int]:
    """The variables of the translation, and how many rows their data has."""
    context = dict(translation.constants)
    rows = 0
    for place, value in enumerate(values):
        if value is MISSING:
            continue
        kind = type(value)
        if kind is int:
            number(value)
        elif kind is not str:
            rows += evaluation.rows_of(value)
        context[f"p{place}"] = value
    if rows * translation.work > evaluation.WORK:
        raise Exhausted(f"its data has {rows:,} rows, too many for {translation.work} operations on them")
    return context, rows


def _without_secrets(error: ExpressionError, paths: list[Path], values: list[Any]) -> ExpressionError:
    """The error with the values of secrets blacked out: a message may quote a key or an operand."""
    message = str(error)
    for path, value in zip(paths, values, strict=True):
        if path.root == "secrets" and isinstance(value, str) and value:
            message = message.replace(value, "***")
    return ExpressionError(message, expression=error.expression, code=error.code) if message != str(error) else error


# ── paths ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _path_evaluator(path: Path, source: str) -> Callable[[Names], Any]:
    """The fast way: a plain path without minijinja, with the same outcome."""
    if path.root == "secrets" or (path.root == "steps" and len(path.keys) == 1):
        return partial(_carefully, path, source)
    keys: tuple[Any, ...] = path.keys
    if path.root == "steps":
        return partial(_step_value, path, source, str(keys[0]), keys[1:])
    return partial(_root_value, path, source, keys)


def _step_value(path: Path, source: str, step_id: str, keys: tuple[Any, ...], names: Names) -> Any:
    try:
        value: Any = names.step(step_id)
        for key in keys:
            value = value[key]
    except (KeyError, IndexError, TypeError):
        return _carefully(path, source, names)
    return value


def _root_value(path: Path, source: str, keys: tuple[Any, ...], names: Names) -> Any:
    try:
        value = names.value(path.root)
        for key in keys:
            value = value[key]
    except (KeyError, IndexError, TypeError):
        return _carefully(path, source, names)
    return value


def _carefully(path: Path, source: str, names: Names) -> Any:
    value = _resolve(path, names)
    if value is MISSING:
        raise explain(Undefined(_why_missing(path, names)), source)
    return value


def _resolve(path: Path, names: Names) -> Any:
    """The value at the path, or MISSING."""
    keys: tuple[Any, ...] = path.keys
    try:
        if path.root == "secrets":
            return names.secret(keys[0])
        if path.root == "steps":
            step = names.step(keys[0])
            value, keys = (step if isinstance(step, dict) else FrozenDict(step)), keys[1:]
        else:
            value = names.value(path.root)
    except KeyError:
        return MISSING
    for key in keys:
        value = look_up(value, key)
        if value is MISSING:
            break
    return value


def _why_missing(path: Path, names: Names) -> str:
    """The sentence about a path that has no value: how far it goes, and what stands there."""
    first = 1 if path.root in ("steps", "secrets") else 0
    for end in range(first, len(path.keys) + 1):
        part = Path(path.root, path.keys[:end])
        if _resolve(part, names) is MISSING:
            break
    if end == first:
        return f"`{path}` is undefined: {_absent(part)}"
    holder = Path(path.root, path.keys[: end - 1])
    value = _resolve(holder, names)
    reason = f"`{holder}` is {describe(value)}"
    if value is None and path.root == "steps" and names.step(str(path.keys[0])).get("status") == "SKIPPED":
        reason += f", because the step {path.keys[0]!r} was skipped"
    return f"`{path}` is undefined: {reason}"


def _absent(start: Path) -> str:
    if start.root == "steps":
        return f"the step {start.keys[0]!r} has no result here"
    if start.root == "secrets":
        return "there is no such secret, or secrets cannot be used here"
    return f"`{start.root}` does not exist here"
