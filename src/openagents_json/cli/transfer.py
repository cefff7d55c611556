"""What `openagents store export` and `openagents store import` do."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from openagents_json.app import OpenAgentsApp
from openagents_json.cli.exit_codes import Exit
from openagents_json.cli.failures import UsageProblem
from openagents_json.cli.listing import Filters
from openagents_json.cli.opening import opened, refuse_memory
from openagents_json.cli.output import Output
from openagents_json.cli.text import count, printable
from openagents_json.clock import SystemClock, as_datetime
from openagents_json.job.moving import Imported
from openagents_json.job.store import make_store

REFUSALS_SHOWN = 50


def export_store(url: str, file: str, jobs: tuple[str, ...], filters: Filters, output: Output) -> int:
    """Write the jobs of a store to a file and say how many; to stdout nothing but the export."""
    if output.as_json and file == "-":
        raise UsageProblem("--json says on stdout what was done, and - puts the export there: use one of them.")
    query = filters.query(as_datetime(SystemClock().now_us()).astimezone())
    if jobs and query:
        raise UsageProblem("Give either jobs or options that choose some, not both.")
    return asyncio.run(_export(url, file, jobs, query, output))


async def _export(url: str, file: str, texts: tuple[str, ...], query: dict[str, Any], output: Output) -> int:
    target: Path | BinaryIO = Path(file) if file != "-" else output.stream.buffer
    async with opened(url) as jobs:
        ids = [await jobs.find_job(text) for text in texts]
        with _said(file):
            done = await jobs.export_jobs(target, filters=query, ids=ids)
    if output.as_json:
        counts = {"jobs": done.jobs, "events": done.events, "definitions": done.definitions, "bytes": done.bytes}
        output.document(counts)
    elif file != "-":
        what = f"{count(done.jobs, 'job')}, {count(done.events, 'event')}, {count(done.definitions, 'definition')}"
        output.say(f"{printable(file)}: {what}")
    return Exit.DONE


def import_store(url: str, file: str, output: Output, *, dry_run: bool, drop_keys: bool) -> int:
    """Take the jobs of a file into a store and say what became of them."""
    make_store(url)  # what is no store is said before the file is looked at
    return asyncio.run(_import(url, file, output, dry_run=dry_run, drop_keys=drop_keys))


async def _import(url: str, file: str, output: Output, *, dry_run: bool, drop_keys: bool) -> int:
    source: Path | BinaryIO = Path(file) if file != "-" else sys.stdin.buffer
    jobs = OpenAgentsApp().manager(url, worker=False)
    refuse_memory(jobs)
    with _said(file):
        if isinstance(source, Path):
            source.open("rb").close()  # before a store is made for nothing
        async with jobs:
            done = await jobs.import_jobs(source, dry_run=dry_run, drop_keys=drop_keys)
    _tell(done, output)
    return Exit.UNHEALTHY if done.refused else Exit.DONE


@contextlib.contextmanager
def _said(file: str) -> Iterator[None]:
    """What is wrong with the file, as a problem of the command line."""
    try:
        yield
    except FileExistsError:
        raise UsageProblem(f"{file} is there already. Give the name of a new file.") from None
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UsageProblem(f"{file} cannot be used: {error.strerror or error}.") from None


def _tell(done: Imported, output: Output) -> None:
    if output.as_json:
        refusals = [{"job_id": one.job_id, "line": one.line, "why": one.why} for one in done.refusals]
        output.document(
            {
                "dry_run": done.is_dry_run,
                "jobs": done.jobs,
                "events": done.events,
                "known": done.known,
                "refused": done.refused,
                "refusals": refusals,
            }
        )
        return
    would = "would be imported" if done.is_dry_run else "imported"
    known = f", {done.known:,} there already" if done.known else ""
    output.say(f"{count(done.jobs, 'job')} {would} ({count(done.events, 'event')}){known}")
    if done.refused:
        output.say(f"{done.refused:,} refused:")
        for one in done.refusals[:REFUSALS_SHOWN]:
            output.say(f"  {one.job_id} (line {one.line:,}): {printable(one.why)}")
        if done.refused > REFUSALS_SHOWN:
            output.say(f"  … and {done.refused - REFUSALS_SHOWN:,} more")
