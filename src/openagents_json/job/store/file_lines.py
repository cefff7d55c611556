"""Lines of the file store: JSON for people and programs, with a number, a time, a type and a checksum.

    {"n":17,"durable":15,"at":"2026-01-01T00:00:00.000000Z","type":"taken","job":"0192…","worker":"w1","crc":"1c291ca3"}

`n` counts the lines of the store without gaps. `durable` stands on the first line of each group that was written and
synced together: all lines up to that number were on the disk before this one was written. So what is damaged before
such a line had been acknowledged, and what is damaged after the last one may be a group that a power cut tore.
`more`: the next line belongs to the same change, as a `joined` one does to the one before it; all of them count or
none. `crc` is the CRC-32 of the bytes before it.
"""

from __future__ import annotations

import calendar
import re
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from openagents_json.clock import SECOND_US
from openagents_json.job.store.file_disk import BUFFER_BYTES

MAX_LINE_BYTES = 1024 * 1024 * 1024
MAX_CHANGE_BYTES = MAX_LINE_BYTES - 1024  # of what is written on it

_END = re.compile(rb',"crc":"([0-9a-f]{8})"\}\n\Z')
_END_BYTES = len(b',"crc":"00000000"}\n')
_GROUP = re.compile(rb'\{"n":\d+,"durable":\d+,')


def body(stamp: bytes, encoded: bytes) -> bytes:
    """The part of a line between its number and its checksum, from a time and an encoded change."""
    return b'"at":"%b",%b' % (stamp, encoded[1:-1])


def seal(n: int, content: bytes, *, durable: int | None = None, joined: bool = False, more: bool = False) -> bytes:
    """A line, from its number and `body`."""
    group = b"" if durable is None else b'"durable":%d,' % durable
    ties = (b',"joined":true' if joined else b"") + (b',"more":true' if more else b"")
    text = b'{"n":%d,%b%b%b' % (n, group, content, ties)
    return b'%b,"crc":"%08x"}\n' % (text, zlib.crc32(text))


def fault_of(line: bytes) -> str | None:
    """What is wrong with the bytes of a line; None for one that is as it was written."""
    if not line.endswith(b"\n"):
        return "it does not end" if len(line) < MAX_LINE_BYTES else "it is too long"
    found = _END.search(line, max(0, len(line) - _END_BYTES))
    if found is None:
        return "it has no checksum"
    return None if zlib.crc32(line[:-_END_BYTES]) == int(found[1], 16) else "its checksum does not fit"


def begins_group(line: bytes) -> bool:
    """Whether all that stands before this line was durable when it was written."""
    return _GROUP.match(line) is not None


@dataclass(frozen=True, slots=True)
class Damage:
    """A part of a file that is not as it was written. `line` counts from 1, `byte` from 0."""

    file: str
    line: int
    byte: int
    length: int
    why: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line:,} (byte {self.byte:,}): {self.why}"


@dataclass(frozen=True, slots=True)
class RawLine:
    """A line as it stands in a file, sound or not."""

    file: str
    line: int
    byte: int
    data: bytes

    def damage(self, why: str) -> Damage:
        """The line as damage."""
        return Damage(self.file, self.line, self.byte, len(self.data), why)


def raw_lines(path: Path, until: int | None = None) -> Iterator[RawLine]:
    """The lines of a file, of its first `until` bytes."""
    byte = 0
    with path.open("rb", buffering=BUFFER_BYTES) as file:
        number = 0
        while until is None or byte < until:
            data = file.readline(MAX_LINE_BYTES if until is None else min(MAX_LINE_BYTES, until - byte))
            if not data:
                return
            number += 1
            yield RawLine(path.name, number, byte, data)
            byte += len(data)


class Stamps:
    """Times as people read them, `2026-01-01T00:00:00.000000Z`, and back. Remembers the last second."""

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def of(self, at_us: int) -> bytes:
        """The text of a time in microseconds."""
        second, rest = divmod(at_us, SECOND_US)
        if second != self._second:
            self._second, self._text = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return b"%b.%06dZ" % (self._text.encode(), rest)

    def at_us(self, text: str) -> int:
        """The reverse of `of`."""
        whole = text[:19]
        if whole != self._text:
            self._second, self._text = calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S")), whole
        return self._second * SECOND_US + int(text[20:26])
