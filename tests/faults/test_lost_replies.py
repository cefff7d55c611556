"""Replies that get lost: the store has done it and the caller hears of trouble, or has not and the caller hears the
same. Whoever asks again gets what was asked for, once (G1, G7)."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from openagents_json import Event, InvalidTransition, JobManager, OpenAgentsApp, StepContext, StoreUnavailable
from openagents_json.job.store import FileJobStore, JobStore, SqliteJobStore
from tests.faults.checker import Effect, Evidence, fault_violations, read_records
from tests.faults.sizes import Hits, campaign_random, sized
from tests.faults.waiting import SAFETY_S

CREATES = sized(30, 500)  # lost replies to them
CONTROLLED = sized(20, 200)
AT_ONCE = 5  # of the latter
LOST_AFTER, LOST_BEFORE = 0.3, 0.1  # the shares of calls whose answer is lost, and that are not done at all
IN_A_ROW = 3  # at most so many of one kind
ACCEPTING = ("create", "create_held", "create_all")
WRITING = (*ACCEPTING, "hold", "append_output")
CONTROL = ("pause", "resume", "cancel", "signal", "set_priority")
NOT_DONE = "start, not done"  # a CREATED job is held by nobody, so its answer has a lease in it

current: ContextVar[str] = ContextVar("current", default="")  # the verb that the client calls


class Lossy:
    """Wraps verbs of a store. What is lost is counted by the client's verb, where it is one's."""

    def __init__(self, store: JobStore, chance: random.Random, verbs: Collection[str]) -> None:
        self.lost: Counter[tuple[str, str]] = Counter()  # by the client's verb, and what has happened: after, before
        self._random = chance
        self._row: Counter[str] = Counter()
        for verb in verbs:
            setattr(store, verb, self._wrapped(verb, getattr(store, verb)))

    def _wrapped(self, verb: str, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def wrapped(*given: Any, **named: Any) -> Any:
            fate = self._random.random()
            if self._row[verb] >= IN_A_ROW:
                fate = 1.0
            if fate < LOST_BEFORE:
                self._lose(verb, "before")
            answer = await call(*given, **named)
            if fate < LOST_BEFORE + LOST_AFTER and not has_lease(answer):
                self._lose(verb, "after")
            self._row[verb] = 0
            return answer

        return wrapped

    def _lose(self, verb: str, when: str) -> None:
        self._row[verb] += 1
        self.lost[current.get(), when] += 1
        raise StoreUnavailable("the reply was lost")


def has_lease(answer: Any) -> bool:
    """Of the verb `hold`. Such an answer is not lost here, for the job then goes on like that of a dead worker, and not
    the way that is counted: `tests/engine/test_lost_answers.py` and the simulation have that."""
    return getattr(answer, "claim", None) is not None


async def insist(verb: str, ask: Callable[[], Awaitable[Any]]) -> Any:
    """Ask until there is an answer. A verb that has worked may not be allowed any more: that is an answer, too."""
    token, tries = current.set(verb), 0
    try:
        while True:
            try:
                return await ask()
            except StoreUnavailable:
                tries += 1
            except InvalidTransition:
                if not tries:
                    raise
                return None
    finally:
        current.reset(token)


@dataclass
class Place:
    """A store with a manager that runs jobs and asks for them, all over the lossy store."""

    folder: Path
    kind: str
    effects: list[Effect] = field(default_factory=list)
    gates: dict[str, asyncio.Event] = field(default_factory=dict)  # by job: its first step ends when this is set
    accepted: list[str] = field(default_factory=list)
    finals: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.store = self.new_store()
        self.app = OpenAgentsApp(self.store, capture_output=False, cancel_grace_s=5)

        def note(context: StepContext, output: Any) -> Any:
            key, number = context.idempotency_key, context.fencing_token
            self.effects.append(Effect(context.job_id, context.step, context.attempt, key, number, output))
            return output

        @self.app.tool("note")
        async def noted(context: StepContext, value: int) -> Any:
            return note(context, value)

        @self.app.tool("gate")
        async def gate(context: StepContext) -> Any:
            await self.gate(context.job_id).wait()
            return note(context, "open")

        given = {"inputs": {"type": "object", "properties": {"n": {"type": "integer"}}}}
        note_it = {"id": "note", "component": "note", "inputs": {"value": "{{ inputs.n }}"}}
        self.app.register_workflow({"id": "plain", **given, "steps": [note_it]})
        steps = [{"id": "gate", "component": "gate"}, {"id": "go", "signal": "go", "needs": ["gate"]}]
        self.app.register_workflow({"id": "gated", **given, "steps": [*steps, {**note_it, "needs": ["go"]}]})

    def new_store(self) -> JobStore:
        return FileJobStore(self.folder / "jobs") if self.kind == "file" else SqliteJobStore(self.folder / "jobs.db")

    def gate(self, job_id: str) -> asyncio.Event:
        return self.gates.setdefault(job_id, asyncio.Event())

    async def evidence(self, lossy: Lossy, prefixes: dict[str, Any]) -> Evidence:
        """Read by a store that has lost nothing."""
        store = self.new_store()
        await store.open()
        try:
            records = await read_records(store)
        finally:
            await store.close()
        return Evidence(
            records,
            accepted=set(self.accepted),
            effects=self.effects,
            faults=lossy.lost.total(),
            prefixes=prefixes,
            finals=self.finals,
        )


async def prefixes_of(jobs: JobManager, ids: list[str]) -> dict[str, Any]:
    return {job_id: await jobs.store.read_events(job_id, 0) for job_id in ids}


@pytest.mark.guarantee("G1")
@pytest.mark.guarantee("G7")
@pytest.mark.parametrize("kind", ["sqlite", "file"])
@pytest.mark.timeout(200)
async def test_creates_with_lost_replies_make_exactly_the_jobs_that_were_asked_for(tmp_path: Path, kind: str) -> None:
    chance = campaign_random("tests/faults/test_lost_replies.py")
    place = Place(tmp_path, kind)
    lossy = Lossy(place.store, chance, ACCEPTING)
    windows = [(verb, when) for verb in ("create", "create_jobs") for when in ("after", "before")]
    async with place.app.jobs as jobs:
        while lossy.lost.total() < CREATES or not all(lossy.lost[window] for window in windows):
            await ask_for_jobs(place, jobs, chance)
            assert len(place.accepted) < 10 * CREATES, "that should have been enough"
        prefixes = await prefixes_of(jobs, place.accepted)
        async with asyncio.timeout(SAFETY_S):
            for job_id in place.accepted:
                place.finals[job_id] = str((await jobs.wait(job_id)).status)
    evidence = await place.evidence(lossy, prefixes)
    assert fault_violations(evidence) == []
    assert sorted(record.state.inputs["n"] for record in evidence.records) == list(range(len(place.accepted)))
    assert set(place.accepted) == {record.id for record in evidence.records}
    assert set(place.finals.values()) == {"COMPLETED"}
    hits = Hits([f"{verb} {when}" for verb, when in windows])
    for (verb, when), count in lossy.lost.items():
        hits.count(f"{verb} {when}", count)
    hits.check()


async def ask_for_jobs(place: Place, jobs: JobManager, chance: random.Random) -> None:
    """For the next one, or for some at once."""
    first = len(place.accepted)
    if chance.random() < 0.7:
        ask = lambda: jobs.create_job("plain", {"n": first}, idempotency_key=f"job {first}", start=True)  # noqa: E731
        place.accepted.append(await insist("create", ask))
        return
    numbers = range(first, first + chance.randrange(1, 4))
    inputs, keys = [{"n": number} for number in numbers], [f"job {number}" for number in numbers]
    ask_all = lambda: jobs.create_jobs("plain", inputs, idempotency_keys=keys, start=True)  # noqa: E731
    place.accepted += await insist("create_jobs", ask_all)


@pytest.mark.guarantee("G1")
@pytest.mark.guarantee("G9")
@pytest.mark.parametrize("kind", ["sqlite", "file"])
@pytest.mark.timeout(300)
async def test_verbs_that_are_repeated_have_no_second_effect(tmp_path: Path, kind: str) -> None:
    chance = campaign_random("tests/faults/test_lost_replies.py")
    hits = Hits((*CONTROL, NOT_DONE))
    place = Place(tmp_path, kind)
    lossy = Lossy(place.store, chance, WRITING)
    prefixes: dict[str, Any] = {}
    async with place.app.jobs as jobs, asyncio.timeout(3 * SAFETY_S):
        number = 0
        while number < CONTROLLED or (missed(lossy) and number < 5 * CONTROLLED):
            together = range(number, number + AT_ONCE)
            await asyncio.gather(*(control(place, jobs, one) for one in together))
            number += AT_ONCE
            prefixes |= await prefixes_of(jobs, place.accepted)
    evidence = await place.evidence(lossy, prefixes)
    assert fault_violations(evidence) == []
    assert len(evidence.records) == number
    for record in evidence.records:
        wanted = {"job.pause_requested": 1, "job.pause_withdrawn": 1, "job.priority_changed": 1}
        if record.state.inputs["n"] % 3 == 0:
            wanted |= {"job.cancel_requested": 1, "job.cancelled": 1}
        else:
            wanted |= {"signal.received": 1, "job.completed": 1}
        if record.state.inputs["n"] % 3 == 2:
            wanted |= {"job.pause_requested": 2, "job.paused": 1, "job.resumed": 1}
        counts = Counter(event.type for event in record.events)
        found = {type: counts[type] for type in wanted}
        assert found == wanted, record.id
        assert [event.data["reason"] for event in record.events if event.type == "job.queued"].count("started") == 1
    for verb in CONTROL:
        hits.count(verb, lossy.lost[verb, "after"])
    hits.count(NOT_DONE, lossy.lost["start", "before"])
    hits.check()


def missed(lossy: Lossy) -> bool:
    return not all([*(lossy.lost[verb, "after"] for verb in CONTROL), lossy.lost["start", "before"]])


async def control(place: Place, jobs: JobManager, number: int) -> None:
    """One job with all the verbs, in its first step; one of three is cancelled there, one more paused for real."""
    key = f"job {number}"
    job_id = await insist("create", lambda: jobs.create_job("gated", {"n": number}, idempotency_key=key))
    place.accepted.append(job_id)
    await insist("start", lambda: jobs.start_job(job_id))
    await reached(jobs, job_id, "attempt.started")
    await insist("set_priority", lambda: jobs.set_priority(job_id, "HIGH"))
    await insist("pause", lambda: jobs.pause_job(job_id))
    await insist("resume", lambda: jobs.resume_job(job_id))
    await reached(jobs, job_id, "job.pause_withdrawn")
    if number % 3 == 0:
        await insist("cancel", lambda: jobs.cancel_job(job_id))
    elif number % 3 == 1:
        await insist("signal", lambda: jobs.signal(job_id, "go", key="the one"))
    else:
        await insist("pause", lambda: jobs.pause_job(job_id))
    place.gate(job_id).set()
    if number % 3 == 2:
        await reached(jobs, job_id, "job.paused")
        await insist("resume", lambda: jobs.resume_job(job_id))
        await insist("signal", lambda: jobs.signal(job_id, "go", key="the one"))
    place.finals[job_id] = str((await jobs.wait(job_id)).status)


async def watch(jobs: JobManager, job_id: str) -> AsyncGenerator[Event, None]:
    async for event in jobs.watch(job_id):
        yield event


async def reached(jobs: JobManager, job_id: str, type: str) -> None:
    async with contextlib.aclosing(watch(jobs, job_id)) as events:
        async for event in events:
            if event.type == type:
                return
    raise AssertionError(f"job {job_id} has ended without {type}")
