"""Fixtures of the engine's tests: a bench on each store, whose histories are all folded and checked at the end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from openagents_json import JobManager
from tests.engine.support import Bench, Clock
from tests.postgres_server import Server


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", "sqlite"])
def kind(request: pytest.FixtureRequest) -> str:
    """Which store the test runs on; a test for one of them overrides it with `parametrize`."""
    return str(request.param)


@pytest_asyncio.fixture
async def bench(request: pytest.FixtureRequest, kind: str, tmp_path: Path, clock: Clock) -> AsyncIterator[Bench]:
    url = ""
    if kind == "postgres":
        server: Server = request.getfixturevalue("postgres")
        url = server.store_url(await server.empty_schema())
    made = Bench(kind, tmp_path, clock, url)
    yield made
    made.open_gates()
    await made.check()


@pytest_asyncio.fixture
async def jobs(bench: Bench) -> AsyncIterator[JobManager]:
    """An open manager. Gates are opened at the end, so that it closes without moving the clock."""
    async with bench.manager() as manager:
        yield manager
        bench.open_gates()
