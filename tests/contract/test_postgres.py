"""The PostgreSQL store keeps the contract: alone, as two store objects on one schema, and through a pooler."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any, cast

import pytest

from openagents_json.errors import LimitReached, StoreError, StoreUnavailable
from openagents_json.job.model import JobPriority, JobStatus, JobSummary
from openagents_json.job.store import postgres_limits, postgres_queue
from openagents_json.job.store.base import JobStore
from openagents_json.job.store.contract import (
    AcceptingContract,
    CommitContract,
    FamilyContract,
    GrantContract,
    LeaksContract,
    LeaseContract,
    LimitContract,
    OverflowContract,
    PauseContract,
    StoreContract,
    UpkeepContract,
    WorkerContract,
)
from openagents_json.job.store.contract.jobs import (
    CALLS,
    Holder,
    accept,
    assert_folds_to,
    begin,
    bring_to,
    claim_one,
    new_job,
    read,
    request,
    settle,
)
from openagents_json.job.store.contract.leases import having
from openagents_json.job.store.contract.limits import have_slots, limited
from openagents_json.job.store.limits import limit_key
from openagents_json.job.store.output import OutputChunk, Piece
from openagents_json.job.store.postgres import PostgresJobStore
from openagents_json.job.store.postgres_driver import Connection, Row
from openagents_json.job.store.postgres_rows import SQL
from openagents_json.job.store.postgres_upkeep import TABLES
from openagents_json.job.store.query import build_query
from openagents_json.testing import FakeClock
from tests.contract.grouping import GroupContract
from tests.contract.test_sqlite import Alternating
from tests.faults.pooler import Pooler, pooled
from tests.postgres_server import Server


class TestPostgres(StoreContract):
    @pytest.fixture
    async def store(self, postgres: Server, clock: FakeClock) -> AsyncIterator[JobStore]:
        store = PostgresJobStore(postgres.store_url(await postgres.empty_schema()), clock)
        await store.open()
        yield store
        await store.close()


class TestTwoStoresOnOneSchema(
    AcceptingContract,
    LeaseContract,
    WorkerContract,
    CommitContract,
    LeaksContract,
    LimitContract,
    OverflowContract,
    PauseContract,
    GrantContract,
    UpkeepContract,
):
    @pytest.fixture
    async def store(self, postgres: Server, clock: FakeClock) -> AsyncIterator[JobStore]:
        url = postgres.store_url(await postgres.empty_schema())
        store = Alternating(*(cast(Any, PostgresJobStore(url, clock)) for _ in range(2)))
        await store.open()
        yield cast(JobStore, store)
        await store.close()


class Reopened:
    """A store that is closed and opened again before every verb: nothing of it may live in the object alone."""

    def __init__(self, store: PostgresJobStore) -> None:
        self._store = store
        self._turn = asyncio.Lock()

    def __getattr__(self, name: str) -> Any:
        verb = getattr(self._store, name)
        return self._reopening(verb) if asyncio.iscoroutinefunction(verb) else verb

    async def open(self) -> None:
        await self._store.open()

    async def close(self) -> None:
        await self._store.close()

    def _reopening(self, verb: Callable[..., Any]) -> Callable[..., Any]:
        async def after_reopening(*arguments: Any, **named: Any) -> Any:
            async with self._turn:
                await self._store.close()
                await self._store.open()
                return await verb(*arguments, **named)

        return after_reopening


class TestPostgresReopened(StoreContract):
    @pytest.fixture
    async def store(self, postgres: Server, clock: FakeClock) -> AsyncIterator[JobStore]:
        url = postgres.store_url(await postgres.empty_schema())
        store = cast(JobStore, Reopened(PostgresJobStore(url, clock)))
        await store.open()
        yield store
        await store.close()

    async def test_counters_rise_with_what_is_written(self, store: JobStore, clock: FakeClock) -> None:
        """Counters begin anew with each opening: not asked here."""


class TestThroughAPooler(
    CommitContract, FamilyContract, LeaksContract, LimitContract, OverflowContract, WorkerContract
):
    @pytest.fixture
    async def pooler(self, postgres: Server) -> AsyncIterator[tuple[Pooler, int]]:
        async with pooled(*postgres.address) as made:
            yield made

    @pytest.fixture
    async def store(
        self, postgres: Server, pooler: tuple[Pooler, int], clock: FakeClock
    ) -> AsyncIterator[PostgresJobStore]:
        if not postgres.is_ours:
            pytest.skip("the test's pooler knows no passwords")
        url = postgres.store_url(await postgres.empty_schema(), port=pooler[1], pooler="true")
        store = PostgresJobStore(url, clock)
        await store.open()
        yield store
        await store.close()

    async def test_transactions_change_connections(
        self, store: PostgresJobStore, pooler: tuple[Pooler, int], clock: FakeClock
    ) -> None:
        """Else the other tests of this class would show nothing."""
        for _ in range(3):
            await begin(store, clock)
        assert pooler[0].switches > 5
        assert store._news is not None and not store._news.is_listening


# ── what only this store promises ─────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def url(postgres: Server) -> str:
    return postgres.store_url(await postgres.empty_schema())


@pytest.fixture
async def store(url: str, clock: FakeClock) -> AsyncIterator[PostgresJobStore]:
    store = PostgresJobStore(url, clock)
    await store.open()
    yield store
    await store.close()


@pytest.fixture
async def other(url: str, clock: FakeClock) -> AsyncIterator[PostgresJobStore]:
    """Another store on the same schema, as another machine would have."""
    store = PostgresJobStore(url, clock)
    await store.open()
    yield store
    await store.close()


async def ask_writer(store: PostgresJobStore, sql: str) -> Any:
    """The one value of a statement on the writer's own connection."""
    return await store._write("call", lambda connection: connection.value(sql))


