"""A disk that is full or broken from some call on, until it works again (G1, G12).

A point is a kind of call, an error, and the number from which on each such call on the store's files fails, in each
thread. After a few failures the disk is well again. Meanwhile the client hears `StoreUnavailable` or `StoreFull` and
nothing else; then the same process goes on and ends all jobs, and nothing that was acknowledged is lost.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest

from tests.faults import victim
from tests.faults.checker import violations
from tests.faults.points import Trial, firsts, in_turn
from tests.faults.reading import read_evidence, wrong_ends
from tests.faults.sizes import Hits, campaign_random, sized
from tests.faults.traced_victim import Life, read_troubles
from tests.faults.tracing import STRING_BYTES, Call, Lives, needs_strace, quiet, read_calls, recording

FILE = "tests/faults/test_disk_faults.py"
JOBS = 2
POINTS = {"sqlite": (6, 40), "file": (4, 20)}  # in the quick part, and in the whole
ERRORS = {
    "openat": ("ENOSPC", "EIO"), "pwrite64": ("ENOSPC", "EIO"), "write": ("ENOSPC", "EIO"),
    "ftruncate": ("EIO",), "fdatasync": ("EIO",), "fsync": ("EIO",),
}  # fmt: skip
FAILURES = 4  # at most, until the disk is well again
OPENING, ACCEPTING, RUNNING, ENDING = WINDOWS = ("opening", "accepting", "running", "ending")
SEGMENTS = 6  # files of a file store that have the faulty disk


@dataclass(frozen=True)
class Point:
    is_new: bool  # there is no store yet; else one that was closed
    call: str
    error: str
    number: int
    failures: int
    window: str  # that it should hit, by the record of a whole life


def window_of(folder: Path) -> str:
    """How far the victim has come."""
    accepted = len(victim.read_accepted(folder))
    if accepted < JOBS:
        return ACCEPTING if accepted else OPENING
    ended = {effect.job_id for effect in victim.read_effects(folder) if effect.path == "last_sum"}
    return ENDING if len(ended) == JOBS else RUNNING


def store_paths(folder: Path, *, is_file: bool) -> list[str]:
    """All that is on the faulty disk; the victim's own logs are not."""
    if not is_file:
        return [f"{folder / victim.STORE}{ending}" for ending in ("", "-wal", "-journal", "-shm", ".lock", ".owner")]
    place = folder / victim.FILE_STORE
    names = [f"{kind}-{number:08}.jsonl" for kind in ("journal", "snapshot") for number in range(1, SEGMENTS + 1)]
    return [str(place), *(f"{place / name}{ending}" for name in names for ending in ("", ".tmp"))]


@dataclass
class Campaign:
    lives: Lives
    folder: Path
    is_file: bool
    said: Counter[str] = field(default_factory=Counter)  # by error of the system and of the store

    async def points(self, random: Random) -> list[Point]:
        """Of lives to which nothing happens. Of the one that makes its store only that is of interest."""
        assert await self.lives.live(self.life(self.fresh(is_new=True), 0)) == 0
        shutil.move(self.folder / "now", self.template)
        points: list[Point] = []
        for is_new in (True, False):
            lived, record = self.fresh(is_new=is_new), self.folder / "record"
            arguments = [*quiet(tuple(ERRORS)), *recording(STRING_BYTES)]
            assert await self.lives.live(self.life(lived), *arguments, record=record) == 0
            points += [
                Point(is_new, call.name, error, number, random.randint(1, FAILURES), window)
                for call, number, window in self.reached(list(read_calls(record)), lived)
                for error in ERRORS[call.name]
                if window == OPENING or not is_new
            ]
        return in_turn(points, random)

    @property
    def template(self) -> Path:
        return self.folder / "a store that was closed"

    def fresh(self, *, is_new: bool) -> Path:
        """A folder to live in."""
        folder = self.folder / "now"
        shutil.rmtree(folder, ignore_errors=True)
        if is_new:
            folder.mkdir()
        else:
            shutil.copytree(self.template, folder)
        return folder

    def reached(self, calls: list[Call], lived: Path) -> Iterator[tuple[Call, int, str]]:
        """The calls on the store's files, with their numbers and windows."""
        paths = set(store_paths(lived, is_file=self.is_file))
        on_store = [one for one in calls if one.begins and paths.intersection((one.target(), *one.strings()[:1]))]
        numbers = {id(call): number for call, number in firsts(on_store)}
        accepted, ended = 0, 0
        for call in calls:
            if call.begins and call.name == "write":
                accepted += call.target().endswith(victim.ACCEPTED)
                ended += call.target().endswith(victim.EFFECTS) and b'"last_sum"' in call.data()
            if id(call) in numbers:
                late = ENDING if ended == JOBS else RUNNING
                yield call, numbers[id(call)], late if accepted == JOBS else ACCEPTING if accepted else OPENING

    def life(self, folder: Path, count: int = JOBS) -> Life:
        return Life(str(folder), count, is_file=self.is_file, is_patient=True)

    async def try_point(self, point: Point) -> str | None:
        """The window that was hit; None when the call was not made."""
        folder, record = self.fresh(is_new=point.is_new), self.folder / "record"
        record.unlink(missing_ok=True)
        hit: list[str] = []

        def has_failed() -> bool:
            failures = record.read_bytes().count(b"(INJECTED)") if record.exists() else 0
            if failures and not hit:
                hit.append(window_of(folder))  # it cannot come far meanwhile
            return failures >= point.failures

        on = [argument for path in store_paths(folder, is_file=self.is_file) for argument in ("-P", path)]
        inject = f"inject={point.call}:error={point.error}:when={point.number}+"
        arguments = [*quiet([point.call]), *on, "-e", inject]
        code = await self.lives.live(self.life(folder), *arguments, record=record, looks=has_failed)
        has_failed()
        assert code == 0, f"it did not go on after {point}"
        assert await self.lives.live(self.life(folder, JOBS + 1)) == 0, f"the store does not work after {point}"
        evidence = await read_evidence(folder, is_file=self.is_file, faults=1, is_quiet=True)
        assert violations(evidence) + wrong_ends(evidence, JOBS + 1) == [], point
        for kind, message in read_troubles(folder):
            assert str(folder) in message, "it says what cannot be used"
            self.said[f"{point.error} {kind}"] += 1
        return hit[0] if hit else None


@needs_strace
@pytest.mark.timeout(600)
@pytest.mark.guarantee("G1")
@pytest.mark.guarantee("G12")
@pytest.mark.parametrize("store", list(POINTS))
async def test_disk_that_fails_for_a_while_costs_nothing_that_was_acknowledged(tmp_path: Path, store: str) -> None:
    random = campaign_random(FILE)
    with Lives() as lives:
        campaign = Campaign(lives, tmp_path, is_file=store == "file")
        points = await campaign.points(random)
        trial = Trial(campaign.try_point, Hits(WINDOWS))
        await trial.run(points, sized(*POINTS[store]))
    print(f"{len(points)} points were possible; the client was told {dict(campaign.said)}")
    trial.check()
    assert campaign.said, "the client was told of some"
    assert set(campaign.said) <= {"EIO StoreUnavailable", "ENOSPC StoreUnavailable", "ENOSPC StoreFull"}
