"""What a listing may ask for, and how it is told what is wrong."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from openagents_json.errors import InvalidQuery
from openagents_json.job.model import JobStatus
from openagents_json.job.store.query import MAX_INTEGER, MAX_LIMIT, MAX_VALUES, TimeRange, build_query, encode_cursor

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
NOON_US = 1_767_268_800_000_000


def test_empty_query_is_the_newest_hundred() -> None:
    query = build_query()
    assert (query.equal, query.times, query.tags, query.error_text) == ({}, {}, (), None)
    assert (query.order, query.descending, query.limit, query.cursor) == ("key", True, 100, None)


@pytest.mark.parametrize("many", [list, tuple, set, frozenset])
def test_filter_takes_one_value_or_several(many: Any) -> None:
    assert build_query({"workflow_id": "a"}).equal == {"workflow_id": ("a",)}
    assert set(build_query({"workflow_id": many(["a", "b"])}).equal["workflow_id"]) == {"a", "b"}
    assert set(build_query({"tags": many(["a", "b"])}).tags) == {"a", "b"}


def test_values_become_what_the_columns_hold() -> None:
    query = build_query({"status": ["running", JobStatus.FAILED], "priority": "high", "pause_requested": True})
    assert query.equal == {"status": ("RUNNING", "FAILED"), "rank": (2,), "pause_requested": (1,)}


def test_times_are_ranges_or_missing() -> None:
    query = build_query({"created_at": {"after": NOON, "before": "2026-01-01T14:00:00+02:00"}, "started_at": None})
    assert query.times == {"created_us": TimeRange(NOON_US, NOON_US)}
    assert query.equal == {"started_us": (None,)}
    assert build_query({"wake_at": {"after": NOON}}).statuses_of_due == (JobStatus.WAITING,)


@pytest.mark.parametrize(
    ("filters", "words"),
    [
        ({"staus": "RUNNING"}, "Did you mean 'status'"),
        ({"status": "LOST"}, "is no status. Known are CREATED"),
        ({"priority": "URGENT"}, "is no priority"),
        ({"id": {"a": 1}}, "text, a number or null"),
        ({"id": ["x"] * (MAX_VALUES + 1)}, f"{MAX_VALUES + 1} values"),
        ({"tags": ["x"] * (MAX_VALUES + 1)}, f"{MAX_VALUES + 1} values"),
        ({"tags": 5}, "takes text"),
        ({"tags": ["a", None]}, "takes text"),
        ({"error": 5}, "takes text"),
        ({"error": "\udc80"}, "takes text"),
        ({"id": "\ud800"}, "takes text"),
        ({"events": MAX_INTEGER + 1}, "numbers up to"),
        ({"created_at": NOON}, "takes {"),
        ({"created_at": {}}, "takes {"),
        ({"created_at": {"from": NOON}}, "takes {"),
        ({"created_at": {"after": datetime(2026, 1, 1)}}, "time zone"),  # noqa: DTZ001
        ({"created_at": {"after": "yesterday"}}, "aware time"),
        ({"created_at": {"after": 5}}, "aware time"),
        ({"start_at": {"after": NOON}, "wake_at": {"after": NOON}}, "by one of them"),
    ],
)
def test_filter_that_is_not_understood_is_refused(filters: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidQuery) as refused:
        build_query(filters)
    assert words in str(refused.value)


@pytest.mark.parametrize("order", ["", "-", "name", "--created_at", "-key", "created_at; --"])
def test_order_that_is_not_known_is_refused(order: str) -> None:
    with pytest.raises(InvalidQuery, match="Known are created_at"):
        build_query(order=order)


@pytest.mark.parametrize("limit", [0, -1, MAX_LIMIT + 1])
def test_limit_out_of_bounds_is_refused(limit: int) -> None:
    with pytest.raises(InvalidQuery, match="1 … 1000"):
        build_query(limit=limit)
    assert build_query(limit=MAX_LIMIT).limit == MAX_LIMIT


@pytest.mark.parametrize("value", [None, 5, -MAX_INTEGER])
def test_cursor_comes_back_as_it_was(value: int | None) -> None:
    assert build_query(order="priority", cursor=encode_cursor("priority", value, 7)).cursor == (value, 7)


def test_cursor_of_another_order_is_refused() -> None:
    with pytest.raises(InvalidQuery, match="belongs to the order 'priority'"):
        build_query(cursor=encode_cursor("priority", 1, 7))


def forged(content: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode()


@pytest.mark.parametrize(
    "cursor",
    [
        "nonsense",
        "ä",
        forged(5),
        forged([]),
        forged(None),
        forged(["-created_at", 1]),
        forged(["-created_at", "'; --", 1]),
        forged(["-created_at", [1], 1]),
        forged(["-created_at", 1, None]),
        forged(["-created_at", 2**70, 1]),
        base64.urlsafe_b64encode(b"[" * 100_000).decode(),
        base64.urlsafe_b64encode(b"\xff\xfe").decode(),
    ],
)
def test_forged_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidQuery, match="no cursor"):
        build_query(cursor=cursor)
