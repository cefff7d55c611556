"""Runs one call in a process of its own and measures it: what G13 bounds is counted, not guessed.

A server process imports what is called beforehand and forks for each call, so a call costs milliseconds, and a crash or
an endless loop ends the fork alone. `Guarded` is the client; the calls are in guarded_calls.py.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ALLOWED_CPU_S = 1.0
ALLOWED_MIB = 100.0
STOP_CPU_S = 20  # the kernel ends a call that goes on for so long
STOP_BYTES = 2 * 1024**3  # and refuses it more memory than this


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended: with a value or with an error, or by a signal, and what it took."""

    value: Any  # what it returned, if that was JSON
    error: str | None  # name of the exception's class
    is_ours: bool  # the exception is an OpenAgentsError or NotJson
    code: str | None  # its dotted type
    message: str
    signal: int  # that ended the process, 0 if none did
    cpu_s: float
    mib: float

    def check_bounds(self) -> None:
        """What G13 promises of every call: alive, an error of ours or none, and cheap."""
        assert self.signal == 0, f"ended by signal {self.signal}"
        assert self.error is None or self.is_ours, f"{self.error}: {self.message[:300]}"
        assert self.cpu_s <= ALLOWED_CPU_S, f"took {self.cpu_s:.2f} s of CPU"
        assert self.mib <= ALLOWED_MIB, f"took {self.mib:.0f} MiB"
        assert len(self.message) < 100_000
        assert "Traceback" not in self.message


class Guarded:
    """The client of one server process. `close` ends it."""

    def __init__(self) -> None:
        root = Path(__file__).parents[2]
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.unit.guarded"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=root,
            env=os.environ | {"PYTHONPATH": str(root)},
        )

    def call(self, name: str, *arguments: Any) -> Outcome:
        """Call a function of guarded_calls.py with JSON arguments. Nothing is promised yet about the outcome."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps([name, arguments]).encode() + b"\n")
        self._server.stdin.flush()
        return Outcome(**json.loads(self._server.stdout.readline()))

    def refuses(self, name: str, *arguments: Any) -> Outcome:
        """Call it, check the bounds, and expect an error."""
        outcome = self.call(name, *arguments)
        outcome.check_bounds()
        assert outcome.error is not None, f"it was not refused: {str(outcome.value)[:200]}"
        return outcome

    def survives(self, name: str, *arguments: Any) -> Outcome:
        """Call it, check the bounds, and expect a value."""
        outcome = self.call(name, *arguments)
        outcome.check_bounds()
        assert outcome.error is None, f"{outcome.error}: {outcome.message[:300]}"
        return outcome

    def close(self) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(10)
        self._server.stdout.close()


# ── the server ────────────────────────────────────────────────────────────────────────────────────────────────────


def serve() -> None:
    from tests.unit import guarded_calls

    for line in sys.stdin.buffer:
        name, arguments = json.loads(line)
        answer = _forked(getattr(guarded_calls, name), arguments)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _forked(function: Any, arguments: list[Any]) -> dict[str, Any]:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _limit()
        with os.fdopen(writing, "w") as pipe:
            json.dump(_measured(function, arguments), pipe)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    _, status, usage = os.wait4(child, 0)
    if not os.WIFSIGNALED(status):
        answer: dict[str, Any] = json.loads(text)
        return answer
    took = usage.ru_utime + usage.ru_stime
    return _answer(None, None, os.WTERMSIG(status), took, usage.ru_maxrss / 1024)


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (STOP_CPU_S, STOP_CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (STOP_BYTES, STOP_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _measured(function: Any, arguments: list[Any]) -> dict[str, Any]:
    """The memory is how far the high-water mark of this process rises: it starts at what the fork has."""
    error: BaseException | None = None
    value = None
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    try:
        value = function(*arguments)
    except BaseException as raised:
        error = raised
    took = time.process_time() - started
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib
    return _answer(value, error, 0, took, grown_kib / 1024)


def _answer(value: Any, error: BaseException | None, signal: int, cpu_s: float, mib: float) -> dict[str, Any]:
    from openagents_json.errors import OpenAgentsError
    from openagents_json.jsondata import NotJson

    return {
        "value": value,
        "error": None if error is None else type(error).__name__,
        "is_ours": isinstance(error, OpenAgentsError | NotJson),
        "code": getattr(error, "code", None),
        "message": "" if error is None else str(error),
        "signal": signal,
        "cpu_s": cpu_s,
        "mib": mib,
    }


if __name__ == "__main__":
    serve()
