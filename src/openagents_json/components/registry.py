"""The registry: decorators that turn functions and classes into components, and the questions about them."""

from __future__ import annotations

import difflib
import fnmatch
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict, TypeVar, Unpack, overload

from openagents_json.components.agents import Agent
from openagents_json.components.component import (
    Component,
    Isolation,
    Options,
    check_name,
    check_version,
    make_component,
)
from openagents_json.components.limits import Concurrency, RateLimit
from openagents_json.components.versions import DEFAULT_VERSION, version_key
from openagents_json.errors import ComponentNotFound, DuplicateComponent, InvalidComponent

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound=type)

_NAMES_SHOWN = 10  # of all names, where none is near
_MARK = "__openagents_capability__"  # the attribute under which a method carries its _Mark


class CapabilityOptions(TypedDict, total=False):
    """Keywords of `capability`. `retry` is a mapping such as a step's `retry`; `resources` maps names to amounts."""

    description: str  # instead of the docstring's first paragraph
    tags: Sequence[str]
    isolation: Isolation  # default: inline for async, thread for sync
    timeout_s: float  # of one attempt
    retry: Mapping[str, Any]
    resources: Mapping[str, float]
    concurrency: int | Concurrency  # how many of its attempts are on at a time, in all workers
    rate_limit: RateLimit  # how many of them begin in a time


class ToolOptions(CapabilityOptions, total=False):
    """Keywords of `tool` and `register`: those of `capability`, and the version (a capability has its agent's)."""

    version: str


@dataclass(frozen=True, slots=True)
class _Mark:
    name: str | None
    options: Options


@overload
def capability(name: F, /) -> F: ...
@overload
def capability(name: str | None = None, **options: Unpack[CapabilityOptions]) -> Callable[[F], F]: ...
def capability(name: str | F | None = None, **options: Unpack[CapabilityOptions]) -> F | Callable[[F], F]:
    """Mark a method as a capability of its class; `agent` on the class makes components of all that are marked.

    The capability has the method's name unless `name` is given. Subclasses inherit the mark; `name = None` in a
    subclass takes the method out. The method itself stays as it was.
    """
    if callable(name):
        return _marked(name, _Mark(None, Options()))
    mark = _Mark(name, Options(**options))
    return lambda method: _marked(method, mark)


class ComponentRegistry:
    """Components by name and version. Register while modules load, from one thread; ask from any."""

    def __init__(self) -> None:
        # Name → version → component. Grows only; written by _add.
        self._components: dict[str, dict[str, Component]] = {}
        self._highest: dict[str, Component] = {}  # by name, always the highest version in _components

    # ── decorators ────────────────────────────────────────────────────────────────────────────────────────────────

    @overload
    def tool(self, name: F, /) -> F: ...
    @overload
    def tool(self, name: str | None = None, **options: Unpack[ToolOptions]) -> Callable[[F], F]: ...
    def tool(self, name: str | F | None = None, **options: Unpack[ToolOptions]) -> F | Callable[[F], F]:
        """Register a function, sync or async, as a component: `@tool`, `@tool("fetch", timeout_s=30)`.

        The name is the function's unless given. The function comes back unchanged. `InvalidComponent` and
        `DuplicateComponent` as for `register`.
        """
        if callable(name):
            self.register(name)
            return name

        def decorate(function: F) -> F:
            self.register(function, name, **options)
            return function

        return decorate

    def agent(
        self,
        name: str | None = None,
        *,
        version: str = DEFAULT_VERSION,
        tags: Sequence[str] = (),
        config: Mapping[str, Any] | None = None,
    ) -> Callable[[C], C]:
        """Register a class whose methods are marked with `capability` as components `name.capability`.

        The name is the class's unless given; `tags` are added to those of each capability. `config` becomes the
        keywords of `__init__` when a worker makes its one object of the class (see `AgentInstances` for the hooks
        `setup` and `close`). The class comes back unchanged.

        `InvalidComponent` if nothing is marked, the config does not fit, or a capability cannot be a component; then
        none of them is registered.
        """

        def decorate(cls: C) -> C:
            agent = Agent(cls.__name__ if name is None else name, version, cls, dict(config or {}))
            self._add(_capabilities(agent, tags))
            return cls

        return decorate

    @overload
    def capability(self, name: F, /) -> F: ...
    @overload
    def capability(self, name: str | None = None, **options: Unpack[CapabilityOptions]) -> Callable[[F], F]: ...
    def capability(self, name: str | F | None = None, **options: Unpack[CapabilityOptions]) -> F | Callable[[F], F]:
        """The function `capability`, here so that a registry is all one needs: it marks and registers nothing."""
        return capability(name) if callable(name) else capability(name, **options)

    def register(
        self, function: Callable[..., Any], name: str | None = None, **options: Unpack[ToolOptions]
    ) -> Component:
        """Register any callable (a function, bound method, partial, object with `__call__`); returns the component.

        `InvalidComponent` if it cannot be one: the message says why. `DuplicateComponent` if name and version are
        taken.
        """
        if isinstance(function, type):
            raise InvalidComponent(f"{function.__name__} is a class; register it with `agent`.", name=name or "")
        if name is None:
            name = getattr(function, "__name__", None)
            if name is None:
                raise InvalidComponent(f"A {type(function).__name__} has no name of its own; give name=….")
        component = make_component(function, name, Options(**options))
        self._add([component])
        return component

    def _add(self, components: Sequence[Component]) -> None:
        """Add all or none."""
        taken: dict[tuple[str, str], Component] = {}
        for component in components:
            key = component.name, component.version
            first = self._components.get(component.name, {}).get(component.version) or taken.get(key)
            if first is not None:
                raise DuplicateComponent(
                    f"Component {component.name!r} {component.version}, defined at {component.defined_at}, is there "
                    f"already: defined at {first.defined_at}. Give another name or version.",
                    name=component.name,
                )
            taken[key] = component
        for component in components:
            versions = self._components.setdefault(component.name, {})
            versions[component.version] = component
            self._highest[component.name] = max(versions.values(), key=_rank)

    # ── questions ─────────────────────────────────────────────────────────────────────────────────────────────────

    def get(self, name: str, version: str | None = None) -> Component:
        """The component of that name: the highest version, or exactly the given one.

        `ComponentNotFound` suggests the nearest name, or lists the versions that there are.
        """
        component = self._highest.get(name) if version is None else self._components.get(name, {}).get(version)
        if component is None:
            raise ComponentNotFound(self._missing(name, version), name=name)
        return component

    def find(self, *, tag: str | None = None, name: str | None = None, version: str | None = None) -> list[Component]:
        """Components that fit everything given, sorted: `tag` and `version` exactly, `name` as a glob (`text.*`)."""
        return [
            component
            for component in self
            if (tag is None or tag in component.tags)
            and (name is None or fnmatch.fnmatchcase(component.name, name))
            and (version is None or component.version == version)
        ]

    def names(self) -> list[str]:
        """The names of all components, sorted, each once."""
        return sorted(self._highest)

    def __iter__(self) -> Iterator[Component]:
        """Every version of every component, by name and then from the lowest version to the highest."""
        for name in self.names():
            yield from sorted(self._components[name].values(), key=_rank)

    def __len__(self) -> int:
        """How many components there are, each version counted."""
        return sum(map(len, self._components.values()))

    def __contains__(self, name: object) -> bool:
        return name in self._highest

    def _missing(self, name: str, version: str | None) -> str:
        if name in self._components:
            versions = ", ".join(sorted(self._components[name], key=version_key))
            return f"Component {name!r} has no version {version}. There are: {versions}."
        if nearest := difflib.get_close_matches(name, self.names(), n=1):
            versions = ", ".join(sorted(self._components[nearest[0]], key=version_key))
            return f"There is no component {name!r}. Did you mean {nearest[0]!r} ({versions})?"
        if not self._components:
            return f"There is no component {name!r}: none is registered. Import the modules that register them first."
        names = self.names()
        more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
        return f"There is no component {name!r}. There are: {', '.join(names[:_NAMES_SHOWN])}{more}."


