"""The pages of the documentation, and how their code blocks are run.

The conventions, which the pages keep:

- `python`: the untitled blocks of a page are one session, run in order, with top-level await. One with
  `title="name.py"` is a file: it is written into the page's folder and run as a script of its own.
- `bash`: run by bash in the page's folder, with the `openagents` and `python` of the tests (plain calls of `openagents`
  in this process: starting Python takes longer than what they do). It has to succeed. A job name such as
  `hello/0dc3a9e1` stands for the newest job of that workflow in `openagents.db`.
- `json`, `yaml`: a workflow (it has `steps`), which `check` must find nothing wrong with; `title` writes it as a file.
- `json title="outputs"` after a workflow: it is run with the components of the page's `app` (of the session, else of
  the last file that made one, else the built-in ones) and its inputs' defaults, may start the workflows before it on
  the page, and must give exactly these outputs. `json title="error"`: the job must fail, and its first error must have
  these members.
- `text`, and `json` that is no workflow, right after code: its output. The lines must appear in that order; ids, times
  and durations may differ, and … stands for anything. `text title="sketch"` is a picture and not compared.
- `ini title=".env"`: a file. `mermaid`: a diagram; the tests of the page look at it.

Any other language is an error.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import io
import json
import os
import re
import runpy
import shlex
import sqlite3
import subprocess
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from openagents_json import Job, JobManager, OpenAgentsApp, Workflow, WorkflowRegistry, check
from openagents_json.cli import main as openagents
from openagents_json.workflow import parse_text

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BASH_S = 60
JOB_S = 30
RESULTS = ("outputs", "error")  # titles of blocks that say what the workflow before them gives

# What a block starts with, and why it does not run here.
NOT_RUN = {
    "make demo": "sets the environment up and audits the whole standard library; tests/unit/test_code_audit.py runs it",
    "make test": "would run this test",
    "make bench": "takes minutes; tests/unit/test_benchmarks.py runs a small one",
}

_FENCE = re.compile(r"^```(?P<language>\w*) *(?:title=\"(?P<title>[^\"]*)\")?$")
_PLAIN = re.compile(r"openagents [^|&;<>$`\\]*")
_JOB = re.compile(r"\b([\w.-]+)/[0-9a-f]{8}\b")
_SAME = (
    (re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d[\d:.+Z]*"), "TIME"),
    (re.compile(r"\b\d\d:\d\d:\d\d\b"), "TIME"),
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}\b"), "ID"),
    (re.compile(r"/[0-9a-f]{8}\b"), "/ID"),
    (re.compile(r"\b\d[\d,.]* (ms|s|min|h)\b"), "DURATION"),
    (re.compile(r"\s+"), " "),
)


@dataclass(frozen=True)
class Block:
    """One fenced block of a page. `line` is that of its fence."""

    page: Path
    line: int
    language: str
    title: str | None
    text: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def reason_not_to_run(self) -> str | None:
        return next((reason for start, reason in NOT_RUN.items() if self.text.startswith(start)), None)

    @cached_property
    def is_workflow(self) -> bool:
        return self.language == "yaml" or (self.language == "json" and "steps" in json.loads(self.text))


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order. AssertionError for a fence that is not closed or not understood."""
    blocks: list[Block] = []
    start, language, title = 0, "", None
    inside: list[str] | None = None
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if inside is not None and line == "```":
            blocks.append(Block(page, start, language, title, "\n".join(inside) + "\n"))
            inside = None
        elif inside is not None:
            inside.append(line)
        elif line.lstrip().startswith("```"):
            fence = _FENCE.match(line)
            assert fence is not None, f"{page.name}:{number}: {line!r} is no fence that the tests understand"
            start, language, title, inside = number, fence["language"], fence["title"], []
    assert inside is None, f"{page.name}:{start}: the block is not closed"
    return blocks