async def ask_reader(store: PostgresJobStore, sql: str) -> Any:
    """The same on one of the reading connections."""
    return await store._read(lambda connection: connection.value(sql))


class TestGroups(GroupContract):
    """Operations of one transaction."""


@pytest.mark.guarantee("G1")
async def test_commits_wait_for_the_servers_disk(store: PostgresJobStore) -> None:
    assert await ask_writer(store, "SHOW synchronous_commit") == "on"


@pytest.mark.guarantee("G1")
async def test_weaker_durability_of_the_server_is_not_taken_over_and_that_of_the_url_is(
    postgres: Server, url: str
) -> None:
    async with postgres.connected() as connection:
        await connection.execute("ALTER ROLE CURRENT_USER SET synchronous_commit = off")
        try:
            for options, expected in (("", "on"), ("&synchronous_commit=off", "off")):
                store = PostgresJobStore(url + options)
                await store.open()
                assert await ask_writer(store, "SHOW synchronous_commit") == expected
                await store.close()
        finally:
            await connection.execute("ALTER ROLE CURRENT_USER RESET synchronous_commit")


async def test_every_timeout_is_set(store: PostgresJobStore) -> None:
    for name, expected in {
        "statement_timeout": "20s",
        "lock_timeout": "2s",
        "idle_in_transaction_session_timeout": "10s",
        "tcp_user_timeout": "15000",
        "tcp_keepalives_idle": "10",
    }.items():
        sql = f"SHOW {name}"
        assert await ask_writer(store, sql) == await ask_reader(store, sql) == expected, name


async def test_server_judges_by_its_own_clock(url: str, postgres: Server) -> None:
    store = PostgresJobStore(url)
    await store.open()
    clock = FakeClock()  # of the jobs; it stands still in another year
    await accept(store, clock)
    await store.register_worker("w1")
    async with postgres.connected() as connection:
        schema = store.place.schema
        now = await connection.fetchval("SELECT (extract(epoch FROM now()) * 1000000)::bigint")
        queued = await connection.fetchval(f"SELECT queued_us FROM {schema}.jobs")
        until = await connection.fetchval(f"SELECT lease_until_us FROM {schema}.workers")
    minute = 60_000_000
    assert abs(queued - now) < minute
    assert abs(until - now - 30_000_000) < minute
    await store.close()


