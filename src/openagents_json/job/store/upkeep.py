"""What a store says of itself as a whole: facts for people, flaws, and what was won by making it smaller."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from openagents_json.job.model import JobStatus

MAX_FLAWS = 100  # that one look at a store tells of


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreFacts:
    """How a store is at one moment. Nothing of it is a secret."""

    kind: str  # memory, file, sqlite, postgres
    place: str
    engine: str  # what keeps the bytes, with its version
    schema: int | None  # number of its last migration, or its format; None: it has none
    known_schema: int | None  # the same of this program
    pending: tuple[str, ...] = ()  # names of the migrations between the two
    jobs: Mapping[JobStatus, int]  # none is left out that there is one of
    events: int | None  # of all histories; None: unknown
    definitions: int | None
    workers: int  # that live, this object's own too
    leaks: int
    oldest_us: int | None  # when the job that was created first was, of those that are there
    newest_us: int | None
    sizes: Mapping[str, int] = field(default_factory=dict)  # part → bytes on the disk; empty: it has none there
    free_bytes: int | None = None  # of them free, and used for what comes; None: unknown
    settings: Mapping[str, str] = field(default_factory=dict)  # of the engine: journal mode and the like

    @property
    def disk_bytes(self) -> int:
        """All of it on the disk."""
        return sum(self.sizes.values())


@dataclass(frozen=True, slots=True)
class Flaw:
    """Something that is not as it was written: where, and what is wrong with it."""

    where: str  # a file, a table, `job 0192…`, `definition 3f9a…`
    what: str
    is_damage: bool = False  # of the bytes themselves: what else is read may be wrong as well

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass(frozen=True, slots=True)
class Vacuumed:
    """The store's size on the disk before and after it was made as small as it can be."""

    before_bytes: int
    after_bytes: int
