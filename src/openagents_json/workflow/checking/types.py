"""What is known of a value before anything runs: the JSON types it may have, its fields and its items.

A `Type` is a union of alternatives, or `ANY`, of which nothing is known: then nothing is reported that may be right.
Types of schemas are read on demand, so recursive schemas cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

MAX_ALTERNATIVES = 64  # of one type; a wider one is ANY
MAX_LEVELS = 12  # how deeply two types are compared, and references followed
MAX_READINGS = 10_000  # of the parts of one schema; beyond, a part is ANY
MAX_COMPARISONS = 5_000  # of alternatives in one question; beyond, everything fits
KINDS = ("null", "boolean", "integer", "number", "string", "array", "object")
WORDS = {
    "null": "null",
    "boolean": "true or false",
    "integer": "an integer",
    "number": "a number",
    "string": "a string",
    "array": "a list",
    "object": "an object",
}

_NUMERIC = ("integer", "number")

Later: TypeAlias = "Type | Callable[[], Type]"  # a type, or what works it out when it is asked for


@dataclass(frozen=True, slots=True, eq=False)
class Alternative:
    """One JSON type that a value may have. Compared by identity."""

    kind: str  # one of KINDS
    fields: Mapping[str, Later] | None = None  # of an object: those that are known; None: nothing is
    required: frozenset[str] = frozenset()
    closed: bool = False  # whether it has no other fields
    items: Later | None = None  # of an array; None: unknown


@dataclass(frozen=True, slots=True)
class Type:
    """The alternatives of a value; None: anything. Without any there is never a value, as of a step that raises."""

    alternatives: tuple[Alternative, ...] | None
    reason: str | None = None  # why the value may be missing at run time (null), such as "step 'a' may be skipped"

    @property
    def is_known(self) -> bool:
        return self.alternatives is not None

    @property
    def kinds(self) -> frozenset[str]:
        """The JSON types it may have; empty if unknown."""
        return frozenset(one.kind for one in self.alternatives or ())

    def may_be(self, kind: str) -> bool:
        """Whether a value of this JSON type is possible."""
        if self.alternatives is None:
            return True
        wanted = _NUMERIC if kind in _NUMERIC else (kind,)
        return any(one.kind in wanted for one in self.alternatives)

    def without_null(self) -> Type:
        """The type of the value where it is neither null nor missing."""
        if self.alternatives is None:
            return ANY
        return Type(tuple([one for one in self.alternatives if one.kind != "null"]))

    def or_missing(self, reason: str) -> Type:
        """The type of a value that may also be missing."""
        return replace(self, reason=self.reason or reason)

    def there(self) -> Type:
        """The type of a value that is known not to be missing."""
        return self if self.reason is None else replace(self, reason=None)

    def described(self) -> str:
        """`a string or null`; for messages."""
        kinds = self.kinds
        return " or ".join(WORDS[kind] for kind in reversed(KINDS) if kind in kinds) or "something"


def _now(later: Later) -> Type:
    return later if isinstance(later, Type) else later()


ANY = Type(None)
NEVER = Type(())
NULL = Type((Alternative("null"),))
BOOLEAN = Type((Alternative("boolean"),))
INTEGER = Type((Alternative("integer"),))
NUMBER = Type((Alternative("number"),))
STRING = Type((Alternative("string"),))
LIST = Type((Alternative("array"),))
OBJECT = Type((Alternative("object"),))
_OF_KIND = {
    "null": NULL,
    "boolean": BOOLEAN,
    "integer": INTEGER,
    "number": NUMBER,
    "string": STRING,
    "array": LIST,
    "object": OBJECT,
}


def list_of(items: Later) -> Type:
    """A list whose items are of one type."""
    return Type((Alternative("array", items=items),))


def object_of(fields: Mapping[str, Type]) -> Type:
    """An object with exactly these fields."""
    return Type((Alternative("object", fields, frozenset(fields), closed=True),))


def union(types: Iterable[Type]) -> Type:
    """Any of these types. Of none: nothing is known."""
    several = tuple(types)
    if len(several) == 1:
        return several[0]
    reason = None
    for one in several:
        reason = reason or one.reason
    found: dict[Alternative, None] = {}
    for one in several:
        if one.alternatives is None:
            return Type(None, reason)
        for alternative in one.alternatives:
            found[alternative] = None
    return Type(tuple(found) if several and len(found) <= MAX_ALTERNATIVES else None, reason)


def of_value(value: Any) -> Type:
    """The type of a constant."""
    match value:
        case None:
            return NULL
        case bool():
            return BOOLEAN
        case int():
            return INTEGER
        case float():
            return NUMBER
        case str():
            return STRING
        case Mapping():
            return object_of({name: of_value(member) for name, member in value.items()})
        case list() | tuple():
            return list_of(lambda: union(map(of_value, value))) if value else LIST
    return ANY


# ── schemas ───────────────────────────────────────────────────────────────────────────────────────────────────────


def of_schema(schema: Any, *, closes: bool = False) -> Type:
    """The type that a JSON Schema describes.

    `closes`: objects have no fields but the declared ones unless the schema says otherwise. So it is with the schemas
    of return annotations, which name all fields of a class; in a hand-written schema, other fields are possible.
    """
    return _Reader(schema, closes).read(schema, 0)


class _Reader:
    """Reads the parts of one schema, each when it is asked for and once."""

    def __init__(self, root: Any, closes: bool) -> None:
        self.root = root
        self.closes = closes
        self.known: dict[int, Type] = {}  # by the identity of the part, which the root keeps alive

    def later(self, schema: Any) -> Later:
        return lambda: self.read(schema, 0)

    def read(self, schema: Any, level: int) -> Type:
        if not isinstance(schema, Mapping) or level > MAX_LEVELS or len(self.known) > MAX_READINGS:
            return ANY
        found = self.known.get(id(schema))
        if found is None:
            self.known[id(schema)] = ANY  # for a part that refers to itself
            found = self.known[id(schema)] = self.part(schema, level)
        return found

    def part(self, schema: Mapping[str, Any], level: int) -> Type:
        if isinstance(reference := schema.get("$ref"), str):
            return self.read(self.resolve(reference), level + 1)
        if any(word in schema for word in ("not", "if", "$dynamicRef")):
            return ANY
        several = next((schema[word] for word in ("anyOf", "oneOf", "allOf") if word in schema), None)
        if several is not None:
            is_plain = isinstance(several, list) and "properties" not in schema
            if not is_plain or ("allOf" in schema and len(several) > 1):
                return ANY
            return union([self.read(one, level + 1) for one in several])
        if "const" in schema:
            return of_value(schema["const"])
        kinds = schema.get("type")
        if kinds is None and isinstance(options := schema.get("enum"), list):
            return union([of_value(one) for one in options[:MAX_ALTERNATIVES]])
        if isinstance(kinds, str):
            kinds = [kinds]
        if not isinstance(kinds, list) or not all(kind in KINDS for kind in kinds):
            return ANY
        return union([self.of_kind(kind, schema) for kind in kinds])

    def of_kind(self, kind: str, schema: Mapping[str, Any]) -> Type:
        return Type((self.alternative(kind, schema),)) if kind in ("array", "object") else _OF_KIND[kind]

    def alternative(self, kind: str, schema: Mapping[str, Any]) -> Alternative:
        if kind == "array":
            items = schema.get("items")
            known = isinstance(items, Mapping) and "prefixItems" not in schema
            return Alternative(kind, items=self.later(items) if known else None)
        if kind != "object":
            return Alternative(kind)
        properties = schema.get("properties")
        if not isinstance(properties, Mapping):
            return Alternative(kind)
        others = schema.get("additionalProperties", schema.get("unevaluatedProperties"))
        is_open = "patternProperties" in schema or "dependentSchemas" in schema or others not in (None, False)
        if is_open:
            return Alternative(kind)
        fields = {str(name): self.later(one) for name, one in properties.items()}
        required = schema.get("required", ())
        names = frozenset(name for name in required if isinstance(name, str)) if isinstance(required, list) else ()
        return Alternative(kind, fields, frozenset(names), closed=others is False or self.closes)

    def resolve(self, reference: str) -> Any:
        if not reference.startswith("#"):
            return None
        place: Any = self.root
        for step in reference.split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            place = place.get(key) if isinstance(place, Mapping) else None
        return place


# ── questions ─────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class NoField:
    """A member that a value does not have; `known` are the fields that it has."""

    holder: Type
    known: tuple[str, ...]
    is_certain: bool  # False: its schema does not mention the field, but does not exclude it either


def member(value: Type, key: str | int) -> Type | NoField:
    """What `value.key` or `value[key]` is, or that there is no such member whatever the value is."""
    if value.alternatives is None:
        return ANY
    found: list[Type] = []
    for one in value.alternatives:
        if isinstance(key, int):
            if one.kind in ("array", "string"):
                found.append(STRING if one.kind == "string" else ANY if one.items is None else _now(one.items))
        elif one.kind == "object":
            if one.fields is None:
                return ANY
            if key in one.fields:
                found.append(_now(one.fields[key]))
    if len(found) == 1:
        return found[0]
    if found or not value.alternatives:
        return union(found)
    return _no_field(value, key)


def _no_field(value: Type, key: str | int) -> NoField:
    objects = [one for one in value.alternatives or () if one.kind == "object" and isinstance(key, str)]
    known = dict.fromkeys(name for one in objects for name in one.fields or ())
    return NoField(value, tuple(known), all(one.closed for one in objects))


def item_type(value: Type) -> Type:
    """What the items of a list are."""
    if value.alternatives is None:
        return ANY
    lists = [one for one in value.alternatives if one.kind == "array"]
    return union([ANY if one.items is None else _now(one.items) for one in lists])


def misfit(value: Type, wanted: Type) -> str | None:
    """Why no value of the one type can be of the other, as a sentence; None if one can.

    Judged is what is plain: the JSON type, the fields that an object must have and those that it cannot have. That a
    value may be missing is not judged here.
    """
    return _Comparison().misfit(value, wanted, 0)


class _Comparison:
    """One question, with what it may still cost."""

    def __init__(self) -> None:
        self.left = MAX_COMPARISONS

    def misfit(self, value: Type, wanted: Type, level: int) -> str | None:
        if not value.alternatives or wanted.alternatives is None or level > MAX_LEVELS:
            return None
        reasons: list[str] = []
        for one in value.alternatives:
            for other in wanted.alternatives:
                reason = self.alternatives(one, other, level)
                if reason is None:
                    return None
                if reason:
                    reasons.append(reason)
        if reasons and len(wanted.without_null().alternatives or ()) == 1:
            return reasons[0]
        if reasons:
            return f"It fits none of the forms that are allowed here: {_inner(reasons[0])}"
        return f"It must be {wanted.described()}, not {value.described()}."

    def alternatives(self, value: Alternative, wanted: Alternative, level: int) -> str | None:
        """As `misfit`; empty if the JSON types differ."""
        self.left -= 1
        if self.left < 0:
            return None
        if value.kind != wanted.kind and not {value.kind, wanted.kind} <= {"integer", "number"}:
            return ""
        if value.kind == "array" and value.items is not None and wanted.items is not None:
            reason = self.misfit(_now(value.items), _now(wanted.items), level + 1)
            return f"Its items do not fit: {_inner(reason)}" if reason else None
        if value.kind == "object" and value.fields is not None and wanted.fields is not None:
            return self.objects(value, wanted, level)
        return None

    def objects(self, value: Alternative, wanted: Alternative, level: int) -> str | None:
        assert value.fields is not None and wanted.fields is not None
        if value.closed and (lacking := sorted(wanted.required - value.fields.keys())):
            return f"Its field {lacking[0]!r} is missing."
        if wanted.closed and (unknown := sorted(value.required - wanted.fields.keys())):
            return f"It has a field {unknown[0]!r}, which is not known there."
        for name in sorted(value.required & wanted.fields.keys()):
            if reason := self.misfit(_now(value.fields[name]), _now(wanted.fields[name]), level + 1):
                return f"Its field {name!r} does not fit: {_inner(reason)}"
        return None


def _inner(reason: str) -> str:
    return reason[:1].lower() + reason[1:]
