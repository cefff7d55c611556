"""`check`: everything that is wrong with a definition, found without running any of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from openagents_json.components import ComponentRegistry
from openagents_json.errors import Problem
from openagents_json.workflow.checking.advice import advise
from openagents_json.workflow.checking.components import ComponentUse
from openagents_json.workflow.checking.dataflow import DataFlow
from openagents_json.workflow.checking.inference import Inference, Workflows
from openagents_json.workflow.graph import plan_with_problems
from openagents_json.workflow.load import Definition, Reading, read
from openagents_json.workflow.model import Workflow
from openagents_json.workflow.plan import Plan


def check(
    definition: Definition | Workflow,
    components: ComponentRegistry | None = None,
    *,
    resources: Collection[str] | Mapping[str, float] | None = None,
    workflows: Workflows | None = None,
) -> list[Problem]:
    """Every problem of a definition (a dictionary, a file or a workflow), each with its JSON path; empty if none.

    `level` tells errors from warnings and notes; only errors keep a definition from running. With a registry of
    components, also what those say: unknown names, inputs that are missing, unknown or of the wrong type, fields that
    outputs do not have. `resources` are the names that are declared, or what one worker has of each, `workflows` the
    registry of child workflows; None: not checked. Problems of a file have line and column. Never raises for what is
    wrong with a definition.
    """
    reading = Reading("the definition", definition) if isinstance(definition, Workflow) else read(definition)
    examine_reading(reading, components, resources=resources, workflows=workflows)
    return reading.placed()


def examine_reading(
    reading: Reading,
    components: ComponentRegistry | None,
    *,
    resources: Collection[str] | Mapping[str, float] | None = None,
    workflows: Workflows | None = None,
) -> Plan | None:
    """Add what is wrong with a definition's expressions, references, components and data flow to its shape's problems.

    Returns the plan, which is of use only if the reading has no errors.
    """
    if reading.workflow is None:
        return None
    problems = reading.problems
    known = {(problem.path, problem.message) for problem in problems.found}
    plan, found = plan_with_problems(reading.workflow)
    for problem in found:
        if (problem.path, problem.message) not in known:
            problems.add(problem.path, problem.message, problem.suggestion)
    ComponentUse(components, problems).check(plan)
    DataFlow(Inference(plan, components, workflows), problems).check()
    advise(plan, components, resources, problems)
    return plan
