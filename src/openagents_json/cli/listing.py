"""What `openagents jobs list|show|results|events` do."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from openagents_json.amounts import outside
from openagents_json.cli.amounts import amount_text
from openagents_json.cli.budgets import spent_text
from openagents_json.cli.exit_codes import Exit
from openagents_json.cli.failures import UsageProblem
from openagents_json.cli.opening import opened
from openagents_json.cli.output import Output
from openagents_json.cli.running import watching
from openagents_json.cli.showing import error_line, job_name
from openagents_json.cli.steplogs import with_emitted
from openagents_json.cli.stopping import Stop
from openagents_json.cli.text import count, duration, json_text, percent, printable, short_time
from openagents_json.ids import short_id
from openagents_json.job.events import Event
from openagents_json.job.manager import JobManager
from openagents_json.job.model import JobSummary, StepStatus
from openagents_json.pictures.wording import duration as exact_duration

COMPONENTS_SHOWN = 3
HOLDERS_SHOWN = 3
STEPS_SHOWN = 30
ERRORS_SHOWN = 10
RETRIES_SHOWN = 10
_AGO = re.compile(r"(\d+)\s*([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
# Which steps are worth a line when there are many: those that say why a job stands where it does.
_URGENCY = {
    StepStatus.FAILED: 0,
    StepStatus.RETRYING: 1,
    StepStatus.WAITING: 2,
    StepStatus.RUNNING: 3,
    StepStatus.CANCELLED: 4,
    StepStatus.PENDING: 5,
    StepStatus.COMPLETED: 6,
    StepStatus.SKIPPED: 7,
}


# ── list ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Filters:
    """The options of `jobs list`, as given."""

    status: Sequence[str] | None = None
    workflow: Sequence[str] | None = None
    tags: Sequence[str] | None = None
    error: str | None = None
    since: str | None = None
    until: str | None = None
    order: str = "-created_at"
    limit: int = 50
    cursor: str | None = None
    share: str | None = None

    def query(self, now: datetime) -> dict[str, Any]:
        """The filters of `JobManager.list_jobs`. `UsageProblem` for a time that cannot be read."""
        query: dict[str, Any] = {}
        if statuses := [one.strip() for given in self.status or () for one in given.split(",") if one.strip()]:
            query["status"] = statuses
        if self.workflow:
            query["workflow_id"] = list(self.workflow)
        if self.tags:
            query["tags"] = list(self.tags)
        if self.share is not None:
            query["share"] = self.share
        if self.error is not None:
            query["error"] = self.error
        times = {"after": ("--since", self.since), "before": ("--until", self.until)}
        created = {end: read_time(text, now, option) for end, (option, text) in times.items() if text is not None}
        return {**query, "created_at": created} if created else query


def read_time(text: str, now: datetime, option: str) -> datetime:
    """An aware time: ISO 8601 (local unless it has a zone), or an age such as `90m`, `2h`, `3d`."""
    try:
        if found := _AGO.fullmatch(text.strip()):
            return now - timedelta(**{_UNITS[found.group(2)]: int(found.group(1))})
        return datetime.fromisoformat(text.strip()).astimezone()
    except (ValueError, OverflowError):
        raise UsageProblem(
            f"{option} {text}: give a time such as 2026-01-31 or 2026-01-31T12:00, or an age such as 90m, 2h, 3d."
        ) from None


def list_jobs(filters: Filters, store: str | None, output: Output) -> int:
    """Print one page of jobs."""
    return asyncio.run(_list(filters, store, output))


async def _list(filters: Filters, store: str | None, output: Output) -> int:
    now = datetime.now().astimezone()
    async with opened(store) as jobs:
        page = await jobs.list_jobs(filters.query(now), order=filters.order, limit=filters.limit, cursor=filters.cursor)
    if output.as_json:
        output.document({"jobs": [summary_document(job) for job in page.jobs], "cursor": page.cursor})
        return Exit.DONE
    if not page.jobs:
        output.say("No job fits.")
        return Exit.DONE
    spent = [spent_text(job.spent, job.budget) for job in page.jobs]
    head = ("JOB", "STATUS", "DONE", "PRIORITY", "CREATED", "TOOK", *(("SPENT",) if any(spent) else ()), "NOW")
    rows = [_row(job, now, (text or "-",) if any(spent) else ()) for job, text in zip(page.jobs, spent, strict=True)]
    output.table([head, *rows])
    if page.cursor is not None:
        output.say(f"There are more: --cursor {page.cursor}")
    return Exit.DONE


def summary_document(job: JobSummary) -> dict[str, Any]:
    """A job's row as JSON, with its short name."""
    fields = {name: getattr(job, name) for name in JobSummary.__dataclass_fields__}
    return {"job": job_name(job.workflow_id, job.id), "display_status": job.display_status, **fields}


