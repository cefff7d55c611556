"""The limits of a component: how many of its attempts are on at a time, and how many begin in a time, in all workers.

    @app.tool("fetch", concurrency={"limit": 4, "key": "{{ inputs.host }}"}, rate_limit={"limit": 9, "per_seconds": 60})

Here they are read and checked; whoever runs attempts obeys them. What may stand in a key says the language of
workflows, which is above this package and gives its check with `use_key_check`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from openagents_json.errors import InvalidComponent

CONCURRENT_ATTEMPTS = 10_000  # of a component, or of one key of its `concurrency`
RATE_TOKENS = 1_000_000  # the `limit` of a `rate_limit`
RATE_SECONDS = 86_400.0  # its `per_seconds`


class _Key(TypedDict, total=False):
    key: str  # an expression over the attempt's `inputs`: attempts with the same value share the limit


class Concurrency(_Key):
    """`concurrency` in its long form: so many attempts at a time. `limit`, and perhaps `key`."""

    limit: int


class RateLimit(_Key):
    """`rate_limit`: so many attempts begin in so many seconds. `limit` and `per_seconds`, and perhaps `key`."""

    limit: int
    per_seconds: float


@dataclass(frozen=True, slots=True)
class ComponentLimit:
    """One of the two."""

    limit: int
    key: str | None = None
    per_seconds: float | None = None  # None: so many at a time

    @property
    def option(self) -> str:
        """The keyword that it was given by."""
        return "concurrency" if self.per_seconds is None else "rate_limit"


def _no_check(key: str) -> str | None:
    return None


# What is wrong with a key, as a sentence with what to do; None: nothing. Set once, by the package of workflows.
_check_key: Callable[[str], str | None] = _no_check


def use_key_check(check: Callable[[str], str | None]) -> None:
    """Have keys checked by this from now on."""
    global _check_key
    _check_key = check


def read_limits(
    concurrency: int | Mapping[str, Any] | None, rate_limit: Mapping[str, Any] | None, name: str
) -> tuple[ComponentLimit, ...]:
    """The limits that a decorator gives a component, `concurrency` first. `InvalidComponent` says what is wrong."""
    limits = []
    if concurrency is not None:
        given = {"limit": concurrency} if isinstance(concurrency, int) else concurrency
        fields = _fields(given, "concurrency", ("limit",), name)
        limits.append(ComponentLimit(_count(fields, "concurrency", CONCURRENT_ATTEMPTS, name), fields.get("key")))
    if rate_limit is not None:
        fields = _fields(rate_limit, "rate_limit", ("limit", "per_seconds"), name)
        count, per_seconds = _count(fields, "rate_limit", RATE_TOKENS, name), fields["per_seconds"]
        if isinstance(per_seconds, bool) or not isinstance(per_seconds, int | float) or not _is_time(per_seconds):
            raise _invalid(
                name, "rate_limit", f"per_seconds is {per_seconds!r}; give seconds from 0.001 to {RATE_SECONDS:,.0f}"
            )
        limits.append(ComponentLimit(count, fields.get("key"), float(per_seconds)))
    return tuple(limits)


def _is_time(seconds: float) -> bool:
    return math.isfinite(seconds) and 0.001 <= seconds <= RATE_SECONDS


def _fields(given: Any, option: str, needed: tuple[str, ...], name: str) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        example = {"limit": 4} if option == "concurrency" else {"limit": 100, "per_seconds": 60}
        raise _invalid(name, option, f"it is {given!r}; give a mapping such as {example}")
    if missing := [one for one in needed if one not in given]:
        raise _invalid(name, option, f"{' and '.join(missing)} must be given")
    if unknown := sorted(str(one) for one in given if one not in (*needed, "key")):
        raise _invalid(name, option, f"{', '.join(unknown)} is not known; there are {', '.join((*needed, 'key'))}")
    key = given.get("key")
    if key is not None and not isinstance(key, str):
        raise _invalid(name, option, f"key is {key!r}; give an expression such as '{{{{ inputs.host }}}}'")
    if key is not None and (fault := _check_key(key)) is not None:
        raise _invalid(name, option, f"key {key!r}: {fault}")
    return given


def _count(fields: Mapping[str, Any], option: str, most: int, name: str) -> int:
    limit = fields["limit"]
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= most:
        raise _invalid(name, option, f"limit is {limit!r}; give a whole number from 1 to {most:,}")
    return limit


def _invalid(name: str, option: str, what: str) -> InvalidComponent:
    return InvalidComponent(f"The {option} of component {name!r} cannot be: {what}.", name=name)
