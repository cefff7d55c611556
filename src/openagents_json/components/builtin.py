"""Components that come with the package, under `core.`: for trying workflows out, and for small chores in them."""

from __future__ import annotations

import logging
from typing import Annotated, Any, Literal

from pydantic import Field

from openagents_json.components.context import StepContext
from openagents_json.components.registry import ComponentRegistry
from openagents_json.errors import FatalError, RetryableError, StepFailure

MAX_SLEEP_S = 24 * 3600.0


def echo(value: Any = None) -> Any:
    """Return the value that is given.

    Args:
        value: Any JSON.
    """
    return value


async def sleep(
    seconds: Annotated[float, Field(ge=0, le=MAX_SLEEP_S, allow_inf_nan=False)], context: StepContext
) -> None:
    """Wait, and return null. The worker holds the job meanwhile; a restart begins the wait anew.

    Args:
        seconds: How long, at most a day.
    """
    await context.sleep(seconds)


def fail(type: str = "core.fail", message: str = "", retryable: bool | None = None) -> None:
    """Fail with an error of your choice.

    Args:
        type: The dotted type of the error, such as `review.rejected`; `retry` matches it.
        message: What people read; the type if empty.
        retryable: true and false decide whether the attempt may be repeated, null leaves it to the step's retry.
    """
    if retryable is None:
        raise StepFailure(type, message)
    raise RetryableError(type, message) if retryable else FatalError(type, message)


def log(context: StepContext, message: str, level: Literal["debug", "info", "warning", "error"] = "info") -> None:
    """Write a line to the worker's log (logger `openagents_json.step`), with the job and step in its fields.

    Args:
        message: The line.
        level: How urgent it is.
    """
    context.logger.log(logging.getLevelNamesMapping()[level.upper()], "%s", message)


def register_builtins(registry: ComponentRegistry) -> None:
    """Register `core.echo`, `core.sleep`, `core.fail` and `core.log`, version 1.0.0, tag `core`.

    `DuplicateComponent` if called twice for one registry.
    """
    registry.register(echo, "core.echo", tags=("core",), isolation="inline")
    registry.register(sleep, "core.sleep", tags=("core",))
    registry.register(fail, "core.fail", tags=("core",), isolation="inline")
    registry.register(log, "core.log", tags=("core",), isolation="inline")
