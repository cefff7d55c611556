"""Pauses, and the limits of components, in the PostgreSQL store. Everything here runs inside a transaction, or only
reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from openagents_json.job.store.grants import (
    SWEPT_AT_ONCE,
    Blocked,
    Decided,
    Grants,
    Known,
    Want,
    blocked_in,
    decide_grants,
    grants_of,
    grants_values,
    keys_of,
)
from openagents_json.job.store.pauses import Pause, PauseKind, refuse_more
from openagents_json.job.store.postgres_driver import Connection, readable
from openagents_json.job.store.postgres_limits import Concern
from openagents_json.job.store.postgres_rows import SQL, texts_of

PAUSING = Concern("pauses", False)  # the lock under which a pause is set: pauses are counted


async def set_pause(
    connection: Connection, kind: PauseKind, name: str, by: str | None, reason: str | None, now_us: int | None
) -> bool:
    """As the verb of the store says. The caller has the lock `PAUSING`."""
    found = await connection.row(SQL["pause_of"], kind, name)
    if found is None or found["is_paused"]:
        return False
    refuse_more(found["count"])
    return bool(await connection.rows(SQL["pause_put"], kind, name, by, reason, now_us))


async def lift_pause(connection: Connection, kind: PauseKind, name: str) -> bool:
    """As the verb of the store says. Claims that set jobs aside for this pause are over when it is taken away, and the
    next statement sees these jobs."""
    if not await connection.rows(SQL["pause_drop"], kind, name):
        return False
    if kind == "workflow":
        await connection.rows(SQL["put_back"], name)
    return True


async def list_pauses(connection: Connection) -> list[Pause]:
    """As the verb of the store says."""
    return [Pause(**texts_of(row)) for row in await connection.rows(SQL["pauses"])]


def concerns_of_grants(holds: Mapping[str, int], wants: Sequence[Want]) -> list[Concern]:
    """The keys that have to be locked."""
    return [Concern(key, False) for key in keys_of(holds, wants)]


async def decide(
    connection: Connection, worker: str, holds: Mapping[str, int], wants: Sequence[Want], now_us: int | None
) -> tuple[Decided, int]:
    """What would be answered and written, and the time by the store's clock."""
    now: int = await connection.value(SQL["now"], now_us)
    known = await _known(connection, keys_of(holds, wants), worker, now_us)
    return decide_grants(worker, holds, wants, known, now), now


async def take_grants(
    connection: Connection, worker: str, holds: Mapping[str, int], wants: Sequence[Want], now_us: int | None
) -> list[Blocked | None]:
    """As the verb of the store says. The caller has locked the keys."""
    decided, now = await decide(connection, worker, holds, wants, now_us)
    kept = {key: one for key, one in decided.grants.items() if one is not None}
    if kept:
        columns = map(list, zip(*(grants_values(one) for one in kept.values()), strict=True))
        await connection.rows(SQL["grants_put"], worker, list(kept), *columns)
    if dropped := [key for key in decided.grants if key not in kept]:
        await connection.rows(SQL["grants_drop"], worker, dropped)
    if decided.buckets:
        await connection.rows(SQL["buckets_put"], list(decided.buckets), list(decided.buckets.values()))
        await connection.rows(SQL["buckets_swept"], now, SWEPT_AT_ONCE)
    return decided.answers


async def read_blocked(connection: Connection, job_id: str, now_us: int | None) -> list[Blocked]:
    """As the verb of the store says."""
    found = await connection.row(SQL["grant_keys_of_owner"], job_id)
    owner = None if found is None else readable(found["owner"])
    if found is None or owner is None or not found["keys"]:
        return []
    known = await _known(connection, [str(readable(key)) for key in found["keys"]], owner, now_us)
    return blocked_in(job_id, owner, known, await connection.value(SQL["now"], now_us))


async def _known(connection: Connection, keys: Sequence[str], worker: str, now_us: int | None) -> Known:
    grants: dict[str, dict[str, Grants]] = {}
    for row in map(texts_of, await connection.rows(SQL["grants_of_keys"], list(keys), worker, now_us)):
        one = grants_of(row["key"], row["held"], row["most"], row["per_us"], row["waits"])
        grants.setdefault(row["key"], {})[row["worker"]] = one
    buckets = await connection.rows(SQL["buckets_of_keys"], list(keys))
    return Known(grants, {str(readable(row["key"])): row["full_us"] for row in buckets})
