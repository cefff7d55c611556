"""The heart of a simulated worker: the real one's beats, in virtual time and without its thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from openagents_json.job.engine import heart, worker
from tests.simulation.loop import IN_HEART, Loop


class _NoThread:
    """Stands in for `threading.Thread`."""

    def __init__(self, **how: Any) -> None:
        pass

    def start(self) -> None:
        pass


class SimulatedHeart(heart.Heart):
    """Beats when the event loop says so; a stopped event loop does not keep it from that (`IN_HEART`)."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        token = IN_HEART.set(True)  # the timer copies the context as it is now
        self._loop.call_at(self._renewed_s + self._lease_s / 3, self._beat_and_go_on)
        IN_HEART.reset(token)

    def _beat_and_go_on(self) -> None:
        if not self._stop.is_set():
            self._loop.call_later(self._beat(), self._beat_and_go_on)


@contextmanager
def hearts_of(loop: Loop) -> Iterator[None]:
    """Workers that start in here get such hearts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "Heart", SimulatedHeart)
        patch.setattr(heart, "time", SimpleNamespace(monotonic=loop.time))
        threads = SimpleNamespace(Thread=_NoThread, Event=threading.Event, get_ident=threading.get_ident)
        patch.setattr(heart, "threading", threads)
        yield
