"""Type hints → JSON Schema (2020-12) and validators, through pydantic and jsonschema-rs.

Inputs are checked by pydantic, because that makes the values a component declared (a model, a date, a tuple) and a
fresh copy in the same pass. Outputs are checked by jsonschema-rs: they are plain JSON already and stay so.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, NotRequired

from jsonschema_rs import Draft202012Validator
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import ErrorDetails, to_jsonable_python
from typing_extensions import TypedDict

from openagents_json import jsondata
from openagents_json.components.signature import UNKNOWN, Input, Signature
from openagents_json.errors import InvalidComponent, InvalidInputs, Problem

MAX_PROBLEMS = 50


class _Schema(GenerateJsonSchema):
    """Pydantic's schemas without the titles it makes up, and silent about defaults that are no JSON."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012 (declared so by pydantic)

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


class InputReader:
    """Reads the inputs of one component: JSON data in, the arguments of a call out."""

    __slots__ = ("_name", "_names", "_validate", "schema")

    def __init__(self, signature: Signature, name: str) -> None:
        """`InvalidComponent` names the parameters whose types have no JSON form."""
        adapter = _adapter(signature, name)
        self.schema = _input_schema(adapter, signature, name)
        self._name = name
        self._names = tuple(one.name for one in signature.inputs)
        self._validate = adapter.validator.validate_json

    def read(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments as a new dict that shares nothing with `inputs`; omitted ones stay out, Python has the default.

        Values have to fit strictly: `"3"` is no int (but 3 is a float). `InvalidInputs` with every problem; messages
        never contain a value, since an input may be a secret.
        """
        encoded = jsondata.encode(inputs if isinstance(inputs, dict) else dict(inputs))
        try:
            arguments: dict[str, Any] = self._validate(encoded, strict=True)
            return arguments
        except ValidationError as error:
            details = error.errors(include_url=False, include_context=False, include_input=False)
        raise InvalidInputs(self._problems(details, inputs), f"The inputs of component {self._name!r}")

    def _problems(self, details: list[ErrorDetails], inputs: Mapping[str, Any]) -> list[Problem]:
        problems: dict[Problem, None] = {}  # the members of a union may complain alike
        for detail in details[:MAX_PROBLEMS]:
            problems[self._problem(detail, inputs)] = None
        return list(problems)

    def _problem(self, detail: ErrorDetails, inputs: Mapping[str, Any]) -> Problem:
        place, key = detail["loc"], str(detail["loc"][-1]) if detail["loc"] else ""
        if detail["type"] == "missing":
            return Problem(json_path("$.inputs", [*_real_place(place[:-1], inputs), key]), "It is required.")
        path = json_path("$.inputs", _real_place(place, inputs))
        if detail["type"] == "extra_forbidden":
            known = self._names if len(place) == 1 else ()
            return Problem(path, f"There is no input {key!r} here.", _nearest(key, known))
        return Problem(path, f"{detail['msg']}.")


class OutputCheck:
    """Checks plain JSON against the schema of a component's return annotation; without one everything fits."""

    __slots__ = ("_validator", "schema")

    def __init__(self, returns: Any, name: str) -> None:
        """`InvalidComponent` if the annotation has no JSON Schema."""
        self.schema: dict[str, Any] | None = None
        self._validator: Draft202012Validator | None = None
        if returns is UNKNOWN:
            return
        try:
            adapter: TypeAdapter[Any] = TypeAdapter(returns)
            self.schema = adapter.json_schema(by_alias=False, mode="serialization", schema_generator=_Schema)
            if self.schema:
                # `mask` keeps the value out of messages; `offline` lets a $ref read neither network nor files.
                self._validator = Draft202012Validator(self.schema, offline=True, mask="the value")
        except Exception as error:  # user types take part in making the schema and may raise anything
            raise InvalidComponent(
                f"Component {name!r} returns {_shown(returns)}, which has no JSON form: {_first_line(error)}", name=name
            ) from error

    def problems(self, value: Any) -> list[Problem]:
        """What does not fit, with paths from `$.output`; empty if it fits."""
        if self._validator is None or self._validator.is_valid(value):
            return []
        found: list[Problem] = []
        for error in self._validator.iter_errors(value):
            found.append(Problem(json_path("$.output", error.instance_path), f"{error.message}."))
            if len(found) == MAX_PROBLEMS:
                break
        return found


_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


def json_path(root: str, place: Iterable[str | int]) -> str:
    """A JSON path such as `$.inputs.rows[2].name`; keys that are no names are quoted: `$.inputs["a b"]`."""
    path = root
    for part in place:
        if isinstance(part, int):
            path += f"[{part}]"
        elif _PLAIN_KEY.fullmatch(part):
            path += f".{part}"
        else:
            path += f"[{json.dumps(part, ensure_ascii=False)}]"
    return path


def _adapter(signature: Signature, name: str) -> TypeAdapter[Any]:
    # A TypedDict rather than a model: it validates to the dict of arguments itself, holds omitted parameters out of
    # it, and takes any parameter name (a model refuses `model_config` and `_x`, and warns of `json`).
    fields = {one.name: _hint(one) if one.default is UNKNOWN else NotRequired[_hint(one)] for one in signature.inputs}
    make: Any = TypedDict  # type checkers take a literal dict only
    arguments = make("Inputs", fields)
    arguments.__pydantic_config__ = ConfigDict(extra="allow" if signature.open else "forbid", strict=True)
    try:
        return TypeAdapter(arguments)
    except Exception as error:
        raise _no_json_form(signature, name, error) from error


def _input_schema(adapter: TypeAdapter[Any], signature: Signature, name: str) -> dict[str, Any]:
    try:
        schema = adapter.json_schema(schema_generator=_Schema)
    except Exception as error:
        raise _no_json_form(signature, name, error) from error
    schema.pop("title", None)
    for one in signature.inputs:
        field = schema["properties"][one.name]
        if one.description and "description" not in field:
            field["description"] = one.description
        if one.default is not UNKNOWN:
            try:
                field["default"] = to_jsonable_python(one.default, inf_nan_mode="strings")
            except ValueError:
                continue  # no JSON: the schema says only that the input may be left out
    return schema


def _no_json_form(signature: Signature, name: str, error: Exception) -> InvalidComponent:
    """Names the parameters to blame: each is tried alone."""
    bad: list[str] = []
    for one in signature.inputs:
        try:
            TypeAdapter(_hint(one)).json_schema(schema_generator=_Schema)
        except Exception:
            bad.append(f"{one.name}: {_shown(one.hint)}")
    which = f" ({', '.join(bad)})" if bad else ""
    return InvalidComponent(
        f"Component {name!r} has parameters whose types have no JSON form{which}: {_first_line(error)}", name=name
    )


def _hint(one: Input) -> Any:
    return Any if one.hint is UNKNOWN else one.hint


def _real_place(place: Iterable[str | int], value: Any) -> list[str | int]:
    """The parts of a pydantic location that exist in the data: it also names the members of unions."""
    real: list[str | int] = []
    for part in place:
        is_index = isinstance(part, int) and isinstance(value, list) and part < len(value)
        if is_index or (isinstance(value, Mapping) and part in value):
            value = value[part]
            real.append(part)
    return real


def _nearest(name: str, known: Iterable[str]) -> str | None:
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"Did you mean {matches[0]!r}?" if matches else None


def _shown(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
