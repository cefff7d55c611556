"""What is asked of jobs: a request is put into a job's inbox, and if nobody holds the job, carried out here and now."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterable, Iterable, Sequence
from typing import Any

from openagents_json.clock import Clock
from openagents_json.errors import InvalidTransition, JobNotFound, LeaseLost, StoreError, StoreUnavailable
from openagents_json.ids import uuid7
from openagents_json.job.engine.runner import First
from openagents_json.job.engine.settle import Settler
from openagents_json.job.engine.worker import Worker
from openagents_json.job.machine import Decision, Verb, allowed_verbs, is_repeated, spoken
from openagents_json.job.store.base import JobStore
from openagents_json.job.store.records import Claim, Request

ALLOWED_UNTIL_FINAL: tuple[Verb, ...] = ("signal", "set_priority")  # and the store knows a job that is final
ASK_TRIES = 20  # a request that meets a job in the middle of a hand-over looks again so often
ASKED_AT_ONCE = 256  # jobs that are asked the same, in one transaction


class Asker:
    """One per manager."""

    def __init__(self, store: JobStore, worker: Worker, settler: Settler, clock: Clock) -> None:
        self._store = store
        self._worker = worker
        self._settler = settler
        self._clock = clock

    async def ask(
        self,
        job_id: str,
        verb: Verb,
        by: str | None,
        reason: str | None,
        payload: dict[str, Any] | None = None,
        *,
        key: str | None = None,
    ) -> None:
        """Put a request into the job's inbox; return when it is durable, and where nobody holds the job, carried out.
        `JobNotFound`, `InvalidTransition` when that is not allowed now."""
        if key is None and verb not in ALLOWED_UNTIL_FINAL:
            await self._refuse_early(job_id, verb)
        request = self._request(verb, by, reason, payload, key)
        for _ in range(ASK_TRIES):
            with contextlib.suppress(LeaseLost):  # it changed hands: look again
                decision = await self._ask_once(job_id, verb, request)
                for refused, error in decision.refused:
                    if refused.key == request.key:
                        raise error
                return
        raise StoreError(f"Job {job_id} changed hands {ASK_TRIES} times while it was asked to {verb}. Try again.")

    async def ask_all(
        self, job_ids: AsyncIterable[str], verb: Verb, by: str | None, reason: str | None, payload: dict[str, Any]
    ) -> int:
        """Ask the same of many jobs, many in a transaction, what is allowed in every status but the final ones; those
        that have ended or are unknown are passed over. How many were asked; that is durable, and where nobody holds a
        job, carried out."""
        asked, batch = 0, dict[str, None]()
        async for job_id in job_ids:
            batch[job_id] = None
            if len(batch) == ASKED_AT_ONCE:
                asked += await self._shielded(batch, verb, by, reason, payload)
                batch = {}
        return asked + (await self._shielded(batch, verb, by, reason, payload) if batch else 0)

    def _request(
        self, verb: Verb, by: str | None, reason: str | None, payload: dict[str, Any] | None, key: str | None = None
    ) -> Request:
        now_us = self._clock.now_us()
        return Request(f"{verb}:{key or uuid7(now_us)}", verb, by, reason, now_us, payload or {})

    async def _ask_once(self, job_id: str, verb: Verb, request: Request) -> Decision:
        """What was decided if it was here and now. `LeaseLost` when somebody took the job meanwhile."""
        answer: First = self._worker.loop.create_future()
        asking = self._worker.spawn(self._put(job_id, verb, request, answer), f"{verb} {job_id}")
        asking.add_done_callback(lambda done: answer.cancel())  # of one that was ended without an answer
        try:
            return await answer
        except (asyncio.CancelledError, LeaseLost):
            if asking.cancelled():
                raise StoreUnavailable(f"The manager was closed while job {job_id} was asked to {verb}.") from None
            raise

    async def _put(self, job_id: str, verb: Verb, request: Request, answer: First) -> None:
        """Runs in a task of its own, since a lease taken on the way has to be given back whatever becomes of the asker.
        If the worker takes the job over, this task goes on and runs it; the asker has its answer before."""
        try:
            held = await self._worker.leases.hold(job_id, request)
            if held is None:
                raise JobNotFound(job_id)
            decision = Decision()
            if held.claim is not None:
                try:
                    if (runner := await self._settler.offer(held.claim, (), answer)) is not None:
                        await self._worker.run(runner)
                        return
                    decision = await self._settler.settle(held.claim, may_run=False)
                except StoreUnavailable:
                    self._worker.settle_later(held.claim)  # what the asker waits for is durable
            elif held.owner == self._worker.id:
                self._worker.inbox_changed(job_id)
            elif held.owner is None and not held.is_repeated:
                await self._refuse_early(job_id, verb)  # it is final
        except Exception as error:
            if not answer.done():  # else the asker has gone away
                answer.set_exception(error)
        else:
            if not answer.done():
                answer.set_result(decision)

    async def _shielded(
        self, job_ids: Iterable[str], verb: Verb, by: str | None, reason: str | None, payload: dict[str, Any]
    ) -> int:
        """In a task of its own, for the same reason."""
        requests = [(job_id, self._request(verb, by, reason, payload)) for job_id in job_ids]
        asking = self._worker.spawn(self._put_all(requests), f"{verb} of {len(requests)} jobs")
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            if asking.cancelled():
                raise StoreUnavailable(f"The manager was closed while jobs were asked to {verb}.") from None
            raise

    async def _put_all(self, requests: Sequence[tuple[str, Request]]) -> int:
        """How many took it."""
        asked, claims = 0, list[Claim]()
        error: BaseException | None = None
        answers = await self._worker.leases.hold_all(requests)
        for (job_id, _), held in zip(requests, answers, strict=True):
            if isinstance(held, BaseException):
                error = held
            elif held is not None and (held.claim is not None or held.owner is not None):
                asked += 1
                if held.claim is not None:
                    claims.append(held.claim)
                elif held.owner == self._worker.id:
                    self._worker.inbox_changed(job_id)
        for claim in await self._settler.settle_all(claims):
            self._worker.settle_later(claim)
        await self._worker.settle_requested()  # that came while we held them
        if error is not None:
            raise error
        return asked

    async def _refuse_early(self, job_id: str, verb: Verb) -> None:
        """`InvalidTransition` for what is plainly not allowed, judged by what is shown: the row and the inbox."""
        # The inbox first: a request that is drained between the two readings then shows in the row.
        requests = await self._store.read_requests(job_id)
        summary = await self._store.read_summary(job_id)
        if summary is None:
            raise JobNotFound(job_id)
        status, paused = summary.status, summary.pause_requested
        if not status.is_final:
            for request in requests:
                paused = {"pause": True, "resume": False}.get(request.kind, paused)
        if is_repeated(verb, status, paused) or verb in allowed_verbs(status, paused):
            return
        raise InvalidTransition(job_id, spoken(verb), status, allowed_verbs(status, paused))
