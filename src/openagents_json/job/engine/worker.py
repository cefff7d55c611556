"""The worker: claims queued jobs and runs them, and keeps what belongs to no single job going.

Its loops, one small coroutine each: claim (the queue), due (timers of jobs at rest), poll (what other processes
wrote), heartbeat (its leases), recover (jobs of dead workers), retain (old jobs), tend (leaks, whose releases may take
their time). Each step waits for a wake-up or a time, and `_forever` repeats it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
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
from openagents_json.job.engine.attempt import Attempt
from openagents_json.job.engine.calls import release_leak
from openagents_json.job.engine.making import JobMaker
from openagents_json.job.engine.meter import Meter
from openagents_json.job.engine.output import Outputs
from openagents_json.job.engine.plans import Plans
from openagents_json.job.engine.processes import ProcessPool
from openagents_json.job.engine.queue import KnownQueue
from openagents_json.job.engine.runner import Runner
from openagents_json.job.engine.settle import Settler
from openagents_json.job.engine.slots import Slots
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
from openagents_json.job.store.base import Claim, JobStore
from openagents_json.settings import Settings
from openagents_json.workflow import Retry, SecretProvider
from openagents_json.workflow.plan import Node, Plan

logger = logging.getLogger("openagents_json.worker")

RETRY_STORE_S = (0.05, 0.2, 1.0, 2.0, 5.0)  # waits between tries while the store is away; the last one repeats
POLL_S = 0.05  # how often other processes' writes are looked for
RECOVER_S = 5.0  # how often jobs of dead workers are looked for
RETAIN_S = 3_600.0  # how often old jobs are deleted
LEAKS_S = 3_600.0  # how often leaks are tried again
LEAKS_AT_ONCE = 100  # tried again in one round; the next round goes on behind them
RETAIN_BATCH = 500
SETTLE_BATCH = 256
TAKEN_AT_ONCE = 16  # claimed jobs folded in one turn of the event loop
LONGEST_SLEEP_S = 60.0
FOREIGN_KEPT = 200  # definitions whose jobs are passed over; more are asked for again and again

T = TypeVar("T")


class Worker:
    """One per manager. With `claims=False` it runs no jobs and only notices what other processes write."""

    def __init__(
        self,
        worker_id: str,
        store: JobStore,
        components: ComponentRegistry,
        plans: Plans,
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
        self.cleanup_us = round(settings.cleanup_timeout_s * SECOND_US)
        self.runners: dict[str, Runner] = {}  # jobs whose lease we have, by id
        self.slots: Slots[Runner] = Slots(
            settings.max_steps, {"thread": settings.max_threads, "process": settings.max_processes}
        )
        self.store_error: StoreUnavailable | None = None  # the last one, until the store works again
        self.gives_up_on_store = False  # set when stopping has waited long enough
        self.missing_component = _missing_component()
        self.outputs = Outputs(self)
        self.meter = Meter()
        self._plans = plans
        self._maker = maker
        self._settler = settler
        settler.published = self.published
        settler.take_over = self._take_over
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
        self._was_changed = False  # others had written at the last poll
        self._captures = False  # what components print: from start to stop, if the settings say so
        self._foreign: dict[str, None] = {}  # definitions whose components are not all here, by content hash
        self._components_known = 0  # how many there were when `_foreign` was empty
        self._last_leak = 0  # key of the last leak that was looked at; _tend_leaks' own
        self._retries: dict[str, Retry] = {}  # components' own policies, parsed
        self._processes: ProcessPool | None = None  # made by the first step that needs one

    async def start(self) -> None:
        """Register, take over what a dead predecessor left, and begin."""
        self.loop = asyncio.get_running_loop()
        self.threads = Threads(self.settings.max_threads)
        self.instances = AgentInstances()
        await self.store.register_worker(self.id)
        self._upkeep = self._begin(self._poll, self._heartbeat)
        self.meter.start()
        if self._claims:
            if self.settings.capture_output:
                capture.install()
                self._captures = True
            self._warm()
            await self.recover()
            self._queue.lost_count()
            self._loops = self._begin(self._claim, self._wake_due, self._recover, self._retain, self._tend_leaks)

    @property
    def processes(self) -> ProcessPool:
        """The pool of processes; made in the event loop, whose thread lives as long as they do."""
        if self._processes is None:
            settings = self.settings
            self._processes = ProcessPool(limit=settings.max_processes, calls_per_process=settings.calls_per_process)
        return self._processes

    def _warm(self) -> None:
        """Have a process ready if components ask for one: it takes a second to start."""
        wanted = [one for one in self.components if one.isolation == "process" and why_not_in_process(one) is None]
        if wanted:
            self.processes.warm(*(reference_to(one) for one in wanted))

    def _begin(self, *steps: Callable[[], Coroutine[Any, Any, None]]) -> list[asyncio.Task[Any]]:
        return [self.loop.create_task(self._forever(step), name=f"worker {step.__name__}") for step in steps]

    async def stop(self, timeout_s: float) -> None:
        """Take nothing new, let running attempts end, tell them to stop, kill them, and give the jobs back: within
        `timeout_s`, whatever components do. What does not end by then ends with the program. Closing comes after that:
        of the processes (some seconds at most), and of agents, whose own `close` is waited for."""
        if self._stopping:
            return
        self._stopping = True
        for loop in self._loops:
            loop.cancel()
        for runner in list(self.runners.values()):
            runner.release("worker_stopped")
        told_s = min(self.settings.shutdown_grace_s, timeout_s / 2)
        if not await self._wait_empty(timeout_s - 2 * told_s):
            for runner in list(self.runners.values()):
                runner.stop_attempts("shutdown", told_s / 2)
            if not await self._wait_empty(1.5 * told_s):
                self.gives_up_on_store = True
                await self._wait_empty(told_s / 2)
        if self._processes is not None:
            await self._processes.close()
        tasks = [*self._tasks, *self._loops, *self._upkeep]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.gives_up_on_store = True  # what still runs, an abandoned thread, may end after the store was closed
        await self.outputs.close()
        await self.instances.close()
        self.threads.close()
        self.meter.stop()
        try:
            await self.store.unregister_worker(self.id)
        except StoreError as error:
            logger.warning("worker %s could not sign off: %s", self.id, error)

    def stop_capture(self) -> None:
        """Give `sys.stdout` and the rest back. May be called twice."""
        if self._captures:
            self._captures = False
            capture.uninstall()

    # ── what the manager and the runners tell the worker ──────────────────────────────────────────────────────────

    def queue_changed(self, count: int = 1) -> None:
        """So many jobs were queued."""
        self._queue.added(count)

    def due_changed(self) -> None:
        """A job at rest has a new time to wake."""
        self._due_changed.set()

    def inbox_changed(self, job_id: str) -> None:
        if (runner := self.runners.get(job_id)) is not None:
            runner.inbox_changed()

    def published(self, state: JobState, decision: Decision) -> None:
        """A commit is on disk."""
        self.store_error = None
        self.bus.publish(state, decision.events)
        if state.status == JobStatus.QUEUED:
            self.queue_changed()
        elif state.wake_us is not None or state.start_at_us is not None:
            self.due_changed()
        if decision.children:
            for child in decision.children:
                new, child_state = child.job
                self.bus.publish(child_state, new.events)
            self.queue_changed(len(decision.children))
        if decision.posts:
            self.posted(post.job_id for post in decision.posts)

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
        while True:
            try:
                return await ask()
            except StoreUnavailable as error:
                if self.gives_up_on_store:
                    raise LeaseLost(f"The store is away and the program stops: {error}") from error
                self.note_store_error(error)
                await self.clock.sleep(RETRY_STORE_S[min(tries, len(RETRY_STORE_S) - 1)])
                tries += 1

    def settle_later(self, claim: Claim, happenings: Sequence[Happening] = ()) -> None:
        """The store went away in the middle: settle the job when it is back. Nobody else would, while we live."""
        self.spawn(self._settle_later(claim, happenings), f"settle {claim.job_id}")

    def note_abandoned(self, attempt: Attempt) -> None:
        if attempt.isolation == "thread":
            self.slots.abandoned += 1

    def code_ended(self, attempt: Attempt) -> None:
        """The code of an attempt has really ended: its slot is free."""
        if attempt.is_abandoned and attempt.isolation == "thread":
            self.slots.abandoned -= 1
        self.free_slot(attempt.isolation)

    @property
    def left_to_others(self) -> list[str]:
        """Content hashes of definitions whose components are not all here: their jobs stay in the queue."""
        return list(self._foreign)

    def thread_ended(self, job_id: str) -> None:
        """The code of an abandoned attempt, which the job's row counts, has ended."""
        self.spawn(self._thread_ended(job_id), f"thread of {job_id} ended")

    def free_slot(self, isolation: Isolation) -> None:
        self.slots.give_back(isolation)
        self.offer_slot()

    def offer_slot(self) -> None:
        """If a slot is free, wake the job that waits longest for one. Its turn offers what is still free then."""
        waiter = self.slots.next_waiter()
        if waiter is not None:
            waiter.look_again()

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
        free = self.settings.max_jobs - len(self.runners)
        if free <= 0:
            return  # the next runner that ends sets the event again
        try:
            claims = await self.store.claim(self.id, free, self._foreign_definitions())
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
            plan = await self._plans.get(claim.definition_hash)
            if missing := sorted(name for name in plan.component_names if name not in self.components):
                await self._leave_to_others(claim, plan, missing)
                return
            state = self._plans.fold(plan, claim.snapshot, claim.events)
        except Exception:
            logger.exception("job %s cannot be read and stays in the queue", claim.job_id)
            self.spawn(self._take_up_again(claim), f"give back {claim.job_id}")
            return
        self._begin_job(claim, state, [Claimed(claim.owner, claim.epoch)])

    def _take_over(
        self, plan: Plan, claim: Claim, happenings: tuple[Happening, ...]
    ) -> Awaitable[tuple[JobStatus, Decision]] | None:
        """Run a job that is held for one commit without its way through the queue: if there is room for it and
        for all that it would overtake there."""
        if not self._claims or self._stopping or claim.job_id in self.runners or self._queue.length is None:
            return None
        if len(self.runners) + self._queue.length >= self.settings.max_jobs:
            return None
        if not all(name in self.components for name in plan.component_names):
            return None
        state = self._plans.fold(plan, claim.snapshot, claim.events)
        return self._begin_job(claim, state, [Offered(claim.owner, claim.epoch), *happenings]).first

    def _begin_job(self, claim: Claim, state: JobState, happenings: list[Happening]) -> Runner:
        runner = self.runners[claim.job_id] = Runner(self, claim, state, happenings)
        self._empty.clear()
        self.spawn(self._run(runner), f"job {claim.job_id}")
        return runner

    def _foreign_definitions(self) -> Collection[str]:
        """The definitions whose jobs are left to workers that have their components. Registering more asks anew."""
        if self._components_known != len(self.components):
            self._components_known = len(self.components)
            self._foreign.clear()
        return self._foreign

    async def _leave_to_others(self, claim: Claim, plan: Plan, missing: list[str]) -> None:
        """A job that needs components which are not registered here stays in the queue."""
        if is_full := len(self._foreign) >= FOREIGN_KEPT:
            self._foreign.pop(next(iter(self._foreign)))
        self._foreign[claim.definition_hash] = None
        names = ", ".join(missing[:5]) + (" …" if len(missing) > 5 else "")
        logger.warning("jobs of workflow %s are left to other workers: no %s here", plan.workflow.id, names)
        await self.patiently(lambda: self.store.release(claim))
        if not is_full:  # else it would be asked for again at once, and again
            self._queue.lost_count()

    async def _run(self, runner: Runner) -> None:
        try:
            await runner.run()
            if runner.has_let_go:
                await self.patiently(lambda: self._settler.settle_rest(runner.job_id, self.id))
        except LeaseLost as lost:
            logger.info("job %s: %s", runner.job_id, lost, extra={"job_id": runner.job_id})
        except Exception:
            logger.exception("the runner of job %s failed; the job is taken up again", runner.job_id)
            runner.stop_attempts("lost_lease", 0.0)
            self.spawn(self._take_up_again(runner.claim), f"take up {runner.job_id}")
        finally:
            self.runners.pop(runner.job_id, None)
            if not self.runners:
                self._empty.set()
            self._queue.room_is_free()
            if runner.has_unread:  # somebody told the runner when it had already looked for the last time
                self.posted([runner.job_id])

    async def _take_up_again(self, claim: Claim) -> None:
        """We hold a job that we cannot run as it is: after a while, treat it like one of a dead worker."""
        await self.clock.sleep(RECOVER_S)
        stored = await self.patiently(lambda: self.store.read(claim.job_id))
        if stored is None or stored.owner != self.id:
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
            logger.info("job %s: %s", claim.job_id, lost, extra={"job_id": claim.job_id})

    async def _wake_due(self) -> None:
        """Put jobs whose timer is due back into the queue."""
        self._due_changed.clear()
        due_us = await self.store.next_due_us()
        now_us = self.clock.now_us()
        if due_us is not None and due_us <= now_us:
            claims = await self.store.hold_due(self.id, SETTLE_BATCH)
            await self._settle_all(claims, lambda claim: Tick())
            if claims:
                return
        seconds = LONGEST_SLEEP_S if due_us is None else (due_us - now_us) / SECOND_US
        await self._wait_for(self._due_changed, min(max(seconds, POLL_S), LONGEST_SLEEP_S))

    async def _poll(self) -> None:
        """Notice what other processes wrote: requests for our jobs, new work, news for readers."""
        await self.clock.sleep(POLL_S)
        if self._foreign and self._components_known != len(self.components):
            self._queue.lost_count()
        is_late, self._was_changed = self._was_changed, self.store.has_foreign_changes()
        if not self._was_changed:
            if is_late:  # a commit of ours from before the change may have been published after it: look once more
                self.bus.wake_readers()
            return
        if self.runners:
            for job_id in await self.store.jobs_with_requests(self.id):
                self.inbox_changed(job_id)
        self.bus.wake_readers()
        self._queue.lost_count()
        self._due_changed.set()

    async def _heartbeat(self) -> None:
        await self.clock.sleep(self.store.lease_s / 3)
        if await self.store.heartbeat(self.id):
            self.store_error = None
            return
        logger.error("worker %s was taken for dead; its jobs may run elsewhere, so it stops them", self.id)
        for runner in list(self.runners.values()):
            runner.stop_attempts("lost_lease", self.settings.shutdown_grace_s)
        await self.store.register_worker(self.id)

    async def _recover(self) -> None:
        await self.clock.sleep(RECOVER_S)
        await self.recover()

    async def _settle_posts(self, job_id: str) -> None:
        try:
            await self.patiently(lambda: self._settler.settle_rest(job_id, self.id))
        except LeaseLost as lost:
            logger.info("job %s: %s", job_id, lost, extra={"job_id": job_id})

    async def recover(self) -> int:
        """Put jobs of dead workers back where they belong; how many there were. Carry out requests that their askers
        left behind."""
        while claims := await self.store.hold_requested(self.id, SETTLE_BATCH):
            await self._settle_all(claims, lambda claim: Tick())
        count = 0
        while claims := await self.store.hold_orphans(self.id, SETTLE_BATCH):
            await self._settle_all(claims, lambda claim: Interrupted(claim.previous_owner or "unknown"))
            count += len(claims)
        if count:
            logger.warning("%d interrupted jobs were taken over", count)
        return count

    async def _retain(self) -> None:
        if self.settings.job_retention_days is not None:
            await self.delete_final(self.settings.job_retention_days)
        await self.clock.sleep(RETAIN_S)

    async def _tend_leaks(self) -> None:
        await self._retry_leaks()
        await self.clock.sleep(LEAKS_S)

    async def _retry_leaks(self) -> None:
        """Try to release what jobs could not: each leak once whose component is here, one at a time."""
        leaks = await self.store.list_leaks(self._last_leak, LEAKS_AT_ONCE)
        for leak in leaks:
            self._last_leak = leak.key
            if leak.release in self.components and self.slots.has(self.isolation_of(leak.release, None)):
                is_gone = await release_leak(self, leak)
                what = "was released" if is_gone else "still cannot be released"
                logger.info("leak %d (%s) of job %s %s", leak.key, leak.name, leak.job_id, what)
        if len(leaks) < LEAKS_AT_ONCE:
            self._last_leak = 0

    async def delete_final(self, days: float) -> int:
        """Delete jobs that became final more than `days` ago, in batches that let other commits in between."""
        before_us = self.clock.now_us() - round(days * 86_400 * SECOND_US)
        total = 0
        while deleted := await self.store.delete_final(before_us, RETAIN_BATCH):
            total += deleted
            await asyncio.sleep(0)
        return total

    # ── inside ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _settle_all(self, claims: Sequence[Claim], happening: Callable[[Claim], Happening]) -> None:
        """Settle many at once, so that their commits are grouped. One that fails does not hold up the others."""
        results = await asyncio.gather(
            *(self._settler.settle(claim, [happening(claim)]) for claim in claims), return_exceptions=True
        )
        for claim, result in zip(claims, results, strict=True):
            if isinstance(result, StoreUnavailable):
                self.note_store_error(result)
                self.settle_later(claim, [happening(claim)])
            elif isinstance(result, BaseException) and not isinstance(result, LeaseLost):
                logger.error("job %s could not be settled: %s", claim.job_id, result, extra={"job_id": claim.job_id})

    async def _thread_ended(self, job_id: str) -> None:
        try:
            await self.patiently(lambda: self.store.thread_ended(job_id))
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
