"""Calling a component: inputs are copied and checked, outputs become plain JSON."""

import asyncio
import dataclasses
import datetime
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from openagents_json.components import AgentInstances, Component, ComponentRegistry, InvalidOutput, StepContext
from openagents_json.errors import InvalidInputs


class Point(BaseModel):
    x: float
    y: float = 0.0


@dataclasses.dataclass
class Box:
    corner: Point
    size: tuple[int, int]


def component(function: Callable[..., Any], **options: Any) -> Component:
    return ComponentRegistry().register(function, options.pop("name", "it"), **options)


def call(function: Callable[..., Any], inputs: dict[str, Any], context: StepContext | None = None) -> Any:
    return component(function).prepare(inputs, context or StepContext.for_tests(), AgentInstances())()


def problems(function: Callable[..., Any], inputs: dict[str, Any]) -> list[str]:
    with pytest.raises(InvalidInputs) as caught:
        component(function).prepare(inputs, StepContext.for_tests(), AgentInstances())
    return [str(problem) for problem in caught.value.problems]


# ── inputs ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_component_gets_its_own_copy_of_the_inputs() -> None:
    def spoil(rows: list[dict[str, Any]], anything: Any) -> Any:
        rows[0]["a"] = 2
        rows.append({})
        anything["b"].clear()
        return rows

    inputs = {"rows": [{"a": 1}], "anything": {"b": [1]}}
    assert call(spoil, inputs) == [{"a": 2}, {}]
    assert inputs == {"rows": [{"a": 1}], "anything": {"b": [1]}}


def test_inputs_become_what_the_signature_declares() -> None:
    def show(point: Point, box: Box, day: datetime.date, pair: tuple[int, str], ratio: float) -> list[Any]:
        return [point, box, day, pair, ratio]

    shown = call(
        show,
        {
            "point": {"x": 1},
            "box": {"corner": {"x": 2}, "size": [3, 4]},
            "day": "2026-01-31",
            "pair": [1, "a"],
            "ratio": 2,
        },
    )
    assert shown == [Point(x=1), Box(Point(x=2), (3, 4)), datetime.date(2026, 1, 31), (1, "a"), 2.0]


def test_omitted_inputs_take_the_python_default() -> None:
    missing = object()

    def show(a: int = 1, b: Any = missing) -> tuple[int, Any]:
        return a, b

    assert call(show, {}) == (1, missing)
    assert call(show, {"a": 2, "b": None}) == (2, None)


def test_all_problems_of_inputs_are_reported_with_their_paths() -> None:
    def fetch(url: str, count: int, rows: list[dict[str, int]], point: Point, either: int | list[str]) -> None: ...

    inputs = {
        "count": "3",
        "rows": [{}, {"a": 1, "b c": "x"}],
        "point": {},
        "either": ["a", 2],
        "utl": "…",
        "zzz": 1,
    }
    assert problems(fetch, inputs) == [
        "$.inputs.url: It is required.",
        "$.inputs.count: Input should be a valid integer.",
        '$.inputs.rows[1]["b c"]: Input should be a valid integer.',
        "$.inputs.point.x: It is required.",
        "$.inputs.either: Input should be a valid integer.",
        "$.inputs.either[1]: Input should be a valid string.",
        "$.inputs.utl: There is no input 'utl' here. Did you mean 'url'?",
        "$.inputs.zzz: There is no input 'zzz' here.",
    ]


def test_input_errors_show_no_value() -> None:
    def login(password: int, nested: dict[str, int]) -> None: ...

    inputs = {"password": "canary-1", "nested": {"a": "canary-2"}}
    with pytest.raises(InvalidInputs) as caught:
        component(login).prepare(inputs, StepContext.for_tests(), AgentInstances())
    assert "canary" not in "".join(traceback.format_exception(caught.value))
    assert caught.value.__context__ is None


def test_many_problems_are_cut_at_fifty() -> None:
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    assert len(problems(total, {"numbers": ["x"] * 60})) == 50


@pytest.mark.parametrize("value", ["3", 3.0, True, None])
def test_values_are_not_converted_to_fit(value: Any) -> None:
    def count(n: int) -> None: ...

    assert problems(count, {"n": value})


def test_integers_beyond_64_bits_arrive_whole() -> None:
    assert call(lambda n: n, {"n": 2**70}) == 2**70


