"""The program of a subprocess: takes calls from a pipe, one after the other, until the pipe ends.

The main thread imports, calls components (async ones in its event loop) and answers; a second thread listens to what
the parent tells meanwhile. It ends by `os._exit`, so nothing that a component has left behind can hold it up.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import importlib
import importlib.util
import io
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.machinery import SourceFileLoader
from types import ModuleType
from typing import Any, NoReturn

from openagents_json.components import (
    AgentInstances,
    Component,
    Rebuilder,
    Reference,
    StepContext,
    call_blocking,
    call_in_loop,
)
from openagents_json.errors import FatalError, StepFailure
from openagents_json.job.engine.processes import descendants
from openagents_json.job.engine.processes.crossing import to_data, traceback_of
from openagents_json.job.engine.processes.frames import CALL_BYTES, Call, ErrorData, Failure, FrameReader, Ready, Result
from openagents_json.job.engine.processes.rlimits import limited
from openagents_json.job.engine.processes.talking import CHUNK_BYTES, Listener, LogSender, ParentLink, Speaker
from openagents_json.job.engine.processes.termination import EXIT_CODE, Termination

MAIN = "__mp_main__"  # what multiprocessing calls the parent's script in a child; libraries know the name
CLOSE_AGENTS_S = 5.0
ESCAPED_S = 1.0  # what killed processes get to be gone before we go
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

# True while the parent's script is being run: if it then asks for processes itself, it has no `__main__` guard.
is_importing_main = False


def main(setup: Mapping[str, Any], calls: int, control: int, replies: int) -> None:
    """Serve. The numbers are our ends of the pipes; `setup` is what `process._setup` has written."""
    signal.pthread_sigmask(signal.SIG_SETMASK, [])  # the parent's thread may have blocked some
    termination = Termination()
    termination.listen()
    _die_with(setup["parent"])
    sys.argv = setup["argv"]
    for end in (calls, control, replies):
        os.set_inheritable(end, False)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # lines at once: they are then not lost in a crash
            stream.reconfigure(line_buffering=True, errors="backslashreplace")
    child = Child(setup["main"], calls, control, replies, termination)
    os.register_at_fork(after_in_child=child.forget)
    child.prepare([Reference(**one) for one in setup["components"]])
    child.serve()


class Child:
    """What a subprocess keeps from call to call."""

    def __init__(
        self, main: Mapping[str, str] | None, calls: int, control: int, replies: int, termination: Termination
    ) -> None:
        self._main = main  # the parent's script, if it has one
        self._calls = calls
        self._termination = termination
        self._speaker = Speaker(replies, termination)
        self._listener = Listener(control)
        self._rebuilder = Rebuilder(self._import)
        self._loop = asyncio.new_event_loop()
        self._instances = self._loop.run_until_complete(_make_instances())
        self._number = 0  # of the running or last call
        self._reference: Reference | None = None  # the component of the running or last call …
        self._component: Component | None = None  # … and what it stands for, once that is known
        self._log_sender = LogSender(self._speaker, lambda: self._number)

    def prepare(self, components: list[Reference]) -> None:
        """Import and make what earlier calls needed, then say that we are ready."""
        self._listener.start()
        root = logging.getLogger()
        root.addHandler(self._log_sender)
        root.setLevel(logging.INFO)
        for component in components:
            with contextlib.suppress(Exception, SystemExit):  # a call that needs it will try again, and tell
                self._rebuilder.component(component)
        self._speaker.send(Ready())

    def serve(self) -> None:
        """Answer calls until the parent closes the pipe, or SIGTERM has ended one."""
        calls = self._read_calls()
        while True:
            self._termination.go_idle()
            call = next(calls, None)
            self._termination.leave_idle()
            if call is None:
                break
            self._answer(call)
            if self._termination.is_asked:
                break
            # Components may have changed it. Now, while the parent is busy with the answer, this costs no time.
            self._termination.listen()
        self._exit()

    def forget(self) -> None:
        """This is a fork that a component has made: the pipes are not for it."""
        if self._calls < 0:
            return  # a fork of a fork, where the numbers may stand for other files by now
        os.close(self._calls)
        self._calls = -1
        logging.getLogger().removeHandler(self._log_sender)
        self._listener.forget()
        self._speaker.forget()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    # ── one call ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _answer(self, call: Call) -> None:
        self._number = call.number
        reply: Result | Failure
        try:
            reply = Result(call.number, self._make(call))
        except BaseException as error:
            reply = self._failure(call, error)
        _flush()
        self._speaker.send(reply)

    def _make(self, call: Call) -> Any:
        """The output. SIGTERM may interrupt everything that is the component's: import, arguments, call, output."""
        context = StepContext(
            call.job_id,
            call.workflow_id,
            call.step,
            call.attempt,
            call.idempotency_key,
            call.fencing_token,
            deadline_us=call.deadline_us,
            link=ParentLink(call.number, self._speaker, self._listener),
        )
        self._listener.attend(call.number, context)
        try:
            self._termination.release()
            component = self._find(call)
            _, agent, _ = component.origin
            if agent is not None and agent.setup_is_async and not component.is_async:
                # A sync method cannot wait for the setup of its agent, so it is made beforehand.
                self._in_loop(self._instances.wait(agent))
            ready = component.prepare(call.inputs, context, self._instances)
            if call.memory_mb is None and call.cpu_s is None:
                return component.accept_output(self._run(ready, component, context))
            with limited(call.memory_mb, call.cpu_s):
                value = self._run(ready, component, context)
            return component.accept_output(value)
        finally:
            self._termination.hold()

    def _find(self, call: Call) -> Component:
        if call.component is not None:
            self._reference, self._component = call.component, None
        if self._component is None:
            assert self._reference is not None, "the first call of a process names its component"
            try:
                self._component = self._rebuilder.component(self._reference)
            except Exception as error:
                message = f"The process cannot import {self._reference.qualname} of {self._reference.module}: {error}"
                raise FatalError("process.import", message) from error
        return self._component

    def _run(self, ready: Callable[[], Any], component: Component, context: StepContext) -> Any:
        if component.is_async:
            return self._in_loop(call_in_loop(ready, context, is_async=True))
        # Of what a component has deferred everything is called, so there the signal waits; what it gave counts by then.
        self._termination.hold()
        try:
            return call_blocking(functools.partial(self._interruptible, ready), context)
        finally:
            self._termination.go_on()

    def _interruptible(self, ready: Callable[[], Any]) -> Any:
        self._termination.release()
        try:
            return ready()
        finally:
            self._termination.hold()

    def _in_loop(self, work: Any) -> Any:
        task = self._loop.create_task(work)
        self._termination.watch(task)
        try:
            return self._loop.run_until_complete(task)
        finally:
            self._termination.watch(None)

    def _failure(self, call: Call, error: BaseException) -> Failure:
        trace = traceback_of(error)
        if self._termination.is_asked:
            data = ErrorData("process.terminated", "The component ended because its process got SIGTERM.")
        elif isinstance(error, MemoryError) and call.memory_mb is not None:
            message = f"The component needed more memory than its limit of {call.memory_mb} MiB."
            # Something that was cut short may have left anything behind.
            return Failure(call.number, ErrorData("resource.memory", message), trace, is_spent=True)
        else:
            data = to_data(error)
        is_spent = not isinstance(error, Exception | asyncio.CancelledError)
        return Failure(call.number, data, trace, is_spent)

    # ── the rest ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _read_calls(self) -> Iterator[Call]:
        reader: FrameReader[Call] = FrameReader(Call, CALL_BYTES)
        while chunk := os.read(self._calls, CHUNK_BYTES):
            yield from reader.feed(chunk)

    def _import(self, name: str) -> ModuleType:
        if name != "__main__":
            return importlib.import_module(name)
        if MAIN not in sys.modules:
            if self._main is None:
                raise StepFailure("process.import", "The program has no script that could be run once more.")
            _import_main(self._main)
        return sys.modules[MAIN]

    def _exit(self) -> NoReturn:
        """Close the agents, and go. The parent waits a while and then kills."""
        code = EXIT_CODE if self._termination.is_asked else 0
        signal.signal(signal.SIGTERM, functools.partial(_exit_now, code))
        with contextlib.suppress(Exception):
            self._loop.run_until_complete(self._instances.close(CLOSE_AGENTS_S))
        with contextlib.suppress(Exception):
            atexit._run_exitfuncs()
        _exit_now(code)


