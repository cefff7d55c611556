"""The plan of a workflow: its steps as nodes with what they wait for, and every expression compiled once.

The machine walks it; `graph` makes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from openagents_json.errors import Problem
from openagents_json.resources import occupied, requirement, shortened
from openagents_json.workflow.expressions import Template
from openagents_json.workflow.inputs import PayloadSchema
from openagents_json.workflow.model import Step, Workflow
from openagents_json.workflow.problems import member_path, shown


@dataclass(eq=False, slots=True)
class Node:
    """One step of the definition, ready to run. Immutable once its plan is built."""

    id: str
    step: Step
    block: Block
    index: int  # place in block.nodes
    path: str  # JSON path in the definition
    followers: tuple[int, ...] = ()  # nodes of the same block that wait for this one
    condition: Template | None = None
    inputs: dict[str, Template] = field(default_factory=dict)
    component: Template | None = None
    value: Template | None = None  # of `set`
    items: Template | None = None  # of `foreach`
    until: Template | None = None  # of `repeat`; evaluated inside its body
    initial: Template | None = None  # of `repeat`
    cases: tuple[Template, ...] = ()  # of `switch`: the `when` of each
    seconds: Template | None = None  # of `wait`
    moment: Template | None = None  # of `wait`: its `until`
    signal: Template | None = None  # the name of the signal
    schema: PayloadSchema | None = None  # of the signal's payload
    child: Template | None = None  # of `workflow`: the id
    spread: Workflow | None = None  # of the step that stands for an item of a spreading foreach: what its child runs
    error: tuple[Template, Template] | None = None  # of `raise`: type and message
    body: Block | None = None  # the nested steps of `foreach` and `repeat`, for every item and iteration
    blocks: dict[str, Block] = field(
        default_factory=dict
    )  # cases ("0", "1" … "default"), branches, handlers ("catch0")
    undo: Node | None = None  # of `compensate`: the call that undoes this step
    nested: Block | None = None  # of a spreading foreach: its steps, which run in the children

    @property
    def is_container(self) -> bool:
        return self.step.is_container

    def block_of(self, label: str) -> Block:
        """The steps that a scope of this node with that label runs."""
        block = self.blocks.get(label, self.body)
        assert block is not None
        return block

    def inner_blocks(self) -> Iterator[Block]:
        if self.nested is not None:
            yield self.nested
        elif self.body is not None:
            yield self.body
        yield from self.blocks.values()

    def templates(self) -> Iterator[tuple[str, Template]]:
        """Every compiled template that is evaluated where the step stands, with its JSON path."""
        for name, template in (
            ("condition", self.condition),
            ("component", self.component),
            ("set", self.value),
            ("foreach", self.items),
            ("repeat.initial", self.initial),
            ("wait.seconds", self.seconds),
            ("wait.until", self.moment),
            ("signal", self.signal),
            ("workflow", self.child),
        ):
            if template is not None:
                yield f"{self.path}.{name}", template
        for index, case in enumerate(self.cases):
            yield f"{self.path}.switch[{index}].when", case
        if self.error is not None:
            yield f"{self.path}.raise.type", self.error[0]
            yield f"{self.path}.raise.message", self.error[1]
        for name, template in self.inputs.items():
            yield member_path(f"{self.path}.inputs", name), template


@dataclass(eq=False, slots=True)
class Block:
    """An array of steps: the definition's, a container's, a handler's, an undo, or `finally`."""

    owner: Node | None  # the step it belongs to; None for the two top-level arrays
    enclosing: Block | None  # where names that are not found here are looked up
    names: frozenset[str] = frozenset()  # what expressions can use in it besides what they can outside
    sees_owner: bool = False  # whether the owner's own result can be referred to: in its handlers and its undo
    nodes: tuple[Node, ...] = ()
    waits: tuple[int, ...] = ()  # for each node, how many nodes of this block it waits for
    starts: tuple[int, ...] = ()  # the nodes that wait for none
    by_id: dict[str, Node] = field(default_factory=dict)
    output: Template | None = None  # None: the last step's output
    output_path: str = ""  # JSON path of `output`


@dataclass(eq=False)
class Plan:
    """What the machine walks. Made once per definition and shared by all its jobs."""

    workflow: Workflow
    root: Block
    finally_block: Block | None
    outputs: Template | None
    nodes: dict[str, Node]  # every step by id, nested ones and undo calls (`ID[undo]`) included
    limit_key: Template | None  # of `concurrency`; evaluated with the inputs alone
    secret_inputs: frozenset[str]  # inputs marked writeOnly: they hold {"secret": NAME}, never a value
    share_key: Template | None = None  # evaluated with the inputs alone

    @cached_property
    def component_names(self) -> frozenset[str]:
        """The components that its steps call by a fixed name. (Those that an expression chooses show when it runs.)"""
        calls = (node.component for node in self.nodes.values() if node.component is not None)
        return frozenset(str(call.source) for call in calls if call.is_constant)

    @cached_property
    def first_components(self) -> tuple[str, ...]:
        """A new job needs a worker that meets one of these requirements, sorted; every worker can begin it if there are
        none. What components say that they occupy is not in them."""
        required = set()
        for node in (self.root.nodes[index] for index in self.root.starts):
            if node.component is None or not node.component.is_constant or node.condition is not None:
                return ()
            required.add(requirement(str(node.component.source), occupied(node.step.resources)))
        known = shortened(required)
        return tuple(known) if len(known) == len(required) else ()  # of too many none is named: any worker sees to it

    def holds_secret(self, template: Template) -> bool:
        """Whether a value would hold a secret once rendered: then only its source may be recorded."""
        if template.secrets or template.inputs & self.secret_inputs:
            return True
        return bool(self.secret_inputs) and "inputs" in template.roots and not template.inputs


def signal_problems(plan: Plan, name: str, payload: Any) -> list[Problem]:
    """Why no step of the plan can take a signal of that name with that payload; empty if one can."""
    nodes = [node for node in plan.nodes.values() if node.signal is not None]
    open_names = [node for node in nodes if node.signal is not None and not node.signal.is_constant]
    fitting = [node for node in nodes if node.step.signal == name] + open_names
    if not fitting:
        names = sorted({str(node.step.signal) for node in nodes})
        hint = f"It waits for: {', '.join(names[:20])}." if names else "It has no `signal` steps."
        return [Problem("$.name", f"No step of workflow {plan.workflow.id!r} waits for {shown(name)}.", hint)]
    problems: list[Problem] = []
    for node in fitting:
        problems = node.schema.problems(payload, "$.payload") if node.schema is not None else []
        if not problems:
            return []
    return problems
