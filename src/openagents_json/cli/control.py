"""What `openagents jobs start|pause|resume|cancel|priority|delete|cleanup` do."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Literal

from openagents_json.cli.exit_codes import Exit
from openagents_json.cli.failures import error_document, exit_code_of, show_error
from openagents_json.cli.opening import asker, check_reason, opened
from openagents_json.cli.output import Output
from openagents_json.cli.showing import job_name
from openagents_json.cli.text import count
from openagents_json.errors import OpenAgentsError, StoreError
from openagents_json.job.manager import JobManager
from openagents_json.job.model import JobStatus, JobSummary

Verb = Literal["start", "pause", "resume", "cancel", "set priority of", "delete"]


def ask(
    verb: Verb,
    texts: Sequence[str],
    by: str | None,
    reason: str | None,
    store: str | None,
    output: Output,
    *,
    force: bool = False,
    priority: str = "",
) -> int:
    """Ask the same of several jobs. Each is told of; the exit code is that of the first that was refused."""
    check_reason(reason)
    return asyncio.run(_ask(verb, texts, asker(by), reason, store, output, force, priority))


async def _ask(
    verb: Verb, texts: Sequence[str], by: str | None, reason: str | None, store: str | None, output: Output,
    force: bool, priority: str,
) -> int:  # fmt: skip
    code = Exit.DONE
    documents: list[dict[str, Any]] = []
    async with opened(store) as jobs:
        for text in texts:
            try:
                before = await jobs.get_summary(await jobs.find_job(text))
                await _carry_out(verb, jobs, before.id, by, reason, force, priority)
                after = None if verb == "delete" else await jobs.get_summary(before.id)
            except StoreError:
                raise
            except OpenAgentsError as error:
                code = code or exit_code_of(error)
                documents.append({"asked": text, "error": error_document(error)})
                if not output.as_json:
                    show_error(error, as_json=False)
                continue
            documents.append(_document(before, after))
            output.say(_sentence(verb, before, after))
    if output.as_json:
        output.document({"jobs": documents})
    return code


async def _carry_out(
    verb: Verb, jobs: JobManager, job_id: str, by: str | None, reason: str | None, force: bool, priority: str
) -> None:
    match verb:
        case "start":
            await jobs.start_job(job_id, by=by, reason=reason)
        case "pause":
            await jobs.pause_job(job_id, by=by, reason=reason)
        case "resume":
            await jobs.resume_job(job_id, by=by, reason=reason)
        case "cancel":
            await jobs.cancel_job(job_id, force, by=by, reason=reason)
        case "set priority of":
            await jobs.set_priority(job_id, priority, by=by, reason=reason)
        case "delete":
            await jobs.delete_job(job_id)


def _document(before: JobSummary, after: JobSummary | None) -> dict[str, Any]:
    status = None if after is None else after.status
    return {"id": before.id, "job": job_name(before.workflow_id, before.id), "status": status}


def _sentence(verb: Verb, before: JobSummary, after: JobSummary | None) -> str:
    """What became of the request: it is durable now, but may not be effective yet."""
    name = job_name(before.workflow_id, before.id)
    if after is None:
        return f"{name} is deleted"
    is_running = after.status == JobStatus.RUNNING
    match verb:
        case "pause" if is_running:
            return f"{name} will pause when what runs now has ended"
        case "cancel" if is_running:
            return f"{name} will be cancelled when what runs now has stopped"
        case "cancel" if not after.status.is_final:
            return f"{name} is {after.status} and will be cancelled by the next worker"
        case "set priority of":
            return f"{name} has priority {after.priority}"
        case "start" | "resume" if after.status == JobStatus.QUEUED:
            return f"{name} is QUEUED; a worker, or `openagents run --resume`, goes on with it"
    return f"{name} is {after.display_status}"


def clean_up(days: float | None, store: str | None, output: Output) -> int:
    """Delete old final jobs."""
    return asyncio.run(_clean_up(days, store, output))


async def _clean_up(days: float | None, store: str | None, output: Output) -> int:
    async with opened(store) as jobs:
        kept = jobs.settings.job_retention_days
        age_days = days if days is not None else 7.0 if kept is None else kept
        deleted = await jobs.cleanup_old_jobs(age_days)
    output.say(f"{count(deleted, 'job')} deleted that ended more than {age_days:g} days ago")
    if output.as_json:
        output.document({"deleted": deleted, "days": age_days})
    return Exit.DONE
