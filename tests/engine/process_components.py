"""Components that the tests of processes call; importable by name, as what runs in a process has to be."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import ctypes
import itertools
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import date
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from openagents_json import ComponentRegistry, FatalError, RetryableError, StepContext
from openagents_json.components import capability

registry = ComponentRegistry()
imports = 0  # the import counter: see `times_imported`
imports += 1
calls = 0


class Point(BaseModel):
    x: int
    y: int = 0


# ── results ───────────────────────────────────────────────────────────────────────────────────────────────────────


@registry.tool
def noop() -> None:
    """Nothing."""


@registry.tool
def echo(value: Any) -> Any:
    return value


@registry.tool
def typed(day: date, point: Point) -> dict[str, Any]:
    assert isinstance(day, date)
    assert isinstance(point, Point)
    return {"year": day.year, "sum": point.x + point.y}


@registry.tool
async def asynchronous(value: int) -> int:
    await asyncio.sleep(0)
    return value + 1


@registry.tool
def where() -> dict[str, Any]:
    global calls
    calls += 1
    thread = threading.current_thread() is threading.main_thread()
    return {"pid": os.getpid(), "calls": calls, "imports": imports, "main_thread": thread, "stdin": sys.stdin.read()}


@registry.tool
def about(ctx: StepContext) -> list[Any]:
    return [
        ctx.job_id,
        ctx.workflow_id,
        ctx.step,
        ctx.attempt,
        ctx.idempotency_key,
        ctx.fencing_token,
        str(ctx.deadline),
    ]


@registry.agent("counter", config={"start": 10})
class Counter:
    made = 0

    def __init__(self, start: int) -> None:
        Counter.made += 1
        self.count = start

    async def setup(self) -> None:
        self.count += 100

    @capability
    def add(self, amount: int) -> list[int]:
        self.count += amount
        return [self.count, Counter.made]

    @capability
    async def add_later(self, amount: int) -> list[int]:
        self.count += amount
        return [self.count, Counter.made]


# ── talking ───────────────────────────────────────────────────────────────────────────────────────────────────────


@registry.tool
def talk(ctx: StepContext) -> str:
    ctx.progress(0.5, "half")
    ctx.emit({"token": "a"})
    return ctx.track_blocking("vm", "release_vm", {"id": 7}, until="job", keep=True)


@registry.tool
async def talk_async(ctx: StepContext) -> str:
    return await ctx.track("vm", "release_vm")


@registry.tool
def say(lines: int) -> None:
    for line in range(lines):
        print(f"out {line}")
        print(f"err {line}", file=sys.stderr)
    os.write(1, b"no end of line")


@registry.tool
def log(ctx: StepContext) -> None:
    logging.getLogger("some.library").warning("careful with %s", "this")
    ctx.logger.info("going on")


@registry.tool
def print_much(megabytes: int) -> int:
    block = b"x" * 2**20
    for _ in range(megabytes):
        os.write(1, block)
    return megabytes


@registry.tool
def tell_all(ctx: StepContext, text: str) -> None:
    """Say the same in every way there is."""
    print(text)
    print(text, file=sys.stderr)
    ctx.logger.info("%s", text)
    ctx.progress(0.5, text)
    ctx.emit({"said": text})


# ── errors ────────────────────────────────────────────────────────────────────────────────────────────────────────


@registry.tool
def fail(how: str) -> None:
    if how == "value":
        raise ValueError("no such value")
    if how == "retryable":
        raise RetryableError("http.503", "come back", 2.5, details={"status": 503})
    if how == "fatal":
        raise FatalError("http.404", "gone")
    if how == "exit":
        sys.exit(3)
    if how == "interrupt":
        raise KeyboardInterrupt
    raise AssertionError(how)


@registry.tool
def fail_before(ctx: StepContext, attempt: int) -> int:
    if ctx.attempt < attempt:
        raise RetryableError("http.503", "come back", 1.0)
    return ctx.attempt


@registry.tool
def die(how: str) -> None:
    print("last words")
    if how == "abort":
        os.abort()
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "segv":
        ctypes.string_at(0)
    if how == "exit":
        os._exit(3)
    raise AssertionError(how)


@registry.tool
def write_everywhere() -> None:
    for end in range(3, 256):
        with contextlib.suppress(OSError):
            os.write(end, b"\x00\xff some garbage \n" * 10)
    forever()


@registry.tool
def forge_frame() -> None:
    """An honest header, and then a frame that claims more than is allowed."""
    for end in range(3, 256):
        with contextlib.suppress(OSError):
            os.write(end, b"oaf1\x7f\xff\xff\xff" + b"x" * 1000)
    forever()


@registry.tool
def return_much(characters: int) -> str:
    return "x" * characters


@registry.tool
def return_wrong() -> int:
    return "no number"  # type: ignore[return-value]


@registry.tool
def allocate(megabytes: int) -> int:
    return len(bytearray(megabytes * 2**20))


# ── long calls ────────────────────────────────────────────────────────────────────────────────────────────────────


def forever() -> None:
    while True:
        time.sleep(60)


@registry.tool
def hold(started: str, go: str, value: Any = None) -> Any:
    """Say that it runs, and wait for the file that lets it go on."""
    Path(started).touch()
    while not Path(go).exists():
        time.sleep(0.002)
    return value


@registry.tool
def compute(started: str) -> None:
    Path(started).touch()
    while True:
        pass


@registry.tool
def hold_the_interpreter(started: str) -> None:
    """One call into C code that never ends, never looks at signals and never lets another thread run."""
    Path(started).touch()
    collections.deque(itertools.repeat(None), maxlen=0)


@registry.tool
def ignore_sigterm(started: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path(started).touch()
    forever()


@registry.tool
def start_grandchildren(started: str, count: int) -> None:
    """Grandchildren that ignore SIGTERM, each a shell and its own child."""
    script = "trap '' TERM; sleep 1000 & sleep 1000"
    programs = [subprocess.Popen(["/bin/sh", "-c", script]) for _ in range(count)]
    Path(started).write_text(" ".join(str(program.pid) for program in programs))
    forever()


@registry.tool
def start_daemon(started: str, then: str = "stay", has_environment: bool = True) -> None:
    """A grandchild in a session of its own whose parent has ended, as daemons are made; its id stands in the file."""
    child = os.fork()
    if child == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            note = Path(started).with_suffix(".new")
            note.write_text(str(os.getpid()))
            note.rename(started)
            os.execve("/bin/sleep", ["sleep", "1000"], dict(os.environ) if has_environment else {})
        os._exit(0)
    os.waitpid(child, 0)
    while not Path(started).exists():
        time.sleep(0.001)
    if then == "exit":
        os._exit(0)
    if then == "stay":
        forever()


@registry.tool
def start_comet(started: str) -> None:
    """A daemon that is another process whenever somebody looks: each forks the next one and ends."""
    until_s = time.monotonic() + 30
    if os.fork() == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        Path(started).touch()
        while time.monotonic() < until_s:
            if os.fork():
                os._exit(0)
        os._exit(0)
    forever()


@registry.tool
def leave_grandchild(started: str) -> None:
    """Return, or die, while a grandchild still has our output."""
    program = subprocess.Popen(["/bin/sleep", "1000"])
    Path(started).write_text(str(program.pid))
    os._exit(0)


@registry.tool
def wait_told(started: str, ctx: StepContext) -> str | None:
    Path(started).touch()
    while not ctx.cancelled:
        time.sleep(0.001)
    return ctx.cancel_reason


@registry.tool
def clean_up(started: str, ended: str, ctx: StepContext) -> None:
    ctx.defer(lambda: Path(ended).with_suffix(".deferred").touch())
    try:
        Path(started).touch()
        forever()
    finally:
        Path(ended).touch()


@registry.tool
async def clean_up_async(started: str, ended: str) -> None:
    try:
        Path(started).touch()
        await asyncio.sleep(1000)
    except asyncio.CancelledError:
        Path(ended).touch()
        raise


@registry.tool
def finish_anyway(started: str) -> str:
    try:
        Path(started).touch()
        forever()
    except SystemExit:
        return "finished"
    raise AssertionError


@registry.tool
def talk_without_end(started: str, ctx: StepContext) -> None:
    """SIGTERM is sure to come in the middle of a frame."""
    Path(started).touch()
    while True:
        ctx.emit("x" * 60_000)


@registry.tool
def fork_and_return(ctx: StepContext) -> int:
    """A fork that talks on our behalf, or would, and then runs out of our loop."""
    child = os.fork()
    if child == 0:
        ctx.progress(1.0, "from the fork")
        logging.getLogger().warning("from the fork")
        os._exit(0)
    return os.waitpid(child, 0)[1]


# ── cleaning up ───────────────────────────────────────────────────────────────────────────────────────────────────


def write_line(file: str, line: str) -> None:
    with Path(file).open("a") as lines:
        lines.write(f"{line}\n")


@registry.tool
def acquire_and_stay(started: str, released: str, ctx: StepContext) -> None:
    for name in ("a", "b"):
        ctx.track_blocking(name, "write_release", {"file": released, "name": name})
    Path(started).write_text(str(os.getpid()))
    forever()


@registry.tool
async def write_release(file: str, name: str) -> None:
    write_line(file, name)


def cannot_clean_up() -> None:
    raise RuntimeError("nobody listens")


@registry.tool
def defer_things(file: str, how: str, ctx: StepContext) -> str:
    ctx.defer(lambda: write_line(file, "first"))
    ctx.defer(cannot_clean_up)
    ctx.defer(lambda: write_line(file, "last"))
    if how == "fail":
        raise ValueError("no luck")
    if how == "wait":
        Path(file).with_suffix(".started").touch()
        while not ctx.cancelled:
            time.sleep(0.001)
        raise RuntimeError("told to stop")
    return "well"


@registry.tool
def defer_own_end(file: str, ctx: StepContext) -> str:
    """SIGTERM comes while what was deferred is being called."""
    ctx.defer(lambda: write_line(file, "first"))
    ctx.defer(lambda: os.kill(os.getpid(), signal.SIGTERM))
    return "well"


@registry.tool
async def defer_own_end_async(file: str, ctx: StepContext) -> str:
    async def end() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(10)

    ctx.defer(lambda: write_line(file, "first"))
    ctx.defer(end)
    return "well"


@registry.tool
async def defer_things_async(file: str, how: str, ctx: StepContext) -> str:
    async def last() -> None:
        await asyncio.sleep(0)
        write_line(file, "last")

    ctx.defer(lambda: write_line(file, "first"))
    ctx.defer(cannot_clean_up)
    ctx.defer(last)
    if how == "fail":
        raise ValueError("no luck")
    if how == "wait":
        Path(file).with_suffix(".started").touch()
        await ctx.wait_cancelled()
        await asyncio.sleep(1000)
    return "well"


# ── spending ──────────────────────────────────────────────────────────────────────────────────────────────────────


@registry.tool
def spend(ctx: StepContext, tokens: int, cost: float = 0.0, then: str = "return", started: str = "") -> int:
    """Report it in two parts, and then return, raise, die, or stay."""
    ctx.spend(tokens=tokens - 1, cost=cost)
    ctx.spend(tokens=1)
    if started:
        Path(started).touch()
    match then:
        case "raise":
            raise RetryableError("llm.overloaded", "it was spent in vain")
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stay":
            forever()
    return tokens
