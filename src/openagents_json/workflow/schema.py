"""JSON Schemas in definitions: whether one is a schema, refers only to itself, and what checking against it may cost.

The cost is counted in units of about 20 ns: how many subschemas can apply to one place of the data, following
references. Data has many places, so `SchemaCost` also bounds the product (see `inputs`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from jsonschema_rs import Draft202012Validator, FancyRegexOptions, ValidationError

from openagents_json import jsondata
from openagents_json.errors import Problem
from openagents_json.workflow.problems import Problems, json_path, member_path, nearest, shown

MAX_SUBSCHEMAS = 10_000  # written down, and reachable at one place of the data by following references
MAX_DEPTH = 32  # levels of data that a schema describes
PATTERN_CHARACTERS = 512
MAX_PATTERNS = 200
DRAFT = "https://json-schema.org/draft/2020-12/schema"
PATTERN_OPTIONS = FancyRegexOptions(backtrack_limit=100_000, size_limit=1024 * 1024)

_ONE = ("not", "if", "then", "else")  # in place: applied to the same data
_ALL = ("allOf", "anyOf", "oneOf")
_BELOW = ("additionalProperties", "unevaluatedProperties", "items", "contains", "unevaluatedItems", "propertyNames")
_ELSEWHERE = ("contentSchema",)
_NAMED = ("properties", "patternProperties", "dependentSchemas", "$defs", "definitions")
_REFUSED = {
    "$dynamicRef": "`$dynamicRef` is not read; use `$ref`.",
    "$recursiveRef": "`$recursiveRef` is not read; use `$ref`.",
    "$dynamicAnchor": "`$dynamicAnchor` is not read; use `$defs` and `$ref`.",
    "dependencies": "`dependencies` is of an older JSON Schema; use `dependentSchemas` or `dependentRequired`.",
}
_META = Draft202012Validator({"$ref": DRAFT}, offline=True)


@dataclass(frozen=True, slots=True)
class SchemaCost:
    """What checking data may cost, in units: once at the top, and at each place below it."""

    top: int
    below: int
    levels: int | None = None  # how deeply data may be nested; None: the cost does not rise with the depth

    def of(self, places: int) -> int:
        """The cost of data with this many values in it."""
        return self.top + self.below * places


@dataclass(slots=True)
class _Part:
    """A subschema with what it applies to the same data and to the members of that data."""

    own: int  # units of its own keywords
    here: list[int] = field(default_factory=list)  # parts applied in place
    every_member: list[int] = field(default_factory=list)  # of an object: applied to any member
    members: list[int] = field(default_factory=list)  # … one of these to the member of its name
    every_item: list[int] = field(default_factory=list)
    items: list[int] = field(default_factory=list)


def examine(schema: dict[str, Any], path: str = "$") -> tuple[list[Problem], SchemaCost]:
    """The problems of any JSON Schema object, and what checking against it may cost."""
    problems = Problems()
    free = SchemaCost(1, 1)
    if (draft := schema.get("$schema", DRAFT)) not in (DRAFT, DRAFT + "#"):
        problems.add(f"{path}.$schema", f"Schemas are read as JSON Schema 2020-12; this says {shown(draft)}.")
    parts: dict[int, tuple[str, dict[str, Any]]] = {}
    patterns = 0
    for place, part in subschemas(schema, path):
        if len(parts) == MAX_SUBSCHEMAS:
            problems.add(path, f"The schema has more than {MAX_SUBSCHEMAS:,} subschemas.")
            return problems.found, free
        parts[id(part)] = place, part
        patterns += _check_part(part, place, problems, is_root=part is schema)
        if problems.is_full:
            return problems.found, free
    if patterns > MAX_PATTERNS:
        problems.add(path, f"The schema has {patterns} patterns; {MAX_PATTERNS} are allowed.")
    targets = _references(schema, parts, problems)
    if problems:
        return problems.found, free
    cost = _cost(schema, path, parts, targets, problems)
    if not problems:
        _check_compiles(schema, path, problems)
    return problems.found, cost


def subschemas(schema: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every subschema that is an object with its path, the schema itself first. Without recursion."""
    stack: list[tuple[str, Any]] = [(path, schema)]
    while stack:
        place, part = stack.pop()
        if not isinstance(part, dict):
            continue
        yield place, part
        below = [(f"{place}.{key}", part[key]) for key in (*_ONE, *_BELOW, *_ELSEWHERE) if key in part]
        for key in _NAMED:
            if isinstance(named := part.get(key), dict):
                below += [(member_path(f"{place}.{key}", name), one) for name, one in named.items()]
        for key in (*_ALL, "prefixItems"):
            if isinstance(several := part.get(key), list):
                below += [(member_path(f"{place}.{key}", index), one) for index, one in enumerate(several)]
        stack += reversed(below)


