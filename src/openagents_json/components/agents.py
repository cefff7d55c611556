"""Agents at work: each agent class is made once per worker, at its first use, and closed when the worker ends.

An agent class may have two hooks, each `def` or `async def`, without parameters:

- `setup` runs once after `__init__`, before the first call. If it (or `__init__`) raises, the attempt that needed the
  agent fails with that error and the next use tries again with a new object.
- `close` runs once, when the worker ends, if `setup` succeeded; where the object was made: in the event loop, or in a
  thread (a new one). How long it may take, the worker's `stop_timeout_s` says.

Open network clients and the like in an `async def setup`: it runs in the worker's event loop, which a slow `__init__`
would block.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from openagents_json.errors import InvalidComponent

HOOKS = ("setup", "close")
CLOSE_S = 10.0
_CANCEL_S = 0.02  # what each gets at least, to begin and to take note of being cancelled

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Agent:
    """A registered agent class. Compared by identity: a class registered twice is two agents."""

    name: str
    version: str
    cls: type
    config: Mapping[str, Any] = field(repr=False)  # keywords for cls(); may hold secrets

    @property
    def setup_is_async(self) -> bool:
        return inspect.iscoroutinefunction(getattr(self.cls, "setup", None))


class AgentInstances:
    """The agent objects of one worker. Make it inside the worker's event loop: async setups run there."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the five below; never held while user code runs
        # Agents that are ready, in order of creation. Written when setup has ended; read without the lock by `ready`.
        self._ready: dict[Agent, Any] = {}
        self._in_threads: set[Agent] = set()  # those of them that were made in another thread than ours
        self._thread = threading.get_ident()  # ours: the event loop's
        # Agents being made, by their first user; the others wait for the future. A failed one leaves, to be tried anew.
        self._coming: dict[Agent, Future[Any]] = {}
        self._closed = False  # set by close; nothing becomes ready afterwards
        self._setups: set[asyncio.Task[None]] = set()  # running async setups; loop thread only
        try:
            self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            self._loop = None  # threads cannot use agents with an async setup then

    def ready(self, agent: Agent) -> Any | None:
        """The agent's object if it has been made, else None. Never waits."""
        return self._ready.get(agent)

    def get(self, agent: Agent) -> Any:
        """The agent's object, from a worker thread (or inline, if its setup is not async). Waits until it is made.

        Raises what `__init__` or `setup` raised, and `InvalidComponent` where waiting could never end.
        """
        future, is_first = self._claim(agent)
        if not agent.setup_is_async:
            if is_first:
                self._make(agent, future)
            return future.result()
        if is_first:
            try:
                self._schedule_setup(agent, future)
            except BaseException as error:
                self._failed(agent, future, error)
        elif not future.done() and _in_loop():
            raise InvalidComponent(_needs_thread(agent), name=agent.name)
        return future.result()

    async def wait(self, agent: Agent) -> Any:
        """The agent's object, from a coroutine. Cancelling the caller does not disturb a setup that others wait for."""
        future, is_first = self._claim(agent)
        if is_first and agent.setup_is_async:
            self._start_setup(agent, future)
        elif is_first:
            self._make(agent, future)
        # Shielded: cancelling a wrapped future would try to cancel the setup of all.
        return future.result() if future.done() else await asyncio.shield(asyncio.wrap_future(future))

    async def close(self, timeout_s: float = CLOSE_S) -> None:
        """Close all agents, the youngest first. Call it when no component runs any more; a second call does nothing.

        Setups that still run are cancelled. Errors are logged, not raised. `timeout_s` is for all: each `close` gets
        its share of what is left; one that takes longer is cancelled and left, whatever it does then. Only a sync
        `close` in the event loop cannot be left.
        """
        until_s = time.monotonic() + timeout_s
        with self._lock:
            self._closed = True
        setups = list(self._setups)
        for setup in setups:
            setup.cancel()
        if setups:
            await asyncio.wait(setups, timeout=max(timeout_s / 2, _CANCEL_S))
        with self._lock:
            instances = list(self._ready.items())
            self._ready = {}
        while instances:
            share_s = max(until_s - time.monotonic(), 0.0) / len(instances)
            agent, instance = instances.pop()
            await _close(agent, instance, share_s, in_thread=agent in self._in_threads)

    # ── making one ────────────────────────────────────────────────────────────────────────────────────────────────

    def _claim(self, agent: Agent) -> tuple[Future[Any], bool]:
        """The future of an agent, and whether the caller is the first, who has to make it."""
        with self._lock:
            if self._closed:
                raise RuntimeError(f"Agent {agent.name!r} was asked for after the worker closed its agents.")
            future = self._coming.get(agent)
            if future is not None:
                return future, False
            future = self._coming[agent] = Future()
            future.set_running_or_notify_cancel()  # from here nobody can cancel it
            return future, True

    def _make(self, agent: Agent, future: Future[Any]) -> None:
        try:
            instance = agent.cls(**agent.config)
            if (setup := getattr(instance, "setup", None)) is not None:
                setup()
        except BaseException as error:
            self._failed(agent, future, error)
        else:
            self._made(agent, future, instance)

    def _schedule_setup(self, agent: Agent, future: Future[Any]) -> None:
        """From a thread: have the loop run an async setup."""
        if _in_loop() or self._loop is None:
            raise InvalidComponent(_needs_thread(agent), name=agent.name)
        self._loop.call_soon_threadsafe(self._start_setup, agent, future)

    def _start_setup(self, agent: Agent, future: Future[Any]) -> None:
        """In the loop: a task of its own, so that the setup does not die with the attempt that happened to be first."""
        if self._closed:  # while a thread's request was on its way here
            self._give_up(agent, future)
            return
        task = asyncio.get_running_loop().create_task(self._set_up(agent, future), name=f"setup of agent {agent.name}")
        self._setups.add(task)
        task.add_done_callback(self._setups.discard)
        task.add_done_callback(lambda _: self._give_up(agent, future))

    async def _set_up(self, agent: Agent, future: Future[Any]) -> None:
        try:
            instance = agent.cls(**agent.config)
            await instance.setup()
        except Exception as error:  # a cancellation passes; _give_up tells those who wait
            self._failed(agent, future, error)
        else:
            self._made(agent, future, instance)

    def _give_up(self, agent: Agent, future: Future[Any]) -> None:
        """A setup that was cancelled, perhaps before its first line, must not leave anybody waiting."""
        if not future.done():
            self._failed(agent, future, RuntimeError(f"The worker closed during the setup of agent {agent.name!r}."))

    def _made(self, agent: Agent, future: Future[Any], instance: Any) -> None:
        with self._lock:
            if threading.get_ident() != self._thread:
                self._in_threads.add(agent)
            self._ready[agent] = instance
        future.set_result(instance)

    def _failed(self, agent: Agent, future: Future[Any], error: BaseException) -> None:
        with self._lock:
            del self._coming[agent]
        future.set_exception(error)


