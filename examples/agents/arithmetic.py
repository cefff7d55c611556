"""Arithmetic for a model that cannot reckon: the four operations and parentheses, read and never executed."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable

CHARACTERS = 200

_OPERATIONS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def calculate(expression: str) -> float:
    """The value of an expression such as `3 * (19.90 + 4)`. ValueError says why there is none."""
    if len(expression) > CHARACTERS:
        raise ValueError(f"an expression has {CHARACTERS} characters at most")
    try:
        value = float(_value(ast.parse(expression.strip(), mode="eval").body))
    except SyntaxError:
        raise ValueError("that is no arithmetic") from None
    except ZeroDivisionError:
        raise ValueError("that divides by zero") from None
    except (OverflowError, RecursionError, MemoryError):
        raise ValueError("that is too much") from None
    if not math.isfinite(value):
        raise ValueError("that is too much")
    return value


def _value(node: ast.expr) -> float:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        return _OPERATIONS[type(node.op)](_value(node.left), _value(node.right))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    raise ValueError("only numbers, + - * / and parentheses are understood")