# ── each subschema by itself ──────────────────────────────────────────────────────────────────────────────────────


def _check_part(part: dict[str, Any], path: str, problems: Problems, *, is_root: bool) -> int:
    """Check one subschema without those in it. Returns how many patterns it has."""
    for key, message in _REFUSED.items():
        if key in part:
            problems.add(f"{path}.{key}", message)
    if "$id" in part and not is_root:
        problems.add(f"{path}.$id", "`$id` may stand only at the top of a schema.")
    _check_meta(part, path, problems)
    patterns = [part["pattern"]] if isinstance(part.get("pattern"), str) else []
    if isinstance(named := part.get("patternProperties"), dict):
        patterns += named
    for pattern in patterns:
        if len(pattern) > PATTERN_CHARACTERS:
            place = f"{path}.pattern" if pattern is part.get("pattern") else f"{path}.patternProperties"
            problems.add(place, f"A pattern may have {PATTERN_CHARACTERS} characters; this has {len(pattern):,}.")
    return len(patterns)


def _check_meta(part: dict[str, Any], path: str, problems: Problems) -> None:
    """Check the keywords of one subschema. Those inside it have their own turn, so each is reported once."""
    shallow: dict[str, Any] = {}
    for key, value in part.items():
        if key in _NAMED and isinstance(value, dict):
            shallow[key] = {name: _stub(one) for name, one in value.items()}
        elif key in (*_ALL, "prefixItems") and isinstance(value, list):
            shallow[key] = [_stub(one) for one in value]
        elif key in (*_ONE, *_BELOW, *_ELSEWHERE):
            shallow[key] = _stub(value)
        elif key not in ("default", "const", "enum", "examples", "pattern", "$id", "$schema"):
            shallow[key] = value
        elif key in ("enum", "examples") and not isinstance(value, list):
            problems.add(f"{path}.{key}", f"`{key}` must be a list.")
        elif key == "pattern" and not isinstance(value, str):
            problems.add(f"{path}.{key}", "`pattern` must be a string.")
    shallow.pop("patternProperties", None)  # its keys are compiled later, within bounds
    if isinstance(part.get("patternProperties", {}), dict):
        for name, one in part.get("patternProperties", {}).items():
            if not isinstance(one, dict | bool):
                problems.add(member_path(f"{path}.patternProperties", name), "It must be a schema.")
    else:
        problems.add(f"{path}.patternProperties", "`patternProperties` must be an object.")
    try:
        _META.validate(shallow)  # the first error only: a list of them all has no bound
    except ValidationError as error:
        problems.add(json_path(error.instance_path, path), _meta_sentence(error))


def _stub(value: Any) -> Any:
    return True if isinstance(value, dict) else value