async def _close(agent: Agent, instance: Any, timeout_s: float, *, in_thread: bool) -> None:
    close = getattr(instance, "close", None)
    if close is None:
        return
    closing = asyncio.get_running_loop().create_task(_await_closed(close, in_thread), name=f"close of {agent.name}")
    await asyncio.wait([closing], timeout=max(timeout_s, _CANCEL_S))
    error: BaseException | None = None
    if not closing.done():
        closing.cancel()
        closing.add_done_callback(_ignore)
        error = TimeoutError(f"It took longer than its {timeout_s:.3g} s, and is left.")
    elif not closing.cancelled():
        error = closing.exception()
    if error is not None or closing.cancelled():
        _log.error("Agent %r %s did not close cleanly.", agent.name, agent.version, exc_info=error)


async def _await_closed(close: Callable[[], Any], in_thread: bool) -> None:
    try:
        closing = await _in_daemon(close) if in_thread and not inspect.iscoroutinefunction(close) else close()
        if inspect.isawaitable(closing):
            await closing
    except SystemExit as error:  # asyncio would let it end the program
        raise RuntimeError(f"Its close called exit({error.code!r}).") from None


def _in_daemon(call: Callable[[], Any]) -> asyncio.Future[Any]:
    """What a call gives in a thread that nobody has to wait for."""
    result: Future[Any] = Future()

    def run() -> None:
        try:
            value = call()
        except BaseException as error:
            result.set_exception(error)
        else:
            result.set_result(value)

    result.set_running_or_notify_cancel()
    threading.Thread(target=run, name="openagents-close", daemon=True).start()
    return asyncio.wrap_future(result)


def _ignore(closing: asyncio.Task[None]) -> None:
    """What a `close` that was left gives at last, nobody wants to know; asyncio shall not complain."""
    if not closing.cancelled():
        closing.exception()


def _in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _needs_thread(agent: Agent) -> str:
    return (
        f"Agent {agent.name!r} has an async setup, which a sync method cannot wait for in the event loop. "
        "Run the method in a thread, or make it async."
    )
