"""Two real processes on one SQLite file: the second pauses, resumes and cancels a job that runs in the first."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from openagents_json import JobManager
from openagents_json.job.store import SqliteJobStore
from tests.faults.checker import check_store

CHILD = '''
import asyncio, sys
from pathlib import Path
from openagents_json import OpenAgentsApp, StepContext

folder = Path(sys.argv[1])
app = OpenAgentsApp(f"sqlite:///{folder / 'jobs.db'}")

@app.tool("step")
async def step(context: StepContext, n: int) -> int:
    """Says that it runs, and waits for the file that lets it go on."""
    (folder / f"in-{n}").touch()
    while not (folder / f"go-{n}").exists():
        await asyncio.sleep(0.005)
    return n

app.register_workflow({"id": "flow", "steps": [
    {"id": f"s{n}", "component": "step", "inputs": {"n": n}} for n in range(3)
]})

async def main():
    async with app.jobs as jobs:
        job_id = await jobs.create_job("flow", start=True)
        print(job_id, flush=True)
        print((await jobs.wait(job_id)).status, flush=True)

asyncio.run(main())
'''


async def appears(path: Path) -> None:
    async with asyncio.timeout(20):
        while not path.exists():  # noqa: ASYNC110 - another process makes it
            await asyncio.sleep(0.005)


@pytest.mark.guarantee("G9")
@pytest.mark.parametrize("ending", ["resume", "cancel"])
async def test_second_process_controls_a_job_of_the_first(tmp_path: Path, ending: str) -> None:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    try:
        job_id = (await child.stdout.readline()).decode().strip()
        await appears(tmp_path / "in-0")
        async with JobManager(f"sqlite:///{tmp_path / 'jobs.db'}", worker=False) as jobs, asyncio.timeout(20):
            await jobs.pause_job(job_id, by="second process")
            events = jobs.watch(job_id)
            async for event in events:
                if event.type == "job.pause_requested":
                    assert event.data["by"] == "second process"
                    break
            (tmp_path / "go-0").touch()
            await appears_status(jobs, job_id, "PAUSED")
            assert not (tmp_path / "in-1").exists()
            if ending == "cancel":
                await jobs.cancel_job(job_id)
                expected = "CANCELLED"
            else:
                await jobs.resume_job(job_id)
                for n in (1, 2):
                    await appears(tmp_path / f"in-{n}")
                    (tmp_path / f"go-{n}").touch()
                expected = "COMPLETED"
            assert (await jobs.wait(job_id)).status == expected
            assert (await child.stdout.readline()).decode().strip() == expected, "the first process says the same"
            assert await child.wait() == 0
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    store = SqliteJobStore(tmp_path / "jobs.db")
    await store.open()
    assert await check_store(store) == []
    await store.close()


async def appears_status(jobs: JobManager, job_id: str, status: str) -> None:
    async for event in jobs.watch(job_id):
        if event.type == f"job.{status.lower()}":
            return
