"""How an attempt talks back to whatever runs it: `Link`, and what it hands over with `track`."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from openagents_json.amounts import Amounts

Until: TypeAlias = Literal["step", "job"]


@dataclass(frozen=True, slots=True)
class Resource:
    """Something that a step is about to acquire, and how it is given back.

    `release` names a component, `inputs` are what it gets (plain JSON). The release runs when the step has ended
    (`until="step"`) or the job (`until="job"`); with `keep` only if that did not end well.
    """

    name: str
    release: str
    inputs: Mapping[str, Any]
    until: Until
    keep: bool


class Link(Protocol):
    """What an engine gives to a `StepContext`. Every method may be called from any thread and returns at once."""

    def progress(self, fraction: float, message: str) -> None:
        """How far the attempt is; for listeners only."""

    def emit(self, data: Any) -> None:
        """Plain JSON for those who watch the job now. No history holds it; it stands in the output of the attempt."""

    def spend(self, spent: Amounts) -> None:
        """Count what the attempt has spent (tokens, cost_nanos)."""

    def track(self, resource: Resource) -> Future[str]:
        """Record a resource; the future holds its id when that is committed, or why it could not be."""


class NoLink:
    """Nobody listens: for calling a component outside a job, as tests do."""

    def progress(self, fraction: float, message: str) -> None:
        """Told to nobody."""

    def emit(self, data: Any) -> None:
        """Told to nobody."""

    def spend(self, spent: Amounts) -> None:
        """Counted by nobody."""

    def track(self, resource: Resource) -> Future[str]:
        """Recorded nowhere; whoever calls the component releases what it acquired."""
        recorded: Future[str] = Future()
        recorded.set_result(resource.name)
        return recorded
