"""Lives of a worker, one after the other, without the start of Python and the imports each time: a process that has
them behind it forks each life, and says how it ended.

    python -m tests.faults.nursery MODULE

One line of JSON in (a folder, and keywords of `main` of that module) is one life; out come two lines, its pid and then
its exit code.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import ModuleType, TracebackType
from typing import IO, Any, Self

ROOT = Path(__file__).resolve().parents[2]


class Nursery:
    """For `with`. At most one life at a time; what still lives at the end is killed."""

    def __init__(self, module: ModuleType) -> None:
        program = [sys.executable, "-m", "tests.faults.nursery", module.__name__]
        self._process = subprocess.Popen(
            program, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self._pid: int | None = None  # of the life whose end we have not heard of

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._pid is not None:
            self.kill()
        self._process.communicate()

    def begin(self, folder: Path, **how: Any) -> None:
        assert self._pid is None, "one life at a time"
        print(json.dumps([str(folder), how]), file=self._pipe(self._process.stdin))
        self._pid = int(self._pipe(self._process.stdout).readline())

    def kill(self) -> int:
        """End the life, and say how it ended: a signal's number is negative."""
        self._send_kill()
        return self._end()

    async def ended(self, within_s: float) -> int:
        """How the life ended by itself. One that takes too long is killed."""
        timer = asyncio.get_running_loop().call_later(within_s, self._send_kill)
        try:
            return await asyncio.to_thread(self._end)
        finally:
            timer.cancel()

    def _send_kill(self) -> None:
        assert self._pid is not None
        os.kill(self._pid, signal.SIGKILL)  # harmless after its end: it is reaped when the next life is asked for

    def _end(self) -> int:
        code = int(self._pipe(self._process.stdout).readline())
        self._pid = None
        return code

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe


def main(module: str) -> None:
    live_once = importlib.import_module(module).main
    pid = 0  # of the last life, whose number stays taken until the next one is asked for
    for line in sys.stdin:
        if pid:
            os.waitpid(pid, 0)
        pid = os.fork()
        if not pid:
            live(live_once, line)
        print(pid, flush=True)
        info = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert info is not None
        print(info.si_status if info.si_code == os.CLD_EXITED else -info.si_status, flush=True)


def live(main_of: Callable[..., Coroutine[Any, Any, None]], line: str) -> None:
    """In the child, which never returns from here. What it prints does not go among the answers."""
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)
        folder, how = json.loads(line)
        asyncio.run(main_of(Path(folder), **how))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1])
