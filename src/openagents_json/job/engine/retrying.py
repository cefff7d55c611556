"""The job that retries another: what is asked for is looked at as a whole, then the new job is made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from openagents_json.amounts import KEYS, Budget
from openagents_json.errors import InvalidInputs, Problem
from openagents_json.job.engine.making import JobMaker
from openagents_json.job.machine import JobState, Takeover, takeover_problems, what_to_take_over
from openagents_json.job.model import JobPriority
from openagents_json.job.store.records import NewJob
from openagents_json.jsondata import NotJson, TooLarge, plain
from openagents_json.workflow import limits
from openagents_json.workflow.problems import member_path


def make_retry(
    maker: JobMaker,
    origin: JobState,
    from_step: str | None,
    inputs: Mapping[str, Any],
    outputs: Mapping[str, Any],
    *,
    by: str | None,
    reason: str | None,
    priority: JobPriority,
    idempotency_key: str | None,
    budget: Budget | None = None,
    start: bool,
) -> tuple[NewJob, JobState]:
    """A new job of the definition that `origin`, which is final, was made from, with its share and without its
    deadline. It has no parent: of a child, the parent has gone on without it. `InvalidInputs` with every problem."""
    problems = takeover_problems(origin.plan, from_step, outputs)
    set_by_hand: dict[str, Any] = {}
    for name, value in outputs.items():
        try:
            set_by_hand[name], _ = plain(value, limit_bytes=limits.OUTPUT_BYTES)
        except NotJson as error:
            path = error.path.replace("$", member_path("$.outputs", str(name)), 1)
            problems.append(Problem(path, str(error)))
    if problems:
        raise InvalidInputs(problems, "the steps of the retry")
    try:
        results = what_to_take_over(origin, from_step, set_by_hand)
    except TooLarge as error:
        message = f"The results to take over are too large together. {error}"
        raise InvalidInputs([Problem("$.from_step", message, "Begin from an earlier step.")], "the retry") from None
    about: dict[str, Any] = {
        "origin": {"job_id": origin.job_id, "from_step": from_step, "by": by, "reason": reason},
    }
    if origin.handed:
        about["given"] = origin.handed
    return maker.make(
        origin.plan.workflow,
        {**origin.inputs, **inputs},
        priority=priority,
        metadata=origin.metadata,
        tags=origin.tags,
        idempotency_key=idempotency_key,
        start=start,
        takeover=Takeover(about, results),
        budget={**dict.fromkeys(KEYS.values()), **origin.budget, **(budget or {})},
        share=origin.share,
    )
