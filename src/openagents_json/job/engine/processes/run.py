"""One call of a component in a process: what is asked for (`ProcessCall`) and how it goes (`ProcessRun`)."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from openagents_json.components import Link, Reference
from openagents_json.components.link import NoLink
from openagents_json.job.engine.processes.ending import never_started
from openagents_json.job.engine.processes.frames import LogLine

if TYPE_CHECKING:
    from openagents_json.job.engine.processes.pool import ProcessPool
    from openagents_json.job.engine.processes.process import Process

logger = logging.getLogger("openagents_json.worker")

Output: TypeAlias = Literal["stdout", "stderr", "log"]
_NO_LINK = NoLink()
OnOutput: TypeAlias = Callable[[Output, bytes | LogLine], None]


def ignore_output(stream: Output, data: bytes | LogLine) -> None:
    """Keeps nothing."""


@dataclass(frozen=True, slots=True)
class ProcessCall:
    """What to call, and with what.

    `inputs` is plain JSON. `link` hears progress, emits, spending and tracked resources, `on_output` what is printed
    (bytes, cut anywhere) and logged (`LogLine`), both in the event loop. `memory_mb` (MiB) and `cpu_s` limit what the
    call may take beyond what its process has already.
    """

    component: Reference
    inputs: Mapping[str, Any]
    job_id: str
    workflow_id: str
    step: str
    attempt: int
    idempotency_key: str
    fencing_token: int
    deadline_us: int | None = None
    link: Link = _NO_LINK
    on_output: OnOutput = ignore_output
    memory_mb: int | None = None
    cpu_s: float | None = None


@dataclass(frozen=True, slots=True)
class Succeeded:
    """An outcome that is no error."""

    output: Any


class ProcessRun:
    """A call on its way. Use it in the event loop only.

    `done` gets the output as plain JSON, which has passed the component's own check, or an exception: what the
    component raised (`crossing.from_data`), or a `StepFailure` whose code says what became of the process (`ending`).
    After `terminate` or `kill` that is when the process has ended and nothing of its group runs any more.
    """

    def __init__(self, call: ProcessCall, pool: ProcessPool) -> None:
        self.call = call
        self.done: asyncio.Future[Any] = pool.loop.create_future()
        self.outcome: Succeeded | BaseException | None = None  # written by the process, once known
        self.is_terminated = False  # terminate was asked for
        self.is_killed = False  # kill was asked for
        self._pool = pool
        self._process: Process | None = None  # None: it waits for one
        self._told: str | None = None

    @property
    def pid(self) -> int | None:
        """Of the process that runs it, which is also its group; None while it waits for one, and afterwards."""
        return None if self._process is None or self.done.done() else self._process.pid

    def tell(self, reason: str) -> None:
        """Cancel the context in the process; the first reason counts."""
        if self._told is None and not self._is_over:
            self._told = reason
            if self._process is not None:
                self._process.tell(reason)

    def terminate(self) -> None:
        """Have it end: a coroutine gets `CancelledError`, sync code `SystemExit`, what it has started SIGTERM. An
        output that arrives nevertheless counts."""
        if not self.is_terminated:
            self.is_terminated = True
            self._stop(signal.SIGTERM)

    def kill(self) -> None:
        """End it whatever it does, with all that it has started."""
        self.is_killed = True
        self._stop(signal.SIGKILL)

    # ── for the pool and the process ──────────────────────────────────────────────────────────────────────────────

    def start(self, process: Process) -> None:
        """Make the call there."""
        self._process = process
        process.start(self)
        if self._told is not None:
            process.tell(self._told)

    def succeeded(self, output: Any) -> Succeeded:
        """The outcome with this output."""
        return Succeeded(output)

    def give_output(self, stream: Output, data: bytes) -> None:
        """Hand on what was printed; never raises."""
        try:
            if data:
                self.call.on_output(stream, data)
        except Exception:
            logger.exception("what a step in a process printed could not be passed on")

    def fail(self, error: BaseException) -> None:
        """It ends before it has begun."""
        self.outcome = error
        self.resolve()

    def resolve(self) -> None:
        """Tell whoever waits; nobody does if the future was cancelled."""
        outcome = self.outcome
        if self.done.done() or outcome is None:
            return
        if isinstance(outcome, Succeeded):
            self.done.set_result(outcome.output)
        else:
            self.done.set_exception(outcome)

    @property
    def _is_over(self) -> bool:
        return self.done.done() and (self._process is None or self._process.run is not self)

    def _stop(self, number: signal.Signals) -> None:
        if self._is_over:
            return  # the process may have the next call by now
        if self._process is None:
            self._pool.forget(self)
            self.fail(never_started(self))
        else:
            self._process.signal(number)
