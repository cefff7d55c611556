"""What `openagents jobs leaks` does: resources that jobs could not release are listed, tried again, or forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from openagents_json.cli.exit_codes import Exit
from openagents_json.cli.failures import UsageProblem
from openagents_json.cli.loading import load_app
from openagents_json.cli.opening import opened
from openagents_json.cli.output import Output
from openagents_json.cli.showing import error_line, job_name
from openagents_json.cli.text import count, printable, short_time
from openagents_json.clock import as_datetime
from openagents_json.errors import LeakNotFound
from openagents_json.job.manager import JobManager
from openagents_json.job.store import StoredLeak

PAGE = 1_000


@dataclass(frozen=True, slots=True)
class LeakOptions:
    """The options of `jobs leaks`, as given."""

    retry: tuple[int, ...] = ()
    retry_all: bool = False
    drop: tuple[int, ...] = ()
    components: tuple[str, ...] = ()


def show_leaks(options: LeakOptions, store: str | None, output: Output) -> int:
    """Do what the options say."""
    wants_retry = bool(options.retry or options.retry_all)
    if [bool(options.retry), options.retry_all, bool(options.drop)].count(True) > 1:
        raise UsageProblem("Give one of --retry, --retry-all and --drop.")
    if wants_retry and not options.components:
        raise UsageProblem("Trying again needs the components that release: --components module[:app].")
    return asyncio.run(_show(options, store, output, wants_retry))


async def _show(options: LeakOptions, store: str | None, output: Output, wants_retry: bool) -> int:
    async with opened(store, load_app(options.components)) as jobs:
        if options.drop:
            return await _drop(jobs, [await _leak(jobs, key) for key in options.drop], output)
        if wants_retry:
            chosen = [await _leak(jobs, key) for key in options.retry] or [leak async for leak in _all(jobs)]
            return await _retry(jobs, chosen, output)
        return _list([leak async for leak in _all(jobs)], output)


async def _all(jobs: JobManager) -> AsyncIterator[StoredLeak]:
    after = 0
    while page := await jobs.list_leaks(after, PAGE):
        for leak in page:
            yield leak
        after = page[-1].key


async def _leak(jobs: JobManager, key: int) -> StoredLeak:
    for leak in await jobs.list_leaks(key - 1, 1):
        if leak.key == key:
            return leak
    raise LeakNotFound(key)


def _list(leaks: list[StoredLeak], output: Output) -> int:
    if output.as_json:
        output.document({"leaks": [_document(leak) for leak in leaks]})
    elif not leaks:
        output.say("There are no leaks.")
    else:
        rows = [_row(leak) for leak in leaks]
        output.table([("KEY", "NAME", "RELEASE", "JOB", "SINCE", "TRIES", "ERROR"), *rows])
    return Exit.DONE


def _row(leak: StoredLeak) -> tuple[str, ...]:
    return (
        str(leak.key),
        printable(leak.name, 40),
        printable(leak.release, 40),
        job_name(leak.workflow_id, leak.job_id),
        short_time(as_datetime(leak.leaked_us)),
        str(leak.tries),
        error_line(leak.error),
    )


async def _drop(jobs: JobManager, leaks: list[StoredLeak], output: Output) -> int:
    for leak in leaks:
        await jobs.drop_leak(leak.key)
        output.say(f"{_name(leak)} is forgotten")
    if output.as_json:
        output.document({"leaks": [_document(leak) | {"outcome": "dropped"} for leak in leaks]})
    return Exit.DONE


async def _retry(jobs: JobManager, leaks: list[StoredLeak], output: Output) -> int:
    """Try each once. One whose component is not here stays without a try."""
    documents = []
    for leak in leaks:
        outcome = await _try(jobs, leak)
        documents.append(_document(leak) | {"outcome": outcome})
        output.say(f"{_name(leak)} {_SENTENCES[outcome].format(release=printable(leak.release))}")
    staying = sum(document["outcome"] != "released" for document in documents)
    if output.as_json:
        output.document({"leaks": documents})
    else:
        output.say(f"{count(len(leaks) - staying, 'leak')} released, {staying:,} left")
    return Exit.UNHEALTHY if staying else Exit.DONE


_SENTENCES = {
    "released": "is released",
    "failed": "could not be released; its error is in `openagents jobs leaks`",
    "no_component": "stays: there is no component {release} here",
}


async def _try(jobs: JobManager, leak: StoredLeak) -> str:
    if leak.release not in jobs.components:
        return "no_component"
    try:
        return "released" if await jobs.retry_leak(leak.key) else "failed"
    except LeakNotFound:  # a worker was quicker
        return "released"


def _name(leak: StoredLeak) -> str:
    return f"{leak.key}, {printable(leak.name)} of {job_name(leak.workflow_id, leak.job_id)}"


def _document(leak: StoredLeak) -> dict[str, Any]:
    return {
        "key": leak.key,
        "name": leak.name,
        "job_id": leak.job_id,
        "job": job_name(leak.workflow_id, leak.job_id),
        "step": leak.path,
        "release": leak.release,
        "inputs": leak.inputs,
        "error": leak.error,
        "leaked_at": as_datetime(leak.leaked_us),
        "tries": leak.tries,
    }
