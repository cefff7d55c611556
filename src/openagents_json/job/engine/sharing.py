"""Shares and deadlines where jobs are made: whose share a job counts to, and what it is expected to use."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from openagents_json.clock import SECOND_US, Clock
from openagents_json.errors import ExpressionError, InvalidInputs, Problem
from openagents_json.job.store.base import JobStore
from openagents_json.job.store.durations import WHOLE_JOB, by_step
from openagents_json.job.store.shares import UNKNOWN_US
from openagents_json.jsondata import encode
from openagents_json.workflow import InputNames, Plan, limits

FRESH_S = 5.0  # for so long what was read of a workflow is not read again
KEPT = 256  # workflows of which it is remembered


def share_of(plan: Plan, inputs: Mapping[str, Any]) -> str | None:
    """The key of the share of a job with these inputs, validated already; None if its workflow says nothing of it.
    `InvalidInputs` when the key cannot be worked out of them, or is too long. What is no text is taken as its JSON."""
    if plan.share_key is None:
        return None
    try:
        value = plan.share_key.render(InputNames(inputs))
    except ExpressionError as error:
        raise _invalid(f"The `share_key` cannot be worked out of them. {error}") from None
    key = value if isinstance(value, str) else encode(value).decode()
    if not 0 < len(key) <= limits.SHARE_KEY_CHARACTERS:
        at_most = limits.SHARE_KEY_CHARACTERS
        raise _invalid(f"The `share_key` has {len(key):,} characters; 1 to {at_most} are allowed.")
    return key


def _invalid(message: str) -> InvalidInputs:
    return InvalidInputs([Problem("$", message)])


class Expectations:
    """What jobs are expected to use, from the durations that workers have learned."""

    def __init__(self, store: JobStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        # By workflow: when it was read by the steady clock, and the means by step. The last read ones last.
        self._known: OrderedDict[str, tuple[int, dict[str, int]]] = OrderedDict()

    async def learn_of(self, workflow_id: str) -> None:
        """Read what is known of a workflow, if it was not a moment ago. `StoreUnavailable`."""
        known, steady_us = self._known.get(workflow_id), self._clock.steady_us()
        if known is not None and steady_us - known[0] < FRESH_S * SECOND_US:
            return
        self._known[workflow_id] = steady_us, by_step(await self._store.read_durations(workflow_id))
        self._known.move_to_end(workflow_id)
        if len(self._known) > KEPT:
            self._known.popitem(last=False)

    def of(self, plan: Plan) -> int:
        """How long the attempts of a job are on, in microseconds: the mean of its workflow's jobs; while none of them
        has ended, its steps together, each once; while nothing of these is known either, a second."""
        _, means = self._known.get(plan.workflow.id, (0, {}))
        if WHOLE_JOB in means:
            return means[WHOLE_JOB]
        return sum(us for step_id, us in means.items() if step_id in plan.nodes) or UNKNOWN_US