def _meta_sentence(error: ValidationError) -> str:
    place = error.instance_path
    keyword = shown(str(place[0]), 40) if place else "the schema"
    if place and place[0] == "type":
        known = ("string", "number", "integer", "boolean", "object", "array", "null")
        hint = nearest(error.instance, known) if isinstance(error.instance, str) else None
        return f"`type` must be one of {', '.join(known)}, or a list of them.{' ' + hint if hint else ''}"
    if place and (place[0] in (*_ONE, *_BELOW) or place[0] in (*_ALL, *_NAMED, "prefixItems")) and len(place) > 1:
        return "It must be a schema: an object, true or false."
    types = getattr(error.kind, "types", None)
    if types:
        return f"{keyword} must be {' or '.join(f'of type {one}' for one in types)}."
    return f"{keyword} does not have a value that JSON Schema allows there."


def _check_compiles(schema: dict[str, Any], path: str, problems: Problems) -> None:
    """The last word has the validator: patterns that do not compile, for example."""
    try:
        compile_schema(schema)
    except (ValidationError, ValueError) as error:
        place = json_path(getattr(error, "instance_path", []), path)
        if getattr(getattr(error, "kind", None), "name", "") == "format" or '"regex"' in str(error):
            problems.add(place, "The pattern is no regular expression, or too large a one.")
        else:
            problems.add(place, f"The schema cannot be used: {str(error).splitlines()[0]}.")


def compile_schema(schema: dict[str, Any]) -> Draft202012Validator:
    """The validator of a schema that has no problems. It reads neither network nor files, and hides values."""
    return Draft202012Validator(
        jsondata.thaw(schema), offline=True, validate_formats=True, pattern_options=PATTERN_OPTIONS, mask="the value"
    )


# ── references and cost ───────────────────────────────────────────────────────────────────────────────────────────


def _references(
    schema: dict[str, Any], parts: dict[int, tuple[str, dict[str, Any]]], problems: Problems
) -> dict[int, int]:
    """For each part with a `$ref`, the part that it refers to. Only references into the same schema are followed."""
    targets: dict[int, int] = {}
    for key, (path, part) in parts.items():
        reference = part.get("$ref")
        if not isinstance(reference, str):
            continue
        if reference != "#" and not reference.startswith("#/"):
            message = f"`$ref` may refer only into the same schema, as #/$defs/name does; this is {shown(reference)}."
            problems.add(f"{path}.$ref", message)
            continue
        target = _resolve(schema, reference)
        if isinstance(target, dict) and id(target) in parts:
            targets[key] = id(target)
        elif not isinstance(target, bool):
            problems.add(f"{path}.$ref", f"There is no schema at {shown(reference)}.", "Put it under `$defs`.")
    return targets


def _resolve(schema: dict[str, Any], reference: str) -> Any:
    value: Any = schema
    for step in reference.split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isdecimal() and len(key) < 6 and int(key) < len(value):
            value = value[int(key)]
        else:
            return None
    return value


