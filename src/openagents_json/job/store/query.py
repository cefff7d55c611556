"""What a listing asks for: filters, order, limit and cursor, checked once for every store."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from openagents_json.clock import as_microseconds
from openagents_json.errors import InvalidQuery
from openagents_json.job.model import JobPriority, JobStatus
from openagents_json.workflow.problems import nearest

MAX_LIMIT = 1_000
MAX_VALUES = 100  # values in one filter
MAX_INTEGER = 2**63 - 1  # what a column can hold

# filter name → column. `created_at` and the like take {"after": t, "before": t} or None for "has none".
EQUAL_COLUMNS = {
    "id": "id",
    "workflow_id": "workflow_id",
    "version": "version",
    "status": "status",
    "priority": "rank",
    "current_step": "current_step",
    "error_type": "error_type",
    "idempotency_key": "idempotency_key",
    "parent_id": "parent_id",
    "origin_id": "origin_id",
    "share": "share_key",
    "at_risk": "at_risk",
    "definition": "definition",
    "pause_requested": "pause_requested",
    "cancel_requested": "cancel_requested",
    "abandoned": "abandoned",
    "events": "last_event",
    "progress": "progress",
}
TIME_COLUMNS = {
    "created_at": "created_us",
    "queued_at": "queued_us",
    "started_at": "started_us",
    "completed_at": "completed_us",
    "start_at": "due_us",
    "wake_at": "due_us",
    "deadline": "deadline_us",
}
ORDERS = {"created_at": "key", "completed_at": "completed_us", "started_at": "started_us", "priority": "rank"}


@dataclass(frozen=True, slots=True)
class TimeRange:
    """A half-open range of microseconds: from `after` up to but without `before`; None is open."""

    after: int | None
    before: int | None

    def holds(self, value: int | None) -> bool:
        if value is None:
            return False
        return (self.after is None or value >= self.after) and (self.before is None or value < self.before)


@dataclass(frozen=True, slots=True)
class Query:
    """A checked listing. `equal` maps columns to the values that fit; `cursor` is (order value, handle) of the last
    row of the page before."""

    equal: Mapping[str, tuple[Any, ...]]
    times: Mapping[str, TimeRange]
    statuses_of_due: tuple[JobStatus, ...] = ()  # start_at and wake_at share a column
    tags: tuple[str, ...] = ()  # all of them
    error_text: str | None = None  # part of type or message, any case
    order: str = "key"
    descending: bool = True
    limit: int = 100
    cursor: tuple[Any, int] | None = None


def build_query(
    filters: Mapping[str, Any] | None = None,
    *,
    order: str = "-created_at",
    limit: int = 100,
    cursor: str | None = None,
) -> Query:
    """Check what a user asks of `list_jobs`. `InvalidQuery` names what is wrong and the nearest known name."""
    equal: dict[str, tuple[Any, ...]] = {}
    times: dict[str, TimeRange] = {}
    due: list[JobStatus] = []
    tags: tuple[str, ...] = ()
    error_text = None
    for name, value in (filters or {}).items():
        if name in EQUAL_COLUMNS:
            equal[EQUAL_COLUMNS[name]] = _values(name, value)
        elif name in TIME_COLUMNS:
            if value is None:
                equal[TIME_COLUMNS[name]] = (None,)
            else:
                times[TIME_COLUMNS[name]] = _range(name, value)
            if name in ("start_at", "wake_at"):
                due.append(JobStatus.CREATED if name == "start_at" else JobStatus.WAITING)
        elif name in ("tags", "tag"):
            tags = _texts(name, (value,) if isinstance(value, str) else value)
        elif name in ("error", "error_message"):
            (error_text,) = _texts(name, (value,))
        else:
            known = [*EQUAL_COLUMNS, *TIME_COLUMNS, "tags", "error"]
            hint = nearest(name, known) or f"Known are {', '.join(known)}."
            raise InvalidQuery(f"Jobs cannot be filtered by {name!r}. {hint}")
    if len(due) > 1:
        raise InvalidQuery("start_at is of CREATED jobs and wake_at of WAITING ones: filter by one of them.")
    descending = order.startswith("-")
    column = ORDERS.get(order.removeprefix("-"))
    if column is None:
        raise InvalidQuery(f"Jobs cannot be ordered by {order!r}. Known are {', '.join(ORDERS)}, each also with -.")
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidQuery(f"The limit is 1 … {MAX_LIMIT}, not {limit}; use the cursor to go on.")
    position = _decode_cursor(cursor, order) if cursor else None
    return Query(equal, times, tuple(due), tags, error_text, column, descending, limit, position)


def encode_cursor(order: str, value: Any, handle: int) -> str:
    """The cursor behind a row: opaque to users, and good for the same order only."""
    return base64.urlsafe_b64encode(json.dumps([order, value, handle]).encode()).decode()


def _decode_cursor(cursor: str, order: str) -> tuple[Any, int]:
    try:
        for_order, value, handle = json.loads(base64.urlsafe_b64decode(cursor))
        position = (None if value is None else _integer(value), _integer(handle))
    except (ValueError, TypeError, RecursionError):
        raise InvalidQuery(f"{cursor!r} is no cursor; pass Page.cursor of the page before.") from None
    if for_order != order:
        raise InvalidQuery(f"The cursor belongs to the order {for_order!r}, not {order!r}.")
    return position


def _integer(value: Any) -> int:
    if not isinstance(value, int) or abs(value) > MAX_INTEGER:
        raise ValueError(value)
    return value


def _texts(name: str, value: Any) -> tuple[str, ...]:
    values = tuple(value) if isinstance(value, (list, tuple, set, frozenset)) else (value,)
    if len(values) > MAX_VALUES:
        raise InvalidQuery(f"The filter {name!r} has {len(values)} values; {MAX_VALUES} are allowed.")
    for item in values:
        if not isinstance(item, str) or not _is_text(item):
            raise InvalidQuery(f"The filter {name!r} takes text, not {item!r}.")
    return values


def _is_text(value: str) -> bool:
    """Whether it is Unicode that a database can hold: no half surrogate pair (from a command line, for example)."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _values(name: str, value: Any) -> tuple[Any, ...]:
    values = tuple(value) if isinstance(value, (list, tuple, set, frozenset)) else (value,)
    if len(values) > MAX_VALUES:
        raise InvalidQuery(f"The filter {name!r} has {len(values)} values; {MAX_VALUES} are allowed.")
    try:
        if name == "status":
            return tuple(str(JobStatus(str(item).upper())) for item in values)
        if name == "priority":
            return tuple(JobPriority(str(item).upper()).rank for item in values)
    except ValueError:
        known = ", ".join(JobStatus if name == "status" else JobPriority)
        raise InvalidQuery(f"{value!r} is no {name}. Known are {known}.") from None
    for item in values:
        is_known = item is None or isinstance(item, (str, int, float))
        if not is_known or (isinstance(item, str) and not _is_text(item)):
            raise InvalidQuery(f"The filter {name!r} takes text, a number or null, not {item!r}.")
        if isinstance(item, int) and abs(item) > MAX_INTEGER:
            raise InvalidQuery(f"The filter {name!r} takes numbers up to {MAX_INTEGER}.")
    return tuple(int(item) if isinstance(item, bool) else item for item in values)


def _range(name: str, value: Any) -> TimeRange:
    if not isinstance(value, Mapping) or not value or set(value) - {"after", "before"}:
        raise InvalidQuery(f'The filter {name!r} takes {{"after": time, "before": time}}, one or both; not {value!r}.')
    return TimeRange(*(_instant(name, value.get(end)) for end in ("after", "before")))


def _instant(name: str, value: Any) -> int | None:
    if value is None:
        return None
    try:
        return as_microseconds(datetime.fromisoformat(value) if isinstance(value, str) else value)
    except (ValueError, TypeError, AttributeError) as error:
        raise InvalidQuery(f"The filter {name!r} needs an aware time: {error}") from None
