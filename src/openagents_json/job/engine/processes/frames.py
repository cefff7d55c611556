"""What a process and its parent say to each other: JSON frames on pipes, each with its type in front.

A frame is eight bytes (a mark and the length of the rest) and the JSON of one of the structs below. What is no frame
of the expected kinds is `Garbage`: a component can write to any file descriptor of its process, and what comes back
from there is never trusted, never pickled and never buffered beyond the limit.
"""

from __future__ import annotations

import struct
from typing import Annotated, Any, Generic, TypeAlias, TypeVar

import msgspec

from openagents_json.amounts import LARGEST, MOST, TOKENS
from openagents_json.components import Reference
from openagents_json.components.component import OUTPUT_BYTES
from openagents_json.components.link import Until

_MARK = b"oaf1"
_HEADER = struct.Struct("!4sI")
# Of a frame from the child: an output at its limit, its number and brackets. An error or a log line takes far less.
REPLY_BYTES = OUTPUT_BYTES + 64 * 1024
CALL_BYTES = 64 * 1024 * 1024  # of a frame to the child; what may be in it, the engine has checked before
LOG_CHARACTERS = 8_000
TRACEBACK_CHARACTERS = 16_000

T = TypeVar("T")


class Garbage(Exception):
    """What came out of a pipe is not what our program writes into it."""


class _Frame(msgspec.Struct, array_like=True):
    pass


# ── to the child ──────────────────────────────────────────────────────────────────────────────────────────────────


class Call(_Frame, tag="call"):
    """Make this call. `number` counts the calls of one process from 1 and stands in everything that belongs to it."""

    number: int
    component: Reference | None  # None: that of the call before, as it nearly always is
    inputs: dict[str, Any]
    job_id: str
    workflow_id: str
    step: str
    attempt: int
    idempotency_key: str
    fencing_token: int
    deadline_us: int | None
    memory_mb: int | None
    cpu_s: float | None


class Tell(_Frame, tag="tell"):
    """The attempt should stop, and why."""

    number: int
    reason: str


class ErrorData(msgspec.Struct, omit_defaults=True):
    """An exception as data (see `crossing`)."""

    code: str
    message: str
    retryable: bool | None = None
    details: Any = None
    delay_s: float | None = None
    problems: list[tuple[str, str, str | None]] | None = None  # of InvalidInputs: path, message, suggestion


class Tracked(_Frame, tag="tracked"):
    """What became of a `Track`: the id, or why there is none."""

    key: int
    id: str
    error: ErrorData | None = None


# ── from the child ────────────────────────────────────────────────────────────────────────────────────────────────


class Ready(_Frame, tag="ready"):
    """Everything is imported; a call is answered at once from here on."""


class Progress(_Frame, tag="progress"):
    """How far the call is, for the link."""

    number: int
    fraction: float
    message: str


class Emit(_Frame, tag="emit"):
    """Plain JSON for those who watch, for the link."""

    number: int
    data: Any


class Spend(_Frame, tag="spend"):
    """What the call has spent, for the link."""

    number: int
    tokens: Annotated[int, msgspec.Meta(ge=0, le=int(LARGEST[TOKENS]))]
    cost_nanos: Annotated[int, msgspec.Meta(ge=0, le=MOST)]


class Track(_Frame, tag="track"):
    """Record a resource; the answer is a `Tracked` with the same key."""

    number: int
    key: int
    name: str
    release: str
    inputs: dict[str, Any]
    until: Until
    keep: bool


class LogLine(_Frame, tag="log"):
    """A record of the child's root logger; `message` holds the traceback, if the record had one."""

    number: int
    level: str
    logger: str
    message: str


class Result(_Frame, tag="result"):
    """The call ended well; `output` has passed `Component.accept_output`."""

    number: int
    output: Any


class Failure(_Frame, tag="failure"):
    """The call raised. With `is_spent` the child must not be used again."""

    number: int
    error: ErrorData
    traceback: str
    is_spent: bool = False


Control: TypeAlias = Tell | Tracked
Reply: TypeAlias = Ready | Progress | Emit | Spend | Track | LogLine | Result | Failure

_encode = msgspec.json.Encoder().encode


def to_bytes(frame: _Frame) -> bytes:
    """The frame as it goes into a pipe."""
    body = _encode(frame)
    return _HEADER.pack(_MARK, len(body)) + body


class FrameReader(Generic[T]):
    """Frames of some kinds, out of the chunks of a pipe. Holds at most one frame of `limit_bytes`, and one chunk."""

    def __init__(self, kinds: Any, limit_bytes: int) -> None:
        self._decode: Any = msgspec.json.Decoder(kinds).decode
        self._limit_bytes = limit_bytes
        self._buffer = bytearray()

    def feed(self, chunk: bytes) -> list[T]:
        """The frames that are complete now. `Garbage` if the next bytes are none; the reader is of no use then."""
        buffer = self._buffer
        if not buffer and len(chunk) > _HEADER.size:
            mark, length = _HEADER.unpack_from(chunk)
            if mark == _MARK and length == len(chunk) - _HEADER.size <= self._limit_bytes:
                return [self._read(memoryview(chunk)[_HEADER.size :])]  # nearly always: one frame, all of it
        buffer += chunk
        frames: list[T] = []
        start = 0
        while len(buffer) - start >= _HEADER.size:
            mark, length = _HEADER.unpack_from(buffer, start)
            if mark != _MARK:
                raise Garbage("what came is no frame")
            if length > self._limit_bytes:
                raise Garbage(f"a frame of {length:,} bytes came; {self._limit_bytes:,} are allowed")
            end = start + _HEADER.size + length
            if len(buffer) < end:
                break
            frames.append(self._read(bytes(buffer[start + _HEADER.size : end])))
            start = end
        del buffer[:start]
        if len(buffer) < _HEADER.size and not _MARK.startswith(buffer[: len(_MARK)]):
            raise Garbage("what came is no frame")
        return frames

    def _read(self, body: bytes | memoryview) -> T:
        try:
            frame: T = self._decode(body)
            return frame
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise Garbage(f"a frame cannot be read: {error}") from None
