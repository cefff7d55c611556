"""kill −9 at random moments: nothing accepted is lost, nothing recorded is repeated or changed (G1, G2, G3)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from openagents_json import Event, InvalidTransition, JobManager, JobStatus
from openagents_json.job.store import FileJobStore, SqliteJobStore
from tests.faults import victim
from tests.faults.checker import Evidence, Record, fault_violations, read_records, violations
from tests.faults.victim import EFFECTS, STORE

KILLS = {"sqlite": 20, "file": 10}
JOBS_PER_LIFE = 8  # so many more are asked for at each start, so that there is always something to kill
EARLY = 0.2  # the share of kills that hit the start: opening, recovery, the first claims
SAFETY_S = 60.0
ROOT = Path(__file__).resolve().parents[2]
SEED_VARIABLE = "KILL_SEED"


@dataclass
class Campaign:
    """One store, the processes that live and die on it, and what is known of it."""

    folder: Path
    random: random.Random
    store: str
    kills: int = 0
    prefixes: dict[str, list[Event]] = field(default_factory=dict)  # histories as they were read last
    finals: dict[str, str] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)  # ids of jobs that somebody asked to cancel

    async def live_and_die(self, jobs_wanted: int) -> None:
        """Start the victim, let it work for a while, meddle with its jobs from outside, and kill it."""
        process = self.start(jobs_wanted, "stay")
        try:
            if self.random.random() < EARLY:
                await asyncio.sleep(self.random.uniform(0.2, 0.9))  # not to wait for anything: the moment is the fault
            else:
                await self.wait_effects(self.random.randrange(1, JOBS_PER_LIFE * victim.EFFECTS_PER_JOB * 2 // 3))
                if self.store == "sqlite" and self.random.random() < 0.5:  # the file store has one process only
                    await self.meddle()
                await asyncio.sleep(self.random.uniform(0.0, 0.02))
            process.send_signal(signal.SIGKILL)
        finally:
            process.kill()
            code = process.wait()
        assert code == -signal.SIGKILL, f"it ended by itself with {code} before it was killed"
        self.kills += 1

    async def live(self, jobs_wanted: int) -> None:
        """Start the victim once more, and let it run until every job is final."""
        process = self.start(jobs_wanted)
        try:
            await self.until(lambda: process.poll() is not None)
            assert process.returncode == 0
        finally:
            process.kill()
            process.wait()

    def start(self, jobs_wanted: int, *how: str) -> subprocess.Popen[bytes]:
        program = [sys.executable, "-m", "tests.faults.victim", str(self.folder), str(jobs_wanted)]
        return subprocess.Popen([*program, *how, self.store], cwd=ROOT)

    async def wait_effects(self, more: int) -> None:
        """Return when the components have written so many more lines."""
        before = self.effect_lines()
        await self.until(lambda: self.effect_lines() >= before + more)

    def effect_lines(self) -> int:
        path = self.folder / EFFECTS
        return path.read_bytes().count(b"\n") if path.exists() else 0

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(SAFETY_S):
            while not condition():  # noqa: ASYNC110 - another process sets no event of ours
                await asyncio.sleep(0.002)

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
        async with JobManager(self.own_store(), worker=False) as jobs:
            for job in await jobs.list_jobs(limit=1_000):
                if job.status == JobStatus.PAUSED or job.pause_requested:
                    await jobs.resume_job(job.id)

    def own_store(self) -> SqliteJobStore | FileJobStore:
        return victim.store_in(self.folder, is_file=self.store == "file")

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
async def test_many_kills_lose_no_accepted_job_and_repeat_nothing_that_was_recorded(tmp_path: Path, store: str) -> None:
    kills = KILLS[store]
    seed = int(os.environ.get(SEED_VARIABLE) or random.SystemRandom().randrange(10**6))
    print(f"repeat this by: {SEED_VARIABLE}={seed} .venv/bin/pytest tests/faults/test_kill.py")
    campaign = Campaign(tmp_path, random.Random(seed), store)
    for life in range(1, kills + 1):
        await campaign.live_and_die(life * JOBS_PER_LIFE)
        await campaign.look()
    await campaign.resume_all()
    await campaign.live(kills * JOBS_PER_LIFE)
    evidence = await campaign.look(is_quiet=True)

    assert evidence.faults == kills
    if store == "file":
        assert list((tmp_path / victim.FILE_STORE).glob("snapshot-*")), "it was compacted meanwhile"
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
    effect = next(one for one in evidence.effects if one.job_id == completed.id and one.path == "one")
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
