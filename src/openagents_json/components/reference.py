"""A component by name, for another process: where to import it from, and how to make it again there.

No code and no objects cross to a subprocess, only a `Reference`. So what a subprocess is to run has to be found by
import: a function of a module, or an agent class whose config is plain JSON.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from openagents_json import jsondata
from openagents_json.components.agents import Agent
from openagents_json.components.component import Component, Options, make_component
from openagents_json.errors import InvalidComponent


@dataclass(frozen=True, slots=True)
class Reference:
    """Where a component is found: `module` and `qualname` name its function, or the class of its agent."""

    module: str
    qualname: str
    name: str  # of the component
    version: str
    agent: str = ""  # the agent's name; empty for a tool
    method: str = ""  # of the agent's class; empty for a tool
    config: str = "{}"  # of the agent, as JSON text; may hold secrets


def why_not_in_process(component: Component) -> str | None:
    """A sentence that says why a subprocess cannot run this component, or None if it can.

    While its module is still being imported (as when a decorator asks), nobody can know whether the name will stand
    for the component in the end; then only what cannot work is told. Ask again when all is imported.
    """
    call, agent, _ = component.origin
    target = call if agent is None else agent.cls
    what = f"Component {component.name!r} cannot run in a process"
    module, qualname = getattr(target, "__module__", None), getattr(target, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(qualname, str) or not callable(target):
        return f"{what}: a {type(target).__name__} has no name to import it by. Wrap it in a function of a module."
    if "<lambda>" in qualname:
        return f"{what}: a lambda has no name to import it by. Make it a function of a module."
    if "<locals>" in qualname:
        return f"{what}: {qualname} is defined inside a function, where no import reaches it. Move it to its module."
    if module == "__main__" and not hasattr(sys.modules.get("__main__"), "__file__"):
        return f"{what}: it is defined in an interactive session, which a process cannot import. Move it to a file."
    if agent is not None and _config(agent) is None:
        return f"{what}: the config of agent {agent.name!r} is no plain JSON. Give plain values."
    loaded = sys.modules.get(module)
    try:
        found = find(loaded, qualname) if loaded is not None else target
    except AttributeError:
        if _is_importing(loaded):
            return None
        return f"{what}: {module} has no {qualname}. Keep the name under which the component was defined."
    if found is not target and not _is_importing(loaded):
        return (
            f"{what}: {module}.{qualname} is something else than what was registered. "
            "Put the decorator that registers it outermost, and give each component a name of its own."
        )
    return None


def reference_to(component: Component) -> Reference:
    """How another process finds it. `InvalidComponent` if it cannot (`why_not_in_process`)."""
    if (why_not := why_not_in_process(component)) is not None:
        raise InvalidComponent(why_not, name=component.name)
    call, agent, method = component.origin
    if agent is None:
        return Reference(call.__module__, call.__qualname__, component.name, component.version)
    return Reference(
        agent.cls.__module__,
        agent.cls.__qualname__,
        component.name,
        component.version,
        agent.name,
        method,
        _config(agent) or "{}",
    )


class Rebuilder:
    """Makes components from references, each once, and each agent once for all its capabilities."""

    def __init__(self, import_module: Callable[[str], ModuleType]) -> None:
        self._import = import_module
        self._components: dict[Reference, Component] = {}
        self._agents: dict[tuple[str, str, str, str, str], Agent] = {}

    def component(self, reference: Reference) -> Component:
        """The component. Raises what the import of its module raises, and `AttributeError` if it is not there."""
        made = self._components.get(reference)
        if made is None:
            made = self._components[reference] = self._make(reference)
        return made

    def _make(self, reference: Reference) -> Component:
        found = find(self._import(reference.module), reference.qualname)
        options = Options(version=reference.version)
        if not reference.method:
            return make_component(found, reference.name, options)
        agent = self._agent(reference, found)
        method = getattr(agent.cls, reference.method)
        return make_component(method, reference.name, options, agent=agent, method=reference.method)

    def _agent(self, reference: Reference, cls: type) -> Agent:
        key = reference.module, reference.qualname, reference.agent, reference.version, reference.config
        if key not in self._agents:
            self._agents[key] = Agent(reference.agent, reference.version, cls, jsondata.decode(reference.config))
        return self._agents[key]


def find(module: ModuleType, qualname: str) -> Any:
    """What `qualname` names in a module. `AttributeError` if there is nothing."""
    found: Any = module
    for name in qualname.split("."):
        found = getattr(found, name)
    return found


def _config(agent: Agent) -> str | None:
    """The config as JSON text; None where JSON would not give back the same."""
    config = dict(agent.config)
    try:
        copy, encoded = jsondata.plain(config)
    except jsondata.NotJson:
        return None
    return encoded.decode() if copy == config else None


def _is_importing(module: ModuleType | None) -> bool:
    if module is None or module.__name__ == "__main__":  # nothing says whether a script is through
        return True
    return bool(getattr(getattr(module, "__spec__", None), "_initializing", False))
