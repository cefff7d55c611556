"""All that is known of asyncpg, which has no complete types: connections to a PostgreSQL server, and its errors.

asyncpg is imported when the first connection is made, so that a program without it can use the other stores.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Protocol

from openagents_json.errors import InvalidSettings

CONNECT_S = 5.0  # for a connection to be made
ANSWER_S = 30.0  # for a transaction to be answered; a server that takes longer counts as gone
CLOSE_S = 1.0  # for a connection to be closed politely
# The kernel gives a connection up when what was sent is not acknowledged for so long, and asks while nothing is sent.
DEAD_AFTER_S = 15
KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": DEAD_AFTER_S * 1000}

# PostgreSQL's text has no NUL, and JSON has: it is written as \x01 and 0, and \x01 itself as \x01 and 1.
_MARK = "\x01"


class Row(Protocol):
    """A row of a result: by place, by name, or as pairs."""

    def __getitem__(self, key: int | str) -> Any: ...

    def items(self) -> Iterator[tuple[str, Any]]: ...


class Connection:
    """One connection. Statements of one transaction at a time; who shares it takes turns."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    @property
    def is_closed(self) -> bool:
        """Whether it is known to be gone."""
        return bool(self._raw.is_closed())

    @property
    def server_pid(self) -> int:
        """The process of the server that answers here."""
        return int(self._raw.get_server_pid())

    @property
    def version(self) -> int:
        """The server's major version."""
        return int(self._raw.get_server_version().major)

    async def rows(self, sql: str, *values: Any) -> Sequence[Row]:
        """All rows that a statement gives."""
        rows: Sequence[Row] = await self._raw.fetch(sql, *map(_sendable, values))
        return rows

    async def row(self, sql: str, *values: Any) -> Row | None:
        """The first row, or None."""
        found = await self.rows(sql, *values)
        return found[0] if found else None

    async def value(self, sql: str, *values: Any) -> Any:
        """The first value of the first row, or None."""
        found = await self.rows(sql, *values)
        return found[0][0] if found else None

    async def run(self, script: str) -> str:
        """One or several statements without values; what the last one is called by the server, such as COMMIT."""
        return str(await self._raw.execute(script))

    async def listen(self, channel: str, hear: Callable[[int], None], gone: Callable[[], None]) -> None:
        """From now on `hear` is called with the server's process that notifies, and `gone` when the connection ends."""
        self._raw.add_termination_listener(lambda connection: gone())
        await self._raw.add_listener(channel, lambda connection, pid, name, payload: hear(pid))

    @contextlib.contextmanager
    def watched(self, seconds: float | None = None) -> Iterator[None]:
        """What happens inside ends within so many seconds (`ANSWER_S` if not given), because the connection is broken
        then. Cancelling would wait for an answer of the server, which may be what does not come."""
        timer = asyncio.get_running_loop().call_later(ANSWER_S if seconds is None else seconds, self.terminate)
        try:
            yield
        finally:
            timer.cancel()

    def terminate(self) -> None:
        """Drop the connection at once, whatever it is doing."""
        self._raw.terminate()

    async def close(self) -> None:
        """Close it politely if the server answers soon, else drop it."""
        if not self.is_closed:
            with contextlib.suppress(Exception), self.watched(CLOSE_S):
                await self._raw.close(timeout=CLOSE_S)
        self.terminate()


async def connect(dsn: str, *, is_pooled: bool) -> Connection:
    """A new connection; the errors are those of asyncpg and the system, for `fault_of`.

    `is_pooled`: a pooler may give each transaction to another connection of the server, so no statement is prepared
    for later ones.
    """
    asyncpg = load()
    cached = 0 if is_pooled else 200
    async with asyncio.timeout(CONNECT_S):
        raw = await asyncpg.connect(
            dsn, timeout=CONNECT_S, statement_cache_size=cached, max_cached_statement_lifetime=0
        )
    _keep_alive(raw)
    return Connection(raw)


@cache
def load() -> Any:
    """The driver. `InvalidSettings` says how to install it."""
    try:
        import asyncpg
    except ImportError:
        raise InvalidSettings(
            "The PostgreSQL store needs asyncpg, which is not installed. Install openagents_json[postgres]."
        ) from None
    return asyncpg


def state_of(error: BaseException) -> str | None:
    """The SQLSTATE (five characters) that the server gave, None when the error is not the server's."""
    state = getattr(error, "sqlstate", None)
    return state if isinstance(state, str) and isinstance(error, load().PostgresError) else None


def is_unfit_value(error: BaseException) -> bool:
    """Whether a value cannot be sent at all: an integer too large for its column, half a surrogate pair."""
    is_refused = isinstance(error, load().InterfaceError) and isinstance(error, ValueError)
    return is_refused or isinstance(error, (OverflowError, UnicodeError))


def is_lost(error: BaseException) -> bool:
    """Whether the connection is gone with this error, so that nobody knows what became of the last statement."""
    if isinstance(error, (OSError, TimeoutError, asyncio.IncompleteReadError)):
        return True
    state = state_of(error)
    if state is not None:
        return state[:2] == "08" or state in ("57P01", "57P02", "57P03", "57P05", "25P03")
    driver = load()
    return isinstance(error, (driver.InterfaceError, driver.InternalClientError)) and not is_unfit_value(error)


def readable(text: str | None) -> str | None:
    """Text as it was before it was sent."""
    if text is None or _MARK not in text:
        return text
    return text.replace(_MARK + "0", "\x00").replace(_MARK + "1", _MARK)


def sendable(text: str) -> str:
    """Text as a column can hold it; `readable` is the reverse."""
    if _MARK in text or "\x00" in text:
        return text.replace(_MARK, _MARK + "1").replace("\x00", _MARK + "0")
    return text


def _sendable(value: Any) -> Any:
    if isinstance(value, str):
        return sendable(value)
    if isinstance(value, list) and value and (value[0] is None or isinstance(value[0], str)):
        return [sendable(one) if isinstance(one, str) else one for one in value]
    return value


def _keep_alive(raw: Any) -> None:
    """Let the kernel notice a dead peer. asyncpg does not show its socket otherwise."""
    sock = raw._transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if (option := getattr(socket, name, None)) is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def server_keepalive() -> Mapping[str, str]:
    """The same for the server's end, as its settings."""
    return {
        "tcp_user_timeout": f"{DEAD_AFTER_S}s",
        "tcp_keepalives_idle": str(KEEPALIVE["TCP_KEEPIDLE"]),
        "tcp_keepalives_interval": str(KEEPALIVE["TCP_KEEPINTVL"]),
        "tcp_keepalives_count": str(KEEPALIVE["TCP_KEEPCNT"]),
    }
