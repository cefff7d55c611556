"""What jobs spend and may spend, in whole numbers, so that sums of very many small amounts do not drift. Pure.

Users write and read `{"seconds": 1.5, "tokens": 200, "cost": 0.03}`; inside stand microseconds, tokens and billionths
of whatever unit the cost is in: `{"time_us": 1500000, "tokens": 200, "cost_nanos": 30000000}`. A kind that is missing
is none spent, or no budget.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterator, Mapping
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, TypeAlias

Amounts: TypeAlias = dict[str, int]
Budget: TypeAlias = Mapping[str, int | None]  # amounts, and None where there shall be no limit

SECONDS, TOKENS, COST = "seconds", "tokens", "cost"
KEYS = {SECONDS: "time_us", TOKENS: "tokens", COST: "cost_nanos"}  # what users say → what stands inside
_UNITS = {"time_us": 1_000_000, "tokens": 1, "cost_nanos": 1_000_000_000}  # how many of them make one
MOST = 4 * 10**18  # of any kind, inside: a total stays there, so that it always fits into 64 bits
LARGEST = {SECONDS: 1e9, TOKENS: 10**15, COST: 1e9}  # that a budget may have, or one call of `spend` report
SMALLEST = {SECONDS: 1e-6, TOKENS: 1, COST: 1e-9}  # that a budget may have


def add(total: Amounts, more: Mapping[str, int]) -> None:
    """Add to a total, in place."""
    for key, amount in more.items():
        total[key] = min(total.get(key, 0) + amount, MOST)


def in_order(amounts: Mapping[str, int]) -> Amounts:
    """The same amounts, always in the order of `KEYS`."""
    return {key: amounts[key] for key in KEYS.values() if key in amounts}


def inside(given: Mapping[str, Any]) -> Amounts:
    """Amounts as users say them, in whole numbers; those that are None are left out. They were looked at before."""
    return {KEYS[kind]: whole(kind, amount) for kind, amount in given.items() if amount is not None}


def budget_over(budget: Amounts, other: Budget | None) -> Amounts:
    """A budget with another one over it, kind by kind."""
    if not other:
        return budget
    return {key: amount for key, amount in {**budget, **other}.items() if amount is not None}


def whole(kind: str, amount: float | Decimal) -> int:
    """One amount in whole numbers: 0.1 is exactly a tenth, and what is finer than a unit is rounded."""
    unit = _UNITS[KEYS[kind]]
    if isinstance(amount, int):
        return int(amount) * unit
    exact = amount if isinstance(amount, Decimal) else Decimal(repr(float(amount)))
    return int((exact * unit).to_integral_value(ROUND_HALF_EVEN))


def outside(amounts: Mapping[str, int]) -> dict[str, Any]:
    """The reverse of `inside`: seconds and cost as floats, tokens as an integer, in this order."""
    return {
        kind: amounts[key] if kind == TOKENS else amounts[key] / _UNITS[key]
        for kind, key in KEYS.items()
        if key in amounts
    }


def text(key: str, amount: int) -> str:
    """`10,240 tokens`, `12.5 seconds`, `a cost of 0.25`."""
    if key == "tokens":
        return f"{amount:,} token" + ("" if amount == 1 else "s")
    value = number(key, amount)
    return f"a cost of {value}" if key == "cost_nanos" else f"{value} second" + ("" if value == "1" else "s")


def number(key: str, amount: int) -> str:
    """The amount alone: `10,240`, `12.5`."""
    exact = Decimal(amount) / _UNITS[key]
    shown = f"{exact:,f}"
    return shown.rstrip("0").rstrip(".") if "." in shown else shown


def spent_problem(kind: str, amount: Any) -> str | None:
    """Why a component cannot report that it has spent so much, or None."""
    if (problem := _number_problem(kind, amount)) is not None:
        return problem
    if amount < 0:
        return f"{kind} is {amount}, and nothing that was spent comes back: it must not be negative."
    return _largest_problem(kind, amount)


def budget_problems(given: Mapping[str, Any], *, may_be_none: bool = False) -> Iterator[tuple[str, str, str]]:
    """What is wrong with a budget, or with what is added to one: (kind, sentence, what to do)."""
    for kind, amount in given.items():
        if kind not in KEYS:
            yield str(kind), f"{str(kind)[:40]!r} is nothing that has a budget.", f"There are {', '.join(KEYS)}."
        elif amount is None and may_be_none:
            continue
        elif problem := _number_problem(kind, amount):
            yield kind, problem, f"Give a number above 0, such as {_EXAMPLES[kind]}."
        elif amount < SMALLEST[kind]:
            yield kind, f"{kind} is {amount:g}; it must be at least {SMALLEST[kind]:g}.", "A budget is above 0."
        elif problem := _largest_problem(kind, amount):
            yield kind, problem, "Left out, there is no budget."


_EXAMPLES = {SECONDS: "3600", TOKENS: "100000", COST: "2.5"}


def _number_problem(kind: str, amount: Any) -> str | None:
    if isinstance(amount, bool) or not isinstance(amount, numbers.Real | Decimal):
        return f"{kind} is a number, not {type(amount).__name__}."
    if kind == TOKENS and not isinstance(amount, numbers.Integral):
        return f"tokens are counted: give an integer, not {amount!r}."
    return None if math.isfinite(amount) else f"{kind} is {amount}; it must be a finite number."


def _largest_problem(kind: str, amount: Any) -> str | None:
    return None if amount <= LARGEST[kind] else f"{kind} is {amount:g}; at most {LARGEST[kind]:,.0f} are possible."