class Reader:
    """Somebody who does what one page says, in an empty folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output: str | None = None  # of the last block that ran; None: there is nothing to compare with
        self._workflows: list[Block] = []  # of the page, so far
        self._app: object = None  # of the last script that made one
        self._session = types.ModuleType("documentation_page")
        self._runner = asyncio.Runner()

    def follow(self, blocks: list[Block]) -> None:
        """Run all blocks of a page."""
        with self._importing():
            for block in blocks:
                self._take(block)

    def _take(self, block: Block) -> None:
        if block.reason_not_to_run is not None:
            self.output = None
        elif block.language == "python":
            self.output = self._python(block)
        elif block.language == "bash":
            self.output = self._bash(block)
        elif block.language in ("json", "yaml") and block.is_workflow:
            self._workflow(block)
            self.output = None
        elif block.language == "ini":
            self._write(block)
        elif block.language == "json" and block.title in RESULTS:
            self._result(block)
        elif block.language in ("text", "json"):
            if block.title != "sketch" and self.output is not None:
                compare(block, self.output)
        else:
            assert block.language == "mermaid", f"{block.place}: nobody knows how to run {block.language!r}"

    def _python(self, block: Block) -> str:
        with contextlib.redirect_stdout(io.StringIO()) as output:
            if block.title is not None:
                self._write(block)
                made = runpy.run_path(str(self.folder / block.title), run_name="__main__")
                self._app = made.get("app", self._app)
            else:
                source = "\n" * block.line + block.text  # so that a traceback names the page's line
                code = compile(source, str(block.page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
                waiting = eval(code, vars(self._session))
                if asyncio.iscoroutine(waiting):
                    self._runner.run(waiting)
        return output.getvalue()

    def _bash(self, block: Block) -> str:
        lines = block.text.splitlines()
        if all(_PLAIN.fullmatch(line) for line in lines):
            return "".join(self._openagents(shlex.split(_JOB.sub(self._newest, line))[1:], block) for line in lines)
        return self._shell(_JOB.sub(self._newest, block.text), block)

    def _openagents(self, arguments: list[str], block: Block) -> str:
        output = io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            code = openagents(arguments)
        assert code == 0, f"{block.place}: openagents {shlex.join(arguments)} ended with {code}:\n{output.getvalue()}"
        return output.getvalue()

    def _shell(self, text: str, block: Block) -> str:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("OPENAGENTS_")}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=self.folder,
            env={**kept, "PATH": path, "COLUMNS": "100", "LANG": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=BASH_S,
            check=False,
        )
        assert done.returncode == 0, f"{block.place} ended with {done.returncode}:\n{done.stdout}"
        return done.stdout

    def _newest(self, name: re.Match[str]) -> str:
        with contextlib.closing(sqlite3.connect(self.folder / "openagents.db")) as connection:
            query = "SELECT id FROM jobs WHERE workflow_id = ? ORDER BY key DESC LIMIT 1"
            found = connection.execute(query, (name[1],)).fetchone()
        assert found is not None, f"there is no job for {name[0]}"
        return f"{name[1]}/{found[0][-8:]}"

    def _workflow(self, block: Block) -> None:
        problems = check(_definition(block))
        assert not problems, f"{block.place}: {problems}"
        self._workflows.append(block)
        if block.title is not None:
            self._write(block)

    def _result(self, block: Block) -> None:
        """Run the last workflow and compare what it gives."""
        assert self._workflows, f"{block.place}: there is no workflow before it"
        app = vars(self._session).get("app", self._app)
        job = self._runner.run(self._run_job(app if isinstance(app, OpenAgentsApp) else OpenAgentsApp("memory")))
        wanted = json.loads(block.text)
        if block.title == "outputs":
            assert job.status == "COMPLETED", f"{block.place}: the job is {job.status}: {job.errors}"
            assert dict(job.outputs) == wanted, f"{block.place}: {job.outputs}"
        else:
            assert job.status == "FAILED", f"{block.place}: the job is {job.status} and gives {job.outputs}"
            assert {name: job.errors[0][name] for name in wanted} == wanted, f"{block.place}: {job.errors}"

    async def _run_job(self, app: OpenAgentsApp) -> Job:
        registry = WorkflowRegistry()
        for one in self._workflows:
            workflow = registry.register(_definition(one))
        problems = [one for one in check(workflow, app.components, workflows=registry) if one.level != "note"]
        assert not problems, f"{self._workflows[-1].place}: {problems}"
        async with JobManager("memory", components=app.components, workflows=registry) as jobs:
            return await jobs.wait(await jobs.create_job(workflow.id, version=workflow.version, start=True), JOB_S)

    def _write(self, block: Block) -> None:
        assert block.title is not None, f"{block.place}: a file needs a title"
        (self.folder / block.title).write_text(block.text)

    @contextlib.contextmanager
    def _importing(self) -> Iterator[None]:
        """The page's own modules can be imported, and are forgotten afterwards: another page has others."""
        known, path = set(sys.modules), list(sys.path)
        sys.modules[self._session.__name__] = self._session
        sys.path.insert(0, str(self.folder))
        try:
            yield
        finally:
            self._runner.close()
            sys.path[:] = path
            for name in set(sys.modules) - known:
                if (getattr(sys.modules[name], "__file__", None) or str(self.folder)).startswith(str(self.folder)):
                    del sys.modules[name]


def _definition(block: Block) -> Workflow:
    return parse_text(block.text, "yaml" if block.language == "yaml" else "json", block.place)


def compare(block: Block, output: str) -> None:
    """The block's lines must appear in the output, in order; see the conventions at the top."""
    lines = iter([_alike(line) for line in output.splitlines()])
    for line in block.text.splitlines():
        wanted = _alike(line)
        if wanted in ("", "…"):
            continue
        pattern = re.compile(".*".join(map(re.escape, re.split(r" ?… ?", wanted))))
        assert any(pattern.fullmatch(one) for one in lines), f"{block.place}: {line!r} is not (there) in:\n{output}"


def _alike(line: str) -> str:
    for pattern, name in _SAME:
        line = pattern.sub(name, line)
    return line.strip()


# ── tables ────────────────────────────────────────────────────────────────────────────────────────────────────────


def prose(page: Path) -> str:
    """The text of a page without its code blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def section(page: str, heading: str) -> str:
    """The prose under a heading of a page of docs/, up to the next heading."""
    text = prose(ROOT / "docs" / page)
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None, f"docs/{page} has no heading {heading!r}"
    return found[1]


def rows(text: str) -> list[list[str]]:
    """The rows of the tables in a text, without heads, cells stripped."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    rules = [place for place, row in enumerate(cells) if all(set(cell) <= set("-: ") for cell in row)]
    heads = {place - 1 for place in rules}
    return [row for place, row in enumerate(cells) if place not in heads and place not in rules]


def code(cell: str) -> list[str]:
    """What stands in backticks in a cell."""
    return re.findall(r"`([^`]+)`", cell)
