"""Accepting jobs in the PostgreSQL store: many in one statement. Runs inside a transaction, or as one."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from openagents_json.clock import SECOND_US
from openagents_json.errors import IdempotencyConflict, LimitReached, StoreUnavailable
from openagents_json.job.store.postgres_driver import Connection, Row, readable, sendable
from openagents_json.job.store.postgres_limits import Changes, concerns_of_new, limit_columns, over_limit
from openagents_json.job.store.postgres_rows import SQL
from openagents_json.job.store.records import Claim, NewJob, first_claim
from openagents_json.job.store.rows import history_rows, requirement
from openagents_json.job.store.rules import same_body
from openagents_json.jsondata import encode

# The job's id, or the lease of one that is created with its lease; or why there is none.
Answer = tuple[str | Claim | None, IdempotencyConflict | StoreUnavailable | None]


async def create_all(
    connection: Connection, jobs: Sequence[NewJob], now_us: int | None, aging_s: float, changes: Changes
) -> tuple[list[Answer], int]:
    """Accept these jobs, those of them that are not there yet: an answer for each, and how many rows were written.

    An id that is known, or an idempotency key, is answered as `JobStore.create` says; for a job with an owner, as
    `JobStore.create_held` does. `changes` is told of those with a limit.
    """
    unique = {job.job_id: job for job in reversed(jobs)}  # the first of each id
    new = [unique[job_id] for job_id in dict.fromkeys(job.job_id for job in jobs)]
    histories = {job.job_id: history_rows(job.events) for job in new}
    keys = await _put(connection, new, histories, now_us, aging_s)
    for job in new:
        if (job.limit is not None or job.row.is_placed) and job.job_id in keys:
            changes.add_created(keys[job.job_id], job)
    written = len(keys) + sum(len(histories[job_id]) for job_id in keys)
    others = [job for job in new if job.job_id not in keys and job.owner is None]
    known = await _known(connection, others) if others else {}
    answers: list[Answer] = []
    left = dict(keys)  # new leases that nobody was told of yet: whoever comes twice in a group gets one once
    for job in jobs:
        if job.owner is None:
            answers.append(known.get(job.job_id, (job.job_id, None)))
        else:
            key = left.pop(job.job_id, None)
            answers.append((None if key is None else first_claim(job, key, aging_s), None))
    return answers, written


async def _put(
    connection: Connection,
    new: Sequence[NewJob],
    histories: dict[str, list[tuple[int, int, bytes]]],
    now_us: int | None,
    aging_s: float,
) -> dict[str, int]:
    """Write those that are not there yet: their keys by id."""
    documents = {job.definition.hash: job.definition for job in new}
    definitions = [documents[content_hash] for content_hash in sorted(documents)]  # one order, for the sake of locks
    begun = [histories[job.job_id][0] for job in new]
    continued = [(job_id, *part) for job_id, parts in histories.items() for part in parts[1:]]
    rows = await connection.rows(
        SQL["jobs_put"],
        now_us,
        round(aging_s * SECOND_US),
        [one.hash for one in definitions],
        [one.workflow_id for one in definitions],
        [one.version for one in definitions],
        [one.document for one in definitions],
        [job.job_id for job in new],
        [job.definition.workflow_id for job in new],
        [job.definition.version for job in new],
        [job.definition.hash for job in new],
        [job.row.status.value for job in new],
        [job.row.rank for job in new],
        [job.row.last_event for job in new],
        [job.created_us for job in new],
        [job.row.due_us for job in new],
        [job.row.progress for job in new],
        [job.idempotency_key for job in new],
        [job.body_hash for job in new],
        [encode([sendable(tag) for tag in job.tags]).decode() if job.tags else None for job in new],
        [job.parent_id for job in new],
        [job.origin_id for job in new],
        [first for first, _, _ in begun],
        [last for _, last, _ in begun],
        [events for *_, events in begun],
        *(map(list, zip(*continued, strict=True)) if continued else ([], [], [], [])),
        [requirement(job.row.requires) for job in new],
        [job.owner for job in new],
        [job.row.started_us for job in new],
        [job.row.current_step for job in new],
        *limit_columns([job.limit for job in new]),
        [job.row.spending for job in new],
    )
    return {row[0]: row[1] for row in rows}


async def refuse_new(connection: Connection, jobs: Sequence[NewJob], freed: Collection[str]) -> dict[str, LimitReached]:
    """Of jobs that are to be accepted together those that their limits refuse, by id: nothing of them is written, and
    the others need not be undone because of them. `freed` are keys of which the transaction gives slots back: there
    the end of it decides. A job that is there already, or comes twice, is not refused."""
    if not any(job.limit is not None and job.limit.overflow == "reject" for job in jobs):
        return {}
    asked: list[NewJob] = []
    seen: set[tuple[str, str | None]] = set()
    for job in jobs:
        names = {("", job.job_id)} | ({_name_of(job)} if job.idempotency_key is not None else set())
        is_asking = job.limit is not None and job.limit.overflow == "reject" and concerns_of_new([job])
        if job.limit is not None and is_asking and job.limit.key not in freed and not names & seen:
            asked.append(job)
        seen |= names
    refused = await over_limit(connection, asked) if asked else {}
    if refused:
        ids, by_key = await _find(connection, [job for job in asked if job.job_id in refused])
        for job in asked:
            if job.job_id in ids or (job.idempotency_key is not None and _name_of(job) in by_key):
                refused.pop(job.job_id, None)
    return refused


def _name_of(job: NewJob) -> tuple[str, str | None]:
    """What names a job besides its id."""
    return job.definition.workflow_id, job.idempotency_key


async def _known(connection: Connection, jobs: Sequence[NewJob]) -> dict[str, Answer]:
    """What to answer for jobs that were not added, by the ids that they were given with."""
    ids, by_key = await _find(connection, jobs)
    answers: dict[str, Answer] = {}
    for job in jobs:
        earlier = by_key.get(_name_of(job))
        if job.idempotency_key is not None and earlier is not None:
            try:
                answers[job.job_id] = same_body(earlier["body_hash"], job, earlier["id"]), None
            except IdempotencyConflict as conflict:
                answers[job.job_id] = None, conflict
        elif job.job_id in ids:
            answers[job.job_id] = job.job_id, None
        else:  # what stood in the way was deleted between the two statements
            gone = StoreUnavailable(f"Job {job.job_id} met one that is being deleted. Nothing was accepted; try again.")
            answers[job.job_id] = None, gone
    return answers


async def _find(
    connection: Connection, jobs: Sequence[NewJob]
) -> tuple[set[str], dict[tuple[str | None, str | None], Row]]:
    """The rows that have the ids of these jobs, or their idempotency keys: ids, and rows by workflow and key."""
    keyed = [job for job in jobs if job.idempotency_key is not None]
    rows = await connection.rows(
        SQL["jobs_known"],
        [job.job_id for job in jobs],
        [job.definition.workflow_id for job in keyed],
        [job.idempotency_key for job in keyed],
    )
    ids = {row["id"] for row in rows}
    return ids, {(readable(row["workflow_id"]), readable(row["idempotency_key"])): row for row in rows}
