"""The parent's side of one subprocess: start it, give it calls, hear its answers, end it and bury it.

Everything runs in the event loop. A process is starting, idle, running one call, or ending; it is gone when it was
waited for and nothing of its group runs any more.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import select
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from openagents_json.components import Reference, Resource
from openagents_json.job.engine.processes import descendants, frames, groups, proc
from openagents_json.job.engine.processes.crossing import from_data, to_data
from openagents_json.job.engine.processes.ending import closed, garbage, how_it_ended
from openagents_json.job.engine.processes.pipes import Inlet, Outlet, make_pipe
from openagents_json.job.engine.processes.run import Output, ProcessRun
from openagents_json.job.engine.processes.termination import EXIT_CODE

if TYPE_CHECKING:
    from openagents_json.job.engine.processes.pool import ProcessPool

logger = logging.getLogger("openagents_json.worker")

RETIRE_S = 2.0  # what a process gets to close its agents and exit
_POLL_S = 0.05  # how often an end is looked for where the system cannot tell
# Its arguments are the ends of the pipes and the length of the setup, which comes through the first of them. The path
# is set before anything else, since this package may be importable through it alone.
_BOOT = """\
import json, os, sys
calls, control, replies, length = map(int, sys.argv[1:])
setup = b""
while len(setup) < length:
    setup += os.read(calls, length - len(setup)) or sys.exit()
