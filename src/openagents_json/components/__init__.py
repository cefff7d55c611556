"""What steps call: components, the registry that knows them, and the context that they are given."""

from openagents_json.components.agents import AgentInstances
from openagents_json.components.builtin import register_builtins
from openagents_json.components.calling import call_blocking, call_in_loop
from openagents_json.components.component import Component, InvalidOutput, Isolation
from openagents_json.components.context import StepContext
from openagents_json.components.link import Link, Resource
from openagents_json.components.reference import Rebuilder, Reference, reference_to, why_not_in_process
from openagents_json.components.registry import ComponentRegistry, capability
from openagents_json.components.versions import is_version, version_key

__all__ = [
    "AgentInstances",
    "Component",
    "ComponentRegistry",
    "InvalidOutput",
    "Isolation",
    "Link",
    "Rebuilder",
    "Reference",
    "Resource",
    "StepContext",
    "call_blocking",
    "call_in_loop",
    "capability",
    "is_version",
    "reference_to",
    "register_builtins",
    "version_key",
    "why_not_in_process",
]
