"""What `openagents jobs start|pause|resume|cancel|priority|priorities|delete|cleanup` do."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from openagents_json.cli.exit_codes import Exit
from openagents_json.cli.failures import UsageProblem, error_document, exit_code_of, show_error
from openagents_json.cli.listing import Filters
from openagents_json.cli.opening import asker, check_reason, opened
from openagents_json.cli.output import Output
from openagents_json.cli.showing import job_name
from openagents_json.cli.stopping import Stop
from openagents_json.cli.text import count
from openagents_json.clock import SystemClock, as_datetime
from openagents_json.errors import InvalidTransition, OpenAgentsError, StoreError
from openagents_json.job.machine import allowed_verbs
from openagents_json.job.manager import JobManager
from openagents_json.job.model import JobStatus, JobSummary

Verb = Literal["start", "pause", "resume", "cancel", "set priority of", "delete"]


@dataclass(frozen=True, slots=True)
class Waiting:
    """Whether to wait until what was asked is so, and for how long; None: as long as it takes."""

    is_wanted: bool
    timeout_s: float | None


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
    waiting: Waiting | None = None,
) -> int:
    """Ask the same of several jobs, and with `waiting` wait until it is so. Each is told of; the exit code is that of
    the first that was refused, did not come to it, or not in time."""
    check_reason(reason)
    if waiting is None:
        return asyncio.run(_ask(verb, texts, asker(by), reason, store, output, force, priority))
    if waiting.timeout_s is not None and not waiting.is_wanted:
        raise UsageProblem("--timeout says how long --wait waits; give both.")
    with Stop() as stop:
        wanted = (waiting.timeout_s, stop) if waiting.is_wanted else None
        return asyncio.run(_ask(verb, texts, asker(by), reason, store, output, force, priority, wanted))


async def _ask(
    verb: Verb, texts: Sequence[str], by: str | None, reason: str | None, store: str | None, output: Output,
    force: bool, priority: str, waiting: tuple[float | None, Stop] | None = None,
) -> int:  # fmt: skip
    teller = _Teller(verb, output)
    asked: list[tuple[str, JobSummary]] = []
    is_done = True
    async with opened(store) as jobs:
        for text in texts:
            try:
                before = await jobs.get_summary(await jobs.find_job(text))
                await _carry_out(verb, jobs, before.id, by, reason, force, priority)
                after = None if verb == "delete" else await jobs.get_summary(before.id)
            except StoreError:
                raise
            except OpenAgentsError as error:
                teller.refused(text, error)
                continue
            if waiting is None:
                teller.done(before, after)
            else:
                asked.append((text, before))
        if waiting is not None:
            timeout_s, stop = waiting
            is_done = await stop.finishes(_wait(jobs, asked, timeout_s, teller))
    if output.as_json:
        output.document({"jobs": teller.documents})
    return teller.code or (Exit.DONE if is_done else Exit.INTERRUPTED)


async def _wait(
    jobs: JobManager, asked: Sequence[tuple[str, JobSummary]], timeout_s: float | None, teller: _Teller
) -> None:
    """Until all that was asked is so, or the time is over."""
    waits = (_effective(teller.verb, jobs, before.id, timeout_s) for _, before in asked)
    outcomes = await asyncio.gather(*waits, return_exceptions=True)
    for (text, before), outcome in zip(asked, outcomes, strict=True):
        if isinstance(outcome, JobSummary):
            teller.done(before, outcome)
        elif isinstance(outcome, OpenAgentsError) and not isinstance(outcome, StoreError):
            teller.refused(text, outcome)
        else:
            raise outcome


async def _effective(verb: Verb, jobs: JobManager, job_id: str, timeout_s: float | None) -> JobSummary:
    """The job when it is PAUSED or CANCELLED. `InvalidTransition` if it has ended otherwise."""
    if verb == "pause":
        await jobs.wait_paused(job_id, timeout_s)
    else:
        await jobs.wait_final(job_id, timeout_s)
    after = await jobs.get_summary(job_id)
    if verb == "cancel" and after.status != JobStatus.CANCELLED:
        why = "it ended before the cancel became effective"
        raise InvalidTransition(job_id, verb, after.status, allowed_verbs(after.status), why)
    return after


class _Teller:
    """Tells of each job, and keeps what --json prints."""

    def __init__(self, verb: Verb, output: Output) -> None:
        self.verb: Verb = verb
        self.code: int = Exit.DONE  # of the first that was refused
        self.documents: list[dict[str, Any]] = []
        self._output = output

    def done(self, before: JobSummary, after: JobSummary | None) -> None:
        self.documents.append(_document(before, after))
        self._output.say(_sentence(self.verb, before, after))

    def refused(self, text: str, error: OpenAgentsError) -> None:
        self.code = self.code or exit_code_of(error)
        self.documents.append({"asked": text, "error": error_document(error)})
        if not self._output.as_json:
            show_error(error, as_json=False)


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


def set_priorities(
    level: str, filters: Filters, is_for_all: bool, by: str | None, reason: str | None, store: str | None,
    output: Output,
) -> int:  # fmt: skip
    """Ask for the same priority of all jobs that fit."""
    check_reason(reason)
    query = filters.query(as_datetime(SystemClock().now_us()).astimezone())
    if bool(query) == is_for_all:
        raise UsageProblem("Say which jobs: with --status, --workflow, --tag, --share, --since or --until, or --all.")
    return asyncio.run(_set_priorities(level, query, asker(by), reason, store, output))


async def _set_priorities(
    level: str, query: dict[str, Any], by: str | None, reason: str | None, store: str | None, output: Output
) -> int:
    async with opened(store) as jobs:
        changed = await jobs.set_priorities(level, filters=query, by=by, reason=reason)
    output.say(f"{count(changed, 'job')} {'has' if changed == 1 else 'have'} priority {level.upper()}")
    if output.as_json:
        output.document({"changed": changed, "priority": level.upper()})
    return Exit.DONE


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
