"""The PostgreSQL store as a whole: facts, flaws, VACUUM. Each over a connection of its own, so that a store is looked
at without being opened, which would bring its schema up to date."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from openagents_json.errors import StoreUnavailable
from openagents_json.job.model import JobStatus
from openagents_json.job.store.postgres_driver import Connection
from openagents_json.job.store.postgres_faults import is_of_the_database, translate
from openagents_json.job.store.postgres_place import Place
from openagents_json.job.store.postgres_rows import SQL
from openagents_json.job.store.postgres_schema import missing_migrations
from openagents_json.job.store.postgres_session import begin_session
from openagents_json.job.store.sql import Migration, migrations
from openagents_json.job.store.upkeep import MAX_FLAWS, Flaw, StoreFacts, Vacuumed

TABLES = (
    "jobs", "history", "inbox", "definitions", "snapshots", "output", "leaks", "workers", "abandoned", "pauses",
    "grants", "buckets", "shares", "durations", "shortages",
)  # fmt: skip
SETTINGS = ("server_version", "synchronous_commit", "fsync", "full_page_writes", "data_checksums", "max_connections")
LOOK_S = 300.0  # for a look at whole tables
VACUUM_S = 86_400.0  # for one table
SAMPLE = 5  # jobs that are named of those that rows belong to and that are not there


async def read_facts(place: Place, now_us: int | None) -> StoreFacts:
    """As the verb of the store says."""
    async with _reading(place) as (connection, missing):
        jobs = await connection.rows(SQL["facts_of_jobs"])
        beside = (await connection.rows(SQL["facts_beside_jobs"], now_us))[0]
        sizes = {row[0]: row[1] for row in await connection.rows(SQL["sizes"], place.schema, list(TABLES))}
        settings = {name: str(await connection.value(f"SHOW {name}")) for name in SETTINGS}
    known = len(migrations("postgres"))
    return StoreFacts(
        kind="postgres",
        place=place.shown,
        engine=f"PostgreSQL {settings.pop('server_version')}",
        schema=known - len(missing),
        known_schema=known,
        pending=tuple(one.name for one in missing),
        jobs={JobStatus(row["status"]): row["count"] for row in jobs},
        events=sum(row["events"] for row in jobs),
        definitions=beside["definitions"],
        workers=beside["workers"],
        leaks=beside["leaks"],
        oldest_us=min((row["oldest_us"] for row in jobs), default=None),
        newest_us=max((row["newest_us"] for row in jobs), default=None),
        sizes=sizes,
        settings=settings | {"aging": f"{beside['aging_s']:g} s"},
    )


async def find_flaws(place: Place) -> list[Flaw]:
    """What is wrong with the tables: indexes that are not to be used, rows that belong to no job, pages whose checksum
    the server has found wrong. At most `MAX_FLAWS`."""
    async with _reading(place) as (connection, missing):
        flaws = [
            Flaw(f"{place.shown}, index {row[0]}", "it is not valid; REINDEX makes it anew")
            for row in await connection.rows(SQL["invalid_indexes"], place.schema)
        ]
        if failures := await connection.value(SQL["checksum_failures"]):
            flaws.append(Flaw(place.shown, f"the server has read {failures:,} pages with a wrong checksum"))
        if not missing:
            flaws += [
                Flaw(f"{place.shown}, table {row[0]}", f"rows that belong to no job: {row[1]:,} ({row[2]})")
                for row in await connection.rows(SQL["stray_rows"], SAMPLE)
            ]
    return flaws[:MAX_FLAWS]


async def vacuum(place: Place) -> Vacuumed:
    """VACUUM (ANALYZE) of each table; workers go on meanwhile."""
    async with _reading(place):
        pass  # there is a store, and it is not too new
    async with _connected(place) as connection:
        if not place.is_pooled:  # a pooler's connection would keep these for others
            await connection.run("SET statement_timeout = 0; SET lock_timeout = 0")
        before = await _bytes(connection, place)
        for table in TABLES:
            with connection.watched(VACUUM_S):
                await connection.run(f"VACUUM (ANALYZE) {place.schema}.{table}")
        return Vacuumed(before, await _bytes(connection, place))


async def _bytes(connection: Connection, place: Place) -> int:
    with connection.watched():
        rows = await connection.rows(SQL["sizes"], place.schema, list(TABLES))
    return sum(row[1] for row in rows)


@contextlib.asynccontextmanager
async def _reading(place: Place) -> AsyncIterator[tuple[Connection, list[Migration]]]:
    """One consistent reading of a store that is there, and which migrations it still needs."""
    async with _connected(place) as connection:
        with connection.watched(LOOK_S):
            await connection.run(
                f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;{place.preamble(writes=False)}"
                f"SET LOCAL statement_timeout = '{LOOK_S:g}s'"
            )
            yield connection, await _missing_of_made(connection, place)
            await connection.run("COMMIT")


async def _missing_of_made(connection: Connection, place: Place) -> list[Migration]:
    missing = await missing_migrations(connection, place)
    if missing and missing[0].number == 1:
        raise StoreUnavailable(f"There is no store at {place.shown}. `openagents run` makes one; give another URL.")
    return missing


@contextlib.asynccontextmanager
async def _connected(place: Place) -> AsyncIterator[Connection]:
    """A connection; errors are those of the store."""
    connection: Connection | None = None
    try:
        connection = await begin_session(place, writes=False)
        yield connection
        await connection.close()
    except BaseException as error:
        if connection is not None:
            connection.terminate()
        if isinstance(error, Exception) and is_of_the_database(error):
            raise translate(error, place) from None
        raise
