"""What a component is told about its attempt, and the way it talks back: `StepContext`.

A component receives one by annotating a parameter with `StepContext`. The engine makes one for each attempt and calls
`cancel` on it; everything else is for the component.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, get_args

from openagents_json.amounts import COST, TOKENS, inside, spent_problem
from openagents_json.clock import Clock, SystemClock, as_datetime
from openagents_json.components.link import Link, NoLink, Resource, Until
from openagents_json.components.output import LOG, LOG_LEVEL, error_of, log_line, sink
from openagents_json.jsondata import plain

PROGRESS_INTERVAL_US = 50_000
MESSAGE_CHARACTERS = 500
EMITTED_BYTES = 64 * 1024  # of one `emit`
RESOURCE_BYTES = 16 * 1024  # of the inputs of a release
RESOURCE_CHARACTERS = 200  # of a resource's name

_LOGGER = logging.getLogger("openagents_json.step")
_SYSTEM_CLOCK = SystemClock()
_NO_LINK = NoLink()
_lock = (
    threading.Lock()
)  # guards the waiters and the progress gate of every context: held for nanoseconds, rarely taken

if TYPE_CHECKING:
    _LoggerAdapter = logging.LoggerAdapter[logging.Logger]
else:
    _LoggerAdapter = logging.LoggerAdapter


class StepLogger(_LoggerAdapter):
    """The logger of one attempt: adds `job_id`, `step` and `attempt` to whatever `extra` a call brings."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(kwargs.get("extra") or {}), **(self.extra or {})}
        return msg, kwargs

    def log(self, level: int, msg: Any, *args: Any, **kwargs: Any) -> None:
        """As any logger. What the program's logging passes over still belongs to the output of the attempt."""
        if self.isEnabledFor(level):
            super().log(level, msg, *args, **kwargs)
        elif level >= LOG_LEVEL and (output := sink.get()) is not None:
            exc_info = kwargs.get("exc_info")
            error = sys.exception() if exc_info is True else error_of(exc_info)
            try:
                text = str(msg) % args if args else str(msg)
            except Exception:  # as the logging of the standard library: a bad call of a logger breaks nothing
                text = f"{msg!r} {args!r}"
            output.write(LOG, log_line(level, text, error))


