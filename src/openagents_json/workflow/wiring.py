"""`connections`: each joins the output of a step to an input of another, and together they give the order.

They are worked into the steps when a definition is loaded: every step gets `needs`, the values it is sent and the
conditions it is under, and the steps come in an order in which each stands behind what it needs.
"""

from __future__ import annotations

import heapq
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from openagents_json.errors import ExpressionError
from openagents_json.workflow.expressions import compile_condition, compile_template
from openagents_json.workflow.older_names import map_steps, member, own_fields, step_path
from openagents_json.workflow.problems import member_path, shown
from openagents_json.workflow.rewriting import Rewriting

CONNECTION_FIELDS = ("source", "target", "condition", "transform")
_BRACES = re.compile(r"\{\{[-+]?(.*?)[-+]?\}\}", re.DOTALL)


@dataclass(slots=True)
class Ports:
    """What the rewriting of older definitions knows about steps that their canonical form does not say."""

    outputs: dict[str, dict[str, str | None]] = field(default_factory=dict)  # step → output → template, None: a field
    sinks: frozenset[str] = frozenset()  # steps that collect what they are sent: it goes into their `set`
    order_only: frozenset[int] = frozenset()  # connections that send nothing
    own_inputs: bool = False  # whether `inputs.x` in a condition means what the step is sent as `x`

    def value(self, step_id: str, keys: list[str]) -> str:
        """The template for an output of a step. Of a result that is no object, any output is the whole."""
        whole = f"{step_path(step_id)}.output"
        if not keys or keys == ["output"]:
            return f"{{{{ {whole} }}}}"
        template = self.outputs.get(step_id, {}).get(keys[0])
        if template is not None and len(keys) == 1:
            return template
        part = whole + "".join(member(key) for key in keys)
        return f"{{{{ {part} if {whole} is mapping else {whole} }}}}"


@dataclass(slots=True)
class _Connection:
    """One connection that joins two steps."""

    source: int  # indexes of the steps
    target: int
    keys: list[str]  # which part of the source's output
    name: str  # of the target's input, or nothing
    condition: str | bool | None
    path: str


def wire(document: dict[str, Any], rewriting: Rewriting, ports: Ports) -> dict[str, Any]:
    """The document without `connections`, which are worked into its steps. Faulty ones are problems."""
    connections, steps = document["connections"], document.get("steps")
    document = {name: value for name, value in document.items() if name != "connections"}
    if not isinstance(connections, list):
        rewriting.add("$.connections", "`connections` must be a list.")
        return document
    if not connections or not _are_steps(steps):
        return document  # what is wrong with the steps is said elsewhere
    wiring = _Wiring(steps, rewriting, ports)
    for index, connection in enumerate(connections):
        wiring.read(connection, index)
    document["steps"] = wiring.wired()
    return document


def _are_steps(steps: Any) -> TypeGuard[list[dict[str, Any]]]:
    """Whether the steps can be told apart."""
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        return False
    ids = [step.get("id") for step in steps]
    return all(isinstance(step_id, str) for step_id in ids) and len(set(ids)) == len(ids)


