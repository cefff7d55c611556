"""Opening the schema of a PostgreSQL store: is it ours, is it too new, and which migrations are missing."""

from __future__ import annotations

import zlib

from openagents_json.errors import InvalidStore, SchemaTooNew, StoreUnavailable
from openagents_json.job.store.postgres_driver import Connection
from openagents_json.job.store.postgres_place import Place
from openagents_json.job.store.sql import Migration, migrations

OLDEST = 13  # major version of the server
MIGRATING_S = 300.0  # for all missing migrations, and for another process that applies them
_LOCKS = 0x0A6E7473  # the first key of our advisory locks; the second is that of the schema

_TABLES = """
SELECT relname FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
WHERE nspname = $1 AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S') ORDER BY relname
"""
_MIGRATIONS_TABLE = """
CREATE TABLE migrations (number integer PRIMARY KEY, name text NOT NULL, checksum text NOT NULL,
                         applied_at timestamptz NOT NULL DEFAULT now())
"""


async def migrate(connection: Connection, place: Place) -> None:
    """Bring the schema up to date, all or nothing, one process at a time. Where nothing is missing, nothing is written
    and nothing but reading needs to be allowed.

    `InvalidStore` for a schema of something else or a database that cannot hold one, `SchemaTooNew` for one written by
    a newer version; nothing is written in either case.
    """
    with connection.watched():
        await connection.run(f"BEGIN READ ONLY;{place.preamble(writes=False)}")
        await _check_server(connection, place)
        missing = await missing_migrations(connection, place)
        await connection.run("COMMIT")
    if missing:
        with connection.watched(MIGRATING_S):
            await _apply(connection, place)


async def is_made(connection: Connection, place: Place) -> bool:
    """Whether the schema is there; only reads. Errors as with `migrate`."""
    with connection.watched():
        await connection.run(f"BEGIN READ ONLY;{place.preamble(writes=False)}")
        missing = await missing_migrations(connection, place)
        await connection.run("COMMIT")
    return not missing or missing[0].number > 1


async def _apply(connection: Connection, place: Place) -> None:
    await connection.run(
        f"BEGIN;{place.preamble(writes=False)}SET LOCAL statement_timeout = 0;SET LOCAL lock_timeout = 0"
    )
    await connection.value("SELECT pg_advisory_xact_lock($1, $2)", _LOCKS, _key_of(place.schema))
    missing = await missing_migrations(connection, place)  # another process may have been here meanwhile
    if missing and missing[0].number == 1:
        await connection.run(f"CREATE SCHEMA IF NOT EXISTS {place.schema};{_MIGRATIONS_TABLE}")
    for migration in missing:
        await connection.run(";".join(migration.statements))
        await connection.rows(
            "INSERT INTO migrations (number, name, checksum) VALUES ($1, $2, $3)",
            migration.number,
            migration.name,
            migration.checksum,
        )
    await connection.run("COMMIT")


async def _check_server(connection: Connection, place: Place) -> None:
    if connection.version < OLDEST:
        raise InvalidStore(f"{place.shown} is PostgreSQL {connection.version}; {OLDEST} or newer is needed.")
    if await connection.value("SHOW server_encoding") != "UTF8":
        raise InvalidStore(f"{place.shown} is a database whose encoding is not UTF8. Make one that has it.")
    if await connection.value("SELECT pg_is_in_recovery()"):
        raise StoreUnavailable(f"{place.shown} is a standby, which cannot be written. Give the primary's address.")


async def missing_migrations(connection: Connection, place: Place) -> list[Migration]:
    """The migrations that a schema still needs: all of them if it is empty. Only reads."""
    known = migrations("postgres")
    tables = [row[0] for row in await connection.rows(_TABLES, place.schema)]
    if not tables:
        return list(known)
    if not {"migrations", "meta", "jobs"} <= set(tables):
        found = ", ".join(tables[:5])
        raise InvalidStore(f"{place.shown} holds something else ({found}). Give another schema: ?schema=….")
    applied = {row[0]: row[1] for row in await connection.rows("SELECT number, checksum FROM migrations")}
    newest = max(applied, default=0)
    if newest > len(known):
        raise SchemaTooNew(
            f"{place.shown} has schema {newest}; this version of openagents_json knows {len(known)}. "
            "Install a newer version."
        )
    for migration in known[:newest]:
        if applied.get(migration.number) != migration.checksum:
            raise InvalidStore(f"{place.shown}: migration {migration.number} is not the one this version knows.")
    return list(known[newest:])


def _key_of(schema: str) -> int:
    return zlib.crc32(schema.encode()) - 2**31
