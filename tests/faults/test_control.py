"""Cancel, forced cancel and pause at random moments, against five kinds of step: the laws hold, and nothing is left.

A moment is one job of one kind, one verb, and the instant at which it is asked for. The instant is drawn from four
windows, and the history says which one the request has really hit:

    after start   the attempt is recorded and its code runs
    commit        a commit of the job is on its way to the store: done or not, nobody has heard yet
    cleanup       the `finally` steps of the cancelled job run
    recovery      the job's manager was left, and the next one is taking it up

A commit may be on its way in the other windows too; then both are counted.
60 moments in a usual run; `CONTROL_MOMENTS=300` makes the whole campaign. A window that nothing has hit fails the run.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from openagents_json import ComponentRegistry, JobManager, StepContext
from openagents_json.errors import InvalidTransition
from openagents_json.job.events import Event
from openagents_json.job.store import Commit, JobStore, MemoryJobStore, SqliteJobStore
from openagents_json.workflow import WorkflowRegistry
from tests.engine.leftovers import Mark, marked
from tests.faults.checker import Effect, Evidence, fault_violations, read_records

SEED_VARIABLE, MOMENTS_VARIABLE = "CONTROL_SEED", "CONTROL_MOMENTS"
MOMENTS = 60
SAFETY_S = 30.0
WINDOWS = ("after start", "commit", "cleanup", "recovery")
KINDS = ("polite", "swallows", "blocks_loop", "blocks_thread", "forks")
VERBS = ("cancel", "force", "pause")
BATCH = 10  # jobs at a time
SETTINGS: dict[str, Any] = {
    "cancel_grace_s": 0.05, "kill_s": 2, "shutdown_grace_s": 0.2, "max_processes": 2,
    "linger_s": 0.0, "capture_output": False,
}  # fmt: skip

# What components have done. Only the one in a process cannot reach this list; its parent step writes for it.
effects: list[Effect] = []
registry = ComponentRegistry()


def note(context: StepContext, output: Any) -> Any:
    effects.append(
        Effect(context.job_id, context.step, context.attempt, context.idempotency_key, context.fencing_token, output)
    )
    return output


@registry.tool
async def polite(context: StepContext, seconds: float) -> str:
    await asyncio.sleep(seconds)
    return str(note(context, "polite"))


@registry.tool
async def swallows(context: StepContext, seconds: float) -> str:
    """Ends when it wants to."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(left)
    return str(note(context, "swallows"))


@registry.tool
async def blocks_loop(context: StepContext, seconds: float) -> str:
    time.sleep(min(seconds, 0.05))  # noqa: ASYNC251 - that is what it is for
    await asyncio.sleep(0)
    return str(note(context, "blocks_loop"))


@registry.tool
def blocks_thread(context: StepContext, seconds: float) -> str:
    threading.Event().wait(seconds)
    return str(note(context, "blocks_thread"))


@registry.tool(isolation="process")
def forks(context: StepContext, seconds: float, log: str) -> str:
    """Children that sleep for long: who ends the step has to end them. The effect is a line in a file."""
    programs = [subprocess.Popen(["/bin/sleep", "1000"]) for _ in range(2)]
    time.sleep(seconds)
    for program in programs:
        program.kill()
        program.wait()
    parts = (context.job_id, context.step, context.attempt, context.idempotency_key, context.fencing_token)
    with Path(log).open("a") as file:
        file.write(" ".join(map(str, parts)) + "\n")
    return "forks"


@registry.tool
async def after(context: StepContext) -> str:
    await asyncio.sleep(0.02)
    return str(note(context, "after"))


def definition(kind: str) -> dict[str, Any]:
    inputs = {"seconds": "{{ inputs.seconds }}"} | ({"log": "{{ inputs.log }}"} if kind == "forks" else {})
    return {
        "id": kind.replace("_", "-"),
        "inputs": {"type": "object", "properties": {"seconds": {"type": "number"}, "log": {"type": "string"}}},
        "steps": [{"id": f"s{n}", "component": kind, "inputs": inputs} for n in range(2)],
        "finally": [{"id": "after", "component": "after"}],
    }


