"""Errors as users see them: a short message on stderr that says what to do, or JSON, and the exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from openagents_json import errors
from openagents_json.cli.exit_codes import OF_STATUS, Exit
from openagents_json.cli.text import json_text, printable
from openagents_json.errors import OpenAgentsError, Problem

PROBLEMS_SHOWN = 20
MESSAGE_CHARACTERS = 2_000


class UsageProblem(OpenAgentsError):
    """A command line that cannot be carried out; the message says how to put it right."""

    code = "usage"


def exit_code_of(error: BaseException) -> Exit:
    """The exit code that an error ends a command with."""
    match error:
        case errors.JobNotFound() | errors.WorkflowNotFound() | errors.LeakNotFound():
            return Exit.NOT_FOUND
        case errors.ResultsNotReady():
            return OF_STATUS.get(str(error.status), Exit.USAGE)
        case errors.LimitReached():
            return Exit.LIMIT
        case errors.WaitTimeout():
            return Exit.INTERRUPTED
        case errors.StoreError():
            return Exit.STORE
        case OpenAgentsError():
            return Exit.USAGE
    return Exit.USAGE if _usage_message(error) is not None else Exit.INTERNAL


def error_document(error: BaseException) -> dict[str, Any]:
    """{"code", "message", "problems": [{"level", "path", "line", "column", "message", "suggestion"}]}."""
    return {
        "code": _code(error),
        "message": _headline(error),
        "problems": [asdict(problem) for problem in _problems(error)],
    }


def show_error(error: BaseException, *, as_json: bool) -> None:
    """Print the error to stderr."""
    if as_json:
        print(json_text({"error": error_document(error)}), file=sys.stderr, flush=True)
        return
    problems = problem_lines(_problems(error))
    lines = [f"openagents: {printable(_headline(error), MESSAGE_CHARACTERS)}{':' if problems else ''}"]
    lines += [f"  {line}" for line in problems]
    if (usage := _usage_hint(error)) is not None:
        lines.append(usage)
    print("\n".join(lines), file=sys.stderr, flush=True)


def problem_lines(problems: Sequence[Problem], limit: int = PROBLEMS_SHOWN) -> list[str]:
    """`line 3, column 5: $.steps[0].component: message suggestion`, at most `limit` and a line that counts the rest.

    Of a warning or a note, the message begins with its level.
    """
    lines = []
    for problem in problems[:limit]:
        place = f"line {problem.line}, column {problem.column}: " if problem.line else ""
        path = "" if problem.path == "$" else f"{problem.path}: "
        level = "" if problem.level == "error" else f"{problem.level}: "
        suggestion = f" {problem.suggestion}" if problem.suggestion else ""
        lines.append(printable(f"{place}{path}{level}{problem.message}{suggestion}", MESSAGE_CHARACTERS))
    if len(problems) > limit:
        lines.append(f"… and {len(problems) - limit} more")
    return lines


def _code(error: BaseException) -> str:
    if isinstance(error, OpenAgentsError):
        return error.code
    return "usage" if _usage_message(error) is not None else "internal"


def _headline(error: BaseException) -> str:
    """The error's message without its list of problems."""
    if isinstance(error, OpenAgentsError):
        message = str(error)
        return message.partition("\n")[0].rstrip(":") if _problems(error) else message
    usage = _usage_message(error)
    if usage is not None:
        return usage
    kind = type(error).__name__
    return f"This should not have happened ({kind}: {error}). Run it again with `openagents --debug …` and report it."


def _problems(error: BaseException) -> tuple[Problem, ...]:
    return tuple(getattr(error, "problems", ()))


def _usage_message(error: BaseException) -> str | None:
    """The message of a usage error found by typer. Its classes are not public in every version, this method is."""
    format_message = getattr(error, "format_message", None)
    return None if format_message is None else str(format_message())


def _usage_hint(error: BaseException) -> str | None:
    context = getattr(error, "ctx", None)
    return None if context is None else f"See `{context.command_path} --help`."
