"""Attempts of a job that are about to acquire something, and wait until that stands in the cleanup ledger."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

from openagents_json.components import Resource
from openagents_json.errors import StepFailure
from openagents_json.job.engine.link import Which
from openagents_json.job.machine import Answer, ResourceTracked


class Tracking:
    """Of one runner, in its event loop. Attempts wait in their own threads, or where they like."""

    def __init__(self, tell: Callable[[ResourceTracked], None]) -> None:
        self._tell: Callable[[ResourceTracked], None] | None = tell  # None: it is over
        self._waiting: dict[int, Future[str]] = {}  # by key
        self._asked = 0  # how often that was; gives the keys

    def track(self, which: Which, resource: Resource, recorded: Future[str]) -> None:
        """As `link.Tracks`."""
        if self._tell is None:
            recorded.set_exception(_not_held())
            return
        key = self._asked = self._asked + 1
        self._waiting[key] = recorded
        inputs = dict(resource.inputs)
        self._tell(ResourceTracked(*which, key, resource.name, resource.release, inputs, resource.until, resource.keep))

    def answer(self, answer: Answer) -> None:
        """It is recorded, or refused."""
        recorded = self._waiting.pop(answer.key, None)
        if recorded is None:
            return
        if answer.id is not None:
            recorded.set_result(answer.id)
        else:
            recorded.set_exception(_not_tracked(answer.why_not))

    def end(self) -> None:
        """Nothing more is recorded here: whoever waits, or asks from now on, is refused."""
        self._tell = None
        for recorded in self._waiting.values():
            recorded.set_exception(_not_held())
        self._waiting.clear()


def _not_held() -> StepFailure:
    return _not_tracked("The job is not held by this worker any more.")


def _not_tracked(why: str) -> StepFailure:
    return StepFailure("resource.not_tracked", why)
