"""A worker that is killed in the middle of a release: the next one releases again, and the job becomes final (G3)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from openagents_json import JobManager
from openagents_json.job.store import SqliteJobStore
from tests.faults.checker import Evidence, read_records, violations

ROOT = Path(__file__).resolve().parents[2]
# A step acquires something and fails, or is cancelled; its release says that it began, and waits for a file.
PROGRAM = """
import asyncio, sys, time
from pathlib import Path
from openagents_json import OpenAgentsApp, StepContext

folder = Path(sys.argv[1])
app = OpenAgentsApp(f"sqlite:///{folder}/jobs.db")

@app.tool("acquire")
async def acquire(context: StepContext) -> None:
    await context.track("thing", release="give_back", inputs={"folder": str(folder)})
    raise ValueError("it broke after it was acquired")

@app.tool("give_back", isolation="thread")
def give_back(folder: str) -> None:
    with open(f"{folder}/began", "a") as file:
        file.write("began\\n")
    print("began", flush=True)
    while not Path(folder, "may_end").exists():
        time.sleep(0.005)
    with open(f"{folder}/released", "a") as file:
        file.write("released\\n")

app.register_workflow({"id": "w", "steps": [{"id": "s", "component": "acquire"}]})

async def main() -> None:
    async with app.jobs as jobs:
        job_id = await jobs.create_job("w", start=True, idempotency_key="the one")
        await jobs.wait_final(job_id)
        print(job_id, flush=True)

asyncio.run(main())
"""


def begin(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", PROGRAM, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True)


@pytest.mark.guarantee("G3")
async def test_release_that_was_killed_is_done_by_the_next_worker(tmp_path: Path) -> None:
    process = begin(tmp_path)
    assert process.stdout is not None and process.stdout.readline() == "began\n"
    process.kill()
    process.communicate()
    async with JobManager(store_type=f"sqlite:///{tmp_path}/jobs.db") as jobs:
        [row] = await jobs.list_jobs()
        assert not row.status.is_final, "what it acquired is not released"
    (tmp_path / "may_end").touch()
    last = begin(tmp_path)
    output, _ = last.communicate(timeout=60)
    assert last.returncode == 0
    assert (tmp_path / "began").read_text().count("began") == 2
    assert (tmp_path / "released").read_text() == "released\n"
    store = SqliteJobStore(tmp_path / "jobs.db")
    await store.open()
    try:
        [record] = await read_records(store)
        assert violations(Evidence([record])) == []
        assert output.split()[-1] == record.summary.id
        types = [event.type for event in record.events]
        assert types.count("release.started") == 2 and types.count("resource.released") == 1
        assert types.index("resource.released") > types.index("job.worker_lost")
        assert (record.summary.status, types[-1]) == ("FAILED", "job.failed")
        assert await store.count_leaks() == 0
    finally:
        await store.close()
