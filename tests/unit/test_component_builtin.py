"""The components that come with the package."""

import logging
from typing import Any

import pytest

from openagents_json.components import AgentInstances, ComponentRegistry, StepContext, register_builtins
from openagents_json.errors import DuplicateComponent, FatalError, InvalidInputs, RetryableError, StepFailure


@pytest.fixture
def registry() -> ComponentRegistry:
    registry = ComponentRegistry()
    register_builtins(registry)
    return registry


class InstantClock:
    def __init__(self) -> None:
        self.slept: list[float] = []

    def now_us(self) -> int:
        return 0

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


def call(registry: ComponentRegistry, name: str, context: StepContext | None = None, **inputs: Any) -> Any:
    return registry.get(name).prepare(inputs, context or StepContext.for_tests(), AgentInstances())()


def test_builtins_are_described_and_tagged(registry: ComponentRegistry) -> None:
    assert registry.names() == ["core.echo", "core.fail", "core.log", "core.sleep"]
    for component in registry:
        assert component.description
        assert component.tags == ("core",)
        assert component.isolation == "inline"
        assert all("description" in field for field in component.input_schema["properties"].values())


def test_builtins_register_once_per_registry(registry: ComponentRegistry) -> None:
    with pytest.raises(DuplicateComponent):
        register_builtins(registry)


def test_echo_returns_its_value(registry: ComponentRegistry) -> None:
    assert call(registry, "core.echo", value={"a": [1]}) == {"a": [1]}
    assert call(registry, "core.echo") is None


async def test_sleep_waits_by_the_job_clock(registry: ComponentRegistry) -> None:
    clock = InstantClock()
    assert await call(registry, "core.sleep", StepContext.for_tests(clock=clock), seconds=90) is None
    assert clock.slept == [90]


@pytest.mark.parametrize("seconds", [-1, 86_401, "1"])
def test_sleep_refuses_what_is_no_reasonable_duration(registry: ComponentRegistry, seconds: Any) -> None:
    with pytest.raises(InvalidInputs):
        call(registry, "core.sleep", seconds=seconds)


@pytest.mark.parametrize(("retryable", "error"), [(None, StepFailure), (True, RetryableError), (False, FatalError)])
def test_fail_raises_the_asked_error(
    registry: ComponentRegistry, retryable: bool | None, error: type[StepFailure]
) -> None:
    with pytest.raises(StepFailure) as caught:
        call(registry, "core.fail", type="review.rejected", message="no", retryable=retryable)
    assert type(caught.value) is error
    assert (caught.value.code, str(caught.value)) == ("review.rejected", "no")


def test_log_writes_the_line_as_it_is(registry: ComponentRegistry, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "openagents_json.step"):
        call(registry, "core.log", StepContext.for_tests(step="s"), message="100 %s done", level="warning")
    assert caplog.messages == ["100 %s done"]
    assert caplog.records[0].levelno == logging.WARNING
    assert caplog.records[0].__dict__["step"] == "s"