def _row(job: JobSummary, now: datetime, spent: tuple[str, ...]) -> tuple[str, ...]:
    status = job.display_status
    if not job.status.is_final and (job.cancel_requested or job.pause_requested):
        status += ", cancel asked" if job.cancel_requested else ", pause asked"
    if not job.status.is_final and job.at_risk:
        status += ", deadline at risk"
    took = "-"
    if job.started_at is not None:
        took = duration(((job.completed_at or now) - job.started_at).total_seconds())
    doing = f"{job.error_type}: {job.error_message}" if job.error_type is not None else job.current_step or ""
    return (
        job_name(job.workflow_id, job.id),
        status,
        percent(job.progress),
        str(job.priority),
        short_time(job.created_at, now),
        took,
        *spent,
        printable(doing, 100),
    )


# ── show ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def show_job(text: str, store: str | None, output: Output) -> int:
    """Print where a job stands."""
    return asyncio.run(_show(text, store, output))


async def _show(text: str, store: str | None, output: Output) -> int:
    async with opened(store) as jobs:
        status = await jobs.get_job_status(await jobs.find_job(text))
    if output.as_json:
        output.document({"job": job_name(status["workflow_id"], status["id"]), **status})
        return Exit.DONE
    for line in status_lines(status, datetime.now().astimezone()):
        output.say(line)
    return Exit.DONE


def status_lines(status: Mapping[str, Any], now: datetime) -> list[str]:
    """The detailed status as bounded text."""
    name = job_name(status["workflow_id"], status["id"])
    lines = [f"{name}  {status['display_status']}  {percent(status['progress'])}  {status['priority']}"]
    lines.append(f"  id       {status['id']}")
    lines.append(f"  version  {printable(status['version'])}")
    times = [("created", "created_at"), ("started", "started_at"), ("ended", "completed_at")]
    lines += [f"  {label:<7}  {short_time(status[key], now)}" for label, key in times if status[key] is not None]
    if spent := spent_text(status["spent"], status["budget"]):
        lines.append(f"  spent    {spent}")
    if status["share"] is not None:
        lines.append(f"  share    {printable(status['share'])}")
    if status["deadline"] is not None:
        risk = ", at risk" if status["at_risk"] else ""
        lines.append(f"  deadline {short_time(status['deadline'], now)}{risk}")
    lines += _relative_lines(status)
    lines += [f"  waits    {_wait(one, now)}" for one in status["waiting_for"][:STEPS_SHOWN]]
    lines += [f"  asked    {_request(one)}" for one in status["requests"]]
    steps: Mapping[str, Mapping[str, Any]] = status["steps"]
    if steps:
        tally = sorted(status["step_counts"].items(), key=lambda entry: -entry[1])
        lines.append("  steps    " + ", ".join(f"{number:,} {word}" for word, number in tally))
        lines += _step_lines(steps)
    errors: Sequence[Any] = status["errors"]
    if errors:
        lines.append("  errors")
        lines += [f"    {error_line(error)}" for error in errors[:ERRORS_SHOWN]]
        if len(errors) > ERRORS_SHOWN:
            lines.append(f"    … and {len(errors) - ERRORS_SHOWN} more")
    return lines


def _relative_lines(status: Mapping[str, Any]) -> list[str]:
    """The job that this one retries, and those that retry it; the newest last."""
    lines = []
    if (origin := status["origin"]) is not None:
        text = job_name(status["workflow_id"], origin["job_id"])
        text += f" from {printable(origin['from_step'], 120)}" if origin["from_step"] is not None else ""
        text += f" by {printable(origin['by'], 80)}" if origin["by"] is not None else ""
        text += f": {printable(origin['reason'], 200)}" if origin["reason"] is not None else ""
        lines.append(f"  retries  {text}")
    shown = status["retried_as"][-RETRIES_SHOWN:]
    lines += [f"  retried  as {job_name(status['workflow_id'], job_id)}" for job_id in shown]
    return lines


