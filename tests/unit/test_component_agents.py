"""Agent objects: made once per worker at first use, set up, closed in reverse order."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from openagents_json.components import AgentInstances, ComponentRegistry, StepContext, capability
from openagents_json.errors import InvalidComponent


def prepared(registry: ComponentRegistry, name: str, instances: AgentInstances) -> Callable[[], Any]:
    return registry.get(name).prepare({}, StepContext.for_tests(), instances)


async def test_all_capabilities_share_one_object_made_with_the_config() -> None:
    registry, instances = ComponentRegistry(), AgentInstances()
    made: list[object] = []

    @registry.agent("text", config={"model": "small"})
    class Text:
        def __init__(self, model: str) -> None:
            made.append(self)
            self.model = model

        @capability
        def sync(self) -> str:
            return self.model

        @capability
        async def coroutine(self) -> str:
            return self.model

    assert made == []
    for _ in range(2):
        assert await asyncio.to_thread(prepared(registry, "text.sync", instances)) == "small"
        assert await prepared(registry, "text.coroutine", instances)() == "small"
    assert len(made) == 1
    assert await prepared(registry, "text.coroutine", AgentInstances())() == "small"
    assert len(made) == 2  # another worker, another object


async def test_preparing_a_call_does_not_make_the_agent() -> None:
    registry, instances = ComponentRegistry(), AgentInstances()

    @registry.agent("text")
    class Text:
        def __init__(self) -> None:
            raise OSError("no model")

        @capability
        async def run(self) -> None: ...

    call = prepared(registry, "text.run", instances)
    with pytest.raises(OSError, match="no model"):
        await call()


async def test_concurrent_first_use_from_threads_makes_one_object() -> None:
    registry, instances = ComponentRegistry(), AgentInstances()
    count = 4
    all_here, made = threading.Barrier(count), []

    @registry.agent("text")
    class Text:
        def __init__(self) -> None:
            made.append(self)

        @capability
        def run(self) -> int:
            return id(self)

    def use() -> Any:
        call = prepared(registry, "text.run", instances)
        all_here.wait(timeout=10)
        return call()

    ids = await asyncio.gather(*(asyncio.to_thread(use) for _ in range(count)))
    assert len(made) == 1
    assert len(set(ids)) == 1


async def test_async_setup_runs_once_in_the_loop_for_threads_and_coroutines() -> None:
    registry, instances = ComponentRegistry(), AgentInstances()
    loops: list[asyncio.AbstractEventLoop] = []

    @registry.agent("net")
    class Net:
        async def setup(self) -> None:
            loops.append(asyncio.get_running_loop())
            await asyncio.sleep(0)

        @capability
        def sync(self) -> str:
            return "sync"

        @capability
        async def coroutine(self) -> str:
            return "coroutine"

    calls = [prepared(registry, "net.sync", instances) for _ in range(2)]
    results = await asyncio.gather(
        *(asyncio.to_thread(call) for call in calls), prepared(registry, "net.coroutine", instances)()
    )
    assert results == ["sync", "sync", "coroutine"]
    assert loops == [asyncio.get_running_loop()]


async def test_failed_setup_fails_the_call_and_the_next_use_tries_again() -> None:
    registry, instances = ComponentRegistry(), AgentInstances()
    outcomes: list[Exception | None] = [OSError("down"), None]
    closed: list[str] = []

    @registry.agent("net")
    class Net:
        async def setup(self) -> None:
            if (error := outcomes.pop(0)) is not None:
                raise error

        @capability
        async def run(self) -> str:
            return "up"

        def close(self) -> None:
            closed.append("net")

    with pytest.raises(OSError, match="down"):
        await prepared(registry, "net.run", instances)()
    assert await prepared(registry, "net.run", instances)() == "up"
    await instances.close()
    assert closed == ["net"]  # once: the object whose setup failed is not closed


async def test_cancelled_first_caller_does_not_take_the_setup_from_others() -> None:
    registry, instances = ComponentRegistry(), AgentInstances()
    begun, may_end = asyncio.Event(), asyncio.Event()

    @registry.agent("net")
    class Net:
        async def setup(self) -> None:
            begun.set()
            await may_end.wait()

        @capability
        async def run(self) -> str:
            return "up"

    first = asyncio.create_task(prepared(registry, "net.run", instances)())
    await begun.wait()
    second = asyncio.create_task(prepared(registry, "net.run", instances)())
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    may_end.set()
    assert await second == "up"


async def test_sync_method_in_the_loop_does_not_wait_for_an_async_setup() -> None:
    registry, instances = ComponentRegistry(), AgentInstances()

    @registry.agent("net")
    class Net:
        async def setup(self) -> None:
            await asyncio.Event().wait()

        @capability
        def sync(self) -> None: ...

        @capability
        async def coroutine(self) -> None: ...

    with pytest.raises(InvalidComponent, match="Run the method in a thread"):
        prepared(registry, "net.sync", instances)()
    setting_up = asyncio.create_task(prepared(registry, "net.coroutine", instances)())
    await asyncio.sleep(0)
    with pytest.raises(InvalidComponent, match="Run the method in a thread"):
        prepared(registry, "net.sync", instances)()
    await instances.close()
    with pytest.raises(RuntimeError, match="closed during the setup"):
        await setting_up


async def test_close_goes_in_reverse_order_of_creation_and_logs_errors(caplog: pytest.LogCaptureFixture) -> None:
    registry, instances = ComponentRegistry(), AgentInstances()
    closed: list[str] = []

    @registry.agent("one")
    class One:
        @capability
        async def run(self) -> None: ...

        def close(self) -> None:
            closed.append("one")

    @registry.agent("two")
    class Two:
        @capability
        async def run(self) -> None: ...

        async def close(self) -> None:
            closed.append("two")
            raise OSError("will not close")

    @registry.agent("three")
    class Three:
        @capability
        async def run(self) -> None: ...

    @registry.agent("unused")
    class Unused:
        @capability
        async def run(self) -> None: ...

        def close(self) -> None:
            closed.append("unused")

    for name in ("one.run", "two.run", "three.run"):
        await prepared(registry, name, instances)()
    with caplog.at_level(logging.ERROR):
        await instances.close()
        await instances.close()
    assert closed == ["two", "one"]
    assert caplog.messages == ["Agent 'two' 1.0.0 did not close cleanly."]
    with pytest.raises(RuntimeError, match="after the worker closed"):
        await prepared(registry, "one.run", instances)()


async def test_close_does_not_wait_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    registry, instances = ComponentRegistry(), AgentInstances()

    @registry.agent("stuck")
    class Stuck:
        @capability
        async def run(self) -> None: ...

        async def close(self) -> None:
            await asyncio.Event().wait()

    await prepared(registry, "stuck.run", instances)()
    await instances.close(timeout_s=0)
    assert caplog.messages == ["Agent 'stuck' 1.0.0 did not close cleanly."]


async def test_close_that_is_deaf_or_blocks_its_thread_takes_its_share_of_the_time_and_no_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry, instances = ComponentRegistry(), AgentInstances()
    go, closed, deaf_go = threading.Event(), [], asyncio.Event()

    @registry.agent("deaf")
    class Deaf:
        @capability
        async def run(self) -> None: ...

        async def close(self) -> None:
            while not deaf_go.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await deaf_go.wait()

    @registry.agent("blocking")
    class Blocking:
        @capability
        def run(self) -> None: ...

        def close(self) -> None:
            go.wait(10)

    @registry.agent("exits")
    class Exits:
        @capability
        async def run(self) -> None: ...

        def close(self) -> None:
            closed.append(threading.get_ident())
            raise SystemExit(3)

    await prepared(registry, "exits.run", instances)()
    await prepared(registry, "deaf.run", instances)()
    await asyncio.to_thread(prepared(registry, "blocking.run", instances))
    async with asyncio.timeout(5):
        await instances.close(timeout_s=0.1)
    errors = {
        record.getMessage().split("'")[1]: type(record.exc_info[1]) for record in caplog.records if record.exc_info
    }
    assert errors == {"deaf": TimeoutError, "blocking": TimeoutError, "exits": RuntimeError}
    assert closed == [threading.get_ident()], "made in the event loop's thread, closed there"
    go.set()
    deaf_go.set()


async def test_setup_asked_for_by_a_thread_ends_when_the_worker_closes() -> None:
    registry, instances = ComponentRegistry(), AgentInstances()
    begun = asyncio.Event()

    @registry.agent("net")
    class Net:
        async def setup(self) -> None:
            begun.set()
            await asyncio.Event().wait()

        @capability
        def run(self) -> None: ...

    using = asyncio.create_task(asyncio.to_thread(prepared(registry, "net.run", instances)))
    await begun.wait()
    await instances.close()
    with pytest.raises(RuntimeError, match="closed during the setup"):
        await using


async def test_thread_that_asks_while_the_worker_closes_is_refused() -> None:
    registry, instances = ComponentRegistry(), AgentInstances()
    made: list[object] = []
    requests: list[Any] = []
    asked = threading.Event()

    @registry.agent("net")
    class Net:
        async def setup(self) -> None:
            made.append(self)

        @capability
        def run(self) -> None: ...

    call = prepared(registry, "net.run", instances)

    class SlowLoop:
        """Hands the request on when the test says so: between it and the loop, the worker closes."""

        def call_soon_threadsafe(self, *request: Any) -> None:
            requests.append(request)
            asked.set()

    instances._loop = SlowLoop()  # type: ignore[assignment]
    using = asyncio.create_task(asyncio.to_thread(call))
    await asyncio.to_thread(asked.wait, 10)
    await instances.close()
    asyncio.get_running_loop().call_soon(*requests[0])
    with pytest.raises(RuntimeError, match="closed during the setup"):
        await using
    assert made == []


def test_agent_with_sync_setup_works_without_a_loop() -> None:
    registry, instances = ComponentRegistry(), AgentInstances()

    @registry.agent("plain")
    class Plain:
        def setup(self) -> None:
            self.ready = True

        @capability(isolation="inline")
        def run(self) -> bool:
            return self.ready

    assert prepared(registry, "plain.run", instances)() is True


def test_agent_with_async_setup_needs_instances_made_in_a_loop() -> None:
    registry, instances = ComponentRegistry(), AgentInstances()

    @registry.agent("net")
    class Net:
        async def setup(self) -> None: ...

        @capability
        def run(self) -> None: ...

    with pytest.raises(InvalidComponent):
        prepared(registry, "net.run", instances)()
