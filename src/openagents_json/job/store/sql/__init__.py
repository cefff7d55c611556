"""SQL in files: named statements and numbered migrations, per dialect."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema. `checksum` (SHA-256) tells a store whether it was made by this very text."""

    number: int
    name: str
    script: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.script.encode()).hexdigest()

    @property
    def statements(self) -> list[str]:
        """The script's statements one by one, comments removed."""
        text = re.sub(r"--[^\n]*", "", self.script)
        return [statement.strip() for statement in text.split(";") if statement.strip()]


@cache
def statements(dialect: str) -> dict[str, str]:
    """The named statements of a dialect, without their comments."""
    text = files(__package__).joinpath(dialect, "statements.sql").read_text(encoding="utf-8")
    parts = _NAME.split(text)[1:]
    named = dict(zip(parts[::2], parts[1::2], strict=True))
    assert len(named) == len(parts) // 2, "a name stands for one statement"
    return {name: re.sub(r"^--[^\n]*\n", "", body.strip(), flags=re.MULTILINE) for name, body in named.items()}


@cache
def migrations(dialect: str) -> tuple[Migration, ...]:
    """The migrations of a dialect in order, numbered from 1 without gaps."""
    found = []
    for file in files(__package__).joinpath(dialect, "migrations").iterdir():
        number, name = file.name.removesuffix(".sql").split("_", 1)
        found.append(Migration(int(number), name.replace("_", " "), file.read_text(encoding="utf-8")))
    found.sort(key=lambda migration: migration.number)
    assert [migration.number for migration in found] == list(range(1, len(found) + 1))
    return tuple(found)
