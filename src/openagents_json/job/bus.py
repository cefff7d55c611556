"""The bus: who wants to know hears of it after the commit, and nobody who listens can hold up or hurt a job.

Two kinds of hearers. *Readers* (`wait`, `watch`) are woken; they read the history from the store, each at its own pace,
so there is nothing to overflow. *Listeners* (`on`) are called with each event, in order, from a queue of their own. A
watcher that also wants news (events that no history holds) has a queue for them, too. These queues have a limit: what
does not fit is dropped, and in its place stands one `listener.dropped` that says how much it was.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

from openagents_json.clock import Clock, SystemClock
from openagents_json.job.events import Event
from openagents_json.job.machine import JobState

logger = logging.getLogger("openagents_json.bus")

Listener = Callable[[str, Event], Awaitable[None] | None]  # (job_id, event)

LISTENER_QUEUE = 10_000  # events that a listener may be behind
LIVE_QUEUE = 1_000  # news that a watcher may be behind
DROPPED_JOBS = 100  # ids that a `listener.dropped` names
CALLED_AT_ONCE = 50  # calls of a listener in one turn of the loop, so that a long queue holds up nothing else
CLOSE_S = 1.0  # what listeners get to hear the last events when the manager closes
RECENT_FINALS = 256  # states of jobs that ended last, for those who wait for them
KNOWN_ALIVE = 10_000  # jobs of this process that are not final, so that who waits or signals need not ask the store


class _Gap:
    """Events that did not fit, as one entry of the queue in their place."""

    def __init__(self) -> None:
        self.dropped = 0
        self.jobs: dict[str, None] = {}  # the first DROPPED_JOBS of them

    def add(self, job_id: str) -> None:
        self.dropped += 1
        if len(self.jobs) < DROPPED_JOBS:
            self.jobs.setdefault(job_id)

    def as_event(self, at_us: int) -> Event:
        return Event.unrecorded("listener.dropped", at_us, {"dropped": self.dropped, "jobs": list(self.jobs)})


class Subscription:
    """One listener. `cancel` ends it; `failures` counts its exceptions, `dropped` the events that it was too slow
    for."""

    def __init__(self, bus: Bus, pattern: str, listener: Listener) -> None:
        self.pattern = pattern
        self.listener = listener
        self.failures = 0
        self.dropped = 0
        self._bus = bus
        self._limit = LISTENER_QUEUE
        self._queue: asyncio.Queue[tuple[str, Event | _Gap]] = asyncio.Queue()
        self._gap: _Gap | None = None  # the last entry of the queue, if that is a gap
        self._is_cancelled = False
        self.task = asyncio.get_running_loop().create_task(self._run(), name=f"listener {pattern}")

    def wants(self, event: Event) -> bool:
        """`job.completed` takes that type, `job.*` or `job` all types below, `*` everything."""
        pattern = self.pattern.removesuffix(".*")
        return pattern == "*" or event.type == pattern or event.type.startswith(pattern + ".")

    def hand(self, job_id: str, event: Event) -> None:
        """Put the event into the queue, or into the gap at its end."""
        if self._queue.qsize() < self._limit:
            self._gap = None
            self._queue.put_nowait((job_id, event))
            return
        if self._gap is None:
            logger.error("listener for %s is %d events behind and misses some", self.pattern, self._limit)
            self._gap = _Gap()
            self._queue.put_nowait(("", self._gap))
        self._gap.add(job_id)
        self.dropped += 1
        self._bus.dropped += 1

    def cancel(self) -> None:
        self._is_cancelled = True
        self._bus.forget(self)
        self.task.cancel()

    async def drain(self) -> None:
        """Return when everything handed over so far has been called."""
        await self._queue.join()

    async def _run(self) -> None:
        calls = 0
        while True:
            job_id, entry = await self._queue.get()
            if isinstance(entry, _Gap):
                self._gap = None if entry is self._gap else self._gap
                entry = entry.as_event(self._bus.clock.now_us())
            try:
                await self._call(job_id, entry)
            finally:
                self._queue.task_done()
            calls += 1
            if calls % CALLED_AT_ONCE == 0:
                await asyncio.sleep(0)

    async def _call(self, job_id: str, event: Event) -> None:
        try:
            # A copy: the store in memory, and other listeners, have the same event.
            result = self.listener(job_id, event.copied())
            if inspect.isawaitable(result):
                await result
        except (Exception, SystemExit, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and self._is_cancelled:
                raise
            self.failures += 1
            self._bus.failures += 1
            logger.exception("listener for %s failed on event %d of job %s", self.pattern, event.number, job_id)


class LiveReader:
    """The news of one job for one watcher, each with the number of the recorded event that it came after."""

    def __init__(self, changed: asyncio.Event, clock: Clock) -> None:
        self.changed = changed
        self.number = 0  # of the last event of the job that was published
        self._clock = clock
        self._limit = LIVE_QUEUE
        self._news: deque[tuple[int, Event]] = deque()
        self._gap: _Gap | None = None

    def hand(self, job_id: str, event: Event) -> bool:
        """Keep the event until the watcher takes it. False if it does not fit."""
        self.changed.set()
        if len(self._news) < self._limit:
            self._news.append((self.number, event))
            return True
        if self._gap is None:
            self._gap = _Gap()
        self._gap.add(job_id)
        return False

    def take(self) -> list[tuple[int, Event]]:
        """All that came since the last time, in order."""
        taken, self._news = list(self._news), deque()
        if self._gap is not None:
            taken.append((self.number, self._gap.as_event(self._clock.now_us())))
            self._gap = None
        return taken


class Bus:
    """One per manager; used in the event loop only (`has_hearers` anywhere)."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock or SystemClock()
        self.failures = 0  # exceptions of listeners, those that are gone included
        self.dropped = 0  # events that listeners and live watchers missed
        self._readers: dict[str, set[asyncio.Event]] = {}  # woken by each change of the job
        self._waiters: dict[str, set[asyncio.Event]] = {}  # woken by its final one
        self._live: dict[str, list[LiveReader]] = {}  # those who watch the job and want news of it
        self._subscriptions: list[Subscription] = []
        self._finals: OrderedDict[str, JobState] = OrderedDict()
        self._alive: dict[str, str] = {}  # job id → content hash of its definition

    def publish(self, state: JobState, events: Sequence[Event]) -> None:
        """Tell of committed events of a job of this process."""
        job_id, is_final = state.job_id, state.is_final
        if not is_final:
            if len(self._alive) < KNOWN_ALIVE:
                self._alive[job_id] = state.plan.workflow.content_hash
        else:
            self._alive.pop(job_id, None)
            self._finals[job_id] = state
            if len(self._finals) > RECENT_FINALS:
                self._finals.popitem(last=False)
        if self._subscriptions:
            for event in events:
                self._hand(job_id, event)
        for live in self._live.get(job_id, ()):
            live.number = state.number
        for reader in self._readers.get(job_id, ()):
            reader.set()
        if is_final:
            for reader in self._waiters.get(job_id, ()):
                reader.set()

    def tell(self, job_id: str, event: Event) -> None:
        """Hand on an event that no history holds, such as `step.progress`."""
        self._hand(job_id, event)
        for live in self._live.get(job_id, ()):
            self.dropped += not live.hand(job_id, event)

    def _hand(self, job_id: str, event: Event) -> None:
        for subscription in list(self._subscriptions):
            if subscription.wants(event):
                subscription.hand(job_id, event)

    @property
    def has_listeners(self) -> bool:
        return bool(self._subscriptions)

    def has_hearers(self, job_id: str) -> bool:
        """Whether anybody would hear news of that job."""
        return bool(self._subscriptions) or job_id in self._live

    def counts(self) -> dict[str, int]:
        """{"count", "failures", "dropped"} of listeners; the last two since the manager was made."""
        return {"count": len(self._subscriptions), "failures": self.failures, "dropped": self.dropped}

    def recent_final(self, job_id: str) -> JobState | None:
        """The state of a job that ended here lately."""
        return self._finals.get(job_id)

    def is_alive(self, job_id: str) -> bool:
        """Whether the job's last event that this process saw was not the final one. Its next one is published here, or
        another process runs it and `wake_readers` follows."""
        return job_id in self._alive

    def definition_of(self, job_id: str) -> str | None:
        """The content hash of the definition of a job that `is_alive`; None for any other."""
        return self._alive.get(job_id)

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

    @contextmanager
    def living(self, job_id: str, changed: asyncio.Event) -> Iterator[LiveReader]:
        """The news of a job; `changed` is set when there is some."""
        reader = LiveReader(changed, self.clock)
        self._live.setdefault(job_id, []).append(reader)
        try:
            yield reader
        finally:
            readers = self._live[job_id]
            readers.remove(reader)
            if not readers:
                del self._live[job_id]

    def gone(self, job_id: str) -> None:
        """The job was deleted: who reads or waits for it finds that out from the store."""
        self._alive.pop(job_id, None)
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
