"""The warden: outlives a parent that was killed with -9 by as long as it takes to kill its process groups.

A program of its own, started with `python -I -S`; so it imports nothing of this package. Lines on its standard input
say what there is to guard: `+<group> <start time of its leader>` and `-<group>`. When the parent has died, or closes
the pipe, every group that is still on the list is killed, and whatever has left its group: the environment holds the
mark that its arguments name.
"""

import contextlib
import os
import select
import signal
import sys

LINE_BYTES = 64 * 1024
ROUNDS = 50  # of looking for more that has left its group
ENVIRONMENT_BYTES = 256 * 1024  # of a process, looked through for the mark


def main() -> None:
    """Read until the parent is gone, then kill."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # whoever ends a whole service still needs us until the parent is dead
    groups: dict[int, str] = {}
    rest = b""
    parent = _watch_parent(int(sys.argv[1]))
    while parent is not None:
        # The end of the pipe is not enough: a fork of the parent's program may hold it open for ever.
        readable, _, _ = select.select([0, parent] if parent >= 0 else [0], [], [])
        if 0 in readable:
            data = os.read(0, LINE_BYTES)
            if not data:
                break
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                _note(line.decode(), groups)
        elif readable:
            break
    for group, started_at in groups.items():
        _kill(group, started_at)
    if groups and os.path.isdir("/proc"):  # noqa: PTH112 (slow to import)
        _kill_marked(f"{sys.argv[2]}=".encode())


def _watch_parent(parent: int) -> int | None:
    """A descriptor that is readable when the parent has ended; -1 where there is none, None if it has ended already."""
    watch = -1
    if hasattr(os, "pidfd_open"):
        try:
            watch = os.pidfd_open(parent)
        except ProcessLookupError:
            return None
        except OSError:
            watch = -1
    return watch if os.getppid() == parent else None  # after the open: the id may have been given to another


def _note(line: str, groups: dict[int, str]) -> None:
    group, _, started_at = line[1:].partition(" ")
    if line.startswith("+"):
        groups[int(group)] = started_at
    else:
        groups.pop(int(group), None)


def _kill(group: int, started_at: str) -> None:
    """Unless the number is somebody else's by now: its leader would have begun at another time."""
    try:
        with open(f"/proc/{group}/stat", encoding="utf-8", errors="replace") as stat:  # noqa: PTH123 (slow to import)
            if stat.read().rpartition(")")[2].split()[19] != started_at:
                return
    except OSError:
        pass  # the leader is gone: then the number is the group's, or nobody's
    with contextlib.suppress(OSError):
        os.killpg(group, signal.SIGKILL)


def _kill_marked(mark: bytes) -> None:
    """What is killed may fork until then, so this looks again until nothing new is found."""
    known: set[int] = set()
    for _ in range(ROUNDS):
        found = {int(name) for name in os.listdir("/proc") if name.isdigit() and _carries(name, mark)} - known  # noqa: PTH208
        for process in found:
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)
        if not found:
            return
        known |= found


def _carries(process: str, mark: bytes) -> bool:
    try:
        with open(f"/proc/{process}/environ", "rb") as environment:  # noqa: PTH123 (slow to import)
            return any(entry.startswith(mark) for entry in environment.read(ENVIRONMENT_BYTES).split(b"\0"))
    except OSError:
        return False


if __name__ == "__main__":
    main()
