"""Waiting for what another process does: it sets no event of ours, so we look."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable

SAFETY_S = 60.0
LOOK_S = 0.001


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Return when it is true. `TimeoutError` when that takes too long."""
    async with asyncio.timeout(SAFETY_S):
        while True:
            answer = condition()
            if await answer if inspect.isawaitable(answer) else answer:
                return
            await asyncio.sleep(LOOK_S)
