"""What the verbs of the SQLite store do to its tables, in the writer's thread, inside a transaction."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

from openagents_json.clock import SECOND_US, Clock
from openagents_json.errors import LeaseLost, LimitReached, RequestsPending, StoreError
from openagents_json.job.machine import FOLD_VERSION
from openagents_json.job.model import FINAL, JobStatus
from openagents_json.job.store.arrival import place_us, virtual_arrival_us
from openagents_json.job.store.deleting import ROOTS_AT_ONCE, Allowance
from openagents_json.job.store.limits import Entry
from openagents_json.job.store.records import FIRST_EPOCH, Claim, Commit, Held, NewJob, Request
from openagents_json.job.store.rows import history_rows, requirement
from openagents_json.job.store.rules import is_written, same_body
from openagents_json.job.store.sqlite_batches import jobs_to_hold, leased_jobs, write_rows
from openagents_json.job.store.sqlite_leaks import add_leaks
from openagents_json.job.store.sqlite_limits import balance_all, let_in, limit_values, limited_in
from openagents_json.job.store.sqlite_rows import SQL, commit_values, events_after, history_of
from openagents_json.job.store.sqlite_schema import OWN_FAULTS
from openagents_json.job.store.sqlite_shares import place_committed, place_new
from openagents_json.job.store.sqlite_writer import Operation
from openagents_json.job.store.waiters import Outcome
from openagents_json.jsondata import encode


class SqliteTables:
    """Used by one thread. `rows` counts what was written; `aging_s` is the store's."""

    def __init__(self, clock: Clock, aging_s: float, translate: Callable[[Exception], Exception]) -> None:
        self._clock = clock
        self._translate = translate
        self.aging_s = aging_s
        self.rows = 0

    def perform(self, connection: sqlite3.Connection, group: Sequence[Operation]) -> list[Outcome]:
        """Creates, commits and holds of a group go together, the other verbs one by one. Their order does not matter:
        whoever needs one before the other waits for the first one's answer."""
        (self.aging_s,) = connection.execute(SQL["meta_get"], ("aging_s",)).fetchone()  # another process may set it
        outcomes: dict[Operation, Outcome] = {}
        creates = [operation for operation in group if operation.kind == "create"]
        held = [operation for operation in group if operation.kind == "create_held"]
        commits = [operation for operation in group if operation.kind == "commit"]
        if creates:
            answers = self._create_all(connection, [operation.argument for operation in creates])
            outcomes.update(zip(creates, answers, strict=True))
        if held:
            answers = self._create_held_all(connection, [operation.argument for operation in held])
            outcomes.update(zip(held, answers, strict=True))
        if commits:
            answers = self.commit_all(connection, [operation.argument for operation in commits])
            outcomes.update(zip(commits, answers, strict=True))
        holds = [operation for operation in group if operation.kind == "hold"]
        if holds:
            answers = self.hold_all(connection, [operation.argument for operation in holds])
            outcomes.update(zip(holds, answers, strict=True))
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
        except (LimitReached, *OWN_FAULTS) as error:
            if len(jobs) == 1:
                return [(None, error if isinstance(error, LimitReached) else self._translate(error))]
            return [outcome for one in jobs for outcome in self._create_all(connection, [one])]
        return [(job.job_id, None) for job, _ in jobs]

    def _create_held_all(
        self, connection: sqlite3.Connection, jobs: list[tuple[NewJob, list[tuple[int, int, bytes]]]]
    ) -> list[Outcome]:
        """The keys of the new jobs of the group, None for one that is there already; as `_create_all`."""
        if len(jobs) == 1:
            return [self._call(connection, lambda connection: self._create_held(connection, *jobs[0]))]
        try:
            with _undone_on_error(connection):
                return [(key, None) for key in self._write_jobs(connection, jobs)]
        except OWN_FAULTS:
            return [outcome for one in jobs for outcome in self._create_held_all(connection, [one])]

    def _create_held(
        self, connection: sqlite3.Connection, job: NewJob, data: list[tuple[int, int, bytes]]
    ) -> int | None:
        if job.idempotency_key is not None:
            key = (job.definition.workflow_id, job.idempotency_key)
            if connection.execute(SQL["job_with_idempotency_key"], key).fetchone() is not None:
                return None
        return self._write_jobs(connection, [(job, data)])[0]

    def _write_jobs(
        self, connection: sqlite3.Connection, jobs: list[tuple[NewJob, list[tuple[int, int, bytes]]]]
    ) -> list[int | None]:
        """Their keys, None for one whose id is there already."""
        keys, entries = self._put_jobs(connection, jobs)
        self._let_in(connection, entries)
        return keys

    def _put_jobs(
        self, connection: sqlite3.Connection, jobs: list[tuple[NewJob, list[tuple[int, int, bytes]]]]
    ) -> tuple[list[int | None], list[Entry]]:
        """As `_write_jobs`, but those that enter the queue and have a limit are still to be let in."""
        now = self._clock.now_us()
        (first_key,) = connection.execute(SQL["next_key"]).fetchone()
        rows, history = [], []
        for key, (job, data) in enumerate(jobs, first_key):
            row, is_queued = job.row, job.row.status == JobStatus.QUEUED
            is_on_its_way = is_queued or row.status == JobStatus.RUNNING
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
                    now if is_on_its_way else None,
                    row.due_us,
                    row.progress,
                    job.idempotency_key,
                    job.body_hash,
                    encode(list(job.tags)).decode() if job.tags else None,  # as text: json_each refuses blobs
                    job.parent_id,
                    job.origin_id,
                    queue_time_us,
                    requirement(row.requires),
                    job.owner,
                    0 if job.owner is None else FIRST_EPOCH,
                    row.started_us,
                    row.current_step,
                    row.spending,
                    *limit_values(job.limit),
                )
            )
            history += [(key, *part) for part in data]
        definitions = {job.definition.hash: job.definition for job, _ in jobs}
        write_rows(
            connection,
            "definition_put",
            [(one.hash, one.workflow_id, one.version, one.document) for one in definitions.values()],
        )
        written: Collection[int] = range(first_key, first_key + len(jobs))
        if write_rows(connection, "job_put", rows) != len(rows):
            written = {
                key
                for (key, job_id, *_) in rows
                if connection.execute(SQL["job_to_hold"], (job_id,)).fetchone()[0] == key
            }
            history = [part for part in history if part[0] in written]
        write_rows(connection, "history_put", history)
        self.rows += len(rows) + len(history)
        new = [(key, job.row) for key, (job, _) in enumerate(jobs, first_key) if job.row.is_placed and key in written]
        place_new(connection, new, now, self.aging_s)
        entries = [
            Entry(key, job.job_id, job.limit)
            for key, (job, _) in enumerate(jobs, first_key)
            if job.limit is not None and job.row.status == JobStatus.QUEUED and key in written
        ]
        return [key if key in written else None for key in range(first_key, first_key + len(jobs))], entries

    def _let_in(self, connection: sqlite3.Connection, entries: list[Entry], settled: Collection[str] = ()) -> None:
        """Let jobs with a limit into the queue, and give the slots of their keys to those that come first; `settled`
        are keys of which some may have come free."""
        if entries:
            let_in(connection, entries, self._clock.now_us())
        balance_all(connection, {*settled, *(entry.limit.key for entry in entries)})

    def set_aging(self, connection: sqlite3.Connection, aging_s: float) -> None:
        """As the verb of the store says."""
        connection.execute(SQL["meta_put"], ("aging_s", aging_s))
        less_us = round(aging_s * SECOND_US) - round(self.aging_s * SECOND_US)
        self.rows += connection.execute(SQL["aging_set"], (less_us,)).rowcount
        self.aging_s = aging_s
        balance_all(connection, [key for (key,) in connection.execute(SQL["queued_limits"]).fetchall()])

    def create_once(self, connection: sqlite3.Connection, job: NewJob, data: list[tuple[int, int, bytes]]) -> str:
        key = (job.definition.workflow_id, job.idempotency_key)
        found = connection.execute(SQL["job_with_idempotency_key"], key).fetchone()
        if found is not None:
            return same_body(found[1], job, found[0])
        self._write_jobs(connection, [(job, data)])
        return job.job_id

    def commit_all(
        self, connection: sqlite3.Connection, commits: list[tuple[Commit, list[tuple[int, int, bytes]]]]
    ) -> list[Outcome]:
        """All commits of the group at once; only if a row does not match any more, one by one to find out which."""
        try:
            with _undone_on_error(connection):
                self._write_commits(connection, commits)
        except (_NotAsExpected, LimitReached, *OWN_FAULTS) as error:
            if len(commits) > 1:
                return [outcome for one in commits for outcome in self.commit_all(connection, [one])]
            if isinstance(error, _NotAsExpected):
                return [(None, self._why_refused(connection, commits[0][0]))]
            return [(None, error if isinstance(error, LimitReached) else self._translate(error))]
        return [(None, None)] * len(commits)

    def _write_commits(
        self, connection: sqlite3.Connection, commits: list[tuple[Commit, list[tuple[int, int, bytes]]]]
    ) -> None:
        """`_NotAsExpected` when some row is not as its commit expects."""
        now, aging_us = self._clock.now_us(), round(self.aging_s * SECOND_US)
        drained = [(sequence,) for commit, _ in commits for sequence in commit.drained]
        write_rows(connection, "inbox_drained", drained)
        running: list[tuple[Any, ...]] = []
        starting: list[tuple[Any, ...]] = []
        settled: list[tuple[Any, ...]] = []
        history: list[tuple[Any, ...]] = []
        for commit, data in commits:
            row, values = commit.row, commit_values(commit)
            if row.status != JobStatus.RUNNING:
                until = (row.status.value, row.completed_us, row.due_us, aging_us)
                needs = (requirement(row.requires), row.deaths)
                settled.append((*values, commit.previous_status.value, row.started_us, now, *until, *needs))
            elif commit.previous_status == JobStatus.RUNNING:
                running.append(values)
            else:
                starting.append((*values, commit.previous_status.value, row.started_us, now))
            history += [(commit.claim.handle, *part) for part in data]
        for name, rows in (("commit_running", running), ("commit_starting", starting), ("commit_settled", settled)):
            if write_rows(connection, name, rows) != len(rows):
                raise _NotAsExpected
        write_rows(connection, "history_put", history)
        place_committed(connection, [commit for commit, _ in commits if commit.row.is_placed_anew], now, self.aging_s)
        for commit, _ in commits:
            entries, keys = limited_in(commit)
            if commit.children:
                children = [(child, history_rows(child.events)) for child in commit.children]
                entries += self._put_jobs(connection, children)[1]
            if commit.abandoned:
                values = (commit.claim.handle, commit.claim.owner, commit.abandoned)
                connection.execute(SQL["threads_abandoned"], values)
            if commit.leaks:
                add_leaks(connection, commit.claim.handle, commit.leaks, now)
            for job_id, request in commit.posts:
                self._post(connection, job_id, request)
            if commit.snapshot is not None:
                number, key = commit.row.last_event, commit.claim.handle
                connection.execute(SQL["snapshot_put"], (key, FOLD_VERSION, number, commit.snapshot))
                connection.execute(SQL["snapshot_mark"], (number, key))
            self._let_in(connection, entries, keys)  # a job and its children go together
        self.rows += len(commits) + len(history) + len(drained)

    def hold_all(self, connection: sqlite3.Connection, holds: list[tuple[str, str, Request]]) -> list[Outcome]:
        """All holds of the group at once; only if one of them cannot be, one by one to find out which."""
        if len(holds) == 1:
            return [self._call(connection, lambda connection: self._hold(connection, holds)[0])]
        held, error = self._call(connection, lambda connection: self._hold(connection, holds))
        if error is None:
            return [(one, None) for one in held]
        return [outcome for one in holds for outcome in self.hold_all(connection, [one])]

    def _hold(self, connection: sqlite3.Connection, holds: list[tuple[str, str, Request]]) -> list[Held | None]:
        """Each (job id, worker, request) as if it came after the one before; but a claim has all their requests."""
        found = jobs_to_hold(connection, {job_id for job_id, _, _ in holds})
        owners = {key: owner for key, owner, _ in found.values()}
        put, leased = [], {}
        for job_id, worker, request in holds:
            if job_id not in found or found[job_id][2] in FINAL:
                continue
            key = found[job_id][0]
            payload = encode(request.payload)
            put.append((key, request.key, request.kind, payload, request.by, request.reason, request.at_us))
            if owners[key] is None:
                owners[key] = leased[key] = worker
        self.rows += write_rows(connection, "inbox_put", put)
        claims = self._lease(connection, [(key, worker, None) for key, worker in leased.items()])
        answers: list[Held | None] = []
        for job_id, _, request in holds:
            if job_id not in found:
                answers.append(None)
                continue
            key, _, status = found[job_id]
            if status in FINAL:
                known = connection.execute(SQL["inbox_key"], (key, request.key)).fetchone()
                answers.append(Held(None, None, known is not None))
            else:
                answers.append(Held(claims.pop(key, None), owners[key]))
        return answers

    def _post(self, connection: sqlite3.Connection, job_id: str, request: Request) -> None:
        found = connection.execute(SQL["job_to_hold"], (job_id,)).fetchone()
        if found is not None and found[2] not in FINAL:
            payload = encode(request.payload)
            values = (found[0], request.key, request.kind, payload, request.by, request.reason, request.at_us)
            self.execute(connection, "inbox_put", values)

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

    def create_many(
        self, connection: sqlite3.Connection, jobs: Sequence[tuple[NewJob, list[tuple[int, int, bytes]]]]
    ) -> list[str]:
        """All of them, or none if an idempotency key was used for another body."""
        ids: list[str] = []
        new: list[tuple[NewJob, list[tuple[int, int, bytes]]]] = []
        keys: dict[tuple[str, str | None], tuple[str, str]] = {}
        for job, data in jobs:
            key = (job.definition.workflow_id, job.idempotency_key)
            found = keys.get(key)
            if found is None and job.idempotency_key is not None:
                found = connection.execute(SQL["job_with_idempotency_key"], key).fetchone()
            if found is not None:
                ids.append(same_body(found[1], job, found[0]))
                continue
            if job.idempotency_key is not None:
                keys[key] = (job.job_id, job.body_hash)
            ids.append(job.job_id)
            new.append((job, data))
        self._write_jobs(connection, new)
        return ids

    def lease_all(
        self, connection: sqlite3.Connection, keys: Iterable[tuple[int]], expected: str | None, worker: str
    ) -> list[Claim]:
        """Take the leases of jobs that were seen a moment ago in this transaction: they are there and as expected."""
        return list(self._lease(connection, [(key, worker, expected) for (key,) in keys]).values())

    def _lease(self, connection: sqlite3.Connection, leases: list[tuple[int, str, str | None]]) -> dict[int, Claim]:
        """Take the leases, each (key, new owner, expected owner); the claims by key, in the same order."""
        self.rows += write_rows(connection, "lease", leases)
        found = {job.key: job for job in leased_jobs(connection, [key for key, _, _ in leases])}
        claims, now = {}, self._clock.now_us()
        for key, worker, expected in leases:
            job = found[key]
            sort_at = job.sort_at
            if sort_at is None:
                sort_at = place_us(
                    now, job.queued_total_us, job.rank, self.aging_s, job.tag_us, None, has_begun=job.has_begun
                )
            snapshot, events = None, job.events
            if events is None:
                snapshot, events = history_of(connection, key, job.snapshot_event)
            claims[key] = Claim(
                job.id, key, worker, job.epoch, job.definition, job.last_event, expected, snapshot, events,
                job.requests, job.limit, job.has_slot, sort_at,
            )  # fmt: skip
        return claims

    def delete_final(self, connection: sqlite3.Connection, before_us: int, limit: int, within_s: float) -> int:
        """As the verb of the store says."""
        allowance, count = Allowance(within_s, self._clock), 0
        at = (-1, -1)  # (completed_us, key) behind which to look: jobs that have to stay are passed over
        while count < limit and not (count and allowance.is_spent):
            values = (*at, before_us, min(ROOTS_AT_ONCE, limit - count))
            found = connection.execute(SQL["final_before"], values).fetchall()
            if not found:
                break
            at = (found[-1][2], found[-1][0])
            count += self.delete_trees(connection, [(key, job_id) for key, job_id, _ in found])
        return count

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
        for name in (
            "delete_history",
            "delete_inbox",
            "delete_snapshot",
            "delete_output",
            "delete_abandoned",
            "delete_job",
        ):
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
