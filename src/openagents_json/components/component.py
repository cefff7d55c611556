"""`Component`: a registered callable with its metadata, the reading of its inputs and the checking of its output."""

from __future__ import annotations

import functools
import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

from openagents_json import jsondata
from openagents_json.components.agents import HOOKS, Agent, AgentInstances
from openagents_json.components.context import StepContext
from openagents_json.components.limits import ComponentLimit, read_limits
from openagents_json.components.schema import InputReader, OutputCheck
from openagents_json.components.signature import read_signature
from openagents_json.components.versions import DEFAULT_VERSION, is_version
from openagents_json.errors import ComponentError, InvalidComponent, Problem
from openagents_json.resources import NEEDED_RESOURCES, problem_with

Isolation: TypeAlias = Literal["inline", "thread", "process"]

OUTPUT_BYTES = 1024 * 1024
NAME_CHARACTERS = 200
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*(\.[A-Za-z_][A-Za-z0-9_-]*)*")


class InvalidOutput(ComponentError):
    """What a component returned cannot be its output. `code` is `output.invalid` or `limit.output`.

    `problems` says where it does not fit the return annotation, with paths such as `$.output.rows[2]`; it is empty if
    the value is no JSON or too large.
    """

    code = "output.invalid"

    def __init__(
        self, message: str, *, name: str = "", code: str = "output.invalid", problems: Sequence[Problem] = ()
    ) -> None:
        super().__init__(message, name=name)
        self.code = code
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class Options:
    """What a decorator may say about a component; None and empty are left to the defaults."""

    version: str = DEFAULT_VERSION
    description: str | None = None
    tags: Sequence[str] = ()
    isolation: Isolation | None = None
    timeout_s: float | None = None
    retry: Mapping[str, Any] | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    concurrency: int | Mapping[str, Any] | None = None
    rate_limit: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Component:
    """A registered callable. Made by the registry; compared by identity."""

    name: str  # `tool` or `agent.capability`
    version: str
    description: str  # the docstring's first paragraph on one line
    tags: tuple[str, ...]
    input_schema: dict[str, Any]  # JSON Schema of an object; shared, do not change
    output_schema: dict[str, Any] | None  # None: the return is not annotated; shared, do not change
    isolation: Isolation
    timeout_s: float | None  # of one attempt, unless the step says otherwise
    retry: Mapping[str, Any] | None  # as given to the decorator; checked where it is used
    resources: Mapping[str, float]  # what an attempt occupies, by name of the resource
    limits: tuple[ComponentLimit, ...]  # of all its attempts, in all workers together
    agent: type | None  # the class, if this is a capability
    is_async: bool
    defined_at: str  # file:line

    _call: Callable[..., Any] = field(repr=False)  # the function; of a capability, nothing but its place
    _method: str = field(repr=False)  # of a capability, the method's name; else empty
    _agent: Agent | None = field(repr=False)
    _context: str | None = field(repr=False)  # the parameter that receives the StepContext
    _reader: InputReader = field(repr=False)
    _output: OutputCheck = field(repr=False)

    def prepare(self, inputs: Mapping[str, Any], context: StepContext, instances: AgentInstances) -> Callable[[], Any]:
        """The call with these inputs, ready to make: it returns the value, or for an async component a coroutine.

        `inputs` is plain JSON and stays untouched, whatever the component does with its arguments. `InvalidInputs`
        lists every problem. The agent is made by the call, not here, so an error of its `__init__` or `setup` comes
        from the call too.
        """
        arguments = self._reader.read(inputs)
        if self._context is not None:
            arguments[self._context] = context
        agent = self._agent
        if agent is None:
            return functools.partial(self._call, **arguments)
        instance = instances.ready(agent)
        if instance is not None:
            return functools.partial(getattr(instance, self._method), **arguments)
        first = self._first_call_async if self.is_async else self._first_call
        return functools.partial(first, agent, instances, arguments)

    @property
    def origin(self) -> tuple[Any, Agent | None, str]:
        """Where it comes from: the registered callable, and of a capability its agent and the method's name."""
        return self._call, self._agent, self._method

    def accept_output(self, value: Any, limit_bytes: int = OUTPUT_BYTES) -> Any:
        """A plain JSON copy of what the component returned; pydantic models and dataclasses become objects.

        `InvalidOutput` if it is no JSON (NaN, set, bytes, generator, coroutine, other objects), takes more than
        `limit_bytes` as JSON, or does not fit the return annotation. Messages contain no values.
        """
        try:
            output, _ = jsondata.plain(value, limit_bytes=limit_bytes)
        except jsondata.TooLarge as error:
            raise InvalidOutput(
                f"The output of component {self.name!r} is too large. {error}", name=self.name, code="limit.output"
            ) from None
        except jsondata.NotJson as error:
            raise InvalidOutput(self._not_json(value, error), name=self.name) from None
        if problems := self._output.problems(output):
            lines = "\n".join(f"  {problem}" for problem in problems)
            raise InvalidOutput(
                f"The output of component {self.name!r} does not fit its return annotation:\n{lines}",
                name=self.name,
                problems=problems,
            )
        return output

    def _first_call(self, agent: Agent, instances: AgentInstances, arguments: dict[str, Any]) -> Any:
        return getattr(instances.get(agent), self._method)(**arguments)

    async def _first_call_async(self, agent: Agent, instances: AgentInstances, arguments: dict[str, Any]) -> Any:
        return await getattr(await instances.wait(agent), self._method)(**arguments)

    def _not_json(self, value: Any, error: jsondata.NotJson) -> str:
        if inspect.isawaitable(value):
            if inspect.iscoroutine(value):
                value.close()  # else Python warns, much later, that nobody awaited it
            return (
                f"Component {self.name!r} returned something that is still to be awaited ({type(value).__name__}). "
                "Await it inside, and declare the component with `async def`."
            )
        return f"The output of component {self.name!r} is no plain JSON: {error}"


