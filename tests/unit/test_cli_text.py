"""Text for terminals: nothing in it can be obeyed, and it is short."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from openagents_json.cli.text import columns, count, duration, json_text, percent, printable, short_time

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.text())
def test_printable_text_has_nothing_a_terminal_would_obey(text: str) -> None:
    assert printable(text).isprintable()
    assert len(printable(text, 10)) <= 100


def test_escapes_and_newlines_are_shown_as_what_they_are() -> None:
    assert printable("a\x1b[31mb\nc\u202e") == "a\\x1b[31mb\\nc\\u202e"


@given(values)
def test_json_reads_back_the_same_and_holds_no_control_characters(value: Any) -> None:
    text = json_text(value)
    assert json.loads(text) == value
    assert not any(ord(sign) < 32 or 0x7F <= ord(sign) < 0xA0 or sign in "\u202e\u2028" for sign in text)


def test_times_in_json_are_iso() -> None:
    assert json_text({"at": datetime(2026, 1, 2, tzinfo=UTC)}) == '{"at":"2026-01-02T00:00:00+00:00"}'


def test_time_of_today_has_no_date_and_older_ones_have() -> None:
    now = datetime(2026, 5, 6, 12, 0, 0).astimezone()
    assert short_time(now - timedelta(minutes=1), now) == "11:59:00"
    assert short_time(now - timedelta(days=1), now) == "2026-05-05 12:00"
    assert short_time(None, now) == "-"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0.0 s"), (0.44, "0.4 s"), (9.96, "10 s"), (59.4, "59 s"), (65, "1 min 05 s"), (7620, "2 h 07 min")],
)
def test_duration_is_as_exact_as_it_is_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_hundred_percent_means_all() -> None:
    assert percent(0.9999) == "99 %"
    assert percent(1.0) == "100 %"


def test_counts_have_their_plural() -> None:
    assert (count(1, "step"), count(1200, "step")) == ("1 step", "1,200 steps")


@given(st.lists(st.tuples(st.text("ab漢🎉 "), st.text("ab漢")), min_size=1), st.integers(1, 20))
def test_columns_never_exceed_the_width(rows: list[tuple[str, str]], width: int) -> None:
    assert all(cell_len(line) <= width for line in columns(rows, width=width))


def test_columns_are_aligned_by_width_not_by_characters() -> None:
    assert columns([("漢", "x"), ("ab", "y")]) == ["漢  x", "ab  y"]
