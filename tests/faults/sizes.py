"""How much of each fault campaign runs, with which seed, and what it has hit.

`make test` runs the quick part of every campaign, `make test-faults` (FAULTS=whole) all of it.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Collection

SIZE_VARIABLE, SEED_VARIABLE = "FAULTS", "FAULTS_SEED"
QUICK, WHOLE = "quick", "whole"


def is_whole() -> bool:
    """Whether the whole campaigns were asked for."""
    size = os.environ.get(SIZE_VARIABLE) or QUICK
    if size not in (QUICK, WHOLE):
        raise ValueError(f"{SIZE_VARIABLE}={size}: it is {QUICK} or {WHOLE}")
    return size == WHOLE


def sized(quick: int, whole: int) -> int:
    """How often: in `make test`, and in `make test-faults`."""
    return whole if is_whole() else quick


def campaign_random(test: str) -> random.Random:
    """The chance of a campaign. Its seed is printed with the command that repeats it; `test` is a file or node id."""
    seed = int(os.environ.get(SEED_VARIABLE) or random.SystemRandom().randrange(10**6))
    size = f"{SIZE_VARIABLE}={WHOLE} " if is_whole() else ""
    print(f"repeat this by: {size}{SEED_VARIABLE}={seed} .venv/bin/pytest {test}")
    return random.Random(seed)


class Hits:
    """Faults counted by the window that they hit. A campaign whose windows were not all hit has proved nothing."""

    def __init__(self, windows: Collection[str]) -> None:
        self._counts: Counter[str] = Counter(dict.fromkeys(windows, 0))

    def count(self, window: str, times: int = 1) -> None:
        """`KeyError` for a window that was not announced."""
        if window not in self._counts:
            raise KeyError(window)
        self._counts[window] += times

    @property
    def total(self) -> int:
        return self._counts.total()

    @property
    def missed(self) -> list[str]:
        """The windows that nothing has hit yet."""
        return [window for window, count in self._counts.items() if not count]

    def check(self) -> None:
        """Print the hits, and fail when a window has none."""
        print("hits: " + ", ".join(f"{window} {count}" for window, count in self._counts.items()))
        assert not self.missed, f"no fault hit: {', '.join(self.missed)}"
