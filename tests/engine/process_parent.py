"""A program that runs a pool and is killed: `python -m tests.engine.process_parent <file>`.

It writes `<its child's id> <the warden's id> <a daemon's id>` into the file once a call with grandchildren runs, and
one that has started a daemon.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from openagents_json.components import StepContext, reference_to
from openagents_json.job.engine.processes import ProcessCall, ProcessPool
from tests.engine.process_components import registry


@registry.tool
def in_script(ctx: StepContext) -> str:
    """Defined in the script itself, which the process runs once more under another name."""
    return __name__


def call(name: str, **inputs: object) -> ProcessCall:
    """A call of one of our components."""
    return ProcessCall(reference_to(registry.get(name)), inputs, "job", "workflow", "step", 1, "key", 1)


async def main(place: Path) -> None:
    """Start grandchildren, and wait to be killed."""
    pool = ProcessPool(limit=2)
    print(await pool.submit(call("in_script")).done, flush=True)
    started = place.with_suffix(".started")
    run = pool.submit(call("start_grandchildren", started=str(started), count=3))
    while not started.exists():  # noqa: ASYNC110 (a file tells nobody)
        await asyncio.sleep(0.01)
    daemon = place.with_suffix(".daemon")
    pool.submit(call("start_daemon", started=str(daemon)))
    while not daemon.exists():  # noqa: ASYNC110 (a file tells nobody)
        await asyncio.sleep(0.01)
    place.with_suffix(".new").write_text(f"{run.pid} {pool.warden.pid} {daemon.read_text()}")
    place.with_suffix(".new").rename(place)
    await run.done


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
