"""Limits on PostgreSQL, where three worker processes commit at once and die: never is one job too many on.

Two witnesses: a trigger writes down every slot that a transaction gives or takes, in the transaction itself; and each
step has a lock file of its limit, and one of that of its component, while it runs.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Any

import pytest

from openagents_json import JobManager
from openagents_json.job.store import PostgresJobStore
from tests.faults import limited_worker
from tests.faults.checker import check_store
from tests.faults.limited_worker import HOLDS, LIMIT, VIOLATIONS
from tests.faults.sizes import Hits, campaign_random, sized
from tests.postgres_server import Server

ROOT = Path(__file__).parents[2]
WORKERS, DESKS = 3, 3
CUSTOMERS = 4  # of each round; their keys are new, so that jobs are let in at the same moment by several desks
JOBS_PER_ROUND = 48
ROUNDS = (2, 30)  # quick, whole
SAFETY_S = 60.0  # only a safety net

KILLED, WAITING, CUT = "killed with slots in its hands", "killed while others waited", "session ended"
LOST, LATE = "lease lost with slots in its hands", "lease lost while others waited"

WITNESS = """
CREATE TABLE {schema}.slot_log (sequence bigint GENERATED ALWAYS AS IDENTITY, limit_key text, job text, change integer);
CREATE FUNCTION {schema}.log_slot() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO {schema}.slot_log (limit_key, job, change)
  VALUES (NEW.limit_key, NEW.id, CASE WHEN NEW.slot THEN 1 ELSE -1 END);
  RETURN NULL;
END $$;
CREATE TRIGGER slot_given AFTER INSERT ON {schema}.jobs FOR EACH ROW WHEN (NEW.slot)
  EXECUTE FUNCTION {schema}.log_slot();
CREATE TRIGGER slot_changed AFTER UPDATE ON {schema}.jobs FOR EACH ROW WHEN (OLD.slot IS DISTINCT FROM NEW.slot)
  EXECUTE FUNCTION {schema}.log_slot();
