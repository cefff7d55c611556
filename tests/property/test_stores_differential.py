"""Every store gives every answer that a plain model gives, whatever is done in whatever order.

The model (`store_model`) is dictionaries and lists; `store_script` has the operations, `store_sides` compares. Two
stores that agree with it agree with each other. What the contract suite shows by example, this shows in combination.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from openagents_json.errors import LeaseLost
from openagents_json.job.store import MemoryJobStore, SqliteJobStore
from openagents_json.job.store.base import JobStore
from openagents_json.job.store.file import FileJobStore
from openagents_json.job.store.records import Claim, Commit, Held, Request
from openagents_json.job.store.sqlite_schema import connect, migrate
from openagents_json.testing import FakeClock
from tests.faults.sizes import Hits, is_whole, sized
from tests.postgres_server import Server
from tests.property.store_script import WEIGHTS, WINDOWS, Script
from tests.property.store_sides import Side, Sides

NAMES = [name for name, weight in WEIGHTS.items() for _ in range(weight)]
Operations = list[tuple[str, int]]
scripts = st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 2**16)), min_size=60, max_size=90)

Opened = Callable[[FakeClock], AbstractAsyncContextManager[dict[str, JobStore]]]


async def play(script: Operations, opened: Opened, hits: Hits) -> None:
    """AssertionError where a store and the model differ."""
    clock = FakeClock()
    async with opened(clock) as stores:
        run = Script(Sides([Side(name, store) for name, store in stores.items()]), clock, hits)
        for name, number in script:
            await run.do(name, number)
        await run.finish()


def compare(opened: Opened, examples: int) -> Hits:
    """So many scripts; which kinds of answers were given. AssertionError with the script where stores differ: it is not
    made shorter, which takes minutes on a disk."""
    hits = Hits(WINDOWS)

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.reuse, Phase.generate],
    )
    @given(scripts)
    def agree(script: Operations) -> None:
        asyncio.run(play(script, opened, hits))

    agree()
    return hits


@asynccontextmanager
async def all_open(*stores: JobStore) -> AsyncIterator[dict[str, JobStore]]:
    """The stores by the names of their classes, closed at the end."""
    try:
        for store in stores:
            await store.open()
        yield {type(store).__name__: store for store in stores}
    finally:
        for store in stores:
            await store.close()


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("empty") / "jobs.db"
    with closing(connect(path)) as connection:
        migrate(connection, path, 1)
    return path


@pytest.mark.timeout(600)
def test_stores_of_one_machine_answer_as_the_model_does(empty_database: Path) -> None:
    @asynccontextmanager
    async def opened(clock: FakeClock) -> AsyncIterator[dict[str, JobStore]]:
        with tempfile.TemporaryDirectory() as folder:
            database = Path(shutil.copy(empty_database, Path(folder) / "jobs.db"))
            file = FileJobStore(Path(folder) / "jobs", clock)
            async with all_open(MemoryJobStore(clock), file, SqliteJobStore(database, clock)) as stores:
                yield stores

    compare(opened, sized(60, 100)).check()


@pytest.mark.timeout(600)
def test_store_on_a_server_answers_as_the_model_does(postgres: Server) -> None:
    from openagents_json.job.store.postgres import PostgresJobStore

    @asynccontextmanager
    async def opened(clock: FakeClock) -> AsyncIterator[dict[str, JobStore]]:
        url = postgres.store_url(await postgres.empty_schema())
        async with all_open(PostgresJobStore(url, clock)) as stores:
            yield stores

    hits = compare(opened, sized(4, 60))
    if is_whole():  # a few scripts do not come to everything
        hits.check()


# ── the comparison sees what it is for ────────────────────────────────────────────────────────────────────────────


class ClaimsTheLastFirst(MemoryJobStore):
    async def claim(
        self, worker: str, limit: int, offers: Collection[str] | None = None, *, suspects: bool = False
    ) -> list[Claim]:
        return (await super().claim(worker, limit, offers, suspects=suspects))[::-1]


class ForgetsKeysOfFinalJobs(MemoryJobStore):
    async def hold(self, job_id: str, worker: str, request: Request) -> Held | None:
        held = await super().hold(job_id, worker, request)
        return None if held is None else replace(held, is_repeated=False)


class RefusesRepeatedCommits(MemoryJobStore):
    async def commit(self, commit: Commit) -> None:
        job = self._jobs.get(commit.claim.job_id)
        if job is None or not self._matches(job, commit):
            raise LeaseLost("Not again.")
        await super().commit(commit)


class KeepsLeasesThatAreGivenBack(MemoryJobStore):
    async def release(self, claim: Claim) -> None:
        pass


class TakesLeasesOfAnyEpoch(MemoryJobStore):
    async def hold_again(self, worker: str, leases: Mapping[str, int]) -> list[Claim]:
        return await super().hold_again(worker, await self.read_leases(worker))


class LosesTheLastRequest(MemoryJobStore):
    async def read_requests(self, job_id: str) -> list[Request]:
        return (await super().read_requests(job_id))[:1]


PLANTED = [
    ClaimsTheLastFirst,
    ForgetsKeysOfFinalJobs,
    RefusesRepeatedCommits,
    KeepsLeasesThatAreGivenBack,
    TakesLeasesOfAnyEpoch,
    LosesTheLastRequest,
]


@pytest.mark.parametrize("planted", PLANTED)
def test_store_that_answers_otherwise_is_found_out(planted: type[MemoryJobStore]) -> None:
    @asynccontextmanager
    async def opened(clock: FakeClock) -> AsyncIterator[dict[str, JobStore]]:
        async with all_open(planted(clock)) as stores:
            yield stores

    with pytest.raises(AssertionError, match=f"{planted.__name__} answers"):
        compare(opened, 200)
