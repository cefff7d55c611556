"""What attempts print, log and emit, as stores keep it: in chunks, beside the history and not of it.

Of each attempt the beginning and the end are kept, and of a job no more than so much, the latest attempts. Sizes count
the UTF-8 bytes of the texts and `PIECE_BYTES` for each piece.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

HEAD_BYTES = 64 * 1024  # of an attempt, kept from its beginning …
TAIL_BYTES = 192 * 1024  # … and from its end
JOB_BYTES = 16 * 1024 * 1024  # of all attempts of a job; the output of the oldest goes first
ROOM_BYTES = 1024 * 1024  # is made when a job has more, so that it is not made again at once
CHUNK_BYTES = 16 * 1024  # of a chunk, about
PIECE_BYTES = 40  # what a piece counts beside its text


class Piece(msgspec.Struct, frozen=True, array_like=True):
    """A text that was written to one stream (`stdout`, `stderr`, `log`, `emitted`) at about one time."""

    stream: str
    at_us: int
    text: str


@dataclass(frozen=True, slots=True)
class OutputChunk:
    """Consecutive output of one attempt, from byte `first` up to and without byte `last` of all that it wrote."""

    first: int
    last: int
    pieces: Sequence[Piece]


@dataclass(frozen=True, slots=True)
class StoredOutput:
    """A chunk as it is read. `sequence` rises with each that is stored; `cut` bytes right before it are not kept."""

    sequence: int
    path: str
    attempt: int
    first: int
    last: int
    cut: int
    pieces: Sequence[Piece]


_decoder = msgspec.json.Decoder(list[Piece])


def encode_pieces(pieces: Sequence[Piece]) -> bytes:
    """Pieces as JSON: an array of [stream, at_us, text]."""
    return msgspec.json.encode(pieces)


def decode_pieces(data: bytes) -> list[Piece]:
    """The reverse of `encode_pieces`."""
    return _decoder.decode(data)


def size_of(text: str) -> int:
    """The bytes that a text takes."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def is_cut(first: int, last: int, total: int) -> bool:
    """Whether a chunk belongs neither to the beginning nor to the end of an attempt that has written `total` bytes."""
    return first >= HEAD_BYTES and last <= total - TAIL_BYTES


def is_within(path: str, step: str | None) -> bool:
    """Whether a path is that of the step, or of one inside it."""
    return step is None or path == step or path.startswith((f"{step}.", f"{step}["))
