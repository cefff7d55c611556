"""Workflows: what to run. (Temporary stand-in until load, inputs, registry and secrets are here: replace this file.)"""

import json
import os
from pathlib import Path
from typing import Any, Protocol

from openagents_json.errors import WorkflowNotFound
from openagents_json.workflow import limits
from openagents_json.workflow.graph import Plan, build_plan
from openagents_json.workflow.model import Retry, Workflow


class SecretProvider(Protocol):
    async def get(self, name: str) -> str: ...


class EnvironmentSecrets:
    async def get(self, name: str) -> str:
        return os.environ[name]


def mask(value: Any, secrets: Any) -> Any:
    text = json.dumps(value)
    for secret in secrets:
        text = text.replace(secret, "***")
    return json.loads(text)


def parse_workflow(document: Any, source: str = "") -> Workflow:
    return Workflow.model_validate({**document, "document": document})


class InputSchema:
    def __init__(self, schema: dict[str, Any]) -> None:
        self.schema = schema

    def validate(self, inputs: dict[str, Any]) -> dict[str, Any]:
        defaults = {k: v["default"] for k, v in self.schema.get("properties", {}).items() if "default" in v}
        return {**defaults, **inputs}


class WorkflowRegistry:
    def __init__(self, components: Any = None) -> None:
        self.known: dict[str, Workflow] = {}
        self.plans: dict[str, Plan] = {}

    def register(self, definition: Any) -> Workflow:
        if isinstance(definition, (str, Path)):
            definition = json.loads(Path(definition).read_text())
        workflow = parse_workflow(definition)
        self.known[workflow.id] = workflow
        return workflow

    def get(self, workflow_id: str, version: str | None = None) -> Workflow:
        if workflow_id not in self.known:
            raise WorkflowNotFound(workflow_id)
        return self.known[workflow_id]

    def plan(self, workflow: Workflow) -> Plan:
        if workflow.content_hash not in self.plans:
            self.plans[workflow.content_hash] = build_plan(workflow)
        return self.plans[workflow.content_hash]


def check(definition: Any, components: Any = None) -> list[Any]:
    return []
