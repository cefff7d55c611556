"""Workflows: what to run. Definitions are loaded, checked and planned here; nothing of them runs."""

from openagents_json.workflow.check import check
from openagents_json.workflow.component_keys import InputNames, key_value
from openagents_json.workflow.graph import build_plan
from openagents_json.workflow.inputs import InputSchema, schema_problems
from openagents_json.workflow.load import load_folder, load_workflow, parse_text, parse_workflow, stored_workflow
from openagents_json.workflow.model import Retry, Step, Workflow
from openagents_json.workflow.plan import Block, Node, Plan
from openagents_json.workflow.registry import WorkflowRegistry
from openagents_json.workflow.secrets import EnvironmentSecrets, MappingSecrets, SecretProvider, TextMask, mask

__all__ = [
    "Block",
    "EnvironmentSecrets",
    "InputNames",
    "InputSchema",
    "MappingSecrets",
    "Node",
    "Plan",
    "Retry",
    "SecretProvider",
    "Step",
    "TextMask",
    "Workflow",
    "WorkflowRegistry",
    "build_plan",
    "check",
    "key_value",
    "load_folder",
    "load_workflow",
    "mask",
    "parse_text",
    "parse_workflow",
    "schema_problems",
    "stored_workflow",
]
