"""The filters and tests of ours: those that minijinja lacks, and those whose cost its fuel does not count."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

from openagents_json.jsondata import encode
from openagents_json.workflow.bounds import (
    MISSING,
    Refused,
    Undefined,
    describe,
    joined,
    look_up,
    made,
    pay,
    result,
    room,
    text_of,
    used,
)
from openagents_json.workflow.tokens import shorten

# ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _default(value: Any, default_value: Any = "", boolean: bool = False) -> Any:
    if value is None or (boolean and not value):
        return used(default_value)
    return value


def _tojson(value: Any, indent: int | None = None) -> str:
    encoded = encode(result(value))
    if indent:
        if not 0 <= indent <= 8:
            raise Refused("tojson indents by at most 8")
        room(len(encoded))
        encoded = msgspec.json.format(encoded, indent=indent)
    return made(encoded.decode())


def _join(value: Any, d: str = "", attribute: Any = None) -> str:
    members = value if attribute is None else _attribute(value, attribute)
    if isinstance(members, str):
        members = list(members)
    if not isinstance(members, list | tuple | dict):
        raise Refused(f"join needs a list, not {describe(members)}")
    return joined(text_of(d), members)


def _replace(value: Any, old: str, new: str) -> str:
    text, old, new = text_of(value), text_of(old), text_of(new)
    room(len(text) + text.count(old) * (len(new) - len(old)))
    return made(text.replace(old, new))


def _indent(value: Any, width: int = 4, first: bool = False, blank: bool = False) -> str:
    text = text_of(value)
    room(len(text) + (text.count("\n") + 1) * width)
    lines = text.split("\n")
    pad = " " * width
    indented = [pad + line if (line or blank) and (first or place) else line for place, line in enumerate(lines)]
    return made("\n".join(indented))


def _center(value: Any, width: int = 80) -> str:
    text = text_of(value)
    room(max(len(text), width))
    return made(text.center(width))


def _truncate(value: Any, length: int = 255, killwords: bool = False, end: str = "...") -> str:
    text = text_of(value)
    if len(text) <= length:
        return made(text)
    cut = text[: max(0, length - len(end))]
    if not killwords and " " in cut:
        cut = cut.rsplit(" ", 1)[0]
    return made(cut + text_of(end))


_FORMAT = re.compile(r"%[-+ 0#]*(\d{0,3})(?:\.(\d{1,3}))?[a-zA-Z%]")


def _format(value: Any, *arguments: Any) -> str:
    pattern = text_of(value)
    if pattern.count("%") != sum(match.count("%") for match in (m.group() for m in _FORMAT.finditer(pattern))):
        raise Refused("format knows forms such as %s, %d, %5.2f with widths up to 999")
    room(len(pattern) + pattern.count("%") * 1000 + sum(len(text_of(argument)) for argument in arguments))
    try:
        return made(pattern % tuple(a if isinstance(a, int | float) else text_of(a) for a in arguments))
    except (TypeError, ValueError, OverflowError) as error:
        raise Refused(f"format: {error}") from None


def _text(value: Any) -> str:
    return made(text_of(value))


def _attribute(value: Any, attribute: Any, default: Any = MISSING) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise Refused(f"map needs a list, not {describe(value)}")
    keys = [int(key) if key.isdigit() else key for key in str(attribute).split(".")]
    pay(len(value) * len(keys))
    found = []
    for place, row in enumerate(value):
        for key in keys:
            row = look_up(row, key)
            if row is MISSING:
                break
        if row is MISSING or (row is None and default is not MISSING):
            if default is MISSING:
                raise Undefined(f"Item {place} of the list has no {shorten(str(attribute))!r}")
            row = used(default)
        found.append(row)
    return found


def _batch(value: Any, count: int, fill_with: Any = None) -> list[list[Any]]:
    rows = _rows(value, count)
    batches = [rows[start : start + count] for start in range(0, len(rows), count)]
    if fill_with is not None and batches:
        batches[-1] += [fill_with] * (count - len(batches[-1]))
    return batches


def _slices(value: Any, count: int, fill_with: Any = None) -> list[list[Any]]:
    rows = _rows(value, count)
    size, larger = divmod(len(rows), count)
    slices = []
    start = 0
    for place in range(count):
        end = start + size + (place < larger)
        slices.append(rows[start:end] + ([fill_with] if fill_with is not None and larger and place >= larger else []))
        start = end
    return slices


def _rows(value: Any, count: int) -> list[Any]:
    if not isinstance(value, list | tuple) or not isinstance(count, int) or not 1 <= count <= 10_000:
        raise Refused("batch and slice need a list and a count from 1 to 10,000")
    pay(len(value) + count)
    return list(value)


def _split(value: Any, separator: str | None = None, maximum: int = -1) -> list[str]:
    text = text_of(value)
    if separator == "":
        raise Refused("split needs a separator that is not empty")
    parts = text.split(separator, maximum)
    pay(len(parts) * 4 + (len(text) >> 3))
    return parts


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list | tuple | dict | str):
        raise Refused(f"list cannot be made of {describe(value)}")
    pay(len(value) * (4 if isinstance(value, str) else 1))
    return list(value)


def _items(value: Any) -> list[list[Any]]:
    return [list(pair) for pair in _object(value, "items").items()]


def _keys(value: Any) -> list[Any]:
    return list(_object(value, "keys"))


def _values(value: Any) -> list[Any]:
    return list(_object(value, "values").values())


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Refused(f"{name} needs an object, not {describe(value)}")
    pay(len(value))
    return value


def contained(value: Any, container: Any) -> bool:
    """The test `in`, as select and selectattr use it once per row."""
    used(container)
    if isinstance(container, str):
        return isinstance(value, str) and value in container
    if isinstance(container, dict):
        return isinstance(value, str) and value in container
    if isinstance(container, list | tuple):
        return value in container
    raise Refused(f"`in` needs a list, an object or a string, not {describe(container)}")


OWN_FILTERS: dict[str, Callable[..., Any]] = {
    "attribute": _attribute,
    "batch": _batch,
    "center": _center,
    "d": _default,
    "default": _default,
    "format": _format,
    "indent": _indent,
    "items": _items,
    "join": _join,
    "keys": _keys,
    "list": _list,
    "replace": _replace,
    "slice": _slices,
    "split": _split,
    "string": _text,
    "tojson": _tojson,
    "truncate": _truncate,
    "values": _values,
}
