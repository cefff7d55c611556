"""A process to be killed: it accepts jobs, runs them, and writes down every effect before it tells anybody.

    python -m tests.faults.victim FOLDER JOBS [stay] [file] [lease=SECONDS]

The client in it creates job after job, each with an idempotency key of its own, and writes an id down (and syncs) when
`create_job` has returned it. Started again, it asks for those again whose ids it had not written down: it cannot know
whether they were accepted. The components write a line (and sync) before they return. All lines go to files that only
grow; a line that a kill has cut short was never finished and does not count. With `stay` the process does not end
by itself; with `file` the jobs are in a file store that is compacted often, else in SQLite. It also writes down which
phase of its life begins, so that a test knows what a kill has hit.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openagents_json import FileJobStore, JobManager, OpenAgentsApp, RetryableError, SqliteJobStore, StepContext
from openagents_json.job.engine import worker
from openagents_json.job.store import Claim, JobStore
from openagents_json.job.store.base import DEFAULT_LEASE_S
from tests.faults.checker import Effect

STORE, FILE_STORE, EFFECTS, ACCEPTED = "jobs.db", "jobs", "effects.jsonl", "accepted.jsonl"
PHASE = "phases.jsonl"
OPENING, RECOVERING, ACCEPTING, RUNNING = PHASES = ("opening", "recovering", "accepting", "running")
RECOVER_S = 0.2  # of the worker: so often it looks for a job that is to run alone; lives are short here
COMPACT_BYTES = 100_000  # of the file store
MAX_JOBS, MAX_STEPS = 6, 8
ITEMS, ITEMS_AT_ONCE = 5, 3
EFFECTS_PER_JOB = 3 + 2 * ITEMS + 2 + 1  # of a job that nothing happens to
RETRIES_PER_JOB = 1  # the step `flaky` fails at its first attempt
WORKFLOW: dict[str, Any] = {
    "id": "victim",
    "inputs": {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}},
    "steps": [
        {"id": "one", "component": "add", "inputs": {"a": "{{ inputs.n }}", "b": 1}},
        {"id": "two", "component": "add", "inputs": {"a": "{{ steps.one.output }}", "b": 1}},
        {"id": "three", "component": "add_in_thread", "inputs": {"a": "{{ steps.two.output }}", "b": 1}},
        {
            "id": "items",
            "foreach": f"{{{{ range({ITEMS}) }}}}",
            "concurrency": ITEMS_AT_ONCE,
            "steps": [
                {"id": "double", "component": "add_in_thread", "inputs": {"a": "{{ item }}", "b": "{{ item }}"}},
                {"id": "shift", "component": "add", "inputs": {"a": "{{ steps.double.output }}", "b": 100}},
            ],
        },
        {
            "id": "flaky",
            "component": "flaky",
            "inputs": {"value": "{{ steps.items.output | sum }}"},
            "retry": {"max_attempts": 5, "delay_seconds": 0.01, "on": ["demo.busy"]},
        },
        {"id": "last_sum", "component": "add", "inputs": {"a": "{{ steps.flaky.output }}", "b": "{{ inputs.n }}"}},
    ],
    "outputs": {"sum": "{{ steps.last_sum.output }}"},
}


def expected_sum(n: int) -> int:
    """The output of job number `n`."""
    return sum(2 * item + 100 for item in range(ITEMS)) + n


# ── files that only grow ──────────────────────────────────────────────────────────────────────────────────────────


class Log:
    """Lines of JSON, each on disk when `write` returns. May be written from several threads."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        if path.stat().st_size and not path.read_bytes().endswith(b"\n"):
            os.write(self._fd, b"\n")  # the line that the last kill cut short stands alone

    def write(self, document: Any) -> None:
        os.write(self._fd, json.dumps(document).encode() + b"\n")  # one call: lines of threads do not mix
        os.fsync(self._fd)


def read_log(path: Path) -> Iterator[Any]:
    """Every line that was finished."""
    for line in path.read_bytes().split(b"\n") if path.exists() else ():
        try:
            yield json.loads(line)
        except ValueError:
            continue


def read_effects(folder: Path) -> list[Effect]:
    return [Effect(*line) for line in read_log(folder / EFFECTS)]


