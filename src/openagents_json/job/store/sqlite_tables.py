"""What the verbs of the SQLite store do to its tables, in the writer's thread, inside a transaction."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from openagents_json.clock import SECOND_US, Clock
from openagents_json.errors import LeaseLost, RequestsPending, StoreError
from openagents_json.job.machine import FOLD_VERSION
from openagents_json.job.model import FINAL, JobStatus
from openagents_json.job.store.base import (
    Claim,
    Commit,
    NewJob,
    Request,
    is_written,
    same_body,
    virtual_arrival_us,
)
from openagents_json.job.store.sqlite_leaks import add_leaks
from openagents_json.job.store.sqlite_rows import (
    SQL,
    events_after,
    history_of,
    history_rows,
    requests_of,
    settled_values,
)
from openagents_json.job.store.sqlite_schema import OWN_FAULTS
from openagents_json.job.store.sqlite_writer import Operation, Outcome
from openagents_json.jsondata import encode


class SqliteTables:
    """Used by one thread. `rows` counts what was written; `aging_s` is the store's."""

    def __init__(self, clock: Clock, aging_s: float, translate: Callable[[Exception], Exception]) -> None:
        self._clock = clock
        self._translate = translate
        self.aging_s = aging_s
        self.rows = 0

    def perform(self, connection: sqlite3.Connection, group: Sequence[Operation]) -> list[Outcome]:
        """Creates and commits of a group go together, the other verbs one by one. Their order does not matter: whoever
        needs one before the other waits for the first one's answer."""
        outcomes: dict[Operation, Outcome] = {}
        creates = [operation for operation in group if operation.kind == "create"]
        commits = [operation for operation in group if operation.kind == "commit"]
        if creates:
            answers = self._create_all(connection, [operation.argument for operation in creates])
            outcomes.update(zip(creates, answers, strict=True))
        if commits:
            answers = self._commit_all(connection, [operation.argument for operation in commits])
            outcomes.update(zip(commits, answers, strict=True))
        for operation in group:
            if operation.kind == "call":
                outcomes[operation] = self._call(connection, operation.argument)
        return [outcomes[operation] for operation in group]

    def _call(self, connection: sqlite3.Connection, call: Callable[[sqlite3.Connection], Any]) -> Outcome:
        """A verb of its own. Its own errors undo what it wrote; those of the database end the group."""
        try:
            with _undone_on_error(connection):
                return call(connection), None
        except (OSError, *OWN_FAULTS) as error:
            return None, self._translate(error)
        except sqlite3.Error:
            raise
        except Exception as error:
            return None, error

    def execute(self, connection: sqlite3.Connection, name: str, values: tuple[Any, ...]) -> int:
        written = max(connection.execute(SQL[name], values).rowcount, 0)
        self.rows += written
        return written

    def _create_all(
        self, connection: sqlite3.Connection, jobs: list[tuple[NewJob, list[tuple[int, int, bytes]]]]
    ) -> list[Outcome]:
        """All new jobs of the group at once; only if the database refuses a row, one by one to find out which."""
        try:
            with _undone_on_error(connection):
                self._write_jobs(connection, jobs)
        except OWN_FAULTS as error:
            if len(jobs) == 1:
                return [(None, self._translate(error))]
            return [outcome for one in jobs for outcome in self._create_all(connection, [one])]
        return [(job.job_id, None) for job, _ in jobs]

    def _write_jobs(
        self, connection: sqlite3.Connection, jobs: list[tuple[NewJob, list[tuple[int, int, bytes]]]]
    ) -> None:
        now = self._clock.now_us()
        (first_key,) = connection.execute(SQL["next_key"]).fetchone()
        rows, history = [], []
        for key, (job, data) in enumerate(jobs, first_key):
            row, is_queued = job.row, job.row.status == JobStatus.QUEUED
            queue_time_us = self._queue_time(connection, job.parent_id)
            rows.append(
                (
                    key,
                    job.job_id,
                    job.definition.workflow_id,
                    job.definition.version,
                    job.definition.hash,
                    row.status.value,
                    row.rank,
                    virtual_arrival_us(now, queue_time_us, row.rank, self.aging_s) if is_queued else 0,
                    row.last_event,
                    job.created_us,
                    now if is_queued else None,
                    row.due_us,
                    row.progress,
                    job.idempotency_key,
                    job.body_hash,
                    encode(list(job.tags)).decode() if job.tags else None,  # as text: json_each refuses blobs
                    job.parent_id,
                    job.origin_id,
                    queue_time_us,
                )
            )
            history += [(key, *part) for part in data]
        definitions = {job.definition.hash: job.definition for job, _ in jobs}
        connection.executemany(
            SQL["definition_put"],
            [(one.hash, one.workflow_id, one.version, one.document) for one in definitions.values()],
        )
        if connection.executemany(SQL["job_put"], rows).rowcount != len(rows):
            written = {
                key
                for (key, job_id, *_) in rows
                if connection.execute(SQL["job_to_hold"], (job_id,)).fetchone()[0] == key
            }
            history = [part for part in history if part[0] in written]
        connection.executemany(SQL["history_put"], history)
        self.rows += len(rows) + len(history)

    def create_once(self, connection: sqlite3.Connection, job: NewJob, data: list[tuple[int, int, bytes]]) -> str:
        key = (job.definition.workflow_id, job.idempotency_key)
        found = connection.execute(SQL["job_with_idempotency_key"], key).fetchone()
        if found is not None:
            return same_body(found[1], job, found[0])
        self._write_jobs(connection, [(job, data)])
        return job.job_id

    def _commit_all(
        self, connection: sqlite3.Connection, commits: list[tuple[Commit, list[tuple[int, int, bytes]]]]
    ) -> list[Outcome]:
        """All commits of the group at once; only if a row does not match any more, one by one to find out which."""
        try:
            with _undone_on_error(connection):
                self._write_commits(connection, commits)
        except (_NotAsExpected, *OWN_FAULTS) as error:
            if len(commits) > 1:
                return [outcome for one in commits for outcome in self._commit_all(connection, [one])]
            if isinstance(error, _NotAsExpected):
                return [(None, self._why_refused(connection, commits[0][0]))]
            return [(None, self._translate(error))]
        return [(None, None)] * len(commits)

    def _write_commits(
        self, connection: sqlite3.Connection, commits: list[tuple[Commit, list[tuple[int, int, bytes]]]]
    ) -> None:
        """`_NotAsExpected` when some row is not as its commit expects."""
        now, aging_us = self._clock.now_us(), round(self.aging_s * SECOND_US)
        drained = [(sequence,) for commit, _ in commits for sequence in commit.drained]
        if drained:
            connection.executemany(SQL["inbox_drained"], drained)
        running, starting, settled, history = [], [], [], []
        for commit, data in commits:
            claim, row = commit.claim, commit.row
            if row.status != JobStatus.RUNNING:
                settled.append(settled_values(commit, now, aging_us))
            else:
                head = (row.last_event, row.rank, row.progress, row.current_step, row.error_type, row.error_message,
                        row.pause_requested, row.cancel_requested, commit.abandoned)  # fmt: skip
                lease = (claim.handle, claim.owner, claim.epoch, commit.expected)
                if commit.previous_status == JobStatus.RUNNING:
                    running.append(head + lease)
                else:
                    starting.append((*head, row.started_us, now, *lease, commit.previous_status))
            for part in data:
                history.append((claim.handle, *part))
        for name, rows in (("commit_running", running), ("commit_starting", starting), ("commit_settled", settled)):
            if rows and connection.executemany(SQL[name], rows).rowcount != len(rows):
                raise _NotAsExpected
        connection.executemany(SQL["history_put"], history)
        for commit, _ in commits:
            if commit.children:
                self._write_jobs(connection, [(child, history_rows(child.events)) for child in commit.children])
            if commit.leaks:
                add_leaks(connection, commit.claim.handle, commit.leaks, now)
            for job_id, request in commit.posts:
                self._post(connection, job_id, request)
            if commit.snapshot is not None:
                number, key = commit.row.last_event, commit.claim.handle
                connection.execute(SQL["snapshot_put"], (key, FOLD_VERSION, number, commit.snapshot))
                connection.execute(SQL["snapshot_mark"], (number, key))
        self.rows += len(commits) + len(history) + len(drained)

    def put(self, connection: sqlite3.Connection, key: int, request: Request) -> None:
        payload = encode(request.payload)
        values = (key, request.key, request.kind, payload, request.by, request.reason, request.at_us)
        self.rows += max(connection.execute(SQL["inbox_put"], values).rowcount, 0)

    def _post(self, connection: sqlite3.Connection, job_id: str, request: Request) -> None:
        found = connection.execute(SQL["job_to_hold"], (job_id,)).fetchone()
        if found is not None and found[2] not in FINAL:
            self.put(connection, found[0], request)

    def _queue_time(self, connection: sqlite3.Connection, parent_id: str | None) -> int:
        if parent_id is None:
            return 0
        found = connection.execute(SQL["queue_time_of"], (parent_id,)).fetchone()
        return 0 if found is None else int(found[0])

    def _why_refused(self, connection: sqlite3.Connection, commit: Commit) -> BaseException | None:
        """The error for a commit that did not match; None when exactly this commit was written before."""
        claim = commit.claim
        found = connection.execute(SQL["lease_of"], (claim.handle,)).fetchone()
        if found is not None:
            owner, epoch, last_event, status = found
            if (owner, epoch, last_event) == (
                claim.owner,
                claim.epoch,
                commit.expected,
            ) and status != commit.previous_status:
                return StoreError(f"Job {claim.job_id} is {status}, and a commit took it for {commit.previous_status}.")
            if (owner, epoch, last_event) == (claim.owner, claim.epoch, commit.expected):
                return RequestsPending(f"Job {claim.job_id} has requests that its last commit has not seen.")
            events = events_after(connection, claim.handle, commit.expected)
            if is_written(commit, epoch, last_event, events):
                return None
        return LeaseLost(f"Job {claim.job_id} is not held by {claim.owner} in epoch {claim.epoch} any more.")

    def lease_all(
        self, connection: sqlite3.Connection, keys: Iterable[tuple[int]], expected: str | None, worker: str
    ) -> list[Claim]:
        (inbox_is_used,) = connection.execute(SQL["inbox_is_used"]).fetchone()
        return [self.lease(connection, key, expected, worker, bool(inbox_is_used)) for (key,) in keys]

    def lease(
        self, connection: sqlite3.Connection, key: int, expected: str | None, worker: str, read_inbox: bool = True
    ) -> Claim:
        values = {"worker": worker, "key": key, "expected": expected}
        # Seen a moment ago in this transaction, so the row is there and as expected. fetchall ends the statement.
        [(job_id, epoch, definition, last_event, snapshot_event)] = connection.execute(SQL["lease"], values).fetchall()
        snapshot, events = history_of(connection, key, snapshot_event)
        requests = requests_of(connection, key) if read_inbox else []
        self.rows += 1
        return Claim(job_id, key, worker, epoch, definition, last_event, expected, snapshot, events, requests)

    def delete_trees(self, connection: sqlite3.Connection, roots: list[tuple[int, str]]) -> int:
        """Delete these jobs with their attached children; one whose children are not all final stays."""
        keys, count = [], 0
        for key, job_id in roots:
            attached = connection.execute(SQL["attached"], (job_id,)).fetchall()
            if all(may_go for _, may_go in attached):
                keys += [(key,), *((child,) for child, _ in attached)]
                count += 1
        self._delete(connection, keys)
        return count

    def _delete(self, connection: sqlite3.Connection, keys: list[tuple[int]]) -> None:
        for name in ("delete_history", "delete_inbox", "delete_snapshot", "delete_output", "delete_job"):
            connection.executemany(SQL[name], keys)
        if keys:
            connection.execute(SQL["key_used"], max(keys))
        self.rows += len(keys)


class _NotAsExpected(Exception):
    """A row has another owner, epoch, status or last event than a commit says, or a request stands in its way."""


@contextlib.contextmanager
def _undone_on_error(connection: sqlite3.Connection) -> Iterator[None]:
    """What is written inside is undone when it raises, and the transaction goes on without it."""
    connection.execute("SAVEPOINT part")
    try:
        yield
    except BaseException:
        if connection.in_transaction:  # after some errors SQLite has ended all of it itself
            connection.execute("ROLLBACK TO part")
            connection.execute("RELEASE part")
        raise
    connection.execute("RELEASE part")
