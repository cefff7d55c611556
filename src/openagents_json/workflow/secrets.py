"""Secrets: who gives their values at an attempt, and how the values are kept out of everything that is written down."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from typing import Any, Protocol
from urllib.parse import quote, quote_plus

MASK = "***"
SHORTEST_PART = 4  # characters; a shorter secret is masked only where it is the whole string


class SecretProvider(Protocol):
    """Where `{{ secrets.NAME }}` gets its value, asked anew at each attempt."""

    async def get(self, name: str) -> str:
        """The value of the secret. KeyError if there is none of that name."""
        ...


class EnvironmentSecrets:
    """Secrets from environment variables: `{{ secrets.LLM_KEY }}` reads `<prefix>LLM_KEY`.

    The prefix is empty unless given. With a prefix such as `JOB_`, definitions reach no other variables.
    """

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix

    async def get(self, name: str) -> str:
        """The value of the variable. KeyError if it is not set."""
        value = os.environ.get(self.prefix + name)
        if value is None:
            raise KeyError(name)
        return value


class MappingSecrets:
    """Secrets from a mapping, for tests and for programs that get them elsewhere. Its repr shows names only."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = dict(values)

    async def get(self, name: str) -> str:
        """The value under that name. KeyError if there is none."""
        return self._values[name]

    def __repr__(self) -> str:
        return f"MappingSecrets({sorted(self._values)})"


def mask(value: Any, secrets: Collection[str]) -> Any:
    """The text or JSON value with every secret replaced by `***`, in keys too; without secrets, `value` itself.

    Secrets are also found as they look inside JSON text and URLs. One of fewer than 4 characters is replaced only
    where it is the whole string, since it would turn up by chance.
    """
    if not secrets:
        return value
    return _masked(value, frozenset(secrets) - {""}, _parts(secrets))


class TextMask:
    """Masks the secrets in a text that comes in pieces, also where one piece ends and the next goes on with a secret.

    Not for several threads at a time.
    """

    def __init__(self, secrets: Collection[str]) -> None:
        self._whole = frozenset(secrets) - {""}
        self._parts = _parts(secrets)
        self._held = ""  # the end of the text so far, if it may be the beginning of a secret

    def feed(self, piece: str) -> str:
        """What of the text so far can be told, masked."""
        text = _masked_text(self._held + piece, self._whole, self._parts)
        held = max((_beginning(text, part) for part in self._parts), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def end(self) -> str:
        """The rest: nothing follows."""
        rest, self._held = self._held, ""
        return rest


def _beginning(text: str, part: str) -> int:
    """How many characters at the end of the text are the beginning of `part`."""
    longest = min(len(part) - 1, len(text))
    return next((length for length in range(longest, 0, -1) if text.endswith(part[:length])), 0)


def _parts(secrets: Collection[str]) -> list[str]:
    parts: set[str] = set()
    for secret in secrets:
        if len(secret) >= SHORTEST_PART:
            parts |= {secret, *_written(secret)}
    # Longest first: of two secrets, one may begin like the other.
    return sorted(parts, key=len, reverse=True)


def _written(secret: str) -> set[str]:
    """The secret as texts quote it."""
    if secret.isalnum() and secret.isascii():
        return set()
    return {
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        repr(secret)[1:-1],
        quote(secret, safe="", errors="replace"),
        quote(secret, errors="replace"),
        quote_plus(secret, errors="replace"),
    }


def _masked(value: Any, whole: frozenset[str], parts: list[str]) -> Any:
    # Loops, not comprehensions: those cost a second frame for each level of nesting before Python 3.12.
    if isinstance(value, str):
        return _masked_text(value, whole, parts)
    if isinstance(value, dict):
        members: dict[str, Any] = {}
        for key, member in value.items():
            members[_masked_text(key, whole, parts)] = _masked(member, whole, parts)
        return members
    if isinstance(value, list | tuple):
        items: list[Any] = []
        for item in value:
            items.append(_masked(item, whole, parts))
        return items
    return value


def _masked_text(text: str, whole: frozenset[str], parts: list[str]) -> str:
    if text in whole:
        return MASK
    for part in parts:
        if part in text:
            text = text.replace(part, MASK)
    return text
