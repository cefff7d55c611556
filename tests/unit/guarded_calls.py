"""What `Guarded` can call: each takes hostile JSON or text to the function that users hand it to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from openagents_json import jsondata
from openagents_json.components import ComponentRegistry
from openagents_json.workflow import WorkflowRegistry, check
from openagents_json.workflow.expressions import compile_condition, compile_template
from openagents_json.workflow.inputs import InputSchema
from tests.unit.scope import Given

SHOWN = 1_000  # characters of a value that come back


def render(source: Any, inputs: dict[str, Any] | None = None) -> Any:
    """A template, compiled and rendered."""
    value = compile_template(source).render(Given(inputs=inputs or {}, item={"text": "a"}, index=0))
    return _shown(value)


def render_doubled(source: str, doublings: int) -> Any:
    """A template over lists that hold the same list twice, so many levels deep."""
    value: Any = [0]
    for _ in range(doublings):
        value = [value, value]
    names = Given(item=None)
    names.values["item"] = _frozen_shared(value, {})
    return _shown(compile_template(source).render(names))


def _frozen_shared(value: Any, seen: dict[int, Any]) -> Any:
    if not isinstance(value, list):
        return value
    if id(value) not in seen:
        seen[id(value)] = jsondata.FrozenList([_frozen_shared(one, seen) for one in value])
    return seen[id(value)]


def condition(source: str, inputs: dict[str, Any] | None = None) -> Any:
    return compile_condition(source).render(Given(inputs=inputs or {}))


def decode(text: str) -> Any:
    """JSON text, as it is read from a store or a file of inputs."""
    return _shown(jsondata.decode(text))


def plain_nested(levels: int) -> Any:
    """A component's output that is nested so deeply."""
    value: Any = []
    for _ in range(levels):
        value = [value]
    return len(jsondata.plain(value)[1])


def plain_integer(digits: int) -> Any:
    return len(jsondata.plain(10 ** (digits - 1), limit_bytes=1024 * 1024)[1])


def register(definition: Any) -> Any:
    """A definition from a dictionary."""
    return WorkflowRegistry(ComponentRegistry()).register(definition).id


def checked(definition: Any) -> Any:
    """The problems of a definition, as texts."""
    return [str(problem) for problem in check(definition, ComponentRegistry())]


def register_text(text: str, folder: str, suffix: str) -> Any:
    """A definition from a file of that text."""
    path = Path(folder) / f"definition{suffix}"
    path.write_bytes(text.encode(errors="surrogatepass"))
    return WorkflowRegistry().register(path).id


def validate(schema: dict[str, Any], inputs: Any) -> Any:
    """Inputs against a schema, compiled and checked."""
    return _shown(InputSchema(schema).validate(inputs))


def validate_repeated(schema: dict[str, Any], name: str, item: Any, count: int) -> Any:
    """Inputs with a list of many equal items under one name."""
    return _shown(InputSchema(schema).validate({name: [item] * count}))


def validate_objects(schema: dict[str, Any], name: str, count: int) -> Any:
    """Inputs with a list of many objects that differ only late."""
    return _shown(InputSchema(schema).validate({name: [{"a": [1, 2, 3], "b": {"c": n}} for n in range(count)]}))


def validate_nested(schema: dict[str, Any], name: str, levels: int) -> Any:
    """Inputs nested under one name so deeply, ending in a string."""
    value: Any = "end"
    for _ in range(levels):
        value = {name: value}
    return _shown(InputSchema(schema).validate(value))


def _shown(value: Any) -> Any:
    if isinstance(value, str):
        return value[:SHOWN]
    return value if value is None or isinstance(value, bool | int | float) else jsondata.encode(value).decode()[:SHOWN]
