"""The plan of a workflow: its steps as nodes with what they wait for, and every expression compiled once.

The order rule (LANGUAGE.md): a step without `needs` runs after all steps before it in its array; a step with `needs`
runs after exactly those and the ones it references. Both may name only earlier steps of their own or an enclosing
array, so every definition reads downwards and is acyclic by construction.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from openagents_json.errors import ExpressionError, InvalidDefinition, Problem
from openagents_json.workflow import limits
from openagents_json.workflow.expressions import Template, compile_condition, compile_template
from openagents_json.workflow.model import RESERVED_IDS, Step, Workflow
from openagents_json.workflow.problems import Problems, member_path
from openagents_json.workflow.problems import nearest as nearest  # job.store.query has it from here


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
    body: Block | None = None  # the nested steps

    def templates(self) -> Iterator[tuple[str, Template]]:
        """Every compiled template with its JSON path."""
        for name, template in (
            ("condition", self.condition),
            ("component", self.component),
            ("set", self.value),
            ("foreach", self.items),
        ):
            if template is not None:
                yield f"{self.path}.{name}", template
        for name, template in self.inputs.items():
            yield member_path(f"{self.path}.inputs", name), template


@dataclass(eq=False, slots=True)
class Block:
    """An array of steps: the definition's, a container's, or `finally`."""

    owner: Node | None  # the container; None for the two top-level arrays
    enclosing: Block | None  # where names that are not found here are looked up
    nodes: tuple[Node, ...] = ()
    waits: tuple[int, ...] = ()  # for each node, how many nodes of this block it waits for
    starts: tuple[int, ...] = ()  # the nodes that wait for none
    by_id: dict[str, Node] = field(default_factory=dict)
    output: Template | None = None  # None: the last step's output


@dataclass(eq=False, slots=True)
class Plan:
    """What the machine walks. Made once per definition and shared by all its jobs."""

    workflow: Workflow
    root: Block
    finally_block: Block | None
    outputs: Template | None
    nodes: dict[str, Node]  # every step by id, nested ones included
    secret_inputs: frozenset[str]  # inputs marked writeOnly: they hold {"secret": NAME}, never a value

    def holds_secret(self, template: Template) -> bool:
        """Whether a value would hold a secret once rendered: then only its source may be recorded."""
        if template.secrets or template.inputs & self.secret_inputs:
            return True
        return bool(self.secret_inputs) and "inputs" in template.roots and not template.inputs


def build_plan(workflow: Workflow) -> Plan:
    """The plan of a workflow. `InvalidDefinition` with every problem of its expressions, references and order."""
    plan, problems = plan_with_problems(workflow)
    if problems:
        raise InvalidDefinition(problems, f"workflow {workflow.id!r}")
    return plan


def plan_with_problems(workflow: Workflow) -> tuple[Plan, list[Problem]]:
    """The plan of a workflow and every problem met. With problems, the plan is good only for looking further."""
    planner = _Planner(workflow)
    return planner.build(), planner.problems.found


class _Planner:
    def __init__(self, workflow: Workflow) -> None:
        self.workflow = workflow
        self.problems = Problems()
        self.nodes: dict[str, Node] = {}
        self.input_names = _known_inputs(workflow.inputs)

    def build(self) -> Plan:
        workflow = self.workflow
        root = self.block(workflow.steps, "$.steps", owner=None, enclosing=None)
        finally_block = None
        if workflow.finally_:
            finally_block = self.block(workflow.finally_, "$.finally", owner=None, enclosing=root)
        if len(self.nodes) > limits.STEPS:
            self.problem("$.steps", f"There are {len(self.nodes)} steps; {limits.STEPS} are allowed.")
        outputs = self.compile(workflow.outputs, "$.outputs") if workflow.outputs is not None else None
        for block in (root, finally_block):
            if block is not None:
                self.order(block)
        if outputs is not None:
            self.check_names(outputs, "$.outputs", root, before=len(root.nodes), roots={"inputs", "job"})
        return Plan(workflow, root, finally_block, outputs, self.nodes, secret_inputs(workflow.inputs))

    def problem(self, path: str, message: str, suggestion: str | None = None) -> None:
        self.problems.add(path, message, suggestion)

    # ── nodes ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def block(self, steps: list[Step], path: str, owner: Node | None, enclosing: Block | None) -> Block:
        block = Block(owner, enclosing)
        nodes = []
        for index, step in enumerate(steps):
            node = self.node(step, f"{path}[{index}]", block, index)
            nodes.append(node)
            block.by_id.setdefault(node.id, node)
        block.nodes = tuple(nodes)
        return block

    def node(self, step: Step, path: str, block: Block, index: int) -> Node:
        node = Node(step.id, step, block, index, path)
        if step.id in RESERVED_IDS:
            self.problem(f"{path}.id", f"The id {step.id!r} is reserved: expressions use it.", "Choose another id.")
        if other := self.nodes.get(step.id):
            self.problem(f"{path}.id", f"The id {step.id!r} stands at {other.path} already.", "Ids are unique.")
        else:
            self.nodes[step.id] = node
        if step.condition is not None:
            node.condition = self.compile_condition(step.condition, f"{path}.condition")
        if step.kind == "component":
            node.component = self.compile(step.component, f"{path}.component")
            for name, value in step.inputs.items():
                node.inputs[name] = self.compile(value, member_path(f"{path}.inputs", name))
        elif step.kind == "set":
            node.value = self.compile(step.set, f"{path}.set")
        elif step.kind == "foreach":
            node.items = self.compile(step.foreach, f"{path}.foreach")
            node.body = self.block(step.steps, f"{path}.steps", owner=node, enclosing=block)
            if step.has("output"):
                node.body.output = self.compile(step.output, f"{path}.output")
        return node

    def compile(self, value: Any, path: str) -> Template:
        try:
            return compile_template(value)
        except ExpressionError as error:
            self.problem(path, str(error))
            return compile_template(None)

    def compile_condition(self, source: str | bool, path: str) -> Template:
        try:
            return compile_condition(source)
        except ExpressionError as error:
            self.problem(path, str(error))
            return compile_condition(True)

    # ── order and names ───────────────────────────────────────────────────────────────────────────────────────────

    def order(self, block: Block) -> set[str]:
        """Work out who waits for whom. Returns the ids that the block refers to outside itself."""
        followers: list[list[int]] = [[] for _ in block.nodes]
        waits: list[int] = []
        outside: set[str] = set()
        loose: set[int] = set()  # nodes that nothing waits for yet: waiting for these is waiting for all before
        for node in block.nodes:
            references = self.references(node)
            inner = {block.by_id[name].index for name in references if name in block.by_id}
            outside |= {name for name in references if name not in block.by_id}
            if node.step.needs is None:
                before = set(loose)
            else:
                before = {index for index in self.needed(node) | inner if index < node.index}
            for index in before:
                followers[index].append(node.index)
            waits.append(len(before))
            loose = (loose - before) | {node.index}
        block.waits = tuple(waits)
        block.starts = tuple(index for index, count in enumerate(waits) if count == 0)
        for node in block.nodes:
            node.followers = tuple(followers[node.index])
        return outside

    def needed(self, node: Node) -> set[int]:
        indexes: set[int] = set()
        for place, name in enumerate(node.step.needs or []):
            path = f"{node.path}.needs[{place}]"
            found = self.find(name, node.block, node.index)
            if isinstance(found, Node):
                if found.block is node.block:
                    indexes.add(found.index)
            else:
                self.problem(path, f"{found[0]}", found[1])
        return indexes

    def references(self, node: Node) -> set[str]:
        """Ids of the steps that a node and everything inside it refer to, checked on the way."""
        names: set[str] = set()
        roots = {"inputs", "job"}
        owner = node.block.owner
        while owner is not None:
            roots |= {"item", "index"}
            owner = owner.block.owner
        for path, template in node.templates():
            secrets_allowed = path.startswith(f"{node.path}.inputs.")
            self.check_names(template, path, node.block, node.index, roots, secrets_allowed=secrets_allowed)
            names |= template.steps
        if node.body is not None:
            names |= self.order(node.body)
            if node.body.output is not None:
                output, path = node.body.output, f"{node.path}.output"
                self.check_names(output, path, node.body, len(node.body.nodes), roots | {"item", "index"})
                names |= {name for name in output.steps if name not in node.body.by_id}
        return names

    def check_names(
        self,
        template: Template,
        path: str,
        block: Block,
        before: int,
        roots: set[str],
        *,
        secrets_allowed: bool = False,
    ) -> None:
        for name in sorted(template.steps):
            found = self.find(name, block, before)
            if not isinstance(found, Node):
                self.problem(path, *found)
        for root in sorted(template.roots - roots):
            why = "it exists inside `foreach` only" if root in ("item", "index") else "it does not exist here"
            self.problem(path, f"`{root}` cannot be used here: {why}.")
        if template.secrets and not secrets_allowed:
            self.problem(path, "`secrets` may stand only inside the `inputs` of a component.")
        if self.input_names is not None:
            for name in sorted(template.inputs - self.input_names):
                self.problem(path, f"The workflow has no input {name!r}.", nearest(name, self.input_names))

    def find(self, name: str, block: Block, before: int) -> Node | tuple[str, str | None]:
        """The step that `name` means for the node at place `before` of `block`, or why there is none."""
        scope: Block | None = block
        while scope is not None:
            node = scope.by_id.get(name)
            if node is not None:
                if node.index < before:
                    return node
                return f"Step {name!r} stands later (or is this step itself); only earlier steps have an output.", None
            owner = scope.owner
            before = owner.index if owner is not None else limits.STEPS + 1  # finally sees the whole root block
            scope = scope.enclosing
        if (hidden := self.nodes.get(name)) is not None and hidden.block.owner is not None:
            owner_id = hidden.block.owner.id
            return f"Step {name!r} is inside {owner_id!r}.", f"From outside use steps.{owner_id}.output."
        if name in self.nodes:
            return f"Step {name!r} cannot be seen from here.", None
        return f"There is no step {name!r}.", nearest(name, self.nodes)


def secret_inputs(schema: dict[str, Any]) -> frozenset[str]:
    """The names of the inputs that a schema marks as `writeOnly`."""
    properties = schema.get("properties", {})
    return frozenset(name for name, part in properties.items() if isinstance(part, dict) and part.get("writeOnly"))


def _known_inputs(schema: dict[str, Any]) -> frozenset[str] | None:
    """The names a workflow accepts as inputs, or None when its schema leaves them open."""
    if schema.get("additionalProperties") not in (None, False) or "patternProperties" in schema or "$ref" in schema:
        return None
    if any(key in schema for key in ("allOf", "anyOf", "oneOf", "if")):
        return None
    return frozenset(schema.get("properties", {}))
