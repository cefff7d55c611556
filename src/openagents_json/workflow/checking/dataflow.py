"""The data flow of a definition: references into outputs, conditions, and what components and children are given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from openagents_json.workflow.checking.inference import (
    Inference,
    find_component,
    find_workflow,
    inner_block,
    node_is_fixed,
)
from openagents_json.workflow.checking.term_types import Place
from openagents_json.workflow.checking.types import ANY, LIST, STRING, NoField, Type, member, misfit, of_schema
from openagents_json.workflow.checking.types import NUMBER as NUMBERS
from openagents_json.workflow.checking.uses import Use, uses_of
from openagents_json.workflow.expressions import Template
from openagents_json.workflow.inputs import secret_names
from openagents_json.workflow.model import Workflow
from openagents_json.workflow.plan import Node
from openagents_json.workflow.problems import Problems, member_path, shown
from openagents_json.workflow.terms import Path

NOT_BOOLEAN = "Compare, or use `is not none` or `| length > 0`."
NULL_CONDITION = "Compare with `is not none`."


class DataFlow:
    """Checks one plan. Silent wherever a type is not known."""

    def __init__(self, inference: Inference, problems: Problems) -> None:
        self.inference = inference
        self.problems = problems
        self.inputs_of: dict[str, Mapping[str, Type]] = {}  # of components: the types of their inputs
        self.said: set[tuple[str, str]] = set()  # path and reference, so that each is told once

    def check(self) -> None:
        """Note what does not fit."""
        inference, plan = self.inference, self.inference.plan
        for block in inference.walk():
            if self.problems.is_full:
                return
            for node in block.nodes:
                self.node(node)
            if block.output is not None:
                self.references(block.output, block.output_path, inference.block_place(block))
        if plan.outputs is not None:
            self.references(plan.outputs, "$.outputs", Place(plan.root))
        if plan.limit_key is not None:
            self.references(plan.limit_key, "$.concurrency.key", Place(plan.root))
        if plan.share_key is not None:
            self.references(plan.share_key, "$.share_key", Place(plan.root))

    # ── steps ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def node(self, node: Node) -> None:
        place = self.inference.place(node)
        around = self.inference.block_place(node.block)
        types = self.wanted_inputs(node)
        wanted = {member_path(f"{node.path}.inputs", name): types[name] for name in node.inputs if name in types}
        for path, template in node.templates():
            if not template.is_constant:
                given = wanted.get(path, ANY)
                takes_null = given.is_known and given.may_be("null")
                self.references(template, path, around if template is node.condition else place, takes_null)
                self.fit(template, path, place, given)
        self.conditions(node, around, place)
        self.values(node, place)
        self.children(node)

    def conditions(self, node: Node, around: Place, place: Place) -> None:
        if node.condition is not None:
            self.condition(node.condition, f"{node.path}.condition", around)
        for index, case in enumerate(node.cases):
            self.condition(case, f"{node.path}.switch[{index}].when", place)
        if node.until is not None:
            path, inside = f"{node.path}.repeat.until", self.inference.block_place(inner_block(node))
            self.references(node.until, path, inside)
            self.condition(node.until, path, inside)

    def condition(self, template: Template, path: str, place: Place) -> None:
        if template.text is None:  # true or false
            return
        found = self.inference.value(template, place)
        if not found.alternatives or found.may_be("boolean"):
            return
        advice = NULL_CONDITION if found.kinds == {"null"} else NOT_BOOLEAN
        self.problems.add(path, f"A condition must be true or false, but this is {found.described()}.", advice)

    def values(self, node: Node, place: Place) -> None:
        """The expressions of other fields, which want values of one type."""
        step = node.step
        if node.items is not None and not isinstance(step.foreach, list):
            self.want(node.items, f"{node.path}.foreach", place, LIST, "`foreach` needs a list")
        if node.seconds is not None and isinstance(step.wait and step.wait.seconds, str):
            self.want(node.seconds, f"{node.path}.wait.seconds", place, NUMBERS, "`seconds` must be a number")
        texts = (("component", node.component), ("signal", node.signal), ("workflow", node.child))
        for name, template in texts:
            if template is not None and not template.is_constant:
                self.want(template, f"{node.path}.{name}", place, STRING, f"`{name}` must be a text")

    def want(self, template: Template, path: str, place: Place, wanted: Type, message: str) -> None:
        found = self.inference.value(template, place)
        if misfit(found, wanted) is not None:
            self.problems.add(path, f"{message}, but this is {found.described()}.")

    # ── inputs of components and children ─────────────────────────────────────────────────────────────────────────

    def wanted_inputs(self, node: Node) -> Mapping[str, Type]:
        """The types that the inputs of a step must have, as far as they are known."""
        step = node.step
        if step.kind == "component" and node_is_fixed(node.component):
            return self.inputs_of_component(str(step.component))
        if step.kind == "workflow" and (workflow := self.child(node)) is not None:
            secrets = secret_names(workflow.inputs)
            return {name: one for name, one in _properties(workflow.inputs).items() if name not in secrets}
        return {}

    def inputs_of_component(self, name: str) -> Mapping[str, Type]:
        found = self.inputs_of.get(name)
        if found is None:
            component = find_component(self.inference.components, name)
            found = self.inputs_of[name] = {} if component is None else _properties(component.input_schema)
        return found

    def fit(self, template: Template, path: str, place: Place, wanted: Type) -> None:
        if not wanted.is_known:
            return
        found = self.inference.value(template, place)
        if (reason := misfit(found, wanted)) is not None:
            self.problems.add(path, reason, _whence(template))

    def child(self, node: Node) -> Workflow | None:
        if not node_is_fixed(node.child):
            return None
        return find_workflow(self.inference.workflows, str(node.step.workflow), node.step.version)

    def children(self, node: Node) -> None:
        """What a child workflow is given: names that it does not know, and those that it lacks."""
        if node.step.kind != "workflow":
            return
        if not node_is_fixed(node.child):
            if not node.step.allow:
                message = "`workflow` is an expression; `allow` must list the workflows that it may choose."
                self.problems.add(f"{node.path}.workflow", message)
            return
        if node.step.allow is not None:
            message = "`allow` goes with a `workflow` that is an expression; this one is a fixed name."
            self.problems.add(f"{node.path}.allow", message)
        workflow = self.child(node)
        if workflow is None:
            return
        known = workflow.inputs.get("properties", {})
        is_closed = workflow.inputs.get("additionalProperties", False) is False and "$ref" not in workflow.inputs
        for name in node.step.inputs:
            if is_closed and name not in known and not any(word in workflow.inputs for word in _COMBINING):
                message = f"Workflow {shown(workflow.id)} has no input {shown(name)}."
                self.problems.add_unknown(member_path(f"{node.path}.inputs", name), message, name, known)
        for name in workflow.inputs.get("required", []):
            has_default = isinstance(known.get(name), Mapping) and "default" in known[name]
            if name not in node.step.inputs and not has_default:
                message = f"The input {shown(name)} of workflow {shown(workflow.id)} is missing."
                self.problems.add(f"{node.path}.inputs" if node.step.has("inputs") else node.path, message)

    # ── references ────────────────────────────────────────────────────────────────────────────────────────────────

    def references(self, template: Template, path: str, place: Place, takes_null: bool = False) -> None:
        if template.is_constant:
            return
        if isinstance(template.members, dict):
            for name, part in template.members.items():
                self.references(part, member_path(path, name), place)
        for index, part in enumerate(template.members if isinstance(template.members, list) else ()):
            self.references(part, f"{path}[{index}]", place)
        if template.text is not None:
            for piece in template.text.pieces:
                is_handed_on = takes_null and template.text.is_value and isinstance(piece.term, Path)
                for use in uses_of(piece.term, may_miss=piece.is_guarded):
                    self.use(use, path, place, is_handed_on)

    def use(self, use: Use, path: str, place: Place, takes_null: bool) -> None:
        reference = use.reference
        found = self.inference.resolve(reference, place)
        if found.broken is not None:
            # Names right under `inputs` are checked with the order.
            if (reference.root != "inputs" or found.depth > 0) and self.is_new(reference, path):
                self.broken(use, found.broken, found.depth, path)
            return
        may_be_missing = found.reason is not None and not use.may_miss and (found.is_on_the_way or not takes_null)
        if may_be_missing and self.is_new(reference, path):
            message = f"`{reference}` may be missing: {found.reason}."
            self.problems.add(path, message, "Use `| default(…)`, or ask in a `condition`.", level="warning")

    def is_new(self, reference: Path, path: str) -> bool:
        """Whether nothing was said yet about this reference there; from now on, something was."""
        said = (path, str(reference))
        is_new = said not in self.said
        self.said.add(said)
        return is_new

    def broken(self, use: Use, broken: NoField, depth: int, path: str) -> None:
        reference = use.reference
        holder = Path(reference.root, reference.keys[:depth])
        key = reference.keys[depth]
        if not broken.holder.may_be("object") or not isinstance(key, str):
            message = f"`{holder}` is {broken.holder.described()}; it has no {_member(key)}."
            self.problems.add(path, message, level=_level(use))
            return
        if broken.is_certain:
            message = f"`{holder}` has no field {shown(key)}."
            if use.has_default:
                message += " So it is always the default."
            self.problems.add_unknown(path, message, str(key), broken.known, level=_level(use))
        else:
            message = f"The schema of `{holder}` does not mention the field {shown(key)}."
            if not use.has_default:
                self.problems.add_unknown(path, message, str(key), broken.known, level="warning")


_COMBINING = ("allOf", "anyOf", "oneOf", "if", "dependentSchemas", "patternProperties", "unevaluatedProperties")


def _level(use: Use) -> Any:
    return "warning" if use.may_miss or use.has_default else "error"


def _member(key: str | int) -> str:
    return f"field {shown(key)}" if isinstance(key, str) else f"item {key}"


def _whence(template: Template) -> str | None:
    """Where a value comes from, for the suggestion of a problem."""
    return f"It comes from `{template.source.strip()}`." if isinstance(template.source, str) else None


def _properties(schema: Mapping[str, Any]) -> Mapping[str, Type]:
    """The types of an object's declared properties."""
    properties = schema.get("properties")
    whole = of_schema(schema)
    found = {}
    for name in properties if isinstance(properties, Mapping) else ():
        one = member(whole, name)
        if not isinstance(one, NoField):
            found[name] = one
    return found
