"""Fixtures of the unit tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.guarded import Guarded


@pytest.fixture(scope="session")
def guarded() -> Iterator[Guarded]:
    """Measures hostile calls in processes of their own."""
    client = Guarded()
    yield client
    client.close()
