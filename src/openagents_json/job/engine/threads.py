"""Threads for sync components: daemons, so that one that never returns cannot keep the program from ending."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import queue
import threading
from collections.abc import Callable
from typing import Any

_Task = tuple[Callable[[], Any], contextvars.Context, asyncio.Future[Any]]


class Threads:
    """A pool that grows to `limit` threads. Who submits has taken a thread slot before, so nothing waits here."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._count = 0  # loop's thread only
        self._busy = 0  # loop's thread only
        self._loop = asyncio.get_running_loop()

    def submit(self, call: Callable[[], Any]) -> asyncio.Future[Any]:
        """A future of the call's result. Cancelling the future does not stop the thread."""
        future: asyncio.Future[Any] = self._loop.create_future()
        future.add_done_callback(self._idle)
        self._busy += 1
        if self._count < min(self._busy, self._limit):
            self._count += 1
            threading.Thread(target=self._run, name=f"openagents-step-{self._count}", daemon=True).start()
        self._tasks.put((call, contextvars.copy_context(), future))
        return future

    def close(self) -> None:
        """End the idle threads; those in a component end with it."""
        for _ in range(self._count):
            self._tasks.put(None)

    def _idle(self, future: asyncio.Future[Any]) -> None:
        self._busy -= 1

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            call, context, future = task
            try:
                result, error = context.run(call), None
            except BaseException as raised:  # the component's business, SystemExit included
                result, error = None, raised
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody wants to know any more
                self._loop.call_soon_threadsafe(_resolve, future, result, error)
            del task, call, context, future, result, error


def _resolve(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if isinstance(error, StopIteration):  # a future refuses it
        error = RuntimeError(f"the component raised StopIteration({error.value!r})")
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
