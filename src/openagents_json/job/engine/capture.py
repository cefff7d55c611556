"""Taking over what components print and log: stand-ins for `sys.stdout` and `sys.stderr`, and a look at log records.

Both ask the context variable `sink` whose output it is; what belongs to no attempt passes through untouched. They are
installed while a worker is open that captures, and taken away with the last one.

Log records are seen as they are made, not by a handler: one on the root logger would make `logging.basicConfig` do
nothing, and end the warnings of programs that have configured no logging.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterable
from typing import Any

from openagents_json.components.output import LOG, LOG_LEVEL, STDERR, STDOUT, error_of, log_line, sink

OWN_LOGGERS = "openagents_json."  # what the engine logs is not the component's …
STEP_LOGGER = "openagents_json.step"  # … but what components log by their context is

_lock = threading.Lock()  # guards the two below: managers may be opened in several threads
_wanted = 0  # workers that are open
_factory: Any = None  # what made log records before; None while nothing is installed


class StandIn:
    """Stands for a text stream and writes to it, unless an attempt's code writes. Everything else is the stream's."""

    def __init__(self, under: Any, stream: str) -> None:
        self.under = under
        self._stream = stream

    def write(self, text: Any) -> int:
        """The number of characters, as of any text stream."""
        output = sink.get()
        if output is None or not isinstance(text, str) or _is_of_logging() or not output.write(self._stream, text):
            return self.under.write(text)  # type: ignore[no-any-return]
        if output.echoes:
            token = sink.set(None)  # what is below may come back to us, as a live display does
            try:
                self.under.write(text)
            finally:
                sink.reset(token)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each of them."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.under, name)


def _is_of_logging() -> bool:
    """Whether a handler of `logging` writes to a stand-in: the record is in the output already."""
    return sys._getframe(2).f_globals.get("__name__") == "logging"


def install() -> None:
    """One more worker wants to know what its components write."""
    global _wanted, _factory
    with _lock:
        _wanted += 1
        if _factory is None:
            _factory = logging.getLogRecordFactory()
            logging.setLogRecordFactory(_make_record)
    ensure()


def uninstall() -> None:
    """One less; the last one leaves everything as it was. What somebody else has put on top of us stays, and what is
    left of us below it passes everything through."""
    global _wanted, _factory
    with _lock:
        _wanted -= 1
        if _wanted:
            return
        while isinstance(sys.stdout, StandIn):
            sys.stdout = sys.stdout.under
        while isinstance(sys.stderr, StandIn):
            sys.stderr = sys.stderr.under
        if logging.getLogRecordFactory() is _make_record:
            logging.setLogRecordFactory(_factory)
            _factory = None


def ensure() -> None:
    """Be on top again: others replace the streams, too (a live display, a test, a notebook). Cheap when we are."""
    if type(sys.stdout) is not StandIn and sys.stdout is not None:
        sys.stdout = StandIn(sys.stdout, STDOUT)
    if type(sys.stderr) is not StandIn and sys.stderr is not None:
        sys.stderr = StandIn(sys.stderr, STDERR)


def _make_record(name: str, level: Any, *rest: Any, **more: Any) -> logging.LogRecord:
    record: logging.LogRecord = _factory(name, level, *rest, **more)
    output = sink.get()
    if output is not None and isinstance(level, int) and level >= LOG_LEVEL and _is_theirs(name):
        try:
            text = record.getMessage()
        except Exception:  # a bad call of a logger breaks nothing, here as in the standard library
            text = f"{record.msg!r} {record.args!r}"
        output.write(LOG, log_line(level, text, error_of(record.exc_info)))
    return record


def _is_theirs(name: Any) -> bool:
    return not isinstance(name, str) or not name.startswith(OWN_LOGGERS) or name == STEP_LOGGER
