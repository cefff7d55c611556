"""What the verbs of the PostgreSQL store do to its tables, inside a transaction of the writer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from openagents_json.clock import Clock
from openagents_json.errors import StoreUnavailable
from openagents_json.job.machine import FOLD_VERSION
from openagents_json.job.model import FINAL
from openagents_json.job.store.deleting import ROOTS_AT_ONCE, Allowance
from openagents_json.job.store.pauses import SET_ASIDE_AT_ONCE
from openagents_json.job.store.postgres_commits import (
    commit_all,
    commit_running,
    goes_on,
    is_alone,
    may_go_unlocked,
    put_requests,
)
from openagents_json.job.store.postgres_creates import create_all, refuse_new
from openagents_json.job.store.postgres_driver import Connection, Row, readable
from openagents_json.job.store.postgres_limits import (
    Changes,
    Concern,
    concerns_of,
    concerns_of_new,
    lock_keys,
    rows_of_keys,
    settle,
)
from openagents_json.job.store.postgres_rows import SQL, claim_in
from openagents_json.job.store.postgres_shares import lock_shares, place, shares_of, shares_of_new
from openagents_json.job.store.records import Claim, Commit, Held, NewJob, Request
from openagents_json.job.store.rules import MAX_REQUIREMENTS
from openagents_json.job.store.waiters import Outcome
from openagents_json.jsondata import encode
from openagents_json.resources import Offers, amount_of

# Where a leased job stands among others that were leased with it.
Order = Callable[[Row], Any]


@dataclass(eq=False, slots=True)
class Operation:
    """One thing to do in a transaction: a `create` of a job, a `commit`, or a `call` that is given the connection.
    `jobs` are the ids of those whose rows a call changes, `limits` what it concerns of limits, `shares` the keys of the
    shares that it charges."""

    kind: str
    argument: Any
    future: asyncio.Future[Any] = field(repr=False)
    jobs: Sequence[str] = ()
    limits: Sequence[Concern] = ()
    shares: Sequence[str] = ()

    def touches(self) -> Sequence[int | str]:
        """Keys and ids of the jobs whose rows it changes."""
        if self.kind == "commit":
            return (self.argument.claim.handle, *(job_id for job_id, _ in self.argument.posts))
        return self.jobs

    def concerns(self) -> Sequence[Concern]:
        """The keys of limits of which it may change who has a slot, or who waits for one."""
        if self.kind == "commit":
            return concerns_of(self.argument)
        return concerns_of_new([self.argument]) if self.kind == "create" else self.limits

    def charges(self) -> Sequence[str]:
        """The keys of shares whose accounts it may change."""
        if self.kind == "commit":
            return shares_of(self.argument)
        return shares_of_new([self.argument]) if self.kind == "create" else self.shares

    @property
    def is_placed(self) -> bool:
        """Whether it writes a row with a share or a deadline: that takes more than one statement."""
        if self.kind == "call":
            return bool(self.shares)
        if self.kind == "create":
            return bool(self.argument.row.is_placed)
        return self.argument.row.is_placed_anew or bool(self.argument.children)


class PostgresTables:
    """Used by one writer. `rows` counts what was written; `aging_s` is the store's."""

    def __init__(self, clock: Clock | None, aging_s: float) -> None:
        self._clock = clock
        self.aging_s = aging_s
        self.rows = 0

    @property
    def now_us(self) -> int | None:
        """The time that a statement is given: None for the server's."""
        return None if self._clock is None else self._clock.now_us()

    # ── groups ────────────────────────────────────────────────────────────────────────────────────────────────────

    def is_one_statement(self, group: Sequence[Operation]) -> bool:
        """Whether the group can be a transaction without BEGIN and COMMIT around it."""
        if any(operation.concerns() or operation.is_placed for operation in group):
            return False
        if all(operation.kind == "create" for operation in group):
            return True
        commits: list[Commit] = [operation.argument for operation in group if operation.kind == "commit"]
        return len(commits) == len(group) and all(is_alone(one) and may_go_unlocked(one) for one in commits)

    async def perform(
        self, connection: Connection, group: Sequence[Operation], *, is_locking: bool, is_patient: bool = True
    ) -> list[Outcome]:
        """Creates and commits of a group go together, the other verbs one by one. Their order does not matter: whoever
        needs one before the other waits for the first one's answer.

        `is_locking`: lock all keys of limits and all rows before. Without patience an operation whose keys or rows
        somebody else has locked is refused instead of waited for.
        """
        outcomes: dict[Operation, Outcome] = {}
        changes = Changes()
        if is_locking:
            outcomes.update(await self._lock(connection, group, is_patient))
        creates = [one for one in group if one.kind == "create" and one not in outcomes]
        commits = [one for one in group if one.kind == "commit" and one not in outcomes]
        if is_locking:
            freed = {concern.key for one in commits for concern in one.concerns()}
            full = await refuse_new(connection, [one.argument for one in creates], freed)
            outcomes.update({one: (None, full[one.argument.job_id]) for one in creates if one.argument.job_id in full})
            creates = [one for one in creates if one not in outcomes]
        if creates:
            jobs = [one.argument for one in creates]
            answers, written = await create_all(connection, jobs, self.now_us, self.aging_s, changes)
            outcomes.update(zip(creates, answers, strict=True))
            self.rows += written
        for each in _once_per_job(commits):
            refused = await self._commit(connection, [one.argument for one in each], changes)
            outcomes.update({one: (None, error) for one, error in zip(each, refused, strict=True)})
        await self._settle(connection, changes)
        for operation in group:
            if operation not in outcomes:
                outcomes[operation] = await operation.argument(connection), None
        return [outcomes[operation] for operation in group]

    async def create_all(self, connection: Connection, jobs: Sequence[NewJob]) -> list[str]:
        """All of them, or the first error."""
        changes = Changes()
        answers, written = await create_all(connection, jobs, self.now_us, self.aging_s, changes)
        self.rows += written
        ids = []
        for job_id, error in answers:
            if error is not None:
                raise error
            assert isinstance(job_id, str), "who is not refused has an id"
            ids.append(job_id)
        await self._settle(connection, changes)
        return ids

    async def _settle(self, connection: Connection, changes: Changes) -> None:
        """What the rows that were written mean for others: first where they stand, then who gets a slot."""
        if changes.placed:
            self.rows += await place(connection, changes.placed, self.now_us)
        self.rows += await settle(connection, changes, self.now_us)

    async def _commit(
        self, connection: Connection, commits: list[Commit], changes: Changes
    ) -> Sequence[BaseException | None]:
        if len(commits) == 1 and goes_on(commits[0]):
            self.rows += 2
            return [await commit_running(connection, commits[0])]
        refused, written = await commit_all(connection, commits, self.now_us, self.aging_s, changes)
        self.rows += written
        return refused

    async def _lock(
        self, connection: Connection, group: Sequence[Operation], is_patient: bool
    ) -> dict[Operation, Outcome]:
        """Lock the keys of limits that the group concerns, and then the rows that it will change; the operations that
        have to be refused because of others."""
        touched = {operation: operation.touches() for operation in group}
        concerns = {operation: some for operation in group if (some := operation.concerns())}
        refused: set[Operation] = set()
        if concerns:
            every = [one for some in concerns.values() for one in some]
            lost = await lock_keys(connection, {one.key for one in every}, is_patient=is_patient)
            refused = {operation for operation, some in concerns.items() if any(one.key in lost for one in some)}
            rows = await rows_of_keys(connection, every)
            for operation, some in concerns.items():
                next_rows = (row for key in {one.key for one in some} for row in rows.get(key, ()))
                touched[operation] = [*touched[operation], *next_rows]
        if charged := {key for operation in group for key in operation.charges()}:
            lost = await lock_shares(connection, charged, self.now_us, is_patient=is_patient)
            refused |= {operation for operation in group if not lost.isdisjoint(operation.charges())}
        keys = sorted({one for some in touched.values() for one in some if isinstance(one, int)})
        ids = sorted({one for some in touched.values() for one in some if isinstance(one, str)})
        if is_patient:
            if keys or ids:
                await connection.rows(SQL["lock"], keys, ids)
            return {}
        free = {value for row in await connection.rows(SQL["lock_free"], keys, ids) for value in (row[0], row[1])}
        there = {value for row in await connection.rows(SQL["lockable"], keys, ids) for value in (row[0], row[1])}
        refused |= {one for one, some in touched.items() if any(row in there and row not in free for row in some)}
        busy = "Another session has locked the job, or the key of its limit, for long. Nothing was accepted."
        return {operation: (None, StoreUnavailable(busy)) for operation in refused}

    # ── leases ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def lease_all(self, connection: Connection, name: str, order: Order, *values: Any) -> list[Claim]:
        """Take the leases that a statement takes, and read what they are of, in that order."""
        leased = {row["key"]: row["previous"] for row in await connection.rows(SQL[name], *values)}
        return await self._claims_of(connection, leased, order)

    async def _claims_of(self, connection: Connection, leased: Mapping[int, str | None], order: Order) -> list[Claim]:
        """The claims on jobs that were leased in this transaction, by key: who had each before."""
        if not leased:
            return []
        found = await connection.rows(SQL["whole_by_key"], list(leased), FOLD_VERSION, self.now_us)
        self.rows += len(found)
        self.aging_s = found[0]["aging_s"]  # another process may have set it
        return [claim_in(row, leased[row["key"]]) for row in sorted(found, key=order)]

    async def set_aging(self, connection: Connection, aging_s: float) -> None:
        """As the verb of the store says."""
        await connection.run(SQL["aging_lock"])
        self.rows += len(await connection.rows(SQL["aging_set"], aging_s))
        self.aging_s = aging_s
        keys = {str(readable(row[0])) for row in await connection.rows(SQL["queued_limits"])}
        self.rows += await settle(connection, Changes(keys=keys), self.now_us)

    async def claim(
        self, connection: Connection, worker: str, limit: int, offers: Offers | None, suspects: bool
    ) -> tuple[list[Claim], bool]:
        """Take the jobs that come first in the queue. False: as many jobs of paused workflows were set aside as one
        transaction may, and there may be more to take."""
        components, resources = offered(offers)
        leased: list[int] = []
        room = SET_ASIDE_AT_ONCE
        while True:
            values = (worker, limit - len(leased), suspects, components, MAX_REQUIREMENTS, resources)
            rows = await connection.rows(SQL["claim"], *values)
            leased += [row["key"] for row in rows if not row["is_paused"]]
            queues = {row["requires"] for row in rows if row["is_paused"]}
            if not queues or room <= 0:
                break
            room -= len(await connection.rows(SQL["set_aside"], suspects, sorted(queues), SET_ASIDE_AT_ONCE))
        by_place = lambda row: (row["sort_at"], row["key"])  # noqa: E731
        claims = await self._claims_of(connection, dict.fromkeys(leased), by_place)
        return claims, not queues

    async def hold(self, connection: Connection, job_id: str, worker: str, request: Request) -> Held | None:
        """As the verb of the store says."""
        found = await connection.row(SQL["job_to_hold"], job_id)
        if found is None:
            return None
        key, owner, status = found["key"], found["owner"], found["status"]
        if status in FINAL:
            return Held(None, None, await connection.value(SQL["inbox_key"], key, request.key))
        await put_requests(connection, [(job_id, request)])
        self.rows += 1
        if owner is not None:
            return Held(None, owner)
        [claim] = await self.lease_all(connection, "lease", lambda row: row["key"], worker, key)
        return Held(claim, worker)

    async def hold_orphans(self, connection: Connection, worker: str, limit: int) -> list[Claim]:
        """As the verb of the store says."""
        await connection.rows(SQL["workers_dead"], self.now_us)
        return await self.lease_all(connection, "lease_orphans", lambda row: row["key"], worker, limit)

    # ── deleting ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def delete_final(self, connection: Connection, before_us: int, limit: int, within_s: float) -> int:
        """As the verb of the store says."""
        allowance, count = Allowance(within_s, self._clock), 0
        at = (-1, -1)  # (completed_us, key) behind which to look: jobs that have to stay are passed over
        while count < limit and not (count and allowance.is_spent):
            values = (*at, before_us, min(ROOTS_AT_ONCE, limit - count))
            found = await connection.rows(SQL["final_before"], *values)
            if not found:
                break
            at = (found[-1]["completed_us"], found[-1]["key"])
            count += await self.delete_trees(connection, found)
        return count

    async def delete_trees(self, connection: Connection, found: Sequence[Row]) -> int:
        """Delete these jobs, which are locked, with their attached children; one whose children are not all final
        stays. How many were deleted, children not counted."""
        roots = {row["id"]: row["key"] for row in found}
        if not roots:
            return 0
        children: dict[str, list[int]] = {job_id: [] for job_id in roots}
        kept: set[str] = set()
        for row in await connection.rows(SQL["attached"], list(roots)):
            children[row["root"]].append(row["key"])
            if not row["may_go"]:
                kept.add(row["root"])
        keys = [key for job_id in roots if job_id not in kept for key in (roots[job_id], *children[job_id])]
        if keys:
            self.rows += len(await connection.rows(SQL["delete"], keys))
        return len(roots) - len(kept)


def offered(offers: Offers | None) -> tuple[list[str] | None, str]:
    """What a worker has, as statements take it: the components, and the amounts of resources as JSON."""
    components = None if offers is None else list(offers.components)
    amounts = {} if offers is None else {name: amount_of(units) for name, units in offers.capacities.items()}
    return components, encode(amounts).decode()


def _once_per_job(commits: Sequence[Operation]) -> list[list[Operation]]:
    """The commits in as many parts as it takes to have each job only once in a part: a repetition comes after what it
    repeats."""
    parts: list[dict[int, Operation]] = [{}]
    for operation in commits:
        key = operation.argument.claim.handle
        for part in parts:
            if key not in part:
                part[key] = operation
                break
        else:
            parts.append({key: operation})
    return [list(part.values()) for part in parts if part]
