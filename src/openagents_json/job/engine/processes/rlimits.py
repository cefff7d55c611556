"""Limits of one call, set in the child around the call and taken back after it.

Both are counted from where the process stands when the call begins: a warm process has modules and agents in memory
and has used CPU, and a call shall get the same whichever process it gets.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

MIB = 1024 * 1024


@contextlib.contextmanager
def limited(memory_mb: int | None, cpu_s: float | None) -> Iterator[None]:
    """At most `memory_mb` MiB more memory (`MemoryError` beyond) and `cpu_s` more seconds of CPU (SIGXCPU beyond, which
    ends the process). None: no limit."""
    import resource  # not on every system; a call without limits works there

    before: list[tuple[int, tuple[int, int]]] = []
    try:
        if memory_mb is not None:
            # RLIMIT_DATA counts private writable memory. RLIMIT_AS counts every mapping too: libraries, and the 64 MiB
            # of addresses that malloc reserves for each thread without using them; a fair limit would fail at once.
            before.append(_set(resource.RLIMIT_DATA, _data_bytes() + memory_mb * MIB))
        if cpu_s is not None:
            usage = resource.getrusage(resource.RUSAGE_SELF)
            # The kernel counts whole seconds. Only the soft limit: a hard one could not be taken back.
            before.append(_set(resource.RLIMIT_CPU, math.ceil(usage.ru_utime + usage.ru_stime + cpu_s)))
        yield
    finally:
        for kind, limits in before:
            resource.setrlimit(kind, limits)


def _set(kind: int, soft: int) -> tuple[int, tuple[int, int]]:
    """Lower a soft limit; returns what to set it back to."""
    import resource

    before = resource.getrlimit(kind)
    lowest = min([soft, *(limit for limit in before if limit != resource.RLIM_INFINITY)])
    resource.setrlimit(kind, (lowest, before[1]))
    return kind, before


def _data_bytes() -> int:
    """What counts towards RLIMIT_DATA now, a little more where stacks are counted in; 0 where nobody tells."""
    import resource

    try:
        return int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    except (OSError, IndexError):
        return 0
