"""How the stores of one schema hear of each other: NOTIFY on a connection of its own, and a look now and then.

A notification says only that something was written; it is sent after the commit, at most every `TELL_EVERY_S`, because
all notifications of a database queue for one lock. One may get lost (its sender dies, the connection breaks, a pooler
swallows LISTEN), so `has_news` also says yes every few seconds without one.
"""

from __future__ import annotations

import asyncio
import logging

from openagents_json.job.store.postgres_driver import Connection
from openagents_json.job.store.postgres_place import Place
from openagents_json.job.store.postgres_session import begin_session

TELL_EVERY_S = 0.02
LOOK_EVERY_S = 1.0  # where nobody tells us
LOOK_ALL_THE_SAME_S = 5.0  # where somebody does
RECONNECT_S = (0.2, 5.0)  # pause after the connection broke, doubled at each failure up to the second

logger = logging.getLogger(__name__)


class PostgresNews:
    """Listens and tells, in a task of its own. Everything here runs in the event loop."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._loop = asyncio.get_running_loop()
        self._connection: Connection | None = None
        self._is_listening = False
        self._has_heard = True  # what was written before we listened
        self._looked_at = self._loop.time()
        self._stirred = asyncio.Event()  # something is to be told, or the connection is gone
        self._has_to_tell = False
        self._is_ready = False  # the connection is there, and waits for something to tell
        self._is_stopping = False
        self._task = asyncio.create_task(self._run(), name="openagents-postgres-news")

    @property
    def is_listening(self) -> bool:
        """Whether others' writing is heard of at once."""
        return self._is_listening

    def has_news(self) -> bool:
        """Whether others may have written since the last call."""
        now = self._loop.time()
        patience_s = LOOK_ALL_THE_SAME_S if self._is_listening else LOOK_EVERY_S
        if not self._has_heard and now - self._looked_at < patience_s:
            return False
        self._has_heard, self._looked_at = False, now
        return True

    def tell(self) -> None:
        """We have written: the others hear of it soon."""
        self._has_to_tell = True
        self._stirred.set()

    async def stop(self, within_s: float) -> None:
        """Tell what is to be told, if the server answers in time, and close the connection."""
        self._is_stopping = True
        self._stirred.set()
        if not self._is_ready:
            self._task.cancel()
        await asyncio.wait([self._task], timeout=within_s)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        shortest, longest = RECONNECT_S
        pause = shortest
        while not self._is_stopping:
            try:
                await self._listen()
                self._is_ready = True
                pause = shortest
                await self._tell_until_gone()
            except Exception as error:
                logger.info("not listening to %s: %s", self._place.shown, self._place.without_secrets(str(error)))
            finally:
                self._is_listening = self._is_ready = False
                connection, self._connection = self._connection, None
                if connection is not None:
                    await connection.close()
            await asyncio.sleep(0 if self._is_stopping else pause)
            pause = min(2 * pause, longest)

    async def _listen(self) -> None:
        connection = self._connection = await begin_session(self._place, writes=False)
        if self._place.is_pooled:
            return
        own = connection.server_pid

        def hear(pid: int) -> None:
            if pid != own:
                self._has_heard = True

        with connection.watched():
            await connection.run("SET synchronous_commit = off")  # a NOTIFY is no word to keep: spare the disk
            await connection.listen(self._place.channel, hear, self._stirred.set)
        self._is_listening = self._has_heard = True

    async def _tell_until_gone(self) -> None:
        connection = self._connection
        assert connection is not None
        while not connection.is_closed:
            if self._has_to_tell:
                self._has_to_tell = False
                with connection.watched():
                    await connection.run(f"NOTIFY {self._place.channel}")
                if not self._is_stopping:
                    await asyncio.sleep(TELL_EVERY_S)
            elif self._is_stopping:
                return
            else:
                self._stirred.clear()
                await self._stirred.wait()
