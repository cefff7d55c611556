"""What one worker knows of the queue without asking the store: whether to look, and how many jobs stand before ours."""

from __future__ import annotations

import asyncio


class KnownQueue:
    """In the event loop. Every look takes jobs out; what is added meanwhile is known to be there afterwards."""

    def __init__(self) -> None:
        self.length: int | None = None  # at most so many jobs stand in the queue for us; None: nobody knows
        self._changed = asyncio.Event()  # somebody should look
        self._added: int | None = 0  # since the look that is on began
        self._has_news = True  # jobs were queued, or may have been, since somebody asked

    def added(self, count: int = 1) -> None:
        """So many jobs were queued here."""
        self._has_news = True
        if self.length is not None:
            self.length += count
        if self._added is not None:
            self._added += count
        self._changed.set()

    def lost_count(self) -> None:
        """Others may have queued jobs, or the last look has failed."""
        self._has_news = True
        self.length = self._added = None
        self._changed.set()

    def reconsider(self) -> None:
        """Look again who is first."""
        self._has_news = True
        self._changed.set()

    def take_news(self) -> bool:
        """Whether somebody may have come in front since this was asked last."""
        has_news, self._has_news = self._has_news, False
        return has_news

    def room_is_free(self) -> None:
        """One more job can be taken: look if there may be one."""
        if self.length != 0:
            self._changed.set()

    async def wait(self) -> None:
        """Until there is a reason to look; the look begins."""
        await self._changed.wait()
        self._changed.clear()
        self._added = 0

    def looked(self, *, found_all: bool) -> None:
        """The look is over; with `found_all` the queue had no more than was taken out."""
        self.length = self._added if found_all else None
