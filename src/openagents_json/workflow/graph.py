"""From a workflow to its plan: who waits for whom, every expression compiled once, every reference checked.

The order rule (LANGUAGE.md): a step without `needs` runs after all steps before it in its array; a step with `needs`
runs after exactly those and the ones it references. Both may name only earlier steps of their own or an enclosing
array, so every definition reads downwards and is acyclic by construction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any

from openagents_json.errors import ExpressionError, InvalidDefinition, Problem
from openagents_json.jsondata import plain
from openagents_json.workflow import limits
from openagents_json.workflow.concurrency import key_problems
from openagents_json.workflow.expressions import Template, broken_template, compile_condition, compile_template
from openagents_json.workflow.inputs import PayloadSchema, declared_inputs, secret_names
from openagents_json.workflow.model import RESERVED_IDS, Case, Catch, Compensate, Step, Workflow
from openagents_json.workflow.plan import Block, Node, Plan
from openagents_json.workflow.problems import Problems, member_path, nearest, shown


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


class _Given:
    """Stands for a step of a parent job, whose result was handed to this one."""


_GIVEN = _Given()
GIVEN_NAMES = frozenset({"item", "index", "iteration", "last", "error"})  # names that a parent may hand to an item


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
            self.check_names(outputs, "$.outputs", root, before=len(root.nodes), roots=self.roots(root))
        made = {node.undo.id: node.undo for node in self.nodes.values() if node.undo is not None}
        for node in self.nodes.values():
            if node.nested is not None and node.body is not None:
                made |= node.body.by_id
        limit_key = self.key(workflow.limit.key if workflow.limit else None, "$.concurrency.key")
        keys = limit_key, secret_names(workflow.inputs), self.key(workflow.share_key, "$.share_key")
        return Plan(workflow, root, finally_block, outputs, self.nodes | made, *keys)

    def key(self, given: str | None, path: str) -> Template | None:
        if given is None:
            return None
        key = self.compile(given, path)
        for problem in key_problems(key, secret_names(self.workflow.inputs)):
            self.problem(path, *problem)
        self.check_inputs(key, path)
        return key

    def problem(self, path: str, message: str, suggestion: str | None = None) -> None:
        self.problems.add(path, message, suggestion)

    # ── nodes ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def block(
        self,
        steps: Sequence[Step],
        path: str,
        owner: Node | None,
        enclosing: Block | None,
        names: frozenset[str] = frozenset(),
        *,
        sees_owner: bool = False,
    ) -> Block:
        block = Block(owner, enclosing, names, sees_owner)
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
        for name, value in step.inputs.items():
            node.inputs[name] = self.compile(value, member_path(f"{path}.inputs", name))
        _COMPILE[step.kind](self, node)
        for place, handler in enumerate(step.catch):
            where = f"{path}.catch[{place}]"
            handling = self.block(handler.steps, f"{where}.steps", node, block, frozenset({"error"}), sees_owner=True)
            node.blocks[f"catch{place}"] = handling
            self.output_of(handling, handler, where)
        if step.compensate is not None and path.startswith("$.finally"):
            message = "`compensate` of a finally step would never run: completed steps are undone before these begin."
            self.problem(f"{path}.compensate", message, "Leave it out.")
        elif step.compensate is not None:
            node.undo = self.undo(node, step.compensate)
        return node

    def component_node(self, node: Node) -> None:
        node.component = self.compile(node.step.component, f"{node.path}.component")

    def set_node(self, node: Node) -> None:
        node.value = self.compile(node.step.set, f"{node.path}.set")

    def foreach_node(self, node: Node) -> None:
        node.items = self.compile(node.step.foreach, f"{node.path}.foreach")
        self.body(node, frozenset({"item", "index"}))

    def repeat_node(self, node: Node) -> None:
        repeat = node.step.repeat
        assert repeat is not None
        node.initial = self.compile(repeat.initial, f"{node.path}.repeat.initial")
        node.until = self.compile_condition(repeat.until, f"{node.path}.repeat.until")
        self.body(node, frozenset({"iteration", "last"}))

    def body(self, node: Node, names: frozenset[str]) -> None:
        node.body = self.block(node.step.steps, f"{node.path}.steps", node, node.block, names)
        self.output_of(node.body, node.step, node.path)
        if node.step.spread:
            node.nested = node.body

    def output_of(self, block: Block, holder: Step | Case | Catch, path: str) -> None:
        if holder.has("output"):
            block.output_path = f"{path}.output"
            block.output = self.compile(holder.output, block.output_path)

    def switch_node(self, node: Node) -> None:
        cases = node.step.switch or []
        conditions = []
        for place, case in enumerate(cases):
            where = f"{node.path}.switch[{place}]"
            conditions.append(self.compile_condition(case.when, f"{where}.when"))
            chosen = node.blocks[str(place)] = self.block(case.steps, f"{where}.steps", node, node.block)
            self.output_of(chosen, case, where)
        node.cases = tuple(conditions)
        if node.step.default:
            node.blocks["default"] = self.block(node.step.default, f"{node.path}.default", node, node.block)

    def parallel_node(self, node: Node) -> None:
        for name, steps in (node.step.parallel or {}).items():
            where = member_path(f"{node.path}.parallel", name)
            node.blocks[name] = self.block(steps, where, node, node.block)

    def wait_node(self, node: Node) -> None:
        wait = node.step.wait
        assert wait is not None
        if wait.seconds is not None:
            node.seconds = self.compile(wait.seconds, f"{node.path}.wait.seconds")
            if node.seconds.is_constant and (problem := seconds_problem(wait.seconds)):
                self.problem(f"{node.path}.wait.seconds", problem)
        elif wait.until is not None:
            node.moment = self.compile(wait.until, f"{node.path}.wait.until")
            if node.moment.is_constant and (problem := moment_problem(wait.until)):
                self.problem(f"{node.path}.wait.until", problem)

    def signal_node(self, node: Node) -> None:
        node.signal = self.compile(node.step.signal, f"{node.path}.signal")
        schema = node.step.schema_
        if schema is not None:
            try:
                node.schema = PayloadSchema(schema)
            except InvalidDefinition as error:
                for problem in error.problems:
                    path = problem.path.replace("$", f"{node.path}.schema", 1)
                    self.problem(path, problem.message, problem.suggestion)

    def workflow_node(self, node: Node) -> None:
        node.child = self.compile(node.step.workflow, f"{node.path}.workflow")

    def raise_node(self, node: Node) -> None:
        error = node.step.raise_
        assert error is not None
        node.error = (
            self.compile(error.type, f"{node.path}.raise.type"),
            self.compile(error.message, f"{node.path}.raise.message"),
        )

    def spread(self, node: Node, block: Block, outside: set[str]) -> None:
        """Let one step that starts a child stand for the steps of a spreading foreach. The child's definition is made
        of these steps; it is given what they refer to outside."""
        step, last = node.step, block.nodes[-1].id
        names = {root for inner in _all_templates(block) for root in inner.roots}
        outer = _roots(node.block)
        given = sorted(outside | (block.output.steps - block.by_id.keys() if block.output else set()))
        given += [name for name in GIVEN_NAMES if name in names and (name in block.names or name in outer)]
        output = step.output if block.output is not None else "{{ steps['" + last + "'].output }}"
        document = {
            "id": self.workflow.id,
            "version": self.workflow.version,
            "given": given,
            "inputs": self.workflow.inputs,
            "steps": [one.model_dump(mode="json", by_alias=True, exclude_unset=True) for one in step.steps],
            "outputs": {"output": output},
        }
        plain_document, _ = plain(document)
        workflow = Workflow.model_validate({**plain_document, "document": plain_document})
        body = Block(node, node.block, block.names)
        item = Step.model_construct(_fields_set={"id", "workflow"}, id=f"{node.id}[item]", workflow=workflow.id)
        child = Node(item.id, item, body, 0, f"{node.path}.steps", spread=workflow)
        body.nodes, body.waits, body.starts, body.by_id = (child,), (0,), (0,), {child.id: child}
        node.body = body

    def undo(self, node: Node, compensate: Compensate) -> Node:
        """The call that undoes a step, as a block of one node whose expressions see the step's own result."""
        path = f"{node.path}.compensate"
        fields = compensate.model_dump(include=compensate.model_fields_set, exclude={"retry"})
        step = Step.model_construct(_fields_set={"id", *compensate.model_fields_set}, id=f"{node.id}[undo]", **fields)
        step = step.model_copy(update={"retry": compensate.retry})
        block = node.blocks["undo"] = Block(node, node.block, frozenset(), sees_owner=True)
        undo = Node(step.id, step, block, 0, path)
        undo.component = self.compile(compensate.component, f"{path}.component")
        for name, value in compensate.inputs.items():
            undo.inputs[name] = self.compile(value, member_path(f"{path}.inputs", name))
        block.nodes, block.waits, block.starts, block.by_id = (undo,), (0,), (0,), {undo.id: undo}
        return undo

    def compile(self, value: Any, path: str) -> Template:
        try:
            return compile_template(value)
        except ExpressionError as error:
            self.problem(path, str(error))
            return broken_template(value)

    def compile_condition(self, source: str | bool, path: str) -> Template:
        try:
            return compile_condition(source)
        except ExpressionError as error:
            self.problem(path, str(error))
            return broken_template(source.strip() if isinstance(source, str) else source)

    # ── order and names ───────────────────────────────────────────────────────────────────────────────────────────

    def order(self, block: Block) -> set[str]:
        """Work out who waits for whom. Returns the ids that the block refers to outside itself."""
        followers: list[list[int]] = [[] for _ in block.nodes]
        waits: list[int] = []
        outside: set[str] = set()
        loose: set[int] = set()  # nodes that nothing waits for yet: waiting for these is waiting for all before
        roots = self.roots(block)
        for node in block.nodes:
            references = self.references(node, roots)
            inner = {block.by_id[name].index for name in references if name in block.by_id}
            needed = self.needed(node)
            # A need that stands outside is for the container to wait for, just like a reference.
            outside |= {name for name in references | needed if name not in block.by_id}
            if node.step.needs is None:
                before = set(loose)
            else:
                inner |= {block.by_id[name].index for name in needed if name in block.by_id}
                before = {index for index in inner if index < node.index}
            for index in before:
                followers[index].append(node.index)
            waits.append(len(before))
            loose = (loose - before) | {node.index}
        block.waits = tuple(waits)
        block.starts = tuple(index for index, count in enumerate(waits) if count == 0)
        for node in block.nodes:
            node.followers = tuple(followers[node.index])
        return outside

    def needed(self, node: Node) -> set[str]:
        """Ids of the steps that a node needs, here or in an enclosing array, checked on the way."""
        names: set[str] = set()
        for place, name in enumerate(node.step.needs or []):
            found = self.find(name, node.block, node.index)
            if isinstance(found, tuple):
                self.problem(f"{node.path}.needs[{place}]", *found)
            elif isinstance(found, Node):
                names.add(name)
        return names

    def references(self, node: Node, roots: set[str]) -> set[str]:
        """Ids of the steps that a node and everything inside it refer to, checked on the way."""
        names: set[str] = set()
        for path, template in node.templates():
            if template.is_constant:
                continue
            secrets_allowed = node.component is not None and path.startswith(f"{node.path}.inputs")
            self.check_names(template, path, node.block, node.index, roots, secrets_allowed=secrets_allowed)
            names |= template.steps
        for block in node.inner_blocks():
            inner, last = self.roots(block), len(block.nodes)
            outside = self.order(block)
            names |= outside
            if block is node.nested:
                self.spread(node, block, outside)
            if block.output is not None:
                self.check_names(block.output, block.output_path, block, last, inner)
                names |= {name for name in block.output.steps if name not in block.by_id}
            if block is node.body and node.until is not None:
                self.check_names(node.until, f"{node.path}.repeat.until", block, last, inner)
                names |= {name for name in node.until.steps if name not in block.by_id}
        return names - {node.id}  # its handlers and its undo may look at the step itself

    def roots(self, block: Block) -> set[str]:
        return _roots(block) | (GIVEN_NAMES & set(self.workflow.given))

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
            if isinstance(found, tuple):
                self.problem(path, *found)
        for root in sorted(template.roots - roots) if template.roots else ():
            where = _EXISTS_IN.get(root)
            why = f"it exists only {where}" if where else "it does not exist here"
            self.problem(path, f"`{root}` cannot be used here: {why}.")
        if template.secrets and not secrets_allowed:
            self.problem(path, "`secrets` may stand only inside the `inputs` of a component.")
        self.check_inputs(template, path)

    def check_inputs(self, template: Template, path: str) -> None:
        if self.input_names is not None and template.inputs:
            for name in sorted(template.inputs - self.input_names):
                self.problem(path, f"The workflow has no input {name!r}.", nearest(name, self.input_names))

    def find(self, name: str, block: Block, before: int) -> Node | _Given | tuple[str, str | None]:
        """The step that `name` means for the node at place `before` of `block`, or why there is none."""
        scope: Block | None = block
        while scope is not None:
            node = scope.by_id.get(name)
            if node is not None:
                if node.index < before:
                    return node
                return f"Step {name!r} stands later (or is this step itself); only earlier steps have an output.", None
            owner = scope.owner
            # finally sees the whole root block
            before = limits.STEPS + 1 if owner is None else owner.index + scope.sees_owner
            scope = scope.enclosing
        if (hidden := self.nodes.get(name)) is not None and hidden.block.owner is not None:
            owner_id = hidden.block.owner.id
            return f"Step {name!r} is inside {owner_id!r}.", f"From outside use steps.{owner_id}.output."
        if name in self.workflow.given:
            return _GIVEN
        if name in self.nodes:
            return f"Step {name!r} cannot be seen from here.", None
        return f"There is no step {name!r}.", nearest(name, self.nodes)


