"""How the child talks: frames to the parent from any thread, and a thread that listens to what the parent tells."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future

from openagents_json.amounts import Amounts
from openagents_json.components import Resource, StepContext
from openagents_json.job.engine.processes.crossing import from_data
from openagents_json.job.engine.processes.frames import (
    CALL_BYTES,
    LOG_CHARACTERS,
    Control,
    Emit,
    FrameReader,
    LogLine,
    Progress,
    Reply,
    Spend,
    Tell,
    Track,
    Tracked,
    to_bytes,
)
from openagents_json.job.engine.processes.termination import Termination

CHUNK_BYTES = 64 * 1024


class Speaker:
    """The pipe to the parent. One frame at a time, whole or not at all."""

    def __init__(self, end: int, termination: Termination) -> None:
        self._end = end
        self._termination = termination
        self._lock = threading.Lock()  # held while a frame is written; the parent always reads, so never for long

    def send(self, frame: Reply) -> None:
        """Write a frame. When SIGTERM comes meanwhile, it waits for the frame to be whole."""
        if self._end < 0:
            return
        rest = memoryview(to_bytes(frame))
        self._termination.hold()
        try:
            with self._lock:
                while rest:
                    rest = rest[os.write(self._end, rest) :]
        finally:
            self._termination.release()

    def forget(self) -> None:
        """In a fork of this process: what it says is not meant for the parent."""
        os.close(self._end)
        self._end = -1
        self._lock = threading.Lock()  # another thread, which the fork does not have, may have held it


class ParentLink:
    """The `Link` of one call."""

    def __init__(self, number: int, speaker: Speaker, listener: Listener) -> None:
        self._number = number
        self._speaker = speaker
        self._listener = listener

    def progress(self, fraction: float, message: str) -> None:
        """Tell how far the call is."""
        self._speaker.send(Progress(self._number, fraction, message.encode("utf-8", "replace").decode()))

    def emit(self, data: object) -> None:
        """Show plain JSON to those who watch."""
        self._speaker.send(Emit(self._number, data))

    def spend(self, spent: Amounts) -> None:
        """Tell what the call has spent."""
        self._speaker.send(Spend(self._number, spent.get("tokens", 0), spent.get("cost_nanos", 0)))

    def track(self, resource: Resource) -> Future[str]:
        """The id comes, through the listener's thread, when the parent has recorded the resource."""
        key, recorded = self._listener.expect()
        self._speaker.send(
            Track(
                self._number,
                key,
                resource.name,
                resource.release,
                dict(resource.inputs),
                resource.until,
                resource.keep,
            )
        )
        return recorded


class Listener:
    """Reads the control pipe in a thread of its own: a component that computes is told nevertheless."""

    def __init__(self, end: int) -> None:
        self._end = end
        self._lock = threading.Lock()  # guards the three below
        self._context: tuple[int, StepContext] | None = None  # of the running call, with its number
        self._told: Tell | None = None  # the last one; it may come before the call that it is about
        self._expected: dict[int, Future[str]] = {}  # what `track` waits for, by key
        self._keys = itertools.count(1)

    def start(self) -> None:
        """Begin to listen."""
        threading.Thread(target=self._run, name="openagents-listener", daemon=True).start()

    def attend(self, number: int, context: StepContext) -> None:
        """From here on the parent can cancel this context."""
        with self._lock:
            self._context = number, context
            told = self._told
        if told is not None and told.number == number:
            context.cancel(told.reason)

    def expect(self) -> tuple[int, Future[str]]:
        """A key, and the future that a `Tracked` with this key resolves."""
        recorded: Future[str] = Future()
        recorded.set_running_or_notify_cancel()  # nobody can cancel it: the parent records it anyway
        with self._lock:
            key = next(self._keys)
            self._expected[key] = recorded
        return key, recorded

    def forget(self) -> None:
        """In a fork of this process, which has no such thread."""
        os.close(self._end)

    def _run(self) -> None:
        reader: FrameReader[Control] = FrameReader(Control, CALL_BYTES)
        while chunk := os.read(self._end, CHUNK_BYTES):
            for frame in reader.feed(chunk):
                if isinstance(frame, Tell):
                    self._tell(frame)
                else:
                    self._tracked(frame)
        # The parent closes this pipe only after our death: so it has died, and nobody wants what we and our own
        # children are doing. (On Linux a signal has killed us before we come here.)
        os.killpg(0, signal.SIGKILL)

    def _tell(self, frame: Tell) -> None:
        with self._lock:
            self._told = frame
            running = self._context
        if running is not None and running[0] == frame.number:
            running[1].cancel(frame.reason)

    def _tracked(self, frame: Tracked) -> None:
        with self._lock:
            recorded = self._expected.pop(frame.key, None)
        if recorded is None:
            return
        if frame.error is None:
            recorded.set_result(frame.id)
        else:
            recorded.set_exception(from_data(frame.error))


class LogSender(logging.Handler):
    """A handler of the root logger: what components and their libraries log goes to the parent."""

    def __init__(self, speaker: Speaker, number: Callable[[], int]) -> None:
        super().__init__()
        self._speaker = speaker
        self._number = number  # of the running call

    def emit(self, record: logging.LogRecord) -> None:
        """Send the record's message, with the traceback if there is one."""
        try:
            text = self.format(record)[:LOG_CHARACTERS].encode("utf-8", "replace").decode()
            self._speaker.send(LogLine(self._number(), record.levelname, record.name, text))
        except Exception:
            self.handleError(record)
