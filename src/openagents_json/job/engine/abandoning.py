"""Attempts of a job that were given up while their code ran on: each is counted in its row until the code ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Which: TypeAlias = tuple[str, int]  # path, number of the attempt


class Abandoned:
    """Of one runner. Event and end come in any order, and each attempt is counted out once, after it was counted in."""

    def __init__(self, counted: Callable[[], None], counted_out: Callable[[], None]) -> None:
        self._tell_counted, self._tell_out = counted, counted_out
        self._counted: set[Which] = set()  # their event is committed, their code still runs
        self._ended: set[Which] = set()  # their code has ended, their event is not committed

    def committed(self, which: Which) -> None:
        """The row counts it from now on, until its code ends; perhaps it has already."""
        self._tell_counted()
        if which in self._ended:
            self._ended.remove(which)
            self._tell_out()
        else:
            self._counted.add(which)

    def ended(self, which: Which) -> None:
        """Its code has ended."""
        if which in self._counted:
            self._counted.remove(which)
            self._tell_out()
        else:
            self._ended.add(which)