def make_component(
    call: Callable[..., Any], name: str, options: Options, *, agent: Agent | None = None, method: str = ""
) -> Component:
    """The component that calls `call`, or the `method` of an agent whose function is `call`.

    `InvalidComponent` says why it cannot be one.
    """
    check_name(name)
    check_version(options.version, name)
    _check_options(options, name)
    signature = read_signature(call, name, method=agent is not None)
    reader, output = InputReader(signature, name), OutputCheck(signature.returns, name)
    if agent is not None and method in HOOKS:
        raise InvalidComponent(
            f"{agent.cls.__name__}.{method} is a hook of agents; name the method otherwise.", name=name
        )
    return Component(
        name=name,
        version=options.version,
        description=signature.description if options.description is None else options.description,
        tags=tuple(dict.fromkeys(options.tags)),
        input_schema=reader.schema,
        output_schema=output.schema,
        isolation=_isolation(options.isolation, name, agent, is_async=signature.is_async),
        timeout_s=options.timeout_s,
        retry=None if options.retry is None else dict(options.retry),
        resources=dict(options.resources),
        limits=read_limits(options.concurrency, options.rate_limit, name),
        agent=agent.cls if agent else None,
        is_async=signature.is_async,
        defined_at=signature.defined_at,
        _call=call,
        _method=method,
        _agent=agent,
        _context=signature.context,
        _reader=reader,
        _output=output,
    )


def check_name(name: str) -> None:
    """`InvalidComponent` if `name` cannot name a component."""
    if len(name) > NAME_CHARACTERS or not _NAME.fullmatch(name):
        shown = name if len(name) <= NAME_CHARACTERS else f"{name[:40]}…"
        raise InvalidComponent(
            f"{shown!r} cannot name a component: names are words of letters, digits, _ and -, joined by dots, "
            f"at most {NAME_CHARACTERS} characters.",
            name=name,
        )


def check_version(version: str, name: str) -> None:
    """`InvalidComponent` if `version` is no semantic version."""
    if not is_version(version):
        raise InvalidComponent(
            f"Component {name!r} has the version {version!r}; give a semantic version such as 1.0.0.", name=name
        )


def _check_options(options: Options, name: str) -> None:
    timeout_s = options.timeout_s
    if timeout_s is not None and not (isinstance(timeout_s, (int, float)) and 0 < timeout_s < math.inf):
        raise InvalidComponent(f"Component {name!r} has the timeout {timeout_s!r}; give seconds above 0.", name=name)
    if isinstance(options.tags, str):
        raise InvalidComponent(f"The tags of component {name!r} are one string; give a tuple of strings.", name=name)
    for what, mapping in (("retry", options.retry), ("resources", options.resources)):
        if mapping is not None and not isinstance(mapping, Mapping):
            raise InvalidComponent(f"The {what} of component {name!r} is no mapping.", name=name)
    if problem := problem_with(options.resources, NEEDED_RESOURCES):
        raise InvalidComponent(f"The resources of component {name!r} {problem}", name=name)


def _isolation(asked: Isolation | None, name: str, agent: Agent | None, *, is_async: bool) -> Isolation:
    """Where it runs: coroutines in the event loop, all else in a thread unless it is said to be quick (inline)."""
    if asked is None:
        return "inline" if is_async else "thread"
    if asked not in get_args(Isolation):
        raise InvalidComponent(
            f"Component {name!r} has the unknown isolation {asked!r}: inline, thread or process.", name=name
        )
    if asked == "thread" and is_async:
        raise InvalidComponent(
            f"Component {name!r} is async and runs inline; only sync functions take a thread.", name=name
        )
    if asked == "inline" and not is_async and agent is not None and agent.setup_is_async:
        raise InvalidComponent(
            f"Component {name!r} is sync and inline, but its agent has an async setup, which it cannot wait for. "
            "Let it run in a thread, or make it async.",
            name=name,
        )
    return asked
