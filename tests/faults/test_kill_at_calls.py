"""kill −9 at every 4th write and every 4th sync of a small run, also of one that recovers (G1, G2, G3).

A point is a situation, a kind of call and a number: the first thread that is about to make so many calls of that kind
dies with its process. What it leaves is read back, started again and brought to its end. What a kill has really hit is
said by what was there after it:

    opening     nothing was accepted yet: the store is made, or opened
    accepting   some jobs were accepted, not all
    running     all were, and some have not had their last effect
    ending      all effects are there: the last commits, and closing with its checkpoint
    recovery    the life began on what a dead one had left, and has had no effect yet
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
from tests.faults.checker import Evidence, violations
from tests.faults.points import Trial, firsts, in_turn
from tests.faults.reading import read_copy, read_evidence, wrong_ends
from tests.faults.sizes import Hits, campaign_random, sized
from tests.faults.traced_victim import Life
from tests.faults.tracing import SYNCS, WRITES, Call, Lives, needs_strace, quiet, read_calls, recording

FILE = "tests/faults/test_kill_at_calls.py"
JOBS = 2
EVERY = 4
QUICK = {"sqlite": 6, "file": 5}
NEW, THERE, INTERRUPTED = SITUATIONS = ("no store yet", "a store that was closed", "a store whose process died")
OPENING, ACCEPTING, RUNNING, ENDING, RECOVERY = WINDOWS = ("opening", "accepting", "running", "ending", "recovery")
INTERRUPTED_AT = 6  # th line that the main thread syncs: in the midst of the run


@dataclass(frozen=True)
class Point:
    situation: str
    call: str
    number: int
    window: str  # that it should hit, by the record of a whole life
    is_4th: bool


@dataclass
class Campaign:
    """Lives and deaths on one kind of store, each on a folder of its own."""

    lives: Lives
    folder: Path
    is_file: bool
    seen: Counter[str] = field(default_factory=Counter)  # evidence, by what it is

    async def prepare(self) -> None:
        """Make the situations."""
        for situation in SITUATIONS:
            self.template(situation).mkdir()
        assert await self.lives.live(self.life(self.template(THERE), 0)) == 0
        assert await self.kill(self.template(INTERRUPTED), "fsync", INTERRUPTED_AT)

    def template(self, situation: str) -> Path:
        return self.folder / situation

    def fresh(self, situation: str) -> Path:
        """A folder in that situation."""
        folder = self.folder / "now"
        shutil.rmtree(folder, ignore_errors=True)
        return Path(shutil.copytree(self.template(situation), folder))

    def life(self, folder: Path, count: int = JOBS) -> Life:
        return Life(str(folder), count, is_file=self.is_file)

    async def kill(self, folder: Path, call: str, number: int) -> bool:
        """Whether a life has come so far and was killed."""
        inject = f"inject={call}:signal=KILL:when={number}"
        code = await self.lives.live(self.life(folder), *quiet([call]), "-e", inject)
        assert code in (-9, 0)
        return code == -9

    async def points(self, random: Random) -> list[Point]:
        """Every call in each situation, in the order in which they are to be tried: every 4th of each kind, and then
        the others, for a window that has so few calls that these miss it."""
        points: list[Point] = []
        for situation in SITUATIONS:
            folder = self.fresh(situation)
            record = self.folder / "record"
            arguments = [*quiet((*WRITES, *SYNCS)), *recording(0)]
            assert await self.lives.live(self.life(folder), *arguments, record=record) == 0
            accepted = len(victim.read_accepted(self.template(situation)))
            points += points_of(situation, record, accepted, random)
        others = [point for point in points if not point.is_4th]
        return in_turn([point for point in points if point.is_4th], random) + in_turn(others, random)

    async def try_point(self, point: Point) -> str | None:
        """The window that was hit; None when the call was not made: threads share their work otherwise each time."""
        folder = self.fresh(point.situation)
        before = len(victim.read_effects(folder))
        if not await self.kill(folder, point.call, point.number):
            return None
        faults = 1 + (point.situation == INTERRUPTED)
        left = await read_copy(folder, is_file=self.is_file, faults=faults)
        window = window_of(left, point.situation == INTERRUPTED and len(left.effects) == before)
        assert violations(left) == [], point
        assert await self.lives.live(self.life(folder)) == 0, point
        prefixes = {record.id: record.events for record in left.records}
        finals = {one.id: str(one.summary.status) for one in left.records if one.summary.status.is_final}
        end = await read_evidence(folder, is_file=self.is_file, faults=faults, is_quiet=True, prefixes=prefixes)
        end.finals = {**end.finals, **finals}
        assert violations(end) + wrong_ends(end, JOBS) == [], point
        self.seen.update(
            accepted=len(left.accepted), effects=len(left.effects), prefixes=len(prefixes), finals=len(end.finals),
            repeated=len(end.effects) - len({(one.job_id, one.path) for one in end.effects}),
        )  # fmt: skip
        return window


def points_of(situation: str, record: Path, accepted: int, random: Random) -> Iterator[Point]:
    """Of a recorded life, which begins with so many accepted jobs. Where there is no store yet only opening is another
    thing; the rest is left to the other situations."""
    calls = [call for call in read_calls(record) if call.begins]
    begin = {kind: random.randrange(EVERY) for kind in (*WRITES, *SYNCS)}
    numbers = {id(call): number for call, number in firsts(calls)}
    effects, all_effects = 0, sum(is_written(call, victim.EFFECTS) for call in calls)
    for call in calls:
        window = RUNNING if accepted >= JOBS else ACCEPTING if accepted else OPENING
        if situation == INTERRUPTED and not effects:
            window = RECOVERY
        elif effects == all_effects:
            window = ENDING
        if id(call) in numbers and (situation != NEW or window == OPENING):
            number = numbers[id(call)]
            yield Point(situation, call.name, number, window, number % EVERY == begin[call.name])
        accepted += is_written(call, victim.ACCEPTED)
        effects += is_written(call, victim.EFFECTS)


def is_written(call: Call, name: str) -> bool:
    """Whether the call writes a line to that log."""
    return call.name == "write" and call.target().endswith(name)


def window_of(left: Evidence, is_recovering: bool) -> str:
    """What a kill has hit, by what it left."""
    if is_recovering:
        return RECOVERY
    if len(left.accepted) < JOBS:
        return ACCEPTING if left.accepted else OPENING
    ended = {effect.job_id for effect in left.effects if effect.path == "last_sum"}
    return ENDING if ended == left.accepted else RUNNING


@needs_strace
@pytest.mark.timeout(900)
@pytest.mark.guarantee("G1")
@pytest.mark.guarantee("G2")
@pytest.mark.guarantee("G3")
@pytest.mark.parametrize("store", list(QUICK))
async def test_kill_at_any_write_or_sync_loses_nothing_and_repeats_nothing_recorded(tmp_path: Path, store: str) -> None:
    random = campaign_random(FILE)
    with Lives() as lives:
        campaign = Campaign(lives, tmp_path, is_file=store == "file")
        await campaign.prepare()
        points = await campaign.points(random)
        trial = Trial(campaign.try_point, Hits(WINDOWS))
        await trial.run(points, sized(QUICK[store], sum(point.is_4th for point in points)))
    print(f"seen: {dict(campaign.seen)}")
    trial.check()
    assert all(campaign.seen.values()), "evidence for each law"
