"""A connection pooler as PgBouncer is in its mode "transaction": a client keeps its connection, but each of its
transactions may run on another connection of the server, and a session's settings stay with the server's connection.

Only as much of the protocol as that takes, without passwords and TLS.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

_SSL_REQUEST, _CANCEL_REQUEST = 80877103, 80877102
_KNOWN_AT_START = {"user", "database", "client_encoding", "application_name"}  # PgBouncer refuses anything else
_GONE = b""
_READY, _READY_AND_IDLE = b"Z", b"Z\x00\x00\x00\x05I"


@dataclass(eq=False)
class _Backend:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    greeting: bytes  # what the server said when it was connected


class Pooler:
    """`size` connections to the server, made when they are first needed; the one that was used longest ago is next."""

    def __init__(self, host: str, port: int, size: int) -> None:
        self._target = (host, port)
        self._free: deque[_Backend] = deque()
        self._room = asyncio.Semaphore(size)
        self._size = size
        self._made = 0
        self.switches = 0  # transactions that ran on another connection than the client's last one
        self._tasks: set[asyncio.Task[None]] = set()

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            startup = await self._startup(reader, client)
            if startup is not None:
                await self._transactions(reader, client, startup)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client has gone, or the test is over
        finally:
            client.transport.abort()
            self._tasks.discard(task)

    async def _startup(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> bytes | None:
        while True:
            (length,) = struct.unpack("!i", await reader.readexactly(4))
            body = await reader.readexactly(length - 4)
            (code,) = struct.unpack("!i", body[:4])
            if code == _SSL_REQUEST:
                client.write(b"N")
            elif code == _CANCEL_REQUEST:
                return None
            else:
                break
        words = [word.decode() for word in body[4:].split(b"\x00") if word]
        if unknown := set(words[::2]) - _KNOWN_AT_START:
            raise AssertionError(f"a pooler would refuse these startup parameters: {unknown}")
        return struct.pack("!i", length) + body

    async def _transactions(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter, startup: bytes) -> None:
        last = await self._take(startup)
        client.write(last.greeting)
        self._give(last)
        requests: asyncio.Queue[bytes] = asyncio.Queue()
        receiving = asyncio.create_task(_receive(reader, requests))
        try:
            while (message := await requests.get()) != _GONE:
                backend = await self._take(startup)
                self.switches += backend is not last
                last = backend
                try:
                    await _transaction(requests, client, backend, message)
                except BaseException:
                    backend.writer.transport.abort()  # in the middle of a transaction: nobody else may have it
                    self._made -= 1
                    self._room.release()
                    raise
                self._give(backend)
        finally:
            receiving.cancel()

    async def _take(self, startup: bytes) -> _Backend:
        await self._room.acquire()
        if self._free and self._made == self._size:
            return self._free.popleft()
        self._made += 1
        reader, writer = await asyncio.open_connection(*self._target)
        writer.write(startup)
        greeting = b""
        while (reply := await _message(reader))[:1] != _READY:
            greeting += reply
        return _Backend(reader, writer, greeting + reply)

    def _give(self, backend: _Backend) -> None:
        self._free.append(backend)
        self._room.release()

    async def close(self) -> None:
        """End everything."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for backend in self._free:
            backend.writer.transport.abort()


async def _receive(reader: asyncio.StreamReader, requests: asyncio.Queue[bytes]) -> None:
    """Put the client's messages into the queue, and at the end that it has gone."""
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        while (message := await _message(reader))[:1] != b"X":
            requests.put_nowait(message)
    requests.put_nowait(_GONE)


async def _transaction(
    requests: asyncio.Queue[bytes], client: asyncio.StreamWriter, backend: _Backend, message: bytes
) -> None:
    """Pass messages on in both directions until the server is ready and in no transaction."""
    backend.writer.write(message)

    async def pass_on() -> None:
        while (request := await requests.get()) != _GONE:
            backend.writer.write(request)
        backend.writer.transport.abort()  # in the middle of a transaction

    passing = asyncio.create_task(pass_on())
    try:
        while (reply := await _message(backend.reader)) != _READY_AND_IDLE:
            client.write(reply)
        client.write(reply)
    finally:
        passing.cancel()


async def _message(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(5)
    (length,) = struct.unpack("!i", head[1:])
    return head + await reader.readexactly(length - 4)


@asynccontextmanager
async def pooled(host: str, port: int, size: int = 3) -> AsyncIterator[tuple[Pooler, int]]:
    """A pooler to that address, and the port of this machine at which it listens."""
    pooler = Pooler(host, port, size)
    server = await asyncio.start_server(pooler._serve, "127.0.0.1", 0)
    try:
        yield pooler, server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await pooler.close()
