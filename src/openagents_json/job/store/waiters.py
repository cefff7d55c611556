"""Those who wait for the one writer of a store that groups their operations: how many may wait, and how they are
answered. Used in the event loop only."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

MAX_GROUP = 1_000  # operations in one transaction
MAX_WAITING = 20_000  # operations that may wait; whoever comes then waits to be let in
ANSWERED_AT_ONCE = 8  # waiters woken in one turn of the loop, so that a large group does not hold up everything else

Outcome = tuple[Any, BaseException | None]  # result, error


class Awaited(Protocol):
    """An operation that somebody waits for."""

    @property
    def future(self) -> asyncio.Future[Any]: ...


class Waiters:
    """One per writer."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._count = 0  # let in and not answered
        self._room = asyncio.Event()
        self._room.set()

    async def wait_room(self) -> None:
        """Until one more may wait."""
        while self._count >= MAX_WAITING:
            self._room.clear()
            await self._room.wait()

    def new(self) -> asyncio.Future[Any]:
        """What one more waits for."""
        self._count += 1
        return self._loop.create_future()

    def answer(self, answers: Sequence[tuple[Awaited, Outcome]], first: int = 0) -> None:
        """Tell them what became of their operations, a few in each turn of the loop."""
        last = first + ANSWERED_AT_ONCE
        if last < len(answers):
            self._loop.call_soon(self.answer, answers, last)
        else:
            self._count -= len(answers)
            self._room.set()
        for operation, (result, error) in answers[first:last]:
            if operation.future.done():
                continue  # its waiter was cancelled; what was committed stays committed
            if error is None:
                operation.future.set_result(result)
            else:
                operation.future.set_exception(error)
