"""The ends of a process that no component has chosen to report, as failures of the step."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

from openagents_json.errors import FatalError, StepFailure

if TYPE_CHECKING:
    from openagents_json.job.engine.processes.run import ProcessRun


def how_it_ended(code: int, run: ProcessRun) -> StepFailure:
    """A process has ended without an answer; `code` is that of `Popen`: the exit code, or minus the signal's number.

    `process.killed`, `process.terminated` if we did it; `resource.cpu`; else `process.died`, whose details are
    `{"exit_code": 3}` or `{"signal": "SIGSEGV"}`.
    """
    call = run.call
    if run.is_killed:
        return StepFailure("process.killed", "The process was killed.")
    if run.is_terminated:
        return StepFailure("process.terminated", "The process was told to end (SIGTERM) and did.")
    if code == -signal.SIGXCPU and call.cpu_s is not None:
        return StepFailure("resource.cpu", f"The component used more CPU time than its limit of {call.cpu_s:g} s.")
    if code >= 0:
        what, details = f"exited with code {code}", dict[str, Any](exit_code=code)
    else:
        name = _name(-code)
        what, details = f"was ended by {name}", {"signal": name}
    message = f"The process {what} before the component returned."
    if call.memory_mb is not None:
        message += f" It may have gone beyond its memory limit of {call.memory_mb} MiB."
    elif code == -signal.SIGKILL:
        message += " If nobody else killed it, the system did, for want of memory."
    return StepFailure("process.died", message, details=details)


def garbage(why: str) -> StepFailure:
    """The process has written something into the pipe of its answers; it is being killed."""
    return StepFailure(
        "process.garbage",
        f"The component, or a library, wrote into the pipe that its process answers through ({why}), and the process "
        "was killed. Write to stdout, or to files that you have opened.",
    )


def never_started(run: ProcessRun) -> StepFailure:
    """It was stopped while it waited for a process."""
    code = "process.killed" if run.is_killed else "process.terminated"
    return StepFailure(code, "The call was stopped before a process was free for it.")


def not_started(error: OSError) -> StepFailure:
    """The system refuses to start a process: too many, or no memory."""
    return StepFailure("process.not_started", f"No process could be started: {error}.")


def no_guard() -> FatalError:
    """The script is being run in a child, and wants children."""
    return FatalError(
        "process.main",
        "A process imports the program's script, and the script starts its work while it is imported. "
        'Put what the script does under `if __name__ == "__main__":`.',
    )


def closed() -> StepFailure:
    """The pool has been closed."""
    return StepFailure("process.closed", "The processes of this worker have been closed.")


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
