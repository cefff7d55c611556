"""Errors on their way through a pipe: as data on one side, and on the other an exception that says the same.

What stands in a job's record is then the same as if the component had run inline: the code, the message, whether
another attempt may help, the details, the problems of inputs.
"""

from __future__ import annotations

import traceback

from openagents_json.errors import FatalError, InvalidInputs, OpenAgentsError, Problem, RetryableError, StepFailure
from openagents_json.job.engine.processes.frames import TRACEBACK_CHARACTERS, ErrorData
from openagents_json.jsondata import NotJson, plain

MESSAGE_CHARACTERS = 4_000
DETAILS_BYTES = 16 * 1024


def to_data(error: BaseException) -> ErrorData:
    """What is to be known of an error. Never raises, whatever the error's own `__str__` does."""
    message = _text(error)
    if isinstance(error, StepFailure):
        delay_s = error.delay_s if isinstance(error, RetryableError) else None
        return ErrorData(_valid(error.code), message, error.retryable, _details(error.details), delay_s)
    if isinstance(error, InvalidInputs):
        problems = [(_valid(one.path), _valid(one.message), one.suggestion) for one in error.problems]
        return ErrorData(error.code, message, False, problems=problems)
    if isinstance(error, OpenAgentsError):  # ours: the same inputs will fail in the same way
        return ErrorData(_valid(error.code), message, False)
    return ErrorData(f"component.{type(error).__name__}", message)


def from_data(data: ErrorData) -> OpenAgentsError:
    """The exception: `InvalidInputs`, `FatalError`, `RetryableError` or `StepFailure`."""
    if data.problems is not None:
        invalid = InvalidInputs([Problem(*one) for one in data.problems])
        invalid.args = (data.message,)  # it names the component
        return invalid
    if data.retryable is None:
        return StepFailure(data.code, data.message, details=data.details)
    if data.retryable:
        return RetryableError(data.code, data.message, data.delay_s, details=data.details)
    return FatalError(data.code, data.message, details=data.details)


def traceback_of(error: BaseException) -> str:
    """The end of the traceback, bounded; empty if it cannot be written."""
    try:
        text = "".join(traceback.format_exception(error, limit=-30))
    except Exception:
        return ""
    return _valid(text[-TRACEBACK_CHARACTERS:])


def _text(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception as unspeakable:
        text = f"(its message cannot be read: {type(unspeakable).__name__})"
    return _valid(text[:MESSAGE_CHARACTERS]) or type(error).__name__


def _valid(text: object) -> str:
    """Text that JSON can hold."""
    return str(text).encode("utf-8", "replace").decode()


def _details(details: object) -> object:
    if details is None:
        return None
    try:
        return plain(details, limit_bytes=DETAILS_BYTES)[0]
    except (NotJson, ValueError) as error:  # pydantic's ValidationError is a ValueError
        return {"left_out": str(error)}