_COMPILE: dict[str, Callable[[_Planner, Node], None]] = {
    "component": _Planner.component_node,
    "set": _Planner.set_node,
    "foreach": _Planner.foreach_node,
    "repeat": _Planner.repeat_node,
    "switch": _Planner.switch_node,
    "parallel": _Planner.parallel_node,
    "wait": _Planner.wait_node,
    "signal": _Planner.signal_node,
    "workflow": _Planner.workflow_node,
    "raise": _Planner.raise_node,
}
_EXISTS_IN = {
    "item": "inside `foreach`",
    "index": "inside `foreach`",
    "iteration": "inside `repeat`",
    "last": "inside `repeat`",
    "error": "inside `catch`",
}


def _all_templates(block: Block) -> Iterator[Template]:
    """Every template inside a block."""
    if block.output is not None:
        yield block.output
    for node in block.nodes:
        yield from (template for _, template in node.templates())
        if node.until is not None:
            yield node.until
        for inner in node.inner_blocks():
            yield from _all_templates(inner)


def _roots(block: Block) -> set[str]:
    """The names that expressions can use in a block, besides `steps` and `secrets`."""
    roots = {"inputs", "job"}
    scope: Block | None = block
    while scope is not None:
        roots |= scope.names
        scope = scope.enclosing
    return roots


def seconds_problem(value: Any) -> str | None:
    """What is wrong with the seconds of a `wait`, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= limits.MAX_SECONDS:
        return f"`seconds` must be a number from 0 to {limits.MAX_SECONDS:,.0f}, not {shown(value)}."
    return None


def moment_problem(value: Any) -> str | None:
    """What is wrong with the time that a `wait` waits for, or None."""
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        return f"`until` must be a time with an offset, such as 2026-12-24T18:00:00Z, not {shown(value)}."
    return None


def _known_inputs(schema: dict[str, Any]) -> frozenset[str] | None:
    """The names a workflow accepts as inputs, or None when its schema leaves them open."""
    if any(schema.get(key) not in (None, False) for key in ("additionalProperties", "unevaluatedProperties")):
        return None
    if any(key in schema for key in ("patternProperties", "$ref", "allOf", "anyOf", "oneOf", "if", "dependentSchemas")):
        return None
    return frozenset(declared_inputs(schema))
