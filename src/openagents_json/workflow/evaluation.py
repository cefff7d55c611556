"""Runs translated expressions (grammar.py) in minijinja.

minijinja's fuel counts its own instructions. What one instruction may cost is bounded by bounds.py: everything that can
make a large value from a small one (`+`, `*`, `~`, `join`, `replace` …) is a Python function of ours that pays for it.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

import minijinja

from openagents_json.errors import ExpressionError
from openagents_json.workflow.bounds import (
    MISSING,
    Evaluation,
    Exhausted,
    Refused,
    Undefined,
    current,
    describe,
    describe_key,
    evaluation,
    joined,
    look_up,
    made,
    number,
    pay,
    room,
    text_of,
    used,
)
from openagents_json.workflow.filters import OWN_FILTERS, contained
from openagents_json.workflow.tokens import shorten

FUEL = 50_000
FUEL_PER_ROW = 40
MAX_FUEL = 2_000_000
WORK = 20_000_000  # operations of an expression times the rows of its data


class _Thread(threading.local):
    """Each thread has its own environment, because fuel is a setting of the environment."""

    def __init__(self) -> None:
        self.environment = _environment()


def run(code: str, context: dict[str, Any], evaluation: Evaluation, rows: int, *, text: bool = False) -> Any:
    """The value of a translated expression, or the text of a translated template.

    Raises what `explain` takes: Undefined, Refused, Exhausted, minijinja.TemplateError, or what Python raises when a
    filter gets arguments that it does not take.
    """
    fuel = min(MAX_FUEL, FUEL + FUEL_PER_ROW * rows)
    environment = _thread.environment
    if environment.fuel != fuel:
        environment.fuel = fuel
    current.evaluation = evaluation
    try:
        return environment.render_str(code, **context) if text else environment.eval_expr(code, **context)
    finally:
        current.evaluation = None


def rows_of(value: Any) -> int:
    """How many rows a value referred to brings along: the items of a list, the entries of an object."""
    return len(value) if isinstance(value, list | dict) else 0


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


# ── looking things up while it runs ───────────────────────────────────────────────────────────────────────────────


def _walk(value: Any, keys: tuple[Any, ...]) -> tuple[Any, str]:
    """The member at the end of the keys, or MISSING and a sentence about where it went wrong."""
    pay(len(value) if type(value) in (list, dict) else 0)  # minijinja's own value was copied to get here
    for key in keys:
        member = look_up(value, key)
        if member is MISSING:
            return MISSING, f"There is no {describe_key(key)} in {describe(value)}"
        value = member
    if type(value) is str:
        pay(len(value) >> 3)
    return value, ""


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
    running = evaluation()
    value = running.values[path]
    if value is MISSING:
        raise Undefined(running.why_missing(path))
    return value


def _may(path: int) -> Any:
    value = evaluation().values[path]
    return None if value is MISSING else value


def _has(path: int) -> bool:
    return evaluation().values[path] is not MISSING


# ── operators that could grow ─────────────────────────────────────────────────────────────────────────────────────


def _add(first: Any, *others: Any) -> Any:
    for other in others:
        first = _sum(first, other)
    return first


def _sum(a: Any, b: Any) -> Any:
    if isinstance(a, int | float) and isinstance(b, int | float):
        pay(0)
        return number(a + b)
    if isinstance(a, str) and isinstance(b, str):
        return made(a + b)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        pay(len(a) + len(b))
        return [*a, *b]
    raise Refused(f"`+` cannot add {describe(b)} to {describe(a)}; `~` joins text")


def _multiply(first: Any, *others: Any) -> Any:
    for other in others:
        if isinstance(first, int | float) and isinstance(other, int | float):
            pay(0)
            first = number(first * other)
        elif isinstance(first, str) and isinstance(other, int):
            room(len(first) * other)
            first = made(first * other)
        else:
            raise Refused(f"`*` cannot multiply {describe(first)} by {describe(other)}")
    return first


def _concatenate(*parts: Any) -> str:
    return joined("", parts)


def _slice(value: Any, start: Any, stop: Any, step: Any) -> Any:
    if not isinstance(value, list | str | tuple):
        raise Refused(f"a slice cannot be taken of {describe(value)}")
    try:
        part = value[start:stop:step]
    except (TypeError, ValueError) as error:
        raise Refused(str(error)) from None
    pay(len(part))
    return list(part) if isinstance(part, tuple) else part


def _filled(value: Any) -> Any:
    """The value, if there is something in it: first, last, min and max of nothing are undefined."""
    if isinstance(value, list | dict | str | tuple) and not value:
        raise Undefined(f"The first, last, smallest or largest of {describe(value)} does not exist")
    return used(value)


def _keep(value: Any) -> Any:
    """What `set` and `for` give a name, paid for as if it were written out.

    minijinja shares the parts of its own lists, and writes them out whenever it hands one to Python or compares it: so
    `[a, a]`, said thirty times, would be a gigabyte. What has been here is a Python object and is handed on as it is.
    """
    if isinstance(value, list | dict | tuple):
        running = evaluation()
        running.pay(running.size(value)[0])
    return value


def _out(value: Any) -> str:
    """What a hole puts into the text."""
    return made(text_of(value))


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "get_": _get,
    "find_": _find,
    "exists_": _exists,
    "at_": _at,
    "may_": _may,
    "has_": _has,
    "use_": used,
    "add_": _add,
    "mul_": _multiply,
    "cat_": _concatenate,
    "slice_": _slice,
    "filled_": _filled,
    "keep_": _keep,
    "out_": _out,
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
    environment.add_test("in", contained)
    return environment


_thread = _Thread()
