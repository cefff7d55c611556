"""The registry of workflows: definitions by id and version, and their plans."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import TypeAlias

from openagents_json.components import ComponentRegistry, is_version, version_key
from openagents_json.errors import WorkflowConflict, WorkflowNotFound
from openagents_json.workflow.check import examine_reading
from openagents_json.workflow.graph import build_plan
from openagents_json.workflow.load import Definition, Reading, read, read_folder, refuse_any
from openagents_json.workflow.model import Workflow
from openagents_json.workflow.plan import Plan
from openagents_json.workflow.problems import nearest, shown

PLANS_KEPT = 256
VERSIONS_SHOWN = 20  # in a message

Workflows: TypeAlias = list[Workflow]  # in the class below, `list` is a method


class WorkflowRegistry:
    """Workflows by id and version. For one thread (the event loop's).

    What was registered never changes: the same id and version with other content is refused, unless the version ends
    in `-dev`, which may be replaced. Jobs keep the content that they were created with.
    """

    def __init__(self, components: ComponentRegistry | None = None) -> None:
        """With `components`, definitions are checked against them when they are registered."""
        self._components = components
        self._workflows: dict[str, dict[str, Workflow]] = {}  # id → version → workflow; written by _add
        self._plans: OrderedDict[str, Plan] = OrderedDict()  # by content hash, the last used last; at most PLANS_KEPT

    def register(self, definition: Definition | Workflow) -> Workflow:
        """Register a workflow from a dictionary or a file (.json, .yaml, .yml); again with the same content is fine.

        `InvalidDefinition` holds every error that `check` finds; warnings and notes refuse nothing. `WorkflowConflict`:
        its id and version have other content already.
        """
        reading = Reading("the definition", definition) if isinstance(definition, Workflow) else read(definition)
        return self._accept(reading, examine_reading(reading, self._components, workflows=self))

    def register_folder(self, path: str | Path) -> Workflows:
        """Register every .json, .yaml and .yml file right in a folder, or none of them if one has a problem.

        Errors as for `register`; `InvalidDefinition` holds the problems of all files.
        """
        readings = read_folder(path)
        plans = [examine_reading(reading, self._components, workflows=self) for reading in readings]
        refuse_any(readings, path)
        met: dict[tuple[str, str], Workflow] = {}
        for reading in readings:
            workflow = reading.accepted()
            other = met.setdefault((workflow.id, workflow.version), workflow)
            self._refuse_conflict(workflow)
            if other.content_hash != workflow.content_hash:
                raise WorkflowConflict(_conflict(workflow, "Two files of the folder define it differently."))
        return [self._accept(reading, plan) for reading, plan in zip(readings, plans, strict=True)]

    def get(self, workflow_id: str, version: str | None = None) -> Workflow:
        """The workflow of that id: exactly the given version, or the highest one.

        Pre-releases (`1.0.0-rc.1`, `2.0.0-dev`) are the highest only if there is no release. `WorkflowNotFound`
        suggests the nearest id or lists the versions.
        """
        versions = self._workflows.get(workflow_id)
        if versions is None:
            raise WorkflowNotFound(self._unknown(workflow_id), workflow_id=workflow_id)
        if version is None:
            releases = [one for one in versions if "-" not in one.partition("+")[0]]
            return versions[max(releases or versions, key=version_key)]
        workflow = versions.get(version)
        if workflow is None:
            known = sorted(versions, key=version_key)
            more = f" and {len(known) - VERSIONS_SHOWN} lower ones" if len(known) > VERSIONS_SHOWN else ""
            what = (
                f"version {shown(version)}"
                if is_version(version)
                else f"version {shown(version)} (not a version at all)"
            )
            message = (
                f"Workflow {shown(workflow_id)} has no {what}. There are: {', '.join(known[-VERSIONS_SHOWN:])}{more}."
            )
            raise WorkflowNotFound(message, workflow_id=workflow_id)
        return workflow

    def plan(self, workflow: Workflow) -> Plan:
        """The plan of a workflow, registered here or not; kept for the last 256 contents.

        `InvalidDefinition` as for `build_plan`.
        """
        plan = self._plans.get(workflow.content_hash)
        if plan is None:
            plan = build_plan(workflow)
            self._keep(plan)
        else:
            self._plans.move_to_end(workflow.content_hash)
        return plan

    def list(self) -> Workflows:
        """Every version of every workflow, by id and then from the lowest version to the highest."""
        return [
            versions[version]
            for _, versions in sorted(self._workflows.items())
            for version in sorted(versions, key=version_key)
        ]

    def __contains__(self, workflow_id: object) -> bool:
        return workflow_id in self._workflows

    def __len__(self) -> int:
        return sum(map(len, self._workflows.values()))

    def _accept(self, reading: Reading, plan: Plan | None) -> Workflow:
        workflow = reading.accepted()
        self._refuse_conflict(workflow)
        versions = self._workflows.setdefault(workflow.id, {})
        present = versions.get(workflow.version)
        if present is not None and present.content_hash == workflow.content_hash:
            return present
        versions[workflow.version] = workflow
        if plan is not None:
            self._keep(plan)
        return workflow

    def _refuse_conflict(self, workflow: Workflow) -> None:
        present = self._workflows.get(workflow.id, {}).get(workflow.version)
        if present is None or present.content_hash == workflow.content_hash or workflow.version.endswith("-dev"):
            return
        raise WorkflowConflict(_conflict(workflow, "It is registered with other content."))

    def _keep(self, plan: Plan) -> None:
        self._plans[plan.workflow.content_hash] = plan
        self._plans.move_to_end(plan.workflow.content_hash)
        if len(self._plans) > PLANS_KEPT:
            self._plans.popitem(last=False)

    def _unknown(self, workflow_id: str) -> str:
        message = f"There is no workflow {shown(workflow_id)}."
        if not self._workflows:
            return f"{message} None is registered."
        if suggestion := nearest(workflow_id, self._workflows):
            return f"{message} {suggestion}"
        names = sorted(self._workflows)
        more = f" and {len(names) - VERSIONS_SHOWN} more" if len(names) > VERSIONS_SHOWN else ""
        return f"{message} There are: {', '.join(names[:VERSIONS_SHOWN])}{more}."


def _conflict(workflow: Workflow, why: str) -> str:
    return (
        f"Workflow {workflow.id} {workflow.version}: {why} Raise the version, or end it with -dev while you work on it."
    )