def _cost(
    schema: dict[str, Any],
    path: str,
    parts: dict[int, tuple[str, dict[str, Any]]],
    targets: dict[int, int],
    problems: Problems,
) -> SchemaCost:
    """How the number of subschemas that apply at one place rises from level to level of the data."""
    graph = {key: _part(part, targets.get(key)) for key, (_, part) in parts.items()}
    order = _inner_first(graph)
    if order is None:
        problems.add(path, "A `$ref` of this schema leads back to itself without going deeper into the data.")
        return SchemaCost(1, 1)
    history = _history(order, graph, id(schema))
    top, below, last, worst = history[0], max(history[1:]), history[-1], max(history)
    if worst > MAX_SUBSCHEMAS and (len(history) <= 4 or not _is_recursive(graph)):
        problems.add(path, f"Its references and combinations unfold to more than {MAX_SUBSCHEMAS:,} subschemas.")
    elif worst > MAX_SUBSCHEMAS:  # an upper bound that rises with the depth of the data: so that has to be limited
        return SchemaCost(top, max(history[1:-1]), len(history) - 2)
    elif last and not _is_recursive(graph):
        problems.add(path, f"The schema describes data of more than {MAX_DEPTH} levels.")
    elif last and last > history[MAX_DEPTH // 2]:
        return SchemaCost(top, below, MAX_DEPTH)
    return SchemaCost(top, max(below, 1))


def _history(order: list[int], graph: dict[int, _Part], root: int) -> list[int]:
    """The units at one place at the top, one level below … until there are none, too many, or MAX_DEPTH levels."""
    level = _level(order, graph, None)
    history = [level[root]]
    for _ in range(MAX_DEPTH):
        level = _level(order, graph, level)
        history.append(level[root])
        if not level[root] or max(history) > MAX_SUBSCHEMAS:
            break
    return history


def _part(part: dict[str, Any], target: int | None) -> _Part:
    def ids(values: Any) -> list[int]:
        return [id(value) for value in values if isinstance(value, dict)]

    def named(key: str) -> list[int]:
        return ids(part.get(key, {}).values())

    made = _Part(1 + len(part.get("properties", {})) // 4 + _weight(part))
    made.here = ids(part.get(key) for key in _ONE) + named("dependentSchemas")
    for key in _ALL:
        made.here += ids(part.get(key, []))
    if target is not None:
        made.here.append(target)
    made.every_member = named("patternProperties") + ids(
        part.get(key) for key in ("additionalProperties", "unevaluatedProperties", "propertyNames")
    )
    made.members = named("properties")
    made.every_item = ids(part.get(key) for key in ("contains", "unevaluatedItems"))
    made.items = ids([part.get("items"), *part.get("prefixItems", [])])
    return made


def _weight(part: dict[str, Any]) -> int:
    """Units for long lists of names, and for `enum` and `const` of containers, which are slow to compare."""
    options = [*part.get("enum", []), part.get("const")]
    names = len(part.get("enum", [])) // 50 + len(part.get("required", [])) // 4
    return names + sum(16 for option in options if isinstance(option, dict | list))


def _inner_first(graph: dict[int, _Part]) -> list[int] | None:
    """The parts so that what is applied in place comes before what applies it; None if that goes round in a circle."""
    order: list[int] = []
    state: dict[int, bool] = {}  # False: being visited, True: done
    for start in graph:
        stack = [(start, iter(graph[start].here))] if start not in state else []
        state.setdefault(start, False)
        while stack:
            key, rest = stack[-1]
            for inner in rest:
                if inner not in state:
                    state[inner] = False
                    stack.append((inner, iter(graph[inner].here)))
                    break
                if not state[inner]:
                    return None
            else:
                state[key] = True
                order.append(key)
                stack.pop()
    return order


def _level(order: list[int], graph: dict[int, _Part], above: dict[int, int] | None) -> dict[int, int]:
    """The units that each part causes at one place so many levels below it; `above` are those of a level less."""
    units: dict[int, int] = {}
    for key in order:
        part = graph[key]
        total = sum([units[inner] for inner in part.here])
        if above is None:
            total += part.own
        else:
            of_member = sum([above[one] for one in part.every_member]) + max(
                [above[one] for one in part.members], default=0
            )
            of_item = sum([above[one] for one in part.every_item]) + max([above[one] for one in part.items], default=0)
            total += max(of_member, of_item)
        units[key] = min(total, 10**9)
    return units


def _is_recursive(graph: dict[int, _Part]) -> bool:
    """Whether the schema describes data of any depth."""
    done: set[int] = set()
    active: set[int] = set()
    for start in graph:
        stack = [(start, iter(_next(graph[start])))] if start not in done else []
        active.update(key for key, _ in stack)
        while stack:
            key, rest = stack[-1]
            for inner in rest:
                if inner in active:
                    return True
                if inner not in done:
                    active.add(inner)
                    stack.append((inner, iter(_next(graph[inner]))))
                    break
            else:
                active.discard(key)
                done.add(key)
                stack.pop()
    return False


def _next(part: _Part) -> list[int]:
    return [*part.here, *part.every_member, *part.members, *part.every_item, *part.items]
