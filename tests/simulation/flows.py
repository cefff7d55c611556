"""The workflows of the simulation, and their components. Made once; a call finds its world in `STAGE`."""

from __future__ import annotations

import functools
from typing import Any, Protocol

from openagents_json import ComponentRegistry, StepContext
from openagents_json.workflow import Plan, WorkflowRegistry, build_plan


class World(Protocol):
    """What a call tells, and asks what to do."""

    async def work(self, context: StepContext, value: Any, *, fails: float = 0.0, is_stubborn: bool = False) -> Any: ...

    async def hold(self, context: StepContext, value: Any) -> Any: ...

    async def give_back(self, name: str) -> None: ...


STAGE: list[World] = []  # the world of the seed that runs now, and no other
components = ComponentRegistry()


@components.tool("work")
async def work(context: StepContext, value: Any = None) -> Any:
    """Takes a while."""
    return await STAGE[0].work(context, value)


@components.tool("flaky")
async def flaky(context: StepContext, value: Any = None) -> Any:
    """Fails now and then."""
    return await STAGE[0].work(context, value, fails=0.4)


@components.tool("stubborn")
async def stubborn(context: StepContext, value: Any = None) -> Any:
    """Does not end at once when it is told to."""
    return await STAGE[0].work(context, value, is_stubborn=True)


@components.tool("hold")
async def hold(context: StepContext, value: Any = None) -> Any:
    """Tracks something, and then has it."""
    return await STAGE[0].hold(context, value)


@components.tool("give_back")
async def give_back(name: str) -> None:
    """Releases it."""
    await STAGE[0].give_back(name)


def _step(id: str, component: str = "work", **fields: Any) -> dict[str, Any]:
    return {"id": id, "component": component, "inputs": {"value": id}, **fields}


_SHORT = {"max_attempts": 6, "delay_seconds": 1}  # a back-off that keeps its worker
_LONG = {"max_attempts": 3, "delay_seconds": 7}  # and one that does not
_DOCUMENTS: dict[str, dict[str, Any]] = {
    "chain": {"steps": [_step("a"), _step("b"), _step("c")]},
    "retry": {"steps": [_step("a", "flaky", retry=_SHORT), _step("b", "flaky", retry=_LONG)]},
    "each": {"steps": [{"id": "l", "foreach": [1, 2, 3], "concurrency": 2, "steps": [_step("a"), _step("b")]}]},
    "spread": {"steps": [{"id": "l", "foreach": [1, 2], "spread": True, "steps": [_step("a")]}, _step("b")]},
    "wait": {
        "steps": [_step("a"), {"id": "w", "wait": {"seconds": 8}}, _step("b"), {"id": "v", "wait": {"seconds": 2}}]
    },
    "signal": {"steps": [_step("a"), {"id": "s", "signal": "go"}, _step("b")]},
    "patience": {"steps": [{"id": "s", "signal": "go", "timeout": 9.0, "on_timeout": "continue"}, _step("b")]},
    "parent": {"steps": [{"id": "k", "workflow": "chain"}, _step("b")], "finally": [_step("f")]},
    "undo": {
        "steps": [_step("a", compensate={"component": "work"}), _step("b", "flaky"), _step("c")],
        "finally": [_step("f")],
    },
    "hold": {"steps": [_step("a", "hold"), _step("b", "hold", retry=_SHORT), _step("c")]},
    "stubborn": {"steps": [_step("a", "stubborn", timeout=20.0, retry=_SHORT), _step("b")]},
    "once": {"steps": [_step("a", effect="once"), _step("b")]},
    "alone": {"concurrency": 1, "steps": [_step("a"), {"id": "w", "wait": {"seconds": 6}}, _step("b")]},
}
FLOWS = tuple(_DOCUMENTS)
WITH_SIGNAL = frozenset({"signal", "patience"})
workflows = WorkflowRegistry(components)
for _id, _document in _DOCUMENTS.items():
    workflows.register({"id": _id, **_document})


@functools.cache
def plan_of(flow: str) -> Plan:
    return build_plan(workflows.get(flow))