async def test_failing_verb_undoes_what_it_wrote_and_nothing_else(store: PostgresJobStore, clock: FakeClock) -> None:
    async def fail(connection: Any) -> None:
        await connection.run("DELETE FROM jobs")
        raise LookupError("in the middle")

    job_id = await accept(store, clock)
    results = await asyncio.gather(store._write("call", fail), accept(store, clock), return_exceptions=True)
    assert type(results[0]) is LookupError
    assert {one.summary.id for one in await store.list_jobs(build_query())} == {results[1], job_id}


async def test_cancelled_reader_loses_no_connection(store: PostgresJobStore, clock: FakeClock) -> None:
    job_id = await accept(store, clock)
    pids = {await ask_reader(store, "SELECT pg_backend_pid()") for _ in range(8)}
    for _ in range(20):
        reading = asyncio.create_task(store.read(job_id))
        await asyncio.sleep(0)
        reading.cancel()
    await asyncio.gather(*(store.read(job_id) for _ in range(8)))
    assert {await ask_reader(store, "SELECT pg_backend_pid()") for _ in range(8)} == pids


async def test_rows_that_are_asked_for_together_are_read_together(store: PostgresJobStore, clock: FakeClock) -> None:
    ids = [await accept(store, clock) for _ in range(20)]
    readers = store._readers
    assert readers is not None
    asked, ask = [], readers.ask

    async def count(question: Any) -> Any:
        asked.append(question)
        return await ask(question)

    readers.ask = count  # type: ignore[method-assign, assignment]
    reading = [asyncio.create_task(store.read_summary(job_id)) for job_id in [*ids, "nobody", ids[0]]]
    await asyncio.sleep(0)
    reading[3].cancel()  # the others do not notice
    rows = await asyncio.gather(*reading, return_exceptions=True)
    assert len(asked) == 1
    assert isinstance(rows[3], asyncio.CancelledError)
    found = [row.id if isinstance(row, JobSummary) else row for row in rows]
    assert found[:3] + found[4:] == [*ids[:3], *ids[4:], None, ids[0]]
    summary = await store.read_summary(ids[3])
    assert summary is not None and (summary.id, len(asked)) == (ids[3], 2)


