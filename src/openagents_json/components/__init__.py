"""What steps call: components, the registry that knows them, and the context that they are given."""

from openagents_json.components.agents import AgentInstances
from openagents_json.components.builtin import register_builtins
from openagents_json.components.component import Component, InvalidOutput, Isolation
from openagents_json.components.context import StepContext
from openagents_json.components.registry import ComponentRegistry, capability
from openagents_json.components.versions import is_version, version_key

__all__ = [
    "AgentInstances",
    "Component",
    "ComponentRegistry",
    "InvalidOutput",
    "Isolation",
    "StepContext",
    "capability",
    "is_version",
    "register_builtins",
    "version_key",
]
