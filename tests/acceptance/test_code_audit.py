"""The code audit, as `make demo` runs it: killed half-way, it goes on with the same job and measures nothing twice."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from openagents_json import Event, JobManager
from tests.acceptance.support import POLL_S, ROOT, SAFETY_S, Shell, Started, recorded, until, watching

FILES = 120
ROWS = 700  # lines of data in each file, so that the audit takes long enough to be killed half-way
SOURCE = '''
    """Module {n}."""


    def work(value):
        """Do it."""
        # TODO: number {n}
        {body}
        return value
'''


@pytest.fixture
def audit(shell: Shell) -> Shell:
    """A folder `code` of 120 files: one does not parse, one has by far the most complex function."""
    shell.store_path = shell.folder / "code-audit.db"
    code = shell.folder / "code"
    for n in range(FILES):
        folder = code / f"part{n % 7}"
        folder.mkdir(parents=True, exist_ok=True)
        decisions = 30 if n == 77 else n % 5 + 1
        body = "\n    ".join(f"value += {i} if value > {i} else 0" for i in range(decisions))
        text = "def broken(:\n" if n == 13 else dedent(SOURCE).format(n=n, body=body) + "row = (1, 2, 3)\n" * ROWS
        (folder / f"file{n:03}.py").write_text(text)
    shell.environment["PYTHONPATH"] = f"{ROOT / 'src'}{os.pathsep}{ROOT}"
    return shell


def start(audit: Shell, *arguments: str) -> Started:
    command = [sys.executable, "-m", "examples.code_audit", "--input", "path=code", "--json", *arguments]
    return audit.start_command(command)


async def kill_after(audit: Shell, started: Started, measured: int) -> tuple[str, list[Event]]:
    """Kill the audit as soon as so many files are recorded; the job's id, and its history as it was then."""
    await until(lambda: (audit.folder / "code-audit.db.workers").exists())  # it is open, and begins
    async with audit.jobs() as jobs, asyncio.timeout(SAFETY_S):
        job_id = await first_job(jobs)
        async with watching(jobs, job_id) as events:
            async for event in events:
                measured -= is_measured(event)
                if measured <= 0:
                    break
        started.send(signal.SIGKILL)
        assert started.end().code == -signal.SIGKILL
        return job_id, await recorded(jobs, job_id)


async def first_job(jobs: JobManager) -> str:
    """The id of the one job, as soon as another process has made it."""
    while not (page := await jobs.list_jobs()).jobs:  # noqa: ASYNC110 - another process makes it
        await asyncio.sleep(POLL_S)
    [job] = page
    return str(job.id)


def is_measured(event: Event) -> bool:
    """Whether the event records the measures of a file."""
    return event.type == "step.completed" and event.data["path"].endswith("].file")


def files_of(events: Sequence[Event], type: str) -> Counter[str]:
    """How often an event of that type is there for each file's step."""
    return Counter(one.data["path"] for one in events if one.type == type and one.data["path"].endswith("].file"))


@pytest.mark.guarantee("G1")
@pytest.mark.guarantee("G2")
async def test_killed_audit_goes_on_with_the_same_job_and_measures_no_recorded_file_twice(audit: Shell) -> None:
    job_id, before = await kill_after(audit, start(audit), FILES // 3)
    done = files_of(before, "step.completed")
    assert FILES // 3 <= len(done) < FILES, "it was not killed half-way"
    assert before[-1].type != "job.completed"

    again = start(audit).end()
    assert again.code == 0, again
    assert again.document["id"] == job_id and again.document["status"] == "COMPLETED"
    assert await audit.only_job() == job_id
    events = await audit.history(job_id)
    assert events[: len(before)] == before, "what was recorded stays"
    later = files_of(events[len(before) :], "attempt.started")
    assert not later.keys() & done.keys(), "a recorded file was measured again"
    assert files_of(events, "step.completed") == Counter(f"measure[{n}].file" for n in range(FILES))
    interrupted = {event.data["path"] for event in events if event.type == "attempt.lost"}
    assert {path for path, count in files_of(events, "attempt.started").items() if count > 1} == interrupted
    check_result(audit, again.document["outputs"])


async def test_audit_that_has_ended_starts_anew(audit: Shell) -> None:
    first, second = (start(audit, "--input", "report=").end() for _ in range(2))
    assert first.document["id"] != second.document["id"]
    assert first.document["outputs"] == second.document["outputs"]
    assert first.document["outputs"]["report"] == "" and not (audit.folder / "code-audit.md").exists()


async def test_audit_of_what_is_no_folder_fails_and_says_what_to_give(audit: Shell) -> None:
    command = [sys.executable, "-m", "examples.code_audit", "--input", "path=nowhere"]
    ended = audit.start_command(command).end()
    assert ended.code == 1 and "audit.no_folder" in ended.err and "--input path=FOLDER" in ended.err
    assert "Traceback" not in ended.err


def check_result(audit: Shell, outputs: dict[str, Any]) -> None:
    """The outputs and the report are those of the generated folder."""
    report = Path(outputs["report"])
    assert report == audit.folder / "code-audit.md"
    assert (outputs["files"], outputs["functions"], outputs["unparsable"]) == (FILES - 1, FILES - 1, 1)
    files = [path for path in (audit.folder / "code").rglob("*.py") if path.name != "file013.py"]
    assert outputs["lines"] == sum(len(path.read_text().splitlines()) for path in files)
    [worst, *_] = outputs["worst_functions"]
    assert (worst["path"], worst["name"], worst["complexity"]) == ("part0/file077.py", "work", 31), json.dumps(worst)
    text = report.read_text()
    assert text.startswith("# Code audit\n")
    assert f"| files measured | {FILES - 1} |" in text and "| files not measured | 1 |" in text
    assert "| 1 | `work` | `part0/file077.py:" in text
    section = text[text.index("## Files that were not measured") :]
    assert "`part6/file013.py`" in section and "SyntaxError" in section
