"""`python -m benchmarks [names…]`: run benchmarks and print the table, then once more with 5 ms added to each commit.

Not a test: nothing fails when a target is missed, but a wrong history or output does end the run.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import sqlite3
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.figures import BENCHMARKS, DELAYED, Bench, cost_lines
from benchmarks.table import Figure, as_markdown, as_text, without_timed_target

SLOW_DISK_MS = 5.0


def main(arguments: Sequence[str]) -> int:
    """Run what the arguments ask for. 0 once everything was measured and verified, 2 for a name that is none."""
    options = _parser().parse_args(arguments)
    names = options.names or list(BENCHMARKS)
    if unknown := [name for name in names if name not in BENCHMARKS]:
        print(f"unknown: {', '.join(unknown)}. There are: {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    print(f"{_machine()}\nfiles in {options.folder}\n", flush=True)
    if options.commit_delay_ms is not None:
        _run_table(names, options, options.commit_delay_ms)
        return 0
    _run_table(names, options, 0.0)
    if delayed := [name for name in names if name in DELAYED]:
        print()
        _run_table(delayed, options, SLOW_DISK_MS)
    return 0


def _run_table(names: Sequence[str], options: argparse.Namespace, commit_delay_ms: float) -> None:
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="openagents-bench-", dir=options.folder) as folder:
        bench = Bench(Path(folder), options.quick, commit_delay_ms / 1000)
        figures = asyncio.run(_measure(bench, names))
    if commit_delay_ms:
        figures = [without_timed_target(figure) for figure in figures]
    heading = f"{commit_delay_ms:g} ms added to each commit" if commit_delay_ms else "SQLite, synchronous=FULL"
    render = as_markdown if options.markdown else as_text
    print(f"{heading} ({time.perf_counter() - started:.0f} s, every history verified)\n\n{render(figures)}\n")
    if bench.costs:
        print("\n".join(cost_lines(bench.costs)), flush=True)


async def _measure(bench: Bench, names: Sequence[str]) -> list[Figure]:
    figures: list[Figure] = []
    for name in names:
        print(f"… {name}", file=sys.stderr, flush=True)
        figures += await BENCHMARKS[name](bench)
    return figures


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help=", ".join(BENCHMARKS))
    parser.add_argument("--quick", action="store_true", help="small sizes: to see that all runs, not for figures")
    parser.add_argument("--commit-delay-ms", type=float, metavar="N", help="one table only, N ms added to each commit")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument("--folder", default=_folder(), help="where databases are made (default: %(default)s)")
    return parser


def _folder() -> str:
    """A temporary folder on a disk: /tmp is often memory, and a commit to memory costs nothing."""
    return "/var/tmp" if Path("/var/tmp").is_dir() else tempfile.gettempdir()


def _machine() -> str:
    sqlite = f"SQLite {sqlite3.sqlite_version}"
    return f"Python {platform.python_version()}, {sqlite}, {os.cpu_count()} cores, {platform.platform(terse=True)}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