async def _make_instances() -> AgentInstances:
    return AgentInstances()  # it remembers the loop that it is made in


def _exit_now(code: int, *_: object) -> NoReturn:
    _flush()
    # The parent kills our group; what has left it, only we can find. We are gone when it is.
    escaped = descendants.kill_escaped(os.getpid())
    until_s = time.monotonic() + ESCAPED_S
    while any(one.still_runs() for one in escaped) and time.monotonic() < until_s:
        time.sleep(0.001)
    os._exit(code)


def _flush() -> None:
    """What was printed is in the pipes afterwards."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            continue


def _import_main(main: Mapping[str, str]) -> None:
    """Run the parent's script once more under a name that keeps `if __name__ == "__main__"` from being true."""
    global is_importing_main
    if main["package"]:
        importlib.import_module(main["package"])
    spec = importlib.util.spec_from_file_location(MAIN, main["path"], loader=SourceFileLoader(MAIN, main["path"]))
    if spec is None or spec.loader is None:
        raise ImportError(f"{main['path']} cannot be run as a module")
    module = importlib.util.module_from_spec(spec)
    module.__package__ = main["package"] or None
    before = sys.modules["__main__"]
    sys.modules[MAIN] = sys.modules["__main__"] = module
    is_importing_main = True
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[MAIN]
        sys.modules["__main__"] = before
        raise
    finally:
        is_importing_main = False


def _die_with(parent: int) -> None:
    """Have the kernel kill us when the thread that started us ends, which is the one of the parent's event loop."""
    if sys.platform == "linux":
        import ctypes

        prctl = ctypes.CDLL(None, use_errno=True).prctl
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # orphans below us stay below us, where they can be found
    if os.getppid() != parent:  # it has died before we asked
        os._exit(EXIT_CODE)
