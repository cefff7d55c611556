"""One attempt: has the component called, keeps its time, climbs the kill ladder, and reports one happening.

What was told to stop is waited for: the report comes when the code is known to have ended, and says which rung did it.
Only a thread (or a coroutine that swallows its cancellation) that outlives its grace is reported as abandoned; it keeps
its slot until it really ends, and what it returns then is refused.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pydantic

from openagents_json.components import Component, Isolation, StepContext
from openagents_json.errors import FatalError, InvalidInputs, OpenAgentsError, RetryableError, StepFailure
from openagents_json.job.engine.admission import Grant
from openagents_json.job.engine.capacities import CallLimits
from openagents_json.job.engine.code import Code, start_code
from openagents_json.job.machine import AttemptFailed, AttemptStopped, AttemptSucceeded, Happening, StepRun, Stop
from openagents_json.job.model import ErrorInfo
from openagents_json.jsondata import NotJson, plain
from openagents_json.workflow import Retry, limits, mask

if TYPE_CHECKING:
    from openagents_json.job.engine.output import OutputBuffer
    from openagents_json.job.engine.worker import Worker

logger = logging.getLogger("openagents_json.job")

MESSAGE_CHARACTERS = 2_000  # of an error's message in the record
DETAILS_BYTES = 16 * 1024  # of an error's details
FORCED_GRACE_S = 0.2  # what force leaves code that cannot be killed, before it is called abandoned
_SMALL = (int, float, bool, type(None))


class Attempt:
    """One try of a step run. Lives in the event loop; only the component itself may run in a thread."""

    def __init__(
        self,
        worker: Worker,
        run: StepRun,
        context: StepContext,
        component: Component,
        isolation: Isolation,
        timeout_s: float | None,
        secrets: dict[str, str],
        report: Callable[[Attempt, Happening], None],
        ended: Callable[[Attempt], None],
        output: OutputBuffer | None,
        limits: CallLimits,
        grant: Grant,
    ) -> None:
        self.path = run.path
        self.token = run.token
        self.number = run.attempt
        self.context = context
        self.component = component
        self.isolation = isolation
        self.grant = grant  # what it occupies until its code has ended
        self.is_abandoned = False
        self._worker = worker
        self._timeout_s = timeout_s
        self.secrets = secrets  # values to mask in whatever the attempt gives; filled by the runner before the call
        self._report = report  # called once: what became of the attempt
        self._ended = ended  # called once, when the code has really ended
        self._output = output  # takes what the component prints and logs; None: nobody does
        self._limits = limits
        self._code: Code | None = None
        self._timer: Any = None
        self._told_us: int | None = None  # when it was first told to stop
        self._stop_reason: str | None = None  # the first reason to stop wins
        self._stop_by: str | None = None  # the job that asked, if one did
        self._timed_out = False
        self._preparation: asyncio.Task[None] | None = None
        self.began_us = worker.clock.now_us()

    @property
    def is_told(self) -> bool:
        """Whether it was told to stop."""
        return self._told_us is not None

    @property
    def makes_room_for(self) -> str | None:
        """The job for the sake of which it was told to stop, if it was for one."""
        return self._stop_by

    def prepare(self, preparation: asyncio.Task[None]) -> None:
        """Something has to be waited for before the call: it ends by `start` or `fail`, and is cancelled when the
        attempt is told to stop."""
        self._preparation = preparation
        preparation.add_done_callback(self._prepared)

    def start(self, inputs: Mapping[str, Any]) -> None:
        """Make the call. Never raises: what is wrong with the inputs is reported like any failure."""
        try:
            _check_size(inputs)
            self._code = start_code(
                self._worker, self.component, self.isolation, inputs, self.context, self._limits, self._output
            )
        except Exception as error:
            self._finish(self._failure(error))
            return
        self._code.done.add_done_callback(self._code_ended)
        if self._timeout_s is not None:
            self._timer = self._worker.clock.call_later(self._timeout_s, self._expire)

    def fail(self, error: Exception) -> None:
        """Report a failure that comes before the call."""
        self._finish(self._failure(error))

    def skip(self, reason: str) -> None:
        """Report that it was stopped before the call."""
        self._stop_reason = reason
        self._finish(self._stopped_or_timed_out())

    def stop(self, reason: str, grace_s: float, by: str | None = None) -> None:
        """Tell the component to stop; kill it if it has not ended after `grace_s`, or abandon it if that cannot be.
        `by` is the job that it makes room for, if that is the reason."""
        if self._stop_reason is None and not self._timed_out:
            self._stop_reason, self._stop_by = reason, by
        self._tell_to_stop(reason, grace_s)

    def kill(self, reason: str) -> None:
        """Stop it with the strongest rung at once; what cannot be killed is told, and soon abandoned."""
        if self._stop_reason is None and not self._timed_out:
            self._stop_reason = reason
        self._tell_to_stop(reason, FORCED_GRACE_S, is_forced=True)

    # ── inside ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _prepared(self, preparation: asyncio.Task[None]) -> None:
        self._preparation = None
        if preparation.cancelled():
            inside = asyncio.CancelledError("what the call needs was cancelled from inside")
            self._finish(self._stopped_or_timed_out() if self.context.cancelled else self._failure(inside))
        elif (error := preparation.exception()) is not None:
            self._finish(self._failure(error))

    def _expire(self) -> None:
        self._timed_out = True
        self._tell_to_stop("timeout", self._worker.settings.abandon_after_s)

    def _tell_to_stop(self, reason: str, grace_s: float, *, is_forced: bool = False) -> None:
        self.context.cancel(reason)
        self._cancel_timer()
        if self._told_us is None:
            self._told_us = self._worker.clock.now_us()
        if self._preparation is not None:
            self._preparation.cancel(reason)
        if self._code is None or self._code.done.done():
            return
        if is_forced and self._code.kill():
            self._timer = self._worker.clock.call_later(self._worker.settings.kill_s, self._abandon)
        else:
            self._code.terminate(reason)
            self._timer = self._worker.clock.call_later(grace_s, self._outlived)

    def _outlived(self) -> None:
        """It did not end in its grace: the last rung, and what outlives that too is given up."""
        self._cancel_timer()
        if self._code is not None and self._code.kill():
            self._timer = self._worker.clock.call_later(self._worker.settings.kill_s, self._abandon)
        else:
            self._abandon()

    def _abandon(self) -> None:
        """The code did not end in its grace. From here on the job goes on without it; the slot stays taken."""
        self._cancel_timer()
        if self.is_abandoned or self._code is None or self._code.done.done():
            return
        self.is_abandoned = True
        self._worker.note_abandoned(self)
        logger.warning("step %s outlived its stop and is abandoned", self.path, extra=self._log_fields())
        self._hand_over_output(close=False)
        self._report(self, self._stopped_or_timed_out(abandoned=True))

    def _code_ended(self, code: asyncio.Future[Any]) -> None:
        self._cancel_timer()
        error: BaseException | None
        if code.cancelled():
            error = asyncio.CancelledError("the component was cancelled from inside")
        else:
            error = code.exception()
        if self.is_abandoned:
            self._hand_over_output(close=True)
            self._ended(self)
            return
        if self._timed_out or (self._stop_reason is not None and error is not None):
            self._finish(self._stopped_or_timed_out())
        elif error is not None:
            self._finish(self._failure(error))
        else:
            self._finish(self._success(code.result()))

    def _finish(self, happening: Happening) -> None:
        self._hand_over_output(close=True)
        self._ended(self)
        self._report(self, happening)

    def _hand_over_output(self, *, close: bool) -> None:
        """To the store, before the report that leads to the next commit: whoever reads that commit finds it there."""
        if self._output is not None:
            self._worker.outputs.flush(self._output, close=close)

    def _success(self, value: Any) -> Happening:
        try:
            output = self.component.accept_output(value)
        except Exception as error:
            return self._failure(error)
        if self.secrets:
            output = mask(output, self.secrets.values())
        return AttemptSucceeded(self.path, self.token, output)

    def _stopped_or_timed_out(self, *, abandoned: bool = False) -> Happening:
        stop = self._how_it_stopped(abandoned=abandoned)
        if not self._timed_out:
            return AttemptStopped(self.path, self.token, self._stop_reason or "cancelled", stop, self._stop_by)
        message = f"The attempt ran longer than {self._timeout_s:g} s."
        info = self._info("timeout.attempt", message, None, {"timeout_s": self._timeout_s})
        return AttemptFailed(self.path, self.token, info, default_retry=self._default_retry(), stop=stop)

    def _how_it_stopped(self, *, abandoned: bool) -> Stop:
        took_us = 0 if self._told_us is None else self._worker.clock.now_us() - self._told_us
        return Stop(None if abandoned or self._code is None else self._code.rung(), took_us, abandoned)

    def _failure(self, error: BaseException) -> Happening:
        code, retryable, details, asked = f"component.{type(error).__name__}", None, None, None
        if isinstance(error, StepFailure):
            code, retryable, details = error.code, error.retryable, _plain_details(error.details)
            asked = error.delay_s if isinstance(error, RetryableError) else None
        elif isinstance(error, OpenAgentsError):  # ours: the same inputs will fail in the same way
            code, retryable = error.code, False
            if isinstance(error, InvalidInputs):
                details = {"problems": [str(problem) for problem in error.problems]}
        message = str(error) or type(error).__name__
        info = self._info(code, message, retryable, details)
        logger.info("step %s failed: %s", self.path, info["type"], extra=self._log_fields())
        return AttemptFailed(self.path, self.token, info, asked, self._default_retry())

    def _info(self, type: str, message: str, retryable: bool | None, details: Any) -> ErrorInfo:
        info: ErrorInfo = {
            "type": type,
            "message": _recordable(message),
            "step": self.path,
            "attempt": self.number,
            "retryable": retryable,
            "details": details,
        }
        return mask(info, self.secrets.values()) if self.secrets else info

    def _default_retry(self) -> Retry | None:
        given = self.component.retry
        return self._worker.component_retry(self.component.name, given) if given is not None else None

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _log_fields(self) -> dict[str, Any]:
        return {"job_id": self.context.job_id, "step": self.path, "attempt": self.number}


def _check_size(inputs: Mapping[str, Any]) -> None:
    if all(type(value) in _SMALL or (type(value) is str and len(value) < 1_000) for value in inputs.values()):
        return  # the usual case, not worth encoding: a step has at most as many inputs as its definition has bytes
    try:
        plain(inputs, limit_bytes=limits.INPUTS_BYTES)
    except NotJson as error:
        raise FatalError("limit.inputs", f"The step's inputs are too large. {error}") from None


def _recordable(message: str) -> str:
    """Bounded, and free of what no store can hold."""
    text = message[:MESSAGE_CHARACTERS].replace("\x00", "�")
    return text.encode("utf-8", "replace").decode()


def _plain_details(details: Any) -> Any:
    if details is None:
        return None
    try:
        return plain(details, limit_bytes=DETAILS_BYTES)[0]
    except (NotJson, pydantic.ValidationError) as error:
        return {"left_out": str(error)}
