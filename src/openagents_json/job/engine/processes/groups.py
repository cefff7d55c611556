"""Process groups: signalling one, and knowing that nothing of it runs any more.

A number is given to nobody else while any process has it as its id, group or session, a zombie included. So a group
may be signalled until its leader has been waited for; afterwards it is only asked whether somebody is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

from openagents_json.job.engine.processes import proc

WAITS_S = (0.0, 0.001, 0.001, 0.002, *[0.004] * 1_250)  # about five seconds
LOOKED_AT_AFTER = 3  # waits; then it is worth finding out who is left, and whether only zombies are


def send(group: int, number: signal.Signals) -> None:
    """Signal all processes of a group; nobody there is no error."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS answers EPERM for zombies
        os.killpg(group, number)


async def wait_gone(group: int, others: Sequence[proc.Entry] = ()) -> bool:
    """True when nothing of a killed group, nor of the other processes that were killed, runs any more; False if
    something still does after some seconds.

    Nobody can leave the group by forking: the kernel refuses a fork while a SIGKILL is pending, so one signal gets all
    of it, and who is seen later was there before. What has ended stays visible until its parent waits for it, and in a
    container that may be never; so zombies count as gone.
    """
    left: list[proc.Entry] | None = None
    for tries, wait_s in enumerate(WAITS_S):
        if left is None and tries >= LOOKED_AT_AFTER:
            left = [one for one in proc.entries() if one.group == group]
        if left is None or not _can_be_seen():
            if _is_empty(group) and not any(one.still_runs() for one in others):
                return True
        else:
            left = [one for one in left if one.still_runs()]
            if not left and not any(one.still_runs() for one in others):
                return True
        await asyncio.sleep(wait_s)
    return False


def members(group: int) -> Iterator[tuple[int, str]]:
    """Processes of a group as (id, state letter). Linux; elsewhere there are none to be seen."""
    return ((one.pid, one.state) for one in proc.entries() if one.group == group)


def started_at(process: int) -> str:
    """When a process began, in the kernel's ticks since boot: with its id, a name that is never used twice. Empty
    where that is not told."""
    found = proc.entry(process)
    return "" if found is None else found.started


def _is_empty(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def _can_be_seen() -> bool:
    return Path("/proc/self/stat").exists()
