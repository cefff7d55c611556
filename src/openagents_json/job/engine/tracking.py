"""Attempts of a job that are about to acquire something, and wait until that stands in the cleanup ledger."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

from openagents_json.components import Resource
from openagents_json.errors import StepFailure
from openagents_json.job.engine.link import Track
from openagents_json.job.machine import Answer, ResourceTracked, StepRun


class Tracking:
    """Of one runner, in its event loop. Attempts wait in their own threads, or where they like."""

    def __init__(self, tell: Callable[[ResourceTracked], None]) -> None:
        self._tell = tell
        self._waiting: dict[int, Future[str]] = {}  # by key
        self._asked = 0  # how often that was; gives the keys
        self._is_over = False

    def tracker(self, run: StepRun) -> Track:
        """What records the resources of an attempt that is about to begin."""
        path, token = run.path, run.token

        def track(resource: Resource, recorded: Future[str]) -> None:
            if self._is_over:
                recorded.set_exception(_not_tracked("The job is not held by this worker any more."))
                return
            key = self._asked = self._asked + 1
            self._waiting[key] = recorded
            inputs = dict(resource.inputs)
            self._tell(
                ResourceTracked(
                    path, token, key, resource.name, resource.release, inputs, resource.until, resource.keep
                )
            )

        return track

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
        self._is_over = True
        for recorded in self._waiting.values():
            recorded.set_exception(_not_tracked("The job is not held by this worker any more."))
        self._waiting.clear()


def _not_tracked(why: str) -> StepFailure:
    return StepFailure("resource.not_tracked", why)
