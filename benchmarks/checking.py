"""`python -m benchmarks.checking`: what CPU time the static check takes for definitions of 1,000 steps.

Not a test: nothing fails when the target of 300 ms is missed.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from typing_extensions import TypedDict

from openagents_json.components import ComponentRegistry
from openagents_json.workflow import check

STEPS = 1_000
ROUNDS = 5
TARGET_MS = 300


class Page(TypedDict):
    """What the stub component gives."""

    url: str
    links: list[str]
    size: int


def components() -> ComponentRegistry:
    """A registry with one component; the check never calls it."""
    registry = ComponentRegistry()

    @registry.tool("page.fetch")
    async def fetch(url: str, depth: int = 1, note: str | None = None) -> Page:
        raise AssertionError("check runs nothing")

    return registry


def chain(steps: int = STEPS) -> dict[str, Any]:
    """Steps that each refer to the one before; every tenth has a condition."""
    made: list[dict[str, Any]] = [call(0, "{{ inputs.url }}")]
    for number in range(1, steps):
        step = call(number, f"{{{{ steps.s{number - 1}.output.url }}}}")
        if number % 10 == 0:
            step["condition"] = f"{{{{ steps.s{number - 1}.output.size > {number} }}}}"
        if number % 10 == 1:
            step["inputs"]["url"] = f"{{{{ steps.s{number - 1}.output.url | default('x') }}}}"
        made.append(step)
    return document(made)


def expressions(steps: int = STEPS) -> dict[str, Any]:
    """As many different expressions as fit into a definition: three in each step."""
    made: list[dict[str, Any]] = [call(0, "{{ inputs.url }}")]
    for number in range(1, steps):
        before = f"steps.s{number - 1}.output"
        step = call(number, f"{{{{ {before}.url | default('x{number}') }}}}")
        step["condition"] = f"{{{{ {before}.size | default(0) > {number} }}}}"
        step["inputs"]["depth"] = f"{{{{ {before}.links | default([]) | length }}}}"
        made.append(step)
    return document(made)


def nested(steps: int = STEPS) -> dict[str, Any]:
    """Containers of four steps each: foreach, switch, parallel and a handler."""
    made: list[dict[str, Any]] = []
    for number in range(0, steps - 6, 7):  # two containers and five calls
        inner = [call(number + place, "{{ item }}") for place in range(1, 3)]
        inner[1]["catch"] = [{"type": "http", "steps": [call(number + 3, "{{ error.message }}")]}]
        branches = {"a": [call(number + 4, "{{ inputs.url }}")], "b": [call(number + 5, "{{ inputs.url }}")]}
        made.append({"id": f"each{number}", "foreach": "{{ inputs.urls }}", "steps": inner})
        made.append({"id": f"both{number}", "parallel": branches})
    return document(made)


def call(number: int, url: str) -> dict[str, Any]:
    """A step that calls the component."""
    return {"id": f"s{number}", "component": "page.fetch", "inputs": {"url": url}, "timeout": 10}


def document(steps: list[dict[str, Any]]) -> dict[str, Any]:
    """The definition of these steps."""
    urls = {"type": "array", "items": {"type": "string"}}
    inputs = {"type": "object", "properties": {"url": {"type": "string"}, "urls": urls}}
    return {"id": "bench", "inputs": inputs, "steps": steps}


def main() -> int:
    """Measure and print; the first round compiles every expression, later ones find some of them compiled."""
    registry = components()
    for name, definition in (("chain", chain()), ("nested", nested()), ("expressions", expressions())):
        taken_ms = []
        for _ in range(ROUNDS):
            started = time.process_time()
            problems = check(definition, registry)
            taken_ms.append((time.process_time() - started) * 1_000)
        rounds = ", ".join(f"{one:.0f}" for one in taken_ms)
        print(f"{name}: {rounds} ms (target {TARGET_MS} ms), {len(problems)} problems")
    return 0


if __name__ == "__main__":
    sys.exit(main())
