"""The rules of shares, of what is learned, and of what a job uses and has left."""

from __future__ import annotations

import pytest

from openagents_json.clock import SECOND_US
from openagents_json.job.machine import JobState, risk_us
from openagents_json.job.machine.use import left_us
from openagents_json.job.model import JobStatus
from openagents_json.job.store.arrival import DEADLINE_LEAD_S, place_us
from openagents_json.job.store.durations import MAX_DURATIONS, Duration, Gathered, Sample, learned
from openagents_json.job.store.shares import LEAST_US, Account, Settled, Share, line, settle, share_of, shown

S = SECOND_US
CREATED, QUEUED, RUNNING = JobStatus.CREATED, JobStatus.QUEUED, JobStatus.RUNNING
WAITING, COMPLETED, CANCELLED = JobStatus.WAITING, JobStatus.COMPLETED, JobStatus.CANCELLED


class Ledger:
    """`shares.Book` with a line that the test sets."""

    def __init__(self, at: int = 0, **accounts: Account) -> None:
        self.at = at
        self.accounts = accounts

    def line_us(self, rank: int) -> int:
        return self.at

    def account(self, key: str) -> Account:
        return self.accounts.setdefault(key, Account(key))


def moved(
    book: Ledger, before: JobStatus, status: JobStatus, *, used: int = 0, charged: int = 0, begun: bool = False
) -> Settled | None:
    return settle(book, share_of("a", 10 * S, used, status), 1, before, status, charged, has_begun=begun)


def finish_of(book: Ledger) -> int | None:
    return book.accounts["a"].finish_us if "a" in book.accounts else None


# ── the line ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("first", "running", "farthest", "at"),
    [
        (None, None, None, 100),  # nothing was there yet: now
        (None, None, 70, 100),  # the scale has fallen behind the clock, and catches up
        (None, 90, 300, 300),  # nothing waits: all begin anew from the farthest
        (40, None, 300, 40),  # something waits: with those that are next
        (40, 60, 300, 60),  # or with the last of its priority that has begun
        (40, 20, 300, 40),
    ],
)
def test_line_is_where_those_stand_that_are_next(
    first: int | None, running: int | None, farthest: int | None, at: int
) -> None:
    assert line(100, first, running, farthest) == at


# ── settling ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_job_begins_where_its_account_is_and_is_charged_what_it_is_expected_to_use() -> None:
    book = Ledger(5 * S)
    assert moved(book, CREATED, QUEUED) == Settled(5 * S, 10 * S)
    assert moved(book, CREATED, QUEUED) == Settled(15 * S, 10 * S)
    assert finish_of(book) == 25 * S


def test_weight_divides_what_is_charged() -> None:
    book = Ledger(a=Account("a", 4.0))
    moved(book, CREATED, QUEUED)
    assert finish_of(book) == 2.5 * S


def test_account_that_is_behind_the_line_gains_nothing_by_it() -> None:
    book = Ledger(100 * S, a=Account("a", finish_us=3 * S))
    assert moved(book, CREATED, QUEUED) == Settled(100 * S, 10 * S)
    assert finish_of(book) == 110 * S


@pytest.mark.parametrize(("used", "finish"), [(25, 25), (4, 4), (10, 10), (0, 0)])
def test_end_charges_what_was_used_instead(used: int, finish: int) -> None:
    book = Ledger()
    moved(book, CREATED, QUEUED)
    settled = moved(book, RUNNING, COMPLETED, used=used * S, charged=10 * S, begun=True)
    assert settled == Settled(None, used * S)
    assert finish_of(book) == finish * S


def test_job_that_never_ran_gives_all_back() -> None:
    book = Ledger()
    moved(book, CREATED, QUEUED)
    assert moved(book, QUEUED, CANCELLED, charged=10 * S) == Settled(None, 0)
    assert finish_of(book) == 0


def test_job_that_comes_back_is_charged_the_rest_and_stands_at_the_line() -> None:
    book = Ledger(50 * S, a=Account("a", finish_us=90 * S))
    assert moved(book, WAITING, QUEUED, used=7 * S, charged=7 * S, begun=True) == Settled(50 * S, 10 * S)
    assert finish_of(book) == 93 * S
    assert moved(book, WAITING, QUEUED, used=30 * S, charged=30 * S, begun=True) == Settled(50 * S, 30 * S + LEAST_US)


