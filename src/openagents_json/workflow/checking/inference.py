"""What steps give, worked out from schemas before anything runs.

Component output schemas → references → further steps, through `set`, containers, handlers and child workflows. What is
not known is ANY. A type also says why its value may be missing at run time (its step may be skipped, for example).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from openagents_json.components import Component, ComponentRegistry
from openagents_json.errors import ComponentNotFound, InvalidDefinition, WorkflowNotFound
from openagents_json.workflow.checking.term_types import Place, Resolved, TermTypes
from openagents_json.workflow.checking.types import (
    ANY,
    BOOLEAN,
    INTEGER,
    NEVER,
    NULL,
    NUMBER,
    STRING,
    NoField,
    Type,
    item_type,
    list_of,
    member,
    object_of,
    of_schema,
    union,
)
from openagents_json.workflow.expressions import Template
from openagents_json.workflow.model import Workflow
from openagents_json.workflow.plan import Block, Node, Plan
from openagents_json.workflow.terms import Path

CHILD_LEVELS = 4  # workflows inside workflows whose outputs are worked out
STEP_LEVELS = 30  # steps whose outputs are worked out inside each other; in reading order hardly any are
ERROR = object_of({"type": STRING, "message": STRING, "step": ANY, "attempt": ANY, "retryable": ANY, "details": ANY})
NULLABLE_ERROR = union([NULL, ERROR])
JOB = object_of(
    {
        "id": STRING,
        "workflow_id": STRING,
        "version": STRING,
        "created_at": NUMBER,
        "outcome": union([NULL, STRING]),
        "metadata": ANY,
        "error": NULLABLE_ERROR,
    }
)
ITEM_ERRORS = list_of(lambda: object_of({"index": INTEGER, "error": ERROR}))


class Workflows(Protocol):
    """Where the definitions of child workflows are looked up: the registry."""

    def get(self, workflow_id: str, version: str | None = None) -> Workflow:
        """The workflow; `WorkflowNotFound`."""
        ...

    def plan(self, workflow: Workflow) -> Plan:
        """Its plan; `InvalidDefinition`."""
        ...


class Inference:
    """The types of one plan. Asked in reading order, since steps refer to earlier ones."""

    def __init__(
        self,
        plan: Plan,
        components: ComponentRegistry | None = None,
        workflows: Workflows | None = None,
        level: int = 0,
    ) -> None:
        self.plan = plan
        self.components = components
        self.workflows = workflows
        self.level = level
        self.inputs = of_schema(plan.workflow.inputs)
        self.outputs: dict[Node, Type] = {}  # of the steps, as others see them
        self.bodies: dict[Block, Type] = {}
        self.places: dict[Block, Place] = {}
        self.component_types: dict[str, Type] = {}
        self.children: dict[str, Type] = {}
        self.views: dict[tuple[Node, str | None, bool], Type] = {}
        self.depth = 0  # how many steps are being worked out
        self.terms = TermTypes(self.resolve)

    # ── steps ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def output(self, node: Node) -> Type:
        """What `steps.<id>.output` is."""
        found = self.outputs.get(node)
        if found is None:
            if self.depth >= STEP_LEVELS:
                return ANY
            self.outputs[node] = ANY  # for a step that refers to itself, which is a problem of its own
            self.depth += 1
            found = self.outputs[node] = self._output(node)
            self.depth -= 1
        return found

    def walk(self) -> Iterator[Block]:
        """Every list of steps, the inner ones first, each once the outputs before it are worked out."""
        for block in (self.plan.root, self.plan.finally_block):
            if block is not None:
                yield from self._walk(block)

    def _walk(self, block: Block) -> Iterator[Block]:
        for node in block.nodes:
            for inner in node.inner_blocks():
                yield from self._walk(inner)
            self.output(node)
        yield block

    def _output(self, node: Node) -> Type:
        step = node.step
        found = self.own(node)
        handlers = [self.body(block) for label, block in node.blocks.items() if label.startswith("catch")]
        if handlers:
            found = union([found, *handlers])
        if step.continue_on_error:
            found = found.or_missing(f"step {node.id!r} may fail while the job goes on")
        if step.condition is not None and step.condition is not True:
            found = found.or_missing(f"step {node.id!r} may be skipped")
        return found

    def own(self, node: Node) -> Type:
        """What a step gives when it completes by itself."""
        step = node.step
        match step.kind:
            case "component":
                return self.of_components([step.component] if node_is_fixed(node.component) else step.allow)
            case "set":
                return self.value(node.value, self.place(node)).there()
            case "foreach":
                return self.foreach(node)
            case "repeat":
                return self.body(inner_block(node))
            case "switch":
                return self.switch(node)
            case "parallel":
                return self.parallel(node)
            case "signal":
                found = of_schema(step.schema_) if step.schema_ is not None and node.schema is not None else ANY
                waits_for_ever = step.on_timeout != "continue"
                return found if waits_for_ever else found.or_missing(f"the signal of {node.id!r} may not come in time")
            case "workflow":
                if step.detached:
                    return object_of({"job_id": STRING})
                return self.of_children([step.workflow] if node_is_fixed(node.child) else step.allow, step.version)
            case "raise":
                return NEVER
        return NULL  # wait

    def foreach(self, node: Node) -> Type:
        item = self.body(inner_block(node))
        if node.step.on_item_error == "collect":
            item = item.or_missing(f"an item of {node.id!r} may have failed")
        return list_of(lambda: item)

    def switch(self, node: Node) -> Type:
        cases = [self.body(block) for label, block in node.blocks.items() if label.isdecimal() or label == "default"]
        found = union(cases)
        return found if "default" in node.blocks else found.or_missing(f"it may be that no case of {node.id!r} applies")

    def parallel(self, node: Node) -> Type:
        fields = {}
        for name in node.step.parallel or {}:
            found = self.body(node.blocks[name])
            if node.step.wait_for != "all":
                found = found.or_missing(f"branch {name!r} of {node.id!r} may not have ended")
            fields[name] = found
        return object_of(fields)

    def body(self, block: Block) -> Type:
        """What a list of steps gives: its `output`, or the output of its last step."""
        found = self.bodies.get(block)
        if found is None:
            self.bodies[block] = ANY  # `last` in a repeat, while its body is worked out
            if block.output is not None:
                found = self.value(block.output, self.block_place(block))
            else:
                found = self.output(block.nodes[-1]) if block.nodes else ANY
            self.bodies[block] = found
        return found

    def of_components(self, names: Sequence[str | None] | None) -> Type:
        return union([self.of_component(name or "") for name in names or ()])

    def of_component(self, name: str) -> Type:
        found = self.component_types.get(name)
        if found is None:
            component = find_component(self.components, name)
            known = component is not None and component.output_schema is not None
            found = of_schema(component.output_schema, closes=True) if component is not None and known else ANY
            self.component_types[name] = found
        return found

    def of_children(self, names: Sequence[str | None] | None, version: str | None) -> Type:
        return union([self.of_child(name or "", version) for name in names or ()])

    def of_child(self, workflow_id: str, version: str | None) -> Type:
        key = f"{workflow_id} {version}"
        if key not in self.children:
            self.children[key] = ANY
            self.children[key] = self._of_child(workflow_id, version)
        return self.children[key]

    def _of_child(self, workflow_id: str, version: str | None) -> Type:
        workflow = find_workflow(self.workflows, workflow_id, version)
        if workflow is None or self.workflows is None or self.level >= CHILD_LEVELS:
            return ANY
        try:
            plan = self.workflows.plan(workflow)
        except InvalidDefinition:
            return ANY
        return Inference(plan, self.components, self.workflows, self.level + 1).result()

    def result(self) -> Type:
        """What the job's outputs are."""
        plan = self.plan
        for _ in self.walk():
            pass
        if plan.outputs is not None:
            return self.value(plan.outputs, Place(plan.root))
        last = plan.root.nodes[-1]
        return object_of({last.id: self.output(last)})

    # ── where expressions stand ───────────────────────────────────────────────────────────────────────────────────

    def place(self, node: Node) -> Place:
        """Where the expressions of a step stand; its own condition holds there."""
        return self.block_place(node.block).under(node.step.condition, node.condition)

    def block_place(self, block: Block) -> Place:
        """Where a list of steps stands."""
        found = self.places.get(block)
        if found is None:
            found = Place(block)
            if (owner := block.owner) is not None:
                around = self.place(owner)
                found = Place(block, around.asked, around.conditions)
                for index, case in enumerate(owner.step.switch or ()):
                    if owner.blocks.get(str(index)) is block and index < len(owner.cases):
                        found = found.under(case.when, owner.cases[index])
            self.places[block] = found
        return found

    def value(self, template: Template | None, place: Place) -> Type:
        """The type of any JSON with expressions in it; of nothing, nothing is known."""
        return ANY if template is None else self.terms.value(template, place)

    # ── references ────────────────────────────────────────────────────────────────────────────────────────────────

    def resolve(self, reference: Path, place: Place) -> Resolved:
        """What a reference is where it stands."""
        current, keys = self.root(reference, place), reference.keys
        start = 1 if reference.root in ("steps", "secrets") else 0
        reason: str | None = None
        for depth in range(start, len(keys)):
            reason = reason or current.reason
            below = member(current, keys[depth])
            if isinstance(below, NoField):
                return Resolved(ANY, reason, reason is not None, below, depth)
            current = below
        return Resolved(current, reason or current.reason, reason is not None)

    def root(self, reference: Path, place: Place) -> Type:
        """What the reference starts at; of `steps` and `secrets`, with the first key."""
        match reference.root:
            case "inputs":
                return self.inputs
            case "steps":
                return self.step(str(reference.keys[0]), place) if reference.keys else ANY
            case "item":
                found = self.item(place.block)
                return found.there() if "item" in place.asked else found
            case "index" | "iteration":
                return INTEGER
            case "last":
                found = self.last(place.block)
                return found.there() if "last" in place.asked else found
            case "job":
                return JOB
            case "error":
                return ERROR
            case "secrets":
                return STRING
        return ANY

    def step(self, step_id: str, place: Place) -> Type:
        """What `steps.<id>` is; ANY for a step that cannot be seen, which is a problem of its own."""
        scope, reason, node = place.block, None, None
        while scope is not None and node is None:
            node = scope.by_id.get(step_id)
            if node is None and scope is self.plan.finally_block:
                reason = f"the job may end before step {step_id!r} has run"
            owner = scope.owner
            if node is None and owner is not None and owner.id == step_id and scope.sees_owner:
                return self.own_result(owner, scope)
            scope = scope.enclosing
        if node is None:
            return ANY
        if reason is not None and "job" in place.asked:
            reason = None  # a condition on how the job ended
        is_asked = step_id in place.asked or node.step.condition in place.conditions
        return self.view(node, reason, is_asked)

    def own_result(self, owner: Node, scope: Block) -> Type:
        """The step as its undo sees it, which has completed, and as its handlers see it, which has failed."""
        if scope is owner.blocks.get("undo"):
            return self.view(owner, None, True)
        return _view(owner, Type(NULL.alternatives, f"step {owner.id!r} has failed where this runs"))

    def view(self, node: Node, reason: str | None, is_asked: bool) -> Type:
        """`steps.<id>` with a further reason why its output may be missing; no reason counts if it was asked about."""
        key = (node, reason, is_asked)
        found = self.views.get(key)
        if found is None:
            output = self.output(node)
            if reason is not None:
                output = output.or_missing(reason)
            found = self.views[key] = _view(node, output.there() if is_asked else output)
        return found

    def item(self, block: Block | None) -> Type:
        while block is not None:
            owner = block.owner
            if owner is not None and owner.step.kind == "foreach" and "item" in block.names:
                return item_type(self.value(owner.items, self.place(owner)))
            block = block.enclosing
        return ANY

    def last(self, block: Block | None) -> Type:
        while block is not None:
            owner = block.owner
            if owner is not None and owner.step.repeat is not None and "last" in block.names:
                return union([self.value(owner.initial, self.place(owner)), self.body(block)])
            block = block.enclosing
        return ANY


def _view(node: Node, output: Type) -> Type:
    fields = {"output": output, "success": BOOLEAN, "status": STRING, "error": NULLABLE_ERROR}
    if node.step.kind == "foreach":
        fields["errors"] = ITEM_ERRORS
    return object_of(fields)


def node_is_fixed(template: Any) -> bool:
    """Whether a step names its component or workflow, rather than choosing it by an expression."""
    return template is not None and template.is_constant


def inner_block(node: Node) -> Block:
    """The steps inside a foreach or a repeat, as they are written."""
    block = node.nested or node.body
    assert block is not None
    return block


def find_component(components: ComponentRegistry | None, name: str) -> Component | None:
    """The component of that name, if it is known."""
    try:
        if components is not None and name in components:  # asked first: the error looks for near names, at a price
            return components.get(name)
    except ComponentNotFound:
        pass  # taken out meanwhile
    return None


def find_workflow(workflows: Workflows | None, workflow_id: str, version: str | None) -> Workflow | None:
    """The registered workflow, if there is one."""
    if workflows is None:
        return None
    try:
        return workflows.get(workflow_id, version)
    except WorkflowNotFound:
        return None
