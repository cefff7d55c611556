"""A worker among whose jobs some are poison: they kill it. `main` is its process.

killed    sends its own worker a SIGKILL
crashed   crashes the interpreter (a segfault)
starved   eats memory until there is no more, and ends the process, as a kernel that is out of memory would
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import signal
from pathlib import Path

from openagents_json import OpenAgentsApp, StepContext
from openagents_json.job.engine import worker
from openagents_json.job.store import SqliteJobStore
from tests.faults.victim import Log

EFFECTS = "effects.jsonl"
KINDS = {"killed": -signal.SIGKILL, "crashed": -signal.SIGSEGV, "starved": -signal.SIGABRT}  # how the process ends
STEPS = 3  # of a good job
MAX_JOBS = 10  # at a time
RECOVER_S = 0.2  # of the worker: so often it looks for a job that is to run alone
MEMORY = 512 << 20  # of address space, that a worker may take more than it has at its start


def make_app(folder: Path) -> OpenAgentsApp:
    app = OpenAgentsApp(SqliteJobStore(folder / "jobs.db"), max_jobs=MAX_JOBS)
    effects = Log(folder / EFFECTS)

    @app.tool("good")
    async def good(context: StepContext, value: int) -> int:
        key, token = context.idempotency_key, context.fencing_token
        effects.write([context.job_id, context.step, context.attempt, key, token, value + 1])
        await asyncio.sleep(0.01)  # so that poison has neighbours
        return value + 1

    @app.tool("killed")
    async def killed() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    @app.tool("crashed")
    async def crashed() -> None:
        ctypes.string_at(0)

    @app.tool("starved", isolation="thread")
    def starved() -> None:
        eaten: list[bytearray] = []
        try:
            while True:
                eaten.append(bytearray(32 << 20))
        except MemoryError:
            os.abort()

    steps = [
        {"id": f"s{n}", "component": "good", "inputs": {"value": f"{{{{ steps.s{n - 1}.output }}}}" if n else 0}}
        for n in range(STEPS)
    ]
    app.register_workflow({"id": "good", "steps": steps})
    for kind in KINDS:
        app.register_workflow({"id": kind, "steps": [{"id": "s", "component": kind}]})
    return app


async def main(folder: Path) -> None:
    """The worker's process: until every job is final, if it lives so long."""
    worker.RECOVER_S = RECOVER_S
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    async with make_app(folder).jobs as jobs:
        for row in await jobs.list_jobs(limit=1_000):
            await jobs.wait_final(row.id)