"""


class Site:
    """A schema with a witness, the worker processes on it, and desks, each with a store of its own, that give them
    jobs."""

    def __init__(
        self, connection: Any, schema: str, url: str, folder: Path, desks: list[JobManager], chance: Random
    ) -> None:
        self.connection = connection
        self.schema = schema
        self.url = url
        self.folder = folder
        self.desks = desks
        self.chance = chance
        self.lease_s = 30.0
        self.rounds = 0
        self.processes: list[subprocess.Popen[bytes]] = []

    async def begin(self, lease_s: float) -> None:
        """Start the workers, and return when all of them are there."""
        self.lease_s = lease_s
        for _ in range(WORKERS):
            self.start()
        pids = [process.pid for process in self.processes]
        query = "SELECT count(*) = $1 FROM {schema}.workers WHERE pid = ANY($2)"
        await self.until(lambda: self.value(query, WORKERS, pids))

    def start(self) -> None:
        """One more worker."""
        program = [sys.executable, "-m", "tests.faults.limited_worker", self.url, str(self.folder), str(self.lease_s)]
        self.processes.append(subprocess.Popen(program, cwd=ROOT))

    async def value(self, query: str, *values: Any) -> Any:
        return await self.connection.fetchval(query.format(schema=self.schema), *values)

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(SAFETY_S):
            while not await condition():  # noqa: ASYNC110 - another process sets no event of ours
                await asyncio.sleep(0.005)

    async def give_work(self) -> None:
        """New jobs, and return when some of them have begun or ended."""
        self.rounds += 1
        before = await self.value("SELECT count(*) FROM {schema}.slot_log")
        await asyncio.gather(
            *(
                self.desks[number % DESKS].create_job(
                    hold, {"customer": self.rounds * CUSTOMERS + customer}, start=True
                )
                for customer in range(CUSTOMERS)
                for hold in HOLDS
                for number in range(JOBS_PER_ROUND // CUSTOMERS // len(HOLDS))
            )
        )
        more = self.chance.randrange(2, JOBS_PER_ROUND)
        await self.until(lambda: self.value("SELECT count(*) >= $1 FROM {schema}.slot_log", before + more))

    async def busy_worker(self) -> tuple[str, int]:
        """One of the workers that hold slots at this moment, at random, and its process."""
        query = (
            "SELECT array_agg(DISTINCT workers.id || ' ' || pid) FROM {schema}.jobs "
            "JOIN {schema}.workers ON workers.id = owner WHERE slot AND pid = ANY($1)"
        )
        pids = [process.pid for process in self.processes]
        async with asyncio.timeout(SAFETY_S):
            while not (busy := await self.value(query, pids)):
                if await self.are_all_final():  # they were fast
                    await self.give_work()
                await asyncio.sleep(0.005)
        worker, pid = self.chance.choice(sorted(busy)).split()
        return worker, int(pid)

    async def stand(self, worker: str) -> tuple[int, int]:
        """How many slots a worker has in its hands, and how many jobs wait for one."""
        held = await self.value("SELECT count(*) FROM {schema}.jobs WHERE owner = $1 AND slot", worker)
        waiting = await self.value("SELECT count(*) FROM {schema}.jobs WHERE status = 'QUEUED' AND NOT slot")
        return held, waiting

    async def kill(self, hits: Hits) -> None:
        """Kill a worker, at random, and start another. Its lease does not wait for its end: the process is seen to be
        dead."""
        worker, pid = await self.busy_worker()
        [process] = [one for one in self.processes if one.pid == pid]
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it ended by itself"
        self.processes.remove(process)
        held, waiting = await self.stand(worker)
        hits.count(KILLED, held > 0)
        hits.count(WAITING, held > 0 and waiting > 0)
        await self.desks[0].store.unregister_worker(worker)
        self.start()

    async def cut(self, hits: Hits) -> None:
        """End a session of the workers that is in a transaction, if there is one at this moment."""
        query = (
            "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity "
            "WHERE application_name = $1 AND (state = 'active' OR state LIKE 'idle in%') LIMIT 1) AS busy"
        )
        for _ in range(200):
            if await self.value(query, self.schema):
                hits.count(CUT)
                return

    async def lose_lease(self, hits: Hits) -> None:
        """Take a worker that lives for dead."""
        worker, _ = await self.busy_worker()
        held, waiting = await self.stand(worker)
        hits.count(LOST, held > 0)
        hits.count(LATE, held > 0 and waiting > 0)
        await self.desks[0].store.unregister_worker(worker)

    async def finish(self) -> None:
        """Return when all jobs are final."""
        await self.until(self.are_all_final)

    async def are_all_final(self) -> bool:
        return not await self.value("SELECT EXISTS (SELECT 1 FROM {schema}.jobs WHERE completed_us IS NULL)")

    async def check(self) -> None:
        """No limit was passed at any moment, and no slot is left."""
        rows = await self.connection.fetch(
            f"SELECT limit_key, job, change FROM {self.schema}.slot_log ORDER BY sequence"
        )
        on: Counter[str] = Counter()
        most: Counter[str] = Counter()
        for key, job, change in rows:
            on[key] += change
            most[key] = max(most[key], on[key])
            assert 0 <= on[key] <= LIMIT, f"{on[key]} jobs of {key} were on, {job} the last of them"
        assert len(most) == CUSTOMERS * len(HOLDS) * self.rounds
        assert set(most.values()) == {LIMIT}, "a limit that is not reached shows nothing"
        assert not any(on.values()), "a slot was never given back"
        assert await self.value("SELECT count(*) FROM {schema}.jobs WHERE slot") == 0
        query = "SELECT count(*) = 0 FROM {schema}.grants WHERE worker IN (SELECT id FROM {schema}.workers)"
        await self.until(lambda: self.value(query))  # the last calls are given back after their jobs have ended
        assert await check_store(self.desks[0].store) == []


@pytest.fixture
async def site(postgres: Server, tmp_path: Path) -> AsyncIterator[Site]:
    chance = campaign_random("tests/faults/test_limits_on_postgres.py")
    schema = postgres.new_schema()
    url = postgres.store_url(schema, application_name=schema)
    app = limited_worker.make_app(url, tmp_path, lease_s=30)
    async with AsyncExitStack() as stack:
        desks = []
        for _ in range(DESKS):
            store = PostgresJobStore(postgres.store_url(schema))
            desk = JobManager(store, components=app.components, workflows=app.workflows, worker=False)
            desks.append(await stack.enter_async_context(desk))
        connection = await stack.enter_async_context(postgres.connected())
        await connection.execute(WITNESS.format(schema=schema))
        made = Site(connection, schema, url, tmp_path, desks, chance)
        try:
            yield made
        finally:
            for process in made.processes:
                process.kill()
                process.wait()


@pytest.mark.guarantee("G5")
async def test_limit_is_never_passed_while_workers_are_killed_and_sessions_end(site: Site) -> None:
    hits = Hits((KILLED, WAITING, CUT))
    await site.begin(lease_s=30)  # which nobody who lives loses, however busy the machine is
    for _ in range(sized(*ROUNDS)):
        await site.give_work()
        await site.cut(hits)
        await site.kill(hits)
    await site.finish()
    hits.check()
    await site.check()
    violations = site.folder / VIOLATIONS
    assert not violations.exists(), violations.read_text()


@pytest.mark.guarantee("G4")
async def test_limit_is_never_passed_while_living_workers_lose_their_leases(site: Site) -> None:
    """Their steps may still run for a moment, so that the lock files are no witness here; their commits are refused."""
    hits = Hits((LOST, LATE))
    await site.begin(lease_s=1)  # so that they soon see it
    for _ in range(sized(*ROUNDS)):
        await site.give_work()
        await site.lose_lease(hits)
    await site.finish()
    hits.check()
    await site.check()
