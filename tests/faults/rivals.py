"""Two worker processes that compete for jobs on PostgreSQL, the client that asks for these, and all that is known."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from openagents_json import Event, JobManager, JobStatus
from openagents_json.errors import StoreUnavailable
from openagents_json.job.store.postgres import PostgresJobStore
from tests.faults import victim
from tests.faults.checker import Evidence, Record, fault_violations, read_records
from tests.faults.proxy import Proxy, proxied
from tests.postgres_server import Server

OPEN_JOBS = 12  # that are kept in work: two for each that a worker may hold
# Attempts of a worker whose ends may be unrecorded: a job goes on when they are, and its foreach has three at a time.
# Their slots are free as soon as their code has ended, so where commits are slow there may be more than `MAX_STEPS`.
IN_DOUBT = victim.MAX_JOBS * 3
SAFETY_S = 60.0  # only a safety net
LOOK_S = 0.02
SAMPLE = 10  # histories that are read after a fault, to be compared at the end
ROOT = Path(__file__).resolve().parents[2]
UNFINISHED = "completed_us IS NULL"

T = TypeVar("T")


@dataclass(eq=False)
class Rival:
    """One worker process with a network of its own."""

    name: str
    application: str  # what its sessions are called at the server
    proxy: Proxy
    url: str
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def owner(self) -> str:
        """Its id as a pattern for LIKE."""
        return f"%-{self.process.pid}-________"

    def has_logged(self, words: str) -> int:
        """How often it said so."""
        return self.log.read_text().count(words)


@dataclass(eq=False)
class Rivalry:
    """A store, two workers that compete on it, and what is known of both."""

    server: Server
    schema: str
    folder: Path
    chance: random.Random
    client: JobManager
    rivals: list[Rival] = field(default_factory=list)
    faults: int = 0
    accepted: list[str] = field(default_factory=list)
    asked: int = 0
    unanswered: int = 0  # times that the client was told nothing, and asked again
    prefixes: dict[str, list[Event]] = field(default_factory=dict)
    finals: dict[str, str] = field(default_factory=dict)

    # ── processes ─────────────────────────────────────────────────────────────────────────────────────────────────

    def start(self, rival: Rival) -> None:
        """Start it anew, as after a crash."""
        _tell_to_end(rival.process)
        rival.process = _spawn(self.folder, rival.url, rival.log)

    async def end(self) -> None:
        """Tell the workers to end. They do so by themselves, and well, whatever they went through."""
        for rival in self.rivals:
            _tell_to_end(rival.process)
        for rival in self.rivals:
            code = await asyncio.to_thread(rival.process.wait, SAFETY_S)
            assert code == 0, f"worker {rival.name} ended with {code}:\n{rival.log.read_text()[-2_000:]}"

    # ── the client ────────────────────────────────────────────────────────────────────────────────────────────────

    async def feed(self) -> None:
        """Ask for jobs until there is enough work."""
        missing = OPEN_JOBS - await self.count_jobs(UNFINISHED)
        if missing > 0:
            await self.ask_for(missing)

    async def ask_for(self, count: int) -> None:
        """Ask for more jobs until they are accepted."""
        numbers = range(self.asked, self.asked + count)
        self.asked = numbers.stop
        self.accepted += await asyncio.gather(*(self._create(number) for number in numbers))

    async def _create(self, number: int) -> str:
        async def create() -> str:
            return await self.client.create_job("victim", {"n": number}, idempotency_key=f"job {number}", start=True)

        return await self.patiently(create)

    async def patiently(self, verb: Callable[[], Awaitable[T]]) -> T:
        """What a verb answers when it is repeated until the store works."""
        async with asyncio.timeout(SAFETY_S):
            while True:
                try:
                    return await verb()
                except StoreUnavailable:
                    self.unanswered += 1
                    await asyncio.sleep(LOOK_S)

    # ── looking ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def ask(self, query: str, *values: Any) -> Any:
        """The first value that a query of this schema gives, on a connection of its own."""
        async with self.server.connected() as connection:
            await connection.execute(f"SET search_path = {self.schema}")
            return await connection.fetchval(query, *values)

    async def count_jobs(self, where: str, *values: Any) -> int:
        return int(await self.ask(f"SELECT count(*) FROM jobs WHERE {where}", *values))

    async def held_by(self, rival: Rival) -> dict[int, int]:
        """The jobs that a worker holds, with the epochs of their leases."""
        query = "SELECT array_agg(ARRAY[key, epoch]) FROM jobs WHERE owner LIKE $1"
        return dict(await self.ask(query, rival.owner) or ())

    async def taken_over(self, held: dict[int, int]) -> int:
        """How many of these jobs have been leased anew."""
        query = (
            "SELECT count(*) FROM jobs, unnest($1::bigint[], $2::bigint[]) AS was (key, epoch) "
            "WHERE jobs.key = was.key AND jobs.epoch > was.epoch"
        )
        return int(await self.ask(query, list(held), list(held.values())))

    async def lives(self, rival: Rival, since_us: int = 0) -> bool:
        """Whether a worker has a lease, and has renewed it since."""
        query = (
            "SELECT count(*) FROM workers WHERE id LIKE $1 AND heartbeat_us > $2 AND lease_until_us > store_now(NULL)"
        )
        return bool(await self.ask(query, rival.owner, since_us))

    async def until(self, condition: Callable[[], Awaitable[Any]], what: str) -> None:
        """Return when it is so; no process signals us."""
        try:
            async with asyncio.timeout(SAFETY_S):
                while not await condition():
                    for rival in self.rivals:
                        code = rival.process.poll()
                        assert code in (None, -signal.SIGKILL), f"worker {rival.name} ended by itself with {code}"
                    await asyncio.sleep(LOOK_S)
        except TimeoutError:
            logs = "\n".join(f"{rival.name}: {rival.log.read_text()[-3_000:]}" for rival in self.rivals)
            raise AssertionError(f"it never came to this: {what}\n{logs}") from None

    async def until_working(self, *rivals: Rival) -> None:
        """Give work until so much of it is done as chance decides on, and these workers hold jobs at that moment."""
        wanted = self._effects() + self.chance.randrange(1, OPEN_JOBS * victim.EFFECTS_PER_JOB // 4)

        async def work() -> bool:
            await self.feed()
            return self._effects() >= wanted and all([await self.held_by(rival) for rival in rivals])

        await self.until(work, f"{' and '.join(rival.name for rival in rivals)} work")
        await asyncio.sleep(self.chance.uniform(0.0, 0.02))  # not to wait for anything: the moment is the fault

    def _effects(self) -> int:
        path = self.folder / victim.EFFECTS
        return path.read_bytes().count(b"\n") if path.exists() else 0

    async def look(self) -> None:
        """Read some histories and the final statuses. They have to be there still at the end."""
        for job_id in self.chance.sample(self.accepted, min(SAMPLE, len(self.accepted))):
            self.prefixes[job_id] = await self.client.store.read_events(job_id)
        query = {"status": ["COMPLETED", "FAILED", "CANCELLED"]}
        for job in await self.client.list_jobs(query, limit=1_000):
            self.finals[job.id] = str(job.status)

    # ── the end ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def settle(self, *, struck: int = 1) -> list[Record]:
        """Wait until every job is final, end the workers, and check all laws; what was read back. `struck`: so many
        workers are interrupted by a fault."""
        await self.until(self._is_done, "every job is final")
        await self.look()
        await self.end()
        store = PostgresJobStore(self.server.store_url(self.schema))
        await store.open()
        try:
            records = await read_records(store)
        finally:
            await store.close()
        evidence = Evidence(
            records,
            accepted=set(self.accepted),
            effects=victim.read_effects(self.folder),
            faults=self.faults,
            concurrency=IN_DOUBT * struck,
            declared_retries=victim.RETRIES_PER_JOB * len(records),
            prefixes=self.prefixes,
            finals=self.finals,
        )
        found = fault_violations(evidence)
        assert not found, "\n".join(found[:20])
        numbers = sorted(record.state.inputs["n"] for record in records)
        assert numbers == list(range(self.asked)), "asked for again without an answer, and still made once"
        for record in records:
            if record.summary.status == JobStatus.FAILED:  # a job under which workers died time and again
                assert record.summary.error_type == "worker_lost"
            else:
                assert record.state.outputs == {"sum": victim.expected_sum(record.state.inputs["n"])}
        completed = sum(record.summary.status == JobStatus.COMPLETED for record in records)
        assert completed >= len(records) * 9 // 10
        return records

    async def _is_done(self) -> bool:
        return not await self.count_jobs(UNFINISHED)


def lost_attempts(records: Sequence[Record]) -> int:
    """How many attempts ended with their workers."""
    return sum(event.type == "attempt.lost" for record in records for event in record.events)


def _spawn(folder: Path, url: str, log: Path) -> subprocess.Popen[bytes]:
    program = [sys.executable, "-m", "tests.faults.postgres_worker", str(folder), url]
    with log.open("ab") as file:
        return subprocess.Popen(program, cwd=ROOT, stdin=subprocess.PIPE, stdout=file, stderr=file)


def _tell_to_end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()


@asynccontextmanager
async def rivalry(server: Server, folder: Path, chance: random.Random, **options: str) -> AsyncIterator[Rivalry]:
    """Two workers at work, each behind a proxy of its own, and a client with a straight connection. `options` are
    those of the workers' URLs."""
    schema = await server.empty_schema()
    async with AsyncExitStack() as stack:
        app = victim.make_app(folder, url=server.store_url(schema))
        client = await stack.enter_async_context(app.manager(worker=False))
        made = Rivalry(server, schema, folder, chance, client)
        for name in ("one", "other"):
            proxy, port = await stack.enter_async_context(proxied(*server.address))
            application = f"{schema}_{name}"
            url = server.store_url(schema, port=port, application_name=application, **options)
            log = folder / f"{name}.log"
            made.rivals.append(Rival(name, application, proxy, url, log, _spawn(folder, url, log)))
        try:
            for rival in made.rivals:
                await made.until(lambda rival=rival: made.lives(rival), f"{rival.name} lives")  # type: ignore[misc]
            yield made
        finally:
            for rival in made.rivals:
                _tell_to_end(rival.process)
                rival.process.kill()
                rival.process.wait()
