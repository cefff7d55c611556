"""Process groups: signalling one, and knowing that nothing of it runs any more.

A number is given to nobody else while any process has it as its id, group or session, a zombie included. So a group
may be signalled until its leader has been waited for; afterwards it is only asked whether somebody is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

WAITS_S = (0.0, 0.001, 0.002, 0.004, 0.008, 0.016, *[0.03] * 160)  # about five seconds
LOOKED_AT_AFTER = 3  # waits; then it is worth finding out whether only zombies are left


def send(group: int, number: signal.Signals) -> None:
    """Signal all processes of a group; nobody there is no error."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS answers EPERM for zombies
        os.killpg(group, number)


async def wait_empty(group: int) -> bool:
    """True when nothing of a killed group runs any more; False if something still does after some seconds.

    Nobody can leave by forking: the kernel refuses a fork while a SIGKILL is pending, so one signal to the group gets
    all of it. What has ended stays visible until its parent waits for it, and in a container that may be never; so
    zombies count as gone.
    """
    for tries, wait_s in enumerate(WAITS_S):
        if _is_empty(group) or (tries >= LOOKED_AT_AFTER and _only_zombies(group)):
            return True
        await asyncio.sleep(wait_s)
    return False


def members(group: int) -> Iterator[tuple[int, str]]:
    """Processes of a group as (id, state letter). Linux; elsewhere there are none to be seen."""
    for place in Path("/proc").glob("[0-9]*/stat"):
        fields = _fields(place)
        if len(fields) > 2 and fields[2] == str(group):
            yield int(place.parent.name), fields[0]


def started_at(process: int) -> str:
    """When a process began, in the kernel's ticks since boot: with its id, a name that is never used twice. Empty
    where that is not told."""
    fields = _fields(Path(f"/proc/{process}/stat"))
    return fields[19] if len(fields) > 19 else ""


def _fields(place: Path) -> list[str]:
    """The fields of a stat file from the state on: the name before it may contain anything."""
    try:
        return place.read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _is_empty(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def _only_zombies(group: int) -> bool:
    return Path("/proc/self/stat").exists() and all(state in "ZX" for _, state in members(group))
