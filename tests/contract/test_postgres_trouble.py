"""The PostgreSQL store where things go wrong: bad URLs, strange schemas, lost connections and replies, dead servers."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from openagents_json.cli.opening import opened
from openagents_json.errors import (
    InvalidSettings,
    InvalidStore,
    LeaseLost,
    SchemaTooNew,
    StoreError,
    StoreUnavailable,
)
from openagents_json.job.store import Claim, make_store, postgres_driver, postgres_news
from openagents_json.job.store.contract.jobs import (
    QUIET,
    Holder,
    accept,
    begin,
    claim_one,
    history,
    new_job,
    read,
    request,
)
from openagents_json.job.store.contract.limits import accept_limited, begin_limited, finish, take_all
from openagents_json.job.store.postgres import PostgresJobStore
from openagents_json.job.store.postgres_place import place_of
from openagents_json.job.store.query import build_query
from openagents_json.job.store.sql import migrations
from openagents_json.testing import FakeClock
from tests.faults.proxy import Proxy, proxied
from tests.postgres_server import STRICT, Server

SECRET = "pa55-w%40rd"
SAFETY_S = 20.0  # only a safety net


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


async def assert_refused(url: str, kind: type[Exception], *words: str) -> None:
    """Opening fails in that way, twice, says so and no secret."""
    store = PostgresJobStore(url)
    for _ in range(2):
        with pytest.raises(kind) as refused:
            await store.open()
        assert type(refused.value) is kind
        for word in words:
            assert word in str(refused.value)
        assert "pa55" not in str(refused.value) + repr(refused.value) + repr(store.place)
    with pytest.raises(StoreUnavailable, match="not open"):
        await store.read("nobody")
    await store.close()


# ── URLs ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (f"postgresql://u:{SECRET}@host:port/db", "cannot be read"),
        (f"postgresql://u:{SECRET}@[host/db", "cannot be read"),
        (f"postgresql://u:{SECRET}@host/db?schema=Jobs", "'Jobs' is no schema"),
        (f"postgresql://u:{SECRET}@host/db?schema=", "'' is no schema"),
        ("postgresql://host/db?schema=pg_jobs", "'pg_jobs' is no schema"),
        ("postgresql://host/db?schema=a;drop", "is no schema"),
        (f"postgresql://host/db?schema={'a' * 41}", "at most 40"),
        ("postgresql://host/db?pooler=maybe", "pooler=maybe; it is true or false"),
    ],
)
def test_url_that_makes_no_sense_is_refused(url: str, words: str) -> None:
    with pytest.raises(InvalidSettings) as refused:
        make_store(url)
    assert words in str(refused.value)
    assert "pa55" not in str(refused.value)


def test_url_says_place_schema_and_mode_and_shows_no_secret() -> None:
    place = place_of(f"postgres://me:{SECRET}@db:5433/jobs?schema=mine&pooler=true&sslmode=require&sslpassword=pa55")
    assert (place.schema, place.is_pooled, place.channel) == ("mine", True, "openagents_mine")
    assert place.shown == "postgresql://me@db:5433/jobs (schema mine)"
    assert place.dsn == f"postgresql://me:{SECRET}@db:5433/jobs?sslmode=require&sslpassword=pa55"
    assert "pa55" not in repr(place)
    assert place.without_secrets("no pa55-w@rd for pa55-w%40rd and pa55") == "no ••• for ••• and •••"


def test_settings_of_the_url_win_over_ours() -> None:
    preamble = place_of("postgresql://host/db?lock_timeout=9s").preamble(writes=True)
    assert "lock_timeout" not in preamble
    assert "SET statement_timeout = '20s'" in preamble


async def test_missing_driver_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    postgres_driver.load.cache_clear()
    try:
        with pytest.raises(InvalidSettings, match=r"Install openagents_json\[postgres\]"):
            make_store("postgresql://host/db")
    finally:
        postgres_driver.load.cache_clear()


def test_driver_is_not_imported_until_it_is_needed() -> None:
    code = "import sys, openagents_json.job.store; sys.exit('asyncpg' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ── servers and schemas ───────────────────────────────────────────────────────────────────────────────────────────


async def test_server_that_is_not_there_is_named(unused_tcp_port: int) -> None:
    url = f"postgresql://u:{SECRET}@127.0.0.1:{unused_tcp_port}/db"
    await assert_refused(url, StoreUnavailable, f"127.0.0.1:{unused_tcp_port}/db", "cannot be reached", "server runs")


async def test_host_that_is_not_there_is_named() -> None:
    await assert_refused(f"postgresql://u:{SECRET}@no-host.invalid/db", StoreUnavailable, "no-host.invalid")


async def test_database_that_is_not_there_is_named(postgres: Server) -> None:
    url = postgres.url.rpartition("/")[0] + "/missing"
    await assert_refused(url, StoreUnavailable, "missing", "createdb")


async def test_wrong_user_is_told(postgres: Server) -> None:
    host, port = postgres.address
    url = f"postgresql://nobody_here:{SECRET}@{host}:{port}/postgres"
    await assert_refused(url, StoreUnavailable, "nobody_here", "check the user")


async def test_wrong_password_is_told_and_not_shown(postgres: Server) -> None:
    if not postgres.is_ours:
        pytest.skip("needs a user that is asked for a password")
    host, port = postgres.address
    async with postgres.connected() as connection:
        await connection.execute(f"CREATE ROLE {STRICT} SUPERUSER LOGIN PASSWORD 'the right one'")
        try:
            url = f"postgresql://{STRICT}:{SECRET}@{host}:{port}/postgres?schema={postgres.new_schema()}"
            await assert_refused(url, StoreUnavailable, STRICT, "check the user and the password")
            right = PostgresJobStore(url.replace(SECRET, "the%20right%20one"))
            await right.open()
            await right.close()
        finally:
            await connection.execute(f"DROP OWNED BY {STRICT} CASCADE; DROP ROLE {STRICT}")


async def test_schema_of_something_else_is_refused_and_left_alone(postgres: Server) -> None:
    schema = postgres.new_schema()
    async with postgres.connected() as connection:
        await connection.execute(f"CREATE SCHEMA {schema}; CREATE TABLE {schema}.invoices (n int)")
        await assert_refused(postgres.store_url(schema), InvalidStore, "something else (invoices)")
        query = "SELECT relname FROM pg_class WHERE relnamespace = $1::regnamespace"
        assert [row[0] for row in await connection.fetch(query, schema)] == ["invoices"]


async def test_newer_schema_is_refused_and_left_alone(postgres: Server) -> None:
    schema = postgres.new_schema()
    store = PostgresJobStore(postgres.store_url(schema))
    await store.open()
    await store.close()
    async with postgres.connected() as connection:
        await connection.execute(f"INSERT INTO {schema}.migrations VALUES (99, 'from tomorrow', 'x')")
        await assert_refused(postgres.store_url(schema), SchemaTooNew, "schema 99", "Install a newer version")
        assert await connection.fetchval(f"SELECT count(*) FROM {schema}.migrations") == len(migrations("postgres")) + 1


async def test_schema_of_other_migrations_is_refused(postgres: Server) -> None:
    schema = postgres.new_schema()
    store = PostgresJobStore(postgres.store_url(schema))
    await store.open()
    await store.close()
    async with postgres.connected() as connection:
        await connection.execute(f"UPDATE {schema}.migrations SET checksum = 'other'")
    await assert_refused(postgres.store_url(schema), InvalidStore, "migration 1 is not the one")


async def test_stores_that_make_the_schema_at_the_same_moment_make_it_once(postgres: Server) -> None:
    url = postgres.store_url()
    stores = [PostgresJobStore(url) for _ in range(4)]
    await asyncio.gather(*(store.open() for store in stores))
    clock = FakeClock()
    ids = {await accept(store, clock, QUIET) for store in stores}
    assert {one.summary.id for one in await stores[0].list_jobs(build_query())} == ids
    await asyncio.gather(*(store.close() for store in stores))


async def test_user_who_may_only_use_the_tables_can_open_the_store(postgres: Server, store: PostgresJobStore) -> None:
    schema, role = store.place.schema, postgres.new_schema()
    host, port = postgres.address
    async with postgres.connected() as connection:
        await connection.execute(
            f"CREATE ROLE {role} LOGIN PASSWORD 'pa55'; GRANT USAGE ON SCHEMA {schema} TO {role};"
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role};"
            f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO {role};"
        )
        try:
            url = f"postgresql://{role}:pa55@{host}:{port}/postgres?schema="
            humble = PostgresJobStore(url + schema)
            await humble.open()
            job_id = await accept(humble, FakeClock())
            assert await store.read(job_id) is not None
            await humble.close()
            await assert_refused(url + postgres.new_schema(), StoreUnavailable, "permission denied", "may not do this")
        finally:
            await connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


# ── lost connections ──────────────────────────────────────────────────────────────────────────────────────────────


async def again(verb: Callable[[], Awaitable[Any]]) -> Any:
    """What a verb gives when it is repeated until the store works."""
    async with asyncio.timeout(SAFETY_S):
        while True:
            try:
                return await verb()
            except StoreUnavailable:
                await asyncio.sleep(0.02)


async def until_listening(news: postgres_news.PostgresNews) -> None:
    async with asyncio.timeout(SAFETY_S):
        while not news.is_listening:  # noqa: ASYNC110 - no signal
            await asyncio.sleep(0.01)


async def end_sessions(postgres: Server, application: str) -> int:
    async with postgres.connected() as connection:
        query = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = $1"
        return int(await connection.fetchval(query, application))


async def test_ended_sessions_of_every_kind_are_made_anew(postgres: Server, url: str, clock: FakeClock) -> None:
    name = postgres.new_schema()
    store = PostgresJobStore(f"{url}&application_name={name}", clock)
    await store.open()
    job_id = await accept(store, clock)
    await asyncio.gather(*(store.read(job_id) for _ in range(8)))
    news = store._news
    assert news is not None
    await until_listening(news)
    assert await end_sessions(postgres, name) == 4
    assert await again(lambda: accept(store, clock))
    assert (await read(store, job_id)).summary.id == job_id  # a reading is asked again by itself
    await until_listening(news)
    assert store.has_foreign_changes()  # what happened meanwhile was not heard
    await store.close()


async def test_store_goes_on_after_the_server_was_away(postgres: Server, clock: FakeClock) -> None:
    if not postgres.is_ours:
        pytest.skip("stops the server")
    store = PostgresJobStore(postgres.store_url(), clock)
    await store.open()
    holder = await begin(store, clock)
    commit = holder.commit_of(holder.succeeded("first"))
    await asyncio.to_thread(postgres.stop)
    for verb in (lambda: store.commit(commit), lambda: store.read(holder.job_id), lambda: store.heartbeat("w1")):
        with pytest.raises(StoreUnavailable):
            await verb()
    await asyncio.to_thread(postgres.start)
    await again(lambda: store.commit(commit))
    assert len(await history(store, holder.job_id)) == holder.committed
    await holder.commit(store, holder.succeeded("second"))
    await store.close()


async def test_close_does_not_wait_for_a_dead_server(
    postgres: Server, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    from openagents_json.job.store import postgres as module

    monkeypatch.setattr(module, "CLOSE_S", 0.3)
    monkeypatch.setattr(postgres_driver, "CLOSE_S", 0.3)
    async with proxied(*postgres.address) as (proxy, port):
        store = PostgresJobStore(postgres.store_url(await postgres.empty_schema(), port=port), clock)
        await store.open()
        await store.read("nobody")
        proxy.freeze()
        writing = asyncio.create_task(accept(store, clock))
        reading = asyncio.create_task(store.read("nobody"))
        await asyncio.sleep(0)
        async with asyncio.timeout(SAFETY_S):
            await store.close()
        for task in (writing, reading):
            with pytest.raises(StoreUnavailable):
                await task


async def test_frozen_server_is_given_up(postgres: Server, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    async with proxied(*postgres.address) as (proxy, port):
        store = PostgresJobStore(postgres.store_url(await postgres.empty_schema(), port=port), clock)
        await store.open()
        await store.read("nobody")
        monkeypatch.setattr(postgres_driver, "CONNECT_S", 0.3)
        monkeypatch.setattr(postgres_driver, "ANSWER_S", 0.3)
        proxy.freeze()
        for verb in (lambda: accept(store, clock), lambda: store.read("nobody")):
            with pytest.raises(StoreUnavailable):
                async with asyncio.timeout(SAFETY_S):
                    await verb()
        proxy.thaw()
        monkeypatch.setattr(postgres_driver, "CONNECT_S", 5.0)
        monkeypatch.setattr(postgres_driver, "ANSWER_S", 30.0)
        assert await again(lambda: accept(store, clock))
        await store.close()


# ── lost replies ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def behind_proxy(postgres: Server, clock: FakeClock) -> AsyncIterator[tuple[PostgresJobStore, Proxy]]:
    """A store whose connections can be disturbed."""
    async with proxied(*postgres.address) as (proxy, port):
        store = PostgresJobStore(postgres.store_url(await postgres.empty_schema(), port=port), clock)
        await store.open()
        yield store, proxy
        await store.close()


@pytest.mark.guarantee("G1")
async def test_create_with_lost_reply_is_repeated_without_a_second_job(
    behind_proxy: tuple[PostgresJobStore, Proxy], clock: FakeClock
) -> None:
    store, proxy = behind_proxy
    await accept(store, clock)  # the statement is prepared
    for key in (None, "k"):
        job = new_job(clock, key=key)
        proxy.lose_reply_to(job.job_id.encode())
        with pytest.raises(StoreUnavailable):
            await store.create(job)
        assert await again(lambda job=job: store.create(job)) == job.job_id  # type: ignore[misc]
        if key:
            assert await store.create(replace(new_job(clock, key=key), idempotency_key=key)) == job.job_id
        assert len(await history(store, job.job_id)) == len(job.events)
    assert proxy.lost == 2
    assert len(await store.list_jobs(build_query())) == 3


@pytest.mark.guarantee("G2")
async def test_commit_with_lost_reply_is_repeated_without_a_second_event(
    behind_proxy: tuple[PostgresJobStore, Proxy], clock: FakeClock
) -> None:
    store, proxy = behind_proxy
    holder = await begin(store, clock)
    commit = holder.commit_of(holder.succeeded("first"))
    proxy.lose_reply_to(b'"first"')  # its events, on whatever connection
    with pytest.raises(StoreUnavailable):
        await store.commit(commit)
    last = holder.commit_of(holder.succeeded("second"))
    await again(lambda: store.commit(commit))
    proxy.lose_reply_to(b"COMMIT")
    with pytest.raises(StoreUnavailable):
        await store.commit(last)
    await again(lambda: store.commit(last))
    assert proxy.lost == 2
    assert len(await history(store, holder.job_id)) == holder.committed
    assert (await read(store, holder.job_id)).summary.status.is_final


async def taken_anew(store: PostgresJobStore, worker: str) -> Claim:
    """The one lease that a worker was given and never heard of."""
    leases = await again(lambda: store.read_leases(worker))
    claims: list[Claim] = await again(lambda: store.hold_again(worker, leases))
    [claim] = claims
    return claim


@pytest.mark.guarantee("G5")
async def test_claim_with_lost_reply_leaves_a_lease_that_is_found(
    behind_proxy: tuple[PostgresJobStore, Proxy], clock: FakeClock
) -> None:
    """The server has given the job to a worker that does not know of it."""
    store, proxy = behind_proxy
    await store.register_worker("w1")
    job_id = await accept(store, clock)
    proxy.lose_reply_to(b"COMMIT")
    with pytest.raises(StoreUnavailable):
        await store.claim("w1", 1)
    claim = await taken_anew(store, "w1")
    assert (claim.job_id, claim.epoch, proxy.lost) == (job_id, 2, 1)
    assert await store.claim("w1", 1) == []


async def test_orphan_with_lost_reply_is_found(behind_proxy: tuple[PostgresJobStore, Proxy], clock: FakeClock) -> None:
    store, proxy = behind_proxy
    holder = await begin(store, clock, "dead")
    await store.register_worker("w1")
    proxy.lose_reply_to(b"COMMIT")
    with pytest.raises(StoreUnavailable):
        await store.hold_orphans("w1", 10)
    claim = await taken_anew(store, "w1")
    assert (claim.job_id, claim.owner) == (holder.job_id, "w1")
    with pytest.raises(LeaseLost):
        await store.commit(holder.commit_of(holder.succeeded("first")))


async def test_hold_with_lost_reply_keeps_the_request_and_the_lease(
    behind_proxy: tuple[PostgresJobStore, Proxy], clock: FakeClock
) -> None:
    store, proxy = behind_proxy
    job_id = await accept(store, clock, start=False)
    proxy.lose_reply_to(b"COMMIT")
    with pytest.raises(StoreUnavailable):
        await store.hold(job_id, "w1", request("start"))
    claim = await taken_anew(store, "w1")
    assert [one.kind for one in claim.requests] == ["start"]
    await Holder(clock, claim).commit(store, drains=claim.requests)
    assert (await read(store, job_id)).owner is None


async def test_lost_connection_costs_no_lease(behind_proxy: tuple[PostgresJobStore, Proxy], clock: FakeClock) -> None:
    store, proxy = behind_proxy
    await accept(store, clock)
    holder = await claim_one(store, clock)
    proxy.cut()
    await again(lambda: store.heartbeat("w1"))
    await again(lambda: holder.commit(store, holder.started()))
    assert (await read(store, holder.job_id)).owner == "w1"


async def test_slow_network_is_no_error(behind_proxy: tuple[PostgresJobStore, Proxy], clock: FakeClock) -> None:
    store, proxy = behind_proxy
    proxy.delay_s = 0.02
    holders = await asyncio.gather(*(accept(store, clock, QUIET) for _ in range(20)))
    assert len(await store.claim("w1", 20)) == len(holders)


async def test_refused_connections_are_tried_again_at_the_next_verb(
    behind_proxy: tuple[PostgresJobStore, Proxy], clock: FakeClock
) -> None:
    store, proxy = behind_proxy
    proxy.refuses = True
    proxy.cut()
    with pytest.raises(StoreUnavailable):
        await store.heartbeat("w1")
        await store.heartbeat("w1")
    proxy.refuses = False
    assert await again(lambda: accept(store, clock))


# ── locks of others ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_row_that_somebody_keeps_locked_holds_up_only_its_own_job(
    postgres: Server, store: PostgresJobStore, clock: FakeClock
) -> None:
    holders = [await begin(store, clock) for _ in range(3)]
    commits = [holder.commit_of(holder.succeeded("first")) for holder in holders]
    async with postgres.connected() as connection, connection.transaction():
        await connection.execute(f"SELECT 1 FROM {store.place.schema}.jobs WHERE id = $1 FOR UPDATE", holders[1].job_id)
        async with asyncio.timeout(SAFETY_S):
            results = await asyncio.gather(*(store.commit(one) for one in commits), return_exceptions=True)
    assert [type(result) for result in results] == [type(None), StoreUnavailable, type(None)]
    assert "locked" in str(results[1])
    await store.commit(commits[1])
    for holder in holders:
        assert len(await history(store, holder.job_id)) == holder.committed


@pytest.mark.guarantee("G5")
async def test_worker_that_is_cut_off_in_a_transaction_keeps_no_lock_longer_than_its_lease(
    postgres: Server, url: str, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else nobody could take its job over by then."""
    from openagents_json.job.store import postgres as module

    monkeypatch.setattr(module, "CLOSE_S", 0.1)
    store = PostgresJobStore(url, clock, lease_s=1)
    await store.open()
    job_id = await accept(store, clock, start=False)
    store.commit_delay_s = SAFETY_S  # the transaction has locked the row, and the server hears no more of it
    holding = asyncio.create_task(store.hold(job_id, "w1", request("pause")))
    row = f"SELECT FROM {store.place.schema}.jobs WHERE id = $1 FOR UPDATE"
    async with postgres.connected() as connection, asyncio.timeout(SAFETY_S):
        while await connection.fetchrow(f"{row} SKIP LOCKED", job_id) is not None:  # noqa: ASYNC110 - no signal
            await asyncio.sleep(0.01)
        began_s = asyncio.get_running_loop().time()
        await connection.fetchrow(row, job_id)
        assert asyncio.get_running_loop().time() - began_s < 5
    await store.close()
    with pytest.raises(StoreUnavailable):
        await holding


