"""Where a command's words go: text or JSON to stdout, notes to stderr."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from typing import Any, TextIO

import typer

from openagents_json.cli.invocation import invocation_of
from openagents_json.cli.text import columns, json_text


class Output:
    """The output of one command. Text given to `say` and `table` must be `printable` already."""

    def __init__(self, stream: TextIO, *, as_json: bool = False) -> None:
        self.stream = stream
        self.as_json = as_json

    @property
    def is_terminal(self) -> bool:
        return self.stream.isatty()

    def say(self, text: str = "") -> None:
        """A line for people; nothing with --json."""
        if not self.as_json:
            self._write(text)

    def table(self, rows: Sequence[Sequence[str]]) -> None:
        """Aligned columns for people, cut at the terminal's width."""
        width = shutil.get_terminal_size().columns if self.is_terminal else None
        for line in columns(rows, width=width):
            self.say(line)

    def note(self, text: str) -> None:
        """A line for people on stderr, with and without --json."""
        print(text, file=sys.stderr, flush=True)

    def document(self, value: Any) -> None:
        """A line of JSON."""
        self._write(json_text(value))

    def data(self, value: Any) -> None:
        """JSON that is data for people and programs alike: indented for people."""
        self._write(json_text(value, indent=None if self.as_json else 2))

    def _write(self, line: str) -> None:
        self.stream.write(line + "\n")
        self.stream.flush()


def output_of(context: typer.Context, as_json: bool) -> Output:
    """The output of the command that runs in this context."""
    return Output(invocation_of(context).stdout, as_json=as_json)