def test_open_component_receives_further_inputs_by_name() -> None:
    def render(template: str, **values: Any) -> dict[str, Any]:
        return values

    assert call(render, {"template": "t", "a": 1, "b": [2]}) == {"a": 1, "b": [2]}


@pytest.mark.parametrize("optional", [False, True])
def test_context_is_injected_and_is_no_input(optional: bool) -> None:
    def plain(x: int, context: StepContext) -> StepContext:
        return context

    def with_default(x: int, context: StepContext | None = None) -> StepContext | None:
        return context

    function: Callable[..., Any] = with_default if optional else plain
    function.__annotations__.pop("return")
    context = StepContext.for_tests()
    assert call(function, {"x": 1}, context) is context
    assert problems(function, {"x": 1, "context": {}}) == ["$.inputs.context: There is no input 'context' here."]


async def test_async_component_gives_a_coroutine() -> None:
    async def double(n: int) -> int:
        await asyncio.sleep(0)
        return 2 * n

    assert await call(double, {"n": 2}) == 4


# ── outputs ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_output_is_a_plain_copy() -> None:
    def nothing() -> Any: ...

    value: dict[str, Any] = {"rows": [1, (2, 3)]}
    output = component(nothing).accept_output(value)
    assert output == {"rows": [1, [2, 3]]}
    assert output["rows"] is not value["rows"]


def test_models_and_dataclasses_become_objects_that_fit_their_schema() -> None:
    def boxes() -> list[Box]:
        return [Box(Point(x=1), (2, 3))]

    assert component(boxes).accept_output(boxes()) == [{"corner": {"x": 1.0, "y": 0.0}, "size": [2, 3]}]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [float("nan")]}, r"\$\.a\[0\]"),
        (float("inf"), "inf"),
        ({1, 2}, "set"),
        (b"x", "bytes"),
        ((n for n in (1,)), "generator"),
        (object(), "object"),
        ({1: 2}, "key"),
        (datetime.date(2026, 1, 1), "isoformat"),
    ],
)
def test_output_that_is_no_json_is_refused_with_a_sentence(value: Any, message: str) -> None:
    with pytest.raises(InvalidOutput, match=message) as caught:
        component(lambda: None, name="maker").accept_output(value)
    assert caught.value.code == "output.invalid"
    assert caught.value.name == "maker"
    assert "'maker'" in str(caught.value)


def test_unawaited_coroutine_is_refused_and_closed() -> None:
    async def later() -> int:
        return 1

    with pytest.raises(InvalidOutput, match="async def"):
        component(lambda: None).accept_output(later())


def test_output_at_the_limit_is_accepted_and_one_byte_above_is_not() -> None:
    free = component(lambda: None)
    assert free.accept_output("x" * (1024 * 1024 - 2))
    with pytest.raises(InvalidOutput) as caught:
        free.accept_output("x" * (1024 * 1024 - 1))
    assert caught.value.code == "limit.output"
    with pytest.raises(InvalidOutput):
        free.accept_output("xxx", limit_bytes=4)


def test_output_that_does_not_fit_the_annotation_is_refused_with_all_places() -> None:
    def rows() -> dict[str, list[int]]:
        return {}

    value = {"a": [1, "canary"], "b c": "canary"}
    with pytest.raises(InvalidOutput) as caught:
        component(rows).accept_output(value)
    assert caught.value.code == "output.invalid"
    assert {problem.path for problem in caught.value.problems} == {"$.output.a[1]", '$.output["b c"]'}
    assert "canary" not in "".join(traceback.format_exception(caught.value))


def test_many_output_problems_are_cut_at_fifty() -> None:
    def numbers() -> list[int]:
        return []

    with pytest.raises(InvalidOutput) as caught:
        component(numbers).accept_output(["x"] * 60)
    assert len(caught.value.problems) == 50


def test_output_without_annotation_may_be_any_json() -> None:
    free = component(lambda: None)
    values: list[Any] = [None, 1, "a", [], {}]
    assert [free.accept_output(value) for value in values] == values


def test_null_is_refused_where_a_value_was_promised() -> None:
    def promise() -> str:
        return ""

    with pytest.raises(InvalidOutput, match=r"\$\.output"):
        component(promise).accept_output(None)
