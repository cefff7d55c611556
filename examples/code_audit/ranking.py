"""Adding up and ranking what was measured: pure functions on plain JSON dicts, whose shapes are said here.

Plain dicts, because a history records JSON; the shapes are `TypedDict`s, so that the type checker and the components'
schemas know them.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence

from typing_extensions import TypedDict, TypeIs  # pydantic asks for this TypedDict before Python 3.12

from examples.code_audit.measure import Measures

ERRORS_LISTED = 500  # of the files that did not parse; the rest is only counted


class ComplexFunction(TypedDict):
    name: str
    line: int
    complexity: int


class LongFunction(TypedDict):
    name: str
    line: int
    lines: int


class FileMeasures(TypedDict):
    """What was measured in one file: below 400 bytes as JSON, since the ranking takes those of thousands of files."""

    path: str
    lines: int
    code: int
    functions: int
    complexity: int
    worst: ComplexFunction | None
    longest: LongFunction | None
    public: int
    documented: int
    marks: int


class FileError(TypedDict):
    """A file that could not be measured, and why."""

    path: str
    error: str


class RankedFile(TypedDict):
    """A file in a ranking. `docstrings`: the share of its public names that have one, 0 … 1; None if it has no such."""

    path: str
    complexity: int
    functions: int
    code: int
    docstrings: float | None
    marks: int


class RankedFunction(ComplexFunction):
    path: str


class RankedLength(LongFunction):
    path: str


class Totals(TypedDict):
    """Sums over all measured files; `left_out` counts the files that a limit kept from being measured."""

    files: int
    lines: int
    code: int
    functions: int
    complexity: int
    docstrings: float | None
    marks: int
    unparsable: int
    left_out: int


class Ranking(TypedDict):
    """Everything the report says. Lists stand worst first and have at most `top` entries; `errors` at most 500."""

    root: str
    python: str
    totals: Totals
    files: list[RankedFile]
    functions: list[RankedFunction]
    longest: list[RankedLength]
    marked: list[RankedFile]
    errors: list[FileError]


def file_measures(path: str, found: Measures) -> FileMeasures:
    """The measures of one file as the dict that is recorded."""
    worst, longest = found.most_complex, found.longest
    return {
        "path": path,
        "lines": found.lines,
        "code": found.code,
        "functions": len(found.functions),
        "complexity": found.complexity,
        "worst": {"name": worst.name, "line": worst.line, "complexity": worst.complexity} if worst else None,
        "longest": {"name": longest.name, "line": longest.line, "lines": longest.lines} if longest else None,
        "public": found.public,
        "documented": found.documented,
        "marks": found.marks,
    }


def rank_results(root: str, results: Iterable[FileMeasures | FileError], top: int, left_out: int = 0) -> Ranking:
    """The ranking of all results, in whatever order they come.

    Files stand by complexity, then lines of code; equals by path, so the same files always give the same ranking.
    """
    in_order = sorted(results, key=lambda result: result["path"])
    measured = [result for result in in_order if _is_measured(result)]
    errors = [result for result in in_order if not _is_measured(result)]
    files = [_ranked_file(file) for file in measured]
    functions: list[RankedFunction] = [{"path": file["path"], **file["worst"]} for file in measured if file["worst"]]
    longest: list[RankedLength] = [{"path": file["path"], **file["longest"]} for file in measured if file["longest"]]
    return {
        "root": root,
        "python": platform.python_version(),
        "totals": _totals(measured, unparsable=len(errors), left_out=left_out),
        "files": sorted(files, key=lambda file: (-file["complexity"], -file["code"]))[:top],
        "functions": sorted(functions, key=lambda function: -function["complexity"])[:top],
        "longest": sorted(longest, key=lambda function: -function["lines"])[:top],
        "marked": sorted((file for file in files if file["marks"]), key=lambda file: -file["marks"])[:top],
        "errors": errors[:ERRORS_LISTED],
    }


def _is_measured(result: FileMeasures | FileError) -> TypeIs[FileMeasures]:
    return "error" not in result


def _ranked_file(file: FileMeasures) -> RankedFile:
    return {
        "path": file["path"],
        "complexity": file["complexity"],
        "functions": file["functions"],
        "code": file["code"],
        "docstrings": _share(file["documented"], file["public"]),
        "marks": file["marks"],
    }


def _totals(measured: Sequence[FileMeasures], unparsable: int, left_out: int) -> Totals:
    return {
        "files": len(measured),
        "lines": sum(file["lines"] for file in measured),
        "code": sum(file["code"] for file in measured),
        "functions": sum(file["functions"] for file in measured),
        "complexity": sum(file["complexity"] for file in measured),
        "docstrings": _share(sum(file["documented"] for file in measured), sum(file["public"] for file in measured)),
        "marks": sum(file["marks"] for file in measured),
        "unparsable": unparsable,
        "left_out": left_out,
    }


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None
