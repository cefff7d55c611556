"""What `openagents jobs signal` and `openagents jobs resolve` do: they tell a job what it waits to hear."""

from __future__ import annotations

import asyncio
from typing import Any

from openagents_json.cli.exit_codes import Exit
from openagents_json.cli.failures import UsageProblem
from openagents_json.cli.inputs import parse_value, value_text
from openagents_json.cli.opening import asker, check_reason, opened
from openagents_json.cli.output import Output
from openagents_json.cli.showing import job_name
from openagents_json.job.manager import JobManager


def send_signal(
    text: str, name: str, payload: str | None, key: str | None, by: str | None, store: str | None, output: Output
) -> int:
    """Send a signal; without a payload it brings null."""
    value = None if payload is None else _value("--payload", payload)
    return asyncio.run(_send(text, name, value, key, asker(by), store, output))


async def _send(
    text: str, name: str, value: Any, key: str | None, by: str | None, store: str | None, output: Output
) -> int:
    async with opened(store) as jobs:
        job_id = await jobs.find_job(text)
        await jobs.signal(job_id, name, value, key=key, by=by)
        await _tell(jobs, job_id, f"has the signal {name!r}", output)
    return Exit.DONE


def resolve_step(
    text: str,
    path: str,
    step_output: str | None,
    error: str | None,
    retry: bool,
    by: str | None,
    reason: str | None,
    store: str | None,
    output: Output,
) -> int:
    """Say what became of a step in doubt."""
    check_reason(reason)
    if [step_output is not None, error is not None, retry].count(True) != 1:
        raise UsageProblem("Give exactly one of --output, --error and --retry.")
    said: dict[str, Any] = {"retry": True} if retry else {"error": error}
    if step_output is not None:
        said = {"output": _value("--output", step_output)}
    return asyncio.run(_resolve(text, path, said, asker(by), reason, store, output))


async def _resolve(
    text: str, path: str, said: dict[str, Any], by: str | None, reason: str | None, store: str | None, output: Output
) -> int:
    async with opened(store) as jobs:
        job_id = await jobs.find_job(text)
        await jobs.resolve_step(job_id, path, by=by, reason=reason, **said)
        await _tell(jobs, job_id, f"goes on after {path}", output)
    return Exit.DONE


async def _tell(jobs: JobManager, job_id: str, what: str, output: Output) -> None:
    summary = await jobs.get_summary(job_id)
    name = job_name(summary.workflow_id, job_id)
    output.say(f"{name} {what}; it is {summary.display_status}")
    if output.as_json:
        output.document({"id": job_id, "job": name, "status": summary.status})


def _value(option: str, text: str) -> Any:
    """The text (or what the file after @ holds) as JSON, else as it is."""
    return parse_value(value_text(option, text), {}, {})
