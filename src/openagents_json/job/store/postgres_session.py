"""Connections of a PostgreSQL store that are made anew when they are gone: those that read, and how each begins."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from openagents_json.errors import StoreError, StoreUnavailable
from openagents_json.job.store.postgres_driver import Connection, connect, is_lost
from openagents_json.job.store.postgres_faults import is_of_the_database, translate
from openagents_json.job.store.postgres_place import Place

READERS = 2
TRIES = 2  # of a question whose connection turns out to be gone

T = TypeVar("T")
Ask = Callable[[Connection], Awaitable[T]]


async def begin_session(place: Place, *, writes: bool) -> Connection:
    """A new connection with its settings. Errors are those of driver and system."""
    connection = await connect(place.dsn, is_pooled=place.is_pooled)
    if not place.is_pooled:
        try:
            with connection.watched():
                await connection.run(place.preamble(writes=writes))
        except BaseException:
            connection.terminate()
            raise
    return connection


@dataclass(eq=False, slots=True)
class _Question:
    ask: Ask[Any]
    future: asyncio.Future[Any] = field(repr=False)


class PostgresReaders:
    """A few connections that answer questions, each in a task of its own: whoever asks may be cancelled at any time
    without a connection being lost in the middle of an answer."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._questions: asyncio.Queue[_Question | None] = asyncio.Queue()
        self._is_stopped = False
        self._tasks = [asyncio.create_task(self._run(), name=f"openagents-postgres-reader-{n}") for n in range(READERS)]

    async def ask(self, ask: Ask[T]) -> T:
        """The answer, from one statement or in one transaction; `StoreUnavailable` when the server cannot be asked."""
        if self._is_stopped:
            raise StoreUnavailable("The store is not open.")
        question = _Question(ask, asyncio.get_running_loop().create_future())
        self._questions.put_nowait(question)
        answer: T = await question.future
        return answer

    async def stop(self, within_s: float) -> None:
        """Answer what was asked, as far as that takes no longer, and close the connections."""
        self._is_stopped = True
        for _ in self._tasks:
            self._questions.put_nowait(None)
        _, late = await asyncio.wait(self._tasks, timeout=within_s)
        for task in late:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        while not self._questions.empty():
            question = self._questions.get_nowait()
            if question is not None and not question.future.done():
                question.future.set_exception(StoreUnavailable("The store was closed before it could answer."))

    async def _run(self) -> None:
        connection: Connection | None = None
        try:
            while (question := await self._questions.get()) is not None:
                connection = await self._answer(connection, question)
        finally:
            if connection is not None:
                await connection.close()

    async def _answer(self, connection: Connection | None, question: _Question) -> Connection | None:
        """Answer, or say why not; the connection that the next question may use."""
        if question.future.done():
            return connection  # whoever asked does not wait any more
        for attempt in range(1, TRIES + 1):
            try:
                if connection is None or connection.is_closed:
                    connection = await begin_session(self._place, writes=False)
                with connection.watched():
                    answer = await self._in_turn(connection, question.ask)
            except asyncio.CancelledError:
                self._refuse(question, StoreUnavailable("The store was closed before it could answer."))
                if connection is not None:
                    connection.terminate()
                raise
            except Exception as error:
                if connection is not None and (is_lost(error) or connection.is_closed):
                    connection.terminate()
                    connection = None
                    if attempt < TRIES:
                        continue  # nothing was written, so asking again is safe
                self._refuse(question, error)
            else:
                if not question.future.done():
                    question.future.set_result(answer)
            return connection
        raise AssertionError("every attempt returns or goes on")

    async def _in_turn(self, connection: Connection, ask: Ask[Any]) -> Any:
        if not self._place.is_pooled:
            return await ask(connection)
        await connection.run(f"BEGIN READ ONLY;{self._place.preamble(writes=False)}")
        try:
            return await ask(connection)
        finally:
            with contextlib.suppress(Exception):  # it only read; a connection that is lost says so at the next question
                await connection.run("COMMIT")

    def _refuse(self, question: _Question, error: Exception) -> None:
        if not question.future.done():
            is_told = isinstance(error, StoreError) or not is_of_the_database(error)
            question.future.set_exception(error if is_told else translate(error, self._place))
