"""The memory store keeps the contract."""

from __future__ import annotations

import pytest

from openagents_json.job.store.base import JobStore
from openagents_json.job.store.contract import StoreContract
from openagents_json.job.store.memory import MemoryJobStore
from openagents_json.testing import FakeClock


class TestMemory(StoreContract):
    @pytest.fixture
    async def store(self, clock: FakeClock) -> JobStore:
        return MemoryJobStore(clock)
