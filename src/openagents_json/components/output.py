"""Where the output of the code that runs now goes: a `Sink` in a context variable, which tasks and threads inherit.

The engine sets it around the call of a component; what is printed or logged in that context belongs to the attempt.
"""

from __future__ import annotations

import logging
import traceback
from contextvars import ContextVar
from typing import Any, Protocol

STDOUT, STDERR, LOG, EMITTED = "stdout", "stderr", "log", "emitted"
STREAMS = (STDOUT, STDERR, LOG, EMITTED)
LOG_LEVEL = logging.INFO  # log records below are nobody's output


class Sink(Protocol):
    """Takes the output of one attempt, from any thread, and never raises."""

    @property
    def echoes(self) -> bool:
        """Whether what is printed goes to the real stream as well."""

    def write(self, stream: str, text: str) -> bool:
        """Keep the text. False when nobody wants it any more: then it is not this attempt's."""


sink: ContextVar[Sink | None] = ContextVar("openagents_output", default=None)


def log_line(level: int, message: str, error: BaseException | None = None) -> str:
    """A log record as text: `WARNING the message`, the traceback below it."""
    text = level_line(logging.getLevelName(level), message)
    return text if error is None else text + "".join(traceback.format_exception(error))


def level_line(level: str, message: str) -> str:
    """The first of its lines."""
    return f"{level} {message}\n"


def error_of(exc_info: Any) -> BaseException | None:
    """The exception that a log call's `exc_info` brings, in any of the forms that it takes once it is looked up."""
    found = exc_info[1] if isinstance(exc_info, tuple) and len(exc_info) == 3 else exc_info
    return found if isinstance(found, BaseException) else None
