"""What `openagents jobs retry` does: a new job from one that has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from openagents_json.cli.budgets import read_amounts
from openagents_json.cli.exit_codes import Exit
from openagents_json.cli.failures import UsageProblem
from openagents_json.cli.inputs import parse_value, read_inputs, value_text
from openagents_json.cli.opening import asker, check_reason, opened
from openagents_json.cli.output import Output
from openagents_json.cli.showing import job_name
from openagents_json.cli.text import count
from openagents_json.job.manager import JobManager
from openagents_json.jsondata import decode


@dataclass(frozen=True, slots=True)
class RetryOptions:
    """The options of `jobs retry`, as given."""

    from_step: str | None = None
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    priority: str | None = None
    idempotency_key: str | None = None
    by: str | None = None
    reason: str | None = None
    budget: tuple[str, ...] = ()


def retry_job(text: str, options: RetryOptions, store: str | None, output: Output) -> int:
    """Make the new job and tell its id."""
    check_reason(options.reason)
    budget = read_amounts(options.budget, "--budget")
    return asyncio.run(_retry(text, options, read_outputs(options.outputs), budget, store, output))


async def _retry(
    text: str, options: RetryOptions, outputs: dict[str, Any], budget: dict[str, Any], store: str | None, output: Output
) -> int:
    async with opened(store) as jobs:
        origin = await jobs.get_summary(await jobs.find_job(text))
        inputs = read_inputs(options.inputs, None, await _input_schema(jobs, origin.definition))
        job_id = await jobs.retry_job(
            origin.id,
            options.from_step,
            inputs,
            outputs,
            by=asker(options.by),
            reason=options.reason,
            priority=options.priority,
            idempotency_key=options.idempotency_key,
            budget=budget,
        )
        job = await jobs.get_job(job_id)  # a status shows some of the steps only
    taken = [path for path, step in job.steps.items() if "taken_over" in step]
    name, its = job_name(origin.workflow_id, job_id), job_name(origin.workflow_id, origin.id)
    if output.as_json:
        document = {"id": job_id, "job": name, "status": str(job.status), "origin": origin.id, "taken_over": taken}
        output.document(document)
    else:
        output.say(f"{name} is {job.status}; it retries {its} and takes over {count(len(taken), 'step')}")
        output.say(f"A worker, or `openagents run --resume`, runs it; its id is {job_id}")
    return Exit.DONE


async def _input_schema(jobs: JobManager, content_hash: str) -> Mapping[str, Any]:
    document = await jobs.store.read_definition(content_hash)
    schema = None if document is None else decode(document).get("inputs")
    return schema if isinstance(schema, dict) else {}


def read_outputs(pairs: Iterable[str]) -> dict[str, Any]:
    """The results that `--output STEP=VALUE` sets by hand. `UsageProblem` for a pair that cannot be read."""
    outputs: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UsageProblem(f"--output {pair}: give STEP=VALUE, or STEP=@file for what a file holds.")
        if name in outputs:
            raise UsageProblem(f"--output {name} is given twice.")
        outputs[name] = parse_value(value_text(f"--output {name}", value), {}, {})
    return outputs
