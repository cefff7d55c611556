"""What is no mistake but likely to be regretted: no timeout anywhere, resources that nobody declared, threads."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from openagents_json.components import ComponentRegistry
from openagents_json.resources import BUILT_IN, CPU_S, MAX_AMOUNT
from openagents_json.workflow.checking.inference import find_component, node_is_fixed
from openagents_json.workflow.plan import Node, Plan
from openagents_json.workflow.problems import Problems, member_path, shown

TAKES_TIME = frozenset({"component", "workflow", "signal"})


def advise(
    plan: Plan,
    components: ComponentRegistry | None,
    resources: Collection[str] | Mapping[str, float] | None,
    problems: Problems,
) -> None:
    """Note the warnings and notes of a plan. Components that are not known may have a timeout: then silent."""
    _Advice(plan, components, problems).check(resources)


class _Advice:
    def __init__(self, plan: Plan, components: ComponentRegistry | None, problems: Problems) -> None:
        self.plan = plan
        self.components = components
        self.problems = problems

    def check(self, resources: Collection[str] | Mapping[str, float] | None) -> None:
        nodes = list(self.plan.nodes.values())
        if self.plan.limit_key is not None and not self.plan.limit_key.roots:
            message = "This key is the same for every job, so that it tells none from another."
            advice = "Leave it out, or name an input: `{{ inputs.customer }}`."
            self.problems.add("$.concurrency.key", message, advice, level="warning")
        if resources is not None:
            for node in nodes:
                self.check_resources(node, resources)
        if not self.plan.workflow.timeout:
            self.check_timeouts(nodes)
            self.check_threads(nodes)

    def check_resources(self, node: Node, resources: Collection[str] | Mapping[str, float]) -> None:
        """What the step and its component occupy, against what is declared. Only warnings: there may be other workers,
        which have more."""
        known = sorted({*resources, *BUILT_IN, CPU_S})
        component = (
            find_component(self.components, node.step.component or "") if node_is_fixed(node.component) else None
        )
        said = {} if component is None else component.resources
        for name, amount in {**said, **node.step.resources}.items():
            is_said_here = name in node.step.resources
            path = member_path(f"{node.path}.resources", name) if is_said_here else node.path
            who = "The step" if is_said_here else f"Component {shown(node.step.component or '')}"
            if name not in known:
                message = f"Nobody declared the resource {shown(name)}."
                if not is_said_here:
                    message = f"{who} occupies the resource {shown(name)}, which nobody declared."
                self.problems.add_unknown(path, message, name, known, level="warning")
            elif isinstance(resources, Mapping) and amount > (most := resources.get(name, MAX_AMOUNT)):
                message = f"{who} needs {amount:g} of {shown(name)}, and {most:g} are declared."
                advice = "It waits until a worker with enough comes; give one more, or let it need less."
                self.problems.add(path, message, advice, level="warning")

    def check_timeouts(self, nodes: list[Node]) -> None:
        timed = [node for node in nodes if node.step.kind in TAKES_TIME]
        if not timed or any(node.step.timeout for node in nodes) or any(map(self.may_have_timeout, timed)):
            return
        message = (
            "Nothing has a timeout, neither the workflow nor a step or component: what hangs holds its job for ever."
        )
        self.problems.add("$", message, 'Give the definition a "timeout" in seconds, or its steps.', level="warning")

    def may_have_timeout(self, node: Node) -> bool:
        """Whether the component of a step brings a timeout, or may, since it is not known."""
        if node.step.kind != "component":
            return False
        names = [node.step.component] if node_is_fixed(node.component) else node.step.allow or [""]
        found = [find_component(self.components, name or "") for name in names]
        return any(one is None or one.timeout_s is not None for one in found)

    def check_threads(self, nodes: list[Node]) -> None:
        """Steps in threads that nothing limits: one for each component, at the first step that calls it."""
        told: set[str] = set()
        for node in nodes:
            name = node.step.component
            if name is None or name in told or not node_is_fixed(node.component) or _is_limited(node):
                continue
            component = find_component(self.components, name)
            if component is None or component.timeout_s is not None:
                continue
            if (node.step.isolation or component.isolation) == "thread":
                told.add(name)
                message = f"Component {shown(name)} runs in a thread, which cannot be killed, and has no timeout."
                advice = "With a `timeout` a step that hangs is given up; its thread still runs to its end."
                self.problems.add(node.path, message, advice, level="note")


def _is_limited(node: Node) -> bool:
    """Whether the step or a container around it has a timeout."""
    around: Node | None = node
    while around is not None:
        if around.step.timeout:
            return True
        around = around.block.owner
    return False
