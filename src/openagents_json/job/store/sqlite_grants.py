"""Pauses, and the limits of components, in the SQLite store. All of it runs inside a transaction that somebody else
began."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence

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
from openagents_json.job.store.sqlite_rows import SQL
from openagents_json.jsondata import encode

IsAlive = Callable[[str], bool]


def set_pause(connection: sqlite3.Connection, pause: Pause) -> bool:
    """As the verb of the store says."""
    if connection.execute(SQL["pause_of"], (pause.kind, pause.name)).fetchone() is not None:
        return False
    refuse_more(connection.execute(SQL["pauses_count"]).fetchone()[0])
    connection.execute(SQL["pause_put"], (pause.kind, pause.name, pause.by, pause.reason, pause.at_us))
    return True


def lift_pause(connection: sqlite3.Connection, kind: PauseKind, name: str) -> bool:
    """As the verb of the store says."""
    if not connection.execute(SQL["pause_drop"], (kind, name)).rowcount:
        return False
    if kind == "workflow":
        connection.execute(SQL["put_back"], (name,))
    return True


def list_pauses(connection: sqlite3.Connection) -> list[Pause]:
    """As the verb of the store says."""
    return [Pause(*row) for row in connection.execute(SQL["pauses"])]


def decide(
    connection: sqlite3.Connection,
    worker: str,
    holds: Mapping[str, int],
    wants: Sequence[Want],
    is_alive: IsAlive,
    now_us: int,
) -> Decided:
    """What would be answered and written."""
    known = _known(connection, keys_of(holds, wants), worker, is_alive)
    return decide_grants(worker, holds, wants, known, now_us)


def take_grants(
    connection: sqlite3.Connection,
    worker: str,
    holds: Mapping[str, int],
    wants: Sequence[Want],
    is_alive: IsAlive,
    now_us: int,
) -> list[Blocked | None]:
    """As the verb of the store says."""
    decided = decide(connection, worker, holds, wants, is_alive, now_us)
    for key, one in decided.grants.items():
        if one is None:
            connection.execute(SQL["grants_drop"], (key, worker))
        else:
            connection.execute(SQL["grants_put"], (key, worker, *grants_values(one)))
    if decided.buckets:
        connection.executemany(SQL["bucket_put"], list(decided.buckets.items()))
        connection.execute(SQL["buckets_swept"], (now_us, SWEPT_AT_ONCE))
    return decided.answers


def read_blocked(connection: sqlite3.Connection, job_id: str, is_alive: IsAlive, now_us: int) -> list[Blocked]:
    """As the verb of the store says."""
    found = connection.execute(SQL["owner_of"], (job_id,)).fetchone()
    if found is None or found[0] is None:
        return []
    keys = [key for (key,) in connection.execute(SQL["grant_keys_of_worker"], found)]
    return blocked_in(job_id, found[0], _known(connection, keys, found[0], is_alive), now_us)


def _known(connection: sqlite3.Connection, keys: Sequence[str], worker: str, is_alive: IsAlive) -> Known:
    """Of those that hold or want something the live ones, and the worker that it is about."""
    wanted = encode(list(keys)).decode()
    grants: dict[str, dict[str, Grants]] = {}
    alive = {worker: True}
    for key, other, *values in connection.execute(SQL["grants_of_keys"], (wanted,)).fetchall():
        if other not in alive:
            alive[other] = is_alive(other)
        if alive[other]:
            grants.setdefault(key, {})[other] = grants_of(key, *values)
    return Known(grants, dict(connection.execute(SQL["buckets_of_keys"], (wanted,)).fetchall()))
