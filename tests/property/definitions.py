"""Random definitions from a seed: by the grammar of the language, and good ones broken by mutation.

A seed gives the same definition every time. Hypothesis draws the seeds; drawing every member would be too slow.
"""

from __future__ import annotations

import copy
from random import Random
from typing import Any

CALLS = (
    ("core.echo", {"value": None}),
    ("core.sleep", {"seconds": 0}),
    ("core.log", {"message": "hello"}),
    ("core.fail", {"type": "a.b"}),
)
INPUTS = {
    "type": "object",
    "properties": {
        "n": {"type": "integer", "default": 3},
        "text": {"type": "string", "default": "x"},
        "rows": {"type": "array", "items": {"type": "object"}, "default": []},
    },
}
CONDITIONS = ("{{ inputs.n > 2 }}", "{{ inputs.text is not none }}", True, False, "{{ job.id != '' }}")
PATHS = ("output", "output.a", "output[0]", "output.a.b | default(1)", "success", "status", "error.type | default('')")
JUNK: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, 10**400, "", " ", "x" * 2_000, "{{", "{{ }}", "{{ steps.a.output", "{% if %}", "{{ 1 + }}",
    "{{ inputs.__class__ }}", "\x00\x1b[31m", "\u202e", "__proto__", [], {}, [[]], {"": {}}, [None] * 40,
    {"$ref": "#"}, {"type": "object", "properties": {"a": {"$ref": "#"}}}, "{{ " + "(" * 300 + " }}", "{{ a.b }}",
    "{{ steps['s1'].output.a[0][1].b | map('upper') | first }}", float("1e308"), "component", ["s1", "s1"],
)  # fmt: skip
WORDS = (
    "id", "steps", "component", "set", "foreach", "repeat", "switch", "parallel", "wait", "signal", "workflow", "raise",
    "inputs", "outputs", "finally", "catch", "compensate", "retry", "timeout", "condition", "needs", "output", "spread",
    "default", "allow", "schema", "x-free", "nonsense", "", "when", "until", "metadata", "resources", "connections",
)  # fmt: skip


