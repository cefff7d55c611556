"""What a command knows of the call it belongs to."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TextIO

import typer


@dataclass(frozen=True, slots=True)
class Invocation:
    """One call of `main`. `stdout` is the real one, also where --json sends everything else to stderr."""

    arguments: tuple[str, ...]
    stdout: TextIO
    is_debug: bool

    def again(self, *more: str) -> str:
        """The same command line, for people to copy, with options added that it does not have."""
        return shlex.join(["openagents", *self.arguments, *(one for one in more if one not in self.arguments)])


def invocation_of(context: typer.Context) -> Invocation:
    """The call that a command was started by."""
    found = context.find_object(Invocation)
    assert found is not None
    return found
