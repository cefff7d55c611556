"""One seed: processes on one store, clients that ask, faults, and then healing. Everything follows from the seed."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from random import Random
from typing import Any

import pytest

from openagents_json import JobManager, RetryableError, StepContext
from openagents_json.clock import as_datetime
from openagents_json.errors import InvalidTransition, StoreError
from openagents_json.job.engine import asking, making, runner, worker
from openagents_json.job.events import encode_events
from openagents_json.job.model import JobStatus
from openagents_json.job.store.memory_job import MemoryJob
from openagents_json.settings import Settings
from tests.faults.checker import Effect, Evidence, Record, read_records, violations
from tests.faults.sizes import Hits
from tests.property.manager_model import Asked, Shadow
from tests.simulation.flows import STAGE, WITH_SIGNAL, components, plan_of, workflows
from tests.simulation.heart import hearts_of
from tests.simulation.loop import PLACE, Loop, LoopClock, Place
from tests.simulation.wire import Shared, Wire

MAX_STEPS = 2
SETTINGS = Settings(
    job_retention_days=None, capture_output=False, max_steps=MAX_STEPS, max_jobs=6, cancel_grace_s=4.0,
    cleanup_timeout_s=30.0, linger_s=3.0,
)  # fmt: skip
POLL_S = 1.0  # fewer idle turns than every 50 ms
SNAPSHOT_EVENTS = 6  # so that short jobs are folded from snapshots, too
LEASES_TO_HEAL = 3
SETTLE_S = 3.0  # after the last job is final: what is still under way may come
GIVE_UP_TRIES = 12  # of a client whose calls do not arrive
DOUBT = ["step.in_doubt", "step.resolved"]
ROUNDS = 20  # of cancelling, at the end


@dataclass(eq=False)
class Process:
    """A manager in a process of its own."""

    place: Place
    wire: Wire
    manager: JobManager
    is_worker: bool
    is_open: bool = False
    was_stopped: bool = False  # its steps may have gone on after its lease had ended


@dataclass(eq=False)
class Call:
    """A call of a component that has not ended."""

    context: StepContext
    process: Process


@dataclass
class World:
    """What happens, and what is known of it."""

    seed: int
    hits: Hits
    processes: list[Process] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    accepted: dict[str, str] = field(default_factory=dict)  # idempotency key → job id
    flows: dict[str, str] = field(default_factory=dict)  # idempotency key → workflow
    asked: dict[str, dict[str, Asked]] = field(default_factory=dict)  # job id → requests that were accepted
    refused: dict[str, set[str]] = field(default_factory=dict)
    prefixes: dict[str, list[Any]] = field(default_factory=dict)
    finals: dict[str, str] = field(default_factory=dict)
    things: set[str] = field(default_factory=set)  # acquired and not given back
    failures: int = 0  # attempts that raised
    wrong: list[str] = field(default_factory=list)  # what was seen on the way and may not be

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.loop = Loop(self.random)
        self.clock = LoopClock(self.loop)
        self.shared = Shared(self.clock, self.random, self.hits)
        self._ids = 0
        self._tokens = 0

    # ── processes ─────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def live(self) -> list[Process]:
        return [one for one in self.processes if one.is_open and not one.place.is_dead]

    @property
    def workers(self) -> list[Process]:
        return [one for one in self.live if one.is_worker]

    def start(self, *, is_worker: bool = True) -> Process:
        """One more process; it is open soon."""
        name = f"{'worker' if is_worker else 'client'}-{len(self.processes) + 1}"
        place = Place(name)
        wire = Wire(self.shared, place)
        jobs = JobManager(
            wire, components=components, workflows=workflows, clock=self.clock, settings=SETTINGS, worker=is_worker
        )
        jobs.worker_id = jobs._worker.id = jobs._worker.leases._worker = name
        jobs._worker.random = self.random.random
        process = Process(place, wire, jobs, is_worker)
        self.processes.append(process)
        self.loop.run_in(place, self._open(process))
        return process

    async def _open(self, process: Process) -> None:
        await self.until_it_works(process.manager.open)
        process.is_open = True

    def crash(self, process: Process) -> None:
        """kill -9: whatever it was about to do is not done."""
        window = "client killed"
        if process.is_worker:
            is_on = any(call.process is process for call in self.calls)
            window = "worker killed while a step ran" if is_on else "worker killed between steps"
            if process.wire.under_way:
                self.shared.hit("worker killed during a store call")
        self.shared.hit(window)
        process.place.is_dead = True

    def close(self, process: Process) -> None:
        """The program ends as it should."""
        process.is_open = False
        self.shared.hit("worker closed")
        self.loop.run_in(process.place, process.manager.close())

    def stop(self, process: Process, seconds: float, *, only_loop: bool = False) -> None:
        """SIGSTOP and, after a while, SIGCONT; or something blocks its event loop."""
        process.was_stopped = True
        if only_loop:
            process.place.is_blocked = True
            self.shared.hit("event loop blocked")
        else:
            process.place.is_stopped = True
            self.shared.hit("worker stopped for longer than a lease" if seconds > self.lease_s else "worker stopped")
        self.loop.call_later(seconds, self.loop.go_on, process.place)

    @property
    def lease_s(self) -> float:
        return self.shared.memory.lease_s

    # ── components ────────────────────────────────────────────────────────────────────────────────────────────────

    async def work(self, context: StepContext, value: Any, *, fails: float = 0.0, is_stubborn: bool = False) -> Any:
        with self._calling(context):
            await self._spend(self.random.choice((0.0, 0.5, 2.0, 5.0)), is_stubborn)
            if self.random.random() < fails:
                self._effect(context, None)
                self.failures += 1
                raise RetryableError("demo.busy", "come again")
            return self._effect(context, value)

    async def hold(self, context: StepContext, value: Any) -> Any:
        with self._calling(context) as call:
            name = f"{context.job_id}/{context.step}/{context.attempt}"
            until = self.random.choice(("step", "job"))
            await context.track(name, release="give_back", inputs={"name": name}, until=until)  # type: ignore[arg-type]
            if not call.process.was_stopped:  # else it may have been released before it was acquired
                self.things.add(name)
            await self._spend(self.random.uniform(0.0, 3.0))
            return self._effect(context, value)

    async def give_back(self, name: str) -> None:
        await self._spend(self.random.uniform(0.0, 1.0))
        self.things.discard(name)

    @contextmanager
    def _calling(self, context: StepContext) -> Iterator[Call]:
        place = PLACE.get()
        process = next(one for one in self.processes if one.place is place)
        for other in self.calls:
            same = other.context.job_id == context.job_id and other.context.step == context.step
            if same and self._overlaps(other, process):
                self.wrong.append(f"G5: {context.step} runs in {process.place.name} and in {other.process.place.name}")
        call = Call(context, process)
        self.calls.append(call)
        if sum(1 for one in self.calls if one.process is process) > MAX_STEPS:
            self.wrong.append(f"slots: more than {MAX_STEPS} steps run in {process.place.name}")
        try:
            yield call
        finally:
            self.calls.remove(call)

    def _overlaps(self, other: Call, process: Process) -> bool:
        """Whether a call should have ended before the same step is called again."""
        first = other.process
        if first.place.is_dead or first.was_stopped or process.was_stopped:
            return False
        return first is process or not other.context.cancelled

    async def _spend(self, seconds: float, is_stubborn: bool = False) -> None:
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            if is_stubborn and not self.shared.is_over:
                await asyncio.sleep(self.random.uniform(0.0, 3.0))
            raise

    def _effect(self, context: StepContext, value: Any) -> Any:
        key, token = context.idempotency_key, context.fencing_token
        self.effects.append(Effect(context.job_id, context.step, context.attempt, key, token, value))
        return value

    # ── clients ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def until_it_works(self, ask: Callable[[], Awaitable[Any]], tries: int = 10_000) -> Any:
        """Ask again while the store is away, as a careful client does."""
        for _ in range(tries):
            try:
                return await ask()
            except StoreError:
                await asyncio.sleep(self.random.uniform(0.1, 3.0))
        return None

    async def create(self, process: Process, key: str, tries: int = GIVE_UP_TRIES) -> None:
        """Have a job accepted; the same key again is the same job."""
        inputs: dict[str, Any] = {"start": True}
        if len(key) % 2 == 0 and self.random.random() < 0.3:
            at = as_datetime(self.clock.now_us()) + timedelta(seconds=self.random.uniform(0.0, 10.0))
            inputs = {"start_at": at}
        ask = partial(process.manager.create_job, self.flows[key], idempotency_key=key, **inputs)
        job_id = await self.until_it_works(ask, tries)
        if job_id is None:
            return
        if self.accepted.setdefault(key, job_id) != job_id:
            self.wrong.append(f"I1: {key} is {self.accepted[key]} and {job_id}")

    async def ask(self, process: Process, key: str, verb: Any, arguments: dict[str, Any]) -> None:
        """Ask something of a job. What was accepted has to be told of; what was refused may not."""
        job_id = self.accepted[key]
        for _ in range(GIVE_UP_TRIES):
            self._tokens += 1
            token = f"client {self._tokens}"
            asked = Asked(verb, token, arguments, self._job(job_id).row.last_event)
            try:
                await _call(process.manager, job_id, asked)
            except InvalidTransition:
                self.refused.setdefault(job_id, set()).add(token)
            except StoreError:
                await asyncio.sleep(self.random.uniform(0.1, 3.0))
                continue
            else:
                self.asked.setdefault(job_id, {})[token] = asked
            return

    def look(self) -> None:
        """A reader sees the histories as they are now."""
        for job in self.shared.memory._jobs.values():
            self.prefixes[job.id] = list(job.events)
            if job.row.status.is_final:
                self.finals.setdefault(job.id, str(job.row.status))

    def _job(self, job_id: str) -> MemoryJob:
        return self.shared.memory._jobs[job_id]

    # ── healing ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def heal(self) -> None:
        """No more faults. Every job is final within three leases, however bad it was."""
        for process in self.processes:
            process.wire.weather.clear_up()
            self.loop.go_on(process.place)
        if not self.workers or self.random.random() < 0.5:  # else those that are there have to heal by themselves
            self.start()
        client = self.start(is_worker=False)
        until_us = self.clock.now_us() + round(LEASES_TO_HEAL * self.lease_s * 1_000_000)
        tending = self.loop.run_in(client.place, self._tend(client))
        while not (all(job.row.status.is_final for job in self.shared.memory._jobs.values()) and tending.done()):
            if self.clock.now_us() > until_us:
                self.wrong += [
                    f"I2: job {job.id} ({job.new.definition.workflow_id}) is {job.row.status}, held by {job.owner}"
                    for job in self.shared.memory._jobs.values()
                    if not job.row.status.is_final
                ] or ["I2: who waits for the last job hears nothing"]
                break
            await asyncio.sleep(1.0)
        else:
            tending.result()
        self.look()
        await asyncio.sleep(SETTLE_S)
        while any(process.wire.under_way for process in self.live):  # noqa: ASYNC110 - answers on their way
            await asyncio.sleep(SETTLE_S)

    async def _tend(self, client: Process) -> None:
        """Ask again for what may not have been accepted, give each job what it waits for, and wait for its end."""
        await self._open_by(client)
        for key in self.flows:
            await self.create(client, key, 100)
        waits = [self.loop.create_task(client.manager.wait(job_id)) for job_id in self.accepted.values()]
        while not all(wait.done() for wait in waits):
            for key, job_id in self.accepted.items():
                await self._help(client, key, self._job(job_id))
            await asyncio.sleep(1.0)
        for wait in waits:
            wait.result()

    async def _open_by(self, client: Process) -> None:
        while not client.is_open:  # noqa: ASYNC110 - time is virtual
            await asyncio.sleep(0.01)

    async def _help(self, client: Process, key: str, job: MemoryJob) -> None:
        row = job.row
        if row.status.is_final:
            return
        if row.status == JobStatus.PAUSED or row.pause_requested:
            await self.ask(client, key, "resume", {})
        elif self.flows[key] in WITH_SIGNAL and not any(one.type == "signal.received" for one in job.events):
            await self.ask(client, key, "signal", {"payload": 1})
        elif [one.type for one in job.events if one.type in DOUBT][-1:] == DOUBT[:1]:
            await self.ask(client, key, "resolve_step", {"path": "a", "how": "retry"})

    # ── the whole of it ───────────────────────────────────────────────────────────────────────────────────────────

    def run(self, script: Callable[[World], Awaitable[None]]) -> Outcome:
        """Play the script of faults, heal, and judge."""
        STAGE[:] = [self]
        asyncio.set_event_loop(self.loop)
        try:
            with self._patched(), self._listening():
                try:
                    self.loop.run_until_complete(self._play(script))
                    records = self.loop.run_until_complete(read_records(self.shared.memory))
                    wrong = [*self.wrong, *self.loop.run_until_complete(self._judge(records))]
                finally:
                    self._end()
        finally:
            asyncio.set_event_loop(None)
            self.loop.close()
            STAGE.clear()
        histories = hashlib.sha256()
        for record in records:
            histories.update(record.id.encode() + encode_events(record.events))
        return Outcome(self.seed, wrong, histories.hexdigest(), self.shared.faults, records)

    async def _play(self, script: Callable[[World], Awaitable[None]]) -> None:
        await script(self)
        await self.heal()

    async def _judge(self, records: list[Record]) -> list[str]:
        by_id = {record.id: record for record in records}
        evidence = Evidence(
            records,
            accepted=set(self.accepted.values()),
            effects=sorted(self.effects, key=lambda effect: effect.token),  # who was stopped may come late
            faults=self.shared.faults,
            concurrency=MAX_STEPS * len(self.processes),
            declared_retries=self.failures,
            prefixes=self.prefixes,
            finals=self.finals,
        )
        found = violations(evidence)
        keys = Counter(one.summary.idempotency_key for one in records if one.summary.parent_id is None)
        found += [f"I1: {key} made {count} jobs" for key, count in keys.items() if count > 1]
        found += [f"ledger: job {one.id} ended with something in it" for one in records if one.state.ledger]
        leaks = {leak.name for leak in await self.shared.memory.list_leaks()}
        found += [f"ledger: {name} was never given back" for name in sorted(self.things - leaks)]
        found += [sentence for one in records for sentence in _starts_before_the_pause(one)]
        for process in self.workers:
            if process.manager._worker.runners or process.manager._worker.admission.steps:
                found.append(f"rest: {process.place.name} still has runners or slots")
        for key, job_id in self.accepted.items():
            shadow = Shadow.of(job_id, plan_of(self.flows[key]))
            shadow.accepted, shadow.refused = self.asked.get(job_id, {}), self.refused.get(job_id, set())
            if job_id in by_id:
                try:
                    await shadow.look(self.shared.memory)
                except AssertionError as error:
                    found.append(f"requests: {error}")
        return found

    def _end(self) -> None:
        """Let go of everything; nothing of it counts."""
        self.shared.is_over = True
        for process in self.processes:
            process.place.is_dead = False
            self.loop.go_on(process.place)
        for _ in range(ROUNDS):
            tasks = asyncio.all_tasks(self.loop)
            if not tasks:
                return
            for task in tasks:
                task.cancel()
            self.loop.run_until_complete(asyncio.wait(tasks, timeout=60.0))
        raise AssertionError(f"tasks do not end: {asyncio.all_tasks(self.loop)}")

    def _new_id(self, now_us: int) -> str:
        self._ids += 1
        return f"{self._ids:08x}-0000-7000-8000-{self.random.getrandbits(48):012x}"

    @contextmanager
    def _patched(self) -> Iterator[None]:
        """Ids from the seed, and short waits and histories."""
        with pytest.MonkeyPatch.context() as patch, hearts_of(self.loop):
            patch.setattr(asking, "uuid7", self._new_id)
            patch.setattr(making, "uuid7", self._new_id)
            patch.setattr(worker, "POLL_S", POLL_S)
            patch.setattr(runner, "SNAPSHOT_EVENTS", SNAPSHOT_EVENTS)
            patch.setattr(runner, "RELEASE_SNAPSHOT_EVENTS", SNAPSHOT_EVENTS)
            yield

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """An exception that the engine did not expect is a finding, whatever came of it."""
        logger = logging.getLogger("openagents_json")
        before = logger.level, logger.propagate
        listener = _Listener(self.wrong)
        logger.addHandler(listener)
        logger.setLevel(logging.ERROR)
        logger.propagate = False
        try:
            yield
        finally:
            logger.removeHandler(listener)
            logger.setLevel(before[0])
            logger.propagate = before[1]


def _starts_before_the_pause(record: Record) -> Iterator[str]:
    """G9: from the moment that a pause is asked for, nothing begins until it is withdrawn or over."""
    is_asked = False
    for event in record.events:
        if event.type == "job.pause_requested":
            is_asked = True
        elif event.type in ("job.pause_withdrawn", "job.resumed", "job.cancel_requested"):
            is_asked = False
        elif event.type == "attempt.started" and is_asked:
            yield f"G9: event {event.number} of job {record.id} starts {event.data['path']} while a pause is asked for"


@dataclass(frozen=True)
class Outcome:
    """What became of a seed."""

    seed: int
    wrong: list[str]
    digest: str  # of all histories
    faults: int
    records: list[Record]


class _Listener(logging.Handler):
    """Notes what was logged with an exception."""

    def __init__(self, wrong: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._wrong = wrong

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self._wrong.append(f"unexpected: {record.getMessage()}: {record.exc_info[1]!r}")


async def _call(jobs: JobManager, job_id: str, asked: Asked) -> None:
    by, arguments = asked.token, asked.arguments
    match asked.verb:
        case "start":
            await jobs.start_job(job_id, by=by)
        case "pause":
            await jobs.pause_job(job_id, by=by)
        case "resume":
            await jobs.resume_job(job_id, by=by)
        case "cancel":
            await jobs.cancel_job(job_id, arguments["force"], by=by)
        case "set_priority":
            await jobs.set_priority(job_id, arguments["priority"], by=by)
        case "signal":
            await jobs.signal(job_id, "go", arguments["payload"], by=by)
        case "resolve_step":
            await jobs.resolve_step(job_id, arguments["path"], retry=True, by=by)