setup = json.loads(setup)
sys.path[:] = setup["path"]
from openagents_json.job.engine.processes.child import main
main(setup, calls, control, replies)
"""


class Process:
    """One subprocess. Made by the pool, which hears of it: `process_free`, `process_ending`, `process_gone`."""

    def __init__(self, pool: ProcessPool, components: list[Reference], mark: str) -> None:
        """Start it, with `mark` (`NAME=text`) in its environment. `OSError` if the system refuses."""
        self._pool = pool
        self._mark = mark  # what it starts inherits it
        self._loop = pool.loop
        self.is_ready = False  # it has imported everything; it takes calls before that too
        self.is_ending = False  # it gets no further call
        self.idle_since = 0.0  # loop time; the pool's
        self.calls = 0  # so far; the number of the last one
        self.run: ProcessRun | None = None  # the call that it has; None: idle, or ending
        self._component: Reference | None = None  # of the last call; the next one does not name it again
        self._burial: asyncio.Task[None] | None = None
        self._escaped: list[proc.Entry] | None = None  # what had left its group and was killed with it; None: not yet
        self._retire_timer: asyncio.TimerHandle | None = None
        self._reader: frames.FrameReader[frames.Reply] = frames.FrameReader(frames.Reply, frames.REPLY_BYTES)
        self._start(components)

    def _start(self, components: list[Reference]) -> None:
        ends: list[int] = []
        try:
            for _ in range(5):
                ends += make_pipe()
            call_r, call_w, control_r, control_w, reply_r, reply_w, out_r, out_w, err_r, err_w = ends
            setup = _setup(components)
            arguments = map(str, (call_r, control_r, reply_w, len(setup)))
            self._program = subprocess.Popen(
                [sys.executable, *_interpreter_flags(), "-c", _BOOT, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out_w,
                stderr=err_w,
                pass_fds=(call_r, control_r, reply_w),
                env=os.environ | dict([self._mark.split("=")]),
                start_new_session=True,
            )
        except BaseException:
            for end in ends:
                os.close(end)
            raise
        for end in (call_r, control_r, reply_w, out_w, err_w):
            os.close(end)
        self.pid = self._program.pid  # and the number of its group and session
        self._pool.warden.guard(self.pid)
        self._call_outlet = Outlet(self._loop, call_w)
        self._call_outlet.write(setup)
        self._control = Outlet(self._loop, control_w)
        self._replies = Inlet(self._loop, reply_r, self._heard)
        self._outputs = (
            Inlet(self._loop, out_r, lambda chunk: self._printed("stdout", chunk)),
            Inlet(self._loop, err_r, lambda chunk: self._printed("stderr", chunk)),
        )
        # Asks both whether something is there. A number that was closed meanwhile makes it say yes too often.
        self._printing = select.poll()
        self._printing.register(out_r, select.POLLIN)
        self._printing.register(err_r, select.POLLIN)
        self._watch_end()

    # ── what the pool and the runs ask for ────────────────────────────────────────────────────────────────────────

    def start(self, run: ProcessRun) -> None:
        """Make a call. Only an idle process that is not ending gets one."""
        self.calls += 1
        self.run = run
        call = run.call
        component = None if call.component == self._component else call.component
        self._component = call.component
        frame = frames.Call(
            self.calls,
            component,
            dict(call.inputs),
            call.job_id,
            call.workflow_id,
            call.step,
            call.attempt,
            call.idempotency_key,
            call.fencing_token,
            call.deadline_us,
            call.memory_mb,
            call.cpu_s,
        )
        self._call_outlet.write(frames.to_bytes(frame))

    def tell(self, reason: str) -> None:
        """Cancel the context of the running call."""
        self._control.write(frames.to_bytes(frames.Tell(self.calls, reason)))

    def signal(self, number: signal.Signals) -> None:
        """Signal the whole group, if its leader has not been waited for; its number may be another's afterwards.
        SIGKILL reaches also what has left the group."""
        self._end_use()
        if self._program.returncode is not None:
            return
        if number == signal.SIGKILL and self._escaped is None:
            self._escaped = descendants.kill_all(self.pid)
        else:
            groups.send(self.pid, number)

    def retire(self, timeout_s: float = RETIRE_S) -> None:
        """Let it close its agents and exit; kill it if that takes longer. For one that runs no call."""
        self._end_use()
        self._call_outlet.close()
        if self._retire_timer is None and self._burial is None:
            self._retire_timer = self._loop.call_later(timeout_s, self.signal, signal.SIGKILL)

    def leave(self) -> None:
        """Think no more of it: it was killed, has not ended, and nobody waits any longer."""
        if self._burial is not None:
            self._burial.cancel()
        self._stop_watching()
        # Whenever it ends, it does not stay a zombie of ours.
        threading.Thread(target=self._program.wait, name=f"openagents-reaper-{self.pid}", daemon=True).start()
        self._put_away(None)

    def _end_use(self) -> None:
        if not self.is_ending:
            self.is_ending = True
            self._pool.process_ending(self)

    # ── what comes from it ────────────────────────────────────────────────────────────────────────────────────────

    def _heard(self, chunk: bytes) -> None:
        try:
            for frame in self._reader.feed(chunk):
                self._take(frame)
        except frames.Garbage as error:
            self._replies.close()
            if self.run is not None and self.run.outcome is None:
                self.run.outcome = garbage(str(error))
            self.signal(signal.SIGKILL)

    def _take(self, frame: frames.Reply) -> None:
        if isinstance(frame, frames.Ready):
            self.is_ready = True
            return
        run = self.run
        if isinstance(frame, frames.Result | frames.Failure):
            if run is None or frame.number != self.calls or run.outcome is not None:
                raise frames.Garbage("an answer came that nobody waits for")
            self._answered(run, frame)
        elif run is not None and frame.number == self.calls:  # else a thread of an earlier call still talks
            try:
                self._pass_on(run, frame)
            except Exception:
                logger.exception("what a step in a process said could not be passed on")

    def _pass_on(
        self, run: ProcessRun, frame: frames.Progress | frames.Emit | frames.Spend | frames.Track | frames.LogLine
    ) -> None:
        if isinstance(frame, frames.Progress):
            run.call.link.progress(frame.fraction, frame.message)
        elif isinstance(frame, frames.Emit):
            run.call.link.emit(frame.data)
        elif isinstance(frame, frames.Spend):
            spent = {"tokens": frame.tokens, "cost_nanos": frame.cost_nanos}
            run.call.link.spend({key: amount for key, amount in spent.items() if amount})
        elif isinstance(frame, frames.LogLine):
            run.call.on_output("log", frame)
        else:
            self._track(run, frame)

    def _track(self, run: ProcessRun, frame: frames.Track) -> None:
        def answer(recorded: Future[str]) -> None:
            try:
                tracked = frames.Tracked(frame.key, recorded.result())
            except BaseException as error:  # CancelledError of concurrent.futures too
                tracked = frames.Tracked(frame.key, "", to_data(error))
            self._loop.call_soon_threadsafe(self._control.write, frames.to_bytes(tracked))

        resource = Resource(frame.name, frame.release, frame.inputs, frame.until, frame.keep)
        try:
            run.call.link.track(resource).add_done_callback(answer)
        except Exception as error:
            self._control.write(frames.to_bytes(frames.Tracked(frame.key, "", to_data(error))))

    def _printed(self, stream: Output, chunk: bytes) -> None:
        if self.run is not None:
            self.run.give_output(stream, chunk)

    def _answered(self, run: ProcessRun, frame: frames.Result | frames.Failure) -> None:
        if self._printing.poll(0):  # it was flushed before the answer was sent
            for inlet in self._outputs:
                inlet.drain()
        if isinstance(frame, frames.Result):
            run.outcome = run.succeeded(frame.output)
        else:
            run.give_output("stderr", frame.traceback.encode())
            run.outcome = from_data(frame.error)
        if self.is_ending:  # told to stop: the run ends when the process has ended, by itself or not
            self.retire()
            return
        self.run = None
        run.resolve()
        if isinstance(frame, frames.Failure) and frame.is_spent:
            self.retire()
        self._pool.process_free(self)

    # ── its end ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _watch_end(self) -> None:
        self._pidfd = -1
        self._poll_timer: asyncio.TimerHandle | None = None
        if sys.platform == "linux":
            try:
                self._pidfd = os.pidfd_open(self.pid)
            except OSError:  # an old kernel, or a sandbox
                pass
        if self._pidfd >= 0:
            self._loop.add_reader(self._pidfd, self._ended)
        else:
            self._poll_timer = self._loop.call_later(_POLL_S, self._poll_end)

    def _poll_end(self) -> None:
        if self._has_ended():
            self._ended()
        else:
            self._poll_timer = self._loop.call_later(_POLL_S, self._poll_end)

    def _stop_watching(self) -> None:
        if self._poll_timer is not None:
            self._poll_timer.cancel()
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def _has_ended(self) -> bool:
        if not hasattr(os, "waitid"):
            return self._program.poll() is not None
        try:  # leaving it a zombie: the group's number has to stay ours until the group was signalled
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:  # the program waits for all its children by itself
            return True

    def _ended(self) -> None:
        self._stop_watching()
        self._end_use()
        self._burial = self._loop.create_task(self._bury(), name=f"burial of process {self.pid}")

    async def _bury(self) -> None:
        """The process has ended and is a zombie. The order matters: its group is signalled while the number is surely
        ours, and the pipes are read to their end when nobody is left to write into them."""
        groups.send(self.pid, signal.SIGKILL)
        code = self._program.wait()
        if self._escaped is None and not self._left_in_order(code):
            self._escaped = descendants.kill_marked(self._mark)
        if not await groups.wait_gone(self.pid, self._escaped or ()):
            logger.error("processes of group %s survive SIGKILL and are given up", self.pid)
        self._put_away(code)

    def _left_in_order(self, code: int) -> bool:
        """Whether it ran to the end of its program, which kills what has left its group."""
        if self.run is None:
            return code == 0
        return code in (0, EXIT_CODE) and (self.run.outcome is not None or self.run.is_terminated)

    def _put_away(self, code: int | None) -> None:
        """Nothing of it is left, or nobody looks at it any more (without a code)."""
        for inlet in (self._replies, *self._outputs):
            inlet.drain()
            inlet.close()
        self._call_outlet.close()
        self._control.close()
        if self._retire_timer is not None:
            self._retire_timer.cancel()
        if code is not None:
            self._pool.warden.forget(self.pid)
        run, self.run = self.run, None
        if run is not None:
            if run.outcome is None:
                run.outcome = closed() if code is None else how_it_ended(code, run)
            run.resolve()
        self._pool.process_gone(self)


def _interpreter_flags() -> list[str]:
    """The options that this interpreter was started with, as multiprocessing hands them on."""
    flags: list[str] = getattr(subprocess, "_args_from_interpreter_flags", list)()
    return flags


def _setup(components: list[Reference]) -> bytes:
    """What the child is to know of this process, as JSON."""
    main = sys.modules.get("__main__")
    script = getattr(main, "__file__", None)
    setup = {
        "parent": os.getpid(),
        "path": [str(Path(entry).absolute()) for entry in sys.path],
        "argv": sys.argv,
        "main": script and {"path": str(Path(script).absolute()), "package": getattr(main, "__package__", None) or ""},
        "components": [asdict(component) for component in components],
    }
    return json.dumps(setup).encode()