def read_phases(folder: Path) -> list[str]:
    """Of all lives, one after the other. The last one was on when the last life ended."""
    return list(read_log(folder / PHASE))


def read_accepted(folder: Path) -> dict[int, str]:
    """The ids that the client was given, by job number."""
    return dict(read_log(folder / ACCEPTED))


# ── the process ───────────────────────────────────────────────────────────────────────────────────────────────────


def store_in(folder: Path, *, is_file: bool, lease_s: float = DEFAULT_LEASE_S) -> SqliteJobStore | FileJobStore:
    """The victim's store, not opened."""
    if is_file:
        return FileJobStore(folder / FILE_STORE, compact_bytes=COMPACT_BYTES, lease_s=lease_s)
    return SqliteJobStore(folder / STORE, lease_s=lease_s)


def make_app(
    folder: Path, *, is_file: bool = False, lease_s: float = DEFAULT_LEASE_S, url: str = "", **settings: Any
) -> OpenAgentsApp:
    """The application, on the victim's own store or the one of a URL; its effects are written down in the folder."""
    store = url or store_in(folder, is_file=is_file, lease_s=lease_s)
    if url:
        settings["lease_s"] = lease_s
    app = OpenAgentsApp(store, max_jobs=MAX_JOBS, max_steps=MAX_STEPS, max_threads=MAX_STEPS, **settings)
    effects = Log(folder / EFFECTS)

    def note(context: StepContext, output: Any) -> None:
        key, token = context.idempotency_key, context.fencing_token
        effects.write([context.job_id, context.step, context.attempt, key, token, output])

    @app.tool("add")
    async def add(context: StepContext, a: int, b: int) -> int:
        note(context, a + b)
        await asyncio.sleep(0.001)  # room for a kill between the effect and its record
        return a + b

    @app.tool("add_in_thread")
    def add_in_thread(context: StepContext, a: int, b: int) -> int:
        note(context, a + b)
        time.sleep(0.002)  # the same
        return a + b

    @app.tool("flaky")
    async def flaky(context: StepContext, value: int) -> int:
        note(context, value)
        if context.attempt == 1:
            raise RetryableError("demo.busy", "come again")
        return value

    app.register_workflow(WORKFLOW)
    return app


async def accept(jobs: JobManager, folder: Path, count: int) -> None:
    """The client: make sure that `count` jobs are there, and remember what was accepted."""
    log, known = Log(folder / ACCEPTED), read_accepted(folder)
    for number in range(count):
        if number not in known:
            job_id = await jobs.create_job("victim", {"n": number}, idempotency_key=f"job {number}", start=True)
            log.write([number, job_id])


class Phases:
    """Writes down which phase of this life begins."""

    def __init__(self, folder: Path) -> None:
        self._log, self._now = Log(folder / PHASE), ""

    def begin(self, phase: str) -> None:
        self._now = phase
        self._log.write(phase)

    def watch(self, store: JobStore) -> None:
        """The recovery begins when the store has handed over the first jobs of a dead worker, before it is open."""
        hold_orphans = store.hold_orphans

        async def watched(worker: str, limit: int) -> list[Claim]:
            claims = await hold_orphans(worker, limit)
            if claims and self._now == OPENING:
                self.begin(RECOVERING)
            return claims

        store.hold_orphans = watched  # type: ignore[method-assign]


async def main(folder: Path, count: int, *, stays: bool, is_file: bool, lease_s: float = DEFAULT_LEASE_S) -> None:
    worker.RECOVER_S = RECOVER_S
    phases = Phases(folder)
    phases.begin(OPENING)
    jobs = make_app(folder, is_file=is_file, lease_s=lease_s).jobs
    phases.watch(jobs.store)
    async with jobs:
        phases.begin(ACCEPTING)
        await accept(jobs, folder, count)
        phases.begin(RUNNING)
        for job_id in read_accepted(folder).values():
            await jobs.wait(job_id)
        if stays:
            await asyncio.Event().wait()


if __name__ == "__main__":
    how = sys.argv[3:]
    [lease_s] = [float(word.removeprefix("lease=")) for word in how if "=" in word] or [DEFAULT_LEASE_S]
    place, jobs_wanted = Path(sys.argv[1]), int(sys.argv[2])
    asyncio.run(main(place, jobs_wanted, stays="stay" in how, is_file="file" in how, lease_s=lease_s))