async def test_row_that_is_asked_for_while_the_server_is_away_is_read_later(
    store: PostgresJobStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = await accept(store, clock)
    with monkeypatch.context() as patch:
        patch.setattr(store, "_readers", None)
        with pytest.raises(StoreUnavailable):
            await store.read_summary(job_id)
    summary = await store.read_summary(job_id)
    assert summary is not None and summary.id == job_id


async def test_aging_belongs_to_the_schema(url: str, store: PostgresJobStore) -> None:
    other = PostgresJobStore(url, aging_s=5.0)
    await other.open()
    assert other.aging_s == store.aging_s == 3_600.0
    await other.close()


async def test_aging_that_another_process_sets_holds_here_too(
    url: str, store: PostgresJobStore, clock: FakeClock
) -> None:
    other = PostgresJobStore(url, clock)
    await other.open()
    try:
        low = await store.create(new_job(clock, priority=JobPriority.LOW))
        clock.advance(120.0)
        await other.set_aging(1.0)
        high = await store.create(new_job(clock, priority=JobPriority.HIGH))
        assert [claim.job_id for claim in await store.claim("w1", 2)] == [low, high]
        assert store.aging_s == 1.0
    finally:
        await other.close()


def calling(name: str, workflow: str = "calls") -> dict[str, Any]:
    return CALLS | {"id": workflow, "steps": [{"id": "first", "component": f"tool.{name}"}]}


async def test_requirements_of_jobs_that_are_set_aside_are_not_looked_at(
    store: PostgresJobStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor are they there for the index of the queue: whoever asks for them reads all jobs."""
    monkeypatch.setattr(postgres_queue, "MAX_REQUIREMENTS", 2)
    plain, urgent = [
        await store.create(new_job(clock, calling(name), priority=priority))
        for name, priority in (("a", JobPriority.LOW), ("z", JobPriority.HIGH))
    ]
    for name in ("m", "n"):
        await store.create(new_job(clock, calling(name, "paused")))
    await store.set_pause("workflow", "paused", None, None)
    assert await store.claim("w1", 10, having("tool.m", "tool.n")) == []  # and they are set aside
    first = await store.first_waiting()
    assert first is not None and first.job_id == urgent
    place = await store.queue_place(plain)
    assert place is not None and (place.ahead, [one.job_id for one in place.first]) == (1, [urgent])


async def test_vacuum_and_the_size_are_about_each_table(store: PostgresJobStore, postgres: Server) -> None:
    async with postgres.connected() as connection:
        query = "SELECT tablename FROM pg_tables WHERE schemaname = $1"
        names = {row["tablename"] for row in await connection.fetch(query, store.place.schema)}
    assert names == {*TABLES, "meta", "migrations"}  # which have a few rows


async def test_store_has_no_more_connections_than_it_says(postgres: Server, url: str, clock: FakeClock) -> None:
    from openagents_json.job.store.postgres import CONNECTIONS

    store = PostgresJobStore(url + "&application_name=counted", clock)
    await store.open()
    await asyncio.gather(*(accept(store, clock) for _ in range(50)), *(store.read("nobody") for _ in range(50)))
    assert await listening(store)
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'counted'"
    async with postgres.connected() as connection:
        assert await connection.fetchval(query) == CONNECTIONS
        await store.close()
        async with asyncio.timeout(5):
            while await connection.fetchval(query):  # noqa: ASYNC110 - a server's process ends without telling
                await asyncio.sleep(0.01)


# ── several stores ────────────────────────────────────────────────────────────────────────────────────────────────


async def listening(*stores: PostgresJobStore) -> bool:
    """True as soon as all of them listen."""
    async with asyncio.timeout(10):
        while not all(one._news is not None and one._news.is_listening for one in stores):  # noqa: ASYNC110 - no signal
            await asyncio.sleep(0.005)
    return True


async def heard(store: PostgresJobStore) -> bool:
    """True as soon as the store hears of others' writing by NOTIFY, which comes before it would look by itself."""
    async with asyncio.timeout(4):
        while not store.has_foreign_changes():  # noqa: ASYNC110 - it is asked, it does not tell
            await asyncio.sleep(0.005)
    return True


async def test_others_hear_of_changes_and_who_wrote_does_not(
    store: PostgresJobStore, other: PostgresJobStore, clock: FakeClock
) -> None:
    await listening(store, other)
    for each in (store, other):
        each.has_foreign_changes()
    await accept(store, clock)
    assert await heard(other)
    await accept(other, clock)
    assert await heard(store)


async def test_own_changes_are_not_foreign(store: PostgresJobStore, clock: FakeClock) -> None:
    await listening(store)
    store.has_foreign_changes()
    assert store._news is not None
    for _ in range(5):
        await accept(store, clock)
    # Our own notifications have come by when the connection that they come on has answered after them.
    connection = store._news._connection
    assert connection is not None
    async with asyncio.timeout(5):
        while store._news._has_to_tell:  # noqa: ASYNC110 - no signal
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)
    assert not store._news._has_heard


async def test_no_job_is_claimed_by_two_stores_and_epochs_rise(
    store: PostgresJobStore, other: PostgresJobStore, clock: FakeClock
) -> None:
    ids = await asyncio.gather(*(accept(store, clock) for _ in range(200)))
    epochs: dict[str, list[int]] = {job_id: [] for job_id in ids}
    for _ in range(3):
        rounds = await asyncio.gather(*(each.claim(f"w{number}", 7) for number in range(20) for each in (store, other)))
        claims = [claim for claimed in rounds for claim in claimed]
        assert len(claims) == len({claim.job_id for claim in claims}) == 200
        for claim in claims:
            epochs[claim.job_id].append(claim.epoch)
        await asyncio.gather(*(other.release(claim) for claim in claims))
    assert all(seen == sorted(set(seen)) and len(seen) == 3 for seen in epochs.values())


async def test_requests_and_final_commits_of_two_stores_never_pass_each_other(
    store: PostgresJobStore, other: PostgresJobStore, clock: FakeClock
) -> None:
    """A final commit either comes before the request, which is refused then, or sees it."""
    holders = [await begin(store, clock) for _ in range(60)]
    for holder in holders:
        await holder.commit(store, holder.succeeded("first"))
    finals = [holder.commit_of(holder.succeeded("second")) for holder in holders]
    results = await asyncio.gather(
        *(store.commit(commit) for commit in finals),
        *(other.hold(holder.job_id, "caller", request("pause")) for holder in holders),
        return_exceptions=True,
    )
    for holder, refused, held in zip(holders, results[:60], results[60:], strict=True):
        row, waiting = await store.read_summary(holder.job_id), await store.read_requests(holder.job_id)
        assert row is not None and not isinstance(held, BaseException) and held is not None
        was_final = held == type(held)(None, None)
        assert (row.status.is_final, bool(waiting)) == (was_final, not was_final)
        assert (refused is None) == was_final


async def test_stores_that_change_the_same_jobs_do_not_deadlock(
    store: PostgresJobStore, other: PostgresJobStore, clock: FakeClock
) -> None:
    ids = await asyncio.gather(*(accept(store, clock, start=False) for _ in range(40)))
    for round in range(5):
        await asyncio.gather(
            *(store.hold(job_id, "a", request("pause", f"a{round}")) for job_id in ids),
            *(other.hold(job_id, "b", request("pause", f"b{round}")) for job_id in reversed(ids)),
        )
    for job_id in ids:
        assert len(await store.read_requests(job_id)) == 10


# ── text ──────────────────────────────────────────────────────────────────────────────────────────────────────────

NASTY = "a\x00b\x01c\x010 ü \u2028 '\\ $1"


async def test_text_with_nul_reads_as_it_was_given(store: PostgresJobStore, clock: FakeClock) -> None:
    job = new_job(clock, inputs={"text": NASTY}, tags=(NASTY, "plain"), key=NASTY)
    job_id = await store.create(job)
    assert await store.create(replace(new_job(clock, key=NASTY), idempotency_key=NASTY)) == job_id
    stored = await read(store, job_id)
    assert stored.summary.tags == (NASTY, "plain")
    assert stored.summary.idempotency_key == NASTY
    assert stored.events[0].data["inputs"] == {"text": NASTY}
    for filters in ({"tags": NASTY}, {"idempotency_key": NASTY}):
        assert [one.summary.id for one in await store.list_jobs(build_query(filters))] == [job_id]
    asked = replace(request("set_priority", NASTY, priority=NASTY), by=NASTY, reason=NASTY)
    await settle(store, clock, job_id, replace(asked, payload={"priority": "LOW"}))
    await store.hold(job_id, NASTY, replace(asked, key=NASTY + "2"))
    [waiting] = await store.read_requests(job_id)
    assert (waiting.key, waiting.by, waiting.reason) == (NASTY + "2", NASTY, NASTY)
    assert (await read(store, job_id)).owner == NASTY
    await store.append_output(job_id, NASTY, 1, [OutputChunk(0, 10, [Piece("stdout", 1, NASTY)])])
    [output] = await store.read_output(job_id, NASTY)
    assert (output.path, output.pieces[0].text) == (NASTY, NASTY)


async def test_error_with_nul_is_found_by_its_text(store: PostgresJobStore, clock: FakeClock) -> None:
    holder = await begin(store, clock)
    await holder.commit(store, holder.failed("first", f"GRÖSSE {NASTY}"))
    assert (await read(store, holder.job_id)).summary.error_message == f"GRÖSSE {NASTY}"
    for text in ("größe", NASTY):
        found = await store.list_jobs(build_query({"error": text}))
        assert [one.summary.id for one in found] == [holder.job_id]


async def test_half_a_surrogate_pair_is_refused_by_itself(store: PostgresJobStore, clock: FakeClock) -> None:
    job_id = await accept(store, clock, start=False)
    results = await asyncio.gather(
        store.hold(job_id, "w", replace(request("pause"), reason="\ud800")),
        store.hold(job_id, "w", request("cancel")),
        return_exceptions=True,
    )
    assert type(results[0]) is StoreError
    assert [one.kind for one in await store.read_requests(job_id)] == ["cancel"]


@pytest.mark.parametrize(
    ("filters", "fits"),
    [
        ({"events": "2"}, True),
        ({"events": 2.0}, True),
        ({"events": "two"}, False),
        ({"events": 2.5}, False),
        ({"workflow_id": 5}, False),
        ({"progress": 0}, True),
        ({"progress": "0"}, True),
        ({"pause_requested": False}, True),
        ({"pause_requested": 1}, False),
        ({"pause_requested": "no"}, False),
        ({"abandoned": [0, "none"]}, True),
    ],
)
async def test_filters_of_another_type_than_their_column_are_no_error(
    store: PostgresJobStore, clock: FakeClock, filters: dict[str, Any], fits: bool
) -> None:
    await accept(store, clock)
    assert bool(await store.list_jobs(build_query(filters))) is fits


async def test_deleting_all_snapshots_changes_no_answer(store: PostgresJobStore, clock: FakeClock) -> None:
    holder = await bring_to(store, clock, JobStatus.WAITING)
    held = await store.hold(holder.job_id, "caller", request("set_priority", priority="LOW"))
    assert held is not None and held.claim is not None
    again = Holder(clock, held.claim)
    await again.commit(store, drains=held.claim.requests, snapshot=True)
    before = await read(store, holder.job_id)
    assert before.snapshot is not None
    await store._write("call", lambda connection: connection.run("DELETE FROM snapshots"))
    after = await read(store, holder.job_id)
    assert (after.snapshot, after.summary) == (None, before.summary)
    assert_folds_to(after, again)


async def test_threads_of_a_worker_are_presumed_over_when_its_lease_has_ended(
    store: PostgresJobStore, clock: FakeClock
) -> None:
    """Whether it hangs or has said that it leaves: no lock of the operating system tells of another machine."""
    holders = []
    for worker in ("hangs", "leaves", "lives"):
        await store.register_worker(worker)
        for _ in range(2):
            await accept(store, clock)
            holders.append(await claim_one(store, clock, worker))
            await holders[-1].commit(store, holders[-1].started())
            await holders[-1].commit(store, holders[-1].failed("first", abandoned=True))
    await store.unregister_worker("leaves", threads_run=True)
    assert not await store.heartbeat("leaves")
    assert {one.id for one in await store.list_workers()} == {"hangs", "lives"}
    clock.advance(store.lease_s - 1)
    assert await store.heartbeat("lives")
    assert await store.bury_workers() == 0
    assert [(await read(store, one.job_id)).summary.abandoned for one in holders] == [1] * 6
    clock.advance(1)
    assert await store.bury_workers() == 1
    assert [(await read(store, one.job_id)).summary.abandoned for one in holders] == [0] * 4 + [1] * 2
    assert await ask_writer(store, "SELECT array_agg(id) FROM workers") == ["lives"]
    assert await ask_writer(store, "SELECT array_agg(DISTINCT worker) FROM abandoned") == ["lives"]


async def test_pulse_goes_on_when_its_connection_is_ended(
    store: PostgresJobStore, postgres: Server, clock: FakeClock
) -> None:
    await store.register_worker("w1")
    pulse = store.pulse("w1")
    try:
        assert await asyncio.to_thread(pulse.beat)
        pid = cast(Any, pulse)._connection.server_pid
        async with postgres.connected() as connection:
            assert await connection.fetchval("SELECT pg_terminate_backend($1)", pid)
        clock.advance(store.lease_s - 1)
        assert await asyncio.to_thread(pulse.beat)
        assert cast(Any, pulse)._connection.server_pid != pid
        [worker] = await store.list_workers()
        assert worker.heartbeat_us == clock.now_us()
    finally:
        await asyncio.to_thread(pulse.close)


async def test_repeated_create_among_others_is_answered(store: PostgresJobStore, clock: FakeClock) -> None:
    earlier = new_job(clock, key="k")
    await store.create(earlier)
    await claim_one(store, clock)
    same, another, fresh = new_job(clock, key="k"), new_job(clock, key="k", body="another"), new_job(clock)
    results = await asyncio.gather(
        *(store.create(job) for job in (earlier, same, another, fresh, fresh)), return_exceptions=True
    )
    assert results[:2] == [earlier.job_id] * 2
    assert "'k'" in str(results[2])
    assert results[3:] == [fresh.job_id] * 2


# ── limits, with two stores that write at the same moment ─────────────────────────────────────────────────────────


async def test_two_stores_let_no_more_jobs_in_than_one(
    store: PostgresJobStore, other: PostgresJobStore, clock: FakeClock
) -> None:
    """Each would find the key free: what the other has written is not committed yet."""
    for number in range(20):
        key = limit_key("calls", number)
        jobs = [limited(clock, 2, key=key) for _ in range(6)]
        ids = await asyncio.gather(*((store, other)[n % 2].create(job) for n, job in enumerate(jobs)))
        assert sum(await have_slots(store, ids)) == 2


async def test_two_stores_refuse_all_jobs_that_are_too_many(
    store: PostgresJobStore, other: PostgresJobStore, clock: FakeClock
) -> None:
    for number in range(10):
        key = limit_key("calls", number)
        jobs = [limited(clock, 2, key=key, overflow="reject") for _ in range(8)]
        creating = ((store, other)[n % 2].create(job) for n, job in enumerate(jobs))
        answers = await asyncio.gather(*creating, return_exceptions=True)
        assert [type(answer) for answer in answers].count(str) == 2
        assert {type(answer) for answer in answers} == {str, LimitReached}


async def test_refused_job_takes_nobody_elses_transaction_with_it(store: PostgresJobStore, clock: FakeClock) -> None:
    """What a full key refuses is known before anything is written."""
    keys = [limit_key("calls", number) for number in range(3)]
    for key in keys:
        await store.create(limited(clock, key=key, overflow="reject"))
    before = store.stats()["commits"]
    jobs = [limited(clock, key=keys[n % 3], overflow="reject") if n % 2 else new_job(clock) for n in range(40)]
    answers = await asyncio.gather(*(store.create(job) for job in jobs), return_exceptions=True)
    assert [type(answer) for answer in answers] == [str, LimitReached] * 20
    assert store.stats()["commits"] - before <= 2


async def test_key_that_somebody_keeps_locked_holds_up_only_its_own_jobs(
    store: PostgresJobStore, url: str, postgres: Server, clock: FakeClock
) -> None:
    """A worker that was cut off in the middle of a transaction, until the server ends its session."""
    locked, free = limit_key("calls", "locked"), limit_key("calls", "free")
    async with postgres.connected() as connection, connection.transaction():
        await connection.execute(f"SET search_path = {store.place.schema}")
        await connection.fetch(SQL["limits_lock"], [locked], False)
        jobs = [limited(clock, key=locked), limited(clock, key=free), new_job(clock)]
        answers = await asyncio.gather(*(store.create(job) for job in jobs), return_exceptions=True)
    assert [type(answer) for answer in answers] == [StoreUnavailable, str, str]
    assert "limit" in str(answers[0])
    assert await store.create(jobs[0]) == jobs[0].job_id


async def test_very_many_keys_are_locked_as_one(
    store: PostgresJobStore, other: PostgresJobStore, clock: FakeClock
) -> None:
    """A server has room for so many locks only. Whoever takes one key waits for whoever takes all."""
    keys = [limit_key("calls", number) for number in range(postgres_limits.MAX_KEYS + 20)]
    many = [limited(clock, key=key) for key in keys]
    few = [limited(clock, key=key) for key in keys[:40]]
    creating = asyncio.create_task(store.create_all(many))
    ids = await asyncio.gather(*(other.create(job) for job in few))
    slots = await have_slots(store, [*await creating, *ids])
    assert sum(slots) == len(keys)


@pytest.fixture
async def unknown(postgres: Server, clock: FakeClock) -> AsyncIterator[PostgresJobStore]:
    """A store in a schema of its own, of whose tables the server knows nothing yet."""
    store = PostgresJobStore(postgres.store_url(), clock)
    await store.open()
    yield store
    await store.close()


def jobs_read(connection: Connection) -> Awaitable[Any]:
    """How many rows of jobs have been read by now, in this transaction and before."""
    return connection.value(
        "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relid = 'jobs'::regclass"
    )


@pytest.mark.parametrize("is_empty_at_first", [False, True])
async def test_blocked_jobs_cost_a_claim_nothing(
    unknown: PostgresJobStore, postgres: Server, clock: FakeClock, is_empty_at_first: bool
) -> None:
    """Nor do they when the only statistics that the server has taken are of a time when all jobs had been deleted. By
    itself it takes none here: else it would be chance by which ones the claim is planned."""
    store = unknown
    async with postgres.connected() as connection:
        jobs = f"{store.place.schema}.jobs"
        await connection.execute(f"ALTER TABLE {jobs} SET (autovacuum_enabled = off)")
        if is_empty_at_first:
            await accept(store, clock)
            await connection.execute(f"DELETE FROM {jobs}")
            await connection.execute(f"ANALYZE {jobs}")
        await store.create_all([limited(clock) for _ in range(2_000)])
        [first] = await store.claim("w1", 10)
        clock.advance(1)
        free = await accept(store, clock)
        if not is_empty_at_first:
            await connection.execute(f"ANALYZE {jobs}")

    async def claim(connection: Connection) -> tuple[list[Row], int]:
        before = await jobs_read(connection)
        rows = await connection.rows(SQL["claim"], "w1", 10, False, None, 10, "{}")
        return list(rows), await jobs_read(connection) - before

    rows, count = await store._write("call", claim)
    assert len(rows) == 1
    assert (await read(store, free)).owner == "w1"
    assert first.has_slot
    assert count < 20


async def test_urgent_job_takes_no_slot_from_one_that_is_being_claimed(
    store: PostgresJobStore, other: PostgresJobStore, clock: FakeClock
) -> None:
    """The claim is not committed yet when the urgent job enters the queue."""
    low = await store.create(limited(clock, priority=JobPriority.LOW))
    claimed, may_commit = asyncio.Event(), asyncio.Event()

    async def claim(connection: Connection) -> int:
        rows = await connection.rows(SQL["claim"], "w1", 10, False, None, 10, "{}")
        claimed.set()
        await may_commit.wait()
        return len(rows)

    claiming = asyncio.create_task(store._write("call", claim))
    await claimed.wait()
    urgent = await other.create(limited(clock, priority=JobPriority.CRITICAL))
    may_commit.set()
    assert await claiming == 1
    assert await have_slots(store, [low, urgent]) == [True, False]
