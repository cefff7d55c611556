"""The leases of one worker: every verb of the store that begins or ends one goes through here, so that the engine knows
which it has.

When the answer of a lease-taking verb gets lost, the store has perhaps given this worker a job that it does not know
of, and nobody else takes the job while the worker lives. So after such a failure the worker asks the store which leases
it has, and takes those anew that nobody here was told of.

Danger: such a lease must not be one whose answer is still on its way to somebody here. That is excluded in two steps:

- Who is in the reading was leased by a call that began before the reading was answered. So the calls that are on their
  way at that moment are waited for; afterwards each lease in the reading was told to somebody, or its answer is lost.
  Calls that begin later cannot be in the reading, and nobody waits for them.
- What was told may have ended meanwhile, and the job may be leased again. So a lease is taken anew only under the epoch
  that was read: of any other, `hold_again` lets go.

Should both fail, the epoch still protects the job: whoever has an old one cannot commit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from itertools import islice
from typing import Any, TypeVar

from openagents_json.errors import LeaseLost
from openagents_json.job.model import JobStatus
from openagents_json.job.store.base import JobStore
from openagents_json.job.store.records import Claim, Commit, Held, NewJob, Request
from openagents_json.resources import Offers

# A transaction whose connection was lost may still be on its way to the server, or wait there for the disk, and be
# committed after we have looked. So it is looked for so often, once in `worker.RECOVER_S`: for 30 s, which is longer
# than a server lets a transaction live that nobody goes on with.
LOOKS = 9

T = TypeVar("T")


class Leases:
    """Used by one event loop."""

    def __init__(self, store: JobStore, worker: str) -> None:
        self._store = store
        self._worker = worker
        # Epochs of the leases that somebody here was told of, by job id. Set when the store answers; forgotten when it
        # says that the lease has ended. Whoever was told sees to the job until then.
        self._told: dict[str, int] = {}
        self._asking: set[asyncio.Future[None]] = set()  # one for each lease-taking call that is not answered
        self._in_doubt = asyncio.Event()  # there may be leases that nobody was told of
        self._looks_left = 0  # how often they are still looked for while that is set

    # ── the verbs that begin a lease; as those of the store ───────────────────────────────────────────────────────

    async def claim(self, limit: int, offers: Offers | None = None, *, suspects: bool = False) -> list[Claim]:
        return await self._ask(self._store.claim(self._worker, limit, offers, suspects=suspects), _all)

    async def hold(self, job_id: str, request: Request) -> Held | None:
        return await self._ask(self._store.hold(job_id, self._worker, request), _held)

    async def hold_all(self, requests: Sequence[tuple[str, Request]]) -> Sequence[Held | BaseException | None]:
        answers = await self._ask(self._store.hold_all(self._worker, requests), _each_held)
        if any(isinstance(answer, BaseException) for answer in answers):
            self._doubt()
        return answers

    async def create_held(self, job: NewJob) -> Claim | None:
        return await self._ask(self._store.create_held(job), _one)

    async def hold_due(self, limit: int) -> list[Claim]:
        return await self._ask(self._store.hold_due(self._worker, limit), _all)

    async def hold_orphans(self, limit: int) -> list[Claim]:
        return await self._ask(self._store.hold_orphans(self._worker, limit), _all)

    async def hold_requested(self, limit: int) -> list[Claim]:
        return await self._ask(self._store.hold_requested(self._worker, limit), _all)

    async def _ask(self, verb: Coroutine[Any, Any, T], claims_in: Callable[[T], Iterable[Claim]]) -> T:
        over = asyncio.get_running_loop().create_future()
        self._asking.add(over)
        try:
            answer = await verb
        except BaseException:  # also of a caller that does not wait any more
            self._doubt()
            raise
        else:
            for claim in claims_in(answer):
                self._told[claim.job_id] = max(claim.epoch, self._told.get(claim.job_id, 0))
            return answer
        finally:
            self._asking.discard(over)
            over.set_result(None)

    # ── the verbs that end one ────────────────────────────────────────────────────────────────────────────────────

    async def commit(self, commit: Commit) -> None:
        try:
            await self._store.commit(commit)
        except LeaseLost as lost:
            self._committed(commit, lost)
            raise
        self._committed(commit, None)

    def _committed(self, commit: Commit, error: BaseException | None) -> None:
        if isinstance(error, LeaseLost) or (error is None and commit.row.status != JobStatus.RUNNING):
            self.ended(commit.claim)

    async def commit_all(self, commits: Sequence[Commit]) -> Sequence[BaseException | None]:
        errors = await self._store.commit_all(commits)
        for commit, error in zip(commits, errors, strict=True):
            self._committed(commit, error)
        return errors

    async def release(self, claim: Claim) -> None:
        await self._store.release(claim)
        self.ended(claim)

    def ended(self, claim: Claim) -> None:
        """This lease is over, as the store says."""
        if self._told.get(claim.job_id) == claim.epoch:  # else the job has been leased again meanwhile
            del self._told[claim.job_id]

    def abandon(self, claim: Claim) -> None:
        """Whoever was told of this lease has failed and does not see to the job any more."""
        self.ended(claim)
        self._doubt()

    # ── leases that nobody was told of ────────────────────────────────────────────────────────────────────────────

    def _doubt(self) -> None:
        self._looks_left = LOOKS
        self._in_doubt.set()

    async def wait_doubt(self) -> None:
        """Return when there may be leases that nobody was told of."""
        await self._in_doubt.wait()

    async def hold_again(self, limit: int) -> list[Claim]:
        """Take up to `limit` leases anew that the store has given us and that nobody here was told of. Empty when there
        are none; to be asked again after a while as long as there is doubt."""
        given = await self._store.read_leases(self._worker)
        if self._asking:
            await asyncio.wait(self._asking)
        untold = ((job_id, epoch) for job_id, epoch in given.items() if self._told.get(job_id, 0) < epoch)
        if chosen := dict(islice(untold, limit)):
            return await self._ask(self._store.hold_again(self._worker, chosen), _all)
        self._looks_left -= 1
        if self._looks_left <= 0:
            self._in_doubt.clear()
        return []


def _all(claims: list[Claim]) -> Iterable[Claim]:
    return claims


def _one(claim: Claim | None) -> Iterable[Claim]:
    return [] if claim is None else [claim]


def _held(held: Held | BaseException | None) -> Iterable[Claim]:
    return [held.claim] if isinstance(held, Held) and held.claim is not None else []


def _each_held(answers: Sequence[Held | BaseException | None]) -> Iterable[Claim]:
    return (claim for held in answers for claim in _held(held))
