"""The bus: who wants to know hears of it after the commit, and nobody who listens can hold up or hurt a job.

Two kinds of hearers. *Readers* (`wait`, `watch`) are only woken; they read the history from the store, each at its own
pace, so there is nothing to overflow. *Listeners* (`on`) are called with each event, in order, from a queue of their
own with a limit: one that falls behind by more than that is dropped with an error in the log.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

from openagents_json.job.events import Event
from openagents_json.job.machine import JobState

logger = logging.getLogger("openagents_json.bus")

Listener = Callable[[str, Event], Awaitable[None] | None]  # (job_id, event)

LISTENER_QUEUE = 10_000  # events that a listener may be behind
CLOSE_S = 1.0  # what listeners get to hear the last events when the manager closes
RECENT_FINALS = 256  # states of jobs that ended last, for those who wait for them
KNOWN_ALIVE = 10_000  # ids of jobs of this process that are not final, so that who waits need not ask the store


class Subscription:
    """One listener. `cancel` ends it; `failures` counts its exceptions; `is_dropped` says that it was too slow."""

    def __init__(self, bus: Bus, pattern: str, listener: Listener) -> None:
        self.pattern = pattern
        self.listener = listener
        self.failures = 0
        self.is_dropped = False
        self._bus = bus
        self._queue: asyncio.Queue[tuple[str, Event]] = asyncio.Queue(LISTENER_QUEUE)
        self.task = asyncio.get_running_loop().create_task(self._call(), name=f"listener {pattern}")

    def wants(self, event: Event) -> bool:
        """`job.completed` takes that type, `job.*` or `job` all types below, `*` everything."""
        pattern = self.pattern.removesuffix(".*")
        return pattern == "*" or event.type == pattern or event.type.startswith(pattern + ".")

    def hand(self, job_id: str, event: Event) -> None:
        try:
            self._queue.put_nowait((job_id, event))
        except asyncio.QueueFull:
            logger.error("listener for %s is %d events behind and was dropped", self.pattern, LISTENER_QUEUE)
            self.is_dropped = True
            self.cancel()

    def cancel(self) -> None:
        self._bus.forget(self)
        self.task.cancel()

    async def drain(self) -> None:
        """Return when everything handed over so far has been called."""
        await self._queue.join()

    async def _call(self) -> None:
        while True:
            job_id, event = await self._queue.get()
            try:
                result = self.listener(job_id, event)
                if inspect.isawaitable(result):
                    await result
            except Exception:
                self.failures += 1
                logger.exception("listener for %s failed on event %d of job %s", self.pattern, event.number, job_id)
            finally:
                self._queue.task_done()


class Bus:
    """One per manager; used in the event loop only."""

    def __init__(self) -> None:
        self._readers: dict[str, set[asyncio.Event]] = {}  # woken by each change of the job
        self._waiters: dict[str, set[asyncio.Event]] = {}  # woken by its final one
        self._subscriptions: list[Subscription] = []
        self._finals: OrderedDict[str, JobState] = OrderedDict()
        self._alive: set[str] = set()

    def publish(self, state: JobState, events: Sequence[Event]) -> None:
        """Tell of committed events of a job of this process."""
        if not state.is_final:
            if len(self._alive) < KNOWN_ALIVE:
                self._alive.add(state.job_id)
        else:
            self._alive.discard(state.job_id)
            self._finals[state.job_id] = state
            if len(self._finals) > RECENT_FINALS:
                self._finals.popitem(last=False)
        if self._subscriptions:
            for event in events:
                self.tell(state.job_id, event)
        for reader in self._readers.get(state.job_id, ()):
            reader.set()
        if state.is_final:
            for reader in self._waiters.get(state.job_id, ()):
                reader.set()

    def tell(self, job_id: str, event: Event) -> None:
        """Hand one event to its listeners; also for events that no history holds, such as `step.progress`."""
        for subscription in list(self._subscriptions):
            if subscription.wants(event):
                subscription.hand(job_id, event)

    @property
    def has_listeners(self) -> bool:
        return bool(self._subscriptions)

    def recent_final(self, job_id: str) -> JobState | None:
        """The state of a job that ended here lately."""
        return self._finals.get(job_id)

    def is_alive(self, job_id: str) -> bool:
        """Whether the job's last event that this process saw was not the final one. Its next one is published here, or
        another process runs it and `wake_readers` follows."""
        return job_id in self._alive

    def subscribe(self, pattern: str, listener: Listener) -> Subscription:
        subscription = Subscription(self, pattern, listener)
        self._subscriptions.append(subscription)
        return subscription

    def forget(self, subscription: Subscription) -> None:
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)

    @contextmanager
    def reading(self, job_id: str, *, final_only: bool = False) -> Iterator[asyncio.Event]:
        """An event that is set whenever the job has changed, or only when it has ended."""
        table = self._waiters if final_only else self._readers
        reader = asyncio.Event()
        table.setdefault(job_id, set()).add(reader)
        try:
            yield reader
        finally:
            readers = table[job_id]
            readers.discard(reader)
            if not readers:
                del table[job_id]

    def gone(self, job_id: str) -> None:
        """The job was deleted: who reads or waits for it finds that out from the store."""
        self._alive.discard(job_id)
        self._finals.pop(job_id, None)
        for reader in [*self._readers.get(job_id, ()), *self._waiters.get(job_id, ())]:
            reader.set()

    def wake_readers(self) -> None:
        """Another process may have written: let every reader look into the store."""
        self._alive.clear()
        for readers in [*self._readers.values(), *self._waiters.values()]:
            for reader in readers:
                reader.set()

    async def close(self) -> None:
        """Let the listeners hear what was published (for at most a second), then end them."""
        subscriptions = list(self._subscriptions)
        if subscriptions:
            drains = [asyncio.ensure_future(one.drain()) for one in subscriptions]
            await asyncio.wait(drains, timeout=CLOSE_S)
            for drain in drains:
                drain.cancel()
            for subscription in subscriptions:
                subscription.cancel()
            await asyncio.wait([*drains, *(one.task for one in subscriptions)], timeout=CLOSE_S)
