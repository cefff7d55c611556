"""Keeping secrets out of an export. Histories hold their names only (guarantee G14), and what steps give is masked
before it is recorded; so this finds what a component has let through, where the value is known here and now."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

import msgspec

from openagents_json.job.events import Event
from openagents_json.job.store import Request, StoredLeak
from openagents_json.job.store.output import OutputChunk
from openagents_json.workflow import SecretProvider, mask

NAMES = 1_000  # secrets whose values are remembered
# Where an event holds what users and components gave; the rest are paths, ids and times.
_GIVEN = frozenset({
    "inputs", "outputs", "output", "error", "errors", "payload", "items", "initial", "reason", "metadata", "given",
})  # fmt: skip
# `secrets.NAME` and `secrets['NAME']` in the text of a definition, and {"secret": "NAME"} as the value of an input.
_NAMED = re.compile(rb"""secrets\s*\.\s*([A-Za-z_]\w*)|secrets\s*\[\s*\\?['"]([^'"\\]+)|"secret"\s*:\s*"([^"\\]+)\"""")


class Masker:
    """Masks the values of the secrets that a job may know."""

    def __init__(self, provider: SecretProvider) -> None:
        self._provider = provider
        self._known: dict[str, str | None] = {}  # by name; None: the provider has none

    async def values(self, *texts: bytes) -> Collection[str]:
        """The values of the secrets that are named in these texts."""
        found = [await self._value(name) for name in sorted(_names(texts))]
        return {value for value in found if value}

    async def _value(self, name: str) -> str | None:
        if name not in self._known:
            if len(self._known) >= NAMES:
                self._known.clear()
            try:
                self._known[name] = await self._provider.get(name)
            except KeyError:
                self._known[name] = None
        return self._known[name]


def _names(texts: Iterable[bytes]) -> set[str]:
    found = (match for text in texts for match in _NAMED.finditer(text))
    return {next(group for group in match.groups() if group is not None).decode() for match in found}


def masked_event(event: Event, secrets: Collection[str]) -> Event:
    """The event without them."""
    if not secrets or not _GIVEN & event.data.keys():
        return event
    return msgspec.structs.replace(event, data=_masked(event.data, secrets))


def _masked(data: Mapping[str, Any], secrets: Collection[str]) -> dict[str, Any]:
    return {key: mask(value, secrets) if key in _GIVEN else value for key, value in data.items()}


def masked_request(request: Request, secrets: Collection[str]) -> Request:
    """The request without them."""
    if not secrets:
        return request
    return replace(request, reason=mask(request.reason, secrets), payload=_masked(request.payload, secrets))


def masked_leak(leak: StoredLeak, secrets: Collection[str]) -> StoredLeak:
    """The leak without them."""
    return replace(leak, inputs=mask(leak.inputs, secrets), error=mask(leak.error, secrets)) if secrets else leak


def masked_chunk(chunk: OutputChunk, secrets: Collection[str]) -> OutputChunk:
    """The chunk without them; its place stays."""
    if not secrets:
        return chunk
    pieces = [msgspec.structs.replace(piece, text=mask(piece.text, secrets)) for piece in chunk.pieces]
    return replace(chunk, pieces=pieces)
