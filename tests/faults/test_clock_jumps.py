"""The clock of a worker jumps, forth and back, by up to a day, while another worker on the store has the right time:
jobs end, timers are neither lost nor early by more than the jump, and no lease ends or is shared because of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from openagents_json import JobManager
from tests.faults import victim
from tests.faults.checker import Evidence, fault_violations, read_records
from tests.faults.sizes import Hits, campaign_random, sized
from tests.faults.waiting import SAFETY_S, until

ROOT = Path(__file__).resolve().parents[2]
SHIM = Path(__file__).with_name("clock_shim.c")
JUMPS = {
    f"{sign}{name}": int(f"{sign}{seconds}")
    for name, seconds in (("1 s", 1), ("1 min", 60), ("1 h", 3_600), ("1 day", 86_400))
    for sign in "+-"
}
TAKEN = sized(3, 8)  # of these jumps, in each round
ROUNDS = sized(1, 3)
LEASE_S = 1.5  # short, so that heartbeats fall into every jump
JOBS, TIMED = 12, 4  # for each jump
TIMER_S = 2.0
LATEST_S = 20.0  # what a busy machine may add to a timer; a job that hears of it too late by a jump takes longer
JITTER_S = 0.05
WORKFLOW = {
    "id": "timed",
    "steps": [
        {"id": "rest", "wait": {"seconds": TIMER_S}},
        {"id": "one", "component": "add", "inputs": {"a": 1, "b": 1}, "needs": ["rest"]},
    ],
}


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("needs Linux and a C compiler (cc), for the shim that moves a process's clock")
    library = tmp_path_factory.mktemp("shim") / "clock.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, SHIM], check=True)
    return library


class MovedClock:
    """The offset of a process's time of day, which the shim reads from a file."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "offset"
        self.set(0)

    def set(self, seconds: int) -> None:
        with self.path.open("r+b" if self.path.exists() else "wb") as file:  # in place: it is mapped
            file.write(struct.pack("=q", seconds * 1_000_000))

    def environment(self, shim: Path) -> dict[str, str]:
        return {**os.environ, "LD_PRELOAD": str(shim), "CLOCK_OFFSET_FILE": str(self.path)}


@contextlib.contextmanager
def worker(folder: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    program = [sys.executable, "-m", "tests.faults.victim", str(folder), "0", "stay", "sqlite", f"lease={LEASE_S}"]
    process = subprocess.Popen(program, cwd=ROOT, env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_shim_moves_the_time_of_day_and_nothing_else(tmp_path: Path, shim: Path) -> None:
    clock = MovedClock(tmp_path)
    clock.set(86_400)
    program = "import time; print(time.time(), time.monotonic())"
    output = subprocess.check_output([sys.executable, "-c", program], env=clock.environment(shim), text=True)
    wall, steady = map(float, output.split())
    assert wall == pytest.approx(time.time() + 86_400, abs=30)
    assert steady == pytest.approx(time.monotonic(), abs=30)


@pytest.mark.guarantee("G4")
@pytest.mark.guarantee("G5")
@pytest.mark.timeout(400)
async def test_jumps_of_a_workers_clock_break_no_law_and_end_no_lease(tmp_path: Path, shim: Path) -> None:
    chance = campaign_random("tests/faults/test_clock_jumps.py")
    names = chance.sample(sorted(JUMPS), TAKEN)
    hits = Hits(names)
    clock = MovedClock(tmp_path)
    app = victim.make_app(tmp_path, is_file=False)
    app.register_workflow(WORKFLOW)
    accepted: list[str] = []
    finals: dict[str, str] = {}
    with worker(tmp_path, clock.environment(shim)) as moved, worker(tmp_path, dict(os.environ)) as other:
        async with app.manager(worker=False) as jobs:
            await until(lambda: are_there(jobs, moved, other))
            for _ in range(ROUNDS):
                for name in names:
                    ids = await jump(jobs, clock, moved, JUMPS[name], len(accepted))
                    hits.count(name)
                    accepted += ids
                    finals |= {job_id: str((await jobs.get_summary(job_id)).status) for job_id in ids}
            prefixes = {job_id: await jobs.store.read_events(job_id, 0) for job_id in accepted}
            assert (moved.poll(), other.poll()) == (None, None)
            records = await read_records(jobs.store)
    evidence = Evidence(
        records,
        accepted=set(accepted),
        effects=victim.read_effects(tmp_path),
        faults=hits.total,
        concurrency=0,  # a jump is no reason to do anything again
        declared_retries=victim.RETRIES_PER_JOB * len(records),
        prefixes=prefixes,
        finals=finals,
    )
    assert fault_violations(evidence) == []
    assert set(finals.values()) == {"COMPLETED"}
    lost = [event for record in records for event in record.events if event.type == "job.worker_lost"]
    assert lost == [], "nobody has died"
    hits.check()


async def are_there(jobs: JobManager, *processes: subprocess.Popen[bytes]) -> bool:
    return {one.pid for one in processes} <= {one.pid for one in await jobs.list_workers()}


async def jump(
    jobs: JobManager, clock: MovedClock, moved: subprocess.Popen[bytes], seconds: int, first: int
) -> list[str]:
    """New jobs, with and without timers; the clock jumps when its worker has some, and back when all have ended."""
    began_s = time.monotonic()
    timed = [await jobs.create_job("timed", start=True) for _ in range(TIMED)]
    others = [await jobs.create_job("victim", {"n": first + n}, start=True) for n in range(JOBS)]
    await until(lambda: holds_jobs(jobs, moved))
    clock.set(seconds)
    try:
        async with asyncio.timeout(SAFETY_S):
            for job_id, took_s in await asyncio.gather(*(ended(jobs, one, began_s) for one in timed)):
                assert took_s >= TIMER_S - abs(seconds) - JITTER_S, f"{job_id} was early"
                assert took_s <= TIMER_S + LATEST_S, f"{job_id} was late"
            for job_id in others:
                await jobs.wait_final(job_id)
    finally:
        clock.set(0)
    return timed + others


async def holds_jobs(jobs: JobManager, process: subprocess.Popen[bytes]) -> bool:
    return any(one.pid == process.pid and one.running_jobs for one in await jobs.list_workers())


async def ended(jobs: JobManager, job_id: str, began_s: float) -> tuple[str, float]:
    """When the job has ended: how long after it was asked for."""
    await jobs.wait_final(job_id)
    return job_id, time.monotonic() - began_s
