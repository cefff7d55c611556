"""The types of expressions: what an operator or a filter makes of what it is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from openagents_json.workflow.checking.types import (
    ANY,
    BOOLEAN,
    INTEGER,
    LIST,
    NUMBER,
    OBJECT,
    STRING,
    NoField,
    Type,
    item_type,
    list_of,
    member,
    object_of,
    of_value,
    union,
)
from openagents_json.workflow.expressions import Template
from openagents_json.workflow.plan import Block
from openagents_json.workflow.terms import Applied, Constant, Operation, Path, Term


@dataclass(frozen=True, slots=True)
class Place:
    """Where an expression stands, and what its conditions have asked about already."""

    block: Block | None
    asked: frozenset[str] = frozenset()  # step ids and names (item, job …) that a condition around it refers to
    conditions: frozenset[str] = frozenset()  # the conditions around it, as written

    def under(self, condition: Any, template: Any) -> Place:
        """The same place, reached only if a condition holds."""
        if template is None or not isinstance(condition, str):
            return self
        return Place(self.block, self.asked | template.steps | template.roots, self.conditions | {condition})


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a reference is. `broken`: where its path ends because there is no such member."""

    type: Type
    reason: str | None = None  # why the value may be missing
    is_on_the_way: bool = False  # what may be missing is something that the path goes through: then it breaks off
    broken: NoField | None = None
    depth: int = 0  # of a broken one: the index of the key that does not exist


class TermTypes:
    """Tells the type of expressions, given what references are."""

    def __init__(self, resolve: Callable[[Path, Place], Resolved]) -> None:
        self.resolve = resolve

    def value(self, template: Template, place: Place) -> Type:
        """The type of any JSON with expressions in it."""
        if (text := template.text) is not None:
            if not text.pieces:
                return ANY if "{{" in str(template.source) else STRING
            return self.term(text.pieces[0].term, place) if text.is_value else STRING
        if isinstance(template.members, dict):
            return object_of({name: self.value(part, place) for name, part in template.members.items()})
        if isinstance(template.members, list):
            items = union([self.value(part, place) for part in template.members]) if template.members else None
            return LIST if items is None else list_of(lambda: items)
        return of_value(template.source)

    def term(self, term: Term, place: Place) -> Type:
        """The type of one expression."""
        match term:
            case Path():
                return self.resolve(term, place).type
            case Constant():
                return of_value(term.value)
            case Applied(is_test=True):
                return BOOLEAN
            case Applied():
                return self.filtered(term, place)
            case Operation():
                return self.operation(term, place)

    def operation(self, term: Operation, place: Place) -> Type:
        name, parts = term.name, term.parts
        if name in ("not", "==", "!=", "<", "<=", ">", ">=", "in"):
            return BOOLEAN
        if name == "~":
            return STRING
        if name == "range":
            return list_of(lambda: INTEGER)
        types = [self.term(part, place) for part in parts]
        match name:
            case "and" | "or":
                return union([one.there() for one in types])
            case "if":
                return union([one.there() for one in types[1:]])
            case "list":
                return list_of(lambda: union(types)) if types else LIST
            case "object":
                keys = [part.value if isinstance(part, Constant) else None for part in parts[::2]]
                if all(isinstance(key, str) for key in keys):
                    return object_of(dict(zip(map(str, keys), types[1::2], strict=True)))
                return OBJECT
            case "key":
                key = parts[1].value if isinstance(parts[1], Constant) else None
                found = member(types[0], key) if isinstance(key, str | int) else ANY
                return ANY if isinstance(found, NoField) else found.there()
            case "slice":
                return types[0].there() if types[0].kinds <= {"array", "string"} else ANY
            case "+" | "-" | "*" | "/" | "//" | "%" | "**":
                return _arithmetic(name, types)
        return ANY

    def filtered(self, term: Applied, place: Place) -> Type:
        name = term.name
        if name in _FILTER_TYPES:
            return _FILTER_TYPES[name]
        if name == "default":
            return self.default(term, place)
        value = self.term(term.parts[0], place)
        match name:
            case "select" | "reject" | "selectattr" | "rejectattr" | "sort" | "unique" | "list":
                if not value.may_be("array") or not value.is_known:
                    return LIST
                items = item_type(value).there()
                if name == "select" and len(term.parts) == 1:
                    items = items.without_null()
                return list_of(lambda: items)
            case "reverse":
                return value.there() if value.kinds <= {"array"} else ANY
            case "first" | "last" | "min" | "max":
                return item_type(value).there() if value.kinds == {"array"} else ANY
            case "abs":
                return value.there() if value.kinds <= {"integer", "number"} else ANY
        return ANY

    def default(self, term: Applied, place: Place) -> Type:
        first = term.parts[0]
        resolved = self.resolve(first, place) if isinstance(first, Path) else Resolved(self.term(first, place))
        others = [self.term(part, place) for part in term.parts[1:2]] or [STRING]
        return union(others if resolved.broken else [resolved.type.without_null(), *others])


_FILTER_TYPES = (
    dict.fromkeys(
        [
            "capitalize",
            "center",
            "format",
            "indent",
            "join",
            "lower",
            "replace",
            "string",
            "title",
            "tojson",
            "trim",
            "truncate",
            "upper",
            "urlencode",
        ],
        STRING,
    )
    | dict.fromkeys(["count", "length", "int"], INTEGER)
    | dict.fromkeys(["float", "round", "sum"], NUMBER)
    | dict.fromkeys(["bool"], BOOLEAN)
    | dict.fromkeys(["map", "values", "items", "dictsort", "batch", "groupby", "lines", "split", "slice"], LIST)
    | {"keys": list_of(lambda: STRING)}
)


def _arithmetic(name: str, types: list[Type]) -> Type:
    kinds = frozenset().union(*[one.kinds for one in types])
    if not all(one.alternatives for one in types) or not kinds <= {"integer", "number"}:
        return ANY  # sums of texts and lists are possible too
    return INTEGER if kinds == {"integer"} and name not in ("/", "**") else NUMBER
