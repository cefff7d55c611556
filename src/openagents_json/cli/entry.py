"""`main`: runs one command line and returns its exit code; whatever goes wrong ends as one short message on stderr."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Sequence

from openagents_json.cli.exit_codes import Exit
from openagents_json.cli.invocation import Invocation


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` holds (None: the program's own arguments) and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    as_json = "--json" in options
    is_debug = "--debug" in options or bool(os.environ.get("OPENAGENTS_DEBUG"))
    _tolerate_narrow_encodings()
    invocation = Invocation(tuple(arguments), sys.stdout, is_debug)
    # With --json, stdout is for the document alone: what modules and components print goes to stderr.
    aside = contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext()
    try:
        with aside:
            code = _invoke(invocation)
            invocation.stdout.flush()
            return code
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:  # whoever read our output has gone, as in `openagents jobs list | head`
        with contextlib.suppress(OSError, ValueError):
            os.dup2(
                os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
            )  # else the interpreter's last flush complains
        return Exit.INTERRUPTED
    except Exception as error:
        from openagents_json.cli.failures import exit_code_of, show_error

        if is_debug:
            import traceback

            traceback.print_exc()
        show_error(error, as_json=as_json)
        return exit_code_of(error)


def _invoke(invocation: Invocation) -> int:
    import typer

    from openagents_json.cli.root import app

    command = typer.main.get_command(app)
    result = command.main(
        args=list(invocation.arguments), prog_name="openagents", standalone_mode=False, obj=invocation
    )
    return result if isinstance(result, int) else Exit.DONE


def _tolerate_narrow_encodings() -> None:
    """A terminal that cannot show a character gets its escape, not a UnicodeEncodeError."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
