"""Finding passages in a folder of text files: BM25, the usual ranking by words, in pure Python."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

SUFFIXES = frozenset({".txt", ".md", ".rst"})
MAX_FILES = 2_000
MAX_FILE_BYTES = 1024 * 1024
PASSAGE_CHARACTERS = 2_000
K1, B = 1.5, 0.75  # BM25's usual constants: how soon repeating a word stops to count, how much length counts

_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Passage:
    """A paragraph of a file. `source` is `path:line`, the path relative to the folder."""

    source: str
    text: str


def read_passages(folder: Path) -> list[Passage]:
    """The paragraphs of all text files below a folder, by path; larger files and those beyond the limit are left out.

    OSError if the folder cannot be read.
    """
    files = sorted(file for file in folder.rglob("*") if file.suffix in SUFFIXES and file.is_file())
    passages: list[Passage] = []
    for file in files[:MAX_FILES]:
        if file.stat().st_size <= MAX_FILE_BYTES:
            name = file.relative_to(folder).as_posix()
            passages += paragraphs(name, file.read_text(encoding="utf-8", errors="replace"))
    return passages


def paragraphs(name: str, text: str) -> list[Passage]:
    """The parts of a text between empty lines, each with the line where it begins."""
    found: list[Passage] = []
    lines: list[str] = []
    for number, line in enumerate([*text.splitlines(), ""], 1):
        if line.strip():
            lines.append(line.strip())
        elif lines:
            found.append(Passage(f"{name}:{number - len(lines)}", " ".join(lines)[:PASSAGE_CHARACTERS]))
            lines = []
    return found


def rank(passages: Sequence[Passage], query: str, top: int) -> list[tuple[float, Passage]]:
    """The best passages for a query with their scores, the best first; only those that share a word with it."""
    counts = [Counter(_words(passage.text)) for passage in passages]
    mean = sum(map(Counter.total, counts)) / max(len(counts), 1)
    weights = {word: _weight(sum(word in count for count in counts), len(counts)) for word in set(_words(query))}
    scored = [(_score(count, weights, mean), passage) for count, passage in zip(counts, passages, strict=True)]
    found = [one for one in scored if one[0] > 0]
    return sorted(found, key=lambda one: (-one[0], one[1].source))[:top]


def _words(text: str) -> Iterable[str]:
    return _WORD.findall(text.lower())


def _weight(holders: int, total: int) -> float:
    """The rarer a word, the more it says."""
    return math.log(1 + (total - holders + 0.5) / (holders + 0.5))


def _score(count: Counter[str], weights: dict[str, float], mean: float) -> float:
    length = K1 * (1 - B + B * count.total() / mean) if mean else 0.0
    shared = [(weight, count[word]) for word, weight in weights.items() if word in count]
    return sum(weight * times * (K1 + 1) / (times + length) for weight, times in shared)
