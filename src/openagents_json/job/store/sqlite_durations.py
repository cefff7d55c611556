"""The learned durations of the SQLite store."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from openagents_json.job.store.durations import MAX_DURATIONS, Duration, Sample, learned
from openagents_json.job.store.sqlite_rows import SQL


def learn(connection: sqlite3.Connection, samples: Sequence[Sample], now_us: int) -> None:
    """As the verb of the store says; inside a transaction."""
    for one in samples:
        found = connection.execute(SQL["duration_get"], (one.workflow_id, one.step_id)).fetchone()
        now = learned(None if found is None else Duration(*found), one, now_us)
        values = (now.workflow_id, now.step_id, now.mean_us, now.runs, now.learned_us)
        connection.execute(SQL["duration_put"], values)
    connection.execute(SQL["durations_forget"], (MAX_DURATIONS,))


def read_durations(connection: sqlite3.Connection, workflow_id: str) -> list[Duration]:
    """As the verb of the store says."""
    return [Duration(*values) for values in connection.execute(SQL["durations_of"], (workflow_id,))]
