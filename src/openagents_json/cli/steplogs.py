"""What `openagents jobs logs` does, and the live part of `jobs events`: output of steps that any process runs."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import asdict, dataclass
from typing import Any

from openagents_json.cli.exit_codes import Exit
from openagents_json.cli.opening import opened
from openagents_json.cli.output import Output
from openagents_json.cli.stopping import Stop
from openagents_json.cli.text import printable, short_time
from openagents_json.components.output import EMITTED
from openagents_json.job.manager import JobManager
from openagents_json.job.model import OutputText
from openagents_json.jsondata import decode

POLL_S = 0.2  # how often --follow looks; workers hand output over every half second
LINE_CHARACTERS = 4_000  # longer lines are cut in the text form


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which output: of a step run and those inside it, of one attempt, with what was emitted."""

    step: str | None = None
    attempt: int | None = None
    emitted: bool = False


def show_logs(text: str, wanted: Wanted, follow: bool, store: str | None, output: Output) -> int:
    """Print a job's output, with `follow` until the job has ended."""
    with Stop() as stop:
        return asyncio.run(_logs(text, wanted, follow, store, output, stop))


async def _logs(text: str, wanted: Wanted, follow: bool, store: str | None, output: Output, stop: Stop) -> int:
    async with opened(store) as jobs:
        job_id = await jobs.find_job(text)
        printer = _Printer(output)
        reader = _Reader(jobs, job_id, wanted, printer, as_documents=follow)
        try:
            is_done = await stop.finishes(reader.follow() if follow else reader.read())
        finally:
            printer.close()
    if output.as_json and not follow:
        output.document({"output": reader.documents})
    return Exit.DONE if is_done else Exit.INTERRUPTED


async def with_emitted(printing: Coroutine[Any, Any, None], jobs: JobManager, job_id: str, output: Output) -> None:
    """Print events, and beside them what the steps emit from now on."""
    emitter = _Emitter(jobs, job_id, output)
    await emitter.begin()
    emitting = asyncio.ensure_future(emitter.follow())
    try:
        await printing
        await emitting
    finally:
        emitting.cancel()
        await asyncio.gather(emitting, return_exceptions=True)


class _Follower:
    """Reads the output of a job as it comes; a subclass says what becomes of it."""

    def __init__(self, jobs: JobManager, job_id: str, wanted: Wanted) -> None:
        self._jobs = jobs
        self._job_id = job_id
        self._wanted = wanted
        self._cursor = 0

    def take(self, text: OutputText) -> None:
        raise NotImplementedError

    async def read(self) -> None:
        """All that is there now."""
        step, attempt = self._wanted.step, self._wanted.attempt
        while texts := await self._jobs.read_output(self._job_id, step, attempt, self._cursor):
            for text in texts:
                self.take(text)
            self._cursor = texts[-1].cursor

    async def follow(self) -> None:
        """All that is there and that comes, until the job is final."""
        while True:
            is_final = (await self._jobs.get_summary(self._job_id)).status.is_final
            await self.read()
            if is_final:
                return
            await asyncio.sleep(POLL_S)


class _Reader(_Follower):
    """Prints it."""

    def __init__(self, jobs: JobManager, job_id: str, wanted: Wanted, printer: _Printer, *, as_documents: bool) -> None:
        super().__init__(jobs, job_id, wanted)
        self.documents: list[dict[str, Any]] = []
        self._printer = printer
        self._as_documents = as_documents

    def take(self, text: OutputText) -> None:
        if text.stream == EMITTED and not self._wanted.emitted:
            return
        if not self._printer.output.as_json:
            self._printer.take(text)
        elif self._as_documents:
            self._printer.output.document(asdict(text))
        else:
            self.documents.append(asdict(text))


class _Emitter(_Follower):
    """Prints what was emitted, each value as an event that no history holds."""

    def __init__(self, jobs: JobManager, job_id: str, output: Output) -> None:
        super().__init__(jobs, job_id, Wanted(emitted=True))
        self._output = output
        self._is_past = True
        self._begun: dict[tuple[str, int], str] = {}  # the beginning of a line, whose rest has not come

    async def begin(self) -> None:
        """Pass over what is there already."""
        await self.read()
        self._is_past = False

    def take(self, text: OutputText) -> None:
        if text.stream != EMITTED:
            return
        which = (text.step, text.attempt)
        lines = (self._begun.pop(which, "") + text.text).split("\n")
        if lines[-1]:
            self._begun[which] = lines[-1]
        for line in () if self._is_past or text.cut else lines[:-1]:
            self._emit(text, line)

    def _emit(self, text: OutputText, line: str) -> None:
        if self._output.as_json:
            data = {"path": text.step, "attempt": text.attempt, "data": decode(line)}
            self._output.document({"number": 0, "type": "step.emitted", "at": text.at, "data": data})
        shown = printable(line, LINE_CHARACTERS)
        self._output.say(f"{'':>6}  {short_time(text.at)}  {'step.emitted':<20}  {printable(text.step, 120)}  {shown}")


class _Printer:
    """Prints whole lines with the time, the step and the stream, whatever pieces they come in."""

    def __init__(self, output: Output) -> None:
        self.output = output
        # Lines that have begun, by (step, attempt, stream), with what stands before them.
        self._begun: dict[tuple[str, int, str], tuple[str, str]] = {}

    def take(self, text: OutputText) -> None:
        attempt = f" (attempt {text.attempt})" if text.attempt > 1 else ""
        head = f"{short_time(text.at)}  {printable(text.step, 120)}{attempt}  "
        if text.cut:
            self.output.say(f"{head}… {text.cut:,} bytes of output are not kept …")
        which = (text.step, text.attempt, text.stream)
        before, begun = self._begun.pop(which, (f"{head}{text.stream:<6}  ", ""))
        lines = (begun + text.text).split("\n")
        for line in lines[:-1]:
            self._say(before, line)
            before = f"{head}{text.stream:<6}  "
        if lines[-1]:
            self._begun[which] = before, lines[-1]

    def close(self) -> None:
        """Print what ends without a newline."""
        for before, line in self._begun.values():
            self._say(before, line)
        self._begun.clear()

    def _say(self, before: str, line: str) -> None:
        self.output.say((before + printable(line.rstrip("\r"), LINE_CHARACTERS)).rstrip())
