"""Making the call of a component: what it deferred runs when it ends, and an `exit()` ends the attempt alone."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from typing import Any

from openagents_json.components.context import StepContext
from openagents_json.errors import StepFailure

logger = logging.getLogger("openagents_json.step")


def call_blocking(call: Callable[[], Any], context: StepContext) -> Any:
    """Call a sync component in this thread, then what it deferred."""
    try:
        return call()
    except SystemExit as error:
        raise _exited(error) from None
    finally:
        for function in context.take_deferred():
            _run_deferred(function, context)


async def call_in_loop(call: Callable[[], Any], context: StepContext, *, is_async: bool) -> Any:
    """Call a component in the event loop, then what it deferred."""
    try:
        return await call() if is_async else call()
    except SystemExit as error:  # asyncio would let it end the program
        raise _exited(error) from None
    finally:
        await _run_all_deferred(context)


async def _run_all_deferred(context: StepContext) -> None:
    """A cancellation ends the call that it meets, and the others are made before it goes on."""
    cancelled: asyncio.CancelledError | None = None
    for function in context.take_deferred():
        outcome = _run_deferred(function, context)
        if inspect.isawaitable(outcome):
            try:
                await outcome
            except asyncio.CancelledError as error:
                cancelled = error
            except Exception:
                context.logger.exception("what step %s deferred has failed", context.step)
    if cancelled is not None:
        raise cancelled


def _run_deferred(function: Callable[[], Any], context: StepContext) -> Any:
    try:
        return function()
    except Exception:
        context.logger.exception("what step %s deferred has failed", context.step)
        return None


def _exited(error: SystemExit) -> StepFailure:
    return StepFailure("component.SystemExit", f"The component called exit({error.code!r}).")
