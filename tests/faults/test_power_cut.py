"""Power cuts: whatever of the unsynced bytes is lost, what was acknowledged is there, and the store opens (G1, I8, I9).

One life of the victim is recorded, call by call. A cut falls between two of its calls; `power.Disk` tells what the disk
holds then, and that is opened and compared with what clients and components had been told before the cut. The control
does the same to a build that syncs nothing, and has to find jobs and events lost.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest

from openagents_json import Event, StoreError
from tests.faults import victim
from tests.faults.checker import Record, violations
from tests.faults.power import Disk
from tests.faults.reading import read_evidence, wrong_ends
from tests.faults.sizes import Hits, campaign_random, sized
from tests.faults.traced_victim import FINALS, Life
from tests.faults.tracing import CHANGES, STRING_BYTES, Call, Lives, needs_strace, quiet, read_calls, recording

FILE = "tests/faults/test_power_cut.py"
JOBS = {"sqlite": 3, "file": 6}
LOGS = (victim.ACCEPTED, victim.EFFECTS, FINALS)
OPENING, ACCEPTING, RUNNING, ENDING = PHASES = ("opening", "accepting", "running", "ending")
TORN = "with sectors lost"  # of what programs had written, in whatever phase
SHARED_MEMORY = "-shm"  # of SQLite, which makes it anew after a cut
WRITTEN_AT_ONCE = 2  # events of a job that `create_job` has accepted


@dataclass
class Told:
    """What the world had been told before a cut: the lines of the logs, which the world does not lose."""

    lines: dict[str, bytearray] = field(default_factory=lambda: {name: bytearray() for name in LOGS})

    def hear(self, call: Call) -> None:
        name = call.target().rsplit("/", 1)[-1]
        if call.begins and call.name == "write" and name in self.lines:
            self.lines[name] += call.data()

    def phase(self, jobs: int) -> str:
        if (accepted := self.lines[victim.ACCEPTED].count(b"\n")) < jobs:
            return ACCEPTING if accepted else OPENING
        return ENDING if self.lines[victim.EFFECTS].count(b'"last_sum"') == jobs else RUNNING

    def write(self, folder: Path) -> None:
        for name, lines in self.lines.items():
            (folder / name).write_bytes(lines)


@dataclass
class Recorded:
    """A life, with all its calls and with the histories as they became."""

    folder: Path
    is_file: bool
    jobs: int
    calls: list[Call]
    histories: dict[str, list[Event]]
    hits: Hits = field(default_factory=lambda: Hits((*PHASES, TORN)))

    def cuts(self, count: int, random: Random) -> list[int]:
        """So many places in the record, as many in each phase of the life, in their order."""
        told = Told()
        places: dict[str, list[int]] = {phase: [] for phase in PHASES}
        for number, call in enumerate(self.calls):
            places[told.phase(self.jobs)].append(number)
            told.hear(call)
        return sorted(random.choice(places[PHASES[number % len(PHASES)]]) for number in range(count))

    async def try_cuts(self, count: int, random: Random, *, lives: Lives | None = None, goes_on: int = 0) -> list[str]:
        """What is wrong after so many cuts, `goes_on` of which a further life follows."""
        disk, told, found = Disk(self.folder, but=LOGS), Told(), list[str]()
        cuts = self.cuts(count, random)
        followed = set(random.sample(range(count), goes_on))
        done = 0
        image = self.folder.with_name("image")
        for number, cut in enumerate(cuts):
            for call in self.calls[done:cut]:
                disk.apply(call)
                told.hear(call)
            done = cut
            image.mkdir()
            torn = [name for name in disk.image(random, image) if not name.endswith(SHARED_MEMORY)]
            self.hits.count(TORN, bool(torn))
            self.hits.count(told.phase(self.jobs))
            told.write(image)
            wrong = await self.look(image)
            if lives is not None and number in followed and not wrong:
                wrong = await self.go_on(lives, image)
            found += [f"{sentence} (cut at call {cut}, image {number})" for sentence in wrong]
            shutil.rmtree(image)
        return found

    async def look(self, image: Path) -> list[str]:
        """What is wrong with an image."""
        try:
            evidence = await read_evidence(image, is_file=self.is_file, faults=1, is_quiet=False)
        except StoreError as error:
            return [f"open: {error}"]
        evidence.prefixes = {job_id: self.histories[job_id][:known] for job_id, known in self.known(image).items()}
        return violations(evidence) + [sentence for one in evidence.records for sentence in self.invented(one)]

    def known(self, image: Path) -> Counter[str]:
        """How many events of each job somebody knew before the cut."""
        known = Counter(dict.fromkeys(victim.read_accepted(image).values(), WRITTEN_AT_ONCE))
        for effect in victim.read_effects(image):
            known[effect.job_id] = max(known[effect.job_id], effect.token)
        for job_id, _ in victim.read_log(image / FINALS):
            known[job_id] = len(self.histories[job_id])
        return known

    def invented(self, record: Record) -> list[str]:
        """A history is one that has been: the beginning of what it became."""
        became = self.histories.get(record.id, [])[: len(record.events)]
        return [] if list(record.events) == became else [f"I9: job {record.id} has a history that it never had"]

    async def go_on(self, lives: Lives, image: Path) -> list[str]:
        """A further life on the image brings every job to its end."""
        code = await lives.live(Life(str(image), self.jobs, is_file=self.is_file))
        evidence = await read_evidence(image, is_file=self.is_file, faults=1, is_quiet=True)
        return [f"ends: exit code {code}"] * bool(code) + violations(evidence) + wrong_ends(evidence, self.jobs)


async def record(lives: Lives, folder: Path, store: str, *, is_synced: bool = True) -> Recorded:
    """Let the victim live, and record it."""
    lived, calls, is_file, jobs = folder / "lived", folder / "calls", store == "file", JOBS[store]
    lived.mkdir()
    life = Life(str(lived), jobs, is_file=is_file, is_synced=is_synced)
    assert await lives.live(life, *quiet(CHANGES), *recording(STRING_BYTES), record=calls) == 0
    evidence = await read_evidence(lived, is_file=is_file, faults=1, is_quiet=True)
    assert violations(evidence) + wrong_ends(evidence, jobs) == []
    histories = {one.id: list(one.events) for one in evidence.records}
    return Recorded(lived, is_file, jobs, list(read_calls(calls)), histories)


@pytest.fixture(scope="module")
def lives() -> Iterator[Lives]:
    with Lives() as lives:
        yield lives


@needs_strace
@pytest.mark.timeout(600)
@pytest.mark.guarantee("G1")
@pytest.mark.guarantee("G2")
@pytest.mark.guarantee("G3")
@pytest.mark.parametrize("store", list(JOBS))
async def test_power_cut_loses_nothing_that_was_acknowledged(lives: Lives, tmp_path: Path, store: str) -> None:
    random = campaign_random(FILE)
    recorded = await record(lives, tmp_path, store)
    found = await recorded.try_cuts(sized(20, 500), random, lives=lives, goes_on=sized(2, 40))
    assert found == []
    recorded.hits.check()


@needs_strace
@pytest.mark.parametrize("store", list(JOBS))
async def test_build_that_syncs_nothing_loses_what_it_acknowledged(lives: Lives, tmp_path: Path, store: str) -> None:
    random = campaign_random(FILE)
    recorded = await record(lives, tmp_path, store, is_synced=False)
    found = await recorded.try_cuts(40, random)
    laws = Counter(sentence.split(":")[0] for sentence in found)
    print(dict(laws))
    assert {"I1", "I6", "I9"} <= set(laws), "accepted jobs, calls and histories that were read are gone"
