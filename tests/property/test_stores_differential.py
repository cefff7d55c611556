"""Every store gives every answer that a plain model gives, whatever is done in whatever order.

The model (`store_model`) is dictionaries and lists; `store_script` has the operations, `store_sides` compares. Two
stores that agree with it agree with each other. What the contract suite shows by example, this shows in combination.

The scripts follow from a seed: `make test` always runs the same ones, `make test-faults` new ones, and prints how to
repeat them. They are drawn by `random` and not by Hypothesis, whose draws also follow from which modules are loaded
(it collects their constants): there the seed of a run of all tests is another script in a run of one. Nor is a script
that fails made shorter, which takes minutes on a disk.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from dataclasses import replace
from itertools import count
from pathlib import Path
from random import Random

import pytest

from openagents_json.errors import LeaseLost
from openagents_json.job.store import MemoryJobStore, SqliteJobStore
from openagents_json.job.store.base import JobStore
from openagents_json.job.store.file import FileJobStore
from openagents_json.job.store.memory_job import MemoryJob
from openagents_json.job.store.records import Claim, Commit, Held, Request
from openagents_json.job.store.sqlite_schema import connect, migrate
from openagents_json.resources import Offers
from openagents_json.testing import FakeClock
from tests.faults.sizes import Hits, campaign_random, is_whole, sized
from tests.postgres_server import Server
from tests.property.store_script import WEIGHTS, WINDOWS, Script
from tests.property.store_sides import Side, Sides

FILE = "tests/property/test_stores_differential.py"
NAMES = [name for name, weight in WEIGHTS.items() for _ in range(weight)]
SHM = Path("/dev/shm")  # nobody cuts the power here, and a sync costs nothing there
FIXED_SEED = 1  # of `make test`
SHORTEST, LONGEST = 60, 90  # operations of a script
PATIENCE = 4  # so many times the scripts asked for are run, until each window was hit
Operations = list[tuple[str, int]]

Opened = Callable[[FakeClock], AbstractAsyncContextManager[dict[str, JobStore]]]


async def play(script: Operations, opened: Opened, hits: Hits) -> None:
    """AssertionError where a store and the model differ."""
    clock = FakeClock()
    async with opened(clock) as stores:
        run = Script(Sides([Side(name, store) for name, store in stores.items()]), clock, hits)
        for name, number in script:
            await run.do(name, number)
        await run.finish()


def drawn(chance: Random) -> Operations:
    """A script."""
    return [(chance.choice(NAMES), chance.randrange(2**16)) for _ in range(chance.randint(SHORTEST, LONGEST))]


def compare(opened: Opened, scripts: int, chance: Random, *, until_all_hit: bool = False) -> Hits:
    """So many scripts; which kinds of answers were given. With `until_all_hit` there are more, as long as a window was
    not hit. AssertionError, with the script, where stores differ."""
    hits = Hits(WINDOWS)
    for number in count(1):
        script = drawn(chance)
        try:
            asyncio.run(play(script, opened, hits))
        except Exception as error:
            error.add_note(f"in script {number}: {script}")
            raise
        if number >= scripts and (number >= PATIENCE * scripts or not (until_all_hit and hits.missed)):
            break
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


@pytest.mark.timeout(1500)
def test_stores_of_one_machine_answer_as_the_model_does(empty_database: Path) -> None:
    chance = campaign_random(f"{FILE} -k one_machine") if is_whole() else Random(FIXED_SEED)

    @asynccontextmanager
    async def opened(clock: FakeClock) -> AsyncIterator[dict[str, JobStore]]:
        with tempfile.TemporaryDirectory(dir=SHM if SHM.is_dir() else None) as folder:
            database = Path(shutil.copy(empty_database, Path(folder) / "jobs.db"))
            file = FileJobStore(Path(folder) / "jobs", clock)
            async with all_open(MemoryJobStore(clock), file, SqliteJobStore(database, clock)) as stores:
                yield stores

    compare(opened, sized(60, 250), chance, until_all_hit=True).check()


@pytest.mark.timeout(1500)
def test_store_on_a_server_answers_as_the_model_does(postgres: Server) -> None:
    from openagents_json.job.store.postgres import PostgresJobStore

    chance = campaign_random(f"{FILE} -k on_a_server") if is_whole() else Random(FIXED_SEED)

    @asynccontextmanager
    async def opened(clock: FakeClock) -> AsyncIterator[dict[str, JobStore]]:
        url = postgres.store_url(await postgres.empty_schema())
        async with all_open(PostgresJobStore(url, clock)) as stores:
            yield stores

    hits = compare(opened, sized(4, 250), chance, until_all_hit=is_whole())
    if is_whole():  # a few scripts do not come to everything
        hits.check()


# ── the comparison sees what it is for ────────────────────────────────────────────────────────────────────────────


class ClaimsTheLastFirst(MemoryJobStore):
    async def claim(
        self, worker: str, limit: int, offers: Offers | None = None, *, suspects: bool = False
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


class KeepsFreedSlotsIdle(MemoryJobStore):
    def _let_in(self, jobs: Sequence[MemoryJob], settled: Sequence[str] = ()) -> None:
        super()._let_in(jobs)


class ReplacesNobody(MemoryJobStore):
    def _put(self, job: MemoryJob, request: Request) -> None:
        if request.key != "replaced":
            super()._put(job, request)


PLANTED = [
    ClaimsTheLastFirst,
    ForgetsKeysOfFinalJobs,
    RefusesRepeatedCommits,
    KeepsLeasesThatAreGivenBack,
    TakesLeasesOfAnyEpoch,
    LosesTheLastRequest,
    KeepsFreedSlotsIdle,
    ReplacesNobody,
]


@pytest.mark.parametrize("planted", PLANTED)
def test_store_that_answers_otherwise_is_found_out(planted: type[MemoryJobStore]) -> None:
    @asynccontextmanager
    async def opened(clock: FakeClock) -> AsyncIterator[dict[str, JobStore]]:
        async with all_open(planted(clock)) as stores:
            yield stores

    with pytest.raises(AssertionError, match=f"{planted.__name__} answers"):
        compare(opened, 400, Random(FIXED_SEED))
