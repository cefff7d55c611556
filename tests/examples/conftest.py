"""Examples run on the engine's bench (both stores, a clock that the test moves) against a model on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from examples.agents.components import app
from openagents_json import JobManager
from openagents_json.workflow import MappingSecrets, WorkflowRegistry
from tests.engine.conftest import bench, clock, kind
from tests.engine.support import Bench
from tests.examples.model_server import ModelServer

__all__ = ["bench", "clock", "kind"]

KEY = "sk-canary-4711"
HOOK = "/hooks/canary-0815"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ModelServer() as running:
        yield running
    assert running.problems == []


@pytest_asyncio.fixture
async def jobs(bench: Bench, server: ModelServer) -> AsyncIterator[JobManager]:
    """An open manager with the components of the agent shapes, the key and the webhook as secrets."""
    bench.workflows = WorkflowRegistry(app.components)
    secrets = MappingSecrets({"OPENAI_API_KEY": KEY, "CHAT_WEBHOOK": server.address + HOOK})
    async with bench.manager(components=app.components, workflows=bench.workflows, secrets=secrets) as manager:
        yield manager
