"""Amounts of spending: exact whole numbers inside, and as people write them outside."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openagents_json.amounts import (
    LARGEST,
    MOST,
    SMALLEST,
    add,
    budget_over,
    budget_problems,
    inside,
    number,
    outside,
    spent_problem,
    text,
    whole,
)


def test_floats_are_taken_for_the_decimals_that_they_are_written_as() -> None:
    assert whole("cost", 0.1) == 100_000_000
    assert whole("cost", 1.5e-7) == 150
    assert whole("cost", Decimal("0.123456789")) == 123_456_789
    assert whole("seconds", 0.1) == 100_000
    assert (whole("cost", 3), whole("tokens", 7)) == (3_000_000_000, 7)
    assert whole("cost", 4e-10) == 0


@given(st.lists(st.integers(0, 10**6), max_size=50))
def test_sums_do_not_drift(hundredths: list[int]) -> None:
    total: dict[str, int] = {}
    for amount in hundredths:
        add(total, inside({"cost": amount / 100}))
    assert total.get("cost_nanos", 0) == sum(hundredths) * 10**7


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "time_us": st.integers(0, 10**15),
            "tokens": st.integers(0, MOST),
            "cost_nanos": st.integers(0, 10**15),
        },
    )
)
def test_outside_and_inside_are_each_the_reverse_of_the_other(amounts: dict[str, int]) -> None:
    assert inside(outside(amounts)) == amounts


def test_total_that_could_not_be_stored_stays_at_the_most() -> None:
    total = {"tokens": MOST - 1}
    add(total, {"tokens": 10, "time_us": 3})
    assert total == {"tokens": MOST, "time_us": 3}
    assert MOST < 2**63


@pytest.mark.parametrize(
    ("key", "amount", "alone", "whole_text"),
    [
        ("tokens", 10_240, "10,240", "10,240 tokens"),
        ("tokens", 1, "1", "1 token"),
        ("time_us", 12_500_000, "12.5", "12.5 seconds"),
        ("time_us", 3_600_000_000, "3,600", "3,600 seconds"),
        ("cost_nanos", 250_000_000, "0.25", "a cost of 0.25"),
        ("cost_nanos", 1, "0.000000001", "a cost of 0.000000001"),
        ("cost_nanos", 0, "0", "a cost of 0"),
    ],
)
def test_amounts_read_well(key: str, amount: int, alone: str, whole_text: str) -> None:
    assert (number(key, amount), text(key, amount)) == (alone, whole_text)


@pytest.mark.parametrize("kind", ["seconds", "tokens", "cost"])
def test_budgets_go_from_the_smallest_to_the_largest(kind: str) -> None:
    assert list(budget_problems({kind: SMALLEST[kind]})) == []
    assert list(budget_problems({kind: LARGEST[kind]})) == []
    assert inside({kind: SMALLEST[kind]}) == {next(iter(inside({kind: SMALLEST[kind]}))): 1}
    for beyond in (0, -1, LARGEST[kind] * 2):
        [(where, _, advice)] = budget_problems({kind: beyond})
        assert where == kind and advice


@pytest.mark.parametrize("amount", [True, "5", None, [1], float("nan"), float("inf"), Decimal("NaN"), 1.5, 5.0])
def test_tokens_that_are_no_count_are_refused(amount: Any) -> None:
    assert len(list(budget_problems({"tokens": amount}))) == 1
    assert spent_problem("tokens", amount) is not None


def test_nothing_may_be_spent_but_nothing_comes_back() -> None:
    assert spent_problem("tokens", 0) is None
    assert spent_problem("cost", 0.0) is None
    assert "must not be negative" in (spent_problem("cost", -0.01) or "")
    assert "at most 1,000,000,000" in (spent_problem("cost", 1e10) or "")


def test_one_budget_comes_over_another_kind_by_kind() -> None:
    assert budget_over({"tokens": 5, "time_us": 7}, None) == {"tokens": 5, "time_us": 7}
    assert budget_over({"tokens": 5, "time_us": 7}, {"tokens": 9, "time_us": None}) == {"tokens": 9}
    assert list(budget_problems({"tokens": None}, may_be_none=True)) == []
