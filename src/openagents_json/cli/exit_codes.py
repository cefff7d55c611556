"""What the exit code of a command says."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """The exit codes, the same for all commands."""

    DONE = 0  # the command did what it says; of `run`: the job is COMPLETED
    JOB_FAILED = 1  # the job is FAILED
    USAGE = 2  # bad usage or input: nothing was done
    CANCELLED = 3  # the job is CANCELLED
    NOT_FOUND = 4  # no such job, workflow or leak
    STORE = 5  # the store cannot be opened, read or written
    # Of `health`: something is not as it should be; of `jobs leaks`: a leak that was tried stays; of `store import`:
    # jobs were refused.
    UNHEALTHY = 6
    LIMIT = 7  # `concurrency` of the workflow lets no further job start: nothing was done
    INTERNAL = 70  # a fault of this program (EX_SOFTWARE)
    INTERRUPTED = 130  # stopped by Ctrl-C, SIGTERM or --timeout; the job can be resumed


MEANINGS = {
    Exit.DONE: "done",
    Exit.JOB_FAILED: "the job failed",
    Exit.USAGE: "bad usage or input",
    Exit.CANCELLED: "the job was cancelled",
    Exit.NOT_FOUND: "no such job, workflow or leak",
    Exit.STORE: "the store is unavailable",
    Exit.UNHEALTHY: "something is not as it should be",
    Exit.LIMIT: "too many jobs of the workflow are on",
    Exit.INTERNAL: "a fault of this program",
    Exit.INTERRUPTED: "interrupted; the job can be resumed",
}

OF_STATUS = {"COMPLETED": Exit.DONE, "FAILED": Exit.JOB_FAILED, "CANCELLED": Exit.CANCELLED}


def epilog() -> str:
    """The exit codes as a paragraph for --help."""
    return "Exit codes: " + ", ".join(f"{int(code)} {meaning}" for code, meaning in MEANINGS.items()) + "."
