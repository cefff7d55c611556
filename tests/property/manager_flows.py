"""The workflows of the manager's state machine, and their components: each call of `act` does what the test says.

Made once and shared by all examples; a call finds the world that it belongs to in `STAGE`.
"""

from __future__ import annotations

import functools
from typing import Any, Protocol

from openagents_json import ComponentRegistry, StepContext
from openagents_json.workflow import Plan, WorkflowRegistry, build_plan


class World(Protocol):
    """What a call tells, and asks what to do."""

    async def act(self, context: StepContext, value: Any, *, is_stubborn: bool) -> Any: ...

    def quick(self, context: StepContext, value: Any) -> Any: ...


STAGE: list[World] = []  # the world of the example that runs now, and no other
components = ComponentRegistry()


@components.tool("act")
async def act(context: StepContext, value: Any = None) -> Any:
    """Ends as the test says, or when it is told to stop."""
    return await STAGE[0].act(context, value, is_stubborn=False)


@components.tool("stubborn")
async def stubborn(context: StepContext, value: Any = None) -> Any:
    """Ends as the test says, whoever tells it to stop."""
    return await STAGE[0].act(context, value, is_stubborn=True)


@components.tool("quick")
async def quick(context: StepContext, value: Any = None) -> Any:
    """Ends at once."""
    return STAGE[0].quick(context, value)


def _act(id: str, component: str = "act", **fields: Any) -> dict[str, Any]:
    return {"id": id, "component": component, "inputs": {"value": id}, **fields}


_STEPS: dict[str, dict[str, Any]] = {
    "one": {"steps": [_act("a")]},
    "chain": {"steps": [_act("a", "quick"), _act("b"), _act("c", "quick"), _act("d")]},
    # Back-off that keeps its worker, and back-off that does not.
    "short": {"steps": [_act("a", retry={"max_attempts": 4, "delay_seconds": 2}), _act("b", "quick")]},
    "long": {"steps": [_act("a", retry={"max_attempts": 4, "delay_seconds": 8}), _act("b", "quick")]},
    "signal": {"steps": [_act("a", "quick"), {"id": "s", "signal": "go"}, _act("b", "quick")]},
    "patience": {
        "steps": [{"id": "s", "signal": "go", "timeout": 25.0, "on_timeout": "continue"}, _act("b")],
    },
    "timer": {"steps": [{"id": "w", "wait": {"seconds": 12}}, _act("a"), {"id": "v", "wait": {"seconds": 3}}]},
    "parallel": {
        "steps": [
            {
                "id": "p",
                "parallel": {"x": [_act("a")], "y": [_act("b")], "z": [_act("c", "quick"), _act("d")]},
                "wait_for": 2,
            },
            _act("e", "quick"),
        ]
    },
    "undo": {
        "steps": [
            _act("a", "quick", compensate={"component": "act", "inputs": {"value": "undone"}}),
            _act("b"),
            _act("c", "quick"),
        ],
        "finally": [_act("f")],
    },
    "last": {"steps": [_act("a", "quick", compensate={"component": "act"})], "finally": [_act("f")]},
    "parent": {"steps": [{"id": "k", "workflow": "chain"}, _act("b", "quick")], "finally": [_act("f", "quick")]},
    "each": {
        "steps": [{"id": "l", "foreach": [1, 2, 3], "concurrency": 2, "steps": [_act("a"), _act("b", "quick")]}],
    },
    "stubborn": {"steps": [_act("a", "stubborn", timeout=20.0), _act("b", "quick")]},
    "once": {"steps": [_act("a", effect="once", timeout=30.0), _act("b", "quick")]},
}
FLOWS = (*_STEPS, "one", "signal", "patience", "once")  # the last ones more often
workflows = WorkflowRegistry(components)
for _id, _document in _STEPS.items():
    workflows.register({"id": _id, **_document})


@functools.cache
def plan_of(flow: str) -> Plan:
    return build_plan(workflows.get(flow))


def has_signal(flow: str) -> bool:
    return flow in ("signal", "patience")
