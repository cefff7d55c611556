"""The file store as a whole: facts and flaws, of a folder that is open or is not."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from openagents_json.errors import StoreUnavailable
from openagents_json.job.store.file_folder import (
    FORMAT,
    check_place,
    contents_of,
    lock_folder,
    translate,
)
from openagents_json.job.store.file_loading import Damaged, load, play_back
from openagents_json.job.store.file_memory import JournaledMemory
from openagents_json.job.store.memory_upkeep import facts_of, in_folder
from openagents_json.job.store.upkeep import Flaw, StoreFacts

TRIES = 3  # to read files while compacting takes them away


def facts_on_disk(folder: Path, memory: JournaledMemory) -> StoreFacts:
    """Facts of a folder that nobody has open, played back into that memory."""
    with _locked(folder):
        load(folder, contents_of(folder), memory)
        return facts_in(folder, memory, 0)


def facts_in(folder: Path, memory: JournaledMemory, workers: int) -> StoreFacts:
    """Facts of a folder whose jobs are in that memory."""
    settings = {"aging": f"{memory.aging_s:g} s", "sync": "each group of changes"}
    return in_folder(facts_of(memory, workers), str(folder), FORMAT, sizes_of(folder), settings)


def find_flaws(folder: Path, memory: Callable[[], JournaledMemory], *, is_open: bool) -> list[Flaw]:
    """The first damage of the folder, if there is any: what follows it cannot be judged."""
    with contextlib.nullcontext() if is_open else _locked(folder):
        for attempt in range(1, TRIES + 1):
            try:
                play_back(contents_of(folder), memory())
            except Damaged as error:
                place = f"{folder / error.damage.file}, line {error.damage.line:,} (byte {error.damage.byte:,})"
                return [Flaw(place, f"{error.damage.why}; `openagents store repair` cuts it out", is_damage=True)]
            except FileNotFoundError:
                if attempt == TRIES:
                    raise
            else:
                break
    return []


def sizes_of(folder: Path) -> dict[str, int]:
    """What lies on the disk."""
    contents = contents_of(folder)
    found = {
        "journal": sum(path.stat().st_size for number, path in contents.journals.items() if number >= contents.base),
        "snapshot": contents.snapshots[contents.base].stat().st_size if contents.base else 0,
        "superseded": sum(path.stat().st_size for path in contents.superseded()),
        "cut out by repairs": sum(path.stat().st_size for path in contents.damaged.values()),
    }
    return {part: size for part, size in found.items() if size or part in ("journal", "snapshot")}


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """The lock of a store that is there. `StoreUnavailable` when there is none or a process has it."""
    try:
        check_place(folder)
        if not folder.is_dir() or not contents_of(folder).highest:
            raise StoreUnavailable(f"There is no store at {folder}. `openagents run` makes one; give another path.")
        lock = lock_folder(folder)
        try:
            yield
        finally:
            lock.close()
    except OSError as error:
        raise translate(error, folder) from None
