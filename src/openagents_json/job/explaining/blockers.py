"""What the answers of the store mean: each thing that a job waits for, as a sentence, and with the command that would
unblock it. Pure: it renders what admission, limits and the machine have decided, and decides nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from openagents_json.clock import SECOND_US, as_datetime
from openagents_json.ids import short_id
from openagents_json.job.explaining.model import Blocker, Estimate, Score
from openagents_json.job.model import JobPriority, JobStatus
from openagents_json.job.store.arrival import virtual_arrival_us
from openagents_json.job.store.records import QueuePlace, StoredWorker
from openagents_json.job.store.rules import serves

NAMES_SHOWN = 5
STARTS_NEEDED = 3  # fewer say nothing of how fast jobs begin
LATE_S = 1.0  # a step whose time has come begins sooner if it can
STARTS_ARE_OLD_S = 600.0  # the last one is so long ago: then they say nothing any more

# What a job in these may have to wait for in the queue is said now. When one that waits comes there, nobody knows.
MAY_COME_NEXT = (JobStatus.CREATED, JobStatus.QUEUED, JobStatus.PAUSED)

Entry = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a job and its surroundings. `name` is what commands take for its id."""

    job_id: str
    name: str
    status: Mapping[str, Any]  # as `get_job_status` gives it
    required: Sequence[str]  # of a worker, while it may come into the queue; it has to meet one of these
    place: QueuePlace | None
    aging_s: float
    workers: Sequence[StoredWorker]
    starts: Sequence[datetime]  # of the jobs that began last, the latest first
    now: datetime


# ── what blocks it ────────────────────────────────────────────────────────────────────────────────────────────────


def blockers_of(facts: Facts) -> list[Blocker]:
    """All that has to go before the job can go on, in the order in which it has to."""
    found = [*_requests(facts), *_waits(facts)]
    if facts.status["status"] in MAY_COME_NEXT and (blocker := _queue(facts)) is not None:
        found.append(blocker)
    return sorted(found, key=lambda one: _ORDER.get(one.kind, len(_ORDER)))


def _requests(facts: Facts) -> Iterator[Blocker]:
    """What was asked for and is not effective yet."""
    for asked in facts.status["requests"]:
        if asked["verb"] not in ("pause", "cancel"):
            continue
        what = "It is to be paused" if asked["verb"] == "pause" else "It is being cancelled"
        command = f"openagents jobs resume {facts.name}" if asked["verb"] == "pause" else None
        rest = "what runs may end first, and nothing new starts"
        yield Blocker(asked["verb"], f"{what}{_asker(asked)}; {rest}.", asked["at"], None, command, asked)


def _waits(facts: Facts) -> Iterator[Blocker]:
    """What the status says that it waits for."""
    for wait in facts.status["waiting_for"]:
        if wait["kind"] == "worker" and wait["workers"]:
            continue  # some could take it: what is before it in the queue is what it waits for
        if wait["kind"] in ("timer", "retry") and wait["at"] <= facts.now:
            if wait["kind"] == "retry" and _is_late(wait, facts):
                yield Blocker("slot", _late(wait), wait["at"], None, None, wait)
            continue  # its time has come: whoever takes the job goes on with it
        say = _SENTENCES.get(wait["kind"])
        message, command = say(wait, facts) if say is not None else (f"It waits for {wait['kind']}.", None)
        yield Blocker(wait["kind"], message, wait.get("since"), wait.get("at") or wait.get("until"), command, wait)


def _is_late(retry: Entry, facts: Facts) -> bool:
    """Whether a step of a RUNNING job should have been tried again, and it is not said otherwise why it was not."""
    others = {wait["kind"] for wait in facts.status["waiting_for"]}
    is_late = facts.now - retry["at"] > timedelta(seconds=LATE_S)
    return (
        facts.status["status"] == JobStatus.RUNNING and is_late and others.isdisjoint(("resource", "limit", "paused"))
    )


def _late(retry: Entry) -> str:
    return f"The step {retry['step']} is to be tried again and waits for a slot or a resource at its worker."


def _queue(facts: Facts) -> Blocker | None:
    """Who stands before it, or that every slot is taken. None if it is not the queue that it waits for."""
    place, able = facts.place, able_workers(facts)
    if not able:
        return None
    since = details = None
    if place is not None:
        since, details = as_datetime(place.queued_us), {"ahead": place.ahead, "room_by": place.room_by}
        if place.ahead:
            first = place.first[0]
            many = "1 job stands" if place.ahead == 1 else f"{place.ahead:,} jobs stand"
            message = f"{many} before it in the queue; the first is {short_id(first.job_id)} ({_priority(first.rank)})."
            command = f"openagents jobs priority {facts.name} CRITICAL" if _may_rise(place) else None
            return Blocker("queue", message, since, None, command, details)
    if any(one.jobs < one.info.max_jobs for one in able):
        return None
    slots = sum(one.info.max_jobs for one in able)
    taken = "its only job slot is taken" if slots == 1 else f"all {slots:,} job slots are taken"
    many = (
        "The one worker that can run it is busy"
        if len(able) == 1
        else f"All {len(able)} workers that can run it are busy"
    )
    is_next = "" if place is None else "It is the next. "
    room = "" if place is None or place.room_by is None else " A job is making room for it."
    return Blocker("queue", f"{is_next}{many}: {taken}.{room}", since, None, None, details or {})


