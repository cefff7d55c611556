"""Runs translated expressions (grammar.py) in minijinja, with bounds on time, memory and what may come out.

minijinja's fuel counts its own instructions. What one instruction may cost is bounded here: everything that can make a
large value from a small one (`+`, `*`, `~`, `join`, `replace` …) is a Python function of ours that pays from a budget
for what it makes, and every function of ours looks at the clock of its thread.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import minijinja
import msgspec

from openagents_json.errors import ExpressionError
from openagents_json.jsondata import FrozenDict, FrozenList, encode
from openagents_json.workflow.grammar import shorten

FUEL = 50_000
FUEL_PER_ROW = 40
MAX_FUEL = 2_000_000
RENDERED_BYTES = 1024 * 1024  # of one rendered string
RESULT_NODES = 1_000_000
RESULT_BYTES = 10 * 1024 * 1024
UNITS = 2_000_000  # list items made, and characters of strings divided by 8, in one evaluation
CPU_S = 0.7  # of the evaluating thread; looked at whenever one of our functions is called
WORK = 20_000_000  # operations of the expression times rows of its data

MISSING: Any = object()


class Undefined(Exception):
    """A value was asked for that is not there; the text says what. Becomes an ExpressionError with the expression."""


class Refused(Exception):
    """An operation that is not possible or not allowed here; the text says why."""


class Exhausted(Exception):
    """A bound was reached; the text says which."""


class Evaluation:
    """What one evaluation has used up. Lives in the thread that evaluates, for as long as it does."""

    __slots__ = ("deadline", "missing", "units", "values")

    def __init__(self, values: Sequence[Any], missing: Mapping[int, str]) -> None:
        self.values = values  # of the paths; MISSING where there is none
        self.missing = missing  # why, by number of the path
        self.units = UNITS
        self.deadline = time.thread_time() + CPU_S

    def pay(self, units: int) -> None:
        self.units -= units + 1
        if self.units < 0:
            raise Exhausted("it makes too much data on the way")
        if time.thread_time() > self.deadline:
            raise Exhausted(f"it takes more than {CPU_S} s")


class _Thread(threading.local):
    """Each thread has its own environment, because fuel is a setting of the environment."""

    evaluation: Evaluation

    def __init__(self) -> None:
        self.environment = _environment()


def run(code: str, context: dict[str, Any], evaluation: Evaluation, rows: int, *, text: bool = False) -> Any:
    """The value of a translated expression, or the text of a translated template.

    Raises Undefined, Refused, Exhausted or minijinja.TemplateError; nothing else, whatever the code.
    """
    thread = _thread
    fuel = min(MAX_FUEL, FUEL + FUEL_PER_ROW * rows)
    environment = thread.environment
    if environment.fuel != fuel:
        environment.fuel = fuel
    thread.evaluation = evaluation
    if text:
        return environment.render_str(code, **context)
    return environment.eval_expr(code, **context)


def explain(error: Exception, source: str) -> ExpressionError:
    """The ExpressionError for whatever `run` raised: what happened, the expression, what to do."""
    code, message = "expression.invalid", "The expression failed: a filter or test got arguments it does not take."
    if isinstance(error, Refused):
        message = f"The expression failed: {error}."
    elif isinstance(error, Undefined):
        code, message = "expression.undefined", f"{error}. Use `| default(…)` if it may be missing."
    elif isinstance(error, Exhausted):
        code, message = "limit.expression", f"The expression was stopped: {error}. Do this work in a component."
    elif isinstance(error, minijinja.TemplateError):
        if error.kind == "OutOfFuel":
            code = "limit.expression"
            message = "The expression was stopped: it takes too many operations. Do this work in a component."
        elif error.kind == "UndefinedError":
            code = "expression.undefined"
            message = "The expression uses a value that is undefined. Use `| default(…)` if it may be missing."
        else:
            message = f"The expression failed: {_sentence(error)}."
    return ExpressionError(f"{message} In: {shorten(source)}", expression=source, code=code)


def _sentence(error: minijinja.TemplateError) -> str:
    detail = error.detail or re.sub(r"(?<=[a-z])(?=[A-Z])", " ", error.kind).lower()
    return shorten(re.sub(r"\bv_([A-Za-z_])", r"\1", detail)).rstrip(".")


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
        if kind is str or kind is bool or value is None:
            if kind is str:
                self.spend(len(value))
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
        if isinstance(value, str):  # Markup
            return str.__str__(value)
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
    """A finite number that minijinja can carry: integers of more than 128 bits would silently become floats there."""
    if type(value) is int:
        if not -(2**127) <= value < 2**128:
            raise Refused("an integer of more than 128 bits can be passed on as a whole `{{ path }}` only")
    elif not -1.8e308 < value < 1.8e308:
        raise Refused("its result is not a finite number")
    return value


def text_of(value: Any) -> str:
    """A value as it stands in text: strings as they are, everything else as JSON."""
    kind = type(value)
    if kind is str:
        return value  # type: ignore[no-any-return]
    if kind is int or kind is float:
        return repr(value)
    if isinstance(value, str):
        return str.__str__(value)
    try:
        return encode(result(value)).decode()
    except (TypeError, msgspec.EncodeError) as error:
        raise Refused(f"a part of the text is no JSON ({error})") from None


def rows_of(value: Any) -> int:
    """How many rows a value referred to brings along: the items of a list, the entries of an object."""
    return len(value) if isinstance(value, list | dict) else 0


# ── looking things up ─────────────────────────────────────────────────────────────────────────────────────────────


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


def _walk(value: Any, keys: tuple[Any, ...]) -> tuple[Any, str]:
    """The member at the end of the keys, or MISSING and a sentence about where it went wrong."""
    evaluation = _thread.evaluation
    evaluation.pay(len(value) if type(value) in (list, dict) else 0)  # minijinja's own value was copied to get here
    for key in keys:
        member = look_up(value, key)
        if member is MISSING:
            return MISSING, f"There is no {_key(key)} in {describe(value)}"
        value = member
    if type(value) is str:
        evaluation.pay(len(value) >> 3)
    return value, ""


def _key(key: Any) -> str:
    return f"field {shorten(key)!r}" if isinstance(key, str) else f"index {key!r}"


def describe(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, dict):
        names = ", ".join(repr(name) for name in list(value)[:5])
        return f"an object (it has {names or 'no fields'}{', …' if len(value) > 5 else ''})"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    return {str: "a string", bool: "a boolean", int: "a number", float: "a number"}.get(type(value), "this value")


def _get(value: Any, *keys: Any) -> Any:
    found, problem = _walk(value, keys)
    if found is MISSING:
        raise Undefined(problem)
    return found


def _find(value: Any, *keys: Any) -> Any:
    found, _ = _walk(value, keys)
    return None if found is MISSING else found


def _exists(value: Any, *keys: Any) -> bool:
    return _walk(value, keys)[0] is not MISSING


def _at(path: int) -> Any:
    """The value of a path, in the slow form, where some path has none."""
    evaluation = _thread.evaluation
    value = evaluation.values[path]
    if value is MISSING:
        raise Undefined(evaluation.missing[path])
    return value


def _may(path: int) -> Any:
    value = _thread.evaluation.values[path]
    return None if value is MISSING else value


def _has(path: int) -> bool:
    return _thread.evaluation.values[path] is not MISSING


# ── operators that could grow ─────────────────────────────────────────────────────────────────────────────────────


def _use(value: Any) -> Any:
    """Pays for a value that an operation inside a loop is about to visit."""
    if isinstance(value, list | dict):
        _thread.evaluation.pay(len(value))
    else:
        _thread.evaluation.pay(len(value) >> 3 if isinstance(value, str) else 0)
    return value


def _string(value: str) -> str:
    """Pays for a string that was made, and refuses it when it is too long."""
    if len(value) > RENDERED_BYTES:
        raise Exhausted("it makes a string of more than 1 MiB")
    _thread.evaluation.pay(len(value) >> 3)
    return value


def _add(first: Any, *others: Any) -> Any:
    for other in others:
        first = _sum(first, other)
    return first


def _sum(a: Any, b: Any) -> Any:
    if isinstance(a, int | float) and isinstance(b, int | float):
        _thread.evaluation.pay(0)
        return number(a + b)
    if isinstance(a, str) and isinstance(b, str):
        return _string(a + b)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        _thread.evaluation.pay(len(a) + len(b))
        return [*a, *b]
    raise Refused(f"`+` cannot add {describe(b)} to {describe(a)}; `~` joins text")


def _multiply(first: Any, *others: Any) -> Any:
    for other in others:
        if isinstance(first, int | float) and isinstance(other, int | float):
            _thread.evaluation.pay(0)
            first = number(first * other)
        elif isinstance(first, str) and isinstance(other, int):
            _room(len(first) * other)
            first = _string(first * other)
        else:
            raise Refused(f"`*` cannot multiply {describe(first)} by {describe(other)}")
    return first


def _room(characters: int) -> None:
    if characters > RENDERED_BYTES:
        raise Exhausted("it makes a string of more than 1 MiB")


def _concatenate(*parts: Any) -> str:
    return _joined("", parts)


def _slice(value: Any, start: Any, stop: Any, step: Any) -> Any:
    if not isinstance(value, list | str | tuple):
        raise Refused(f"a slice cannot be taken of {describe(value)}")
    try:
        part = value[start:stop:step]
    except (TypeError, ValueError) as error:
        raise Refused(str(error)) from None
    _thread.evaluation.pay(len(part))
    return list(part) if isinstance(part, tuple) else part


def _filled(value: Any) -> Any:
    """The value, if there is something in it: first, last, min and max of nothing are undefined."""
    if isinstance(value, list | dict | str | tuple) and not value:
        raise Undefined(f"The first, last, smallest or largest of {describe(value)} does not exist")
    return _use(value)


def _out(value: Any) -> str:
    """What a hole puts into the text."""
    return _string(text_of(value))


# ── filters ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _default(value: Any, default_value: Any = "", boolean: bool = False) -> Any:
    if value is None or (boolean and not value):
        return _use(default_value)
    return value


def _tojson(value: Any, indent: int | None = None) -> str:
    encoded = encode(result(value))
    if indent:
        if not 0 <= indent <= 8:
            raise Refused("tojson indents by at most 8")
        _room(len(encoded))
        encoded = msgspec.json.format(encoded, indent=indent)
    return _string(encoded.decode())


def _join(value: Any, d: str = "", attribute: Any = None) -> str:
    members = value if attribute is None else _attribute(value, attribute)
    if isinstance(members, str):
        members = list(members)
    if not isinstance(members, list | tuple | dict):
        raise Refused(f"join needs a list, not {describe(members)}")
    return _joined(text_of(d), members)


def _joined(separator: str, members: Iterable[Any]) -> str:
    texts = []
    characters = 0
    for member in members:
        texts.append(text_of(member))
        characters += len(texts[-1]) + len(separator)
        _room(characters - len(separator))
    return _string(separator.join(texts))


def _replace(value: Any, old: str, new: str) -> str:
    text, old, new = text_of(value), text_of(old), text_of(new)
    _room(len(text) + text.count(old) * (len(new) - len(old)))
    return _string(text.replace(old, new))


def _indent(value: Any, width: int = 4, first: bool = False, blank: bool = False) -> str:
    text = text_of(value)
    _room(len(text) + (text.count("\n") + 1) * width)
    lines = text.split("\n")
    pad = " " * width
    indented = [pad + line if (line or blank) and (first or place) else line for place, line in enumerate(lines)]
    return _string("\n".join(indented))


def _center(value: Any, width: int = 80) -> str:
    text = text_of(value)
    _room(max(len(text), width))
    return _string(text.center(width))


def _truncate(value: Any, length: int = 255, killwords: bool = False, end: str = "...") -> str:
    text = text_of(value)
    if len(text) <= length:
        return _string(text)
    cut = text[: max(0, length - len(end))]
    if not killwords and " " in cut:
        cut = cut.rsplit(" ", 1)[0]
    return _string(cut + text_of(end))


_FORMAT = re.compile(r"%[-+ 0#]*(\d{0,3})(?:\.(\d{1,3}))?[a-zA-Z%]")


def _format(value: Any, *arguments: Any) -> str:
    pattern = text_of(value)
    if pattern.count("%") != sum(match.count("%") for match in (m.group() for m in _FORMAT.finditer(pattern))):
        raise Refused("format knows forms such as %s, %d, %5.2f with widths up to 999")
    _room(len(pattern) + pattern.count("%") * 1000 + sum(len(text_of(argument)) for argument in arguments))
    try:
        return _string(pattern % tuple(a if isinstance(a, int | float) else text_of(a) for a in arguments))
    except (TypeError, ValueError, OverflowError) as error:
        raise Refused(f"format: {error}") from None


def _text(value: Any) -> str:
    return _string(text_of(value))


def _attribute(value: Any, attribute: Any, default: Any = MISSING) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise Refused(f"map needs a list, not {describe(value)}")
    keys = [int(key) if key.isdigit() else key for key in str(attribute).split(".")]
    _thread.evaluation.pay(len(value) * len(keys))
    found = []
    for place, row in enumerate(value):
        for key in keys:
            row = look_up(row, key)
            if row is MISSING:
                break
        if row is MISSING or (row is None and default is not MISSING):
            if default is MISSING:
                raise Undefined(f"Item {place} of the list has no {shorten(str(attribute))!r}")
            row = _use(default)
        found.append(row)
    return found


def _batch(value: Any, count: int, fill_with: Any = None) -> list[list[Any]]:
    rows = _rows(value, count)
    batches = [rows[start : start + count] for start in range(0, len(rows), count)]
    if fill_with is not None and batches:
        batches[-1] += [fill_with] * (count - len(batches[-1]))
    return batches


def _slices(value: Any, count: int, fill_with: Any = None) -> list[list[Any]]:
    rows = _rows(value, count)
    size, larger = divmod(len(rows), count)
    slices = []
    start = 0
    for place in range(count):
        end = start + size + (place < larger)
        slices.append(rows[start:end] + ([fill_with] if fill_with is not None and larger and place >= larger else []))
        start = end
    return slices


def _rows(value: Any, count: int) -> list[Any]:
    if not isinstance(value, list | tuple) or not isinstance(count, int) or not 1 <= count <= 10_000:
        raise Refused("batch and slice need a list and a count from 1 to 10,000")
    _thread.evaluation.pay(len(value) + count)
    return list(value)


def _split(value: Any, separator: str | None = None, maximum: int = -1) -> list[str]:
    text = text_of(value)
    if separator == "":
        raise Refused("split needs a separator that is not empty")
    parts = text.split(separator, maximum)
    _thread.evaluation.pay(len(parts) * 4 + (len(text) >> 3))
    return parts


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list | tuple | dict | str):
        raise Refused(f"list cannot be made of {describe(value)}")
    _thread.evaluation.pay(len(value) * (4 if isinstance(value, str) else 1))
    return list(value)


def _items(value: Any) -> list[list[Any]]:
    return [list(pair) for pair in _object(value, "items").items()]


def _keys(value: Any) -> list[Any]:
    return list(_object(value, "keys"))


def _values(value: Any) -> list[Any]:
    return list(_object(value, "values").values())


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Refused(f"{name} needs an object, not {describe(value)}")
    _thread.evaluation.pay(len(value))
    return value


def _contained(value: Any, container: Any) -> bool:
    """The test `in`, as select and selectattr use it once per row."""
    _use(container)
    if isinstance(container, str):
        return isinstance(value, str) and value in container
    if isinstance(container, dict):
        return isinstance(value, str) and value in container
    if isinstance(container, list | tuple):
        return value in container
    raise Refused(f"`in` needs a list, an object or a string, not {describe(container)}")


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "get_": _get,
    "find_": _find,
    "exists_": _exists,
    "at_": _at,
    "may_": _may,
    "has_": _has,
    "use_": _use,
    "add_": _add,
    "mul_": _multiply,
    "cat_": _concatenate,
    "slice_": _slice,
    "filled_": _filled,
    "out_": _out,
}
OWN_FILTERS: dict[str, Callable[..., Any]] = {
    "attribute": _attribute,
    "batch": _batch,
    "center": _center,
    "d": _default,
    "default": _default,
    "format": _format,
    "indent": _indent,
    "items": _items,
    "join": _join,
    "keys": _keys,
    "list": _list,
    "replace": _replace,
    "slice": _slices,
    "split": _split,
    "string": _text,
    "tojson": _tojson,
    "truncate": _truncate,
    "values": _values,
}


def _environment() -> minijinja.Environment:
    environment = minijinja.Environment(
        undefined_behavior="strict",
        fuel=FUEL,
        debug=False,
        pycompat=False,
        keep_trailing_newline=True,
        auto_escape_callback=lambda name: False,
    )
    for name in set(environment.globals) - {"range"}:
        environment.remove_global(name)
    for name, function in FUNCTIONS.items():
        environment.add_global(name, function)
    for name, function in OWN_FILTERS.items():
        environment.add_filter(name, function)
    environment.add_test("in", _contained)
    return environment


_thread = _Thread()
