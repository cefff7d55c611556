"""Limits where jobs are made: what `concurrency` means for the inputs of a job, and children that are refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from openagents_json.errors import ExpressionError, InvalidInputs, LimitReached, Problem
from openagents_json.job.machine import Child, ChildSpec, Decision, Spawn
from openagents_json.job.store.limits import ALL_JOBS, Limit, limit_key
from openagents_json.workflow import InputNames, Plan, limits


def limit_of(plan: Plan, inputs: Mapping[str, Any]) -> Limit | None:
    """The limit of a job with these inputs, validated already; None if its workflow has none. `InvalidInputs` when the
    key cannot be worked out of them, or is too long."""
    given = plan.workflow.limit
    if given is None:
        return None
    value = ALL_JOBS
    if plan.limit_key is not None:
        try:
            value = plan.limit_key.render(InputNames(inputs))
        except ExpressionError as error:
            raise _invalid(f"The key of `concurrency` cannot be worked out of them. {error}") from None
    key = limit_key(plan.workflow.id, value)
    length = len(key) - len(plan.workflow.id) - 1
    if length > limits.CONCURRENCY_KEY_CHARACTERS:
        at_most = limits.CONCURRENCY_KEY_CHARACTERS
        raise _invalid(f"The key of `concurrency` has {length:,} characters as JSON; {at_most} are allowed.")
    return Limit(key, given.limit, given.hold, given.overflow)


def _invalid(message: str) -> InvalidInputs:
    return InvalidInputs([Problem("$", message)])


# Limits that the children of a turn have met, by key: why no more of them may start, and how many may.
Rooms: TypeAlias = dict[str, tuple[LimitReached, int]]


class ChildrenWithin:
    """Makes the children of a turn, as `machine.Spawn` does, until a limit refuses one: `LimitReached`."""

    def __init__(self, make: Spawn, rooms: Rooms) -> None:
        self._make = make
        self._rooms = dict(rooms)

    def __call__(self, spec: ChildSpec) -> Child:
        child = self._make(spec)
        limit = child.job[0].limit
        if limit is not None and limit.overflow == "reject" and limit.key in self._rooms:
            refusal, left = self._rooms[limit.key]
            if left <= 0:
                raise refusal
            self._rooms[limit.key] = refusal, left - 1
        return child


def children_before(decision: Decision, refusal: LimitReached) -> int:
    """How many of a turn's children come before the one that was refused, of those with the same limit."""
    count = 0
    for child in decision.children:
        limit = child.job[0].limit
        if child.job_id == refusal.job_id:
            break
        count += limit is not None and limit.overflow == "reject" and limit.key == refusal.key
    return count
