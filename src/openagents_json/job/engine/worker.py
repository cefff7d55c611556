"""The worker: claims queued jobs and runs them, and keeps what belongs to no single job going.

Its loops, one small coroutine each: claim (the queue), due (timers of jobs at rest), poll (what other processes
wrote), recover (jobs of dead workers), hold again (jobs that are ours without our knowing of it), retain (old jobs),
suspect (a job that is to run alone), tend (leaks, whose releases may take their time). Each step waits for a wake-up or
a time, and `_forever` repeats it. The worker's leases are renewed by a thread, its heart.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import random
import socket
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from openagents_json.clock import SECOND_US, Clock
from openagents_json.components import (
    AgentInstances,
    Component,
    ComponentRegistry,
    Isolation,
    reference_to,
    why_not_in_process,
)
from openagents_json.errors import ComponentNotFound, LeaseLost, StoreError, StoreUnavailable
from openagents_json.job.bus import Bus
from openagents_json.job.engine import capture
from openagents_json.job.engine.admission import Admission, Grant, Needs
from openagents_json.job.engine.attempt import Attempt
from openagents_json.job.engine.capacities import capacities_of, needs_of, stated
from openagents_json.job.engine.grants import Grants
from openagents_json.job.engine.heart import STOP_BEFORE, Heart
from openagents_json.job.engine.housekeeping import Housekeeping
from openagents_json.job.engine.making import JobMaker
from openagents_json.job.engine.meter import Meter
from openagents_json.job.engine.output import Outputs
from openagents_json.job.engine.pauses import Pauses
from openagents_json.job.engine.plans import Plans
from openagents_json.job.engine.preemption import Preemption
from openagents_json.job.engine.processes import ProcessPool
from openagents_json.job.engine.queue import KnownQueue
from openagents_json.job.engine.runner import First, Runner
from openagents_json.job.engine.settle import Settler
from openagents_json.job.engine.states import KnownStates
from openagents_json.job.engine.telling import Telling
from openagents_json.job.engine.threads import Threads
from openagents_json.job.events import Event
from openagents_json.job.machine import (
    Child,
    ChildSpec,
    Claimed,
    Decision,
    Happening,
    Interrupted,
    JobState,
    Offered,
    Tick,
)
from openagents_json.job.model import JobStatus
from openagents_json.job.store.base import JobStore
from openagents_json.job.store.durations import WHOLE_JOB, Gathered
from openagents_json.job.store.records import FIRST_EPOCH, Claim, NewJob, WorkerInfo, first_claim
from openagents_json.job.store.rules import SUSPECT_DEATHS, serves
from openagents_json.job.store.shortages import Short
from openagents_json.resources import PROCESSES, THREADS, Offers, had, occupied, requirement
from openagents_json.settings import Settings
from openagents_json.version import VERSION
from openagents_json.workflow import Retry, SecretProvider
from openagents_json.workflow.plan import Node, Plan

logger = logging.getLogger("openagents_json.worker")

RETRY_STORE_S = (0.05, 0.2, 1.0, 2.0, 5.0)  # waits between tries while the store is away; the last one repeats
POLL_S = 0.05  # how often other processes' writes are looked for
ALONE_WAIT_S = 30.0  # how long a job that is to run alone waits for the others to end
ALONE_AGAIN_S = 300.0  # after how long it is tried again when they did not
# How often jobs of dead workers are looked for. They are promised to be taken over five seconds after their leases have
# ended (G5): the rest is for looking and writing.
RECOVER_S = 4.0
SETTLE_BATCH = 256
TAKEN_AT_ONCE = 16  # claimed jobs folded in one turn of the event loop
LONGEST_SLEEP_S = 60.0
CANCEL_S = 0.1  # what tasks get to take note of their cancellation, however little time is left for stopping
STORE_S = 1.0  # what the store gets for the last output and our signing off

T = TypeVar("T")


class Worker:
    """One per manager. With `claims=False` it runs no jobs and only notices what other processes write."""

    def __init__(
        self,
        worker_id: str,
        store: JobStore,
        components: ComponentRegistry,
        plans: Plans,
        states: KnownStates,
        maker: JobMaker,
        settler: Settler,
        bus: Bus,
        clock: Clock,
        settings: Settings,
        secrets: SecretProvider,
        *,
        claims: bool = True,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self.id = worker_id
        self.store = store
        self.components = components
        self.clock = clock
        self.settings = settings
        self.secrets = secrets
        self.random = rng
        self.linger_us = round(settings.linger_s * SECOND_US)
        self.longest_linger_s = max(settings.linger_s, 1.0)  # then a job that lingers looks: the clock may be set back
        self.cleanup_us = round(settings.cleanup_timeout_s * SECOND_US)
        self.runners: dict[str, Runner] = {}  # jobs whose lease we have, by id
        self.capacities = capacities_of(settings)
        self.admission: Admission[Runner] = Admission({name: had(amount) for name, amount in self.capacities.items()})
        self.store_error: StoreUnavailable | None = None  # the last one, until the store works again
        self.gives_up_on_store = False  # set when stopping has waited long enough
        self.is_lease_sure = True  # False: our leases may end, so no step begins
        self.missing_component = _missing_component()
        self.outputs = Outputs(self)
        self.meter = Meter()
        self.seen = Gathered()  # how long steps and jobs took, until the store is told
        self.housekeeping = Housekeeping(self)
        self.preemption = Preemption(self)
        self.pauses = Pauses(self)
        self.grants = Grants(self)
        self.telling = Telling(self)
        self._plans = plans
        self._states = states
        self._maker = maker
        self._settler = settler
        self.leases = settler.leases
        settler.published = self.published
        settler.take_over = self._take_over
        settler.start = self._start
        self.bus = bus
        self._claims = claims
        self._tasks: set[asyncio.Task[Any]] = set()  # everything that runs for the worker; ended by stop
        self._loops: list[asyncio.Task[Any]] = []  # they take new work; ended first
        self._upkeep: list[asyncio.Task[Any]] = []  # our leases, and what others ask; ended last
        self._queue = KnownQueue()
        self._due_changed = asyncio.Event()
        self._empty = asyncio.Event()  # no runner is left
        self._empty.set()
        self._stopping = False
        self._attempts_are_told = False  # to stop, because we do
        self._was_changed = False  # others had written at the last poll
        self._captures = False  # what components print: from start to stop, if the settings say so
        self._registered = 0  # how many components there were when the store heard of us
        self._known_offers: tuple[int, Offers] = (-1, Offers())  # how many there were, and what we have
        self._retries: dict[str, Retry] = {}  # components' own policies, parsed
        self._heart: Heart | None = None  # renews our leases, where time is real
        self._suspect: Claim | None = None  # a job that is run alone, or will be when nothing else runs
        self._threads_left = 0  # abandoned threads that rows count
        self._processes: ProcessPool | None = None  # made by the first step that needs one

    async def start(self) -> None:
        """Register, take over what a dead predecessor left, and begin. If that fails nothing has begun."""
        try:
            await self._start_up()
        except BaseException:
            if self._processes is not None:
                await self._processes.close(0.0)
                self._processes = None
            await self._end_all(lambda: 0.0)
            self.stop_capture()
            raise

    async def _start_up(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.gives_up_on_store = False
        self.threads = Threads(int(self.capacities[THREADS]))
        self.instances = AgentInstances()
        began_s = self.loop.time()
        await self._register()
        if self._claims:
            await self.pauses.look()
        self.meter.start()
        self._upkeep = self._begin(self._poll, self._hold_again, self.grants.ask)
        if self.clock.passes_by_itself:
            pulse, lease_s = self.store.pulse(self.id), self.store.lease_s
            self._heart = Heart(
                pulse, lease_s, self.meter, self._taken_for_dead, self._lease_is_ending, self._lease_is_sure, began_s
            )
            self.is_lease_sure = self._heart.is_lease_sure
        else:
            self._upkeep += self._begin(self._heartbeat)
        if self._claims:
            if self.settings.capture_output:
                capture.install()
                self._captures = True
            self._warm()
            try:
                await self.recover()
            except StoreUnavailable as error:  # we live already, perhaps with leases: the loops see to them
                self.note_store_error(error)
            self._queue.lost_count()
            self._loops = self._begin(
                self._claim,
                self._wake_due,
                self._recover,
                self._try_suspect,
                self.preemption.reconsider,
                self.telling.tell,
                *self.housekeeping.loops,
            )

    @property
    def why_nothing_begins(self) -> str | None:
        """The reason why no step may begin now, although its start may be recorded; None if there is none."""
        if self._attempts_are_told:
            return "shutdown"
        return None if self.is_lease_sure else "lost_lease"

    @property
    def is_stopping(self) -> bool:
        """Whether it gives all its jobs back and ends."""
        return self._stopping

    @property
    def processes(self) -> ProcessPool:
        """The pool of processes; made in the event loop, whose thread lives as long as they do."""
        if self._processes is None:
            limit, calls = int(self.capacities[PROCESSES]), self.settings.calls_per_process
            self._processes = ProcessPool(limit=limit, calls_per_process=calls)
        return self._processes

    def _warm(self) -> None:
        """Have a process ready if components ask for one: it takes a second to start."""
        wanted = [one for one in self.components if one.isolation == "process" and why_not_in_process(one) is None]
        if wanted:
            self.processes.warm(*(reference_to(one) for one in wanted))

    def _begin(self, *steps: Callable[[], Coroutine[Any, Any, None]]) -> list[asyncio.Task[Any]]:
        return [self.loop.create_task(self._forever(step), name=f"worker {step.__name__}") for step in steps]

    async def stop(self, timeout_s: float) -> None:
        """Take nothing new, let running attempts end, tell them to stop, kill them, give the jobs back, and close
        processes and agents: all within `timeout_s`, whatever components do. What is not done by then is logged and
        left to end with the program. After that only the store is waited for, `STORE_S` for what is still to write."""
        if self._stopping:
            return
        self._stopping = True
        until_us = self.clock.steady_us() + round(timeout_s * SECOND_US)
        for loop in self._loops:
            loop.cancel()
        for runner in list(self.runners.values()):
            runner.release("worker_stopped")
        told_s = min(self.settings.shutdown_grace_s, timeout_s / 2)
        if not await self._wait_empty(timeout_s - 2 * told_s):
            self._attempts_are_told = True
            for runner in list(self.runners.values()):
                runner.stop_attempts("shutdown", told_s / 2)
            if not await self._wait_empty(1.5 * told_s):
                self.gives_up_on_store = True
                await self._wait_empty(told_s / 4)
        await self._close(lambda: max((until_us - self.clock.steady_us()) / SECOND_US, 0.0))

    async def _close(self, left_s: Callable[[], float]) -> None:
        """Close what steps needed. `left_s` tells how much of the time for stopping is left."""
        if self._processes is not None:
            await self._processes.close(left_s())
        await self._end_all(left_s)
        try:
            async with asyncio.timeout(STORE_S):
                await self.outputs.close()
                await self.store.unregister_worker(self.id, threads_run=self._threads_left > 0)
                await self.housekeeping.tell_durations()
        except (StoreError, TimeoutError) as error:
            logger.warning("worker %s could not sign off: %s", self.id, error or "the store does not answer")

    async def _end_all(self, left_s: Callable[[], float]) -> None:
        """End the tasks, agents, threads and the heart."""
        tasks = [*self._tasks, *self._loops, *self._upkeep]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=max(left_s(), CANCEL_S))
            for task in tasks:
                if not task.done():  # a secret provider, say, that swallows its cancellation
                    logger.error("%s does not end and is left", task.get_name())
                elif not task.cancelled():
                    task.exception()  # has been dealt with; else asyncio would complain of it
        self.gives_up_on_store = True  # what still runs, an abandoned thread, may end after the store was closed
        await self.instances.close(left_s())
        self.threads.close()
        self.meter.stop()
        if self._heart is not None:
            self._heart.stop()

    def stop_capture(self) -> None:
        """Give `sys.stdout` and the rest back. May be called twice."""
        if self._captures:
            self._captures = False
            capture.uninstall()

    # ── what the manager and the runners tell the worker ──────────────────────────────────────────────────────────

    def queue_changed(self, count: int = 1) -> None:
        """So many jobs were queued."""
        self._queue.added(count)

    def jobs_came(self) -> None:
        """Jobs were written that nobody here knows of."""
        self._queue.lost_count()
        self._due_changed.set()

    def due_changed(self) -> None:
        """A job at rest has a new time to wake."""
        self._due_changed.set()

    def reconsider_queue(self) -> None:
        """If every job slot is taken, look again whether one of the jobs has to make room."""
        if len(self.runners) >= self.settings.max_jobs:
            self._queue.reconsider()

    def inbox_changed(self, job_id: str) -> None:
        if (runner := self.runners.get(job_id)) is not None:
            runner.inbox_changed()

    def published(self, state: JobState, decision: Decision) -> None:
        """A commit is on disk."""
        self.store_error = None
        self.bus.publish(state, decision.events)
        if state.status == JobStatus.COMPLETED:
            self.seen.add(state.workflow_id, WHOLE_JOB, state.used_us)
        if state.plan.workflow.limit is not None and state.status != JobStatus.RUNNING:
            self.slots_changed(state)
        if state.status == JobStatus.QUEUED:
            self.queue_changed()
        if (
            state.status != JobStatus.RUNNING
            and not state.is_final
            and (state.deadline_us is not None or state.wake_us is not None or state.start_at_us is not None)
        ):
            self.due_changed()
        if decision.children:
            for child in decision.children:
                new, child_state = child.job
                self.bus.publish(child_state, new.events)
                if new.limit is not None:
                    self.slots_changed(child_state)
            self.queue_changed(len(decision.children))
        if decision.posts:
            self.posted(post.job_id for post in decision.posts)

    def slots_changed(self, state: JobState) -> None:
        """A job with a limit has entered the queue, or has come to rest or to its end: the store may have let others
        into the queue, or asked them to make way."""
        self._queue.lost_count()
        limit = state.plan.workflow.limit
        if limit is not None and limit.overflow == "replace" and state.status == JobStatus.QUEUED:
            self.spawn(self._carry_out_requests(), "jobs that are replaced")

    def posted(self, job_ids: Iterable[str]) -> None:
        """A commit has put something into the inboxes of these jobs: their runners look, or we settle it here."""
        for job_id in dict.fromkeys(job_ids):
            if job_id in self.runners:
                self.inbox_changed(job_id)
            else:
                self.spawn(self._settle_posts(job_id), f"posts of {job_id}")

    def spawn_child(self, plan: Plan, spec: ChildSpec) -> Child:
        """A child job as a step of a job with that plan asks for it, not written yet."""
        return self._maker.spawn(plan, spec)

    def note_store_error(self, error: StoreUnavailable) -> None:
        if self.store_error is None:
            logger.error("the store is away, jobs stand still until it is back: %s", error)
        self.store_error = error

    async def patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask the store until it answers. `LeaseLost` when the program stops meanwhile."""
        tries = 0
        try:
            while True:
                try:
                    return await ask()
                except StoreUnavailable as error:
                    if self.gives_up_on_store:
                        raise LeaseLost(f"The store is away and the program stops: {error}") from error
                    self.note_store_error(error)
                    await self.clock.sleep(RETRY_STORE_S[min(tries, len(RETRY_STORE_S) - 1)])
                    tries += 1
        finally:
            if tries:
                self._look_around()

    def _look_around(self) -> None:
        """A commit of ours may be recorded although its reply was lost, and then nobody has told of it: look for what
        it put into the queue or gave a time."""
        self._queue.lost_count()
        self._due_changed.set()
        self.bus.wake_readers()

    def settle_later(self, claim: Claim, happenings: Sequence[Happening] = ()) -> None:
        """The store went away in the middle: settle the job when it is back. Nobody else would, while we live."""
        self.spawn(self._settle_later(claim, happenings), f"settle {claim.job_id}")

    def note_abandoned(self, attempt: Attempt) -> None:
        if attempt.isolation == "thread":
            self.admission.abandoned += 1

    def code_ended(self, attempt: Attempt) -> None:
        """The code of an attempt has really ended: its slot is free."""
        if attempt.is_abandoned and attempt.isolation == "thread":
            self.admission.abandoned -= 1
        self.grants.code_ended(attempt)
        self.give_back(attempt.grant)

    def thread_counted(self) -> None:
        """A row counts an abandoned attempt from now on."""
        self._threads_left += 1

    def thread_ended(self, job_id: str) -> None:
        """The code of an abandoned attempt, which the job's row counts, has ended."""
        self._threads_left -= 1
        self.spawn(self._thread_ended(job_id), f"thread of {job_id} ended")

    def needs_of(self, component: str, node: Node | None) -> Needs:
        """What a step occupies: what its component says, and over that what the step says. A release, without a node,
        has to run here, so it needs no more than there is."""
        found = self.component_or_missing(component)
        if node is None:
            return self.admission.within(needs_of(found.isolation, found.resources))
        return needs_of(node.step.isolation or found.isolation, stated(found, node.step))

    def may_start(self, component: str) -> bool:
        """Whether attempts of a component may begin here: it is here, and not paused."""
        return component in self.components and component not in self.pauses.components

    def out_of_reach(self, component: str, node: Node, needs: Needs) -> str | None:
        """What a step with these needs requires of a worker, if we never have so much; None if it can start here."""
        if self.admission.can_ever_fit(needs):
            return None
        return requirement(component, occupied(stated(self.components.get(component), node.step)))

    async def why_waits(self, job_id: str) -> Sequence[Short]:
        """What the steps of a job are short of, if they wait for resources; of one that runs elsewhere, as far as its
        worker has told."""
        runner = self.runners.get(job_id)
        return await self.store.read_shortages(job_id) if runner is None else self.admission.why(runner)

    def give_back(self, grant: Grant) -> None:
        self.admission.give_back(grant)
        self.offer_slots()

    def offer_slots(self) -> None:
        """Wake the jobs whose steps wait for what is free now."""
        for runner in self.admission.wake():
            runner.look_again()

    def spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Run something beside everything else, until the worker stops."""
        task = self.loop.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def isolation_of(self, component: str, node: Node | None) -> Isolation:
        """Where a step's attempts (or a release, without a node) run: what the step says, else what the component
        says."""
        if node is not None and node.step.isolation is not None:
            return node.step.isolation
        return self.component_or_missing(component).isolation

    def component_or_missing(self, name: str) -> Component:
        """The component, or one that stands in for it so that its attempt can fail with `why_missing`."""
        try:
            return self.components.get(name)
        except ComponentNotFound:
            return self.missing_component

    def why_missing(self, name: str) -> ComponentNotFound:
        """The error of a component that is not here."""
        try:
            self.components.get(name)
        except ComponentNotFound as error:
            return error
        return ComponentNotFound(f"There was no component {name!r} when the call began.", name=name)

    def component_retry(self, name: str, given: Mapping[str, Any]) -> Retry:
        """A component's own retry policy."""
        if name not in self._retries:
            self._retries[name] = Retry.model_validate(dict(given))
        return self._retries[name]

    def fold(self, plan: Plan, snapshot: bytes | None, events: Sequence[Event]) -> JobState:
        return self._plans.fold(plan, snapshot, events)

    # ── the loops ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _forever(self, step: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """One loop of the worker. While the store is away it tries again every second; nothing else may end it."""
        while True:
            try:
                await step()
            except StoreUnavailable as error:
                self.note_store_error(error)
                await self.clock.sleep(1.0)
            except Exception:
                logger.exception("a loop of worker %s failed and goes on", self.id)
                await self.clock.sleep(1.0)

    async def _claim(self) -> None:
        """Fill the free job slots from the queue."""
        await self._queue.wait()
        if self._suspect is not None or not self.is_lease_sure:
            return  # it runs alone, or we may be taken for dead; when that has ended the event is set again
        free = self.settings.max_jobs - len(self.runners)
        if free <= 0:  # the next runner that ends sets the event again
            if self._queue.take_news():
                await self.preemption.make_room()
            return
        try:
            claims = await self.leases.claim(free, self.offers)
        except StoreError:
            self._queue.lost_count()
            raise
        self.store_error = None
        for number, claim in enumerate(claims, 1):
            await self._take(claim)
            if number % TAKEN_AT_ONCE == 0:
                await asyncio.sleep(0)  # folding many histories in one go would hold up everything else
        self._queue.looked(found_all=len(claims) < free)
        if len(claims) == free:
            self._queue.room_is_free()

    async def _take(self, claim: Claim) -> None:
        try:
            plan = await self.patiently(lambda: self._plans.get(claim.definition_hash))
            state = self._fold(plan, claim)
        except LeaseLost:
            return  # the program stops while the store is away: the job is free when we have signed off
        except Exception:
            logger.exception("job %s cannot be read and stays in the queue", claim.job_id)
            self.spawn(self._take_up_again(claim), f"give back {claim.job_id}")
            return
        if self.pauses.concerns(state):  # since we have asked for it
            self.spawn(self.patiently(lambda: self.leases.release(claim)), f"give back {claim.job_id}")
            return
        preempted = self.preemption.claimed(claim.job_id)
        self._start(self._make_runner(claim, state, [Claimed(claim.owner, claim.epoch, claim.sort_at, preempted)]))

    def _take_over(self, plan: Plan, claim: Claim, happenings: tuple[Happening, ...], first: First) -> Runner | None:
        """A runner for a job that is held for one commit, if it may be run. It counts as running from now on."""
        if not self._has_room or claim.job_id in self.runners or claim.needs_queue:
            return None
        state = self._fold(plan, claim)
        if state.deaths >= SUSPECT_DEATHS or not serves(self.offers, state.required) or self.pauses.concerns(state):
            return None
        return self._make_runner(claim, state, [Offered(claim.owner, claim.epoch, claim.sort_at), *happenings], first)

    @property
    def _has_room(self) -> bool:
        """Whether a job may be run without its way through the queue: there is room for it and for all that it would
        overtake there."""
        if not self._claims or self._stopping or self._suspect is not None or not self.is_lease_sure:
            return False
        if self._queue.length is None:
            return False
        return len(self.runners) + self._queue.length < self.settings.max_jobs

    def begin(self, new: NewJob, state: JobState) -> First | None:
        """Run a new job at once if there is room: the outcome of its first turn, which writes it. `JobIsThere` in it
        when it need not be written, `StoreUnavailable` when it perhaps was not. None: it has to be created and queued
        in the ordinary way."""
        if state.status != JobStatus.QUEUED or new.limit is not None or new.row.is_placed or not self._has_room:
            return None
        if not self._loops or not serves(self.offers, state.required) or self.pauses.concerns(state):
            return None
        first: First = self.loop.create_future()
        claim = first_claim(new, 0, self.store.aging_s, self.id)
        self._start(self._make_runner(claim, state, [Claimed(self.id, FIRST_EPOCH, claim.sort_at)], first, new))
        return first

    def _fold(self, plan: Plan, claim: Claim) -> JobState:
        """The state of a job that we hold: the one that we know, if nothing has happened since."""
        known = self._states.take(claim.job_id)
        if known is None or known.number != claim.last_event or known.plan is not plan:
            return self._plans.fold(plan, claim.snapshot, claim.events)
        known.rewind_turn()
        return known

    def _make_runner(
        self,
        claim: Claim,
        state: JobState,
        happenings: list[Happening],
        first: First | None = None,
        new: NewJob | None = None,
    ) -> Runner:
        runner = self.runners[claim.job_id] = Runner(self, claim, state, happenings, first, new)
        self._empty.clear()
        return runner

    def _start(self, runner: Runner) -> None:
        self.spawn(self.run(runner), f"job {runner.job_id}")

    async def run(self, runner: Runner) -> None:
        """Run a job that was taken over or claimed, until it is let go of. Raises nothing."""
        try:
            await runner.run()
            if runner.has_let_go:
                self._states.keep(runner.state)
                await self.patiently(lambda: self._settler.settle_rest(runner.job_id))
        except LeaseLost as lost:
            self._note_lost(runner.job_id, lost)
        except Exception:
            logger.exception("the runner of job %s failed; the job is taken up again", runner.job_id)
            runner.stop_attempts("lost_lease", 0.0)
            self.spawn(self._take_up_again(runner.claim), f"take up {runner.job_id}")
        finally:
            if self.runners.get(runner.job_id) is runner:  # it may have let go long ago, and the job runs here again
                del self.runners[runner.job_id]
            if not self.runners:
                self._empty.set()
            self.preemption.yielded(runner)
            self._queue.room_is_free()
            if runner.has_unread:  # somebody told the runner when it had already looked for the last time
                self.posted([runner.job_id])

    async def _take_up_again(self, claim: Claim) -> None:
        """We hold a job that we cannot run as it is: after a while, treat it like one of a dead worker."""
        await self.clock.sleep(RECOVER_S)
        stored = await self.patiently(lambda: self.store.read(claim.job_id))
        if stored is None or stored.owner != self.id:
            self.leases.ended(claim)
            return
        events, requests = stored.events, stored.requests
        now = replace(
            claim, last_event=stored.summary.events, snapshot=stored.snapshot, events=events, requests=requests
        )
        # Not run under the lease that we have: attempts of the runner that failed may still be ending under its epoch.
        await self.patiently(lambda: self._settler.settle(now, [Interrupted(self.id)], may_run=False))

    async def _settle_later(self, claim: Claim, happenings: Sequence[Happening]) -> None:
        try:
            await self.patiently(lambda: self._settler.settle(claim, happenings))
        except LeaseLost as lost:
            self._note_lost(claim.job_id, lost)

    async def _wake_due(self) -> None:
        """Put jobs whose timer is due back into the queue."""
        self._due_changed.clear()
        due_us = await self.store.next_due_us()
        now_us = self.clock.now_us()
        if due_us is not None and due_us <= now_us:
            claims = await self.leases.hold_due(SETTLE_BATCH)
            await self._settle_all(claims, lambda claim: Tick())
            if claims:
                return
        seconds = LONGEST_SLEEP_S if due_us is None else (due_us - now_us) / SECOND_US
        await self._wait_for(self._due_changed, min(max(seconds, POLL_S), LONGEST_SLEEP_S))

    async def _poll(self) -> None:
        """Notice what other processes wrote: requests for our jobs, new work, news for readers."""
        await self.clock.sleep(POLL_S)
        if self._registered != len(self.components):
            await self._register()
            self._queue.lost_count()
        is_late, self._was_changed = self._was_changed, self.store.has_foreign_changes()
        if not self._was_changed:
            if is_late:  # a commit of ours from before the change may have been published after it: look once more
                self.bus.wake_readers()
            return
        if self._claims:
            await self.pauses.look()
        if self.runners:
            for job_id in await self.store.jobs_with_requests(self.id):
                self.inbox_changed(job_id)
        await self.preemption.look()
        self.bus.wake_readers()
        self.grants.look()
        self._queue.lost_count()
        self._due_changed.set()

    async def _heartbeat(self) -> None:
        await self.clock.sleep(self.store.lease_s / 3)
        if await self.store.heartbeat(self.id):
            self.store_error = None
            return
        self._taken_for_dead()

    def _taken_for_dead(self) -> None:
        logger.error("worker %s was taken for dead; its jobs may run elsewhere, so it stops them", self.id)
        self._stop_all(self.settings.shutdown_grace_s)
        if not self._stopping:
            self.spawn(self._register_again(), "register again")

    async def _register_again(self) -> None:
        began_s = -math.inf
        while self.loop.time() - began_s >= self.store.lease_s * STOP_BEFORE:  # its answer came too late
            began_s = self.loop.time()
            await self.patiently(self._register)
        self._lease_is_sure()

    def _lease_is_sure(self) -> None:
        """Our leases are renewed: steps may begin again, of those jobs that nobody has taken over."""
        self.is_lease_sure = True
        self.grants.say_all()
        self._queue.lost_count()
        for runner in list(self.runners.values()):
            runner.look_again()

    def _lease_is_ending(self, error: StoreError) -> None:
        logger.error("worker %s cannot renew its leases and stops its steps before they end: %s", self.id, error)
        self._stop_all(min(self.settings.shutdown_grace_s, self.store.lease_s / 10))

    def _stop_all(self, grace_s: float) -> None:
        self.is_lease_sure = False
        for runner in list(self.runners.values()):
            runner.stop_attempts("lost_lease", grace_s)

    @property
    def _has(self) -> Offers:
        """The names of the components that are registered now, and the resources."""
        if self._known_offers[0] != len(self.components):
            self._known_offers = len(self.components), Offers(frozenset(self.components.names()), self.capacities)
        return self._known_offers[1]

    @property
    def offers(self) -> Offers:
        """That without what is paused: what jobs are taken for."""
        return self._has.without(self.pauses.components) if self.pauses.components else self._has

    async def _register(self) -> None:
        """Say that we live, and what we have."""
        self._registered = len(self.components)
        self.telling.forget()
        host, pid = socket.gethostname(), os.getpid()
        info = WorkerInfo(host, pid, VERSION)
        if self._claims:
            components = sorted(self._has.components)
            info = WorkerInfo(host, pid, VERSION, components, self.settings.max_jobs, self.capacities)
        await self.store.register_worker(self.id, info)

    async def _recover(self) -> None:
        await self.clock.sleep(RECOVER_S)
        await self.pauses.look()  # also where nobody tells us: several managers may share one memory store
        await self.recover()

    async def _hold_again(self) -> None:
        """Take up jobs that the store has given us without our having heard of it. A RUNNING one was run by a worker
        that is dead; the others go back to where they were, and from there on in the ordinary way."""
        await self.leases.wait_doubt()
        while claims := await self.leases.hold_again(SETTLE_BATCH):
            logger.warning("%d jobs were ours without our knowing of it and are taken up", len(claims))
            await self._settle_all(claims, lambda claim: Interrupted(), may_run=False)
        await self.clock.sleep(RECOVER_S)

    async def _settle_posts(self, job_id: str) -> None:
        try:
            await self.patiently(lambda: self._settler.settle_rest(job_id))
        except LeaseLost as lost:
            self._note_lost(job_id, lost)

    def _note_lost(self, job_id: str, lost: LeaseLost) -> None:
        """Somebody else has the job, or had it while we tried again."""
        logger.info("job %s: %s", job_id, lost, extra={"job_id": job_id})
        self._look_around()

    async def recover(self) -> int:
        """Put jobs of dead workers back where they belong; how many there were. Carry out requests that their askers
        left behind."""
        await self.settle_requested()
        count = 0
        while claims := await self.leases.hold_orphans(SETTLE_BATCH):
            await self._settle_all(claims, lambda claim: Interrupted(claim.previous_owner), may_run=False)
            count += len(claims)
        if count:
            logger.warning("%d interrupted jobs were taken over", count)
        await self.store.bury_workers()
        return count

    async def _carry_out_requests(self) -> None:
        """Look at what the store itself has asked of jobs."""
        with contextlib.suppress(StoreError):  # the loop that looks for what askers left behind comes to it
            for job_id in await self.store.jobs_with_requests(self.id):
                self.inbox_changed(job_id)
            await self.settle_requested()

    async def settle_requested(self) -> None:
        """Carry out what was asked of jobs that nobody holds any more."""
        while claims := await self.leases.hold_requested(SETTLE_BATCH):
            await self._settle_all(claims, lambda claim: Tick())

    async def _try_suspect(self) -> None:
        """A job under which workers have died is tried once more, alone: if another dies, it is its doing (G6). What
        runs here may end first, in so much time; else another worker has its chance, or we later."""
        await self.clock.sleep(RECOVER_S)
        if not self.is_lease_sure:
            return
        for claim in await self.leases.claim(1, self.offers, suspects=True):
            self._suspect = claim
            try:
                has_run = await self._run_alone(claim)
            finally:
                self._suspect = None
                self._queue.lost_count()
            if not has_run:
                await self.clock.sleep(ALONE_AGAIN_S)

    async def _run_alone(self, claim: Claim) -> bool:
        """Run a job when nothing else runs here; False if that takes too long, and then it is given back."""
        if not await self._wait_empty(ALONE_WAIT_S):
            await self.patiently(lambda: self.leases.release(claim))
            return False
        logger.warning("job %s runs alone: workers have died under it", claim.job_id)
        await self._take(claim)
        await self._empty.wait()
        return True

    # ── inside ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _settle_all(
        self, claims: Sequence[Claim], happening: Callable[[Claim], Happening], *, may_run: bool = True
    ) -> None:
        """Settle many at once, so that their commits are grouped. One that fails does not hold up the others."""
        running = [await self._run_at_once(claim, happening(claim)) if may_run else None for claim in claims]
        results = await asyncio.gather(
            *(
                self._settler.settle(claim, [happening(claim)], may_run=False) if first is None else first
                for claim, first in zip(claims, running, strict=True)
            ),
            return_exceptions=True,
        )
        for claim, result in zip(claims, results, strict=True):
            if isinstance(result, StoreUnavailable):
                self.note_store_error(result)
                self.settle_later(claim, [happening(claim)])
            elif isinstance(result, BaseException) and not isinstance(result, LeaseLost):
                logger.error("job %s could not be settled: %s", claim.job_id, result, extra={"job_id": claim.job_id})

    async def _run_at_once(self, claim: Claim, happening: Happening) -> First | None:
        """The outcome of the first turn of a job that there is room for; what it raises is in there, too."""
        try:
            return await self._settler.run_at_once(claim, [happening])
        except Exception as error:
            failed: First = self.loop.create_future()
            failed.set_exception(error)
            return failed

    async def _thread_ended(self, job_id: str) -> None:
        try:
            await self.patiently(lambda: self.store.thread_ended(job_id, self.id))
        except StoreError as error:
            logger.warning("the end of a thread of job %s was not recorded: %s", job_id, error)

    async def _wait_empty(self, timeout_s: float) -> bool:
        await self._wait_for(self._empty, timeout_s)
        return not self.runners

    async def _wait_for(self, event: asyncio.Event, seconds: float) -> None:
        """Until the event is set, or for so long by our clock."""
        if event.is_set():
            return
        over = self.loop.create_future()
        timer = self.clock.call_later(seconds, lambda: None if over.done() else over.set_result(None))
        waiting = self.loop.create_task(event.wait())
        try:
            await asyncio.wait([waiting, over], return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            waiting.cancel()
            over.cancel()


def _missing_component() -> Component:
    """Stands in where a step names a component that this worker does not have, so that its attempt can fail."""
    registry = ComponentRegistry()

    async def missing() -> None:
        """Never called."""

    return registry.register(missing, name="missing")
