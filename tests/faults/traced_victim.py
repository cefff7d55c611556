"""Lives of the victim for strace, which counts their system calls and spoils some of them.

    python -m tests.faults.traced_victim

A process that has Python's start and the imports behind it, and forks each life: so a life costs little, and makes few
calls that do not matter. One line of JSON in (a `Life`) is one life. Out comes its pid, when it waits for SIGUSR1 to
begin, and then its exit code (of a signal: negative).
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sqlite3
import sys
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from openagents_json import StoreUnavailable
from openagents_json.job.store import file_disk, sqlite, sqlite_schema
from tests.faults import victim
from tests.faults.victim import Log

GO = signal.SIGUSR1
FINALS, TROUBLES = "finals.jsonl", "troubles.jsonl"
COMPACT_BYTES = 20_000  # of a file store, so that a short life compacts it
TRIES, REST_S = 200, 0.02  # of a patient life: so often it asks a store that is in trouble, and so long it waits
PR_SET_PTRACER, ANYBODY = 0x59616D61, ctypes.c_ulong(-1)

T = TypeVar("T")


class Life(msgspec.Struct, frozen=True):
    """What a life is to do."""

    folder: str
    count: int  # jobs that are to be there, and to end
    is_file: bool = False
    is_synced: bool = True  # else it is a weakened build: its store syncs nothing
    is_patient: bool = False  # whether it writes down what the store says, and tries again


async def main(life: Life) -> None:
    """Have all jobs accepted and run to their end; write down the ends that the client was told."""
    folder = Path(life.folder)
    finals, told = Log(folder / FINALS), read_finals(folder)
    ask = Patience(folder).ask if life.is_patient else at_once
    jobs = victim.make_app(folder, is_file=life.is_file).jobs
    await ask(jobs.open)
    try:
        await ask(lambda: victim.accept(jobs, folder, life.count))
        for job_id in victim.read_accepted(folder).values():
            job = await ask(lambda job_id=job_id: jobs.wait(job_id))  # type: ignore[misc]
            if job_id not in told:
                finals.write([job_id, str(job.status)])
    finally:
        await ask(jobs.close)  # a second time it does nothing


async def at_once(call: Callable[[], Awaitable[T]]) -> T:
    return await call()


class Patience:
    """Asks again when the store says that it is unavailable, and writes down what it said. Any other error is one."""

    def __init__(self, folder: Path) -> None:
        self._troubles = Log(folder / TROUBLES)

    async def ask(self, call: Callable[[], Awaitable[T]]) -> T:
        for _ in range(TRIES):
            try:
                return await call()
            except StoreUnavailable as error:
                self._troubles.write([type(error).__name__, str(error)])
                await asyncio.sleep(REST_S)
        raise AssertionError("the store did not come back")


def read_finals(folder: Path) -> dict[str, str]:
    """The final statuses that the client was told, by job id."""
    return dict(victim.read_log(folder / FINALS))


def read_troubles(folder: Path) -> list[tuple[str, str]]:
    """What the store said: error and message."""
    return [(kind, message) for kind, message in victim.read_log(folder / TROUBLES)]


def weaken() -> None:
    """Let nothing be synced: SQLite with `synchronous=OFF`, and a journal without fdatasync."""
    connect = sqlite_schema.connect

    def connect_carelessly(*arguments: Any, **named: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **named)
        connection.execute("PRAGMA synchronous = OFF")
        return connection

    setattr(sqlite, "connect", connect_carelessly)  # noqa: B010 - where the store looks it up
    for sync in ("sync", "sync_folder"):
        setattr(file_disk, sync, lambda what: None)


# ── forking ───────────────────────────────────────────────────────────────────────────────────────────────────────


def serve() -> None:
    """Have a life for each line that comes in."""
    pid = 0  # of the last life, whose number stays taken until the next one is asked for
    signal.pthread_sigmask(signal.SIG_BLOCK, [GO])
    for line in sys.stdin:
        if pid:
            os.waitpid(pid, 0)
        is_ready, says_ready = os.pipe()
        pid = os.fork()
        if not pid:
            be_born(line, says_ready)
        os.close(says_ready)
        os.read(is_ready, 1)
        os.close(is_ready)
        print(pid, flush=True)
        info = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert info is not None
        print(info.si_status if info.si_code == os.CLD_EXITED else -info.si_status, flush=True)


def be_born(line: str, says_ready: int) -> None:
    """In the child, which never returns from here. What it prints does not go among the answers."""
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)
        ctypes.CDLL(None).prctl(PR_SET_PTRACER, ANYBODY, 0, 0, 0)  # where only a parent may trace: anybody may
        life = msgspec.json.decode(line, type=Life)
        os.write(says_ready, b"x")
        os.close(says_ready)
        signal.sigwait([GO])
        victim.COMPACT_BYTES = COMPACT_BYTES
        if not life.is_synced:
            weaken()
        asyncio.run(main(life))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