class StepContext:
    """One attempt of a step, seen from inside the component. Everything here may be used from any thread.

    - `job_id`, `workflow_id`; `step` is the path of the step run, such as `clauses[3].score`; `attempt` counts from 1.
    - `idempotency_key` is the same in all attempts of a step run: hand it to services that accept one.
    - `fencing_token` rises with every attempt of the job: a service that remembers the highest can refuse a late one.
    - `deadline` is when the attempt times out (aware UTC), None if it has no timeout.
    """

    __slots__ = (
        "_cancel_reason",
        "_clock",
        "_deferred",
        "_logger",
        "_reported",
        "_waiters",
        "attempt",
        "deadline_us",
        "fencing_token",
        "idempotency_key",
        "job_id",
        "link",
        "step",
        "workflow_id",
    )

    def __init__(
        self,
        job_id: str,
        workflow_id: str,
        step: str,
        attempt: int,
        idempotency_key: str,
        fencing_token: int,
        *,
        deadline_us: int | None = None,
        link: Link = _NO_LINK,
        clock: Clock = _SYSTEM_CLOCK,
    ) -> None:
        self.job_id = job_id
        self.workflow_id = workflow_id
        self.step = step
        self.attempt = attempt
        self.idempotency_key = idempotency_key
        self.fencing_token = fencing_token
        self.deadline_us = deadline_us  # None: the attempt has no timeout
        self.link = link  # the engine's end, which everything that is said here goes to
        self._deferred: list[Callable[[], Any]] | None = None
        self._clock = clock
        # Written once, by the first cancel; read by anybody without the lock. None: not cancelled.
        self._cancel_reason: str | None = None
        # Futures of coroutines in wait_cancelled; under _lock. None: nobody waits.
        self._waiters: list[asyncio.Future[None]] | None = None
        # The last progress handed on, as (when in µs, fraction); under _lock. None: nothing yet.
        self._reported: tuple[int, float] | None = None
        self._logger: StepLogger | None = None  # made by the first reader; a second one made meanwhile is its equal

    @classmethod
    def for_tests(cls, **changes: Any) -> StepContext:
        """A context with plausible values, for calling a component in a test; keywords replace any of them."""
        values: dict[str, Any] = {
            "job_id": "00000000-0000-7000-8000-000000000000",
            "workflow_id": "test",
            "step": "step",
            "attempt": 1,
            "idempotency_key": "test-key",
            "fencing_token": 1,
        }
        return cls(**(values | changes))

    def __repr__(self) -> str:
        return f"<StepContext {self.step} of job {self.job_id}, attempt {self.attempt}>"

    @property
    def deadline(self) -> datetime | None:
        return None if self.deadline_us is None else as_datetime(self.deadline_us)

    @property
    def logger(self) -> StepLogger:
        """A logger (`openagents_json.step`) whose records carry `job_id`, `step` and `attempt`."""
        if self._logger is None:
            fields = {"job_id": self.job_id, "step": self.step, "attempt": self.attempt}
            self._logger = StepLogger(_LOGGER, fields)
        return self._logger

    # ── cancellation ──────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def cancelled(self) -> bool:
        """Whether this attempt should stop. Long sync code asks now and then; a coroutine gets `CancelledError`."""
        return self._cancel_reason is not None

    @property
    def cancel_reason(self) -> str | None:
        """Why: `cancelled`, `force_cancelled`, `sibling_failed` (another step of its scope), `timeout`, `shutdown` or
        `lost_lease`; None while nobody asked."""
        return self._cancel_reason

    def cancel(self, reason: str) -> None:
        """Tell the component to stop. For the engine; from any thread. A second call changes nothing."""
        with _lock:
            if self._cancel_reason is not None:
                return
            self._cancel_reason = reason
            waiters, self._waiters = self._waiters or [], None
        for waiter in waiters:
            try:
                waiter.get_loop().call_soon_threadsafe(_wake, waiter)
            except RuntimeError:  # the waiter's loop was closed meanwhile: nobody waits there any more
                continue

    async def wait_cancelled(self) -> None:
        """Return when this attempt is cancelled; at once if it is already."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with _lock:
            if self._cancel_reason is not None:
                return
            if self._waiters is None:
                self._waiters = []
            self._waiters.append(waiter)
        try:
            await waiter
        finally:
            with _lock:
                if self._waiters is not None and waiter in self._waiters:
                    self._waiters.remove(waiter)

    # ── progress ──────────────────────────────────────────────────────────────────────────────────────────────────

    def progress(self, fraction: float, message: str = "") -> None:
        """Report how far this attempt is: `fraction` from 0 to 1, `message` of at most 500 characters (cut there).

        Reports that follow another within 50 ms are dropped, except the first with fraction 1. `ValueError` for a
        fraction outside 0…1.
        """
        if not 0 <= fraction <= 1:  # refuses NaN too
            raise ValueError(f"progress goes from 0 to 1, not {fraction!r}")
        now_us = self._clock.now_us()
        with _lock:
            if self._reported is not None:
                last_us, last = self._reported
                # A clock that was set back counts as time passed: better one report more than an hour of silence.
                too_soon = 0 <= now_us - last_us < PROGRESS_INTERVAL_US
                if too_soon and not (fraction == 1 and last < 1):
                    return
            self._reported = now_us, fraction
        self.link.progress(float(fraction), message[:MESSAGE_CHARACTERS])

    def emit(self, data: Any) -> None:
        """Show something to those who watch the job now, such as the tokens of an answer that is still being written.

        `data` is plain JSON of at most 64 KiB (`TooLarge`, `NotJson`). No history holds it, but it is kept with the
        output of the attempt, as far as that goes; a watcher that is too slow misses some.
        """
        self.link.emit(plain(data, limit_bytes=EMITTED_BYTES)[0])

    # ── spending ──────────────────────────────────────────────────────────────────────────────────────────────────

    def spend(self, tokens: int = 0, cost: float | Decimal = 0) -> None:
        """Report what this attempt has spent since it reported last: tokens, and a cost in whatever unit your workflows
        use, kept exactly to a billionth. It counts however the attempt ends, and towards the `budget` of its job.

        `ValueError` for what is negative, not finite, no number, or above a billion of cost or 10**15 tokens at once.
        """
        for kind, amount in ((TOKENS, tokens), (COST, cost)):
            if (problem := spent_problem(kind, amount)) is not None:
                raise ValueError(problem)
        spent = {key: amount for key, amount in inside({TOKENS: tokens, COST: cost}).items() if amount}
        if spent:
            self.link.spend(spent)

    # ── cleaning up ───────────────────────────────────────────────────────────────────────────────────────────────

    async def track(
        self,
        name: str,
        release: str,
        inputs: Mapping[str, Any] | None = None,
        *,
        until: Until = "step",
        keep: bool = False,
    ) -> str:
        """Record what this step is about to acquire and how it is given back; returns its id once that is durable.

        Acquire it afterwards: then whatever happens (failure, cancel, kill, a dead worker) the component `release` is
        called with `inputs` at least once, newest first, so it has to bear being called twice or for nothing. That is
        when the step has ended, or the job with `until="job"`; `keep=True` leaves it alone if that ended well.
        """
        return await asyncio.wrap_future(self.link.track(_resource(name, release, inputs, until, keep)))

    def track_blocking(
        self,
        name: str,
        release: str,
        inputs: Mapping[str, Any] | None = None,
        *,
        until: Until = "step",
        keep: bool = False,
    ) -> str:
        """`track` for sync components that run in a thread or a process. `RuntimeError` in an event loop, which has
        to go on for the record to be written."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return self.link.track(_resource(name, release, inputs, until, keep)).result()
        raise RuntimeError("track_blocking would stop the event loop: make the component async and await ctx.track(…)")

    def defer(self, function: Callable[[], Any]) -> None:
        """Call `function` when this attempt has ended, however it ends; the last one deferred is called first.

        For what dies with the process anyway (a client, a file). It may be async in a component that is. Errors are
        logged and change nothing.
        """
        with _lock:
            if self._deferred is None:
                self._deferred = []
            self._deferred.append(function)

    def take_deferred(self) -> Iterator[Callable[[], Any]]:
        """What was deferred, newest first, each once; what one of them defers comes next. For the engine."""
        while True:
            with _lock:
                if not self._deferred:
                    return
                function = self._deferred.pop()
            yield function

    # ── time ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def sleep(self, seconds: float) -> None:
        """Sleep by the job's clock, which tests can move. Cancelling the attempt ends it with `CancelledError`."""
        await self._clock.sleep(seconds)


def _resource(name: str, release: str, inputs: Mapping[str, Any] | None, until: Until, keep: bool) -> Resource:
    if not name or len(name) > RESOURCE_CHARACTERS:
        raise ValueError(f"The name of a resource has 1 to {RESOURCE_CHARACTERS} characters, not {len(name)}.")
    if until not in get_args(Until):
        raise ValueError(f"A resource is kept until the end of its step or job, not until {until!r}.")
    document, _ = plain(dict(inputs or {}), limit_bytes=RESOURCE_BYTES)
    return Resource(name, release, document, until, keep)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():  # a waiter that was cancelled meanwhile is done
        waiter.set_result(None)
