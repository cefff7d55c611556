"""The JSON edge: what comes from outside becomes plain data here, once, and nothing else is stored or passed on.

Plain data is dict, list, str, int, float, bool and None, with string keys, finite numbers and valid Unicode without
NUL (PostgreSQL's jsonb cannot hold it, and all stores agree). `freeze` makes data that many readers may share.
"""

from __future__ import annotations

import dataclasses
import json.encoder
import math
from collections.abc import Callable
from typing import Any, NoReturn

import msgspec
from pydantic import BaseModel

DEPTH = 500  # levels of nesting that plain() accepts; the C codecs would go on until the stack ends


class NotJson(ValueError):
    """Something that JSON cannot hold. `path` says where, such as `$.a[3]`."""

    def __init__(self, message: str, path: str = "$") -> None:
        super().__init__(message)
        self.path = path


class TooLarge(NotJson):
    """Plain JSON, but more bytes than are allowed here. `size_bytes` is what it would take."""

    def __init__(self, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(
            f"The value takes {size_bytes:,} bytes as JSON; {limit_bytes:,} are allowed. "
            "Store the data elsewhere and pass a reference to it."
        )
        self.size_bytes, self.limit_bytes = size_bytes, limit_bytes


class _Refused(TypeError):
    """Raised by the encoder's hook; the slow walk then finds the path."""


# ── to plain data ─────────────────────────────────────────────────────────────────────────────────────────────────

Hook = Callable[[Any], Any]


def plain(value: object, *, limit_bytes: int | None = None, default: Hook | None = None) -> tuple[Any, bytes]:
    """A plain copy of `value` that shares nothing mutable with it, and its UTF-8 JSON.

    Pydantic models and dataclasses become objects, tuples become lists; `default(object)` may turn further types into
    one of those, or raise. `NotJson` says what stands where it should not; `TooLarge` that the JSON is longer than
    `limit_bytes`.
    """
    encode_plain = _encode_plain if default is None else _encoder(_with_default(default))
    try:
        encoded = "".join(encode_plain(value, 0)).encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise _culprit(value, default) or NotJson(f"The value cannot be written as JSON: {error}.") from None
    if limit_bytes is not None and len(encoded) > limit_bytes:
        raise TooLarge(len(encoded), limit_bytes)
    try:
        copy = _decode(encoded)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise _culprit(value, default) or NotJson(f"The value cannot be read back as JSON: {error}.") from None
    if encoded.count(b"{") + encoded.count(b"[") > DEPTH and depth(copy) > DEPTH:
        raise NotJson(f"The value is nested deeper than {DEPTH} levels. Flatten it.")
    # The encoder writes the key 1 as "1", which would merge with a key "1": what is not equal is looked at closely.
    # The escape of NUL may also be an escaped backslash before the letters u0000.
    if (copy != value or b"\\u0000" in encoded) and (problem := _culprit(value, default)) is not None:
        raise problem
    return copy, encoded


def depth(value: Any) -> int:
    """How many levels of dicts and lists a plain value has. Without recursion."""
    levels, level = 0, [value]
    while level := [one for one in level if isinstance(one, dict | list)]:
        levels += 1
        level = [
            one for container in level for one in (container.values() if isinstance(container, dict) else container)
        ]
    return levels


def encode(value: Any) -> bytes:
    """The UTF-8 JSON of data known to be plain (it is not checked again)."""
    return msgspec.json.encode(value)


def decode(data: bytes | str) -> Any:
    """The plain data of a JSON text. `NotJson` if it is not one, or is nested too deeply."""
    try:
        return _decode(data)
    except RecursionError:
        raise NotJson("The JSON text is nested too deeply; flatten it.") from None
    except (msgspec.DecodeError, ValueError) as error:
        raise NotJson(f"The text is not JSON: {error}.") from None


def _hook(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    raise _Refused


def _with_default(default: Hook) -> Hook:
    def hook(value: Any) -> Any:
        try:
            return _hook(value)
        except _Refused:
            return default(value)

    return hook


def _encoder(hook: Hook) -> Callable[[Any, int], tuple[str, ...]]:
    """The C encoder that json.JSONEncoder would build anew at each call.

    No markers: a circle ends in RecursionError, and shared markers would report one where two threads encode the same
    object.
    """
    make: Any = json.encoder.c_make_encoder  # type: ignore[attr-defined]
    string: Any = json.encoder.encode_basestring
    encoder: Callable[[Any, int], tuple[str, ...]] = make(None, hook, string, None, ":", ",", False, False, False)
    return encoder


_encode_plain = _encoder(_hook)
_decode = msgspec.json.Decoder().decode


# ── what is wrong, and where ──────────────────────────────────────────────────────────────────────────────────────


def _culprit(value: object, default: Hook | None) -> NotJson | None:
    """The first part of `value` that JSON cannot hold, or None."""
    hook = _hook if default is None else _with_default(default)
    try:
        _walk(value, "$", (), hook)
    except NotJson as problem:
        return problem
    except RecursionError:
        return NotJson("The value is nested too deeply; flatten it.")
    return None


def _walk(value: object, path: str, above: tuple[int, ...], hook: Hook) -> None:
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, str):
        _check_text(value, path, "The string")
    elif isinstance(value, int):
        _check_integer(value, path)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise NotJson(f"{path} is {value}, which JSON has no number for. Use null or a string.", path)
    else:
        if id(value) in above:
            raise NotJson(f"{path} contains itself. Break the circle before handing it over.", path)
        if len(above) >= DEPTH:
            raise NotJson(f"The value is nested deeper than {DEPTH} levels. Flatten it.", _short(path))
        _walk_inside(value, path, (*above, id(value)), hook)


def _walk_inside(value: object, path: str, above: tuple[int, ...], hook: Hook) -> None:
    if isinstance(value, dict):
        for key, member in value.items():
            if not isinstance(key, str):
                raise NotJson(f"{path} has the key {_show(key)}, which is no string. Use str(key).", path)
            _check_text(key, path, "A key")
            _walk(member, f"{path}.{key}" if key.isidentifier() else f"{path}[{json.dumps(key)}]", above, hook)
    elif isinstance(value, (list, tuple)):
        for index, member in enumerate(value):
            _walk(member, f"{path}[{index}]", above, hook)
    else:
        _walk(_replaced(value, path, hook), path, above, hook)


def _replaced(value: object, path: str, hook: Hook) -> object:
    try:
        return hook(value)
    except Exception as error:
        why = "" if isinstance(error, _Refused) else f" ({error})"
        _refuse(value, path, why)


def _refuse(value: object, path: str, why: str) -> NoReturn:
    advice = {
        "set": "Use sorted(value) or list(value).",
        "frozenset": "Use sorted(value) or list(value).",
        "bytes": "Decode it, or use base64.",
        "bytearray": "Decode it, or use base64.",
        "datetime": "Use value.isoformat().",
        "date": "Use value.isoformat().",
        "Decimal": "Use str(value) or float(value).",
        "UUID": "Use str(value).",
        "PosixPath": "Use str(value).",
    }.get(type(value).__name__, "Return dicts, lists, strings, numbers, booleans or None.")
    raise NotJson(f"{path} is a {type(value).__name__}, which JSON has no form for{why}. {advice}", path)


def _check_text(text: str, path: str, what: str) -> None:
    if "\x00" in text:
        raise NotJson(f"{what} at {path} contains the character NUL, which databases refuse. Remove it.", path)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise NotJson(f"{what} at {path} contains half a surrogate pair, which is no text. Remove it.", path) from None


def _check_integer(value: int, path: str) -> None:
    try:
        int.__repr__(value)
    except ValueError:
        raise NotJson(f"{path} is an integer of more than 4,300 digits. Pass it as a string.", path) from None


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "…"


def _short(path: str) -> str:
    return path if len(path) <= 60 else path[:57] + "…"


# ── data that many readers share ──────────────────────────────────────────────────────────────────────────────────


def _frozen(self: object, *arguments: object, **named: object) -> NoReturn:
    raise TypeError("This data is shared and cannot be changed. thaw(value) gives a copy that can.")


class FrozenDict(dict[str, Any]):
    """A dict whose values never change. json, msgspec and orjson encode it like any dict."""

    __slots__ = ()
    __setitem__ = __delitem__ = __ior__ = _frozen
    clear = pop = popitem = setdefault = update = _frozen


class FrozenList(list[Any]):
    """A list whose items never change. json, msgspec and orjson encode it like any list."""

    __slots__ = ()
    __setitem__ = __delitem__ = __iadd__ = __imul__ = _frozen
    append = clear = extend = insert = pop = remove = reverse = sort = _frozen


def freeze(value: Any) -> Any:
    """The plain value with every dict and list in it frozen; a frozen value comes back as it is."""
    # Loops, not comprehensions: those cost a second frame for each level before Python 3.12, and DEPTH levels must fit.
    kind = type(value)
    if kind is dict:
        members: dict[str, Any] = {}
        for key, member in value.items():
            members[key] = freeze(member)
        return FrozenDict(members)
    if kind is list:
        items: list[Any] = []
        for item in value:
            items.append(freeze(item))
        return FrozenList(items)
    return value


def thaw(value: Any) -> Any:
    """A deep copy of a plain value, frozen or not, that its owner may change."""
    if isinstance(value, dict):
        members: dict[str, Any] = {}
        for key, member in value.items():
            members[key] = thaw(member)
        return members
    if isinstance(value, list):
        items: list[Any] = []
        for item in value:
            items.append(thaw(item))
        return items
    return value
