"""When another attempt is worth it, and after how long."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openagents_json.job.retry import backoff_s, is_retryable, matches, next_delay_s
from openagents_json.workflow.model import Retry
from tests.unit.machine.drive import error


@pytest.mark.parametrize(
    ("type", "prefix", "is_match"),
    [
        ("http", "http", True),
        ("http.429", "http", True),
        ("http.429.slow", "http.429", True),
        ("https", "http", False),
        ("http", "http.429", False),
        ("", "http", False),
    ],
)
def test_types_match_by_dotted_prefix(type: str, prefix: str, is_match: bool) -> None:
    assert matches(type, prefix) is is_match


@pytest.mark.parametrize(
    ("policy", "type", "says", "expected"),
    [
        ({}, "boom", None, True),
        ({"on": ["http"]}, "http.429", None, True),
        ({"on": ["http"]}, "boom", None, False),
        ({"on": []}, "boom", None, False),
        ({"on": ["http"]}, "boom", True, True),  # a RetryableError knows better than `on`
        ({"on": ["http"]}, "http.429", False, False),  # and so does a FatalError
        ({"not_on": ["http.4"]}, "http.429", None, True),
        ({"not_on": ["http"]}, "http.429", None, False),
        ({"not_on": ["http"]}, "http.429", True, False),  # `not_on` is the author's last word
        ({"on": ["http"], "not_on": ["http.404"]}, "http.404", None, False),
    ],
)
def test_error_decides_then_not_on_then_on(
    policy: dict[str, Any], type: str, says: bool | None, expected: bool
) -> None:
    assert is_retryable(Retry(**policy), error(type, says)) is expected


def test_delays_double_until_the_longest() -> None:
    policy = Retry(max_attempts=9, delay_seconds=1.5, backoff_multiplier=2, max_delay_seconds=10)
    assert [backoff_s(policy, attempt, 0.5) for attempt in range(1, 6)] == [1.5, 3.0, 6.0, 10.0, 10.0]


def test_jitter_moves_the_delay_to_both_sides() -> None:
    policy = Retry(delay_seconds=10, jitter=0.2)
    assert backoff_s(policy, 1, 0.0) == pytest.approx(8)
    assert backoff_s(policy, 1, 0.5) == pytest.approx(10)
    assert backoff_s(policy, 1, 1.0) == pytest.approx(12)


def test_no_delay_stays_no_delay() -> None:
    assert backoff_s(Retry(delay_seconds=0, jitter=1), 999, 0.9) == 0


def test_last_attempt_and_no_policy_end_retrying() -> None:
    policy = Retry(max_attempts=3, delay_seconds=1)
    assert next_delay_s(policy, error(), 2, 0.0, 0.5) == 2.0
    assert next_delay_s(policy, error(), 3, 0.0, 0.5) is None
    assert next_delay_s(None, error(), 1, 0.0, 0.5) is None
    assert next_delay_s(policy, error(retryable=False), 1, 0.0, 0.5) is None


def test_what_the_error_asks_for_lengthens_the_wait_and_never_shortens_it() -> None:
    policy = Retry(max_attempts=3, delay_seconds=10)
    assert next_delay_s(policy, error(), 1, 0.0, 0.5, 30.0) == 30.0
    assert next_delay_s(policy, error(), 1, 0.0, 0.5, 3.0) == 10.0
    assert next_delay_s(policy, error(), 1, 0.0, 0.5, 0.0) == 10.0


def test_retrying_ends_when_the_next_attempt_would_start_too_late() -> None:
    policy = Retry(max_attempts=9, delay_seconds=10, max_elapsed_seconds=60)
    assert next_delay_s(policy, error(), 1, 50.0, 0.5) == 10.0
    assert next_delay_s(policy, error(), 1, 50.1, 0.5) is None
    assert next_delay_s(policy, error(), 1, 0.0, 0.5, 61.0) is None


POLICIES = st.builds(
    Retry,
    max_attempts=st.integers(1, 1_000),
    delay_seconds=st.floats(0, 1e6),
    backoff_multiplier=st.floats(1, 100),
    max_delay_seconds=st.floats(0, 1e6),
    jitter=st.floats(0, 1),
)
RANDOM = st.floats(0, 1, exclude_max=True)


@given(POLICIES, st.integers(1, 10_000), RANDOM)
def test_delay_is_never_negative_and_at_most_the_longest_with_its_jitter(
    policy: Retry, attempt: int, random: float
) -> None:
    delay = backoff_s(policy, attempt, random)
    assert 0 <= delay <= policy.max_delay_seconds * (1 + policy.jitter) * (1 + 1e-12)


@given(POLICIES, st.integers(1, 500), RANDOM)
def test_delays_never_shrink_from_attempt_to_attempt(policy: Retry, attempt: int, random: float) -> None:
    assert backoff_s(policy, attempt + 1, random) >= backoff_s(policy, attempt, random)


@given(POLICIES, st.integers(1, 500), RANDOM, RANDOM)
def test_delay_rises_with_the_random_number(policy: Retry, attempt: int, one: float, other: float) -> None:
    low, high = sorted([one, other])
    assert backoff_s(policy, attempt, low) <= backoff_s(policy, attempt, high)


@given(POLICIES, st.integers(1, 2_000), st.floats(0, 1e7), RANDOM, st.none() | st.floats(0, 1e6))
def test_there_is_a_next_attempt_exactly_while_the_policy_allows_one(
    policy: Retry, attempt: int, elapsed_s: float, random: float, asked_s: float | None
) -> None:
    delay = next_delay_s(policy, error(), attempt, elapsed_s, random, asked_s)
    assert (delay is None) == (attempt >= policy.max_attempts)
    assert delay is None or delay >= max(backoff_s(policy, attempt, random), asked_s or 0)


@pytest.mark.parametrize(
    ("asked_s", "expected"), [(1e300, 366 * 86_400), (float("inf"), 366 * 86_400), (float("nan"), 1), (-5, 1)]
)
def test_delay_that_nobody_can_wait_for_is_bounded(asked_s: float, expected: float) -> None:
    policy = Retry(delay_seconds=1)
    assert next_delay_s(policy, error("http.429"), 1, 0.0, 0.0, asked_s) == expected
