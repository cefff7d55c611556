"""kill −9 at random moments: nothing accepted is lost, nothing recorded is repeated or changed (G1, G2, G3)."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from openagents_json import Event, InvalidTransition, JobManager, JobStatus
from openagents_json.job.store import FileJobStore, SqliteJobStore
from tests.faults import victim
from tests.faults.checker import Evidence, Record, fault_violations, read_records, violations
from tests.faults.nursery import Nursery
from tests.faults.sizes import Hits, campaign_random, sized
from tests.faults.victim import ACCEPTING, OPENING, RECOVERING, RUNNING, STORE
from tests.faults.waiting import SAFETY_S, until

MEDDLED = "after a meddle"  # running, and another process has just asked things of its jobs
WINDOWS = {
    "sqlite": (OPENING, RECOVERING, ACCEPTING, RUNNING, MEDDLED),
    "file": (OPENING, RECOVERING, ACCEPTING, RUNNING),  # this store has one process only
}
KILLS = {"sqlite": sized(6, 20), "file": sized(5, 20)}  # of one store
STORES = {"sqlite": sized(1, 7), "file": sized(1, 3)}  # one after the other
MORE_KILLS = 10  # at most, of the last store, for windows that were aimed at and missed
LATEST_S = {OPENING: 0.05, RECOVERING: 0.004, ACCEPTING: 0.05, RUNNING: 0.2, MEDDLED: 0.05}  # after a window's begin
JOBS_PER_LIFE = 8  # so many more are asked for at each start, so that there is always something to kill


@dataclass
class Campaign:
    """One store, the processes that live and die on it, and what is known of it."""

    folder: Path
    random: random.Random
    store: str
    nursery: Nursery
    hits: Hits
    kills: int = 0
    prefixes: dict[str, list[Event]] = field(default_factory=dict)  # histories as they were read last
    finals: dict[str, str] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)  # ids of jobs that somebody asked to cancel

    @property
    def is_file(self) -> bool:
        return self.store == "file"

    @property
    def jobs_wanted(self) -> int:
        """By the life that comes after so many kills."""
        return (self.kills + 1) * JOBS_PER_LIFE

    async def live_and_die(self, window: str) -> None:
        """Start the victim, let it come to that window, and kill it; its own log says what was hit."""
        begun = len(victim.read_phases(self.folder))
        self.nursery.begin(self.folder, count=self.jobs_wanted, stays=True, is_file=self.is_file)
        phase = RUNNING if window == MEDDLED else window
        enough = victim.PHASES[victim.PHASES.index(phase) :]  # it may have nothing to recover
        await until(lambda: any(phase in enough for phase in victim.read_phases(self.folder)[begun:]))
        if window == MEDDLED:
            await self.meddle()
        await asyncio.sleep(self.random.uniform(0, LATEST_S[window]))  # not to wait for anything: this is the fault
        code = self.nursery.kill()
        assert code == -signal.SIGKILL, f"it ended by itself with {code} before it was killed"
        self.kills += 1
        hit = victim.read_phases(self.folder)[-1]
        self.hits.count(MEDDLED if hit == RUNNING and window == MEDDLED else hit)

    async def live(self) -> None:
        """Let the victim live once more, until every job is final."""
        self.nursery.begin(self.folder, count=self.kills * JOBS_PER_LIFE, stays=False, is_file=self.is_file)
        assert await self.nursery.ended(within_s=SAFETY_S) == 0

    async def meddle(self) -> None:
        """From this process: pause some of the running jobs, cancel one, resume what was paused before."""
        async with JobManager(f"sqlite:///{self.folder / STORE}", worker=False) as jobs:
            paused = list(await jobs.list_jobs({"status": "PAUSED"}))
            running = list(await jobs.list_jobs({"status": ["RUNNING", "QUEUED"]}))
            for job in self.random.sample(running, min(3, len(running))):
                with contextlib.suppress(InvalidTransition):  # it has ended meanwhile
                    await jobs.pause_job(job.id, by="meddler")
            for job in self.random.sample(running, min(1, len(running))):
                self.cancelled.add(job.id)
                with contextlib.suppress(InvalidTransition):
                    await jobs.cancel_job(job.id, by="meddler")
            for job in paused:
                with contextlib.suppress(InvalidTransition):  # it has just been cancelled
                    await jobs.resume_job(job.id, by="meddler")
            for job in await jobs.list_jobs({"status": ["COMPLETED", "FAILED", "CANCELLED"]}, limit=1_000):
                self.finals[job.id] = str(job.status)  # as a reader sees them while the victim writes

    async def resume_all(self) -> None:
        """Also the jobs whose pause still stands in the inbox when the victim dies: their rows do not tell of it."""
        async with JobManager(self.own_store(), worker=False) as jobs:
            for job in await jobs.list_jobs(limit=1_000):
                if not job.status.is_final:
                    with contextlib.suppress(InvalidTransition):  # it never started
                        await jobs.resume_job(job.id)

    def own_store(self) -> SqliteJobStore | FileJobStore:
        return victim.store_in(self.folder, is_file=self.is_file)

    async def look(self, *, is_quiet: bool = False) -> Evidence:
        """Read everything back while nobody runs. What was read before has to be there still."""
        records: list[Record] = []
        store = self.own_store()
        if store.path.exists():
            await store.open()
            try:
                records = await read_records(store)
            finally:
                await store.close()
        evidence = Evidence(
            records,
            accepted=set(victim.read_accepted(self.folder).values()),
            effects=victim.read_effects(self.folder),
            faults=self.kills,
            concurrency=victim.MAX_STEPS,
            declared_retries=victim.RETRIES_PER_JOB * len(records),
            prefixes=self.prefixes,
            finals=self.finals,
            is_quiet=is_quiet,
        )
        if not is_quiet:
            assert violations(evidence) == []
            self.prefixes = {record.id: list(record.events) for record in records}
            self.finals = {one.id: str(one.summary.status) for one in records if one.summary.status.is_final}
        return evidence


@pytest.mark.guarantee("G1")
@pytest.mark.guarantee("G2")
@pytest.mark.guarantee("G3")
@pytest.mark.parametrize("store", list(KILLS))
@pytest.mark.timeout(600)
async def test_many_kills_lose_no_accepted_job_and_repeat_nothing_that_was_recorded(tmp_path: Path, store: str) -> None:
    chance = campaign_random("tests/faults/test_kill.py")
    hits = Hits(WINDOWS[store])
    with Nursery(victim) as nursery:
        for number in range(1, STORES[store] + 1):
            folder = tmp_path / str(number)
            folder.mkdir()
            campaign = Campaign(folder, chance, store, nursery, hits)
            await campaign_on_one_store(campaign, is_last=number == STORES[store])
    hits.check()


async def campaign_on_one_store(campaign: Campaign, *, is_last: bool) -> None:
    windows = WINDOWS[campaign.store]
    aims = [RUNNING, *(windows[number % len(windows)] for number in range(KILLS[campaign.store] - 1))]
    campaign.random.shuffle(rest := aims[1:])
    for window in (RUNNING, *rest):  # the first life leaves something to recover
        await campaign.live_and_die(window)
        await campaign.look()
    for _ in range(MORE_KILLS if is_last else 0):
        for window in campaign.hits.missed:
            await campaign.live_and_die(window)
            await campaign.look()
    await campaign.resume_all()
    await campaign.live()
    await campaign.look()
    await campaign.live()  # what was final then is so after a restart, too
    evidence = await campaign.look(is_quiet=True)

    assert evidence.faults == campaign.kills
    if campaign.is_file:
        assert list((campaign.folder / victim.FILE_STORE).glob("snapshot-*")), "it was compacted meanwhile"
    assert fault_violations(evidence) == []
    check_outcomes(evidence, campaign)
    for tampered, law in tamper(evidence):
        assert any(sentence.startswith(law) for sentence in violations(tampered)), f"{law} was not noticed"


def check_outcomes(evidence: Evidence, campaign: Campaign) -> None:
    """Every job that was asked for is there once, and those that were left in peace gave what they had to give."""
    wanted = campaign.kills * JOBS_PER_LIFE
    numbers = sorted(record.state.inputs["n"] for record in evidence.records)
    assert numbers == list(range(wanted)), "asked for again without an answer, and still made once (G7)"
    for record in evidence.records:
        status, number = record.summary.status, record.state.inputs["n"]
        if status == JobStatus.COMPLETED:
            assert record.state.outputs == {"sum": victim.expected_sum(number)}
        elif status == JobStatus.FAILED:  # killed three times without any progress between
            assert record.summary.error_type == "worker_lost"
        else:
            assert record.id in campaign.cancelled
    completed = sum(record.summary.status == JobStatus.COMPLETED for record in evidence.records)
    assert completed >= wanted * 3 // 4
    lost = sum(event.type == "attempt.lost" for record in evidence.records for event in record.events)
    assert lost, "no kill hit a running attempt"


def tamper(evidence: Evidence) -> list[tuple[Evidence, str]]:
    """The same evidence with something wrong in it, and the law that has to notice: the checker is no rubber stamp."""
    first, *others = evidence.records
    completed = next(one for one in evidence.records if one.summary.status == JobStatus.COMPLETED)
    effect = [one for one in evidence.effects if one.job_id == completed.id and one.path == "one"][-1]
    return [
        (replace(evidence, records=others), "I1"),
        (replace(evidence, effects=[one for one in evidence.effects if one is not effect]), "I4"),
        (
            replace(evidence, effects=[*evidence.effects, *[effect] * (evidence.faults * victim.MAX_STEPS + 1_000)]),
            "I5",
        ),
        (replace(evidence, prefixes={first.id: list(first.events[1:2])}), "I9"),
        (replace(evidence, finals={completed.id: "FAILED"}), "I11"),
    ]
