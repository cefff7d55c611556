"""The output of attempts on its way to the store: what components print, log and emit.

Any thread writes into the `OutputBuffer` of its attempt, which is bounded; the event loop hands it to the store every
half second, and when the attempt ends before its completion is committed. Best effort: output that the store does not
take is counted and gone. Nothing of it is part of the history.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from openagents_json.errors import StoreError
from openagents_json.job.store.output import (
    CHUNK_BYTES,
    HEAD_BYTES,
    PIECE_BYTES,
    TAIL_BYTES,
    OutputChunk,
    Piece,
    size_of,
)
from openagents_json.workflow import TextMask

if TYPE_CHECKING:
    from openagents_json.job.engine.worker import Worker

logger = logging.getLogger("openagents_json.output")

FLUSH_S = 0.5  # how long output may wait for the store while its attempt runs
WAITING_BYTES = HEAD_BYTES + TAIL_BYTES  # of one attempt, between two flushes
SLICE_CHARACTERS = CHUNK_BYTES // 2  # a longer text is written in slices
SAME_PIECE_US = 100_000  # texts of one stream become one piece if they come this close together

_lock = threading.Lock()  # guards the fields of every buffer: held for microseconds


class _Piece:
    """One piece that waits. `first` and `size` are in bytes; the text is joined when it is taken."""

    __slots__ = ("at_us", "first", "size", "stream", "texts")

    def __init__(self, stream: str, at_us: int, first: int) -> None:
        self.stream = stream
        self.at_us = at_us
        self.first = first
        self.size = PIECE_BYTES
        self.texts: list[str] = []


class OutputBuffer:
    """The output of one attempt. Everything but the constructor may be used from any thread."""

    # Under _lock. They are made by the first write: most attempts write nothing, and cost next to nothing.
    _pieces: list[_Piece] | None = None  # those that begin within HEAD_BYTES: they stay
    _tail: deque[_Piece] | None = None  # those after them: when too much waits, the oldest goes
    _masks: dict[str, TextMask] | None = None  # by stream
    _waiting = 0  # bytes in the first two
    _total = 0  # bytes written so far
    _is_noted = False  # the event loop knows that something waits
    _is_closed = False

    def __init__(self, outputs: Outputs, job_id: str, path: str, attempt: int, secrets: Mapping[str, str]) -> None:
        self.job_id = job_id
        self.path = path
        self.attempt = attempt
        self._outputs = outputs
        self._secrets = secrets  # values to mask; filled before the call

    @property
    def echoes(self) -> bool:
        """Whether what is written to `stdout` and `stderr` is printed as well."""
        return self._outputs.echoes

    def write(self, stream: str, text: str) -> bool:
        """Keep a text of `stdout`, `stderr`, `log` or `emitted`. False when the attempt has ended."""
        if not text:
            return not self._is_closed
        at_us = self._outputs.clock.now_us()
        with _lock:
            if self._is_closed:
                return False
            if self._secrets:
                text = self._mask_of(stream).feed(text)
            self._add(stream, text, at_us)
            is_news, self._is_noted = not self._is_noted, True
        if is_news:
            self._outputs.tell(self)
        return True

    def take(self, *, close: bool = False) -> list[OutputChunk]:
        """What waits, in chunks; nothing is taken twice. With `close` nothing is written any more."""
        if close and self._total == 0 and self._masks is None:
            self._is_closed = True  # who writes at this very moment in a thread is noted, and taken then
            return []
        with _lock:
            if close and not self._is_closed:
                self._is_closed = True
                for stream, mask in (self._masks or {}).items():
                    self._add(stream, mask.end(), self._outputs.clock.now_us())
            pieces = [*(self._pieces or ()), *(self._tail or ())]
            self._pieces, self._tail, self._waiting, self._is_noted = None, None, 0, False
        return _chunks(pieces) if pieces else []

    def _mask_of(self, stream: str) -> TextMask:
        if self._masks is None:
            self._masks = {}
        if stream not in self._masks:
            self._masks[stream] = TextMask(tuple(self._secrets.values()))
        return self._masks[stream]

    def _add(self, stream: str, text: str, at_us: int) -> None:
        for start in range(0, len(text), SLICE_CHARACTERS):
            part = text[start : start + SLICE_CHARACTERS]
            last = self._tail or self._pieces
            piece = last[-1] if last else None
            if piece is None or not _goes_on(piece, stream, at_us):
                piece = self._begin(stream, at_us)
            size = size_of(part)
            piece.texts.append(part)
            piece.size += size
            self._count(size)
            while self._waiting > WAITING_BYTES and self._tail is not None and len(self._tail) > 1:
                self._waiting -= self._tail.popleft().size

    def _begin(self, stream: str, at_us: int) -> _Piece:
        piece = _Piece(stream, at_us, self._total)
        if self._total < HEAD_BYTES:
            self._pieces = self._pieces or []
            self._pieces.append(piece)
        else:
            self._tail = self._tail or deque()
            self._tail.append(piece)
        self._count(PIECE_BYTES)
        return piece

    def _count(self, size: int) -> None:
        self._total += size
        self._waiting += size


def _goes_on(piece: _Piece, stream: str, at_us: int) -> bool:
    """Whether a text belongs to the piece before it: the rest of a line always does."""
    if piece.stream != stream or piece.size >= CHUNK_BYTES:
        return False
    return 0 <= at_us - piece.at_us < SAME_PIECE_US or not piece.texts[-1].endswith("\n")


def _chunks(pieces: list[_Piece]) -> list[OutputChunk]:
    """Pieces that follow each other, in chunks of `CHUNK_BYTES` or a piece more."""
    chunks: list[OutputChunk] = []
    begun: list[Piece] = []
    first = last = pieces[0].first
    for piece in pieces:
        if begun and (piece.first != last or last - first >= CHUNK_BYTES):
            chunks.append(OutputChunk(first, last, begun))
            begun = []
        if not begun:
            first = piece.first
        last = piece.first + piece.size
        begun.append(Piece(piece.stream, piece.at_us, _storable("".join(piece.texts))))
    return [*chunks, OutputChunk(first, last, begun)]


def _storable(text: str) -> str:
    """Free of what no store can hold: NUL, and halves of surrogate pairs."""
    return text.replace("\x00", "�").encode("utf-8", "replace").decode()


class Outputs:
    """One per worker; but for `tell` it is used in the event loop only."""

    def __init__(self, worker: Worker) -> None:
        self.clock = worker.clock
        self.echoes = worker.settings.echo_output
        self.lost = 0  # bytes that the store did not take
        self._worker = worker
        self._captures = worker.settings.capture_output
        self._noted: dict[OutputBuffer, None] = {}  # something of them waits
        self._writing: set[OutputBuffer] = set()  # the store has a part of them and has not answered
        self._timer: Any = None

    def begin(self, job_id: str, path: str, attempt: int, secrets: Mapping[str, str]) -> OutputBuffer | None:
        """The buffer of an attempt that begins; None where the settings say that output is not captured."""
        return OutputBuffer(self, job_id, path, attempt, secrets) if self._captures else None

    def tell(self, buffer: OutputBuffer) -> None:
        """Something waits in that buffer, and nothing did before. From any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: it goes nowhere
            self._worker.loop.call_soon_threadsafe(self._note, buffer)

    def flush(self, buffer: OutputBuffer, *, close: bool = False) -> None:
        """Give what waits to the store: whatever is committed from now on is not there before it."""
        self._noted.pop(buffer, None)
        if chunks := buffer.take(close=close):
            self._worker.spawn(self._append(buffer, chunks), f"output of {buffer.path}")

    async def close(self) -> None:
        """Nothing runs any more that could write: give the rest to the store."""
        if self._timer is not None:
            self._timer.cancel()
        for buffer in list(self._noted):
            self._noted.pop(buffer)
            if chunks := buffer.take(close=True):
                await self._append(buffer, chunks)

    def _note(self, buffer: OutputBuffer) -> None:
        self._noted[buffer] = None
        if self._timer is None:
            self._timer = self.clock.call_later(FLUSH_S, self._flush_noted)

    def _flush_noted(self) -> None:
        self._timer = None
        for buffer in list(self._noted):
            if buffer not in self._writing:  # a slow store gets no second part: what waits is bounded
                self.flush(buffer)
        if self._noted:
            self._timer = self.clock.call_later(FLUSH_S, self._flush_noted)

    async def _append(self, buffer: OutputBuffer, chunks: list[OutputChunk]) -> None:
        self._writing.add(buffer)
        try:
            await self._worker.store.append_output(buffer.job_id, buffer.path, buffer.attempt, chunks)
        except StoreError as error:
            self.lost += sum(chunk.last - chunk.first for chunk in chunks)
            logger.warning("output of step %s was lost: %s", buffer.path, error, extra={"job_id": buffer.job_id})
        finally:
            self._writing.discard(buffer)
