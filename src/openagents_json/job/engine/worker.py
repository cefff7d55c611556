"""The worker: claims queued jobs and runs them, and keeps what belongs to no single job going.

Its loops, one small coroutine each: claim (the queue), due (timers of jobs at rest), poll (what other processes
wrote), heartbeat (its leases), recover (jobs of dead workers), retain (old jobs). Each step waits for a wake-up or a
time, and `_forever` repeats it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from openagents_json.clock import SECOND_US, Clock
from openagents_json.components import AgentInstances, Component, ComponentRegistry, Isolation
from openagents_json.errors import ComponentNotFound, LeaseLost, StoreError, StoreUnavailable
from openagents_json.job.bus import Bus
from openagents_json.job.engine.attempt import Attempt
from openagents_json.job.engine.plans import Plans
from openagents_json.job.engine.runner import Runner
from openagents_json.job.engine.settle import Settler
from openagents_json.job.engine.slots import Slots
from openagents_json.job.engine.threads import Threads
from openagents_json.job.events import Event
from openagents_json.job.machine import Interrupted, JobState, Tick
from openagents_json.job.store.base import Claim, JobStore
from openagents_json.settings import Settings
from openagents_json.workflow import Retry, SecretProvider
from openagents_json.workflow.graph import Node, Plan

logger = logging.getLogger("openagents_json.worker")

POLL_S = 0.05  # how often other processes' writes are looked for
RECOVER_S = 5.0  # how often jobs of dead workers are looked for
RETAIN_S = 3_600.0  # how often old jobs are deleted
RETAIN_BATCH = 500
SETTLE_BATCH = 256
LONGEST_SLEEP_S = 60.0


class Worker:
    """One per manager. With `claims=False` it runs no jobs and only notices what other processes write."""

    def __init__(
        self,
        worker_id: str,
        store: JobStore,
        components: ComponentRegistry,
        plans: Plans,
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
        self.runners: dict[str, Runner] = {}  # jobs whose lease we have, by id
        self.slots: Slots[Runner] = Slots(settings.max_steps, settings.max_threads)
        self.store_error: StoreUnavailable | None = None  # the last one, until the store works again
        self.gives_up_on_store = False  # set when stopping has waited long enough
        self.missing_component = _missing_component()
        self._plans = plans
        self._settler = settler
        self._bus = bus
        self._claims = claims
        self._tasks: set[asyncio.Task[Any]] = set()  # everything that runs for the worker; ended by stop
        self._loops: list[asyncio.Task[Any]] = []
        self._queue_changed = asyncio.Event()
        self._due_changed = asyncio.Event()
        self._empty = asyncio.Event()  # no runner is left
        self._empty.set()
        self._stopping = False
        self._retries: dict[str, Retry] = {}  # components' own policies, parsed

    async def start(self) -> None:
        """Register, take over what a dead predecessor left, and begin."""
        self.loop = asyncio.get_running_loop()
        self.threads = Threads(self.settings.max_threads)
        self.instances = AgentInstances()
        await self.store.register_worker(self.id)
        steps: list[Callable[[], Coroutine[Any, Any, None]]] = [self._poll, self._heartbeat]
        if self._claims:
            await self.recover()
            steps += [self._claim, self._wake_due, self._recover, self._retain]
            self._queue_changed.set()
        self._loops = [asyncio.create_task(self._forever(step), name=f"worker {step.__name__}") for step in steps]

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
        for task in [*self._tasks, *self._loops]:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._loops, return_exceptions=True)
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

    def published(self, state: JobState, events: Sequence[Event]) -> None:
        """A commit of a runner is on disk."""
        self.store_error = None
        self._bus.publish(state, events)

    def note_store_error(self, error: StoreUnavailable) -> None:
        if self.store_error is None:
            logger.error("the store is away, jobs stand still until it is back: %s", error)
        self.store_error = error

    def note_abandoned(self, attempt: Attempt) -> None:
        if attempt.isolation == "thread":
            self.slots.abandoned += 1

    def code_ended(self, job_id: str, attempt: Attempt) -> None:
        """The code of an attempt has really ended: its slot is free."""
        if attempt.is_abandoned:
            if attempt.isolation == "thread":
                self.slots.abandoned -= 1
            self.spawn(self._thread_ended(job_id), f"thread of {job_id} ended")
        self.free_slot(attempt.isolation)

    def free_slot(self, isolation: Isolation) -> None:
        waiter = self.slots.give_back(isolation)
        if waiter is not None:
            waiter.look_again()

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> None:
        task = self.loop.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

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

    def progress_reporter(self, job_id: str, path: str) -> Callable[[float, str], None]:
        """What `ctx.progress` calls, from any thread: tells the listeners, records nothing."""

        def report(fraction: float, message: str) -> None:
            if self._bus.has_listeners:
                data = {"path": path, "fraction": fraction, "message": message}
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
            claims = await self.store.claim(self.id, free)
        except StoreUnavailable:
            self._queue_changed.set()
            raise
        for claim in claims:
            await self._take(claim)
        if len(claims) == free:
            self._queue_changed.set()

    async def _take(self, claim: Claim) -> None:
        try:
            plan = await self._plans.get(claim.definition_hash)
            state = self._plans.fold(plan, claim.snapshot, claim.events)
        except Exception:
            logger.exception("job %s cannot be read and stays in the queue", claim.job_id)
            self.spawn(self._give_back_later(claim), f"give back {claim.job_id}")
            return
        runner = Runner(self, claim, state)
        self.runners[claim.job_id] = runner
        self._empty.clear()
        self.spawn(self._run(runner), f"job {claim.job_id}")

    async def _give_back_later(self, claim: Claim) -> None:
        await self.clock.sleep(RECOVER_S)
        await self.store.release(claim)

    async def _run(self, runner: Runner) -> None:
        try:
            await runner.run()
        except Exception:
            logger.exception("the runner of job %s failed; recovery will take the job up again", runner.job_id)
            runner.stop_attempts("lost_lease", 0.0)
        finally:
            self.runners.pop(runner.job_id, None)
            if not self.runners:
                self._empty.set()
            self._queue_changed.set()
            if runner.state.wake_us is not None:
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
            return
        logger.error("worker %s was taken for dead; its jobs may run elsewhere, so it stops them", self.id)
        for runner in list(self.runners.values()):
            runner.stop_attempts("lost_lease", self.settings.shutdown_grace_s)
        await self.store.register_worker(self.id)

    async def _recover(self) -> None:
        await self.clock.sleep(RECOVER_S)
        await self.recover()

    async def recover(self) -> int:
        """Put jobs of dead workers back where they belong; how many there were."""
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

    async def _settle_all(self, claims: Sequence[Claim], happening: Callable[[Claim], Any]) -> None:
        """Settle many at once, so that their commits are grouped. One that fails does not hold up the others."""
        results = await asyncio.gather(
            *(self._settler.settle(claim, [happening(claim)]) for claim in claims), return_exceptions=True
        )
        for claim, result in zip(claims, results, strict=True):
            if isinstance(result, BaseException) and not isinstance(result, LeaseLost):
                logger.error("job %s could not be settled: %s", claim.job_id, result, extra={"job_id": claim.job_id})
        self._queue_changed.set()

    async def _thread_ended(self, job_id: str) -> None:
        try:
            await self.store.thread_ended(job_id)
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
