"""Ending what a process has started, also what has left its group (`setsid`) or its parent (a daemon's double fork).

Each of our processes is a *subreaper*: while it lives, the orphans below it become its own children. So all that it has
started is found by going from parent to child, and the order matters: it is stopped first, what has left its group is
killed while it can still be found, and the group comes last. What a process leaves that ended by itself is found by the
mark in the environment that it inherited.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable

from openagents_json.job.engine.processes import groups, proc

ROUNDS = 50  # of looking for more; what forks faster than it is killed is given up
# Looks in a row that find nothing more. One is not enough: what forks and ends all the time may have ended when its
# turn comes, and its child may not have been there when the list was made.
EMPTY_LOOKS = 3


def kill_all(leader: int) -> list[proc.Entry] | None:
    """Kill a process that was not waited for, its group, and whatever else descends from it. Those others are returned,
    and may not have ended yet; None if they could not be found, since the process had ended by itself."""
    groups.send(leader, signal.SIGSTOP)  # from here on nothing of the group forks, and the leader adopts orphans
    try:
        found = kill_escaped(leader)
        now = proc.entry(leader)
    finally:
        groups.send(leader, signal.SIGKILL)
    return found if now is not None and now.runs else None


def kill_escaped(leader: int) -> list[proc.Entry]:
    """Kill what descends from a living process and has left its group; returns what that was. Nothing is waited for."""
    return _kill_until_none(lambda: _escaped(leader))


def kill_marked(mark: str) -> list[proc.Entry]:
    """Kill what has inherited a mark; returns what that was."""
    return _kill_until_none(lambda: [one for one in proc.marked(mark) if one.pid != os.getpid()])


def _kill_until_none(find: Callable[[], Iterable[proc.Entry]]) -> list[proc.Entry]:
    """Kill again and again what is found, until that is nothing new: what is killed may fork until then. Each with its
    group, which gets all of it at once; nobody joins a group of another session, so only descendants are in it."""
    killed: list[proc.Entry] = []
    known: set[tuple[int, str]] = set()
    empty = 0
    for _ in range(ROUNDS):
        new = [one for one in find() if (one.pid, one.started) not in known]
        empty = 0 if new else empty + 1
        if empty == EMPTY_LOOKS:
            break
        for one in new:
            known.add((one.pid, one.started))
            if one.still_runs():  # its number, and its group's, may be another's by now
                groups.send(one.group, signal.SIGKILL)
        killed += new
    return killed


def _escaped(leader: int) -> list[proc.Entry]:
    children: dict[int, list[proc.Entry]] = {}
    for one in proc.entries():
        children.setdefault(one.parent, []).append(one)
    found: list[proc.Entry] = []
    looked_at, ahead = {leader}, [leader]
    while ahead:
        for one in children.get(ahead.pop(), ()):
            if one.pid not in looked_at:  # a number that was used again meanwhile could close a circle
                looked_at.add(one.pid)
                ahead.append(one.pid)
                if one.group != leader and one.runs:
                    found.append(one)
    return found
