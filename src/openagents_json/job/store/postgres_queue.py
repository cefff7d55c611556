"""The queue of the PostgreSQL store, in its order: who is first, and where a job stands."""

from __future__ import annotations

from openagents_json.job.store.postgres_driver import Connection, Row, readable
from openagents_json.job.store.postgres_rows import SQL
from openagents_json.job.store.postgres_tables import offered
from openagents_json.job.store.records import MAX_AHEAD, QueuePlace, Waiting
from openagents_json.job.store.rules import MAX_REQUIREMENTS
from openagents_json.resources import Offers


async def first_waiting(connection: Connection, offers: Offers | None) -> Waiting | None:
    """As the verb of the store says."""
    components, resources = offered(offers)
    row = await connection.row(SQL["first_waiting"], components, MAX_REQUIREMENTS, resources)
    return None if row is None or row["is_paused"] else _waiting_in(row)


async def queue_place(connection: Connection, job_id: str, shown: int) -> QueuePlace | None:
    """As the verb of the store says. Who is first is read a moment later: it may be fewer than `ahead` by then."""
    row = await connection.row(SQL["queue_place"], job_id, MAX_REQUIREMENTS, MAX_AHEAD)
    if row is None:
        return None
    ahead = row["ahead"]
    rows = await connection.rows(SQL["queue_first"], MAX_REQUIREMENTS, min(shown, ahead)) if ahead else []
    first = [waiting for one in rows if (waiting := _waiting_in(one)).job_id != job_id]
    return QueuePlace(
        row["rank"], row["sort_at"], row["queued_us"], row["queued_total_us"], ahead, first, readable(row["room_by"])
    )


def _waiting_in(row: Row) -> Waiting:
    return Waiting(row["id"], row["rank"], row["sort_at"], readable(row["room_by"]))