def _step_lines(steps: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The most telling steps, in the order in which they came to run."""
    places = {path: index for index, path in enumerate(steps)}

    def urgency(path: str) -> tuple[bool, int, int]:
        nested = "[" in path
        return nested and steps[path]["status"] == StepStatus.COMPLETED, _URGENCY[steps[path]["status"]], places[path]

    chosen = sorted(sorted(steps, key=urgency)[:STEPS_SHOWN], key=places.__getitem__)
    rows = [_step_row(path, steps[path]) for path in chosen]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    lines = [f"    {row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]}".rstrip() for row in rows]
    if len(steps) > len(chosen):
        lines.append(f"    … and {count(len(steps) - len(chosen), 'step')} more")
    return lines


def _step_row(path: str, step: Mapping[str, Any]) -> tuple[str, str, str]:
    details = []
    if (taken := step.get("taken_over")) is not None:
        source = taken["from"]
        details.append("set by hand" if source is None else f"taken over from {short_id(source)}")
    if items := step.get("items"):
        ended = items["opened"] - items["running"]
        details.append(f"{ended:,} of {count(items['count'], 'item')}")
        if items["errors"]:
            details.append(f"{len(items['errors']):,} failed")
    if step["attempt"] > 1:
        details.append(f"attempt {step['attempt']}")
    if step["started_at"] is not None and step["completed_at"] is not None:
        details.append(duration((step["completed_at"] - step["started_at"]).total_seconds()))
    if spent := spent_text(step.get("spent", {}), {}):
        details.append(f"spent {spent}")
    if step["error"] is not None:
        details.append(printable(f"{step['error'].get('type')}: {step['error'].get('message')}", 160))
    return printable(path, 120), str(step["status"]), ", ".join(details)


def _wait(wait: Mapping[str, Any], now: datetime) -> str:
    words = {"resume": "for `openagents jobs resume`", "start": "to be started"}
    text = words.get(wait["kind"], f"for the {printable(str(wait['kind']))}")
    if wait.get("budget"):
        text = "for `openagents jobs add-budget`, since its budget is spent, and then `openagents jobs resume`"
    if wait["kind"] == "worker":
        text = _worker_wait(wait)
    elif wait["kind"] == "limit":
        text = _component_limit_wait(wait) if "component" in wait else _limit_wait(wait)
    elif wait["kind"] == "paused":
        text = _pause_wait(wait, now)
    elif wait["kind"] == "resource":
        text = _resource_wait(wait)
    elif wait["kind"] == "slot":
        text = f"for a slot at the worker {printable(wait['worker'], 80)} ({count(wait['steps'], 'step')} ready)"
    elif wait["kind"] == "signal":
        text = f"for the signal {printable(wait['signal'], 120)!r}"
    elif wait["kind"] == "child":
        why = {"pause": "the pause", "cancel": "the end"}.get(wait["for"])
        text = f"for {why} of the child job" if why else "for the child job"
        text += f" {wait['job_id']}" + (" (it is paused)" if wait.get("paused") else "")
    elif wait["kind"] == "decision":
        text = "for `openagents jobs resolve`: did the effect happen? It is the step"
    if wait.get("step"):
        text += (
            f" {printable(wait['step'], 120)}" if wait["kind"] == "decision" else f" of {printable(wait['step'], 120)}"
        )
    if (moment := wait.get("at") or wait.get("until")) is not None:
        text += f", {'at' if wait.get('at') else 'until'} {short_time(moment, now)}"
    return text


def _pause_wait(wait: Mapping[str, Any], now: datetime) -> str:
    """A pause of the whole workflow or of a component: whose, since when, and what ends it."""
    by = f" by {printable(wait['by'], 80)}" if wait["by"] else ""
    why = f": {printable(wait['reason'], 200)}" if wait["reason"] else ""
    name = f"{wait['what']} {printable(wait['name'], 120)}"
    return f"for `openagents resume {name}`, paused{by} since {short_time(wait['since'], now)}{why}"


def _limit_wait(wait: Mapping[str, Any]) -> str:
    """A slot of the job's limit: which one, and who has it."""
    key = f" with the key {printable(json_text(wait['key']).strip(), 120)}" if wait["key"] is not None else ""
    ids = [short_id(job_id) for job_id in wait["held_by"][:HOLDERS_SHOWN]]
    hidden = max(wait["limit"], len(wait["held_by"])) - len(ids)
    text = f"for one of the {wait['limit']:,} jobs" if wait["limit"] > 1 else "for the one job"
    text += f"{key} that may be on (`concurrency`): {', '.join(ids)}"
    return text + (f" and {hidden:,} more" if hidden > 0 else "")


def _component_limit_wait(wait: Mapping[str, Any]) -> str:
    """Room in a limit of a component: in which one, and who takes it."""
    key = f" with the key {printable(json_text(wait['key']).strip(), 120)}" if wait["key"] is not None else ""
    calls = f"{wait['limit']:,} calls" if wait["limit"] > 1 else "one call"
    component = f"{printable(wait['component'], 80)}{key}"
    if "per_seconds" in wait:
        return f"for a token: {calls} of {component} may begin in {wait['per_seconds']:g} s (`rate_limit`)"
    workers = [printable(worker, 80) for worker in wait["held_by"][:HOLDERS_SHOWN]]
    text = f"for a slot: {calls} of {component} may be on (`concurrency`)"
    return f"{text}, in {', '.join(workers)}" if workers else text


def _resource_wait(wait: Mapping[str, Any]) -> str:
    """A resource of its worker: how much of it, and who has it or comes first."""
    text = f"for {wait['need']:,g} {printable(wait['resource'], 80)}"
    text += f" ({wait['free']:,g} of {wait['capacity']:,g} free for it)"
    for what, ids in (("held by", wait["held_by"]), ("behind", wait["ahead"])):
        if ids:
            text += f", {what} {', '.join(short_id(job_id) for job_id in ids[:HOLDERS_SHOWN])}"
            text += f" and {len(ids) - HOLDERS_SHOWN} more" if len(ids) > HOLDERS_SHOWN else ""
    return text


def _worker_wait(wait: Mapping[str, Any]) -> str:
    """A worker that can take the job: how many there are, and what they need."""
    text = "for a worker" + (" to be free" if wait["workers"] else "; none lives that could take it")
    if names := wait["components"]:
        shown = " or ".join(printable(name, 80) for name in names[:COMPONENTS_SHOWN])
        rest = f" or {len(names) - COMPONENTS_SHOWN} more" if len(names) > COMPONENTS_SHOWN else ""
        text = text.replace("a worker", f"a worker with {shown}{rest}")
    if lacking := wait.get("resources"):
        text = text.replace("none lives that could take it", f"no worker has {' and '.join(map(amount_text, lacking))}")
    return text + (" and empty: workers have died under this job, so it is run alone" if wait.get("alone") else "")


def _request(request: Mapping[str, Any]) -> str:
    text = f"forced {request['verb']}" if request.get("force") else str(request["verb"])
    if request.get("by"):
        text += f" by {printable(request['by'], 80)}"
    if request.get("reason"):
        text += f": {printable(request['reason'], 200)}"
    return f"{text} (not effective yet)"


# ── results and events ────────────────────────────────────────────────────────────────────────────────────────────


def show_results(text: str, store: str | None, output: Output) -> int:
    """Print the outputs of a job."""
    return asyncio.run(_results(text, store, output))


async def _results(text: str, store: str | None, output: Output) -> int:
    async with opened(store) as jobs:
        results = await jobs.get_job_results(await jobs.find_job(text))
    output.data(results)
    return Exit.DONE


def show_events(text: str, after: int, follow: bool, store: str | None, output: Output, *, live: bool = False) -> int:
    """Print a job's events, with `follow` until its last one, with `live` also what its steps emit meanwhile."""
    if live and not follow:
        raise UsageProblem("--live tells of what happens now: give --follow, too. `jobs logs --emitted` looks back.")
    with Stop() as stop:
        return asyncio.run(_events(text, after, follow, live, store, output, stop))


async def _events(
    text: str, after: int, follow: bool, live: bool, store: str | None, output: Output, stop: Stop
) -> int:
    async with opened(store) as jobs:
        job_id = await jobs.find_job(text)
        printing = _print_events(jobs, job_id, after, follow, output)
        if live:
            printing = with_emitted(printing, jobs, job_id, output)
        return Exit.DONE if await stop.finishes(printing) else Exit.INTERRUPTED


async def _print_events(jobs: JobManager, job_id: str, after: int, follow: bool, output: Output) -> None:
    last = (await jobs.get_summary(job_id)).events
    documents: list[dict[str, Any]] = []
    if follow or after < last:
        async with watching(jobs, job_id, after) as events:
            async for event in events:
                output.say(event_line(event))
                if output.as_json and follow:
                    output.document(event.as_dict())
                elif output.as_json:
                    documents.append(event.as_dict())
                if not follow and event.number >= last:
                    break
    if output.as_json and not follow:
        output.document({"events": documents})


# Keys of an event's data that its line shows as they are.
_SHOWN = (
    *("name", "id", "release", "until", "priority", "count", "outcome", "resources", "reason", "by", "rung"),
    *("released", "leaked"),
)


def event_line(event: Event) -> str:
    """`12  14:03:22  attempt.failed  score  attempt 2, http.429: too many requests`."""
    data = event.data
    details = []
    if data.get("attempt") is not None:
        details.append(f"attempt {data['attempt']}")
    if isinstance(error := data.get("error"), Mapping):
        details.append(f"{error.get('type')}: {error.get('message')}")
    details += [f"{key} {data[key]}" for key in _SHOWN if data.get(key)]
    details += [key for key in ("force", "abandoned") if data.get(key) is True]
    if data.get("skipped"):
        details.append(f"skipped {' and '.join(data['skipped'])}")
    for key in ("amounts", "spent"):
        if said := spent_text(outside(data.get(key, {})), {}):
            details.append(f"{'spent' if key == 'spent' else 'added'} {said}")
    if "took_us" in data:
        details.append(f"took {exact_duration(data['took_us'])}")
    path = printable(str(data.get("path", "")), 120)
    line = f"{event.number:>6}  {short_time(event.at)}  {event.type:<20}  {path}"
    return f"{line}  {printable(', '.join(details), 300)}".rstrip()
