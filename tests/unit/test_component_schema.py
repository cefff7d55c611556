"""What type hints and docstrings become: JSON Schemas, or a refusal that names the reason."""

import dataclasses
import enum
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any, NoReturn

import pytest
from jsonschema_rs import meta
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from openagents_json.components import ComponentRegistry, StepContext
from openagents_json.errors import InvalidComponent


@pytest.fixture
def registry() -> ComponentRegistry:
    return ComponentRegistry()


class Point(BaseModel):
    x: float
    y: float = 0.0


@dataclasses.dataclass
class Size:
    width: int


class Row(TypedDict):
    name: str


class Colour(enum.Enum):
    RED = "red"


class Opaque: ...


def test_input_schema_holds_types_defaults_and_descriptions(registry: ComponentRegistry) -> None:
    @registry.tool
    def fetch(
        url: str, retries: Annotated[int, Field(ge=0)] = 3, *, headers: dict[str, str] | None = None, raw: Any
    ) -> None:
        """Fetch a page.

        Args:
            url: Where it is,
                with its scheme.
            retries (int): How often to try again.
            headers: Sent along: all of them.

        Returns:
            raw: not an argument
        """

    assert registry.get("fetch").input_schema == {
        "type": "object",
        "additionalProperties": False,
        "required": ["url", "raw"],
        "properties": {
            "url": {"type": "string", "description": "Where it is, with its scheme."},
            "retries": {"type": "integer", "minimum": 0, "default": 3, "description": "How often to try again."},
            "headers": {
                "anyOf": [{"type": "object", "additionalProperties": {"type": "string"}}, {"type": "null"}],
                "default": None,
                "description": "Sent along: all of them.",
            },
            "raw": {},
        },
    }


def test_field_description_wins_over_the_docstring(registry: ComponentRegistry) -> None:
    @registry.tool
    def fetch(url: Annotated[str, Field(description="own")]) -> None:
        """Fetch.

        Args:
            url: from the docstring
        """

    assert registry.get("fetch").input_schema["properties"]["url"]["description"] == "own"


def test_defaults_are_shown_as_json_or_left_out(registry: ComponentRegistry) -> None:
    def draw(point: Point = Point(x=1), colour: Colour = Colour.RED, marker: Any = Opaque()) -> Point:
        return point

    component = registry.register(draw)
    properties = component.input_schema["properties"]
    assert properties["point"]["default"] == {"x": 1.0, "y": 0.0}
    assert properties["colour"]["default"] == "red"
    assert properties["marker"] == {}
    assert "required" not in component.input_schema
    assert component.output_schema is not None
    for schema in (component.input_schema, component.output_schema):
        meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})


def test_open_component_takes_any_further_input(registry: ComponentRegistry) -> None:
    def render(template: str, **values: Any) -> str:
        return template

    assert registry.register(render).input_schema["additionalProperties"] is True


def test_parameter_names_need_not_suit_a_model(registry: ComponentRegistry) -> None:
    def odd(model_config: int, _private: int, json: int, self: int) -> None: ...

    assert list(registry.register(odd).input_schema["properties"]) == ["model_config", "_private", "json", "self"]


@pytest.mark.parametrize(
    ("hint", "schema"),
    [
        (None, {"type": "null"}),
        (Any, {}),
        (dict[str, Any], {"type": "object", "additionalProperties": True}),
        (list[Row] | None, None),
        (Point, None),
        (Size, None),
    ],
)
def test_output_schema_comes_from_the_return_annotation(
    registry: ComponentRegistry, hint: Any, schema: dict[str, Any] | None
) -> None:
    def call() -> Any: ...

    call.__annotations__["return"] = hint
    found = registry.register(call).output_schema
    assert found is not None
    assert schema is None or found == schema


def test_output_without_annotation_has_no_schema(registry: ComponentRegistry) -> None:
    def never() -> NoReturn:
        raise ValueError

    assert registry.register(lambda: 1, "free").output_schema is None
    assert registry.register(never).output_schema is None


def test_model_output_schema_uses_the_field_names(registry: ComponentRegistry) -> None:
    class Aliased(BaseModel):
        inner: int = Field(alias="outer")

    def call() -> Aliased:
        return Aliased(outer=1)

    component = registry.register(call)
    assert component.accept_output(call()) == {"inner": 1}


# ── refusals ──────────────────────────────────────────────────────────────────────────────────────────────────────


def unresolvable(x: "Missing") -> None: ...  # type: ignore[name-defined]  # noqa: F821


def positional(x: int, /) -> None: ...


def variadic(*rows: int) -> None: ...


def typed_extras(**values: int) -> None: ...


def two_contexts(a: StepContext, b: StepContext) -> None: ...


def opaque_input(good: int, bad: Opaque) -> None: ...


def called_back(then: Callable[[], None]) -> None: ...


def opaque_output() -> Opaque:
    return Opaque()


def field_default(x: int = Field(ge=1)) -> None: ...


class Untold:
    __signature__ = "nonsense"

    def __call__(self) -> None: ...


def generator() -> Iterator[int]:
    yield 1


async def async_generator() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (unresolvable, "'Missing' is not defined"),
        (positional, "x is positional-only"),
        (variadic, r"\*rows"),
        (typed_extras, "can only be Any"),
        (two_contexts, "two StepContext parameters"),
        (opaque_input, r"no JSON form \(bad: Opaque\)"),
        (called_back, r"no JSON form \(then: "),
        (opaque_output, "returns Opaque"),
        (Untold(), "does not tell its parameters"),
        (field_default, "Annotated"),
        (generator, "yields"),
        (async_generator, "yields"),
        (dict.fromkeys, "is positional-only|does not tell"),
        (print, r"\*args"),
    ],
)
def test_callables_that_cannot_be_components_are_refused_with_the_reason(
    registry: ComponentRegistry, function: Any, message: str
) -> None:
    with pytest.raises(InvalidComponent, match=message):
        registry.register(function, "it")
    assert len(registry) == 0
