"""The command line on a disk that stays full or broken: it says so, without a traceback, and loses nothing (G12)."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from openagents_json import OpenAgentsApp
from tests.faults import victim
from tests.faults.sizes import Hits, campaign_random, sized
from tests.faults.test_disk_faults import ERRORS, store_paths
from tests.faults.tracing import SAFETY_S, needs_strace, quiet

FILE = "tests/faults/test_disk_faults_cli.py"
MAIN = "import sys; from openagents_json.cli import main; sys.exit(main())"
FLOW = {"id": "small", "steps": [{"id": "s", "set": {"a": 1}}]}
KEY = "one"
ACCEPTS = ("run", "--detach", "--json", "--idempotency-key", KEY)
READS = ("jobs", "list", "--json")
RUNS = ("run", "--plain", "--timeout", "20", "--idempotency-key", KEY)
COMMANDS = {"run --detach": ACCEPTS, "jobs list": READS, "run": RUNS}
# From which call on every call of that kind fails, in each thread.
FIRSTS = (("openat", 1), ("openat", 3), ("pwrite64", 1), ("pwrite64", 40), ("fdatasync", 1), ("ftruncate", 1))
DONE, STORE_AWAY = 0, 5  # exit codes


async def run_job(folder: Path) -> str:
    """Ask for the job and wait for its end, on a disk that works: its id."""
    app = OpenAgentsApp(f"sqlite:///{folder / victim.STORE}")
    app.register_workflow(FLOW)
    async with app.jobs as jobs:
        job_id = await jobs.create_job("small", {}, idempotency_key=KEY, start=True)
        assert (await jobs.wait(job_id)).status == "COMPLETED"
        assert [job.id for job in await jobs.list_jobs()] == [job_id]
    return job_id


async def try_point(folder: Path, command: tuple[str, ...], call: str, first: int, error: str) -> bool:
    """Whether a call of the command has failed. All that is to hold is asserted."""
    folder.mkdir()
    flow, record = folder / "flow.json", folder / "record"
    flow.write_text(json.dumps(FLOW))
    if command == READS:  # it makes no store
        await run_job(folder)
    paths = [argument for path in store_paths(folder, is_file=False) for argument in ("-P", path)]
    inject = f"inject={call}:error={error}:when={first}+"
    strace = [*quiet([call]), *paths, "-e", inject, "-o", str(record)]
    program = [sys.executable, "-c", MAIN, *command, "--store", f"sqlite:///{folder / victim.STORE}"]
    file = [] if command == READS else [str(flow)]
    said = await asyncio.to_thread(
        subprocess.run, [*strace, *program, *file], capture_output=True, text=True, timeout=SAFETY_S, cwd=folder
    )
    failed = record.read_text().count("(INJECTED)")
    what = f"{' '.join(command)}, {failed} times {error} at {call} from number {first} on: {said.stdout}{said.stderr}"
    assert said.returncode in ((DONE, STORE_AWAY) if failed else (DONE,)), what
    assert "Traceback" not in said.stdout + said.stderr, what
    if said.returncode == STORE_AWAY:
        assert re.search(r"jobs\.db (cannot|is not|refuses) .*\.", said.stderr), what
    job_id = await run_job(folder)
    if command == ACCEPTS and said.returncode == DONE:
        assert json.loads(said.stdout)["id"] == job_id, f"accepted, and another one: {what}"
    return bool(failed)


@needs_strace
@pytest.mark.timeout(300)
@pytest.mark.guarantee("G12")
async def test_command_line_on_a_bad_disk_says_so_without_a_traceback_and_works_afterwards(tmp_path: Path) -> None:
    random = campaign_random(FILE)
    hits = Hits(COMMANDS)
    wanted = sized(1, 4)
    for name, command in COMMANDS.items():
        points = [(call, first, error) for call, first in FIRSTS for error in ERRORS[call]]
        hit = 0
        for number, point in enumerate(random.sample(points, len(points))):
            if hit < wanted and await try_point(tmp_path / f"{name} {number}", command, *point):
                hit += 1
        hits.count(name, hit)
    hits.check()