def able_workers(facts: Facts) -> list[StoredWorker]:
    """The living workers that could take the job from the queue."""
    return [one for one in facts.workers if one.info.max_jobs and serves(one.info.offers, facts.required)]


def _may_rise(place: QueuePlace) -> bool:
    return place.rank < JobPriority.CRITICAL.rank


def _priority(rank: int) -> str:
    return str(JobPriority.of_rank(rank))


def _asker(who: Entry) -> str:
    by = f" by {who['by']}" if who.get("by") else ""
    return by + (f" ({who['reason']})" if who.get("reason") else "")


def _names(names: Sequence[str], word: str = "or") -> str:
    shown = f" {word} ".join(names[:NAMES_SHOWN])
    return shown + (f" {word} {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else "")


# ── a sentence for each kind of wait ──────────────────────────────────────────────────────────────────────────────

Said = tuple[str, str | None]  # message, command


def _resume(wait: Entry, facts: Facts) -> Said:
    if "budget" in wait:  # resume is refused until there is more
        more = f"openagents jobs add-budget {facts.name} {wait['budget']}=MORE"
        return f"It was paused: {wait['reason']}.", f"{more} && openagents jobs resume {facts.name}"
    return f"It was paused{_asker(wait)}.", f"openagents jobs resume {facts.name}"


def _paused(wait: Entry, facts: Facts) -> Said:
    return (
        f"The {wait['what']} {wait['name']} is paused{_asker(wait)}.",
        f"openagents resume {wait['what']} {wait['name']}",
    )


def _resource(wait: Entry, facts: Facts) -> Said:
    held = _names([short_id(job_id) for job_id in wait["held_by"]], "and")
    ahead = _names([short_id(job_id) for job_id in wait["ahead"]], "and")
    who = f" Held by {held}." if held else ""
    come = "comes" if len(wait["ahead"]) == 1 else "come"
    first = f" Before it {come} {ahead}." if ahead else ""
    free = f"{wait['free']:g} of {wait['capacity']:g} is free"
    command = None
    if any(job_id != facts.job_id for job_id in wait["ahead"]):
        command = f"openagents jobs priority {facts.name} CRITICAL"
    elif other := next((job_id for job_id in wait["held_by"] if job_id != facts.job_id), None):
        command = f"openagents jobs cancel {other}"
    return f"A step needs {wait['need']:g} {wait['resource']}, and {free} for it.{who}{first}", command


def _start(wait: Entry, facts: Facts) -> Said:
    when = " It starts by itself at its time." if wait["at"] is not None else ""
    return f"Nobody has started it.{when}", f"openagents jobs start {facts.name}"


def _slot(wait: Entry, facts: Facts) -> Said:
    needs = _names([f"{amount:g} {name}" for name, amount in wait["needs"].items()], "and")
    which = f"{wait['step']}" + (f", which needs {needs}" if needs else "")
    at = f"a slot or a resource at the worker {wait['worker']}"
    if wait["steps"] == 1:
        return f"One step is ready and waits for {at}: {which}.", None
    return f"{wait['steps']:,} steps are ready and wait for {at}; the first is {which}.", None


def _limit(wait: Entry, facts: Facts) -> Said:
    """A slot of the limit of its workflow, or of a component."""
    if "component" in wait:
        return _component_limit(wait), None
    held = list(wait["held_by"])
    key = f" with the key {wait['key']!r}" if wait["key"] is not None else ""
    one = "one job" if wait["limit"] == 1 else f"{wait['limit']:,} jobs"
    holders = _names([short_id(job_id) for job_id in held], "and")
    command = f"openagents jobs cancel {held[0]}" if held else None
    return (
        f"Its workflow lets {one}{key} be on at a time (`concurrency`), and on are: {holders or 'none any more'}.",
        command,
    )


def _component_limit(wait: Entry) -> str:
    key = f" with the key {wait['key']!r}" if wait["key"] is not None else ""
    step = f"The step {wait['step']} waits: of {wait['component']}{key}"
    if "per_seconds" in wait:
        return f"{step} {wait['limit']:,} calls may begin in {wait['per_seconds']:g} s (`rate_limit`)."
    held = _names(list(wait["held_by"]), "and")
    return (
        f"{step} {wait['limit']:,} may be on at a time (`concurrency`); they are on at {held or 'no worker any more'}."
    )


def _worker(wait: Entry, facts: Facts) -> Said:
    if lacking := wait.get("resources"):
        short = _names([f"{one['need']:g} {one['resource']} (the most is {one['most']:g})" for one in lacking], "and")
        return f"No worker that lives has {short}.", f"openagents worker --resource {lacking[0]['resource']}=AMOUNT"
    needs = _names(list(wait["components"]))
    if not needs:
        return "No worker lives.", "openagents worker"
    return f"No worker that lives has {needs}.", "openagents worker --components MODULE"


def _signal(wait: Entry, facts: Facts) -> Said:
    command = f"openagents jobs signal {facts.name} {wait['signal']}"
    return f"The step {wait['step']} waits for the signal {wait['signal']!r}.", command


def _timer(wait: Entry, facts: Facts) -> Said:
    return f"The step {wait['step']} waits for its time.", None


def _retry(wait: Entry, facts: Facts) -> Said:
    return f"The step {wait['step']} has failed and is tried again at its time.", None


def _child(wait: Entry, facts: Facts) -> Said:
    paused = " It is paused." if wait.get("paused") else ""
    command = f"openagents jobs resume {wait['job_id']}" if paused else f"openagents jobs explain {wait['job_id']}"
    return (
        f"The step {wait['step']} waits for the {wait['for']} of the child job {short_id(wait['job_id'])}.{paused}",
        command,
    )


def _release(wait: Entry, facts: Facts) -> Said:
    return f"The resource {wait['resource']!r} of the step {wait['step']} is being released.", None


def _decision(wait: Entry, facts: Facts) -> Said:
    command = f"openagents jobs resolve {facts.name} {wait['step']} --retry"
    return f"Whether the effect of the step {wait['step']} has happened is unknown: somebody has to say.", command


_SENTENCES: dict[str, Callable[[Entry, Facts], Said]] = {
    "resume": _resume,
    "start": _start,
    "paused": _paused,
    "limit": _limit,
    "resource": _resource,
    "slot": _slot,
    "worker": _worker,
    "signal": _signal,
    "timer": _timer,
    "retry": _retry,
    "child": _child,
    "release": _release,
    "decision": _decision,
}
_ORDER = {
    kind: number
    for number, kind in enumerate(("cancel", "pause", "resume", "start", "paused", "limit", "worker", "queue"))
}


# ── where it stands, and when it will begin ───────────────────────────────────────────────────────────────────────


def score_of(facts: Facts) -> Score | None:
    """Its place in the queue, with the parts."""
    place = facts.place
    if place is None:
        return None
    before = tuple(
        {"job_id": one.job_id, "priority": _priority(one.rank), "virtual_arrival": as_datetime(one.sort_at)}
        for one in place.first
    )
    return Score(
        virtual_arrival=as_datetime(place.sort_at),
        queued_at=as_datetime(place.queued_us),
        waited_s=place.waited_us / SECOND_US,
        priority=JobPriority.of_rank(place.rank),
        level=place.rank,
        aging_s=facts.aging_s,
        by=_placed_by(facts, place),
        ahead=place.ahead,
        before=before,
    )


def _placed_by(facts: Facts, place: QueuePlace) -> str:
    came, has_begun = (place.queued_us, place.waited_us), facts.status["started_at"] is not None
    by_time_us = virtual_arrival_us(*came, place.rank, facts.aging_s, has_begun=has_begun)
    if place.sort_at == by_time_us:
        return "time"
    return "share" if facts.status["share"] is not None else "deadline"


def estimate_of(facts: Facts) -> Estimate | None:
    """When it begins, if jobs go on to begin as fast as the last ones did."""
    place, starts = facts.place, facts.starts
    if place is None:
        return None
    able = able_workers(facts)
    if not able:
        return Estimate(None, "no living worker can run it")
    if not place.ahead and any(one.jobs < one.info.max_jobs for one in able):
        return Estimate(facts.now, "it is the next, and a worker has room")
    if len(starts) < STARTS_NEEDED:
        return Estimate(None, "too few jobs have begun lately to say how fast others do")
    quiet_s = (facts.now - starts[0]).total_seconds()
    if quiet_s > STARTS_ARE_OLD_S:
        return Estimate(None, f"no job has begun for {round(quiet_s / 60):,} minutes")
    each_s = (starts[0] - starts[-1]).total_seconds() / (len(starts) - 1)
    left_s = max((place.ahead + 1) * each_s - quiet_s, 0.0)
    pace = f"at {60 / each_s:,.1f} a minute" if each_s else "all at once"
    basis = f"the last {len(starts)} jobs began {pace}, and {place.ahead:,} stand before it"
    return Estimate(facts.now + timedelta(seconds=left_s), basis)


def summary_of_blockers(facts: Facts, blockers: Sequence[Blocker]) -> str:
    """One sentence for all."""
    status = facts.status["display_status"]
    if JobStatus(facts.status["status"]).is_final:
        return f"It is {status}: nothing more happens to it."
    if not blockers:
        if facts.status["status"] == JobStatus.RUNNING:
            return f"It is {status}, and nothing blocks it."
        return f"It is {status}, and a worker takes it at any moment."
    left = len(blockers) - 1
    more = "" if not left else " One more thing blocks it." if left == 1 else f" {left} more things block it."
    return f"It is {status}. {blockers[0].message}{more}"
