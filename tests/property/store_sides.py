"""One question to the model and to every store, and the answers compared.

What a store numbers as it likes (handles of jobs, sequences of requests and output, keys of leaks) is taken out of the
answers before; a `Side` remembers these numbers to ask its store with.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from openagents_json.errors import OpenAgentsError
from openagents_json.job.store.base import JobStore
from openagents_json.job.store.output import StoredOutput
from openagents_json.job.store.records import (
    Claim,
    Commit,
    Held,
    Listed,
    Request,
    StoredJob,
    StoredLeak,
)

T = TypeVar("T")


@dataclass
class Side:
    """One store, and its numbers for what the model knows by other ones."""

    name: str
    store: JobStore
    handles: dict[str, int] = field(default_factory=dict)
    sequences: dict[tuple[str, str], int] = field(default_factory=dict)  # of requests, by (job id, key)

    def claim(self, claim: Claim) -> Claim:
        """A claim of the model, as this store gave it."""
        return replace(claim, handle=self.handles[claim.job_id])

    def commit(self, commit: Commit, drains: list[Request]) -> Commit:
        """A commit of the model that answers these requests, for this store."""
        job_id = commit.claim.job_id
        drained = [self.sequences[job_id, request.key] for request in drains]
        return replace(commit, claim=self.claim(commit.claim), drained=drained)

    async def read_requests(self, job_id: str) -> list[Request]:
        """The store's answer, its sequences remembered."""
        return self._requests(job_id, await self.store.read_requests(job_id))

    def plain(self, answer: Any) -> Any:
        """The answer without the store's own numbers, which are remembered."""
        match answer:
            case Claim():
                self.handles[answer.job_id] = answer.handle
                return replace(answer, handle=0, requests=self._requests(answer.job_id, answer.requests))
            case Held(claim=Claim()):
                return replace(answer, claim=self.plain(answer.claim))
            case StoredJob():
                return replace(answer, requests=self._requests(answer.summary.id, answer.requests))
            case Listed(summary, (value, handle)):
                self.handles[summary.id] = handle
                return summary, value
            case Request():
                return replace(answer, sequence=0)
            case StoredOutput():
                return replace(answer, sequence=0, pieces=list(answer.pieces))
            case StoredLeak():
                return replace(answer, key=0)
            case list():
                return [self.plain(one) for one in answer]
        return answer

    def _requests(self, job_id: str, requests: list[Request]) -> list[Request]:
        self.sequences.update(((job_id, request.key), request.sequence) for request in requests)
        return self.plain(requests)  # type: ignore[no-any-return]


class Sides:
    """The model's answer and those of all stores."""

    def __init__(self, sides: list[Side]) -> None:
        self.sides = sides
        self._model = Side("model", sides[0].store)  # takes the model's numbers out of its answers

    async def ask(
        self,
        question: str,
        expected: Callable[[], T],
        asked: Callable[[Side], Awaitable[T]],
        *,
        in_order: bool = True,
    ) -> T | str:
        """The model's answer, or the name of its error; AssertionError if a store has another one. Without `in_order`,
        a list may come in any order (of job ids)."""
        try:
            answer: T | str = expected()
        except OpenAgentsError as error:
            answer = type(error).__name__
        wanted = _ordered(self._model.plain(answer), in_order)
        for side, given in zip(self.sides, await asyncio.gather(*map(_outcome(asked), self.sides)), strict=True):
            got = _ordered(side.plain(given), in_order)
            assert got == wanted, f"{question}: {side.name} answers\n{got}\nand not\n{wanted}"
        return answer


def _outcome(asked: Callable[[Side], Awaitable[T]]) -> Callable[[Side], Awaitable[T | str]]:
    async def outcome(side: Side) -> T | str:
        try:
            return await asked(side)
        except OpenAgentsError as error:
            return type(error).__name__

    return outcome


def _ordered(answer: Any, in_order: bool) -> Any:
    if in_order or not isinstance(answer, list):
        return answer
    return sorted(answer, key=lambda one: one if isinstance(one, str) else one.job_id)
