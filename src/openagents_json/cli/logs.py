"""Logging of the command line: warnings to stderr, one line each. The library itself never configures logging."""

from __future__ import annotations

import logging
import sys

from openagents_json.cli.text import printable


class _Stderr(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to what `sys.stderr` is now: the live view puts itself in between."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


class _OneLine(logging.Formatter):
    """One printable line per record; tracebacks only when asked for."""

    def __init__(self, *, with_tracebacks: bool) -> None:
        super().__init__()
        self._with_tracebacks = with_tracebacks

    def format(self, record: logging.LogRecord) -> str:
        text = printable(record.getMessage(), 2_000)
        line = f"{self.formatTime(record, '%H:%M:%S')} {record.levelname.lower()}: {text}"
        error = record.exc_info[1] if record.exc_info else None
        if error is None:
            return line
        if self._with_tracebacks:
            return f"{line}\n{super().formatException(record.exc_info)}"  # type: ignore[arg-type]
        return f"{line} ({type(error).__name__}: {printable(str(error))})"


def configure_logging(*, verbose: bool, debug: bool) -> None:
    """Send warnings, with `verbose` also information, to stderr. Leaves a program alone that has its own handlers."""
    root = logging.getLogger()
    ours = next((handler for handler in root.handlers if isinstance(handler, _Stderr)), None)
    if ours is None:
        if root.handlers:
            return
        ours = _Stderr()
        root.addHandler(ours)
    ours.setFormatter(_OneLine(with_tracebacks=debug))
    root.setLevel(logging.WARNING)
    logging.getLogger("openagents_json").setLevel(logging.INFO if verbose else logging.WARNING)
