"""Finding what a process has started, while that forks and ends."""

from __future__ import annotations

from collections.abc import Iterable

from openagents_json.job.engine.processes.descendants import EMPTY_LOOKS, ROUNDS, _kill_until_none
from openagents_json.job.engine.processes.proc import Entry

GONE = 2**22 + 7  # above every number of a process


def entry(number: int) -> Entry:
    return Entry(GONE + number, "S", 1, GONE + number, "0")


def test_look_that_finds_nothing_is_not_the_last() -> None:
    """It may have come between a process that has just ended and the child that it has left."""
    looks = iter([[], [entry(1)], [], [entry(1), entry(2)]])
    count = 0

    def find() -> Iterable[Entry]:
        nonlocal count
        count += 1
        return next(looks, [])

    assert _kill_until_none(find) == [entry(1), entry(2)]
    assert count == 4 + EMPTY_LOOKS


def test_what_forks_for_ever_is_given_up() -> None:
    numbers = iter(range(1_000))
    assert len(_kill_until_none(lambda: [entry(next(numbers))])) == ROUNDS
