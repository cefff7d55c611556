"""A folder with commands for each test; afterwards nothing of it runs any more and every history is checked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.acceptance.support import Shell


@pytest_asyncio.fixture
async def shell(tmp_path: Path) -> AsyncIterator[Shell]:
    made = Shell(tmp_path)
    try:
        yield made
    finally:
        made.kill_all()
    await made.check()