class Grammar:
    """Makes one definition that should load."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.count = 0
        self.size = self.random.choice((3, 8, 20))

    def definition(self) -> dict[str, Any]:
        """The definition."""
        document: dict[str, Any] = {"id": "w", "version": "1.0.0", "inputs": INPUTS, "steps": self.steps(0, [])}
        ids = [step["id"] for step in document["steps"]]
        if self.often():
            document["outputs"] = {"a": self.value(ids), "b": self.value(ids)}
        if self.often():
            document["finally"] = self.steps(1, ids)
        if self.often():
            document["timeout"] = self.random.choice((1, 60, 3600.5))
        return document

    def often(self) -> bool:
        return self.random.random() < 0.4

    def steps(self, depth: int, seen: list[str]) -> list[dict[str, Any]]:
        made: list[dict[str, Any]] = []
        for _ in range(self.random.randint(1, 4 if depth == 0 else 2)):
            made.append(self.step(depth, [*seen, *(one["id"] for one in made)], [one["id"] for one in made]))
        return made

    def step(self, depth: int, seen: list[str], own: list[str]) -> dict[str, Any]:
        self.count += 1
        step: dict[str, Any] = {"id": f"s{self.count}"}
        simple = ("component", "set", "wait", "signal", "workflow", "raise")
        kinds = simple if depth > 2 or self.count > self.size else (*simple, "foreach", "repeat", "switch", "parallel")
        kind = self.random.choice(kinds)
        getattr(self, f"add_{kind}")(step, depth, seen)
        if self.often():
            step["condition"] = self.random.choice(CONDITIONS)
        if own and self.often():
            step["needs"] = self.random.sample(own, self.random.randint(0, len(own)))
        if self.often() and kind not in ("set", "wait", "raise"):
            step["timeout"] = 5
        if self.often() and kind == "component":
            step["retry"] = {"max_attempts": 2, "delay_seconds": 0, "on": ["http"]}
            step["resources"] = {"cpu": 1}
            step["compensate"] = {"component": "core.echo", "inputs": {"value": f"{{{{ steps.{step['id']}.output }}}}"}}
        if self.often() and self.count < self.size:
            step["catch"] = [{"type": "a", "steps": self.steps(depth + 1, seen)}]
        if self.often():
            step["continue_on_error"] = True
        if self.often():
            step["x-free"] = {"anything": [1]}
        return step

    def value(self, seen: list[str]) -> Any:
        if seen and self.random.random() < 0.7:
            reference = f"{{{{ steps.{self.random.choice(seen)}.{self.random.choice(PATHS)} }}}}"
            return self.random.choice((reference, {"a": reference, "b": [reference, 1]}, f"text {reference}"))
        return self.random.choice((1, "x", None, [1, 2], {"a": {"b": "{{ inputs.n }}"}}, "{{ inputs.rows }}"))

    def add_component(self, step: dict[str, Any], depth: int, seen: list[str]) -> None:
        name, inputs = self.random.choice(CALLS)
        step |= {"component": name, "inputs": dict(inputs)}
        if name == "core.echo":
            step["inputs"]["value"] = self.value(seen)

    def add_set(self, step: dict[str, Any], depth: int, seen: list[str]) -> None:
        step["set"] = self.value(seen)

    def add_wait(self, step: dict[str, Any], depth: int, seen: list[str]) -> None:
        step["wait"] = self.random.choice(
            ({"seconds": 1}, {"seconds": "{{ inputs.n }}"}, {"until": "2030-01-01T00:00:00Z"})
        )

    def add_signal(self, step: dict[str, Any], depth: int, seen: list[str]) -> None:
        step["signal"] = self.random.choice(("go", "{{ inputs.text }}"))
        if self.often():
            step["schema"] = {"type": "object", "properties": {"a": {"type": "integer"}}}

    def add_workflow(self, step: dict[str, Any], depth: int, seen: list[str]) -> None:
        step |= {"workflow": "other", "inputs": {"a": self.value(seen)}}

    def add_raise(self, step: dict[str, Any], depth: int, seen: list[str]) -> None:
        step["raise"] = {"type": "a.b", "message": "text {{ inputs.text }}"}

    def add_foreach(self, step: dict[str, Any], depth: int, seen: list[str]) -> None:
        step |= {"foreach": self.random.choice(("{{ inputs.rows }}", [1, 2])), "steps": self.steps(depth + 1, seen)}
        step["on_item_error"] = self.random.choice(("fail", "skip", "collect"))
        if self.often():
            step["output"] = {"item": "{{ item }}", "at": "{{ index }}"}

    def add_repeat(self, step: dict[str, Any], depth: int, seen: list[str]) -> None:
        step["repeat"] = {"until": self.random.choice(CONDITIONS), "max_iterations": 3, "initial": self.value(seen)}
        step["steps"] = self.steps(depth + 1, seen)

    def add_switch(self, step: dict[str, Any], depth: int, seen: list[str]) -> None:
        step["switch"] = [{"when": self.random.choice(CONDITIONS), "steps": self.steps(depth + 1, seen)}]
        if self.often():
            step["default"] = self.steps(depth + 1, seen)

    def add_parallel(self, step: dict[str, Any], depth: int, seen: list[str]) -> None:
        step["parallel"] = {name: self.steps(depth + 1, seen) for name in ("left", "right")}
        step["wait_for"] = self.random.choice(("all", "first", 1))


def generated(seed: int) -> dict[str, Any]:
    """A definition by the grammar."""
    return Grammar(seed).definition()


def mutated(seed: int) -> Any:
    """A definition by the grammar with one to five members taken out, replaced, copied or renamed."""
    random = Random(seed)
    document = copy.deepcopy(generated(seed))
    for _ in range(random.randint(1, 5)):
        holders = [one for one in _holders(document) if one]
        if not holders:
            break
        holder = random.choice(holders)
        key = random.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        match random.randint(0, 4):
            case 0:
                del holder[key]
            case 1:
                holder[key] = copy.deepcopy(random.choice(JUNK))
            case 2:
                holder[key] = copy.deepcopy(random.choice(holders))
            case 3 if isinstance(holder, dict):
                holder[random.choice(WORDS)] = copy.deepcopy(holder[key])
            case _ if isinstance(holder, dict):
                holder[random.choice(WORDS)] = copy.deepcopy(random.choice(JUNK))
    return document


def _holders(value: Any) -> list[Any]:
    found: list[Any] = []
    stack = [value]
    while stack and len(found) < 2_000:
        one = stack.pop()
        if isinstance(one, dict | list):
            found.append(one)
            stack += one.values() if isinstance(one, dict) else one
    return found