@dataclass
class Campaign:
    """One store and the managers that follow each other on it, with what is known of their jobs."""

    kind: str
    folder: Path
    random: random.Random
    accepted: set[str] = field(default_factory=set)
    hits: Counter[str] = field(default_factory=Counter)  # by window
    faults: int = 0
    prefixes: dict[str, list[Event]] = field(default_factory=dict)
    finals: dict[str, str] = field(default_factory=dict)
    in_commit: set[str] = field(default_factory=set)  # jobs with a commit on its way
    committing: dict[str, asyncio.Event] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.memory = MemoryJobStore()
        self.workflows = WorkflowRegistry(registry)
        for kind in KINDS:
            self.workflows.register(definition(kind))

    def store(self) -> JobStore:
        """The store of this campaign, which tells of commits on their way."""
        store: JobStore = self.memory if self.kind == "memory" else SqliteJobStore(self.folder / "jobs.db")
        if getattr(store, "is_watched", False):
            return store
        commit = store.commit

        async def watched(one: Commit) -> None:
            job_id = one.claim.job_id
            self.in_commit.add(job_id)
            if (waiting := self.committing.get(job_id)) is not None:
                waiting.set()
                await asyncio.sleep(0)  # whoever waits for this moment acts now
            try:
                await commit(one)
                await asyncio.sleep(0)
            finally:
                self.in_commit.discard(job_id)

        store.commit = watched  # type: ignore[method-assign, assignment]
        store.is_watched = True  # type: ignore[attr-defined]
        return store

    def manager(self) -> JobManager:
        """Every other one, by chance, tells running attempts at once to stop when it is left."""
        stop_s = self.random.choice((0.1, 4.0))
        return JobManager(
            self.store(), components=registry, workflows=self.workflows, stop_timeout_s=stop_s, **SETTINGS
        )

    async def run(self, moments: int) -> None:
        """Batches of moments; between two of them the manager is left in the middle of their work."""
        todo = [(KINDS[n % len(KINDS)], VERBS[n // len(KINDS) % len(VERBS)], WINDOWS[n % 4]) for n in range(moments)]
        self.random.shuffle(todo)
        left: list[tuple[str, str]] = []  # for the recovery window: job and verb
        while todo or left:
            batch, todo = todo[:BATCH], todo[BATCH:]
            jobs = self.manager()
            await jobs.open()
            try:
                async with asyncio.timeout(SAFETY_S):
                    recovering = [self.hit_in_recovery(jobs, *one) for one in left]
                    hits = [self.hit(jobs, *one) for one in batch if one[2] != "recovery"]
                    left = [
                        (await self.create(jobs, kind), verb) for kind, verb, window in batch if window == "recovery"
                    ]
                    await asyncio.gather(*recovering, *hits)
                    for job_id, _ in left:
                        await self.reached(jobs, job_id, "attempt.started")
                    await self.look(jobs)
            finally:
                await jobs.close()
        async with self.manager() as jobs, asyncio.timeout(SAFETY_S):
            for job_id in self.accepted:
                if (await jobs.get_summary(job_id)).status == "PAUSED":
                    await jobs.resume_job(job_id)
                await jobs.wait(job_id)
            await self.look(jobs)

    async def create(self, jobs: JobManager, kind: str) -> str:
        seconds = self.random.uniform(0.03, 0.15)
        inputs = {"seconds": seconds, "log": str(self.folder / "forks.log")}
        job_id = await jobs.create_job(kind.replace("_", "-"), inputs, start=True)
        self.accepted.add(job_id)
        return job_id

    async def hit(self, jobs: JobManager, kind: str, verb: str, window: str) -> None:
        """Make a job, wait for its moment, ask, and see that what was asked for becomes true."""
        job_id = await self.create(jobs, kind)
        if window == "after start":
            await self.reached(jobs, job_id, "attempt.started")
            await asyncio.sleep(self.random.uniform(0, 0.05))  # not to wait for anything: the moment is the fault
        elif window == "commit":
            for _ in range(self.random.randrange(1, 4)):
                self.committing[job_id] = asyncio.Event()
                with contextlib.suppress(TimeoutError):  # it may have had its last commit
                    async with asyncio.timeout(0.5):
                        await self.committing[job_id].wait()
            del self.committing[job_id]
        else:
            await self.reached(jobs, job_id, "attempt.started")
            await jobs.cancel_job(job_id, by="first")
            await self.reached(jobs, job_id, "job.finally_started")
        await self.ask(jobs, job_id, verb, window)

    async def hit_in_recovery(self, jobs: JobManager, job_id: str, verb: str) -> None:
        for _ in range(self.random.randrange(4)):
            await asyncio.sleep(0)
        await self.ask(jobs, job_id, verb, "recovery")

    async def ask(self, jobs: JobManager, job_id: str, verb: str, window: str) -> None:
        """The request itself. A job that has ended meanwhile refuses it, and then nothing was hit."""
        in_commit = job_id in self.in_commit
        try:
            if verb == "pause":
                await jobs.pause_job(job_id)
            else:
                await jobs.cancel_job(job_id, force=verb == "force")
        except InvalidTransition:
            return
        self.faults += 1
        if in_commit:
            self.hits["commit"] += 1
        if window != "commit":
            self.hits[window] += 1
        elif not in_commit:
            self.hits["after start"] += 1
        await self.becomes_true(jobs, job_id, verb)

    async def becomes_true(self, jobs: JobManager, job_id: str, verb: str) -> None:
        """Wait until the job is at rest, and then see that it stays so (I10) and the same for all readers (I11)."""
        async with contextlib.aclosing(watch(jobs, job_id)) as events:
            async for event in events:
                if event.type == "job.paused" and verb == "pause":
                    break
        status = str((await jobs.get_summary(job_id)).status)
        if verb == "pause" and status == "PAUSED":
            await jobs.resume_job(job_id)
            await jobs.wait(job_id)
        job = await jobs.get_job(job_id)
        assert job.status.is_final, (job_id, verb, job.status)
        assert verb == "pause" or job.status in ("CANCELLED", "COMPLETED")
        self.finals[job_id] = str(job.status)

    async def reached(self, jobs: JobManager, job_id: str, type: str) -> None:
        """Return when the job has such an event, or is final."""
        async with contextlib.aclosing(watch(jobs, job_id)) as events:
            async for event in events:
                if event.type == type:
                    return

    async def look(self, jobs: JobManager) -> None:
        """Remember what is recorded now: it may never change."""
        for job_id in self.accepted:
            self.prefixes[job_id] = await jobs.store.read_events(job_id, 0)

    async def evidence(self) -> Evidence:
        store = self.store()
        await store.open()
        try:
            records = await read_records(store)
        finally:
            await store.close()
        mine = [one for one in effects if one.job_id in self.accepted] + self.of_forks()
        return Evidence(
            records,
            accepted=self.accepted,
            effects=mine,
            faults=self.faults,
            concurrency=BATCH,
            prefixes=self.prefixes,
            finals=self.finals,
        )

    def of_forks(self) -> list[Effect]:
        path = self.folder / "forks.log"
        lines = [line.split(" ") for line in path.read_text().splitlines()] if path.exists() else []
        return [Effect(job, step, int(attempt), key, int(token), "forks") for job, step, attempt, key, token in lines]


async def watch(jobs: JobManager, job_id: str) -> Any:
    async for event in jobs.watch(job_id):
        yield event


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.guarantee("G9")
@pytest.mark.timeout(600)
async def test_control_at_random_moments_breaks_no_law_and_leaves_no_process(tmp_path: Path) -> None:
    seed = int(os.environ.get(SEED_VARIABLE) or random.SystemRandom().randrange(10**6))
    moments = int(os.environ.get(MOMENTS_VARIABLE) or MOMENTS)
    again = f"{SEED_VARIABLE}={seed} {MOMENTS_VARIABLE}={moments}"
    print(f"repeat this by: {again} .venv/bin/pytest tests/faults/test_control.py")
    with marked() as mark:
        hits: Counter[str] = Counter()
        for number, kind in enumerate(("memory", "sqlite")):
            folder = tmp_path / kind
            folder.mkdir()
            campaign = Campaign(kind, folder, random.Random(seed + number))
            await campaign.run(moments // 2)
            assert fault_violations(await campaign.evidence()) == [], kind
            hits += campaign.hits
        await nothing_is_left(mark)
    print(f"{sum(hits.values())} requests: " + ", ".join(f"{window} {hits[window]}" for window in WINDOWS))
    assert [window for window in WINDOWS if not hits[window]] == [], "nothing has hit these"


async def nothing_is_left(mark: Mark) -> None:
    left = await mark.wait_gone()
    assert left == [], left
