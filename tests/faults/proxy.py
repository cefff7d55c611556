"""A TCP proxy between a store and its server, which can cut, freeze and delay connections, and lose replies."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Proxy:
    """Forwards bytes. All knobs may be turned at any time, and hold for connections that are there and new ones."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.delay_s = 0.0  # before each reply is passed on
        self.refuses = False  # new connections are closed at once
        self.lost = 0  # requests and replies that were not passed on
        self._lose_after: bytes | None = None  # the reply to what holds this is lost
        self._lose: bytes | None = None  # what holds this is lost itself
        self._loses: set[asyncio.StreamWriter] = set()  # clients whose next reply is lost
        self._flowing = {"requests": asyncio.Event(), "replies": asyncio.Event()}
        self.thaw()

    def lose_reply_to(self, request: bytes) -> None:
        """The next request that holds these bytes reaches the server; its reply is thrown away and the client cut."""
        self._lose_after = request

    def lose_request(self, request: bytes) -> None:
        """The next request that holds these bytes does not reach the server; the client is cut."""
        self._lose = request

    def freeze(self, *directions: str) -> None:
        """Pass nothing on any more in these directions (`requests`, `replies`; both if none is given), as a broken
        network does. What was sent comes later, when it is whole again."""
        for direction in directions or self._flowing:
            self._flowing[direction].clear()

    def thaw(self) -> None:
        for flowing in self._flowing.values():
            flowing.set()

    def cut(self) -> None:
        """End all connections."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        if self.refuses:
            client.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(client)
        server: asyncio.StreamWriter | None = None
        try:
            replies, server = await asyncio.open_connection(*self._target)
            self._writers.add(server)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._forward(reader, server, client, is_request=True))
                both.create_task(self._forward(replies, client, client, is_request=False))
        except* (OSError, EOFError, asyncio.CancelledError):
            pass  # one end has gone, was cut, or the test is over
        finally:
            for writer in (client, server):
                if writer is not None:
                    writer.transport.abort()
                    self._writers.discard(writer)
            self._tasks.discard(task)

    async def _forward(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        client: asyncio.StreamWriter,
        *,
        is_request: bool,
    ) -> None:
        while data := await source.read(65_536):
            await self._flowing["requests" if is_request else "replies"].wait()
            if is_request and self._lose is not None and self._lose in data:
                self._lose = None
                self.lost += 1
                raise EOFError
            if is_request and self._lose_after is not None and self._lose_after in data:
                self._lose_after = None
                self._loses.add(client)
            elif not is_request:
                await asyncio.sleep(self.delay_s)
                if client in self._loses:
                    self._loses.discard(client)
                    self.lost += 1
                    raise EOFError
            sink.write(data)
            await sink.drain()
        raise EOFError


@asynccontextmanager
async def proxied(host: str, port: int) -> AsyncIterator[tuple[Proxy, int]]:
    """A proxy to that address, and the port of this machine at which it listens."""
    proxy = Proxy(host, port)
    server = await asyncio.start_server(proxy._serve, "127.0.0.1", 0)
    try:
        yield proxy, server.sockets[0].getsockname()[1]
    finally:
        server.close()
        proxy.thaw()
        proxy.cut()
        for task in list(proxy._tasks):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*proxy._tasks, return_exceptions=True)
