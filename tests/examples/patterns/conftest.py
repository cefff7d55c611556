"""The fixture of the pattern tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from examples.patterns import components
from tests.examples.patterns.stage import PATTERNS, Stage


@pytest_asyncio.fixture
async def stage() -> AsyncIterator[Stage]:
    """The pattern definitions with an open manager; all histories are checked at the end."""
    made = Stage(components.app.components, PATTERNS)
    await made.jobs.open()
    yield made
    await made.close()
