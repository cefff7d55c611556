"""A stage for races: hold one verb of a store at a chosen moment, let something else happen, and let it go on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from openagents_json.job.store import Commit, JobStore
from tests.engine.support import SAFETY_S


class Held:
    """One call of a store's verb that is held before it happens, or after it happened and before its caller knows."""

    def __init__(self, store: JobStore, verb: str, when: Callable[..., bool] = lambda *_: True, *, after: bool = False):
        self._reached, self._go_on = asyncio.Event(), asyncio.Event()
        call = getattr(store, verb)

        async def held(*arguments: Any, **named: Any) -> Any:
            if self._reached.is_set() or not when(*arguments):
                return await call(*arguments, **named)
            self._reached.set()
            if not after:
                await self._wait(self._go_on)
                return await call(*arguments, **named)
            result = await call(*arguments, **named)
            await self._wait(self._go_on)
            return result

        setattr(store, verb, held)

    async def reached(self) -> None:
        """Return when the call has come."""
        await self._wait(self._reached)

    def go_on(self) -> None:
        self._go_on.set()

    async def _wait(self, event: asyncio.Event) -> None:
        async with asyncio.timeout(SAFETY_S):
            await event.wait()


def commits(*types: str) -> Callable[[Commit], bool]:
    """The commit that holds an event of one of these types."""
    return lambda commit: any(event.type in types for event in commit.events)
