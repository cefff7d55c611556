"""What a callable says about itself: its parameters, type hints, docstring and place in the source."""

from __future__ import annotations

import functools
import inspect
import re
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Never, NoReturn, Union, get_args, get_origin, get_type_hints

from pydantic.fields import FieldInfo

from openagents_json.components.context import StepContext
from openagents_json.errors import InvalidComponent

UNKNOWN: Any = inspect.Parameter.empty  # no annotation, or no default


@dataclass(frozen=True, slots=True)
class Input:
    """One parameter that takes an input. `hint` or `default` are `UNKNOWN` where the signature has none."""

    name: str
    hint: Any
    default: Any
    description: str


@dataclass(frozen=True, slots=True)
class Signature:
    """How a component is called: everything by keyword."""

    inputs: tuple[Input, ...]
    open: bool  # it has **kwargs, which take any further input
    context: str | None  # the parameter that receives the StepContext
    returns: Any  # UNKNOWN if not annotated
    description: str  # the docstring's first paragraph on one line
    is_async: bool
    defined_at: str  # file:line


def read_signature(call: Callable[..., Any], name: str, *, method: bool = False) -> Signature:
    """The signature of `call`, which shall become component `name`; `method` drops `self`.

    `InvalidComponent` for parameters that cannot be given by name, hints that cannot be resolved, and generators.
    """
    if not callable(call):
        raise InvalidComponent(f"Component {name!r} is a {type(call).__name__}, which cannot be called.", name=name)
    target = _function_of(call)
    if inspect.isgeneratorfunction(target) or inspect.isasyncgenfunction(target):
        raise InvalidComponent(f"Component {name!r} yields; a component returns one value.", name=name)
    parameters = _parameters(call, name, method=method)
    hints = _hints(target, name)
    doc = inspect.getdoc(target) or ""
    about = argument_descriptions(doc)
    inputs: list[Input] = []
    context: str | None = None
    is_open = False
    for parameter in parameters:
        hint = hints.get(parameter.name, UNKNOWN)
        if parameter.kind is parameter.VAR_KEYWORD:
            _check_open(hint, parameter, name)
            is_open = True
        elif not _is_named(parameter):
            raise InvalidComponent(_positional(parameter, name), name=name)
        elif not _wants_context(hint):
            _check_default(parameter, name)
            inputs.append(Input(parameter.name, hint, parameter.default, about.get(parameter.name, "")))
        elif context is None:
            context = parameter.name
        else:
            raise InvalidComponent(f"Component {name!r} has two StepContext parameters; one is enough.", name=name)
    returns = hints.get("return", UNKNOWN)
    return Signature(
        inputs=tuple(inputs),
        open=is_open,
        context=context,
        returns=UNKNOWN if returns in (NoReturn, Never) else returns,
        description=first_paragraph(doc),
        is_async=inspect.iscoroutinefunction(target),
        defined_at=defined_at(target),
    )


def first_paragraph(doc: str) -> str:
    """The text of a docstring up to its first empty line, on one line; empty for an empty one."""
    return " ".join(inspect.cleandoc(doc).partition("\n\n")[0].split())


_ARGS = re.compile(r"^(?:Args|Arguments|Parameters):\s*$", re.MULTILINE)
_ARGUMENT = re.compile(r"^(?P<indent>\s+)\*{0,2}(?P<name>\w+)\s*(?:\([^)]*\))?:\s*(?P<text>.*)$")


def argument_descriptions(doc: str) -> dict[str, str]:
    """What the `Args:` section of a Google style docstring says of each parameter; empty if there is none."""
    section = _ARGS.search(doc)
    if section is None:
        return {}
    found: dict[str, list[str]] = {}
    indent: str | None = None
    current: list[str] | None = None
    for line in doc[section.end() :].splitlines():
        if line.strip() and not line[0].isspace():
            break  # the next section
        match = _ARGUMENT.match(line)
        if match and (indent is None or match["indent"] == indent):
            indent = match["indent"]
            current = found.setdefault(match["name"], [])
            current.append(match["text"])
        elif current is not None:
            current.append(line.strip())
    return {name: " ".join(" ".join(lines).split()) for name, lines in found.items()}


def defined_at(target: Any) -> str:
    """Where a function or class stands, as `file:line`; its module where Python does not know better."""
    code = getattr(inspect.unwrap(target), "__code__", None)
    if isinstance(code, types.CodeType):
        return f"{code.co_filename}:{code.co_firstlineno}"
    return str(getattr(target, "__module__", None) or "unknown")


def _function_of(call: Any) -> Any:
    """The function behind partials, and `__call__` of other callables: where hints and docstring stand."""
    while isinstance(call, functools.partial):
        call = call.func
    return call if inspect.isroutine(call) else type(call).__call__


def _parameters(call: Callable[..., Any], name: str, *, method: bool) -> list[inspect.Parameter]:
    try:
        parameters = list(inspect.signature(call).parameters.values())
    except (TypeError, ValueError) as error:
        raise InvalidComponent(
            f"Component {name!r} does not tell its parameters ({error}); wrap it in a function of your own.", name=name
        ) from None
    if not method:
        return parameters
    if not parameters or parameters[0].kind in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD):
        raise InvalidComponent(f"Component {name!r} is a method without `self`.", name=name)
    return parameters if parameters[0].kind is inspect.Parameter.VAR_POSITIONAL else parameters[1:]


def _hints(target: Any, name: str) -> dict[str, Any]:
    try:
        return get_type_hints(target, include_extras=True)
    except Exception as error:  # a hint is code: evaluating it may raise anything
        raise InvalidComponent(
            f"The type hints of component {name!r} cannot be resolved: {error}. "
            "Names in them must exist at run time in the module (not only under TYPE_CHECKING or inside a function).",
            name=name,
        ) from error


def _is_named(parameter: inspect.Parameter) -> bool:
    return parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)


def _positional(parameter: inspect.Parameter, name: str) -> str:
    what = (
        f"*{parameter.name}" if parameter.kind is parameter.VAR_POSITIONAL else f"{parameter.name} is positional-only"
    )
    return f"Component {name!r} gets its inputs by name, but its signature has {what}. Give each parameter a name."


def _check_open(hint: Any, parameter: inspect.Parameter, name: str) -> None:
    if hint not in (UNKNOWN, Any, object):
        raise InvalidComponent(
            f"**{parameter.name} of component {name!r} takes any input, so its type can only be Any. "
            "Name the parameters that have a type.",
            name=name,
        )


def _check_default(parameter: inspect.Parameter, name: str) -> None:
    if isinstance(parameter.default, FieldInfo):  # FastAPI takes these as constraints; Python would pass the object
        raise InvalidComponent(
            f"The default of {parameter.name} of component {name!r} is a pydantic Field. "
            f"Write `{parameter.name}: Annotated[type, Field(…)]`, and a plain default after it.",
            name=name,
        )


def _wants_context(hint: Any) -> bool:
    """Whether a parameter is annotated `StepContext` or `StepContext | None`."""
    if get_origin(hint) in (Union, types.UnionType):
        return StepContext in get_args(hint)
    return hint is StepContext
