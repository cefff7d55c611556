"""What `openagents jobs explain` does."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import datetime

from openagents_json.cli.exit_codes import Exit
from openagents_json.cli.opening import opened
from openagents_json.cli.output import Output
from openagents_json.cli.showing import job_name
from openagents_json.cli.text import duration, printable, short_time
from openagents_json.ids import short_id
from openagents_json.job.explaining import Blocker, Explanation, Overtaker, Score, Stay

BEFORE_SHOWN = 5
STAYS_SHOWN = 5


def explain_job(text: str, store: str | None, output: Output) -> int:
    """Print why a job stands where it does."""
    return asyncio.run(_explain(text, store, output))


async def _explain(text: str, store: str | None, output: Output) -> int:
    async with opened(store) as jobs:
        found = await jobs.explain(await jobs.find_job(text))
    if output.as_json:
        output.document({"job": job_name(found.workflow_id, found.job_id), **found.as_dict()})
        return Exit.DONE
    for line in explanation_lines(found, datetime.now().astimezone()):
        output.say(line)
    return Exit.DONE


def explanation_lines(found: Explanation, now: datetime) -> Iterator[str]:
    """The explanation as bounded text."""
    name = job_name(found.workflow_id, found.job_id)
    yield f"{name} is {found.status}" if found.blockers else f"{name}: {printable(found.summary, 600)}"
    for number, blocker in enumerate(found.blockers, 1):
        yield f"  {number}. {printable(blocker.message, 400)}{_times(blocker, now)}"
        for one in blocker.details.get("holders", ())[:BEFORE_SHOWN]:
            yield f"     {short_id(one['job_id'])} {one['status']} since {short_time(one['since'], now)}"
        if blocker.command is not None:
            yield f"     {printable(blocker.command, 300)}"
    if found.score is not None:
        yield from _score_lines(found.score, now)
    if found.estimate is not None:
        begins = (
            "it cannot be said when it begins"
            if found.estimate.begins_at is None
            else (f"begins about {short_time(found.estimate.begins_at, now)}")
        )
        yield f"  {begins}: {found.estimate.basis}"
    stays = found.stays[-STAYS_SHOWN:]
    if stays:
        yield "  in the queue"
        for stay in stays:
            yield f"    {_stay(stay, now)}"
    for one in found.overtaken_by[:BEFORE_SHOWN]:
        yield f"    meanwhile {_overtaker(one, now)}"


def _times(blocker: Blocker, now: datetime) -> str:
    since = f" Since {short_time(blocker.since, now)}." if blocker.since is not None else ""
    until = f" Until {short_time(blocker.until, now)}." if blocker.until is not None else ""
    return since + until


def _score_lines(score: Score, now: datetime) -> Iterator[str]:
    parts = [f"queued {short_time(score.queued_at, now)}"]
    if score.waited_s:
        parts.append(f"{duration(score.waited_s)} waited before")
    if score.level:
        parts.append(f"{score.level} × {duration(score.aging_s)} for {score.priority}")
    why = {"share": "by its share", "deadline": "by its deadline"}.get(score.by, " - ".join(parts))
    yield f"  place {score.ahead + 1:,}, virtual arrival {short_time(score.virtual_arrival, now)}: {why}"
    for one in score.before[:BEFORE_SHOWN]:
        arrival = short_time(one["virtual_arrival"], now)
        yield f"    before it: {short_id(one['job_id'])}, {one['priority']}, virtual arrival {arrival}"
    if score.ahead > BEFORE_SHOWN:
        yield f"    … and {score.ahead - BEFORE_SHOWN:,} more"


def _stay(stay: Stay, now: datetime) -> str:
    text = f"{short_time(stay.queued_at, now)} {printable(stay.reason.replace('_', ' '), 80)}"
    if stay.made_room_for is not None:
        text += f", made room for {short_id(stay.made_room_for)}"
    if stay.began_at is None:
        return f"{text}, still there"
    text += f", began after {duration((stay.began_at - stay.queued_at).total_seconds())}"
    if stay.virtual_arrival is not None:
        text += f", virtual arrival {short_time(stay.virtual_arrival, now)}"
    return text + (f"; {short_id(stay.preempted)} made room for it" if stay.preempted is not None else "")


def _overtaker(one: Overtaker, now: datetime) -> str:
    return f"{job_name(one.workflow_id, one.job_id)} began {short_time(one.began_at, now)}: {one.why}"
