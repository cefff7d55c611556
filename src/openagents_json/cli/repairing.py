"""What `openagents store repair` does."""

from __future__ import annotations

from typing import Any

from openagents_json.cli.exit_codes import Exit
from openagents_json.cli.failures import UsageProblem
from openagents_json.cli.output import Output
from openagents_json.cli.text import count, printable
from openagents_json.job.store import FileJobStore, make_store
from openagents_json.job.store.file_repair import RepairReport, repair

LINES_SHOWN = 50  # of each list


def repair_store(url: str, output: Output) -> int:
    """Repair the file store of that URL and say what was done."""
    store = make_store(url)
    if not isinstance(store, FileJobStore):
        raise UsageProblem(f"{url} is no file store; give file:///folder. A SQLite file is mended with SQLite's tools.")
    report = repair(store.path)
    if output.as_json:
        output.document(_document(report))
    elif report.aside is None:
        output.say(f"{printable(str(report.path))} is not damaged: {count(report.jobs, 'job')}. Nothing was changed.")
    else:
        _tell(report, output)
    return Exit.DONE


def _tell(report: RepairReport, output: Output) -> None:
    output.say(f"{count(len(report.damage), 'damaged part')} cut out:")
    _list(report.damage, output)
    if report.set_aside:
        output.say(f"{count(report.set_aside, 'sound line')} set aside that did not fit without them")
    if report.losses:
        output.say("What jobs have lost:")
        _list(report.losses, output)
    output.say(f"{printable(str(report.path))} can be used again: {count(report.jobs, 'job')}")
    output.say(f"What was cut out stands in {printable(str(report.aside))}")


def _list(lines: tuple[Any, ...], output: Output) -> None:
    for line in lines[:LINES_SHOWN]:
        output.say(f"  {printable(str(line))}")
    if len(lines) > LINES_SHOWN:
        output.say(f"  … and {len(lines) - LINES_SHOWN:,} more; --json lists all")


def _document(report: RepairReport) -> dict[str, Any]:
    return {
        "path": str(report.path),
        "jobs": report.jobs,
        "damage": [
            {"file": one.file, "line": one.line, "byte": one.byte, "bytes": one.length, "why": one.why}
            for one in report.damage
        ],
        "set_aside": report.set_aside,
        "losses": [
            {"job_id": one.job_id, "kept_events": one.kept_events, "lost_events": one.lost_events}
            for one in report.losses
        ],
        "aside": None if report.aside is None else str(report.aside),
    }
