"""What the acceptance tests share: the real command in a process of its own, and its store read through the public API.

Every command runs in the test's folder, so the default store `openagents.db` lies there. Nothing of the machine's
settings reaches it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from openagents_json import Event, JobManager
from openagents_json.job.store import SqliteJobStore
from tests.faults.checker import check_store

ROOT = Path(__file__).resolve().parents[2]
COMMAND = Path(sys.executable).with_name("openagents")
PARTS = Path(__file__).with_name("parts.py")
SAFETY_S = 30.0  # only a safety net for processes that hang: no test comes near it
POLL_S = 0.01  # how often a file of another process is looked for


@dataclass(frozen=True)
class Result:
    """How a command ended, and all that it said."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """What stdout holds: exactly one line of JSON."""
        assert self.out.count("\n") == 1, self.out
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        """The error that --json put on stderr."""
        return json.loads(self.err)["error"]


class Started:
    """A command that runs. Its lines are collected as they come; a test waits for one, sends signals, or reads on."""

    def __init__(self, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            command, cwd=folder, env=dict(environment), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._changed = threading.Condition()  # guards the lines, which two reading threads write
        self._lines: dict[str, list[str]] = {"out": [], "err": []}
        self._open = 2
        assert self.process.stdout is not None and self.process.stderr is not None
        streams = {"out": self.process.stdout, "err": self.process.stderr}
        self._readers = [threading.Thread(target=self._read, args=item, daemon=True) for item in streams.items()]
        for reader in self._readers:
            reader.start()

    def _read(self, name: str, stream: IO[str]) -> None:
        for line in stream:
            with self._changed:
                self._lines[name].append(line.rstrip("\n"))
                self._changed.notify_all()
        stream.close()
        with self._changed:
            self._open -= 1
            self._changed.notify_all()

    def wait_line(self, part: str, stream: str = "out") -> str:
        """The first line of stdout (or `err`) that holds `part`, as soon as it is there."""

        def found() -> str | None:
            return next((line for line in self._lines[stream] if part in line), None)

        with self._changed:
            in_time = self._changed.wait_for(lambda: found() is not None or not self._open, SAFETY_S)
            line = found()
        assert in_time and line is not None, f"{part!r} was not said, but {self._lines}"
        return line

    def lines(self, stream: str = "out") -> list[str]:
        with self._changed:
            return list(self._lines[stream])

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> Result:
        """Wait until it has ended by itself."""
        code = self.process.wait(SAFETY_S)
        for reader in self._readers:
            reader.join(SAFETY_S)
        out, err = ("".join(f"{line}\n" for line in self.lines(name)) for name in ("out", "err"))
        return Result(code, out, err)

    def kill(self) -> None:
        """End it now, whatever it does. May be called when it has ended."""
        self.process.kill()
        self.end()


class Shell:
    """A folder in which commands run, and the files and the store in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store_path = folder / "openagents.db"
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("OPENAGENTS_", "COV_"))}
        self.environment = {**clean, "HOME": str(folder), "PYTHONUNBUFFERED": "1", "COLUMNS": "200", "NO_COLOR": "1"}
        self._started: list[Started] = []

    # ── commands ──────────────────────────────────────────────────────────────────────────────────────────────────

    def run(self, *arguments: str, stdin: str = "", **settings: str) -> Result:
        """Run `openagents` to its end; keywords are environment variables."""
        ended = subprocess.run(
            [str(COMMAND), *arguments], cwd=self.folder, env=self.environment | settings, input=stdin,
            capture_output=True, text=True, timeout=SAFETY_S,
        )  # fmt: skip
        return Result(ended.returncode, ended.stdout, ended.stderr)

    def start(self, *arguments: str, **settings: str) -> Started:
        """Start `openagents` and let it run; it is killed when the test ends."""
        return self.start_command([str(COMMAND), *arguments], **settings)

    def start_command(self, command: Sequence[str], **settings: str) -> Started:
        started = Started(command, self.folder, self.environment | settings)
        self._started.append(started)
        return started

    def kill_all(self) -> None:
        for started in self._started:
            started.kill()

    # ── files ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def workflow(self, *steps: Mapping[str, Any], file: str = "flow.json", **fields: Any) -> str:
        """Write a workflow of these steps; the name of its file."""
        return self.write(file, json.dumps({"id": "flow", "steps": list(steps), **fields}, indent=1))

    def gates(self, count: int = 3, **fields: Any) -> str:
        """Write a workflow whose steps `s0`, `s1`, … wait at the gates `0`, `1`, …; the name of its file."""
        return self.workflow(*(step(f"s{n}", "gate", name=str(n)) for n in range(count)), **fields)

    def write(self, name: str, text: str) -> str:
        (self.folder / name).write_text(text)
        return name

    def read(self, name: str) -> str:
        return (self.folder / name).read_text()

    def notes(self) -> list[str]:
        """What the component `note` was called with, in order."""
        path = self.folder / "notes"
        return path.read_text().splitlines() if path.exists() else []

    # ── gates of the component `gate` ─────────────────────────────────────────────────────────────────────────────

    def open_gate(self, *names: str) -> None:
        for name in names:
            (self.folder / f"go-{name}").touch()

    def has_entered(self, name: str) -> bool:
        return (self.folder / f"in-{name}").exists()

    async def wait_entered(self, name: str) -> None:
        """Return when a step waits at that gate."""

        def has_entered() -> bool:
            is_there = self.has_entered(name)
            assert is_there or any(one.is_running for one in self._started), [one.end() for one in self._started]
            return is_there

        await until(has_entered)

    # ── the store ─────────────────────────────────────────────────────────────────────────────────────────────────

    @contextlib.asynccontextmanager
    async def jobs(self) -> AsyncIterator[JobManager]:
        """A manager that runs nothing, on the store of the commands."""
        async with JobManager(f"sqlite:///{self.store_path}", worker=False) as manager:
            yield manager

    async def only_job(self) -> str:
        """The id of the one job in the store."""
        async with self.jobs() as jobs:
            [job] = await jobs.list_jobs()
        return str(job.id)

    async def statuses(self) -> list[str]:
        """The statuses of all jobs, oldest first."""
        async with self.jobs() as jobs:
            return [str(job.status) for job in await jobs.list_jobs(order="created_at")]

    async def history(self, job_id: str) -> list[Event]:
        """The events of a job that are recorded now."""
        async with self.jobs() as jobs:
            return await recorded(jobs, job_id)

    async def wait_event(self, job_id: str, type: str, count: int = 1) -> Event:
        """The `count`-th event of that type of a job, as soon as another process has recorded it."""
        async with self.jobs() as jobs, asyncio.timeout(SAFETY_S), watching(jobs, job_id) as events:
            async for event in events:
                count -= event.type == type
                if not count:
                    return event
        raise AssertionError(f"the job ended without {type}")

    async def check(self) -> None:
        """Fold every history, compare it with its row, and look for what no history may hold."""
        if not self.store_path.is_file():
            return
        store = SqliteJobStore(self.store_path)
        await store.open()
        try:
            assert await check_store(store) == []
        finally:
            await store.close()


