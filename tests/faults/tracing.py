"""strace around a life of the victim: what it asked of the system, and a kill or an error at one of those calls.

strace counts the calls of each thread and of each kind by themselves. So `when=N` hits the thread that is the first to
make its Nth call of that kind.
"""

from __future__ import annotations

import asyncio
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import msgspec
import pytest

from tests.faults.traced_victim import GO, Life

ROOT = Path(__file__).resolve().parents[2]
SAFETY_S, LOOK_S = 60.0, 0.002
STRING_BYTES = 70_000  # of what is written, in the record; nothing that the victim writes is longer
WRITES, SYNCS = ("pwrite64", "write"), ("fdatasync", "fsync")
# All that changes a folder. Some kinds are called by their older names on some machines only.
CHANGES = (
    *WRITES, *SYNCS, "openat", "ftruncate",
    "?open", "?creat", "?truncate", "?unlink", "unlinkat", "?rename", "?renameat", "?renameat2",
    "?mkdir", "mkdirat", "?rmdir", "?link", "linkat", "?fallocate", "?pwritev", "?writev", "?copy_file_range",
)  # fmt: skip


@functools.cache
def _why_not() -> str:
    """Why strace cannot be used here; empty when it can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    probe = subprocess.run(["strace", "-f", "-e", "inject=fsync:error=EIO", "true"], capture_output=True, text=True)
    return "" if probe.returncode == 0 else "tracing a process with strace is not permitted here"


needs_strace = pytest.mark.skipif(bool(_why_not()), reason=_why_not() or "strace works")


def recording(bytes_shown: int) -> list[str]:
    """Arguments of strace for a record that `read_calls` reads, with so many bytes of what is written."""
    return ["-y", "-xx", "-s", str(bytes_shown)]


def quiet(calls: Sequence[str]) -> list[str]:
    """Arguments of strace: look at these calls, with nothing that is only for people."""
    return ["strace", "-f", "-e", "signal=none", "-e", f"trace={','.join(calls)}"]


class Lives:
    """Has one life of the victim after the other. For `with`."""

    def __init__(self) -> None:
        program = [sys.executable, "-m", "tests.faults.traced_victim"]
        self._process = subprocess.Popen(
            program, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.communicate()

    async def live(
        self, life: Life, *tracing: str, record: Path | None = None, looks: Callable[[], bool] | None = None
    ) -> int:
        """The exit code of a life, of a signal: negative. `tracing` are arguments of strace, whose output `record`
        gets; without them nobody traces it. `looks` is called again and again, in another thread: when it says True,
        strace leaves, and the life goes on without it."""
        return await asyncio.to_thread(self._live, life, tracing, record, looks)

    def _live(self, life: Life, tracing: Sequence[str], record: Path | None, looks: Callable[[], bool] | None) -> int:
        print(msgspec.json.encode(life).decode(), file=_pipe(self._process.stdin))
        pid = int(_pipe(self._process.stdout).readline())
        strace = _attach(pid, tracing, record) if tracing else None
        try:
            os.kill(pid, GO)
            if strace is not None and looks is not None:
                _leave_when(strace, looks)
            return self._end(pid)
        finally:
            if strace is not None:
                strace.communicate(timeout=SAFETY_S)

    def _end(self, pid: int) -> int:
        """The exit code. A life that takes too long is killed, and fails the test."""
        late: list[int] = []

        def kill() -> None:
            late.append(pid)
            os.kill(pid, signal.SIGKILL)  # harmless after its end: it is reaped when the next life is asked for

        timer = threading.Timer(SAFETY_S, kill)
        timer.start()
        try:
            code = int(_pipe(self._process.stdout).readline())
        finally:
            timer.cancel()
        assert not late, f"it had not ended after {SAFETY_S:g} seconds"
        return code


def _attach(pid: int, tracing: Sequence[str], record: Path | None) -> subprocess.Popen[str]:
    """strace on that process, when it has really begun."""
    command = [*tracing, "-o", str(record or os.devnull), "-p", str(pid)]
    strace = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    said = _pipe(strace.stderr).readline()
    if "attached" not in said:
        os.kill(pid, signal.SIGKILL)
        raise AssertionError(f"strace does not trace: {said}{strace.communicate()[1]}")
    return strace


def _leave_when(strace: subprocess.Popen[str], looks: Callable[[], bool]) -> None:
    """End strace, which ends by itself when there is nothing more to trace."""
    until_s = time.monotonic() + SAFETY_S
    while strace.poll() is None and not looks() and time.monotonic() < until_s:
        time.sleep(LOOK_S)
    strace.terminate()


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


# ── the record ────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Call:
    """A call that begins, that has ended, or both: of two threads one may begin while the other's is on."""

    thread: int
    name: str
    arguments: str  # as strace shows them; of a call that has only ended: what was not shown before
    begins: bool
    result: int | None  # None: it has not ended

    def target(self) -> str:
        """The path behind its first argument, a file descriptor; empty when it has none."""
        found = re.match(r"\d+<((?:\\x..)*)>", self.arguments)
        return _text(found[1]).decode(errors="surrogateescape") if found else ""

    def strings(self) -> list[str]:
        """Its arguments that are strings, paths mostly."""
        found = re.findall(r'"((?:\\x..)*)"', self.arguments)
        return [_text(one).decode(errors="surrogateescape") for one in found]

    def data(self) -> bytes:
        """What is written."""
        found = re.search(r'"((?:\\x..)*)"(\.\.\.)?', self.arguments)
        assert found is not None and found[2] is None, f"longer than {STRING_BYTES} bytes"
        return _text(found[1])

    def last_number(self) -> int:
        """Its last argument, an offset or a size."""
        return int(self.arguments.rsplit(", ", 1)[1])


BEGUN = re.compile(r"(\d+) +(\w+)\((.*?)(?:\)\s+= (-?\d+|\?).*| <unfinished \.\.\.>)$")
RESUMED = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>.*\)\s+= (-?\d+|\?)")


def read_calls(record: Path) -> Iterator[Call]:
    """The calls of a record, in their order."""
    with record.open() as lines:
        for line in lines:
            if found := BEGUN.match(line):
                yield Call(int(found[1]), found[2], found[3], True, _result(found[4]))
            elif found := RESUMED.match(line):
                yield Call(int(found[1]), found[2], "", False, _result(found[3]))


def _result(text: str | None) -> int | None:
    return None if text is None or text == "?" else int(text)


def _text(shown: str) -> bytes:
    return bytes.fromhex(shown.replace("\\x", ""))
