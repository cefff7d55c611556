"""Random operations of a store, each asked of the model and of all stores.

An operation is a name and a number that its choices follow from. What it needs of the past (claims, commits, jobs) it
takes from what the model has answered so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import TypeVar, get_args
from uuid import UUID

from openagents_json.errors import IdempotencyConflict
from openagents_json.job.machine import Claimed, Happening, Interrupted, Leak, Tick
from openagents_json.job.model import JobPriority, JobStatus
from openagents_json.job.store.arrival import DEFAULT_AGING_S
from openagents_json.job.store.contract.jobs import (
    CALLS,
    ELSEWHERE,
    OTHER_CALLS,
    QUIET,
    RETRY_LATER,
    Holder,
    new_job,
    request,
)
from openagents_json.job.store.contract.leases import having
from openagents_json.job.store.contract.resources import needing
from openagents_json.job.store.limits import Hold, Limit, Overflow
from openagents_json.job.store.output import OutputChunk, Piece
from openagents_json.job.store.records import (
    Claim,
    Commit,
    Held,
    NewJob,
    Request,
    WorkerInfo,
    first_claim,
)
from openagents_json.job.store.rules import SUSPECT_DEATHS
from openagents_json.resources import Offers
from openagents_json.testing import FakeClock
from tests.faults.sizes import Hits
from tests.property.limits_model import is_blocked
from tests.property.store_looks import ALL, WORKERS, Choice, Looks
from tests.property.store_model import Model, ModelJob
from tests.property.store_sides import Side, Sides

T = TypeVar("T")

GPU = needing(gpu=1.5)
GPUS = having("tool.first", gpu=2)
KEPT = 40  # claims, commits and requests that are remembered, the latest ones
STUCK = {"type": "door.stuck", "message": "Stuck", "step": "first", "attempt": 1, "retryable": None, "details": None}
# Of few keys, so that jobs stand in each other's way; jobs of one key differ as those of two versions of a workflow.
LIMITS = [
    Limit(key, limit, hold, overflow)
    for key, limit in (("calls", 1), ('calls "acme"', 1), ('calls "acme"', 2))
    for hold in get_args(Hold)
    for overflow in get_args(Overflow)
]
LOOKS = ("look", "page")
WEIGHTS = {
    "create": 4, "create_all": 2, "create_held": 1, "claim": 5, "hold": 4, "hold_repeated": 2, "hold_due": 3,
    "hold_orphans": 1, "hold_requested": 1, "hold_again": 2, "release": 1, "commit": 14, "commit_again": 2,
    "register": 1, "heartbeat": 1, "unregister": 1, "bury": 1, "die": 2, "thread_ended": 1, "pass": 3,
    "append_output": 1, "delete": 1, "delete_final": 1, "retry_leak": 1, "look": 3, "page": 1,
}  # fmt: skip
WINDOWS = (
    "known key", "conflict", "known id", "held at once", "suspect", "asked again", "due", "orphan", "requested",
    "again", "LeaseLost", "RequestsPending", "repeated", "post", "child", "leak", "thread", "snapshot", "deleted",
    "swept", "cut output", "second page", "blocked", "let in", "made way",
    "replaced", "LimitReached", "StoreError",
)  # fmt: skip


class Script:
    """What was done so far, and how each operation goes on from there."""

    def __init__(self, sides: Sides, clock: FakeClock, hits: Hits) -> None:
        self._sides = sides
        self._clock = clock
        self._hits = hits
        self._model = Model(clock)
        self._looks = Looks(sides, self._model, hits)
        self._accepted: list[NewJob] = []
        self._claims: list[Claim] = []
        self._commits: list[tuple[Commit, list[Request]]] = []
        self._requests: list[tuple[str, Request]] = []
        self._asked = 0
        self._ids = Random(0)  # of jobs: the same ones each time, and not in the order in which they come
        self._are_dead_counted = True  # whether all stores have the same workers to bury

    async def do(self, name: str, number: int) -> None:
        """One operation, and a look at all rows."""
        where = self._looks if name in LOOKS else self
        before = self._limited()
        await getattr(where, name if name in LOOKS else f"_{name}")(Choice(number))
        await self._looks.list({}, "-created_at", ALL)
        await self._sides.ask("next_due_us", self._model.next_due_us, lambda side: side.store.next_due_us())
        for job_id, now in self._limited().items():
            was_blocked, had_slot, was_replaced = before.get(job_id, (False, False, False))
            is_blocked, has_slot, is_replaced = now
            self._hits.count("blocked", is_blocked > was_blocked)
            self._hits.count("let in", was_blocked and has_slot)
            self._hits.count("made way", had_slot and is_blocked)
            self._hits.count("replaced", is_replaced > was_replaced)

    def _limited(self) -> dict[str, tuple[bool, bool, bool]]:
        """Of each job with a limit whether it is blocked, has a slot, and was asked to make way for a newer one."""
        jobs = [job for job in self._model.jobs.values() if job.limit is not None]
        return {job.id: (is_blocked(job), job.has_slot, "replaced" in job.keys) for job in jobs}

    async def finish(self) -> None:
        """Look at all that is there in the end."""
        for job_id in self._model.jobs:
            await self._looks.look_at_job(job_id, Choice(0))
        for worker in WORKERS:
            await self._looks.look_at_worker(worker)

    # ── accepting ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _new(self, choice: Choice) -> NewJob:
        again = [job for job in self._accepted[-KEPT:] if job.job_id in self._model.jobs]
        document = choice.of((CALLS, CALLS, QUIET, OTHER_CALLS, ELSEWHERE, GPU))
        if again and choice.once_in(6):
            self._hits.count("known id")
            return choice.of(again)
        job = new_job(
            self._clock,
            document,
            job_id=self._new_id(),
            priority=choice.of(tuple(JobPriority)),
            start_in_s=choice.of((None, None, None, None, 45.0)),
            start=choice.of((True, True, True, False)),
            key=choice.of((None, None, "k1", "k2")),
            body=choice.of(("body", "body", "other")),
            tags=choice.of(((), ("red",), ("blue", "red"))),
        )
        limit = choice.of(LIMITS) if choice.once_in(2) else None
        return replace(job, origin_id=choice.of([None, None, *self._model.jobs]), limit=limit)

    def _new_id(self) -> str:
        return str(UUID(int=self._ids.getrandbits(128)))

    async def _create(self, choice: Choice) -> None:
        job = self._new(choice)
        answer = await self._sides.ask("create", lambda: self._model.create(job), lambda side: side.store.create(job))
        self._note_created([job], [answer])

    async def _create_all(self, choice: Choice) -> None:
        jobs = [self._new(choice) for _ in range(choice.of((2, 3, 1, 0)))]
        answer = await self._sides.ask(
            "create_all", lambda: self._model.create_all(jobs), lambda side: side.store.create_all(jobs)
        )
        self._note_created(jobs, answer if isinstance(answer, list) else [answer])

    def _note_created(self, jobs: list[NewJob], answers: Sequence[str | None]) -> None:
        self._accepted += jobs
        if IdempotencyConflict.__name__ in answers:
            self._hits.count("conflict")
        elif {job.job_id for job in jobs} - set(answers):
            self._hits.count("known key")

    async def _create_held(self, choice: Choice) -> None:
        worker = choice.of(WORKERS)
        job = replace(self._new(choice), owner=worker, limit=None)
        if job.row.status != JobStatus.QUEUED:
            return
        if choice.of((True, False)) and job.job_id not in self._model.jobs:
            holder = self._holder(first_claim(job, 0, DEFAULT_AGING_S))
            commit = holder.commit_of(holder.started())
            owner = worker if commit.row.status == JobStatus.RUNNING else None
            if owner is None:
                return
            job = replace(job, row=commit.row, events=[*job.events, *commit.events])
        claim = await self._sides.ask(
            "create_held", lambda: self._model.create_held(job), lambda side: side.store.create_held(job)
        )
        if isinstance(claim, Claim):
            self._hits.count("held at once")
            self._remember([claim])

    # ── leases ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _remember(self, claims: object) -> int:
        new = [claim for claim in claims if isinstance(claim, Claim)] if isinstance(claims, list) else []
        self._claims = [*self._claims, *new][-KEPT:]
        return len(new)

    async def _claim(self, choice: Choice) -> None:
        worker, limit = choice.of(WORKERS), choice.of((2, 1, 5))
        offers = choice.of((None, None, having("tool.first", "tool.second"), having("tool.other"), GPUS, having()))
        await self._take(worker, limit, offers, suspects=choice.of((False, False, True)))

    async def _take(self, worker: str, limit: int, offers: Offers | None, *, suspects: bool) -> None:
        claims = await self._sides.ask(
            f"claim of {limit} with {offers}, suspects {suspects}",
            lambda: self._model.claim(worker, limit, offers, suspects),
            lambda side: side.store.claim(worker, limit, offers, suspects=suspects),
        )
        self._hits.count("suspect", self._remember(claims) * suspects)

    async def _hold(self, choice: Choice) -> None:
        blocked = [job.id for job in self._model.jobs.values() if is_blocked(job)]
        any_job = [*self._model.jobs, "no-such-job"]
        job_id = choice.of(blocked if blocked and choice.once_in(3) else any_job)
        worker = choice.of(WORKERS)
        kind = choice.of(("pause", "resume", "cancel", "start", "set_priority"))
        self._asked += choice.of((1, 1, 0))  # else a key that may have been used for the job before
        payload = {"priority": str(choice.of(tuple(JobPriority)))} if kind == "set_priority" else {"force": False}
        asked = request(kind, f"{kind}{self._asked}", **payload)
        self._requests = [*self._requests, (job_id, asked)][-KEPT:]
        await self._post(job_id, worker, asked)

    async def _hold_repeated(self, choice: Choice) -> None:
        """A request that was made before, most of all of jobs that have ended since."""
        ended = [(job_id, asked) for job_id, asked in self._requests[::-1] if self._is_final(job_id)]
        if self._requests:
            job_id, asked = choice.of(ended or self._requests[::-1])
            await self._post(job_id, choice.of(WORKERS), asked)

    def _is_final(self, job_id: str) -> bool:
        job = self._model.jobs.get(job_id)
        return job is not None and job.row.status.is_final

    async def _post(self, job_id: str, worker: str, asked: Request) -> None:
        held = await self._sides.ask(
            "hold", lambda: self._model.hold(job_id, worker, asked), lambda side: side.store.hold(job_id, worker, asked)
        )
        if isinstance(held, Held):
            self._hits.count("asked again", held.is_repeated)
            self._remember([held.claim])

    async def _hold_due(self, choice: Choice) -> None:
        worker, limit = choice.of(WORKERS), choice.of((5, 1))
        claims = await self._sides.ask(
            "hold_due",
            lambda: self._model.hold_due(worker, limit),
            lambda side: side.store.hold_due(worker, limit),
        )
        self._hits.count("due", self._remember(claims))

    async def _hold_requested(self, choice: Choice) -> None:
        worker, limit = choice.of(WORKERS), choice.of((5, 1))
        claims = await self._sides.ask(
            "hold_requested",
            lambda: self._model.hold_requested(worker, limit),
            lambda side: side.store.hold_requested(worker, limit),
        )
        self._hits.count("requested", self._remember(claims))

    async def _hold_orphans(self, choice: Choice) -> None:
        await self._rescue(choice.of(WORKERS))

    async def _rescue(self, worker: str) -> None:
        """Take all orphans: which come first is not promised. A store may bury their owners with that."""
        await self._end_threads_of_the_dead()
        self._are_dead_counted = False
        claims = await self._sides.ask(
            "hold_orphans",
            lambda: self._model.hold_orphans(worker),
            lambda side: side.store.hold_orphans(worker, ALL),
            in_order=False,
        )
        self._hits.count("orphan", self._remember(claims))

    async def _hold_again(self, choice: Choice) -> None:
        worker = choice.of(WORKERS)
        leases = {job_id: epoch - choice.of((0, 0, 1)) for job_id, epoch in self._model.read_leases(worker).items()}
        claims = await self._sides.ask(
            "hold_again",
            lambda: self._model.hold_again(worker, leases),
            lambda side: side.store.hold_again(worker, leases),
            in_order=False,
        )
        self._hits.count("again", self._remember(claims))

    async def _release(self, choice: Choice) -> None:
        if self._claims:
            await self._give_back(choice.of(self._claims[::-1]))

    async def _give_back(self, claim: Claim) -> None:
        await self._sides.ask(
            "release", lambda: self._model.release(claim), lambda side: side.store.release(side.claim(claim))
        )

    # ── commits ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _holder(self, claim: Claim) -> Holder:
        return Holder(self._clock, claim)

    async def _commit(self, choice: Choice) -> None:
        """The next events of a job under one of the claims, mostly a good one."""
        if not self._claims:
            return
        good = [claim for claim in self._claims[::-1] if self._model.renewed(claim) is not claim]
        told = choice.of(self._claims[::-1]) if not good or choice.once_in(12) else choice.of(good)
        claim = told if choice.once_in(12) else self._model.renewed(told)
        holder = self._holder(claim)
        drains = [] if choice.once_in(4) else list(claim.requests)
        snapshot = choice.once_in(4)
        commit = holder.commit_of(*self._happenings(holder, choice), drains=drains, snapshot=snapshot)
        if not commit.events and not drains:
            await self._give_back(claim)
            return
        await self._looks.read_requests(claim.job_id)  # some came in after the claim
        commit = self._with_company(commit, choice)
        if choice.once_in(6):
            self._asked += 1
            await self._post(claim.job_id, choice.of(WORKERS), request("pause", f"late{self._asked}", force=False))
        if claim is not told and choice.once_in(20):  # of an outdated one it might be right by chance
            commit = replace(commit, expected=commit.expected + choice.of((1, -1)))
        if choice.once_in(20):
            commit = replace(commit, claim=replace(claim, owner="thief"))
        self._commits = [*self._commits, (commit, drains)][-KEPT:]
        if await self._write(commit, drains) is None:
            self._hits.count("post", len(commit.posts))
            self._hits.count("child", len(commit.children))
            self._hits.count("leak", len(commit.leaks))
            self._hits.count("thread", commit.abandoned)
            self._hits.count("snapshot", commit.snapshot is not None)

    def _happenings(self, holder: Holder, choice: Choice) -> list[Happening]:
        dead = holder.claim.previous_owner
        if holder.status == JobStatus.QUEUED:
            return [Tick() if holder.claim.needs_queue and not choice.once_in(2) else holder.started()]
        if holder.status != JobStatus.RUNNING:
            return [Tick()]
        if dead is not None and not choice.once_in(4):
            return [Interrupted(dead)]
        for path in ("first", "second"):
            if (run := holder.state.runs.get(path)) is not None and run.live:
                match choice.of(("succeed", "succeed", "retry", "fail", "abandon", "wait")):
                    case "succeed":
                        return [holder.succeeded(path)]
                    case "retry":
                        return [holder.failed(path, retry=RETRY_LATER)]
                    case "fail":
                        return [holder.failed(path, "It broke")]
                    case "abandon":
                        return [holder.failed(path, retry=RETRY_LATER, abandoned=True)]
        return [Tick()]

    def _with_company(self, commit: Commit, choice: Choice) -> Commit:
        """The commit, perhaps with children, a post or a leak. What comes with an event comes with one only: a commit
        without events is no other one when it is made again."""
        job_id, final = commit.claim.job_id, commit.row.status.is_final
        if commit.events and choice.once_in(6):
            made = [self._child(job_id, choice) for _ in range(choice.of((1, 1, 2)))]
            commit = replace(commit, children=[one for one in made if not (final and one.parent_id)])
        if choice.once_in(6):
            others = [one for one in self._model.jobs if one != job_id]
            to = choice.of([*others, "no-such-job"])
            commit = replace(commit, posts=[(to, request("pause", choice.of(("p1", "p2")), force=False))])
        if commit.events and choice.once_in(6):
            name = choice.of(("vm", "door"))
            commit = replace(
                commit, leaks=[Leak(f"first:{name}:{commit.expected}", "first", name, "tool.free", {"n": 1}, STUCK)]
            )
        return commit

    def _child(self, parent_id: str, choice: Choice) -> NewJob:
        """A job that is on in its parent's slot, or one by itself, perhaps with a limit."""
        document, priority = choice.of((QUIET, CALLS)), choice.of(tuple(JobPriority))
        start = choice.of((True, True, False))
        child = new_job(self._clock, document, job_id=self._new_id(), priority=priority, start=start)
        if choice.of((True, False)):
            return replace(child, parent_id=parent_id)
        return replace(child, limit=choice.of([None, *LIMITS]))

    async def _write(self, commit: Commit, drains: list[Request]) -> object:
        answer = await self._sides.ask(
            f"commit of {commit.claim.job_id} after {commit.expected} in epoch {commit.claim.epoch}",
            lambda: self._model.commit(commit),
            lambda side: side.store.commit(side.commit(commit, drains)),
        )
        if isinstance(answer, str):
            self._hits.count(answer)
        return answer

    async def _commit_again(self, choice: Choice) -> None:
        """A commit that was made before, whatever became of it."""
        if self._commits:
            commit, drains = choice.of(self._commits[::-1])
            if await self._write(commit, drains) is None:
                self._hits.count("repeated")

    # ── workers ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _register(self, choice: Choice) -> None:
        worker = choice.of(WORKERS)
        info = WorkerInfo("host", choice.of((1, 2)), "1.0", choice.of(((), ("tool.first",))), 4)
        await self._sides.ask(
            "register_worker",
            lambda: self._model.register_worker(worker, info),
            lambda side: side.store.register_worker(worker, info),
        )

    async def _heartbeat(self, choice: Choice) -> None:
        worker = choice.of(WORKERS)
        await self._sides.ask(
            "heartbeat", lambda: self._model.heartbeat(worker), lambda side: side.store.heartbeat(worker)
        )

    async def _unregister(self, choice: Choice) -> None:
        await self._sign_off(choice.of(WORKERS))

    async def _sign_off(self, worker: str) -> None:
        await self._sides.ask(
            "unregister_worker",
            lambda: self._model.unregister_worker(worker),
            lambda side: side.store.unregister_worker(worker),
        )

    async def _die(self, choice: Choice) -> None:
        """The workers of a RUNNING job die, one after the other, until it is a suspect."""
        running = [job for job in self._model.jobs.values() if job.row.status == JobStatus.RUNNING]
        job = choice.of(running) if running else None
        while job is not None and job.row.status == JobStatus.RUNNING and job.owner is not None:
            dead = job.owner
            await self._sign_off(dead)
            await self._rescue(next(worker for worker in WORKERS if worker != dead))
            if not await self._go_on(job, Interrupted(dead)) or job.row.deaths >= SUSPECT_DEATHS:
                return
            await self._take(dead, ALL, None, suspects=False)
            await self._go_on(job, Claimed(dead, job.epoch))

    async def _go_on(self, job: ModelJob, happening: Happening) -> bool:
        """What follows from it, under the lease that the job has now; whether there was one."""
        claim = next((one for one in self._claims[::-1] if (one.job_id, one.epoch) == (job.id, job.epoch)), None)
        if claim is None or job.owner != claim.owner:
            return False
        commit = self._holder(self._model.renewed(claim)).commit_of(happening)
        return bool(commit.events) and await self._write(commit, []) is None

    async def _bury(self, choice: Choice) -> None:
        await self._end_threads_of_the_dead()
        is_known = self._are_dead_counted
        self._are_dead_counted = True

        async def asked(side: Side) -> int | None:
            count = await side.store.bury_workers()
            return count if is_known else None

        def expected() -> int | None:
            count = self._model.bury_workers()
            return count if is_known else None

        await self._sides.ask("bury_workers", expected, asked)

    async def _end_threads_of_the_dead(self) -> None:
        """Whether a worker whose lease has ended still runs its threads is known to a store on one machine only."""
        alive = {worker.id for worker in self._model.list_workers()}
        threads = [
            (job.id, worker, count) for job in self._model.jobs.values() for worker, count in job.threads.items()
        ]
        for job_id, worker, count in threads:
            for _ in range(count if worker not in alive else 0):
                await self._end_thread(job_id, worker)

    async def _thread_ended(self, choice: Choice) -> None:
        await self._end_thread(choice.of([*self._model.jobs, "no-such-job"]), choice.of(WORKERS))

    async def _end_thread(self, job_id: str, worker: str) -> None:
        await self._sides.ask(
            "thread_ended",
            lambda: self._model.thread_ended(job_id, worker),
            lambda side: side.store.thread_ended(job_id, worker),
        )

    async def _pass(self, choice: Choice) -> None:
        self._clock.advance(choice.of((1, 10, 31, 61, 4_000)))

    # ── output, deleting, leaks ───────────────────────────────────────────────────────────────────────────────────

    async def _append_output(self, choice: Choice) -> None:
        job_id, path = choice.of([*self._model.jobs, "no-such-job"]), choice.of(("first", "first.in", "second"))
        attempt = choice.of((1, 2))
        written = [one for one in self._model.read_output(job_id, path, attempt, 0, 1_000) if one.path == path]
        end = written[-1].last if written else 0
        again = choice.of((0, 1))
        if written and again:
            firsts = [choice.of([one.first for one in written])]  # once more
        else:  # an attempt writes in order, perhaps with gaps
            begin = end + choice.of((20, 0, 20))
            firsts = list(range(begin, begin + choice.of((10, 20, 0)), 10))
        chunks = [OutputChunk(at, at + 10, [Piece("stdout", self._clock.now_us(), "ü" * 5)]) for at in firsts]
        await self._sides.ask(
            "append_output",
            lambda: self._model.append_output(job_id, path, attempt, chunks),
            lambda side: side.store.append_output(job_id, path, attempt, chunks),
        )

    async def _delete(self, choice: Choice) -> None:
        job_id = choice.of([*self._model.jobs, "no-such-job"])
        gone = await self._sides.ask(
            "delete", lambda: self._model.delete(job_id), lambda side: side.store.delete(job_id)
        )
        self._hits.count("deleted", gone is True)

    async def _delete_final(self, choice: Choice) -> None:
        before_us = self._clock.now_us() - choice.of((0, -1, 31_000_000))
        limit = choice.of((1, 2, 9))
        count = await self._sides.ask(
            "delete_final",
            lambda: self._model.delete_final(before_us, limit),
            lambda side: side.store.delete_final(before_us, limit),
        )
        self._hits.count("swept", count if isinstance(count, int) else 0)

    async def _retry_leak(self, choice: Choice) -> None:
        index, drops = choice.of((0, 1, 2)), choice.of((False, True))

        async def asked(side: Side) -> bool:
            keys = [leak.key for leak in await side.store.list_leaks()]
            key = keys[index] if index < len(keys) else 10**9
            return await (side.store.drop_leak(key) if drops else side.store.note_leak(key, STUCK | {"attempt": 2}))

        await self._sides.ask(
            "drop_leak" if drops else "note_leak",
            lambda: self._model.drop_leak(index) if drops else self._model.note_leak(index, STUCK | {"attempt": 2}),
            asked,
        )
