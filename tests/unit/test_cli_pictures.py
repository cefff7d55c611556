"""`openagents graph` and `openagents jobs timeline`: where a picture comes from and where it goes."""

from __future__ import annotations

import asyncio
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from openagents_json import OpenAgentsApp
from openagents_json.cli import main

FLOW = {
    "id": "flow",
    "steps": [{"id": "each", "foreach": list(range(12)), "steps": [{"id": "double", "set": "{{ item * 2 }}"}]}],
}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The workflow's file, in the current folder, which holds no store yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "90")
    monkeypatch.delenv("OPENAGENTS_JOB_STORE_PATH", raising=False)
    (tmp_path / "flow.json").write_text(json.dumps(FLOW))
    return "flow.json"


@pytest.fixture
def job(file: str) -> str:
    """A job of that workflow that has completed, in the store `openagents.db`."""

    async def run() -> str:
        app = OpenAgentsApp("sqlite:///openagents.db")
        app.register_workflow(Path(file))
        async with app.jobs as jobs:
            job_id = await jobs.create_job("flow", start=True)
            await jobs.wait(job_id, timeout_s=30)
            return job_id

    return asyncio.run(run())


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command that succeeds prints to stdout."""
    code = main(arguments)
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return printed.out


def refused(capsys: pytest.CaptureFixture[str], code: int, *arguments: str) -> str:
    """What a command that is refused with that exit code prints to stderr."""
    assert main(arguments) == code
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    return printed.err


def test_graph_of_a_file_is_printed(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "graph", file).startswith("%% flow 1.0.0\nflowchart TB\n")
    assert said(capsys, "graph", file, "--format", "dot").startswith('digraph "flow 1.0.0" {\n')
    assert ET.fromstring(said(capsys, "graph", file, "--format", "svg")).tag.endswith("svg")


def test_graph_of_a_job_shows_what_became_of_its_steps(job: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = said(capsys, "graph", "--job", job[-8:])
    assert "12 of 12 items" in shown and "✓ 12 completed" in shown


def test_graph_of_a_job_is_that_of_its_own_definition(file: str, job: str, capsys: pytest.CaptureFixture[str]) -> None:
    same = main(["graph", file, "--job", job])
    assert (same, capsys.readouterr().err) == (0, "")
    Path(file).write_text(json.dumps({"id": "flow", "steps": [{"id": "other", "set": 1}]}))
    assert main(["graph", file, "--job", job]) == 0
    printed = capsys.readouterr()
    assert "has changed" in printed.err and "double" in printed.out and "other" not in printed.out


def test_ending_of_the_output_gives_the_format(file: str, job: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "graph", file, "--output", "a.svg") == "svg written to a.svg\n"
    assert Path("a.svg").read_text().startswith("<svg")
    said(capsys, "graph", file, "-o", "a.dot")
    assert Path("a.dot").read_text().startswith("digraph")
    said(capsys, "graph", file, "-o", "a.mmd", "--format", "svg")
    assert Path("a.mmd").read_text().startswith("<svg"), "what is asked for wins"
    said(capsys, "jobs", "timeline", job, "-o", "t.svg")
    assert ET.fromstring(Path("t.svg").read_text()).tag.endswith("svg")


def test_timeline_fits_the_terminal_and_is_folded_unless_all_is_wanted(
    job: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folded = said(capsys, "jobs", "timeline", job)
    assert "… 4 more items" in folded and "[11] double" not in folded
    assert max(map(len, folded.splitlines())) <= 90
    everything = said(capsys, "jobs", "timeline", job, "--all")
    assert "[11] double" in everything and "more items" not in everything


def test_pictures_for_programs_are_json(file: str, job: str, capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(said(capsys, "graph", file, "--json"))
    assert document["format"] == "mermaid" and document["picture"].startswith("%% flow")
    document = json.loads(said(capsys, "jobs", "timeline", job, "--json"))
    assert document["format"] == "text" and "COMPLETED" in document["picture"]
    assert json.loads(said(capsys, "graph", file, "-o", "a.svg", "--json")) == {"format": "svg", "file": "a.svg"}


def test_what_cannot_be_drawn_is_refused(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "mermaid, dot, svg" in refused(capsys, 2, "graph", file, "--format", "png")
    assert "--job" in refused(capsys, 2, "graph")
    assert "cannot be written" in refused(capsys, 2, "graph", file, "--output", "no/such/folder.svg")
    assert "There is no store" in refused(capsys, 5, "graph", "--job", "0123456789")
    Path("bad.json").write_text('{"id": "bad", "steps": [{"id": "a", "set": "{{ steps.b.output }}"}]}')
    assert "There is no step 'b'" in refused(capsys, 2, "graph", "bad.json")


def test_unknown_job_is_not_found(job: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "There is no job" in refused(capsys, 4, "jobs", "timeline", "0123456789")
    assert "text, svg" in refused(capsys, 2, "jobs", "timeline", job, "--format", "dot")
