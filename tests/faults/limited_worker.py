"""A worker process whose jobs are limited: two of a customer at a time, and so many calls of the component that they
are made of. It is started by `test_limits_on_postgres`.

    python -m tests.faults.limited_worker URL FOLDER LEASE_S

While a step runs it has one of the lock files of each of its limits in FOLDER, which the kernel frees when the process
is killed. A step that finds all of them taken writes a line to `VIOLATIONS`: one too many is on.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from openagents_json import OpenAgentsApp, StepContext
from openagents_json.job.engine import worker as engine_worker

VIOLATIONS = "violations"
LIMIT = 2  # jobs of a customer
CALLS = 3  # of the component, by each kind of hold
WORK_S = 0.02
HOLDS = ("job", "running")


def flow(hold: str) -> dict[str, Any]:
    """Two calls with a short rest between them, during which a limit on what runs lets others in."""
    step = {"component": "work", "inputs": {"limit": f"{hold}-{{{{ inputs.customer }}}}", "hold": hold}}
    return {
        "id": hold,
        "inputs": {"type": "object", "properties": {"customer": {"type": "integer"}}, "required": ["customer"]},
        "concurrency": {"key": "{{ inputs.customer }}", "limit": LIMIT, "hold": hold},
        "steps": [{"id": "one"} | step, {"id": "rest", "wait": {"seconds": 0.01}}, {"id": "two"} | step],
    }


def make_app(url: str, folder: Path, lease_s: float, **settings: Any) -> OpenAgentsApp:
    app = OpenAgentsApp(store=url, lease_s=lease_s, **settings)

    @app.tool("work", isolation="inline", concurrency={"limit": CALLS, "key": "{{ inputs.hold }}"})
    async def work(context: StepContext, limit: str, hold: str) -> None:
        with _place_taken(folder, limit, LIMIT, context), _place_taken(folder, f"calls-{hold}", CALLS, context):
            await asyncio.sleep(WORK_S)

    for hold in HOLDS:
        app.register_workflow(flow(hold))
    return app


@contextmanager
def _place_taken(folder: Path, limit: str, places: int, context: StepContext) -> Iterator[None]:
    """One of the places of a limit is ours inside."""
    for number in range(places):
        fd = os.open(folder / f"{limit}.{number}", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            continue
        try:
            yield
        finally:
            os.close(fd)
        return
    with (folder / VIOLATIONS).open("a") as found:
        found.write(f"{limit}: {context.step} of job {context.job_id} is one too many\n")
    yield


async def main(url: str, folder: Path, lease_s: float) -> None:
    engine_worker.RECOVER_S = 0.2  # jobs of the dead are looked for more often than in earnest
    async with make_app(url, folder, lease_s, max_jobs=8).jobs:
        await asyncio.Event().wait()  # until it is killed


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])))
