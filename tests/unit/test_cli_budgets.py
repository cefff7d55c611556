"""How spending reads on the command line, and what pairs such as tokens=5000 mean."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from openagents_json.cli.budgets import read_amounts, spent_text
from openagents_json.cli.failures import UsageProblem


@pytest.mark.parametrize(
    ("spent", "budget", "expected"),
    [
        ({}, {}, ""),
        ({"seconds": 12.0, "tokens": 0, "cost": 0.0}, {}, ""),
        ({"seconds": 12.0, "tokens": 12_400}, {"tokens": 100_000}, "12,400 of 100,000 tokens"),
        ({"seconds": 12.0, "tokens": 12_400, "cost": 0.31}, {"cost": 5.0}, "12,400 tokens, cost 0.31 of 5"),
        ({"seconds": 12.0}, {"seconds": 3600.0}, "12 s of 1 h 00 min"),
        ({}, {"tokens": 5}, "0 of 5 tokens"),
    ],
)
def test_spending_is_told_where_there_is_something_to_tell(
    spent: dict[str, Any], budget: dict[str, Any], expected: str
) -> None:
    assert spent_text(spent, budget) == expected


def test_pairs_are_read() -> None:
    assert read_amounts(["tokens=5", "cost=0.1", "seconds=60"]) == {
        "tokens": 5, "cost": Decimal("0.1"), "seconds": Decimal(60),
    }  # fmt: skip
    assert read_amounts([]) == {}


@pytest.mark.parametrize("pairs", [["tokens"], ["=5"], ["money=3"], ["tokens=x"], ["tokens=1.5"], ["cost=1", "cost=2"]])
def test_pairs_that_cannot_be_read_are_refused(pairs: list[str]) -> None:
    with pytest.raises(UsageProblem, match="--budget"):
        read_amounts(pairs, "--budget")
