"""The components of the code audit: what its workflow calls.

They touch the disk and leave the thinking to `measure`, `ranking` and `report`.
"""

from __future__ import annotations

import os
import sysconfig
import tempfile
from pathlib import Path

from typing_extensions import TypedDict

from examples.code_audit.measure import UNREADABLE, measure_source, read_source, reason
from examples.code_audit.ranking import FileError, FileMeasures, Ranking, file_measures, rank_results
from examples.code_audit.report import render
from openagents_json import FatalError, OpenAgentsApp

app = OpenAgentsApp()

NOT_OURS = frozenset({"site-packages", "dist-packages", "node_modules", "__pycache__"})
UNWRITABLE = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)


class Listing(TypedDict):
    """The files to measure: paths relative to `root`, with `/`, sorted. `left_out` counts those beyond a limit."""

    root: str
    files: list[str]
    left_out: int


class Written(TypedDict):
    """The report that was written: its absolute path and its size in bytes."""

    path: str
    bytes: int


@app.tool("audit.list_files", tags=["audit"])
def list_files(path: str = "", glob: str = "**/*.py", max_files: int = 3500, max_file_kb: int = 1024) -> Listing:
    """List the files below a folder that match a glob.

    No path means the standard library of this Python. Installed packages, caches and hidden folders are passed over.
    At most `max_files` are listed, and none larger than `max_file_kb`. Fails for good with `audit.no_folder` or
    `audit.bad_glob`.
    """
    root = Path(path or sysconfig.get_path("stdlib")).expanduser().resolve()
    if not root.is_dir():
        raise FatalError("audit.no_folder", f"{root} is not a folder; give one with --input path=FOLDER")
    try:
        found = sorted(file.relative_to(root).as_posix() for file in root.glob(glob) if _is_wanted(file, root))
    except (ValueError, NotImplementedError) as error:
        raise FatalError("audit.bad_glob", f"the glob {glob!r} cannot be used below {root}: {error}") from error
    listed = [name for name in found if _is_utf8(name) and (root / name).stat().st_size <= max_file_kb * 1024]
    listed = listed[:max_files]
    return {"root": str(root), "files": listed, "left_out": len(found) - len(listed)}


@app.tool("audit.measure", tags=["audit"], isolation="process")
def measure(root: str, path: str) -> FileMeasures | FileError:
    """Measure one Python file: lines, functions, complexity, docstrings, TODO marks.

    In a process: parsing keeps a core busy, and deep nesting may even crash the interpreter; then one attempt fails.
    A file that is gone, may not be read or does not parse is a finding, not a failure: `{"path", "error"}`. Any other
    trouble of the disk is raised, so that the step's retry can deal with it.
    """
    file = Path(root, path)
    try:
        return file_measures(path, measure_source(read_source(file.read_bytes()), file.stem))
    except (FileNotFoundError, PermissionError, *UNREADABLE) as error:
        return {"path": path, "error": reason(error)}


@app.tool("audit.rank", tags=["audit"])
def rank(root: str, results: list[FileMeasures | FileError], top: int = 15, left_out: int = 0) -> Ranking:
    """Add up the results of all files and put the worst first."""
    return rank_results(root, results, top, left_out)


@app.tool("audit.write_report", tags=["audit"])
def write_report(ranking: Ranking, path: str) -> Written:
    """Write the ranking as a Markdown report.

    The file appears whole or not at all, and writing it again gives the same bytes, so a repeated attempt is harmless.
    Fails for good with `audit.no_report` when the place cannot be written.
    """
    target = Path(path).expanduser().absolute()
    data = render(ranking).encode()
    try:
        _replace(target, data)
    except UNWRITABLE as error:
        raise FatalError("audit.no_report", f"the report cannot be written to {target}: {error.strerror}") from error
    return {"path": str(target), "bytes": len(data)}


def _is_wanted(file: Path, root: Path) -> bool:
    """Whether a file found by the glob is the folder's own code; not when `..` in the glob led out of the folder."""
    folders = file.relative_to(root).parts[:-1]
    return not any(folder in NOT_OURS or folder.startswith(".") for folder in folders) and file.is_file()


def _is_utf8(name: str) -> bool:
    """Whether a file name can stand in JSON. Linux allows names that are no text."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _replace(target: Path, data: bytes) -> None:
    """Put `data` at `target` in one step: a reader sees the old file or the new one, never a part."""
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
