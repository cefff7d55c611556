"""Commits in the PostgreSQL store: the next events of many jobs in one statement, and what comes with them.

Runs inside a transaction; a commit that is nothing but the next events of its job may also be a transaction by itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from openagents_json.clock import SECOND_US
from openagents_json.errors import LeaseLost, RequestsPending, StoreError
from openagents_json.job.machine import FOLD_VERSION
from openagents_json.job.model import JobStatus
from openagents_json.job.store.postgres_creates import create_all
from openagents_json.job.store.postgres_driver import Connection, readable
from openagents_json.job.store.postgres_leaks import add_leaks
from openagents_json.job.store.postgres_limits import Changes
from openagents_json.job.store.postgres_rows import SQL, events_in, folded_error
from openagents_json.job.store.records import HISTORY_ROW_EVENTS, Commit, Request
from openagents_json.job.store.rows import history_rows, requirement
from openagents_json.job.store.rules import is_written
from openagents_json.jsondata import encode

_NO_EVENTS = (None, None, None)


def is_alone(commit: Commit) -> bool:
    """Whether nothing comes with the events. Then one statement does all of it."""
    more = (commit.drained, commit.children, commit.posts, commit.leaks, commit.abandoned)
    return commit.snapshot is None and not any(more)


def may_go_unlocked(commit: Commit) -> bool:
    """Whether the row need not be locked before: only a final one asks what stands in the inbox, and has to see what
    was put there while it waited for the row."""
    return commit.row.completed_us is None


def goes_on(commit: Commit) -> bool:
    """Whether the job runs as before, with more events that fit into one row of its history."""
    running = JobStatus.RUNNING
    is_placed = commit.row.deadline is not None and commit.row.deadline.is_at_risk
    is_one_row = not is_placed and 0 < len(commit.events) <= HISTORY_ROW_EVENTS
    return commit.previous_status == running == commit.row.status and is_one_row and is_alone(commit)


async def commit_running(connection: Connection, commit: Commit) -> StoreError | None:
    """The next events of a job that goes on: None, or why they were refused."""
    claim, row = commit.claim, commit.row
    [begun] = history_rows(commit.events)
    written = await connection.rows(
        SQL["commit_running"],
        claim.handle, claim.owner, claim.epoch, commit.expected, row.last_event, row.rank, row.progress,
        row.current_step, row.error_type, row.error_message, folded_error(row.error_message, row.error_type),
        row.pause_requested, row.cancel_requested, row.spending, *begun,
    )  # fmt: skip
    return None if written else await _why_refused(connection, commit)


async def commit_all(
    connection: Connection, commits: Sequence[Commit], now_us: int | None, aging_s: float, changes: Changes
) -> tuple[list[StoreError | None], int]:
    """For each commit None, or why it was refused; and how many rows were written. At most one for each job. `changes`
    is told of what concerns limits."""
    ordered = sorted(commits, key=lambda commit: commit.claim.handle)
    rows = [(commit.claim, commit.row, commit) for commit in ordered]
    histories = {commit.claim.handle: history_rows(commit.events) for commit in ordered}
    begun = [histories[claim.handle][0] if histories[claim.handle] else _NO_EVENTS for claim, _, _ in rows]
    continued = [(key, *part) for key, parts in histories.items() for part in parts[1:]]
    moved = await connection.rows(
        SQL["commit"],
        now_us,
        round(aging_s * SECOND_US),
        [claim.handle for claim, _, _ in rows],
        [claim.owner for claim, _, _ in rows],
        [claim.epoch for claim, _, _ in rows],
        [commit.expected for commit in ordered],
        [commit.previous_status.value for commit in ordered],
        [row.status.value for _, row, _ in rows],
        [row.rank for _, row, _ in rows],
        [row.last_event for _, row, _ in rows],
        [row.progress for _, row, _ in rows],
        [row.current_step for _, row, _ in rows],
        [row.error_type for _, row, _ in rows],
        [row.error_message for _, row, _ in rows],
        [folded_error(row.error_message, row.error_type) for _, row, _ in rows],
        [row.pause_requested for _, row, _ in rows],
        [row.cancel_requested for _, row, _ in rows],
        [commit.abandoned for commit in ordered],
        [row.started_us for _, row, _ in rows],
        [row.completed_us for _, row, _ in rows],
        [row.due_us for _, row, _ in rows],
        [first for first, _, _ in begun],
        [last for _, last, _ in begun],
        [events for *_, events in begun],
        [sequence for commit in ordered for sequence in commit.drained],
        *(map(list, zip(*continued, strict=True)) if continued else ([], [], [], [])),
        [requirement(row.requires) for _, row, _ in rows],
        [row.deaths for _, row, _ in rows],
        [row.spending for _, row, _ in rows],
    )
    keys = {row[0] for row in moved}
    refused = {
        commit.claim.handle: await _why_refused(connection, commit)
        for commit in commits
        if commit.claim.handle not in keys
    }
    written = [commit for commit in commits if commit.claim.handle in keys]
    changes.add_commits(written)
    more = await _write_what_comes_with(connection, written, now_us, aging_s, changes)
    answers = [refused.get(commit.claim.handle) for commit in commits]
    return answers, len(written) + sum(len(histories[key]) for key in keys) + more


async def _write_what_comes_with(
    connection: Connection, commits: Sequence[Commit], now_us: int | None, aging_s: float, changes: Changes
) -> int:
    """Children, leaks, posts, snapshots and abandoned threads of commits that were written; how many rows that are."""
    children = [child for commit in commits for child in commit.children]
    leaks = [(commit.claim.handle, leak) for commit in commits for leak in commit.leaks]
    posts = [post for commit in commits for post in commit.posts]
    snapshots = [commit for commit in commits if commit.snapshot is not None]
    abandoned = [commit for commit in commits if commit.abandoned]
    written = len(leaks) + len(posts) + len(snapshots) + len(abandoned)
    if children:
        written += (await create_all(connection, children, now_us, aging_s, changes))[1]
    if abandoned:
        await connection.rows(
            SQL["threads_abandoned"],
            [commit.claim.handle for commit in abandoned],
            [commit.claim.owner for commit in abandoned],
            [commit.abandoned for commit in abandoned],
        )
    if leaks:
        await add_leaks(connection, leaks, now_us)
    if posts:
        await put_requests(connection, posts)
    if snapshots:
        await connection.rows(
            SQL["snapshots_put"],
            [commit.claim.handle for commit in snapshots],
            [commit.row.last_event for commit in snapshots],
            [commit.snapshot for commit in snapshots],
            FOLD_VERSION,
        )
    return written


async def put_requests(connection: Connection, posts: Sequence[tuple[str, Request]]) -> None:
    """Put requests into the inboxes of jobs (by id) that are not final. Their rows are locked."""
    await connection.rows(
        SQL["posts_put"],
        [job_id for job_id, _ in posts],
        [request.key for _, request in posts],
        [request.kind for _, request in posts],
        [encode(request.payload) for _, request in posts],
        [request.by for _, request in posts],
        [request.reason for _, request in posts],
        [request.at_us for _, request in posts],
    )


async def _why_refused(connection: Connection, commit: Commit) -> StoreError | None:
    """The error for a commit that did not match; None when exactly this commit was written before."""
    claim = commit.claim
    found = await connection.row(SQL["as_it_is"], claim.handle, commit.expected)
    if found is not None:
        owner, epoch, last_event, status = (
            readable(found["owner"]),
            found["epoch"],
            found["last_event"],
            found["status"],
        )
        if (owner, epoch, last_event) == (claim.owner, claim.epoch, commit.expected):
            if status != commit.previous_status:
                return StoreError(f"Job {claim.job_id} is {status}, and a commit took it for {commit.previous_status}.")
            return RequestsPending(f"Job {claim.job_id} has requests that its last commit has not seen.")
        if is_written(commit, epoch, last_event, events_in(found["history"], commit.expected)):
            return None
    return LeaseLost(f"Job {claim.job_id} is not held by {claim.owner} in epoch {claim.epoch} any more.")
