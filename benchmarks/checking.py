"""`python -m benchmarks.checking`: what CPU time the static check takes for definitions of 1,000 steps.

Each in fresh processes, so that no expression is compiled already. Not a test: nothing fails when the target of 300 ms
is missed.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
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


CASES: dict[str, Callable[[], dict[str, Any]]] = {"chain": chain, "nested": nested, "expressions": expressions}


def measure(name: str) -> tuple[float, int]:
    """Check one definition: the CPU time in ms, and how many problems it has."""
    registry, definition = components(), CASES[name]()
    started = time.process_time()
    problems = check(definition, registry)
    return (time.process_time() - started) * 1_000, len(problems)


def measure_cold(name: str) -> tuple[float, int]:
    """The same in a process of its own, where nothing is compiled yet."""
    command = [sys.executable, "-m", "benchmarks.checking", name]
    taken_ms, problems = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(taken_ms), int(problems)


def main(arguments: list[str]) -> int:
    """Measure every definition in fresh processes and print; with the name of one, measure it once, here."""
    if arguments:
        print(*measure(arguments[0]))
        return 0
    for name in CASES:
        runs = [measure_cold(name) for _ in range(ROUNDS)]
        taken_ms = [taken for taken, _ in runs]
        rounds = ", ".join(f"{one:.0f}" for one in taken_ms)
        middle = statistics.median(taken_ms)
        print(f"{name}: median {middle:.0f} ms of {rounds} (target {TARGET_MS} ms), {runs[0][1]} problems")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
