"""A worker that is stopped (SIGSTOP) for three leases and then goes on: another has its jobs, and it changes nothing.

Two workers with short leases share a SQLite file. The one that is stopped has jobs, and it is stopped

    at work         the other one takes over all that it held, before it goes on
    with the lock   it holds the lock of the file, as for every write: nobody can write until it goes on
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from openagents_json import JobManager
from openagents_json.job.store.filelock import FileLock
from tests.faults import victim
from tests.faults.checker import Effect, Evidence, fault_violations, read_records
from tests.faults.sizes import Hits, campaign_random, sized
from tests.faults.waiting import SAFETY_S, until

ROOT = Path(__file__).resolve().parents[2]
STOPS = sized(2, 20)
LEASE_S = 1.0  # the shortest one that the settings allow
STOPPED_S = 3 * LEASE_S
JOBS_PER_STOP = 30  # more than two workers run at a time
AT_WORK, WITH_LOCK = "at work", "with the lock"
LOCK_PATIENCE_S = 0.1  # a lock that is not free for so long is held by who cannot let go of it


@dataclass
class Campaign:
    """Two workers, and the client of their jobs, which is this process."""

    folder: Path
    random: random.Random
    jobs: JobManager
    lock: FileLock  # of the SQLite file
    workers: dict[str, subprocess.Popen[bytes]]  # by id
    hits: Hits = field(default_factory=lambda: Hits((AT_WORK, WITH_LOCK)))
    accepted: list[str] = field(default_factory=list)

    async def stop_one(self, window: str) -> None:
        """One round: new jobs, a stop for three leases, and all jobs come to their ends."""
        new = [
            await self.jobs.create_job("victim", {"n": len(self.accepted) + number}, start=True)
            for number in range(JOBS_PER_STOP)
        ]
        self.accepted += new
        worker, process = self.random.choice([*self.workers.items()])
        try:
            await self.stop_in(worker, process, window, new)
            await asyncio.sleep(STOPPED_S)  # not to wait for anything: so long is the fault
            if window == AT_WORK:
                assert await self.held_by(worker, new) == set(), "the other worker has taken them over"
        finally:
            process.send_signal(signal.SIGCONT)
        self.hits.count(window)
        async with asyncio.timeout(SAFETY_S):
            for job_id in new:
                await self.jobs.wait_final(job_id)

    async def stop_in(self, worker: str, process: subprocess.Popen[bytes], window: str, new: list[str]) -> None:
        """Stop the process when it holds some of the new jobs and stands in that window."""
        async with asyncio.timeout(SAFETY_S):
            while True:
                await until(lambda: self.holds_some(worker, new))
                await asyncio.sleep(self.random.uniform(0, 0.01))  # not to wait for anything: this is the moment
                process.send_signal(signal.SIGSTOP)
                await asyncio.to_thread(os.waitid, os.P_PID, process.pid, os.WSTOPPED)  # all of its threads stand still
                if self.has_lock() == (window == WITH_LOCK) and await self.holds_some(worker, new):
                    return
                process.send_signal(signal.SIGCONT)

    def has_lock(self) -> bool:
        """Whether a stopped process holds the lock: the other one would let go of it."""
        try:
            with self.lock.held(LOCK_PATIENCE_S):
                return False
        except TimeoutError:
            return True

    async def held_by(self, worker: str, jobs: list[str]) -> set[str]:
        """Those of the jobs that the worker holds. Asked of the jobs: a list of workers needs the file's lock."""
        return {job_id for job_id in jobs if await self.owner_of(job_id) == worker}

    async def holds_some(self, worker: str, jobs: list[str]) -> bool:
        return bool(await self.held_by(worker, jobs))

    async def owner_of(self, job_id: str) -> str | None:
        stored = await self.jobs.store.read(job_id)
        assert stored is not None
        return stored.owner

    async def evidence(self) -> Evidence:
        finals = {job_id: str((await self.jobs.get_summary(job_id)).status) for job_id in self.accepted}
        return Evidence(
            await read_records(self.jobs.store),
            accepted=set(self.accepted),
            effects=fenced(victim.read_effects(self.folder)),
            faults=self.hits.total,
            concurrency=2 * victim.MAX_STEPS,  # who cannot write for a lease stops its steps, too
            declared_retries=victim.RETRIES_PER_JOB * len(self.accepted),
            prefixes={job_id: await self.jobs.store.read_events(job_id, 0) for job_id in self.accepted},
            finals=finals,
        )


def fenced(effects: list[Effect]) -> list[Effect]:
    """What a resource takes that heeds fencing tokens: nothing from an attempt that is older than one it has seen. A
    worker that was stopped between the record of an attempt and its call makes the call late, and that is allowed."""
    taken: list[Effect] = []
    newest: dict[tuple[str, str], int] = {}
    for effect in effects:
        if effect.token >= newest.get((effect.job_id, effect.path), 0):
            newest[effect.job_id, effect.path] = effect.token
            taken.append(effect)
    return taken


@contextlib.contextmanager
def two_workers(folder: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    program = [sys.executable, "-m", "tests.faults.victim", str(folder), "0", "stay", "sqlite", f"lease={LEASE_S}"]
    workers = [subprocess.Popen(program, cwd=ROOT) for _ in range(2)]
    try:
        yield workers
    finally:
        for worker in workers:
            worker.kill()  # works on a stopped one, too
            worker.wait()


async def registered(jobs: JobManager, processes: list[subprocess.Popen[bytes]]) -> dict[str, subprocess.Popen[bytes]]:
    """The processes by the ids of their workers, when all have registered."""
    by_pid = {process.pid: process for process in processes}

    async def are_there() -> bool:
        return by_pid.keys() <= {one.pid for one in await jobs.list_workers()}

    await until(are_there)
    return {one.id: by_pid[one.pid] for one in await jobs.list_workers() if one.pid in by_pid}


@pytest.mark.guarantee("G4")
@pytest.mark.guarantee("G5")
@pytest.mark.timeout(400)
async def test_worker_that_was_stopped_for_three_leases_changes_nothing(tmp_path: Path) -> None:
    chance = campaign_random("tests/faults/test_sigstop.py")
    client = victim.make_app(tmp_path, is_file=False).manager(worker=False)
    lock = FileLock(tmp_path / f"{victim.STORE}.lock")
    with contextlib.closing(lock), two_workers(tmp_path) as processes:
        async with client as jobs:
            campaign = Campaign(tmp_path, chance, jobs, lock, await registered(jobs, processes))
            for number in range(STOPS):
                await campaign.stop_one((AT_WORK, WITH_LOCK)[number % 2])
            earlier = await campaign.evidence()
            assert [process.poll() for process in processes] == [None, None], "no worker has died of it"
            after = await campaign.evidence()
    after.prefixes, after.finals = earlier.prefixes, earlier.finals
    assert fault_violations(after) == []
    for record in after.records:
        if record.summary.status != "COMPLETED":  # stopped under it again and again, with no progress between
            assert record.summary.error_type == "worker_lost"
    campaign.hits.check()