def test_job_that_goes_back_into_the_queue_is_settled_first() -> None:
    book = Ledger(a=Account("a", finish_us=10 * S))
    assert moved(book, RUNNING, QUEUED, used=4 * S, charged=10 * S, begun=True) == Settled(0, 10 * S)
    assert finish_of(book) == 10 * S


@pytest.mark.parametrize(
    ("before", "status"), [(QUEUED, RUNNING), (RUNNING, RUNNING), (WAITING, RUNNING), (QUEUED, QUEUED)]
)
def test_going_on_changes_nothing(before: JobStatus, status: JobStatus) -> None:
    book = Ledger()
    assert moved(book, before, status, charged=10 * S) is None
    assert book.accounts == {}


def test_account_is_shown_in_work_of_its_own() -> None:
    assert shown(Account("a", 2.0, 30 * S), 10 * S).ahead_us == 40 * S
    assert shown(Account("a", 2.0, 3 * S), 10 * S).ahead_us == 0
    assert shown(Account("a"), 10 * S).ahead_us == 0


def test_share_of_a_running_job_says_nothing_of_its_use() -> None:
    assert share_of("a", 5, 3, RUNNING) == Share("a", 5, 0)
    assert share_of("a", 5, 3, WAITING) == Share("a", 5, 3)


# ── places ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_tag_stands_in_for_the_time_of_coming_and_a_deadline_only_brings_forward() -> None:
    lead = round(DEADLINE_LEAD_S * S)
    assert place_us(1_000, 200, 2, 0.0001, None, None) == 600
    assert place_us(1_000, 200, 2, 0.0001, 5_000, None) == 4_800
    assert place_us(1_000, 200, 2, 0.0001, None, lead + 300) == 100
    assert place_us(1_000, 200, 2, 0.0001, 5_000, lead + 300) == 100
    assert place_us(1_000, 200, 2, 0.0001, None, lead + 9_000) == 600
    assert place_us(1_000, 200, 2, 0.0001, 5_000, None, has_begun=True) == 4_799


# ── what is learned ───────────────────────────────────────────────────────────────────────────────────────────────


def test_first_eight_count_the_same_and_then_the_latest_an_eighth() -> None:
    known: Duration | None = None
    for took in (8, 0, 8, 0, 8, 0, 8, 0):
        known = learned(known, Sample("flow", "s", took * S, 1), 5)
    assert known == Duration("flow", "s", 4 * S, 8, 5)
    assert learned(known, Sample("flow", "s", 12 * S, 1), 6).mean_us == 5 * S
    many = learned(Duration("flow", "s", 0, 1_000, 0), Sample("flow", "s", 64 * S, 2), 6)
    assert many.mean_us == (64 - 49) * S


def test_what_was_seen_is_told_once_and_is_bounded() -> None:
    seen = Gathered()
    seen.add("flow", "s", 2)
    seen.add("flow", "s", 4)
    assert seen.take() == [Sample("flow", "s", 3, 2)]
    assert seen.take() == []
    for number in range(MAX_DURATIONS + 5):
        seen.add("flow", str(number), 1)
    seen.add("flow", "0", 3)
    told = seen.take()
    assert len(told) == MAX_DURATIONS and told[0] == Sample("flow", "0", 2, 2)


# ── what is left ──────────────────────────────────────────────────────────────────────────────────────────────────


def state(**fields: object) -> JobState:
    return JobState(plan=None, status=RUNNING, **fields)  # type: ignore[arg-type]


def test_what_is_left_becomes_less_while_attempts_are_on() -> None:
    two_on = state(expected_us=100, live=2, live_since_us=10 + 20)
    assert left_us(two_on, 50) == 30
    assert left_us(two_on, 90) == 0
    assert left_us(state(expected_us=100, time_us=60), 1_000) == 40


def test_deadline_is_at_risk_when_what_is_left_no_longer_fits() -> None:
    assert risk_us(state(expected_us=40), 0) is None
    assert risk_us(state(expected_us=40, deadline_us=100), 0) == 60
    assert risk_us(state(expected_us=40, deadline_us=100, time_us=30), 0) == 90
    assert risk_us(state(expected_us=40, deadline_us=100, at_risk=True), 0) is None
    running = state(expected_us=40, deadline_us=100, live_since_us=50, live=1)  # one attempt, which began at 50
    assert risk_us(running, 70) == 100
    late = state(expected_us=40, deadline_us=100, live_since_us=70, live=1)
    assert risk_us(late, 80) == 70