class _Wiring:
    def __init__(self, steps: list[dict[str, Any]], rewriting: Rewriting, ports: Ports) -> None:
        self.steps = [dict(step) for step in steps]
        self.rewriting = rewriting
        self.ports = ports
        self.places = {step["id"]: index for index, step in enumerate(steps)}
        self.connections: list[_Connection] = []
        self.into: list[list[_Connection]] = [[] for _ in steps]  # the connections of each target, for `read` to fill
        self.copied: set[int] = set()  # targets whose inputs are our own
        self.filled: set[tuple[int, str]] = set()  # targets and inputs that a connection sends to
        self.origins: list[dict[str, str]] = [{} for _ in steps]  # of each step: field → the path it comes from

    # ── reading ───────────────────────────────────────────────────────────────────────────────────────────────────

    def read(self, given: Any, index: int) -> None:
        path = f"$.connections[{index}]"
        if not isinstance(given, dict):
            self.rewriting.add(path, "A connection is an object with `source` and `target`.")
            return
        for name in given:
            if name not in CONNECTION_FIELDS and name not in ("note", "metadata") and not name.startswith("x-"):
                message = f"A connection has no field {shown(name)}."
                self.rewriting.add_unknown(member_path(path, name), message, name, list(CONNECTION_FIELDS))
        if given.get("transform") is not None:
            message = "`transform` of a connection is not supported: it would be code in a language of its own."
            self.rewriting.add(f"{path}.transform", message, "Put a `set` step between the two steps.")
        source, target = self.end(given, "source", path), self.end(given, "target", path)
        condition = given.get("condition")
        if condition is not None and not isinstance(condition, str | bool):
            self.rewriting.add(f"{path}.condition", "A condition is true, false or exactly one `{{ … }}`.")
            condition = None
        if source is None or target is None:
            self.rewriting.is_complete = False
            return
        name = "" if index in self.ports.order_only else target[1]
        if name and (target[0], name) in self.filled:
            message = f"Another connection sends to the input {shown(name)} of step {shown(given['target'])} already."
            self.rewriting.add(f"{path}.target", message, "Choose with a `set` step which of the two it gets.")
            return
        keys = source[1].split(".") if source[1] else []
        one = _Connection(source[0], target[0], keys, name, condition, path)
        self.connections.append(one)
        self.into[one.target].append(one)
        if name:
            self.filled.add((one.target, name))
        elif target[1]:
            self.control(one, target[1])

    def end(self, given: dict[str, Any], which: str, path: str) -> tuple[int, str] | None:
        """The step that a `source` or `target` names, and what of it; None after a problem."""
        text, path = given.get(which), f"{path}.{which}"
        if not isinstance(text, str):
            what = "is missing" if text is None else "must be a string"
            self.rewriting.add(path, f"`{which}` {what}.", 'Write "STEP.NAME", or "STEP" alone.')
            return None
        step_id, dot, name = text.partition(".")
        if step_id not in self.places:
            message = f"There is no step {shown(step_id)} in the `steps` of the definition."
            self.rewriting.add_unknown(path, message, step_id, list(self.places))
            return None
        if dot and "" in name.split("."):
            self.rewriting.add(path, f"{shown(text)} does not name a part of the step.", 'Write "STEP.NAME".')
            return None
        place = self.places[step_id]
        step = self.steps[place]
        if (
            which == "target"
            and name
            and not self.is_sink(place)
            and "component" not in step
            and "workflow" not in step
        ):
            message = f"Step {shown(step_id)} takes no inputs: it calls nothing."
            self.rewriting.add(path, message, f"Write {shown(step_id)} alone, and refer to the source in the step.")
            return None
        return place, name

    def is_sink(self, place: int) -> bool:
        return self.steps[place]["id"] in self.ports.sinks

    # ── working them in ───────────────────────────────────────────────────────────────────────────────────────────

    def wired(self) -> list[dict[str, Any]]:
        """The steps in order, each with what its connections give it; as they were if there is a cycle."""
        for one in self.connections:
            if one.name:
                self.send(one)
        self.conditions()
        needs = self.needs()
        order = self.ordered(needs)
        if order is None:
            self.rewriting.is_complete = False
            return self.steps
        for place, index in enumerate(order):
            self.rewriting.move(f"$.steps[{place}]", f"$.steps[{index}]")
            for name, origin in self.origins[index].items():
                self.rewriting.move(f"$.steps[{place}]{name}", origin)
        return [self.steps[index] for index in order]

    def send(self, one: _Connection) -> None:
        step = self.steps[one.target]
        into = "set" if self.is_sink(one.target) else "inputs"
        if one.target not in self.copied:
            self.copied.add(one.target)
            step[into] = dict(inputs) if isinstance(inputs := step.get(into, {}), dict) else inputs
        if isinstance(inputs := step[into], dict):
            inputs[one.name] = self.ports.value(self.steps[one.source]["id"], one.keys)
            self.origins[one.target][member_path(f".{into}", one.name)] = f"{one.path}.target"

    def control(self, one: _Connection, name: str) -> None:
        """A connection for the order alone: what it would send can be asked for in the step's condition."""
        if self.ports.own_inputs:
            value = self.ports.value(self.steps[one.source]["id"], one.keys)
            step = self.steps[one.target]
            if name and isinstance(condition := step.get("condition"), str):
                pattern = re.compile(rf"(?<![\w.'\"])inputs\.{re.escape(name)}(?![\w-])")
                inner = value.removeprefix("{{ ").removesuffix(" }}")
                step["condition"] = pattern.sub(lambda _: f"({inner})", condition)

    def conditions(self) -> None:
        """A step runs if its own condition and those of all its connections hold."""
        for index, step in enumerate(self.steps):
            pieces: list[tuple[Any, str]] = [
                (one.condition, f"{one.path}.condition")
                for one in self.into[index]
                if one.condition is not None and one.condition is not True
            ]
            if not pieces:
                continue
            if step.get("condition") not in (None, True):
                pieces.insert(0, (step["condition"], f"$.steps[{index}].condition"))
            sources: dict[Any, None] = {}
            for source, path in pieces:  # several connections of a step often have the same one
                known = isinstance(source, str | bool) and source in sources
                if not known and self.is_condition(source, path):
                    sources[source] = None
            if len(sources) == 1:
                step["condition"] = next(iter(sources))
            elif sources:
                step["condition"] = "{{ " + " and ".join(f"({_inner(source)})" for source in sources) + " }}"
            self.origins[index][".condition"] = pieces[0][1]

    def is_condition(self, source: Any, path: str) -> bool:
        try:
            compile_condition(source)
        except ExpressionError as error:
            self.rewriting.add(path, str(error))
            return False
        return True

    def needs(self) -> list[set[int]]:
        """What each step waits for: the steps it needs by name, connection or reference. Sets `needs` of the steps."""
        before: list[set[int]] = []
        for index, step in enumerate(self.steps):
            given = step.get("needs")
            names = dict.fromkeys(name for name in given if isinstance(name, str)) if isinstance(given, list) else {}
            for one in self.into[index]:
                name = self.steps[one.source]["id"]
                if name not in names:
                    self.origins[index][f".needs[{len(names)}]"] = f"{one.path}.source"
                    names[name] = None
            if given is None or isinstance(given, list):
                step["needs"] = list(names)
            before.append({self.places[name] for name in (names.keys() | _references(step)) & self.places.keys()})
        return before

    def ordered(self, before: list[set[int]]) -> list[int] | None:
        """The indexes of the steps, each behind what it waits for, otherwise as they are; None after a cycle."""
        left = [len(sources) for sources in before]
        followers: list[list[int]] = [[] for _ in before]
        for index, sources in enumerate(before):
            for source in sources:
                followers[source].append(index)
        ready = [index for index, count in enumerate(left) if not count]
        order: list[int] = []
        while ready:
            index = heapq.heappop(ready)
            order.append(index)
            for follower in followers[index]:
                left[follower] -= 1
                if not left[follower]:
                    heapq.heappush(ready, follower)
        if len(order) == len(before):
            return order
        self.cycle(before, set(range(len(before))) - set(order))
        return None

    def cycle(self, before: list[set[int]], waiting: set[int]) -> None:
        """Note one cycle among the steps that wait for each other, at a connection that belongs to it."""
        index = min(waiting)
        path: list[int] = []
        while index not in path:
            path.append(index)
            index = min(before[index] & waiting)
        ring = [*path[path.index(index) :], index]
        ring.reverse()  # now each step is followed by one that waits for it
        pairs = set(itertools.pairwise(ring))
        names = " → ".join(self.steps[place]["id"] for place in ring[:20])
        place = next((one.path for one in self.connections if (one.source, one.target) in pairs), f"$.steps[{ring[0]}]")
        message = f"Connections and references go round in a circle: {names}."
        self.rewriting.add(place, message, "Leave one of them out; for a loop use a `repeat` step.")


def _inner(condition: Any) -> str:
    """The expression of a condition, without its braces."""
    if isinstance(condition, bool):
        return "true" if condition else "false"
    match = _BRACES.fullmatch(condition.strip())
    return match[1].strip() if match else condition


def _references(step: Mapping[str, Any]) -> set[str]:
    """Ids of the steps that a step refers to, in itself and in the steps inside it."""
    found: set[str] = set()

    def note(value: Any) -> Any:
        try:
            found.update(compile_template(value).steps)
        except ExpressionError:
            pass  # said when the plan is made
        return value

    def look(inner: dict[str, Any]) -> dict[str, Any]:
        needs = inner.get("needs")
        if inner.get("id") != step.get("id") and isinstance(needs, list):
            found.update(name for name in needs if isinstance(name, str))
        return own_fields(inner, note)

    map_steps([dict(step)], look)
    return found - {step.get("id")}