def _rank(component: Component) -> Any:
    return version_key(component.version)


def _marked(method: F, mark: _Mark) -> F:
    if not inspect.isfunction(method):
        raise InvalidComponent(
            f"`capability` marks methods; a {type(method).__name__} cannot be one. Put it innermost."
        )
    setattr(method, _MARK, mark)
    return method


def _capabilities(agent: Agent, tags: Sequence[str]) -> list[Component]:
    cls = agent.cls
    if not isinstance(cls, type):
        raise InvalidComponent(f"`agent` takes a class, not a {type(cls).__name__}; use `tool`.", name=agent.name)
    check_name(agent.name)
    check_version(agent.version, agent.name)
    _check_config(agent)
    components = []
    for method, mark in _marks(cls, agent.name).items():
        options = replace(mark.options, version=agent.version, tags=(*tags, *mark.options.tags))
        name = f"{agent.name}.{method if mark.name is None else mark.name}"
        components.append(make_component(getattr(cls, method), name, options, agent=agent, method=method))
    if not components:
        raise InvalidComponent(
            f"Agent {agent.name!r} has no capability; mark its methods with `capability`.", name=agent.name
        )
    return components


def _marks(cls: type, name: str) -> dict[str, _Mark]:
    """The marked methods of a class and its bases, by attribute; an override without a mark keeps the one it had."""
    marks: dict[str, _Mark] = {}
    for owner in reversed(cls.__mro__):
        for attribute, value in vars(owner).items():
            mark = getattr(value.__func__ if isinstance(value, staticmethod | classmethod) else value, _MARK, None)
            if isinstance(mark, _Mark) and not inspect.isfunction(value):
                raise InvalidComponent(
                    f"{owner.__name__}.{attribute} is a {type(value).__name__}; capabilities are ordinary methods.",
                    name=name,
                )
            if isinstance(mark, _Mark):
                marks[attribute] = mark
            elif value is None:
                marks.pop(attribute, None)
    return marks


def _check_config(agent: Agent) -> None:
    try:
        inspect.signature(agent.cls).bind(**agent.config)
    except ValueError:
        return  # a class that does not tell its parameters: making it will
    except TypeError as error:
        given = ", ".join(agent.config) or "empty"
        raise InvalidComponent(
            f"The config of agent {agent.name!r} ({given}) does not fit {agent.cls.__name__}.__init__: {error}.",
            name=agent.name,
        ) from None
