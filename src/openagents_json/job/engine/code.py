"""The running code of an attempt, by isolation: where it runs, how it is stopped, and which rung of the ladder did it.

    rung        coroutine                 sync code inline      thread           process
    flag        ctx.cancelled             (the loop stands)     ctx.cancelled    ctx.cancelled
    terminate   CancelledError                                                   SIGTERM to its group
    kill                                                                         SIGKILL to its group

What cannot be killed is abandoned: the job goes on without it, and its slot stays taken until it ends.
"""

from __future__ import annotations

import asyncio
import codecs
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from openagents_json.components import (
    Component,
    Isolation,
    StepContext,
    call_blocking,
    call_in_loop,
    reference_to,
)
from openagents_json.components.output import level_line, sink
from openagents_json.job.engine import capture
from openagents_json.job.engine.capacities import CallLimits
from openagents_json.job.engine.processes import LogLine, ProcessCall
from openagents_json.jsondata import plain
from openagents_json.workflow.limits import INPUTS_BYTES

if TYPE_CHECKING:
    from openagents_json.job.engine.output import OutputBuffer
    from openagents_json.job.engine.worker import Worker

Rung: TypeAlias = Literal["flag", "terminate", "kill"]


class Code(Protocol):
    """What runs a component. `done` is known when the code has ended, with what it gave or raised."""

    done: asyncio.Future[Any]

    def terminate(self, reason: str) -> None:
        """Have it end: the strongest thing that lets it clean up. The context's flag is set already."""

    def kill(self) -> bool:
        """End it whatever it does; False where that cannot be done."""

    def rung(self) -> Rung:
        """What has ended it, once it has."""


def start_code(
    worker: Worker,
    component: Component,
    isolation: Isolation,
    inputs: Mapping[str, Any],
    context: StepContext,
    limits: CallLimits,
    output: OutputBuffer | None,
) -> Code:
    """Make the call. `InvalidInputs`, or `InvalidComponent` if no process can run it."""
    if isolation == "process":
        return ProcessCode(worker, component, inputs, context, limits, output)
    call = component.prepare(inputs, context, worker.instances)
    if output is not None:
        capture.ensure()
    token = sink.set(output)  # the task or thread copies the context as it is now
    try:
        if isolation == "thread":
            return ThreadCode(worker.threads.submit(functools.partial(call_blocking, call, context)))
        coroutine = call_in_loop(call, context, is_async=component.is_async)
        return LoopCode(worker.loop.create_task(coroutine, name=f"step {context.step} of job {context.job_id}"))
    finally:
        sink.reset(token)


class LoopCode:
    """A coroutine in the event loop, or a sync function that is so quick that it may hold the loop up."""

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self.done: asyncio.Future[Any] = task
        self._task = task

    def terminate(self, reason: str) -> None:
        self._task.cancel(reason)

    def kill(self) -> bool:
        return False

    def rung(self) -> Rung:
        return "terminate" if self._task.cancelled() else "flag"


class ThreadCode:
    """A sync function in a thread: it is told, and nothing more can be done to it."""

    def __init__(self, future: asyncio.Future[Any]) -> None:
        self.done = future

    def terminate(self, reason: str) -> None:
        """The flag is all there is."""

    def kill(self) -> bool:
        return False

    def rung(self) -> Rung:
        return "flag"


class ProcessCode:
    """A call in a process of its own group."""

    def __init__(
        self,
        worker: Worker,
        component: Component,
        inputs: Mapping[str, Any],
        context: StepContext,
        limits: CallLimits,
        output: OutputBuffer | None,
    ) -> None:
        self._output = output
        self._decoders = {name: codecs.getincrementaldecoder("utf-8")("replace") for name in ("stdout", "stderr")}
        call = ProcessCall(
            reference_to(component),
            plain(inputs, limit_bytes=INPUTS_BYTES)[0],
            context.job_id,
            context.workflow_id,
            context.step,
            context.attempt,
            context.idempotency_key,
            context.fencing_token,
            context.deadline_us,
            link=context.link,
            on_output=self._keep,
            memory_mb=limits.memory_mb,
            cpu_s=limits.cpu_s,
        )
        self._run = worker.processes.submit(call)
        self.done: asyncio.Future[Any] = self._run.done

    def terminate(self, reason: str) -> None:
        self._run.tell(reason)
        self._run.terminate()

    def kill(self) -> bool:
        self._run.kill()
        return True

    def rung(self) -> Rung:
        return "kill" if self._run.is_killed else "terminate" if self._run.is_terminated else "flag"

    def _keep(self, stream: str, data: bytes | LogLine) -> None:
        if self._output is None:
            return
        if isinstance(data, LogLine):
            self._output.write("log", level_line(data.level, data.message))
        else:
            self._output.write(stream, self._decoders[stream].decode(data))
