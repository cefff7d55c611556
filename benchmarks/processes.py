"""What a step in a process costs: a call, a megabyte, the spare's first answer, and ending code that will not end.

Run it with `python -m benchmarks.processes`; it starts no job manager, only the pool. The components stand here too.
A call counts from `submit` to the answer in the coroutine that awaits it: encoding, both pipes, the component's checks
of its input and output, and two turns of the event loop. Beside it stands what the machine makes of the same without
any of ours, in turns with it: a frame of the same size to a process that sends it back, read by the event loop.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import itertools
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.table import Figure, as_markdown, as_text
from openagents_json import ComponentRegistry, StepFailure
from openagents_json.components import reference_to
from openagents_json.job.engine.processes import ProcessCall, ProcessPool, ProcessRun, groups

CALLS = 2_000
TURN = 100  # calls, then as many bare round trips
FRAME_BYTES = 128
ECHO = f"import os\nwhile data := os.read(0, {FRAME_BYTES}): os.write(1, data)"
LARGE_CALLS = 100
SPARES = 20
KILLS = 40
GRANDCHILDREN = 20

registry = ComponentRegistry()


@registry.tool
def noop() -> None:
    """Nothing."""


@registry.tool
def length(text: str) -> int:
    """How long a text is."""
    return len(text)


@registry.tool
def compute(started: str) -> None:
    """A loop in Python."""
    Path(started).touch()
    while True:
        pass


@registry.tool
def hold_the_interpreter(started: str) -> None:
    """A loop in C, which lets no other thread run and looks at no signal."""
    Path(started).touch()
    collections.deque(itertools.repeat(None), maxlen=0)


@registry.tool
def ignore_sigterm(started: str) -> None:
    """Deaf to the polite way."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path(started).touch()
    while True:
        time.sleep(60)


@registry.tool
def fork_bomb(started: str) -> None:
    """Grandchildren that fork again and again."""
    for _ in range(GRANDCHILDREN):
        if os.fork() == 0:
            while True:
                if os.fork() == 0:
                    os._exit(0)
                os.waitpid(-1, 0)
    Path(started).touch()
    while True:
        time.sleep(60)


STUBBORN = ("compute", "hold_the_interpreter", "ignore_sigterm", "fork_bomb")


async def measure(is_quick: bool) -> list[Figure]:
    """All figures."""
    pool = ProcessPool(limit=4)
    try:
        await _call(pool, "noop").done
        await _wait_until(lambda: pool.ready > 1)
        figures = [*await _calls(pool, is_quick), *await _spares(is_quick)]
        with tempfile.TemporaryDirectory() as folder:
            for name in STUBBORN:
                figures += await _kills(pool, name, Path(folder), 3 if is_quick else KILLS)
        return figures
    finally:
        await pool.close()


def main(arguments: Sequence[str]) -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.processes", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes: to see that all runs, not for figures")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    options = parser.parse_args(arguments)
    figures = asyncio.run(measure(options.quick))
    print((as_markdown if options.markdown else as_text)(figures))
    return 0


async def _calls(pool: ProcessPool, is_quick: bool) -> list[Figure]:
    """Calls of a warm process, one after the other; in between, bare round trips."""
    small: list[float] = []
    bare: list[float] = []
    with _Echo() as echo:
        for _ in range(2 if is_quick else CALLS // TURN):
            small += [await _seconds(pool, "noop") for _ in range(TURN)]
            bare += [await echo.seconds() for _ in range(TURN)]
    text = "x" * 1_000_000
    large = [await _seconds(pool, "length", text=text) for _ in range(10 if is_quick else LARGE_CALLS)]
    return [
        Figure("call of a warm process, median", 1e6 * statistics.median(small), "µs", at_most=100),
        Figure("… the fastest", 1e6 * min(small), "µs"),
        Figure("… a bare round trip in between, median", 1e6 * statistics.median(bare), "µs"),
        Figure("… the fastest", 1e6 * min(bare), "µs"),
        Figure("call with a 1 MB string, median", 1e3 * statistics.median(large), "ms", at_most=15),
    ]


class _Echo:
    """A process that sends back what it gets, and two pipes in the event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._came: asyncio.Future[None] = self._loop.create_future()

    def __enter__(self) -> _Echo:
        self._program = subprocess.Popen([sys.executable, "-I", "-S", "-c", ECHO], stdin=-1, stdout=-1, bufsize=0)
        assert self._program.stdin is not None and self._program.stdout is not None
        self._to, self._from = self._program.stdin.fileno(), self._program.stdout.fileno()
        self._loop.add_reader(self._from, self._read)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.remove_reader(self._from)
        self._program.communicate()

    async def seconds(self) -> float:
        """One round trip."""
        begin = time.perf_counter()
        self._came = self._loop.create_future()
        os.write(self._to, bytes(FRAME_BYTES))
        await self._came
        return time.perf_counter() - begin

    def _read(self) -> None:
        os.read(self._from, FRAME_BYTES)
        self._came.set_result(None)


async def _spares(is_quick: bool) -> list[Figure]:
    """The first call that a spare gets, while another process is busy."""
    found = []
    for _ in range(2 if is_quick else SPARES):
        pool = ProcessPool(limit=2)
        pool.warm(reference_to(registry.get("length")))
        await _wait_until(lambda pool=pool: pool.ready == 1)  # type: ignore[misc]
        found.append(await _seconds(pool, "length", text=""))
        await pool.close()
    return [
        Figure("first answer of the spare, median", 1e3 * statistics.median(found), "ms", at_most=10),
        Figure("… the slowest", 1e3 * max(found), "ms"),
    ]


async def _kills(pool: ProcessPool, name: str, folder: Path, count: int) -> list[Figure]:
    """From kill to the end of all, with the number of processes that survived."""
    found, left = [], 0
    for number in range(count):
        started = folder / f"{name}{number}"
        run = _call(pool, name, started=str(started))
        await _wait_until(started.exists)
        group = run.pid
        begin = time.perf_counter()
        run.kill()
        with contextlib.suppress(StepFailure):
            await run.done
        found.append(time.perf_counter() - begin)
        left += sum(state not in "ZX" for _, state in groups.members(group or 0))
        await _wait_until(lambda: pool.ready > 0)
    slowest = sorted(found)[min(len(found) - 1, len(found) * 99 // 100)]
    return [
        Figure(f"killing {name}, p99", 1e3 * slowest, "ms", at_most=250),
        Figure("… processes left", left, at_most=0, is_counted=True),
    ]


async def _seconds(pool: ProcessPool, name: str, **inputs: Any) -> float:
    call = _made(name, **inputs)
    begin = time.perf_counter()
    await pool.submit(call).done
    return time.perf_counter() - begin


def _call(pool: ProcessPool, name: str, **inputs: Any) -> ProcessRun:
    return pool.submit(_made(name, **inputs))


def _made(name: str, **inputs: Any) -> ProcessCall:
    return ProcessCall(reference_to(registry.get(name)), inputs, "job", "workflow", "step", 1, "key", 1)


async def _wait_until(is_true: Callable[[], bool]) -> None:
    while not is_true():  # noqa: ASYNC110 (other processes tell nobody)
        await asyncio.sleep(0.002)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