def step(id: str, component: str, **inputs: Any) -> dict[str, Any]:
    """A step that calls a component."""
    return {"id": id, "component": component, "inputs": inputs}


async def recorded(jobs: JobManager, job_id: str) -> list[Event]:
    """The events that are recorded now."""
    events: list[Event] = []
    while page := await jobs.store.read_events(job_id, len(events)):
        events += page
    return events


def watching(jobs: JobManager, job_id: str) -> contextlib.aclosing[AsyncGenerator[Event, None]]:
    """The job's events as they come, closed properly when the test leaves early."""

    async def events() -> AsyncGenerator[Event, None]:
        async for event in jobs.watch(job_id):
            yield event

    return contextlib.aclosing(events())


async def until(condition: Callable[[], bool]) -> None:
    """Look again and again until something is so in another process."""
    async with asyncio.timeout(SAFETY_S):
        while not condition():  # noqa: ASYNC110 - another process sets no event of ours
            await asyncio.sleep(POLL_S)


def types(events: Sequence[Event], prefix: str = "") -> list[str]:
    return [event.type for event in events if event.type.startswith(prefix)]


def assert_refused(result: Result, code: int, *words: str) -> None:
    """One short message on stderr that says these words, nothing on stdout, and that exit code."""
    assert result.code == code, result
    assert result.out == "", result
    lines = result.err.splitlines()
    assert lines and lines[0].startswith("openagents: "), result
    assert all(line.startswith(("  ", "See `", "…")) for line in lines[1:]), f"more than one message: {result.err}"
    assert "Traceback" not in result.err and "should not have happened" not in result.err
    for word in words:
        assert word in result.err, f"{word!r} is not said: {result.err}"


def each_line(text: str) -> Iterator[Any]:
    """Every line as JSON."""
    return map(json.loads, text.splitlines())
