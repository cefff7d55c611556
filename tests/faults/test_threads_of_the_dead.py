"""Threads that nothing can end: jobs count them as long as the process lives that runs them, and no longer."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from openagents_json import JobManager

ROOT = Path(__file__).resolve().parents[2]
# Cancels a job whose thread hears nothing, says so, and stays: with its manager open, or closed.
PROGRAM = """
import asyncio, sys, threading, time
from openagents_json import OpenAgentsApp

app = OpenAgentsApp(sys.argv[1])
begun = threading.Event()

@app.tool("deaf", isolation="thread")
def deaf() -> None:
    begun.set()
    while True:
        time.sleep(3600)

app.register_workflow({"id": "deaf", "steps": [{"id": "s", "component": "deaf"}]})

async def main() -> None:
    jobs = app.jobs
    await jobs.open()
    job_id = await jobs.create_job("deaf", start=True)
    await asyncio.to_thread(begun.wait)
    await jobs.cancel_job(job_id, force=True)
    await jobs.wait_final(job_id)
    if sys.argv[2] == "closed":
        await jobs.close()
    print(job_id, flush=True)
    sys.stdin.read()

asyncio.run(main())
"""


@pytest.fixture(params=["open", "closed"])
def process(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    arguments = [sys.executable, "-c", PROGRAM, f"sqlite:///{tmp_path}/jobs.db", request.param]
    process = subprocess.Popen(arguments, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.communicate()


async def test_threads_are_counted_until_their_process_is_gone(tmp_path: Path, process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    job_id = process.stdout.readline().strip()
    url = f"sqlite:///{tmp_path}/jobs.db"
    async with JobManager(store_type=url) as jobs:
        row = await jobs.get_summary(job_id)
        assert row.display_status == "CANCELLED (1 abandoned attempt still runs)"
    process.kill()
    process.wait()
    async with JobManager(store_type=url) as jobs:
        row = await jobs.get_summary(job_id)
        assert row.display_status == "CANCELLED"
        assert [one.id for one in await jobs.list_workers()] == [jobs.worker_id]
