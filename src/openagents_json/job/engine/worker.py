"""The worker: claims queued jobs and runs them, and keeps what belongs to no single job going.

Its loops, one small coroutine each: claim (the queue), due (timers of jobs at rest), poll (what other processes
wrote), heartbeat (its leases), recover (jobs of dead workers), retain (old jobs). Each step waits for a wake-up or a
time, and `_forever` repeats it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from openagents_json.clock import SECOND_US, Clock
from openagents_json.components import AgentInstances, Component, ComponentRegistry, Isolation
from openagents_json.errors import ComponentNotFound, LeaseLost, StoreError, StoreUnavailable
from openagents_json.job.bus import Bus
from openagents_json.job.engine.attempt import Attempt
from openagents_json.job.engine.making import JobMaker
from openagents_json.job.engine.plans import Plans
from openagents_json.job.engine.runner import Runner
from openagents_json.job.engine.settle import Settler
from openagents_json.job.engine.slots import Slots
from openagents_json.job.engine.threads import Threads
from openagents_json.job.events import Event
from openagents_json.job.machine import Child, ChildSpec, Decision, Happening, Interrupted, JobState, Tick
from openagents_json.job.store.base import Claim, JobStore
from openagents_json.settings import Settings
from openagents_json.workflow import Retry, SecretProvider, mask
from openagents_json.workflow.plan import Node, Plan

logger = logging.getLogger("openagents_json.worker")

RETRY_STORE_S = (0.05, 0.2, 1.0, 2.0, 5.0)  # waits between tries while the store is away; the last one repeats
POLL_S = 0.05  # how often other processes' writes are looked for
RECOVER_S = 5.0  # how often jobs of dead workers are looked for
RETAIN_S = 3_600.0  # how often old jobs are deleted
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
        self.slots: Slots[Runner] = Slots(settings.max_steps, settings.max_threads)
        self.store_error: StoreUnavailable | None = None  # the last one, until the store works again
        self.gives_up_on_store = False  # set when stopping has waited long enough
        self.missing_component = _missing_component()
        self._plans = plans
        self._maker = maker
        self._settler = settler
        settler.on_posts = self.posted
        self._bus = bus
        self._claims = claims
        self._tasks: set[asyncio.Task[Any]] = set()  # everything that runs for the worker; ended by stop
        self._loops: list[asyncio.Task[Any]] = []  # they take new work; ended first
        self._upkeep: list[asyncio.Task[Any]] = []  # our leases, and what others ask; ended last
        self._queue_changed = asyncio.Event()
        self._due_changed = asyncio.Event()
        self._empty = asyncio.Event()  # no runner is left
        self._empty.set()
        self._stopping = False
        self._foreign: dict[str, None] = {}  # definitions whose components are not all here, by content hash
        self._components_known = 0  # how many there were when `_foreign` was empty
        self._retries: dict[str, Retry] = {}  # components' own policies, parsed

    async def start(self) -> None:
        """Register, take over what a dead predecessor left, and begin."""
        self.loop = asyncio.get_running_loop()
        self.threads = Threads(self.settings.max_threads)
        self.instances = AgentInstances()
        await self.store.register_worker(self.id)
        self._upkeep = self._begin(self._poll, self._heartbeat)
        if self._claims:
            await self.recover()
            self._queue_changed.set()
            self._loops = self._begin(self._claim, self._wake_due, self._recover, self._retain)

    def _begin(self, *steps: Callable[[], Coroutine[Any, Any, None]]) -> list[asyncio.Task[Any]]:
        return [self.loop.create_task(self._forever(step), name=f"worker {step.__name__}") for step in steps]

    async def stop(self, timeout_s: float) -> None:
        """Take nothing new; let running attempts end for `timeout_s`, then tell them to stop; give the jobs back."""
        if self._stopping:
            return
        self._stopping = True
        for loop in self._loops:
            loop.cancel()
        for runner in list(self.runners.values()):
            runner.release("worker_stopped")
        if not await self._wait_empty(timeout_s):
            for runner in list(self.runners.values()):
                runner.stop_attempts("shutdown", self.settings.shutdown_grace_s)
            if not await self._wait_empty(self.settings.shutdown_grace_s + 1.0):
                self.gives_up_on_store = True
                await self._wait_empty(1.0)
        tasks = [*self._tasks, *self._loops, *self._upkeep]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.instances.close()
        self.threads.close()
        try:
            await self.store.unregister_worker(self.id)
        except StoreError as error:
            logger.warning("worker %s could not sign off: %s", self.id, error)

    # ── what the manager and the runners tell the worker ──────────────────────────────────────────────────────────

    def queue_changed(self) -> None:
        """A job was queued, or a job slot is free."""
        self._queue_changed.set()

    def due_changed(self) -> None:
        """A job at rest has a new time to wake."""
        self._due_changed.set()

    def inbox_changed(self, job_id: str) -> None:
        if (runner := self.runners.get(job_id)) is not None:
            runner.inbox_changed()

    def published(self, state: JobState, decision: Decision) -> None:
        """A commit of a runner is on disk."""
        self.store_error = None
        self._bus.publish(state, decision.events)
        if decision.children:
            for child in decision.children:
                new, child_state = child.job
                self._bus.publish(child_state, new.events)
            self._queue_changed.set()
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
                self.note_store_error(error)
                if self.gives_up_on_store:
                    raise LeaseLost(f"The store is away and the program stops: {error}") from error
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

    def isolation_of(self, component: str, node: Node) -> Isolation:
        """Where a step's attempts run: what the step says, else what the component says."""
        if node.step.isolation is not None:
            return node.step.isolation
        try:
            return self.components.get(component).isolation
        except ComponentNotFound:
            return "inline"

    def component_retry(self, name: str, given: Mapping[str, Any]) -> Retry:
        """A component's own retry policy."""
        if name not in self._retries:
            self._retries[name] = Retry.model_validate(dict(given))
        return self._retries[name]

    def progress_reporter(self, job_id: str, path: str, secrets: Mapping[str, str]) -> Callable[[float, str], None]:
        """What `ctx.progress` calls, from any thread: tells the listeners, records nothing."""

        def report(fraction: float, message: str) -> None:
            if self._bus.has_listeners:
                data = {"path": path, "fraction": fraction, "message": mask(message, secrets.values())}
                event = Event.unrecorded("step.progress", self.clock.now_us(), data)
                self.loop.call_soon_threadsafe(self._bus.tell, job_id, event)

        return report

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
        await self._queue_changed.wait()
        self._queue_changed.clear()
        free = self.settings.max_jobs - len(self.runners)
        if free <= 0:
            return  # the next runner that ends sets the event again
        try:
            claims = await self.store.claim(self.id, free, self._foreign_definitions())
        except StoreError:
            self._queue_changed.set()
            raise
        self.store_error = None
        for number, claim in enumerate(claims, 1):
            await self._take(claim)
            if number % TAKEN_AT_ONCE == 0:
                await asyncio.sleep(0)  # folding many histories in one go would hold up everything else
        if len(claims) == free:
            self._queue_changed.set()

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
        runner = Runner(self, claim, state)
        self.runners[claim.job_id] = runner
        self._empty.clear()
        self.spawn(self._run(runner), f"job {claim.job_id}")

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
            self._queue_changed.set()

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
            self._queue_changed.set()
            if runner.state.wake_us is not None:
                self._due_changed.set()

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
        await self._settle_all([now], lambda claim: Interrupted(self.id))

    async def _settle_later(self, claim: Claim, happenings: Sequence[Happening]) -> None:
        try:
            await self.patiently(lambda: self._settler.settle(claim, happenings))
        except LeaseLost as lost:
            logger.info("job %s: %s", claim.job_id, lost, extra={"job_id": claim.job_id})
        self._queue_changed.set()
        self._due_changed.set()

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
            self._queue_changed.set()
        if not self.store.has_foreign_changes():
            return
        if self.runners:
            for job_id in await self.store.jobs_with_requests(self.id):
                self.inbox_changed(job_id)
        self._bus.wake_readers()
        self._queue_changed.set()
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
        self._queue_changed.set()
        self._due_changed.set()

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
            self._queue_changed.set()
        return count

    async def _retain(self) -> None:
        if self.settings.job_retention_days is not None:
            await self.delete_final(self.settings.job_retention_days)
        await self.clock.sleep(RETAIN_S)

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
        self._queue_changed.set()

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
