"""What a worker holds and asks of the limits of components, where one runner lets go of a job that runs here again."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from openagents_json.components.limits import ComponentLimit
from openagents_json.job.engine.grants import Grants
from openagents_json.job.machine import StepRun
from openagents_json.job.store import MemoryJobStore
from openagents_json.testing import FakeClock


class FakeRunner:
    """As much of a runner as is asked for leave."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self.claim = SimpleNamespace(handle=1)
        self.sort_at = 0
        self.looks = 0

    def look_again(self) -> None:
        self.looks += 1


def grants_of(store: MemoryJobStore, clock: FakeClock) -> Grants:
    """Those of a worker whose every component may be on once."""
    component = SimpleNamespace(limits=(ComponentLimit(1),))
    worker: Any = SimpleNamespace(id="w1", store=store, clock=clock, component_or_missing=lambda name: component)
    return Grants(worker)


def may_begin(grants: Grants, runner: FakeRunner, path: str = "s") -> bool:
    """Whether the step of a job may begin."""
    return grants.may_begin(cast(Any, runner), StepRun(path, path, ""), grants.caps("fetch", dict))


async def test_runner_that_lets_go_of_a_job_takes_nothing_from_the_one_that_runs_it_again() -> None:
    clock = FakeClock()
    store = MemoryJobStore(clock)
    await store.register_worker("w1")
    grants = grants_of(store, clock)
    old, new = FakeRunner("job"), FakeRunner("job")
    assert not may_begin(grants, old)
    await grants.ask()
    assert may_begin(grants, old) and old.looks == 1
    assert not may_begin(grants, new)
    await grants.ask()
    assert not may_begin(grants, new), "the old one has the slot"
    grants.keep(cast(Any, old), ())
    await grants.ask()
    assert may_begin(grants, new) and new.looks == 1
    grants.keep(cast(Any, new), ())
    async with asyncio.timeout(5):
        await grants.ask()
    assert await store.take_grants("w2", {}, []) == [] and store._workers.grants._by_key == {}
