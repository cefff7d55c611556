"""What the steps of a definition say about components: names, isolation, inputs that are constant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from openagents_json import jsondata
from openagents_json.components import Component, ComponentRegistry, why_not_in_process
from openagents_json.workflow.checking.inference import find_component
from openagents_json.workflow.mismatch import Mismatches
from openagents_json.workflow.plan import Node, Plan
from openagents_json.workflow.problems import Problems, member_path, shown
from openagents_json.workflow.schema import SchemaCost


class ComponentUse:
    """What the steps of one definition say about components."""

    def __init__(self, registry: ComponentRegistry | None, problems: Problems) -> None:
        self.registry = registry
        self.problems = problems
        self.mismatches: dict[Component, Mismatches | None] = {}  # of the input schemas, made when a constant is met

    def check(self, plan: Plan) -> None:
        """Note every problem of the steps that call a component."""
        for node in plan.nodes.values():
            if node.step.kind == "component" and not self.problems.is_full:
                self.check_step(node)

    def check_step(self, node: Node) -> None:
        step = node.step
        assert step.component is not None and node.component is not None  # a step of this kind has one
        if not node.component.is_constant:
            self.check_choice(node)
            return
        if node.component.source != step.component:
            return  # an expression that does not compile, which has been said
        if step.allow is not None:
            message = "`allow` goes with a `component` that is an expression; this one is a fixed name."
            self.problems.add(f"{node.path}.allow", message)
        component = self.find(step.component, f"{node.path}.component")
        if component is not None:
            self.check_isolation(node, component)
            self.check_names(node, component)
            self.check_constants(node, component)

    def check_choice(self, node: Node) -> None:
        """A component that an expression chooses: only from a list, so that data cannot call just anything."""
        if not node.step.allow:
            message = "`component` is an expression; `allow` must list the components that it may choose."
            self.problems.add(f"{node.path}.component", message)
        for index, name in enumerate(node.step.allow or []):
            component = self.find(name, f"{node.path}.allow[{index}]")
            if component is not None:
                self.check_isolation(node, component)

    def find(self, name: str, path: str) -> Component | None:
        if self.registry is None:
            if not name.strip():
                self.problems.add(path, "The name of the component is empty.")
            return None
        if (found := find_component(self.registry, name)) is not None:
            return found
        message = f"There is no component {shown(name)}." if name.strip() else "The name of the component is empty."
        if not len(self.registry):
            message += " None is registered: import the modules that register them first."
        self.problems.add_unknown(path, message, name, self.registry.names())
        return None

    def check_isolation(self, node: Node, component: Component) -> None:
        asked = node.step.isolation
        if asked == "thread" and component.is_async:
            message = f"Component {shown(component.name)} is async and runs inline; only sync functions take a thread."
            self.problems.add(f"{node.path}.isolation", message)
        elif asked == "inline" and component.isolation != "inline":
            place = component.isolation
            message = f"Component {shown(component.name)} runs in a {place}; inline it would block the event loop."
            advice = 'Leave `isolation` out, or register the component with isolation="inline" if it is quick.'
            self.problems.add(f"{node.path}.isolation", message, advice)
        elif (asked or component.isolation) == "process" and (why_not := why_not_in_process(component)) is not None:
            self.problems.add(f"{node.path}.isolation" if asked else f"{node.path}.component", why_not)

    def check_names(self, node: Node, component: Component) -> None:
        schema = component.input_schema
        known: Mapping[str, Any] = schema.get("properties", {})
        if schema.get("additionalProperties") is False:
            for name in node.step.inputs:
                if name not in known:
                    path = member_path(f"{node.path}.inputs", name)
                    message = f"Component {shown(component.name)} has no input {shown(name)}."
                    self.problems.add_unknown(path, message, name, known)
        for name in schema.get("required", []):
            if name not in node.step.inputs:
                message = f"The input {shown(name)} of component {shown(component.name)} is missing."
                self.problems.add(f"{node.path}.inputs" if node.step.has("inputs") else node.path, message)

    def check_constants(self, node: Node, component: Component) -> None:
        """Inputs without expressions are known already; what the others will be is seen at the attempt."""
        known = component.input_schema.get("properties", {})
        constants = {
            name: jsondata.thaw(template.source)
            for name, template in node.inputs.items()
            if template.is_constant and template.source == node.step.inputs[name] and name in known
        }
        if not constants:
            return
        if component not in self.mismatches:
            self.mismatches[component] = _mismatches(component)
        if (mismatches := self.mismatches[component]) is not None:
            mismatches.note(constants, f"{node.path}.inputs", self.problems)


def _mismatches(component: Component) -> Mismatches | None:
    """Finds unfit inputs; None for a schema that only pydantic understands."""
    schema = {key: value for key, value in component.input_schema.items() if key != "required"}
    try:
        return Mismatches(schema, SchemaCost(1, 1))
    except ValueError:  # a type of the user's that brings a schema of its own
        return None
