"""What several folders of tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import postgres_server


@pytest.fixture(scope="session")
def postgres() -> Iterator[postgres_server.Server]:
    """The PostgreSQL server of this test process."""
    if not postgres_server.is_there():
        pytest.skip(postgres_server.WHY_NOT)
    server = postgres_server.Server()
    yield server
    server.end()
