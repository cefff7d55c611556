"""The lines of an export. Format 1, UTF-8, one JSON object on each line, `type` first:

    openagents-export   what the file is, and who made it
    definition          a workflow document, before the first job that was made from it
    job, events …       a job and its whole history; a family is a job with its attached children, parents first
    family              the family is whole
    withdrawn           instead of that: it was deleted while it was read, and does not count
    output …            what attempts of the family printed, logged and emitted
    end                 counts, and the SHA-256 of all lines before it

A reader passes over members that it does not know; whatever changes what is known gets a new format number.
"""

from __future__ import annotations

import msgspec

from openagents_json.errors import InvalidExport
from openagents_json.job.events import Event
from openagents_json.job.model import JobStatus
from openagents_json.job.store import Request, StoredLeak
from openagents_json.job.store.limits import Limit
from openagents_json.job.store.output import OutputChunk

FORMAT = 1
EVENTS_BYTES = 1024 * 1024  # of the events on one line, about; a single event may have more
LINE_BYTES = 256 * 1024 * 1024  # a longer line is refused


class Line(msgspec.Struct, tag_field="type", omit_defaults=True, kw_only=True):
    """One line of an export."""


class Header(Line, tag="openagents-export"):
    """The first line."""

    format: int
    program: str  # version of openagents_json
    store: str  # kind of the store: sqlite, file, postgres, memory
    exported_at: str


class DefinitionLine(Line, tag="definition"):
    """A definition, as the bytes that its hash is of."""

    hash: str
    workflow_id: str
    version: str
    document: msgspec.Raw


class JobLine(Line, tag="job"):
    """A job: what its history does not tell. `status` and `events` (how many follow) are there to be compared."""

    id: str
    definition: str
    status: JobStatus
    events: int
    created_us: int
    queued_us: int | None = None
    queued_total_us: int = 0
    owner: str | None = None
    epoch: int = 0
    tags: list[str] = []
    idempotency_key: str | None = None
    body_hash: str = ""
    parent_id: str | None = None
    origin_id: str | None = None
    limit: Limit | None = None
    requests: list[Request] = []
    drained: list[str] = []
    leaks: list[StoredLeak] = []


class EventsLine(Line, tag="events"):
    """Some events of the job before it, in order."""

    job: str
    events: list[Event]


class FamilyLine(Line, tag="family"):
    """The job of that id and its children, `jobs` in all, are whole."""

    job: str
    jobs: int


class WithdrawnLine(Line, tag="withdrawn"):
    """The family of that job was deleted while it was read: what stands before this does not count."""

    job: str


class OutputLine(Line, tag="output"):
    """Output of an attempt of a job of the family before it."""

    job: str
    path: str
    attempt: int
    chunks: list[OutputChunk]


class EndLine(Line, tag="end"):
    """The last line: how many jobs, events and definitions count, and the SHA-256 of all bytes before this line."""

    jobs: int
    events: int
    definitions: int
    sha256: str


AnyLine = Header | DefinitionLine | JobLine | EventsLine | FamilyLine | WithdrawnLine | OutputLine | EndLine


class _Beginning(msgspec.Struct):
    """What every format has on its first line."""

    type: str = ""
    format: int = 0


_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[AnyLine] = msgspec.json.Decoder(AnyLine)
_first = msgspec.json.Decoder(_Beginning)


def encode_line(line: Line) -> bytes:
    """The line with its end."""
    return _encoder.encode(line) + b"\n"


def decode_line(data: bytes, number: int) -> AnyLine:
    """What stands on line `number`. `InvalidExport` for what is no line of this format."""
    if number == 1:
        check_beginning(data)
    try:
        line = _decoder.decode(data)
    except RecursionError:
        raise InvalidExport("it is nested too deeply", number) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidExport(f"it is no line of an export ({error})", number) from None
    if isinstance(line, Header) != (number == 1):
        raise InvalidExport("the export begins here once more" if number > 1 else "this is no export", number)
    return line


def check_beginning(data: bytes) -> None:
    """`InvalidExport` unless a file that begins with this line can be read."""
    try:
        beginning = _first.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        beginning = _Beginning()
    if beginning.type != Header.__struct_config__.tag:
        raise InvalidExport("this is no export of openagents; `openagents store export` makes one", 1)
    if beginning.format > FORMAT:
        raise InvalidExport(
            f"the export has format {beginning.format}, and this version of openagents_json reads up to {FORMAT}. "
            "Install a newer version",
            1,
        )
