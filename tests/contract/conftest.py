"""Readable failures for the contract suite, which is no test module itself, and an empty SQLite store to copy."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from openagents_json.job.store import file_disk
from openagents_json.job.store.sqlite_schema import connect, migrate

pytest.register_assert_rewrite("openagents_json.job.store.contract")


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("empty") / "jobs.db"
    with closing(connect(path)) as connection:
        migrate(connection, path, 1)
    return path


@pytest.fixture
def database(empty_database: Path, tmp_path: Path) -> Path:
    """An empty store of this test's own: copied, because making one syncs a dozen times."""
    return Path(shutil.copy(empty_database, tmp_path / "jobs.db"))


class DiskGate:
    """Holds the file store's writes up before they reach the disk."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._reached = asyncio.Event()
        self._may_pass = threading.Event()
        self._may_pass.set()

    def pass_through(self) -> None:
        """The writer's thread: wait while the gate is shut."""
        if not self._may_pass.is_set():
            self._loop.call_soon_threadsafe(self._reached.set)
            assert self._may_pass.wait(30), "nobody opened the gate"

    def shut(self) -> None:
        self._may_pass.clear()

    def open(self) -> None:
        self._may_pass.set()

    async def wait_reached(self) -> None:
        """Return when a write stands before the gate."""
        await self._reached.wait()


@pytest.fixture
async def disk_gate(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[DiskGate]:
    gate, sync = DiskGate(), file_disk.sync

    def gated(fd: int) -> None:
        gate.pass_through()
        sync(fd)

    monkeypatch.setattr(file_disk, "sync", gated)
    yield gate
    gate.open()