async def test_statement_that_the_server_does_not_understand_is_no_reason_to_wait(store: PostgresJobStore) -> None:
    with pytest.raises(StoreError, match="does not understand") as refused:
        await store._write("call", lambda connection: connection.rows("SELECT nonsense"))
    assert type(refused.value) is StoreError


async def test_without_anybody_who_tells_the_store_looks_by_itself(
    store: PostgresJobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    news = store._news
    assert news is not None
    monkeypatch.setattr(postgres_news, "LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(news, "_is_listening", False)
    news._has_heard = False
    news._looked_at = asyncio.get_running_loop().time()
    assert not news.has_news()
    async with asyncio.timeout(SAFETY_S):
        while not store.has_foreign_changes():  # noqa: ASYNC110 - it is asked, it does not tell
            await asyncio.sleep(0.01)


async def test_slot_that_comes_free_is_told_to_the_others(
    store: PostgresJobStore, url: str, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_news, "LOOK_ALL_THE_SAME_S", 1_000.0)
    _, second = [await accept_limited(store, clock) for _ in range(2)]
    holder = await begin_limited(store, clock)
    other = PostgresJobStore(url, clock)
    await other.open()
    assert other._news is not None
    await until_listening(other._news)
    while other.has_foreign_changes():  # noqa: ASYNC110 - of what was written before
        await asyncio.sleep(0.1)
    await finish(store, holder)
    async with asyncio.timeout(SAFETY_S):
        while not other.has_foreign_changes():  # noqa: ASYNC110 - this is how it is asked
            await asyncio.sleep(0.005)
    assert await take_all(other) == [second]
    await other.close()


async def test_store_that_is_only_to_be_read_is_not_made(postgres: Server, url: str) -> None:
    schema = postgres.new_schema()
    assert not await PostgresJobStore(postgres.store_url(schema)).is_made()
    assert await PostgresJobStore(url).is_made()
    async with postgres.connected() as connection:
        assert await connection.fetchval("SELECT to_regnamespace($1)", schema) is None
        with pytest.raises(StoreUnavailable, match="There is no store"):
            async with opened(postgres.store_url(schema)):
                raise AssertionError("there is nothing to open")
        assert await connection.fetchval("SELECT to_regnamespace($1)", schema) is None
    async with opened(url) as jobs:
        assert not (await jobs.list_jobs()).jobs
