"""What a running attempt tells the engine: news for listeners, and resources that the history has to know."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from openagents_json.amounts import Amounts
from openagents_json.components import Resource
from openagents_json.components.output import EMITTED
from openagents_json.errors import ComponentNotFound, FatalError
from openagents_json.job.events import Event
from openagents_json.jsondata import encode
from openagents_json.workflow import mask

if TYPE_CHECKING:
    from openagents_json.job.engine.output import OutputBuffer
    from openagents_json.job.engine.worker import Worker


Which: TypeAlias = tuple[str, int]  # an attempt: its path and token


class Spends(Protocol):
    """Counts what attempts have spent."""

    def report(self, which: Which, spent: Amounts) -> None:
        """Called from any thread."""


class Tracks(Protocol):
    """Records the resources of attempts."""

    def track(self, which: Which, resource: Resource, recorded: Future[str]) -> None:
        """Answers through the future. Called in the event loop."""


class AttemptLink:
    """The engine's end of a `StepContext`. Its methods are called from any thread."""

    def __init__(
        self, worker: Worker, job_id: str, path: str, secrets: Mapping[str, str], attempt: int,
        output: OutputBuffer | None, tracks: Tracks, spends: Spends, token: int,
    ) -> None:  # fmt: skip
        self._worker = worker
        self._job_id = job_id
        self._path = path
        self._secrets = secrets  # values to mask; filled before the call
        self._attempt = attempt
        self._output = output
        self._tracks = tracks
        self._spends = spends
        self._token = token

    def spend(self, spent: Amounts) -> None:
        self._spends.report((self._path, self._token), spent)

    def progress(self, fraction: float, message: str) -> None:
        self._tell("step.progress", {"fraction": fraction, "message": message})

    def emit(self, data: Any) -> None:
        self._tell("step.emitted", {"data": data})
        if self._output is not None:  # for those who watch from another process
            self._output.write(EMITTED, encode(mask(data, self._secrets.values())).decode() + "\n")

    def track(self, resource: Resource) -> Future[str]:
        recorded: Future[str] = Future()
        recorded.set_running_or_notify_cancel()  # who stops waiting for it does not cancel it: the answer still comes
        inputs = dict(resource.inputs)
        if self._secrets and mask(inputs, self._secrets.values()) != inputs:
            what = "Its release would keep a secret in the history. Have the release component fetch it by itself."
            recorded.set_exception(FatalError("resource.secret", what))
        elif resource.release not in self._worker.components:
            message = f"There is no component {resource.release!r} to release {resource.name!r} with."
            recorded.set_exception(ComponentNotFound(message, name=resource.release))
        else:
            self._worker.loop.call_soon_threadsafe(self._tracks.track, (self._path, self._token), resource, recorded)
        return recorded

    def _tell(self, type: str, data: dict[str, Any]) -> None:
        """News that no history holds."""
        if self._worker.bus.has_hearers(self._job_id):
            data = {"path": self._path, "attempt": self._attempt, **mask(data, self._secrets.values())}
            event = Event.unrecorded(type, self._worker.clock.now_us(), data)
            self._worker.loop.call_soon_threadsafe(self._worker.bus.tell, self._job_id, event)
